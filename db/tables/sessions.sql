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

-- Attempts at a password ---------------------------------------------------------------------------------------------

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

-- Links by which a new password is chosen ----------------------------------------------------------------------------

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
