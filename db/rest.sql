-- What REST shows: each resource as one JSON document, made as the caller, so that row-level security applies; and how a
-- request changes by a JSON body. server/routes.ts says which route shows what.

create or replace view app_hidden.people with (security_invoker = true) as
  select u.id, u.name, u.role from app_public.users u;
comment on view app_hidden.people is 'A person as part of something else.';

create or replace view app_hidden.request_documents with (security_invoker = true) as
  select r.id, r.status, r.version, r.creator_id, r.assigned_to_id, r.created_at, r.is_deleted, row_to_json(d) as document
  from app_public.requests r
  left join app_hidden.people creator on creator.id = r.creator_id
  left join app_hidden.people assigned_to on assigned_to.id = r.assigned_to_id
  left join app_hidden.people reviewed_by on reviewed_by.id = r.reviewed_by_id
  cross join lateral (
    select r.id, r.title, r.description, r.status, r.version, creator, assigned_to, reviewed_by, r.reviewed_at, r.review_comment,
      r.submitted_at, r.created_at, r.updated_at, app_public.requests_available_actions(r) as available_actions
  ) d;
comment on view app_hidden.request_documents is 'Requests as REST shows them, with what lists filter and order by.';

create or replace view app_hidden.audit_log_documents with (security_invoker = true) as
  select a.id, a.actor_id, a.action, a.request_id, a."timestamp", row_to_json(d) as document
  from app_public.audit_logs a
  left join app_hidden.people actor on actor.id = a.actor_id
  cross join lateral (
    select a.id, actor, a.action, a.request_id, a.user_id, a.metadata, host(a.ip_address) as ip_address, a."timestamp"
  ) d;
comment on view app_hidden.audit_log_documents is 'Audit entries as REST shows them.';

create or replace function app_hidden.user_document(u app_public.users)
  returns json
  language sql
  stable
as $$
  select row_to_json(d)
  from (
    select u.id, app_public.users_email(u) as email, u.name, u.role, app_public.users_permissions(u) as permissions,
      u.is_deleted, u.created_at
  ) d
$$;
comment on function app_hidden.user_document(app_public.users) is 'A person as REST shows them.';
grant execute on function app_hidden.user_document(app_public.users) to assent_user, assent_manager, assent_admin;

create or replace view app_hidden.user_documents with (security_invoker = true) as
  select u.id, u.created_at, app_hidden.user_document(u) as document
  from app_public.users u;
comment on view app_hidden.user_documents is 'People as REST shows them.';

grant select on app_hidden.people, app_hidden.request_documents, app_hidden.audit_log_documents, app_hidden.user_documents
  to assent_user, assent_manager, assent_admin;

create or replace function app_hidden.act_on_request(
  request_id uuid,
  action text,
  expected_version integer,
  body jsonb,
  out id uuid,
  out version integer,
  out document json
)
  language plpgsql
  volatile
as $$
declare
  v_request app_public.requests;
begin
  v_request := app_hidden.transition(
    case when request_id is not null then app_hidden.visible_request(request_id) end,
    action,
    expected_version,
    body - 'comment' || case when body ? 'comment' then jsonb_build_object('review_comment', body -> 'comment') else '{}' end
  );
  id := v_request.id;
  version := v_request.version;
  -- A statement of its own sees what transition() has written.
  select d.document into document from app_hidden.request_documents d where d.id = v_request.id;
end
$$;
comment on function app_hidden.act_on_request(uuid, text, integer, jsonb) is
  'Takes an action on a request (no id: CREATE) by a JSON body, and shows what became of it. Raises as transition() does.';
grant execute on function app_hidden.act_on_request(uuid, text, integer, jsonb) to assent_user, assent_manager, assent_admin;
