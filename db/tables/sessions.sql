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
