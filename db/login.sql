-- Logging in and out. A login is two transactions, so that an attempt is counted before the slow hash is computed and
-- stays counted whatever becomes of it: begin_login, commit, finish_login. Neither raises on a wrong password, which
-- would roll back the count and the audit entry: the outcome is data.

create table if not exists app_private.login_attempts (
  id uuid primary key default app_private.uuid_v7(),
  account_key bytea not null,
  network cidr,
  attempted_at timestamptz not null default clock_timestamp(),
  failed boolean not null default false
);
comment on table app_private.login_attempts is
  'Logins under way, and those that failed in the last 15 minutes. A success removes its row: only failures count.';
comment on column app_private.login_attempts.id is 'Time-ordered UUID (version 7).';
comment on column app_private.login_attempts.account_key is 'SHA-256 of the address in lower case, whether or not there is such an account.';
comment on column app_private.login_attempts.network is 'The caller''s IPv4 address, or the /64 of its IPv6 address, which is what one caller has there.';
comment on column app_private.login_attempts.attempted_at is 'When it began.';
comment on column app_private.login_attempts.failed is 'The password was wrong; false: still being looked at.';
create index if not exists login_attempts_account_key_idx on app_private.login_attempts (account_key, attempted_at);
create index if not exists login_attempts_network_idx on app_private.login_attempts (network, attempted_at);
create index if not exists login_attempts_attempted_at_idx on app_private.login_attempts (attempted_at);

create or replace function app_private.account_key(email text)
  returns bytea
  language sql
  immutable
as $$
  select sha256(convert_to(lower(email), 'UTF8'))
$$;
comment on function app_private.account_key(text) is 'What the failures of an account are counted under.';

create or replace function app_private.caller_network()
  returns cidr
  language sql
  stable
as $$
  select set_masklen(ip::cidr, case family(ip) when 4 then 32 else 64 end)
  from app_private.current_ip() ip
$$;
comment on function app_private.caller_network() is 'What the failures of an address are counted under.';

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

  -- One at a time per network, for the moment of counting; a login under way counts, so that no burst gets past.
  perform pg_advisory_xact_lock(hashtextextended('login from ' || coalesce(v_network::text, ''), 0));
  select a.attempted_at + interval '15 minutes' into v_blocked_until
  from app_private.login_attempts a
  where a.network = v_network
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
  'Counts an attempt to log in, before any password is looked at. retry_after (seconds) instead of an attempt_id: 100 have failed from this address within 15 minutes. To be committed before finish_login.';
grant execute on function app_hidden.begin_login(text) to :DATABASE_AUTHENTICATOR;

create or replace function app_hidden.finish_login(
  attempt_id uuid,
  email text,
  password_digest text,
  out user_id uuid,
  out session_secret text,
  out refresh_secret text,
  out retry_after integer
)
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_account_key bytea := app_private.account_key(email);
  v_since timestamptz := clock_timestamp() - interval '15 minutes';
  v_blocked_until timestamptz;
  v_known_id uuid;
  v_hash text;
begin
  -- One at a time per account, until the hash is compared and the outcome counted.
  perform pg_advisory_xact_lock(hashtextextended('login to ' || v_account_key::text, 0));
  if not exists (
    select from app_private.login_attempts a where a.id = attempt_id and a.account_key = v_account_key and not a.failed
  ) then
    raise exception using errcode = 'RQ401', message = 'This attempt was not begun for this account, or is over.';
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
  into v_known_id, v_hash, user_id
  from app_private.credentials c
  join app_public.users u on u.id = c.user_id
  where lower(c.email) = lower(finish_login.email);

  -- An unknown account costs the same as a known one: one hash.
  if v_hash is null then
    perform app_private.hash_password(password_digest);
  elsif app_private.crypt(password_digest, v_hash) is distinct from v_hash then
    user_id := null;
  end if;

  if user_id is null then
    update app_private.login_attempts a set failed = true where a.id = attempt_id;
    insert into app_public.audit_logs (action, user_id, ip_address)
    values ('LOGIN_FAILED', v_known_id, app_private.current_ip());
    return;
  end if;

  delete from app_private.login_attempts a where a.id = attempt_id;
  session_secret := app_private.random_secret();
  refresh_secret := app_private.random_secret();
  insert into app_private.sessions (user_id, secret_hash, refresh_hash, expires_at)
  values (user_id, app_private.hash_secret(session_secret), app_private.hash_secret(refresh_secret), now() + interval '30 days');
  insert into app_public.audit_logs (actor_id, action, user_id, ip_address)
  values (user_id, 'LOGIN', user_id, app_private.current_ip());
end
$$;
comment on function app_hidden.finish_login(uuid, text, text) is
  'Compares the password''s digest and opens a session. No user_id: the address or the password is wrong, and the answer is the same in the same time for both. retry_after (seconds): 10 have failed on this account within 15 minutes. An attempt is good for one login: raises RQ401 for one that is over, unknown or of another account.';
grant execute on function app_hidden.finish_login(uuid, text, text) to :DATABASE_AUTHENTICATOR;

create or replace function app_public.logout()
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_hidden.current_user_id();
begin
  if v_me is null then
    raise exception using errcode = 'RQ401', message = 'There is no session to end.';
  end if;
  update app_private.sessions s
  set revoked_at = now()
  from app_private.live_session(current_setting('assent.session', true)) l
  where s.id = l.session_id;
  insert into app_public.audit_logs (actor_id, action, user_id, ip_address)
  values (v_me, 'LOGOUT', v_me, app_private.current_ip());
end
$$;
comment on function app_public.logout() is 'Ends the session that the request came with, at once and for every token of it. Raises RQ401 when it is over.';
grant execute on function app_public.logout() to assent_user, assent_manager, assent_admin;
