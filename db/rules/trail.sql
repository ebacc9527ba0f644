-- The audit trail has one row for every action, written in the action's own transaction and never changed. The triggers below
-- record what is done to requests, people, preferences and permissions, and what is done by SQL to anything else; functions that
-- callers reach call log_action().

-- Append-only ------------------------------------------------------------------------------------------------------

create or replace function app_private.tg__refuse()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  raise exception using errcode = 'RQ403',
    message = format('%s on %s.%s is refused: its rows are evidence.', tg_op, tg_table_schema, tg_table_name);
end
$$;
comment on function app_private.tg__refuse() is 'Refuses the whole statement, even if it affects no row. Raises RQ403.';

create or replace trigger _100_append_only
  before update or delete or truncate on app_public.audit_logs
  for each statement execute function app_private.tg__refuse();
-- ENABLE ALWAYS makes it fire even under session_replication_role = replica, which switches ordinary triggers off.
alter table app_public.audit_logs enable always trigger _100_append_only;

-- Its months are tables of their own: a statement that names one meets what stands there, and not what stands on the trail.
-- Triggers for rows come from the trail by themselves.
create or replace function app_private.guard_month(month regclass)
  returns void
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_row record;
begin
  execute format('alter table %s enable row level security, force row level security', month);
  for v_row in select polname from pg_policy where polrelid = month loop
    execute format('drop policy %I on %s', v_row.polname, month);
  end loop;
  execute format('create policy owner_all on %s to %I using (true) with check (true)', month, current_user);
  for v_row in
    select distinct grantee::regrole as name from pg_class, aclexplode(relacl) where oid = month and grantee <> relowner
  loop
    execute format('revoke all on %s from %s', month, v_row.name);
  end loop;
  execute format('create or replace trigger _100_append_only before update or delete or truncate on %s
    for each statement execute function app_private.tg__refuse()', month);
  execute format('alter table %s enable always trigger _100_append_only', month);
end
$$;
comment on function app_private.guard_month(regclass) is
  'Protects a partition of the trail as the trail is protected: append-only, and read by nobody but through the trail.';

select app_private.guard_month(p.relid) from pg_partition_tree('app_public.audit_logs') p where p.isleaf;

create or replace function app_private.trail_extends_to()
  returns timestamptz
  language sql
  stable
as $$
  select substring(pg_get_expr(c.relpartbound, c.oid) from '\(''(.+)''\) TO \(MAXVALUE\)')::timestamptz
  from pg_class c where c.oid = to_regclass('app_private.audit_logs_later')
$$;
comment on function app_private.trail_extends_to() is
  'Until when the trail has partitions of a month each. What is later goes to the partition audit_logs_later.';

create or replace function app_private.extend_trail()
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
  set "TimeZone" to 'UTC'
  -- Whoever waits for a lock holds up all that come after.
  set lock_timeout to '500ms'
as $$
declare
  v_horizon constant timestamptz := date_trunc('month', now()) + interval '3 months';
  v_from timestamptz := app_private.trail_extends_to();
  v_until timestamptz;
  v_month text;
begin
  if v_from >= v_horizon then
    return;
  end if;
  -- Every call begins with its session: who waits for that table holds nothing yet. The next three have triggers for the keys
  -- that refer to them.
  lock table app_private.sessions, app_public.users, app_public.requests, app_public.audit_actions, app_public.audit_logs
    in access exclusive mode;
  loop
    v_from := app_private.trail_extends_to();
    exit when v_from >= v_horizon;
    -- Usually the last partition is empty. If not, no month was made for so long that it becomes one of several months.
    v_until := date_trunc('month', greatest((select max(l."timestamp") from app_private.audit_logs_later l), v_from))
      + interval '1 month';
    v_month := 'audit_logs_' || to_char(v_from, 'YYYY_MM');
    alter table app_public.audit_logs detach partition app_private.audit_logs_later;
    execute format('alter table app_private.audit_logs_later rename to %I', v_month);
    execute format('alter table app_public.audit_logs attach partition app_private.%I for values from (%L) to (%L)',
      v_month, v_from, v_until);
    execute format('create table app_private.audit_logs_later partition of app_public.audit_logs
      for values from (%L) to (maxvalue)', v_until);
    perform app_private.guard_month('app_private.audit_logs_later');
  end loop;
end
$$;
comment on function app_private.extend_trail() is
  'Makes the partitions of the trail for the next months, up to the third. Each begins as the last partition, audit_logs_later. '
  'It waits half a second for a lock, and then raises lock_not_available: try again.';

-- What an entry refers to is never removed either: it is only marked as deleted.
create or replace trigger _100_no_delete
  before delete or truncate on app_public.requests
  for each statement execute function app_private.tg__refuse();
create or replace trigger _100_no_delete
  before delete or truncate on app_public.users
  for each statement execute function app_private.tg__refuse();

-- What leaves an entry for each row cannot be emptied at a stroke.
do $$
declare
  v_table text;
begin
  foreach v_table in array array[
    'app_private.credentials', 'app_private.sessions', 'app_private.password_resets', 'app_private.notification_preferences',
    'app_public.roles', 'app_public.role_permissions', 'app_public.request_transitions', 'app_public.webhooks'
  ] loop
    execute format('create or replace trigger _100_no_truncate before truncate on %s
      for each statement execute function app_private.tg__refuse()', v_table);
  end loop;
end
$$;

-- Writing it -------------------------------------------------------------------------------------------------------

create or replace function app_private.is_by_sql()
  returns boolean
  language sql
  stable
as $$
  select pg_has_role(session_user, current_user, 'MEMBER')
$$;
comment on function app_private.is_by_sql() is
  'Asked by what runs as the owner: has somebody logged in who is or may become the owner, and can therefore do anything by SQL? '
  'The logins of the API and the worker reach tables only through functions, which write their own entries.';

create or replace function app_private.tg_audit_logs__stamp()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_is_consequence boolean := pg_trigger_depth() > 1;
  v_is_free boolean := false;
begin
  if app_private.is_by_sql() then
    v_is_free := (select r.rolsuper from pg_roles r where r.rolname = session_user);
    if not v_is_free then
      if not v_is_consequence then
        raise exception using errcode = 'RQ403',
          message = 'An entry is written by the change that it reports, and cannot be written without one.';
      end if;
      -- The trigger may be one of their own. Then it can name no other person, and no other time.
      new.actor_id := app_hidden.current_user_id();
    end if;
    if v_is_consequence and new.actor_id is null then
      -- Without a caller, the login is all that is known.
      new.metadata := new.metadata || jsonb_build_object('database_user', session_user);
    end if;
  end if;
  -- The default is left as it is, because the partition has been chosen by it. One of another month PostgreSQL refuses then.
  if not v_is_free and new."timestamp" not between clock_timestamp() - interval '1 second' and clock_timestamp() then
    new."timestamp" := clock_timestamp();
  end if;
  new.database_login := session_user;
  return new;
end
$$;
comment on function app_private.tg_audit_logs__stamp() is
  'Sets when an entry was written and by which login to the database. For those who may become the owner, it also sets the '
  'actor, and it refuses entries that no trigger writes: only a superuser can make one up. Raises RQ403.';

create or replace trigger _050_stamp
  before insert on app_public.audit_logs
  for each row execute function app_private.tg_audit_logs__stamp();
alter table app_public.audit_logs enable always trigger _050_stamp;

create or replace function app_private.log_action(
  action text,
  actor_id uuid,
  user_id uuid default null,
  metadata jsonb default '{}',
  request_id uuid default null,
  request_creator_id uuid default null
)
  returns void
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  insert into app_public.audit_logs (actor_id, action, user_id, request_id, request_creator_id, metadata, ip_address)
  values (
    log_action.actor_id, log_action.action, log_action.user_id, log_action.request_id, log_action.request_creator_id,
    log_action.metadata, app_private.current_ip()
  );
end
$$;
comment on function app_private.log_action(text, uuid, uuid, jsonb, uuid, uuid) is
  'The one way to write an entry: what was done, by whom (null if that is not known), and to which person or request. It adds '
  'the IP address and the time.';

create or replace function app_private.changes(old_row jsonb, new_row jsonb)
  returns jsonb
  language sql
  immutable
as $$
  select coalesce(jsonb_object_agg(n.key, jsonb_build_object('old', old_row -> n.key, 'new', n.value)), '{}')
  from jsonb_each(new_row) n
  where n.value is distinct from old_row -> n.key and n.key not in ('version', 'updated_at')
$$;
comment on function app_private.changes(jsonb, jsonb) is
  'The fields in which two versions of a row differ: {"field": {"old": …, "new": …}}.';

create or replace function app_private.tg_requests__audit()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  -- What an attachment raises is the version alone, and is part of its own entry: see attachments.sql.
  if pg_trigger_depth() > 1 and tg_op = 'UPDATE' and app_private.changes(to_jsonb(old), to_jsonb(new)) = '{}' then
    return null;
  end if;
  perform app_private.log_action(
    current_setting('assent.action'),
    app_hidden.current_user_id(),
    request_id => new.id,
    request_creator_id => new.creator_id,
    metadata => case
      when tg_op = 'INSERT' then jsonb_build_object('old_status', null, 'new_status', new.status)
      when new.status <> old.status then jsonb_build_object('old_status', old.status, 'new_status', new.status)
        || (app_private.changes(to_jsonb(old), to_jsonb(new)) - array['status']
          -- What the edge writes and stamps is part of the action.
          - array(
            select unnest(t.writes || array(select jsonb_object_keys(t.stamps))) from app_public.request_transitions t
            where t.action = current_setting('assent.action') and t.from_status = old.status and t.to_status = new.status))
      else app_private.changes(to_jsonb(old), to_jsonb(new))
    end
  );
  return null;
end
$$;
comment on function app_private.tg_requests__audit() is 'Writes one entry for each change of a request.';

create or replace trigger _900_audit
  after insert or update on app_public.requests
  for each row execute function app_private.tg_requests__audit();

create or replace function app_private.tg_users__audit()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if tg_op = 'UPDATE' and new is not distinct from old then
    return new;
  end if;
  perform app_private.log_action(
    case
      when tg_op = 'INSERT' then 'USER_CREATE'
      when new.erased_at is not null then 'USER_ERASE'
      when new.is_deleted and not old.is_deleted then 'USER_DEACTIVATE'
      when old.is_deleted and not new.is_deleted then 'USER_REACTIVATE'
      else 'USER_UPDATE'
    end,
    app_hidden.current_user_id(),
    new.id,
    case
      when tg_op = 'INSERT' then jsonb_build_object('name', new.name, 'role', new.role)
      -- Not the name that is to be erased.
      when new.erased_at is not null then '{}'
      else app_private.changes(to_jsonb(old), to_jsonb(new))
    end
  );
  return new;
end
$$;
comment on function app_private.tg_users__audit() is 'Writes one entry for each change of a person.';

create or replace trigger _900_audit
  after insert on app_public.users
  for each row execute function app_private.tg_users__audit();
-- This is a BEFORE trigger, because people who demote or deactivate themselves are still callers then; it is the last of these.
create or replace trigger _910_audit
  before update on app_public.users
  for each row execute function app_private.tg_users__audit();

create or replace function app_private.changed_fields(old_row jsonb, new_row jsonb)
  returns text[]
  language sql
  immutable
as $$
  select array(select jsonb_object_keys(app_private.changes(old_row, new_row)) order by 1)
$$;
comment on function app_private.changed_fields(jsonb, jsonb) is 'The names of the fields in which two versions of a row differ.';

create or replace function app_private.tg_notification_preferences__audit()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if new.delivery is distinct from old.delivery then
    perform app_private.log_action('PREFERENCE_CHANGE', app_hidden.current_user_id(), coalesce(new.user_id, old.user_id),
      jsonb_build_object('kind', coalesce(new.kind, old.kind),
        'delivery', jsonb_build_object('old', old.delivery, 'new', new.delivery)));
  end if;
  return null;
end
$$;
comment on function app_private.tg_notification_preferences__audit() is 'Writes one entry for each change of a preference.';

create or replace trigger _900_audit
  after insert or update or delete on app_private.notification_preferences
  for each row execute function app_private.tg_notification_preferences__audit();

create or replace function app_private.tg__audit_permissions()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_old jsonb := to_jsonb(old) - 'description';
  v_new jsonb := to_jsonb(new) - 'description';
begin
  if v_new is distinct from v_old then
    perform app_private.log_action('PERMISSION_CHANGE', null,
      metadata => jsonb_build_object('table', tg_table_name, 'old', v_old, 'new', v_new));
  end if;
  return null;
end
$$;
comment on function app_private.tg__audit_permissions() is
  'Writes one entry for each change of a row that says what people may do. Only SQL can change it.';

create or replace trigger _900_audit
  after insert or update or delete on app_public.roles
  for each row execute function app_private.tg__audit_permissions();
create or replace trigger _900_audit
  after insert or update or delete on app_public.role_permissions
  for each row execute function app_private.tg__audit_permissions();
create or replace trigger _900_audit
  after insert or update or delete on app_public.request_transitions
  for each row execute function app_private.tg__audit_permissions();

-- What is done by SQL -------------------------------------------------------------------------------------------------

-- Functions that callers reach write better entries than a trigger could: a login is one action, and not a row of sessions.
-- These triggers are for everybody else, and name fields, never a value, because it could be a secret.

create or replace function app_private.log_sql(action text, operation text, user_id uuid, details jsonb)
  returns void
  language sql
  volatile
as $$
  select app_private.log_action(action, app_hidden.current_user_id(), user_id,
    jsonb_build_object('by', 'SQL', 'operation', operation) || details)
$$;
comment on function app_private.log_sql(text, text, uuid, jsonb) is
  'Writes the entry for what SQL has done: the operation, and which fields or rows it met.';

create or replace function app_private.tg_credentials__audit()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_fields text[] := app_private.changed_fields(to_jsonb(old), to_jsonb(new));
begin
  -- With a person who is new, their credentials are part of USER_CREATE.
  if tg_op = 'INSERT' and exists (
    select from app_public.audit_logs a where a.user_id = new.user_id and a.action = 'USER_CREATE' and a."timestamp" >= now()
  ) then
    return null;
  end if;
  if tg_op <> 'UPDATE' or v_fields <> '{}' then
    perform app_private.log_sql(
      -- The person is told of a new password, whoever has set it.
      case when tg_op = 'UPDATE' and 'password_hash' = any (v_fields) then 'PASSWORD_CHANGE' else 'CREDENTIALS_CHANGE' end,
      tg_op, coalesce(new.user_id, old.user_id), jsonb_build_object('fields', v_fields));
  end if;
  return null;
end
$$;
comment on function app_private.tg_credentials__audit() is 'Writes one entry for what SQL does to somebody''s credentials.';

create or replace trigger _900_audit
  after insert or update or delete on app_private.credentials
  for each row when (app_private.is_by_sql())
  execute function app_private.tg_credentials__audit();

create or replace function app_private.tg_sessions__audit()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_fields text[] := app_private.changed_fields(to_jsonb(old), to_jsonb(new));
  v_action text := case
    when tg_op = 'INSERT' then 'SESSION_OPEN'
    when tg_op = 'DELETE' or new.revoked_at is not null and old.revoked_at is null then 'SESSION_REVOKE'
    else 'SESSION_CHANGE'
  end;
begin
  -- That a live session was used is no change of it, and one that has expired is cleared away.
  if tg_op = 'UPDATE' and v_fields <@ array['last_used_at'] and app_private.is_live(old)
    or tg_op = 'DELETE' and old.expires_at < now()
  then
    return null;
  end if;
  perform app_private.log_sql(v_action, tg_op, coalesce(new.user_id, old.user_id),
    jsonb_build_object('session_id', coalesce(new.id, old.id), 'fields', v_fields));
  return null;
end
$$;
comment on function app_private.tg_sessions__audit() is 'Writes one entry for what SQL does to a session.';

create or replace trigger _900_audit
  after insert or update or delete on app_private.sessions
  for each row when (app_private.is_by_sql())
  execute function app_private.tg_sessions__audit();

create or replace function app_private.tg_password_resets__audit()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  -- One that has expired is cleared away.
  if tg_op <> 'DELETE' or old.expires_at >= now() then
    perform app_private.log_sql('CREDENTIALS_CHANGE', tg_op, coalesce(new.user_id, old.user_id),
      jsonb_build_object('fields', array['password_resets']));
  end if;
  return null;
end
$$;
comment on function app_private.tg_password_resets__audit() is
  'Writes one entry for a link that SQL has made or removed: whoever has it can choose the password of that person.';

create or replace trigger _900_audit
  after insert or update or delete on app_private.password_resets
  for each row when (app_private.is_by_sql())
  execute function app_private.tg_password_resets__audit();

-- Workers of version 0.1 run as the owner, and so do these two jobs of theirs.

create or replace function app_private.tg_password_reset_requests__audit()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  perform app_private.log_action('PASSWORD_RESET_REQUEST', null, u.id)
  from app_private.credentials c
  join app_public.users u on u.id = c.user_id and not u.is_deleted
  where app_private.account_key(c.email) = new.account_key;
  return null;
end
$$;
comment on function app_private.tg_password_reset_requests__audit() is
  'Writes the entry of a request for a link that the owner has counted, and so causes its mail.';

create or replace trigger _900_audit
  after insert on app_private.password_reset_requests
  for each row when (app_private.is_by_sql())
  execute function app_private.tg_password_reset_requests__audit();

create or replace function app_private.tg_webhooks__audit()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_fields text[] := app_private.changed_fields(to_jsonb(old), to_jsonb(new));
begin
  -- The times of its failures are no changes of it.
  if tg_op <> 'UPDATE' or not v_fields <@ array['failing_since', 'failed_at'] then
    perform app_private.log_sql(
      case tg_op when 'INSERT' then 'WEBHOOK_CREATE' when 'UPDATE' then 'WEBHOOK_UPDATE' else 'WEBHOOK_DELETE' end,
      tg_op, null, jsonb_build_object('webhook_id', coalesce(new.id, old.id),
        'origin', app_private.origin(coalesce(new.url, old.url)), 'fields', v_fields));
  end if;
  return null;
end
$$;
comment on function app_private.tg_webhooks__audit() is 'Writes one entry for what SQL does to a webhook.';

create or replace trigger _900_audit
  after insert or update or delete on app_public.webhooks
  for each row when (app_private.is_by_sql())
  execute function app_private.tg_webhooks__audit();

create or replace function app_private.tg__audit_sql()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_rows bigint := (select count(*) from changed);
begin
  if v_rows > 0 then
    perform app_private.log_sql('DATA_CHANGE', tg_op, null, jsonb_build_object('table', tg_table_name, 'rows', v_rows));
  end if;
  return null;
end
$$;
comment on function app_private.tg__audit_sql() is
  'Writes one entry for each statement of SQL that changes rows of a table which has no entries of a kind of its own.';

do $$
declare
  v_table text;
  v_event text[];
begin
  foreach v_table in array array[
    'app_private.refresh_tokens', 'app_private.login_attempts', 'app_private.password_reset_requests',
    'app_private.idempotency_keys', 'app_private.request_texts', 'app_private.files', 'app_private.file_chunks',
    'app_public.notifications', 'app_public.webhook_deliveries',
    'app_public.request_statuses', 'app_public.request_parties', 'app_public.audit_actions', 'app_public.notification_kinds',
    'app_public.mail_deliveries', 'app_public.webhook_events'
  ] loop
    foreach v_event slice 1 in array array[['insert', 'new'], ['update', 'new'], ['delete', 'old']] loop
      execute format('create or replace trigger %I after %s on %s referencing %s table as changed
        for each statement when (%s app_private.is_by_sql())
        execute function app_private.tg__audit_sql()', '_910_audit_' || v_event[1], v_event[1], v_table, v_event[2],
        -- A trigger of requests writes their texts. Elsewhere a trigger is no excuse: the owner can make one.
        case when v_table = 'app_private.request_texts' then 'pg_trigger_depth() = 0 and' end);
    end loop;
    execute format('create or replace trigger _100_no_truncate before truncate on %s
      for each statement execute function app_private.tg__refuse()', v_table);
  end loop;
end
$$;
