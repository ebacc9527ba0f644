-- The outbox: what is queued for an SMTP server or a webhook. Mails and deliveries go the same way: a row in state QUEUED has
-- a job; the worker (server/jobs/outbox.ts) locks the row's id, asks what to send (mail_to_send, delivery_to_send), sends
-- it, and records the outcome (…_sent, …_failed). The network knows no transactions: when a worker dies between the other
-- side's acceptance and …_sent(), nobody can tell whether it is out, and it is sent again under the same id. Nothing else
-- sends anything twice.

create or replace function app_private.outbox_lock(id uuid)
  returns bigint
  language sql
  immutable
as $$
  select hashtextextended('outbox ' || id, 0)
$$;
comment on function app_private.outbox_lock(uuid) is
  'The advisory lock that a worker''s session holds while it sends a mail or a delivery. The worker takes it and lets go of it; should it die, its session ends and with it the lock.';
