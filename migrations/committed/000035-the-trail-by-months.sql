--! Previous: sha1:27334264b44b2fa86f0459e81cfb57d117835fef
--! Hash: sha1:225c1b720b013b682704a63ff50562eaacb0f286
--! Message: the trail by months

-- The trail by months. Its table goes on as the first partition, with its rows, its indexes and whatever views and functions hold
-- on to it; what rules have put upon it is put upon the new table as well, so that callers meet no moment without them. All of this
-- is written into the catalog alone, and takes a moment.
do $$
declare
  v_locked boolean := false;
  v_until text;
  v_rule text;
  -- Statements that do for the new table what rules have done for the old one.
  v_rules text[];
begin
  if (select relkind from pg_class where oid = 'app_public.audit_logs'::regclass) = 'p' then
    return;
  end if;
  set local lock_timeout = '500ms';
  for attempt in 1..60 loop
    begin
      -- Every call begins with its session: who waits for that table holds nothing yet. The next three lose triggers, those of the
      -- keys that refer to them.
      lock table app_private.sessions, app_public.users, app_public.requests, app_public.audit_actions, app_public.audit_logs
        in access exclusive mode;
      v_locked := true;
      exit;
    exception
      when lock_not_available or deadlock_detected then
        perform pg_sleep(0.1 + 0.2 * random());
    end;
  end loop;
  if not v_locked then
    raise exception using errcode = 'lock_not_available', message = 'The trail is in use: run this again.';
  end if;

  v_until := (select substring(pg_get_constraintdef(oid) from '''(.+)''') from pg_constraint
    where conrelid = 'app_public.audit_logs'::regclass and conname = 'audit_logs_until');
  v_rules := array(
    select format('create policy %I on app_public.audit_logs for %s to %s using (%s)%s', polname,
      case polcmd when '*' then 'all' else 'select' end,
      (select string_agg(case role when 0 then 'public' else role::regrole::text end, ', ') from unnest(polroles) role),
      pg_get_expr(polqual, polrelid), ' with check (' || pg_get_expr(polwithcheck, polrelid) || ')')
    from pg_policy where polrelid = 'app_public.audit_logs'::regclass
    union all
    select format('grant %s on app_public.audit_logs to %s', privilege_type, grantee::regrole)
    from pg_class, aclexplode(relacl)
    where oid = 'app_public.audit_logs'::regclass and grantee <> relowner and grantee <> 0
    union all
    select pg_get_triggerdef(oid) || case when tgenabled = 'A' then
      format('; alter table app_public.audit_logs enable always trigger %I', tgname) else '' end
    from pg_trigger where tgrelid = 'app_public.audit_logs'::regclass and not tgisinternal
    union all
    select pg_get_functiondef(p.oid)
      || coalesce((select string_agg(format('; grant execute on function %s to %s', p.oid::regprocedure, grantee::regrole), '')
        from aclexplode(p.proacl) where grantee not in (0, p.proowner)), '')
    from pg_proc p where (select t.reltype from pg_class t where t.oid = 'app_public.audit_logs'::regclass) = any (p.proargtypes)
  );

  -- The partition keeps its triggers for statements; those for rows come from the new table.
  for v_rule in select tgname from pg_trigger
    where tgrelid = 'app_public.audit_logs'::regclass and not tgisinternal and tgtype & 1 = 1
  loop
    execute format('drop trigger %I on app_public.audit_logs', v_rule);
  end loop;
  alter table app_public.audit_logs drop constraint audit_logs_pkey;
  alter table app_public.audit_logs add constraint audit_logs_id_key unique using index audit_logs_id_timestamp_idx;
  alter table app_public.audit_logs rename to audit_logs_earliest;
  alter table app_public.audit_logs_earliest set schema app_private;

  create table app_public.audit_logs (
    id uuid not null default app_private.uuid_v7(),
    actor_id uuid constraint audit_logs_actor_id_fkey references app_public.users on delete restrict,
    action text not null constraint audit_logs_action_fkey references app_public.audit_actions on delete restrict,
    request_id uuid constraint audit_logs_request_id_fkey references app_public.requests on delete restrict,
    request_creator_id uuid constraint audit_logs_request_creator_id_fkey references app_public.users on delete restrict,
    user_id uuid constraint audit_logs_user_id_fkey references app_public.users on delete restrict,
    metadata jsonb not null default '{}',
    ip_address inet,
    "timestamp" timestamptz not null default clock_timestamp(),
    database_login name,
    constraint audit_logs_id_key unique (id, "timestamp"),
    constraint audit_logs_subject_check check (request_id is null or user_id is null),
    constraint audit_logs_request_creator_check check ((request_id is null) = (request_creator_id is null)),
    constraint audit_logs_metadata_check check (jsonb_typeof(metadata) = 'object')
  ) partition by range ("timestamp");
  create index audit_logs_timestamp_idx on app_public.audit_logs ("timestamp", id);
  create index audit_logs_actor_id_idx on app_public.audit_logs (actor_id, "timestamp", id);
  create index audit_logs_actor_id_action_idx on app_public.audit_logs (actor_id, action, "timestamp", id);
  create index audit_logs_action_idx on app_public.audit_logs (action, "timestamp", id);
  create index audit_logs_request_id_idx on app_public.audit_logs (request_id, "timestamp", id);
  create index audit_logs_request_creator_id_idx on app_public.audit_logs (request_creator_id, "timestamp", id);
  create index audit_logs_request_creator_id_actor_id_idx on app_public.audit_logs (request_creator_id, actor_id);
  create index audit_logs_user_id_idx on app_public.audit_logs (user_id, "timestamp", id);
  create index audit_logs_ties_idx on app_public.audit_logs (user_id, "timestamp", id)
    where action in ('USER_CREATE', 'INVITATION_RESEND', 'USER_REACTIVATE', 'USER_UPDATE');
  execute format('alter table app_public.audit_logs attach partition app_private.audit_logs_earliest
    for values from (minvalue) to (%L)', v_until);
  execute format('create table app_private.audit_logs_later partition of app_public.audit_logs
    for values from (%L) to (maxvalue)', v_until);
  alter table app_private.audit_logs_earliest drop constraint audit_logs_until;

  alter table app_public.audit_logs enable row level security, force row level security;
  alter table app_private.audit_logs_later enable row level security, force row level security;
  -- One function may call another that is yet to come.
  set local check_function_bodies = off;
  foreach v_rule in array v_rules loop
    execute v_rule;
  end loop;
end
$$;

comment on table app_public.audit_logs is
  E'@primaryKey id\n@defaultOrderBy TIMESTAMP_DESC\nThe audit trail, append-only: who did what, to what, when and from where.';
comment on column app_public.audit_logs.id is 'Time-ordered UUID (version 7).';
comment on column app_public.audit_logs.actor_id is
  E'@behavior -orderBy\nWho did it; null for a failed login, and for what was done by SQL.';
comment on column app_public.audit_logs.action is E'@behavior +orderBy\nWhat was done.';
comment on column app_public.audit_logs.request_id is E'@behavior -orderBy\nThe request it was about.';
comment on column app_public.audit_logs.request_creator_id is
  E'@behavior -*\n'
  'The creator of that request, who never changes. It is kept here so that row-level security reads one index and not every '
  'request.';
comment on column app_public.audit_logs.user_id is E'@behavior -orderBy\nThe person it was about.';
comment on column app_public.audit_logs.metadata is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy\n'
  'old_status and new_status where the status changed; otherwise each changed field with its old and new value. Never a secret.';
comment on column app_public.audit_logs.ip_address is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy\n'
  'The client''s IP address, as the outermost trusted proxy saw it.';
comment on column app_public.audit_logs."timestamp" is
  'When it was done, by the clock at that moment, not the start of the transaction.';
comment on column app_public.audit_logs.database_login is
  E'@behavior -*\n'
  'The login to the database that wrote the entry: that of the API, of the worker, or of whoever used SQL. It is null in entries '
  'of version 0.1. Callers are not shown it, and auditors are.';
comment on constraint audit_logs_request_id_fkey on app_public.audit_logs is
  E'@behavior +manyRelation:resource:connection\n@foreignFieldName auditLogs';
comment on constraint audit_logs_request_creator_id_fkey on app_public.audit_logs is E'@behavior -*';
comment on constraint audit_logs_action_fkey on app_public.audit_logs is E'@behavior -*';
comment on constraint audit_logs_subject_check on app_public.audit_logs is
  'An entry is about a request or about a person, not about both.';
comment on constraint audit_logs_request_creator_check on app_public.audit_logs is
  'An entry that names a request must also name its creator.';
comment on constraint audit_logs_metadata_check on app_public.audit_logs is 'Metadata must be a JSON object.';
comment on constraint audit_logs_id_key on app_public.audit_logs is '@behavior -*';
