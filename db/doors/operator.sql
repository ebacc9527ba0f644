-- The queue of jobs, as operators and DBAs see it. graphile-worker owns its tables, and may change them in its next version;
-- therefore these are PL/pgSQL functions, which do not depend on the tables.

create or replace function app_private.failing_jobs()
  returns table (
    id bigint,
    task text,
    attempts integer,
    max_attempts integer,
    next_try timestamptz,
    error text,
    created_at timestamptz
  )
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  return query
  select j.id, j.task_identifier, j.attempts::integer, j.max_attempts::integer,
    case when j.attempts < j.max_attempts then j.run_at end, j.last_error, j.created_at
  from graphile_worker.jobs j
  where j.last_error is not null;
end
$$;
comment on function app_private.failing_jobs() is 'Jobs whose last attempt has failed.';
revoke execute on function app_private.failing_jobs() from public;

create or replace function app_hidden.count_jobs()
  returns table (task text, state text, count bigint)
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  return query
  select j.task_identifier, s.state, count(*)
  from (select * from graphile_worker.jobs limit 100000) j
  cross join lateral (
    select case
      when j.attempts >= j.max_attempts and j.locked_at is null then 'given up'
      when j.locked_at is not null then 'running'
      when j.attempts > 0 then 'failing'
      when j.run_at > now() then 'scheduled'
      else 'waiting'
    end as state
  ) s
  group by 1, 2
  union all
  select 'send_mail', 'refused', count(*) from app_public.notifications n where n.mail_state = 'FAILED';
end
$$;
comment on function app_hidden.count_jobs() is
  'How many jobs of each task are waiting, scheduled, running, failing (they will be tried again) or given up, counted up to '
  '100,000, and how many mails were refused for good. For /metrics.';
grant execute on function app_hidden.count_jobs() to :DATABASE_AUTHENTICATOR;

create or replace function app_hidden.queue_ages()
  returns table (task text, seconds double precision)
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  return query
  select t.identifier, extract(epoch from now() - min(j.run_at))::double precision
  -- The front of the queue, as workers read it, by the index that they use.
  from (
    select a.task_id, a.run_at from graphile_worker._private_jobs a
    where a.is_available order by a.priority, a.run_at limit 10000
  ) j
  join graphile_worker._private_tasks t on t.id = j.task_id
  where j.run_at <= now()
  group by 1;
end
$$;
comment on function app_hidden.queue_ages() is
  'For how many seconds the oldest job of each task is due that no worker has taken, among the first 10,000. For /metrics.';
grant execute on function app_hidden.queue_ages() to :DATABASE_AUTHENTICATOR;

create or replace function app_hidden.schema_version()
  returns text
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  return (select max(m.filename) from graphile_migrate.migrations m);
end
$$;
comment on function app_hidden.schema_version() is
  'The last committed migration that was run on this database, such as 000009.sql; null if there is none. Server and worker '
  'refuse to start unless it is the one they were built with.';
grant execute on function app_hidden.schema_version() to :DATABASE_AUTHENTICATOR;

create or replace function app_hidden.assert_ready(built_for text)
  returns void
  language plpgsql
  stable
  set search_path to pg_catalog, pg_temp
as $$
begin
  if current_setting('transaction_read_only')::boolean then
    raise exception using errcode = 'read_only_sql_transaction', message = 'This server takes no writes.';
  end if;
  if coalesce(app_hidden.schema_version(), '') < coalesce(built_for, '') then
    raise exception using errcode = 'object_not_in_prerequisite_state', message = 'The schema is older than the server.';
  end if;
end
$$;
comment on function app_hidden.assert_ready(text) is
  'For /readyz: fails on a server that takes no writes, where nobody could log in, and on a schema that is older than the '
  'migration which the API was built for. A newer one is fine, because servers of the version before serve on while an upgrade '
  'is under way.';
grant execute on function app_hidden.assert_ready(text) to :DATABASE_AUTHENTICATOR;
