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
