--! Previous: sha1:d88828312b1ba18c89c3664d0d079a82abcc1f75
--! Hash: sha1:27334264b44b2fa86f0459e81cfb57d117835fef
--! Message: key of the trail by months

--! no-transaction
create unique index concurrently if not exists audit_logs_id_timestamp_idx on app_public.audit_logs (id, "timestamp");
