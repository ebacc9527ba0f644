import type pg from 'pg'

/** One change of the schema that the tests have to notice. `undo` is for what belongs to the cluster, not the database. */
export type Mutation = { readonly name: string; readonly sql: string; readonly undo?: string }

/** Those that follow from the catalog: everything there is, taken away or opened wide, one at a time. */
const derived = `
  with schemas as (
    select oid, nspname from pg_namespace where nspname in ('app_public', 'app_hidden', 'app_private', 'audit')
  ), tables as (
    select c.oid, c.oid::regclass::text as name, c.relkind from pg_class c join schemas on schemas.oid = c.relnamespace where c.relkind in ('r', 'p', 'v') and not c.relispartition
  ), policies as (
    select format('%I on %s', p.polname, t.name) as name, pg_get_expr(p.polqual, p.polrelid) as condition from pg_policy p join tables t on t.oid = p.polrelid
  ), functions as (
    select p.oid, p.oid::regprocedure::text as name, p.prosecdef, p.proconfig, p.proacl, p.proowner from pg_proc p join schemas on schemas.oid = p.pronamespace
    where not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')
  )
  select 'drop policy ' || name as sql from policies
  union all select format('alter policy %s using (true)', name) from policies where condition <> 'true'
  union all select format('alter policy %s to public', name) from policies where name not like 'everybody%'
  union all select format('alter table %s disable row level security', name) from tables where relkind in ('r', 'p')
  union all select format('alter table %s no force row level security', name) from tables join pg_class using (oid) where relforcerowsecurity
  union all select format('alter table %s drop constraint %I', t.name, c.conname)
    from pg_constraint c join tables t on t.oid = c.conrelid where c.contype in ('c', 'f')
  union all select format('alter table %s drop constraint %I cascade', t.name, c.conname)
    from pg_constraint c join tables t on t.oid = c.conrelid where c.contype in ('u', 'p')
  union all select format('alter table %s alter column %I drop not null', t.name, a.attname)
    from pg_attribute a join tables t on t.oid = a.attrelid where t.relkind in ('r', 'p') and a.attnum > 0 and a.attnotnull
      and not exists (select from pg_constraint c where c.conrelid = t.oid and c.contype = 'p' and a.attnum = any (c.conkey))
  union all select format('alter table %s alter column %I drop default', t.name, a.attname)
    from pg_attribute a join tables t on t.oid = a.attrelid where t.relkind in ('r', 'p') and a.attnum > 0 and a.atthasdef
  union all select format('alter table %s disable trigger %I', t.name, g.tgname) from pg_trigger g join tables t on t.oid = g.tgrelid where not g.tgisinternal
  union all select format('drop trigger %I on %s', g.tgname, t.name) from pg_trigger g join tables t on t.oid = g.tgrelid where not g.tgisinternal
  union all select format('alter table %s enable trigger %I', t.name, g.tgname)
    from pg_trigger g join tables t on t.oid = g.tgrelid where g.tgenabled = 'A' and not g.tgisinternal
  union all select 'drop index ' || i.indexrelid::regclass from pg_index i join tables t on t.oid = i.indrelid
    where not exists (select from pg_constraint c where c.conindid = i.indexrelid)
  union all select format('revoke select on %s from %s', t.name, g.grantee::regrole)
    from tables t join pg_class c on c.oid = t.oid cross join lateral aclexplode(c.relacl) g where g.grantee <> c.relowner
  union all select format('grant select on %s to assent_user', name) from tables where name ~ '^(app_private|audit)'
  union all select format('grant %s on %s to assent_admin', p, name) from tables, unnest(array['insert', 'update', 'delete', 'truncate']) p
    where name ~ '^app_public.(requests|audit_logs|users)$'
  union all select format('revoke execute on function %s from %s', f.name, g.grantee::regrole)
    from functions f cross join lateral aclexplode(f.proacl) g where g.grantee <> f.proowner
  union all select format('grant execute on function %s to public', name) from functions
  union all select format('alter function %s reset search_path', name) from functions where proconfig is not null
  union all select format('alter function %s security invoker', name) from functions where prosecdef
  union all select format('alter function %s security definer', name) from functions where not prosecdef and name ~ '^app_public'
  union all select format('delete from app_public.request_transitions where action = %L', action) from app_public.request_transitions
  union all select format('update app_public.request_transitions set who = %L where action = %L', party, action)
    from app_public.request_transitions join app_public.request_parties on party <> who
  union all select format('update app_public.request_transitions set to_status = %L where action = %L', status, action)
    from app_public.request_transitions join app_public.request_statuses on status <> to_status
  union all select format('update app_public.request_transitions set writes = writes || %L::text[] where action = %L', '{title}', action)
    from app_public.request_transitions where not 'title' = any (writes)
  union all select format('update app_public.request_transitions set writes = %L where action = %L', '{}', action)
    from app_public.request_transitions where writes <> '{}'
  union all select format('delete from app_public.role_permissions where permission = %L', permission) from app_public.role_permissions
  union all select format('update app_public.role_permissions set role = %L where permission = %L', r.role, permission)
    from app_public.role_permissions p join app_public.roles r on r.role <> p.role`

/** A function with one piece of its text replaced; fails if the piece is not there. */
async function edited(database: pg.Client, name: string, piece: string, by: string): Promise<Mutation> {
  const { rows } = await database.query('select pg_get_functiondef($1::regprocedure) as text', [name])
  if (!rows[0].text.includes(piece)) throw new Error(`${name} has no ${piece}: bring tests/tools/mutations.ts up to date.`)
  return { name: `${name}: ${piece.trim()} → ${by.trim() || 'nothing'}`, sql: rows[0].text.replace(piece, () => by) }
}

const finish = 'app_hidden.finish_login(uuid,text,text,boolean,text,text)'
const verify = 'app_private.verify_password(uuid,bytea,uuid,text[])'
const begin = 'app_private.begin_attempt(bytea,cidr)'
const blocked = 'app_private.blocked_until(bytea,cidr,timestamp with time zone)'
const transition = 'app_hidden.transition(uuid,text,integer[],jsonb)'
const write = 'app_private.write_request(app_public.requests,text,jsonb)'
const permitted = 'app_private.permitted_transition(app_public.requests,text,integer[])'
const guard = 'app_private.tg_requests__guard()'
const live = 'app_private.live_session(text)'
const isLive = 'app_private.is_live(app_private.sessions)'
const open = 'app_private.open_session(uuid,boolean,text)'
const refresh = 'app_hidden.refresh_session(text)'
const end = 'app_hidden.end_session(uuid)'
const endAll = 'app_public.end_sessions(uuid)'
const endOthers = 'app_hidden.end_other_sessions()'
const touch = 'app_hidden.touch_session()'
const password = 'app_hidden.change_password(uuid,text,text,text)'
const create = 'app_public.create_user(text,text,text)'
const invite = 'app_public.resend_invitation(uuid)'
const mailDocument = 'app_private.mail_document(app_public.notifications)'
const change = 'app_hidden.change_user(uuid,jsonb)'
const keepAdmin = 'app_private.keep_an_admin(app_public.users,text,boolean)'
const search = 'app_hidden.matching_requests(text,text,uuid,uuid,boolean)'
const searched = 'app_private.searched_requests(uuid,boolean,boolean,text,uuid,uuid,boolean)'
const searchUsers = 'app_hidden.matching_users(text)'
const claim = 'app_hidden.claim_idempotency_key(text,bytea[])'
const types = 'app_private.type_faults(jsonb,regclass)'
const violations = 'app_private.violations(regclass,jsonb)'
const canSee = 'app_hidden.can_see(uuid,text,boolean,uuid,boolean,boolean)'
const ask = 'app_private.deciders_to_notify(uuid)'
const recipients = 'app_private.recipients(app_public.audit_logs)'
const dispatch = 'app_private.dispatch(uuid)'
const markRead = 'app_public.mark_notification_read(uuid)'
const beginMail = 'app_private.begin_mail(uuid,text)'
const mailToSend = 'app_private.mail_to_send(uuid,text)'
const mailSent = 'app_private.mail_sent(uuid,uuid[])'
const mailFailed = 'app_private.mail_failed(uuid,text,boolean)'
const pointless = 'app_private.is_pointless(app_public.notifications)'
const digest = 'app_private.digest_document(uuid)'
const beginReset = 'app_private.begin_password_reset(text,text)'
const reset = 'app_hidden.reset_password(text,text,text)'
const remind = 'app_private.remind()'
const digests = 'app_private.make_digests(date)'
const erase = 'app_private.erase_person(uuid)'
const clear = 'app_private.clear_batch()'
const keptFor = 'app_private.kept_for(text)'
const inboxes = 'app_private.announce_inboxes(app_public.audit_logs)'
const noLock = 'perform 1 where 0 < '

const edits: [string, string, string][] = [
  ['app_hidden.can_decide(uuid,uuid,uuid,boolean)', 'person_id <> creator_id and', ''],
  ['app_hidden.can_decide(uuid,uuid,uuid,boolean)', 'decides_any or', ''],
  ['app_hidden.can_decide(uuid,uuid,uuid,boolean)', 'live_assignee_id is null or', ''],
  ['app_hidden.can_decide(uuid,uuid,uuid,boolean)', 'or live_assignee_id = person_id', ''],
  ['app_private.caller()', `where l.database_role = current_setting('role')`, ''],
  [isLive, 's.revoked_at is null and', ''],
  [isLive, 's.expires_at > now() and', ''],
  [isLive, `and s.last_used_at > now() - interval '3 days'`, ''],
  [isLive, `interval '3 days'`, `interval '4 days'`],
  ['app_private.require_session()', 'if v_user_id is null then', 'if false then'],
  [live, 'and app_private.is_live(s)', ''],
  [live, 'and not u.is_deleted', ''],
  ['app_hidden.authenticate(text)', `and secret like 'cookie:%'`, ''],
  ['app_hidden.authenticate(text)', `secret like 'cookie:%'`, 'false'],
  [transition, 'for no key update', ''],
  [transition, 'if not v_edge.writes @>', 'if false and not v_edge.writes @>'],
  [transition, 'if v_new is not distinct from v_old then', 'if false then'],
  [write, `perform set_config('assent.action', '', true);`, ''],
  [write, 'when integrity_constraint_violation or', 'when division_by_zero or'],
  [permitted, 'and r.is_deleted is not true', ''],
  [permitted, 'if expected_versions is not null and', 'if false and'],
  [canSee, 'not is_deleted and', ''],
  [canSee, `and status <> 'DRAFT'`, ''],
  ['app_hidden.is_listed(app_public.requests,boolean)', 'not r.is_deleted or', 'true or'],
  ['app_hidden.is_listed(app_public.users,boolean)', 'not u.is_deleted or', 'true or'],
  ['app_hidden.is_listed(app_public.users,boolean)', `and app_hidden.has_permission('user.manage')`, ''],
  ['app_private.is_visible(uuid)', 'r.id = request_id', 'true'],
  [violations, 'if not v_holds then', 'if false then'],
  [guard, 'new.version := old.version + 1;', ''],
  [guard, 'new.updated_at := clock_timestamp();', ''],
  [guard, 'and t.to_status = new.status', ''],
  [guard, 'and t.from_status is not distinct from v_from', ''],
  ['app_private.log_action(text,uuid,uuid,jsonb,uuid,uuid)', 'app_private.current_ip()', 'null'],
  ['app_private.tg_requests__audit()', 'app_hidden.current_user_id()', 'new.creator_id'],
  ['app_private.tg_requests__audit()', `current_setting('assent.action')`, `'UPDATE'`],
  ['app_private.changes(jsonb,jsonb)', `and n.key not in ('version', 'updated_at')`, ''],
  ['app_private.tg__refuse()', 'raise exception', 'raise warning'],
  ['app_private.email_for(uuid,uuid,text[])', 'c.user_id = caller_id or', 'true or'],
  ['app_private.email_for(uuid,uuid,text[])', `or 'user.read_email' = any (permissions)`, ''],
  ['app_public.requests_awaiting_my_decision()', 'where d.user_id = (select app_hidden.current_user_id())', ''],
  [begin, '>= 100', '> 100'],
  [begin, 'a.failed or', ''],
  [begin, `interval '30 seconds'`, `interval '29 minutes'`],
  [begin, 'perform pg_advisory_xact_lock', 'perform 1 where 0 < '],
  [begin, `interval '15 minutes'`, `interval '14 minutes'`],
  [blocked, 'offset 9 ', 'offset 10 '],
  [
    blocked,
    'of_account_key and a.failed and a.attempted_at > since\n      order by a.attempted_at desc offset 99',
    'of_account_key and a.failed and a.attempted_at > since\n      order by a.attempted_at desc offset 100',
  ],
  [blocked, 'a.network = of_network', 'a.network is not distinct from of_network'],
  [blocked, 'and a.network is not distinct from of_network', ''],
  [verify, `interval '30 seconds'`, `interval '29 minutes'`],
  [verify, 'perform pg_advisory_xact_lock', noLock],
  [verify, 'set failed = true', 'set failed = false'],
  [verify, 'case when not u.is_deleted then u.id end', 'u.id'],
  [verify, 'and a.account_key = of_account_key and not a.failed', 'and not a.failed'],
  [finish, 'user_id, v_known_id)', 'user_id, user_id)'],
  [open, 'if by_cookie then', 'if true then'],
  ['app_public.resend_webhook_delivery(uuid)', 'and w.is_enabled', ''],
  ['app_private.delivery_failed(uuid,integer,text,boolean)', `interval '2 days'`, `interval '3 days'`],
  ['app_private.origin(text)', '[^/?#]+', '.*'],
  [mailToSend, 'and app_private.is_pointless(n)', ''],
  [mailToSend, 'n.recipient_id = v_notification.recipient_id and', ''],
  [open, 'where s.id = l.session_id', 'where s.user_id = l.user_id'],
  [open, 'where s.id = l.session_id', 'where false'],
  [open, 'if found then', 'if false then'],
  [open, `case when by_cookie then 'cookie:' else '' end ||`, ''],
  [open, 'case when not by_cookie then', 'case when true then'],
  [open, 'for no key update;', ';'],
  [open, 'for no key update skip locked', ''],
  [open, 'skip locked', ''],
  [open, '-19 +', '-20 +'],
  [open, 'order by o.last_used_at, o.id', 'order by o.last_used_at desc, o.id'],
  [open, 'where o.user_id = open_session.user_id and', 'where'],
  [open, 'where n.user_id = open_session.user_id and', 'where'],
  [open, 'and app_private.is_live(o)', ''],
  [open, 'and app_private.is_live(n)', ''],
  [open, `interval '30 days'`, `interval '31 days'`],
  [open, 'left(open_session.user_agent, 300)', 'open_session.user_agent'],
  [refresh, 'for no key update', ''],
  [refresh, 'and s.refresh_hash is not null', ''],
  [refresh, 'if not exists (select', 'if v_session is null and not exists (select'],
  [refresh, 'delete from app_private.refresh_tokens t where t.session_id = v_session.id and t.good_until <= now();', ''],
  [refresh, 'if v_session.refresh_hash <> v_given and (', 'if false and ('],
  [refresh, 'where t.session_id = v_session.id and t.token_hash = v_given', 'where t.token_hash = v_given and false'],
  [refresh, '>= 100', '>= 101'],
  [refresh, 'if v_session.refresh_hash <> v_given then', 'if false then'],
  [refresh, `coalesce(min(t.good_until), now() + interval '12 hours')`, `now() + interval '12 hours'`],
  [refresh, `interval '12 hours'`, `interval '13 hours'`],
  [refresh, `interval '10 seconds'`, `interval '20 seconds'`],
  [refresh, 'and not t.is_used;', ';'],
  [refresh, 'where not t.is_used;', ';'],
  [endAll, 's.user_id = end_sessions.user_id and', ''],
  [endAll, 'and app_private.is_live(s)', ''],
  [endAll, 'if v_count > 0 then', 'if true then'],
  [endAll, 'perform app_private.require_management_of(user_id);', ''],
  [invite, 'perform app_private.require_management_of(user_id);', ''],
  [claim, 'c.permissions @> v_permissions', 'true'],
  [refresh, 'update app_private.sessions s set revoked_at = now() where s.id = v_session.id;', ''],
  [refresh, 'set refresh_hash = app_private.hash_secret(refresh_session.refresh_token),', 'set'],
  [refresh, 'last_used_at = now()', "expires_at = now() + interval '30 days'"],
  [end, 'and s.user_id = v_me', ''],
  [end, 'and app_private.is_live(s)', ''],
  [endOthers, 's.user_id = l.user_id and', ''],
  [endOthers, 'and s.id <> l.session_id', ''],
  [endOthers, 'and app_private.is_live(s)', ''],
  [endOthers, 'if v_count > 0 then', 'if true then'],
  [touch, `and s.last_used_at < now() - interval '1 minute'`, ''],
  [touch, 's.id = l.session_id', 's.user_id = l.user_id'],
  ['app_hidden.my_sessions()', 'where app_private.is_live(s)', ''],
  ['app_hidden.my_sessions()', 'on s.user_id = c.user_id', 'on true'],
  ['app_hidden.begin_password_change(text)', `perform app_private.refuse_weakness(weakness, 'new_password');`, ''],
  [password, 'where s.user_id = v_me and', 'where'],
  [password, 'and s.revoked_at is null', 'and false'],
  [password, 's.id is distinct from (select', 'null is distinct from (select'],
  [password, 'perform app_private.require_session();', ''],
  ['app_private.require_permission(text)', 'if not app_hidden.has_permission(permission) then', 'if false then'],
  [create, `perform app_private.require_permission('user.manage');`, ''],
  [create, `coalesce(role, 'USER')`, 'role'],
  [change, `perform app_private.require_permission('user.manage');\n\n`, '\n'],
  [change, 'perform pg_advisory_xact_lock', noLock],
  [change, `if v_faults <> '[]' then`, 'if false then'],
  [keepAdmin, 'perform pg_advisory_xact_lock', noLock],
  [keepAdmin, 'and not u.is_deleted', ''],
  ['app_private.tg_users__keep_an_admin()', 'perform app_private.keep_an_admin(old, new.role, new.is_deleted);', ''],
  ['app_private.tg_users__end_sessions()', 'where s.user_id = new.id and s.revoked_at is null', 'where false'],
  ['app_private.tg_users__audit()', `if tg_op = 'UPDATE' and new is not distinct from old then`, 'if false then'],
  [searched, 'and r.is_deleted = searched_requests.is_deleted', ''],
  [search, 'if v_deleted and not v_all then', 'if false then'],
  [searched, 'me, reads_others, reads_all)', 'me, true, true)'],
  [searched, 'r.status = searched_requests.status', 'true'],
  [searched, 'r.creator_id = searched_requests.creator_id', 'true'],
  [searched, 'r.assigned_to_id = searched_requests.assigned_to_id', 'true'],
  [search, 'cardinality(v_found) = 500', 'cardinality(v_found) = 501'],
  [search, 'limit 500', 'limit 501'],
  [search, 'else 300 end', 'else 3000 end'],
  [search, 'gram_query(v_rare_terms)', 'gram_query(v_terms)'],
  [search, 'char_length(term) > 6', 'char_length(term) > 60'],
  [search, 'perform app_private.take_turn();', ''],
  ['app_private.search_terms(text)', 'char_length(search) > 200', 'char_length(search) > 201'],
  ['app_private.search_terms(text)', 'between 1 and 5', 'between 1 and 6'],
  [search, 'v_others or v_creator = v_me', 'true'],
  [search, 'v_query && quote_literal', 'v_query || quote_literal'],
  [search, 'when not v_others and not v_all then v_me end', 'when false then v_me end'],
  ['app_private.folded(text)', 'then normalize(value)', 'then value'],
  ['app_private.folded(text)', 'char_length(value) <= 500', 'true'],
  ['app_private.normalized(text)', '?[^%1$s]+', '[^%1$s]+'],
  ['app_private.tg_requests__keep_text()', 'do update set text = excluded.text', 'do nothing'],
  ['app_private.gram_query(text[])', `replace(gram, '\\', '\\\\')`, 'gram'],
  [searchUsers, 'v_me is not null and', ''],
  [searchUsers, 'v_reads_email or', 'true or'],
  [searchUsers, 'and app_private.contains_all(app_private.folded(n.name), v_terms)', ''],
  [searchUsers, 'perform app_private.take_turn();', ''],
  [claim, 'where k.user_id = v_me and k.key = claim_idempotency_key.key;', 'where k.key = claim_idempotency_key.key;'],
  [claim, 'limit 10', 'limit 11'],
  [claim, 'for update skip locked', 'for update'],
  [claim, 'elsif v_fingerprint <> all (fingerprints) then', 'elsif false then'],
  [claim, 'if not pg_try_advisory_xact_lock', 'if false and not pg_try_advisory_xact_lock'],
  [claim, `|| ' of ' || v_me`, ''],
  [types, `not in ('null', case`, `not in ('null', jsonb_typeof(e.value), case`],
  [types, `when 'jsonb'::regtype then 'object' else 'string' end)`, `else 'string' end)`],
  ['app_private.tg_requests__hold_to_kind()', 'and k.is_active', ''],
  ['app_private.tg_requests__hold_to_kind()', 'or old.submitted_at is null', ''],
  [
    'app_private.data_fault(jsonb,jsonb)',
    `when v_number <= (schema -> 'exclusiveMinimum')`,
    `when v_number < (schema -> 'exclusiveMinimum')`,
  ],
  ['app_private.data_fault(jsonb,jsonb)', 'count(distinct e)', 'count(e)'],
  [
    'app_private.data_faults(jsonb,jsonb,text)',
    `coalesce(schema #> array['properties', e.key], schema -> 'additionalProperties')`,
    `schema #> array['properties', e.key]`,
  ],
  ['app_private.request_faults(app_public.requests,jsonb)', 'app_private.data_faults_of(r)', `'[]'`],
  ['app_hidden.save_request_kind(text,jsonb)', `perform app_private.require_permission('kind.manage');`, ''],
  [types, `or (a.atttypid = 'uuid'::regtype and`, `or (false and`],
  [transition, `if v_faults <> '[]' then`, 'if false then'],
  [
    'app_hidden.request_document(app_public.requests)',
    'from app_private.caller_with_permissions() c',
    'from (values (null::uuid, null::text[])) c (user_id, permissions)',
  ],
  ['app_hidden.audit_log_document(app_public.audit_logs)', 'from app_private.caller() c', 'from (values (1)) c'],
  ['app_private.caller_network()', 'else 64', 'else 128'],
  ['app_private.account_key(text)', 'app_private.email_key(email)', 'email'],
  ['app_private.account_of(text)', 'and not c.collides', ''],
  ['app_private.account_of(text)', 'or lower(c.email) = lower(account_of.email)', ''],
  ['app_private.account_of(text)', 'order by lower(c.email) = lower(account_of.email) desc', ''],
  ['app_private.tg_credentials__clean_email()', `and tg_op = 'INSERT'`, ''],
  ['app_public.logout()', 's.id = l.session_id', 's.user_id = l.user_id'],
  ['app_private.hash_password(text)', `10`, `4`],
  [ask, 'd.user_id = (d.request).assigned_to_id', 'true'],
  [
    ask,
    'or not exists (select from app_hidden.deciders',
    'or (d.request).assigned_to_id is null and not exists (select from app_hidden.deciders',
  ],
  [recipients, 'and p.user_id <> entry.actor_id', ''],
  [recipients, `and p.user_id::text = entry.metadata -> 'assigned_to_id' ->> 'new'`, ''],
  [recipients, `and entry.metadata ? 'role'`, ''],
  [recipients, 'and entry.actor_id is not null', ''],
  [dispatch, 'and not u.is_deleted', ''],
  [dispatch, 'on conflict on constraint notifications_event_key do nothing', ''],
  ['app_private.tg_audit_logs__dispatch()', 'and a.is_told', ''],
  ['app_private.mail_state_for(uuid,text)', 'k.is_mandatory or', ''],
  ['app_public.unread_notification_count()', 'where n.read_at is null', ''],
  ['app_public.unread_notification_count()', 'limit 10000', 'limit 10001'],
  [markRead, 'and n.recipient_id = v_me', ''],
  [markRead, 'coalesce(n.read_at, clock_timestamp())', 'clock_timestamp()'],
  [markRead, 'where k.is_shown', ''],
  ['app_public.mark_all_notifications_read()', 'n.recipient_id = v_me and', ''],
  ['app_public.mark_all_notifications_read()', 'where k.is_shown', ''],
  ['app_public.my_notification_preferences()', 'where not k.is_mandatory', ''],
  ['app_public.set_notification_preference(text,text)', 'and k.is_mandatory', 'and false'],
  [beginMail, 'if not pg_try_advisory_lock', 'if false and not pg_try_advisory_lock'],
  [mailToSend, `and n.mail_state = 'QUEUED'`, ''],
  [mailToSend, 'if app_private.is_pointless(v_notification) then', 'if false then'],
  [mailToSend, 'coalesce(n.mail_message_id, ', 'coalesce(null, '],
  [mailSent, `and n.mail_state = 'QUEUED'`, ''],
  [mailSent, `and n.mail_state = 'DIGEST'`, 'and false'],
  [mailFailed, `and n.mail_state = 'QUEUED'`, ''],
  [mailFailed, 'left(error, 1000)', 'error'],
  [pointless, 'u.is_deleted', 'false'],
  [pointless, 'k.asks_for_decision and', 'false and'],
  [digest, 'limit 20', 'limit 21'],
  [digest, `where n.recipient_id = of_user_id and`, 'where'],
  [digest, 'limit 100\n', 'limit 101\n'],
  ['app_public.resend_mail(uuid)', `and n.mail_state = 'FAILED'`, ''],
  ['app_public.resend_mail(uuid)', `and app_hidden.has_permission('mail.manage')`, ''],
  ['app_public.resend_webhook_delivery(uuid)', `and app_hidden.has_permission('webhook.manage')`, ''],
  ['app_public.resend_webhook_delivery(uuid)', `if v_delivery.state <> 'QUEUED' then`, 'if true then'],
  [beginReset, 'and not u.is_deleted', ''],
  [beginReset, 'perform pg_advisory_xact_lock', noLock],
  [beginReset, '>= 3', '>= 4'],
  [beginReset, '>= 20', '>= 21'],
  [beginReset, `interval '15 minutes'`, `interval '14 minutes'`],
  [beginReset, 'delete from app_private.password_reset_requests r where r.requested_at < v_since;', ''],
  [beginReset, 'where r.account_key = v_account_key and', 'where'],
  [beginReset, 'where r.network = v_network and', 'where'],
  [mailDocument, `interval '30 minutes'`, `interval '40 minutes'`],
  [mailDocument, `interval '72 hours'`, `interval '73 hours'`],
  [mailDocument, 'and c.password_hash is null', ''],
  [pointless, `(k.kind = 'INVITATION' and`, '(false and'],
  [pointless, '(app_private.is_invitation(k.kind) and', '(false and'],
  [verify, 'user_id := null;\n  elsif', 'elsif'],
  [invite, 'for update', ''],
  [invite, 'v_user.is_deleted', 'false'],
  [invite, 'v_is_invited is not true', 'false'],
  [invite, `and n.mail_state = 'QUEUED'`, 'and false'],
  [invite, 'delete from app_private.password_resets r where r.user_id = resend_invitation.user_id;', ''],
  ['app_private.issue_reset_token(uuid,interval)', 'app_private.hash_secret(v_secret)', `convert_to(v_secret, 'UTF8')`],
  [reset, 'and r.expires_at > now()', ''],
  [reset, 'and not u.is_deleted', ''],
  [reset, 'for update', ''],
  [reset, `perform app_private.refuse_weakness(weakness, 'new_password');`, ''],
  [reset, 'where c.user_id = v_user_id and a.account_key', 'where a.account_key'],
  [reset, 'where s.user_id = v_user_id and', 'where'],
  [reset, 'update app_private.sessions s set revoked_at = now() where s.user_id = v_user_id and s.revoked_at is null;', ''],
  ['app_private.tg_credentials__end_resets()', 'where r.user_id = new.user_id', ''],
  [remind, 'and asked.at <= now() - app_private.reminder_interval()', ''],
  ['app_private.reminder_interval()', `interval '2 days'`, `interval '3 days'`],
  [remind, 'where not exists (select from app_public.notifications n where n.event = due.event)', ''],
  [remind, `and a.action = 'ASSIGN'`, 'and false'],
  ['app_hidden.is_waiting(app_public.requests)', 'and not r.is_deleted', ''],
  ['app_hidden.is_waiting(app_public.requests)', 'and r.reviewed_at is null', ''],
  [digests, `where app_private.mail_state_for(u.id, 'DIGEST') = 'QUEUED'`, ''],
  [erase, 'where r.creator_id = person_id and not r.is_deleted', 'where false'],
  [erase, 'where r.assigned_to_id = person_id and app_hidden.is_waiting(r)', 'where false'],
  [erase, 'delete from app_private.credentials c where c.user_id = person_id;', ''],
  [erase, 'delete from app_public.notifications n where n.recipient_id = person_id;', ''],
  [erase, `d.state = 'QUEUED' and`, 'false and'],
  [erase, 'set ip_address = null, user_agent = null', 'set ip_address = null'],
  ['app_private.tg_users__audit()', `when new.erased_at is not null then '{}'`, ''],
  [clear, `o.expires_at < now() - app_private.kept_for('session')`, `o.revoked_at < now() - app_private.kept_for('session')`],
  [keptFor, `interval '24 hours'`, `interval '23 hours'`],
  [clear, `where o.expires_at < now() - app_private.kept_for('password link')`, ''],
  [clear, 'j.attempts >= j.max_attempts and', ''],
  [clear, `and o.state <> 'QUEUED'`, ''],
  [clear, `and o.mail_state <> 'QUEUED'`, ''],
  [keptFor, `interval '30 days'`, `interval '29 days'`],
  [keptFor, `interval '1 year'`, `interval '11 months'`],
  [inboxes, `case when entry.action = 'ASSIGN' then`, 'case when false then'],
  ['app_hidden.count_jobs()', 'and j.locked_at is null', ''],
  ['app_private.random_secret()', '32', '8'],
]

const written: Mutation[] = [
  {
    name: 'a decided request may be decided again',
    sql: `insert into app_public.request_transitions values ('APPROVED', 'REJECT', 'REJECTED', 'DECIDER', '{review_comment}')`,
  },
  {
    name: 'a submitted request may be edited',
    sql: `insert into app_public.request_transitions values ('SUBMITTED', 'UPDATE', 'SUBMITTED', 'CREATOR', '{title}')`,
  },
  {
    name: 'a manager runs as an admin',
    sql: `update app_public.roles set database_role = 'x' where role = 'ADMIN'; update app_public.roles set database_role = 'assent_admin' where role = 'MANAGER'`,
  },
  { name: 'an admin ranks below a manager', sql: `update app_public.roles set level = 0 where role = 'ADMIN'` },
  {
    name: 'the view of permissions runs as its owner',
    sql: 'alter view app_hidden.effective_permissions set (security_invoker = false)',
  },
  {
    name: 'the view of waiting requests runs as its owner',
    sql: 'alter view app_hidden.request_deciders set (security_invoker = false)',
  },
  {
    name: 'a search is planned for any words',
    sql: 'alter function app_hidden.matching_requests(text,text,uuid,uuid,boolean) reset plan_cache_mode',
  },
  { name: 'usage on app_private', sql: 'grant usage on schema app_private to public' },
  { name: 'usage on audit', sql: 'grant usage on schema audit to assent_manager' },
  { name: 'create on app_public', sql: 'grant create on schema app_public to assent_user' },
  { name: 'create on public', sql: 'grant create on schema public to public; grant usage on schema public to public' },
  {
    name: 'functions are for everybody by default',
    sql: 'alter default privileges for role assent_owner grant execute on functions to public',
  },
  { name: 'a new table', sql: 'create table app_public.forgotten ()' },
  { name: 'a new view', sql: 'create view app_hidden.forgotten as select 1 as one' },
  { name: 'a new function', sql: `create function app_public.forgotten() returns integer language sql stable as 'select 1'` },
  { name: 'a new sequence', sql: 'create sequence app_public.forgotten' },
  { name: 'a column that users may write', sql: 'grant update (title) on app_public.requests to assent_user' },
  {
    name: 'the audit trail notices inserts only',
    sql: 'drop trigger _900_audit on app_public.requests; create trigger _900_audit after insert on app_public.requests for each row execute function app_private.tg_requests__audit()',
  },
  {
    name: 'the audit trail refuses row by row',
    sql: 'drop trigger _100_append_only on app_public.audit_logs; create trigger _100_append_only before update or delete on app_public.audit_logs for each row execute function app_private.tg__refuse(); alter table app_public.audit_logs enable always trigger _100_append_only',
  },
  {
    name: 'entries go with their request',
    sql: 'alter table app_public.audit_logs drop constraint audit_logs_request_id_fkey, add constraint audit_logs_request_id_fkey foreign key (request_id) references app_public.requests on delete cascade',
  },
  {
    name: 'decided requests cascade with people',
    sql: 'alter table app_public.requests drop constraint requests_reviewed_by_id_fkey, add constraint requests_reviewed_by_id_fkey foreign key (reviewed_by_id) references app_public.users on delete set null',
  },
  {
    name: 'the API inherits what its roles may',
    sql: 'alter role assent_authenticator inherit',
    undo: 'alter role assent_authenticator noinherit',
  },
  {
    name: 'the API passes row-level security',
    sql: 'alter role assent_authenticator bypassrls',
    undo: 'alter role assent_authenticator nobypassrls',
  },
  {
    name: 'the API may become the owner',
    sql: 'grant assent_owner to assent_authenticator',
    undo: 'revoke assent_owner from assent_authenticator',
  },
  {
    name: 'the API may become the auditor',
    sql: 'grant assent_auditor to assent_authenticator',
    undo: 'revoke assent_auditor from assent_authenticator',
  },
  {
    name: 'users are managers to PostgreSQL',
    sql: 'grant assent_manager to assent_user',
    undo: 'revoke assent_manager from assent_user',
  },
  {
    name: 'admins pass row-level security',
    sql: 'alter role assent_admin bypassrls',
    undo: 'alter role assent_admin nobypassrls',
  },
  {
    name: 'the owner passes row-level security',
    sql: 'alter role assent_owner bypassrls',
    undo: 'alter role assent_owner nobypassrls',
  },
]

export async function mutations(database: pg.Client): Promise<Mutation[]> {
  const { rows } = await database.query(derived)
  const unique = [...new Set<string>(rows.map(({ sql }) => sql))]
  const changed: Mutation[] = []
  for (const [name, piece, by] of edits) changed.push(await edited(database, name, piece, by))
  return [...written, ...changed, ...unique.map((sql) => ({ name: sql, sql }))]
}
