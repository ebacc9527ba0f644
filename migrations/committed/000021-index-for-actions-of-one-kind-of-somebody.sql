--! Previous: sha1:b0f7230bbbaeff7266c2f47bcb398cb896eea60f
--! Hash: sha1:cae70894a64f78f7bf84fed22b278d65b27cbf73
--! Message: index for actions of one kind of somebody

--! no-transaction
create index concurrently if not exists audit_logs_actor_id_action_idx on app_public.audit_logs (actor_id, action, "timestamp", id);
