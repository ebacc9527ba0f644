-- Logging in. It takes two transactions (begin_login, commit, finish_login), so that an attempt is counted before the slow hash
-- is computed and stays counted whatever happens then. Neither raises an error for a wrong password, because that would roll
-- back the count and the audit entry: the outcome is returned as data.

create or replace function app_private.account_key(email text)
  returns bytea
  language sql
  immutable
as $$
  select sha256(convert_to(app_private.email_key(email), 'UTF8'))
$$;
comment on function app_private.account_key(text) is 'The key under which the failures of an account are counted.';

create or replace function app_private.clean_email(email text)
  returns text
  language sql
  immutable
as $$
  select normalize(
    regexp_replace(left(email, 1000), '^[' || app_private.blanks() || ']+|[' || app_private.blanks() || ']+$', '', 'g'),
    NFC)
$$;
comment on function app_private.clean_email(text) is
  'An email address as it is kept: in NFC (RFC 6532, 3.1), and without what shows nothing around it, which people copy along.';

create or replace function app_private.account_of(email text)
  returns uuid
  language sql
  stable
  set search_path to pg_catalog, pg_temp
as $$
  select c.user_id
  from app_private.credentials c
  where (app_private.email_key(c.email) = app_private.email_key(account_of.email) and not c.collides)
    or lower(c.email) = lower(account_of.email)
  order by lower(c.email) = lower(account_of.email) desc
  limit 1
$$;
comment on function app_private.account_of(text) is
  'Whose account it is, however its address is typed. This is the only definition of that.';

create or replace function app_private.tg_credentials__clean_email()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  new.email := app_private.clean_email(new.email);
  -- An address that is changed is compared like a new one.
  new.collides := new.collides and tg_op = 'INSERT';
  return new;
end
$$;
comment on function app_private.tg_credentials__clean_email() is 'Keeps addresses in one form, whoever writes them.';

create or replace trigger _100_clean_email
  before insert or update of email on app_private.credentials
  for each row execute function app_private.tg_credentials__clean_email();

create or replace function app_private.caller_network()
  returns cidr
  language sql
  stable
as $$
  select set_masklen(ip::cidr, case family(ip) when 4 then 32 else 64 end)
  from app_private.current_ip() ip
$$;
comment on function app_private.caller_network() is 'The network under which the failures of a caller''s address are counted.';

create or replace function app_private.blocked_until(of_account_key bytea, of_network cidr, since timestamptz)
  returns timestamptz
  language sql
  stable
  set search_path to pg_catalog, pg_temp
as $$
  select max(b.attempted_at) + interval '15 minutes'
  from (
    (
      select a.attempted_at from app_private.login_attempts a
      where a.account_key = of_account_key and a.network is not distinct from of_network and a.failed and a.attempted_at > since
      order by a.attempted_at desc offset 9 limit 1
    ) union all (
      select a.attempted_at from app_private.login_attempts a
      where a.account_key = of_account_key and a.failed and a.attempted_at > since
      order by a.attempted_at desc offset 99 limit 1
    ) union all (
      select a.attempted_at from app_private.login_attempts a
      where a.network = of_network and a.failed and a.attempted_at > since
      order by a.attempted_at desc offset 99 limit 1
    )
  ) b
$$;
comment on function app_private.blocked_until(bytea, cidr, timestamptz) is
  'Until when a caller from this network may not guess at this account, or null: after 10 failures there from the network, 100 '
  'there from everywhere, or 100 from the network. So strangers do not lock anybody out who logs in from elsewhere. All '
  'callers whose address is unknown share the 10 of an account, but not the 100 of a network.';

create or replace function app_private.seconds_until(blocked_until timestamptz)
  returns integer
  language sql
  volatile
as $$
  select greatest(1, ceil(extract(epoch from blocked_until - clock_timestamp())))::integer
$$;
comment on function app_private.seconds_until(timestamptz) is 'The seconds that a refused caller is told to wait, at least one.';

create or replace function app_private.begin_attempt(
  of_account_key bytea,
  of_network cidr,
  out attempt_id uuid,
  out retry_after integer
)
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_since timestamptz := clock_timestamp() - interval '15 minutes';
  v_blocked_until timestamptz;
begin
  delete from app_private.login_attempts a where a.attempted_at < v_since;

  -- One at a time for each network, while it is counted.
  perform pg_advisory_xact_lock(hashtextextended('login from ' || coalesce(of_network::text, ''), 0));
  v_blocked_until := app_private.blocked_until(of_account_key, of_network, v_since);
  if v_blocked_until is not null then
    retry_after := app_private.seconds_until(v_blocked_until);
    return;
  end if;

  -- An attempt that is under way may still fail, so it takes one of the network's places for as long as it may finish. Without a
  -- place nobody has failed too often yet; there are too many at once.
  if (
    select count(*) from (
      select from app_private.login_attempts a
      where a.network = of_network and a.attempted_at > v_since
        and (a.failed or a.attempted_at > clock_timestamp() - interval '30 seconds')
      limit 100
    ) places
  ) >= 100 then
    raise exception using errcode = 'lock_not_available', message = 'Too many logins from this network are under way.';
  end if;

  insert into app_private.login_attempts (account_key, network) values (of_account_key, of_network)
  returning id into attempt_id;
end
$$;
comment on function app_private.begin_attempt(bytea, cidr) is
  'Counts an attempt before the password is checked: its finish has to follow within 30 seconds, after which it no longer '
  'counts. It returns retry_after (seconds) instead of an attempt_id when blocked_until() says so. Raises 55P03 when the '
  'attempts of the network that are under way could exceed its limit.';

create or replace function app_hidden.begin_login(email text, out attempt_id uuid, out retry_after integer)
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  select b.attempt_id, b.retry_after into attempt_id, retry_after
  from app_private.begin_attempt(app_private.account_key(email), app_private.caller_network()) b;
end
$$;
comment on function app_hidden.begin_login(text) is
  'Counts an attempt to log in before the password is checked. Commit it before you call finish_login. It returns retry_after '
  '(seconds) instead of an attempt_id when, within 15 minutes, 10 attempts on this account from this network have failed, 100 '
  'on this account from everywhere, or 100 from this network on all accounts. Raises 55P03 (try again) when too many are under '
  'way.';
grant execute on function app_hidden.begin_login(text) to assent_anonymous, assent_user, assent_manager, assent_admin;

create or replace function app_private.verify_password(
  attempt_id uuid,
  of_account_key bytea,
  known_id uuid,
  password_digests text[],
  out user_id uuid,
  out retry_after integer
)
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_attempt app_private.login_attempts;
  v_since timestamptz := clock_timestamp() - interval '15 minutes';
  v_blocked_until timestamptz;
  v_hash text;
begin
  -- One at a time for each account, until the hash is compared and the outcome counted.
  perform pg_advisory_xact_lock(hashtextextended('login to ' || of_account_key::text, 0));
  select * into v_attempt
  from app_private.login_attempts a
  where a.id = attempt_id and a.account_key = of_account_key and not a.failed;
  if not found then
    raise exception using errcode = 'RQ401',
      message = 'This login attempt is over, or was begun for another account: log in again.';
  end if;
  if v_attempt.attempted_at < clock_timestamp() - interval '30 seconds' then
    raise exception using errcode = 'lock_not_available', message = 'This login attempt took too long: log in again.';
  end if;

  v_blocked_until := app_private.blocked_until(of_account_key, v_attempt.network, v_since);
  if v_blocked_until is not null then
    delete from app_private.login_attempts a where a.id = attempt_id;
    retry_after := app_private.seconds_until(v_blocked_until);
    return;
  end if;

  select c.password_hash, case when not u.is_deleted then u.id end
  into v_hash, user_id
  from app_private.credentials c
  join app_public.users u on u.id = c.user_id
  where c.user_id = known_id;

  -- An account that is unknown or has no password takes as long as any other: one hash for each digest.
  if v_hash is null then
    perform app_private.hash_password(d) from unnest(password_digests) d;
    user_id := null;
  elsif (select bool_or(app_private.crypt(d, v_hash) = v_hash) from unnest(password_digests) d) is not true then
    user_id := null;
  end if;

  if user_id is null then
    update app_private.login_attempts a set failed = true where a.id = attempt_id;
  else
    delete from app_private.login_attempts a where a.id = attempt_id;
  end if;
end
$$;
comment on function app_private.verify_password(uuid, bytea, uuid, text[]) is
  'Is one of these the password of known_id, and are they active? If so, it returns their user_id; if not, the attempt counts as '
  'failed. It returns retry_after (seconds) when blocked_until() says so. An attempt is valid once: raises RQ401 for one that '
  'is over, unknown or of another account, and 55P03 for one that was begun more than 30 seconds ago.';

create or replace function app_hidden.finish_login(
  attempt_id uuid,
  email text,
  password_digest text,
  by_cookie boolean,
  user_agent text,
  typed_digest text default null,
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
  v_known_id uuid := app_private.account_of(email);
begin
  select v.user_id, v.retry_after into user_id, retry_after
  from app_private.verify_password(attempt_id, app_private.account_key(email), v_known_id,
    array_remove(array[password_digest, typed_digest], null)) v;
  if retry_after is not null then
    return;
  end if;
  perform app_private.log_action(case when user_id is null then 'LOGIN_FAILED' else 'LOGIN' end, user_id, v_known_id);
  if user_id is null then
    return;
  end if;

  select o.session_secret, o.refresh_token into session_secret, refresh_token
  from app_private.open_session(finish_login.user_id, by_cookie, user_agent) o;
end
$$;
comment on function app_hidden.finish_login(uuid, text, text, boolean, text, text) is
  'Compares the digest of the password, and that of the password as it was typed if it is another (see '
  'app_private.password_digest), and opens a session, either for a cookie or for an access token and a refresh token. '
  'Without a user_id, the address or the password is wrong: the result and its time are the same for both. It returns '
  'retry_after (seconds) as begin_login does. Raises RQ401 for an attempt that is over, unknown or of another account.';
grant execute on function app_hidden.finish_login(uuid, text, text, boolean, text, text)
  to assent_anonymous, assent_user, assent_manager, assent_admin;
