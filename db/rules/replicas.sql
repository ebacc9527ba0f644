-- Reads from replicas. A standby may answer a read if it has replayed all that the primary had written when the read began: it
-- then shows whatever anybody has been told is done, be it their own change or the end of a session. So the primary is asked
-- where its write-ahead log (WAL) ends, and the standby waits until it has got there. A time would not do: clocks differ, and
-- while the primary is idle, no time says how late a standby is.

create or replace function app_hidden.wal_position(out history text, out lsn pg_lsn)
  language sql
  volatile
as $$
  -- What is flushed has an end that is reached. pg_current_wal_insert_lsn() can name a place behind the header of a page that has
  -- no record yet, which nothing replays until there is one. The first eight digits of a file's name are the timeline.
  select s.system_identifier || ' ' || left(pg_walfile_name(f.lsn), 8), f.lsn
  from pg_control_system() s, pg_current_wal_flush_lsn() f (lsn)
$$;
comment on function app_hidden.wal_position() is
  'Where the WAL of this primary ends, and which history that belongs to: the cluster and its timeline, since positions of two '
  'histories do not compare. Fails on a standby.';

create or replace function app_hidden.await_wal(history text, lsn pg_lsn)
  returns void
  language plpgsql
  volatile
as $$
declare
  v_deadline timestamptz := clock_timestamp() + interval '20 milliseconds';
begin
  -- A server that was promoted has a history of its own from then on, and does not get what the primary writes. One that has
  -- followed a new primary says so after some replaying, and one that cannot follow it never does.
  if not pg_is_in_recovery() or history <> (
    select s.system_identifier || ' ' || lpad(upper(to_hex(r.min_recovery_end_timeline)), 8, '0')
    from pg_control_system() s, pg_control_recovery() r
  ) then
    raise exception using errcode = 'object_not_in_prerequisite_state', message = 'This is not a standby of that primary.';
  end if;
  while pg_last_wal_replay_lsn() < lsn loop
    if clock_timestamp() > v_deadline then
      raise exception using errcode = 'object_not_in_prerequisite_state', message = 'The standby has not replayed that yet.';
    end if;
    perform pg_sleep(0.001);
  end loop;
end
$$;
comment on function app_hidden.await_wal(text, pg_lsn) is
  'Waits for up to 20 ms until this standby has replayed what app_hidden.wal_position() of its primary has named. The next '
  'statement of the transaction sees it. Raises object_not_in_prerequisite_state if that takes longer, or if this is no such '
  'standby.';

grant execute on function app_hidden.wal_position(), app_hidden.await_wal(text, pg_lsn) to :DATABASE_AUTHENTICATOR;
