create or replace function app_private.queue_deliveries(entry app_public.audit_logs)
  returns void
  language sql
  volatile
as $$
$$;
comment on function app_private.queue_deliveries(app_public.audit_logs) is 'One delivery for each webhook that is told of the action.';
