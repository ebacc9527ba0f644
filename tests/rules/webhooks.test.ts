import pg from 'pg'
import { bare, openStage, type Actor, type Person, type Row, type Stage } from '../harness/stage.ts'

// Programs that are told: who registers them, of what they are told, and what becomes of each delivery. How one is sent:
// tests/doors/jobs/webhooks.test.ts.

let stage: Stage
/** Two workers, each on a connection of its own. */
let workers: [pg.Client, pg.Client]
let reporter: pg.Client

beforeAll(async () => {
  stage = await openStage()
  workers = [await stage.db.connect('owner'), await stage.db.connect('owner')]
  reporter = await stage.db.connect('worker')
})
beforeEach(async () => {
  await stage.recast()
  await stage.root.query('delete from graphile_worker._private_jobs')
  await stage.root.query('delete from app_public.webhooks')
})
afterAll(() => stage?.close())

const NOBODY = '00000000-0000-7000-8000-000000000000'
const ORIGIN = 'https://receiver.example.com'
const URL = `${ORIGIN}/hook?token=secret`
const EVENTS = [
  'request.approved',
  'request.assigned',
  'request.rejected',
  'request.submitted',
  'user.created',
  'user.deactivated',
  'user.reactivated',
  'user.updated',
]

const text = (value: string | null) => (value === null ? 'null' : pg.escapeLiteral(value))
const list = (values: (string | null)[] | null) => (values === null ? 'null' : `array[${values.map(text).join(', ')}]::text[]`)
const create = (url: string | null, events: (string | null)[] | null) =>
  `select * from app_public.create_webhook(${text(url)}, ${list(events)})`
const update = (id: string | null, changes: string) => `select * from app_public.update_webhook(${text(id)}, ${changes})`
const remove = (id: string | null) => `select * from app_public.delete_webhook(${text(id)})`
const resend = (id: string | null) => `select * from app_public.resend_webhook_delivery(${text(id)})`

const register = async (events = ['request.submitted'], url = URL): Promise<Row> =>
  (await stage.rows('admin', create(url, events)))[0]!
const change = async (id: string, changes: string): Promise<Row> => (await stage.rows('admin', update(id, changes)))[0]!
const webhook = async (id: string): Promise<Row> =>
  (await stage.root.query('select * from app_public.webhooks where id = $1', [id])).rows[0]
const delivery = async (id: string): Promise<Row> =>
  (await stage.root.query('select * from app_public.webhook_deliveries where id = $1', [id])).rows[0]
const deliveries = async (): Promise<Row[]> =>
  (await stage.root.query('select * from app_public.webhook_deliveries order by created_at, id')).rows
const jobs = async (id: string) => (await stage.jobs('deliver_webhook')).filter((payload) => payload['id'] === id).length

/** A webhook, and a delivery to it that is queued. */
async function queue(): Promise<{ hook: string; id: string; key: string }> {
  const { id: hook, signing_key: key } = await register()
  await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
  await stage.tell()
  const { rows } = await stage.root.query('select id from app_public.webhook_deliveries where webhook_id = $1', [hook])
  expect(rows).toHaveLength(1)
  return { hook, id: rows[0].id, key }
}

const begin = async (id: string, worker = workers[0]): Promise<Row> =>
  (await worker.query('select * from app_private.begin_delivery($1)', [id])).rows[0]
const letGo = (id: string, worker = workers[0]) =>
  worker.query('select pg_advisory_unlock(app_private.delivery_lock($1)) as held', [id])
const done = (id: string, status = 204) => workers[0].query('select app_private.delivery_done($1, $2)', [id, status])
const failed = (id: string, status: number | null, error: string, forGood = false) =>
  reporter.query('select app_private.delivery_failed($1, $2, $3, $4)', [id, status, error, forGood])
/** One attempt to begin, with its lock let go at its end. */
const attempt = (id: string) => begin(id).finally(() => letGo(id))
const nothing = { url: null, signing_key: null, body: null }

/** Brings a delivery into a state, as a worker does. */
async function bring(state: string, { hook, id }: { hook: string; id: string }): Promise<void> {
  if (state === 'QUEUED') return
  if (state === 'CANCELLED') await change(hook, 'is_enabled => false')
  await attempt(id)
  if (state === 'DELIVERED') await done(id)
  if (state === 'FAILED') await failed(id, 500, 'It answered 500: ', true)
  // The job is done with it.
  await stage.root.query('delete from graphile_worker._private_jobs')
  if (state === 'CANCELLED') await change(hook, 'is_enabled => true')
  expect(await delivery(id)).toMatchObject({ state })
}

describe('who may', () => {
  const codes: [Actor, string, string][] = [
    ['manager', 'RQ403', 'RQ404'],
    ['user', 'RQ403', 'RQ404'],
    ['anonymous', '42501', '42501'],
    ['auditor', '42501', '42501'],
    ['authenticator', '42501', '42501'],
    ['owner', 'RQ401', 'RQ401'],
  ]
  const commands = (hook: string | null, id: string | null) => [
    update(hook, 'is_enabled => false'),
    update(hook, `url => 'nonsense', events => '{}'`),
    remove(hook),
    resend(id),
  ]
  const outcomes = (actor: Actor, statements: string[], role?: string) =>
    stage.attempts(statements.map((statement) => ({ actor, statement, keep: true, ...(role && { role }) })))

  test('an admin, whoever of them has registered it', async () => {
    const { hook, id } = await queue()
    expect((await stage.attempt('admin2', resend(id), { keep: true })).code).toBe(null)
    expect((await stage.attempt('admin2', update(hook, 'is_enabled => false'), { keep: true })).code).toBe(null)
    const { rows } = await stage.attempt('admin2', 'select * from app_public.webhooks', { fetch: true })
    expect(rows).toEqual([
      {
        id: hook,
        url: URL,
        events: ['request.submitted'],
        signing_key: expect.stringMatching(/^whsec_[\w+/]{43}=$/),
        is_enabled: false,
        failing_since: null,
        failed_at: null,
        created_at: expect.any(String),
        is_deleted: false,
      },
    ])
    expect((await stage.attempt('admin2', 'select from app_public.webhook_deliveries')).count).toBe(1)
    expect((await stage.rows('admin2', remove(hook)))[0]).toMatchObject({ id: hook })
    expect(await webhook(hook)).toMatchObject({ is_deleted: true, is_enabled: false })
  })

  test.each(codes)(
    '%s is refused: %s to register one, %s of any other, in the same words as of an id never used',
    async (actor, toRegister, other) => {
      const { hook, id } = await queue()
      const before = [await webhook(hook), await delivery(id)]
      const [registered, ...theirs] = await outcomes(actor, [create(URL, ['user.created']), ...commands(hook, id)])
      expect(registered!.code).toBe(toRegister)
      expect(theirs.map(({ code }) => code)).toEqual([other, other, other, other])
      for (const unknown of [NOBODY, null]) expect(await outcomes(actor, commands(unknown, unknown))).toEqual(theirs)
      expect([await webhook(hook), await delivery(id)]).toEqual(before)
      expect((await stage.root.query('select from app_public.webhooks')).rowCount).toBe(1)
    },
  )

  test('an admin finds none under an id never used either', async () => {
    for (const unknown of [NOBODY, null]) {
      const all = await outcomes('admin', commands(unknown, unknown))
      expect(all.map(({ code, message }) => `${code} ${message}`)).toEqual([
        'RQ404 There is no such webhook.',
        'RQ404 There is no such webhook.',
        'RQ404 There is no such webhook.',
        'RQ404 There is no such delivery.',
      ])
    }
  })

  test.each<[Actor, string, string, string]>([
    ['user', 'assent_manager', 'RQ403', 'RQ404'],
    ['user', 'assent_admin', 'RQ403', 'RQ404'],
    ['manager', 'assent_admin', 'RQ403', 'RQ404'],
    ['anonymous', 'assent_user', 'RQ401', 'RQ401'],
    ['anonymous', 'assent_admin', 'RQ401', 'RQ401'],
  ])('%s who merely sets the role %s is refused as before', async (actor, role, toRegister, other) => {
    const { hook, id } = await queue()
    const all = await outcomes(actor, [create(URL, ['user.created']), ...commands(hook, id)], role)
    expect(all.map(({ code }) => code)).toEqual([toRegister, other, other, other, other])
    for (const table of ['webhooks', 'webhook_deliveries']) {
      const seen = await stage.attempt(actor, `select from app_public.${table}`, { role })
      expect(seen).toMatchObject({ code: null, count: 0 })
    }
  })

  test('rows are hidden from all but admins and auditors, who read no key', async () => {
    const { key } = await queue()
    const read = async (actor: Actor, columns: string, table: string) => {
      const { code, rows } = await stage.attempt(actor, `select ${columns} from app_public.${table}`, { fetch: true })
      return code ?? rows.length
    }
    const shown = 'id, events, is_enabled, failing_since, created_at'
    const seen: [Actor, ...(string | number)[]][] = []
    for (const actor of ['admin', 'manager', 'user', 'anonymous', 'auditor', 'authenticator'] as const) {
      seen.push([
        actor,
        await read(actor, shown, 'webhooks'),
        await read(actor, 'signing_key', 'webhooks'),
        await read(actor, 'url', 'webhooks'),
        await read(actor, '*', 'webhook_deliveries'),
      ])
    }
    expect(seen).toEqual([
      ['admin', 1, 1, 1, 1],
      ['manager', 0, 0, 0, 0],
      ['user', 0, 0, 0, 0],
      ['anonymous', '42501', '42501', '42501', '42501'],
      ['auditor', 1, '42501', '42501', 1],
      ['authenticator', '42501', '42501', '42501', '42501'],
    ])
    for (const statement of ['select * from app_public.webhooks', 'select w from app_public.webhooks w']) {
      expect((await stage.attempt('auditor', statement)).code).toBe('42501')
    }
    const { rows } = await stage.attempt('auditor', 'select * from app_public.webhook_deliveries', { fetch: true })
    expect(JSON.stringify(rows)).not.toContain(key)
  })

  test('nobody writes to a table, or does what the worker does, whatever role they set', async () => {
    const { hook, id } = await queue()
    const statements = [
      `insert into app_public.webhooks (url, events, signing_key) values ('${URL}', '{user.created}', 'key')`,
      `update app_public.webhooks set url = 'https://evil.example.com/'`,
      `update app_public.webhooks set is_enabled = false where id = '${hook}'`,
      'delete from app_public.webhooks',
      'truncate app_public.webhooks cascade',
      `insert into app_public.webhook_deliveries (webhook_id, audit_log_id, event, payload)
       values ('${hook}', '${id}', 'user.created', '{}')`,
      `update app_public.webhook_deliveries set state = 'DELIVERED', delivered_at = now() where id = '${id}'`,
      `update app_public.webhook_deliveries set payload = '{}'`,
      'delete from app_public.webhook_deliveries',
      'truncate app_public.webhook_deliveries',
      `insert into app_public.webhook_events (event, action, description) values ('login', 'LOGIN', 'A login')`,
      `update app_public.webhook_events set action = 'LOGIN' where event = 'user.created'`,
      'delete from app_public.webhook_events',
      `select app_private.begin_delivery('${id}')`,
      `select app_private.delivery_done('${id}', 200)`,
      `select app_private.delivery_failed('${id}', 410, 'Gone', true)`,
      `select app_private.delivery_lock('${id}')`,
      `select app_private.queue_deliveries(a) from app_public.audit_logs a`,
      `select app_private.webhook_payload(a, 'user.created') from app_public.audit_logs a`,
      `select app_private.audit_webhook('WEBHOOK_DELETE', null, '{}')`,
    ]
    const roles = ['assent_anonymous', 'assent_user', 'assent_manager', 'assent_admin', 'assent_auditor', 'assent_authenticator']
    const tried = (['admin', 'manager', 'anonymous'] as const).flatMap((actor) =>
      roles.flatMap((role) => statements.map((statement) => ({ actor, role, statement, keep: true }))),
    )
    const all = await stage.attempts(tried)
    expect(tried.filter((_, i) => all[i]!.code !== '42501')).toEqual([])
    // What they were denied is there, and would have been done.
    for (const statement of statements.slice(0, 4)) {
      const { code, count } = await stage.attempt('superuser', statement)
      expect([statement, code, count]).toEqual([statement, null, 1])
    }
  })
})

describe('a webhook is refused', () => {
  const form = 'The URL must begin with https:// or http://, and must not contain a user name.'
  const events = `Each event must be one of: ${EVENTS.join(', ')}.`
  const port = 'The port of the URL must be at most 65535.'
  const long = (length: number) => 'https://example.com/'.padEnd(length, 'ü')

  const refused: [string, { url?: string | null; events?: (string | null)[] | null }, string, string][] = [
    ['no URL', { url: null }, 'url', 'A value for url is required.'],
    ['an empty one', { url: '' }, 'url', form],
    ['one of another scheme', { url: 'ftp://example.com/' }, 'url', form],
    ['a file', { url: 'file:///etc/passwd' }, 'url', form],
    ['a scheme in capitals', { url: 'HTTPS://example.com/' }, 'url', form],
    ['a scheme alone', { url: 'https://' }, 'url', form],
    ['no host', { url: 'https:///hook' }, 'url', form],
    ['nothing but a query', { url: 'https://?a' }, 'url', form],
    ['a path', { url: '/hook' }, 'url', form],
    ['a user', { url: 'https://user@example.com/' }, 'url', form],
    ['a password', { url: 'https://user:password@example.com/' }, 'url', form],
    ['a user behind a backslash', { url: 'https://example.com\\@localhost/' }, 'url', form],
    ['a blank before it', { url: ' https://example.com/' }, 'url', form],
    ['a blank within', { url: 'https://example.com/a b' }, 'url', form],
    ['a second line', { url: 'https://example.com/\nhttps://example.com/' }, 'url', form],
    ['a line end', { url: 'https://example.com/\n' }, 'url', form],
    ['a tab', { url: 'https://exa\tmple.com/' }, 'url', form],
    ['a control character', { url: 'https://example.com/\u0001' }, 'url', form],
    ['a port that there is not', { url: 'https://example.com:65536/' }, 'url', port],
    ['a port without end', { url: `http://[::1]:${'9'.repeat(1900)}` }, 'url', port],
    ['such a port before a query', { url: 'https://example.com:99999?a=:1' }, 'url', port],
    ['2,001 characters', { url: long(2001) }, 'url', 'The URL must have at most 2,000 characters.'],
    ['events that are none', { events: null }, 'events', 'A value for events is required.'],
    ['no event', { events: [] }, 'events', 'A webhook needs at least one event.'],
    ['an event that there is not', { events: ['user.created', 'user.removed'] }, 'events', events],
    ['an event in capitals', { events: ['USER.CREATED'] }, 'events', events],
    ['the name of an action', { events: ['SUBMIT'] }, 'events', events],
    ['an event that is null', { events: [null] }, 'events', events],
  ]
  test('for everything that is wrong with it: an unknown event does not hide a bad URL', async () => {
    const { id } = await register()
    const statements = [create('javascript:alert(1)', ['nope']), update(id, `url => 'javascript:alert(1)', events => '{nope}'`)]
    for (const statement of statements) {
      expect(await stage.attempt('admin', statement, { keep: true })).toMatchObject({ code: 'RQ422', column: 'url' })
    }
  })

  test.each(refused)('with %s', async (_, { url = URL, events: of = ['user.created'] }, column, message) => {
    const refusal = { code: 'RQ422', column, message }
    expect(await stage.attempt('admin', create(url, of), { keep: true })).toMatchObject(refusal)
    const { id } = await register()
    const before = await webhook(id)
    const changed = await stage.attempt('admin', update(id, `url => ${text(url)}, events => ${list(of)}`), { keep: true })
    // Of a change, null leaves things as they are.
    if (url === null || of === null) return expect(changed).toMatchObject({ code: null })
    expect(changed).toMatchObject(refusal)
    expect(await webhook(id)).toEqual(before)
  })

  test.each([
    ['http', 'http://example.com'],
    ['a port', 'https://example.com:8443/hook'],
    ['a query', 'https://example.com?token=a@b&c=d'],
    ['a fragment', 'https://example.com#a'],
    ['an at sign in the path', 'https://example.com/@team/hook'],
    ['an address', 'https://192.0.2.1/'],
    ['an address of IPv6', 'https://[2001:db8::1]:8443/hook'],
    ['2,000 characters', long(2000)],
    ['other letters', 'https://bücher.example/ä'],
  ])('but not with %s', async (_, url) => {
    expect(await register(['user.created'], url)).toMatchObject({ url, is_enabled: true })
  })

  test('an event that is named twice is told once', async () => {
    await register(['request.submitted', 'request.submitted'])
    await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
    await stage.tell()
    expect(await deliveries()).toHaveLength(1)
  })

  test('each has a key of its own', async () => {
    const keys = [await register(), await register(), await register()].map((hook) => hook['signing_key'])
    expect(new Set(keys).size).toBe(3)
  })
})

describe('an event', () => {
  const NAMES: Partial<Record<Person, [string, string]>> = {
    user: ['Uma User', 'USER'],
    manager: ['Mia Manager', 'MANAGER'],
    manager2: ['Max Manager', 'MANAGER'],
    admin: ['Ada Admin', 'ADMIN'],
  }
  const person = (who: Person) => ({ id: stage.id[who], name: NAMES[who]![0], role: NAMES[who]![1] })
  /** The latest entry of the action that it tells of. */
  const entryOf = async (event: string): Promise<Row> =>
    (
      await stage.root.query(
        `select a.* from app_public.audit_logs a join app_public.webhook_events e using (action)
         where e.event = $1 order by a."timestamp" desc limit 1`,
        [event],
      )
    ).rows[0]
  const a = (status: 'DRAFT' | 'SUBMITTED') => async () =>
    (await stage.request({ creator: 'user', assignee: 'manager', status })).id
  const idler = async () => stage.id.idler
  const at = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d/)
  const request = (changes: Row) => ({
    request: {
      id: expect.any(String),
      title: "user's SUBMITTED",
      status: 'SUBMITTED',
      version: expect.any(Number),
      creator: person('user'),
      assigned_to: person('manager'),
      reviewed_by: null,
      reviewed_at: null,
      review_comment: null,
      submitted_at: at,
      ...changes,
    },
  })
  const user = (changes: Row) => ({ user: { id: stage.id.idler, name: 'idler', role: 'USER', is_deleted: false, ...changes } })

  /** The event, who brings it about, of what, by which statement, and what is told of it. */
  const told: [string, Person, () => Promise<string>, (id: string) => string, () => Row][] = [
    [
      'request.submitted',
      'user',
      a('DRAFT'),
      (id) => `select app_public.submit_request('${id}')`,
      () => request({ title: "user's DRAFT" }),
    ],
    [
      'request.assigned',
      'admin',
      a('SUBMITTED'),
      (id) => `select app_public.assign_request('${id}', '${stage.id.manager2}')`,
      () => request({ assigned_to: person('manager2') }),
    ],
    [
      'request.approved',
      'manager',
      a('SUBMITTED'),
      (id) => `select app_public.approve_request('${id}')`,
      () => request({ status: 'APPROVED', reviewed_by: person('manager'), reviewed_at: at }),
    ],
    [
      'request.rejected',
      'manager',
      a('SUBMITTED'),
      (id) => `select app_public.reject_request('${id}', 'Not so')`,
      () => request({ status: 'REJECTED', reviewed_by: person('manager'), reviewed_at: at, review_comment: 'Not so' }),
    ],
    [
      'user.created',
      'admin',
      idler,
      () => `select app_public.create_user('new@assent.test', 'Nina New', 'MANAGER')`,
      () => user({ id: expect.any(String), name: 'Nina New', role: 'MANAGER' }),
    ],
    [
      'user.updated',
      'admin',
      idler,
      (id) => `select app_public.update_user('${id}', role => 'MANAGER')`,
      () => user({ role: 'MANAGER' }),
    ],
    ['user.deactivated', 'admin', idler, (id) => `select app_public.deactivate_user('${id}')`, () => user({ is_deleted: true })],
    [
      'user.reactivated',
      'admin',
      async () => (await stage.rows('admin', `select * from app_public.deactivate_user('${stage.id.idler}')`))[0]!['id'],
      (id) => `select app_public.reactivate_user('${id}')`,
      () => user({}),
    ],
  ]

  test('each that there is has its line here, and a kind of entry that is told', async () => {
    expect(told.map(([event]) => event).sort()).toEqual(EVENTS)
    const { rows } = await stage.root.query(
      'select e.event, a.is_told from app_public.webhook_events e join app_public.audit_actions a using (action) order by event',
    )
    expect(rows).toEqual(EVENTS.map((event) => ({ event, is_told: true })))
  })

  test.each(told)(
    '%s: one delivery to each webhook of it that is on, with type, time and data, and nobody’s address',
    async (event, actor, subject, statement, data) => {
      const id = await subject()
      await stage.tell()
      const others = EVENTS.filter((one) => one !== event)
      const [one, all, other, off] = [
        await register([event]),
        await register(EVENTS),
        await register(others),
        await register([event]),
      ]
      await change(off['id'], 'is_enabled => false')
      await stage.rows(actor, statement(id))
      await stage.tell()
      const entry = await entryOf(event)
      const queued = await deliveries()
      expect(queued.map((row) => row['webhook_id']).sort()).toEqual([one['id'], all['id']].sort())
      expect(queued.some((row) => row['webhook_id'] === other['id'])).toBe(false)
      for (const row of queued) {
        expect(row).toMatchObject({
          audit_log_id: entry['id'],
          event,
          state: 'QUEUED',
          attempts: 0,
          response_status: null,
          error: null,
          delivered_at: null,
        })
        expect(await jobs(row['id'])).toBe(1)
        expect(row['payload']).toEqual({
          type: event,
          timestamp: at,
          data: { audit_log_id: entry['id'], actor: person(actor), metadata: entry['metadata'], ...data() },
        })
        expect(new Date(row['payload'].timestamp)).toEqual(entry['timestamp'])
        expect(JSON.stringify(row['payload'])).not.toMatch(/@|assent\.test/)
      }

      // Told a second time, when one of them has been delivered already: nothing comes of it.
      await attempt(queued[0]!['id'])
      await done(queued[0]!['id'])
      await workers[0].query('select app_private.dispatch($1)', [entry['id']])
      const again = await deliveries()
      expect(again.map((row) => row['id'])).toEqual(queued.map((row) => row['id']))
      expect(again.map((row) => row['state']).sort()).toEqual(['DELIVERED', 'QUEUED'])
      for (const row of again) expect(await jobs(row['id'])).toBe(1)
    },
  )

  test('is told by two workers at once, once', async () => {
    await register()
    await a('SUBMITTED')()
    const entry = await entryOf('request.submitted')
    await Promise.all(workers.map((worker) => worker.query('select app_private.dispatch($1)', [entry['id']])))
    expect(await deliveries()).toHaveLength(1)
    expect(await stage.jobs('deliver_webhook')).toHaveLength(1)
  })

  test('is delivered as it was, whatever becomes of the request', async () => {
    const { id } = await queue()
    const { payload } = await delivery(id)
    await stage.rows('admin', `select * from app_public.approve_request('${payload.data.request.id}', 'Enjoy')`)
    expect(JSON.parse((await attempt(id))['body'])).toEqual(payload)
    expect(payload.data.request).toMatchObject({ status: 'SUBMITTED', review_comment: null })
  })

  test('of a webhook that is registered afterwards is none of its', async () => {
    await a('SUBMITTED')()
    await stage.tell()
    await register()
    expect(await deliveries()).toEqual([])
  })

  test('what is none is told to no webhook: of drafts, logins, passwords and webhooks', async () => {
    await register(EVENTS)
    await stage.request({ creator: 'user', assignee: null, status: 'DELETED' })
    await workers[0].query(`select app_private.begin_password_reset('user@assent.test', '192.0.2.1')`)
    await register(EVENTS)
    expect(await stage.tell()).toHaveLength(1) // the link that was asked for
    // Nor would it be if a job did say so.
    const { rows } = await stage.root.query(
      `select id from app_public.audit_logs where action not in (select action from app_public.webhook_events)`,
    )
    expect(rows.length).toBeGreaterThan(5)
    for (const { id } of rows) await workers[0].query('select app_private.dispatch($1)', [id])
    expect(await deliveries()).toEqual([])
  })
})

describe('a delivery', () => {
  test('is begun with where to, what, and by whose key', async () => {
    const { id, key } = await queue()
    const { body, ...rest } = await attempt(id)
    expect(rest).toEqual({ url: URL, signing_key: key })
    expect(JSON.parse(body)).toEqual((await delivery(id))['payload'])
    expect(await delivery(id)).toMatchObject({ state: 'QUEUED', attempts: 1 })
  })

  test('that is answered by 2xx has its time, and is not begun again', async () => {
    const { hook, id } = await queue()
    await attempt(id)
    await failed(id, 503, 'It answered 503: busy')
    await attempt(id)
    await done(id, 202)
    const row = await delivery(id)
    expect(row).toMatchObject({
      state: 'DELIVERED',
      attempts: 2,
      response_status: 202,
      error: null,
      delivered_at: expect.any(Date),
    })
    expect(await webhook(hook)).toMatchObject({ failing_since: null })
    expect(await attempt(id)).toEqual(nothing)
    await done(id, 200)
    await failed(id, 500, 'late', true)
    expect(await delivery(id)).toEqual(row)
    expect(await jobs(id)).toBe(1)
  })

  test('that has failed is tried again by its own job, and by no second one', async () => {
    const { hook, id } = await queue()
    await attempt(id)
    await failed(id, 500, 'x'.repeat(2000))
    const row = await delivery(id)
    expect(row).toMatchObject({ state: 'QUEUED', attempts: 1, response_status: 500, error: 'x'.repeat(1000), delivered_at: null })
    const { failing_since } = await webhook(hook)
    expect(failing_since).toEqual(expect.any(Date))
    expect(await jobs(id)).toBe(1) // graphile-worker's own retries
    await attempt(id)
    await failed(id, null, 'connect ECONNREFUSED')
    expect(await delivery(id)).toMatchObject({ attempts: 2, response_status: null, error: 'connect ECONNREFUSED' })
    expect((await webhook(hook))['failing_since']).toEqual(failing_since) // the first of them
    expect(await jobs(id)).toBe(1)
  })

  test('that has failed for good is not begun again, nor taken for delivered', async () => {
    const { id } = await queue()
    await attempt(id)
    await failed(id, null, 'It is private.', true)
    const row = await delivery(id)
    expect(row).toMatchObject({ state: 'FAILED', error: 'It is private.', response_status: null, delivered_at: null })
    expect(await attempt(id)).toEqual(nothing)
    await done(id)
    expect(await delivery(id)).toEqual(row)
  })

  test('of a webhook that is off is cancelled, without an attempt, and stays so when that is on again', async () => {
    const { hook, id } = await queue()
    await change(hook, 'is_enabled => false')
    expect(await attempt(id)).toEqual(nothing)
    expect(await delivery(id)).toMatchObject({ state: 'CANCELLED', attempts: 0 })
    await change(hook, 'is_enabled => true')
    expect(await attempt(id)).toEqual(nothing)
    expect(await delivery(id)).toMatchObject({ state: 'CANCELLED', attempts: 0 })
  })

  test('goes where its webhook leads to now', async () => {
    const { hook, id } = await queue()
    await change(hook, `url => 'https://elsewhere.example.com/'`)
    expect(await attempt(id)).toMatchObject({ url: 'https://elsewhere.example.com/' })
  })

  test('of a webhook that is removed is gone with it for admins, also one that is under way, and stays evidence', async () => {
    const { hook, id } = await queue()
    await begin(id)
    await stage.rows('admin', remove(hook))
    for (const statement of ['select from app_public.webhooks', 'select from app_public.webhook_deliveries']) {
      expect((await stage.attempt('admin', statement)).count).toBe(0)
    }
    expect((await stage.attempt('admin', resend(id))).code).toBe('RQ404')
    expect((await stage.attempt('admin', update(hook, 'is_enabled => true'))).code).toBe('RQ404')
    expect((await stage.attempt('admin', remove(hook))).code).toBe('RQ404')
    await done(id)
    await failed(id, 500, 'late')
    expect(
      await stage.rows('auditor', `select id, state from app_public.webhook_deliveries where webhook_id = '${hook}'`),
    ).toEqual([{ id, state: 'DELIVERED' }])
    expect(await stage.rows('auditor', `select origin, is_deleted from audit.webhooks where id = '${hook}'`)).toEqual([
      { origin: ORIGIN, is_deleted: true },
    ])
    await letGo(id)
    expect(await jobs(id)).toBe(1)
    expect(await attempt(id)).toEqual(nothing) // and so its job ends
  })

  test('of no such id is none', async () => expect(await attempt(NOBODY)).toEqual(nothing))

  test('has a state that there is, and a time if it is delivered', async () => {
    const { id } = await queue()
    for (const changes of [`state = 'SENT'`, `state = 'DELIVERED'`, `delivered_at = now()`]) {
      const changed = stage.root.query(`update app_public.webhook_deliveries set ${changes} where id = $1`, [id])
      await expect(changed).rejects.toMatchObject({ code: '23514' })
    }
  })
})

describe('of two workers', () => {
  test('the second does not begin what the first is sending, and counts no attempt', async () => {
    const { hook, id } = await queue()
    const other = (await queue()).id
    const [first, second] = workers
    expect(await begin(id, first)).toMatchObject({ url: URL })
    await expect(begin(id, second)).rejects.toMatchObject({ code: '55P03' })
    expect(await delivery(id)).toMatchObject({ attempts: 1 })
    expect((await letGo(id, second)).rows).toEqual([{ held: false }])
    await expect(begin(id, second)).rejects.toMatchObject({ code: '55P03' })
    expect(await begin(other, second)).toMatchObject({ url: URL })
    await letGo(other, second)
    // Nor does it cancel that.
    await change(hook, 'is_enabled => false')
    await expect(begin(id, second)).rejects.toMatchObject({ code: '55P03' })
    await done(id)
    expect(await delivery(id)).toMatchObject({ state: 'DELIVERED' })

    await letGo(id, first)
    expect(await begin(id, second)).toEqual(nothing)
    await letGo(id, second)
  })

  test('the second begins anew what the first died of', async () => {
    const { id } = await queue()
    const dying = await stage.db.connect('owner')
    dying.on('error', () => {}) // It is to be terminated.
    const first = await begin(id, dying)
    const { rows } = await dying.query('select pg_backend_pid() as pid')
    await stage.root.query('select pg_terminate_backend($1, 10000)', [rows[0].pid])
    const second = await begin(id, workers[1])
    await letGo(id, workers[1])
    expect(second).toEqual(first)
    expect(await delivery(id)).toMatchObject({ state: 'QUEUED', attempts: 2 })
  })
})

describe('a webhook that fails', () => {
  const failingFor = (hook: string, age: string) =>
    stage.root.query('update app_public.webhooks set failing_since = now() - $2::interval where id = $1', [hook, age])

  test.each<[string, string | null, number | null, boolean, string | null]>([
    ['for the first time', null, 500, false, null],
    ['for a moment less than a week', '6 days 23:59', 500, false, null],
    ['for a week', '7 days 00:01', 500, false, 'It had failed for a week.'],
    ['for a week, unanswered', '7 days 00:01', null, false, 'It had failed for a week.'],
    ['for a week, and this one for good', '7 days 00:01', 500, true, 'It had failed for a week.'],
    ['by 404', null, 404, true, null],
    ['by 410', null, 410, true, 'It answered 410 Gone.'],
  ])('%s: is it switched off?', async (_, age, status, forGood, reason) => {
    const { hook, id } = await queue()
    if (age) await failingFor(hook, age)
    const entries = await stage.leaves(async () => {
      await attempt(id)
      await failed(id, status, 'No', forGood)
    })
    expect(await webhook(hook)).toMatchObject({ is_enabled: reason === null, failing_since: expect.any(Date) })
    // These workers log in as the owner, as those of version 0.1 do, whose changes leave traces of their own.
    const [traces, others] = [true, false].map((is) => entries.filter(({ action }) => is === (action === 'DATA_CHANGE')))
    expect(new Set(traces!.map(({ metadata }) => metadata.table))).toEqual(new Set(['webhook_deliveries']))
    expect(others!.map(bare)).toEqual(
      reason === null
        ? []
        : [
            {
              ...stage.entry('WEBHOOK_UPDATE', null, null, {
                webhook_id: hook,
                origin: ORIGIN,
                is_enabled: { old: true, new: false },
                reason,
              }),
              ip_address: null,
            },
          ],
    )
  })

  test('fails anew after two days in which nothing was tried', async () => {
    const { hook, id } = await queue()
    for (const [ago, isEnabled] of [
      ['2 days 00:01', true],
      ['1 day 23:59', false],
    ] as const) {
      await stage.root.query(
        `update app_public.webhooks set failing_since = now() - interval '30 days', failed_at = now() - $2::interval where id = $1`,
        [hook, ago],
      )
      await attempt(id)
      await failed(id, 500, 'No')
      expect(await webhook(hook)).toMatchObject({ is_enabled: isEnabled })
    }
  })

  test('has its deliveries made after those of others', async () => {
    const { hook } = await queue()
    await register()
    await failingFor(hook, '1 minute')
    await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
    await stage.tell()
    const { rows } = await stage.root.query(
      `select d.webhook_id = $1 as fails, j.priority from graphile_worker._private_jobs j
       join app_public.webhook_deliveries d on d.id::text = j.payload ->> 'id' order by j.id`,
      [hook],
    )
    expect(rows.slice(1).toSorted((a, b) => a.priority - b.priority)).toEqual([
      { fails: false, priority: 0 },
      { fails: true, priority: 1 },
    ])
  })

  test('is switched off once; what is queued is cancelled, and nothing more is', async () => {
    const { hook, id } = await queue()
    await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
    await stage.tell()
    const other = (await deliveries()).find((row) => row['id'] !== id)!['id']
    await begin(id)
    await begin(other)
    await failed(id, 410, 'Gone', true)
    expect(await stage.leaves(() => failed(other, 410, 'Gone'))).toEqual([])
    await letGo(id)
    await letGo(other)
    expect(await attempt(other)).toEqual(nothing)
    expect((await deliveries()).map((row) => row['state']).sort()).toEqual(['CANCELLED', 'FAILED'])
    await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
    await stage.tell()
    expect(await deliveries()).toHaveLength(2)
    expect(await webhook(hook)).toMatchObject({ is_enabled: false })
  })

  test('has its week anew once it has answered', async () => {
    const { hook, id } = await queue()
    await failingFor(hook, '8 days')
    await attempt(id)
    await done(id)
    expect(await webhook(hook)).toMatchObject({ is_enabled: true, failing_since: null })
    await stage.rows('admin', resend(id))
    await attempt(id)
    await failed(id, 500, 'No')
    expect(await webhook(hook)).toMatchObject({ is_enabled: true })
  })

  test('has its week anew once it is switched on again, and by no other change', async () => {
    const { hook, id } = await queue()
    await failingFor(hook, '8 days')
    await attempt(id)
    await failed(id, 500, 'No')
    expect(await webhook(hook)).toMatchObject({ is_enabled: false })
    for (const changes of ['is_enabled => false', `url => '${URL}/'`]) await change(hook, changes)
    expect((await webhook(hook))['failing_since']).toEqual(expect.any(Date))
    await change(hook, 'is_enabled => true')
    expect(await webhook(hook)).toMatchObject({ is_enabled: true, failing_since: null })
    await stage.rows('admin', resend(id))
    await attempt(id)
    await failed(id, 500, 'No')
    const failing = await webhook(hook)
    expect(failing).toMatchObject({ is_enabled: true, failing_since: expect.any(Date) })
    await change(hook, 'is_enabled => true')
    expect(await webhook(hook)).toEqual(failing)
  })

  test('does no other one harm', async () => {
    const other = await register()
    const { id } = await queue()
    await attempt(id)
    await failed(id, 410, 'Gone', true)
    expect(await webhook(other['id'])).toMatchObject({ is_enabled: true, failing_since: null })
  })
})

describe('sent again', () => {
  test.each(['DELIVERED', 'FAILED', 'CANCELLED'])('one that is %s is queued anew, by one job', async (state) => {
    const queued = await queue()
    const { id } = queued
    await bring(state, queued)
    const before = await delivery(id)
    const [answer] = await stage.rows('admin', resend(id))
    expect(answer).toMatchObject({ id, state: 'QUEUED', delivered_at: null })
    expect(await delivery(id)).toEqual({ ...before, state: 'QUEUED', delivered_at: null })
    expect(await jobs(id)).toBe(1)
    await stage.rows('admin', resend(id))
    expect(await jobs(id)).toBe(1)
    await attempt(id)
    await done(id)
    expect(await delivery(id)).toMatchObject({ state: 'DELIVERED', attempts: before['attempts'] + 1, error: null })
  })

  test.each(['DELIVERED', 'FAILED', 'CANCELLED'])(
    'one that is %s has a job of its own, also while that of before is not yet recorded as done',
    async (state) => {
      const { hook, id } = await queue()
      await stage.root.query(`update graphile_worker._private_jobs set locked_at = now(), locked_by = 'a worker'`)
      if (state === 'CANCELLED') await change(hook, 'is_enabled => false')
      await attempt(id)
      if (state === 'DELIVERED') await done(id)
      if (state === 'FAILED') await failed(id, 500, 'No', true)
      await change(hook, 'is_enabled => true')
      await stage.rows('admin', resend(id))
      const { rows } = await stage.root.query(
        `select from graphile_worker._private_jobs where payload ->> 'id' = $1 and locked_at is null`,
        [id],
      )
      expect(rows).toHaveLength(1)
    },
  )

  test('one that is queued stays so, with its one job', async () => {
    const { id } = await queue()
    await attempt(id)
    await failed(id, 500, 'No')
    const before = await delivery(id)
    expect(await stage.rows('admin', resend(id))).toMatchObject([{ id, state: 'QUEUED', attempts: 1 }])
    expect(await delivery(id)).toEqual(before)
    expect(await jobs(id)).toBe(1)
  })

  test('as often as it is wanted, each time by one job', async () => {
    const queued = await queue()
    const { id } = queued
    for (let times = 1; times <= 3; times++) {
      await bring('DELIVERED', queued)
      await stage.rows('admin', resend(id))
      expect([await jobs(id), (await delivery(id))['attempts']]).toEqual([1, times])
    }
  })

  test.each(['QUEUED', 'DELIVERED', 'FAILED', 'CANCELLED'])('of a webhook that is off it stays as it is: %s', async (state) => {
    const queued = await queue()
    const { hook, id } = queued
    await bring(state, queued)
    await change(hook, 'is_enabled => false')
    const before = await delivery(id)
    expect((await stage.attempt('admin', resend(id), { keep: true })).code).toBe('RQ409')
    expect(await delivery(id)).toEqual(before)
  })
})

describe('the trail', () => {
  const entry = (action: string, hook: Row, details: Row) =>
    stage.entry(action, 'admin', null, { webhook_id: hook['id'], origin: /^https:..[^/?]+/.exec(hook['url'])![0], ...details })

  test('has one entry for each change of a webhook, with what has changed', async () => {
    let hook: Row = {}
    const left = (act: () => Promise<unknown>) => stage.leaves(act).then((rows) => rows.map(bare))
    expect(await left(async () => (hook = await register()))).toEqual([
      entry('WEBHOOK_CREATE', hook, { events: ['request.submitted'] }),
    ])
    const changed = (changes: string) => left(async () => (hook = await change(hook['id'], changes)))
    expect(await changed('is_enabled => false')).toEqual([
      entry('WEBHOOK_UPDATE', hook, { is_enabled: { old: true, new: false } }),
    ])
    expect(await changed(`events => '{user.created,user.updated}', is_enabled => true`)).toEqual([
      entry('WEBHOOK_UPDATE', hook, {
        is_enabled: { old: false, new: true },
        events: { old: ['request.submitted'], new: ['user.created', 'user.updated'] },
      }),
    ])
    expect(await changed(`url => 'https://elsewhere.example.com/'`)).toEqual([
      entry('WEBHOOK_UPDATE', hook, { origin: 'https://elsewhere.example.com', old_origin: ORIGIN }),
    ])
    expect(hook['url']).toBe('https://elsewhere.example.com/')
    for (const same of [`url => '${hook['url']}', is_enabled => true`, 'url => null, events => null, is_enabled => null']) {
      expect(await changed(same)).toEqual([])
    }
    expect(await left(() => stage.rows('admin', remove(hook['id'])))).toEqual([entry('WEBHOOK_DELETE', hook, {})])
  })

  test('has one for each delivery that is sent again, and none while it is queued', async () => {
    const queued = await queue()
    const { hook, id } = queued
    await bring('FAILED', queued)
    const left = await stage.leaves(async () => {
      for (let i = 0; i < 2; i++) await stage.rows('admin', resend(id))
    })
    expect(left.map(bare)).toEqual([entry('WEBHOOK_RESEND', { id: hook, url: URL }, { delivery_id: id })])
  })

  test('has none for what was refused', async () => {
    const { hook, id } = await queue()
    const refused = await stage.leaves(async () => {
      for (const actor of ['admin', 'manager', 'user', 'anonymous'] as const) {
        for (const statement of [create('nonsense', ['user.created']), update(hook, `events => '{}'`), remove(NOBODY)]) {
          expect((await stage.attempt(actor, statement, { keep: true })).code).not.toBe(null)
        }
      }
      expect((await stage.attempt('manager', resend(id), { keep: true })).code).toBe('RQ404')
    })
    expect(refused).toEqual([])
  })

  test('never has a key, nor what may be one in a URL', async () => {
    const { hook, id, key } = await queue()
    await change(hook, `url => 'https://elsewhere.example.com/', is_enabled => false`)
    await change(hook, 'is_enabled => true')
    await attempt(id)
    await failed(id, 410, 'Gone', true)
    await stage.rows('admin', remove(hook))
    const { rows } = await stage.root.query(
      `select action, a::text as entry from app_public.audit_logs a where metadata ->> 'webhook_id' = $1`,
      [hook],
    )
    expect(rows.map(({ action }) => action).sort()).toEqual([
      'WEBHOOK_CREATE',
      'WEBHOOK_DELETE',
      'WEBHOOK_UPDATE',
      'WEBHOOK_UPDATE',
      'WEBHOOK_UPDATE',
    ])
    expect(
      rows.filter(
        (row) => row.entry.includes(key.slice(6, 20)) || row.entry.includes('signing_key') || row.entry.includes('token'),
      ),
    ).toEqual([])
  })
})
