-- Administering people: who may is whoever has the permission user.manage. Nobody is ever removed.

create or replace function app_hidden.visible_user(user_id uuid)
  returns app_public.users
  language plpgsql
  volatile -- As visible_request.
as $$
declare
  v_user app_public.users;
begin
  select * into v_user from app_public.users u where u.id = user_id;
  return v_user;
end
$$;
comment on function app_hidden.visible_user(uuid) is 'The person as the caller may see them, or nulls.';
grant execute on function app_hidden.visible_user(uuid) to assent_user, assent_manager, assent_admin;

create or replace function app_private.permit_user_management()
  returns void
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if not app_hidden.has_permission('user.manage') then
    -- Asked after it, so that a session that ends between the two is told as such.
    perform app_private.require_session();
    raise exception using errcode = 'RQ403', message = 'You may not administer people.';
  end if;
end
$$;
comment on function app_private.permit_user_management() is 'Raises RQ401 without a live session, RQ403 without the permission.';

create or replace function app_hidden.create_user(email text, name text, role text, password_digest text, weakness text)
  returns app_public.users
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  perform app_private.permit_user_management();
  perform app_private.refuse_weakness(weakness, 'password');
  return app_private.register_user(email, name, coalesce(role, 'USER'), password_digest);
end
$$;
comment on function app_hidden.create_user(text, text, text, text, text) is
  'Adds a person; without a role, as USER. Raises RQ401, RQ403, and RQ422: a weak password (what the server, which alone sees it, finds wrong), and what register_user refuses.';
grant execute on function app_hidden.create_user(text, text, text, text, text) to assent_user, assent_manager, assent_admin;

create or replace function app_private.keep_an_admin(person app_public.users, new_role text, new_is_deleted boolean)
  returns void
  language plpgsql
  volatile -- Of a statement that changes several, each row is judged by what has become of those before it.
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_admin_roles text[] := array(select p.role from app_hidden.effective_permissions p where p.permission = 'user.manage');
begin
  if person.is_deleted or person.role <> all (v_admin_roles) or (not new_is_deleted and new_role = any (v_admin_roles)) then
    return;
  end if;
  perform pg_advisory_xact_lock(hashtextextended('administering people', 0));
  if not exists (
    select from app_public.users u where u.id <> person.id and u.role = any (v_admin_roles) and not u.is_deleted
  ) then
    raise exception using errcode = 'RQ409', message = 'The last active admin stays one: nobody could administer people.';
  end if;
end
$$;
comment on function app_private.keep_an_admin(app_public.users, text, boolean) is
  'Would this change leave nobody who can administer people? Raises RQ409.';

create or replace function app_hidden.change_user(seen app_public.users, changes jsonb)
  returns app_public.users
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_old app_public.users;
  v_new app_public.users;
  v_constraint text;
  v_column text;
begin
  -- Whose role has changed since they looked has seen nobody, and may no longer.
  if seen.id is not null or not exists (select from app_private.caller()) then
    perform app_private.permit_user_management();
  end if;
  -- One at a time, so that of two admins who demote each other the second is an admin no longer.
  perform pg_advisory_xact_lock(hashtextextended('administering people', 0));
  -- As in transition(): who has seen the person also knows, to the microsecond, when they were added.
  select * into v_old from app_public.users u where u.id = seen.id and u.created_at = seen.created_at for no key update;
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such person.';
  end if;
  perform app_private.permit_user_management();

  -- Before what is wrong with the values is told.
  perform app_private.keep_an_admin(v_old, coalesce(changes ->> 'role', v_old.role),
    coalesce(changes -> 'is_deleted' = 'true', v_old.is_deleted));

  perform app_private.check_types(changes, 'app_public.users');
  v_new := jsonb_populate_record(v_old, changes);
  if v_new is not distinct from v_old then
    return v_old;
  end if;
  update app_public.users u
  set (name, role, is_deleted) = (v_new.name, v_new.role, v_new.is_deleted)
  where u.id = v_old.id
  returning * into v_new;
  return v_new;
exception
  when check_violation or not_null_violation or foreign_key_violation then
    get stacked diagnostics v_constraint = constraint_name, v_column = column_name;
    perform app_private.raise_violation(v_constraint, v_column);
end
$$;
comment on function app_hidden.change_user(app_public.users, jsonb) is
  'Changes name, role or is_deleted of a person that the caller has seen (RQ404), as one who may (RQ401, RQ403). Raises RQ409 rather than lose the last active admin, and RQ422 for what a constraint refuses.';
grant execute on function app_hidden.change_user(app_public.users, jsonb) to assent_user, assent_manager, assent_admin;

-- Whoever writes, psql included ------------------------------------------------------------------------------------

create or replace function app_private.tg_users__keep_an_admin()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  perform app_private.keep_an_admin(old, new.role, new.is_deleted);
  return new;
end
$$;
comment on function app_private.tg_users__keep_an_admin() is 'Somebody can always administer people, whoever writes. Raises RQ409.';

create or replace trigger _300_keep_an_admin
  before update of role, is_deleted on app_public.users
  for each row execute function app_private.tg_users__keep_an_admin();

create or replace function app_private.tg_users__end_sessions()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  update app_private.sessions s set revoked_at = now() where s.user_id = new.id and s.revoked_at is null;
  delete from app_private.password_resets r where r.user_id = new.id;
  return null;
end
$$;
comment on function app_private.tg_users__end_sessions() is
  'Who is deactivated has no session any more, and no link to a new password; who comes back logs in anew, whatever was opened meanwhile.';

create or replace trigger _500_end_sessions
  after update of is_deleted on app_public.users
  for each row when (new.is_deleted <> old.is_deleted)
  execute function app_private.tg_users__end_sessions();
