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

create or replace view audit.actions as
  select a.actor_id, p.name as actor_name, c.email as actor_email, a."timestamp", a.action,
    a.request_id, r.title, a.user_id, u.name as user_name, a.metadata, a.ip_address, a.id as audit_log_id, a.database_login
  from app_public.audit_logs a
  left join app_public.users p on p.id = a.actor_id
  left join app_private.credentials c on c.user_id = a.actor_id
  left join app_public.requests r on r.id = a.request_id
  left join app_public.users u on u.id = a.user_id;
comment on view audit.actions is
  'Everything that was done, with names: select * from audit.actions where "timestamp" >= … and "timestamp" < … order by '
  '"timestamp", or where actor_email = …. Rows without an actor are failed logins, requests for a password reset, and what '
  'was done by SQL.';

create or replace view audit.person_actions as
  select * from audit.actions;
comment on view audit.person_actions is 'The same as audit.actions, under its former name.';

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
    a.request_id, r.title, r.creator_id, creator.name as creator_name, r.review_comment, a.ip_address, a.id as audit_log_id,
    r.submitted_at, a."timestamp" - r.submitted_at as waited
  from app_public.audit_logs a
  join app_public.requests r on r.id = a.request_id
  join app_public.users creator on creator.id = r.creator_id
  join app_public.users p on p.id = a.actor_id
  left join app_private.credentials c on c.user_id = a.actor_id
  where a.action in ('APPROVE', 'REJECT');
comment on view audit.decisions is
  'Who approved or rejected what: select * from audit.decisions where "timestamp" >= … and "timestamp" < … order by "timestamp".';

create or replace view audit.ties as
  select a.actor_id, a.user_id, a.action, a."timestamp", a.metadata, a.id as audit_log_id
  from app_public.audit_logs a
  where a.action in ('USER_CREATE', 'INVITATION_RESEND', 'USER_REACTIVATE', 'USER_UPDATE')
    and (a.action <> 'USER_UPDATE' or a.metadata ? 'role')
    and a.actor_id <> a.user_id;
comment on view audit.ties is
  'What was done to accounts that may make two of them one person''s: somebody created them, invited them again, reactivated '
  'them or gave them another role: select * from audit.ties where user_id = ….';

create or replace view audit.entangled_decisions as
  select d."timestamp", d.action, d.actor_id, p.name as actor_name, c.email as actor_email,
    d.request_id, r.title, d.request_creator_id as creator_id, creator.name as creator_name,
    tie.action as tie, tie."timestamp" as tied_at, tie.metadata as tie_metadata,
    d.id as audit_log_id, tie.audit_log_id as tie_audit_log_id, tie.actor_id as tied_by_id
  from app_public.audit_logs d
  cross join lateral (
    -- Whoever stands behind the account, and whoever behind them: few, where those before the creator's would be all accounts.
    with recursive behind as (
      select t.actor_id as tied_by_id, t.actor_id as person_id
      from audit.ties t
      where t.user_id = d.actor_id and t."timestamp" < d."timestamp"
      union
      select b.tied_by_id, t.actor_id
      from behind b
      join audit.ties t on t.user_id = b.person_id and t."timestamp" < d."timestamp"
      where b.person_id <> d.request_creator_id
    )
    -- The last of each kind: what was done a thousand times is told once.
    select distinct on (t.actor_id, t.action) t.*
    from audit.ties t
    where t.user_id = d.actor_id and t."timestamp" < d."timestamp"
      and t.actor_id in (select b.tied_by_id from behind b where b.person_id = d.request_creator_id)
    order by t.actor_id, t.action, t."timestamp" desc
  ) tie
  join app_public.requests r on r.id = d.request_id
  join app_public.users creator on creator.id = d.request_creator_id
  join app_public.users p on p.id = d.actor_id
  left join app_private.credentials c on c.user_id = d.actor_id
  where d.action in ('APPROVE', 'REJECT')
    -- Nearly all decisions end here: few people have ever done something to an account.
    and d.request_creator_id = any (array(select t.actor_id from audit.ties t group by t.actor_id));
comment on view audit.entangled_decisions is
  'Decisions by accounts that the request''s own creator had created, invited again, reactivated or given another role before, '
  'or that an account had to which the creator had done that, and so on: several accounts, but perhaps one person. select * from '
  'audit.entangled_decisions where "timestamp" >= … and "timestamp" < … order by "timestamp". There is a row for each account '
  'that did something to the one that decided, and for each kind of what it did, with the last of that kind. An account that was '
  'registered by SQL has no creator. It has no rows when all is well.';
comment on column audit.entangled_decisions."timestamp" is 'When it was decided.';
comment on column audit.entangled_decisions.action is 'The decision: APPROVE or REJECT.';
comment on column audit.entangled_decisions.actor_id is 'Whose account decided it.';
comment on column audit.entangled_decisions.actor_name is 'Their name.';
comment on column audit.entangled_decisions.actor_email is 'The address that they log in with.';
comment on column audit.entangled_decisions.request_id is 'What was decided.';
comment on column audit.entangled_decisions.title is 'The title of that request.';
comment on column audit.entangled_decisions.creator_id is 'Who created the request and, before, stood behind the account.';
comment on column audit.entangled_decisions.creator_name is 'Their name.';
comment on column audit.entangled_decisions.tie is
  'What had been done to the account: USER_CREATE, INVITATION_RESEND, USER_REACTIVATE, or USER_UPDATE if its role had been '
  'changed.';
comment on column audit.entangled_decisions.tied_at is 'When that had been done.';
comment on column audit.entangled_decisions.tie_metadata is 'The metadata of that entry, such as the old role and the new one.';
comment on column audit.entangled_decisions.audit_log_id is 'The entry of the decision.';
comment on column audit.entangled_decisions.tie_audit_log_id is 'The entry of the tie.';
comment on column audit.entangled_decisions.tied_by_id is
  'Who had done that: the creator of the request, or an account that they stood behind.';
comment on column audit.ties.actor_id is 'Who did it.';
comment on column audit.ties.user_id is 'To whose account.';
comment on column audit.ties.action is 'What they did.';
comment on column audit.ties."timestamp" is 'When.';
comment on column audit.ties.metadata is 'The metadata of the entry, such as the old role and the new one.';
comment on column audit.ties.audit_log_id is 'The entry.';

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

create or replace view audit.waiting as
  select r.submitted_at, now() - r.submitted_at as waiting, r.id as request_id, r.title, r.creator_id,
    creator.name as creator_name, r.assigned_to_id, assignee.name as assigned_to_name, d.ids as decider_ids,
    d.names as decider_names
  from app_public.requests r
  join app_public.users creator on creator.id = r.creator_id
  left join app_public.users assignee on assignee.id = r.assigned_to_id
  cross join lateral (
    select coalesce(array_agg(p.id order by p.name, p.id), '{}') as ids,
      coalesce(array_agg(p.name order by p.name, p.id), '{}') as names
    from app_hidden.request_deciders d
    join app_public.users p on p.id = d.user_id
    where (d.request).id = r.id
  ) d
  where app_hidden.is_waiting(r);
comment on view audit.waiting is
  'What is waiting for a decision, since when, and who can decide it: select * from audit.waiting order by submitted_at.';

create or replace view audit.turnaround as
  select r.reviewed_at as decided_at, r.submitted_at, r.reviewed_at - r.submitted_at as waited, r.status, r.id as request_id,
    r.title, r.creator_id, creator.name as creator_name, r.reviewed_by_id as decider_id, decider.name as decider_name
  from app_public.requests r
  join app_public.users creator on creator.id = r.creator_id
  join app_public.users decider on decider.id = r.reviewed_by_id
  where r.reviewed_at is not null;
comment on view audit.turnaround is
  'How long each request had waited when it was decided: select * from audit.turnaround where decided_at >= … and '
  'decided_at < … order by waited desc.';

create or replace function audit.turnaround_by_decider(
  since timestamptz default '-infinity',
  until timestamptz default 'infinity'
)
  returns table (
    decider_id uuid,
    decider_name text,
    decided bigint,
    approved bigint,
    rejected bigint,
    median_waited interval,
    average_waited interval,
    longest_waited interval
  )
  language sql
  stable
as $$
  select t.decider_id, t.decider_name, count(*), count(*) filter (where t.status = 'APPROVED'),
    count(*) filter (where t.status = 'REJECTED'), percentile_cont(0.5) within group (order by t.waited), avg(t.waited),
    max(t.waited)
  from audit.turnaround t
  where t.decided_at >= since and t.decided_at < until
  group by t.decider_id, t.decider_name
  order by count(*) desc, t.decider_name
$$;
comment on function audit.turnaround_by_decider(timestamptz, timestamptz) is
  'How many requests each person decided between two moments, and how long those had waited: select * from '
  'audit.turnaround_by_decider(''2026-03-01'', ''2026-04-01'').';

create or replace function audit.visible_requests(person uuid)
  returns table (request_id uuid, title text, status text, creator_id uuid, creator_name text, is_deleted boolean)
  language plpgsql
  stable
as $$
begin
  return query
  select r.id, r.title, r.status, r.creator_id, u.name, r.is_deleted
  from app_hidden.viewers v
  join app_public.requests r
    on app_hidden.can_see(r.creator_id, r.status, r.is_deleted, v.user_id, v.reads_others, v.reads_all)
  join app_public.users u on u.id = r.creator_id
  where v.user_id = person;
end
$$;
comment on function audit.visible_requests(uuid) is
  'The requests that a person sees now, by the same rule as row-level security, app_hidden.can_see; none if the person is '
  'deactivated: select * from audit.visible_requests(…).';

create or replace function audit.deciders_at(request uuid, moment timestamptz)
  returns table (user_id uuid, name text, role text, is_assignee boolean)
  language sql
  stable
as $$
  -- What was true at a moment is what the first change after it has replaced; without such a change, it is what is true now.
  with permissions as (
    select p.permission, case when later.id is null then today.role else later.metadata #>> '{old,role}' end as role
    from (values ('request.decide'), ('request.decide_any')) p (permission)
    left join app_public.role_permissions today on today.permission = p.permission
    left join lateral (
      select a.id, a.metadata
      from app_public.audit_logs a
      where a.action = 'PERMISSION_CHANGE' and a."timestamp" > moment and a.metadata ->> 'table' = 'role_permissions'
        and p.permission in (a.metadata #>> '{old,permission}', a.metadata #>> '{new,permission}')
      order by a."timestamp", a.id
      limit 1
    ) later on true
  ),
  people as (
    select u.id, u.name,
      case when later_role.id is null then u.role else later_role.metadata #>> '{role,old}' end as role
    from app_public.users u
    left join lateral (
      select a.id, a.metadata
      from app_public.audit_logs a
      where a.user_id = u.id and a."timestamp" > moment and a.action in ('USER_UPDATE', 'USER_DEACTIVATE', 'USER_REACTIVATE')
        and a.metadata ? 'role'
      order by a."timestamp", a.id
      limit 1
    ) later_role on true
    left join lateral (
      select a.id, a.metadata
      from app_public.audit_logs a
      where a.user_id = u.id and a."timestamp" > moment and a.action in ('USER_DEACTIVATE', 'USER_REACTIVATE')
      order by a."timestamp", a.id
      limit 1
    ) later_state on true
    where u.created_at <= moment
      and not case when later_state.id is null then u.is_deleted else (later_state.metadata #>> '{is_deleted,old}')::boolean end
  ),
  deciders as (
    select p.id, p.name, p.role, coalesce(mine.level >= any_lowest.level, false) as decides_any
    from people p
    join app_public.roles mine on mine.role = p.role
    join permissions decide on decide.permission = 'request.decide'
    join app_public.roles lowest on lowest.role = decide.role and lowest.level <= mine.level
    join permissions decide_any on decide_any.permission = 'request.decide_any'
    left join app_public.roles any_lowest on any_lowest.role = decide_any.role
  ),
  that as (
    select r.creator_id, case when later.id is null then r.assigned_to_id
      else (later.metadata #>> '{assigned_to_id,old}')::uuid end as assigned_to_id
    from app_public.requests r
    cross join lateral (
      select a.metadata ->> 'new_status' as status
      from app_public.audit_logs a
      where a.request_id = r.id and a."timestamp" <= moment and a.metadata ? 'new_status'
      order by a."timestamp" desc, a.id desc
      limit 1
    ) earlier
    left join lateral (
      select a.id, a.metadata
      from app_public.audit_logs a
      where a.request_id = r.id and a."timestamp" > moment and a.metadata ? 'assigned_to_id'
      order by a."timestamp", a.id
      limit 1
    ) later on true
    where r.id = request
      and earlier.status in (select t.from_status from app_public.request_transitions t where t.who = 'DECIDER')
  )
  select d.id, d.name, d.role, d.id is not distinct from that.assigned_to_id
  from that
  left join deciders assignee on assignee.id = that.assigned_to_id
  join deciders d on app_hidden.can_decide(that.creator_id, assignee.id, d.id, d.decides_any)
  order by d.name, d.id
$$;
comment on function audit.deciders_at(uuid, timestamptz) is
  'Who could have decided a request at a moment, and with which role: select * from audit.deciders_at(…, ''2026-03-03 12:00Z''). '
  'It is rebuilt from the trail: status and assignee of the request, roles and deactivations of people, and permissions of '
  'roles. Names, the ranks of roles and the rule itself, app_hidden.can_decide, are those of today. Changes of permissions '
  'under version 0.1 left no entry. No rows if it was not waiting for a decision.';
revoke execute on function
  audit.turnaround_by_decider(timestamptz, timestamptz), audit.visible_requests(uuid), audit.deciders_at(uuid, timestamptz)
  from public;

grant select on
  audit.request_history, audit.actions, audit.person_actions, audit.decisions, audit.ties, audit.entangled_decisions,
  audit.disagreements, audit.waiting, audit.turnaround
  to assent_auditor;
grant execute on function
  audit.turnaround_by_decider(timestamptz, timestamptz), audit.visible_requests(uuid), audit.deciders_at(uuid, timestamptz)
  to assent_auditor;

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

-- What each column says ---------------------------------------------------------------------------------------------

comment on column audit.request_history.request_id is 'The request.';
comment on column audit.request_history.title is 'Its title, as it is now.';
comment on column audit.request_history."timestamp" is 'When it was done.';
comment on column audit.request_history.action is 'What was done.';
comment on column audit.request_history.actor_id is 'Who did it.';
comment on column audit.request_history.actor_name is 'Their name, as it is now.';
comment on column audit.request_history.actor_email is 'Their email address, as it is now.';
comment on column audit.request_history.old_status is 'The status before, if the action changed it.';
comment on column audit.request_history.new_status is 'The status after, if the action changed it.';
comment on column audit.request_history.metadata is 'The statuses, or each changed field with its old and new value.';
comment on column audit.request_history.ip_address is 'The IP address that it was done from.';
comment on column audit.request_history.audit_log_id is 'The id of the entry.';
comment on column audit.request_history.database_login is 'The login whose statement wrote the entry.';

comment on column audit.actions.actor_id is 'Who did it; null if that is not known.';
comment on column audit.actions.actor_name is 'Their name, as it is now.';
comment on column audit.actions.actor_email is 'Their email address, as it is now.';
comment on column audit.actions."timestamp" is 'When it was done.';
comment on column audit.actions.action is 'What was done.';
comment on column audit.actions.request_id is 'The request that it was about.';
comment on column audit.actions.title is 'Its title, as it is now.';
comment on column audit.actions.user_id is 'The person that it was about.';
comment on column audit.actions.user_name is 'Their name, as it is now.';
comment on column audit.actions.metadata is 'What was changed.';
comment on column audit.actions.ip_address is 'The IP address that it was done from.';
comment on column audit.actions.audit_log_id is 'The id of the entry.';
comment on column audit.actions.database_login is 'The login whose statement wrote the entry.';

comment on column audit.decisions."timestamp" is 'When it was decided.';
comment on column audit.decisions.action is 'APPROVE or REJECT.';
comment on column audit.decisions.actor_id is 'Who decided it.';
comment on column audit.decisions.actor_name is 'Their name, as it is now.';
comment on column audit.decisions.actor_email is 'Their email address, as it is now.';
comment on column audit.decisions.request_id is 'The request.';
comment on column audit.decisions.title is 'Its title.';
comment on column audit.decisions.creator_id is 'Who created it.';
comment on column audit.decisions.creator_name is 'Their name, as it is now.';
comment on column audit.decisions.review_comment is 'The comment on the decision.';
comment on column audit.decisions.ip_address is 'The IP address that it was decided from.';
comment on column audit.decisions.audit_log_id is 'The id of the entry.';
comment on column audit.decisions.submitted_at is 'When it was submitted.';
comment on column audit.decisions.waited is 'How long it had waited.';

comment on column audit.disagreements.request_id is 'The request.';
comment on column audit.disagreements.title is 'Its title.';
comment on column audit.disagreements.status is 'Its status.';
comment on column audit.disagreements.audited_status is 'The status that the trail says it has.';
comment on column audit.disagreements.reviewed_by_id is 'Who decided it.';
comment on column audit.disagreements.audited_actor_id is 'Who did the last action that the trail has.';
comment on column audit.disagreements.version is 'How often it has been written.';
comment on column audit.disagreements.audited_changes is 'How many entries the trail has of it.';
comment on column audit.disagreements.is_deleted is 'Whether it is deleted.';

comment on column audit.waiting.submitted_at is 'Since when it has been waiting.';
comment on column audit.waiting.waiting is 'How long that is.';
comment on column audit.waiting.request_id is 'The request.';
comment on column audit.waiting.title is 'Its title.';
comment on column audit.waiting.creator_id is 'Who created it.';
comment on column audit.waiting.creator_name is 'Their name.';
comment on column audit.waiting.assigned_to_id is 'Who was asked to decide it, if anybody in particular.';
comment on column audit.waiting.assigned_to_name is 'Their name.';
comment on column audit.waiting.decider_ids is 'Who can decide it now.';
comment on column audit.waiting.decider_names is 'Their names, in the same order.';

comment on column audit.turnaround.decided_at is 'When it was decided.';
comment on column audit.turnaround.submitted_at is 'When it was submitted.';
comment on column audit.turnaround.waited is 'How long it had waited.';
comment on column audit.turnaround.status is 'What was decided.';
comment on column audit.turnaround.request_id is 'The request.';
comment on column audit.turnaround.title is 'Its title.';
comment on column audit.turnaround.creator_id is 'Who created it.';
comment on column audit.turnaround.creator_name is 'Their name.';
comment on column audit.turnaround.decider_id is 'Who decided it.';
comment on column audit.turnaround.decider_name is 'Their name.';

comment on column audit.unproven_entries."timestamp" is 'When it was done.';
comment on column audit.unproven_entries.action is 'What was done.';
comment on column audit.unproven_entries.actor_id is 'Who is said to have done it.';
comment on column audit.unproven_entries.actor_name is 'Their name, as it is now.';
comment on column audit.unproven_entries.request_id is 'The request that it was about.';
comment on column audit.unproven_entries.user_id is 'The person that it was about.';
comment on column audit.unproven_entries.metadata is 'What was changed.';
comment on column audit.unproven_entries.ip_address is 'The IP address that it was done from.';
comment on column audit.unproven_entries.database_login is 'The login whose statement wrote the entry.';
comment on column audit.unproven_entries.audit_log_id is 'The id of the entry.';

comment on column audit.mails.created_at is 'When the notification was made.';
comment on column audit.mails.kind is 'The kind of notification.';
comment on column audit.mails.recipient_id is 'Who was notified.';
comment on column audit.mails.recipient_name is 'Their name, as it is now.';
comment on column audit.mails.recipient_email is 'Their email address, as it is now.';
comment on column audit.mails.request_id is 'The request that it was about.';
comment on column audit.mails.state is 'What became of the mail: QUEUED, SENT, FAILED, CANCELLED, DIGEST or NONE.';
comment on column audit.mails.attempts is 'How often it was tried.';
comment on column audit.mails.message_id is 'Its Message-ID.';
comment on column audit.mails.error is 'Why the last attempt failed.';
comment on column audit.mails.mailed_at is 'When the SMTP server accepted it.';
comment on column audit.mails.notification_id is 'The id of the notification.';

comment on column audit.failing_jobs.id is 'The id of the job.';
comment on column audit.failing_jobs.task is 'What it does.';
comment on column audit.failing_jobs.attempts is 'How often it was tried.';
comment on column audit.failing_jobs.max_attempts is 'How often it is tried at most.';
comment on column audit.failing_jobs.next_try is 'When it is tried again; null if it was given up.';
comment on column audit.failing_jobs.error is 'Why the last attempt failed.';
comment on column audit.failing_jobs.created_at is 'When it was added.';

do $$
declare
  v_column record;
begin
  for v_column in
    select a.attname, col_description(a.attrelid, a.attnum) as comment
    from pg_attribute a where a.attrelid = 'audit.actions'::regclass and a.attnum > 0
  loop
    execute format('comment on column audit.person_actions.%I is %L', v_column.attname, v_column.comment);
  end loop;
end
$$;
