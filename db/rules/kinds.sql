-- Kinds of requests: who makes them, and what they demand of a request. Requests are held to their kind in the guard
-- (lifecycle.sql), whoever writes.

create or replace function app_private.tg_requests__hold_to_kind()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_faults jsonb;
begin
  if tg_op = 'INSERT' and not exists (select from app_public.request_kinds k where k.id = new.kind_id and k.is_active) then
    raise exception using errcode = 'RQ422', column = 'kind_id',
      message = 'There is no such kind of request, or it is not offered any more.';
  end if;
  -- A draft may be incomplete.
  if new.submitted_at is not null and (tg_op = 'INSERT' or old.submitted_at is null) then
    v_faults := app_private.data_faults_of(new);
    if v_faults <> '[]' then
      perform app_private.raise_faults(v_faults);
    end if;
  end if;
  return new;
end
$$;
comment on function app_private.tg_requests__hold_to_kind() is
  'Refuses a new request of a kind that is not offered, and a submission whose data is not what the kind demands. Raises RQ422.';

create or replace trigger _250_hold_to_kind
  before insert or update of submitted_at on app_public.requests
  for each row execute function app_private.tg_requests__hold_to_kind();

-- A kind, once it is there, stays: requests are of it.
create or replace trigger _100_no_delete
  before delete or truncate on app_public.request_kinds
  for each statement execute function app_private.tg__refuse();

create or replace function app_private.tg_request_kinds__check_schema()
  returns trigger
  language plpgsql
  immutable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_faults jsonb := app_private.schema_faults(new.schema);
begin
  if v_faults <> '[]' then
    perform app_private.raise_faults(v_faults);
  end if;
  return new;
end
$$;
comment on function app_private.tg_request_kinds__check_schema() is
  'Refuses a schema with anything in it that data_faults() does not know. Raises RQ422.';

create or replace trigger _200_check_schema
  before insert or update of schema on app_public.request_kinds
  for each row execute function app_private.tg_request_kinds__check_schema();

create or replace function app_private.tg_request_kinds__audit()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_changes jsonb := app_private.changes(coalesce(to_jsonb(old), '{}'), to_jsonb(new)) - 'id';
begin
  if tg_op = 'INSERT' or v_changes <> '{}' then
    perform app_private.log_action(case tg_op when 'INSERT' then 'KIND_CREATE' else 'KIND_UPDATE' end,
      app_hidden.current_user_id(), metadata => jsonb_build_object('kind', new.id) || v_changes);
  end if;
  return null;
end
$$;
comment on function app_private.tg_request_kinds__audit() is 'Writes one entry for each change of a kind.';

create or replace trigger _900_audit
  after insert or update on app_public.request_kinds
  for each row execute function app_private.tg_request_kinds__audit();

create or replace function app_hidden.save_request_kind(kind_id text, changes jsonb)
  returns app_public.request_kinds
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_kind app_public.request_kinds;
begin
  perform app_private.require_permission('kind.manage');
  select * into v_kind from app_public.request_kinds k where k.id = kind_id for no key update;
  if not found then
    v_kind.id := kind_id;
    v_kind.schema := '{"type": "object", "additionalProperties": false}';
    v_kind.is_active := true;
  end if;
  v_kind := jsonb_populate_record(v_kind, changes);
  insert into app_public.request_kinds as k
  values (v_kind.*)
  on conflict (id) do update
    set (name, description, schema, is_active) = (excluded.name, excluded.description, excluded.schema, excluded.is_active)
  returning * into v_kind;
  return v_kind;
exception
  when integrity_constraint_violation or sqlstate 'RQ422' then -- the trigger's, for the schema
    perform app_private.raise_faults(app_private.violations('app_public.request_kinds', to_jsonb(v_kind))
      || app_private.schema_faults(v_kind.schema));
end
$$;
comment on function app_hidden.save_request_kind(text, jsonb) is
  'Makes a kind of request, or changes one. Raises RQ401 without a live session, RQ403 without the permission, and RQ422 for '
  'everything that is wrong with the values.';
grant execute on function app_hidden.save_request_kind(text, jsonb) to assent_user, assent_manager, assent_admin;
