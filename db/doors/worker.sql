-- The worker's door: what the jobs call, and the queue. The functions run as the owner, so that the worker's login reads and
-- writes nothing by itself: no credentials, no sessions, no trail.

grant usage on schema app_hidden, app_private to assent_worker;
grant execute on function
  app_hidden.schema_version(),
  app_private.dispatch(uuid),
  app_private.begin_password_reset(text, text),
  app_private.remind(),
  app_private.make_digests(date),
  app_private.clear_batch(),
  app_private.extend_trail(),
  app_private.sweep_files(),
  app_private.lock_outbox(uuid),
  app_private.unlock_outbox(uuid),
  app_private.mail_to_send(uuid, text),
  app_private.mail_sent(uuid, uuid[]),
  app_private.mail_failed(uuid, text, boolean),
  app_private.delivery_to_send(uuid),
  app_private.delivery_sent(uuid, integer),
  app_private.delivery_failed(uuid, integer, text, boolean)
  to assent_worker;

-- graphile-worker takes jobs and records their ends by statements of its own. `npm run migrate` brings its schema up to date, as
-- the owner; after that, all files of rules are applied again (server/setup/migrate.ts), and so its new tables are granted too.
grant usage on schema graphile_worker to assent_worker;
grant execute on all functions in schema graphile_worker to assent_worker;
grant usage on all sequences in schema graphile_worker to assent_worker;
grant select on all tables in schema graphile_worker to assent_worker;

do $$
declare
  v_table regclass;
begin
  for v_table in
    select c.oid from pg_class c
    where c.relnamespace = 'graphile_worker'::regnamespace and c.relkind in ('r', 'p') and c.relname <> 'migrations'
  loop
    execute format('grant insert, update, delete on %s to assent_worker', v_table);
    -- It is made once, because replacing it would stop the queue for a moment.
    if not exists (select from pg_policy p where p.polrelid = v_table and p.polname = 'worker_all') then
      execute format('create policy worker_all on %s to assent_worker using (true) with check (true)', v_table);
    end if;
  end loop;
  if not exists (
    select from pg_policy p where p.polrelid = 'graphile_worker.migrations'::regclass and p.polname = 'worker_select'
  ) then
    create policy worker_select on graphile_worker.migrations for select to assent_worker using (true);
  end if;
end
$$;
