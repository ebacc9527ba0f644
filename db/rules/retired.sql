-- Rules that have been removed. They are dropped in the transaction that creates their successors, so that a server which is
-- still running always finds one or the other. What the previous release calls by name is kept here until the next release, and
-- its comment says so. The drift test names whatever is in a database but neither in db/ nor here.

drop function if exists app_hidden.transition(app_public.requests, text, integer, jsonb);
drop function if exists app_private.permitted_transition(app_public.requests, text, integer);
drop function if exists app_hidden.visible_request(uuid);
drop function if exists app_private.raise_violation(text, text);
drop function if exists app_private.check_types(jsonb, regclass);
drop function if exists app_private.permit_user_management();
drop function if exists app_hidden.people_on_my_requests();
drop trigger if exists _800_notify on app_public.audit_logs;
drop function if exists app_private.tg_audit_logs__notify();
drop function if exists app_private.people_to_ask(uuid);
drop function if exists app_private.verify_password(uuid, text, text);
drop index if exists app_public.requests_search_idx;
drop index if exists app_public.requests_grams_idx;
do $$
begin
  drop extension if exists pg_trgm;
exception
  -- A superuser who installed or restored it owns it, and somebody else's indexes may use it: it stays, and does no harm.
  when insufficient_privilege or dependent_objects_still_exist then null;
end
$$;
-- The server of migration 000010 calls their successors, whose last argument has a default.
drop function if exists app_hidden.finish_login(uuid, text, text, boolean, text);
drop function if exists app_hidden.change_password(uuid, text, text);
drop function if exists app_private.issue_reset_token(uuid);
drop function if exists app_hidden.create_user(text, text, text);
drop function if exists app_hidden.viewers_of(uuid[], uuid[]);
-- The server of migration 000031 calls theirs.
drop function if exists app_public.create_request(text, text, uuid);
drop function if exists app_public.update_request(uuid, text, text, uuid, integer);
-- These took a row of the table that has become the first partition of the trail.
drop function if exists app_private.recipients(app_private.audit_logs_earliest);
drop function if exists app_private.announce_inboxes(app_private.audit_logs_earliest);
drop function if exists app_private.queue_deliveries(app_private.audit_logs_earliest);
drop function if exists app_private.webhook_payload(app_private.audit_logs_earliest, text);
drop function if exists app_hidden.audit_log_document(app_private.audit_logs_earliest);

-- The server of migration 000010 calls this.
create or replace function app_hidden.create_user(email text, name text, role text, password_digest text, weakness text)
  returns app_public.users
  language sql
  volatile
as $$
  select app_public.create_user(email, name, role)
$$;
comment on function app_hidden.create_user(text, text, text, text, text) is
  'For servers of migration 000010: see app_public.create_user. Nobody chooses another''s password any more, so the '
  'password is ignored, and the person chooses their own by the mailed link.';
grant execute on function app_hidden.create_user(text, text, text, text, text) to assent_user, assent_manager, assent_admin;

-- The server and the worker of migration 000009 call these.
create or replace function app_hidden.visible_user(user_id uuid)
  returns app_public.users
  language plpgsql
  volatile
as $$
declare
  v_user app_public.users;
begin
  select * into v_user from app_public.users u where u.id = user_id;
  return v_user;
end
$$;
comment on function app_hidden.visible_user(uuid) is 'For servers of migration 000009: see change_user(uuid, jsonb).';
create or replace function app_hidden.change_user(seen app_public.users, changes jsonb)
  returns app_public.users
  language sql
  volatile
as $$
  select app_hidden.change_user(seen.id, changes)
$$;
comment on function app_hidden.change_user(app_public.users, jsonb) is
  'For servers of migration 000009: see change_user(uuid, jsonb).';
grant execute on function app_hidden.visible_user(uuid), app_hidden.change_user(app_public.users, jsonb)
  to assent_user, assent_manager, assent_admin;
create or replace function app_private.notify(audit_log_id uuid)
  returns void
  language sql
  volatile
as $$
  select app_private.dispatch(audit_log_id)
$$;
comment on function app_private.notify(uuid) is
  'For workers of migration 000009 and the jobs that they have added: see dispatch(uuid).';
create or replace function app_private.mail_lock(notification_id uuid)
  returns bigint
  language sql
  immutable
as $$
  select app_private.outbox_lock(notification_id)
$$;
comment on function app_private.mail_lock(uuid) is 'For workers of migration 000009: see outbox_lock(uuid).';
create or replace function app_private.begin_mail(notification_id uuid, domain text)
  returns jsonb
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if not pg_try_advisory_lock(app_private.outbox_lock(notification_id)) then
    raise exception using errcode = 'lock_not_available', message = 'Another worker is sending this mail.';
  end if;
  return app_private.mail_to_send(notification_id, domain);
end
$$;
comment on function app_private.begin_mail(uuid, text) is 'For workers of migration 000009: see mail_to_send(uuid, text).';
create or replace function app_private.delivery_lock(delivery_id uuid)
  returns bigint
  language sql
  immutable
as $$
  select app_private.outbox_lock(delivery_id)
$$;
comment on function app_private.delivery_lock(uuid) is 'For workers of migration 000009: see outbox_lock(uuid).';
create or replace function app_private.begin_delivery(
  delivery_id uuid,
  out url text,
  out signing_key text,
  out body text
)
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if not pg_try_advisory_lock(app_private.outbox_lock(delivery_id)) then
    raise exception using errcode = 'lock_not_available', message = 'Another worker is sending this delivery.';
  end if;
  select s.url, s.signing_key, s.body into url, signing_key, body from app_private.delivery_to_send(delivery_id) s;
end
$$;
comment on function app_private.begin_delivery(uuid) is 'For workers of migration 000009: see delivery_to_send(uuid).';
create or replace function app_private.delivery_done(delivery_id uuid, response_status integer)
  returns void
  language sql
  volatile
as $$
  select app_private.delivery_sent(delivery_id, response_status)
$$;
comment on function app_private.delivery_done(uuid, integer) is
  'For workers of migration 000009: see delivery_sent(uuid, integer).';

-- The server of migration 000017 calls this.
create or replace function app_hidden.audit_log_document(seen app_public.audit_logs)
  returns json
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_document json;
begin
  select row_to_json(d) into v_document
  from app_private.caller() c
  cross join lateral (
    select seen.id, (select p from app_private.people p where p.id = seen.actor_id) as actor, seen.action, seen.request_id,
      seen.user_id, seen.metadata, host(seen.ip_address) as ip_address, seen."timestamp"
  ) d;
  return v_document;
end
$$;
comment on function app_hidden.audit_log_document(app_public.audit_logs) is
  'For servers of migration 000017: see the view audit_log_documents.';
grant execute on function app_hidden.audit_log_document(app_public.audit_logs) to assent_user, assent_manager, assent_admin;

-- The server of migration 000035 calls its successor, whose last argument has a default.
drop function if exists app_hidden.detach(uuid);

-- The worker of migration 000031 calls this.
create or replace function app_private.clear_away()
  returns void
  language sql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  select app_private.clear_batch()
$$;
comment on function app_private.clear_away() is 'For workers of migration 000031: see clear_batch().';
grant execute on function app_private.clear_away() to assent_worker;

-- Searches among deleted requests have one argument more; whoever leaves it out, as servers of migration 000031 do, calls those.
drop function if exists app_hidden.matching_requests(text, text, uuid, uuid);
drop function if exists app_private.searched_requests(uuid, boolean, boolean, text, uuid, uuid);
