-- The audit trail has one row for every action, written in the action's own transaction and never changed. The triggers below
-- record what is done to requests and people; everything else calls log_action().

-- Append-only ------------------------------------------------------------------------------------------------------

create or replace function app_private.tg__refuse()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  raise exception using errcode = 'RQ403',
    message = format('%s on %s.%s is refused: its rows are evidence.', tg_op, tg_table_schema, tg_table_name);
end
$$;
comment on function app_private.tg__refuse() is 'Refuses the whole statement, even if it affects no row. Raises RQ403.';

create or replace trigger _100_append_only
  before update or delete or truncate on app_public.audit_logs
  for each statement execute function app_private.tg__refuse();
-- ENABLE ALWAYS makes it fire even under session_replication_role = replica, which switches ordinary triggers off.
alter table app_public.audit_logs enable always trigger _100_append_only;

-- What an entry refers to is never removed either: it is only marked as deleted.
create or replace trigger _100_no_delete
  before delete or truncate on app_public.requests
  for each statement execute function app_private.tg__refuse();
create or replace trigger _100_no_delete
  before delete or truncate on app_public.users
  for each statement execute function app_private.tg__refuse();

-- Writing it -------------------------------------------------------------------------------------------------------

create or replace function app_private.log_action(
  action text,
  actor_id uuid,
  user_id uuid default null,
  metadata jsonb default '{}',
  request_id uuid default null,
  request_creator_id uuid default null
)
  returns void
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  insert into app_public.audit_logs (actor_id, action, user_id, request_id, request_creator_id, metadata, ip_address)
  values (
    log_action.actor_id, log_action.action, log_action.user_id, log_action.request_id, log_action.request_creator_id,
    log_action.metadata, app_private.current_ip()
  );
end
$$;
comment on function app_private.log_action(text, uuid, uuid, jsonb, uuid, uuid) is
  'The one way to write an entry: what was done, by whom (null if that is not known), and to which person or request. It adds '
  'the IP address and the time.';

create or replace function app_private.changes(old_row jsonb, new_row jsonb)
  returns jsonb
  language sql
  immutable
as $$
  select coalesce(jsonb_object_agg(n.key, jsonb_build_object('old', old_row -> n.key, 'new', n.value)), '{}')
  from jsonb_each(new_row) n
  where n.value is distinct from old_row -> n.key and n.key not in ('version', 'updated_at')
$$;
comment on function app_private.changes(jsonb, jsonb) is
  'The fields in which two versions of a row differ: {"field": {"old": …, "new": …}}.';

create or replace function app_private.tg_requests__audit()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  perform app_private.log_action(
    current_setting('assent.action'),
    app_hidden.current_user_id(),
    request_id => new.id,
    request_creator_id => new.creator_id,
    metadata => case
      when tg_op = 'INSERT' then jsonb_build_object('old_status', null, 'new_status', new.status)
      when new.status <> old.status then jsonb_build_object('old_status', old.status, 'new_status', new.status)
      else app_private.changes(to_jsonb(old), to_jsonb(new))
    end
  );
  return null;
end
$$;
comment on function app_private.tg_requests__audit() is 'Writes one entry for each change of a request.';

create or replace trigger _900_audit
  after insert or update on app_public.requests
  for each row execute function app_private.tg_requests__audit();

create or replace function app_private.tg_users__audit()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_actor_id uuid := app_hidden.current_user_id();
begin
  if tg_op = 'UPDATE' and new is not distinct from old then
    return new;
  end if;
  perform app_private.log_action(
    case
      when tg_op = 'INSERT' then 'USER_CREATE'
      when new.is_deleted and not old.is_deleted then 'USER_DEACTIVATE'
      when old.is_deleted and not new.is_deleted then 'USER_REACTIVATE'
      else 'USER_UPDATE'
    end,
    v_actor_id,
    new.id,
    case
      when tg_op = 'INSERT' then jsonb_build_object('name', new.name, 'role', new.role)
      else app_private.changes(to_jsonb(old), to_jsonb(new))
    end
    -- Without a caller it was done by SQL, and the login is all that is known.
    || case when v_actor_id is null then jsonb_build_object('database_user', session_user) else '{}' end
  );
  return new;
end
$$;
comment on function app_private.tg_users__audit() is 'Writes one entry for each change of a person.';

create or replace trigger _900_audit
  after insert on app_public.users
  for each row execute function app_private.tg_users__audit();
-- This is a BEFORE trigger, because people who demote or deactivate themselves are still callers then; it is the last of these.
create or replace trigger _910_audit
  before update on app_public.users
  for each row execute function app_private.tg_users__audit();
