-- How invalid input is reported. The rules themselves are constraints, next to their tables; the comment on a constraint is the
-- message that callers get when they violate it. A form wants to show every fault at once, but PostgreSQL stops at the first:
-- therefore violations() checks a row again after PostgreSQL has refused it, and only then.

create or replace function app_private.violations(of_table regclass, refused jsonb)
  returns jsonb
  language plpgsql
  stable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_rule record;
  v_holds boolean;
  v_faults jsonb := '[]';
begin
  for v_rule in
    select a.attname as field, format('A value for %s is required.', replace(a.attname, '_', ' ')) as message,
      'false' as condition, a.attnum as place
    from pg_attribute a
    where a.attrelid = of_table and a.attnum > 0 and not a.attisdropped and a.attnotnull
      and coalesce(refused -> a.attname::text, case when not a.atthasdef then jsonb 'null' end) = jsonb 'null'
    union all
    -- A constraint on several columns is reported for the last of them: what that is compared with comes before it in the table.
    select a.attname, obj_description(c.oid, 'pg_constraint'),
      case c.contype
        when 'c' then pg_get_expr(c.conbin, c.conrelid)
        else format('r.%1$I is null or exists (select from %2$s f where f.%3$I = r.%1$I)',
          a.attname, c.confrelid::regclass, f.attname)
      end,
      a.attnum
    from pg_constraint c
    join pg_attribute a on a.attrelid = c.conrelid and a.attnum = (select max(k) from unnest(c.conkey) k)
    left join pg_attribute f on f.attrelid = c.confrelid and f.attnum = c.confkey[1]
    where c.conrelid = of_table and c.contype in ('c', 'f') and obj_description(c.oid, 'pg_constraint') !~ '^@'
    order by place
  loop
    execute format('select %s from jsonb_populate_record(null::%s, $1) r', v_rule.condition, of_table) into v_holds using refused;
    if not v_holds then
      v_faults := v_faults || jsonb_build_object('field', v_rule.field, 'message', v_rule.message);
    end if;
  end loop;
  return v_faults;
end
$$;
comment on function app_private.violations(regclass, jsonb) is
  'Every NOT NULL, CHECK and foreign key of the table that a row, as far as it is given, violates, as [{"field": …, '
  '"message": …}], where the message is the comment on the constraint. Call it when PostgreSQL has refused the row, because '
  'PostgreSQL stops at the first violation.';

create or replace function app_private.raise_faults(faults jsonb)
  returns void
  language plpgsql
  immutable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_faults jsonb;
begin
  -- Each field reports one fault: the first.
  select jsonb_agg(f.fault order by f.place) into v_faults
  from (
    select distinct on (e.fault ->> 'field') e.fault, e.place
    from jsonb_array_elements(faults) with ordinality e (fault, place)
    order by e.fault ->> 'field', e.place
  ) f;
  raise exception using errcode = 'RQ422',
    column = coalesce(v_faults #>> '{0,field}', ''),
    message = coalesce(v_faults #>> '{0,message}', 'The change breaks a rule of the database.'),
    detail = coalesce(v_faults, '[]')::text;
end
$$;
comment on function app_private.raise_faults(jsonb) is
  'Raises RQ422 for faults that violations() and type_faults() have found. MESSAGE is that of the first, COLUMN its field, '
  'and DETAIL holds all of them as JSON.';

create or replace function app_private.raise_refusal(faults jsonb, state text, field text, message text)
  returns void
  language sql
  immutable
as $$
  select app_private.raise_faults(faults
    || case when state = 'RQ422' then jsonb_build_object('field', field, 'message', message) else '[]' end)
$$;
comment on function app_private.raise_refusal(jsonb, text, text, text) is
  'Raises RQ422 for a row that has been refused, with this SQLSTATE, COLUMN and MESSAGE: for what violations() has found in it, '
  'and for what a trigger has found, if it was a trigger that refused it.';

create or replace function app_private.type_faults(changes jsonb, of_table regclass)
  returns jsonb
  language plpgsql
  stable
  set search_path to pg_catalog, pg_temp
as $$
begin
  return (
    select coalesce(jsonb_agg(jsonb_build_object('field', e.key, 'message', format('This must be %s.',
      case a.atttypid when 'uuid'::regtype then 'a UUID' when 'boolean'::regtype then 'true or false'
        when 'jsonb'::regtype then 'an object' else 'a string' end))
      order by a.attnum), '[]')
    from jsonb_each(changes) e
    join pg_attribute a on a.attrelid = of_table and a.attname = e.key
    where jsonb_typeof(e.value) not in ('null', case a.atttypid
        when 'boolean'::regtype then 'boolean' when 'jsonb'::regtype then 'object' else 'string' end)
      or (a.atttypid = 'uuid'::regtype and e.value #>> '{}' !~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')
  );
end
$$;
comment on function app_private.type_faults(jsonb, regclass) is
  'The changes that do not have the type of their column, as faults. PostgreSQL itself would accept a number as text.';

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
  'Raises RQ422 with the fault that the server has found in a new password, if it has found one. Only the server sees a '
  'password, and only SQL knows whether everything that is checked before it is in order; therefore the server finds the '
  'fault and SQL raises it.';
