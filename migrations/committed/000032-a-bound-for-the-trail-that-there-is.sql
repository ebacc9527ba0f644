--! Previous: sha1:6c661905aff9db3857b60eb5224a6b1c6d554d50
--! Hash: sha1:87605ec3384239670edf9795cea52c08e0db3904
--! Message: a bound for the trail that there is

-- What there is of the trail becomes the first of its partitions by month. That it is earlier than a moment is checked beforehand,
-- so that nobody waits for that later: entries of the next two months go there as well, and so an upgrade that is interrupted here
-- has as long. No key can refer to a table that is partitioned by something else, and no entry is ever removed: that of
-- deliveries goes.
do $$
declare
  v_until timestamptz := (date_trunc('month', now() at time zone 'UTC') + interval '3 months') at time zone 'UTC';
begin
  -- Whoever waits for a lock holds up all that come after: rather give up soon, let them pass, and try again.
  set local lock_timeout = '500ms';
  for attempt in 1..60 loop
    begin
      lock table app_public.audit_logs, app_public.webhook_deliveries in access exclusive mode;
      alter table app_public.webhook_deliveries drop constraint if exists webhook_deliveries_audit_log_id_fkey;
      if not exists (select from pg_constraint where conname = 'audit_logs_until') then
        execute format('alter table app_public.audit_logs add constraint audit_logs_until check ("timestamp" < %L) not valid', v_until);
      end if;
      return;
    exception
      when lock_not_available or deadlock_detected then
        perform pg_sleep(0.1 + 0.2 * random());
    end;
  end loop;
  raise exception using errcode = 'lock_not_available', message = 'The trail is in use: run this again.';
end
$$;
comment on table app_public.webhook_deliveries is
  E'@defaultOrderBy CREATED_AT_DESC\n@foreignKey (state) references app_public.webhook_delivery_states (state)\n'
  '@foreignKey (audit_log_id) references app_public.audit_logs (id)\nWhat is sent to a webhook: one row for each event.';
