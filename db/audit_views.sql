-- What a DBA or an auditor asks of the trail. They run as their owner, and so answer for everybody, deleted requests
-- and deactivated people included; assent_auditor may read them.

create or replace view audit.request_history as
  select a.request_id, r.title, a."timestamp", a.action, a.actor_id, p.name as actor_name, c.email as actor_email,
    a.metadata ->> 'old_status' as old_status, a.metadata ->> 'new_status' as new_status, a.metadata, a.ip_address, a.id as audit_log_id
  from app_public.audit_logs a
  join app_public.requests r on r.id = a.request_id
  left join app_public.users p on p.id = a.actor_id
  left join app_private.credentials c on c.user_id = a.actor_id;
comment on view audit.request_history is
  'The history of a request: select * from audit.request_history where request_id = … order by "timestamp". One row for every action.';

create or replace view audit.person_actions as
  select a.actor_id, p.name as actor_name, c.email as actor_email, a."timestamp", a.action,
    a.request_id, r.title, a.user_id, u.name as user_name, a.metadata, a.ip_address, a.id as audit_log_id
  from app_public.audit_logs a
  left join app_public.users p on p.id = a.actor_id
  left join app_private.credentials c on c.user_id = a.actor_id
  left join app_public.requests r on r.id = a.request_id
  left join app_public.users u on u.id = a.user_id;
comment on view audit.person_actions is
  'What somebody did: select * from audit.person_actions where actor_email = … order by "timestamp". Rows without an actor are failed logins and what was done by SQL.';

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
  select r.id as request_id, r.title, r.status, last.new_status as audited_status, r.reviewed_by_id, last.actor_id as audited_actor_id,
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
  'Requests that do not agree with their trail: the status or the decider is not that of the last entry, a change has no entry or an entry no change (each raises the version by one), or a deletion is missing on one side. Zero rows when all is sound. It reads everything: run it at night, or with where request_id = ….';

grant select on audit.request_history, audit.person_actions, audit.decisions, audit.disagreements to assent_auditor;
