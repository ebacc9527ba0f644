-- The life of a request: which actions lead from where to where, who may take them, and the one function that does.

create table if not exists app_public.request_parties (
  party text primary key,
  description text not null
);
comment on table app_public.request_parties is E'@behavior -*\nWhat a person can be to a request. Who is one: app_hidden.my_parties.';
comment on column app_public.request_parties.party is 'The name of the party.';
comment on column app_public.request_parties.description is 'Who that is.';

insert into app_public.request_parties (party, description) values
  ('CREATOR',  'Who created it.'),
  ('DECIDER',  'Who can decide it: app_hidden.can_decide.'),
  ('ASSIGNER', 'Who can decide it, or may assign any request.')
on conflict (party) do update
  set description = excluded.description
  where (request_parties.*) is distinct from (excluded.*);

create table if not exists app_public.request_transitions (
  from_status text references app_public.request_statuses on update cascade on delete restrict,
  action text not null references app_public.audit_actions on update cascade on delete restrict,
  to_status text not null references app_public.request_statuses on update cascade on delete restrict,
  who text not null references app_public.request_parties on update cascade on delete restrict,
  writes text[] not null default '{}',
  constraint request_transitions_key unique nulls not distinct (from_status, action)
);
comment on table app_public.request_transitions is E'@behavior -*\nThe state machine: one row an edge. What is not here cannot happen.';
comment on column app_public.request_transitions.from_status is 'Where the request stands before; null: it does not exist yet.';
comment on column app_public.request_transitions.action is 'What is done.';
comment on column app_public.request_transitions.to_status is 'Where it stands afterwards.';
comment on column app_public.request_transitions.who is 'The party that may do it.';
comment on column app_public.request_transitions.writes is 'The columns that the caller may write by it.';
create index if not exists request_transitions_action_idx on app_public.request_transitions (action);
create index if not exists request_transitions_to_status_idx on app_public.request_transitions (to_status);
create index if not exists request_transitions_who_idx on app_public.request_transitions (who);

insert into app_public.request_transitions (from_status, action, to_status, who, writes) values
  (null,        'CREATE',  'DRAFT',     'CREATOR',  '{title,description,assigned_to_id}'),
  ('DRAFT',     'UPDATE',  'DRAFT',     'CREATOR',  '{title,description,assigned_to_id}'),
  ('DRAFT',     'DELETE',  'DRAFT',     'CREATOR',  '{}'),
  ('DRAFT',     'SUBMIT',  'SUBMITTED', 'CREATOR',  '{}'),
  ('SUBMITTED', 'APPROVE', 'APPROVED',  'DECIDER',  '{review_comment}'),
  ('SUBMITTED', 'REJECT',  'REJECTED',  'DECIDER',  '{review_comment}'),
  ('SUBMITTED', 'ASSIGN',  'SUBMITTED', 'ASSIGNER', '{assigned_to_id}')
on conflict on constraint request_transitions_key do update
  set to_status = excluded.to_status, who = excluded.who, writes = excluded.writes
  where (request_transitions.*) is distinct from (excluded.*);

-- Who can decide ---------------------------------------------------------------------------------------------------

-- Runs as its owner: who is a manager or an admin is known to everybody, and row-level security on people, applied
-- twice in the view below, would cost more to plan than the query to run. The inheritance of effective_permissions is
-- written out, each table by its key: that there is one row of each is what makes the planner take the inbox by its index.
create or replace view app_hidden.deciders as
  select u.id as user_id, mine.level >= any_lowest.level as decides_any
  from app_public.users u
  join app_public.roles mine on mine.role = u.role
  join app_public.role_permissions decide on decide.permission = 'request.decide'
  join app_public.roles lowest on lowest.role = decide.role and lowest.level <= mine.level
  join app_public.role_permissions decide_any on decide_any.permission = 'request.decide_any'
  join app_public.roles any_lowest on any_lowest.role = decide_any.role
  where not u.is_deleted;
comment on view app_hidden.deciders is 'The active people who may decide at all: those who can be assigned a request.';

create or replace function app_hidden.can_decide(creator_id uuid, live_assignee_id uuid, person_id uuid, decides_any boolean)
  returns boolean
  language sql
  immutable
as $$
  select person_id <> creator_id and (decides_any or live_assignee_id is null or live_assignee_id = person_id)
$$;
comment on function app_hidden.can_decide(uuid, uuid, uuid, boolean) is
  'The rule of who can decide a request, of a person in app_hidden.deciders: not their own; and unassigned, or assigned to them, unless they decide any. An assignee who is no longer in app_hidden.deciders counts as none.';
grant execute on function app_hidden.can_decide(uuid, uuid, uuid, boolean) to assent_user, assent_manager, assent_admin, assent_auditor;

create or replace view app_hidden.request_deciders with (security_invoker = true) as
  select d.user_id, r as request
  from app_public.requests r
  left join app_hidden.deciders assignee on assignee.user_id = r.assigned_to_id
  join app_hidden.deciders d on app_hidden.can_decide(r.creator_id, assignee.user_id, d.user_id, d.decides_any)
  where r.submitted_at is not null and r.reviewed_at is null and not r.is_deleted
    and r.status in (select t.from_status from app_public.request_transitions t where t.who = 'DECIDER');
comment on view app_hidden.request_deciders is
  'Each waiting request with everybody who can decide it now: read by person it is their inbox, by request it is whom to tell.';

create or replace function app_hidden.my_parties(r app_public.requests)
  returns text[]
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid;
  v_may text[];
  v_live_assignee_id uuid;
  v_decider boolean;
begin
  select c.user_id, array(select p.permission from app_hidden.effective_permissions p where p.role = c.role)
  into v_me, v_may
  from app_private.caller() c;

  if r.assigned_to_id is not null then
    select d.user_id into v_live_assignee_id from app_hidden.deciders d where d.user_id = r.assigned_to_id;
  end if;
  v_decider := 'request.decide' = any (v_may)
    and app_hidden.can_decide(r.creator_id, v_live_assignee_id, v_me, 'request.decide_any' = any (v_may));

  return array_remove(array[
    case when v_me = r.creator_id and 'request.create' = any (v_may) then 'CREATOR' end,
    case when v_decider then 'DECIDER' end,
    case when v_decider or 'request.assign_any' = any (v_may) then 'ASSIGNER' end
  ], null);
end
$$;
comment on function app_hidden.my_parties(app_public.requests) is
  'What the person who is asking is to the request, whatever its status: of the rows of request_parties.';
grant execute on function app_hidden.my_parties(app_public.requests) to assent_user, assent_manager, assent_admin;

-- Taking an action -------------------------------------------------------------------------------------------------

create or replace function app_private.permitted_transition(r app_public.requests, action text, expected_version integer)
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
    raise exception using errcode = 'RQ403', message = format('%s is not yours to do on this request.', action);
  end if;

  select * into v_edge
  from app_public.request_transitions t
  where t.action = permitted_transition.action
    and t.from_status is not distinct from r.status
    and t.who = any (v_parties)
    and r.is_deleted is not true;
  if not found then
    raise exception using errcode = 'RQ409',
      message = format('%s is not possible: the request is %s.', action, case when r.is_deleted then 'deleted' else r.status end);
  end if;

  if expected_version <> r.version then
    raise exception using errcode = 'RQ412',
      message = format('The request is at version %s, which is not the one that was named.', r.version);
  end if;
  return v_edge;
end
$$;
comment on function app_private.permitted_transition(app_public.requests, text, integer) is
  'The edge that an action takes from where the request stands. Raises RQ401 when the session has ended meanwhile, RQ403 when the caller is not the party for it, else RQ409 when no edge leads from here, else RQ412 when the version is another.';

create or replace function app_hidden.transition(
  seen app_public.requests,
  action text,
  expected_version integer default null,
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
  v_constraint text;
  v_column text;
begin
  -- The lock comes before any look at the state, so that of two deciders the second meets what the first has done.
  if action = 'CREATE' then
    v_old.creator_id := app_hidden.current_user_id();
  else
    -- To name an id is not enough: who has seen the request also knows, to the microsecond, when it was created.
    select * into v_old from app_public.requests r where r.id = seen.id and r.created_at = seen.created_at for no key update;
    if not found then
      perform app_private.require_session();
      raise exception using errcode = 'RQ404', message = 'There is no such request.';
    end if;
  end if;

  v_edge := app_private.permitted_transition(v_old, action, expected_version);
  if not v_edge.writes @> array(select jsonb_object_keys(changes)) then
    raise exception using errcode = 'RQ403', message = format('%s writes nothing but %s.', action, v_edge.writes);
  end if;

  perform app_private.check_types(changes, 'app_public.requests');
  v_new := jsonb_populate_record(v_old, changes);
  v_new.status := v_edge.to_status;
  v_new.is_deleted := action = 'DELETE';
  if action = 'SUBMIT' then
    v_new.submitted_at := clock_timestamp();
  elsif v_edge.who = 'DECIDER' then
    v_new.reviewed_by_id := app_hidden.current_user_id();
    v_new.reviewed_at := clock_timestamp();
  end if;
  -- An edit that changes nothing is no action, and leaves no trace.
  if v_new is not distinct from v_old then
    return v_old;
  end if;

  -- The guard below lets a write pass only while this names the action.
  perform set_config('assent.action', action, true);
  if action = 'CREATE' then
    insert into app_public.requests (title, description, status, creator_id, assigned_to_id)
    values (v_new.title, v_new.description, v_new.status, v_new.creator_id, v_new.assigned_to_id)
    returning * into v_new;
  else
    update app_public.requests r
    set (title, description, status, assigned_to_id, submitted_at, reviewed_at, reviewed_by_id, review_comment, is_deleted) =
      (v_new.title, v_new.description, v_new.status, v_new.assigned_to_id, v_new.submitted_at, v_new.reviewed_at,
       v_new.reviewed_by_id, v_new.review_comment, v_new.is_deleted)
    where r.id = v_old.id
    returning * into v_new;
  end if;
  perform set_config('assent.action', '', true);
  return v_new;
exception
  when check_violation or not_null_violation then
    get stacked diagnostics v_constraint = constraint_name, v_column = column_name;
    perform app_private.raise_violation(v_constraint, v_column);
end
$$;
comment on function app_hidden.transition(app_public.requests, text, integer, jsonb) is
  'The one way in which a request changes: is the session live (RQ401), has the caller seen it (RQ404), lock, may they (RQ403), does the state allow it (RQ409), is the version current (RQ412), write, and tell a violated constraint as RQ422. The API functions read the request as the caller and hand it over.';
grant execute on function app_hidden.transition(app_public.requests, text, integer, jsonb) to assent_user, assent_manager, assent_admin;

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
      message = format('A request changes by the functions of the API alone: no action is taking it from %s to %s.',
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
      message = 'A request is assigned to an active manager or admin.';
  end if;
  return new;
end
$$;
comment on function app_private.tg_requests__guard() is
  'No write without an action that leads there; version and updated_at; whom a request can be assigned to. Raises RQ403 and RQ422.';

create or replace trigger _200_guard
  before insert or update on app_public.requests
  for each row execute function app_private.tg_requests__guard();
