-- Who is told what. An action that is told leaves a job in its own transaction; the job, notify(), finds the recipients by the
-- same predicate that permits their decision, and writes one row for each: what their inbox shows, and what is mailed to them
-- (mails.sql). To do so after the action keeps the one who acts from waiting, however many there are to be told.

create table if not exists app_public.notification_kinds (
  kind text primary key,
  action text references app_public.audit_actions on update cascade on delete restrict,
  headline text not null,
  is_shown boolean not null default true,
  is_mandatory boolean not null default false,
  asks_for_decision boolean not null default false
);
create index if not exists notification_kinds_action_idx on app_public.notification_kinds (action);
comment on table app_public.notification_kinds is E'@behavior -*\nWhat people are told of.';
comment on column app_public.notification_kinds.kind is 'The name of the kind.';
comment on column app_public.notification_kinds.action is 'The action that it tells of; null: it comes by time.';
comment on column app_public.notification_kinds.headline is 'In words: the subject of its mail begins so.';
comment on column app_public.notification_kinds.is_shown is 'Shown in the inbox; otherwise a mail alone.';
comment on column app_public.notification_kinds.is_mandatory is 'About the recipient''s account: its mail cannot be declined.';
comment on column app_public.notification_kinds.asks_for_decision is 'Asks for a decision: pointless once the recipient is not to decide any more.';

insert into app_public.notification_kinds (kind, action, headline, is_shown, is_mandatory, asks_for_decision) values
  ('SUBMITTED',        'SUBMIT',                 'Waits for your decision',       true,  false, true),
  ('ASSIGNED',         'ASSIGN',                 'Assigned to you',               true,  false, true),
  ('REMINDER',         null,                     'Still waits for your decision', true,  false, true),
  ('APPROVED',         'APPROVE',                'Approved',                      true,  false, false),
  ('REJECTED',         'REJECT',                 'Rejected',                      true,  false, false),
  ('DIGEST',           null,                     'What waits for you',            false, false, false),
  ('ACCOUNT_CREATED',  'USER_CREATE',            'An account for you',            true,  true,  false),
  ('ROLE_CHANGED',     'USER_UPDATE',            'Your role has changed',         true,  true,  false),
  ('PASSWORD_CHANGED', 'PASSWORD_CHANGE',        'Your password has changed',     true,  true,  false),
  ('PASSWORD_RESET',   'PASSWORD_RESET_REQUEST', 'Choose a new password',         true,  true,  false)
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
comment on table app_public.notifications is E'@defaultOrderBy CREATED_AT_DESC\nWhat somebody was told: one row for each event and recipient.';
comment on column app_public.notifications.id is 'Time-ordered UUID (version 7).';
comment on column app_public.notifications.recipient_id is E'@behavior -*\nWho is told.';
comment on column app_public.notifications.kind is E'@behavior -orderBy\nOf what: SUBMITTED, ASSIGNED and REMINDER ask for a decision; APPROVED and REJECTED tell of one; ACCOUNT_CREATED, ROLE_CHANGED, PASSWORD_CHANGED and PASSWORD_RESET are about one''s account.';
comment on column app_public.notifications.event is E'@behavior -*\nWhat happened: the audit entry''s id, or what the clock brought.';
comment on column app_public.notifications.request_id is E'@behavior -orderBy\nThe request it is about.';
comment on column app_public.notifications.actor_id is E'@behavior -orderBy -filterBy -condition:attribute:filterBy\nWho did it; null for what the clock brought.';
comment on column app_public.notifications.created_at is 'When they were told.';
comment on column app_public.notifications.read_at is E'@behavior -orderBy +filterBy\nWhen they marked it as read.';
comment on column app_public.notifications.mail_state is E'@behavior -*\nQUEUED: a job is to send it. SENT: the SMTP server has accepted it. FAILED: it will not be sent. CANCELLED: it had become pointless. DIGEST: the next digest brings it. NONE: they want no mail of it.';
comment on column app_public.notifications.mail_attempts is E'@behavior -*\nHow often it was tried to send it.';
comment on column app_public.notifications.mail_message_id is E'@behavior -*\nMessage-ID (RFC 5322, 3.6.4), the same at each attempt: by it a mail that was accepted twice can be known.';
comment on column app_public.notifications.mail_error is E'@behavior -*\nWhy the last attempt failed.';
comment on column app_public.notifications.mailed_at is E'@behavior -*\nWhen the SMTP server accepted it.';
comment on constraint notifications_mail_state_check on app_public.notifications is 'There is no such state of a mail.';
comment on constraint notifications_mailed_at_check on app_public.notifications is 'What is sent was sent at some time.';
comment on constraint notifications_event_key on app_public.notifications is '@behavior -*';
comment on constraint notifications_recipient_id_fkey on app_public.notifications is '@behavior -*';
-- As many as somebody with thousands of them has: expecting fewer, the planner would read and sort all for a page of 20.
alter table app_public.notifications alter column recipient_id set (n_distinct = 500);
create index if not exists notifications_recipient_id_idx on app_public.notifications (recipient_id, created_at, id);
create index if not exists notifications_unread_idx on app_public.notifications (recipient_id, created_at, id) where read_at is null;
create index if not exists notifications_request_id_idx on app_public.notifications (request_id);
create index if not exists notifications_actor_id_idx on app_public.notifications (actor_id);
create index if not exists notifications_kind_idx on app_public.notifications (kind, created_at);
-- As small as what is still to be sent, or has failed.
create index if not exists notifications_unsent_idx on app_public.notifications (mail_state, created_at)
  where mail_state in ('QUEUED', 'FAILED');
create index if not exists notifications_digest_idx on app_public.notifications (recipient_id) where mail_state = 'DIGEST';

-- What somebody wants by mail ----------------------------------------------------------------------------------------

create table if not exists app_private.notification_preferences (
  user_id uuid not null references app_public.users on delete cascade,
  kind text not null references app_public.notification_kinds on update cascade on delete cascade,
  delivery text not null,
  primary key (user_id, kind),
  constraint notification_preferences_delivery_check check (delivery in ('AT_ONCE', 'DIGEST', 'NONE'))
);
create index if not exists notification_preferences_kind_idx on app_private.notification_preferences (kind);
comment on table app_private.notification_preferences is 'How people want to be told by mail; without a row AT_ONCE.';
comment on column app_private.notification_preferences.user_id is 'Whose preference.';
comment on column app_private.notification_preferences.kind is 'For what kind of notification.';
comment on column app_private.notification_preferences.delivery is 'AT_ONCE, DIGEST (with the next one) or NONE; of the digest itself, NONE or not.';
comment on constraint notification_preferences_delivery_check on app_private.notification_preferences is
  'A delivery is AT_ONCE, DIGEST or NONE.';
comment on constraint notification_preferences_kind_fkey on app_private.notification_preferences is 'There is no such kind of notification.';
