-- What is scheduled: reminders, digests and the deletion of what has expired. graphile-worker's cron (server/jobs/tasks.ts) calls
-- each of these functions; all may be called twice, or late.

create or replace function app_private.reminder_interval()
  returns interval
  language sql
  immutable
as $$
  select interval '2 days'
$$;
comment on function app_private.reminder_interval() is
  'How long a request waits until those who can decide it are reminded, and then until each next reminder.';

create or replace function app_private.remind()
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  insert into app_public.notifications (recipient_id, kind, event, request_id, mail_state)
  select p.user_id, 'REMINDER', due.event, due.request_id, app_private.mail_state_for(p.user_id, 'REMINDER')
  from (
    select r.id as request_id,
      format('reminder %s of %s since %s',
        floor(extract(epoch from now() - asked.at) / extract(epoch from app_private.reminder_interval())),
        r.id,
        extract(epoch from asked.at)
      ) as event
    from app_public.requests r
    cross join lateral (
      -- The latest assignee has had the request since it was assigned to them.
      select coalesce(
        (select max(a."timestamp") from app_public.audit_logs a where a.request_id = r.id and a.action = 'ASSIGN'),
        r.submitted_at) as at
    ) asked
    -- These are the conditions of requests_waiting_idx, so that it reads only what is waiting, however much has been decided.
    where app_hidden.waiting_since(r.submitted_at) <= now() - app_private.reminder_interval()
      and app_hidden.is_waiting(r)
      and asked.at <= now() - app_private.reminder_interval()
    -- What is due is few, which the planner cannot know: OFFSET 0 has it look for those first, and then for whom each one asks.
    offset 0
  ) due
  cross join lateral (select d.user_id from app_private.deciders_to_notify(due.request_id) d offset 0) p
  where not exists (select from app_public.notifications n where n.event = due.event)
  order by due.request_id, p.user_id
  on conflict on constraint notifications_event_key do nothing;
end
$$;
comment on function app_private.remind() is
  'Reminds those who can decide a request when it has waited for 2 days since it was submitted or last assigned, and again '
  'every 2 days. Nobody is reminded twice for the same 2 days; if it runs late, it reminds only for the latest.';

create or replace function app_private.make_digests(for_day date)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  insert into app_public.notifications (recipient_id, kind, event, mail_state, read_at)
  select u.id, 'DIGEST', 'digest of ' || to_char(for_day, 'YYYY-MM-DD'), 'QUEUED', now()
  from (
    select d.user_id from app_hidden.deciders d where app_private.has_to_decide(d.user_id)
    union
    select n.recipient_id from app_public.notifications n where n.mail_state = 'DIGEST'
  ) r
  join app_public.users u on u.id = r.user_id and not u.is_deleted
  where app_private.mail_state_for(u.id, 'DIGEST') = 'QUEUED'
  order by u.id
  on conflict on constraint notifications_event_key do nothing;
end
$$;
comment on function app_private.make_digests(date) is
  'Queues a digest for everybody who has something to decide, or notifications that they want in digests: one for each day '
  'and person.';

create or replace function app_private.kept_for(what text)
  returns interval
  language sql
  immutable
as $$
  select case what
    when 'password link' then interval '0'
    when 'attempt' then interval '15 minutes'
    when 'idempotency key' then interval '24 hours'
    -- For so long it proves that who acted was logged in (audit.unproven_entries).
    when 'session' then interval '30 days'
    when 'job' then interval '30 days'
    when 'notification' then interval '1 year'
    when 'delivery' then interval '1 year'
  end
$$;
comment on function app_private.kept_for(text) is
  'For how long something is kept: a link to choose a password and a session after they have expired, a job after its last '
  'attempt, and all else since it was made. What has no period here is kept for ever.';

create or replace function app_private.clear_batch()
  returns boolean
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_most constant integer := 1000;
  v_cleared integer;
begin
  with links as (
    delete from app_private.password_resets r where r.secret_hash in (
      select o.secret_hash from app_private.password_resets o
      where o.expires_at < now() - app_private.kept_for('password link') order by o.expires_at limit v_most)
    returning 1
  ), logins as (
    delete from app_private.login_attempts a where a.id in (
      select o.id from app_private.login_attempts o
      where o.attempted_at < now() - app_private.kept_for('attempt') order by o.attempted_at limit v_most)
    returning 1
  ), asked as (
    delete from app_private.password_reset_requests r where r.id in (
      select o.id from app_private.password_reset_requests o
      where o.requested_at < now() - app_private.kept_for('attempt') order by o.requested_at limit v_most)
    returning 1
  ), keys as (
    delete from app_private.idempotency_keys k where (k.user_id, k.key) in (
      select o.user_id, o.key from app_private.idempotency_keys o
      where o.created_at < now() - app_private.kept_for('idempotency key') order by o.created_at limit v_most)
    returning 1
  ), sessions as (
    delete from app_private.sessions s where s.id in (
      select o.id from app_private.sessions o
      where o.expires_at < now() - app_private.kept_for('session') order by o.expires_at limit v_most)
    returning 1
  ), deliveries as (
    delete from app_public.webhook_deliveries d where d.id in (
      select o.id from app_public.webhook_deliveries o
      where o.created_at < now() - app_private.kept_for('delivery') and o.state <> 'QUEUED' order by o.created_at limit v_most)
    returning 1
  ), notifications as (
    delete from app_public.notifications n where n.id in (
      select o.id
      from app_public.notification_kinds k
      -- By the index of each kind.
      cross join lateral (
        select o.id from app_public.notifications o
        where o.kind = k.kind and o.created_at < now() - app_private.kept_for('notification') and o.mail_state <> 'QUEUED'
        order by o.created_at limit v_most
      ) o)
    returning 1
  ), jobs as (
    select from graphile_worker.complete_jobs(array(
      select j.id from graphile_worker.jobs j
      where j.attempts >= j.max_attempts and j.locked_at is null and j.updated_at < now() - app_private.kept_for('job')
      limit v_most))
  )
  select greatest((select count(*) from links), (select count(*) from logins), (select count(*) from asked),
    (select count(*) from keys), (select count(*) from sessions), (select count(*) from deliveries),
    (select count(*) from notifications), (select count(*) from jobs)) into v_cleared;
  return v_cleared >= v_most;
end
$$;
comment on function app_private.clear_batch() is
  'Deletes what has been kept for as long as kept_for() says, up to 1,000 rows of each kind. Call it again while it returns '
  'true. Mails and deliveries that are still to be sent stay.';
