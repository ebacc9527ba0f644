--! Previous: sha1:03904059e68d6c13df539bf5de2eb9472893240d
--! Hash: sha1:581ddca29cc7e7993fef486adc4d0aa219f2ad8f
--! Message: index for ties between accounts

--! no-transaction
create index concurrently if not exists audit_logs_ties_idx on app_public.audit_logs (user_id, "timestamp", id) where action in ('USER_CREATE', 'INVITATION_RESEND', 'USER_REACTIVATE', 'USER_UPDATE');
