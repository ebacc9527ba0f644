-- Sessions: how they are opened, refreshed, listed and ended. is_live() defines which are live.

create or replace function app_private.random_secret()
  returns text
  language sql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
  select translate(encode(app_private.gen_random_bytes(32), 'base64'), '+/=', '-_')
$$;
comment on function app_private.random_secret() is 'A secret of 256 random bits, as base64url without padding (RFC 4648, 5).';

create or replace function app_private.hash_secret(secret text)
  returns bytea
  language sql
  immutable
as $$
  select sha256(convert_to(secret, 'UTF8'))
$$;
comment on function app_private.hash_secret(text) is
  'The hash by which a secret is stored. A fast hash is enough, because the secret has 256 random bits.';

-- The idle limit of 3 days is longer than a weekend; the absolute limit of 30 days is that of NIST SP 800-63B, 4.1.3, at
-- assurance level 1.
create or replace function app_private.is_live(s app_private.sessions)
  returns boolean
  language sql
  stable
as $$
  select s.revoked_at is null and s.expires_at > now() and s.last_used_at > now() - interval '3 days'
$$;
comment on function app_private.is_live(app_private.sessions) is
  'Is the session not ended, not older than its 30 days, and used within the last 3 days? Whether its person is active is for '
  'live_session to check.';

create or replace function app_private.live_session(secret text)
  returns table (session_id uuid, user_id uuid, role text, database_role name)
  language sql
  stable
  rows 1
as $$
  select s.id, u.id, r.role, r.database_role
  from app_private.sessions s
  join app_public.users u on u.id = s.user_id
  join app_public.roles r on r.role = u.role
  where s.secret_hash = app_private.hash_secret(secret)
    and app_private.is_live(s)
    and not u.is_deleted
$$;
comment on function app_private.live_session(text) is
  'The session that a secret belongs to, if it is live and its person active. This is the only definition of that.';

create or replace function app_private.open_session(
  user_id uuid,
  by_cookie boolean,
  user_agent text,
  out session_secret text,
  out refresh_token text
)
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_ended record;
begin
  -- One at a time for each person, so that of two logins at once each counts the other's session.
  perform from app_private.credentials c where c.user_id = open_session.user_id for no key update;

  -- A browser's new session replaces the one that it had.
  if by_cookie then
    update app_private.sessions s
    set revoked_at = now()
    from app_private.live_session(current_setting('assent.session', true)) l
    where s.id = l.session_id and app_private.is_live(s)
    returning s.id, s.user_id into v_ended;
    if found then
      perform app_private.log_action('SESSION_REVOKE', v_ended.user_id, v_ended.user_id,
        jsonb_build_object('session_id', v_ended.id, 'reason', 'Its browser logged in again.'));
    end if;
  end if;

  -- With this one, there are at most 20. A session that is locked is just being used or ended, and so not the one to end.
  for v_ended in
    update app_private.sessions s
    set revoked_at = now()
    where s.id in (
      select o.id
      from app_private.sessions o
      where o.user_id = open_session.user_id and app_private.is_live(o)
      order by o.last_used_at, o.id
      limit greatest(0, -19 + (
        select count(*) from app_private.sessions n where n.user_id = open_session.user_id and app_private.is_live(n)))
      for no key update skip locked
    )
    returning s.id
  loop
    -- What is done by SQL is recorded by a trigger.
    if not app_private.is_by_sql() then
      perform app_private.log_action('SESSION_REVOKE', open_session.user_id, open_session.user_id,
        jsonb_build_object('session_id', v_ended.id, 'reason', 'There were more than 20 sessions.'));
    end if;
  end loop;

  -- A secret shows how it may be presented: the secret in a token never works as a cookie, even after the token has expired.
  session_secret := case when by_cookie then 'cookie:' else '' end || app_private.random_secret();
  -- A refresh token names its session, so that one which was used before can be recognized without keeping any old ones.
  refresh_token := case when not by_cookie then session_secret || '.' || app_private.random_secret() end;
  insert into app_private.sessions (user_id, secret_hash, refresh_hash, expires_at, ip_address, user_agent)
  values (
    open_session.user_id,
    app_private.hash_secret(session_secret),
    app_private.hash_secret(refresh_token),
    now() + interval '30 days',
    nullif(current_setting('assent.ip', true), '')::inet,
    left(open_session.user_agent, 300)
  );
end
$$;
comment on function app_private.open_session(uuid, boolean, text) is
  'Opens a session, always with new secrets: for an access token and its refresh token, or for a cookie. Of more than 20 '
  'live sessions of a person, it ends those that were not used for the longest time.';

-- A refresh token is exchanged for the next one. Tabs, and callers whose answer was lost, exchange the same one twice within
-- seconds: for 10 seconds it serves again, and each caller gets a token of its own, because only hashes are kept and nobody can
-- be told the first answer again. From then on, two hold tokens of one session, and one of them may be a thief. Both go on as
-- usual, but not for ever: after 12 hours, only the token that was issued last is good. If two still take turns, one of them
-- then comes with a token that is no longer good, which ends the session for both; if only one is left, it notices nothing.
-- That deadline is the session's, not the token's: no further exchange postpones it. RFC 9700, 4.14.2, asks for such a
-- rotation, and leaves open how long the second of two is served.
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
  v_given bytea := app_private.hash_secret(given_token);
  v_session app_private.sessions;
begin
  -- Of two refreshes at once, the second sees what the first has done.
  select * into v_session from app_private.sessions s
  where s.secret_hash = app_private.hash_secret(v_secret) and s.refresh_hash is not null
  for no key update;
  if not exists (select from app_private.live_session(v_secret) l where l.session_id = v_session.id) then
    return;
  end if;

  delete from app_private.refresh_tokens t where t.session_id = v_session.id and t.good_until <= now();
  if v_session.refresh_hash <> v_given and (
    not exists (select from app_private.refresh_tokens t where t.session_id = v_session.id and t.token_hash = v_given)
    -- No browser has as many tabs; somebody could make up any number of tokens.
    or (select count(*) from app_private.refresh_tokens t where t.session_id = v_session.id) >= 100
  ) then
    update app_private.sessions s set revoked_at = now() where s.id = v_session.id;
    perform app_private.log_action('SESSION_REVOKE', null, v_session.user_id,
      jsonb_build_object('session_id', v_session.id, 'reason', 'A refresh token was used twice.'));
    return;
  end if;

  user_id := v_session.user_id;
  session_secret := v_secret;
  refresh_token := v_secret || '.' || app_private.random_secret();
  if v_session.refresh_hash <> v_given then
    insert into app_private.refresh_tokens (token_hash, session_id, is_used, good_until)
    select v_session.refresh_hash, v_session.id, false, coalesce(min(t.good_until), now() + interval '12 hours')
    from app_private.refresh_tokens t
    where t.session_id = v_session.id and not t.is_used;
  end if;
  insert into app_private.refresh_tokens as t (token_hash, session_id, is_used, good_until)
  values (v_given, v_session.id, true, now() + interval '10 seconds')
  on conflict (token_hash) do update set is_used = true, good_until = excluded.good_until where not t.is_used;
  update app_private.sessions s
  set refresh_hash = app_private.hash_secret(refresh_session.refresh_token), last_used_at = now()
  where s.id = v_session.id;
end
$$;
comment on function app_hidden.refresh_session(text) is
  'Exchanges a refresh token for the next one, and serves it for 10 seconds more (db/rules/sessions.sql says why). Any other '
  'token of the session is known to two parties, or was made up by somebody who has the access token: it ends the session '
  '(RFC 9700, 4.14.2). Without a user_id, the token is not, or no longer, valid. It does not raise an error, because that '
  'would roll back the end of the session.';
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
  -- If there were two logouts at once, the first has ended the session.
  if not found then
    raise exception using errcode = 'RQ401', message = 'Valid credentials are required.';
  end if;
  perform app_private.log_action('LOGOUT', v_me, v_me);
end
$$;
comment on function app_public.logout() is
  'Ends the session of this request, with all its tokens, at once. Raises RQ401 when it has ended already.';
grant execute on function app_public.logout() to assent_user, assent_manager, assent_admin;

-- The caller's sessions --------------------------------------------------------------------------------------------

create or replace function app_hidden.my_sessions()
  returns table (id uuid, created_at timestamptz, document json)
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  return query
  select s.id, s.created_at, row_to_json(d)
  from app_private.caller() c
  join app_private.sessions s on s.user_id = c.user_id
  cross join lateral (
    select s.id, s.created_at, s.last_used_at, s.expires_at, host(s.ip_address) as ip_address, s.user_agent,
      s.id = c.session_id as is_current
  ) d
  where app_private.is_live(s);
end
$$;
comment on function app_hidden.my_sessions() is 'The live sessions of the caller, as REST shows them.';

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
  perform app_private.log_action('SESSION_REVOKE', v_me, v_me, jsonb_build_object('session_id', end_session.session_id));
end
$$;
comment on function app_hidden.end_session(uuid) is
  'Ends one of the caller''s live sessions. Raises RQ401 without a live session, and RQ404 if they have none with this id.';

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
    perform app_private.log_action('SESSION_REVOKE', v_me, v_me, jsonb_build_object('sessions', v_count));
  end if;
end
$$;
comment on function app_hidden.end_other_sessions() is
  'Ends all sessions of the caller but the current one. Raises RQ401 without a live session.';

create or replace function app_public.end_sessions(user_id uuid)
  returns app_public.users
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_hidden.current_user_id();
  v_count integer;
  v_user app_public.users;
begin
  perform app_private.require_management_of(user_id);
  update app_private.sessions s set revoked_at = now()
  where s.user_id = end_sessions.user_id and app_private.is_live(s);
  get diagnostics v_count = row_count;
  if v_count > 0 then
    perform app_private.log_action('SESSION_REVOKE', v_me, end_sessions.user_id, jsonb_build_object('sessions', v_count));
  end if;
  select * into v_user from app_public.users u where u.id = end_sessions.user_id;
  return v_user;
end
$$;
comment on function app_public.end_sessions(uuid) is
  'Ends all sessions of somebody, for admins, at once: they have to log in again. If a password may be known to others, have '
  'its owner change it as well.';
grant execute on function app_public.end_sessions(uuid) to assent_user, assent_manager, assent_admin;

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
  'Records that the session is in use, to the minute, and returns whose it is. It is called in a transaction of its own, so '
  'that a request that only reads writes nothing.';

grant execute on function
  app_hidden.my_sessions(), app_hidden.end_session(uuid), app_hidden.end_other_sessions(), app_hidden.touch_session()
  to assent_user, assent_manager, assent_admin;

create or replace function app_hidden.my_session()
  returns table (session_id uuid, user_id uuid)
  language plpgsql
  stable
  security definer
  rows 1
  set search_path to pg_catalog, pg_temp
as $$
begin
  return query select c.session_id, c.user_id from app_private.caller() c;
end
$$;
comment on function app_hidden.my_session() is
  'The session and the person of the caller, as announcements name them; no row without a caller.';
grant execute on function app_hidden.my_session() to assent_user, assent_manager, assent_admin;
