-- Who is notified of what. An action that is reported to others adds a job in its own transaction. The job, dispatch(), finds
-- the recipients by the same predicate that permits their decision. It writes a notification for each recipient and a delivery
-- for each webhook, and announces to live subscribers what has changed. All this comes after the action, so that whoever acts
-- need not wait, however many recipients there are.

create or replace function app_private.job_payload(id uuid)
  returns json
  language sql
  stable
  set search_path to pg_catalog, pg_temp
as $$
  select json_strip_nulls(json_build_object('id', id, 'traceparent', nullif(current_setting('assent.traceparent', true), '')))
$$;
comment on function app_private.job_payload(uuid) is
  'The payload of a job about a row, with the trace in which it is queued (W3C''s traceparent) if somebody traces.';

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
  'Who is notified that a request is waiting: if it has an assignee who can decide it, only the assignee, otherwise everybody '
  'who can decide it. Nobody once it is decided.';

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
  where entry.action in ('PASSWORD_CHANGE', 'PASSWORD_RESET_REQUEST', 'INVITATION_RESEND')
    or (entry.action = 'USER_UPDATE' and entry.metadata ? 'role')
    -- Nobody is mailed about an account that was made by SQL, as those of the demo are.
    or (entry.action = 'USER_CREATE' and entry.actor_id is not null)
$$;
comment on function app_private.recipients(app_public.audit_logs) is 'Who is to be notified of an action, as things are now.';

create or replace function app_private.dispatch(audit_log_id uuid)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
  -- Planning it again for each entry would take ten times as long as running it.
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
  -- OFFSET 0 makes it a look-up for each recipient, because there are few recipients and many people.
  cross join lateral (select u.id from app_public.users u where u.id = r.user_id and not u.is_deleted offset 0) u
  where k.action = v_entry.action
  order by u.id
  on conflict on constraint notifications_event_key do nothing;
  perform app_private.announce_inboxes(v_entry);
  perform app_private.queue_deliveries(v_entry);
end
$$;
comment on function app_private.dispatch(uuid) is
  'The job of an action that is reported to others: it makes one notification for each recipient and one delivery for each '
  'webhook, and announces which inboxes have changed. If it is run twice, nobody is notified a second time.';

create or replace function app_private.tg_audit_logs__dispatch()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if exists (select from app_public.audit_actions a where a.action = new.action and a.is_told) then
    -- "unsafe_dedupe" is a single insert. It is unsafe only for keys that are used again, and no other job has this key.
    perform graphile_worker.add_job('dispatch', app_private.job_payload(new.id),
      job_key => 'dispatch ' || new.id, job_key_mode => 'unsafe_dedupe');
  end if;
  return null;
end
$$;
comment on function app_private.tg_audit_logs__dispatch() is
  'Adds the job that reports an action, in the action''s own transaction, so that both commit or neither does.';

create or replace trigger _800_dispatch
  after insert on app_public.audit_logs
  for each row execute function app_private.tg_audit_logs__dispatch();
