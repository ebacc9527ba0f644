-- Who sees which rows: row-level security on every table, and the grants that open it. Nobody but the owner's
-- functions writes, so that no role has any grant to insert, update or delete.
--
-- One policy for each database role: the planner then gets a plain condition that an index can serve, where one policy
-- for all would hide it behind an OR. The caller's identity stands in a sub-select, so that it runs once a statement.
-- In each, the identity also proves the role (caller.sql): who merely sets a role sees nothing.

do $$
declare
  v_table regclass;
begin
  for v_table in
    select c.oid from pg_class c
    where c.relkind in ('r', 'p') and c.relnamespace in ('app_public'::regnamespace, 'app_private'::regnamespace)
  loop
    execute format('alter table %s enable row level security', v_table);
    -- FORCE binds the owner too, and so the functions that run as the owner; they need a policy to do their work.
    execute format('alter table %s force row level security', v_table);
    execute format('drop policy if exists owner_all on %s', v_table);
    execute format('create policy owner_all on %s to %I using (true) with check (true)', v_table, current_user);
  end loop;
end
$$;
-- But for requests, which owner_all lets the owner see anyhow: forced, the planner would not look at the statistics of what
-- is searched for (db/rules/search.sql), because the operator for it is not leakproof.
alter table app_public.requests no force row level security;

-- Reference tables: the rules are no secret ------------------------------------------------------------------------

do $$
declare
  v_table text;
begin
  foreach v_table in array array[
    'roles', 'role_permissions', 'request_statuses', 'request_parties', 'request_transitions', 'audit_actions',
    'notification_kinds', 'webhook_events'
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

drop policy if exists user_select on app_public.requests;
create policy user_select on app_public.requests for select to assent_user
  using (creator_id = (select app_hidden.current_user_id()) and not is_deleted);

drop policy if exists manager_select on app_public.requests;
create policy manager_select on app_public.requests for select to assent_manager
  using (
    not is_deleted
    and (creator_id = (select app_hidden.current_user_id())
      or (status <> 'DRAFT' and (select app_hidden.has_permission('request.read'))))
  );

drop policy if exists admin_select on app_public.requests;
create policy admin_select on app_public.requests for select to assent_admin
  using ((select app_hidden.has_permission('request.read_all')));

drop policy if exists auditor_select on app_public.requests;
create policy auditor_select on app_public.requests for select to assent_auditor using (true);

grant select on app_public.requests to assent_user, assent_manager, assent_admin, assent_auditor;

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
    -- "Of requests they can see": the policy on requests decides, once more as the caller. OFFSET 0 keeps it a look-up
    -- by primary key for each entry; without it the planner hashes all requests there are for a page of 20 entries.
    or exists (select from app_public.requests r where r.id = request_id offset 0)
  );

drop policy if exists admin_select on app_public.audit_logs;
create policy admin_select on app_public.audit_logs for select to assent_admin
  using ((select app_hidden.has_permission('audit.read_all')));

drop policy if exists auditor_select on app_public.audit_logs;
create policy auditor_select on app_public.audit_logs for select to assent_auditor using (true);

grant select on app_public.audit_logs to assent_user, assent_manager, assent_admin, assent_auditor;

-- People -----------------------------------------------------------------------------------------------------------

create or replace function app_hidden.people_on_my_requests()
  returns uuid[]
  language sql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  -- Each is looked up as the next after the one before (a loose index scan): it costs as much as there are people, and not
  -- as there are requests.
  with recursive me as materialized (
    select app_hidden.current_user_id() as id
  ),
  assignees as (
    (select r.assigned_to_id as id from me, app_public.requests r
      where r.creator_id = me.id and not r.is_deleted order by r.assigned_to_id limit 1)
    union all
    select (select r.assigned_to_id from app_public.requests r
      where r.creator_id = me.id and not r.is_deleted and r.assigned_to_id > last.id order by r.assigned_to_id limit 1)
    from me, assignees last where last.id is not null
  ),
  actors as (
    (select l.actor_id as id from me, app_public.audit_logs l where l.request_creator_id = me.id order by l.actor_id limit 1)
    union all
    select (select l.actor_id from app_public.audit_logs l
      where l.request_creator_id = me.id and l.actor_id > last.id order by l.actor_id limit 1)
    from me, actors last where last.id is not null
  )
  select array(select a.id from assignees a where a.id is not null union select a.id from actors a where a.id is not null)
$$;
comment on function app_hidden.people_on_my_requests() is
  'Whoever was assigned, or did anything to, a request of the caller: deciders too, by their audit entry.';
grant execute on function app_hidden.people_on_my_requests() to assent_user;

-- An array in a sub-select, not a join: it is computed once, and = any (array) reaches the primary key.
drop policy if exists user_select on app_public.users;
create policy user_select on app_public.users for select to assent_user
  using (
    id = (select app_hidden.current_user_id())
    or ((select app_hidden.current_user_id()) is not null and id = any (array(select d.user_id from app_hidden.deciders d)))
    or id = any ((select app_hidden.people_on_my_requests())::uuid[])
  );

drop policy if exists manager_select on app_public.users;
create policy manager_select on app_public.users for select to assent_manager
  using (
    (select app_hidden.has_permission('request.read'))
    and (not is_deleted
      -- Deactivated people stay visible on what they did, as far as the caller can see it. OFFSET 0: as above.
      or exists (select from app_public.requests r where r.creator_id = users.id offset 0)
      or exists (select from app_public.requests r where r.assigned_to_id = users.id offset 0)
      or exists (select from app_public.audit_logs a where a.actor_id = users.id offset 0))
  );

drop policy if exists admin_select on app_public.users;
create policy admin_select on app_public.users for select to assent_admin
  using ((select app_hidden.has_permission('user.manage')));

drop policy if exists auditor_select on app_public.users;
create policy auditor_select on app_public.users for select to assent_auditor using (true);

grant select on app_public.users to assent_user, assent_manager, assent_admin, assent_auditor;

-- Notifications: one's own, whoever one is ----------------------------------------------------------------------------

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
  using ((select app_hidden.has_permission('webhook.manage')));
drop policy if exists auditor_select on app_public.webhooks;
create policy auditor_select on app_public.webhooks for select to assent_auditor using (true);
drop policy if exists admin_select on app_public.webhook_deliveries;
create policy admin_select on app_public.webhook_deliveries for select to assent_admin
  using ((select app_hidden.has_permission('webhook.manage')));
drop policy if exists auditor_select on app_public.webhook_deliveries;
create policy auditor_select on app_public.webhook_deliveries for select to assent_auditor using (true);

grant select on app_public.webhooks, app_public.webhook_deliveries to assent_user, assent_manager, assent_admin;
-- Who reads evidence need not be able to sign.
grant select (id, url, events, is_enabled, failing_since, created_at) on app_public.webhooks to assent_auditor;
grant select on app_public.webhook_deliveries to assent_auditor;

-- Derived from the above, as the caller.
grant select on app_hidden.deciders, app_hidden.request_deciders to assent_user, assent_manager, assent_admin, assent_auditor;
