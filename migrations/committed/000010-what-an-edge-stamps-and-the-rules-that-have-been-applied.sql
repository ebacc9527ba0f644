--! Previous: sha1:4ccf7f67e7f0f4b1dad85732ecd2f078919b8256
--! Hash: sha1:572287f672f319c2cc013a1cffcd7680b7d07cda
--! Message: what an edge stamps, and the rules that have been applied

-- The state machine is whole in its table: what an action itself writes.
alter table app_public.request_transitions add column if not exists stamps jsonb not null default '{}';
alter table app_public.request_transitions drop constraint if exists request_transitions_stamps_object;
alter table app_public.request_transitions
  add constraint request_transitions_stamps_object check (jsonb_typeof(stamps) = 'object') not valid;
alter table app_public.request_transitions validate constraint request_transitions_stamps_object;
comment on column app_public.request_transitions.stamps is 'What the action itself writes, a value for each column: "@now" is the time, "@caller" whoever does it, null clears.';
comment on constraint request_transitions_stamps_object on app_public.request_transitions is 'Stamps are a JSON object.';
update app_public.request_transitions set stamps = '{"is_deleted": true}' where action = 'DELETE';
update app_public.request_transitions set stamps = '{"submitted_at": "@now"}' where action = 'SUBMIT';
update app_public.request_transitions set stamps = '{"reviewed_at": "@now", "reviewed_by_id": "@caller"}' where action in ('APPROVE', 'REJECT');

-- The rules that have been applied (server/setup/migrate.ts).
create table if not exists app_private.applied_rules (
  file text primary key,
  hash text not null,
  applied_at timestamptz not null default clock_timestamp()
);
comment on table app_private.applied_rules is 'The files of db/rules and db/doors as they were last applied: a file whose hash differs is applied again.';
comment on column app_private.applied_rules.file is 'Its path below db/.';
comment on column app_private.applied_rules.hash is 'SHA-256 of its text and of the migrations that it was applied after.';
comment on column app_private.applied_rules.applied_at is 'When.';
