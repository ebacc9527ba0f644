-- Cluster-wide roles. `npm run setup` runs this once per cluster, as a superuser; no migration does, because roles belong to
-- the cluster and not to one database. It can be run again, and then also sets the passwords of the logins again.
--
-- The connection strings name the two logins. Their names and passwords are passed as settings, so that this file contains
-- neither: assent.owner, assent.owner_password, assent.authenticator, assent.authenticator_password.

do $$
declare
  v_role text;
  v_owner text := current_setting('assent.owner');
  v_authenticator text := current_setting('assent.authenticator');
begin
  -- A request runs as one of these. None is a member of another, so that only its own row-level security policies apply to it
  -- (see rules/visibility.sql).
  foreach v_role in array array['assent_anonymous', 'assent_user', 'assent_manager', 'assent_admin', 'assent_auditor'] loop
    if not exists (select from pg_roles where rolname = v_role) then
      execute format('create role %I nologin', v_role);
    end if;
  end loop;

  -- The owner of the database runs migrations and jobs.
  if not exists (select from pg_roles where rolname = v_owner) then
    execute format('create role %I', v_owner);
  end if;
  execute format('alter role %I login nosuperuser nocreatedb nocreaterole noreplication nobypassrls password %L',
    v_owner, current_setting('assent.owner_password'));

  -- The API's login owns nothing and, because of NOINHERIT, may do nothing until it becomes one of the roles below.
  if not exists (select from pg_roles where rolname = v_authenticator) then
    execute format('create role %I', v_authenticator);
  end if;
  execute format('alter role %I login noinherit nosuperuser nocreatedb nocreaterole noreplication nobypassrls password %L',
    v_authenticator, current_setting('assent.authenticator_password'));
  execute format('grant assent_anonymous, assent_user, assent_manager, assent_admin to %I', v_authenticator);
end
$$;

comment on role assent_anonymous is 'Requests without credentials, which see no data.';
comment on role assent_user is 'Requests of people whose role is USER.';
comment on role assent_manager is 'Requests of people whose role is MANAGER.';
comment on role assent_admin is 'Requests of people whose role is ADMIN.';
comment on role assent_auditor is
  'Reads everything that is evidence, and writes nothing. To let Jane audit: create role jane login in role assent_auditor.';
