-- What REST shows: each resource as one JSON document; and how a request changes by a JSON body. server/rest/routes.ts says
-- which route shows what. Rows are read as the caller, so that row-level security decides which there are. Their documents
-- are made as the owner: who sees a request sees the names of the people on it, which row-level security on people would
-- find out at many times the cost; and a plan of the owner's holds for callers of every role.

create or replace view app_private.people with (security_invoker = true) as
  select u.id, u.name, u.role from app_public.users u;
comment on view app_private.people is 'A person as part of something else.';

create or replace function app_hidden.request_document(seen app_public.requests)
  returns json
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_document json;
begin
  -- As in transition(): who has seen the request also knows, to the microsecond, when it was created.
  select row_to_json(d) into v_document
  from app_public.requests r
  cross join lateral (
    select r.id, r.title, r.description, r.status, r.version,
      (select p from app_private.people p where p.id = r.creator_id) as creator,
      (select p from app_private.people p where p.id = r.assigned_to_id) as assigned_to,
      (select p from app_private.people p where p.id = r.reviewed_by_id) as reviewed_by,
      r.reviewed_at, r.review_comment, r.submitted_at, r.created_at, r.updated_at,
      app_public.requests_available_actions(r) as available_actions
  ) d
  where r.id = seen.id and r.created_at = seen.created_at;
  return v_document;
end
$$;
comment on function app_hidden.request_document(app_public.requests) is 'A request that the caller has seen, as REST shows it.';

create or replace function app_hidden.audit_log_document(seen app_public.audit_logs)
  returns json
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_document json;
begin
  select row_to_json(d) into v_document
  from app_public.audit_logs a
  cross join lateral (
    select a.id, (select p from app_private.people p where p.id = a.actor_id) as actor, a.action, a.request_id, a.user_id,
      a.metadata, host(a.ip_address) as ip_address, a."timestamp"
  ) d
  where a.id = seen.id and a."timestamp" = seen."timestamp";
  return v_document;
end
$$;
comment on function app_hidden.audit_log_document(app_public.audit_logs) is 'An audit entry that the caller has seen, as REST shows it.';

create or replace function app_hidden.user_document(seen app_public.users)
  returns json
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_document json;
begin
  -- What was seen is shown, and the address to whom users_email() tells it.
  select row_to_json(d) into v_document
  from (
    select seen.id, app_public.users_email(seen) as email, seen.name, seen.role, app_public.users_permissions(seen) as permissions,
      seen.is_deleted, seen.created_at
  ) d;
  return v_document;
end
$$;
comment on function app_hidden.user_document(app_public.users) is 'A person that the caller has seen, as REST shows them.';

grant execute on function
  app_hidden.request_document(app_public.requests),
  app_hidden.audit_log_document(app_public.audit_logs),
  app_hidden.user_document(app_public.users)
  to assent_user, assent_manager, assent_admin;

create or replace function app_hidden.act_on_request(
  request_id uuid,
  action text,
  expected_versions integer[],
  body jsonb,
  out version integer,
  out document json
)
  language plpgsql
  volatile
as $$
declare
  v_request app_public.requests;
begin
  if request_id is not null then
    v_request := app_hidden.visible_request(request_id);
  end if;
  v_request := app_hidden.transition(
    v_request,
    action,
    -- Any of them will do: the one that may still be current once the request is locked. None at all is no version.
    case when v_request.version = any (expected_versions) then v_request.version
      when expected_versions is not null then coalesce(expected_versions[1], 0) end,
    body - 'comment' || case when body ? 'comment' then jsonb_build_object('review_comment', body -> 'comment') else '{}' end
  );
  version := v_request.version;
  -- A statement of its own sees what transition() has written.
  document := app_hidden.request_document(v_request);
end
$$;
comment on function app_hidden.act_on_request(uuid, text, integer[], jsonb) is
  'Takes an action on a request (no id: CREATE) by a JSON body, and shows what became of it; where versions are expected (If-Match), at one of them. Raises as transition() does.';
grant execute on function app_hidden.act_on_request(uuid, text, integer[], jsonb) to assent_user, assent_manager, assent_admin;
