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
  -- Neither quoted nor with a comment (RFC 5321, 4.1.2): a mail program could read another address in it.
  constraint credentials_email_check check (
    char_length(email) <= 254
    and email ~ '^[^[:space:][:cntrl:]@<>()\[\]\\,;:"]+@[^[:space:][:cntrl:]@<>()\[\]\\,;:".]+(\.[^[:space:][:cntrl:]@<>()\[\]\\,;:".]+)*$'
  )
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
