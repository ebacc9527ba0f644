-- A POST that is repeated with the same Idempotency-Key takes effect once, and gets the first response again (IETF draft "The
-- Idempotency-Key HTTP Header Field"). What claims a key and keeps a response is in rules/idempotency.sql.

create table if not exists app_private.idempotency_keys (
  user_id uuid not null references app_public.users on delete cascade,
  key text not null,
  fingerprint bytea not null,
  answer json not null,
  created_at timestamptz not null default now(),
  permissions text[] not null default '{}',
  primary key (user_id, key),
  constraint idempotency_keys_key_length check (char_length(key) between 1 and 255)
);
create index if not exists idempotency_keys_created_at_idx on app_private.idempotency_keys (created_at);
comment on table app_private.idempotency_keys is 'Responses that are kept for 24 hours, in case the request is repeated.';
comment on column app_private.idempotency_keys.user_id is 'Whose key it is: the same key of two people is two keys.';
comment on column app_private.idempotency_keys.key is 'The key as the caller sent it.';
comment on column app_private.idempotency_keys.fingerprint is
  'A digest of method, path, body and If-Match. It is keyed, because bodies can hold passwords.';
comment on column app_private.idempotency_keys.answer is 'The response: status, headers and body.';
comment on column app_private.idempotency_keys.created_at is 'When the first response was sent.';
comment on column app_private.idempotency_keys.permissions is
  'What the person was allowed to do then. Whoever has lost a permission since is not shown the response.';
comment on constraint idempotency_keys_key_length on app_private.idempotency_keys is
  'An Idempotency-Key must have 1 to 255 characters.';
