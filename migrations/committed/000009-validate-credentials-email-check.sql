--! Previous: sha1:0b003f79dda2db19c4bc6bab8ac0f26bf4fe3960
--! Hash: sha1:b2c61b3205b29663d9bb93c687028422d3e73260
--! Message: validate credentials email check

alter table app_private.credentials validate constraint credentials_email_check;
