-- Webhooks notify programs. An admin registers a URL and the events that it receives; each event becomes one delivery to each
-- webhook, with a job of its own. Deliveries are signed as Standard Webhooks 1.0 (standardwebhooks.com) says, by
-- server/jobs/webhooks.ts.

create table if not exists app_public.webhook_events (
  event text primary key,
  action text not null references app_public.audit_actions on update cascade on delete restrict,
  description text not null,
  constraint webhook_events_action_key unique (action)
);
comment on table app_public.webhook_events is E'@behavior -*\nThe events that a webhook can receive.';
comment on column app_public.webhook_events.event is 'The name of the event, as deliveries carry it.';
comment on column app_public.webhook_events.action is 'The action that it reports.';
comment on column app_public.webhook_events.description is 'What happened.';

insert into app_public.webhook_events (event, action, description) values
  ('request.submitted', 'SUBMIT',          'A request was submitted.'),
  ('request.assigned',  'ASSIGN',          'A submitted request was assigned.'),
  ('request.approved',  'APPROVE',         'A request was approved.'),
  ('request.rejected',  'REJECT',          'A request was rejected.'),
  ('user.created',      'USER_CREATE',     'A person was added.'),
  ('user.updated',      'USER_UPDATE',     'A person''s name or role was changed.'),
  ('user.deactivated',  'USER_DEACTIVATE', 'A person was deactivated.'),
  ('user.reactivated',  'USER_REACTIVATE', 'A person was reactivated.')
on conflict (event) do update
  set action = excluded.action, description = excluded.description
  where (webhook_events.*) is distinct from (excluded.*);

create table if not exists app_public.webhooks (
  id uuid primary key default app_private.uuid_v7(),
  url text not null,
  events text[] not null,
  signing_key text not null,
  is_enabled boolean not null default true,
  failing_since timestamptz,
  failed_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  is_deleted boolean not null default false,
  constraint webhooks_url_length check (char_length(url) <= 2000),
  constraint webhooks_url_form check (url ~ '^https?://[^[:space:][:cntrl:]/?#@\\]+([/?#][^[:space:][:cntrl:]]*)?$'),
  constraint webhooks_url_port check (
    coalesce(substring(url from '^https?://[^/?#]*:([0-9]+)(?:[/?#].*)?$')::numeric, 0) <= 65535
  ),
  constraint webhooks_events_check check (cardinality(events) > 0)
);
comment on table app_public.webhooks is
  E'@defaultOrderBy CREATED_AT_DESC\nA URL that receives events as signed POST requests (Standard Webhooks). For admins.';
comment on column app_public.webhooks.id is 'Time-ordered UUID (version 7).';
comment on column app_public.webhooks.url is
  E'@behavior -orderBy\nWhere events are sent: an http or https URL without a user name.';
comment on column app_public.webhooks.events is
  E'@behavior -orderBy -filterBy\n'
  'The events that it receives, of request.submitted, request.assigned, request.approved, request.rejected, user.created, '
  'user.updated, user.deactivated, user.reactivated.';
comment on column app_public.webhooks.signing_key is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy\n'
  'The key that its deliveries are signed with: "whsec_" and base64 of 256 random bits.';
comment on column app_public.webhooks.is_enabled is
  E'@behavior -orderBy\n'
  'Whether it is switched on. While it is off, nothing is sent. It is switched off automatically after a week of failures.';
comment on column app_public.webhooks.failing_since is
  E'@behavior -orderBy\n'
  'When it began to fail: the first failure since the last success, or since two days without a failure (no attempt waits '
  'that long for the next).';
comment on column app_public.webhooks.failed_at is E'@behavior -*\nWhen it last failed.';
comment on column app_public.webhooks.created_at is 'When it was registered.';
comment on column app_public.webhooks.is_deleted is
  E'@behavior -*\nWhether it was removed. What was sent to it stays on record, for auditors.';
comment on constraint webhooks_url_length on app_public.webhooks is 'The URL must have at most 2,000 characters.';
comment on constraint webhooks_url_form on app_public.webhooks is
  'The URL must begin with https:// or http://, and must not contain a user name.';
comment on constraint webhooks_url_port on app_public.webhooks is 'The port of the URL must be at most 65535.';
comment on constraint webhooks_events_check on app_public.webhooks is 'A webhook needs at least one event.';
create index if not exists webhooks_created_at_idx on app_public.webhooks (created_at, id);

create table if not exists app_public.webhook_deliveries (
  id uuid primary key default app_private.uuid_v7(),
  webhook_id uuid not null references app_public.webhooks on delete cascade,
  -- No key can refer to it, because the trail is partitioned by time; but no entry is ever removed.
  audit_log_id uuid not null,
  event text not null,
  payload jsonb not null,
  state text not null default 'QUEUED',
  attempts integer not null default 0,
  response_status integer,
  error text,
  created_at timestamptz not null default clock_timestamp(),
  delivered_at timestamptz,
  constraint webhook_deliveries_event_key unique (webhook_id, audit_log_id),
  constraint webhook_deliveries_state_check check (state in ('QUEUED', 'DELIVERED', 'FAILED', 'CANCELLED')),
  constraint webhook_deliveries_delivered_at_check check ((delivered_at is not null) = (state = 'DELIVERED'))
);
comment on table app_public.webhook_deliveries is
  E'@defaultOrderBy CREATED_AT_DESC\n@foreignKey (state) references app_public.webhook_delivery_states (state)\n'
  '@foreignKey (audit_log_id) references app_public.audit_logs (id)\nWhat is sent to a webhook: one row for each event.';
comment on column app_public.webhook_deliveries.id is
  'Time-ordered UUID (version 7). It is the header webhook-id, and the same at each attempt.';
comment on column app_public.webhook_deliveries.webhook_id is E'@behavior -orderBy\nThe webhook that it is sent to.';
comment on column app_public.webhook_deliveries.audit_log_id is E'@behavior -orderBy\nThe audit entry that it reports.';
comment on column app_public.webhook_deliveries.event is E'@behavior -orderBy\nThe name of the event.';
comment on column app_public.webhook_deliveries.payload is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy\n'
  'The body that is sent. It shows things as they were when it was queued.';
comment on column app_public.webhook_deliveries.state is E'@behavior -orderBy\nWhat has become of it.';
comment on column app_public.webhook_deliveries.attempts is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy\nHow many attempts were made to send it.';
comment on column app_public.webhook_deliveries.response_status is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy\nThe HTTP status of the last response.';
comment on column app_public.webhook_deliveries.error is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy\nWhy the last attempt failed.';
comment on column app_public.webhook_deliveries.created_at is 'When it was queued.';
comment on column app_public.webhook_deliveries.delivered_at is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy\nWhen the response was 2xx.';
comment on constraint webhook_deliveries_event_key on app_public.webhook_deliveries is '@behavior -*';
comment on constraint webhook_deliveries_state_check on app_public.webhook_deliveries is 'There is no such delivery state.';
comment on constraint webhook_deliveries_delivered_at_check on app_public.webhook_deliveries is
  'A delivery has a delivery time exactly when it is DELIVERED.';
create index if not exists webhook_deliveries_created_at_idx on app_public.webhook_deliveries (created_at, id);
create index if not exists webhook_deliveries_webhook_id_idx on app_public.webhook_deliveries (webhook_id, created_at, id);
create index if not exists webhook_deliveries_audit_log_id_idx on app_public.webhook_deliveries (audit_log_id);
