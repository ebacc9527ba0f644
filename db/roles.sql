-- Cluster-wide roles. Run once per cluster by `npm run setup`, as a superuser; never by a migration, because roles
-- belong to the cluster and not to one database. Safe to run again: it also sets the logins' passwords anew.
--
-- The two logins are named by the connection strings; their names and passwords arrive as settings, so that neither
-- stands in this file: assent.owner, assent.owner_password, assent.authenticator, assent.authenticator_password.

do $$
declare
  v_role text;
  v_owner text := current_setting('assent.owner');
  v_authenticator text := current_setting('assent.authenticator');
begin
  -- What a request may be run as. Membership is not inheritance: no role here is a member of another, so that each
  -- meets its own row-level security policies and no others (see rules/visibility.sql).
  foreach v_role in array array['assent_anonymous', 'assent_user', 'assent_manager', 'assent_admin', 'assent_auditor'] loop
    if not exists (select from pg_roles where rolname = v_role) then
      execute format('create role %I nologin', v_role);
    end if;
  end loop;

  -- The owner of the database: migrations and jobs.
  if not exists (select from pg_roles where rolname = v_owner) then
    execute format('create role %I', v_owner);
  end if;
  execute format('alter role %I login nosuperuser nocreatedb nocreaterole noreplication nobypassrls password %L',
    v_owner, current_setting('assent.owner_password'));

  -- The API's login. It owns nothing and, by NOINHERIT, may do nothing until it has become one of the roles below.
  if not exists (select from pg_roles where rolname = v_authenticator) then
    execute format('create role %I', v_authenticator);
  end if;
  execute format('alter role %I login noinherit nosuperuser nocreatedb nocreaterole noreplication nobypassrls password %L',
    v_authenticator, current_setting('assent.authenticator_password'));
  execute format('grant assent_anonymous, assent_user, assent_manager, assent_admin to %I', v_authenticator);
end
$$;

comment on role assent_anonymous is 'A request without credentials: learns that it is nobody, and nothing else.';
comment on role assent_user is 'A request by somebody whose role is USER.';
comment on role assent_manager is 'A request by somebody whose role is MANAGER.';
comment on role assent_admin is 'A request by somebody whose role is ADMIN.';
comment on role assent_auditor is 'Reads everything that is evidence, writes nothing. For people: create role jane login in role assent_auditor.';
