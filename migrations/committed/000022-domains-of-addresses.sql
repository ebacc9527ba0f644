--! Previous: sha1:cae70894a64f78f7bf84fed22b278d65b27cbf73
--! Hash: sha1:03904059e68d6c13df539bf5de2eb9472893240d
--! Message: domains of addresses

-- Addresses: domains as they can be, and no code points that are no characters
alter table app_private.credentials drop constraint if exists credentials_email_check;
alter table app_private.credentials add constraint credentials_email_check check (
  char_length(email) <= 254
  and email ~ '^[^[:space:][:cntrl:]@<>()\[\]\\,;:"]+@'
    '[^[:space:][:cntrl:]@<>()\[\]\\,;:".]+(\.[^[:space:][:cntrl:]@<>()\[\]\\,;:".]+)*$'
  and email !~ '@-|@.*(-\.|\.-)|-$'
  and email !~ ('[\uFDD0-\uFDEF\uFFFE\uFFFF\U0001FFFE\U0001FFFF\U0002FFFE\U0002FFFF\U0003FFFE\U0003FFFF\U0004FFFE\U0004FFFF'
    '\U0005FFFE\U0005FFFF\U0006FFFE\U0006FFFF\U0007FFFE\U0007FFFF\U0008FFFE\U0008FFFF\U0009FFFE\U0009FFFF\U000AFFFE\U000AFFFF'
    '\U000BFFFE\U000BFFFF\U000CFFFE\U000CFFFF\U000DFFFE\U000DFFFF\U000EFFFE\U000EFFFF\U000FFFFE\U000FFFFF\U0010FFFE\U0010FFFF]')
) not valid;
comment on constraint credentials_email_check on app_private.credentials is 'This is not an email address.';
do $$
begin
  alter table app_private.credentials validate constraint credentials_email_check;
exception
  when check_violation then
    raise warning 'There are email addresses that can receive no mail. They stay as they are.';
end
$$;

-- What accounts are counted by
comment on column app_private.login_attempts.account_key is
  'What is guessed at: SHA-256 of the email address as app_private.email_key compares it, whether or not there is such an '
  'account, or of the session whose person is asked for their old password.';
comment on column app_private.password_reset_requests.account_key is
  'SHA-256 of the email address as app_private.email_key compares it, whether or not there is such an account.';
