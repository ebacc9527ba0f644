-- Administering people, which requires the permission user.manage. Nobody is ever removed.

create or replace view app_private.people with (security_invoker = true) as
  select u.id, u.name, u.role from app_public.users u;
comment on view app_private.people is 'A person as other documents show them.';

create or replace function app_private.email_for(user_id uuid, caller_id uuid, permissions text[])
  returns text
  language sql
  stable
as $$
  select c.email
  from app_private.credentials c
  where c.user_id = email_for.user_id and (c.user_id = caller_id or 'user.read_email' = any (permissions))
$$;
comment on function app_private.email_for(uuid, uuid, text[]) is
  'The email address of somebody, for a caller with these permissions: null if it is not their own and they may not see those '
  'of others.';

create or replace function app_private.person_faults(email text, name text, role text)
  returns jsonb
  language sql
  stable
as $$
  select app_private.violations('app_private.credentials',
      jsonb_build_object('user_id', gen_random_uuid(), 'email', app_private.clean_email(email)))
    || case when app_private.account_of(email) is not null
      then '[{"field": "email", "message": "This email address is taken."}]' else '[]' end::jsonb
    || app_private.violations('app_public.users', jsonb_build_object('name', name, 'role', role))
$$;
comment on function app_private.person_faults(text, text, text) is 'Everything that is wrong with a new person, as faults.';

create or replace function app_private.register_user(email text, name text, role text, password_digest text)
  returns app_public.users
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_user app_public.users;
begin
  insert into app_public.users (name, role) values (register_user.name, register_user.role) returning * into v_user;
  insert into app_private.credentials (user_id, email, password_hash)
  values (v_user.id, register_user.email, app_private.hash_password(register_user.password_digest));
  return v_user;
exception
  when integrity_constraint_violation then
    perform app_private.raise_faults(app_private.person_faults(email, name, role));
end
$$;
comment on function app_private.register_user(text, text, text, text) is
  'Adds a person and what they log in with; without a digest, the account has no password yet. A trigger writes USER_CREATE '
  'to the audit trail. Raises RQ422 for an address that is invalid, or taken in any letter case even by somebody '
  'deactivated, for a blank name and for an unknown role.';

create or replace function app_public.create_user(email text, name text, role text default null)
  returns app_public.users
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  perform app_private.require_permission('user.manage');
  return app_private.register_user(email, name, coalesce(role, 'USER'), null);
end
$$;
comment on function app_public.create_user(text, text, text) is
  'Adds a person, for admins, as USER unless a role is given. They are mailed a link to choose a password, which works once and '
  'for 72 hours. VALIDATION_FAILED: the address is invalid or taken, perhaps by somebody deactivated, or the name is blank.';
grant execute on function app_public.create_user(text, text, text) to assent_user, assent_manager, assent_admin;

create or replace function app_private.require_management_of(user_id uuid)
  returns void
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if not exists (select from app_public.users u where u.id = user_id) and exists (select from app_private.caller()) then
    raise exception using errcode = 'RQ404', message = 'There is no such person.';
  end if;
  perform app_private.require_permission('user.manage');
end
$$;
comment on function app_private.require_management_of(uuid) is
  'Raises RQ401 without a live session, RQ404 if there is no such person, and RQ403 if the caller may not administer people.';

create or replace function app_public.resend_invitation(user_id uuid)
  returns app_public.users
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_user app_public.users;
  v_is_invited boolean;
begin
  perform app_private.require_management_of(user_id);
  -- If the person is just choosing a password, this waits for it.
  select c.password_hash is null into v_is_invited
  from app_private.credentials c where c.user_id = resend_invitation.user_id for update;
  select * into v_user from app_public.users u where u.id = resend_invitation.user_id;
  if v_user.is_deleted then
    raise exception using errcode = 'RQ409', message = 'This person is deactivated: reactivate them first.';
  elsif v_is_invited is not true then
    raise exception using errcode = 'RQ409',
      message = 'This person has chosen a password. If they forget it, they can request a link to reset it.';
  end if;
  -- The earlier link ends, be its mail sent, being sent or queued. One that is being sent is waited for.
  update app_public.notifications n set mail_state = 'CANCELLED'
  where n.recipient_id = resend_invitation.user_id and n.mail_state = 'QUEUED' and app_private.is_invitation(n.kind);
  delete from app_private.password_resets r where r.user_id = resend_invitation.user_id;
  perform app_private.log_action('INVITATION_RESEND', app_hidden.current_user_id(), resend_invitation.user_id);
  return v_user;
end
$$;
comment on function app_public.resend_invitation(uuid) is
  'Mails somebody who has not chosen a password yet a new link to choose one, which works once and for 72 hours, for admins; '
  'earlier links end. INVALID_TRANSITION: they have chosen a password, or are deactivated.';
grant execute on function app_public.resend_invitation(uuid) to assent_user, assent_manager, assent_admin;

create or replace function app_private.keep_an_admin(person app_public.users, new_role text, new_is_deleted boolean)
  returns void
  language plpgsql
  volatile -- so that in a statement that changes several people, each row is checked after the changes of the rows before it
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
    -- Whoever has not chosen a password yet may never do so.
    select from app_public.users u
    join app_private.credentials c on c.user_id = u.id and c.password_hash is not null
    where u.id <> person.id and u.role = any (v_admin_roles) and not u.is_deleted
  ) then
    raise exception using errcode = 'RQ409', message = 'This is the last active admin: make somebody else an admin first.';
  end if;
end
$$;
comment on function app_private.keep_an_admin(app_public.users, text, boolean) is
  'Raises RQ409 if this change would leave nobody who can administer people.';

create or replace function app_hidden.change_user(user_id uuid, changes jsonb)
  returns app_public.users
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_old app_public.users;
  v_new app_public.users;
  v_faults jsonb;
begin
  perform app_private.require_management_of(user_id);
  -- One at a time: if two admins demote each other, the second is no longer an admin. Therefore the permission is checked again.
  perform pg_advisory_xact_lock(hashtextextended('administering people', 0));
  select * into v_old from app_public.users u where u.id = user_id for no key update;
  perform app_private.require_permission('user.manage');

  -- This is checked before the values are.
  perform app_private.keep_an_admin(v_old, coalesce(changes ->> 'role', v_old.role),
    coalesce(changes -> 'is_deleted' = 'true', v_old.is_deleted));

  v_faults := app_private.type_faults(changes, 'app_public.users');
  v_new := jsonb_populate_record(v_old, changes - array(select f ->> 'field' from jsonb_array_elements(v_faults) f));
  if v_faults <> '[]' then
    perform app_private.raise_faults(v_faults || app_private.violations('app_public.users', to_jsonb(v_new)));
  end if;
  if v_new is not distinct from v_old then
    return v_old;
  end if;
  update app_public.users u
  set (name, role, is_deleted) = (v_new.name, v_new.role, v_new.is_deleted)
  where u.id = v_old.id
  returning * into v_new;
  return v_new;
exception
  when integrity_constraint_violation then
    perform app_private.raise_faults(app_private.violations('app_public.users', to_jsonb(v_new)));
end
$$;
comment on function app_hidden.change_user(uuid, jsonb) is
  'Changes the name, role or is_deleted of a person. Raises RQ404 if there is no such person, RQ401 without a live session, '
  'RQ403 without the permission, RQ409 for the last active admin, and RQ422 for everything that is wrong with the values.';
grant execute on function app_hidden.change_user(uuid, jsonb) to assent_user, assent_manager, assent_admin;

-- What holds whoever writes, including psql ------------------------------------------------------------------------

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
comment on function app_private.tg_users__keep_an_admin() is
  'Ensures that somebody can always administer people, whoever writes. Raises RQ409.';

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
  'Ends all sessions of somebody who is deactivated, and all links to choose a password, and again when they are reactivated, '
  'so that they have to log in.';

create or replace trigger _500_end_sessions
  after update of is_deleted on app_public.users
  for each row when (new.is_deleted <> old.is_deleted)
  execute function app_private.tg_users__end_sessions();

-- Erasing a person's data ---------------------------------------------------------------------------------------------

create or replace function app_private.erase_person(person_id uuid)
  returns void
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_person app_public.users;
  v_email text;
  v_pseudonym constant text := 'Erased person';
begin
  select * into v_person from app_public.users u where u.id = person_id for no key update;
  if not found then
    raise exception using errcode = 'RQ404', message = 'There is no such person.';
  elsif v_person.erased_at is not null then
    return;
  elsif exists (
    select from app_public.requests r where r.creator_id = person_id and not r.is_deleted
      and exists (select from app_public.request_transitions t where t.from_status = r.status)
  ) then
    raise exception using errcode = 'RQ409',
      message = 'This person has requests that are not decided: have them deleted or decided first.';
  elsif exists (select from app_public.requests r where r.assigned_to_id = person_id and app_hidden.is_waiting(r)) then
    raise exception using errcode = 'RQ409',
      message = 'Requests wait for this person: have them decided or assigned to others first.';
  end if;
  select c.email into v_email from app_private.credentials c where c.user_id = person_id;
  -- By itself first, because the last admin is refused, inboxes change, and sessions and links end.
  update app_public.users u set is_deleted = true where u.id = person_id and not u.is_deleted;
  update app_public.users u set (name, erased_at) = (v_pseudonym, now()) where u.id = person_id;

  delete from app_private.credentials c where c.user_id = person_id;
  -- The sessions themselves prove for a while that it was them who acted.
  update app_private.sessions s set ip_address = null, user_agent = null
  where s.user_id = person_id and (s.ip_address, s.user_agent) is distinct from (null, null);
  delete from app_private.login_attempts a where a.account_key = app_private.account_key(v_email);
  delete from app_private.password_reset_requests r where r.account_key = app_private.account_key(v_email);
  delete from app_private.notification_preferences p where p.user_id = person_id;
  delete from app_private.idempotency_keys k where k.user_id = person_id;
  delete from app_public.notifications n where n.recipient_id = person_id;
  -- Deliveries name people beside their ids. What is still to be sent is sent with the pseudonym.
  update app_public.webhook_deliveries d
  set payload = replace(d.payload::text, to_jsonb(v_person.name)::text, to_jsonb(v_pseudonym)::text)::jsonb
  where d.state = 'QUEUED' and d.payload::text like '%' || person_id || '%';
  delete from app_public.webhook_deliveries d where d.state <> 'QUEUED' and d.payload::text like '%' || person_id || '%';
end
$$;
comment on function app_private.erase_person(uuid) is
  'Erases the data of a person who asks for it, but for their id and what the trail and requests say: for the owner of the '
  'database. They are deactivated, and named "Erased person" from then on. It reads all deliveries of webhooks. Raises RQ404 '
  'if there is no such person, and RQ409 for the last active admin, for somebody with requests that are not decided, and for '
  'somebody whom a request waits for. A second time, it does nothing.';

create or replace function app_private.tg_users__stay_erased()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  raise exception using errcode = 'RQ409', message = 'The data of this person were erased: add them anew.';
end
$$;
comment on function app_private.tg_users__stay_erased() is
  'Refuses all changes of a person whose data were erased. Raises RQ409.';

create or replace trigger _200_stay_erased
  before update on app_public.users
  for each row when (old.erased_at is not null and old is distinct from new)
  execute function app_private.tg_users__stay_erased();
