--! Previous: sha1:0a6b346dbdf3fe4e267dec0a2982d6517103d9a3
--! Hash: sha1:be2b1db0f0033d63e86643161e769f3dae4e9666
--! Message: notifications, webhooks and live news

-- The trail's actions say which of them are told.
alter table app_public.audit_actions add column if not exists is_told boolean not null default false;

-- An address is one that mail programs read as one.
alter table app_private.credentials drop constraint credentials_email_check;
alter table app_private.credentials add constraint credentials_email_check check (
  char_length(email) <= 254
  and email ~ '^[^[:space:][:cntrl:]@<>()\[\]\\,;:"]+@[^[:space:][:cntrl:]@<>()\[\]\\,;:".]+(\.[^[:space:][:cntrl:]@<>()\[\]\\,;:".]+)*$'
) not valid;
comment on constraint credentials_email_check on app_private.credentials is 'This is not an email address.';

--! Included permissions.sql
-- Roles, and the permissions they carry, as rows. Policies and functions ask for a permission, never for a role.

create table if not exists app_public.roles (
  role text primary key,
  level smallint not null,
  database_role name not null,
  description text not null,
  constraint roles_level_key unique (level),
  constraint roles_database_role_key unique (database_role)
);
comment on table app_public.roles is E'@enum\n@enumName Role\n@behavior -*\nWhat a person is in the organisation. A role has the permissions of every role of a lower level too.';
comment on column app_public.roles.role is 'The name of the role.';
comment on column app_public.roles.level is 'Rank: a role inherits the permissions of all roles of a lower level.';
comment on column app_public.roles.database_role is 'The PostgreSQL role that a request of such a person runs as.';
comment on column app_public.roles.description is 'What the role is for.';

create table if not exists app_public.role_permissions (
  permission text primary key,
  role text not null references app_public.roles on delete cascade,
  description text not null
);
create index if not exists role_permissions_role_idx on app_public.role_permissions (role);
comment on table app_public.role_permissions is E'@behavior -*\nThe permissions that a role adds to those it inherits.';
comment on column app_public.role_permissions.role is 'The lowest role that has the permission.';
comment on column app_public.role_permissions.permission is 'The permission, as noun and verb.';
comment on column app_public.role_permissions.description is 'What it allows.';

insert into app_public.roles (role, level, database_role, description) values
  ('USER',    1, 'assent_user',    'Drafts and submits requests of their own.'),
  ('MANAGER', 2, 'assent_manager', 'Decides the requests of others.'),
  ('ADMIN',   3, 'assent_admin',   'Administers people, and sees everything.')
on conflict (role) do update
  set level = excluded.level, database_role = excluded.database_role, description = excluded.description
  where (roles.*) is distinct from (excluded.*);

insert into app_public.role_permissions (role, permission, description) values
  ('USER',    'request.create',      'Create requests, and edit, submit and delete one''s own drafts.'),
  ('MANAGER', 'request.read',        'See all requests but the drafts of others.'),
  ('MANAGER', 'request.decide',      'Approve, reject and assign submitted requests of others that are unassigned, or assigned to oneself.'),
  ('MANAGER', 'user.read_email',     'See the email addresses of others.'),
  ('ADMIN',   'request.read_all',    'See all requests: drafts and deleted ones too.'),
  ('ADMIN',   'request.decide_any',  'Decide submitted requests of others whoever they are assigned to.'),
  ('ADMIN',   'request.assign_any',  'Assign any submitted request.'),
  ('ADMIN',   'audit.read_all',      'See every audit entry.'),
  ('ADMIN',   'user.manage',         'Create, change and deactivate people.'),
  ('ADMIN',   'mail.manage',         'See which mails could not be delivered, and send them again.'),
  ('ADMIN',   'webhook.manage',      'Register webhooks, see their deliveries, and send those again.')
on conflict (permission) do update
  set role = excluded.role, description = excluded.description
  where (role_permissions.*) is distinct from (excluded.*);

create or replace view app_hidden.effective_permissions with (security_invoker = true) as
  select mine.role, granted.permission
  from app_public.roles mine
  join app_public.roles below on below.level <= mine.level
  join app_public.role_permissions granted on granted.role = below.role;
comment on view app_hidden.effective_permissions is 'Every permission of every role, the inherited ones included.';
--! EndIncluded permissions.sql
--! Included sessions.sql
-- Sessions: what a token or a cookie names. Neither proves anything by itself; the row here does, at each request.

create table if not exists app_private.sessions (
  id uuid primary key default app_private.uuid_v7(),
  user_id uuid not null references app_public.users on delete cascade,
  secret_hash bytea not null,
  refresh_hash bytea,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  revoked_at timestamptz,
  last_used_at timestamptz not null default now(),
  ip_address inet,
  user_agent text,
  constraint sessions_secret_hash_key unique (secret_hash),
  constraint sessions_refresh_hash_key unique (refresh_hash)
);
comment on table app_private.sessions is 'One row a login. Secrets are 256 random bits, kept as SHA-256.';
comment on column app_private.sessions.id is 'Time-ordered UUID (version 7).';
comment on column app_private.sessions.user_id is 'Who logged in.';
comment on column app_private.sessions.secret_hash is 'SHA-256 of the secret that the access token carries, or the cookie after "cookie:".';
comment on column app_private.sessions.refresh_hash is 'SHA-256 of the one refresh token that is good now; null: a session by cookie has none.';
comment on column app_private.sessions.created_at is 'When they logged in.';
comment on column app_private.sessions.expires_at is 'The end of the session whatever happens.';
comment on column app_private.sessions.revoked_at is 'Ended before its time: dead from then on.';
comment on column app_private.sessions.last_used_at is 'The last request, to the minute. See app_private.is_live.';
comment on column app_private.sessions.ip_address is 'Where they logged in from.';
comment on column app_private.sessions.user_agent is 'What they logged in with, as it called itself.';
create index if not exists sessions_user_id_idx on app_private.sessions (user_id);
-- For what clears away.
create index if not exists sessions_expires_at_idx on app_private.sessions (expires_at);

create or replace function app_private.random_secret()
  returns text
  language sql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
  select translate(encode(app_private.gen_random_bytes(32), 'base64'), '+/=', '-_')
$$;
comment on function app_private.random_secret() is '256 random bits as base64url without padding (RFC 4648, 5).';

create or replace function app_private.hash_secret(secret text)
  returns bytea
  language sql
  immutable
as $$
  select sha256(convert_to(secret, 'UTF8'))
$$;
comment on function app_private.hash_secret(text) is
  'How a secret is kept at rest. It has 256 random bits, so that a fast hash is enough.';

-- Idle: longer than a weekend. Absolute: NIST SP 800-63B, 4.1.3, at assurance level 1.
create or replace function app_private.is_live(s app_private.sessions)
  returns boolean
  language sql
  stable
as $$
  select s.revoked_at is null and s.expires_at > now() and s.last_used_at > now() - interval '3 days'
$$;
comment on function app_private.is_live(app_private.sessions) is
  'Not ended, not older than the 30 days it was opened for, and used within the last 3 days. Of an active person: live_session asks.';

create or replace function app_private.open_session(
  user_id uuid,
  by_cookie boolean,
  user_agent text,
  out session_secret text,
  out refresh_token text
)
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  -- A secret says which door it opens: what a token carries is no cookie, however long the token has been expired.
  session_secret := case when by_cookie then 'cookie:' else '' end || app_private.random_secret();
  -- It names its session, so that one which is used again is known for what it is, and none need be kept.
  refresh_token := case when not by_cookie then session_secret || '.' || app_private.random_secret() end;
  insert into app_private.sessions (user_id, secret_hash, refresh_hash, expires_at, ip_address, user_agent)
  values (
    open_session.user_id,
    app_private.hash_secret(session_secret),
    app_private.hash_secret(refresh_token),
    now() + interval '30 days',
    nullif(current_setting('assent.ip', true), '')::inet,
    left(open_session.user_agent, 300)
  );
end
$$;
comment on function app_private.open_session(uuid, boolean, text) is
  'A new session, always under new secrets: for an access token and its refresh token, or for a cookie.';
--! EndIncluded sessions.sql
--! Included audit.sql
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
--! EndIncluded audit.sql
--! Included people.sql
-- Administering people: who may is whoever has the permission user.manage. Nobody is ever removed.

create or replace function app_hidden.visible_user(user_id uuid)
  returns app_public.users
  language plpgsql
  volatile -- As visible_request.
as $$
declare
  v_user app_public.users;
begin
  select * into v_user from app_public.users u where u.id = user_id;
  return v_user;
end
$$;
comment on function app_hidden.visible_user(uuid) is 'The person as the caller may see them, or nulls.';
grant execute on function app_hidden.visible_user(uuid) to assent_user, assent_manager, assent_admin;

create or replace function app_private.permit_user_management()
  returns void
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if not app_hidden.has_permission('user.manage') then
    -- Asked after it, so that a session that ends between the two is told as such.
    perform app_private.require_session();
    raise exception using errcode = 'RQ403', message = 'You may not administer people.';
  end if;
end
$$;
comment on function app_private.permit_user_management() is 'Raises RQ401 without a live session, RQ403 without the permission.';

create or replace function app_hidden.create_user(email text, name text, role text, password_digest text, weakness text)
  returns app_public.users
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  perform app_private.permit_user_management();
  perform app_private.refuse_weakness(weakness, 'password');
  return app_private.register_user(email, name, coalesce(role, 'USER'), password_digest);
end
$$;
comment on function app_hidden.create_user(text, text, text, text, text) is
  'Adds a person; without a role, as USER. Raises RQ401, RQ403, and RQ422: a weak password (what the server, which alone sees it, finds wrong), and what register_user refuses.';
grant execute on function app_hidden.create_user(text, text, text, text, text) to assent_user, assent_manager, assent_admin;

create or replace function app_private.keep_an_admin(person app_public.users, new_role text, new_is_deleted boolean)
  returns void
  language plpgsql
  volatile -- Of a statement that changes several, each row is judged by what has become of those before it.
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_admin_roles text[] := array(select p.role from app_hidden.effective_permissions p where p.permission = 'user.manage');
begin
  if person.is_deleted or person.role <> all (v_admin_roles) or (not new_is_deleted and new_role = any (v_admin_roles)) then
    return;
  end if;
  perform pg_advisory_xact_lock(hashtextextended('administering people', 0));
  if not exists (
    select from app_public.users u where u.id <> person.id and u.role = any (v_admin_roles) and not u.is_deleted
  ) then
    raise exception using errcode = 'RQ409', message = 'The last active admin stays one: nobody could administer people.';
  end if;
end
$$;
comment on function app_private.keep_an_admin(app_public.users, text, boolean) is
  'Would this change leave nobody who can administer people? Raises RQ409.';

create or replace function app_hidden.change_user(seen app_public.users, changes jsonb)
  returns app_public.users
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_old app_public.users;
  v_new app_public.users;
  v_constraint text;
  v_column text;
begin
  -- Whose role has changed since they looked has seen nobody, and may no longer.
  if seen.id is not null or not exists (select from app_private.caller()) then
    perform app_private.permit_user_management();
  end if;
  -- One at a time, so that of two admins who demote each other the second is an admin no longer.
  perform pg_advisory_xact_lock(hashtextextended('administering people', 0));
  -- As in transition(): who has seen the person also knows, to the microsecond, when they were added.
  select * into v_old from app_public.users u where u.id = seen.id and u.created_at = seen.created_at for no key update;
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such person.';
  end if;
  perform app_private.permit_user_management();

  -- Before what is wrong with the values is told.
  perform app_private.keep_an_admin(v_old, coalesce(changes ->> 'role', v_old.role),
    coalesce(changes -> 'is_deleted' = 'true', v_old.is_deleted));

  perform app_private.check_types(changes, 'app_public.users');
  v_new := jsonb_populate_record(v_old, changes);
  if v_new is not distinct from v_old then
    return v_old;
  end if;
  update app_public.users u
  set (name, role, is_deleted) = (v_new.name, v_new.role, v_new.is_deleted)
  where u.id = v_old.id
  returning * into v_new;
  return v_new;
exception
  when check_violation or not_null_violation or foreign_key_violation then
    get stacked diagnostics v_constraint = constraint_name, v_column = column_name;
    perform app_private.raise_violation(v_constraint, v_column);
end
$$;
comment on function app_hidden.change_user(app_public.users, jsonb) is
  'Changes name, role or is_deleted of a person that the caller has seen (RQ404), as one who may (RQ401, RQ403). Raises RQ409 rather than lose the last active admin, and RQ422 for what a constraint refuses.';
grant execute on function app_hidden.change_user(app_public.users, jsonb) to assent_user, assent_manager, assent_admin;

-- Whoever writes, psql included ------------------------------------------------------------------------------------

create or replace function app_private.tg_users__keep_an_admin()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  perform app_private.keep_an_admin(old, new.role, new.is_deleted);
  return new;
end
$$;
comment on function app_private.tg_users__keep_an_admin() is 'Somebody can always administer people, whoever writes. Raises RQ409.';

create or replace trigger _300_keep_an_admin
  before update of role, is_deleted on app_public.users
  for each row execute function app_private.tg_users__keep_an_admin();

create or replace function app_private.tg_users__end_sessions()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  update app_private.sessions s set revoked_at = now() where s.user_id = new.id and s.revoked_at is null;
  delete from app_private.password_resets r where r.user_id = new.id;
  return null;
end
$$;
comment on function app_private.tg_users__end_sessions() is
  'Who is deactivated has no session any more, and no link to a new password; who comes back logs in anew, whatever was opened meanwhile.';

create or replace trigger _500_end_sessions
  after update of is_deleted on app_public.users
  for each row when (new.is_deleted <> old.is_deleted)
  execute function app_private.tg_users__end_sessions();
--! EndIncluded people.sql
--! Included notifications.sql
-- Who is told what. An action that is told leaves a job in its own transaction; the job, notify(), finds the recipients by the
-- same predicate that permits their decision, and writes one row for each: what their inbox shows, and what is mailed to them
-- (mail.sql). To do so after the action keeps the one who acts from waiting, however many there are to be told.

create table if not exists app_public.notification_kinds (
  kind text primary key,
  action text references app_public.audit_actions on update cascade on delete restrict,
  headline text not null,
  is_shown boolean not null default true,
  is_mandatory boolean not null default false,
  asks_for_decision boolean not null default false
);
create index if not exists notification_kinds_action_idx on app_public.notification_kinds (action);
comment on table app_public.notification_kinds is E'@behavior -*\nWhat people are told of.';
comment on column app_public.notification_kinds.kind is 'The name of the kind.';
comment on column app_public.notification_kinds.action is 'The action that it tells of; null: it comes by time.';
comment on column app_public.notification_kinds.headline is 'In words: the subject of its mail begins so.';
comment on column app_public.notification_kinds.is_shown is 'Shown in the inbox; otherwise a mail alone.';
comment on column app_public.notification_kinds.is_mandatory is 'About the recipient''s account: its mail cannot be declined.';
comment on column app_public.notification_kinds.asks_for_decision is 'Asks for a decision: pointless once the recipient is not to decide any more.';

insert into app_public.notification_kinds (kind, action, headline, is_shown, is_mandatory, asks_for_decision) values
  ('SUBMITTED',        'SUBMIT',                 'Waits for your decision',       true,  false, true),
  ('ASSIGNED',         'ASSIGN',                 'Assigned to you',               true,  false, true),
  ('REMINDER',         null,                     'Still waits for your decision', true,  false, true),
  ('APPROVED',         'APPROVE',                'Approved',                      true,  false, false),
  ('REJECTED',         'REJECT',                 'Rejected',                      true,  false, false),
  ('DIGEST',           null,                     'What waits for you',            false, false, false),
  ('ACCOUNT_CREATED',  'USER_CREATE',            'An account for you',            true,  true,  false),
  ('ROLE_CHANGED',     'USER_UPDATE',            'Your role has changed',         true,  true,  false),
  ('PASSWORD_CHANGED', 'PASSWORD_CHANGE',        'Your password has changed',     true,  true,  false),
  ('PASSWORD_RESET',   'PASSWORD_RESET_REQUEST', 'Choose a new password',         true,  true,  false)
on conflict (kind) do update
  set action = excluded.action, headline = excluded.headline, is_shown = excluded.is_shown,
    is_mandatory = excluded.is_mandatory, asks_for_decision = excluded.asks_for_decision
  where (notification_kinds.*) is distinct from (excluded.*);

create table if not exists app_public.notifications (
  id uuid primary key default app_private.uuid_v7(),
  recipient_id uuid not null references app_public.users on delete restrict,
  kind text not null references app_public.notification_kinds on update cascade on delete restrict,
  event text not null,
  request_id uuid references app_public.requests on delete restrict,
  actor_id uuid references app_public.users on delete restrict,
  created_at timestamptz not null default clock_timestamp(),
  read_at timestamptz,
  mail_state text not null,
  mail_attempts integer not null default 0,
  mail_message_id text,
  mail_error text,
  mailed_at timestamptz,
  constraint notifications_event_key unique (event, recipient_id),
  constraint notifications_mail_state_check check (mail_state in ('QUEUED', 'SENT', 'FAILED', 'CANCELLED', 'DIGEST', 'NONE')),
  constraint notifications_mailed_at_check check ((mailed_at is not null) = (mail_state = 'SENT'))
);
comment on table app_public.notifications is E'@defaultOrderBy CREATED_AT_DESC\nWhat somebody was told: one row for each event and recipient.';
comment on column app_public.notifications.id is 'Time-ordered UUID (version 7).';
comment on column app_public.notifications.recipient_id is E'@behavior -*\nWho is told.';
comment on column app_public.notifications.kind is E'@behavior -orderBy\nOf what: SUBMITTED, ASSIGNED and REMINDER ask for a decision; APPROVED and REJECTED tell of one; ACCOUNT_CREATED, ROLE_CHANGED, PASSWORD_CHANGED and PASSWORD_RESET are about one''s account.';
comment on column app_public.notifications.event is E'@behavior -*\nWhat happened: the audit entry''s id, or what the clock brought.';
comment on column app_public.notifications.request_id is E'@behavior -orderBy\nThe request it is about.';
comment on column app_public.notifications.actor_id is E'@behavior -orderBy -filterBy -condition:attribute:filterBy\nWho did it; null for what the clock brought.';
comment on column app_public.notifications.created_at is 'When they were told.';
comment on column app_public.notifications.read_at is E'@behavior -orderBy +filterBy\nWhen they marked it as read.';
comment on column app_public.notifications.mail_state is E'@behavior -*\nQUEUED: a job is to send it. SENT: the SMTP server has accepted it. FAILED: it will not be sent. CANCELLED: it had become pointless. DIGEST: the next digest brings it. NONE: they want no mail of it.';
comment on column app_public.notifications.mail_attempts is E'@behavior -*\nHow often it was tried to send it.';
comment on column app_public.notifications.mail_message_id is E'@behavior -*\nMessage-ID (RFC 5322, 3.6.4), the same at each attempt: by it a mail that was accepted twice can be known.';
comment on column app_public.notifications.mail_error is E'@behavior -*\nWhy the last attempt failed.';
comment on column app_public.notifications.mailed_at is E'@behavior -*\nWhen the SMTP server accepted it.';
comment on constraint notifications_mail_state_check on app_public.notifications is 'There is no such state of a mail.';
comment on constraint notifications_mailed_at_check on app_public.notifications is 'What is sent was sent at some time.';
comment on constraint notifications_event_key on app_public.notifications is '@behavior -*';
comment on constraint notifications_recipient_id_fkey on app_public.notifications is '@behavior -*';
-- As many as somebody with thousands of them has: expecting fewer, the planner would read and sort all for a page of 20.
alter table app_public.notifications alter column recipient_id set (n_distinct = 500);
create index if not exists notifications_recipient_id_idx on app_public.notifications (recipient_id, created_at, id);
create index if not exists notifications_unread_idx on app_public.notifications (recipient_id, created_at, id) where read_at is null;
create index if not exists notifications_request_id_idx on app_public.notifications (request_id);
create index if not exists notifications_actor_id_idx on app_public.notifications (actor_id);
create index if not exists notifications_kind_idx on app_public.notifications (kind, created_at);
-- As small as what is still to be sent, or has failed.
create index if not exists notifications_unsent_idx on app_public.notifications (mail_state, created_at)
  where mail_state in ('QUEUED', 'FAILED');
create index if not exists notifications_digest_idx on app_public.notifications (recipient_id) where mail_state = 'DIGEST';

-- What somebody wants by mail ----------------------------------------------------------------------------------------

create table if not exists app_private.notification_preferences (
  user_id uuid not null references app_public.users on delete cascade,
  kind text not null references app_public.notification_kinds on update cascade on delete cascade,
  delivery text not null,
  primary key (user_id, kind),
  constraint notification_preferences_delivery_check check (delivery in ('AT_ONCE', 'DIGEST', 'NONE'))
);
create index if not exists notification_preferences_kind_idx on app_private.notification_preferences (kind);
comment on table app_private.notification_preferences is 'How people want to be told by mail; without a row AT_ONCE.';
comment on column app_private.notification_preferences.user_id is 'Whose preference.';
comment on column app_private.notification_preferences.kind is 'For what kind of notification.';
comment on column app_private.notification_preferences.delivery is 'AT_ONCE, DIGEST (with the next one) or NONE; of the digest itself, NONE or not.';
comment on constraint notification_preferences_delivery_check on app_private.notification_preferences is
  'A delivery is AT_ONCE, DIGEST or NONE.';
comment on constraint notification_preferences_kind_fkey on app_private.notification_preferences is 'There is no such kind of notification.';

create or replace function app_private.mail_state_for(user_id uuid, kind text)
  returns text
  language sql
  stable
as $$
  select case
    when k.is_mandatory or p.delivery is null or (k.kind = 'DIGEST' and p.delivery = 'DIGEST') then 'QUEUED'
    when p.delivery = 'AT_ONCE' then 'QUEUED'
    else p.delivery
  end
  from app_public.notification_kinds k
  left join app_private.notification_preferences p on p.kind = k.kind and p.user_id = mail_state_for.user_id
  where k.kind = mail_state_for.kind
$$;
comment on function app_private.mail_state_for(uuid, text) is 'The mail_state that a new notification begins with, as its recipient prefers.';

-- To whom ------------------------------------------------------------------------------------------------------------

create or replace function app_private.people_to_ask(of_request_id uuid)
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
comment on function app_private.people_to_ask(uuid) is
  'Who is told that a request waits: of those who can decide it, its assignee alone if it has one. Nobody once it is decided.';

create or replace function app_private.recipients(entry app_public.audit_logs)
  returns table (user_id uuid)
  language sql
  stable
as $$
  select p.user_id from app_private.people_to_ask(entry.request_id) p where entry.action = 'SUBMIT'
  union all
  select p.user_id from app_private.people_to_ask(entry.request_id) p
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

create or replace function app_private.notify(audit_log_id uuid)
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
comment on function app_private.notify(uuid) is
  'The job of an action that is told: one notification for each recipient, one delivery for each webhook, live news of inboxes. Run twice, it tells nobody a second time.';

create or replace function app_private.tg_audit_logs__notify()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if exists (select from app_public.audit_actions a where a.action = new.action and a.is_told) then
    -- "unsafe_dedupe" is one insert, and unsafe only where a key comes again: an entry has its key to itself.
    perform graphile_worker.add_job('notify', json_build_object('id', new.id),
      job_key => 'notify ' || new.id, job_key_mode => 'unsafe_dedupe');
  end if;
  return null;
end
$$;
comment on function app_private.tg_audit_logs__notify() is
  'Adds the job that tells of an action, in the action''s own transaction: rolled back with it, there with it.';

create or replace trigger _800_notify
  after insert on app_public.audit_logs
  for each row execute function app_private.tg_audit_logs__notify();

-- The inbox ----------------------------------------------------------------------------------------------------------

create or replace function app_public.unread_notification_count()
  returns integer
  language sql
  stable
as $$
  -- To count more would cost more as they gather.
  select count(*)::integer from (select from app_public.notifications n where n.read_at is null limit 10000) unread
$$;
comment on function app_public.unread_notification_count() is 'How many of one''s notifications are unread, as far as 10,000.';

create or replace function app_public.mark_notification_read(notification_id uuid)
  returns app_public.notifications
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
  v_notification app_public.notifications;
begin
  update app_public.notifications n
  set read_at = coalesce(n.read_at, clock_timestamp())
  where n.id = notification_id and n.recipient_id = v_me
    and n.kind in (select k.kind from app_public.notification_kinds k where k.is_shown)
  returning * into v_notification;
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such notification.';
  end if;
  return v_notification;
end
$$;
comment on function app_public.mark_notification_read(uuid) is
  'Marks a notification of one''s own as read; read twice, it keeps its first time. NOT_FOUND: there is none of that id.';

create or replace function app_public.mark_all_notifications_read()
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
begin
  update app_public.notifications n
  set read_at = clock_timestamp()
  where n.recipient_id = v_me and n.read_at is null
    and n.kind in (select k.kind from app_public.notification_kinds k where k.is_shown);
end
$$;
comment on function app_public.mark_all_notifications_read() is 'Marks all of one''s notifications as read.';

-- A view is the type of its rows; the function is who they are asked for.
create or replace view app_public.notification_preferences with (security_invoker = true) as
  select k.kind, k.headline, 'AT_ONCE'::text as delivery from app_public.notification_kinds k;
comment on view app_public.notification_preferences is E'@behavior -query:resource:connection -query:resource:list -query:resource:single -filter -resource:aggregates -resource:groupedAggregates\n@name notificationPreference\nHow one kind of notification reaches somebody by mail.';
comment on column app_public.notification_preferences.kind is E'@notNull\nThe kind of notification; DIGEST is the digest itself.';
comment on column app_public.notification_preferences.headline is E'@notNull\nThe kind in words.';
comment on column app_public.notification_preferences.delivery is E'@notNull\nAT_ONCE; DIGEST: with the digest, on weekdays; NONE. What is shown to somebody in their inbox stays the same.';

create or replace function app_public.my_notification_preferences()
  returns setof app_public.notification_preferences
  language sql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  select k.kind, k.headline, coalesce(p.delivery, 'AT_ONCE')
  from app_public.notification_kinds k
  left join app_private.notification_preferences p on p.kind = k.kind and p.user_id = (select app_hidden.current_user_id())
  where not k.is_mandatory
  order by k.kind
$$;
comment on function app_public.my_notification_preferences() is
  E'@name notificationPreferences\nHow each kind of notification that can be declined reaches the caller by mail.';

create or replace function app_public.set_notification_preference(kind text, delivery text)
  returns app_public.notification_preferences
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
  v_preference app_public.notification_preferences;
  v_constraint text;
  v_column text;
begin
  if exists (select from app_public.notification_kinds k where k.kind = set_notification_preference.kind and k.is_mandatory) then
    raise exception using errcode = 'RQ422', column = 'kind', message = 'Mails about one''s own account cannot be declined.';
  end if;
  insert into app_private.notification_preferences as p (user_id, kind, delivery)
  values (v_me, set_notification_preference.kind, set_notification_preference.delivery)
  on conflict on constraint notification_preferences_pkey do update set delivery = excluded.delivery;
  select * into v_preference from app_public.my_notification_preferences() m where m.kind = set_notification_preference.kind;
  return v_preference;
exception
  when check_violation or not_null_violation or foreign_key_violation then
    get stacked diagnostics v_constraint = constraint_name, v_column = column_name;
    perform app_private.raise_violation(v_constraint, v_column);
end
$$;
comment on function app_public.set_notification_preference(text, text) is
  'Says how one kind of notification shall reach the caller by mail: AT_ONCE, DIGEST or NONE. VALIDATION_FAILED: no such kind or delivery, or a kind about one''s account, which is always mailed.';

grant execute on function
  app_public.unread_notification_count(), app_public.mark_notification_read(uuid), app_public.mark_all_notifications_read(),
  app_public.my_notification_preferences(), app_public.set_notification_preference(text, text)
  to assent_user, assent_manager, assent_admin;

create or replace function app_hidden.notification_document(n app_public.notifications)
  returns json
  language sql
  stable
as $$
  -- As the caller: a request that they cannot see any more is none.
  select row_to_json(d)
  from (
    select n.id, n.kind,
      (select row_to_json(q) from (select r.id, r.title, r.status from app_public.requests r where r.id = n.request_id) q) as request,
      (select row_to_json(p) from (select u.id, u.name, u.role from app_public.users u where u.id = n.actor_id) p) as actor,
      n.created_at, n.read_at
  ) d
$$;
comment on function app_hidden.notification_document(app_public.notifications) is 'A notification as REST shows it, of a row that the caller has seen.';
grant execute on function app_hidden.notification_document(app_public.notifications) to assent_user, assent_manager, assent_admin;
--! EndIncluded notifications.sql
--! Included password_reset.sql
-- A forgotten password. Asking is a job and nothing else, whether or not there is such an account: the answer and its time are
-- the same. The link's secret is made when the mail is (mail_document in mail.sql), and kept as a hash alone.

create table if not exists app_private.password_resets (
  secret_hash bytea primary key,
  user_id uuid not null references app_public.users on delete cascade,
  expires_at timestamptz not null
);
create index if not exists password_resets_user_id_idx on app_private.password_resets (user_id);
create index if not exists password_resets_expires_at_idx on app_private.password_resets (expires_at);
comment on table app_private.password_resets is 'Links by which a new password can be chosen, once.';
comment on column app_private.password_resets.secret_hash is 'SHA-256 of the secret that the link carries.';
comment on column app_private.password_resets.user_id is 'Whose password.';
comment on column app_private.password_resets.expires_at is '30 minutes after the mail was made.';

create table if not exists app_private.password_reset_requests (
  id uuid primary key default app_private.uuid_v7(),
  account_key bytea not null,
  network cidr,
  requested_at timestamptz not null default now()
);
create index if not exists password_reset_requests_account_key_idx on app_private.password_reset_requests (account_key, requested_at);
create index if not exists password_reset_requests_network_idx on app_private.password_reset_requests (network, requested_at);
create index if not exists password_reset_requests_requested_at_idx on app_private.password_reset_requests (requested_at);
comment on table app_private.password_reset_requests is
  'Requests of the last 15 minutes, also for addresses without an account: were those not counted, the allowance of a network would tell which have one.';
comment on column app_private.password_reset_requests.id is 'Time-ordered UUID (version 7).';
comment on column app_private.password_reset_requests.account_key is 'SHA-256 of the address in lower case, whether or not there is such an account.';
comment on column app_private.password_reset_requests.network is 'The caller''s IPv4 address, or the /64 of its IPv6 address.';
comment on column app_private.password_reset_requests.requested_at is 'When its job was run.';

create or replace function app_public.request_password_reset(email text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  perform graphile_worker.add_job('begin_password_reset',
    json_build_object('email', left(request_password_reset.email, 255), 'ip', host(app_private.current_ip())),
    -- After all that is told: anybody can ask.
    job_key => 'reset ' || app_private.uuid_v7(), job_key_mode => 'unsafe_dedupe', priority => 1);
end
$$;
comment on function app_public.request_password_reset(text) is
  'Has a link mailed, good once and for 30 minutes, by which a new password can be chosen. The answer is the same whether or not there is such an account, and when nothing is mailed since within 15 minutes there were 3 requests for the address, or 20 from the network.';
grant execute on function app_public.request_password_reset(text) to assent_anonymous, assent_user, assent_manager, assent_admin;

create or replace function app_private.begin_password_reset(email text, ip text)
  returns void
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_since timestamptz := now() - interval '15 minutes';
  v_account_key bytea := app_private.account_key(coalesce(email, ''));
  v_network cidr;
begin
  perform set_config('assent.ip', coalesce(ip, ''), true);
  v_network := app_private.caller_network();
  -- One at a time, for the moment of counting.
  perform pg_advisory_xact_lock(hashtextextended('password resets', 0));
  delete from app_private.password_reset_requests r where r.requested_at < v_since;
  if (select count(*) from app_private.password_reset_requests r where r.account_key = v_account_key and r.requested_at >= v_since) >= 3
    or (select count(*) from app_private.password_reset_requests r where r.network = v_network and r.requested_at >= v_since) >= 20
  then
    return;
  end if;
  insert into app_private.password_reset_requests (account_key, network) values (v_account_key, v_network);
  insert into app_public.audit_logs (action, user_id, ip_address)
  select 'PASSWORD_RESET_REQUEST', u.id, app_private.current_ip()
  from app_private.credentials c
  join app_public.users u on u.id = c.user_id and not u.is_deleted
  where lower(c.email) = lower(begin_password_reset.email);
end
$$;
comment on function app_private.begin_password_reset(text, text) is
  'The job of a request for a reset: counts it, and leaves its audit entry, which has the mail sent. None for an unknown or deactivated account, nor after 3 for the address or 20 from the network within 15 minutes.';

create or replace function app_private.issue_reset_token(of_user_id uuid)
  returns text
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_secret text := app_private.random_secret();
begin
  insert into app_private.password_resets (secret_hash, user_id, expires_at)
  values (app_private.hash_secret(v_secret), of_user_id, now() + interval '30 minutes');
  return v_secret;
end
$$;
comment on function app_private.issue_reset_token(uuid) is
  'The secret of a new link. One for each attempt to mail it: which of them arrives nobody knows before.';

create or replace function app_hidden.reset_password(token text, new_digest text, weakness text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_user_id uuid;
begin
  -- One at a time for each account: of two at once, by one link or by two, the second finds its own used.
  perform from app_private.credentials c
  where c.user_id = (select r.user_id from app_private.password_resets r where r.secret_hash = app_private.hash_secret(token))
  for update;
  select r.user_id into v_user_id
  from app_private.password_resets r
  join app_public.users u on u.id = r.user_id and not u.is_deleted
  where r.secret_hash = app_private.hash_secret(token) and r.expires_at > now();
  if not found then
    raise exception using errcode = 'RQ422', column = 'token', message = 'This link is used, expired or unknown.';
  end if;
  perform app_private.refuse_weakness(weakness, 'new_password');

  update app_private.credentials c set password_hash = app_private.hash_password(new_digest)
  where c.user_id = v_user_id;
  delete from app_private.login_attempts a
  using app_private.credentials c
  where c.user_id = v_user_id and a.account_key = app_private.account_key(c.email) and a.failed;
  update app_private.sessions s set revoked_at = now() where s.user_id = v_user_id and s.revoked_at is null;
  insert into app_public.audit_logs (actor_id, action, user_id, metadata, ip_address)
  values (v_user_id, 'PASSWORD_CHANGE', v_user_id, '{"by": "a mailed link"}', app_private.current_ip());
end
$$;
comment on function app_hidden.reset_password(text, text, text) is
  'Sets a new password by the secret of a mailed link, ends all sessions of its person, and opens the account to logins again. Raises RQ422: the link is used, expired or unknown, or the password weak, which leaves the link as it is.';
grant execute on function app_hidden.reset_password(text, text, text) to assent_anonymous, assent_user, assent_manager, assent_admin;

create or replace function app_private.tg_credentials__end_resets()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  delete from app_private.password_resets r where r.user_id = new.user_id;
  return null;
end
$$;
comment on function app_private.tg_credentials__end_resets() is 'A new password, however it was set, ends all links by which another could be chosen.';

create or replace trigger _500_end_resets
  after update of password_hash on app_private.credentials
  for each row execute function app_private.tg_credentials__end_resets();
--! EndIncluded password_reset.sql
--! Included mail.sql
-- The outbox: notifications that are QUEUED are mailed by a job each. SMTP knows no transactions, so that of a worker that dies
-- between the server's acceptance and mail_sent() nobody can tell whether the mail is out: it is sent again, under the same
-- Message-ID. Nothing else sends a mail twice.

create or replace function app_private.tg_notifications__mail()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  perform graphile_worker.add_job('send_mail', json_build_object('id', new.id),
    job_key => format('mail %s %s', new.id, new.mail_attempts), job_key_mode => 'unsafe_dedupe');
  return null;
end
$$;
comment on function app_private.tg_notifications__mail() is 'Adds the job that mails a notification, in the transaction that queues it.';

create or replace trigger _500_mail
  after insert on app_public.notifications
  for each row when (new.mail_state = 'QUEUED')
  execute function app_private.tg_notifications__mail();
-- Queued anew. A failed attempt leaves it queued, and its job is there to try again.
create or replace trigger _510_mail
  after update of mail_state on app_public.notifications
  for each row when (new.mail_state = 'QUEUED' and old.mail_state <> 'QUEUED')
  execute function app_private.tg_notifications__mail();

create or replace function app_private.mail_lock(notification_id uuid)
  returns bigint
  language sql
  immutable
as $$
  select hashtextextended('mail ' || notification_id, 0)
$$;
comment on function app_private.mail_lock(uuid) is 'The advisory lock that a session holds while it sends a mail; a worker''s death frees it.';

create or replace function app_private.has_to_decide(person_id uuid)
  returns boolean
  language sql
  stable
as $$
  -- The first, in the order of their inbox. To ask whether there is any, the planner goes through all that waits.
  select (
    select true from app_hidden.request_deciders d
    where d.user_id = person_id
    order by coalesce((d.request).submitted_at, '9999-12-31Z'), (d.request).id
    limit 1
  ) is not null
$$;
comment on function app_private.has_to_decide(uuid) is 'Does anything wait that this person can decide?';

create or replace function app_private.is_pointless(n app_public.notifications)
  returns boolean
  language sql
  stable
as $$
  select u.is_deleted
    or (k.asks_for_decision and not exists (select from app_private.people_to_ask(n.request_id) p where p.user_id = n.recipient_id))
    or (k.kind = 'DIGEST' and not app_private.has_to_decide(n.recipient_id)
      and not exists (select from app_public.notifications w where w.recipient_id = n.recipient_id and w.mail_state = 'DIGEST'))
  from app_public.users u, app_public.notification_kinds k
  where u.id = n.recipient_id and k.kind = n.kind
$$;
comment on function app_private.is_pointless(app_public.notifications) is
  'Is the recipient deactivated, the decision that is asked for not theirs to take any more, or the digest empty?';

create or replace function app_private.digest_document(of_user_id uuid)
  returns jsonb
  language sql
  stable
as $$
  select jsonb_build_object(
    'waiting', coalesce((
      select jsonb_agg(jsonb_build_object('request_id', w.id, 'title', w.title, 'creator', w.name) order by w.submitted_at)
      from (
        select r.id, r.title, r.submitted_at, u.name
        from app_hidden.request_deciders d
        cross join lateral (select (d.request).*) r
        join app_public.users u on u.id = r.creator_id
        where d.user_id = of_user_id
        order by coalesce(r.submitted_at, '9999-12-31Z'), r.id
        limit 20
      ) w), '[]'),
    'waiting_count', (
      select count(*) from (select from app_hidden.request_deciders d where d.user_id = of_user_id limit 1000) w),
    'news', coalesce((
      select jsonb_agg(jsonb_build_object('notification_id', w.id, 'headline', w.headline, 'request_id', w.request_id, 'title', w.title) order by w.created_at, w.id)
      from (
        select n.id, n.created_at, k.headline, n.request_id, r.title
        from app_public.notifications n
        join app_public.notification_kinds k on k.kind = n.kind
        left join app_public.requests r on r.id = n.request_id
        where n.recipient_id = of_user_id and n.mail_state = 'DIGEST'
        order by n.created_at, n.id
        limit 100
      ) w), '[]'))
$$;
comment on function app_private.digest_document(uuid) is
  'What a digest holds: the 20 requests that have waited longest for this person''s decision, how many wait (as far as 1,000), and the notifications that they want in digests.';

create or replace function app_private.mail_document(n app_public.notifications)
  returns jsonb
  language sql
  volatile -- a link to choose a new password is made here
  set search_path to pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'kind', n.kind,
    'headline', k.headline,
    'name', u.name,
    'address', c.email,
    'role', u.role,
    'actor', a.name,
    'request_id', r.id,
    'title', r.title,
    'creator', creator.name,
    'comment', r.review_comment
  ) || case n.kind
    when 'PASSWORD_RESET' then jsonb_build_object('token', app_private.issue_reset_token(n.recipient_id))
    when 'DIGEST' then app_private.digest_document(n.recipient_id)
    else '{}'
  end
  from app_public.users u
  join app_private.credentials c on c.user_id = u.id
  join app_public.notification_kinds k on k.kind = n.kind
  left join app_public.users a on a.id = n.actor_id
  left join app_public.requests r on r.id = n.request_id
  left join app_public.users creator on creator.id = r.creator_id
  where u.id = n.recipient_id
$$;
comment on function app_private.mail_document(app_public.notifications) is 'All that the text of a mail is made of, as it is now.';

create or replace function app_private.begin_mail(notification_id uuid, domain text)
  returns jsonb
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_notification app_public.notifications;
begin
  if not pg_try_advisory_lock(app_private.mail_lock(notification_id)) then
    raise exception using errcode = 'lock_not_available', message = 'Another worker is sending this mail.';
  end if;
  select * into v_notification from app_public.notifications n
  where n.id = notification_id and n.mail_state = 'QUEUED'
  for no key update;
  if not found then
    return null;
  end if;
  if v_notification.kind = 'DIGEST' then
    -- What it was to bring may have become pointless, too.
    update app_public.notifications n set mail_state = 'CANCELLED'
    where n.recipient_id = v_notification.recipient_id and n.mail_state = 'DIGEST' and app_private.is_pointless(n);
  end if;
  if app_private.is_pointless(v_notification) then
    update app_public.notifications n set mail_state = 'CANCELLED' where n.id = notification_id;
    return null;
  end if;
  update app_public.notifications n
  set mail_attempts = n.mail_attempts + 1,
    mail_message_id = coalesce(n.mail_message_id, format('<%s@%s>', n.id, domain))
  where n.id = notification_id
  returning * into v_notification;
  return app_private.mail_document(v_notification) || jsonb_build_object('message_id', v_notification.mail_message_id);
end
$$;
comment on function app_private.begin_mail(uuid, text) is
  'What to mail, or null: it has been mailed, or become pointless. The session keeps mail_lock until it lets go of it, lest two workers send at once; raises 55P03 while another has it. domain: that of the sender, for the Message-ID.';

create or replace function app_private.mail_sent(notification_id uuid, news uuid[])
  returns void
  language sql
  volatile
as $$
  update app_public.notifications n
  set mail_state = 'SENT', mailed_at = clock_timestamp(), mail_error = null,
    mail_message_id = (select d.mail_message_id from app_public.notifications d where d.id = notification_id)
  where (n.id = notification_id and n.mail_state = 'QUEUED') or (n.id = any (news) and n.mail_state = 'DIGEST')
$$;
comment on function app_private.mail_sent(uuid, uuid[]) is 'The SMTP server has accepted it, with the news that a digest has brought.';

create or replace function app_private.mail_failed(notification_id uuid, error text, for_good boolean)
  returns void
  language sql
  volatile
as $$
  update app_public.notifications n
  set mail_error = left(error, 1000), mail_state = case when for_good then 'FAILED' else n.mail_state end
  where n.id = notification_id and n.mail_state = 'QUEUED'
$$;
comment on function app_private.mail_failed(uuid, text, boolean) is
  'An attempt has failed, and will not be repeated if for good: the server has refused the mail by a 5xx (RFC 5321, 4.2.1).';

-- For admins ---------------------------------------------------------------------------------------------------------

create or replace view app_public.undelivered_mails with (security_barrier = true) as
  select n.id, n.recipient_id, n.kind, n.request_id, n.mail_attempts as attempts, n.mail_error as error, n.created_at
  from app_public.notifications n
  join (select app_hidden.has_permission('mail.manage') as manages_mail offset 0) caller on caller.manages_mail
  where n.mail_state = 'FAILED';
comment on view app_public.undelivered_mails is
  E'@primaryKey id\n@foreignKey (recipient_id) references app_public.users (id)\n@foreignKey (request_id) references app_public.requests (id)\n@behavior -filterBy -condition:attribute:filterBy -resource:aggregates -resource:groupedAggregates\n@defaultOrderBy CREATED_AT_DESC\nMails that will not be sent, for admins.';
comment on column app_public.undelivered_mails.id is 'The notification''s id.';
comment on column app_public.undelivered_mails.recipient_id is E'@notNull\n@behavior -orderBy\nTo whom.';
comment on column app_public.undelivered_mails.kind is E'@notNull\n@behavior -orderBy\nOf what, as in Notification.';
comment on column app_public.undelivered_mails.request_id is E'@behavior -orderBy\nThe request it is about.';
comment on column app_public.undelivered_mails.attempts is E'@notNull\n@behavior -orderBy\nHow often it was tried.';
comment on column app_public.undelivered_mails.error is E'@behavior -orderBy\nWhat the SMTP server said.';
comment on column app_public.undelivered_mails.created_at is E'@notNull\nWhen it was queued.';

create or replace function app_public.resend_mail(notification_id uuid)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_notification app_public.notifications;
begin
  perform app_private.require_session();
  -- For who has not the permission there is none.
  update app_public.notifications n set mail_state = 'QUEUED'
  where n.id = notification_id and n.mail_state = 'FAILED' and app_hidden.has_permission('mail.manage')
  returning * into v_notification;
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such undelivered mail.';
  end if;
  insert into app_public.audit_logs (actor_id, action, user_id, metadata, ip_address)
  values (
    app_hidden.current_user_id(),
    'MAIL_RESEND',
    v_notification.recipient_id,
    jsonb_build_object('notification_id', v_notification.id, 'kind', v_notification.kind),
    app_private.current_ip()
  );
end
$$;
comment on function app_public.resend_mail(uuid) is 'Tries again to send a mail that had failed, for admins. NOT_FOUND: there is none of that id.';
grant execute on function app_public.resend_mail(uuid) to assent_user, assent_manager, assent_admin;
--! EndIncluded mail.sql
--! Included webhooks.sql
-- Webhooks: programs that are told. An admin registers a URL and the events it is told of; each event becomes one delivery for
-- each webhook, by a job of its own, signed as Standard Webhooks 1.0 (standardwebhooks.com) says: server/webhooks.ts.

create table if not exists app_public.webhook_events (
  event text primary key,
  action text not null references app_public.audit_actions on update cascade on delete restrict,
  description text not null,
  constraint webhook_events_action_key unique (action)
);
comment on table app_public.webhook_events is E'@behavior -*\nWhat a webhook can be told of.';
comment on column app_public.webhook_events.event is 'The name of the event, as deliveries carry it.';
comment on column app_public.webhook_events.action is 'The action that it tells of.';
comment on column app_public.webhook_events.description is 'What has happened.';

insert into app_public.webhook_events (event, action, description) values
  ('request.submitted', 'SUBMIT',          'A request was submitted.'),
  ('request.assigned',  'ASSIGN',          'A submitted request was assigned.'),
  ('request.approved',  'APPROVE',         'A request was approved.'),
  ('request.rejected',  'REJECT',          'A request was rejected.'),
  ('user.created',      'USER_CREATE',     'A person was added.'),
  ('user.updated',      'USER_UPDATE',     'A person''s name or role was changed.'),
  ('user.deactivated',  'USER_DEACTIVATE', 'A person was deactivated.'),
  ('user.reactivated',  'USER_REACTIVATE', 'A person was reactivated.')
on conflict (event) do update
  set action = excluded.action, description = excluded.description
  where (webhook_events.*) is distinct from (excluded.*);

create table if not exists app_public.webhooks (
  id uuid primary key default app_private.uuid_v7(),
  url text not null,
  events text[] not null,
  signing_key text not null,
  is_enabled boolean not null default true,
  failing_since timestamptz,
  failed_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  constraint webhooks_url_length check (char_length(url) <= 2000),
  constraint webhooks_url_form check (url ~ '^https?://[^[:space:][:cntrl:]/?#@\\]+([/?#][^[:space:][:cntrl:]]*)?$'),
  constraint webhooks_events_check check (cardinality(events) > 0)
);
comment on table app_public.webhooks is E'@defaultOrderBy CREATED_AT_DESC\nA program that is told of events by signed POSTs (Standard Webhooks). For admins.';
comment on column app_public.webhooks.id is 'Time-ordered UUID (version 7).';
comment on column app_public.webhooks.url is E'@behavior -orderBy\nWhere it is told: http or https, without a user.';
comment on column app_public.webhooks.events is E'@behavior -orderBy -filterBy\nOf what: request.submitted, request.assigned, request.approved, request.rejected, user.created, user.updated, user.deactivated, user.reactivated.';
comment on column app_public.webhooks.signing_key is E'@behavior -orderBy -filterBy -condition:attribute:filterBy\nWhat its deliveries are signed with: "whsec_" and base64 of 256 random bits.';
comment on column app_public.webhooks.is_enabled is E'@behavior -orderBy\nOff: nothing is sent. After a week of failures it is switched off by itself.';
comment on column app_public.webhooks.failing_since is E'@behavior -orderBy\nThe first failure since the last success, or since nothing had failed for two days: so long no attempt waits for its next.';
comment on column app_public.webhooks.failed_at is E'@behavior -*\nThe last failure.';
comment on column app_public.webhooks.created_at is 'When it was registered.';
comment on constraint webhooks_url_length on app_public.webhooks is 'The URL must have at most 2,000 characters.';
comment on constraint webhooks_url_form on app_public.webhooks is 'The URL must begin with https:// or http://, and name no user.';
comment on constraint webhooks_events_check on app_public.webhooks is 'A webhook is told of one event at least.';
create index if not exists webhooks_created_at_idx on app_public.webhooks (created_at, id);

create table if not exists app_public.webhook_deliveries (
  id uuid primary key default app_private.uuid_v7(),
  webhook_id uuid not null references app_public.webhooks on delete cascade,
  audit_log_id uuid not null references app_public.audit_logs on delete restrict,
  event text not null,
  payload jsonb not null,
  state text not null default 'QUEUED',
  attempts integer not null default 0,
  response_status integer,
  error text,
  created_at timestamptz not null default clock_timestamp(),
  delivered_at timestamptz,
  constraint webhook_deliveries_event_key unique (webhook_id, audit_log_id),
  constraint webhook_deliveries_state_check check (state in ('QUEUED', 'DELIVERED', 'FAILED', 'CANCELLED')),
  constraint webhook_deliveries_delivered_at_check check ((delivered_at is not null) = (state = 'DELIVERED'))
);
comment on table app_public.webhook_deliveries is E'@defaultOrderBy CREATED_AT_DESC\nWhat a webhook was told: one row for each event.';
comment on column app_public.webhook_deliveries.id is 'Time-ordered UUID (version 7). The header webhook-id has it, the same at each attempt.';
comment on column app_public.webhook_deliveries.webhook_id is E'@behavior -orderBy\nWhich webhook.';
comment on column app_public.webhook_deliveries.audit_log_id is E'@behavior -orderBy\nThe audit entry of what happened.';
comment on column app_public.webhook_deliveries.event is E'@behavior -orderBy\nWhat happened.';
comment on column app_public.webhook_deliveries.payload is E'@behavior -orderBy -filterBy -condition:attribute:filterBy\nThe body: as things stood when it was queued.';
comment on column app_public.webhook_deliveries.state is E'@behavior -orderBy\nQUEUED: to be sent, or sent again. DELIVERED: answered by 2xx. FAILED: given up. CANCELLED: the webhook was off.';
comment on column app_public.webhook_deliveries.attempts is E'@behavior -orderBy -filterBy -condition:attribute:filterBy\nHow often it was sent.';
comment on column app_public.webhook_deliveries.response_status is E'@behavior -orderBy -filterBy -condition:attribute:filterBy\nThe HTTP status of the last answer.';
comment on column app_public.webhook_deliveries.error is E'@behavior -orderBy -filterBy -condition:attribute:filterBy\nWhy the last attempt failed.';
comment on column app_public.webhook_deliveries.created_at is 'When it was queued.';
comment on column app_public.webhook_deliveries.delivered_at is E'@behavior -orderBy -filterBy -condition:attribute:filterBy\nWhen it was answered by 2xx.';
comment on constraint webhook_deliveries_event_key on app_public.webhook_deliveries is '@behavior -*';
comment on constraint webhook_deliveries_state_check on app_public.webhook_deliveries is 'There is no such state of a delivery.';
comment on constraint webhook_deliveries_delivered_at_check on app_public.webhook_deliveries is 'What is delivered was delivered at some time.';
create index if not exists webhook_deliveries_created_at_idx on app_public.webhook_deliveries (created_at, id);
create index if not exists webhook_deliveries_webhook_id_idx on app_public.webhook_deliveries (webhook_id, created_at, id);
create index if not exists webhook_deliveries_audit_log_id_idx on app_public.webhook_deliveries (audit_log_id);

-- Telling them -------------------------------------------------------------------------------------------------------

create or replace function app_private.webhook_payload(entry app_public.audit_logs, event text)
  returns jsonb
  language sql
  stable
as $$
  select jsonb_build_object(
    'type', event,
    'timestamp', entry."timestamp",
    'data', jsonb_build_object(
      'audit_log_id', entry.id,
      'metadata', entry.metadata,
      'actor', (select to_jsonb(p) from app_private.people p where p.id = entry.actor_id)
    ) || case
      when entry.request_id is not null then jsonb_build_object('request', (
        select jsonb_build_object(
          'id', r.id, 'title', r.title, 'status', r.status, 'version', r.version,
          'creator', (select to_jsonb(p) from app_private.people p where p.id = r.creator_id),
          'assigned_to', (select to_jsonb(p) from app_private.people p where p.id = r.assigned_to_id),
          'reviewed_by', (select to_jsonb(p) from app_private.people p where p.id = r.reviewed_by_id),
          'reviewed_at', r.reviewed_at, 'review_comment', r.review_comment, 'submitted_at', r.submitted_at)
        from app_public.requests r where r.id = entry.request_id))
      else jsonb_build_object('user', (
        select jsonb_build_object('id', u.id, 'name', u.name, 'role', u.role, 'is_deleted', u.is_deleted)
        from app_public.users u where u.id = entry.user_id))
    end
  )
$$;
comment on function app_private.webhook_payload(app_public.audit_logs, text) is
  'What a webhook is told: the type, the time, what has changed, and what it is about as that is now, as Standard Webhooks recommends. No address of anybody.';

create or replace function app_private.queue_deliveries(entry app_public.audit_logs)
  returns void
  language sql
  volatile
as $$
  insert into app_public.webhook_deliveries (webhook_id, audit_log_id, event, payload)
  select w.id, entry.id, e.event, app_private.webhook_payload(entry, e.event)
  from app_public.webhook_events e
  join app_public.webhooks w on w.is_enabled and e.event = any (w.events)
  where e.action = entry.action
  order by w.id
  on conflict on constraint webhook_deliveries_event_key do nothing
$$;
comment on function app_private.queue_deliveries(app_public.audit_logs) is
  'One delivery for each webhook that is told of the action. Run twice, it does nothing the second time.';

create or replace function app_private.tg_webhook_deliveries__deliver()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  -- Under no key: the job of the attempt before may be there yet, and nobody tries again by that. After those of webhooks that
  -- do answer, if this one does not.
  perform graphile_worker.add_job('deliver_webhook', json_build_object('id', new.id),
    priority => case when exists (select from app_public.webhooks w where w.id = new.webhook_id and w.failing_since is not null) then 1 else 0 end);
  return null;
end
$$;
comment on function app_private.tg_webhook_deliveries__deliver() is 'Adds the job that sends a delivery, in the transaction that queues it.';

create or replace trigger _500_deliver
  after insert on app_public.webhook_deliveries
  for each row when (new.state = 'QUEUED')
  execute function app_private.tg_webhook_deliveries__deliver();
create or replace trigger _510_deliver
  after update of state on app_public.webhook_deliveries
  for each row when (new.state = 'QUEUED' and old.state <> 'QUEUED')
  execute function app_private.tg_webhook_deliveries__deliver();

create or replace function app_private.delivery_lock(delivery_id uuid)
  returns bigint
  language sql
  immutable
as $$
  select hashtextextended('webhook ' || delivery_id, 0)
$$;
comment on function app_private.delivery_lock(uuid) is 'The advisory lock that a session holds while it sends a delivery; a worker''s death frees it.';

create or replace function app_private.begin_delivery(
  delivery_id uuid,
  out url text,
  out signing_key text,
  out body text
)
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if not pg_try_advisory_lock(app_private.delivery_lock(delivery_id)) then
    raise exception using errcode = 'lock_not_available', message = 'Another worker is sending this delivery.';
  end if;
  update app_public.webhook_deliveries d
  set state = 'CANCELLED'
  from app_public.webhooks w
  where d.id = delivery_id and d.state = 'QUEUED' and w.id = d.webhook_id and not w.is_enabled;
  update app_public.webhook_deliveries d
  set attempts = d.attempts + 1
  from app_public.webhooks w
  where d.id = delivery_id and d.state = 'QUEUED' and w.id = d.webhook_id
  returning w.url, w.signing_key, d.payload::text into begin_delivery.url, begin_delivery.signing_key, begin_delivery.body;
end
$$;
comment on function app_private.begin_delivery(uuid) is
  'What to send, where to and signed by what; nulls: it has been delivered, or its webhook is off or gone. The session keeps delivery_lock until it lets go of it; raises 55P03 while another has it.';

create or replace function app_private.delivery_done(delivery_id uuid, response_status integer)
  returns void
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  update app_public.webhook_deliveries d
  set state = 'DELIVERED', delivered_at = clock_timestamp(), error = null, response_status = delivery_done.response_status
  where d.id = delivery_id and d.state = 'QUEUED';
  update app_public.webhooks w
  set failing_since = null
  from app_public.webhook_deliveries d
  where d.id = delivery_id and w.id = d.webhook_id and w.failing_since is not null;
end
$$;
comment on function app_private.delivery_done(uuid, integer) is 'It was answered by 2xx.';

create or replace function app_private.delivery_failed(delivery_id uuid, response_status integer, error text, for_good boolean)
  returns void
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_webhook app_public.webhooks;
begin
  update app_public.webhook_deliveries d
  set response_status = delivery_failed.response_status, error = left(delivery_failed.error, 1000),
    state = case when for_good then 'FAILED' else d.state end
  where d.id = delivery_id and d.state = 'QUEUED';
  update app_public.webhooks w
  set failing_since = case when w.failed_at < now() - interval '2 days' then now() else coalesce(w.failing_since, now()) end,
    failed_at = now()
  from app_public.webhook_deliveries d
  where d.id = delivery_id and w.id = d.webhook_id
  returning w.* into v_webhook;
  if v_webhook.is_enabled and (v_webhook.failing_since < now() - interval '7 days' or delivery_failed.response_status = 410) then
    update app_public.webhooks w set is_enabled = false where w.id = v_webhook.id;
    perform app_private.audit_webhook('WEBHOOK_UPDATE', v_webhook, jsonb_build_object(
      'is_enabled', jsonb_build_object('old', true, 'new', false),
      'reason', case when delivery_failed.response_status = 410 then 'It answered 410 Gone.' else 'It had failed for a week.' end));
  end if;
end
$$;
comment on function app_private.delivery_failed(uuid, integer, text, boolean) is
  'An attempt has failed, and will not be repeated if for good. After a week without a success, and by 410 Gone (Standard Webhooks), the webhook is switched off.';

-- For admins ---------------------------------------------------------------------------------------------------------

-- For who has not the permission there is no webhook: NOT_FOUND. To register one is FORBIDDEN.

create or replace function app_private.origin(url text)
  returns text
  language sql
  immutable
as $$
  select substring(url from '^[a-z]+://[^/?#]+')
$$;
comment on function app_private.origin(text) is 'The scheme and the host of a URL. What follows them can be a secret, which the trail must never have.';

create or replace function app_private.audit_webhook(action text, webhook app_public.webhooks, details jsonb)
  returns void
  language sql
  volatile
as $$
  insert into app_public.audit_logs (actor_id, action, metadata, ip_address)
  values (
    app_hidden.current_user_id(),
    action,
    jsonb_build_object('webhook_id', webhook.id, 'origin', app_private.origin(webhook.url)) || details,
    app_private.current_ip()
  )
$$;
comment on function app_private.audit_webhook(text, app_public.webhooks, jsonb) is 'One entry for each change of a webhook, and for what is sent again; never its key.';

create or replace function app_private.tg_webhooks__check_events()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if exists (select from unnest(new.events) e where e is null or e not in (select w.event from app_public.webhook_events w)) then
    raise exception using errcode = 'RQ422', column = 'events',
      message = 'The events that there are: ' || (select string_agg(w.event, ', ' order by w.event) from app_public.webhook_events w) || '.';
  end if;
  return new;
end
$$;
comment on function app_private.tg_webhooks__check_events() is 'A webhook is told of events that there are. Raises RQ422.';

create or replace trigger _200_check_events
  before insert or update of events on app_public.webhooks
  for each row execute function app_private.tg_webhooks__check_events();

create or replace function app_public.create_webhook(url text, events text[])
  returns app_public.webhooks
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_webhook app_public.webhooks;
  v_constraint text;
  v_column text;
begin
  perform app_private.require_session();
  if not app_hidden.has_permission('webhook.manage') then
    raise exception using errcode = 'RQ403', message = 'You may not manage webhooks.';
  end if;
  insert into app_public.webhooks (url, events, signing_key)
  values (create_webhook.url, create_webhook.events, 'whsec_' || encode(app_private.gen_random_bytes(32), 'base64'))
  returning * into v_webhook;
  perform app_private.audit_webhook('WEBHOOK_CREATE', v_webhook, jsonb_build_object('events', to_jsonb(v_webhook.events)));
  return v_webhook;
exception
  when check_violation or not_null_violation then
    get stacked diagnostics v_constraint = constraint_name, v_column = column_name;
    perform app_private.raise_violation(v_constraint, v_column);
end
$$;
comment on function app_public.create_webhook(text, text[]) is
  'Registers a webhook, for admins; the answer has the key that its deliveries are signed with. VALIDATION_FAILED: no URL by http or https, or an event that there is not.';

create or replace function app_public.update_webhook(
  webhook_id uuid,
  url text default null,
  events text[] default null,
  is_enabled boolean default null
)
  returns app_public.webhooks
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_old app_public.webhooks;
  v_new app_public.webhooks;
  v_constraint text;
  v_column text;
begin
  perform app_private.require_session();
  select * into v_old from app_public.webhooks w
  where w.id = webhook_id and app_hidden.has_permission('webhook.manage')
  for no key update;
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such webhook.';
  end if;
  update app_public.webhooks w
  set url = coalesce(update_webhook.url, w.url),
    events = coalesce(update_webhook.events, w.events),
    is_enabled = coalesce(update_webhook.is_enabled, w.is_enabled),
    -- Switched on again, it has its week again.
    failing_since = case when update_webhook.is_enabled and not w.is_enabled then null else w.failing_since end
  where w.id = webhook_id
  returning * into v_new;
  if v_new is distinct from v_old then
    perform app_private.audit_webhook('WEBHOOK_UPDATE', v_new,
      app_private.changes(to_jsonb(v_old), to_jsonb(v_new)) - '{signing_key,url,failing_since,failed_at}'::text[]
      || case when v_new.url <> v_old.url then jsonb_build_object('old_origin', app_private.origin(v_old.url)) else '{}' end);
  end if;
  return v_new;
exception
  when check_violation or not_null_violation then
    get stacked diagnostics v_constraint = constraint_name, v_column = column_name;
    perform app_private.raise_violation(v_constraint, v_column);
end
$$;
comment on function app_public.update_webhook(uuid, text, text[], boolean) is
  'Changes a webhook, for admins, or switches it on or off; what is left out, or null, stays as it is.';

create or replace function app_public.delete_webhook(webhook_id uuid)
  returns app_public.webhooks
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_webhook app_public.webhooks;
begin
  perform app_private.require_session();
  delete from app_public.webhooks w
  where w.id = webhook_id and app_hidden.has_permission('webhook.manage')
  returning * into v_webhook;
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such webhook.';
  end if;
  perform app_private.audit_webhook('WEBHOOK_DELETE', v_webhook, '{}');
  return v_webhook;
end
$$;
comment on function app_public.delete_webhook(uuid) is 'Removes a webhook with the record of its deliveries, for admins.';

create or replace function app_public.resend_webhook_delivery(delivery_id uuid)
  returns app_public.webhook_deliveries
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_delivery app_public.webhook_deliveries;
begin
  perform app_private.require_session();
  select * into v_delivery from app_public.webhook_deliveries d
  where d.id = delivery_id and app_hidden.has_permission('webhook.manage')
  for no key update;
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such delivery.';
  end if;
  if not exists (select from app_public.webhooks w where w.id = v_delivery.webhook_id and w.is_enabled) then
    raise exception using errcode = 'RQ409', message = 'The webhook is off.';
  end if;
  if v_delivery.state <> 'QUEUED' then
    update app_public.webhook_deliveries d set state = 'QUEUED', delivered_at = null
    where d.id = delivery_id
    returning * into v_delivery;
    perform app_private.audit_webhook('WEBHOOK_RESEND', w, jsonb_build_object('delivery_id', delivery_id))
    from app_public.webhooks w where w.id = v_delivery.webhook_id;
  end if;
  return v_delivery;
end
$$;
comment on function app_public.resend_webhook_delivery(uuid) is
  'Sends a delivery again, for admins, whatever became of it; one that is queued stays so. INVALID_TRANSITION: its webhook is off.';

grant execute on function
  app_public.create_webhook(text, text[]), app_public.update_webhook(uuid, text, text[], boolean),
  app_public.delete_webhook(uuid), app_public.resend_webhook_delivery(uuid)
  to assent_user, assent_manager, assent_admin;
--! EndIncluded webhooks.sql
--! Included schedule.sql
-- What comes by time: reminders, digests, and what is cleared away. graphile-worker's cron (server/worker.ts) calls each; all may
-- be called twice, or late.

create or replace function app_private.remind()
  returns void
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  insert into app_public.notifications (recipient_id, kind, event, request_id, mail_state)
  select p.user_id, 'REMINDER', due.event, due.request_id, app_private.mail_state_for(p.user_id, 'REMINDER')
  from (
    select r.id as request_id,
      format('reminder %s of %s since %s', floor(extract(epoch from now() - asked.at) / extract(epoch from interval '2 days')), r.id, extract(epoch from asked.at)) as event
    from app_public.requests r
    cross join lateral (
      -- Whoever was given it last has had it from then on.
      select coalesce(
        (select max(a."timestamp") from app_public.audit_logs a where a.request_id = r.id and a.action = 'ASSIGN'),
        r.submitted_at) as at
    ) asked
    -- As requests_waiting_idx has it: as much as waits, however much has been decided.
    where coalesce(r.submitted_at, '9999-12-31Z') <= now() - interval '2 days'
      and r.submitted_at is not null and r.reviewed_at is null and not r.is_deleted
      and asked.at <= now() - interval '2 days'
  ) due
  cross join lateral app_private.people_to_ask(due.request_id) p
  where not exists (select from app_public.notifications n where n.event = due.event)
  order by due.request_id, p.user_id
  on conflict on constraint notifications_event_key do nothing;
end
$$;
comment on function app_private.remind() is
  'Reminds those who are to decide of what has waited for 2 days since it was submitted or last assigned, and again every 2 days. Nobody is reminded twice of the same 2 days, and only of the latest if it comes late.';

create or replace function app_private.make_digests(for_day date)
  returns void
  language plpgsql
  volatile
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
  'Queues a mail for everybody who has something to decide, or news that they want in digests: one a day and person.';

create or replace function app_private.clear_away()
  returns void
  language sql
  volatile
as $$
  delete from app_private.sessions s where s.expires_at < now();
  delete from app_private.idempotency_keys k where k.created_at < now() - interval '24 hours';
  delete from app_private.password_resets r where r.expires_at < now();
  select graphile_worker.complete_jobs(array(
    select j.id from graphile_worker.jobs j
    where j.attempts >= j.max_attempts and j.locked_at is null and j.updated_at < now() - interval '30 days'));
$$;
comment on function app_private.clear_away() is
  'Deletes sessions, keys and links that have expired, and jobs that were given up 30 days ago.';
--! EndIncluded schedule.sql
--! Included jobs.sql
-- The queue, as operators and DBAs see it. graphile-worker owns its tables, and may change them in a next version: functions look
-- at them, whose bodies bind nothing.

create or replace function app_private.failing_jobs()
  returns table (id bigint, task text, attempts integer, max_attempts integer, next_try timestamptz, error text, created_at timestamptz)
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  return query
  select j.id, j.task_identifier, j.attempts::integer, j.max_attempts::integer,
    case when j.attempts < j.max_attempts then j.run_at end, j.last_error, j.created_at
  from graphile_worker.jobs j
  where j.last_error is not null;
end
$$;
comment on function app_private.failing_jobs() is 'Jobs whose last attempt has failed.';
revoke execute on function app_private.failing_jobs() from public;

create or replace function app_hidden.count_jobs()
  returns table (task text, state text, count bigint)
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  return query
  select j.task_identifier, s.state, count(*)
  from (select * from graphile_worker.jobs limit 100000) j
  cross join lateral (
    select case
      when j.attempts >= j.max_attempts and j.locked_at is null then 'given up'
      when j.locked_at is not null then 'running'
      when j.attempts > 0 then 'failing'
      when j.run_at > now() then 'scheduled'
      else 'waiting'
    end as state
  ) s
  group by 1, 2
  union all
  select 'send_mail', 'refused', count(*) from app_public.notifications n where n.mail_state = 'FAILED';
end
$$;
comment on function app_hidden.count_jobs() is
  'How many jobs of each task are waiting, scheduled, running, failing (to be tried again) or given up, as far as 100,000; and how many mails were refused for good. For /metrics.';
grant execute on function app_hidden.count_jobs() to :DATABASE_AUTHENTICATOR;
--! EndIncluded jobs.sql
--! Included live.sql
-- Live news: what has changed is announced by NOTIFY, as ids alone and by person, because NOTIFY knows no row-level security;
-- the server's subscribers read it as whom they are (server/live.ts). One channel, "assent", whose payloads are
--
--   request <id>                    the request has changed
--   inbox <user id>                 what awaits this person's decision has changed
--   notification <user id> <id>     this person was told something
--   session <id>                    the session has ended

create or replace function app_private.tg_requests__announce()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  perform pg_notify('assent', 'request ' || new.id);
  return null;
end
$$;
comment on function app_private.tg_requests__announce() is 'Announces that a request has changed. Of a new one nobody knows the id yet.';

create or replace trigger _950_announce
  after update on app_public.requests
  for each row execute function app_private.tg_requests__announce();

create or replace function app_private.tg_notifications__announce()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if exists (select from app_public.notification_kinds k where k.kind = new.kind and k.is_shown) then
    perform pg_notify('assent', format('notification %s %s', new.recipient_id, new.id));
  end if;
  return null;
end
$$;
comment on function app_private.tg_notifications__announce() is 'Announces a new notification to its recipient.';

create or replace trigger _950_announce
  after insert on app_public.notifications
  for each row execute function app_private.tg_notifications__announce();

create or replace function app_private.tg_sessions__announce()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  perform pg_notify('assent', 'session ' || new.id);
  return null;
end
$$;
comment on function app_private.tg_sessions__announce() is 'Announces the end of a session, so that what is open under it is closed.';

create or replace trigger _950_announce
  after update of revoked_at on app_private.sessions
  for each row when (old.revoked_at is null and new.revoked_at is not null)
  execute function app_private.tg_sessions__announce();

create or replace function app_private.announce_inboxes(entry app_public.audit_logs)
  returns void
  language sql
  volatile
as $$
  -- Whoever could decide it before or can now: under its assignee then, and under that of today.
  select pg_notify('assent', 'inbox ' || d.user_id)
  from app_public.requests r
  cross join lateral (select distinct a.id from unnest(array[r.assigned_to_id, case when entry.action = 'ASSIGN' then (entry.metadata -> 'assigned_to_id' ->> 'old')::uuid else r.assigned_to_id end]) a (id)) assigned
  left join app_hidden.deciders assignee on assignee.user_id = assigned.id
  join app_hidden.deciders d on app_hidden.can_decide(r.creator_id, assignee.user_id, d.user_id, d.decides_any)
  where r.id = entry.request_id and entry.action in ('SUBMIT', 'APPROVE', 'REJECT', 'ASSIGN');
  -- Who comes to decide, or ceases to; and everybody, if what is assigned to them falls to all thereby, or is theirs again.
  select pg_notify('assent', 'inbox ' || d.user_id)
  from (
    select entry.user_id
    union
    select d.user_id from app_hidden.deciders d
    where exists (select from app_public.requests r
      where r.assigned_to_id = entry.user_id and r.submitted_at is not null and r.reviewed_at is null)
  ) d
  where entry.action in ('USER_DEACTIVATE', 'USER_REACTIVATE') or (entry.action = 'USER_UPDATE' and entry.metadata ? 'role')
$$;
comment on function app_private.announce_inboxes(app_public.audit_logs) is 'Announces to everybody whose inbox an action has changed that it has.';

create or replace function app_hidden.my_session()
  returns table (session_id uuid, user_id uuid)
  language sql
  stable
  security definer
  rows 1
  set search_path to pg_catalog, pg_temp
as $$
  select c.session_id, c.user_id from app_private.caller() c
$$;
comment on function app_hidden.my_session() is 'The session and the person that announcements name; no row for nobody.';
grant execute on function app_hidden.my_session() to assent_user, assent_manager, assent_admin;
--! EndIncluded live.sql
--! Included policies.sql
-- Who sees which rows: row-level security on every table, and the grants that open it. Nobody but the owner's
-- functions writes, so that no role has any grant to insert, update or delete.
--
-- One policy for each database role: the planner then gets a plain condition that an index can serve, where one policy
-- for all would hide it behind an OR. The caller's identity stands in a sub-select, so that it runs once a statement.
-- In each, the identity also proves the role (identity.sql): who merely sets a role sees nothing.

do $$
declare
  v_table regclass;
begin
  for v_table in
    select c.oid from pg_class c
    where c.relkind in ('r', 'p') and c.relnamespace in ('app_public'::regnamespace, 'app_private'::regnamespace)
  loop
    execute format('alter table %s enable row level security', v_table);
    -- FORCE binds the owner too, and so the functions that run as the owner; they need a policy to do their work.
    execute format('alter table %s force row level security', v_table);
    execute format('drop policy if exists owner_all on %s', v_table);
    execute format('create policy owner_all on %s to %I using (true) with check (true)', v_table, current_user);
  end loop;
end
$$;
-- But for requests, which owner_all lets the owner see anyhow: forced, the planner would not look at the statistics of what
-- is searched for (db/search.sql), because the operator for it is not leakproof.
alter table app_public.requests no force row level security;

-- Reference tables: the rules are no secret ------------------------------------------------------------------------

do $$
declare
  v_table text;
begin
  foreach v_table in array array[
    'roles', 'role_permissions', 'request_statuses', 'request_parties', 'request_transitions', 'audit_actions',
    'notification_kinds', 'webhook_events'
  ] loop
    execute format('drop policy if exists everybody_select on app_public.%I', v_table);
    execute format('create policy everybody_select on app_public.%I for select to public using (true)', v_table);
    -- The login role reads them for the GraphQL schema's enums.
    execute format('grant select on app_public.%I to assent_anonymous, assent_user, assent_manager, assent_admin,
      assent_auditor, :DATABASE_AUTHENTICATOR', v_table);
  end loop;
end
$$;
grant select on app_hidden.effective_permissions
  to assent_anonymous, assent_user, assent_manager, assent_admin, assent_auditor;

-- Requests ---------------------------------------------------------------------------------------------------------

drop policy if exists user_select on app_public.requests;
create policy user_select on app_public.requests for select to assent_user
  using (creator_id = (select app_hidden.current_user_id()) and not is_deleted);

drop policy if exists manager_select on app_public.requests;
create policy manager_select on app_public.requests for select to assent_manager
  using (
    not is_deleted
    and (creator_id = (select app_hidden.current_user_id())
      or (status <> 'DRAFT' and (select app_hidden.has_permission('request.read'))))
  );

drop policy if exists admin_select on app_public.requests;
create policy admin_select on app_public.requests for select to assent_admin
  using ((select app_hidden.has_permission('request.read_all')));

drop policy if exists auditor_select on app_public.requests;
create policy auditor_select on app_public.requests for select to assent_auditor using (true);

grant select on app_public.requests to assent_user, assent_manager, assent_admin, assent_auditor;

-- The audit trail --------------------------------------------------------------------------------------------------

drop policy if exists user_select on app_public.audit_logs;
create policy user_select on app_public.audit_logs for select to assent_user
  using (
    request_creator_id = (select app_hidden.current_user_id())
    or actor_id = (select app_hidden.current_user_id())
  );

drop policy if exists manager_select on app_public.audit_logs;
create policy manager_select on app_public.audit_logs for select to assent_manager
  using (
    actor_id = (select app_hidden.current_user_id())
    -- "Of requests they can see": the policy on requests decides, once more as the caller. OFFSET 0 keeps it a look-up
    -- by primary key for each entry; without it the planner hashes all requests there are for a page of 20 entries.
    or exists (select from app_public.requests r where r.id = request_id offset 0)
  );

drop policy if exists admin_select on app_public.audit_logs;
create policy admin_select on app_public.audit_logs for select to assent_admin
  using ((select app_hidden.has_permission('audit.read_all')));

drop policy if exists auditor_select on app_public.audit_logs;
create policy auditor_select on app_public.audit_logs for select to assent_auditor using (true);

grant select on app_public.audit_logs to assent_user, assent_manager, assent_admin, assent_auditor;

-- People -----------------------------------------------------------------------------------------------------------

create or replace function app_hidden.people_on_my_requests()
  returns uuid[]
  language sql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  -- Each is looked up as the next after the one before (a loose index scan): it costs as much as there are people, and not
  -- as there are requests.
  with recursive me as materialized (
    select app_hidden.current_user_id() as id
  ),
  assignees as (
    (select r.assigned_to_id as id from me, app_public.requests r
      where r.creator_id = me.id and not r.is_deleted order by r.assigned_to_id limit 1)
    union all
    select (select r.assigned_to_id from app_public.requests r
      where r.creator_id = me.id and not r.is_deleted and r.assigned_to_id > last.id order by r.assigned_to_id limit 1)
    from me, assignees last where last.id is not null
  ),
  actors as (
    (select l.actor_id as id from me, app_public.audit_logs l where l.request_creator_id = me.id order by l.actor_id limit 1)
    union all
    select (select l.actor_id from app_public.audit_logs l
      where l.request_creator_id = me.id and l.actor_id > last.id order by l.actor_id limit 1)
    from me, actors last where last.id is not null
  )
  select array(select a.id from assignees a where a.id is not null union select a.id from actors a where a.id is not null)
$$;
comment on function app_hidden.people_on_my_requests() is
  'Whoever was assigned, or did anything to, a request of the caller: deciders too, by their audit entry.';
grant execute on function app_hidden.people_on_my_requests() to assent_user;

-- An array in a sub-select, not a join: it is computed once, and = any (array) reaches the primary key.
drop policy if exists user_select on app_public.users;
create policy user_select on app_public.users for select to assent_user
  using (
    id = (select app_hidden.current_user_id())
    or ((select app_hidden.current_user_id()) is not null and id = any (array(select d.user_id from app_hidden.deciders d)))
    or id = any ((select app_hidden.people_on_my_requests())::uuid[])
  );

drop policy if exists manager_select on app_public.users;
create policy manager_select on app_public.users for select to assent_manager
  using (
    (select app_hidden.has_permission('request.read'))
    and (not is_deleted
      -- Deactivated people stay visible on what they did, as far as the caller can see it. OFFSET 0: as above.
      or exists (select from app_public.requests r where r.creator_id = users.id offset 0)
      or exists (select from app_public.requests r where r.assigned_to_id = users.id offset 0)
      or exists (select from app_public.audit_logs a where a.actor_id = users.id offset 0))
  );

drop policy if exists admin_select on app_public.users;
create policy admin_select on app_public.users for select to assent_admin
  using ((select app_hidden.has_permission('user.manage')));

drop policy if exists auditor_select on app_public.users;
create policy auditor_select on app_public.users for select to assent_auditor using (true);

grant select on app_public.users to assent_user, assent_manager, assent_admin, assent_auditor;

-- Notifications: one's own, whoever one is ----------------------------------------------------------------------------

do $$
declare
  v_role name;
begin
  foreach v_role in array array['assent_user', 'assent_manager', 'assent_admin'] loop
    execute format('drop policy if exists %I on app_public.notifications', replace(v_role, 'assent_', '') || '_select');
    execute format('create policy %I on app_public.notifications for select to %I
      using (recipient_id = (select app_hidden.current_user_id())
        and kind = any (array(select k.kind from app_public.notification_kinds k where k.is_shown)))',
      replace(v_role, 'assent_', '') || '_select', v_role);
  end loop;
end
$$;
drop policy if exists auditor_select on app_public.notifications;
create policy auditor_select on app_public.notifications for select to assent_auditor using (true);

grant select on app_public.notifications to assent_user, assent_manager, assent_admin, assent_auditor;
grant select on app_public.notification_preferences to assent_user, assent_manager, assent_admin;
grant select on app_public.undelivered_mails to assent_user, assent_manager, assent_admin;

-- Webhooks ---------------------------------------------------------------------------------------------------------

drop policy if exists admin_select on app_public.webhooks;
create policy admin_select on app_public.webhooks for select to assent_admin
  using ((select app_hidden.has_permission('webhook.manage')));
drop policy if exists auditor_select on app_public.webhooks;
create policy auditor_select on app_public.webhooks for select to assent_auditor using (true);
drop policy if exists admin_select on app_public.webhook_deliveries;
create policy admin_select on app_public.webhook_deliveries for select to assent_admin
  using ((select app_hidden.has_permission('webhook.manage')));
drop policy if exists auditor_select on app_public.webhook_deliveries;
create policy auditor_select on app_public.webhook_deliveries for select to assent_auditor using (true);

grant select on app_public.webhooks, app_public.webhook_deliveries to assent_user, assent_manager, assent_admin;
-- Who reads evidence need not be able to sign.
grant select (id, url, events, is_enabled, failing_since, created_at) on app_public.webhooks to assent_auditor;
grant select on app_public.webhook_deliveries to assent_auditor;

-- Derived from the above, as the caller.
grant select on app_hidden.deciders, app_hidden.request_deciders to assent_user, assent_manager, assent_admin, assent_auditor;
--! EndIncluded policies.sql
--! Included audit_views.sql
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

create or replace view audit.mails as
  select n.created_at, n.kind, n.recipient_id, p.name as recipient_name, c.email as recipient_email, n.request_id,
    n.mail_state as state, n.mail_attempts as attempts, n.mail_message_id as message_id, n.mail_error as error, n.mailed_at, n.id as notification_id
  from app_public.notifications n
  join app_public.users p on p.id = n.recipient_id
  left join app_private.credentials c on c.user_id = n.recipient_id;
comment on view audit.mails is
  'Who was told of what, and what became of the mail: select * from audit.mails where recipient_email = … order by created_at.';

create or replace view audit.failing_jobs as
  select j.* from app_private.failing_jobs() j;
comment on view audit.failing_jobs is
  'Jobs whose last attempt has failed: select * from audit.failing_jobs order by attempts desc. next_try null: given up. Zero rows when all is well.';

grant select on audit.mails, audit.failing_jobs to assent_auditor;
grant execute on function app_private.failing_jobs() to assent_auditor;
--! EndIncluded audit_views.sql
