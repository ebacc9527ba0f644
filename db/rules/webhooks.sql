-- Webhooks notify programs: each event becomes one delivery to each webhook that receives it, with a job of its own
-- (tables/webhooks.sql).

-- Deliveries ---------------------------------------------------------------------------------------------------------

create or replace function app_private.webhook_payload(entry app_public.audit_logs, event text)
  returns jsonb
  language sql
  stable
as $$
  select jsonb_build_object(
    'type', event,
    'timestamp', entry."timestamp",
    'data', jsonb_build_object(
      'audit_log_id', entry.id,
      'metadata', entry.metadata,
      'actor', (select to_jsonb(p) from app_private.people p where p.id = entry.actor_id)
    ) || case
      when entry.request_id is not null then jsonb_build_object('request', (
        select jsonb_build_object(
          'id', r.id, 'title', r.title, 'status', r.status, 'version', r.version,
          'creator', (select to_jsonb(p) from app_private.people p where p.id = r.creator_id),
          'assigned_to', (select to_jsonb(p) from app_private.people p where p.id = r.assigned_to_id),
          'reviewed_by', (select to_jsonb(p) from app_private.people p where p.id = r.reviewed_by_id),
          'reviewed_at', r.reviewed_at, 'review_comment', r.review_comment, 'submitted_at', r.submitted_at)
        from app_public.requests r where r.id = entry.request_id))
      else jsonb_build_object('user', (
        select jsonb_build_object('id', u.id, 'name', u.name, 'role', u.role, 'is_deleted', u.is_deleted)
        from app_public.users u where u.id = entry.user_id))
    end
  )
$$;
comment on function app_private.webhook_payload(app_public.audit_logs, text) is
  'The body of a delivery: the type, the time, what has changed, and its subject as it is now, as Standard Webhooks '
  'recommends. It contains nobody''s email address.';

create or replace function app_private.queue_deliveries(entry app_public.audit_logs)
  returns void
  language sql
  volatile
as $$
  insert into app_public.webhook_deliveries (webhook_id, audit_log_id, event, payload)
  select w.id, entry.id, e.event, app_private.webhook_payload(entry, e.event)
  from app_public.webhook_events e
  join app_public.webhooks w on w.is_enabled and e.event = any (w.events)
  where e.action = entry.action
  order by w.id
  on conflict on constraint webhook_deliveries_event_key do nothing
$$;
comment on function app_private.queue_deliveries(app_public.audit_logs) is
  'Queues one delivery for each webhook that receives the action''s event. If it is run twice, it does nothing the second time.';

create or replace function app_private.tg_webhook_deliveries__deliver()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  -- The job has no key: that of the delivery's last attempt may still exist, and would not run again. If the webhook has been
  -- failing, it runs after the jobs of webhooks that respond.
  perform graphile_worker.add_job('deliver_webhook', app_private.job_payload(new.id),
    priority => case
      when exists (select from app_public.webhooks w where w.id = new.webhook_id and w.failing_since is not null) then 1
      else 0
    end);
  return null;
end
$$;
comment on function app_private.tg_webhook_deliveries__deliver() is
  'Adds the job that sends a delivery, in the transaction that queues it.';

create or replace trigger _500_deliver
  after insert on app_public.webhook_deliveries
  for each row when (new.state = 'QUEUED')
  execute function app_private.tg_webhook_deliveries__deliver();
create or replace trigger _510_deliver
  after update of state on app_public.webhook_deliveries
  for each row when (new.state = 'QUEUED' and old.state <> 'QUEUED')
  execute function app_private.tg_webhook_deliveries__deliver();

create or replace function app_private.delivery_to_send(
  delivery_id uuid,
  out url text,
  out signing_key text,
  out body text
)
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  update app_public.webhook_deliveries d
  set state = 'CANCELLED'
  from app_public.webhooks w
  where d.id = delivery_id and d.state = 'QUEUED' and w.id = d.webhook_id and not w.is_enabled;
  update app_public.webhook_deliveries d
  set attempts = d.attempts + 1
  from app_public.webhooks w
  where d.id = delivery_id and d.state = 'QUEUED' and w.id = d.webhook_id
  returning w.url, w.signing_key, d.payload::text into delivery_to_send.url, delivery_to_send.signing_key, delivery_to_send.body;
end
$$;
comment on function app_private.delivery_to_send(uuid) is
  'What to send, where to, and the key to sign it with. All are null if it has been delivered, or its webhook is off or deleted.';

create or replace function app_private.delivery_sent(delivery_id uuid, response_status integer)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  update app_public.webhook_deliveries d
  set state = 'DELIVERED', delivered_at = clock_timestamp(), error = null, response_status = delivery_sent.response_status
  where d.id = delivery_id and d.state = 'QUEUED';
  update app_public.webhooks w
  set failing_since = null
  from app_public.webhook_deliveries d
  where d.id = delivery_id and w.id = d.webhook_id and w.failing_since is not null;
end
$$;
comment on function app_private.delivery_sent(uuid, integer) is 'Records that the response was 2xx.';

create or replace function app_private.delivery_failed(delivery_id uuid, response_status integer, error text, for_good boolean)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_webhook app_public.webhooks;
begin
  update app_public.webhook_deliveries d
  set response_status = delivery_failed.response_status, error = left(delivery_failed.error, 1000),
    state = case when for_good then 'FAILED' else d.state end
  where d.id = delivery_id and d.state = 'QUEUED';
  update app_public.webhooks w
  set failing_since = case when w.failed_at < now() - interval '2 days' then now() else coalesce(w.failing_since, now()) end,
    failed_at = now()
  from app_public.webhook_deliveries d
  where d.id = delivery_id and w.id = d.webhook_id
  returning w.* into v_webhook;
  if v_webhook.is_enabled and (v_webhook.failing_since < now() - interval '7 days' or delivery_failed.response_status = 410) then
    update app_public.webhooks w set is_enabled = false where w.id = v_webhook.id;
    perform app_private.audit_webhook('WEBHOOK_UPDATE', v_webhook, jsonb_build_object(
      'is_enabled', jsonb_build_object('old', true, 'new', false),
      'reason', case when delivery_failed.response_status = 410 then 'It answered 410 Gone.'
        else 'It had failed for a week.' end));
  end if;
end
$$;
comment on function app_private.delivery_failed(uuid, integer, text, boolean) is
  'Records that an attempt has failed; for_good: it will not be repeated. After a week without a success, and after 410 Gone '
  '(Standard Webhooks), it switches the webhook off.';

-- For admins ---------------------------------------------------------------------------------------------------------

-- To callers without the permission, no webhook exists: they get NOT_FOUND. Only creating one is FORBIDDEN.

create or replace function app_private.origin(url text)
  returns text
  language sql
  immutable
as $$
  select substring(url from '^[a-z]+://[^/?#]+')
$$;
comment on function app_private.origin(text) is
  'The scheme and the host of a URL. What follows them can contain a secret, which must never get into the trail.';

create or replace function app_private.audit_webhook(action text, webhook app_public.webhooks, details jsonb)
  returns void
  language sql
  volatile
as $$
  -- If the owner does it, a trigger writes the entry (rules/trail.sql).
  select app_private.log_action(action, app_hidden.current_user_id(),
    metadata => jsonb_build_object('webhook_id', webhook.id, 'origin', app_private.origin(webhook.url)) || details)
  where not app_private.is_by_sql()
$$;
comment on function app_private.audit_webhook(text, app_public.webhooks, jsonb) is
  'Writes the audit entry for a change of a webhook, or for a delivery that is sent again. It never contains the key.';

create or replace function app_private.tg_webhooks__check_events()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if exists (select from unnest(new.events) e where e is null or e not in (select w.event from app_public.webhook_events w)) then
    raise exception using errcode = 'RQ422', column = 'events',
      message = 'Each event must be one of: '
        || (select string_agg(w.event, ', ' order by w.event) from app_public.webhook_events w) || '.';
  end if;
  return new;
end
$$;
comment on function app_private.tg_webhooks__check_events() is 'Checks that a webhook''s events exist. Raises RQ422.';

create or replace trigger _200_check_events
  before insert or update of events on app_public.webhooks
  for each row execute function app_private.tg_webhooks__check_events();

create or replace function app_public.create_webhook(url text, events text[])
  returns app_public.webhooks
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_webhook app_public.webhooks;
  v_field text;
  v_message text;
begin
  perform app_private.require_permission('webhook.manage');
  insert into app_public.webhooks (url, events, signing_key)
  values (create_webhook.url, create_webhook.events, 'whsec_' || encode(app_private.gen_random_bytes(32), 'base64'))
  returning * into v_webhook;
  perform app_private.audit_webhook('WEBHOOK_CREATE', v_webhook, jsonb_build_object('events', to_jsonb(v_webhook.events)));
  return v_webhook;
exception
  when integrity_constraint_violation or sqlstate 'RQ422' then -- or the trigger's, of an unknown event
    get stacked diagnostics v_field = column_name, v_message = message_text;
    perform app_private.raise_refusal(app_private.violations('app_public.webhooks',
      jsonb_build_object('url', create_webhook.url, 'events', create_webhook.events, 'signing_key', '')),
      sqlstate, v_field, v_message);
end
$$;
comment on function app_public.create_webhook(text, text[]) is
  'Registers a webhook, for admins. The response has the key that its deliveries are signed with. VALIDATION_FAILED: the URL '
  'is not an http or https URL, or an event does not exist.';

create or replace function app_public.update_webhook(
  webhook_id uuid,
  url text default null,
  events text[] default null,
  is_enabled boolean default null
)
  returns app_public.webhooks
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_old app_public.webhooks;
  v_new app_public.webhooks;
  v_field text;
  v_message text;
begin
  perform app_private.require_session();
  select * into v_old from app_public.webhooks w
  where w.id = webhook_id and not w.is_deleted and app_hidden.has_permission('webhook.manage')
  for no key update;
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such webhook.';
  end if;
  update app_public.webhooks w
  set url = coalesce(update_webhook.url, w.url),
    events = coalesce(update_webhook.events, w.events),
    is_enabled = coalesce(update_webhook.is_enabled, w.is_enabled),
    -- If it is switched on again, its week starts again.
    failing_since = case when update_webhook.is_enabled and not w.is_enabled then null else w.failing_since end
  where w.id = webhook_id
  returning * into v_new;
  if v_new is distinct from v_old then
    perform app_private.audit_webhook('WEBHOOK_UPDATE', v_new,
      app_private.changes(to_jsonb(v_old), to_jsonb(v_new)) - '{signing_key,url,failing_since,failed_at}'::text[]
      || case when v_new.url <> v_old.url then jsonb_build_object('old_origin', app_private.origin(v_old.url)) else '{}' end);
  end if;
  return v_new;
exception
  when integrity_constraint_violation or sqlstate 'RQ422' then -- or the trigger's, of an unknown event
    get stacked diagnostics v_field = column_name, v_message = message_text;
    perform app_private.raise_refusal(app_private.violations('app_public.webhooks',
      to_jsonb(v_old) || jsonb_strip_nulls(jsonb_build_object('url', update_webhook.url, 'events', update_webhook.events))),
      sqlstate, v_field, v_message);
end
$$;
comment on function app_public.update_webhook(uuid, text, text[], boolean) is
  'Changes a webhook, for admins, or switches it on or off. What is left out or null stays as it is.';

create or replace function app_public.delete_webhook(webhook_id uuid)
  returns app_public.webhooks
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_webhook app_public.webhooks;
begin
  perform app_private.require_session();
  update app_public.webhooks w set is_deleted = true, is_enabled = false
  where w.id = webhook_id and not w.is_deleted and app_hidden.has_permission('webhook.manage')
  returning * into v_webhook;
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such webhook.';
  end if;
  perform app_private.audit_webhook('WEBHOOK_DELETE', v_webhook, '{}');
  return v_webhook;
end
$$;
comment on function app_public.delete_webhook(uuid) is
  'Removes a webhook, for admins. What was sent to it stays on record, for auditors.';

create or replace function app_public.resend_webhook_delivery(delivery_id uuid)
  returns app_public.webhook_deliveries
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_delivery app_public.webhook_deliveries;
begin
  perform app_private.require_session();
  select * into v_delivery from app_public.webhook_deliveries d
  where d.id = delivery_id and app_hidden.has_permission('webhook.manage')
    and exists (select from app_public.webhooks w where w.id = d.webhook_id and not w.is_deleted)
  for no key update;
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such delivery.';
  end if;
  if not exists (select from app_public.webhooks w where w.id = v_delivery.webhook_id and w.is_enabled) then
    raise exception using errcode = 'RQ409', message = 'The webhook is off: switch it on before you send the delivery again.';
  end if;
  if v_delivery.state <> 'QUEUED' then
    update app_public.webhook_deliveries d set state = 'QUEUED', delivered_at = null
    where d.id = delivery_id
    returning * into v_delivery;
    perform app_private.audit_webhook('WEBHOOK_RESEND', w, jsonb_build_object('delivery_id', delivery_id))
    from app_public.webhooks w where w.id = v_delivery.webhook_id;
  end if;
  return v_delivery;
end
$$;
comment on function app_public.resend_webhook_delivery(uuid) is
  'Sends a delivery again, for admins, whatever its state; one that is queued stays queued. INVALID_TRANSITION: its webhook '
  'is off.';

grant execute on function
  app_public.create_webhook(text, text[]), app_public.update_webhook(uuid, text, text[], boolean),
  app_public.delete_webhook(uuid), app_public.resend_webhook_delivery(uuid)
  to assent_user, assent_manager, assent_admin;
