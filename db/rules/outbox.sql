-- The outbox: what is queued for an SMTP server or a webhook. Mails and deliveries are processed in the same way: a row in state
-- QUEUED has a job. The worker (server/jobs/outbox.ts) locks the row's id, asks what to send (mail_to_send, delivery_to_send),
-- sends it, and records the outcome (…_sent, …_failed). The network has no transactions: if a worker dies after the other side
-- has accepted something and before …_sent() has committed, nobody can tell whether it was sent, and it is sent again with the
-- same id. Nothing is sent twice for any other reason.

create or replace function app_private.outbox_lock(id uuid)
  returns bigint
  language sql
  immutable
as $$
  select hashtextextended('outbox ' || id, 0)
$$;
comment on function app_private.outbox_lock(uuid) is
  'The advisory lock that a worker''s session holds while it sends a mail or a delivery.';

create or replace function app_private.lock_outbox(id uuid)
  returns boolean
  language sql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  select pg_try_advisory_lock(app_private.outbox_lock(id))
$$;
comment on function app_private.lock_outbox(uuid) is
  'Takes that lock for the session, unless another worker holds it. If the worker dies, the lock ends with its session.';

create or replace function app_private.unlock_outbox(id uuid)
  returns boolean
  language sql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  select pg_advisory_unlock(app_private.outbox_lock(id))
$$;
comment on function app_private.unlock_outbox(uuid) is 'Releases that lock.';
