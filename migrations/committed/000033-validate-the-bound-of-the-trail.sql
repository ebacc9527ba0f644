--! Previous: sha1:87605ec3384239670edf9795cea52c08e0db3904
--! Hash: sha1:d88828312b1ba18c89c3664d0d079a82abcc1f75
--! Message: validate the bound of the trail

-- It reads the whole trail, and holds nobody up.
alter table app_public.audit_logs validate constraint audit_logs_until;
