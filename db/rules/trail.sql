-- The audit trail: one row for every action, in the action's own transaction, never changed. What is done to requests and
-- people is written by trigger, here; logins and logouts by the functions that do them, in login.sql.

create table if not exists app_public.audit_actions (
  action text primary key,
  description text not null,
  is_told boolean not null default false
);
comment on table app_public.audit_actions is E'@behavior -*\nEvery kind of entry that the trail can hold.';
comment on column app_public.audit_actions.action is 'The name of the action.';
comment on column app_public.audit_actions.description is 'What was done.';
comment on column app_public.audit_actions.is_told is 'Somebody else is told of it: people by notifications, programs by webhooks, front ends by live news.';

insert into app_public.audit_actions (action, is_told, description) values
  ('CREATE',          false, 'A request was created.'),
  ('UPDATE',          false, 'A draft was edited.'),
  ('DELETE',          false, 'A draft was deleted.'),
  ('SUBMIT',          true,  'A request was submitted.'),
  ('ASSIGN',          true,  'A submitted request was assigned.'),
  ('APPROVE',         true,  'A request was approved.'),
  ('REJECT',          true,  'A request was rejected.'),
  ('LOGIN',           false, 'Somebody logged in.'),
  ('LOGIN_FAILED',    false, 'A login failed: no actor; about the account, if there is one.'),
  ('LOGOUT',          false, 'Somebody logged out.'),
  ('SESSION_REVOKE',  false, 'Somebody ended sessions of theirs, or logged a browser in anew that had one; or nobody did: a refresh token was used twice.'),
  ('PASSWORD_RESET_REQUEST', true, 'Somebody asked for a link to choose a new password by: no actor; about the account.'),
  ('PASSWORD_CHANGE', true,  'Somebody changed their password, which ended their other sessions.'),
  ('USER_CREATE',     true,  'A person was added.'),
  ('USER_UPDATE',     true,  'A person''s name or role was changed.'),
  ('USER_DEACTIVATE', true,  'A person was deactivated.'),
  ('USER_REACTIVATE', true,  'A person was reactivated.'),
  ('WEBHOOK_CREATE',  false, 'A webhook was registered.'),
  ('WEBHOOK_UPDATE',  false, 'A webhook was changed, or switched off after a week of failures.'),
  ('WEBHOOK_DELETE',  false, 'A webhook was removed.'),
  ('WEBHOOK_RESEND',  false, 'What a webhook was told was sent again.'),
  ('MAIL_RESEND',     false, 'A mail to a person that had failed was sent again.')
on conflict (action) do update
  set description = excluded.description, is_told = excluded.is_told
  where (audit_actions.*) is distinct from (excluded.*);

create table if not exists app_public.audit_logs (
  id uuid primary key default app_private.uuid_v7(),
  actor_id uuid references app_public.users on delete restrict,
  action text not null references app_public.audit_actions on delete restrict,
  request_id uuid references app_public.requests on delete restrict,
  request_creator_id uuid references app_public.users on delete restrict,
  user_id uuid references app_public.users on delete restrict,
  metadata jsonb not null default '{}',
  ip_address inet,
  "timestamp" timestamptz not null default clock_timestamp(),
  constraint audit_logs_subject_check check (request_id is null or user_id is null),
  constraint audit_logs_request_creator_check check ((request_id is null) = (request_creator_id is null)),
  constraint audit_logs_metadata_check check (jsonb_typeof(metadata) = 'object')
);
comment on table app_public.audit_logs is E'@defaultOrderBy TIMESTAMP_DESC\nThe audit trail, append-only: who did what, to what, when and from where.';
comment on column app_public.audit_logs.id is 'Time-ordered UUID (version 7).';
comment on column app_public.audit_logs.actor_id is E'@behavior -orderBy\nWho did it; null for a failed login, and for what a DBA did by SQL.';
comment on column app_public.audit_logs.action is 'What was done: CREATE, UPDATE, SUBMIT, APPROVE, REJECT, ASSIGN, DELETE, LOGIN, LOGIN_FAILED, LOGOUT, USER_CREATE and so on.';
comment on column app_public.audit_logs.request_id is E'@behavior -orderBy\nThe request it was about.';
comment on column app_public.audit_logs.request_creator_id is E'@behavior -*\nThe creator of that request, who never changes: kept here so that row-level security reads one index, and not every request.';
comment on column app_public.audit_logs.user_id is E'@behavior -orderBy\nThe person it was about.';
comment on column app_public.audit_logs.metadata is 'old_status and new_status where the status changed; otherwise each changed field with its old and new value. Never a secret.';
comment on column app_public.audit_logs.ip_address is 'The address it came from, as the outermost trusted proxy saw it.';
comment on column app_public.audit_logs."timestamp" is 'When: the clock at that moment, not the start of the transaction.';
comment on constraint audit_logs_request_id_fkey on app_public.audit_logs is E'@behavior +manyRelation:resource:connection\n@foreignFieldName auditLogs';
comment on constraint audit_logs_request_creator_id_fkey on app_public.audit_logs is E'@behavior -*';
comment on constraint audit_logs_action_fkey on app_public.audit_logs is E'@behavior -*';
comment on constraint audit_logs_subject_check on app_public.audit_logs is 'An entry is about a request or about a person.';
comment on constraint audit_logs_request_creator_check on app_public.audit_logs is 'A request is named together with its creator.';
comment on constraint audit_logs_metadata_check on app_public.audit_logs is 'Metadata is a JSON object.';

create index if not exists audit_logs_timestamp_idx on app_public.audit_logs ("timestamp", id);
create index if not exists audit_logs_actor_id_idx on app_public.audit_logs (actor_id, "timestamp", id);
create index if not exists audit_logs_action_idx on app_public.audit_logs (action, "timestamp", id);
create index if not exists audit_logs_request_id_idx on app_public.audit_logs (request_id, "timestamp", id);
create index if not exists audit_logs_request_creator_id_idx on app_public.audit_logs (request_creator_id, "timestamp", id);
create index if not exists audit_logs_request_creator_id_actor_id_idx on app_public.audit_logs (request_creator_id, actor_id);
create index if not exists audit_logs_user_id_idx on app_public.audit_logs (user_id, "timestamp", id);

-- Append-only ------------------------------------------------------------------------------------------------------

create or replace function app_private.tg__refuse()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  raise exception using errcode = 'RQ403',
    message = format('%s on %s.%s is refused: its rows are evidence.', tg_op, tg_table_schema, tg_table_name);
end
$$;
comment on function app_private.tg__refuse() is 'Refuses a statement altogether, even one that meets no row. Raises RQ403.';

create or replace trigger _100_append_only
  before update or delete or truncate on app_public.audit_logs
  for each statement execute function app_private.tg__refuse();
-- "Always": also under session_replication_role = replica, which switches ordinary triggers off.
alter table app_public.audit_logs enable always trigger _100_append_only;

-- What an entry points at stays, too: deletion is a mark.
create or replace trigger _100_no_delete
  before delete or truncate on app_public.requests
  for each statement execute function app_private.tg__refuse();
create or replace trigger _100_no_delete
  before delete or truncate on app_public.users
  for each statement execute function app_private.tg__refuse();

-- Writing it -------------------------------------------------------------------------------------------------------

create or replace function app_private.changes(old_row jsonb, new_row jsonb)
  returns jsonb
  language sql
  immutable
as $$
  select coalesce(jsonb_object_agg(n.key, jsonb_build_object('old', old_row -> n.key, 'new', n.value)), '{}')
  from jsonb_each(new_row) n
  where n.value is distinct from old_row -> n.key and n.key not in ('version', 'updated_at')
$$;
comment on function app_private.changes(jsonb, jsonb) is 'The fields in which two versions of a row differ: {"field": {"old": …, "new": …}}.';

create or replace function app_private.tg_requests__audit()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  insert into app_public.audit_logs (actor_id, action, request_id, request_creator_id, metadata, ip_address)
  values (
    app_hidden.current_user_id(),
    current_setting('assent.action'),
    new.id,
    new.creator_id,
    case
      when tg_op = 'INSERT' then jsonb_build_object('old_status', null, 'new_status', new.status)
      when new.status <> old.status then jsonb_build_object('old_status', old.status, 'new_status', new.status)
      else app_private.changes(to_jsonb(old), to_jsonb(new))
    end,
    app_private.current_ip()
  );
  return null;
end
$$;
comment on function app_private.tg_requests__audit() is 'One entry for each change of a request.';

create or replace trigger _900_audit
  after insert or update on app_public.requests
  for each row execute function app_private.tg_requests__audit();

create or replace function app_private.tg_users__audit()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_actor_id uuid := app_hidden.current_user_id();
begin
  if tg_op = 'UPDATE' and new is not distinct from old then
    return new;
  end if;
  insert into app_public.audit_logs (actor_id, action, user_id, metadata, ip_address)
  values (
    v_actor_id,
    case
      when tg_op = 'INSERT' then 'USER_CREATE'
      when new.is_deleted and not old.is_deleted then 'USER_DEACTIVATE'
      when old.is_deleted and not new.is_deleted then 'USER_REACTIVATE'
      else 'USER_UPDATE'
    end,
    new.id,
    case
      when tg_op = 'INSERT' then jsonb_build_object('name', new.name, 'role', new.role)
      else app_private.changes(to_jsonb(old), to_jsonb(new))
    end
    -- With no person behind it, it was done by SQL: the login then is what is known.
    || case when v_actor_id is null then jsonb_build_object('database_user', session_user) else '{}' end,
    app_private.current_ip()
  );
  return new;
end
$$;
comment on function app_private.tg_users__audit() is 'One entry for each change of a person.';

create or replace trigger _900_audit
  after insert on app_public.users
  for each row execute function app_private.tg_users__audit();
-- Before, while who demotes or deactivates themselves still is who they were; the last of all that come before.
create or replace trigger _910_audit
  before update on app_public.users
  for each row execute function app_private.tg_users__audit();
