-- People. What others may see of them is in app_public; the address and the password that they log in with are in app_private.

create table if not exists app_public.users (
  id uuid primary key default app_private.uuid_v7(),
  name text not null,
  role text not null default 'USER' references app_public.roles on update cascade on delete restrict,
  is_deleted boolean not null default false,
  created_at timestamptz not null default clock_timestamp(),
  erased_at timestamptz,
  constraint users_name_check check (char_length(name) <= 200 and not app_private.is_blank(name))
);
comment on table app_public.users is
  E'@defaultOrderBy CREATED_AT_DESC\n'
  'A person. People are never removed, only deactivated, because the trail of what they did must keep their name.';
comment on column app_public.users.id is 'Time-ordered UUID (version 7).';
comment on column app_public.users.name is 'What others call the person; 1 to 200 characters.';
comment on column app_public.users.role is 'What the person may do, by the permissions of the role.';
comment on column app_public.users.is_deleted is
  'Whether the person is deactivated: they can no longer log in, and all their sessions have ended.';
comment on column app_public.users.created_at is 'When the account was created.';
comment on column app_public.users.erased_at is
  E'@behavior -*\nWhen the person''s data were erased, on their request: see app_private.erase_person.';
comment on constraint users_role_fkey on app_public.users is 'There is no such role.';
comment on constraint users_name_check on app_public.users is 'The name must have 1 to 200 characters, and must not be blank.';

create index if not exists users_role_idx on app_public.users (role, is_deleted);
create index if not exists users_created_at_idx on app_public.users (created_at, id);
create index if not exists users_name_idx on app_public.users (name, id);
-- For searches: see rules/search.sql.
create index if not exists users_grams_idx on app_public.users using gin (app_private.grams(name));
alter index app_public.users_grams_idx alter column 1 set statistics 0;

create table if not exists app_private.credentials (
  user_id uuid primary key references app_public.users on delete cascade,
  email text not null,
  password_hash text,
  collides boolean not null default false,
  -- Quoted local parts and comments (RFC 5321, 4.1.2) are refused: a mail program could read another address in them.
  constraint credentials_email_check check (
    char_length(email) <= 254
    and email ~ '^[^[:space:][:cntrl:]@<>()\[\]\\,;:"]+@'
      '[^[:space:][:cntrl:]@<>()\[\]\\,;:".]+(\.[^[:space:][:cntrl:]@<>()\[\]\\,;:".]+)*$'
    -- No label of a domain begins or ends with a hyphen (RFC 1123, 2.1). Unicode's noncharacters are in no text.
    and email !~ '@-|@.*(-\.|\.-)|-$'
    and email !~ ('[\uFDD0-\uFDEF\uFFFE\uFFFF\U0001FFFE\U0001FFFF\U0002FFFE\U0002FFFF\U0003FFFE\U0003FFFF\U0004FFFE\U0004FFFF'
      '\U0005FFFE\U0005FFFF\U0006FFFE\U0006FFFF\U0007FFFE\U0007FFFF\U0008FFFE\U0008FFFF\U0009FFFE\U0009FFFF'
      '\U000AFFFE\U000AFFFF\U000BFFFE\U000BFFFF\U000CFFFE\U000CFFFF\U000DFFFE\U000DFFFF\U000EFFFE\U000EFFFF'
      '\U000FFFFE\U000FFFFF\U0010FFFE\U0010FFFF]')
  ),
  constraint credentials_email_shows check (email !~ ('[' || app_private.blanks() || ']'))
);
comment on table app_private.credentials is 'What a person logs in with.';
comment on column app_private.credentials.user_id is 'Whose credentials they are.';
comment on column app_private.credentials.email is
  'The email address, cleaned by app_private.clean_email and compared by app_private.email_key.';
comment on column app_private.credentials.password_hash is
  'bcrypt (pgcrypto''s crypt) of the password''s digest, see app_private.hash_password. Null until the person has chosen a '
  'password; nobody can log in without one.';
comment on constraint credentials_email_check on app_private.credentials is 'This is not an email address.';
comment on constraint credentials_email_shows on app_private.credentials is
  'The email address must not contain blanks or characters that show nothing.';
comment on column app_private.credentials.collides is
  'Whether the address was already the same as another''s when addresses began to be compared by email_key. Such a person logs '
  'in by the address exactly as it is, but for letter case. See audit.colliding_addresses.';
create unique index if not exists credentials_email_key on app_private.credentials (lower(email));
-- For searches: see rules/search.sql.
create index if not exists credentials_grams_idx on app_private.credentials using gin (app_private.grams(email));
alter index app_private.credentials_grams_idx alter column 1 set statistics 0;
create unique index if not exists credentials_email_key_key on app_private.credentials (app_private.email_key(email))
  where not collides;
