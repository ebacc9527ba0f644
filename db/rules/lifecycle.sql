-- The life of a request. Which actions lead from which status to which, who may take them and what they write are rows of
-- app_public.request_transitions. Here is the one function that takes an action, transition(), and the guard that prevents any
-- other change.

create or replace function app_private.permitted_transition(r app_public.requests, action text, expected_versions integer[])
  returns app_public.request_transitions
  language plpgsql
  stable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_parties text[] := app_hidden.my_parties(r);
  v_edge app_public.request_transitions;
begin
  perform app_private.require_session();

  if not exists (
    select from app_public.request_transitions t
    where t.action = permitted_transition.action and t.who = any (v_parties)
  ) then
    raise exception using errcode = 'RQ403', message = format('You are not allowed to %s this request.', lower(action));
  end if;

  select * into v_edge
  from app_public.request_transitions t
  where t.action = permitted_transition.action
    and t.from_status is not distinct from r.status
    and t.who = any (v_parties)
    and r.is_deleted is not true;
  if not found then
    raise exception using errcode = 'RQ409', message = format('You cannot %s this request: it is %s.',
      lower(action), case when r.is_deleted then 'deleted' else r.status end);
  end if;

  if expected_versions is not null and r.version = any (expected_versions) is not true then
    raise exception using errcode = 'RQ412',
      message = format('The request has changed: it is at version %s. Read it again before you change it.', r.version);
  end if;
  return v_edge;
end
$$;
comment on function app_private.permitted_transition(app_public.requests, text, integer[]) is
  'The edge for an action from the request''s status. Raises RQ401 if the session has ended meanwhile, RQ403 if the caller is '
  'not of a party that may take the action, RQ409 if no edge leads from this status, and RQ412 if versions are expected and '
  'the request''s is not among them, in this order.';

create or replace function app_private.stamps(edge app_public.request_transitions)
  returns jsonb
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(jsonb_object_agg(s.key, case s.value
      when '"@now"' then to_jsonb(clock_timestamp())
      when '"@caller"' then to_jsonb(app_hidden.current_user_id())
      else s.value
    end), '{}')
    from jsonb_each(edge.stamps) s
  );
end
$$;
comment on function app_private.stamps(app_public.request_transitions) is
  'The columns that an edge itself sets, with @now and @caller filled in.';

create or replace function app_private.request_faults(r app_public.requests, changes jsonb)
  returns jsonb
  language sql
  stable
as $$
  select app_private.violations('app_public.requests',
      -- In a new row, a column with a default is null without being a fault.
      case when r.id is null then jsonb_strip_nulls(to_jsonb(r)) || changes else to_jsonb(r) end)
    || case when r.submitted_at is not null then app_private.data_faults_of(r) else '[]' end
$$;
comment on function app_private.request_faults(app_public.requests, jsonb) is
  'What would be wrong with a request after these changes.';

create or replace function app_private.write_request(r app_public.requests, action text, changes jsonb)
  returns app_public.requests
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_written app_public.requests;
  v_field text;
  v_message text;
begin
  -- The guard below permits a write only while this setting names the action.
  perform set_config('assent.action', action, true);
  if r.id is null then
    insert into app_public.requests (title, description, status, creator_id, assigned_to_id, kind_id, data)
    values (r.title, r.description, r.status, r.creator_id, r.assigned_to_id, r.kind_id, r.data)
    returning * into v_written;
  else
    update app_public.requests w
    set (title, description, data, status, assigned_to_id, submitted_at, reviewed_at, reviewed_by_id, review_comment,
        is_deleted) =
      (r.title, r.description, r.data, r.status, r.assigned_to_id, r.submitted_at, r.reviewed_at, r.reviewed_by_id,
       r.review_comment, r.is_deleted)
    where w.id = r.id
    returning * into v_written;
  end if;
  perform set_config('assent.action', '', true);
  return v_written;
exception
  when integrity_constraint_violation or sqlstate 'RQ422' then -- or the guard's
    get stacked diagnostics v_field = column_name, v_message = message_text;
    perform app_private.raise_refusal(app_private.request_faults(r, changes), sqlstate, v_field, v_message);
end
$$;
comment on function app_private.write_request(app_public.requests, text, jsonb) is
  'Writes a request as an action has changed it, or a new one, which has no id yet. Raises RQ422 for everything that is wrong '
  'with it.';

create or replace function app_hidden.transition(
  request_id uuid,
  action text,
  expected_versions integer[] default null,
  changes jsonb default '{}'
)
  returns app_public.requests
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_old app_public.requests;
  v_new app_public.requests;
  v_edge app_public.request_transitions;
  v_faults jsonb;
  v_changes jsonb;
begin
  if exists (select from app_public.request_transitions t where t.action = transition.action and t.from_status is null) then
    v_old.creator_id := app_hidden.current_user_id();
    -- The defaults of these columns. What is left out has them, and what is null has not.
    v_old.kind_id := 'GENERAL';
    v_old.data := '{}';
  elsif app_private.is_visible(request_id) then
    -- The lock comes before any check of the state, so that the second of two deciders sees what the first has done.
    select * into v_old from app_public.requests r where r.id = request_id for no key update;
  else
    perform app_private.require_session();
    raise exception using errcode = 'RQ404', message = 'There is no such request.';
  end if;

  v_edge := app_private.permitted_transition(v_old, action, expected_versions);
  if not v_edge.writes @> array(select jsonb_object_keys(changes)) then
    raise exception using errcode = 'RQ403',
      message = format('To %s a request, you may set no fields but these: %s.', lower(action), v_edge.writes);
  end if;

  v_faults := app_private.type_faults(changes, 'app_public.requests');
  v_changes := changes - array(select f ->> 'field' from jsonb_array_elements(v_faults) f);
  v_new := jsonb_populate_record(v_old, v_changes || app_private.stamps(v_edge));
  v_new.status := v_edge.to_status;
  if v_faults <> '[]' then
    perform app_private.raise_faults(v_faults || app_private.request_faults(v_new, v_changes));
  end if;
  -- An edit that changes nothing is not an action, and leaves no trace.
  if v_new is not distinct from v_old then
    return v_old;
  end if;
  return app_private.write_request(v_new, action, v_changes);
end
$$;
comment on function app_hidden.transition(uuid, text, integer[], jsonb) is
  'The one way in which a request changes; all API functions call it. It checks whether the caller can see the request '
  '(RQ404), locks it, checks whether the session is live (RQ401), whether the caller may do this (RQ403), whether the state '
  'allows it (RQ409) and whether the version is current (RQ412), writes the change, and reports everything that is wrong with '
  'the values (RQ422). To callers without a live session, everything is RQ401.';
grant execute on function app_hidden.transition(uuid, text, integer[], jsonb) to assent_user, assent_manager, assent_admin;

-- The guard: no statement moves a request but along an edge, whoever runs it ------------------------------------------

create or replace function app_private.tg_requests__guard()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_from text := case tg_op when 'UPDATE' then old.status end;
begin
  if not exists (
    select from app_public.request_transitions t
    where t.action = current_setting('assent.action', true)
      and t.from_status is not distinct from v_from
      and t.to_status = new.status
  ) then
    raise exception using errcode = 'RQ403',
      message = format('Requests can only be changed through the API functions; no action in progress leads from %s to %s.',
        coalesce(v_from, 'nothing'), new.status);
  end if;

  if tg_op = 'UPDATE' then
    if (new.id, new.creator_id, new.created_at, new.kind_id)
      is distinct from (old.id, old.creator_id, old.created_at, old.kind_id)
    then
      raise exception using errcode = 'RQ403',
        message = 'The id, the creator, the creation time and the kind of a request cannot be changed.';
    end if;
    new.version := old.version + 1;
    new.updated_at := clock_timestamp();
  end if;

  if new.assigned_to_id is not null
    and (tg_op = 'INSERT' or new.assigned_to_id is distinct from old.assigned_to_id)
    and not exists (select from app_hidden.deciders d where d.user_id = new.assigned_to_id)
  then
    raise exception using errcode = 'RQ422', column = 'assigned_to_id',
      message = 'A request can only be assigned to an active manager or admin.';
  end if;
  return new;
end
$$;
comment on function app_private.tg_requests__guard() is
  'Refuses a write without an action that leads to it, counts the version, sets updated_at, and checks whom a request is '
  'assigned to. Raises RQ403 and RQ422.';

create or replace trigger _200_guard
  before insert or update on app_public.requests
  for each row execute function app_private.tg_requests__guard();
