-- A token or a cookie names a session. Neither proves anything by itself: each request looks up the row here.

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
comment on table app_private.sessions is 'One row for each login. Secrets are 256 random bits, and kept as SHA-256.';
comment on column app_private.sessions.id is 'Time-ordered UUID (version 7).';
comment on column app_private.sessions.user_id is 'Who logged in.';
comment on column app_private.sessions.secret_hash is
  'SHA-256 of the secret that the access token carries, or the cookie after "cookie:".';
comment on column app_private.sessions.refresh_hash is
  'SHA-256 of the refresh token that was issued last; null for a session by cookie.';
comment on column app_private.sessions.created_at is 'When they logged in.';
comment on column app_private.sessions.expires_at is 'When the session ends at the latest.';
comment on column app_private.sessions.revoked_at is 'When it was ended before that.';
comment on column app_private.sessions.last_used_at is 'When it was last used, to the minute. See app_private.is_live.';
comment on column app_private.sessions.ip_address is 'The IP address that they logged in from.';
comment on column app_private.sessions.user_agent is 'The User-Agent that they logged in with.';
create index if not exists sessions_user_id_idx on app_private.sessions (user_id);
-- For clear_batch().
create index if not exists sessions_expires_at_idx on app_private.sessions (expires_at);

create table if not exists app_private.refresh_tokens (
  token_hash bytea primary key,
  session_id uuid not null references app_private.sessions on delete cascade,
  is_used boolean not null,
  good_until timestamptz not null
);
create index if not exists refresh_tokens_session_id_idx on app_private.refresh_tokens (session_id);
comment on table app_private.refresh_tokens is
  'The refresh tokens of a session that are good beside the one that was issued last. See app_hidden.refresh_session.';
comment on column app_private.refresh_tokens.token_hash is 'SHA-256 of the token.';
comment on column app_private.refresh_tokens.session_id is 'Which session it refreshes.';
comment on column app_private.refresh_tokens.is_used is
  'True if it was exchanged, and serves a second caller; false if another was issued after it, to a second caller.';
comment on column app_private.refresh_tokens.good_until is
  'When it ends: 10 seconds after it was exchanged, or 12 hours after a token was first exchanged twice.';

-- Login attempts -----------------------------------------------------------------------------------------------------

create table if not exists app_private.login_attempts (
  id uuid primary key default app_private.uuid_v7(),
  account_key bytea not null,
  network cidr,
  attempted_at timestamptz not null default clock_timestamp(),
  failed boolean not null default false
);
comment on table app_private.login_attempts is
  'Guesses at passwords that are under way, and those that failed in the last 15 minutes. A success removes its row: only '
  'failures count.';
comment on column app_private.login_attempts.id is 'Time-ordered UUID (version 7).';
comment on column app_private.login_attempts.account_key is
  'What is guessed at: SHA-256 of the email address as app_private.email_key compares it, whether or not there is such an '
  'account, or of the session whose person is asked for their old password.';
comment on column app_private.login_attempts.network is
  'The caller''s IPv4 address, or the /64 network of their IPv6 address, because that much belongs to one subscriber; null if '
  'it is unknown or does not count.';
comment on column app_private.login_attempts.attempted_at is 'When the attempt began.';
comment on column app_private.login_attempts.failed is 'True if the password was wrong; false while it is being checked.';
create index if not exists login_attempts_account_key_idx on app_private.login_attempts (account_key, attempted_at);
create index if not exists login_attempts_network_idx on app_private.login_attempts (network, attempted_at);
create index if not exists login_attempts_attempted_at_idx on app_private.login_attempts (attempted_at);

-- Links to choose a password -----------------------------------------------------------------------------------------

create table if not exists app_private.password_resets (
  secret_hash bytea primary key,
  user_id uuid not null references app_public.users on delete cascade,
  expires_at timestamptz not null
);
create index if not exists password_resets_user_id_idx on app_private.password_resets (user_id);
create index if not exists password_resets_expires_at_idx on app_private.password_resets (expires_at);
comment on table app_private.password_resets is
  'Links by which somebody can choose a password, once: the first one, or another for one that is forgotten.';
comment on column app_private.password_resets.secret_hash is 'SHA-256 of the secret in the link.';
comment on column app_private.password_resets.user_id is 'Who can choose a password by it.';
comment on column app_private.password_resets.expires_at is
  'When the link expires: 30 minutes after its mail was made, or 72 hours if the mail is an invitation.';

create table if not exists app_private.password_reset_requests (
  id uuid primary key default app_private.uuid_v7(),
  account_key bytea not null,
  network cidr,
  requested_at timestamptz not null default now()
);
create index if not exists password_reset_requests_account_key_idx
  on app_private.password_reset_requests (account_key, requested_at);
create index if not exists password_reset_requests_network_idx on app_private.password_reset_requests (network, requested_at);
create index if not exists password_reset_requests_requested_at_idx on app_private.password_reset_requests (requested_at);
comment on table app_private.password_reset_requests is
  'Requests for such a link in the last 15 minutes. Those for addresses without an account count too; otherwise the allowance '
  'of a network would reveal which addresses have one.';
comment on column app_private.password_reset_requests.id is 'Time-ordered UUID (version 7).';
comment on column app_private.password_reset_requests.account_key is
  'SHA-256 of the email address as app_private.email_key compares it, whether or not there is such an account.';
comment on column app_private.password_reset_requests.network is
  'The caller''s IPv4 address, or the /64 network of their IPv6 address.';
comment on column app_private.password_reset_requests.requested_at is 'When its job ran.';
