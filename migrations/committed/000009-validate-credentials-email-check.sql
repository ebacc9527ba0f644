--! Previous: sha1:be2b1db0f0033d63e86643161e769f3dae4e9666
--! Hash: sha1:4ccf7f67e7f0f4b1dad85732ecd2f078919b8256
--! Message: validate credentials email check

alter table app_private.credentials validate constraint credentials_email_check;
