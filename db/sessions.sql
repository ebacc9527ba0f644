-- Sessions: what a token names. A token proves nothing by itself; the row here does, at each request.

create table if not exists app_private.sessions (
  id uuid primary key default app_private.uuid_v7(),
  user_id uuid not null references app_public.users on delete cascade,
  secret_hash bytea not null,
  refresh_hash bytea not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  revoked_at timestamptz,
  constraint sessions_secret_hash_key unique (secret_hash),
  constraint sessions_refresh_hash_key unique (refresh_hash)
);
comment on table app_private.sessions is 'One row a login. Secrets are 256 random bits, kept as SHA-256.';
comment on column app_private.sessions.id is 'Time-ordered UUID (version 7).';
comment on column app_private.sessions.user_id is 'Who logged in.';
comment on column app_private.sessions.secret_hash is 'SHA-256 of the secret that the access token carries.';
comment on column app_private.sessions.refresh_hash is 'SHA-256 of the refresh token.';
comment on column app_private.sessions.created_at is 'When they logged in.';
comment on column app_private.sessions.expires_at is 'The end of the session whatever happens.';
comment on column app_private.sessions.revoked_at is 'Set by logout: dead from then on.';
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
