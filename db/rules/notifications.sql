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

create or replace function app_private.mail_state_for(user_id uuid, kind text)
  returns text
  language sql
  stable
as $$
  select case
    when k.is_mandatory or p.delivery is null or (k.kind = 'DIGEST' and p.delivery = 'DIGEST') then 'QUEUED'
    when p.delivery = 'AT_ONCE' then 'QUEUED'
    else p.delivery
  end
  from app_public.notification_kinds k
  left join app_private.notification_preferences p on p.kind = k.kind and p.user_id = mail_state_for.user_id
  where k.kind = mail_state_for.kind
$$;
comment on function app_private.mail_state_for(uuid, text) is 'The mail_state that a new notification begins with, as its recipient prefers.';

-- To whom ------------------------------------------------------------------------------------------------------------

create or replace function app_private.people_to_ask(of_request_id uuid)
  returns table (user_id uuid)
  language sql
  stable
as $$
  select d.user_id
  from app_hidden.request_deciders d
  where (d.request).id = of_request_id
    and (d.user_id = (d.request).assigned_to_id
      or not exists (select from app_hidden.deciders assignee where assignee.user_id = (d.request).assigned_to_id))
$$;
comment on function app_private.people_to_ask(uuid) is
  'Who is told that a request waits: of those who can decide it, its assignee alone if it has one. Nobody once it is decided.';

create or replace function app_private.recipients(entry app_public.audit_logs)
  returns table (user_id uuid)
  language sql
  stable
as $$
  select p.user_id from app_private.people_to_ask(entry.request_id) p where entry.action = 'SUBMIT'
  union all
  select p.user_id from app_private.people_to_ask(entry.request_id) p
  where entry.action = 'ASSIGN' and p.user_id::text = entry.metadata -> 'assigned_to_id' ->> 'new' and p.user_id <> entry.actor_id
  union all
  select entry.request_creator_id where entry.action in ('APPROVE', 'REJECT')
  union all
  select entry.user_id
  where entry.action in ('PASSWORD_CHANGE', 'PASSWORD_RESET_REQUEST')
    or (entry.action = 'USER_UPDATE' and entry.metadata ? 'role')
    -- An account made by SQL, as the demo's are, has nobody who invites.
    or (entry.action = 'USER_CREATE' and entry.actor_id is not null)
$$;
comment on function app_private.recipients(app_public.audit_logs) is 'Who is to be told of an action, as things stand now.';

create or replace function app_private.notify(audit_log_id uuid)
  returns void
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
  -- To plan it anew for each entry takes ten times as long as to run it.
  set plan_cache_mode to force_generic_plan
as $$
declare
  v_entry app_public.audit_logs;
begin
  select * into strict v_entry from app_public.audit_logs a where a.id = audit_log_id;
  insert into app_public.notifications (recipient_id, kind, event, request_id, actor_id, mail_state)
  select u.id, k.kind, v_entry.id::text, v_entry.request_id, v_entry.actor_id, app_private.mail_state_for(u.id, k.kind)
  from app_public.notification_kinds k
  cross join app_private.recipients(v_entry) r
  -- OFFSET 0 keeps it a look-up for each: there are few recipients, and many people.
  cross join lateral (select u.id from app_public.users u where u.id = r.user_id and not u.is_deleted offset 0) u
  where k.action = v_entry.action
  order by u.id
  on conflict on constraint notifications_event_key do nothing;
  perform app_private.announce_inboxes(v_entry);
  perform app_private.queue_deliveries(v_entry);
end
$$;
comment on function app_private.notify(uuid) is
  'The job of an action that is told: one notification for each recipient, one delivery for each webhook, live news of inboxes. Run twice, it tells nobody a second time.';

create or replace function app_private.tg_audit_logs__notify()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if exists (select from app_public.audit_actions a where a.action = new.action and a.is_told) then
    -- "unsafe_dedupe" is one insert, and unsafe only where a key comes again: an entry has its key to itself.
    perform graphile_worker.add_job('notify', json_build_object('id', new.id),
      job_key => 'notify ' || new.id, job_key_mode => 'unsafe_dedupe');
  end if;
  return null;
end
$$;
comment on function app_private.tg_audit_logs__notify() is
  'Adds the job that tells of an action, in the action''s own transaction: rolled back with it, there with it.';

create or replace trigger _800_notify
  after insert on app_public.audit_logs
  for each row execute function app_private.tg_audit_logs__notify();

-- The inbox ----------------------------------------------------------------------------------------------------------

create or replace function app_public.unread_notification_count()
  returns integer
  language sql
  stable
as $$
  -- To count more would cost more as they gather.
  select count(*)::integer from (select from app_public.notifications n where n.read_at is null limit 10000) unread
$$;
comment on function app_public.unread_notification_count() is 'How many of one''s notifications are unread, as far as 10,000.';

create or replace function app_public.mark_notification_read(notification_id uuid)
  returns app_public.notifications
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
  v_notification app_public.notifications;
begin
  update app_public.notifications n
  set read_at = coalesce(n.read_at, clock_timestamp())
  where n.id = notification_id and n.recipient_id = v_me
    and n.kind in (select k.kind from app_public.notification_kinds k where k.is_shown)
  returning * into v_notification;
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such notification.';
  end if;
  return v_notification;
end
$$;
comment on function app_public.mark_notification_read(uuid) is
  'Marks a notification of one''s own as read; read twice, it keeps its first time. NOT_FOUND: there is none of that id.';

create or replace function app_public.mark_all_notifications_read()
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
begin
  update app_public.notifications n
  set read_at = clock_timestamp()
  where n.recipient_id = v_me and n.read_at is null
    and n.kind in (select k.kind from app_public.notification_kinds k where k.is_shown);
end
$$;
comment on function app_public.mark_all_notifications_read() is 'Marks all of one''s notifications as read.';

-- A view is the type of its rows; the function is who they are asked for.
create or replace view app_public.notification_preferences with (security_invoker = true) as
  select k.kind, k.headline, 'AT_ONCE'::text as delivery from app_public.notification_kinds k;
comment on view app_public.notification_preferences is E'@behavior -query:resource:connection -query:resource:list -query:resource:single -filter -resource:aggregates -resource:groupedAggregates\n@name notificationPreference\nHow one kind of notification reaches somebody by mail.';
comment on column app_public.notification_preferences.kind is E'@notNull\nThe kind of notification; DIGEST is the digest itself.';
comment on column app_public.notification_preferences.headline is E'@notNull\nThe kind in words.';
comment on column app_public.notification_preferences.delivery is E'@notNull\nAT_ONCE; DIGEST: with the digest, on weekdays; NONE. What is shown to somebody in their inbox stays the same.';

create or replace function app_public.my_notification_preferences()
  returns setof app_public.notification_preferences
  language sql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  select k.kind, k.headline, coalesce(p.delivery, 'AT_ONCE')
  from app_public.notification_kinds k
  left join app_private.notification_preferences p on p.kind = k.kind and p.user_id = (select app_hidden.current_user_id())
  where not k.is_mandatory
  order by k.kind
$$;
comment on function app_public.my_notification_preferences() is
  E'@name notificationPreferences\nHow each kind of notification that can be declined reaches the caller by mail.';

create or replace function app_public.set_notification_preference(kind text, delivery text)
  returns app_public.notification_preferences
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
  v_preference app_public.notification_preferences;
  v_constraint text;
  v_column text;
begin
  if exists (select from app_public.notification_kinds k where k.kind = set_notification_preference.kind and k.is_mandatory) then
    raise exception using errcode = 'RQ422', column = 'kind', message = 'Mails about one''s own account cannot be declined.';
  end if;
  insert into app_private.notification_preferences as p (user_id, kind, delivery)
  values (v_me, set_notification_preference.kind, set_notification_preference.delivery)
  on conflict on constraint notification_preferences_pkey do update set delivery = excluded.delivery;
  select * into v_preference from app_public.my_notification_preferences() m where m.kind = set_notification_preference.kind;
  return v_preference;
exception
  when check_violation or not_null_violation or foreign_key_violation then
    get stacked diagnostics v_constraint = constraint_name, v_column = column_name;
    perform app_private.raise_violation(v_constraint, v_column);
end
$$;
comment on function app_public.set_notification_preference(text, text) is
  'Says how one kind of notification shall reach the caller by mail: AT_ONCE, DIGEST or NONE. VALIDATION_FAILED: no such kind or delivery, or a kind about one''s account, which is always mailed.';

grant execute on function
  app_public.unread_notification_count(), app_public.mark_notification_read(uuid), app_public.mark_all_notifications_read(),
  app_public.my_notification_preferences(), app_public.set_notification_preference(text, text)
  to assent_user, assent_manager, assent_admin;

create or replace function app_hidden.notification_document(n app_public.notifications)
  returns json
  language sql
  stable
as $$
  -- As the caller: a request that they cannot see any more is none.
  select row_to_json(d)
  from (
    select n.id, n.kind,
      (select row_to_json(q) from (select r.id, r.title, r.status from app_public.requests r where r.id = n.request_id) q) as request,
      (select row_to_json(p) from (select u.id, u.name, u.role from app_public.users u where u.id = n.actor_id) p) as actor,
      n.created_at, n.read_at
  ) d
$$;
comment on function app_hidden.notification_document(app_public.notifications) is 'A notification as REST shows it, of a row that the caller has seen.';
grant execute on function app_hidden.notification_document(app_public.notifications) to assent_user, assent_manager, assent_admin;
