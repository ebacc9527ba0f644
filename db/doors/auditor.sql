-- Views that answer what a DBA or an auditor asks of the trail. They run as their owner, and so include everybody's rows, deleted
-- requests and deactivated people; assent_auditor may read them.

create or replace view audit.request_history as
  select a.request_id, r.title, a."timestamp", a.action, a.actor_id, p.name as actor_name, c.email as actor_email,
    a.metadata ->> 'old_status' as old_status, a.metadata ->> 'new_status' as new_status, a.metadata, a.ip_address,
    a.id as audit_log_id, a.database_login
  from app_public.audit_logs a
  join app_public.requests r on r.id = a.request_id
  left join app_public.users p on p.id = a.actor_id
  left join app_private.credentials c on c.user_id = a.actor_id;
comment on view audit.request_history is
  'The history of a request, with one row for every action: select * from audit.request_history where request_id = … order by '
  '"timestamp".';

create or replace view audit.person_actions as
  select a.actor_id, p.name as actor_name, c.email as actor_email, a."timestamp", a.action,
    a.request_id, r.title, a.user_id, u.name as user_name, a.metadata, a.ip_address, a.id as audit_log_id, a.database_login
  from app_public.audit_logs a
  left join app_public.users p on p.id = a.actor_id
  left join app_private.credentials c on c.user_id = a.actor_id
  left join app_public.requests r on r.id = a.request_id
  left join app_public.users u on u.id = a.user_id;
comment on view audit.person_actions is
  'What somebody did: select * from audit.person_actions where actor_email = … order by "timestamp". Rows without an actor '
  'are failed logins, requests for a password reset, and what was done by SQL.';

create or replace view audit.colliding_addresses as
  select c.user_id, u.name, c.email, u.is_deleted, c.collides, app_private.email_key(c.email) as email_key
  from app_private.credentials c
  join app_public.users u on u.id = c.user_id
  where exists (
    select from app_private.credentials o where o.collides and app_private.email_key(o.email) = app_private.email_key(c.email)
  );
comment on view audit.colliding_addresses is
  'People whose email addresses are one and the same, but for how they are spelt. They were accepted before addresses were '
  'compared by app_private.email_key. Where collides is true, the person logs in only by exactly that spelling. To end it, the '
  'owner, who alone may read this, gives one of them another address: update app_private.credentials set email = … where '
  'user_id = ….';

create or replace view audit.decisions as
  select a."timestamp", a.action, a.actor_id, p.name as actor_name, c.email as actor_email,
    a.request_id, r.title, r.creator_id, creator.name as creator_name, r.review_comment, a.ip_address, a.id as audit_log_id
  from app_public.audit_logs a
  join app_public.requests r on r.id = a.request_id
  join app_public.users creator on creator.id = r.creator_id
  join app_public.users p on p.id = a.actor_id
  left join app_private.credentials c on c.user_id = a.actor_id
  where a.action in ('APPROVE', 'REJECT');
comment on view audit.decisions is
  'Who approved or rejected what: select * from audit.decisions where "timestamp" >= … and "timestamp" < … order by "timestamp".';

create or replace view audit.disagreements as
  select r.id as request_id, r.title, r.status, last.new_status as audited_status, r.reviewed_by_id,
    last.actor_id as audited_actor_id,
    r.version, entries.count as audited_changes, r.is_deleted
  from app_public.requests r
  left join lateral (
    select a.metadata ->> 'new_status' as new_status, a.actor_id
    from app_public.audit_logs a
    where a.request_id = r.id and a.metadata ? 'new_status'
    order by a."timestamp" desc, a.id desc
    limit 1
  ) last on true
  cross join lateral (
    select count(*), bool_or(a.action = 'DELETE') as deleted from app_public.audit_logs a where a.request_id = r.id
  ) entries
  where last.new_status is distinct from r.status
    or (r.reviewed_by_id is not null and last.actor_id is distinct from r.reviewed_by_id)
    or entries.count <> r.version
    or coalesce(entries.deleted, false) <> r.is_deleted;
comment on view audit.disagreements is
  'Requests that do not agree with their trail: the status or the decider is not that of the last entry, a change has no '
  'entry or an entry no change (each raises the version by one), or a deletion is missing on one side. It has no rows when '
  'all is well. It reads everything: run it at night, or with where request_id = ….';

create or replace view audit.unproven_entries as
  select a."timestamp", a.action, a.actor_id, p.name as actor_name, a.request_id, a.user_id, a.metadata, a.ip_address,
    a.database_login, a.id as audit_log_id
  from app_public.audit_logs a
  join app_public.users p on p.id = a.actor_id
  where a."timestamp" > now() - interval '30 days'
    -- By a mailed link, a person sets a password without a session.
    and not (a.action = 'PASSWORD_CHANGE' and a.actor_id = a.user_id)
    and not exists (
      select from app_private.sessions s
      where s.user_id = a.actor_id
        and s.created_at <= a."timestamp" and s.expires_at > a."timestamp"
        -- A logout ends the session at the start of its transaction, and is written a moment later.
        and (s.revoked_at is null or s.revoked_at > a."timestamp" - interval '1 minute')
        and not exists (
          select from app_public.audit_logs o
          where o.user_id = s.user_id and o.action = 'SESSION_OPEN' and o.metadata ->> 'session_id' = s.id::text)
    );
comment on view audit.unproven_entries is
  'Entries of the last 30 days whose actor had no session at that time, or only one that was opened by SQL: somebody else acted '
  'in their name. It has no rows when all is well. It reads all of those entries: run it at night.';

grant select on audit.unproven_entries to assent_auditor;
grant select on audit.request_history, audit.person_actions, audit.decisions, audit.disagreements to assent_auditor;

create or replace view audit.mails as
  select n.created_at, n.kind, n.recipient_id, p.name as recipient_name, c.email as recipient_email, n.request_id,
    n.mail_state as state, n.mail_attempts as attempts, n.mail_message_id as message_id, n.mail_error as error,
    n.mailed_at, n.id as notification_id
  from app_public.notifications n
  join app_public.users p on p.id = n.recipient_id
  left join app_private.credentials c on c.user_id = n.recipient_id;
comment on view audit.mails is
  'Who was notified of what, and what became of the mail: select * from audit.mails where recipient_email = … order by '
  'created_at.';

create or replace view audit.failing_jobs as
  select j.* from app_private.failing_jobs() j;
comment on view audit.failing_jobs is
  'Jobs whose last attempt has failed: select * from audit.failing_jobs order by attempts desc. A job whose next_try is null '
  'was given up. It has no rows when all is well.';

grant select on audit.mails, audit.failing_jobs to assent_auditor;
grant execute on function app_private.failing_jobs() to assent_auditor;

create or replace view audit.webhooks as
  select w.id, app_private.origin(w.url) as origin, w.events, w.is_enabled, w.failing_since, w.created_at, w.is_deleted
  from app_public.webhooks w;
comment on view audit.webhooks is
  'To which hosts the system reports: app_public.webhook_deliveries has what was sent to each. Of a URL, it shows the origin '
  'alone, because the rest can hold a secret.';
grant select on audit.webhooks to assent_auditor;
-- By that view: they do not enter the schema.
grant execute on function app_private.origin(text) to assent_auditor;
