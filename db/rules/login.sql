-- Logging in and out, refreshing and ending sessions, and changing one's password. What asks for a password is two transactions, so that an attempt is
-- counted before the slow hash is computed and stays counted whatever becomes of it: begin_login, commit, finish_login.
-- Neither raises on a wrong password, which would roll back the count and the audit entry: the outcome is data.

create table if not exists app_private.login_attempts (
  id uuid primary key default app_private.uuid_v7(),
  account_key bytea not null,
  network cidr,
  attempted_at timestamptz not null default clock_timestamp(),
  failed boolean not null default false
);
comment on table app_private.login_attempts is
  'Attempts at a password under way, and those that failed in the last 15 minutes. A success removes its row: only failures count.';
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
  'Counts an attempt to log in, before any password is looked at. retry_after (seconds) instead of an attempt_id: 100 have failed from this address within 15 minutes. To be committed before finish_login.';
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
  into known_id, v_hash, user_id
  from app_private.credentials c
  join app_public.users u on u.id = c.user_id
  where lower(c.email) = lower(verify_password.email);

  -- An unknown account costs the same as a known one: one hash.
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
  'Is it the password of an active account? user_id if so; else the attempt counts as failed, and known_id says whose account it was, if anybody''s. retry_after (seconds): 10 have failed on this account within 15 minutes. An attempt is good once: raises RQ401 for one that is over, unknown or of another account.';

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
begin
  select v.user_id, v.known_id, v.retry_after into user_id, v_known_id, retry_after
  from app_private.verify_password(attempt_id, email, password_digest) v;
  if retry_after is not null then
    return;
  end if;
  insert into app_public.audit_logs (actor_id, action, user_id, ip_address)
  values (user_id, case when user_id is null then 'LOGIN_FAILED' else 'LOGIN' end, v_known_id, app_private.current_ip());
  if user_id is null then
    return;
  end if;

  -- The session that the browser had gives way to the new one.
  if by_cookie then
    with replaced as (
      update app_private.sessions s
      set revoked_at = now()
      from app_private.live_session(current_setting('assent.session', true)) l
      where s.id = l.session_id and app_private.is_live(s)
      returning s.id, s.user_id
    )
    insert into app_public.audit_logs (actor_id, action, user_id, metadata, ip_address)
    select r.user_id, 'SESSION_REVOKE', r.user_id,
      jsonb_build_object('session_id', r.id, 'reason', 'Its browser logged in anew.'), app_private.current_ip()
    from replaced r;
  end if;
  select o.session_secret, o.refresh_token into session_secret, refresh_token
  from app_private.open_session(finish_login.user_id, by_cookie, user_agent) o;
end
$$;
comment on function app_hidden.finish_login(uuid, text, text, boolean, text) is
  'Compares the password''s digest and opens a session: for a cookie, or for a token with a refresh token. No user_id: the address or the password is wrong, and the answer is the same in the same time for both. retry_after (seconds): 10 have failed on this account within 15 minutes. Raises RQ401 for an attempt that is over, unknown or of another account.';
grant execute on function app_hidden.finish_login(uuid, text, text, boolean, text)
  to assent_anonymous, assent_user, assent_manager, assent_admin;

create or replace function app_hidden.refresh_session(
  given_token text,
  out user_id uuid,
  out session_secret text,
  out refresh_token text
)
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_secret text := split_part(given_token, '.', 1);
  v_session app_private.sessions;
begin
  -- Of two refreshes at once the second meets what the first has done.
  select * into v_session from app_private.sessions s
  where s.secret_hash = app_private.hash_secret(v_secret) and s.refresh_hash is not null
  for no key update;
  if not exists (select from app_private.live_session(v_secret) l where l.session_id = v_session.id) then
    return;
  end if;

  if v_session.refresh_hash <> app_private.hash_secret(given_token) then
    update app_private.sessions s set revoked_at = now() where s.id = v_session.id;
    insert into app_public.audit_logs (action, user_id, metadata, ip_address)
    values ('SESSION_REVOKE', v_session.user_id,
      jsonb_build_object('session_id', v_session.id, 'reason', 'A refresh token was used twice.'), app_private.current_ip());
    return;
  end if;

  user_id := v_session.user_id;
  session_secret := v_secret;
  refresh_token := v_secret || '.' || app_private.random_secret();
  update app_private.sessions s
  set refresh_hash = app_private.hash_secret(refresh_session.refresh_token), last_used_at = now()
  where s.id = v_session.id;
end
$$;
comment on function app_hidden.refresh_session(text) is
  'Exchanges a refresh token for the next one. Another than the current one was used before, and is in two hands, or was made up by somebody who has the access token: it ends the session (RFC 9700, 4.14.2). No user_id: it is not, or no longer, good. Does not raise, which would roll that end back.';
grant execute on function app_hidden.refresh_session(text) to assent_anonymous, assent_user, assent_manager, assent_admin;

create or replace function app_public.logout()
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
begin
  update app_private.sessions s
  set revoked_at = now()
  from app_private.live_session(current_setting('assent.session', true)) l
  where s.id = l.session_id and app_private.is_live(s);
  -- Of two at once the first has ended it.
  if not found then
    raise exception using errcode = 'RQ401', message = 'Valid credentials are required.';
  end if;
  insert into app_public.audit_logs (actor_id, action, user_id, ip_address)
  values (v_me, 'LOGOUT', v_me, app_private.current_ip());
end
$$;
comment on function app_public.logout() is 'Ends the session that the request came with, at once and for every token of it. Raises RQ401 when it is over.';
grant execute on function app_public.logout() to assent_user, assent_manager, assent_admin;

-- Changing the password --------------------------------------------------------------------------------------------

create or replace function app_hidden.begin_password_change(weakness text, out attempt_id uuid, out retry_after integer)
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
begin
  perform app_private.refuse_weakness(weakness, 'new_password');
  select b.attempt_id, b.retry_after into attempt_id, retry_after
  from app_private.credentials c, app_hidden.begin_login(c.email) b
  where c.user_id = v_me;
end
$$;
comment on function app_hidden.begin_password_change(text) is
  'As begin_login, of the caller''s own account: who has found an open session shall not guess at its password either. Raises RQ401, and RQ422 for a weakness of the new password.';

create or replace function app_hidden.change_password(
  attempt_id uuid,
  old_digest text,
  new_digest text,
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
  select v.user_id, v.retry_after into user_id, retry_after
  from app_private.credentials c, app_private.verify_password(attempt_id, c.email, old_digest) v
  where c.user_id = v_me;
  if user_id is null then
    return;
  end if;
  -- Verifying may have waited for another change, which ended this session.
  perform app_private.require_session();

  update app_private.credentials c set password_hash = app_private.hash_password(new_digest) where c.user_id = v_me;
  update app_private.sessions s
  set revoked_at = now()
  where s.user_id = v_me and s.revoked_at is null
    and s.id is distinct from (select l.session_id from app_private.live_session(current_setting('assent.session', true)) l);
  insert into app_public.audit_logs (actor_id, action, user_id, ip_address)
  values (v_me, 'PASSWORD_CHANGE', v_me, app_private.current_ip());
end
$$;
comment on function app_hidden.change_password(uuid, text, text) is
  'Changes the caller''s password and ends their other sessions. Raises RQ401 when the session has ended. No user_id: the old password is wrong, which counts as a failed login does. retry_after (seconds) as in finish_login.';
grant execute on function app_hidden.begin_password_change(text), app_hidden.change_password(uuid, text, text)
  to assent_user, assent_manager, assent_admin;

-- One's own sessions -----------------------------------------------------------------------------------------------

create or replace function app_hidden.my_sessions()
  returns table (id uuid, created_at timestamptz, document json)
  language sql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  select s.id, s.created_at, row_to_json(d)
  from app_private.caller() c
  join app_private.sessions s on s.user_id = c.user_id
  cross join lateral (
    select s.id, s.created_at, s.last_used_at, s.expires_at, host(s.ip_address) as ip_address, s.user_agent,
      s.id = c.session_id as is_current
  ) d
  where app_private.is_live(s)
$$;
comment on function app_hidden.my_sessions() is 'The live sessions of the person who is asking, as REST shows them.';

create or replace function app_hidden.end_session(session_id uuid)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
begin
  update app_private.sessions s set revoked_at = now()
  where s.id = end_session.session_id and s.user_id = v_me and app_private.is_live(s);
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such session.';
  end if;
  insert into app_public.audit_logs (actor_id, action, user_id, metadata, ip_address)
  values (v_me, 'SESSION_REVOKE', v_me, jsonb_build_object('session_id', end_session.session_id), app_private.current_ip());
end
$$;
comment on function app_hidden.end_session(uuid) is 'Ends a live session of one''s own. Raises RQ401 without one, RQ404 when there is none of that id.';

create or replace function app_hidden.end_other_sessions()
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
  v_count integer;
begin
  update app_private.sessions s set revoked_at = now()
  from app_private.live_session(current_setting('assent.session', true)) l
  where s.user_id = l.user_id and s.id <> l.session_id and app_private.is_live(s);
  get diagnostics v_count = row_count;
  if v_count > 0 then
    insert into app_public.audit_logs (actor_id, action, user_id, metadata, ip_address)
    values (v_me, 'SESSION_REVOKE', v_me, jsonb_build_object('sessions', v_count), app_private.current_ip());
  end if;
end
$$;
comment on function app_hidden.end_other_sessions() is 'Ends all sessions of one''s own but the one that asks. Raises RQ401 without one.';

create or replace function app_hidden.touch_session()
  returns uuid
  language sql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  update app_private.sessions s
  set last_used_at = now()
  from app_private.live_session(current_setting('assent.session', true)) l
  where s.id = l.session_id and s.last_used_at < now() - interval '1 minute';
  select l.user_id from app_private.live_session(current_setting('assent.session', true)) l
$$;
comment on function app_hidden.touch_session() is
  'Notes that the session is in use, to the minute, and tells whose it is. A request of its own, so that a request that reads writes nothing.';

grant execute on function
  app_hidden.my_sessions(), app_hidden.end_session(uuid), app_hidden.end_other_sessions(), app_hidden.touch_session()
  to assent_user, assent_manager, assent_admin;
