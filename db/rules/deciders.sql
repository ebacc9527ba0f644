-- Who can decide a request. There is one predicate, can_decide(), which the check, the buttons, the inbox and the recipients
-- of notifications all use.

-- This view runs as its owner: everybody who is logged in may know who is a manager or an admin, and row-level security on
-- people, applied twice in the view below, would take longer to plan than the query takes to run. The inheritance of
-- effective_permissions is written out, with each table joined by its key, because only when it expects one row of each does the
-- planner use the index of the inbox.
create or replace view app_hidden.deciders as
  select u.id as user_id, mine.level >= any_lowest.level as decides_any
  from app_public.users u
  join app_public.roles mine on mine.role = u.role
  join app_public.role_permissions decide on decide.permission = 'request.decide'
  join app_public.roles lowest on lowest.role = decide.role and lowest.level <= mine.level
  join app_public.role_permissions decide_any on decide_any.permission = 'request.decide_any'
  join app_public.roles any_lowest on any_lowest.role = decide_any.role
  where not u.is_deleted
    -- It is asked once for each statement. Whoever merely sets the role of a caller sees nobody; all others who may read this are
    -- auditors, and functions of the owner.
    and (select current_user <> all (array(select r.database_role from app_public.roles r))
      or app_hidden.current_user_id() is not null);
comment on view app_hidden.deciders is 'The active people who can decide requests, and who can therefore be assigned one.';

create or replace function app_hidden.can_decide(creator_id uuid, live_assignee_id uuid, person_id uuid, decides_any boolean)
  returns boolean
  language sql
  immutable
as $$
  select person_id <> creator_id and (decides_any or live_assignee_id is null or live_assignee_id = person_id)
$$;
comment on function app_hidden.can_decide(uuid, uuid, uuid, boolean) is
  'The rule of who can decide a request. A person in app_hidden.deciders can decide any request but their own that is '
  'unassigned or assigned to them; those who decide any can also decide what is assigned to others. An assignee who is no '
  'longer in app_hidden.deciders counts as none.';
grant execute on function app_hidden.can_decide(uuid, uuid, uuid, boolean)
  to assent_user, assent_manager, assent_admin, assent_auditor;

create or replace function app_hidden.is_waiting(r app_public.requests)
  returns boolean
  language sql
  immutable
as $$
  select r.submitted_at is not null and r.reviewed_at is null and not r.is_deleted
$$;
comment on function app_hidden.is_waiting(app_public.requests) is
  'Is it awaiting a decision? This is the condition of requests_waiting_idx: PostgreSQL inlines the function, and so can use '
  'the index.';

create or replace function app_hidden.waiting_since(submitted_at timestamptz)
  returns timestamptz
  language sql
  immutable
as $$
  select coalesce(submitted_at, '9999-12-31Z')
$$;
comment on function app_hidden.waiting_since(timestamptz) is
  'What inboxes are ordered by, as requests_waiting_idx is. Drafts come last. It is never null, because cursor pagination '
  'loses rows whose sort key is null.';

create or replace function app_hidden.waiting_status()
  returns text
  language sql
  stable
as $$
  select t.from_status from app_public.request_transitions t
  where t.who = 'DECIDER'
    and t.from_status not in (select d.to_status from app_public.request_transitions d where d.who = 'DECIDER')
  limit 1
$$;
comment on function app_hidden.waiting_status() is
  'The status of requests that are awaiting a decision: the one that no decision leads to.';
grant execute on function
  app_hidden.is_waiting(app_public.requests), app_hidden.waiting_since(timestamptz), app_hidden.waiting_status()
  to assent_user, assent_manager, assent_admin, assent_auditor;

create or replace view app_hidden.request_deciders with (security_invoker = true) as
  select d.user_id, r as request
  from app_public.requests r
  left join app_hidden.deciders assignee on assignee.user_id = r.assigned_to_id
  join app_hidden.deciders d on app_hidden.can_decide(r.creator_id, assignee.user_id, d.user_id, d.decides_any)
  where app_hidden.is_waiting(r)
    -- As an array: of a join, the planner expects hardly any row to be left, and would sort all that wait for a page of them.
    and r.status = any (array(select t.from_status from app_public.request_transitions t where t.who = 'DECIDER'));
comment on view app_hidden.request_deciders is
  'Each waiting request with everybody who can decide it now. The rows of a person are their inbox; the rows of a request are '
  'whom to notify.';

-- What a person may do with a request ------------------------------------------------------------------------------

create or replace function app_private.parties(r app_public.requests, person_id uuid, permissions text[])
  returns text[]
  language plpgsql
  stable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_live_assignee_id uuid;
  v_decider boolean;
begin
  if r.assigned_to_id is not null then
    select d.user_id into v_live_assignee_id from app_hidden.deciders d where d.user_id = r.assigned_to_id;
  end if;
  v_decider := 'request.decide' = any (permissions)
    and app_hidden.can_decide(r.creator_id, v_live_assignee_id, person_id, 'request.decide_any' = any (permissions));

  return array_remove(array[
    case when person_id = r.creator_id and 'request.create' = any (permissions) then 'CREATOR' end,
    case when v_decider then 'DECIDER' end,
    case when v_decider or 'request.assign_any' = any (permissions) then 'ASSIGNER' end
  ], null);
end
$$;
comment on function app_private.parties(app_public.requests, uuid, text[]) is
  'What a person with these permissions is to the request, whatever its status, as parties of request_parties.';

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
begin
  select c.user_id, c.permissions into v_me, v_may from app_private.caller_with_permissions() c;
  return app_private.parties(r, v_me, v_may);
end
$$;
comment on function app_hidden.my_parties(app_public.requests) is 'What the caller is to the request.';

create or replace function app_hidden.actions_of(r app_public.requests, parties text[])
  returns text[]
  language plpgsql
  stable
  security definer -- so that callers of every role share one plan; the table is public
  set search_path to pg_catalog, pg_temp
as $$
begin
  return array(
    select t.action
    from app_public.request_transitions t
    where t.from_status = r.status and not r.is_deleted and t.who = any (parties)
    order by t.action
  );
end
$$;
comment on function app_hidden.actions_of(app_public.requests, text[]) is
  'The actions that these parties may take on the request now.';
grant execute on function app_hidden.my_parties(app_public.requests), app_hidden.actions_of(app_public.requests, text[])
  to assent_user, assent_manager, assent_admin;
