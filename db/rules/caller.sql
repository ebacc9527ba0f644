-- Who is asking. Each transaction begins with it: select app_hidden.become(secret, ip). That sets three settings. Nobody gains
-- anything by setting them by hand: the secret cannot be guessed and is looked up by its hash, and current_user_id() returns
-- an id only while the current role is the one that the person behind the secret has now.

create or replace view app_hidden.effective_permissions with (security_invoker = true) as
  select mine.role, granted.permission
  from app_public.roles mine
  join app_public.roles below on below.level <= mine.level
  join app_public.role_permissions granted on granted.role = below.role;
comment on view app_hidden.effective_permissions is 'Every permission of every role, including inherited ones.';

create or replace view app_hidden.viewers with (security_invoker = true) as
  select u.id as user_id, coalesce(mine.level >= others.level, false) as reads_others,
    coalesce(mine.level >= everything.level, false) as reads_all
  from app_public.users u
  join app_public.roles mine on mine.role = u.role
  left join (app_public.role_permissions read join app_public.roles others on others.role = read.role)
    on read.permission = 'request.read'
  left join (app_public.role_permissions read_all join app_public.roles everything on everything.role = read_all.role)
    on read_all.permission = 'request.read_all'
  where not u.is_deleted;
comment on view app_hidden.viewers is 'The active people, and what app_hidden.can_see asks of them.';

create or replace function app_hidden.authenticate(secret text)
  returns name
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_role name;
begin
  if coalesce(secret, '') = '' then
    return 'assent_anonymous';
  end if;
  select l.database_role into v_role from app_private.live_session(secret) l;
  if v_role is null and secret like 'cookie:%' then
    return 'assent_anonymous';
  elsif v_role is null then
    raise exception using errcode = 'RQ401', message = 'Valid credentials are required.';
  end if;
  return v_role;
end
$$;
comment on function app_hidden.authenticate(text) is
  'The database role for a session''s secret: assent_anonymous without a secret. Raises RQ401 for one that has expired or is '
  'unknown; but browsers send cookies unasked, so that such a cookie counts as none.';
grant execute on function app_hidden.authenticate(text) to :DATABASE_AUTHENTICATOR;

create or replace function app_hidden.become(secret text, ip text)
  returns name
  language plpgsql
  volatile
as $$
begin
  -- Both are set every time, if only to '', so that nothing which an earlier transaction left behind counts.
  perform set_config('assent.session', secret, true), set_config('assent.ip', ip, true);
  return set_config('role', app_hidden.authenticate(secret), true);
end
$$;
comment on function app_hidden.become(text, text) is
  'Begins a transaction of the person behind a session''s secret ('''' without credentials), who calls from an IP address '
  '('''' if it is unknown): from here to its end, it runs as their database role, which is returned. Raises RQ401 as '
  'authenticate() does.';
grant execute on function app_hidden.become(text, text) to :DATABASE_AUTHENTICATOR;

create or replace function app_private.require_session()
  returns uuid
  language plpgsql
  stable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_user_id uuid;
begin
  select l.user_id into v_user_id from app_private.live_session(current_setting('assent.session', true)) l;
  if v_user_id is null then
    raise exception using errcode = 'RQ401', message = 'Valid credentials are required.';
  end if;
  return v_user_id;
end
$$;
comment on function app_private.require_session() is
  'Whose session it is, even if their role has changed since the transaction began. Raises RQ401 without a live session.';

create or replace function app_private.caller()
  returns table (session_id uuid, user_id uuid, role text)
  language sql
  stable
  rows 1
as $$
  select l.session_id, l.user_id, l.role
  from app_private.live_session(current_setting('assent.session', true)) l
  where l.database_role = current_setting('role')
$$;
comment on function app_private.caller() is
  'Who is asking. There is no row without a live session, and none while the current database role is not that of this person.';

create or replace function app_private.caller_with_permissions()
  returns table (user_id uuid, permissions text[])
  language sql
  stable
  rows 1
as $$
  select c.user_id, array(select p.permission from app_hidden.effective_permissions p where p.role = c.role)
  from app_private.caller() c
$$;
comment on function app_private.caller_with_permissions() is 'Who is asking and what they may do; no row without a caller.';

create or replace function app_hidden.current_user_id()
  returns uuid
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_user_id uuid;
begin
  select c.user_id into v_user_id from app_private.caller() c;
  return v_user_id;
end
$$;
comment on function app_hidden.current_user_id() is
  'The user_id of app_private.caller(), or null. Policies call it as (select app_hidden.current_user_id()), so that it runs '
  'once for each statement and not for each row.';
-- Auditors are never callers: a view that they read asks for one.
grant execute on function app_hidden.current_user_id()
  to assent_anonymous, assent_user, assent_manager, assent_admin, assent_auditor;

create or replace function app_private.current_ip()
  returns inet
  language sql
  stable
as $$
  select nullif(current_setting('assent.ip', true), '')::inet
$$;
comment on function app_private.current_ip() is 'The IP address that the request came from, for the audit trail.';

create or replace function app_hidden.has_permission(permission text)
  returns boolean
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  return exists (
    select from app_private.caller() c
    join app_hidden.effective_permissions p on p.role = c.role
    where p.permission = has_permission.permission
  );
end
$$;
comment on function app_hidden.has_permission(text) is 'Does the caller have this permission? False without a caller.';
grant execute on function app_hidden.has_permission(text) to assent_anonymous, assent_user, assent_manager, assent_admin;

create or replace function app_private.require_permission(permission text)
  returns void
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if not app_hidden.has_permission(permission) then
    -- The session is asked for second, so that one which ends between the two is reported as ended.
    perform app_private.require_session();
    raise exception using errcode = 'RQ403',
      message = format('You are not allowed to do this: it requires the permission %s.', permission);
  end if;
end
$$;
comment on function app_private.require_permission(text) is
  'Raises RQ401 without a live session, and RQ403 without the permission.';
