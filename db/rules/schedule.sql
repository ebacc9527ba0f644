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

create or replace function app_private.clear_away()
  returns void
  language sql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  -- For 30 days more, they prove that who acted was logged in (audit.unproven_entries).
  delete from app_private.sessions s where s.expires_at < now() - interval '30 days';
  delete from app_private.idempotency_keys k where k.created_at < now() - interval '24 hours';
  delete from app_private.password_resets r where r.expires_at < now();
  select graphile_worker.complete_jobs(array(
    select j.id from graphile_worker.jobs j
    where j.attempts >= j.max_attempts and j.locked_at is null and j.updated_at < now() - interval '30 days'));
$$;
comment on function app_private.clear_away() is
  'Deletes idempotency keys and reset links that have expired, sessions that expired 30 days ago, and jobs that failed for the '
  'last time 30 days ago.';
