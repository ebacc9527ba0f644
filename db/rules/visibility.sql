-- Who sees which rows: row-level security on every table, and the grants that open it. Only the owner's functions write, and so
-- no role has any grant to insert, update or delete.
--
-- There is one policy for each database role, so that the planner gets a plain condition that an index can serve; a single
-- policy for all would hide it behind an OR. The caller's identity is in a sub-select, so that it runs once for each statement.
-- In each policy the identity also proves the role (caller.sql): whoever merely sets a role sees nothing.

revoke all on schema public from public;
grant usage on schema app_public, app_hidden
  to assent_anonymous, assent_user, assent_manager, assent_admin, assent_auditor, :DATABASE_AUTHENTICATOR;
grant usage on schema audit to assent_auditor;

do $$
declare
  v_table regclass;
begin
  for v_table in
    select c.oid from pg_class c
    where c.relkind in ('r', 'p') and c.relnamespace in ('app_public'::regnamespace, 'app_private'::regnamespace)
      and not c.relispartition -- see app_private.guard_month
  loop
    execute format('alter table %s enable row level security', v_table);
    -- FORCE applies row-level security to the owner too, and so to functions that run as the owner: they need this policy.
    execute format('alter table %s force row level security', v_table);
    execute format('drop policy if exists owner_all on %s', v_table);
    execute format('create policy owner_all on %s to %I using (true) with check (true)', v_table, current_user);
  end loop;
end
$$;
-- Requests are the exception (owner_all lets the owner see them all anyway): with FORCE, the planner would not use the statistics
-- for searches (db/rules/search.sql), because their operator is not leakproof.
alter table app_public.requests no force row level security;

-- Reference tables: these rules are public --------------------------------------------------------------------------

do $$
declare
  v_table text;
begin
  foreach v_table in array array[
    'roles', 'role_permissions', 'request_statuses', 'request_parties', 'request_transitions', 'audit_actions',
    'notification_kinds', 'mail_deliveries', 'webhook_events'
  ] loop
    execute format('drop policy if exists everybody_select on app_public.%I', v_table);
    execute format('create policy everybody_select on app_public.%I for select to public using (true)', v_table);
    -- The login role reads them for the GraphQL schema's enums.
    execute format('grant select on app_public.%I to assent_anonymous, assent_user, assent_manager, assent_admin,
      assent_auditor, :DATABASE_AUTHENTICATOR', v_table);
  end loop;
end
$$;
grant select on app_hidden.effective_permissions
  to assent_anonymous, assent_user, assent_manager, assent_admin, assent_auditor;

-- Requests ---------------------------------------------------------------------------------------------------------

create or replace function app_hidden.can_see(
  creator_id uuid,
  status text,
  is_deleted boolean,
  person_id uuid,
  reads_others boolean,
  reads_all boolean
)
  returns boolean
  language sql
  immutable
as $$
  select reads_all or (not is_deleted and (creator_id = person_id or (reads_others and status <> 'DRAFT')))
$$;
comment on function app_hidden.can_see(uuid, text, boolean, uuid, boolean, boolean) is
  'The rule of which requests a person sees: their own; with request.read, also those of others once submitted; with '
  'request.read_all, all of them, including deleted ones. PostgreSQL inlines it, so that each policy below is a plain '
  'condition.';
grant execute on function app_hidden.can_see(uuid, text, boolean, uuid, boolean, boolean)
  to assent_user, assent_manager, assent_admin, assent_auditor;
grant select on app_hidden.viewers to assent_auditor;

drop policy if exists user_select on app_public.requests;
create policy user_select on app_public.requests for select to assent_user
  using (app_hidden.can_see(creator_id, status, is_deleted, (select app_hidden.current_user_id()), false, false));

drop policy if exists manager_select on app_public.requests;
create policy manager_select on app_public.requests for select to assent_manager
  using (app_hidden.can_see(creator_id, status, is_deleted, (select app_hidden.current_user_id()),
    (select app_hidden.has_permission('request.read')), false));

drop policy if exists admin_select on app_public.requests;
create policy admin_select on app_public.requests for select to assent_admin
  -- This is what can_see() amounts to with that permission; written out, it is checked once and not for each row.
  using ((select app_hidden.has_permission('request.read_all')));

drop policy if exists auditor_select on app_public.requests;
create policy auditor_select on app_public.requests for select to assent_auditor using (true);

grant select on app_public.requests to assent_user, assent_manager, assent_admin, assent_auditor;

create or replace function app_private.is_visible(request_id uuid)
  returns boolean
  language plpgsql
  stable
  set search_path to pg_catalog, pg_temp
as $$
begin
  return exists (
    select from app_private.caller_with_permissions() c
    join app_public.requests r on r.id = request_id
    where app_hidden.can_see(r.creator_id, r.status, r.is_deleted, c.user_id,
      'request.read' = any (c.permissions), 'request.read_all' = any (c.permissions))
  );
end
$$;
comment on function app_private.is_visible(uuid) is
  'Does the caller see this request? It is for functions that run as the owner, to whom the policies for callers do not apply.';

create or replace function app_hidden.is_listed(r app_public.requests, is_asked_for boolean)
  returns boolean
  language sql
  immutable
as $$
  select not r.is_deleted or is_asked_for
$$;
comment on function app_hidden.is_listed(app_public.requests, boolean) is
  'Is the request shown in lists? A deleted one is shown only if the caller asks for deleted ones.';

-- Kinds are seen by whoever is logged in --------------------------------------------------------------------------------

do $$
declare
  v_role text;
begin
  foreach v_role in array array['user', 'manager', 'admin'] loop
    execute format('drop policy if exists %I on app_public.request_kinds', v_role || '_select');
    execute format('create policy %I on app_public.request_kinds for select to %I
      using ((select app_hidden.current_user_id()) is not null)', v_role || '_select', 'assent_' || v_role);
  end loop;
end
$$;
drop policy if exists auditor_select on app_public.request_kinds;
create policy auditor_select on app_public.request_kinds for select to assent_auditor using (true);
grant select on app_public.request_kinds to assent_user, assent_manager, assent_admin, assent_auditor;

-- Attachments are seen by whoever sees the request ------------------------------------------------------------------

do $$
declare
  v_role text;
begin
  foreach v_role in array array['user', 'manager', 'admin'] loop
    execute format('drop policy if exists %I on app_public.attachments', v_role || '_select');
    -- The policy on requests decides. OFFSET 0 makes it a look-up by primary key for each attachment.
    execute format('create policy %I on app_public.attachments for select to %I
      using (exists (select from app_public.requests r where r.id = request_id offset 0))',
      v_role || '_select', 'assent_' || v_role);
  end loop;
end
$$;
drop policy if exists auditor_select on app_public.attachments;
create policy auditor_select on app_public.attachments for select to assent_auditor using (true);
grant select on app_public.attachments to assent_user, assent_manager, assent_admin, assent_auditor;

-- The audit trail --------------------------------------------------------------------------------------------------

drop policy if exists user_select on app_public.audit_logs;
create policy user_select on app_public.audit_logs for select to assent_user
  using (
    request_creator_id = (select app_hidden.current_user_id())
    or actor_id = (select app_hidden.current_user_id())
  );

drop policy if exists manager_select on app_public.audit_logs;
create policy manager_select on app_public.audit_logs for select to assent_manager
  using (
    actor_id = (select app_hidden.current_user_id())
    -- They see the entries of requests that they can see, which the policy on requests decides. OFFSET 0 makes it a look-up by
    -- primary key for each entry; without it, the planner would hash all requests for a page of 20 entries.
    or exists (select from app_public.requests r where r.id = request_id offset 0)
  );

drop policy if exists admin_select on app_public.audit_logs;
create policy admin_select on app_public.audit_logs for select to assent_admin
  using ((select app_hidden.has_permission('audit.read_all')));

drop policy if exists auditor_select on app_public.audit_logs;
create policy auditor_select on app_public.audit_logs for select to assent_auditor using (true);

grant select on app_public.audit_logs to assent_user, assent_manager, assent_admin, assent_auditor;

-- People -----------------------------------------------------------------------------------------------------------

-- Names of colleagues are no secret: whoever is logged in sees everybody. The policy is plain, because it applies to each join to
-- a person, of which a request alone has three.
do $$
declare
  v_role text;
begin
  foreach v_role in array array['user', 'manager', 'admin'] loop
    execute format('drop policy if exists %I on app_public.users', v_role || '_select');
    execute format('create policy %I on app_public.users for select to %I
      using ((select app_hidden.current_user_id()) is not null)',
      v_role || '_select', 'assent_' || v_role);
  end loop;
end
$$;

create or replace function app_hidden.is_listed(u app_public.users, is_asked_for boolean)
  returns boolean
  language sql
  stable
as $$
  select not u.is_deleted or (is_asked_for and app_hidden.has_permission('user.manage'))
$$;
comment on function app_hidden.is_listed(app_public.users, boolean) is
  'Is the person shown in lists? Deactivated people are shown only if a caller with the permission user.manage asks for them.';
grant execute on function app_hidden.is_listed(app_public.requests, boolean), app_hidden.is_listed(app_public.users, boolean)
  to assent_user, assent_manager, assent_admin;

drop policy if exists auditor_select on app_public.users;
create policy auditor_select on app_public.users for select to assent_auditor using (true);

grant select on app_public.users to assent_user, assent_manager, assent_admin, assent_auditor;

-- Notifications: people see only their own ----------------------------------------------------------------------------

do $$
declare
  v_role name;
begin
  foreach v_role in array array['assent_user', 'assent_manager', 'assent_admin'] loop
    execute format('drop policy if exists %I on app_public.notifications', replace(v_role, 'assent_', '') || '_select');
    execute format('create policy %I on app_public.notifications for select to %I
      using (recipient_id = (select app_hidden.current_user_id())
        and kind = any (array(select k.kind from app_public.notification_kinds k where k.is_shown)))',
      replace(v_role, 'assent_', '') || '_select', v_role);
  end loop;
end
$$;
drop policy if exists auditor_select on app_public.notifications;
create policy auditor_select on app_public.notifications for select to assent_auditor using (true);

grant select on app_public.notifications to assent_user, assent_manager, assent_admin, assent_auditor;
grant select on app_public.notification_preferences to assent_user, assent_manager, assent_admin;
grant select on app_public.undelivered_mails to assent_user, assent_manager, assent_admin;

-- Webhooks ---------------------------------------------------------------------------------------------------------

drop policy if exists admin_select on app_public.webhooks;
create policy admin_select on app_public.webhooks for select to assent_admin
  using ((select app_hidden.has_permission('webhook.manage')) and not is_deleted);
drop policy if exists auditor_select on app_public.webhooks;
create policy auditor_select on app_public.webhooks for select to assent_auditor using (true);
drop policy if exists admin_select on app_public.webhook_deliveries;
create policy admin_select on app_public.webhook_deliveries for select to assent_admin
  -- The policy above hides those of webhooks that were removed. OFFSET 0 makes it a look-up for each row of a page.
  using ((select app_hidden.has_permission('webhook.manage'))
    and exists (select from app_public.webhooks w where w.id = webhook_id offset 0));
drop policy if exists auditor_select on app_public.webhook_deliveries;
create policy auditor_select on app_public.webhook_deliveries for select to assent_auditor using (true);

grant select on app_public.webhooks, app_public.webhook_deliveries to assent_user, assent_manager, assent_admin;
-- Whoever reads evidence need not be able to sign, nor to send in our name: signing_key is left out, and so is the URL, whose
-- path can hold a secret. audit.webhooks shows its origin.
revoke select (url) on app_public.webhooks from assent_auditor;
grant select (id, events, is_enabled, failing_since, created_at, is_deleted) on app_public.webhooks to assent_auditor;
grant select on app_public.webhook_deliveries to assent_auditor;

-- These views show who can decide what.
grant select on app_hidden.deciders, app_hidden.request_deciders to assent_user, assent_manager, assent_admin, assent_auditor;
