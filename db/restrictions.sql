-- What PostgreSQL lets everybody do in a new database, and no login of ours may. `npm run setup` runs this in Assent's database,
-- as a superuser, who alone can: these functions belong to PostgreSQL. It can be run again.

do $$
declare
  v_function record;
  v_owner name := (select pg_get_userbyid(datdba) from pg_database where datname = current_database());
begin
  for v_function in
    select f.oid::regprocedure as signature, f.proname ~ '^pg_(try_)?advisory_' as is_lock, f.proargtypes
    from pg_proc f
    where f.pronamespace = 'pg_catalog'::regnamespace and (
      -- Whoever holds one of our advisory locks makes others wait. Functions of the owner take them on behalf of callers.
      f.proname ~ '^pg_(try_)?advisory_'
      -- Large objects fill the disk, and belong to whoever makes them.
      or f.proname ~ '^lo_' or f.proname in ('loread', 'lowrite')
      -- The connections of one login are shared by many people: nobody may end those of others.
      or f.proname in ('pg_terminate_backend', 'pg_cancel_backend')
      -- These two fill the log of transactions, and keep old rows from being cleared away.
      or f.proname in ('pg_logical_emit_message', 'pg_export_snapshot')
    )
  loop
    execute format('revoke execute on function %s from public', v_function.signature);
    if v_function.is_lock then
      execute format('grant execute on function %s to %I', v_function.signature, v_owner);
      -- Pools of workers show by locks with two keys that they live (server/jobs/rescue.ts). All other locks have one key.
      if cardinality(v_function.proargtypes::oid[]) = 2 then
        execute format('grant execute on function %s to assent_worker', v_function.signature);
      end if;
    end if;
  end loop;
end
$$;
