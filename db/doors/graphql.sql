-- The GraphQL door: what PostGraphile exposes in addition to tables. Queries run as the caller, so that row-level security
-- decides what exists for them; transition() decides which actions they may take (rules/lifecycle.sql).

-- In an edit, "left out" must differ from null and from every value that a caller could send.
create or replace function app_hidden.left_out()
  returns uuid
  language sql
  stable
as $$
  select md5(pg_backend_pid() || transaction_timestamp()::text)::uuid
$$;
comment on function app_hidden.left_out() is
  'The default of arguments that may be left out: a value that only this transaction has, and nobody can know before.';

create or replace function app_hidden.given(field text, value text)
  returns jsonb
  language sql
  stable
as $$
  select case when value is not distinct from app_hidden.left_out()::text then '{}' else jsonb_build_object(field, value) end
$$;
comment on function app_hidden.given(text, text) is 'The field as a change, or no change if the caller left it out.';
create or replace function app_hidden.given(field text, value uuid)
  returns jsonb
  language sql
  stable
as $$
  select case when value is not distinct from app_hidden.left_out() then '{}' else jsonb_build_object(field, value) end
$$;
comment on function app_hidden.given(text, uuid) is 'The field as a change, or no change if the caller left it out.';
create or replace function app_hidden.given(field text, value jsonb)
  returns jsonb
  language sql
  stable
as $$
  select case when value is not distinct from to_jsonb(app_hidden.left_out()) then '{}' else jsonb_build_object(field, value) end
$$;
comment on function app_hidden.given(text, jsonb) is 'The field as a change, or no change if the caller left it out.';
create or replace function app_hidden.given(field text, value boolean)
  returns jsonb
  language sql
  immutable
as $$
  select case when value is null then '{}' else jsonb_build_object(field, value) end
$$;
comment on function app_hidden.given(text, boolean) is 'The field as a change, or no change if the caller left it out.';
create or replace function app_hidden.expected(version integer)
  returns integer[]
  language sql
  immutable
as $$
  select case when version is not null then array[version] end
$$;
comment on function app_hidden.expected(integer) is
  'The versions that transition() shall expect: this one, or any if the caller named none.';
grant execute on function
  app_hidden.left_out(), app_hidden.given(text, text), app_hidden.given(text, uuid), app_hidden.given(text, jsonb),
  app_hidden.given(text, boolean), app_hidden.expected(integer)
  to assent_user, assent_manager, assent_admin;

-- Mutations --------------------------------------------------------------------------------------------------------

create or replace function app_public.create_request(
  title text,
  description text default null,
  assigned_to_id uuid default null,
  kind_id text default app_hidden.left_out()::text,
  data jsonb default to_jsonb(app_hidden.left_out())
)
  returns app_public.requests
  language sql
  volatile
as $$
  select app_hidden.transition(null::uuid, 'CREATE', null,
    jsonb_build_object('title', title, 'description', description, 'assigned_to_id', assigned_to_id)
      || app_hidden.given('kind_id', kind_id) || app_hidden.given('data', data))
$$;
comment on function app_public.create_request(text, text, uuid, text, jsonb) is
  'Creates a request as a draft, of the kind GENERAL unless you name another. VALIDATION_FAILED: the title is blank or too long, '
  'the description or the data is too long, the kind is not offered, or the assignee is not an active manager or admin, or is '
  'you.';

create or replace function app_public.update_request(
  request_id uuid,
  title text default app_hidden.left_out()::text,
  description text default app_hidden.left_out()::text,
  assigned_to_id uuid default app_hidden.left_out(),
  version integer default null,
  data jsonb default to_jsonb(app_hidden.left_out())
)
  returns app_public.requests
  language sql
  volatile
as $$
  select app_hidden.transition(request_id, 'UPDATE', app_hidden.expected(version),
    app_hidden.given('title', title) || app_hidden.given('description', description)
      || app_hidden.given('assigned_to_id', assigned_to_id) || app_hidden.given('data', data))
$$;
comment on function app_public.update_request(uuid, text, text, uuid, integer, jsonb) is
  'Edits one of your drafts. What is left out stays as it is; null clears description and assignedToId.';

create or replace function app_public.delete_request(request_id uuid, version integer default null)
  returns app_public.requests
  language sql
  volatile
as $$
  select app_hidden.transition(request_id, 'DELETE', app_hidden.expected(version))
$$;
comment on function app_public.delete_request(uuid, integer) is
  'Deletes one of your drafts. Admins still see it, and it stays in the audit trail.';

create or replace function app_public.submit_request(request_id uuid, version integer default null)
  returns app_public.requests
  language sql
  volatile
as $$
  select app_hidden.transition(request_id, 'SUBMIT', app_hidden.expected(version))
$$;
comment on function app_public.submit_request(uuid, integer) is
  'Submits one of your drafts for decision. It can no longer be edited. VALIDATION_FAILED: its data is not what its kind '
  'demands.';

create or replace function app_public.approve_request(request_id uuid, comment text default null, version integer default null)
  returns app_public.requests
  language sql
  volatile
as $$
  select app_hidden.transition(request_id, 'APPROVE', app_hidden.expected(version), jsonb_build_object('review_comment', comment))
$$;
comment on function app_public.approve_request(uuid, text, integer) is
  'Approves a submitted request, for good. INVALID_TRANSITION: it is not awaiting a decision, for instance because somebody '
  'else has decided it first.';

create or replace function app_public.reject_request(request_id uuid, comment text default null, version integer default null)
  returns app_public.requests
  language sql
  volatile
as $$
  select app_hidden.transition(request_id, 'REJECT', app_hidden.expected(version), jsonb_build_object('review_comment', comment))
$$;
comment on function app_public.reject_request(uuid, text, integer) is
  'Rejects a submitted request, for good. VALIDATION_FAILED without a comment.';

create or replace function app_public.assign_request(
  request_id uuid,
  assigned_to_id uuid default app_hidden.left_out(),
  version integer default null
)
  returns app_public.requests
  language sql
  volatile
as $$
  select app_hidden.transition(request_id, 'ASSIGN', app_hidden.expected(version),
    app_hidden.given('assigned_to_id', assigned_to_id))
$$;
comment on function app_public.assign_request(uuid, uuid, integer) is
  'Assigns a submitted request to one manager or admin, or with null to nobody in particular.';

grant execute on function
  app_public.create_request(text, text, uuid, text, jsonb),
  app_public.update_request(uuid, text, text, uuid, integer, jsonb),
  app_public.delete_request(uuid, integer),
  app_public.submit_request(uuid, integer),
  app_public.approve_request(uuid, text, integer),
  app_public.reject_request(uuid, text, integer),
  app_public.assign_request(uuid, uuid, integer)
  to assent_user, assent_manager, assent_admin;

create or replace function app_public.update_user(
  user_id uuid,
  name text default app_hidden.left_out()::text,
  role text default app_hidden.left_out()::text
)
  returns app_public.users
  language sql
  volatile
as $$
  select app_hidden.change_user(user_id, app_hidden.given('name', name) || app_hidden.given('role', role))
$$;
comment on function app_public.update_user(uuid, text, text) is
  'Changes somebody''s name or role, for admins. A new role takes effect with their next request. What is left out stays as '
  'it is. INVALID_TRANSITION: this is the last active admin.';

create or replace function app_public.deactivate_user(user_id uuid)
  returns app_public.users
  language sql
  volatile
as $$
  select app_hidden.change_user(user_id, '{"is_deleted": true}')
$$;
comment on function app_public.deactivate_user(uuid) is
  'Deactivates somebody, for admins: their sessions end, what they did keeps their name, and any manager can decide what was '
  'assigned to them. INVALID_TRANSITION: this is the last active admin.';

create or replace function app_public.reactivate_user(user_id uuid)
  returns app_public.users
  language sql
  volatile
as $$
  select app_hidden.change_user(user_id, '{"is_deleted": false}')
$$;
comment on function app_public.reactivate_user(uuid) is 'Reactivates somebody, for admins, so that they can log in again.';

grant execute on function
  app_public.update_user(uuid, text, text), app_public.deactivate_user(uuid), app_public.reactivate_user(uuid)
  to assent_user, assent_manager, assent_admin;

create or replace function app_public.save_request_kind(
  id text,
  name text default app_hidden.left_out()::text,
  description text default app_hidden.left_out()::text,
  schema jsonb default to_jsonb(app_hidden.left_out()),
  is_active boolean default null
)
  returns app_public.request_kinds
  language sql
  volatile
as $$
  select app_hidden.save_request_kind(id, app_hidden.given('name', name) || app_hidden.given('description', description)
    || app_hidden.given('schema', schema) || app_hidden.given('is_active', is_active))
$$;
comment on function app_public.save_request_kind(text, text, text, jsonb, boolean) is
  'Makes a kind of request, or changes the one of this id, for admins. What is left out stays as it is. Requests that were '
  'submitted before are not held to a new schema. VALIDATION_FAILED: the schema has a keyword that is not known, or a value is '
  'not what it must be.';
grant execute on function app_public.save_request_kind(text, text, text, jsonb, boolean)
  to assent_user, assent_manager, assent_admin;

-- Queries ----------------------------------------------------------------------------------------------------------

create or replace function app_public.get_current_user()
  returns app_public.users
  language sql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  select u.* from app_public.users u where u.id = app_hidden.current_user_id()
$$;
comment on function app_public.get_current_user() is E'@name currentUser\nThe person who is logged in; null without credentials.';
grant execute on function app_public.get_current_user() to assent_anonymous, assent_user, assent_manager, assent_admin;

create or replace function app_public.requests_awaiting_my_decision()
  returns setof app_public.requests
  language sql
  stable
as $$
  select (d.request).*
  from app_hidden.request_deciders d
  where d.user_id = (select app_hidden.current_user_id())
$$;
comment on function app_public.requests_awaiting_my_decision() is
  E'@behavior +filter +order +condition\n@defaultOrderBy SUBMITTED_AT_ASC PRIMARY_KEY_ASC\n'
  'All requests that you can decide now, oldest first.';
grant execute on function app_public.requests_awaiting_my_decision() to assent_user, assent_manager, assent_admin;

-- The view only gives the rows their type; the function below returns them.
create or replace view app_public.turnarounds with (security_invoker = true) as
  select r.reviewed_by_id as decider_id, r.reviewed_at as day, 0 as decided, 0 as approved, 0 as rejected,
    0::double precision as median_hours, 0::double precision as average_hours
  from app_public.requests r
  where false;
comment on view app_public.turnarounds is
  E'@behavior -query:resource:connection -query:resource:list -query:resource:single -filter -resource:aggregates '
  '-resource:groupedAggregates\n@name turnaround_row\n'
  'How many requests were decided, and how long they had waited: all of them, those of one decider, or those of one day.';
comment on column app_public.turnarounds.decider_id is 'Whose decisions they are; null for those of everybody.';
comment on column app_public.turnarounds.day is 'The beginning of the day, in UTC; null for all days.';
comment on column app_public.turnarounds.decided is E'@notNull\nHow many were decided.';
comment on column app_public.turnarounds.approved is E'@notNull\nHow many of them were approved.';
comment on column app_public.turnarounds.rejected is E'@notNull\nHow many of them were rejected.';
comment on column app_public.turnarounds.median_hours is
  'The median of the hours from submission to decision; null if none was decided.';
comment on column app_public.turnarounds.average_hours is
  'The average of the hours from submission to decision; null if none was decided.';

create or replace function app_public.turnaround("from" timestamptz, "to" timestamptz)
  returns app_public.turnarounds[]
  language plpgsql
  stable
as $$
declare
  -- Both bound what one call costs.
  v_longest constant interval := '366 days';
  v_most constant integer := 100000;
  v_fault text;
begin
  -- So that infinity is refused too, before anything is computed with it.
  if ("from" between "to" - v_longest and "to" and isfinite("from") and isfinite("to")) is not true then
    v_fault := 'It must be at most 366 days after from, and not before it.';
  elsif v_most < (select count(*) from (
    select from app_public.requests r where r.reviewed_at >= "from" and r.reviewed_at < "to" limit v_most + 1
  ) decided) then
    v_fault := format('More than %s requests were decided until then: choose a shorter time.', v_most);
  end if;
  if v_fault is not null then
    raise exception using errcode = 'RQ422', column = 'to', message = v_fault;
  end if;
  return array(
    select (d.reviewed_by_id, d.day, count(*), count(*) filter (where d.status = 'APPROVED'),
      count(*) filter (where d.status = 'REJECTED'), percentile_cont(0.5) within group (order by d.hours), avg(d.hours)
    )::app_public.turnarounds
    from (
      select r.reviewed_by_id, date_trunc('day', r.reviewed_at, 'UTC') as day, r.status,
        extract(epoch from r.reviewed_at - r.submitted_at)::double precision / 3600 as hours
      from app_public.requests r
      where r.reviewed_at >= "from" and r.reviewed_at < "to"
    ) d
    group by grouping sets ((), (d.reviewed_by_id), (d.day))
    order by grouping(d.day) desc, grouping(d.reviewed_by_id) desc, count(*) desc, d.day, d.reviewed_by_id
  );
end
$$;
comment on function app_public.turnaround(timestamptz, timestamptz) is
  'How fast the requests were decided that you can see and that were decided from the first moment to before the second: first '
  'all together, then by decider, whoever decided most first, then by day. VALIDATION_FAILED: the time is longer than 366 '
  'days, or more than 100,000 were decided in it.';

-- A relation would be joined, and a join may lose the order.
create or replace function app_public.turnarounds_decider(t app_public.turnarounds)
  returns app_public.users
  language sql
  stable
as $$
  select u.* from app_public.users u where u.id = t.decider_id
$$;
comment on function app_public.turnarounds_decider(app_public.turnarounds) is
  'Whose decisions they are; null for those of everybody.';
grant select on app_public.turnarounds to assent_user, assent_manager, assent_admin;
grant execute on function
  app_public.turnaround(timestamptz, timestamptz), app_public.turnarounds_decider(app_public.turnarounds)
  to assent_user, assent_manager, assent_admin;

-- Enums that are not tables of their own ------------------------------------------------------------------------------

create or replace view app_public.request_actions with (security_invoker = true) as
  select distinct a.action, a.description
  from app_public.audit_actions a
  join app_public.request_transitions t on t.action = a.action and t.from_status is not null;
comment on view app_public.request_actions is
  E'@enum\n@enumName RequestAction\n@primaryKey action\n@behavior -*\nWhat can be done with a request.';
comment on column app_public.request_actions.action is 'The name of the action.';
comment on column app_public.request_actions.description is 'What has been done afterwards.';

create or replace view app_public.webhook_delivery_states with (security_invoker = true) as
  -- The CHECK webhook_deliveries_state_check has the same. A table and a foreign key would need an index, and each change of a
  -- delivery would have to write to it.
  select 'QUEUED' as state, 'A job will send it, or send it again.' as description
  union all select 'DELIVERED', 'The response was 2xx.'
  union all select 'FAILED', 'It will not be tried again.'
  union all select 'CANCELLED', 'The webhook was off.';
comment on view app_public.webhook_delivery_states is
  E'@enum\n@enumName WebhookDeliveryState\n@primaryKey state\n@behavior -*\nWhat has become of a delivery.';
comment on column app_public.webhook_delivery_states.state is 'The name of the state.';
comment on column app_public.webhook_delivery_states.description is 'What it means.';
grant select on app_public.request_actions, app_public.webhook_delivery_states to :DATABASE_AUTHENTICATOR;

-- Computed fields --------------------------------------------------------------------------------------------------

create or replace function app_public.requests_available_actions(r app_public.requests)
  returns text[]
  language sql
  stable
as $$
  select app_hidden.actions_of(r, app_hidden.my_parties(r))
$$;
comment on function app_public.requests_available_actions(app_public.requests) is 'What you may do with the request now.';
grant execute on function app_public.requests_available_actions(app_public.requests) to assent_user, assent_manager, assent_admin;

create or replace function app_public.requests_waits_for(r app_public.requests)
  returns app_public.users[]
  language plpgsql
  stable
  security definer -- so that callers of every role share one plan
  set search_path to pg_catalog, pg_temp
as $$
begin
  -- The request is read again, because a caller can make up a row.
  return array(
    select p
    from app_hidden.request_deciders d
    join app_public.users p on p.id = d.user_id
    where (d.request).id = r.id and app_private.is_visible(r.id)
    order by p.name, p.id
    limit 100
  );
end
$$;
comment on function app_public.requests_waits_for(app_public.requests) is
  'Who can decide the request now, by name, up to 100 people; nobody unless it is SUBMITTED.';
grant execute on function app_public.requests_waits_for(app_public.requests) to assent_user, assent_manager, assent_admin;

create or replace function app_public.users_email(u app_public.users)
  returns text
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  return (select app_private.email_for(u.id, c.user_id, c.permissions) from app_private.caller_with_permissions() c);
end
$$;
comment on function app_public.users_email(app_public.users) is
  'The email address that the person logs in with; null if you may not see it.';

create or replace function app_public.users_permissions(u app_public.users)
  returns text[]
  language sql
  stable
as $$
  select array(select p.permission from app_hidden.effective_permissions p where p.role = u.role order by p.permission)
$$;
comment on function app_public.users_permissions(app_public.users) is
  'The permissions of the person''s role, including inherited ones.';
grant execute on function app_public.users_email(app_public.users), app_public.users_permissions(app_public.users)
  to assent_anonymous, assent_user, assent_manager, assent_admin;
