-- The schema as text: one row for each object, in an order that depends on names alone, so that two databases can be compared
-- and a reviewer sees changes in db/schema.sql. It is meant for reading: it is SQL, but not in an order that would run.
--
-- The text is the same on PostgreSQL 15 to 18. Therefore it omits what only some of them have: constraints for NOT NULL (18; the
-- column shows it) and the privilege MAINTAIN (17; lint.sql refuses any privilege but SELECT).

-- With this setting every name outside pg_catalog is written with its schema.
set search_path to pg_catalog;

-- Writes invisible characters as U&'' escapes.
create or replace function pg_temp.visible(text) returns text language sql immutable as $$
  select case when $1 !~ p then $1 else (
    select string_agg(case when c ~ p then '\' || lpad(upper(to_hex(ascii(c))), 4, '0') else c end, '' order by n)
    from regexp_split_to_table(regexp_replace($1, format($r$'([^'\n]*%s[^'\n]*)'$r$, p), $r$U&'\1'$r$, 'g'), '')
      with ordinality s (c, n)
  ) end
  from (values ('[\u0001-\u0009\u000B-\u001F\u007F-\u00A0\u00AD\u1680\u2000-\u200F'
    '\u2028-\u202F\u205F-\u2064\u3000\uFEFF\uFFFE\uFFFF]')) v (p)
$$;

-- What everybody but the owner may do with an object, including PostgreSQL's defaults, and what the owner may not.
create or replace function pg_temp.grants(kind "char", object text, owner oid, acl aclitem[])
  returns text language sql stable as $$
  with granted as (
    select grantee, privilege_type, is_grantable
    from aclexplode(coalesce(acl, acldefault(kind, owner))) where privilege_type <> 'MAINTAIN'
  ), lines as (
    select format('grant %s on %s to %s%s;', privileges, object, string_agg(who, ', ' order by who collate "C"),
      case when is_grantable then ' with grant option' end) line
    from (
      select case grantee when 0 then 'public' else grantee::regrole::text end who, is_grantable,
        lower(string_agg(privilege_type, ', ' order by privilege_type collate "C")) privileges
      from granted where grantee <> owner group by grantee, is_grantable
    ) g group by privileges, is_grantable
    union all
    select format('revoke %s on %s from %s;',
      lower(string_agg(privilege_type, ', ' order by privilege_type collate "C")), object, owner::regrole)
    from aclexplode(acldefault(kind, owner))
    where grantee = owner and privilege_type <> 'MAINTAIN'
      and privilege_type not in (select g.privilege_type from granted g where g.grantee = owner)
    having count(*) > 0
  )
  select string_agg(line, E'\n' order by line collate "C") from lines
$$;

create or replace function pg_temp.comment(kind text, object text, description text) returns text language sql immutable as $$
  select format('comment on %s %s is %L;', kind, object, description) where description is not null
$$;

-- The query of a view. Before version 16, PostgreSQL names the table of every column, even if there is only one.
-- (If a view selects from one table and a sub-select, write it as a join: versions differ in what they name there.)
create or replace function pg_temp.query(view oid) returns text language sql stable as $$
  select case
    when current_setting('server_version_num')::integer >= 160000 or definition ~ '\mJOIN\M|SELECT.*SELECT|FROM [^\n]*,\n'
    then definition
    else regexp_replace(definition, '\m' || substring(definition from '\n   FROM (?:\S+\.|\S+ )?(\w+)') || '\.', '', 'g')
  end
  from pg_get_viewdef(view, true) definition
$$;

-- The rows of a table, each as a statement.
create or replace function pg_temp.inserts(of_table regclass) returns setof text language plpgsql stable as $$
declare
  v_values text;
begin
  select string_agg(format('quote_nullable(%I)', attname), ', ' order by attnum) into v_values
  from pg_attribute where attrelid = of_table and attnum > 0 and not attisdropped;
  return query execute format('select format(%L, concat_ws('', '', %s)) from %s',
    format('insert into %s values (%%s);', of_table), v_values, of_table);
end
$$;

with schemas as (
  select oid, nspname, nspowner, nspacl from pg_namespace where nspname in ('app_public', 'app_hidden', 'app_private', 'audit')
),
from_extensions as (
  select classid, objid from pg_depend where deptype = 'e'
),
relations as (
  select c.oid::regclass::text as name, c.*, obj_description(c.oid, 'pg_class') as description
  from pg_class c where relnamespace in (select oid from schemas)
    and ('pg_class'::regclass, c.oid) not in (select classid, objid from from_extensions)
    -- Which partitions there are depends on the date; lint.sql holds each of them against its table.
    and not relispartition
),
columns as (
  select a.*, format_type(atttypid, atttypmod) as type, pg_get_expr(adbin, adrelid) as expression
  from pg_attribute a left join pg_attrdef on adrelid = attrelid and adnum = attnum
  where attnum > 0 and not attisdropped
),
routines as (
  select p.oid::regprocedure::text as name, p.* from pg_proc p where pronamespace in (select oid from schemas)
    and ('pg_proc'::regclass, p.oid) not in (select classid, objid from from_extensions)
),
objects (kind, name, lines) as (
  select '1 role', rolname::text, array[
      format('create role %I %s %s%s%s%s%s%s;', rolname,
        case when rolcanlogin then 'login' else 'nologin' end, case when rolinherit then 'inherit' else 'noinherit' end,
        case when rolsuper then ' superuser' end, case when rolcreaterole then ' createrole' end,
        case when rolcreatedb then ' createdb' end,
        case when rolreplication then ' replication' end, case when rolbypassrls then ' bypassrls' end),
      (select string_agg(format('alter role %I set %s;', rolname, s), E'\n' order by s collate "C") from unnest(rolconfig) s),
      (select string_agg(format('grant %s to %I%s;', roleid::regrole, rolname,
          case when admin_option then ' with admin option' end),
          E'\n' order by roleid::regrole::text collate "C")
        from pg_auth_members where member = r.oid),
      pg_temp.comment('role', quote_ident(rolname), shobj_description(oid, 'pg_authid'))]
  from pg_roles r where rolname like 'assent\_%'
  union all
  -- The database is called assent here whatever its name is: those of tests have random names.
  select '2 database', 'assent', array[pg_temp.grants('d', 'database assent', datdba, datacl)]
  from pg_database where datname = current_database()
  union all
  select '3 schema', nspname, array[
      format('create schema %I;', nspname),
      pg_temp.comment('schema', quote_ident(nspname), obj_description(oid, 'pg_namespace')),
      pg_temp.grants('n', format('schema %I', nspname), nspowner, nspacl)]
  from schemas
  union all
  select '3 schema', nspname, array[pg_temp.grants('n', 'schema public', nspowner, nspacl)]
  from pg_namespace where nspname = 'public'
  union all
  select '4 extension', extname, array[format('create extension %I with schema %I;', extname, nspname)]
  from pg_extension join schemas on schemas.oid = extnamespace
  union all
  select '5 type', t.oid::regtype::text, array[
      case typtype when 'e' then format('create type %s as enum (%s);', t.oid::regtype,
          (select string_agg(quote_literal(enumlabel), ', ' order by enumsortorder) from pg_enum where enumtypid = t.oid))
        when 'd' then format('create domain %s as %s%s;', t.oid::regtype, format_type(typbasetype, typtypmod),
          (select string_agg(format(' constraint %I %s', conname, pg_get_constraintdef(oid)), '' order by conname)
            from pg_constraint where contypid = t.oid and contype = 'c'))
        else format('create type %s as (%s);', t.oid::regtype,
          (select string_agg(format('%I %s', attname, type), ', ' order by attnum) from columns where attrelid = typrelid)) end,
      pg_temp.comment('type', t.oid::regtype::text, obj_description(t.oid, 'pg_type')),
      pg_temp.grants('T', format('type %s', t.oid::regtype), typowner, typacl)]
  from pg_type t left join pg_class c on c.oid = typrelid
  where typnamespace in (select oid from schemas) and (typtype in ('e', 'd') or c.relkind = 'c')
  union all
  select '6 table', r.name, array[
      format(E'create table %s (\n%s\n)%s;', r.name, (
        select string_agg('  ' || line, E',\n' order by part, place, line collate "C") from (
          select 1 as part, attnum as place, concat_ws(' ', quote_ident(attname), type,
            case when attcollation <> (select typcollation from pg_type where oid = atttypid)
              then 'collate ' || attcollation::regcollation end,
            case when attidentity = 'a' then 'generated always as identity'
              when attidentity = 'd' then 'generated by default as identity'
              when attgenerated = 's' then format('generated always as (%s) stored', expression)
              when attgenerated = 'v' then format('generated always as (%s)', expression) else 'default ' || expression end,
            case when attnotnull then 'not null' end) as line
          from columns where attrelid = r.oid
          union all
          select 2, case contype when 'p' then 1 when 'u' then 2 when 'x' then 3 when 'f' then 4 else 5 end,
            format('constraint %I %s', conname, pg_get_constraintdef(oid, true))
          from pg_constraint where conrelid = r.oid and contype in ('p', 'u', 'x', 'f', 'c')
        ) l),
        coalesce(' partition by ' || pg_get_partkeydef(r.oid), '')
        || coalesce(' with (' || array_to_string(r.reloptions, ', ') || ')', '')),
      case when r.relpersistence = 'u' then format('alter table %s set unlogged;', r.name) end,
      pg_temp.comment('table', r.name, r.description),
      (select string_agg(pg_temp.comment('column', format('%s.%I', r.name, attname), col_description(r.oid, attnum)),
          E'\n' order by attnum)
        from columns where attrelid = r.oid),
      (select string_agg(
          pg_temp.comment('constraint', format('%I on %s', conname, r.name), obj_description(oid, 'pg_constraint')),
          E'\n' order by conname)
        from pg_constraint where conrelid = r.oid),
      (select string_agg(pg_get_indexdef(indexrelid) || ';' || case when indisvalid then '' else ' -- not valid' end,
          E'\n' order by indexrelid::regclass::text collate "C")
        from pg_index where indrelid = r.oid
          and not exists (select from pg_constraint where conindid = indexrelid and contype in ('p', 'u', 'x'))),
      (select string_agg(pg_get_triggerdef(oid) || ';' || case tgenabled when 'O' then ''
          else format(E'\nalter table %s %s trigger %I;', r.name,
            case tgenabled when 'A' then 'enable always' when 'R' then 'enable replica' else 'disable' end, tgname) end,
          E'\n' order by tgname)
        from pg_trigger where tgrelid = r.oid and not tgisinternal),
      case when r.relrowsecurity then format('alter table %s enable row level security;', r.name) end,
      case when r.relforcerowsecurity then format('alter table %s force row level security;', r.name) end,
      (select string_agg(format('create policy %I on %s%s for %s to %s%s%s;', polname, r.name,
          case when not polpermissive then ' as restrictive' end,
          case polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
          (select string_agg(case role when 0 then 'public' else role::regrole::text end, ', '
              order by role::regrole::text collate "C") from unnest(polroles) role),
          E'\n  using (' || pg_get_expr(polqual, polrelid, true) || ')',
          E'\n  with check (' || pg_get_expr(polwithcheck, polrelid, true) || ')'),
          E'\n' order by polname)
        from pg_policy where polrelid = r.oid),
      pg_temp.grants('r', 'table ' || r.name, r.relowner, r.relacl),
      (select string_agg(
          replace(pg_temp.grants('c', format('(%I) on table %s', attname, r.name), r.relowner, attacl), ' on (', ' ('),
          E'\n' order by attnum)
        from columns where attrelid = r.oid and attacl is not null)]
  from relations r where relkind in ('r', 'p')
  union all
  select '7 view', r.name, array[
      format(E'create %sview %s%s as\n%s', case relkind when 'm' then 'materialized ' end, r.name,
        ' with (' || array_to_string(reloptions, ', ') || ')', pg_temp.query(r.oid)),
      pg_temp.comment(case relkind when 'm' then 'materialized view' else 'view' end, r.name, description),
      (select string_agg(pg_temp.comment('column', format('%s.%I', r.name, attname), col_description(r.oid, attnum)),
          E'\n' order by attnum)
        from columns where attrelid = r.oid),
      (select string_agg(pg_get_indexdef(indexrelid) || ';', E'\n' order by indexrelid::regclass::text collate "C")
        from pg_index where indrelid = r.oid),
      (select string_agg(pg_get_triggerdef(oid) || ';', E'\n' order by tgname)
        from pg_trigger where tgrelid = r.oid and not tgisinternal),
      pg_temp.grants('r', 'table ' || r.name, r.relowner, r.relacl)]
  from relations r where relkind in ('v', 'm')
  union all
  select '8 function', name, array[
      rtrim(pg_get_functiondef(oid), E'\n') || ';',
      pg_temp.comment('routine', name, obj_description(oid, 'pg_proc')),
      pg_temp.grants('f', 'routine ' || name, proowner, proacl)]
  from routines where prokind in ('f', 'p')
  union all
  select '9 default privileges', concat_ws('.', defaclrole::regrole, defaclnamespace::regnamespace, kinds), array[(
      select string_agg(format('alter default privileges for role %s%s %s %s on %s %s %s;', defaclrole::regrole,
          case when defaclnamespace <> 0 then format(' in schema %s', defaclnamespace::regnamespace) end,
          verb, lower(privilege_type), kinds, preposition, case grantee when 0 then 'public' else grantee::regrole::text end),
          E'\n' order by verb, privilege_type collate "C", grantee::regrole::text collate "C")
      from (
        (select 'grant' as verb, 'to' as preposition, grantee, privilege_type from aclexplode(defaclacl)
          except select 'grant', 'to', grantee, privilege_type from aclexplode(standard))
        union all
        (select 'revoke', 'from', grantee, privilege_type from aclexplode(standard)
          except select 'revoke', 'from', grantee, privilege_type from aclexplode(defaclacl))
      ) changed)]
  from (select *,
      case defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions' when 'T' then 'types'
        else 'schemas' end as kinds,
      case when defaclnamespace = 0
        then acldefault(case defaclobjtype when 'S' then 's' else defaclobjtype end, defaclrole) end as standard
    from pg_default_acl) d
  union all
  -- The rows of tables that everybody may read whole, because those rows are part of the program.
  select 'A rows', polrelid::regclass::text, array[(
      select string_agg(i, E'\n' order by i collate "C") from pg_temp.inserts(polrelid) i)]
  from pg_policy where polname = 'everybody_select'
  union all
  -- Objects of any other kind, so that none is overlooked because the above does not know its kind.
  select 'B other', identity, array[format('-- %s %s is of a kind that db/checks/dump.sql does not show.', type, identity)]
  from (
    select classid, objid from pg_depend where refclassid = 'pg_namespace'::regclass and refobjid in (select oid from schemas)
      and classid not in ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass, 'pg_constraint'::regclass,
        'pg_extension'::regclass, 'pg_default_acl'::regclass)
    union select 'pg_class'::regclass, oid from relations where relkind not in ('r', 'p', 'v', 'm', 'i', 'I', 'c', 't')
      -- Those of identity columns depend on their table internally.
      and not exists (select from pg_depend where classid = 'pg_class'::regclass and objid = relations.oid and deptype = 'i')
    union select 'pg_proc'::regclass, oid from routines where prokind not in ('f', 'p')
    union select 'pg_type'::regclass, oid from pg_type
      where typnamespace in (select oid from schemas) and typtype in ('r', 'm', 'b') and typelem = 0
    union select 'pg_rewrite'::regclass, oid from pg_rewrite
      where ev_class in (select oid from relations) and rulename <> '_RETURN'
    union select 'pg_event_trigger'::regclass, oid from pg_event_trigger
    union select 'pg_publication'::regclass, oid from pg_publication
  ) o, pg_identify_object(classid, objid, 0)
  where (classid, objid) not in (select classid, objid from from_extensions)
)
select pg_temp.visible(array_to_string(lines, E'\n')) as text
from objects
where array_to_string(lines, '') <> ''
order by kind collate "C", name collate "C";
