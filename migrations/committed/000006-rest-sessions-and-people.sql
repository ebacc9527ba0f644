--! Previous: sha1:fb907cd2ec00809d800bc0253c9c2b574ad81eb3
--! Hash: sha1:07f2297ecd6eee4a6a757a5215752c553bc6cde9
--! Message: REST, sessions and people

-- REST, sessions and people.
alter table app_private.sessions
  -- A session by cookie has none. No client reads the table.
  -- squawk-ignore ban-drop-not-null
  alter column refresh_hash drop not null,
  add column if not exists last_used_at timestamptz not null default now(),
  add column if not exists ip_address inet,
  add column if not exists user_agent text;
drop function if exists app_hidden.finish_login(uuid, text, text);
revoke execute on function app_hidden.begin_login(text) from :DATABASE_AUTHENTICATOR;

--! Included schemas.sql
-- Where things live, and the default that nobody may execute anything.

create schema if not exists app_public;
comment on schema app_public is 'The API: every table, column and function in it that a role is granted is in the GraphQL schema.';
create schema if not exists app_hidden;
comment on schema app_hidden is 'What policies and API functions call as the caller; granted to roles, not part of the API.';
create schema if not exists app_private;
comment on schema app_private is 'Secrets and the owner''s own functions; no caller may enter it.';
create schema if not exists audit;
comment on schema audit is 'Views for DBAs and auditors: who did what, and does it all agree.';

revoke all on schema public from public;
grant usage on schema app_public, app_hidden
  to assent_anonymous, assent_user, assent_manager, assent_admin, assent_auditor, :DATABASE_AUTHENTICATOR;
grant usage on schema audit to assent_auditor;

-- PostgreSQL lets everybody execute a new function; here each grant is spelt out beside its function.
alter default privileges revoke execute on functions from public;

-- crypt() and gen_random_bytes(). A trusted extension: the owner of the database may install it.
create extension if not exists pgcrypto with schema app_private;
-- Trigrams, so that a search for a part of a word has an index. Trusted too.
create extension if not exists pg_trgm with schema app_private;

create or replace function app_private.is_blank(value text)
  returns boolean
  language sql
  immutable
as $$
  select value !~ U&'[^\0009-\000D\0020\0085\00A0\1680\2000-\200B\2028\2029\202F\205F\2060\3000\FEFF]'
$$;
comment on function app_private.is_blank(text) is
  'Is there nothing to be seen? Unicode''s white space and zero-width characters, spelt out, so that no locale decides.';

-- One wrapper for all keys, so that column defaults read the same on every version of PostgreSQL.
create or replace function app_private.uuid_v7()
  returns uuid
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  -- PL/pgSQL parses an expression when it is first reached, so that 15 to 17 never look for uuidv7().
  if current_setting('server_version_num')::integer >= 180000 then
    return pg_catalog.uuidv7();
  end if;
  -- 48 bits of Unix milliseconds over a random UUID, then version 7 in bits 48 to 51; version 4 left 0100 there.
  return encode(
    set_bit(set_bit(
      overlay(
        uuid_send(gen_random_uuid())
        placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
        from 1 for 6),
      52, 1), 53, 1),
    'hex')::uuid;
end
$$;
comment on function app_private.uuid_v7() is
  'A time-ordered UUID, version 7 (RFC 9562, 5.7): inserts into a big table stay in its newest index pages.';
--! EndIncluded schemas.sql
--! Included users.sql
-- People. What others may see of them is in app_public; the address and the password they log in with are not.

create table if not exists app_public.users (
  id uuid primary key default app_private.uuid_v7(),
  name text not null,
  role text not null default 'USER' references app_public.roles on update cascade on delete restrict,
  is_deleted boolean not null default false,
  created_at timestamptz not null default clock_timestamp(),
  constraint users_name_check check (char_length(name) <= 200 and not app_private.is_blank(name))
);
comment on table app_public.users is E'@defaultOrderBy CREATED_AT_DESC\nA person. People are never removed, only deactivated: what they did must keep their name.';
comment on column app_public.users.id is 'Time-ordered UUID (version 7).';
comment on column app_public.users.name is 'What others call the person; 1 to 200 characters.';
comment on column app_public.users.role is 'What the person may do, by the permissions of the role.';
comment on column app_public.users.is_deleted is 'Deactivated: may no longer log in, and every session of theirs is dead.';
comment on column app_public.users.created_at is 'When the account was created.';
comment on constraint users_role_fkey on app_public.users is 'There is no such role.';
comment on constraint users_name_check on app_public.users is 'The name must have 1 to 200 characters, and not blanks alone.';

create index if not exists users_role_idx on app_public.users (role, is_deleted);
create index if not exists users_created_at_idx on app_public.users (created_at, id);

create table if not exists app_private.credentials (
  user_id uuid primary key references app_public.users on delete cascade,
  email text not null,
  password_hash text not null,
  constraint credentials_email_check check (char_length(email) <= 254 and email ~ '^[^[:space:][:cntrl:]@]+@[^[:space:][:cntrl:]@]+$')
);
comment on table app_private.credentials is 'What a person logs in with.';
comment on column app_private.credentials.user_id is 'Whose.';
comment on column app_private.credentials.email is 'The address as it was written; compared in lower case.';
comment on column app_private.credentials.password_hash is
  'bcrypt (pgcrypto''s crypt) of the password''s digest, see app_private.hash_password.';
comment on constraint credentials_email_check on app_private.credentials is 'This is not an email address.';
create unique index if not exists credentials_email_key on app_private.credentials (lower(email));

-- The server sends a digest and not the password: a failing or slow statement can put its parameters into
-- PostgreSQL's log, and bcrypt ignores what follows byte 72. The prefix keeps digests of leaked lists from matching.
create or replace function app_private.password_digest(password text)
  returns text
  language sql
  immutable
as $$
  select encode(sha256(convert_to('assent:' || password, 'UTF8')), 'base64')
$$;
comment on function app_private.password_digest(text) is
  'The digest that stands for a password on its way to the database: base64(SHA-256("assent:" || password)).';

create or replace function app_private.hash_password(password_digest text)
  returns text
  language sql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
  select app_private.crypt(password_digest, app_private.gen_salt('bf', 10))
$$;
comment on function app_private.hash_password(text) is
  'bcrypt at cost 10 (OWASP Password Storage Cheat Sheet: 10 or more) of a digest by app_private.password_digest.';

create or replace function app_private.register_user(email text, name text, role text, password_digest text)
  returns app_public.users
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_user app_public.users;
  v_constraint text;
  v_column text;
begin
  insert into app_public.users (name, role) values (register_user.name, register_user.role) returning * into v_user;
  insert into app_private.credentials (user_id, email, password_hash)
  values (v_user.id, register_user.email, app_private.hash_password(register_user.password_digest));
  return v_user;
exception
  when unique_violation then
    raise exception using errcode = 'RQ422', column = 'email', message = 'This email address is taken.';
  when check_violation or not_null_violation or foreign_key_violation then
    get stacked diagnostics v_constraint = constraint_name, v_column = column_name;
    perform app_private.raise_violation(v_constraint, v_column);
end
$$;
comment on function app_private.register_user(text, text, text, text) is
  'Adds a person and what they log in with. The audit trail gets USER_CREATE by trigger. Raises RQ422: an address that is none or taken in any letter case, also by somebody deactivated, a blank name, an unknown role.';
--! EndIncluded users.sql
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
--! Included identity.sql
-- Who is asking. A transaction says it by three settings, sent in one statement before anything else:
--
--   select set_config('assent.session', $1, true),                    -- the session's secret, '' when there is none
--          set_config('assent.ip', $2, true),                         -- the address, '' when unknown
--          set_config('role', app_hidden.authenticate($1), true)      -- the database role of that person
--
-- Setting them by hand makes nobody somebody: the secret is unguessable and looked up by its hash, and
-- current_user_id() answers only while the role in force is the one that the person behind the secret has now.

create or replace function app_private.live_session(secret text)
  returns table (session_id uuid, user_id uuid, role text, database_role name)
  language sql
  stable
  rows 1
as $$
  select s.id, u.id, r.role, r.database_role
  from app_private.sessions s
  join app_public.users u on u.id = s.user_id
  join app_public.roles r on r.role = u.role
  where s.secret_hash = app_private.hash_secret(secret)
    and app_private.is_live(s)
    and not u.is_deleted
$$;
comment on function app_private.live_session(text) is
  'The session that a secret opens, if it is live and of an active person. The one definition of it.';

create or replace function app_hidden.authenticate(secret text)
  returns name
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_role name;
begin
  if coalesce(secret, '') = '' then
    return 'assent_anonymous';
  end if;
  select l.database_role into v_role from app_private.live_session(secret) l;
  if v_role is null and secret like 'cookie:%' then
    return 'assent_anonymous';
  elsif v_role is null then
    raise exception using errcode = 'RQ401', message = 'Valid credentials are required.';
  end if;
  return v_role;
end
$$;
comment on function app_hidden.authenticate(text) is
  'The database role for a session''s secret: assent_anonymous for none, RQ401 for one that is dead or unknown. A browser sends its cookie unasked: a dead one counts as none.';
grant execute on function app_hidden.authenticate(text) to :DATABASE_AUTHENTICATOR;

create or replace function app_private.require_session()
  returns uuid
  language plpgsql
  stable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_user_id uuid;
begin
  select l.user_id into v_user_id from app_private.live_session(current_setting('assent.session', true)) l;
  if v_user_id is null then
    raise exception using errcode = 'RQ401', message = 'Valid credentials are required.';
  end if;
  return v_user_id;
end
$$;
comment on function app_private.require_session() is
  'Whose session it is, also when their role has changed since the transaction began. Raises RQ401 without a live one.';

create or replace function app_private.caller()
  returns table (session_id uuid, user_id uuid, role text)
  language sql
  stable
  rows 1
as $$
  select l.session_id, l.user_id, l.role
  from app_private.live_session(current_setting('assent.session', true)) l
  where l.database_role = current_setting('role')
$$;
comment on function app_private.caller() is
  'Who is asking: no row without a live session, and none while the database role in force is not that person''s own.';

create or replace function app_hidden.current_user_id()
  returns uuid
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_user_id uuid;
begin
  select c.user_id into v_user_id from app_private.caller() c;
  return v_user_id;
end
$$;
comment on function app_hidden.current_user_id() is
  'The id of app_private.caller(), or null. Policies call it as (select app_hidden.current_user_id()), once a statement and not once a row.';
grant execute on function app_hidden.current_user_id() to assent_anonymous, assent_user, assent_manager, assent_admin;

create or replace function app_private.current_ip()
  returns inet
  language sql
  stable
as $$
  select nullif(current_setting('assent.ip', true), '')::inet
$$;
comment on function app_private.current_ip() is 'The address that the request came from, for the audit trail.';

create or replace function app_hidden.has_permission(permission text)
  returns boolean
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  return exists (
    select from app_private.caller() c
    join app_hidden.effective_permissions p on p.role = c.role
    where p.permission = has_permission.permission
  );
end
$$;
comment on function app_hidden.has_permission(text) is 'May the person who is asking do this? False for nobody.';
grant execute on function app_hidden.has_permission(text) to assent_anonymous, assent_user, assent_manager, assent_admin;
--! EndIncluded identity.sql
--! Included requests.sql
-- Requests, and the facts that hold for each of them whoever writes it. A CHECK's comment is the message that its
-- violation gives the caller (see transition() in lifecycle.sql).

create table if not exists app_public.request_statuses (
  status text primary key,
  description text not null
);
comment on table app_public.request_statuses is E'@enum\n@enumName RequestStatus\n@behavior -*\nWhere a request stands. How it moves from one to the next: request_transitions.';
comment on column app_public.request_statuses.status is 'The name of the status.';
comment on column app_public.request_statuses.description is 'What it means.';

insert into app_public.request_statuses (status, description) values
  ('DRAFT',     'Its creator is still writing it; only they and admins see it.'),
  ('SUBMITTED', 'It waits for a decision, and can no longer be edited.'),
  ('APPROVED',  'Approved, for good.'),
  ('REJECTED',  'Rejected, for good.')
on conflict (status) do update
  set description = excluded.description
  where (request_statuses.*) is distinct from (excluded.*);

create table if not exists app_public.requests (
  id uuid primary key default app_private.uuid_v7(),
  title text not null,
  description text,
  status text not null references app_public.request_statuses on delete restrict,
  version integer not null default 1,
  creator_id uuid not null references app_public.users on delete restrict,
  assigned_to_id uuid references app_public.users on delete restrict,
  reviewed_by_id uuid references app_public.users on delete restrict,
  reviewed_at timestamptz,
  review_comment text,
  submitted_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  is_deleted boolean not null default false,
  constraint requests_title_blank check (not app_private.is_blank(title)),
  constraint requests_title_length check (char_length(title) <= 200),
  constraint requests_description_length check (char_length(description) <= 10000),
  constraint requests_review_comment_length check (char_length(review_comment) <= 10000),
  constraint requests_review_comment_required check (status <> 'REJECTED' or not app_private.is_blank(coalesce(review_comment, ''))),
  constraint requests_assigned_to_not_creator check (assigned_to_id <> creator_id),
  constraint requests_reviewed_by_not_creator check (reviewed_by_id <> creator_id),
  constraint requests_submitted_at_check check ((submitted_at is null) = (status = 'DRAFT')),
  constraint requests_reviewed_at_check check ((reviewed_at is not null) = (status in ('APPROVED', 'REJECTED'))),
  constraint requests_reviewed_by_check check ((reviewed_by_id is null) = (reviewed_at is null)),
  constraint requests_is_deleted_check check (not is_deleted or status = 'DRAFT'),
  constraint requests_version_check check (version > 0)
);
comment on table app_public.requests is E'@defaultOrderBy CREATED_AT_DESC\n@hideDeleted\nSomething somebody asks approval for.';
comment on column app_public.requests.id is 'Time-ordered UUID (version 7).';
comment on column app_public.requests.title is 'What is asked for, in 1 to 200 characters.';
comment on column app_public.requests.description is 'The particulars, in at most 10,000 characters.';
comment on column app_public.requests.status is 'Where it stands.';
comment on column app_public.requests.version is E'@behavior -attribute:aggregate\nGoes up by one at every change. Name it in a change, and the change fails with STALE_VERSION if another came first.';
comment on column app_public.requests.creator_id is 'Who asks.';
comment on column app_public.requests.assigned_to_id is E'@behavior -orderBy\nThe one manager or admin who is to decide; null: any. One who can no longer decide counts as none.';
comment on column app_public.requests.reviewed_by_id is E'@behavior -orderBy\nWho decided; never the creator.';
comment on column app_public.requests.reviewed_at is 'When it was decided.';
comment on column app_public.requests.review_comment is 'What the decision says, in at most 10,000 characters; a rejection always says something.';
comment on column app_public.requests.submitted_at is E'@behavior +filterBy -orderBy\nWhen it was submitted.';
comment on column app_public.requests.created_at is 'When it was created.';
comment on column app_public.requests.updated_at is 'When it last changed.';
comment on column app_public.requests.is_deleted is E'@behavior +filterBy\nDeleted by its creator while a draft; only admins still see it.';
comment on constraint requests_title_blank on app_public.requests is 'The title must not be blank.';
comment on constraint requests_title_length on app_public.requests is 'The title must have at most 200 characters.';
comment on constraint requests_description_length on app_public.requests is 'The description must have at most 10,000 characters.';
comment on constraint requests_review_comment_length on app_public.requests is 'The comment must have at most 10,000 characters.';
comment on constraint requests_review_comment_required on app_public.requests is 'A rejection needs a comment.';
comment on constraint requests_assigned_to_not_creator on app_public.requests is 'A request is not decided by its creator.';
comment on constraint requests_reviewed_by_not_creator on app_public.requests is 'Nobody decides their own request.';
comment on constraint requests_submitted_at_check on app_public.requests is 'What is no draft was submitted at some time.';
comment on constraint requests_reviewed_at_check on app_public.requests is 'What is decided was decided at some time.';
comment on constraint requests_reviewed_by_check on app_public.requests is 'What is decided was decided by somebody.';
comment on constraint requests_is_deleted_check on app_public.requests is 'Only a draft can be deleted.';
comment on constraint requests_version_check on app_public.requests is 'Versions count from 1.';

-- Each list's filter first, then its order, read backwards for newest first; the id makes it total, for cursors. Row-level
-- security lets a filter reach an index only by a leakproof operator: = on text and uuid is, on an enum it is not.
create index if not exists requests_created_at_idx on app_public.requests (created_at, id);
create index if not exists requests_creator_id_idx on app_public.requests (creator_id, created_at, id);
create index if not exists requests_creator_id_assigned_to_id_idx on app_public.requests (creator_id, assigned_to_id) where not is_deleted;
create index if not exists requests_status_idx on app_public.requests (status, created_at, id);
create index if not exists requests_assigned_to_id_idx on app_public.requests (assigned_to_id, created_at, id);
create index if not exists requests_reviewed_by_id_idx on app_public.requests (reviewed_by_id, created_at, id);
-- What waits for a decision, oldest first (as GraphQL orders it: server/lists.ts): it stays as small as the backlog, however much has been decided.
create index if not exists requests_waiting_idx on app_public.requests (coalesce(submitted_at, '9999-12-31Z'), id)
  include (status, creator_id, assigned_to_id)
  where submitted_at is not null and reviewed_at is null and not is_deleted;
--! EndIncluded requests.sql
--! Included audit.sql
-- The audit trail: one row for every action, in the action's own transaction, never changed. What is done to requests and
-- people is written by trigger, here; logins and logouts by the functions that do them, in login.sql.

create table if not exists app_public.audit_actions (
  action text primary key,
  description text not null
);
comment on table app_public.audit_actions is E'@behavior -*\nEvery kind of entry that the trail can hold.';
comment on column app_public.audit_actions.action is 'The name of the action.';
comment on column app_public.audit_actions.description is 'What was done.';

insert into app_public.audit_actions (action, description) values
  ('CREATE',          'A request was created.'),
  ('UPDATE',          'A draft was edited.'),
  ('DELETE',          'A draft was deleted.'),
  ('SUBMIT',          'A request was submitted.'),
  ('ASSIGN',          'A submitted request was assigned.'),
  ('APPROVE',         'A request was approved.'),
  ('REJECT',          'A request was rejected.'),
  ('LOGIN',           'Somebody logged in.'),
  ('LOGIN_FAILED',    'A login failed: no actor; about the account, if there is one.'),
  ('LOGOUT',          'Somebody logged out.'),
  ('SESSION_REVOKE',  'Somebody ended sessions of theirs, or logged a browser in anew that had one; or nobody did: a refresh token was used twice.'),
  ('PASSWORD_CHANGE', 'Somebody changed their password, which ended their other sessions.'),
  ('USER_CREATE',     'A person was added.'),
  ('USER_UPDATE',     'A person''s name or role was changed.'),
  ('USER_DEACTIVATE', 'A person was deactivated.'),
  ('USER_REACTIVATE', 'A person was reactivated.')
on conflict (action) do update
  set description = excluded.description
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
--! Included validation.sql
-- How input that breaks a rule is told to the caller. The rules themselves are constraints, where the tables are.

create or replace function app_private.raise_violation(violated_constraint text, violated_column text)
  returns void
  language plpgsql
  stable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_message text;
  v_column text := violated_column;
begin
  if violated_constraint <> '' then
    select obj_description(c.oid, 'pg_constraint'), a.attname into v_message, v_column
    from pg_constraint c
    join pg_attribute a on a.attrelid = c.conrelid and a.attnum = any (c.conkey)
    where c.conname = violated_constraint
      and c.connamespace in ('app_public'::regnamespace, 'app_private'::regnamespace)
    order by a.attnum desc -- The column that was written; what it is compared with stands before it in the table.
    limit 1;
  end if;
  raise exception using errcode = 'RQ422',
    message = coalesce(v_message, format('The %s must not be null.', replace(violated_column, '_', ' '))), column = coalesce(v_column, '');
end
$$;
comment on function app_private.raise_violation(text, text) is
  'Tells a caller what a violated constraint says of itself by its comment. Raises RQ422, with the column.';

create or replace function app_private.check_types(changes jsonb, of_table regclass)
  returns void
  language plpgsql
  stable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_column text;
  v_type text;
begin
  select e.key, case a.atttypid when 'uuid'::regtype then 'a UUID' when 'boolean'::regtype then 'true or false' else 'a string' end
  into v_column, v_type
  from jsonb_each(changes) e
  join pg_attribute a on a.attrelid = of_table and a.attname = e.key
  where jsonb_typeof(e.value) not in ('null', case a.atttypid when 'boolean'::regtype then 'boolean' else 'string' end)
    or (a.atttypid = 'uuid'::regtype and e.value #>> '{}' !~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')
  order by a.attnum
  limit 1;
  if found then
    raise exception using errcode = 'RQ422', message = format('This must be %s.', v_type), column = v_column;
  end if;
end
$$;
comment on function app_private.check_types(jsonb, regclass) is
  'Is each change of the type of its column? PostgreSQL itself would take a number for a text. Raises RQ422, with the column.';

create or replace function app_private.refuse_weakness(weakness text, field text)
  returns void
  language plpgsql
  immutable
  set search_path to pg_catalog, pg_temp
as $$
begin
  if weakness is not null then
    raise exception using errcode = 'RQ422', message = weakness, column = field;
  end if;
end
$$;
comment on function app_private.refuse_weakness(text, text) is
  'Raises RQ422 with what the server, which alone sees a password, finds wrong with it; nothing for null.';
--! EndIncluded validation.sql
--! Included lifecycle.sql
-- The life of a request: which actions lead from where to where, who may take them, and the one function that does.

create table if not exists app_public.request_parties (
  party text primary key,
  description text not null
);
comment on table app_public.request_parties is E'@behavior -*\nWhat a person can be to a request. Who is one: app_hidden.my_parties.';
comment on column app_public.request_parties.party is 'The name of the party.';
comment on column app_public.request_parties.description is 'Who that is.';

insert into app_public.request_parties (party, description) values
  ('CREATOR',  'Who created it.'),
  ('DECIDER',  'Who can decide it: app_hidden.can_decide.'),
  ('ASSIGNER', 'Who can decide it, or may assign any request.')
on conflict (party) do update
  set description = excluded.description
  where (request_parties.*) is distinct from (excluded.*);

create table if not exists app_public.request_transitions (
  from_status text references app_public.request_statuses on update cascade on delete restrict,
  action text not null references app_public.audit_actions on update cascade on delete restrict,
  to_status text not null references app_public.request_statuses on update cascade on delete restrict,
  who text not null references app_public.request_parties on update cascade on delete restrict,
  writes text[] not null default '{}',
  constraint request_transitions_key unique nulls not distinct (from_status, action)
);
comment on table app_public.request_transitions is E'@behavior -*\nThe state machine: one row an edge. What is not here cannot happen.';
comment on column app_public.request_transitions.from_status is 'Where the request stands before; null: it does not exist yet.';
comment on column app_public.request_transitions.action is 'What is done.';
comment on column app_public.request_transitions.to_status is 'Where it stands afterwards.';
comment on column app_public.request_transitions.who is 'The party that may do it.';
comment on column app_public.request_transitions.writes is 'The columns that the caller may write by it.';
create index if not exists request_transitions_action_idx on app_public.request_transitions (action);
create index if not exists request_transitions_to_status_idx on app_public.request_transitions (to_status);
create index if not exists request_transitions_who_idx on app_public.request_transitions (who);

insert into app_public.request_transitions (from_status, action, to_status, who, writes) values
  (null,        'CREATE',  'DRAFT',     'CREATOR',  '{title,description,assigned_to_id}'),
  ('DRAFT',     'UPDATE',  'DRAFT',     'CREATOR',  '{title,description,assigned_to_id}'),
  ('DRAFT',     'DELETE',  'DRAFT',     'CREATOR',  '{}'),
  ('DRAFT',     'SUBMIT',  'SUBMITTED', 'CREATOR',  '{}'),
  ('SUBMITTED', 'APPROVE', 'APPROVED',  'DECIDER',  '{review_comment}'),
  ('SUBMITTED', 'REJECT',  'REJECTED',  'DECIDER',  '{review_comment}'),
  ('SUBMITTED', 'ASSIGN',  'SUBMITTED', 'ASSIGNER', '{assigned_to_id}')
on conflict on constraint request_transitions_key do update
  set to_status = excluded.to_status, who = excluded.who, writes = excluded.writes
  where (request_transitions.*) is distinct from (excluded.*);

-- Who can decide ---------------------------------------------------------------------------------------------------

-- Runs as its owner: who is a manager or an admin is known to everybody, and row-level security on people, applied
-- twice in the view below, would cost more to plan than the query to run. The inheritance of effective_permissions is
-- written out, each table by its key: that there is one row of each is what makes the planner take the inbox by its index.
create or replace view app_hidden.deciders as
  select u.id as user_id, mine.level >= any_lowest.level as decides_any
  from app_public.users u
  join app_public.roles mine on mine.role = u.role
  join app_public.role_permissions decide on decide.permission = 'request.decide'
  join app_public.roles lowest on lowest.role = decide.role and lowest.level <= mine.level
  join app_public.role_permissions decide_any on decide_any.permission = 'request.decide_any'
  join app_public.roles any_lowest on any_lowest.role = decide_any.role
  where not u.is_deleted;
comment on view app_hidden.deciders is 'The active people who may decide at all: those who can be assigned a request.';

create or replace function app_hidden.can_decide(creator_id uuid, live_assignee_id uuid, person_id uuid, decides_any boolean)
  returns boolean
  language sql
  immutable
as $$
  select person_id <> creator_id and (decides_any or live_assignee_id is null or live_assignee_id = person_id)
$$;
comment on function app_hidden.can_decide(uuid, uuid, uuid, boolean) is
  'The rule of who can decide a request, of a person in app_hidden.deciders: not their own; and unassigned, or assigned to them, unless they decide any. An assignee who is no longer in app_hidden.deciders counts as none.';
grant execute on function app_hidden.can_decide(uuid, uuid, uuid, boolean) to assent_user, assent_manager, assent_admin, assent_auditor;

create or replace view app_hidden.request_deciders with (security_invoker = true) as
  select d.user_id, r as request
  from app_public.requests r
  left join app_hidden.deciders assignee on assignee.user_id = r.assigned_to_id
  join app_hidden.deciders d on app_hidden.can_decide(r.creator_id, assignee.user_id, d.user_id, d.decides_any)
  where r.submitted_at is not null and r.reviewed_at is null and not r.is_deleted
    and r.status in (select t.from_status from app_public.request_transitions t where t.who = 'DECIDER');
comment on view app_hidden.request_deciders is
  'Each waiting request with everybody who can decide it now: read by person it is their inbox, by request it is whom to tell.';

create or replace function app_hidden.my_parties(r app_public.requests)
  returns text[]
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid;
  v_may text[];
  v_live_assignee_id uuid;
  v_decider boolean;
begin
  select c.user_id, array(select p.permission from app_hidden.effective_permissions p where p.role = c.role)
  into v_me, v_may
  from app_private.caller() c;

  if r.assigned_to_id is not null then
    select d.user_id into v_live_assignee_id from app_hidden.deciders d where d.user_id = r.assigned_to_id;
  end if;
  v_decider := 'request.decide' = any (v_may)
    and app_hidden.can_decide(r.creator_id, v_live_assignee_id, v_me, 'request.decide_any' = any (v_may));

  return array_remove(array[
    case when v_me = r.creator_id and 'request.create' = any (v_may) then 'CREATOR' end,
    case when v_decider then 'DECIDER' end,
    case when v_decider or 'request.assign_any' = any (v_may) then 'ASSIGNER' end
  ], null);
end
$$;
comment on function app_hidden.my_parties(app_public.requests) is
  'What the person who is asking is to the request, whatever its status: of the rows of request_parties.';
grant execute on function app_hidden.my_parties(app_public.requests) to assent_user, assent_manager, assent_admin;

-- Taking an action -------------------------------------------------------------------------------------------------

create or replace function app_private.permitted_transition(r app_public.requests, action text, expected_version integer)
  returns app_public.request_transitions
  language plpgsql
  stable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_parties text[] := app_hidden.my_parties(r);
  v_edge app_public.request_transitions;
begin
  perform app_private.require_session();

  if not exists (
    select from app_public.request_transitions t
    where t.action = permitted_transition.action and t.who = any (v_parties)
  ) then
    raise exception using errcode = 'RQ403', message = format('%s is not yours to do on this request.', action);
  end if;

  select * into v_edge
  from app_public.request_transitions t
  where t.action = permitted_transition.action
    and t.from_status is not distinct from r.status
    and t.who = any (v_parties)
    and r.is_deleted is not true;
  if not found then
    raise exception using errcode = 'RQ409',
      message = format('%s is not possible: the request is %s.', action, case when r.is_deleted then 'deleted' else r.status end);
  end if;

  if expected_version <> r.version then
    raise exception using errcode = 'RQ412',
      message = format('The request is at version %s, which is not the one that was named.', r.version);
  end if;
  return v_edge;
end
$$;
comment on function app_private.permitted_transition(app_public.requests, text, integer) is
  'The edge that an action takes from where the request stands. Raises RQ401 when the session has ended meanwhile, RQ403 when the caller is not the party for it, else RQ409 when no edge leads from here, else RQ412 when the version is another.';

create or replace function app_hidden.transition(
  seen app_public.requests,
  action text,
  expected_version integer default null,
  changes jsonb default '{}'
)
  returns app_public.requests
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_old app_public.requests;
  v_new app_public.requests;
  v_edge app_public.request_transitions;
  v_constraint text;
  v_column text;
begin
  -- The lock comes before any look at the state, so that of two deciders the second meets what the first has done.
  if action = 'CREATE' then
    v_old.creator_id := app_hidden.current_user_id();
  else
    -- To name an id is not enough: who has seen the request also knows, to the microsecond, when it was created.
    select * into v_old from app_public.requests r where r.id = seen.id and r.created_at = seen.created_at for no key update;
    if not found then
      perform app_private.require_session();
      raise exception using errcode = 'RQ404', message = 'There is no such request.';
    end if;
  end if;

  v_edge := app_private.permitted_transition(v_old, action, expected_version);
  if not v_edge.writes @> array(select jsonb_object_keys(changes)) then
    raise exception using errcode = 'RQ403', message = format('%s writes nothing but %s.', action, v_edge.writes);
  end if;

  perform app_private.check_types(changes, 'app_public.requests');
  v_new := jsonb_populate_record(v_old, changes);
  v_new.status := v_edge.to_status;
  v_new.is_deleted := action = 'DELETE';
  if action = 'SUBMIT' then
    v_new.submitted_at := clock_timestamp();
  elsif v_edge.who = 'DECIDER' then
    v_new.reviewed_by_id := app_hidden.current_user_id();
    v_new.reviewed_at := clock_timestamp();
  end if;
  -- An edit that changes nothing is no action, and leaves no trace.
  if v_new is not distinct from v_old then
    return v_old;
  end if;

  -- The guard below lets a write pass only while this names the action.
  perform set_config('assent.action', action, true);
  if action = 'CREATE' then
    insert into app_public.requests (title, description, status, creator_id, assigned_to_id)
    values (v_new.title, v_new.description, v_new.status, v_new.creator_id, v_new.assigned_to_id)
    returning * into v_new;
  else
    update app_public.requests r
    set (title, description, status, assigned_to_id, submitted_at, reviewed_at, reviewed_by_id, review_comment, is_deleted) =
      (v_new.title, v_new.description, v_new.status, v_new.assigned_to_id, v_new.submitted_at, v_new.reviewed_at,
       v_new.reviewed_by_id, v_new.review_comment, v_new.is_deleted)
    where r.id = v_old.id
    returning * into v_new;
  end if;
  perform set_config('assent.action', '', true);
  return v_new;
exception
  when check_violation or not_null_violation then
    get stacked diagnostics v_constraint = constraint_name, v_column = column_name;
    perform app_private.raise_violation(v_constraint, v_column);
end
$$;
comment on function app_hidden.transition(app_public.requests, text, integer, jsonb) is
  'The one way in which a request changes: is the session live (RQ401), has the caller seen it (RQ404), lock, may they (RQ403), does the state allow it (RQ409), is the version current (RQ412), write, and tell a violated constraint as RQ422. The API functions read the request as the caller and hand it over.';
grant execute on function app_hidden.transition(app_public.requests, text, integer, jsonb) to assent_user, assent_manager, assent_admin;

-- The guard: what is submitted stays as it is, whatever the statement and whoever writes it -------------------------

create or replace function app_private.tg_requests__guard()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_from text := case tg_op when 'UPDATE' then old.status end;
begin
  if not exists (
    select from app_public.request_transitions t
    where t.action = current_setting('assent.action', true)
      and t.from_status is not distinct from v_from
      and t.to_status = new.status
  ) then
    raise exception using errcode = 'RQ403',
      message = format('A request changes by the functions of the API alone: no action is taking it from %s to %s.',
        coalesce(v_from, 'nothing'), new.status);
  end if;

  if tg_op = 'UPDATE' then
    if (new.id, new.creator_id, new.created_at) is distinct from (old.id, old.creator_id, old.created_at) then
      raise exception using errcode = 'RQ403', message = 'A request keeps its id, its creator and its time of creation.';
    end if;
    new.version := old.version + 1;
    new.updated_at := clock_timestamp();
  end if;

  if new.assigned_to_id is not null
    and (tg_op = 'INSERT' or new.assigned_to_id is distinct from old.assigned_to_id)
    and not exists (select from app_hidden.deciders d where d.user_id = new.assigned_to_id)
  then
    raise exception using errcode = 'RQ422', column = 'assigned_to_id',
      message = 'A request is assigned to an active manager or admin.';
  end if;
  return new;
end
$$;
comment on function app_private.tg_requests__guard() is
  'No write without an action that leads there; version and updated_at; whom a request can be assigned to. Raises RQ403 and RQ422.';

create or replace trigger _200_guard
  before insert or update on app_public.requests
  for each row execute function app_private.tg_requests__guard();
--! EndIncluded lifecycle.sql
--! Included login.sql
-- Logging in and out, refreshing and ending sessions, and changing one's password. What asks for a password is two transactions, so that an attempt is
-- counted before the slow hash is computed and stays counted whatever becomes of it: begin_login, commit, finish_login.
-- Neither raises on a wrong password, which would roll back the count and the audit entry: the outcome is data.

create table if not exists app_private.login_attempts (
  id uuid primary key default app_private.uuid_v7(),
  account_key bytea not null,
  network cidr,
  attempted_at timestamptz not null default clock_timestamp(),
  failed boolean not null default false
);
comment on table app_private.login_attempts is
  'Attempts at a password under way, and those that failed in the last 15 minutes. A success removes its row: only failures count.';
comment on column app_private.login_attempts.id is 'Time-ordered UUID (version 7).';
comment on column app_private.login_attempts.account_key is 'SHA-256 of the address in lower case, whether or not there is such an account.';
comment on column app_private.login_attempts.network is 'The caller''s IPv4 address, or the /64 of its IPv6 address, which is what one caller has there.';
comment on column app_private.login_attempts.attempted_at is 'When it began.';
comment on column app_private.login_attempts.failed is 'The password was wrong; false: still being looked at.';
create index if not exists login_attempts_account_key_idx on app_private.login_attempts (account_key, attempted_at);
create index if not exists login_attempts_network_idx on app_private.login_attempts (network, attempted_at);
create index if not exists login_attempts_attempted_at_idx on app_private.login_attempts (attempted_at);

create or replace function app_private.account_key(email text)
  returns bytea
  language sql
  immutable
as $$
  select sha256(convert_to(lower(email), 'UTF8'))
$$;
comment on function app_private.account_key(text) is 'What the failures of an account are counted under.';

create or replace function app_private.caller_network()
  returns cidr
  language sql
  stable
as $$
  select set_masklen(ip::cidr, case family(ip) when 4 then 32 else 64 end)
  from app_private.current_ip() ip
$$;
comment on function app_private.caller_network() is 'What the failures of an address are counted under.';

create or replace function app_hidden.begin_login(email text, out attempt_id uuid, out retry_after integer)
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_network cidr := app_private.caller_network();
  v_since timestamptz := clock_timestamp() - interval '15 minutes';
  v_blocked_until timestamptz;
begin
  delete from app_private.login_attempts a where a.attempted_at < v_since;

  -- One at a time per network, for the moment of counting; a login under way counts, so that no burst gets past.
  perform pg_advisory_xact_lock(hashtextextended('login from ' || coalesce(v_network::text, ''), 0));
  select a.attempted_at + interval '15 minutes' into v_blocked_until
  from app_private.login_attempts a
  where a.network = v_network or (a.network is null and v_network is null)
  order by a.attempted_at desc
  offset 99 limit 1;
  if found then
    retry_after := greatest(1, ceil(extract(epoch from v_blocked_until - clock_timestamp())));
    return;
  end if;

  insert into app_private.login_attempts (account_key, network)
  values (app_private.account_key(email), v_network)
  returning id into attempt_id;
end
$$;
comment on function app_hidden.begin_login(text) is
  'Counts an attempt to log in, before any password is looked at. retry_after (seconds) instead of an attempt_id: 100 have failed from this address within 15 minutes. To be committed before finish_login.';
grant execute on function app_hidden.begin_login(text) to assent_anonymous, assent_user, assent_manager, assent_admin;

create or replace function app_private.verify_password(
  attempt_id uuid,
  email text,
  password_digest text,
  out user_id uuid,
  out known_id uuid,
  out retry_after integer
)
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_account_key bytea := app_private.account_key(email);
  v_since timestamptz := clock_timestamp() - interval '15 minutes';
  v_blocked_until timestamptz;
  v_hash text;
begin
  -- One at a time per account, until the hash is compared and the outcome counted.
  perform pg_advisory_xact_lock(hashtextextended('login to ' || v_account_key::text, 0));
  if not exists (
    select from app_private.login_attempts a where a.id = attempt_id and a.account_key = v_account_key and not a.failed
  ) then
    raise exception using errcode = 'RQ401', message = 'This attempt was not begun for this account, or is over.';
  end if;

  select a.attempted_at + interval '15 minutes' into v_blocked_until
  from app_private.login_attempts a
  where a.account_key = v_account_key and a.failed and a.attempted_at > v_since
  order by a.attempted_at desc
  offset 9 limit 1;
  if found then
    delete from app_private.login_attempts a where a.id = attempt_id;
    retry_after := greatest(1, ceil(extract(epoch from v_blocked_until - clock_timestamp())));
    return;
  end if;

  select c.user_id, c.password_hash, case when not u.is_deleted then u.id end
  into known_id, v_hash, user_id
  from app_private.credentials c
  join app_public.users u on u.id = c.user_id
  where lower(c.email) = lower(verify_password.email);

  -- An unknown account costs the same as a known one: one hash.
  if v_hash is null then
    perform app_private.hash_password(password_digest);
  elsif app_private.crypt(password_digest, v_hash) is distinct from v_hash then
    user_id := null;
  end if;

  if user_id is null then
    update app_private.login_attempts a set failed = true where a.id = attempt_id;
  else
    delete from app_private.login_attempts a where a.id = attempt_id;
  end if;
end
$$;
comment on function app_private.verify_password(uuid, text, text) is
  'Is it the password of an active account? user_id if so; else the attempt counts as failed, and known_id says whose account it was, if anybody''s. retry_after (seconds): 10 have failed on this account within 15 minutes. An attempt is good once: raises RQ401 for one that is over, unknown or of another account.';

create or replace function app_hidden.finish_login(
  attempt_id uuid,
  email text,
  password_digest text,
  by_cookie boolean,
  user_agent text,
  out user_id uuid,
  out session_secret text,
  out refresh_token text,
  out retry_after integer
)
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_known_id uuid;
begin
  select v.user_id, v.known_id, v.retry_after into user_id, v_known_id, retry_after
  from app_private.verify_password(attempt_id, email, password_digest) v;
  if retry_after is not null then
    return;
  end if;
  insert into app_public.audit_logs (actor_id, action, user_id, ip_address)
  values (user_id, case when user_id is null then 'LOGIN_FAILED' else 'LOGIN' end, v_known_id, app_private.current_ip());
  if user_id is null then
    return;
  end if;

  -- The session that the browser had gives way to the new one.
  if by_cookie then
    with replaced as (
      update app_private.sessions s
      set revoked_at = now()
      from app_private.live_session(current_setting('assent.session', true)) l
      where s.id = l.session_id and app_private.is_live(s)
      returning s.id, s.user_id
    )
    insert into app_public.audit_logs (actor_id, action, user_id, metadata, ip_address)
    select r.user_id, 'SESSION_REVOKE', r.user_id,
      jsonb_build_object('session_id', r.id, 'reason', 'Its browser logged in anew.'), app_private.current_ip()
    from replaced r;
  end if;
  select o.session_secret, o.refresh_token into session_secret, refresh_token
  from app_private.open_session(finish_login.user_id, by_cookie, user_agent) o;
end
$$;
comment on function app_hidden.finish_login(uuid, text, text, boolean, text) is
  'Compares the password''s digest and opens a session: for a cookie, or for a token with a refresh token. No user_id: the address or the password is wrong, and the answer is the same in the same time for both. retry_after (seconds): 10 have failed on this account within 15 minutes. Raises RQ401 for an attempt that is over, unknown or of another account.';
grant execute on function app_hidden.finish_login(uuid, text, text, boolean, text)
  to assent_anonymous, assent_user, assent_manager, assent_admin;

create or replace function app_hidden.refresh_session(
  given_token text,
  out user_id uuid,
  out session_secret text,
  out refresh_token text
)
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_secret text := split_part(given_token, '.', 1);
  v_session app_private.sessions;
begin
  -- Of two refreshes at once the second meets what the first has done.
  select * into v_session from app_private.sessions s
  where s.secret_hash = app_private.hash_secret(v_secret) and s.refresh_hash is not null
  for no key update;
  if not exists (select from app_private.live_session(v_secret) l where l.session_id = v_session.id) then
    return;
  end if;

  if v_session.refresh_hash <> app_private.hash_secret(given_token) then
    update app_private.sessions s set revoked_at = now() where s.id = v_session.id;
    insert into app_public.audit_logs (action, user_id, metadata, ip_address)
    values ('SESSION_REVOKE', v_session.user_id,
      jsonb_build_object('session_id', v_session.id, 'reason', 'A refresh token was used twice.'), app_private.current_ip());
    return;
  end if;

  user_id := v_session.user_id;
  session_secret := v_secret;
  refresh_token := v_secret || '.' || app_private.random_secret();
  update app_private.sessions s
  set refresh_hash = app_private.hash_secret(refresh_session.refresh_token), last_used_at = now()
  where s.id = v_session.id;
end
$$;
comment on function app_hidden.refresh_session(text) is
  'Exchanges a refresh token for the next one. Another than the current one was used before, and is in two hands, or was made up by somebody who has the access token: it ends the session (RFC 9700, 4.14.2). No user_id: it is not, or no longer, good. Does not raise, which would roll that end back.';
grant execute on function app_hidden.refresh_session(text) to assent_anonymous, assent_user, assent_manager, assent_admin;

create or replace function app_public.logout()
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
begin
  update app_private.sessions s
  set revoked_at = now()
  from app_private.live_session(current_setting('assent.session', true)) l
  where s.id = l.session_id and app_private.is_live(s);
  -- Of two at once the first has ended it.
  if not found then
    raise exception using errcode = 'RQ401', message = 'Valid credentials are required.';
  end if;
  insert into app_public.audit_logs (actor_id, action, user_id, ip_address)
  values (v_me, 'LOGOUT', v_me, app_private.current_ip());
end
$$;
comment on function app_public.logout() is 'Ends the session that the request came with, at once and for every token of it. Raises RQ401 when it is over.';
grant execute on function app_public.logout() to assent_user, assent_manager, assent_admin;

-- Changing the password --------------------------------------------------------------------------------------------

create or replace function app_hidden.begin_password_change(weakness text, out attempt_id uuid, out retry_after integer)
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
begin
  perform app_private.refuse_weakness(weakness, 'new_password');
  select b.attempt_id, b.retry_after into attempt_id, retry_after
  from app_private.credentials c, app_hidden.begin_login(c.email) b
  where c.user_id = v_me;
end
$$;
comment on function app_hidden.begin_password_change(text) is
  'As begin_login, of the caller''s own account: who has found an open session shall not guess at its password either. Raises RQ401, and RQ422 for a weakness of the new password.';

create or replace function app_hidden.change_password(
  attempt_id uuid,
  old_digest text,
  new_digest text,
  out user_id uuid,
  out retry_after integer
)
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
begin
  select v.user_id, v.retry_after into user_id, retry_after
  from app_private.credentials c, app_private.verify_password(attempt_id, c.email, old_digest) v
  where c.user_id = v_me;
  if user_id is null then
    return;
  end if;
  -- Verifying may have waited for another change, which ended this session.
  perform app_private.require_session();

  update app_private.credentials c set password_hash = app_private.hash_password(new_digest) where c.user_id = v_me;
  update app_private.sessions s
  set revoked_at = now()
  where s.user_id = v_me and s.revoked_at is null
    and s.id is distinct from (select l.session_id from app_private.live_session(current_setting('assent.session', true)) l);
  insert into app_public.audit_logs (actor_id, action, user_id, ip_address)
  values (v_me, 'PASSWORD_CHANGE', v_me, app_private.current_ip());
end
$$;
comment on function app_hidden.change_password(uuid, text, text) is
  'Changes the caller''s password and ends their other sessions. Raises RQ401 when the session has ended. No user_id: the old password is wrong, which counts as a failed login does. retry_after (seconds) as in finish_login.';
grant execute on function app_hidden.begin_password_change(text), app_hidden.change_password(uuid, text, text)
  to assent_user, assent_manager, assent_admin;

-- One's own sessions -----------------------------------------------------------------------------------------------

create or replace function app_hidden.my_sessions()
  returns table (id uuid, created_at timestamptz, document json)
  language sql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  select s.id, s.created_at, row_to_json(d)
  from app_private.caller() c
  join app_private.sessions s on s.user_id = c.user_id
  cross join lateral (
    select s.id, s.created_at, s.last_used_at, s.expires_at, host(s.ip_address) as ip_address, s.user_agent,
      s.id = c.session_id as is_current
  ) d
  where app_private.is_live(s)
$$;
comment on function app_hidden.my_sessions() is 'The live sessions of the person who is asking, as REST shows them.';

create or replace function app_hidden.end_session(session_id uuid)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
begin
  update app_private.sessions s set revoked_at = now()
  where s.id = end_session.session_id and s.user_id = v_me and app_private.is_live(s);
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such session.';
  end if;
  insert into app_public.audit_logs (actor_id, action, user_id, metadata, ip_address)
  values (v_me, 'SESSION_REVOKE', v_me, jsonb_build_object('session_id', end_session.session_id), app_private.current_ip());
end
$$;
comment on function app_hidden.end_session(uuid) is 'Ends a live session of one''s own. Raises RQ401 without one, RQ404 when there is none of that id.';

create or replace function app_hidden.end_other_sessions()
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
  v_count integer;
begin
  update app_private.sessions s set revoked_at = now()
  from app_private.live_session(current_setting('assent.session', true)) l
  where s.user_id = l.user_id and s.id <> l.session_id and app_private.is_live(s);
  get diagnostics v_count = row_count;
  if v_count > 0 then
    insert into app_public.audit_logs (actor_id, action, user_id, metadata, ip_address)
    values (v_me, 'SESSION_REVOKE', v_me, jsonb_build_object('sessions', v_count), app_private.current_ip());
  end if;
end
$$;
comment on function app_hidden.end_other_sessions() is 'Ends all sessions of one''s own but the one that asks. Raises RQ401 without one.';

create or replace function app_hidden.touch_session()
  returns uuid
  language sql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  update app_private.sessions s
  set last_used_at = now()
  from app_private.live_session(current_setting('assent.session', true)) l
  where s.id = l.session_id and s.last_used_at < now() - interval '1 minute';
  select l.user_id from app_private.live_session(current_setting('assent.session', true)) l
$$;
comment on function app_hidden.touch_session() is
  'Notes that the session is in use, to the minute, and tells whose it is. A request of its own, so that a request that reads writes nothing.';

grant execute on function
  app_hidden.my_sessions(), app_hidden.end_session(uuid), app_hidden.end_other_sessions(), app_hidden.touch_session()
  to assent_user, assent_manager, assent_admin;
--! EndIncluded login.sql
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
  perform app_private.require_session();
  if not app_hidden.has_permission('user.manage') then
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
  return null;
end
$$;
comment on function app_private.tg_users__end_sessions() is
  'Who is deactivated has no session any more; who comes back logs in anew, whatever was opened meanwhile.';

create or replace trigger _500_end_sessions
  after update of is_deleted on app_public.users
  for each row when (new.is_deleted <> old.is_deleted)
  execute function app_private.tg_users__end_sessions();
--! EndIncluded people.sql
--! Included idempotency.sql
-- A POST that is sent again under the same Idempotency-Key has one effect, and gets the first answer again (IETF draft
-- "The Idempotency-Key HTTP Header Field"). The key is claimed, the action taken and the answer kept in one transaction:
-- a server that is killed in between leaves nothing of any.

create table if not exists app_private.idempotency_keys (
  user_id uuid not null references app_public.users on delete cascade,
  key text not null,
  fingerprint bytea not null,
  answer json not null,
  created_at timestamptz not null default now(),
  primary key (user_id, key),
  constraint idempotency_keys_key_length check (char_length(key) between 1 and 255)
);
create index if not exists idempotency_keys_created_at_idx on app_private.idempotency_keys (created_at);
comment on table app_private.idempotency_keys is 'Answers that can be asked for again, for 24 hours.';
comment on column app_private.idempotency_keys.user_id is 'Whose: keys of others do not meet.';
comment on column app_private.idempotency_keys.key is 'As the caller named it.';
comment on column app_private.idempotency_keys.fingerprint is 'Of method, path and body: a keyed digest, because bodies can hold passwords.';
comment on column app_private.idempotency_keys.answer is 'The answer: status, headers and body.';
comment on column app_private.idempotency_keys.created_at is 'When it was first answered.';
comment on constraint idempotency_keys_key_length on app_private.idempotency_keys is 'An Idempotency-Key has 1 to 255 characters.';

create or replace function app_hidden.claim_idempotency_key(
  key text,
  fingerprints bytea[],
  out state text,
  out answer json
)
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
  v_fingerprint bytea;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('idempotency key ' || claim_idempotency_key.key || ' of ' || v_me, 0)) then
    state := 'RUNNING';
    return;
  end if;
  -- Of anybody's that have expired a few are cleared away, and nobody waits for it.
  delete from app_private.idempotency_keys k where (k.user_id, k.key) in (
    select e.user_id, e.key from app_private.idempotency_keys e
    where e.created_at < now() - interval '24 hours'
    order by e.created_at
    limit 10
    for update skip locked
  );
  delete from app_private.idempotency_keys k
  where k.user_id = v_me and k.key = claim_idempotency_key.key and k.created_at < now() - interval '24 hours';
  select k.fingerprint, k.answer into v_fingerprint, answer
  from app_private.idempotency_keys k
  where k.user_id = v_me and k.key = claim_idempotency_key.key;
  if not found then
    state := 'NEW';
  elsif v_fingerprint = any (fingerprints) then
    state := 'ANSWERED';
  else
    state := 'OTHER';
    answer := null;
  end if;
end
$$;
comment on function app_hidden.claim_idempotency_key(text, bytea[]) is
  'NEW: go on, and end the same transaction with keep_answer. ANSWERED: here is the first answer. OTHER: the key stands for a request with another fingerprint. RUNNING: another transaction is at it. Raises RQ401.';

create or replace function app_hidden.keep_answer(key text, fingerprint bytea, answer json)
  returns void
  language sql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  insert into app_private.idempotency_keys (user_id, key, fingerprint, answer)
  values (app_private.require_session(), keep_answer.key, keep_answer.fingerprint, keep_answer.answer)
$$;
comment on function app_hidden.keep_answer(text, bytea, json) is 'Keeps the answer under the key that this transaction has claimed. Raises RQ401 without a live session.';

grant execute on function app_hidden.claim_idempotency_key(text, bytea[]), app_hidden.keep_answer(text, bytea, json)
  to assent_user, assent_manager, assent_admin;
--! EndIncluded idempotency.sql
--! Included api.sql
-- The API: what PostGraphile shows beside the tables. Each function runs as the caller, so that row-level security
-- decides what exists for them; everything after that is transition()'s (lifecycle.sql).

create or replace function app_hidden.visible_request(request_id uuid)
  returns app_public.requests
  language plpgsql
  volatile -- Sees what the same statement has created just before; a stable function would not.
as $$
declare
  v_request app_public.requests;
begin
  select * into v_request from app_public.requests r where r.id = request_id;
  return v_request;
end
$$;
comment on function app_hidden.visible_request(uuid) is 'The request as the caller may see it, or nulls.';
grant execute on function app_hidden.visible_request(uuid) to assent_user, assent_manager, assent_admin;

-- "Left out" must differ from null in an edit, and from every value that a caller could send.
create or replace function app_hidden.left_out()
  returns uuid
  language sql
  stable
as $$
  select md5(pg_backend_pid() || transaction_timestamp()::text)::uuid
$$;
comment on function app_hidden.left_out() is
  'The default of arguments that may be left out: a value of this transaction alone, which nobody can know before it.';

create or replace function app_hidden.given(field text, value text)
  returns jsonb
  language sql
  stable
as $$
  select case when value is not distinct from app_hidden.left_out()::text then '{}' else jsonb_build_object(field, value) end
$$;
comment on function app_hidden.given(text, text) is 'The field as a change, or no change when the caller left it out.';
create or replace function app_hidden.given(field text, value uuid)
  returns jsonb
  language sql
  stable
as $$
  select case when value is not distinct from app_hidden.left_out() then '{}' else jsonb_build_object(field, value) end
$$;
comment on function app_hidden.given(text, uuid) is 'The field as a change, or no change when the caller left it out.';
grant execute on function app_hidden.left_out(), app_hidden.given(text, text), app_hidden.given(text, uuid)
  to assent_user, assent_manager, assent_admin;

-- Mutations --------------------------------------------------------------------------------------------------------

create or replace function app_public.create_request(title text, description text default null, assigned_to_id uuid default null)
  returns app_public.requests
  language sql
  volatile
as $$
  select app_hidden.transition(null, 'CREATE', null,
    jsonb_build_object('title', title, 'description', description, 'assigned_to_id', assigned_to_id))
$$;
comment on function app_public.create_request(text, text, uuid) is
  'Creates a request, as a draft. VALIDATION_FAILED: the title is blank or too long, the description too long, or the assignee no active manager or admin other than oneself.';

create or replace function app_public.update_request(
  request_id uuid,
  title text default app_hidden.left_out()::text,
  description text default app_hidden.left_out()::text,
  assigned_to_id uuid default app_hidden.left_out(),
  version integer default null
)
  returns app_public.requests
  language sql
  volatile
as $$
  select app_hidden.transition(app_hidden.visible_request(request_id), 'UPDATE', version,
    app_hidden.given('title', title) || app_hidden.given('description', description) || app_hidden.given('assigned_to_id', assigned_to_id))
$$;
comment on function app_public.update_request(uuid, text, text, uuid, integer) is
  'Edits a draft of one''s own. What is left out stays as it is; null clears description and assignedToId.';

create or replace function app_public.delete_request(request_id uuid, version integer default null)
  returns app_public.requests
  language sql
  volatile
as $$
  select app_hidden.transition(app_hidden.visible_request(request_id), 'DELETE', version)
$$;
comment on function app_public.delete_request(uuid, integer) is
  'Deletes a draft of one''s own. Admins still see it, and so does the audit trail.';

create or replace function app_public.submit_request(request_id uuid, version integer default null)
  returns app_public.requests
  language sql
  volatile
as $$
  select app_hidden.transition(app_hidden.visible_request(request_id), 'SUBMIT', version)
$$;
comment on function app_public.submit_request(uuid, integer) is 'Submits a draft of one''s own for decision. It can no longer be edited.';

create or replace function app_public.approve_request(request_id uuid, comment text default null, version integer default null)
  returns app_public.requests
  language sql
  volatile
as $$
  select app_hidden.transition(app_hidden.visible_request(request_id), 'APPROVE', version, jsonb_build_object('review_comment', comment))
$$;
comment on function app_public.approve_request(uuid, text, integer) is
  'Approves a submitted request, for good. Of two decisions at once the second gets INVALID_TRANSITION.';

create or replace function app_public.reject_request(request_id uuid, comment text default null, version integer default null)
  returns app_public.requests
  language sql
  volatile
as $$
  select app_hidden.transition(app_hidden.visible_request(request_id), 'REJECT', version, jsonb_build_object('review_comment', comment))
$$;
comment on function app_public.reject_request(uuid, text, integer) is
  'Rejects a submitted request, for good. VALIDATION_FAILED without a comment.';

create or replace function app_public.assign_request(
  request_id uuid,
  assigned_to_id uuid default app_hidden.left_out(),
  version integer default null
)
  returns app_public.requests
  language sql
  volatile
as $$
  select app_hidden.transition(app_hidden.visible_request(request_id), 'ASSIGN', version, app_hidden.given('assigned_to_id', assigned_to_id))
$$;
comment on function app_public.assign_request(uuid, uuid, integer) is
  'Assigns a submitted request to one manager or admin, or by null to none in particular.';

grant execute on function
  app_public.create_request(text, text, uuid),
  app_public.update_request(uuid, text, text, uuid, integer),
  app_public.delete_request(uuid, integer),
  app_public.submit_request(uuid, integer),
  app_public.approve_request(uuid, text, integer),
  app_public.reject_request(uuid, text, integer),
  app_public.assign_request(uuid, uuid, integer)
  to assent_user, assent_manager, assent_admin;

create or replace function app_public.update_user(
  user_id uuid,
  name text default app_hidden.left_out()::text,
  role text default app_hidden.left_out()::text
)
  returns app_public.users
  language sql
  volatile
as $$
  select app_hidden.change_user(app_hidden.visible_user(user_id), app_hidden.given('name', name) || app_hidden.given('role', role))
$$;
comment on function app_public.update_user(uuid, text, text) is
  'Renames somebody or changes their role, for admins; it holds from their next request on. What is left out stays as it is. INVALID_TRANSITION: it is the last active admin.';

create or replace function app_public.deactivate_user(user_id uuid)
  returns app_public.users
  language sql
  volatile
as $$
  select app_hidden.change_user(app_hidden.visible_user(user_id), '{"is_deleted": true}')
$$;
comment on function app_public.deactivate_user(uuid) is
  'Deactivates somebody, for admins: their sessions end, what they did keeps their name, and what was assigned to them any manager can decide. INVALID_TRANSITION: it is the last active admin.';

create or replace function app_public.reactivate_user(user_id uuid)
  returns app_public.users
  language sql
  volatile
as $$
  select app_hidden.change_user(app_hidden.visible_user(user_id), '{"is_deleted": false}')
$$;
comment on function app_public.reactivate_user(uuid) is 'Lets somebody in again, for admins.';

grant execute on function
  app_public.update_user(uuid, text, text), app_public.deactivate_user(uuid), app_public.reactivate_user(uuid)
  to assent_user, assent_manager, assent_admin;

-- Queries ----------------------------------------------------------------------------------------------------------

create or replace function app_public.get_current_user()
  returns app_public.users
  language sql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  select u.* from app_public.users u where u.id = app_hidden.current_user_id()
$$;
comment on function app_public.get_current_user() is E'@name currentUser\nWho is asking; null without credentials.';
grant execute on function app_public.get_current_user() to assent_anonymous, assent_user, assent_manager, assent_admin;

create or replace function app_public.requests_awaiting_my_decision()
  returns setof app_public.requests
  language sql
  stable
as $$
  select (d.request).*
  from app_hidden.request_deciders d
  where d.user_id = (select app_hidden.current_user_id())
$$;
comment on function app_public.requests_awaiting_my_decision() is
  E'@behavior +filter +order +condition\n@defaultOrderBy SUBMITTED_AT_ASC PRIMARY_KEY_ASC\nAll that the caller can decide now, oldest first.';
grant execute on function app_public.requests_awaiting_my_decision() to assent_user, assent_manager, assent_admin;

-- Computed fields --------------------------------------------------------------------------------------------------

create or replace function app_public.requests_available_actions(r app_public.requests)
  returns text[]
  language sql
  stable
as $$
  select coalesce(array_agg(t.action order by t.action), '{}')
  from app_public.request_transitions t
  where t.from_status = r.status and not r.is_deleted and t.who = any ((select app_hidden.my_parties(r))::text[])
$$;
comment on function app_public.requests_available_actions(app_public.requests) is
  'What the caller may do with the request now: of UPDATE DELETE SUBMIT APPROVE REJECT ASSIGN.';
grant execute on function app_public.requests_available_actions(app_public.requests) to assent_user, assent_manager, assent_admin;

create or replace function app_public.users_email(u app_public.users)
  returns text
  language sql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  select c.email
  from app_private.credentials c
  -- To make up an id is not enough: who has seen the person also knows, to the microsecond, when they were added.
  join app_public.users seen on seen.id = c.user_id and seen.created_at = u.created_at
  where c.user_id = u.id
    and (u.id = (select app_hidden.current_user_id()) or (select app_hidden.has_permission('user.read_email')))
$$;
comment on function app_public.users_email(app_public.users) is 'The address the person logs in with; null where the caller may not see it.';

create or replace function app_public.users_permissions(u app_public.users)
  returns text[]
  language sql
  stable
as $$
  select array(select p.permission from app_hidden.effective_permissions p where p.role = u.role order by p.permission)
$$;
comment on function app_public.users_permissions(app_public.users) is 'What the person''s role allows, the inherited permissions included.';
grant execute on function app_public.users_email(app_public.users), app_public.users_permissions(app_public.users)
  to assent_anonymous, assent_user, assent_manager, assent_admin;
--! EndIncluded api.sql
--! Included search.sql
-- Searching requests by parts of words. The operator for it is not leakproof, so that under row-level security it would
-- look at every row: this function looks by the index, as the owner, and answers nothing but ids, which row-level
-- security then filters as any others.

create index if not exists requests_search_idx on app_public.requests
  using gin ((title || ' ' || coalesce(description, '')) app_private.gin_trgm_ops);
-- Tells rare words, best found by this index, from those in one of a hundred requests, best found by time.
alter index app_public.requests_search_idx alter column 1 set statistics 300;

create or replace function app_hidden.matching_requests(search text, status text, creator_id uuid, assigned_to_id uuid)
  returns uuid[]
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
  -- How common the words are decides between the order of time and the index; a plan for any words would know neither.
  set plan_cache_mode to force_custom_plan
as $$
declare
  v_me uuid := app_hidden.current_user_id();
  v_sees_others boolean := app_hidden.has_permission('request.read');
  v_sees_drafts boolean := app_hidden.has_permission('request.read_all');
  v_patterns text[];
begin
  -- The longest first. Fewer than three letters or digits together have no trigram to look up.
  select array_agg('%' || regexp_replace(term, '([\\%_])', '\\\1', 'g') || '%' order by char_length(longest[1]) desc nulls last)
  into v_patterns
  from regexp_split_to_table(search, '\s+') term
  left join lateral regexp_matches(term, '[[:alnum:]]{3,}', 'g') longest on true
  where term <> '';
  if char_length(search) > 200 or search !~ '[[:alnum:]]{3}' then
    raise exception using errcode = 'RQ422', column = 'search',
      message = 'A search has at most 200 characters, and among them three letters or digits together.';
  end if;

  return array(
    select r.id
    from app_public.requests r
    -- One by one, because the rarest of them, not the longest, is what the index is for.
    where r.title || ' ' || coalesce(r.description, '') ilike v_patterns[1]
      and (v_patterns[2] is null or r.title || ' ' || coalesce(r.description, '') ilike v_patterns[2])
      and (v_patterns[3] is null or r.title || ' ' || coalesce(r.description, '') ilike v_patterns[3])
      and r.title || ' ' || coalesce(r.description, '') ilike all (v_patterns[4:])
      and (r.creator_id = v_me or v_sees_drafts or (v_sees_others and r.submitted_at is not null))
      and (matching_requests.status is null or r.status = matching_requests.status)
      and (matching_requests.creator_id is null or r.creator_id = matching_requests.creator_id)
      and (matching_requests.assigned_to_id is null or r.assigned_to_id = matching_requests.assigned_to_id)
      and not r.is_deleted
    order by r.created_at desc, r.id desc
    limit 500
  );
end
$$;
comment on function app_hidden.matching_requests(text, text, uuid, uuid) is
  'The newest 500 requests that contain every word of the search in their title or description, in any letter case; null: whatever the status, the creator, the assignee. Passes over what the caller cannot see, lest that fill the 500: whether they see the rest is for row-level security to say. Raises RQ422.';
grant execute on function app_hidden.matching_requests(text, text, uuid, uuid) to assent_user, assent_manager, assent_admin;
--! EndIncluded search.sql
--! Included rest.sql
-- What REST shows: each resource as one JSON document; and how a request changes by a JSON body. server/routes.ts says
-- which route shows what. Rows are read as the caller, so that row-level security decides which there are. Their documents
-- are made as the owner: who sees a request sees the names of the people on it, which row-level security on people would
-- find out at many times the cost; and a plan of the owner's holds for callers of every role.

create or replace view app_private.people with (security_invoker = true) as
  select u.id, u.name, u.role from app_public.users u;
comment on view app_private.people is 'A person as part of something else.';

create or replace function app_hidden.request_document(seen app_public.requests)
  returns json
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_document json;
begin
  -- As in transition(): who has seen the request also knows, to the microsecond, when it was created.
  select row_to_json(d) into v_document
  from app_public.requests r
  cross join lateral (
    select r.id, r.title, r.description, r.status, r.version,
      (select p from app_private.people p where p.id = r.creator_id) as creator,
      (select p from app_private.people p where p.id = r.assigned_to_id) as assigned_to,
      (select p from app_private.people p where p.id = r.reviewed_by_id) as reviewed_by,
      r.reviewed_at, r.review_comment, r.submitted_at, r.created_at, r.updated_at,
      app_public.requests_available_actions(r) as available_actions
  ) d
  where r.id = seen.id and r.created_at = seen.created_at;
  return v_document;
end
$$;
comment on function app_hidden.request_document(app_public.requests) is 'A request that the caller has seen, as REST shows it.';

create or replace function app_hidden.audit_log_document(seen app_public.audit_logs)
  returns json
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_document json;
begin
  select row_to_json(d) into v_document
  from app_public.audit_logs a
  cross join lateral (
    select a.id, (select p from app_private.people p where p.id = a.actor_id) as actor, a.action, a.request_id, a.user_id,
      a.metadata, host(a.ip_address) as ip_address, a."timestamp"
  ) d
  where a.id = seen.id and a."timestamp" = seen."timestamp";
  return v_document;
end
$$;
comment on function app_hidden.audit_log_document(app_public.audit_logs) is 'An audit entry that the caller has seen, as REST shows it.';

create or replace function app_hidden.user_document(seen app_public.users)
  returns json
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_document json;
begin
  -- What was seen is shown, and the address to whom users_email() tells it.
  select row_to_json(d) into v_document
  from (
    select seen.id, app_public.users_email(seen) as email, seen.name, seen.role, app_public.users_permissions(seen) as permissions,
      seen.is_deleted, seen.created_at
  ) d;
  return v_document;
end
$$;
comment on function app_hidden.user_document(app_public.users) is 'A person that the caller has seen, as REST shows them.';

grant execute on function
  app_hidden.request_document(app_public.requests),
  app_hidden.audit_log_document(app_public.audit_logs),
  app_hidden.user_document(app_public.users)
  to assent_user, assent_manager, assent_admin;

create or replace function app_hidden.act_on_request(
  request_id uuid,
  action text,
  expected_versions integer[],
  body jsonb,
  out version integer,
  out document json
)
  language plpgsql
  volatile
as $$
declare
  v_request app_public.requests;
begin
  if request_id is not null then
    v_request := app_hidden.visible_request(request_id);
  end if;
  v_request := app_hidden.transition(
    v_request,
    action,
    -- Any of them will do: the one that may still be current once the request is locked. None at all is no version.
    case when v_request.version = any (expected_versions) then v_request.version
      when expected_versions is not null then coalesce(expected_versions[1], 0) end,
    body - 'comment' || case when body ? 'comment' then jsonb_build_object('review_comment', body -> 'comment') else '{}' end
  );
  version := v_request.version;
  -- A statement of its own sees what transition() has written.
  document := app_hidden.request_document(v_request);
end
$$;
comment on function app_hidden.act_on_request(uuid, text, integer[], jsonb) is
  'Takes an action on a request (no id: CREATE) by a JSON body, and shows what became of it; where versions are expected (If-Match), at one of them. Raises as transition() does.';
grant execute on function app_hidden.act_on_request(uuid, text, integer[], jsonb) to assent_user, assent_manager, assent_admin;
--! EndIncluded rest.sql
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
    'roles', 'role_permissions', 'request_statuses', 'request_parties', 'request_transitions', 'audit_actions'
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

-- Derived from the above, as the caller.
grant select on app_hidden.deciders, app_hidden.request_deciders to assent_user, assent_manager, assent_admin, assent_auditor;
--! EndIncluded policies.sql
