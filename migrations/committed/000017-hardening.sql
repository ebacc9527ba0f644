--! Previous: sha1:efe51054162ff824774fa99d3cb90d867ab64195
--! Hash: sha1:58caf01cd6b45aaf8fd5be1b82b95593977ebf07
--! Message: hardening

-- Closed sets are tables, which GraphQL shows as enums.
comment on table app_public.audit_actions is
  E'@enum\n@enumName AuditAction\n@behavior -*\nEvery kind of entry that the trail can hold.';
comment on column app_public.audit_logs.action is E'@behavior +orderBy\nWhat was done.';
comment on table app_public.notification_kinds is
  E'@enum\n@enumName NotificationKind\n@behavior -*\nWhat people can be notified of.';
comment on column app_public.notification_kinds.headline is
  E'@enumDescription\nThe kind in words, with which the subject of its mail begins.';
create table if not exists app_public.mail_deliveries (
  delivery text primary key,
  description text not null
);
comment on table app_public.mail_deliveries is
  E'@enum\n@enumName MailDelivery\n@behavior -*\n'
  'How somebody can be notified by mail. The inbox shows a notification in any case.';
comment on column app_public.mail_deliveries.delivery is 'The name of the delivery.';
comment on column app_public.mail_deliveries.description is 'What it means.';

insert into app_public.mail_deliveries (delivery, description) values
  ('AT_ONCE', 'A mail of its own.'),
  ('DIGEST',  'Included in the digest, on weekdays. For the digest itself, it is the same as AT_ONCE.'),
  ('NONE',    'No mail.')
on conflict (delivery) do update
  set description = excluded.description
  where (mail_deliveries.*) is distinct from (excluded.*);

alter table app_private.notification_preferences
  drop constraint if exists notification_preferences_delivery_check,
  drop constraint if exists notification_preferences_delivery_fkey;
alter table app_private.notification_preferences
  add constraint notification_preferences_delivery_fkey foreign key (delivery) references app_public.mail_deliveries
    on update cascade on delete restrict not valid;
-- The table is small.
-- squawk-ignore constraint-missing-not-valid
alter table app_private.notification_preferences validate constraint notification_preferences_delivery_fkey;
create index if not exists notification_preferences_delivery_idx on app_private.notification_preferences (delivery);
comment on constraint notification_preferences_delivery_fkey on app_private.notification_preferences is
  'The delivery must be AT_ONCE, DIGEST or NONE.';
comment on table app_public.webhook_deliveries is
  E'@defaultOrderBy CREATED_AT_DESC\n@foreignKey (state) references app_public.webhook_delivery_states (state)\n'
  'What is sent to a webhook: one row for each event.';
comment on column app_public.webhook_deliveries.state is E'@behavior -orderBy\nWhat has become of it.';
-- Lock-out by network
comment on column app_private.login_attempts.account_key is
  'What is guessed at: SHA-256 of the email address in lower case, whether or not there is such an account, or of the session '
  'whose person is asked for their old password.';
comment on column app_private.login_attempts.network is
  'The caller''s IPv4 address, or the /64 network of their IPv6 address, because that much belongs to one subscriber; null if '
  'it is unknown or does not count.';
comment on table app_private.login_attempts is
  'Guesses at passwords that are under way, and those that failed in the last 15 minutes. A success removes its row: only '
  'failures count.';

-- The trail
alter table app_public.audit_logs add column if not exists database_login name;
comment on column app_public.audit_logs.database_login is
  E'@behavior -*\n'
  'The login to the database that wrote the entry: that of the API, of the worker, or of whoever used SQL. It is null in entries '
  'of version 0.1. Callers are not shown it, and auditors are.';
insert into app_public.audit_actions (action, is_told, description) values
  ('PREFERENCE_CHANGE', false, 'Somebody changed how they are notified by mail.'),
  ('PERMISSION_CHANGE', false, 'What people may do was changed by SQL.'),
  ('CREDENTIALS_CHANGE', false, 'Somebody''s address or credentials were changed by SQL.'),
  ('SESSION_OPEN',    false, 'A session was opened by SQL, without a login.'),
  ('SESSION_CHANGE',  false, 'A session was changed by SQL.')
on conflict (action) do update
  set description = excluded.description, is_told = excluded.is_told
  where (audit_actions.*) is distinct from (excluded.*);
-- Searches: nobody filters by these columns, so that statistics of them would be a waste.
alter index app_public.requests_grams_idx alter column 1 set statistics 0;
alter index app_public.users_grams_idx alter column 1 set statistics 0;
alter index app_private.credentials_grams_idx alter column 1 set statistics 0;
-- What is blank
create or replace function app_private.blanks()
  returns text
  language sql
  immutable
as $$
  select U&'\0001-\0020\007F-\00A0\00AD\034F\0600-\0605\061C\06DD\070F\0890\0891\08E2\115F\1160\1680\17B4\17B5\180B-\180F'
    '\2000-\200F\2028-\202F\205F-\206F\2800\3000\3164\FE00-\FE0F\FEFF\FFA0\FFF0-\FFFB'
    '\+0110BD\+0110CD\+013430-\+01343F\+013441\+013442\+016FE4\+01BCA0-\+01BCA3\+01D159\+01D173-\+01D17A\+0E0000-\+0E0FFF'
$$;
comment on function app_private.blanks() is
  'The characters that show nothing, for a bracket expression: those which Unicode 17 has as White_Space, '
  'Default_Ignorable_Code_Point, Cc (controls) or Cf (format), and five whose name alone says that they are empty (U+2800, '
  'U+13441, U+13442, U+16FE4, U+1D159). A combining mark shows, even on nothing. They are spelt out, so that neither the '
  'locale nor the version of PostgreSQL matters.';

create or replace function app_private.is_blank(value text)
  returns boolean
  language sql
  immutable
as $$
  select value !~ ('[^' || app_private.blanks() || ']')
$$;
comment on function app_private.is_blank(text) is 'Does it contain no character that shows? See app_private.blanks().';

-- Bringing text into NFC takes the square of its length, and no address has 1,000 characters.
create or replace function app_private.email_key(email text)
  returns text
  language sql
  immutable
as $$
  -- The lower case of a capital sigma depends on its place and on the locale: its two small forms count as one.
  select translate(
    normalize(lower(normalize(regexp_replace(left(email, 1000), '[' || app_private.blanks() || ']+', '', 'g'), NFC)), NFC),
    U&'\03C2', U&'\03C3')
$$;
comment on function app_private.email_key(text) is
  'What an email address is compared by, wherever somebody types it: addresses that differ only in letter case, in canonically '
  'equivalent spellings or in what shows nothing are one.';

-- Addresses as people type them: those that are the same already are marked, and neither merged nor changed.
alter table app_private.credentials add column if not exists collides boolean not null default false;
comment on column app_private.credentials.collides is
  'Whether the address was already the same as another''s when addresses began to be compared by email_key. Such a person logs '
  'in by the address exactly as it is, but for letter case. See audit.colliding_addresses.';
comment on column app_private.credentials.email is
  'The email address, cleaned by app_private.clean_email and compared by app_private.email_key.';
alter table app_private.credentials drop constraint if exists credentials_email_shows;
alter table app_private.credentials add constraint credentials_email_shows
  check (email !~ ('[' || app_private.blanks() || ']')) not valid;
do $$
begin
  alter table app_private.credentials validate constraint credentials_email_shows;
exception
  when check_violation then
    raise warning 'There are email addresses with characters that show nothing. They stay as they are.';
end
$$;
comment on constraint credentials_email_shows on app_private.credentials is
  'The email address must not contain blanks or characters that show nothing.';
do $$
declare
  v_count integer;
begin
  lock table app_private.credentials in share row exclusive mode;
  if to_regclass('app_private.credentials_email_key_key') is null then
    update app_private.credentials c
    set collides = true
    from (
      -- Who has the plain spelling keeps it; of the others, the oldest.
      select user_id, row_number() over (
        partition by app_private.email_key(email) order by lower(email) <> app_private.email_key(email), user_id
      ) as place
      from app_private.credentials
    ) same
    where same.user_id = c.user_id and same.place > 1 and not c.collides;
    get diagnostics v_count = row_count;
    if v_count > 0 then
      raise warning '% email addresses are the same as another''s, but for how they are spelt: see audit.colliding_addresses.',
        v_count;
    end if;
    create unique index credentials_email_key_key on app_private.credentials (app_private.email_key(email)) where not collides;
  end if;
end
$$;

-- Webhooks that were removed
alter table app_public.webhooks add column if not exists is_deleted boolean not null default false;
comment on column app_public.webhooks.is_deleted is
  E'@behavior -*\nWhether it was removed. What was sent to it stays on record, for auditors.';
-- Ports of webhooks
-- One that there is not can have received nothing; its webhook would be in the way of the constraint at every change.
update app_public.webhooks set url = regexp_replace(url, '^(https?://[^/?#]*:)[0-9]+', '\1' || 65535)
where coalesce(substring(url from '^https?://[^/?#]*:([0-9]+)(?:[/?#].*)?$')::numeric, 0) <= 65535 is not true;
alter table app_public.webhooks drop constraint if exists webhooks_url_port;
alter table app_public.webhooks add constraint webhooks_url_port check (
  coalesce(substring(url from '^https?://[^/?#]*:([0-9]+)(?:[/?#].*)?$')::numeric, 0) <= 65535
) not valid;
-- The table is small.
-- squawk-ignore constraint-missing-not-valid
alter table app_public.webhooks validate constraint webhooks_url_port;
comment on constraint webhooks_url_port on app_public.webhooks is 'The port of the URL must be at most 65535.';
-- Accounts by invitation
-- squawk-ignore ban-drop-not-null
alter table app_private.credentials alter column password_hash drop not null;
comment on column app_private.credentials.password_hash is
  'bcrypt (pgcrypto''s crypt) of the password''s digest, see app_private.hash_password. Null until the person has chosen a '
  'password; nobody can log in without one.';
comment on table app_private.password_resets is
  'Links by which somebody can choose a password, once: the first one, or another for one that is forgotten.';
comment on column app_private.password_resets.user_id is 'Who can choose a password by it.';
comment on column app_private.password_resets.expires_at is
  'When the link expires: 30 minutes after its mail was made, or 72 hours if the mail is an invitation.';
comment on column app_public.notifications.kind is
  E'@behavior -orderBy\n'
  'SUBMITTED, ASSIGNED and REMINDER ask for a decision; APPROVED and REJECTED report one; ACCOUNT_CREATED, INVITATION, '
  'ROLE_CHANGED, PASSWORD_CHANGED and PASSWORD_RESET are about the recipient''s account.';
insert into app_public.audit_actions (action, is_told, description) values
  ('SESSION_REVOKE',  false, 'Sessions were ended: by their owner, by an admin, by another login in the same browser,'
    ' because there were more than 20 or, without an actor, because a refresh token was used twice.'),
  ('INVITATION_RESEND', true, 'Somebody who had not chosen a password yet was invited again, which ended the earlier link.')
on conflict (action) do update
  set description = excluded.description, is_told = excluded.is_told
  where (audit_actions.*) is distinct from (excluded.*);
insert into app_public.notification_kinds (kind, action, headline, is_shown, is_mandatory, asks_for_decision) values
  ('INVITATION', 'INVITATION_RESEND', 'Choose your password', false, true, false)
on conflict (kind) do update
  set action = excluded.action, headline = excluded.headline, is_shown = excluded.is_shown,
    is_mandatory = excluded.is_mandatory, asks_for_decision = excluded.asks_for_decision
  where (notification_kinds.*) is distinct from (excluded.*);

-- Sessions
comment on column app_private.sessions.refresh_hash is
  'SHA-256 of the refresh token that was issued last; null for a session by cookie.';
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

-- Idempotency keys
alter table app_private.idempotency_keys add column if not exists permissions text[] not null default '{}';
comment on column app_private.idempotency_keys.permissions is
  'What the person was allowed to do then. Whoever has lost a permission since is not shown the response.';
comment on column app_private.idempotency_keys.fingerprint is
  'A digest of method, path, body and If-Match. It is keyed, because bodies can hold passwords.';
