-- REST, sessions and people.
alter table app_private.sessions
  alter column refresh_hash drop not null,
  add column if not exists last_used_at timestamptz not null default now(),
  add column if not exists ip_address inet,
  add column if not exists user_agent text;
drop function if exists app_hidden.finish_login(uuid, text, text);
revoke execute on function app_hidden.begin_login(text) from :DATABASE_AUTHENTICATOR;

--!include schemas.sql
--!include users.sql
--!include sessions.sql
--!include identity.sql
--!include audit.sql
--!include validation.sql
--!include lifecycle.sql
--!include login.sql
--!include people.sql
--!include idempotency.sql
--!include api.sql
--!include search.sql
--!include rest.sql
--!include policies.sql
