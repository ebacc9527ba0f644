-- Cluster-wide roles. `npm run setup` runs this once per cluster, as a superuser; no migration does, because roles belong to
-- the cluster and not to one database. It can be run again, and then also sets the passwords of the logins again.
--
-- The connection strings name the three logins. Their names and passwords are passed as settings, so that this file contains
-- neither: assent.owner, assent.owner_password, assent.authenticator, assent.authenticator_password, assent.worker,
-- assent.worker_password. docs/dba.md lists what each login may do.

do $$
declare
  v_role text;
  v_owner text := current_setting('assent.owner');
  v_authenticator text := current_setting('assent.authenticator');
  v_worker text := current_setting('assent.worker');
begin
  -- A request runs as one of the first four. None is a member of another, so that only its own row-level security policies apply
  -- to it (see rules/visibility.sql).
  foreach v_role in array array['assent_anonymous', 'assent_user', 'assent_manager', 'assent_admin', 'assent_auditor',
    'assent_worker']
  loop
    if not exists (select from pg_roles where rolname = v_role) then
      execute format('create role %I nologin', v_role);
    end if;
  end loop;

  -- The owner of the database runs migrations.
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
  -- Whoever has stolen a login must not take the connections of all others. Of these 32, 3 are PostgreSQL's reserve, a worker
  -- opens 25, and 4 are left for the owner and auditors. Of PostgreSQL's default of 100, this leaves three servers the 21 each
  -- that they open (server/server.ts).
  execute format('alter role %I connection limit %s', v_authenticator,
    greatest(21, current_setting('max_connections')::integer - 32));
  -- These hold for connections that do not say otherwise, as the API's do (server/sql/pool.ts).
  execute format('alter role %I set statement_timeout = ''10s''', v_authenticator);
  execute format('alter role %I set lock_timeout = ''5s''', v_authenticator);
  execute format('alter role %I set idle_in_transaction_session_timeout = ''15s''', v_authenticator);
  -- A refused statement of a caller must not fill the log with its text: a stranger's document makes ten of them.
  execute format('alter role %I set log_min_error_statement = panic', v_authenticator);

  -- The worker's login has what assent_worker has, which is what its jobs need (see doors/worker.sql).
  if not exists (select from pg_roles where rolname = v_worker) then
    execute format('create role %I', v_worker);
  end if;
  execute format('alter role %I login nosuperuser nocreatedb nocreaterole noreplication nobypassrls password %L',
    v_worker, current_setting('assent.worker_password'));
  if v_worker <> 'assent_worker' then
    execute format('grant assent_worker to %I', v_worker);
  end if;
  execute format('alter role %I connection limit %s', v_worker,
    greatest(25, current_setting('max_connections')::integer / 4));

  -- The embedded database lets this one log in; elsewhere people do as members of it, with limits of their own.
  alter role assent_auditor connection limit 4;
end
$$;

comment on role assent_anonymous is 'Requests without credentials, which see no data.';
comment on role assent_user is 'Requests of people whose role is USER.';
comment on role assent_manager is 'Requests of people whose role is MANAGER.';
comment on role assent_admin is 'Requests of people whose role is ADMIN.';
comment on role assent_worker is 'Jobs: mails, webhooks, and what is scheduled.';
comment on role assent_auditor is
  'Reads everything that is evidence, and writes nothing. To let Jane audit: create role jane login connection limit 4 in '
  'role assent_auditor.';
