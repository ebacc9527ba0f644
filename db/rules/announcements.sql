-- Live updates: changes are announced by NOTIFY. It knows no row-level security, so a payload contains ids only, and the server
-- (server/live/news.ts) reads the rows as each subscriber. There is one channel, "assent", with these payloads:
--
--   request <id>                    the request is new or has changed
--   inbox <user id>                 the requests that await this person's decision have changed
--   notification <user id> <id>     this person has a new notification
--   session <id>                    the session has ended

create or replace function app_private.tg_requests__announce()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  perform pg_notify('assent', 'request ' || new.id);
  return null;
end
$$;
comment on function app_private.tg_requests__announce() is
  'Announces that a request is new or has changed.';

create or replace trigger _950_announce
  after insert or update on app_public.requests
  for each row execute function app_private.tg_requests__announce();

create or replace function app_hidden.viewers_of(request_ids uuid[], secrets text[])
  returns table (secret text, seen uuid[])
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  return query
  select s.secret, array_agg(r.id)
  from unnest(secrets) s (secret)
  cross join lateral app_private.live_session(s.secret) l
  join app_hidden.viewers v on v.user_id = l.user_id
  join app_public.requests r
    -- A deletion is known to whoever has seen the draft, which is its creator: on another page of theirs it has to go.
    on app_hidden.can_see(r.creator_id, r.status, r.is_deleted and r.creator_id <> v.user_id, v.user_id,
      v.reads_others, v.reads_all)
  where r.id = any (request_ids)
  group by s.secret;
end
$$;
comment on function app_hidden.viewers_of(uuid[], text[]) is
  'Which of these requests are seen by the people of these sessions, named by their secrets, or were theirs until they deleted '
  'them. The server asks for all its live '
  'subscribers at once; whoever has no live session of theirs learns nothing.';
grant execute on function app_hidden.viewers_of(uuid[], text[]) to :DATABASE_AUTHENTICATOR;

create or replace function app_private.tg_notifications__announce()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if exists (select from app_public.notification_kinds k where k.kind = new.kind and k.is_shown) then
    perform pg_notify('assent', format('notification %s %s', new.recipient_id, new.id));
  end if;
  return null;
end
$$;
comment on function app_private.tg_notifications__announce() is 'Announces a new notification to its recipient.';

create or replace trigger _950_announce
  after insert on app_public.notifications
  for each row execute function app_private.tg_notifications__announce();

create or replace function app_private.tg_sessions__announce()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  perform pg_notify('assent', 'session ' || new.id);
  return null;
end
$$;
comment on function app_private.tg_sessions__announce() is
  'Announces the end of a session, so that its live connections are closed.';

create or replace trigger _950_announce
  after update of revoked_at on app_private.sessions
  for each row when (old.revoked_at is null and new.revoked_at is not null)
  execute function app_private.tg_sessions__announce();

create or replace function app_private.announce_inboxes(entry app_public.audit_logs)
  returns void
  language sql
  volatile
as $$
  -- This is whoever could decide it before or can now: with the assignee it had, and with the one it has.
  select pg_notify('assent', 'inbox ' || d.user_id)
  from app_public.requests r
  cross join lateral (
    select distinct a.id
    from unnest(array[
      r.assigned_to_id,
      case when entry.action = 'ASSIGN' then (entry.metadata -> 'assigned_to_id' ->> 'old')::uuid else r.assigned_to_id end
    ]) a (id)
  ) assigned
  left join app_hidden.deciders assignee on assignee.user_id = assigned.id
  join app_hidden.deciders d on app_hidden.can_decide(r.creator_id, assignee.user_id, d.user_id, d.decides_any)
  where r.id = entry.request_id and entry.action in ('SUBMIT', 'APPROVE', 'REJECT', 'ASSIGN');
  -- Whoever becomes a decider, or ceases to be one; and if requests are assigned to them, all deciders, because those requests
  -- become everybody's to decide, or the assignee's again.
  select pg_notify('assent', 'inbox ' || d.user_id)
  from (
    select entry.user_id
    union
    select d.user_id from app_hidden.deciders d
    where exists (select from app_public.requests r
      where r.assigned_to_id = entry.user_id and app_hidden.is_waiting(r))
  ) d
  where entry.action in ('USER_DEACTIVATE', 'USER_REACTIVATE') or (entry.action = 'USER_UPDATE' and entry.metadata ? 'role')
$$;
comment on function app_private.announce_inboxes(app_public.audit_logs) is
  'Announces to everybody whose inbox an action has changed that it has changed.';
