-- Enter migration here

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
  'The last committed migration that this database has had, such as 000009.sql; null: none. Server and worker refuse to start on another than the one they were built with.';
grant execute on function app_hidden.schema_version() to :DATABASE_AUTHENTICATOR;
