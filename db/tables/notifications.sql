-- Notifications: one row for each event and recipient, which is both an entry of their inbox and a mail to them. What writes
-- them is in rules/dispatch.sql, what mails them in rules/mails.sql.

create table if not exists app_public.notification_kinds (
  kind text primary key,
  action text references app_public.audit_actions on update cascade on delete restrict,
  headline text not null,
  is_shown boolean not null default true,
  is_mandatory boolean not null default false,
  asks_for_decision boolean not null default false
);
create index if not exists notification_kinds_action_idx on app_public.notification_kinds (action);
comment on table app_public.notification_kinds is
  E'@enum\n@enumName NotificationKind\n@behavior -*\nWhat people can be notified of.';
comment on column app_public.notification_kinds.kind is 'The name of the kind.';
comment on column app_public.notification_kinds.action is 'The action that it reports; null if it is scheduled.';
comment on column app_public.notification_kinds.headline is
  E'@enumDescription\nThe kind in words, with which the subject of its mail begins.';
comment on column app_public.notification_kinds.is_shown is 'Whether the inbox shows it; if not, it is only mailed.';
comment on column app_public.notification_kinds.is_mandatory is
  'Whether it is about the recipient''s account, so that its mail cannot be declined.';
comment on column app_public.notification_kinds.asks_for_decision is
  'Whether it asks for a decision, so that it is pointless once the recipient can no longer decide.';

insert into app_public.notification_kinds (kind, action, headline, is_shown, is_mandatory, asks_for_decision) values
  ('SUBMITTED',        'SUBMIT',                 'Awaiting your decision',        true,  false, true),
  ('ASSIGNED',         'ASSIGN',                 'Assigned to you',               true,  false, true),
  ('REMINDER',         null,                     'Still awaiting your decision',  true,  false, true),
  ('APPROVED',         'APPROVE',                'Approved',                      true,  false, false),
  ('REJECTED',         'REJECT',                 'Rejected',                      true,  false, false),
  ('DIGEST',           null,                     'Your daily digest',             false, false, false),
  ('ACCOUNT_CREATED',  'USER_CREATE',            'Your new account',              true,  true,  false),
  ('INVITATION',       'INVITATION_RESEND',      'Choose your password',          false, true,  false),
  ('ROLE_CHANGED',     'USER_UPDATE',            'Your role has changed',         true,  true,  false),
  ('PASSWORD_CHANGED', 'PASSWORD_CHANGE',        'Your password has changed',     true,  true,  false),
  ('PASSWORD_RESET',   'PASSWORD_RESET_REQUEST', 'Reset your password',           true,  true,  false)
on conflict (kind) do update
  set action = excluded.action, headline = excluded.headline, is_shown = excluded.is_shown,
    is_mandatory = excluded.is_mandatory, asks_for_decision = excluded.asks_for_decision
  where (notification_kinds.*) is distinct from (excluded.*);

create table if not exists app_public.notifications (
  id uuid primary key default app_private.uuid_v7(),
  recipient_id uuid not null references app_public.users on delete restrict,
  kind text not null references app_public.notification_kinds on update cascade on delete restrict,
  event text not null,
  request_id uuid references app_public.requests on delete restrict,
  actor_id uuid references app_public.users on delete restrict,
  created_at timestamptz not null default clock_timestamp(),
  read_at timestamptz,
  mail_state text not null,
  mail_attempts integer not null default 0,
  mail_message_id text,
  mail_error text,
  mailed_at timestamptz,
  constraint notifications_event_key unique (event, recipient_id),
  constraint notifications_mail_state_check check (mail_state in ('QUEUED', 'SENT', 'FAILED', 'CANCELLED', 'DIGEST', 'NONE')),
  constraint notifications_mailed_at_check check ((mailed_at is not null) = (mail_state = 'SENT'))
);
comment on table app_public.notifications is
  E'@defaultOrderBy CREATED_AT_DESC\nWhat somebody was notified of: one row for each event and recipient.';
comment on column app_public.notifications.id is 'Time-ordered UUID (version 7).';
comment on column app_public.notifications.recipient_id is E'@behavior -*\nWho is notified.';
comment on column app_public.notifications.kind is
  E'@behavior -orderBy\n'
  'SUBMITTED, ASSIGNED and REMINDER ask for a decision; APPROVED and REJECTED report one; ACCOUNT_CREATED, INVITATION, '
  'ROLE_CHANGED, PASSWORD_CHANGED and PASSWORD_RESET are about the recipient''s account.';
comment on column app_public.notifications.event is
  E'@behavior -*\nWhat happened: the id of the audit entry, or the name of the scheduled event.';
comment on column app_public.notifications.request_id is E'@behavior -orderBy\nThe request it is about.';
comment on column app_public.notifications.actor_id is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy\nWho did it; null if it was scheduled.';
comment on column app_public.notifications.created_at is 'When the notification was made.';
comment on column app_public.notifications.read_at is E'@behavior -orderBy +filterBy\nWhen the recipient marked it as read.';
comment on column app_public.notifications.mail_state is
  E'@behavior -*\n'
  'QUEUED: a job will send it. SENT: the SMTP server has accepted it. FAILED: it will not be sent. CANCELLED: it had become '
  'pointless. DIGEST: the next digest includes it. NONE: the recipient wants no mail about it.';
comment on column app_public.notifications.mail_attempts is E'@behavior -*\nHow many attempts were made to send it.';
comment on column app_public.notifications.mail_message_id is
  E'@behavior -*\n'
  'The Message-ID (RFC 5322, 3.6.4). It is the same at each attempt, so that a mail which was accepted twice can be '
  'recognized.';
comment on column app_public.notifications.mail_error is E'@behavior -*\nWhy the last attempt failed.';
comment on column app_public.notifications.mailed_at is E'@behavior -*\nWhen the SMTP server accepted it.';
comment on constraint notifications_mail_state_check on app_public.notifications is 'There is no such mail state.';
comment on constraint notifications_mailed_at_check on app_public.notifications is
  'A mail has a sending time exactly when it is SENT.';
comment on constraint notifications_event_key on app_public.notifications is '@behavior -*';
comment on constraint notifications_recipient_id_fkey on app_public.notifications is '@behavior -*';
-- This makes the planner expect thousands of rows for each recipient; if it expected few, it would read and sort all of
-- somebody's notifications for a page of 20.
alter table app_public.notifications alter column recipient_id set (n_distinct = 500);
create index if not exists notifications_recipient_id_idx on app_public.notifications (recipient_id, created_at, id);
create index if not exists notifications_unread_idx on app_public.notifications (recipient_id, created_at, id)
  where read_at is null;
create index if not exists notifications_request_id_idx on app_public.notifications (request_id);
create index if not exists notifications_actor_id_idx on app_public.notifications (actor_id);
create index if not exists notifications_kind_idx on app_public.notifications (kind, created_at);
-- It stays as small as the mails that are still to be sent, or have failed.
create index if not exists notifications_unsent_idx on app_public.notifications (mail_state, created_at)
  where mail_state in ('QUEUED', 'FAILED');
create index if not exists notifications_digest_idx on app_public.notifications (recipient_id) where mail_state = 'DIGEST';

-- What people want by mail -------------------------------------------------------------------------------------------

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

create table if not exists app_private.notification_preferences (
  user_id uuid not null references app_public.users on delete cascade,
  kind text not null references app_public.notification_kinds on update cascade on delete cascade,
  delivery text not null references app_public.mail_deliveries on update cascade on delete restrict,
  primary key (user_id, kind)
);
create index if not exists notification_preferences_kind_idx on app_private.notification_preferences (kind);
create index if not exists notification_preferences_delivery_idx on app_private.notification_preferences (delivery);
comment on table app_private.notification_preferences is 'How people want to be notified by mail; without a row, AT_ONCE.';
comment on column app_private.notification_preferences.user_id is 'Whose preference it is.';
comment on column app_private.notification_preferences.kind is 'The kind of notification.';
comment on column app_private.notification_preferences.delivery is
  'AT_ONCE, DIGEST (with the next digest) or NONE. For the digest itself, NONE declines it and anything else keeps it.';
comment on constraint notification_preferences_delivery_fkey on app_private.notification_preferences is
  'The delivery must be AT_ONCE, DIGEST or NONE.';
comment on constraint notification_preferences_kind_fkey on app_private.notification_preferences is
  'There is no such kind of notification.';
