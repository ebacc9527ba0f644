-- Faults that the catalog shows: one section for each lint, one row for each fault, no rows when all is well. Run it as
-- the owner.

set search_path to pg_catalog;

with schemas as (
  select oid, nspname, nspowner, nspacl from pg_namespace where nspname in ('app_public', 'app_hidden', 'app_private', 'audit')
),
owner as (
  select datdba as oid from pg_database where datname = current_database()
),
from_extensions as (
  select classid, objid from pg_depend where deptype = 'e'
),
relations as (
  select oid::regclass::text as name, c.* from pg_class c where relnamespace in (select oid from schemas)
    and ('pg_class'::regclass, oid) not in (select classid, objid from from_extensions)
),
tables as (
  select * from relations where relkind in ('r', 'p')
),
columns as (
  select r.name || '.' || attname as name, a.*, relkind, relispartition, relacl, relowner
  from relations r join pg_attribute a on attrelid = r.oid
  where relkind in ('r', 'p', 'v', 'm') and attnum > 0 and not attisdropped
),
routines as (
  select oid::regprocedure::text as name, p.* from pg_proc p where pronamespace in (select oid from schemas)
    and ('pg_proc'::regclass, oid) not in (select classid, objid from from_extensions)
),
policies as (
  select polname || ' on ' || t.name as name,
    concat_ws(' and ', pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) as condition
  from pg_policy join tables t on t.oid = polrelid
),
-- What is granted on whole relations and on columns.
relation_grants as (
  select name, (aclexplode(relacl)).*, relowner as owner from relations where relkind <> 'i'
  union all
  select name, (aclexplode(attacl)).*, relowner from columns
),
roles as (
  select * from pg_roles where rolname like 'assent\_%'
)

-- Policies decide who may see a row, and that includes the owner and the owner's functions.
select 'rls_not_forced' as lint, name as object, 'enable and force row level security' as detail
from tables where not relrowsecurity or (not relforcerowsecurity and name <> 'app_public.requests') -- see rules/visibility.sql

-- Row-level security without a policy shows nothing to anybody, which is surely not what was meant.
union all
select 'no_policy', name, 'has no policy'
from tables where oid not in (select polrelid from pg_policy)

-- Outside a sub-select, a function runs for each row, which is 70 times slower on a large table.
union all
select 'policy_calls_for_each_row', name, condition
from policies
-- can_see() costs nothing, because PostgreSQL inlines it.
where regexp_replace(condition, 'app_hidden\.can_see\(|SELECT \w+\.\w+\((''[^'']*''::text)?\) AS \w+', '', 'g')
  ~ '\m(app_\w+|audit)\.\w+\('

-- The operators of enums are not leakproof: under row-level security, a filter by one uses no index. Use a lookup table.
union all
select 'enum', name, 'is of type ' || atttypid::regtype
from columns
where atttypid in (select oid from pg_type where typtype = 'e')
  or atttypid in (select typarray from pg_type where typtype = 'e')

-- A definer function that resolves names by the caller's search_path runs the caller's objects as the owner.
union all
select 'definer_search_path', name, 'set search_path to pg_catalog, pg_temp'
from routines where prosecdef and not coalesce(proconfig @> '{"search_path=pg_catalog, pg_temp"}', false)

-- A statement that names a partition meets what stands there, and not what stands on its table.
union all
select 'unguarded_partition', p.name, 'app_private.guard_month(…)'
from tables p
join pg_inherits on inhrelid = p.oid
where p.relispartition and (
  exists (select from aclexplode(p.relacl) where grantee <> p.relowner)
  or exists (select from pg_policy where polrelid = p.oid and polname <> 'owner_all')
  or exists (
    select tgname, tgenabled, tgtype, tgfoid from pg_trigger where tgrelid = inhparent and not tgisinternal
    except select tgname, tgenabled, tgtype, tgfoid from pg_trigger where tgrelid = p.oid
  )
)

-- Each grant is spelt out; PUBLIC has none.
union all
select 'public_execute', name, 'can be executed by PUBLIC'
from routines where exists (select from aclexplode(coalesce(proacl, acldefault('f', proowner))) where grantee = 0)

-- A function that writes must be volatile: the planner may skip, repeat or reorder the others.
union all
select 'stable_but_writes', name, 'is not volatile'
from routines
where provolatile <> 'v'
  and regexp_replace(prosrc, '--[^\n]*', '', 'g') ~* '\m(insert\s+into|delete\s+from|update\s+\S+(\s+\w+)?\s+set|'
    'set_config\s*\(|for\s+(no\s+key\s+)?update)'

-- Only the owner's functions write; and whatever PUBLIC may do, anonymous callers may do.
union all
select 'grant_other_than_select', name,
  privilege_type || ' to ' || case grantee when 0 then 'PUBLIC' else grantee::regrole::text end
from relation_grants where grantee <> owner and (privilege_type <> 'SELECT' or grantee = 0)

-- No caller has access to the schema of secrets, and nobody but the owner adds objects to any schema.
union all
select 'schema_grant', nspname, privilege_type || ' to ' || case grantee when 0 then 'PUBLIC' else grantee::regrole::text end
from schemas, aclexplode(nspacl)
where grantee <> nspowner and (privilege_type <> 'USAGE' or grantee = 0
  -- The worker calls its jobs there (doors/worker.sql).
  or (nspname = 'app_private' and grantee::regrole <> 'assent_worker'::regrole))

-- Without security_invoker, a view reads with its owner's rights, and so all rows. The exceptions are meant to.
union all
select 'view_as_owner', name, 'has no security_invoker'
from relations
where relkind in ('v', 'm')
  and not coalesce(reloptions && '{security_invoker=true,security_invoker=on}', false)
  and relnamespace <> 'audit'::regnamespace -- these are for auditors, who may see everything
  and name <> 'app_hidden.deciders' -- everybody may know who can decide: see rules/deciders.sql
  and name <> 'app_public.undelivered_mails' -- it checks a permission itself: see rules/mails.sql

-- The owner of an object is above its grants and policies.
union all
select 'foreign_owner', name, 'belongs to ' || object_owner::regrole
from (
  select nspname::text, nspowner from schemas
  union all select name, relowner from relations
  union all select name, proowner from routines
) o (name, object_owner)
where object_owner not in (select oid from owner)

-- No request may run as a role that bypasses row-level security, or can become the owner.
union all
select 'privileged_role', rolname, 'is a superuser, may bypass row-level security, create roles or databases, or become the owner'
from roles
where rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication
  or (oid not in (select oid from owner) and pg_has_role(oid, (select oid from owner), 'member'))

-- When a row is removed or its key is changed, PostgreSQL looks for rows that refer to it, and needs an index for that.
union all
select 'foreign_key_without_index', conrelid::regclass::text, conname
from pg_constraint f
where contype = 'f' and conrelid in (select oid from tables) and not exists (
  select from pg_index i
  where indrelid = conrelid and indpred is null and indisvalid
    and (indkey::smallint[])[0:least(cardinality(conkey), indnkeyatts) - 1] @> conkey -- INCLUDE columns come after the keys
)

-- What happens to rows that refer to a removed row must be decided.
union all
select 'foreign_key_without_on_delete', conrelid::regclass::text, conname
from pg_constraint where contype = 'f' and conrelid in (select oid from tables) and confdeltype = 'a'

-- A generated name changes with the order of the constraints.
union all
select 'unnamed_check', conrelid::regclass::text, conname
from pg_constraint join tables t on t.oid = conrelid
where contype = 'c' and (conname ~ '_check\d+$' or conname = left(relname, 57) || '_check')

-- Comments are the API's documentation, and a constraint's is the message of its violation.
union all
select 'no_comment', object, 'has no comment'
from (
  select 'schema ' || nspname, obj_description(oid, 'pg_namespace') from schemas
  union all select name, obj_description(oid, 'pg_class') from relations
    where relkind in ('r', 'p', 'v', 'm') and not relispartition
  union all select name, col_description(attrelid, attnum) from columns where relkind in ('r', 'p') and not relispartition
  union all select name, obj_description(oid, 'pg_proc') from routines
  union all select format('%s on %s', conname, conrelid::regclass), obj_description(oid, 'pg_constraint')
    from pg_constraint where contype = 'c' and conrelid in (select oid from tables where not relispartition)
) o (object, comment)
where coalesce(regexp_replace(comment, '^(@\S+[^\n]*\n?)+', ''), '') = '' -- smart tags describe nothing

-- A timestamp without time zone means a different time in every session.
union all
select 'timestamp_without_time_zone', name, 'use timestamptz'
from columns where atttypid in ('timestamp'::regtype, 'timestamp[]'::regtype)

order by lint, object, detail;
