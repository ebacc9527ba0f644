-- The audit trail has one row for every action, written in the action's own transaction and never changed. What writes it is
-- in rules/trail.sql.

create table if not exists app_public.audit_actions (
  action text primary key,
  description text not null,
  is_told boolean not null default false
);
comment on table app_public.audit_actions is
  E'@enum\n@enumName AuditAction\n@behavior -*\nEvery kind of entry that the trail can hold.';
comment on column app_public.audit_actions.action is 'The name of the action.';
comment on column app_public.audit_actions.description is 'What was done.';
comment on column app_public.audit_actions.is_told is
  'Whether it is reported to others: to people by notifications, to programs by webhooks, to front ends by live updates.';

insert into app_public.audit_actions (action, is_told, description) values
  ('CREATE',          false, 'A request was created.'),
  ('UPDATE',          false, 'A draft was edited.'),
  ('DELETE',          false, 'A draft was deleted.'),
  ('SUBMIT',          true,  'A request was submitted.'),
  ('ASSIGN',          true,  'A submitted request was assigned.'),
  ('APPROVE',         true,  'A request was approved.'),
  ('REJECT',          true,  'A request was rejected.'),
  ('ATTACH',          false, 'A file was attached to a draft.'),
  ('DETACH',          false, 'An attachment of a draft was removed.'),
  ('LOGIN',           false, 'Somebody logged in.'),
  ('LOGIN_FAILED',    false, 'A login failed. The entry has no actor; it is about the account, if there is one.'),
  ('LOGOUT',          false, 'Somebody logged out.'),
  ('SESSION_REVOKE',  false, 'Sessions were ended: by their owner, by an admin, by another login in the same browser,'
    ' because there were more than 20 or, without an actor, because a refresh token was used twice.'),
  ('PASSWORD_RESET_REQUEST', true,
    'Somebody asked for a link to reset a password. The entry has no actor; it is about the account.'),
  ('PASSWORD_CHANGE', true,  'Somebody changed their password, which ended their other sessions.'),
  ('USER_CREATE',     true,  'A person was added.'),
  ('INVITATION_RESEND', true, 'Somebody who had not chosen a password yet was invited again, which ended the earlier link.'),
  ('USER_UPDATE',     true,  'A person''s name or role was changed.'),
  ('USER_DEACTIVATE', true,  'A person was deactivated.'),
  ('USER_REACTIVATE', true,  'A person was reactivated.'),
  ('USER_ERASE',      false, 'A person''s data were erased.'),
  ('KIND_CREATE',     false, 'A kind of request was created.'),
  ('KIND_UPDATE',     false, 'A kind of request was changed.'),
  ('WEBHOOK_CREATE',  false, 'A webhook was registered.'),
  ('WEBHOOK_UPDATE',  false, 'A webhook was changed, or switched off after a week of failures.'),
  ('WEBHOOK_DELETE',  false, 'A webhook was removed.'),
  ('WEBHOOK_RESEND',  false, 'A delivery of a webhook was sent again.'),
  ('MAIL_RESEND',     false, 'A mail that had failed was sent again.'),
  ('PREFERENCE_CHANGE', false, 'Somebody changed how they are notified by mail.'),
  ('PERMISSION_CHANGE', false, 'What people may do was changed by SQL.'),
  ('CREDENTIALS_CHANGE', false, 'Somebody''s address or credentials were changed by SQL.'),
  ('SESSION_OPEN',    false, 'A session was opened by SQL, without a login.'),
  ('SESSION_CHANGE',  false, 'A session was changed by SQL.'),
  ('DATA_CHANGE',     false, 'Rows were changed by SQL in a table that no other action names.')
on conflict (action) do update
  set description = excluded.description, is_told = excluded.is_told
  where (audit_actions.*) is distinct from (excluded.*);

-- By months, each a table in app_private: what is old can be taken away whole (docs/dba.md), and what is new is written to small
-- indexes. The first partition takes whatever is earlier, and the last whatever is later than the months that were made ahead by
-- app_private.extend_trail, so that nothing fails for want of a month. A default partition would do that as well, but with one
-- PostgreSQL no longer knows in which order the partitions are, and a page of a list would ask them all.
create table if not exists app_public.audit_logs (
  id uuid not null default app_private.uuid_v7(),
  actor_id uuid references app_public.users on delete restrict,
  action text not null references app_public.audit_actions on delete restrict,
  request_id uuid references app_public.requests on delete restrict,
  request_creator_id uuid references app_public.users on delete restrict,
  user_id uuid references app_public.users on delete restrict,
  metadata jsonb not null default '{}',
  ip_address inet,
  "timestamp" timestamptz not null default clock_timestamp(),
  database_login name,
  -- Within a month, that is: a key must hold what the table is partitioned by.
  constraint audit_logs_id_key unique (id, "timestamp"),
  constraint audit_logs_subject_check check (request_id is null or user_id is null),
  constraint audit_logs_request_creator_check check ((request_id is null) = (request_creator_id is null)),
  constraint audit_logs_metadata_check check (jsonb_typeof(metadata) = 'object')
) partition by range ("timestamp");
comment on table app_public.audit_logs is
  E'@primaryKey id\n@defaultOrderBy TIMESTAMP_DESC\nThe audit trail, append-only: who did what, to what, when and from where.';
comment on column app_public.audit_logs.id is 'Time-ordered UUID (version 7).';
comment on column app_public.audit_logs.actor_id is
  E'@behavior -orderBy\nWho did it; null for a failed login, and for what was done by SQL.';
comment on column app_public.audit_logs.action is E'@behavior +orderBy\nWhat was done.';
comment on column app_public.audit_logs.request_id is E'@behavior -orderBy\nThe request it was about.';
comment on column app_public.audit_logs.request_creator_id is
  E'@behavior -*\n'
  'The creator of that request, who never changes. It is kept here so that row-level security reads one index and not every '
  'request.';
comment on column app_public.audit_logs.user_id is E'@behavior -orderBy\nThe person it was about.';
comment on column app_public.audit_logs.metadata is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy\n'
  'old_status and new_status where the status changed; otherwise each changed field with its old and new value. Never a secret.';
comment on column app_public.audit_logs.ip_address is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy\n'
  'The client''s IP address, as the outermost trusted proxy saw it.';
comment on column app_public.audit_logs."timestamp" is
  'When it was done, by the clock at that moment, not the start of the transaction.';
comment on column app_public.audit_logs.database_login is
  E'@behavior -*\n'
  'The login to the database that wrote the entry: that of the API, of the worker, or of whoever used SQL. It is null in entries '
  'of version 0.1. Callers are not shown it, and auditors are.';
comment on constraint audit_logs_request_id_fkey on app_public.audit_logs is
  E'@behavior +manyRelation:resource:connection\n@foreignFieldName auditLogs';
comment on constraint audit_logs_request_creator_id_fkey on app_public.audit_logs is E'@behavior -*';
comment on constraint audit_logs_action_fkey on app_public.audit_logs is E'@behavior -*';
comment on constraint audit_logs_id_key on app_public.audit_logs is '@behavior -*';
comment on constraint audit_logs_subject_check on app_public.audit_logs is
  'An entry is about a request or about a person, not about both.';
comment on constraint audit_logs_request_creator_check on app_public.audit_logs is
  'An entry that names a request must also name its creator.';
comment on constraint audit_logs_metadata_check on app_public.audit_logs is 'Metadata must be a JSON object.';

create index if not exists audit_logs_timestamp_idx on app_public.audit_logs ("timestamp", id);
create index if not exists audit_logs_actor_id_idx on app_public.audit_logs (actor_id, "timestamp", id);
create index if not exists audit_logs_actor_id_action_idx on app_public.audit_logs (actor_id, action, "timestamp", id);
create index if not exists audit_logs_action_idx on app_public.audit_logs (action, "timestamp", id);
create index if not exists audit_logs_request_id_idx on app_public.audit_logs (request_id, "timestamp", id);
create index if not exists audit_logs_request_creator_id_idx on app_public.audit_logs (request_creator_id, "timestamp", id);
create index if not exists audit_logs_request_creator_id_actor_id_idx on app_public.audit_logs (request_creator_id, actor_id);
create index if not exists audit_logs_user_id_idx on app_public.audit_logs (user_id, "timestamp", id);
-- For audit.ties.
create index if not exists audit_logs_ties_idx on app_public.audit_logs (user_id, "timestamp", id)
  where action in ('USER_CREATE', 'INVITATION_RESEND', 'USER_REACTIVATE', 'USER_UPDATE');

do $$
declare
  v_until timestamptz := (date_trunc('month', now() at time zone 'UTC') + interval '3 months') at time zone 'UTC';
begin
  if to_regclass('app_private.audit_logs_earliest') is null then
    execute format('create table app_private.audit_logs_earliest partition of app_public.audit_logs
      for values from (minvalue) to (%L)', v_until);
    execute format('create table app_private.audit_logs_later partition of app_public.audit_logs
      for values from (%L) to (maxvalue)', v_until);
  end if;
end
$$;
