-- Logging in. It takes two transactions (begin_login, commit, finish_login), so that an attempt is counted before the slow hash
-- is computed and stays counted whatever happens then. Neither raises an error for a wrong password, because that would roll
-- back the count and the audit entry: the outcome is returned as data.

create or replace function app_private.account_key(email text)
  returns bytea
  language sql
  immutable
as $$
  select sha256(convert_to(lower(email), 'UTF8'))
$$;
comment on function app_private.account_key(text) is 'The key under which the failures of an account are counted.';

create or replace function app_private.caller_network()
  returns cidr
  language sql
  stable
as $$
  select set_masklen(ip::cidr, case family(ip) when 4 then 32 else 64 end)
  from app_private.current_ip() ip
$$;
comment on function app_private.caller_network() is 'The network under which the failures of a caller''s address are counted.';

create or replace function app_hidden.begin_login(email text, out attempt_id uuid, out retry_after integer)
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_network cidr := app_private.caller_network();
  v_since timestamptz := clock_timestamp() - interval '15 minutes';
  v_blocked_until timestamptz;
begin
  delete from app_private.login_attempts a where a.attempted_at < v_since;

  -- One at a time for each network, while it is counted. A login that is under way counts, so that a burst is limited too.
  perform pg_advisory_xact_lock(hashtextextended('login from ' || coalesce(v_network::text, ''), 0));
  select a.attempted_at + interval '15 minutes' into v_blocked_until
  from app_private.login_attempts a
  where a.network = v_network or (a.network is null and v_network is null)
  order by a.attempted_at desc
  offset 99 limit 1;
  if found then
    retry_after := greatest(1, ceil(extract(epoch from v_blocked_until - clock_timestamp())));
    return;
  end if;

  insert into app_private.login_attempts (account_key, network)
  values (app_private.account_key(email), v_network)
  returning id into attempt_id;
end
$$;
comment on function app_hidden.begin_login(text) is
  'Counts an attempt to log in before the password is checked. Commit it before you call finish_login. It returns retry_after '
  '(seconds) instead of an attempt_id when 100 attempts from this address have failed within 15 minutes.';
grant execute on function app_hidden.begin_login(text) to assent_anonymous, assent_user, assent_manager, assent_admin;

create or replace function app_private.verify_password(
  attempt_id uuid,
  email text,
  password_digest text,
  out user_id uuid,
  out known_id uuid,
  out retry_after integer
)
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_account_key bytea := app_private.account_key(email);
  v_since timestamptz := clock_timestamp() - interval '15 minutes';
  v_blocked_until timestamptz;
  v_hash text;
begin
  -- One at a time for each account, until the hash is compared and the outcome counted.
  perform pg_advisory_xact_lock(hashtextextended('login to ' || v_account_key::text, 0));
  if not exists (
    select from app_private.login_attempts a where a.id = attempt_id and a.account_key = v_account_key and not a.failed
  ) then
    raise exception using errcode = 'RQ401',
      message = 'This login attempt is over, or was begun for another account: log in again.';
  end if;

  select a.attempted_at + interval '15 minutes' into v_blocked_until
  from app_private.login_attempts a
  where a.account_key = v_account_key and a.failed and a.attempted_at > v_since
  order by a.attempted_at desc
  offset 9 limit 1;
  if found then
    delete from app_private.login_attempts a where a.id = attempt_id;
    retry_after := greatest(1, ceil(extract(epoch from v_blocked_until - clock_timestamp())));
    return;
  end if;

  select c.user_id, c.password_hash, case when not u.is_deleted then u.id end
  into known_id, v_hash, user_id
  from app_private.credentials c
  join app_public.users u on u.id = c.user_id
  where lower(c.email) = lower(verify_password.email);

  -- An unknown account takes as long as a known one: one hash.
  if v_hash is null then
    perform app_private.hash_password(password_digest);
  elsif app_private.crypt(password_digest, v_hash) is distinct from v_hash then
    user_id := null;
  end if;

  if user_id is null then
    update app_private.login_attempts a set failed = true where a.id = attempt_id;
  else
    delete from app_private.login_attempts a where a.id = attempt_id;
  end if;
end
$$;
comment on function app_private.verify_password(uuid, text, text) is
  'Is this the password of an active account? If so, it returns its user_id. If not, the attempt counts as failed, and '
  'known_id is the account that has the address, if any. It returns retry_after (seconds) when 10 attempts on this account '
  'have failed within 15 minutes. An attempt is valid once: raises RQ401 for one that is over, unknown or of another account.';

create or replace function app_hidden.finish_login(
  attempt_id uuid,
  email text,
  password_digest text,
  by_cookie boolean,
  user_agent text,
  out user_id uuid,
  out session_secret text,
  out refresh_token text,
  out retry_after integer
)
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_known_id uuid;
  v_replaced record;
begin
  select v.user_id, v.known_id, v.retry_after into user_id, v_known_id, retry_after
  from app_private.verify_password(attempt_id, email, password_digest) v;
  if retry_after is not null then
    return;
  end if;
  perform app_private.log_action(case when user_id is null then 'LOGIN_FAILED' else 'LOGIN' end, user_id, v_known_id);
  if user_id is null then
    return;
  end if;

  -- The new session replaces the one that the browser had.
  if by_cookie then
    update app_private.sessions s
    set revoked_at = now()
    from app_private.live_session(current_setting('assent.session', true)) l
    where s.id = l.session_id and app_private.is_live(s)
    returning s.id, s.user_id into v_replaced;
    if found then
      perform app_private.log_action('SESSION_REVOKE', v_replaced.user_id, v_replaced.user_id,
        jsonb_build_object('session_id', v_replaced.id, 'reason', 'Its browser logged in again.'));
    end if;
  end if;
  select o.session_secret, o.refresh_token into session_secret, refresh_token
  from app_private.open_session(finish_login.user_id, by_cookie, user_agent) o;
end
$$;
comment on function app_hidden.finish_login(uuid, text, text, boolean, text) is
  'Compares the digest of the password and opens a session, either for a cookie or for an access token and a refresh token. '
  'Without a user_id, the address or the password is wrong: the result and its time are the same for both. It returns '
  'retry_after (seconds) when 10 attempts on this account have failed within 15 minutes. Raises RQ401 for an attempt that is '
  'over, unknown or of another account.';
grant execute on function app_hidden.finish_login(uuid, text, text, boolean, text)
  to assent_anonymous, assent_user, assent_manager, assent_admin;
