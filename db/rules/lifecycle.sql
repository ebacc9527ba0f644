-- The life of a request. Which actions lead from where to where, who may take them and what they write are rows of
-- app_public.request_transitions; here stands the one function that walks them, and the guard that lets nobody walk
-- past them.

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
  'The edge that an action takes from where the request stands. Raises RQ401 when the session has ended meanwhile, RQ403 when the caller is not the party for it, else RQ409 when no edge leads from here, else RQ412 when versions are expected and its own is not among them.';

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
comment on function app_private.stamps(app_public.request_transitions) is 'What an edge itself writes, with @now and @caller filled in.';

create or replace function app_private.request_faults(r app_public.requests, changes jsonb)
  returns jsonb
  language sql
  stable
as $$
  select app_private.violations('app_public.requests',
    -- What has a default is null in a new row, and no fault.
    case when r.id is null then jsonb_strip_nulls(to_jsonb(r)) || changes else to_jsonb(r) end)
$$;
comment on function app_private.request_faults(app_public.requests, jsonb) is 'What is wrong with a request as changes would have it.';

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
  -- The guard below lets a write pass only while this names the action.
  perform set_config('assent.action', action, true);
  if r.id is null then
    insert into app_public.requests (title, description, status, creator_id, assigned_to_id)
    values (r.title, r.description, r.status, r.creator_id, r.assigned_to_id)
    returning * into v_written;
  else
    update app_public.requests w
    set (title, description, status, assigned_to_id, submitted_at, reviewed_at, reviewed_by_id, review_comment, is_deleted) =
      (r.title, r.description, r.status, r.assigned_to_id, r.submitted_at, r.reviewed_at, r.reviewed_by_id, r.review_comment,
       r.is_deleted)
    where w.id = r.id
    returning * into v_written;
  end if;
  perform set_config('assent.action', '', true);
  return v_written;
exception
  when integrity_constraint_violation then
    perform app_private.raise_faults(app_private.request_faults(r, changes));
  when sqlstate 'RQ422' then -- the guard's
    get stacked diagnostics v_field = column_name, v_message = message_text;
    perform app_private.raise_faults(app_private.request_faults(r, changes)
      || jsonb_build_object('field', v_field, 'message', v_message));
end
$$;
comment on function app_private.write_request(app_public.requests, text, jsonb) is
  'Writes what an action has made of a request: a new one, which has no id yet, or a changed one. Raises RQ422 for everything that is wrong with it.';

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
  elsif app_private.is_visible(request_id) then
    -- The lock comes before any look at the state, so that of two deciders the second meets what the first has done.
    select * into v_old from app_public.requests r where r.id = request_id for no key update;
  else
    perform app_private.require_session();
    raise exception using errcode = 'RQ404', message = 'There is no such request.';
  end if;

  v_edge := app_private.permitted_transition(v_old, action, expected_versions);
  if not v_edge.writes @> array(select jsonb_object_keys(changes)) then
    raise exception using errcode = 'RQ403',
      message = format('To %s a request writes nothing but %s.', lower(action), v_edge.writes);
  end if;

  v_faults := app_private.type_faults(changes, 'app_public.requests');
  v_changes := changes - array(select f ->> 'field' from jsonb_array_elements(v_faults) f);
  v_new := jsonb_populate_record(v_old, v_changes || app_private.stamps(v_edge));
  v_new.status := v_edge.to_status;
  if v_faults <> '[]' then
    perform app_private.raise_faults(v_faults || app_private.request_faults(v_new, v_changes));
  end if;
  -- An edit that changes nothing is no action, and leaves no trace.
  if v_new is not distinct from v_old then
    return v_old;
  end if;
  return app_private.write_request(v_new, action, v_changes);
end
$$;
comment on function app_hidden.transition(uuid, text, integer[], jsonb) is
  'The one way in which a request changes: is the session live (RQ401), can the caller see it (RQ404), lock, may they (RQ403), does the state allow it (RQ409), is the version current (RQ412), write, and report everything that is wrong with the values as RQ422. The API functions call it.';
grant execute on function app_hidden.transition(uuid, text, integer[], jsonb) to assent_user, assent_manager, assent_admin;

-- The guard: what is submitted stays as it is, whatever the statement and whoever writes it -------------------------

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
    if (new.id, new.creator_id, new.created_at) is distinct from (old.id, old.creator_id, old.created_at) then
      raise exception using errcode = 'RQ403', message = 'A request keeps its id, its creator and its time of creation.';
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
  'No write without an action that leads there; version and updated_at; whom a request can be assigned to. Raises RQ403 and RQ422.';

create or replace trigger _200_guard
  before insert or update on app_public.requests
  for each row execute function app_private.tg_requests__guard();
