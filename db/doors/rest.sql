-- The REST door: each resource as one JSON document, and how a JSON body changes a request. server/rest/ says which route shows
-- what. Rows are read as the caller, so that row-level security decides which they see. A document of a row that an action has
-- just written is made by a function, since a statement does not see what it has written itself. These functions run as the
-- owner, so that callers of every role share one plan. They add only the names of people, which everybody who is logged in may
-- see: from a made-up row, a caller learns nothing else.

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
  select row_to_json(d) into v_document
  from app_private.caller_with_permissions() c
  cross join lateral (
    select seen.id, seen.title, seen.description, seen.kind_id as kind, seen.data, seen.status, seen.version,
      (select p from app_private.people p where p.id = seen.creator_id) as creator,
      (select p from app_private.people p where p.id = seen.assigned_to_id) as assigned_to,
      (select p from app_private.people p where p.id = seen.reviewed_by_id) as reviewed_by,
      seen.reviewed_at, seen.review_comment, seen.submitted_at, seen.created_at, seen.updated_at,
      app_hidden.actions_of(seen, app_private.parties(seen, c.user_id, c.permissions)) as available_actions
  ) d;
  return v_document;
end
$$;
comment on function app_hidden.request_document(app_public.requests) is
  'A request as REST shows it: a row that the caller has read, with the names of its people and what the caller may do with '
  'it. Null without a live session.';

create or replace view app_hidden.audit_log_documents with (security_invoker = true) as
  select row_to_json(d) as document, l.id, l.actor_id, l.action, l.request_id, l."timestamp"
  from app_public.audit_logs l
  cross join lateral (
    select l.id, (select p from (select u.id, u.name, u.role from app_public.users u where u.id = l.actor_id) p) as actor,
      l.action, l.request_id, l.user_id, l.metadata, host(l.ip_address) as ip_address, l."timestamp"
  ) d;
comment on view app_hidden.audit_log_documents is
  'Audit entries as REST shows them, with the columns that lists go by. Rows of the trail are shown only after they were '
  'written, and so a view can read them: it asks who is calling once for a page, where a function of a row asks for each.';

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
  select row_to_json(d) into v_document
  from app_private.caller_with_permissions() c
  cross join lateral (
    select seen.id, app_private.email_for(seen.id, c.user_id, c.permissions) as email, seen.name, seen.role,
      app_public.users_permissions(seen) as permissions, seen.is_deleted, seen.created_at
  ) d;
  return v_document;
end
$$;
comment on function app_hidden.user_document(app_public.users) is
  'A person as REST shows them, made of a row that the caller has read. Null without a live session.';

create or replace function app_hidden.attachment_document(seen app_public.attachments)
  returns json
  language sql
  immutable
as $$
  select row_to_json(d) from (select seen.id, seen.name, seen.media_type, seen.size, seen.sha256, seen.created_at) d
$$;
comment on function app_hidden.attachment_document(app_public.attachments) is
  'An attachment as REST shows it, made of a row that the caller has read.';

create or replace function app_hidden.kind_document(seen app_public.request_kinds)
  returns json
  language sql
  immutable
as $$
  select row_to_json(d) from (select seen.id, seen.name, seen.description, seen.schema, seen.is_active) d
$$;
comment on function app_hidden.kind_document(app_public.request_kinds) is
  'A kind of request as REST shows it, made of a row that the caller has read.';

grant execute on function app_hidden.kind_document(app_public.request_kinds) to assent_user, assent_manager, assent_admin;
grant execute on function
  app_hidden.request_document(app_public.requests), app_hidden.user_document(app_public.users),
  app_hidden.attachment_document(app_public.attachments)
  to assent_user, assent_manager, assent_admin;
grant select on app_hidden.audit_log_documents to assent_user, assent_manager, assent_admin;

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
  v_request := app_hidden.transition(request_id, action, expected_versions, body - array['comment', 'kind']
    || case when body ? 'comment' then jsonb_build_object('review_comment', body -> 'comment') else '{}' end
    || case when body ? 'kind' then jsonb_build_object('kind_id', body -> 'kind') else '{}' end);
  version := v_request.version;
  -- This must be a separate statement to see what transition() has written.
  document := app_hidden.request_document(v_request);
end
$$;
comment on function app_hidden.act_on_request(uuid, text, integer[], jsonb) is
  'Takes an action on a request (without an id: CREATE) with a JSON body, and returns the result. If versions are expected '
  '(If-Match), the request must be at one of them. Raises what transition() raises.';
grant execute on function app_hidden.act_on_request(uuid, text, integer[], jsonb) to assent_user, assent_manager, assent_admin;
