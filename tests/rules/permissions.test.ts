import { createHash } from 'node:crypto'
import {
  openStage,
  people,
  type Actor,
  type Attempt,
  type Person,
  type Row,
  type Situation,
  type Stage,
} from '../harness/stage.ts'

// Who may do what, as the README's table has it. What exists is read from the catalog: a table, a view, a sequence or a function
// that has no line here fails the test. Outcomes: `rows`, `hidden` (no rows, no error), `denied` (42501).

const schemas = `('app_public', 'app_hidden', 'app_private', 'audit')`
const roles = [
  'assent_anonymous',
  'assent_user',
  'assent_manager',
  'assent_admin',
  'assent_auditor',
  'assent_authenticator',
  'assent_worker',
] as const
type Role = (typeof roles)[number]
const people3: Role[] = ['assent_user', 'assent_manager', 'assent_admin']
const persons: Role[] = [...people3, 'assent_auditor']
const callers: Role[] = ['assent_anonymous', ...people3]
/** The worker reads no table, and calls nothing but its jobs. */
const jobs: Role[] = ['assent_worker']
const everybody: Role[] = [...callers, 'assent_auditor', 'assent_authenticator']

/** Who may read each relation at all. Nobody but the owner's functions writes to any. */
const readers: Record<string, Role[]> = {
  'app_public.roles': everybody,
  'app_public.role_permissions': everybody,
  'app_public.request_statuses': everybody,
  'app_public.request_parties': everybody,
  'app_public.request_transitions': everybody,
  'app_public.audit_actions': everybody,
  'app_public.notification_kinds': everybody,
  'app_public.mail_deliveries': everybody,
  'app_public.webhook_events': everybody,
  // For the GraphQL schema's enums.
  'app_public.request_actions': ['assent_authenticator'],
  'app_public.webhook_delivery_states': ['assent_authenticator'],
  'app_public.users': persons,
  'app_public.requests': persons,
  'app_public.audit_logs': persons,
  'app_public.notifications': persons,
  'app_public.notification_preferences': people3, // of kinds alone: the type of what functions return
  'app_public.turnarounds': people3, // of nothing: the type of what a function returns
  'app_public.undelivered_mails': people3,
  'app_public.webhooks': people3,
  'app_public.webhook_deliveries': persons,
  'app_hidden.effective_permissions': ['assent_anonymous', ...persons],
  'app_hidden.deciders': persons,
  'app_hidden.viewers': ['assent_auditor'],
  'app_hidden.request_deciders': persons,
  'app_hidden.audit_log_documents': people3,
  'app_public.attachments': persons,
  'app_public.request_kinds': persons,
  'app_private.applied_rules': [],
  'app_private.people': [],
  'app_private.credentials': [],
  'app_private.refresh_tokens': [],
  'app_private.sessions': [],
  'app_private.login_attempts': [],
  'app_private.idempotency_keys': [],
  'app_private.notification_preferences': [],
  'app_private.password_resets': [],
  'app_private.password_reset_requests': [],
  'app_private.request_texts': [],
  'app_private.files': [],
  'app_private.file_chunks': [],
  'audit.request_history': ['assent_auditor'],
  'audit.person_actions': ['assent_auditor'],
  'audit.actions': ['assent_auditor'],
  'audit.decisions': ['assent_auditor'],
  'audit.colliding_addresses': [],
  'audit.waiting': ['assent_auditor'],
  'audit.turnaround': ['assent_auditor'],
  'audit.ties': ['assent_auditor'],
  'audit.entangled_decisions': ['assent_auditor'],
  'audit.disagreements': ['assent_auditor'],
  'audit.unproven_entries': ['assent_auditor'],
  'audit.webhooks': ['assent_auditor'],
  'audit.mails': ['assent_auditor'],
  'audit.failing_jobs': ['assent_auditor'],
}

/** Who may read some columns of a relation: all but secrets. */
const partly: Record<string, { readonly role: Role; readonly columns: readonly string[] }> = {
  'app_public.webhooks': {
    role: 'assent_auditor',
    columns: ['id', 'events', 'is_enabled', 'failing_since', 'created_at', 'is_deleted'],
  },
}

/** Who may execute each function. */
const executors: Record<string, Role[]> = {
  'app_public.create_request(text,text,uuid,text,jsonb)': people3,
  'app_public.update_request(uuid,text,text,uuid,integer,jsonb)': people3,
  'app_public.save_request_kind(text,text,text,jsonb,boolean)': people3,
  'app_hidden.save_request_kind(text,jsonb)': people3,
  'app_hidden.kind_document(app_public.request_kinds)': people3,
  'app_hidden.given(text,jsonb)': people3,
  'app_hidden.given(text,boolean)': people3,
  'app_public.delete_request(uuid,integer)': people3,
  'app_public.submit_request(uuid,integer)': people3,
  'app_public.approve_request(uuid,text,integer)': people3,
  'app_public.reject_request(uuid,text,integer)': people3,
  'app_public.assign_request(uuid,uuid,integer)': people3,
  'app_public.update_user(uuid,text,text)': people3,
  'app_public.deactivate_user(uuid)': people3,
  'app_public.reactivate_user(uuid)': people3,
  'app_public.resend_invitation(uuid)': people3,
  'app_public.logout()': people3,
  'app_public.end_sessions(uuid)': people3,
  'app_public.request_password_reset(text)': callers,
  'app_public.unread_notification_count()': people3,
  'app_public.mark_notification_read(uuid)': people3,
  'app_public.mark_all_notifications_read()': people3,
  'app_public.my_notification_preferences()': people3,
  'app_public.set_notification_preference(text,text)': people3,
  'app_public.resend_mail(uuid)': people3,
  'app_public.create_webhook(text,text[])': people3,
  'app_public.update_webhook(uuid,text,text[],boolean)': people3,
  'app_public.delete_webhook(uuid)': people3,
  'app_public.resend_webhook_delivery(uuid)': people3,
  'app_public.get_current_user()': callers,
  'app_public.requests_awaiting_my_decision()': people3,
  'app_public.requests_available_actions(app_public.requests)': people3,
  'app_hidden.viewers_of(uuid[],text[])': ['assent_authenticator'],
  'app_public.turnarounds_decider(app_public.turnarounds)': people3,
  'app_public.turnaround(timestamp with time zone,timestamp with time zone)': people3,
  'audit.turnaround_by_decider(timestamp with time zone,timestamp with time zone)': ['assent_auditor'],
  'audit.visible_requests(uuid)': ['assent_auditor'],
  'audit.deciders_at(uuid,timestamp with time zone)': ['assent_auditor'],
  'app_public.requests_waits_for(app_public.requests)': people3,
  'app_public.users_email(app_public.users)': callers,
  'app_public.users_permissions(app_public.users)': callers,
  'app_hidden.authenticate(text)': ['assent_authenticator'],
  'app_hidden.become(text,text)': ['assent_authenticator'],
  'app_hidden.wal_position()': ['assent_authenticator'],
  'app_hidden.await_wal(text,pg_lsn)': ['assent_authenticator'],
  'app_hidden.begin_login(text)': callers,
  'app_hidden.finish_login(uuid,text,text,boolean,text,text)': callers,
  'app_hidden.refresh_session(text)': callers,
  'app_hidden.begin_password_change(text)': people3,
  'app_hidden.own_words(text)': callers,
  'app_hidden.change_password(uuid,text,text,text)': people3,
  'app_hidden.reset_password(text,text,text)': callers,
  'app_hidden.my_session()': people3,
  'app_hidden.my_sessions()': people3,
  'app_hidden.end_session(uuid)': people3,
  'app_hidden.end_other_sessions()': people3,
  'app_hidden.touch_session()': people3,
  'app_hidden.current_user_id()': [...callers, 'assent_auditor'],
  'app_hidden.has_permission(text)': callers,
  'app_hidden.can_decide(uuid,uuid,uuid,boolean)': persons,
  'app_hidden.my_parties(app_public.requests)': people3,
  'app_hidden.actions_of(app_public.requests,text[])': people3,
  'app_hidden.is_waiting(app_public.requests)': persons,
  'app_hidden.waiting_since(timestamp with time zone)': persons,
  'app_hidden.waiting_status()': persons,
  'app_hidden.can_see(uuid,text,boolean,uuid,boolean,boolean)': persons,
  'app_hidden.is_listed(app_public.requests,boolean)': people3,
  'app_hidden.is_listed(app_public.users,boolean)': people3,
  'app_hidden.transition(uuid,text,integer[],jsonb)': people3,
  'app_hidden.act_on_request(uuid,text,integer[],jsonb)': people3,
  'app_hidden.begin_upload(uuid,integer[],boolean)': people3,
  'app_hidden.upload_chunk(uuid,integer,bytea)': people3,
  'app_hidden.drop_upload(uuid)': people3,
  'app_hidden.attach(uuid,integer[],jsonb)': people3,
  'app_hidden.detach(uuid,integer[])': people3,
  'app_hidden.attachment_chunk(uuid,integer)': people3,
  'app_hidden.attachment_document(app_public.attachments)': people3,
  'app_hidden.matching_requests(text,text,uuid,uuid,boolean)': people3,
  'app_hidden.visible_user(uuid)': people3,
  'app_public.create_user(text,text,text)': people3,
  'app_hidden.create_user(text,text,text,text,text)': people3,
  'app_hidden.change_user(app_public.users,jsonb)': people3,
  'app_hidden.change_user(uuid,jsonb)': people3,
  'app_hidden.request_document(app_public.requests)': people3,
  'app_hidden.audit_log_document(app_public.audit_logs)': people3,
  'app_hidden.user_document(app_public.users)': people3,
  'app_hidden.notification_document(app_public.notifications)': people3,
  'app_hidden.assert_ready(text)': ['assent_authenticator'],
  'app_hidden.count_jobs()': ['assent_authenticator'],
  'app_hidden.queue_ages()': ['assent_authenticator'],
  'app_hidden.schema_version()': ['assent_authenticator', 'assent_worker'],
  'app_hidden.claim_idempotency_key(text,bytea[])': people3,
  'app_hidden.keep_answer(text,bytea,json)': people3,
  'app_hidden.left_out()': people3,
  'app_hidden.given(text,text)': people3,
  'app_hidden.given(text,uuid)': people3,
  'app_hidden.expected(integer)': people3,
  'app_hidden.matching_users(text)': people3,
  'app_private.contains_all(text,text[])': [],
  'app_private.folded(text)': [],
  'app_private.normalized(text)': [],
  'app_private.steady()': [],
  'app_private.gram_query(text[])': [],
  'app_private.grams(text)': [],
  'app_private.grams_of(text)': [],
  'app_private.search_terms(text)': [],
  'app_private.searched_requests(uuid,boolean,boolean,text,uuid,uuid,boolean)': [],
  'app_private.searched_text(text,text)': [],
  'app_private.take_turn()': [],
  'app_private.uuid_v7()': [],
  'app_private.password_digest(text)': [],
  'app_private.hash_password(text)': [],
  'app_private.register_user(text,text,text,text)': [],
  'app_private.random_secret()': [],
  'app_private.hash_secret(text)': [],
  'app_private.is_blank(text)': [],
  'app_private.is_live(app_private.sessions)': [],
  'app_private.live_session(text)': [],
  'app_private.require_session()': [],
  'app_private.open_session(uuid,boolean,text)': [],
  'app_private.verify_password(uuid,bytea,uuid,text[])': [],
  'app_private.blanks()': [],
  'app_private.clean_email(text)': [],
  'app_private.email_key(text)': [],
  'app_private.email_for(uuid,uuid,text[])': [],
  'app_private.account_of(text)': [],
  'app_private.tg_credentials__clean_email()': [],
  'app_private.begin_attempt(bytea,cidr)': [],
  'app_private.blocked_until(bytea,cidr,timestamp with time zone)': [],
  'app_private.seconds_until(timestamp with time zone)': [],
  'app_private.change_key()': [],
  'app_private.caller()': [],
  'app_private.current_ip()': [],
  'app_private.account_key(text)': [],
  'app_private.caller_network()': [],
  'app_private.caller_with_permissions()': [],
  'app_private.require_permission(text)': [],
  'app_private.is_visible(uuid)': [],
  'app_private.parties(app_public.requests,uuid,text[])': [],
  'app_private.permitted_transition(app_public.requests,text,integer[])': [],
  'app_private.stamps(app_public.request_transitions)': [],
  'app_private.request_faults(app_public.requests,jsonb)': [],
  'app_private.write_request(app_public.requests,text,jsonb)': [],
  'app_private.person_faults(text,text,text)': [],
  'app_private.keep_an_admin(app_public.users,text,boolean)': [],
  'app_private.violations(regclass,jsonb)': [],
  'app_private.type_faults(jsonb,regclass)': [],
  'app_private.raise_faults(jsonb)': [],
  'app_private.raise_refusal(jsonb,text,text,text)': [],
  'app_private.log_action(text,uuid,uuid,jsonb,uuid,uuid)': [],
  'app_private.refuse_weakness(text,text)': [],
  'app_private.changes(jsonb,jsonb)': [],
  'app_private.changed_fields(jsonb,jsonb)': [],
  'app_private.is_by_sql()': [],
  'app_private.deciders_to_notify(uuid)': [],
  'app_private.recipients(app_public.audit_logs)': [],
  'app_private.dispatch(uuid)': jobs,
  'app_private.notify(uuid)': [],
  'app_private.announce_inboxes(app_public.audit_logs)': [],
  'app_private.queue_deliveries(app_public.audit_logs)': [],
  'app_private.origin(text)': ['assent_auditor'], // likewise
  'app_private.webhook_payload(app_public.audit_logs,text)': [],
  'app_private.delivery_lock(uuid)': [],
  'app_private.begin_delivery(uuid)': [],
  'app_private.delivery_done(uuid,integer)': [],
  'app_private.delivery_failed(uuid,integer,text,boolean)': jobs,
  'app_private.audit_webhook(text,app_public.webhooks,jsonb)': [],
  'app_private.mail_state_for(uuid,text)': [],
  'app_private.mail_lock(uuid)': [],
  'app_private.outbox_lock(uuid)': [],
  'app_private.lock_outbox(uuid)': jobs,
  'app_private.unlock_outbox(uuid)': jobs,
  'app_private.mail_to_send(uuid,text)': jobs,
  'app_private.delivery_to_send(uuid)': jobs,
  'app_private.delivery_sent(uuid,integer)': jobs,
  'app_private.has_to_decide(uuid)': [],
  'app_private.is_invited_again(uuid,text)': [],
  'app_private.is_pointless(app_public.notifications)': [],
  'app_private.digest_document(uuid)': [],
  'app_private.mail_document(app_public.notifications)': [],
  'app_private.begin_mail(uuid,text)': [],
  'app_private.mail_sent(uuid,uuid[])': jobs,
  'app_private.mail_failed(uuid,text,boolean)': jobs,
  'app_private.begin_password_reset(text,text)': jobs,
  'app_private.job_payload(uuid)': [],
  'app_private.issue_reset_token(uuid,interval)': [],
  'app_private.is_invitation(text)': [],
  'app_private.require_management_of(uuid)': [],
  'app_private.reminder_interval()': [],
  'app_private.remind()': jobs,
  'app_private.make_digests(date)': jobs,
  'app_private.clear_away()': jobs,
  'app_private.clear_batch()': jobs,
  'app_private.kept_for(text)': [],
  'app_private.extend_trail()': jobs,
  'app_private.trail_extends_to()': [],
  'app_private.guard_month(regclass)': [],
  'app_private.sweep_files()': jobs,
  'app_private.keep_file(uuid,text)': [],
  'app_private.most_attachments()': [],
  'app_private.require_room(uuid,integer)': [],
  'app_private.upload_patience()': [],
  'app_private.failing_jobs()': ['assent_auditor'], // by the view of the same name: they do not enter the schema
  'app_private.json_types(jsonb)': [],
  'app_private.data_fault(jsonb,jsonb)': [],
  'app_private.data_faults(jsonb,jsonb,text)': [],
  'app_private.data_faults_of(app_public.requests)': [],
  'app_private.is_pattern(text)': [],
  'app_private.keyword_fault(text,jsonb)': [],
  'app_private.schema_faults(jsonb,text,integer)': [],
  'app_private.tg__refuse()': [],
  'app_private.tg_requests__hold_to_kind()': [],
  'app_private.tg_request_kinds__check_schema()': [],
  'app_private.tg_request_kinds__audit()': [],
  'app_private.tg_requests__guard()': [],
  'app_private.tg_requests__keep_text()': [],
  'app_private.tg_requests__audit()': [],
  'app_private.tg_attachments__audit()': [],
  'app_private.tg_users__audit()': [],
  'app_private.tg_users__keep_an_admin()': [],
  'app_private.tg_users__end_sessions()': [],
  'app_private.tg_users__stay_erased()': [],
  'app_private.erase_person(uuid)': [],
  'app_private.tg_audit_logs__dispatch()': [],
  'app_private.tg_notifications__mail()': [],
  'app_private.tg_webhook_deliveries__deliver()': [],
  'app_private.tg_webhooks__check_events()': [],
  'app_private.tg_notifications__announce()': [],
  'app_private.tg_requests__announce()': [],
  'app_private.tg_sessions__announce()': [],
  'app_private.tg_credentials__end_resets()': [],
  'app_private.log_sql(text,text,uuid,jsonb)': [],
  'app_private.tg__audit_permissions()': [],
  'app_private.tg__audit_sql()': [],
  'app_private.tg_audit_logs__stamp()': [],
  'app_private.tg_credentials__audit()': [],
  'app_private.tg_notification_preferences__audit()': [],
  'app_private.tg_password_reset_requests__audit()': [],
  'app_private.tg_password_resets__audit()': [],
  'app_private.tg_sessions__audit()': [],
  'app_private.tg_webhooks__audit()': [],
}

let stage: Stage
let situations: Situation[]
const all = async (statement: string): Promise<Row[]> => (await stage.root.query(statement)).rows

beforeAll(async () => {
  stage = await openStage()
  situations = []
  for (const creator of ['user', 'user2', 'manager', 'manager2', 'admin'] as const) {
    for (const status of ['DRAFT', 'SUBMITTED', 'APPROVED', 'REJECTED', 'DELETED'] as const) {
      for (const assignee of [null, 'manager', 'manager2', 'gone', 'demoted'] as const) {
        if (assignee !== creator) situations.push(await stage.request({ creator, assignee, status }))
      }
    }
  }
  // People who are gone, but not from what they did, or not from what somebody can see.
  situations.push(await stage.request({ creator: 'user', assignee: null, status: 'REJECTED', reviewer: 'left' }))
  situations.push(await stage.request({ creator: 'user', assignee: 'idle', status: 'DELETED' }))
  situations.push(await stage.request({ creator: 'idler', assignee: null, status: 'DRAFT' }))
  await stage.root.query(`
    insert into app_public.audit_logs (actor_id, action, user_id)
    select case when a.action <> 'LOGIN_FAILED' then u.id end, a.action, u.id
    from app_public.users u cross join (values ('LOGIN'), ('LOGIN_FAILED'), ('LOGOUT')) a (action)`)
  await stage.root.query(`insert into app_public.audit_logs (action) values ('LOGIN_FAILED')`)
  await stage.root.query(`insert into app_private.login_attempts (account_key, network) values ('\\x00', '192.0.2.1')`)
  await stage.rows('user', `select app_hidden.keep_answer('key', '\\x00', '{}')`)
  const draft = situations.find(({ creator, status }) => creator === 'user' && status === 'DRAFT')!
  const [file] = await stage.rows('user', `select app_hidden.begin_upload('${draft.id}', null, false) as id`)
  await stage.rows('user', `select app_hidden.upload_chunk('${file!['id']}', 0, '\\x00')`)
  await stage.rows(
    'user',
    `select app_hidden.attach('${file!['id']}', null, '${JSON.stringify({
      name: 'evidence',
      media_type: 'application/octet-stream',
      sha256: createHash('sha256').update('\0').digest('hex'),
    })}')`,
  )
  await stage.rows('manager', `select app_public.set_notification_preference('SUBMITTED', 'NONE')`)
  await stage.root.query(`select app_private.issue_reset_token($1, '30 minutes')`, [stage.id.user])
  await stage.root.query(
    `insert into app_private.refresh_tokens (token_hash, session_id, is_used, good_until)
     select '\\x00', id, true, now() from app_private.sessions limit 1`,
  )
  await stage.root.query(`insert into app_private.password_reset_requests (account_key) values ('\\x00')`)
  await stage.rows('admin', `select app_public.create_webhook('https://example.test/', '{user.created,request.approved}')`)
  // What all of that was told of; and to everybody something of each kind, whose mail has failed or was not wanted.
  await stage.root.query('select app_private.dispatch(id) from app_public.audit_logs')
  await stage.root.query(`
    insert into app_public.notifications (recipient_id, kind, event, mail_state, mail_error)
    select u.id, k.kind, format('%s %s', k.kind, s.state), s.state, 'refused'
    from app_public.users u, app_public.notification_kinds k, (values ('NONE'), ('FAILED')) s (state)`)
  await stage.retire()
})
afterAll(() => stage?.close())

describe('relations', () => {
  const relations = () =>
    all(`
    select format('%I.%I', n.nspname, c.relname) as name, c.relkind as kind, c.oid,
      (select quote_ident(attname) from pg_attribute where attrelid = c.oid and attnum = 1) as column
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname in ${schemas} and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and not c.relispartition order by 1`)

  test('every relation there is has its line, and every line its relation', async () => {
    expect((await relations()).map(({ name }) => name)).toEqual(Object.keys(readers).sort())
  })

  test('the catalog grants what the lines say, and PUBLIC nothing', async () => {
    const granted = await all(`
      select concat(format('%I.%I', n.nspname, c.relname), acl.column) as name, coalesce(grantee::regrole::text, '?') as role, privilege_type as privilege
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
      cross join lateral (
        select null as column, x.* from aclexplode(c.relacl) x
        union all select '.' || a.attname, x.* from pg_attribute a cross join lateral aclexplode(a.attacl) x where a.attrelid = c.oid
      ) acl
      where n.nspname in ${schemas} and acl.grantee <> c.relowner`)
    const expected = [
      ...Object.entries(readers).flatMap(([name, who]) => who.map((role) => `${role} SELECT ${name}`)),
      ...Object.entries(partly).flatMap(([name, { role, columns }]) =>
        columns.map((column) => `${role} SELECT ${name}.${column}`),
      ),
    ]
    expect(granted.map(({ name, role, privilege }) => `${role} ${privilege} ${name}`).sort()).toEqual(expected.sort())
  })

  test('every table has row-level security, and forces it on its owner', async () => {
    expect(
      await all(`
      select c.oid::regclass::text as name, c.relrowsecurity as enabled from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where n.nspname in ${schemas} and c.relkind in ('r', 'p') and not (c.relrowsecurity and c.relforcerowsecurity)`),
    ).toEqual([{ name: 'app_public.requests', enabled: true }]) // whose owner is to search them: rules/visibility.sql
  })

  test.each(roles)('%s selects from what the lines say, and writes nowhere', async (role) => {
    const found = await relations()
    const writes = ['insert', 'update', 'delete', 'truncate'] as const
    const outcomes = await stage.attempts(
      found.flatMap(({ name, column }) =>
        [
          `select 1 from ${name}`,
          `insert into ${name} default values`,
          `update ${name} set ${column} = default`,
          `delete from ${name}`,
          `truncate ${name} cascade`,
        ].map((statement): Attempt => ({ actor: 'anonymous', role, statement })),
      ),
    )
    found.forEach(({ name, kind }, i) => {
      const [select, ...written] = outcomes.slice(i * 5, i * 5 + 5).map(({ code }) => code)
      const reads = readers[name]?.includes(role) || partly[name]?.role === role
      expect({ name, select }).toEqual({ name, select: reads ? null : '42501' })
      if (reads && readers[name] === everybody) expect({ name, rows: outcomes[i * 5]!.count > 0 }).toEqual({ name, rows: true })
      // A view over a join cannot be written by anybody (55000), and no view be truncated (42809).
      const impossible = kind === 'v' ? ['42501', '55000', '42809'] : ['42501']
      written.forEach((code, j) =>
        expect({ name, write: writes[j], refused: impossible.includes(code ?? 'done') }).toEqual({
          name,
          write: writes[j],
          refused: true,
        }),
      )
    })
  })

  test('the owner, whose functions do the work, reads every table; what is evidence it does not change', async () => {
    const tables = (await relations()).filter(({ kind }) => kind === 'r' || kind === 'p')
    const evidence = ['app_public.audit_logs', 'app_public.request_kinds', 'app_public.requests', 'app_public.users']
    for (const { name, column } of tables) {
      const [select, update, remove, truncate] = await stage.attempts(
        [
          `select from ${name}`,
          `update ${name} set ${column} = ${column}`,
          `delete from ${name} where false`,
          `truncate ${name} cascade`,
        ].map((statement): Attempt => ({ actor: 'owner', statement })),
      )
      expect({ name, rows: select!.count > 0 }).toEqual({ name, rows: true })
      const kept = ['app_public.audit_logs', 'app_public.requests', 'app_public.attachments'].includes(name)
      expect({ name, update: update!.code, all: update!.count }).toEqual({
        name,
        update: kept ? 'RQ403' : null,
        all: kept ? 0 : select!.count,
      })
      expect({ name, remove: remove!.code }).toEqual({ name, remove: evidence.includes(name) ? 'RQ403' : null })
      if (evidence.includes(name)) expect(truncate!.code).toBe('RQ403')
    }
  })

  test('no role but the owner owns or creates anything', async () => {
    const made = await stage.attempts(
      roles.flatMap((role) =>
        ['app_public', 'app_hidden', 'app_private', 'audit', 'public', 'pg_temp'].map((schema): Attempt => ({
          actor: 'anonymous',
          role,
          statement: `create table ${schema}.mine ()`,
        })),
      ),
    )
    expect(new Set(made.map(({ code }) => code))).toEqual(new Set(['42501']))
    expect(
      await all(`
      select c.oid::regclass from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where n.nspname in ${schemas} and c.relowner <> 'assent_owner'::regrole`),
    ).toEqual([])
  })

  test("no role is a member of another, but the API's login of those that a request can run as, without inheriting", async () => {
    const members = await all(`
      select m.member::regrole::text as member, m.roleid::regrole::text as role from pg_auth_members m
      where (m.member::regrole::text like 'assent%' or m.roleid::regrole::text like 'assent%') order by 2`)
    expect(members).toEqual(
      ['assent_admin', 'assent_anonymous', 'assent_manager', 'assent_user'].map((role) => ({
        member: 'assent_authenticator',
        role,
      })),
    )
    expect(
      await all(`
      select rolname as role, rolcanlogin as logs_in, rolinherit as inherits from pg_roles
      where rolname like 'assent%' and not (rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls) order by 1`),
    ).toEqual([
      { role: 'assent_admin', logs_in: false, inherits: true },
      { role: 'assent_anonymous', logs_in: false, inherits: true },
      { role: 'assent_auditor', logs_in: true, inherits: true }, // the embedded database's; elsewhere people log in as members
      { role: 'assent_authenticator', logs_in: true, inherits: false },
      { role: 'assent_manager', logs_in: false, inherits: true },
      { role: 'assent_owner', logs_in: true, inherits: true },
      { role: 'assent_user', logs_in: false, inherits: true },
      { role: 'assent_worker', logs_in: true, inherits: true }, // likewise
    ])
  })

  test('who may enter a schema', async () => {
    const entered = await all(`
      select r.role, n.nspname as schema from unnest(array['${roles.join("','")}']) r (role)
      join pg_namespace n on n.nspname in ${schemas} and has_schema_privilege(r.role, n.oid, 'usage') order by 1, 2`)
    expect(entered.map(({ role, schema }) => `${role} ${schema}`)).toEqual(
      [
        ...everybody.flatMap((role) => [`${role} app_hidden`, `${role} app_public`]),
        'assent_auditor audit',
        'assent_worker app_hidden',
        'assent_worker app_private',
      ].sort(),
    )
  })
})

describe('functions', () => {
  const functions = () =>
    all(`
    select p.oid::regprocedure::text as name, format('%I.%I', n.nspname, p.proname) as function,
      array(select format_type(t, null) from unnest(p.proargtypes) t) as types, p.prosecdef as definer, p.proconfig as config
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname in ${schemas} and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e') order by 1`)

  test('every function there is has its line, and every line its function', async () => {
    expect((await functions()).map(({ name }) => name).sort()).toEqual(Object.keys(executors).sort())
  })

  test('the catalog grants what the lines say, and PUBLIC nothing', async () => {
    const granted = await all(`
      select p.oid::regprocedure::text as name, acl.grantee, case acl.grantee when 0 then 'public' else acl.grantee::regrole::text end as role
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace
      cross join lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) acl
      where n.nspname in ${schemas} and acl.grantee <> p.proowner
        and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')`)
    const expected = Object.entries(executors).flatMap(([name, who]) => who.map((role) => `${role} ${name}`))
    expect(granted.map(({ name, role }) => `${role} ${name}`).sort()).toEqual(expected.sort())
  })

  test.each(roles)('%s executes what the lines say: called in earnest', async (role) => {
    const found = await functions()
    const outcomes = await stage.attempts(
      found.map(({ function: called, types }): Attempt => ({
        actor: 'anonymous',
        role,
        statement: `select ${called}(${types.map((type: string) => `null::${type}`).join(', ')})`,
      })),
    )
    const denied = found.filter((_, i) => outcomes[i]!.code === '42501').map(({ name }) => name)
    const outside = ({ name }: Row) =>
      (name.startsWith('app_private.') && role !== 'assent_worker') || !executors[name]?.includes(role)
    expect(denied).toEqual(found.filter(outside).map(({ name }) => name))
  })

  test('a new function of the owner is for nobody until it is granted', async () => {
    await stage.root.query('begin; set local role assent_owner')
    await stage.root.query(`create function app_public.quite_new() returns integer language sql stable as 'select 1'`)
    const made = await all(
      `select has_function_privilege(r, 'app_public.quite_new()', 'execute') as may from unnest(array['${roles.join("','")}']) r`,
    )
    await stage.root.query('rollback')
    expect(made).toEqual(roles.map(() => ({ may: false })))
  })

  test('those that run as their owner fix where they look', async () => {
    expect(
      (await functions()).filter(({ definer, config }) => definer && !config?.includes('search_path=pg_catalog, pg_temp')),
    ).toEqual([])
  })
})

describe('rows', () => {
  type Outcome = 'rows' | 'hidden' | 'denied'
  const actors: Actor[] = [
    'anonymous',
    'authenticator',
    'user',
    'user2',
    'demoted',
    'manager',
    'manager2',
    'admin',
    'admin2',
    'auditor',
    'owner',
  ]
  const seesAll: Actor[] = ['admin', 'admin2', 'auditor', 'owner']
  const managers: Actor[] = ['manager', 'manager2']
  const nobody: Actor[] = ['anonymous', 'authenticator']

  /** Selects each row by its key as each actor; what differs from `sees`, and how often each outcome was met. */
  async function matrix(table: string, sees: (actor: Actor, row: Row) => boolean, key = 'id') {
    const rows = await all(`select * from ${table}`) // a superuser's: so each row, hidden or not, exists
    const wrong: string[] = []
    const met: Record<string, Set<Outcome>> = {}
    for (const actor of actors) {
      const outcomes = await stage.attempts(
        [...rows.map((row) => `where ${key} = '${row[key]}'`), ''].map((where) => ({
          actor,
          statement: `select from ${table} ${where}`,
        })),
      )
      const total = outcomes.pop()!
      met[actor] = new Set()
      outcomes.forEach(({ code, count }, i) => {
        const got: Outcome = code === '42501' ? 'denied' : count === 1 ? 'rows' : 'hidden'
        const want: Outcome = nobody.includes(actor) ? 'denied' : sees(actor, rows[i]!) ? 'rows' : 'hidden'
        met[actor]!.add(got)
        if (got !== want || (code && code !== '42501')) wrong.push(`${actor}: ${got}, not ${want}: ${JSON.stringify(rows[i])}`)
      })
      // Neither does a scan of the table find more than the look-ups did.
      if (!nobody.includes(actor))
        expect({ actor, total: total.count }).toEqual({ actor, total: rows.filter((row) => sees(actor, row)).length })
    }
    return {
      wrong,
      met: Object.fromEntries(Object.entries(met).map(([actor, outcomes]) => [actor, [...outcomes].sort().join(' ')])),
    }
  }

  const isMe = (actor: Actor, id: string | null) =>
    (people as readonly string[]).includes(actor) && stage.id[actor as Person] === id

  function seesRequest(actor: Actor, row: Row): boolean {
    if (seesAll.includes(actor)) return true
    if (row['is_deleted']) return false
    return isMe(actor, row['creator_id']) || (managers.includes(actor) && row['status'] !== 'DRAFT')
  }

  test("requests: one's own; a manager all but drafts; an admin all", async () => {
    const { wrong, met } = await matrix('app_public.requests', seesRequest)
    expect(wrong).toEqual([])
    expect(met).toEqual({
      anonymous: 'denied',
      authenticator: 'denied',
      user: 'hidden rows',
      user2: 'hidden rows',
      demoted: 'hidden',
      manager: 'hidden rows',
      manager2: 'hidden rows',
      admin: 'rows',
      admin2: 'rows',
      auditor: 'rows',
      owner: 'rows',
    })
    expect(situations.length).toBe((await all('select from app_public.requests')).length)
  })

  async function requests(): Promise<Map<string, Row>> {
    return new Map((await all('select * from app_public.requests')).map((row) => [row['id'], row]))
  }

  test("notifications: one's own, whoever one is, but for those that are only mailed; an auditor all", async () => {
    const all: Actor[] = ['auditor', 'owner']
    const { wrong, met } = await matrix(
      'app_public.notifications',
      (actor, row) =>
        all.includes(actor) || (isMe(actor, row['recipient_id']) && !['DIGEST', 'INVITATION'].includes(row['kind'])),
    )
    expect(wrong).toEqual([])
    for (const actor of ['user', 'user2', 'demoted', 'manager', 'admin', 'admin2']) expect(met[actor]).toBe('hidden rows')
  })

  test("mails that were not delivered: an admin everybody's; what has not failed, nobody", async () => {
    const failed = await all(`select id from app_public.notifications where mail_state = 'FAILED'`)
    for (const actor of ['user', 'demoted', 'manager', 'admin', 'admin2'] as const) {
      const { code, rows } = await stage.attempt(actor, 'select * from app_public.undelivered_mails', { fetch: true })
      const seen = actor.startsWith('admin') ? failed : []
      expect({ actor, code, ids: rows.map(({ id }) => id).sort() }).toEqual({
        actor,
        code: null,
        ids: seen.map(({ id }) => id).sort(),
      })
    }
  })

  test.each(['app_public.webhooks', 'app_public.webhook_deliveries'])('%s: an admin and an auditor all', async (table) => {
    const { wrong, met } = await matrix(table, (actor) => seesAll.includes(actor))
    expect(wrong).toEqual([])
    expect(met).toMatchObject({ user: 'hidden', manager: 'hidden', admin: 'rows', auditor: 'rows' })
  })

  test("a webhook's key: an admin", async () => {
    const read = 'select signing_key from app_public.webhooks'
    for (const actor of actors) {
      const { code, rows } = await stage.attempt(actor, read, { fetch: true })
      const [denied, seen] = [[...nobody, 'auditor'].includes(actor), ['admin', 'admin2', 'owner'].includes(actor)]
      expect({ actor, code, seen: rows.length > 0 }).toEqual({ actor, code: denied ? '42501' : null, seen })
    }
  })

  test.each(['assent_manager', 'assent_admin'])(
    'who merely sets the role %s has no notification, mail or webhook',
    async (role) => {
      for (const actor of ['anonymous', 'user'] as const) {
        for (const relation of ['notifications', 'undelivered_mails', 'webhooks', 'webhook_deliveries']) {
          const { code, count } = await stage.attempt(actor, `select from app_public.${relation}`, { role })
          expect({ relation, code, count }).toEqual({ relation, code: null, count: 0 })
        }
      }
    },
  )

  test("audit entries: of one's own requests and actions; a manager of visible requests; an admin all", async () => {
    const byId = await requests()
    const { wrong, met } = await matrix('app_public.audit_logs', (actor, row) => {
      if (seesAll.includes(actor) || isMe(actor, row['actor_id'])) return true
      const request = byId.get(row['request_id'])
      if (!request) return false
      return managers.includes(actor) ? seesRequest(actor, request) : isMe(actor, request['creator_id'])
    })
    expect(wrong).toEqual([])
    expect(
      new Set(
        Object.entries(met)
          .filter(([actor]) => !seesAll.includes(actor as Actor) && !nobody.includes(actor as Actor))
          .map(([, outcomes]) => outcomes),
      ),
    ).toEqual(new Set(['hidden rows']))
  })

  test('people: everybody, to everybody who is logged in', async () => {
    const { wrong, met } = await matrix('app_public.users', () => true)
    expect(wrong).toEqual([])
    expect(met).toMatchObject({ anonymous: 'denied', user: 'rows', demoted: 'rows', manager: 'rows', admin: 'rows' })
    for (const role of people3)
      expect(await stage.attempt('anonymous', 'select from app_public.users', { role })).toMatchObject({ code: null, count: 0 })
  })

  test('people in lists: the active; an admin those deactivated too, on request', async () => {
    const names = new Map(Object.entries(stage.id).map(([name, id]) => [id, name]))
    const listed = async (actor: Actor, asked: boolean) =>
      (
        await stage.attempt(actor, `select id from app_public.users u where app_hidden.is_listed(u, ${asked})`, { fetch: true })
      ).rows
        .map(({ id }) => names.get(id))
        .sort()
    const active = people.filter((name) => !['gone', 'left', 'idle', 'idler'].includes(name)).sort()
    for (const actor of ['user', 'manager', 'admin'] as const) expect(await listed(actor, false)).toEqual(active)
    for (const actor of ['user', 'manager'] as const) expect(await listed(actor, true)).toEqual(active)
    expect(await listed('admin', true)).toEqual([...people].sort())
  })

  test('requests in lists: deleted ones only on request, and then only to whoever sees them', async () => {
    const deleted = async (actor: Actor, asked: boolean) =>
      (await stage.attempt(actor, `select from app_public.requests r where r.is_deleted and app_hidden.is_listed(r, ${asked})`))
        .count
    for (const actor of ['user', 'manager', 'admin'] as const) expect(await deleted(actor, false)).toBe(0)
    for (const actor of ['user', 'manager'] as const) expect(await deleted(actor, true)).toBe(0)
    expect(await deleted('admin', true)).toBeGreaterThan(0)
  })

  test("email addresses: one's own; a manager and an admin everybody's", async () => {
    for (const actor of ['user', 'user2', 'demoted', 'manager', 'manager2', 'admin'] as const) {
      const { rows } = await stage.attempt(
        actor,
        'select id, app_public.users_email(u) as email, name, role from app_public.users u',
        { fetch: true },
      )
      expect(rows.length).toBeGreaterThan(1)
      for (const { id, email, name, role } of rows) {
        const known = ['manager', 'manager2', 'admin'].includes(actor) || isMe(actor, id)
        expect({ name, email }).toEqual({ name, email: known ? expect.stringMatching(/@assent\.test$/) : null })
        expect(role).toMatch(/^(USER|MANAGER|ADMIN)$/)
      }
    }
  })

  test.each([
    ['user', 'user2'],
    ['manager', 'idler'],
  ] as const)('%s does not have more of an address by making up the row of %s', async (actor, hidden) => {
    const { rows } = await stage.attempt(
      actor,
      `select app_public.users_email(u) as email
      from jsonb_populate_record(null::app_public.users, '{"id": "${stage.id[hidden]}", "role": "ADMIN"}') u`,
      { fetch: true },
    )
    const { rows: honest } = await stage.attempt(
      actor,
      `select app_public.users_email(u) as email from app_public.users u where u.id = '${stage.id[hidden]}'`,
      { fetch: true },
    )
    expect(rows).toEqual(honest)
    expect(honest).toEqual([{ email: actor === 'user' ? null : `${hidden}@assent.test` }])
  })

  test.each([
    'app_private.sessions',
    'app_private.credentials',
    'app_private.login_attempts',
    'app_private.idempotency_keys',
    'app_private.notification_preferences',
    'app_private.password_resets',
    'app_private.password_reset_requests',
    'app_private.request_texts',
  ])('%s: nobody', async (table) => {
    expect((await all(`select from ${table}`)).length).toBeGreaterThan(0)
    for (const actor of actors.filter((one) => one !== 'owner')) {
      const outcomes = await stage.attempts(
        ['select 1 from', 'delete from', 'truncate'].map((command) => ({ actor, statement: `${command} ${table}` })),
      )
      expect({ actor, codes: outcomes.map(({ code }) => code) }).toEqual({ actor, codes: ['42501', '42501', '42501'] })
    }
  })

  test('the derived views show no more than what they derive from', async () => {
    const deciders = await all(`select id from app_public.users where role <> 'USER' and not is_deleted order by 1`)
    for (const actor of ['user', 'manager', 'admin', 'auditor'] as const) {
      const [who, waiting] = await stage.attempts([
        { actor, fetch: true, statement: 'select user_id as id from app_hidden.deciders order by 1' },
        {
          actor,
          fetch: true,
          statement:
            'select distinct (request).id, (request).creator_id, (request).is_deleted, (request).status from app_hidden.request_deciders',
        },
      ])
      expect(who!.rows).toEqual(deciders)
      const submitted = (await all(`select * from app_public.requests where status = 'SUBMITTED'`)).filter((row) =>
        seesRequest(actor, row),
      )
      expect(waiting!.rows.map(({ id }) => id).sort()).toEqual(submitted.map(({ id }) => id).sort())
    }
  })

  // REST's documents are made as the owner: of a row that one sees, with everybody on it.
  test.each([
    ['request_document', 'requests', ['creator', 'assigned_to', 'reviewed_by']],
    ['audit_log_document', 'audit_logs', ['actor']],
    ['user_document', 'users', []],
  ])('%s shows each row of %s that one sees', async (made, table, named) => {
    for (const actor of ['user', 'user2', 'manager', 'manager2', 'admin'] as const) {
      const statement = `select to_jsonb(t) as row, app_hidden.${made}(t) as document from app_public.${table} t`
      const { rows } = await stage.attempt(actor, statement, { fetch: true })
      expect(rows.length).toBeGreaterThan(0)
      for (const { row, document } of rows) {
        expect(document.id).toBe(row.id)
        const people = named.map((who) => document[who] && [document[who].id, Object.keys(document[who])])
        expect(people).toEqual(named.map((who) => row[`${who}_id`] && [row[`${who}_id`], ['id', 'name', 'role']]))
      }
    }
  })

  test('audit_log_documents shows the entries that one sees and no others, each with its actor', async () => {
    for (const actor of ['user', 'user2', 'demoted', 'manager', 'manager2', 'admin'] as const) {
      const [documents, entries] = await stage.attempts(
        [
          'select id, document from app_hidden.audit_log_documents order by id',
          'select id, actor_id from app_public.audit_logs order by id',
        ].map((statement) => ({ actor, statement, fetch: true })),
      )
      expect(entries!.rows.length).toBeGreaterThan(0)
      const shown = documents!.rows.map(({ id, document }) => [id, document.id, document.actor?.id ?? null])
      expect(shown).toEqual(entries!.rows.map(({ id, actor_id }) => [id, id, actor_id]))
    }
  })

  test('notification_document names the request and the actor that one sees, of a row made up, too', async () => {
    for (const actor of ['user', 'user2', 'demoted', 'manager', 'admin'] as const) {
      const statement = `select to_jsonb(n) as row, app_hidden.notification_document(n) as document from (
          select * from app_public.notifications
          union all
          select (jsonb_populate_record(null::app_public.notifications, jsonb_build_object('request_id', r.id, 'actor_id', r.actor))).*
          from jsonb_to_recordset('${JSON.stringify(situations.map(({ id, creator }) => ({ id, actor: stage.id[creator] })))}') r (id uuid, actor uuid)
        ) n`
      const outcomes = await stage.attempts(
        [statement, 'select id from app_public.requests', 'select id from app_public.users'].map((sent) => ({
          actor,
          statement: sent,
          fetch: true,
        })),
      )
      const [rows, requests, persons] = outcomes.map((outcome) => outcome.rows) as [Row[], Row[], Row[]]
      const [visible, known] = [new Set(requests.map(({ id }) => id)), new Set(persons.map(({ id }) => id))]
      expect(rows.length).toBeGreaterThan(situations.length)
      for (const { row, document } of rows) {
        expect(Object.keys(document).sort()).toEqual(['actor', 'created_at', 'id', 'kind', 'read_at', 'request'])
        expect(document).toMatchObject({ id: row.id, kind: row.kind })
        const [request, actorId] = [
          visible.has(row.request_id) ? row.request_id : undefined,
          known.has(row.actor_id) ? row.actor_id : undefined,
        ]
        expect([document.request?.id, document.actor?.id]).toEqual([request, actorId])
      }
    }
  })

  test.each([
    ['request_document', 'requests', { available_actions: [] }],
    ['audit_log_document', 'audit_logs', {}],
  ])('%s shows of a made-up row of %s what was made up, and nothing without a session', async (made, table, derived) => {
    const rows = await all(`select id from app_public.${table}`)
    const statement = (id: string) =>
      `select app_hidden.${made}(t) as document from jsonb_populate_record(null::app_public.${table}, '{"id": "${id}"}') t`
    const outcomes = await stage.attempts(rows.map(({ id }) => ({ actor: 'user', fetch: true, statement: statement(id) })))
    outcomes.forEach(({ rows: [row] }, i) => {
      const told = Object.entries(row!['document']).filter(([, value]) => value !== null)
      expect(Object.fromEntries(told)).toEqual({ id: rows[i]!['id'], ...derived })
    })
    for (const role of people3) {
      for (const actor of ['anonymous', 'user'] as const) {
        if (actor === 'user' && role === 'assent_user') continue
        const outcome = await stage.attempt(actor, statement(rows[0]!['id']), { role, fetch: true })
        expect(outcome).toMatchObject({ code: null, rows: [{ document: null }] })
      }
    }
  })

  test("a person's document has their address for whom it is for", async () => {
    for (const actor of ['user', 'manager', 'admin'] as const) {
      const statement = 'select app_hidden.user_document(u) as document from app_public.users u'
      const { rows } = await stage.attempt(actor, statement, { fetch: true })
      const addressed = rows.filter(({ document }) => document.email !== null).map(({ document }) => document.id)
      expect(addressed.sort()).toEqual(actor === 'user' ? [stage.id.user] : rows.map(({ document }) => document.id).sort())
    }
  })

  test('the deactivated see nothing any more', async () => {
    for (const actor of ['gone', 'left', 'idle', 'idler'] as const) {
      expect((await stage.attempt(actor, 'select from app_public.requests')).code).toBe('RQ401')
    }
  })

  test('permissions are rows: each role has its own and those of the roles below', async () => {
    const { rows } = await stage.attempt(
      'admin',
      `select role, array_agg(permission order by permission) as permissions
      from app_hidden.effective_permissions group by role order by role`,
      { fetch: true },
    )
    const user = ['request.create']
    const manager = [...user, 'request.decide', 'request.read', 'user.read_email']
    const admin = [
      ...manager,
      'audit.read_all',
      'request.assign_any',
      'request.decide_any',
      'request.read_all',
      'user.manage',
      'kind.manage',
      'mail.manage',
      'webhook.manage',
    ]
    expect(rows).toEqual([
      { role: 'ADMIN', permissions: admin.sort() },
      { role: 'MANAGER', permissions: manager.sort() },
      { role: 'USER', permissions: user },
    ])
  })

  // A permission that is taken away is gone at once; so each is what opens the door, and not the name of the role.
  test.each([
    ['request.create', 'user', `select app_public.create_request('T')`, 'RQ403'],
    ['request.read', 'manager', 'select from app_public.requests r where r.creator_id <> app_hidden.current_user_id()', 0],
    ['request.decide', 'manager', 'select from app_public.requests_awaiting_my_decision()', 0],
    ['request.decide', 'user', `select from app_hidden.deciders`, 0],
    ['request.read_all', 'admin', 'select from app_public.requests', 0],
    ['audit.read_all', 'admin', 'select from app_public.audit_logs', 0],
    ['request.read', 'manager', `select from unnest(app_hidden.matching_requests('user2''s', null, null, null))`, 0],
    ['user.manage', 'admin', 'select from app_public.users u where u.is_deleted and app_hidden.is_listed(u, true)', 0],
    ['kind.manage', 'admin', `select app_public.save_request_kind('NEW', 'New')`, 'RQ403'],
    ['mail.manage', 'admin', 'select from app_public.undelivered_mails', 0],
    ['mail.manage', 'admin', `select app_public.resend_mail('$failed')`, 'RQ404'],
    ['webhook.manage', 'admin', 'select from app_public.webhooks', 0],
    ['webhook.manage', 'admin', 'select from app_public.webhook_deliveries', 0],
    ['webhook.manage', 'admin', `select app_public.create_webhook('https://example.test/', '{user.created}')`, 'RQ403'],
    ['user.manage', 'admin', `select app_public.create_user('new@assent.test', 'New', 'ADMIN')`, 'RQ403'],
    ['user.manage', 'admin', `select app_public.update_user('$user', name => 'New')`, 'RQ403'],
    ['user.manage', 'admin', `select app_hidden.change_user(app_public.get_current_user(), '{"name": "New"}')`, 'RQ403'],
    [
      'user.read_email',
      'manager',
      `select from app_public.users u where app_public.users_email(u) is not null and id <> app_hidden.current_user_id()`,
      0,
    ],
  ] as const)('without %s, %s: %s', async (permission, actor, text, outcome) => {
    const failed = (await all(`select id from app_public.notifications where mail_state = 'FAILED' limit 1`))[0]!
    const statement = text.replace('$user', stage.id.user).replace('$failed', failed['id'])
    await stage.root.query('begin')
    const before = await stage.attempt(actor, statement)
    await stage.root.query('delete from app_public.role_permissions where permission = $1', [permission])
    const after = await stage.attempt(actor, statement)
    await stage.root.query('rollback')
    expect({ code: before.code, some: before.count > 0 }).toEqual({ code: null, some: true })
    expect(after.code ?? after.count).toBe(outcome)
  })
})

describe('without a session, a role that is set by hand gives nothing', () => {
  // The rules themselves are public, and the view of preferences has kinds alone.
  const open = Object.keys(readers).filter(
    (name) =>
      readers[name] === everybody || ['app_hidden.effective_permissions', 'app_public.notification_preferences'].includes(name),
  )

  test.each(callers)('%s reads no row', async (role) => {
    const names = Object.keys(readers).filter((name) => readers[name]!.includes(role) && !open.includes(name))
    const found = await stage.attempts(
      names.map((name): Attempt => ({ actor: 'anonymous', role, statement: `select * from ${name}` })),
    )
    expect(names.map((name, i) => [name, found[i]!.code, found[i]!.count])).toEqual(names.map((name) => [name, null, 0]))
    if (role !== 'assent_anonymous') expect(names.length).toBeGreaterThan(7)
  })

  test.each([...callers, 'assent_authenticator'])('%s learns nothing of what it names or makes up', async (role) => {
    const [request] = await all(`select id, creator_id, created_at from app_public.requests where status = 'SUBMITTED' limit 1`)
    const [entry] = await all(
      'select id, actor_id, request_id, "timestamp" from app_public.audit_logs where request_id is not null limit 1',
    )
    const known = { user: stage.id.user, request: request!['id'], entry: entry!['id'] }
    const rows: Record<string, Row> = {
      'app_public.requests': { ...request, status: 'SUBMITTED', version: 2 },
      'app_public.audit_logs': entry!,
      'app_public.users': { id: stage.id.user, role: 'USER', is_deleted: false },
      'app_public.notifications': {
        id: entry!['id'],
        recipient_id: stage.id.user,
        actor_id: stage.id.admin,
        request_id: known.request,
      },
    }
    const called = await all(`
      select p.oid::regprocedure::text as name, format('%I.%I', n.nspname, p.proname) as function,
        array(select format_type(t, null) from unnest(p.proargtypes) t) as types
      from pg_proc p join pg_namespace n on n.oid = p.pronamespace
      where n.nspname in ('app_public', 'app_hidden') and has_function_privilege('${role}', p.oid, 'execute')
        and p.prorettype <> 'void'::regtype order by 1`)
    const statements = called.flatMap(({ function: name, types }) =>
      Object.values(known).map((id) => {
        const args = (types as string[]).map((type) =>
          rows[type]
            ? `jsonb_populate_record(null::${type}, '${JSON.stringify(rows[type])}')`
            : type === 'uuid'
              ? `'${id}'`
              : type === 'text'
                ? `'user@assent.test'`
                : type === 'uuid[]'
                  ? 'array(select id from test.ids)'
                  : type === 'text[]'
                    ? `'{user@assent.test}'`
                    : `null::${type}`,
        )
        return `select to_jsonb(${name}(${args.join(', ')})) as it`
      }),
    )
    // Whoever names everything must not be told which of it belongs together.
    await stage.root.query(`
      create or replace view test.ids as select id from app_public.users union all select id from app_public.requests;
      grant usage on schema test to public; grant select on test.ids to public`)
    const found = await stage.attempts(
      statements.map((statement): Attempt => ({ actor: 'anonymous', role, statement, fetch: true })),
    )
    const chosen = statements.filter((statement, i) => statement.includes('test.ids') && found[i]!.count > 0)
    expect(chosen).toEqual([])
    // Ids that exist and were not named, and words that only rows have.
    const secrets = await all(`
      select id::text as it from app_public.users union all select name from app_public.users where name ~ ' '
      union all select id::text from app_public.requests union all select title from app_public.requests
      union all select email from app_private.credentials`)
    const given = JSON.stringify([known, rows, 'user@assent.test'])
    const words = secrets.map(({ it }) => it as string).filter((it) => !given.includes(it))
    const learnt = statements.filter((_, i) => words.some((word) => JSON.stringify(found[i]!.rows).includes(word)))
    expect(learnt).toEqual([])
    expect(words.length).toBeGreaterThan(50)
    expect(statements.length).toBeGreaterThan(role === 'assent_authenticator' ? 4 : 10)
  })
})
