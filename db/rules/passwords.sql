-- Passwords: how they are stored, changed, and reset when forgotten. They never enter the database: the server sends a digest,
-- because PostgreSQL can log the parameters of a failing or slow statement, and because bcrypt ignores what follows byte 72.

-- Because of the prefix, digests in leaked lists do not match.
create or replace function app_private.password_digest(password text)
  returns text
  language sql
  immutable
as $$
  select encode(sha256(convert_to('assent:' ||
    case when octet_length(password) <= 2000 then normalize(password, NFC) else password end, 'UTF8')), 'base64')
$$;
comment on function app_private.password_digest(text) is
  'The digest that the server sends instead of a password: base64(SHA-256("assent:" || password)), with the password in NFC '
  '(NIST SP 800-63B, 5.1.1.2), so that every keyboard types the same one. A password of more than 2,000 bytes is taken as it '
  'was typed, because bringing it into NFC takes the square of its length. The digests of passwords that were set before they '
  'were brought into NFC are still good: the server sends that of what was typed as well.';

create or replace function app_private.hash_password(password_digest text)
  returns text
  language sql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
  select app_private.crypt(password_digest, app_private.gen_salt('bf', 10))
$$;
comment on function app_private.hash_password(text) is
  'The bcrypt hash, at cost 10 (OWASP Password Storage Cheat Sheet: 10 or more), of a digest that app_private.password_digest '
  'made.';

create or replace function app_hidden.own_words(reset_token text)
  returns text[]
  language sql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  select array[u.name, c.email]
  from app_public.users u
  join app_private.credentials c on c.user_id = u.id
  where not u.is_deleted and u.id = case
    when reset_token is null then (select k.user_id from app_private.caller() k)
    else (
      select r.user_id from app_private.password_resets r
      where r.secret_hash = app_private.hash_secret(reset_token) and r.expires_at > now()
    )
  end
$$;
comment on function app_hidden.own_words(text) is
  'What a new password must not contain: the name and the address of the person whose link it is, or of the caller without a '
  'link. The server alone sees the password, so it has to be told; for a link that is not valid there is nothing to tell.';
grant execute on function app_hidden.own_words(text) to assent_anonymous, assent_user, assent_manager, assent_admin;

-- Changing the password --------------------------------------------------------------------------------------------

create or replace function app_private.change_key()
  returns bytea
  language sql
  stable
as $$
  select sha256(convert_to('password change in ' || l.session_id, 'UTF8'))
  from app_private.live_session(current_setting('assent.session', true)) l
$$;
comment on function app_private.change_key() is
  'The key under which the wrong old passwords of the caller''s session are counted: whoever finds an open session cannot guess '
  'its password, and no stranger who fails to log in keeps its person from changing it.';

create or replace function app_hidden.begin_password_change(weakness text, out attempt_id uuid, out retry_after integer)
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  perform app_private.require_session();
  perform app_private.refuse_weakness(weakness, 'new_password');
  select b.attempt_id, b.retry_after into attempt_id, retry_after
  from app_private.begin_attempt(app_private.change_key(), null) b;
end
$$;
comment on function app_hidden.begin_password_change(text) is
  'Does what begin_login does, with a count for each session: it returns retry_after when 10 old passwords have been wrong '
  'within 15 minutes. Raises RQ401, and RQ422 if the new password is weak.';

create or replace function app_hidden.change_password(
  attempt_id uuid,
  old_digest text,
  new_digest text,
  typed_digest text default null,
  out user_id uuid,
  out retry_after integer
)
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
begin
  -- One at a time for each account.
  perform from app_private.credentials c where c.user_id = v_me for no key update;
  select v.user_id, v.retry_after into user_id, retry_after
  from app_private.verify_password(attempt_id, app_private.change_key(), v_me,
    array_remove(array[old_digest, typed_digest], null)) v;
  if user_id is null then
    if retry_after is null then
      perform app_private.log_action('LOGIN_FAILED', null, v_me, jsonb_build_object(
        'session_id', (select l.session_id from app_private.live_session(current_setting('assent.session', true)) l),
        'reason', 'The old password was wrong.'));
    end if;
    return;
  end if;
  -- Meanwhile another change of the password may have ended this session.
  perform app_private.require_session();

  update app_private.credentials c set password_hash = app_private.hash_password(new_digest) where c.user_id = v_me;
  update app_private.sessions s
  set revoked_at = now()
  where s.user_id = v_me and s.revoked_at is null
    and s.id is distinct from (select l.session_id from app_private.live_session(current_setting('assent.session', true)) l);
  perform app_private.log_action('PASSWORD_CHANGE', v_me, v_me);
end
$$;
comment on function app_hidden.change_password(uuid, text, text, text) is
  'Changes the caller''s password and ends their other sessions. typed_digest is that of the old one, as for finish_login. '
  'Without a user_id, the old password is wrong, which leaves a LOGIN_FAILED in the trail. It returns '
  'retry_after (seconds) as begin_password_change does. Raises RQ401 when the session has ended.';
grant execute on function app_hidden.begin_password_change(text), app_hidden.change_password(uuid, text, text, text)
  to assent_user, assent_manager, assent_admin;

-- A forgotten password ---------------------------------------------------------------------------------------------
--
-- A request for a link only adds a job, whether or not there is such an account, so that the response and its time are the same.
-- The secret of the link is made together with the mail (mail_document in mails.sql), and only its hash is kept. By the same
-- kind of link, somebody who was invited chooses their first password; if they have lost the invitation, they request another.

create or replace function app_public.request_password_reset(email text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  perform graphile_worker.add_job('begin_password_reset',
    json_build_object('email', left(request_password_reset.email, 255), 'ip', host(app_private.current_ip())),
    -- It runs after all other jobs, because anybody can request it.
    job_key => 'reset ' || app_private.uuid_v7(), job_key_mode => 'unsafe_dedupe', priority => 1);
end
$$;
comment on function app_public.request_password_reset(text) is
  'Sends a link to reset the password, which is valid once and for 30 minutes. The response is the same if there is no such '
  'account, and if no mail is sent because there were 3 requests for the address, or 20 from the network, within 15 minutes.';
grant execute on function app_public.request_password_reset(text) to assent_anonymous, assent_user, assent_manager, assent_admin;

create or replace function app_private.begin_password_reset(email text, ip text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_since timestamptz := now() - interval '15 minutes';
  v_account_key bytea := app_private.account_key(coalesce(email, ''));
  v_network cidr;
begin
  perform set_config('assent.ip', coalesce(ip, ''), true);
  v_network := app_private.caller_network();
  -- One at a time, while it is counted.
  perform pg_advisory_xact_lock(hashtextextended('password resets', 0));
  delete from app_private.password_reset_requests r where r.requested_at < v_since;
  if (
    select count(*) from app_private.password_reset_requests r where r.account_key = v_account_key and r.requested_at >= v_since
  ) >= 3 or (
    select count(*) from app_private.password_reset_requests r where r.network = v_network and r.requested_at >= v_since
  ) >= 20 then
    return;
  end if;
  insert into app_private.password_reset_requests (account_key, network) values (v_account_key, v_network);
  -- If the owner runs this, a trigger on the row above writes the entry (rules/trail.sql).
  perform app_private.log_action('PASSWORD_RESET_REQUEST', null, u.id)
  from app_public.users u
  where u.id = app_private.account_of(email) and not u.is_deleted and not app_private.is_by_sql();
end
$$;
comment on function app_private.begin_password_reset(text, text) is
  'The job of a request for a link: it counts the request and writes its audit entry, which causes the mail. There is no '
  'entry for an unknown or deactivated account, nor after 3 requests for the address or 20 from the network within 15 minutes. '
  'Strangers'' requests keep nobody from a link, because the links that they request are mailed to its owner.';

create or replace function app_private.issue_reset_token(of_user_id uuid, lifetime interval)
  returns text
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_secret text := app_private.random_secret();
begin
  insert into app_private.password_resets (secret_hash, user_id, expires_at)
  values (app_private.hash_secret(v_secret), of_user_id, now() + lifetime);
  return v_secret;
end
$$;
comment on function app_private.issue_reset_token(uuid, interval) is
  'The secret of a new link to choose a password. Each attempt to mail it makes another, because nobody knows which attempt '
  'will arrive.';

create or replace function app_hidden.reset_password(token text, new_digest text, weakness text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_user_id uuid;
begin
  -- One at a time for each account: of two at once, with the same link or with two, the second finds its link used.
  perform from app_private.credentials c
  where c.user_id = (select r.user_id from app_private.password_resets r where r.secret_hash = app_private.hash_secret(token))
  for update;
  select r.user_id into v_user_id
  from app_private.password_resets r
  join app_public.users u on u.id = r.user_id and not u.is_deleted
  where r.secret_hash = app_private.hash_secret(token) and r.expires_at > now();
  if not found then
    raise exception using errcode = 'RQ422', column = 'token',
      message = 'This link has been used, has expired or is unknown: request a new one.';
  end if;
  perform app_private.refuse_weakness(weakness, 'new_password');

  update app_private.credentials c set password_hash = app_private.hash_password(new_digest)
  where c.user_id = v_user_id;
  delete from app_private.login_attempts a
  using app_private.credentials c
  where c.user_id = v_user_id and a.account_key = app_private.account_key(c.email) and a.failed;
  update app_private.sessions s set revoked_at = now() where s.user_id = v_user_id and s.revoked_at is null;
  perform app_private.log_action('PASSWORD_CHANGE', v_user_id, v_user_id, '{"by": "a mailed link"}');
end
$$;
comment on function app_hidden.reset_password(text, text, text) is
  'Sets a new password with the secret of a mailed link, ends all sessions of the person, and forgets their failed logins. '
  'Raises RQ422 if the link has been used, has expired or is unknown, or if the password is weak; the link then stays valid.';
grant execute on function app_hidden.reset_password(text, text, text)
  to assent_anonymous, assent_user, assent_manager, assent_admin;

create or replace function app_private.tg_credentials__end_resets()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  delete from app_private.password_resets r where r.user_id = new.user_id;
  return null;
end
$$;
comment on function app_private.tg_credentials__end_resets() is
  'A new password, however it was set, ends all links to choose one.';

create or replace trigger _500_end_resets
  after update of password_hash on app_private.credentials
  for each row execute function app_private.tg_credentials__end_resets();
