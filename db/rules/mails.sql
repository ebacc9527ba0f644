-- Mails: the notifications that people want by mail, with one job for each. What mails have in common with deliveries is in
-- outbox.sql.

create or replace function app_private.tg_notifications__mail()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  perform graphile_worker.add_job('send_mail', app_private.job_payload(new.id),
    job_key => format('mail %s %s', new.id, new.mail_attempts), job_key_mode => 'unsafe_dedupe');
  return null;
end
$$;
comment on function app_private.tg_notifications__mail() is
  'Adds the job that mails a notification, in the transaction that queues it.';

create or replace trigger _500_mail
  after insert on app_public.notifications
  for each row when (new.mail_state = 'QUEUED')
  execute function app_private.tg_notifications__mail();
-- This one is for mails that are queued again. After a failed attempt a mail stays queued, and its job tries again.
create or replace trigger _510_mail
  after update of mail_state on app_public.notifications
  for each row when (new.mail_state = 'QUEUED' and old.mail_state <> 'QUEUED')
  execute function app_private.tg_notifications__mail();

create or replace function app_private.has_to_decide(person_id uuid)
  returns boolean
  language sql
  stable
as $$
  -- This looks for the first in the order of their inbox. For a plain EXISTS, the planner would read all waiting requests.
  select (
    select true from app_hidden.request_deciders d
    where d.user_id = person_id
    order by app_hidden.waiting_since((d.request).submitted_at), (d.request).id
    limit 1
  ) is not null
$$;
comment on function app_private.has_to_decide(uuid) is 'Is there a waiting request that this person can decide?';

create or replace function app_private.is_invitation(kind text)
  returns boolean
  language sql
  immutable
as $$
  select kind in ('ACCOUNT_CREATED', 'INVITATION')
$$;
comment on function app_private.is_invitation(text) is 'Does a mail of this kind hold the link to choose a first password?';

create or replace function app_private.is_invited_again(person_id uuid, event text)
  returns boolean
  language plpgsql
  stable
  set search_path to pg_catalog, pg_temp
as $$
begin
  return exists (
    select from app_public.audit_logs a
    join app_public.audit_logs later
      on later.user_id = a.user_id and later.action = 'INVITATION_RESEND' and later."timestamp" > a."timestamp"
    where a.id::text = is_invited_again.event and a.user_id = person_id
  );
end
$$;
comment on function app_private.is_invited_again(uuid, text) is
  'Has somebody been invited again since the entry with this id? It is PL/pgSQL, so that mails of other kinds need not plan a '
  'look at every month of the trail.';

create or replace function app_private.is_pointless(n app_public.notifications)
  returns boolean
  language sql
  stable
as $$
  select u.is_deleted
    or (k.asks_for_decision and not exists (
      select from app_private.deciders_to_notify(n.request_id) p where p.user_id = n.recipient_id))
    or (k.kind = 'DIGEST' and not app_private.has_to_decide(n.recipient_id)
      and not exists (select from app_public.notifications w where w.recipient_id = n.recipient_id and w.mail_state = 'DIGEST'))
    -- A mail of a new account is still worth sending to somebody who has a password: it only has no link.
    or (k.kind = 'INVITATION' and exists (
      select from app_private.credentials c where c.user_id = n.recipient_id and c.password_hash is not null))
    or (app_private.is_invitation(k.kind) and app_private.is_invited_again(n.recipient_id, n.event))
  from app_public.users u, app_public.notification_kinds k
  where u.id = n.recipient_id and k.kind = n.kind
$$;
comment on function app_private.is_pointless(app_public.notifications) is
  'Is there no point in mailing it any more? The recipient is deactivated, can no longer take the decision that it asks for, '
  'or has chosen a password or been invited again since; or the digest would be empty.';

create or replace function app_private.digest_document(of_user_id uuid)
  returns jsonb
  language sql
  stable
as $$
  select jsonb_build_object(
    'waiting', coalesce((
      select jsonb_agg(jsonb_build_object('request_id', w.id, 'title', w.title, 'creator', w.name) order by w.submitted_at)
      from (
        select r.id, r.title, r.submitted_at, u.name
        from app_hidden.request_deciders d
        cross join lateral (select (d.request).*) r
        join app_public.users u on u.id = r.creator_id
        where d.user_id = of_user_id
        order by app_hidden.waiting_since(r.submitted_at), r.id
        limit 20
      ) w), '[]'),
    'waiting_count', (
      select count(*) from (select from app_hidden.request_deciders d where d.user_id = of_user_id limit 1000) w),
    'news', coalesce((
      select jsonb_agg(
        jsonb_build_object('notification_id', w.id, 'headline', w.headline, 'request_id', w.request_id, 'title', w.title)
        order by w.created_at, w.id)
      from (
        select n.id, n.created_at, k.headline, n.request_id, r.title
        from app_public.notifications n
        join app_public.notification_kinds k on k.kind = n.kind
        left join app_public.requests r on r.id = n.request_id
        where n.recipient_id = of_user_id and n.mail_state = 'DIGEST'
        order by n.created_at, n.id
        limit 100
      ) w), '[]'))
$$;
comment on function app_private.digest_document(uuid) is
  'The content of a digest: the 20 requests that have waited longest for this person''s decision, how many are waiting '
  '(counted up to 1,000), and the notifications that they want in digests.';

create or replace function app_private.mail_document(n app_public.notifications)
  returns jsonb
  language sql
  volatile -- because it makes the link to choose a password
  set search_path to pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'kind', n.kind,
    'headline', k.headline,
    'name', u.name,
    'address', c.email,
    'role', u.role,
    'actor', a.name,
    'request_id', r.id,
    'title', r.title,
    'creator', creator.name,
    'comment', r.review_comment
  ) || case
    when n.kind = 'PASSWORD_RESET' then
      jsonb_build_object('token', app_private.issue_reset_token(n.recipient_id, interval '30 minutes'))
    when app_private.is_invitation(n.kind) and c.password_hash is null then
      jsonb_build_object('token', app_private.issue_reset_token(n.recipient_id, interval '72 hours'))
    when n.kind = 'DIGEST' then app_private.digest_document(n.recipient_id)
    else '{}'
  end
  from app_public.users u
  join app_private.credentials c on c.user_id = u.id
  join app_public.notification_kinds k on k.kind = n.kind
  left join app_public.users a on a.id = n.actor_id
  left join app_public.requests r on r.id = n.request_id
  left join app_public.users creator on creator.id = r.creator_id
  where u.id = n.recipient_id
$$;
comment on function app_private.mail_document(app_public.notifications) is
  'All data that the text of a mail is made of, as it is now.';

create or replace function app_private.mail_to_send(notification_id uuid, domain text)
  returns jsonb
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_notification app_public.notifications;
begin
  select * into v_notification from app_public.notifications n
  where n.id = notification_id and n.mail_state = 'QUEUED'
  for no key update;
  if not found then
    return null;
  end if;
  if v_notification.kind = 'DIGEST' then
    -- The notifications that it was to include may have become pointless too.
    update app_public.notifications n set mail_state = 'CANCELLED'
    where n.recipient_id = v_notification.recipient_id and n.mail_state = 'DIGEST' and app_private.is_pointless(n);
  end if;
  if app_private.is_pointless(v_notification) then
    update app_public.notifications n set mail_state = 'CANCELLED' where n.id = notification_id;
    return null;
  end if;
  update app_public.notifications n
  set mail_attempts = n.mail_attempts + 1,
    mail_message_id = coalesce(n.mail_message_id, format('<%s@%s>', n.id, domain))
  where n.id = notification_id
  returning * into v_notification;
  return app_private.mail_document(v_notification) || jsonb_build_object('message_id', v_notification.mail_message_id);
end
$$;
comment on function app_private.mail_to_send(uuid, text) is
  'What to mail; null if it has been mailed already, or has become pointless. The domain is that of the sender, for the '
  'Message-ID.';

create or replace function app_private.mail_sent(notification_id uuid, news uuid[])
  returns void
  language sql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  update app_public.notifications n
  set mail_state = 'SENT', mailed_at = clock_timestamp(), mail_error = null,
    mail_message_id = (select d.mail_message_id from app_public.notifications d where d.id = notification_id)
  where (n.id = notification_id and n.mail_state = 'QUEUED') or (n.id = any (news) and n.mail_state = 'DIGEST')
$$;
comment on function app_private.mail_sent(uuid, uuid[]) is
  'Records that the SMTP server has accepted a mail and, if it is a digest, the notifications (news) that it included.';

create or replace function app_private.mail_failed(notification_id uuid, error text, for_good boolean)
  returns void
  language sql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  update app_public.notifications n
  set mail_error = left(error, 1000), mail_state = case when for_good then 'FAILED' else n.mail_state end
  where n.id = notification_id and n.mail_state = 'QUEUED'
$$;
comment on function app_private.mail_failed(uuid, text, boolean) is
  'Records that an attempt has failed. for_good: it will not be repeated, because the server has refused the mail with a 5xx '
  '(RFC 5321, 4.2.1) or this was the last attempt.';

-- For admins ---------------------------------------------------------------------------------------------------------

create or replace view app_public.undelivered_mails with (security_barrier = true) as
  select n.id, n.recipient_id, n.kind, n.request_id, n.mail_attempts as attempts, n.mail_error as error, n.created_at
  from app_public.notifications n
  join (select app_hidden.has_permission('mail.manage') as manages_mail offset 0) caller on caller.manages_mail
  where n.mail_state = 'FAILED';
comment on view app_public.undelivered_mails is
  E'@primaryKey id\n@foreignKey (recipient_id) references app_public.users (id)\n'
  '@foreignKey (request_id) references app_public.requests (id)\n'
  '@foreignKey (kind) references app_public.notification_kinds (kind)\n'
  '@behavior -filterBy -condition:attribute:filterBy -resource:aggregates -resource:groupedAggregates\n'
  '@defaultOrderBy CREATED_AT_DESC\n'
  'Mails that could not be sent, for admins.';
comment on column app_public.undelivered_mails.id is 'The id of the notification.';
comment on column app_public.undelivered_mails.recipient_id is E'@notNull\n@behavior -orderBy\nWho should have received it.';
comment on column app_public.undelivered_mails.kind is
  E'@notNull\n@behavior -orderBy\nThe kind of notification, as in Notification.';
comment on column app_public.undelivered_mails.request_id is E'@behavior -orderBy\nThe request it is about.';
comment on column app_public.undelivered_mails.attempts is
  E'@notNull\n@behavior -orderBy\nHow many attempts were made to send it.';
comment on column app_public.undelivered_mails.error is E'@behavior -orderBy\nWhat the SMTP server said.';
comment on column app_public.undelivered_mails.created_at is E'@notNull\nWhen it was queued.';

create or replace function app_public.resend_mail(notification_id uuid)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_notification app_public.notifications;
begin
  perform app_private.require_session();
  -- To callers without the permission, no such mail exists.
  update app_public.notifications n set mail_state = 'QUEUED'
  where n.id = notification_id and n.mail_state = 'FAILED' and app_hidden.has_permission('mail.manage')
  returning * into v_notification;
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such undelivered mail.';
  end if;
  perform app_private.log_action('MAIL_RESEND', app_hidden.current_user_id(), v_notification.recipient_id,
    jsonb_build_object('notification_id', v_notification.id, 'kind', v_notification.kind));
end
$$;
comment on function app_public.resend_mail(uuid) is
  'Sends a mail that has failed again, for admins. NOT_FOUND: there is no failed mail with this id.';
grant execute on function app_public.resend_mail(uuid) to assent_user, assent_manager, assent_admin;
