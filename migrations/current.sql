-- The trail's actions say which of them are told.
alter table app_public.audit_actions add column if not exists is_told boolean not null default false;

--!include permissions.sql
--!include audit.sql
--!include notifications.sql
--!include password_reset.sql
--!include mail.sql
--!include webhooks.sql
--!include schedule.sql
--!include jobs.sql
--!include live.sql
--!include policies.sql
--!include audit_views.sql
