-- How input that breaks a rule is told to the caller. The rules themselves are constraints, where the tables are.

create or replace function app_private.raise_violation(violated_constraint text, violated_column text)
  returns void
  language plpgsql
  stable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_message text;
  v_column text := violated_column;
begin
  if violated_constraint <> '' then
    select obj_description(c.oid, 'pg_constraint'), a.attname into v_message, v_column
    from pg_constraint c
    join pg_attribute a on a.attrelid = c.conrelid and a.attnum = any (c.conkey)
    where c.conname = violated_constraint
      and c.connamespace in ('app_public'::regnamespace, 'app_private'::regnamespace)
    order by a.attnum desc -- The column that was written; what it is compared with stands before it in the table.
    limit 1;
  end if;
  raise exception using errcode = 'RQ422',
    message = coalesce(v_message, format('The %s must not be null.', replace(violated_column, '_', ' '))), column = coalesce(v_column, '');
end
$$;
comment on function app_private.raise_violation(text, text) is
  'Tells a caller what a violated constraint says of itself by its comment. Raises RQ422, with the column.';

create or replace function app_private.check_types(changes jsonb, of_table regclass)
  returns void
  language plpgsql
  stable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_column text;
  v_type text;
begin
  select e.key, case a.atttypid when 'uuid'::regtype then 'a UUID' when 'boolean'::regtype then 'true or false' else 'a string' end
  into v_column, v_type
  from jsonb_each(changes) e
  join pg_attribute a on a.attrelid = of_table and a.attname = e.key
  where jsonb_typeof(e.value) not in ('null', case a.atttypid when 'boolean'::regtype then 'boolean' else 'string' end)
    or (a.atttypid = 'uuid'::regtype and e.value #>> '{}' !~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')
  order by a.attnum
  limit 1;
  if found then
    raise exception using errcode = 'RQ422', message = format('This must be %s.', v_type), column = v_column;
  end if;
end
$$;
comment on function app_private.check_types(jsonb, regclass) is
  'Is each change of the type of its column? PostgreSQL itself would take a number for a text. Raises RQ422, with the column.';

create or replace function app_private.refuse_weakness(weakness text, field text)
  returns void
  language plpgsql
  immutable
  set search_path to pg_catalog, pg_temp
as $$
begin
  if weakness is not null then
    raise exception using errcode = 'RQ422', message = weakness, column = field;
  end if;
end
$$;
comment on function app_private.refuse_weakness(text, text) is
  'Raises RQ422 with what the server, which alone sees a password, finds wrong with it; nothing for null.';
