-- Notifications: the inbox, and what people want by mail. Who is notified of what is in dispatch.sql.

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
comment on function app_private.mail_state_for(uuid, text) is 'The mail_state of a new notification, as its recipient prefers.';

-- The inbox ----------------------------------------------------------------------------------------------------------

create or replace function app_public.unread_notification_count()
  returns integer
  language sql
  stable
as $$
  -- The limit bounds the cost for somebody who never reads any.
  select count(*)::integer from (select from app_public.notifications n where n.read_at is null limit 10000) unread
$$;
comment on function app_public.unread_notification_count() is 'How many of your notifications are unread, counted up to 10,000.';

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
  'Marks one of your notifications as read. If it was read before, it keeps the first time. NOT_FOUND: there is none with '
  'this id.';

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
comment on function app_public.mark_all_notifications_read() is 'Marks all your notifications as read.';

-- The view only gives the rows their type; the function below returns the rows of the caller.
create or replace view app_public.notification_preferences with (security_invoker = true) as
  select k.kind, k.headline, 'AT_ONCE'::text as delivery from app_public.notification_kinds k;
comment on view app_public.notification_preferences is
  E'@behavior -query:resource:connection -query:resource:list -query:resource:single -filter -resource:aggregates '
  '-resource:groupedAggregates\n@name notificationPreference\n'
  '@foreignKey (kind) references app_public.notification_kinds (kind)\n'
  '@foreignKey (delivery) references app_public.mail_deliveries (delivery)\n'
  'How you receive one kind of notification by mail.';
comment on column app_public.notification_preferences.kind is E'@notNull\nThe kind of notification; DIGEST is the digest itself.';
comment on column app_public.notification_preferences.headline is E'@notNull\nThe kind of notification in words.';
comment on column app_public.notification_preferences.delivery is E'@notNull\nHow you receive it.';

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
  E'@name notificationPreferences\n'
  'How you receive each kind of notification by mail, apart from the kinds that cannot be declined.';

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
begin
  if exists (select from app_public.notification_kinds k where k.kind = set_notification_preference.kind and k.is_mandatory) then
    raise exception using errcode = 'RQ422', column = 'kind', message = 'You cannot decline mails about your own account.';
  end if;
  insert into app_private.notification_preferences as p (user_id, kind, delivery)
  values (v_me, set_notification_preference.kind, set_notification_preference.delivery)
  on conflict on constraint notification_preferences_pkey do update set delivery = excluded.delivery;
  select * into v_preference from app_public.my_notification_preferences() m where m.kind = set_notification_preference.kind;
  return v_preference;
exception
  when integrity_constraint_violation then
    perform app_private.raise_faults(app_private.violations('app_private.notification_preferences', jsonb_build_object(
      'user_id', v_me, 'kind', set_notification_preference.kind, 'delivery', set_notification_preference.delivery)));
end
$$;
comment on function app_public.set_notification_preference(text, text) is
  'Sets how you receive one kind of notification by mail: AT_ONCE, DIGEST or NONE. VALIDATION_FAILED: there is no such kind '
  'or delivery, or the kind is about your account, which is always mailed.';

grant execute on function
  app_public.unread_notification_count(), app_public.mark_notification_read(uuid), app_public.mark_all_notifications_read(),
  app_public.my_notification_preferences(), app_public.set_notification_preference(text, text)
  to assent_user, assent_manager, assent_admin;

create or replace function app_hidden.notification_document(n app_public.notifications)
  returns json
  language sql
  stable
as $$
  -- This runs as the caller: a request that they can no longer see is null.
  select row_to_json(d)
  from (
    select n.id, n.kind,
      (select row_to_json(q)
        from (select r.id, r.title, r.status from app_public.requests r where r.id = n.request_id) q) as request,
      (select row_to_json(p) from (select u.id, u.name, u.role from app_public.users u where u.id = n.actor_id) p) as actor,
      n.created_at, n.read_at
  ) d
$$;
comment on function app_hidden.notification_document(app_public.notifications) is
  'A notification as REST shows it, made of a row that the caller has read.';
grant execute on function app_hidden.notification_document(app_public.notifications) to assent_user, assent_manager, assent_admin;
