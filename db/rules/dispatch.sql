-- Who is told what. An action that others are told of adds a job in its own transaction; the job, dispatch(), finds the
-- recipients by the same predicate that permits their decision, and writes one notification for each, one delivery for
-- each webhook, and announces what has changed to live subscribers. To do so after the action keeps whoever acts from
-- waiting, however many there are to be told.

create or replace function app_private.deciders_to_notify(of_request_id uuid)
  returns table (user_id uuid)
  language sql
  stable
as $$
  select d.user_id
  from app_hidden.request_deciders d
  where (d.request).id = of_request_id
    and (d.user_id = (d.request).assigned_to_id
      or not exists (select from app_hidden.deciders assignee where assignee.user_id = (d.request).assigned_to_id))
$$;
comment on function app_private.deciders_to_notify(uuid) is
  'Who is told that a request waits: of those who can decide it, its assignee alone if it has one. Nobody once it is decided.';

create or replace function app_private.recipients(entry app_public.audit_logs)
  returns table (user_id uuid)
  language sql
  stable
as $$
  select p.user_id from app_private.deciders_to_notify(entry.request_id) p where entry.action = 'SUBMIT'
  union all
  select p.user_id from app_private.deciders_to_notify(entry.request_id) p
  where entry.action = 'ASSIGN' and p.user_id::text = entry.metadata -> 'assigned_to_id' ->> 'new' and p.user_id <> entry.actor_id
  union all
  select entry.request_creator_id where entry.action in ('APPROVE', 'REJECT')
  union all
  select entry.user_id
  where entry.action in ('PASSWORD_CHANGE', 'PASSWORD_RESET_REQUEST')
    or (entry.action = 'USER_UPDATE' and entry.metadata ? 'role')
    -- An account made by SQL, as the demo's are, has nobody who invites.
    or (entry.action = 'USER_CREATE' and entry.actor_id is not null)
$$;
comment on function app_private.recipients(app_public.audit_logs) is 'Who is to be told of an action, as things stand now.';

create or replace function app_private.dispatch(audit_log_id uuid)
  returns void
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
  -- To plan it anew for each entry takes ten times as long as to run it.
  set plan_cache_mode to force_generic_plan
as $$
declare
  v_entry app_public.audit_logs;
begin
  select * into strict v_entry from app_public.audit_logs a where a.id = audit_log_id;
  insert into app_public.notifications (recipient_id, kind, event, request_id, actor_id, mail_state)
  select u.id, k.kind, v_entry.id::text, v_entry.request_id, v_entry.actor_id, app_private.mail_state_for(u.id, k.kind)
  from app_public.notification_kinds k
  cross join app_private.recipients(v_entry) r
  -- OFFSET 0 keeps it a look-up for each: there are few recipients, and many people.
  cross join lateral (select u.id from app_public.users u where u.id = r.user_id and not u.is_deleted offset 0) u
  where k.action = v_entry.action
  order by u.id
  on conflict on constraint notifications_event_key do nothing;
  perform app_private.announce_inboxes(v_entry);
  perform app_private.queue_deliveries(v_entry);
end
$$;
comment on function app_private.dispatch(uuid) is
  'The job of an action that others are told of: one notification for each recipient, one delivery for each webhook, live news of inboxes. Run twice, it tells nobody a second time.';

create or replace function app_private.tg_audit_logs__dispatch()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if exists (select from app_public.audit_actions a where a.action = new.action and a.is_told) then
    -- "unsafe_dedupe" is one insert, and unsafe only where a key comes again: an entry has its key to itself.
    perform graphile_worker.add_job('dispatch', json_build_object('id', new.id),
      job_key => 'dispatch ' || new.id, job_key_mode => 'unsafe_dedupe');
  end if;
  return null;
end
$$;
comment on function app_private.tg_audit_logs__dispatch() is
  'Adds the job that tells of an action, in the action''s own transaction: rolled back with it, there with it.';

create or replace trigger _800_dispatch
  after insert on app_public.audit_logs
  for each row execute function app_private.tg_audit_logs__dispatch();
