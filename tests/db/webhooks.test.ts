import type pg from 'pg'
import { bare, openStage, type Actor, type Row, type Stage } from './stage.ts'

// Who registers webhooks, what is queued for them, once, and what becomes of it.

let stage: Stage
/** Two workers, each on a connection of its own. */
let workers: [pg.Client, pg.Client]

beforeAll(async () => {
  stage = await openStage()
  workers = [await stage.db.connect('owner'), await stage.db.connect('owner')]
})
afterEach(async () => {
  await stage.root.query('delete from app_public.webhooks')
  await stage.root.query('delete from graphile_worker._private_jobs')
})
afterAll(() => stage?.close())

const NOBODY = '00000000-0000-7000-8000-000000000000'
const URL = 'https://example.test/hook'
const all = async (text: string, values: unknown[] = []): Promise<Row[]> => (await stage.root.query(text, values)).rows

const creating = (url: string, events: string) => `select * from app_public.create_webhook(${url}, ${events})`
/** A webhook of an admin's, as they were answered. */
const register = async (...events: string[]): Promise<Row> =>
  (await stage.rows('admin', creating(`'${URL}'`, `'{${events.join()}}'`)))[0]!
const change = (id: string, changes: string) =>
  stage.rows('admin', `select * from app_public.update_webhook('${id}', ${changes})`)
const webhook = async (id: string): Promise<Row> => (await all('select * from app_public.webhooks where id = $1', [id]))[0]!
const deliveries = (id: string) =>
  all('select * from app_public.webhook_deliveries where webhook_id = $1 order by created_at, id', [id])

/** A webhook with one delivery queued; of both the ids. */
async function queue() {
  const { id } = await register('request.submitted')
  await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
  await stage.tell()
  return { webhookId: id as string, id: (await deliveries(id))[0]!['id'] as string }
}
const kept = async (id: string) => (await all('select * from app_public.webhook_deliveries where id = $1', [id]))[0]!
const jobs = async (id: string) => (await stage.jobs('deliver_webhook')).filter((payload) => payload['id'] === id).length

const begin = async (id: string, worker = workers[0]): Promise<Row> =>
  (await worker.query('select * from app_private.begin_delivery($1)', [id])).rows[0]
const letGo = (id: string, worker = workers[0]) =>
  worker.query('select pg_advisory_unlock(app_private.delivery_lock($1)) as held', [id])
/** One attempt to begin, with its lock let go at its end. */
const attempt = (id: string) => begin(id).finally(() => letGo(id))
const done = (id: string, status = 204) => workers[0].query('select app_private.delivery_done($1, $2)', [id, status])
const failed = (id: string, { status = 500, error = 'It answered 500.', forGood = false } = {}, worker = workers[0]) =>
  worker.query('select app_private.delivery_failed($1, $2, $3, $4)', [id, status, error, forGood])
const resend = (id: string) => stage.rows('admin', `select * from app_public.resend_webhook_delivery('${id}')`)
const nothing = { url: null, signing_key: null, body: null }

describe('who may', () => {
  const actors = [
    ['anonymous', '42501', '42501'],
    ['auditor', '42501', '42501'],
    ['user', 'RQ403', 'RQ404'],
    ['manager', 'RQ403', 'RQ404'],
    ['admin', null, null],
    ['admin2', null, null],
  ] as [Actor, string | null, string | null][]

  test.each(actors)('%s', async (actor, registering, managing) => {
    const { webhookId, id } = await queue()
    const codes = async (...statements: string[]) => {
      const outcomes = await stage.attempts(statements.map((statement) => ({ actor, statement: `select ${statement}` })))
      return outcomes.map(({ code }) => code)
    }
    expect(await codes(`app_public.create_webhook('${URL}', '{user.created}')`)).toEqual([registering])
    // What is not there for them is not told from what is not there at all.
    const managed = (webhookId: string, id: string) =>
      codes(
        `app_public.update_webhook('${webhookId}', is_enabled => false)`,
        `app_public.delete_webhook('${webhookId}')`,
        `app_public.resend_webhook_delivery('${id}')`,
      )
    expect(await managed(webhookId, id)).toEqual([managing, managing, managing])
    const unknown = managing ?? 'RQ404'
    expect(await managed(NOBODY, NOBODY)).toEqual([unknown, unknown, unknown])
  })

  test('is asked before what is wrong with the values', async () => {
    const { id } = await register('user.created')
    const wrong = [`create_webhook('ftp://x', '{}')`, `update_webhook('${id}', 'ftp://x', '{}')`]
    const as = async (actor: Actor, statement: string) => (await stage.attempt(actor, `select app_public.${statement}`)).code
    expect(await as('manager', wrong[0]!)).toBe('RQ403')
    expect(await as('manager', wrong[1]!)).toBe('RQ404')
    for (const statement of wrong) expect(await as('admin', statement)).toBe('RQ422')
    await stage.root.query(`update app_private.sessions set revoked_at = now() where user_id = $1`, [stage.id.admin2])
    for (const statement of wrong) expect(await as('admin2', statement)).toBe('RQ401')
    await stage.root.query(`update app_private.sessions set revoked_at = null where user_id = $1`, [stage.id.admin2])
  })
})

describe('what is refused', () => {
  const form = { column: 'url', message: 'The URL must begin with https:// or http://, and name no user.' }
  const unknown = {
    column: 'events',
    message:
      'The events that there are: request.approved, request.assigned, request.rejected, request.submitted, user.created, user.deactivated, user.reactivated, user.updated.',
  }
  const none = { column: 'events', message: 'A webhook is told of one event at least.' }
  const refused: [string, string, object][] = [
    [`'ftp://example.test/'`, `'{user.created}'`, form],
    [`'//example.test/'`, `'{user.created}'`, form],
    [`'javascript:alert(1)'`, `'{user.created}'`, form],
    [`'file:///etc/passwd'`, `'{user.created}'`, form],
    [`'example.test'`, `'{user.created}'`, form],
    [`''`, `'{user.created}'`, form],
    [`'https://'`, `'{user.created}'`, form],
    [`'https:///path'`, `'{user.created}'`, form],
    [`'https://user:password@example.test/'`, `'{user.created}'`, form],
    [`'https://user@example.test/'`, `'{user.created}'`, form],
    [`'https:\\\\user@example.test/'`, `'{user.created}'`, form],
    [`' https://example.test/'`, `'{user.created}'`, form],
    [`E'https://example.test/\\nx'`, `'{user.created}'`, form],
    [`E'x\\nhttps://example.test/'`, `'{user.created}'`, form],
    [`E'https://example.test/\\n'`, `'{user.created}'`, form],
    [
      `rpad('https://example.test/', 2001, 'x')`,
      `'{user.created}'`,
      { column: 'url', message: 'The URL must have at most 2,000 characters.' },
    ],
    ['null', `'{user.created}'`, { column: 'url', message: 'The url must not be null.' }],
    [`'${URL}'`, `'{}'`, none],
    [`'${URL}'`, 'null', { column: 'events', message: 'The events must not be null.' }],
    [`'${URL}'`, `'{user.created,null}'`, unknown],
    [`'${URL}'`, `'{user.created,user.destroyed}'`, unknown],
    [`'${URL}'`, `'{USER_CREATE}'`, unknown],
    [`'${URL}'`, `'{user.*}'`, unknown],
    [`'${URL}'`, `'{request.created}'`, unknown],
  ]
  test.each(refused)('%s, %s', async (url, events, told) => {
    const expected = { code: 'RQ422', ...told }
    const { id } = await register('user.created')
    const before = await webhook(id)
    expect(await stage.attempt('admin', creating(url, events))).toMatchObject(expected)
    // To an edit, null is what was left out.
    if (url !== 'null' && events !== 'null') {
      const edit = `select app_public.update_webhook('${id}', ${url}, ${events})`
      expect(await stage.attempt('admin', edit)).toMatchObject(expected)
    }
    expect(await webhook(id)).toEqual(before)
  })

  test.each([
    'http://example.test',
    'https://example.test:8443/a/b?c=d#e',
    'https://[2001:db8::1]/',
    'https://müller.test/@x?y@z',
  ])('not %s', async (url) => {
    const [made] = await stage.rows('admin', creating(`'${url}'`, `'{user.created}'`))
    expect(made).toMatchObject({ url, events: ['user.created'], is_enabled: true, failing_since: null })
  })
  test('not a URL of 2,000 characters', async () => {
    const [made] = await stage.rows('admin', creating(`rpad('https://example.test/', 2000, 'x')`, `'{user.created}'`))
    expect(made!['url']).toHaveLength(2000)
  })
})

describe('a webhook', () => {
  test('signs with 256 bits of its own', async () => {
    const keys = [await register('user.created'), await register('user.created')].map(({ signing_key }) => signing_key as string)
    for (const key of keys) {
      expect(key).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/)
      expect(Buffer.from(key.slice(6), 'base64')).toHaveLength(32)
    }
    expect(keys[0]).not.toBe(keys[1])
  })

  test('keeps in an edit what is left out, or null', async () => {
    const { id, ...made } = await register('user.created')
    const edits: [string, object][] = [
      [`url => 'https://other.test/'`, { url: 'https://other.test/' }],
      [`events => '{user.updated,request.assigned}'`, { events: ['user.updated', 'request.assigned'] }],
      ['is_enabled => false', { is_enabled: false }],
      ['null, null, null', {}],
      ['is_enabled => true', { is_enabled: true }],
    ]
    let expected = { id, ...made }
    for (const [changes, changed] of edits) {
      expected = { ...expected, ...changed }
      expect((await change(id, changes))[0]).toEqual(expected)
    }
  })

  test('leaves an entry of each change, and none of no change; never its key', async () => {
    let made: Row
    const entry = (action: string, metadata: Row) => stage.entry(action, 'admin', null, { webhook_id: made['id'], ...metadata })
    const left: Row[] = []
    const leave = async (act: () => Promise<unknown>) => {
      const entries = await stage.leaves(act)
      left.push(...entries)
      return entries.map(bare)
    }
    expect(await leave(async () => (made = await register('user.created', 'user.updated')))).toEqual([
      entry('WEBHOOK_CREATE', { url: URL, events: ['user.created', 'user.updated'] }),
    ])
    const { id } = made!
    expect(await leave(() => change(id, `'${URL}', '{user.created,user.updated}', true`))).toEqual([])
    expect(await leave(() => change(id, `'https://other.test/', '{user.created}', false`))).toEqual([
      entry('WEBHOOK_UPDATE', {
        url: 'https://other.test/',
        old_url: URL,
        events: { old: ['user.created', 'user.updated'], new: ['user.created'] },
        is_enabled: { old: true, new: false },
      }),
    ])
    expect(await leave(() => stage.rows('admin', `select * from app_public.delete_webhook('${id}')`))).toEqual([
      entry('WEBHOOK_DELETE', { url: 'https://other.test/' }),
    ])
    expect(left).toHaveLength(3)
    expect(JSON.stringify(left)).not.toContain(made!['signing_key'].slice(6))
    expect(JSON.stringify(left)).not.toMatch(/whsec_|signing_key/)
    expect(await stage.jobs('notify')).toEqual([]) // Nobody is told.
  })

  test('takes the record of its deliveries along', async () => {
    const { webhookId, id } = await queue()
    const [removed] = await stage.rows('admin', `select * from app_public.delete_webhook('${webhookId}')`)
    expect(removed).toMatchObject({ id: webhookId, url: URL })
    expect([await webhook(webhookId), await kept(id)]).toEqual([undefined, undefined])
    // Its job finds nothing, and an attempt under way ends in nothing.
    expect(await attempt(id)).toEqual(nothing)
    expect(await stage.leaves(() => failed(id, { status: 410 }).then(() => done(id)))).toEqual([])
  })
})

describe('an event', () => {
  test('is there for each action that is told, but what is between a person and their password', async () => {
    const actions = await all(
      `select action from app_public.audit_actions where is_told and action not like 'PASSWORD\\_%' order by 1`,
    )
    const events = await all('select action from app_public.webhook_events order by 1')
    expect(events).toEqual(actions)
    expect(events).toHaveLength(8)
  })

  const person = (name: string, role: string) => ({ id: expect.any(String), name, role })
  const [uma, mia, max] = [
    person('Uma User', 'USER'),
    person('Mia Manager', 'MANAGER'),
    expect.objectContaining({ role: 'MANAGER' }),
  ]
  const ada = person('Ada Admin', 'ADMIN')
  const time = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?[+-]\d\d:\d\d$/)
  const undecided = { reviewed_by: null, reviewed_at: null, review_comment: null }
  const request = {
    id: expect.any(String),
    title: 'Of its own',
    creator: uma,
    assigned_to: null,
    submitted_at: time,
    ...undecided,
  }
  const decided = { reviewed_by: mia, reviewed_at: time }

  /** A new submitted request's id. */
  const submit = async () => {
    const [made] = await stage.rows('user', `select * from app_public.create_request('Of its own', 'private detail')`)
    await stage.rows('user', `select * from app_public.submit_request('${made!['id']}')`)
    return made!['id'] as string
  }
  const user = (changes: string) => async () => {
    const [made] = await all(`insert into app_public.users (name) values ('Somebody New') returning id`)
    if (changes.includes('true, false')) await all('update app_public.users set is_deleted = true where id = $1', [made!['id']])
    await stage.rows('admin', `select * from app_public.${changes.replace('true, false', '').replace('$1', `'${made!['id']}'`)}`)
  }
  const somebody = { id: expect.any(String), name: 'Somebody New', role: 'USER', is_deleted: false }

  const cases: [string, () => Promise<unknown>, object][] = [
    ['request.submitted', submit, { actor: uma, request: { ...request, status: 'SUBMITTED', version: 2 } }],
    [
      'request.assigned',
      async () => stage.rows('manager', `select * from app_public.assign_request('${await submit()}', '${stage.id.manager2}')`),
      { actor: mia, request: { ...request, status: 'SUBMITTED', version: 3, assigned_to: max } },
    ],
    [
      'request.approved',
      async () => stage.rows('manager', `select * from app_public.approve_request('${await submit()}')`),
      { actor: mia, request: { ...request, ...decided, status: 'APPROVED', version: 3 } },
    ],
    [
      'request.rejected',
      async () => stage.rows('manager', `select * from app_public.reject_request('${await submit()}', 'Not so')`),
      { actor: mia, request: { ...request, ...decided, status: 'REJECTED', version: 3, review_comment: 'Not so' } },
    ],
    [
      'user.created',
      () =>
        stage.rows('admin', `select * from app_hidden.create_user('new@assent.test', 'Somebody New', 'USER', 'digest', null)`),
      { actor: ada, user: somebody },
    ],
    ['user.updated', user(`update_user($1, role => 'MANAGER')`), { actor: ada, user: { ...somebody, role: 'MANAGER' } }],
    ['user.deactivated', user('deactivate_user($1)'), { actor: ada, user: { ...somebody, is_deleted: true } }],
    ['user.reactivated', user('reactivate_user($1)true, false'), { actor: ada, user: somebody }],
  ]

  test.each(cases)('%s: one delivery, of what has happened and of no address or description', async (event, act, data) => {
    const { id } = await register(event)
    await act()
    await stage.tell()
    const [delivery, ...others] = await deliveries(id)
    expect(others).toEqual([])
    expect(delivery).toMatchObject({
      event,
      state: 'QUEUED',
      attempts: 0,
      response_status: null,
      error: null,
      delivered_at: null,
    })
    const { audit_log_id, payload } = delivery!
    expect(payload).toEqual({ type: event, timestamp: time, data: { audit_log_id, ...data } })
    expect(JSON.stringify(payload)).not.toMatch(/@|private detail/)
    const [entry] = await all('select * from app_public.audit_logs where id = $1', [audit_log_id])
    expect(new Date(payload.timestamp)).toEqual(entry!['timestamp'])
    expect(await jobs(delivery!['id'])).toBe(1)
  })

  test('by nobody, by SQL, has no actor', async () => {
    const { id } = await register('user.created')
    await all(`insert into app_public.users (name) values ('Somebody New')`)
    await stage.tell()
    expect((await deliveries(id))[0]!['payload'].data).toMatchObject({ actor: null, user: somebody })
  })

  test('comes to each webhook that is on and is told of it, once', async () => {
    const [one, two] = [await register('request.submitted'), await register('user.created', 'request.submitted')]
    const [off, other] = [await register('request.submitted'), await register('request.approved')]
    await change(off['id'], 'is_enabled => false')
    await submit()
    const [job] = await stage.jobs('notify')
    // Two workers at once, and then once more.
    const notify = (worker: pg.Client) => worker.query('select app_private.notify($1)', [job!['id']])
    await Promise.all(workers.map(notify))
    await notify(workers[0])
    const counts = async () => Promise.all([one, two, off, other].map(async ({ id }) => (await deliveries(id)).length))
    expect(await counts()).toEqual([1, 1, 0, 0])
    expect(await stage.jobs('deliver_webhook')).toHaveLength(2)
    await all('delete from graphile_worker._private_jobs')
    // Switched on later, it is told of what happens from then on.
    await change(off['id'], 'is_enabled => true')
    await submit()
    await stage.tell()
    expect(await counts()).toEqual([2, 2, 1, 0])
  })

  test('named twice comes once', async () => {
    const { id } = await register('request.submitted', 'request.submitted')
    await submit()
    await stage.tell()
    expect(await deliveries(id)).toHaveLength(1)
  })

  test('that is undone leaves neither delivery nor job', async () => {
    const { id } = await register('request.submitted')
    await submit()
    const [job] = await stage.jobs('notify')
    await workers[0].query('begin')
    await workers[0].query('select app_private.notify($1)', [job!['id']])
    await workers[0].query('rollback')
    expect([await deliveries(id), await stage.jobs('deliver_webhook')]).toEqual([[], []])
  })

  test('is none where nobody else is told', async () => {
    const events = (await all('select event from app_public.webhook_events')).map(({ event }) => event as string)
    const { id } = await register(...events)
    const { id: draft } = await stage.request({ creator: 'user', assignee: null, status: 'DRAFT' })
    await stage.rows('user', `select * from app_public.update_request('${draft}', 'Another')`)
    await stage.rows('user', `select * from app_public.delete_request('${draft}')`)
    const entries = await all(
      `insert into app_public.audit_logs (action, user_id)
       select action, $1 from app_public.audit_actions where action ~ '^(LOG|SESSION|PASSWORD)' returning id`,
      [stage.id.user],
    )
    expect(entries.length).toBeGreaterThan(4)
    await stage.tell()
    expect(await deliveries(id)).toEqual([])
  })
})

describe('a delivery', () => {
  test('is begun with where to, the key and the body, and counts its attempts', async () => {
    const { webhookId, id } = await queue()
    const { url, signing_key } = await webhook(webhookId)
    const { body, ...begun } = await attempt(id)
    expect(begun).toEqual({ url, signing_key })
    expect(JSON.parse(body)).toEqual((await kept(id))['payload'])
    await failed(id, { error: 'x'.repeat(2000) })
    expect(await kept(id)).toMatchObject({ state: 'QUEUED', attempts: 1, response_status: 500, error: 'x'.repeat(1000) })
    expect((await attempt(id))['body']).toBe(body) // the same, byte for byte
    expect(await kept(id)).toMatchObject({ attempts: 2 })
    expect(await jobs(id)).toBe(1) // graphile-worker's own retries
  })

  test('that is done is not begun again, nor failed', async () => {
    const { webhookId, id } = await queue()
    await attempt(id)
    await failed(id)
    expect((await webhook(webhookId))['failing_since']).toEqual(expect.any(Date))
    await attempt(id)
    await done(id, 202)
    const row = await kept(id)
    expect(row).toMatchObject({
      state: 'DELIVERED',
      attempts: 2,
      response_status: 202,
      error: null,
      delivered_at: expect.any(Date),
    })
    expect((await webhook(webhookId))['failing_since']).toBe(null)
    expect(await attempt(id)).toEqual(nothing)
    await done(id, 200)
    await failed(id, { forGood: true })
    expect(await kept(id)).toEqual(row)
  })

  test('that has failed for good is not begun again', async () => {
    const { id } = await queue()
    await attempt(id)
    await failed(id, { forGood: true })
    const row = await kept(id)
    expect(row).toMatchObject({ state: 'FAILED', response_status: 500, delivered_at: null })
    expect(await attempt(id)).toEqual(nothing)
    expect(await kept(id)).toEqual(row)
  })

  test('goes to where its webhook leads now, and of one that is off to nowhere', async () => {
    const { webhookId, id } = await queue()
    await change(webhookId, `'https://other.test/'`)
    expect(await attempt(id)).toMatchObject({ url: 'https://other.test/' })
    await change(webhookId, 'is_enabled => false')
    expect(await attempt(id)).toEqual(nothing)
    expect(await kept(id)).toMatchObject({ state: 'CANCELLED', attempts: 1 })
    await change(webhookId, 'is_enabled => true')
    expect(await attempt(id)).toEqual(nothing)
  })

  test('of no such id is none', async () => expect(await attempt(NOBODY)).toEqual(nothing))

  test('is in a state that there is', async () => {
    const { id } = await queue()
    const set = (changes: string) => all(`update app_public.webhook_deliveries set ${changes} where id = $1`, [id])
    await expect(set(`state = 'LOST'`)).rejects.toMatchObject({ code: '23514' })
    await expect(set(`state = 'DELIVERED'`)).rejects.toMatchObject({ code: '23514' }) // at no time
    await expect(set('delivered_at = now()')).rejects.toMatchObject({ code: '23514' })
  })
})

describe('of two workers', () => {
  test('the second does not begin what the first is sending, and counts no attempt', async () => {
    const { id } = await queue()
    const [first, second] = workers
    await begin(id, first)
    await expect(begin(id, second)).rejects.toMatchObject({ code: '55P03' })
    expect((await letGo(id, second)).rows).toEqual([{ held: false }])
    expect(await kept(id)).toMatchObject({ attempts: 1 })
    await done(id)
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
    expect(await attempt(id)).toEqual(first)
    expect(await kept(id)).toMatchObject({ state: 'QUEUED', attempts: 2 })
  })
})

describe('a webhook that fails', () => {
  const since = (webhookId: string, ago: string) =>
    all('update app_public.webhooks set failing_since = now() - $2::interval where id = $1', [webhookId, ago])
  const switchedOff = (webhookId: string, reason: string) => [
    {
      ...stage.entry('WEBHOOK_UPDATE', null, null, {
        webhook_id: webhookId,
        url: URL,
        is_enabled: { old: true, new: false },
        reason,
      }),
      ip_address: null,
    },
  ]

  test('remembers since when: the first failure, not the last', async () => {
    const { webhookId, id } = await queue()
    await failed(id)
    const { failing_since } = await webhook(webhookId)
    expect(failing_since).toEqual(expect.any(Date))
    expect(await stage.leaves(() => failed(id))).toEqual([])
    expect(await webhook(webhookId)).toMatchObject({ failing_since, is_enabled: true })
  })

  test('stays on within a week, and is switched off after it, once', async () => {
    const { webhookId, id } = await queue()
    await since(webhookId, '6 days 23 hours')
    expect(await stage.leaves(() => failed(id))).toEqual([])
    expect(await webhook(webhookId)).toMatchObject({ is_enabled: true })
    await since(webhookId, '7 days 1 second')
    // Of two attempts that fail at once, one switches it off.
    const left = await stage.leaves(() => Promise.all(workers.map((worker) => failed(id, {}, worker))))
    expect(left.map(bare)).toEqual(switchedOff(webhookId, 'It had failed for a week.'))
    expect(await webhook(webhookId)).toMatchObject({ is_enabled: false, failing_since: expect.any(Date) })
    // What was still to be sent is not.
    expect(await attempt(id)).toEqual(nothing)
    expect(await kept(id)).toMatchObject({ state: 'CANCELLED' })
  })

  test('succeeds after a week but for a minute, and has its week again', async () => {
    const { webhookId, id } = await queue()
    await since(webhookId, '6 days 23:59:00')
    await done(id)
    expect(await webhook(webhookId)).toMatchObject({ is_enabled: true, failing_since: null })
  })

  test('is switched off at once by 410 Gone', async () => {
    const { webhookId, id } = await queue()
    const left = await stage.leaves(() => failed(id, { status: 410, error: 'It answered 410.', forGood: true }))
    expect(left.map(bare)).toEqual(switchedOff(webhookId, 'It answered 410 Gone.'))
    expect(await webhook(webhookId)).toMatchObject({ is_enabled: false })
    expect(await kept(id)).toMatchObject({ state: 'FAILED', response_status: 410 })
  })

  test('has its week again when it is switched on', async () => {
    const { webhookId, id } = await queue()
    await since(webhookId, '8 days')
    await failed(id)
    await change(webhookId, 'is_enabled => true')
    expect(await webhook(webhookId)).toMatchObject({ is_enabled: true, failing_since: null })
    await failed(id)
    expect(await webhook(webhookId)).toMatchObject({ is_enabled: true })
    // Not by an edit that switches nothing.
    const { failing_since } = await webhook(webhookId)
    await change(webhookId, 'is_enabled => true')
    expect(await webhook(webhookId)).toMatchObject({ failing_since })
  })
})

describe('sent again', () => {
  /** As the worker leaves it whose attempt is over: its job is gone. */
  const endJobs = () => all('delete from graphile_worker._private_jobs')
  const ends: [string, (of: { webhookId: string; id: string }) => Promise<unknown>][] = [
    ['DELIVERED', ({ id }) => attempt(id).then(() => done(id))],
    ['FAILED', ({ id }) => attempt(id).then(() => failed(id, { forGood: true }))],
    [
      'CANCELLED',
      async ({ webhookId, id }) => {
        await change(webhookId, 'is_enabled => false')
        await attempt(id)
        await change(webhookId, 'is_enabled => true')
      },
    ],
  ]

  test.each(ends)('what is %s is queued, with the same body and one job', async (state, end) => {
    const queued = await queue()
    await end(queued)
    await endJobs()
    const before = await kept(queued.id)
    expect(before).toMatchObject({ state })
    const [answer] = await resend(queued.id)
    expect(answer).toMatchObject({ id: queued.id, state: 'QUEUED', delivered_at: null, attempts: before['attempts'] })
    expect(await jobs(queued.id)).toBe(1)
    expect(JSON.parse((await attempt(queued.id))['body'])).toEqual(before['payload'])
    await done(queued.id)
    expect(await kept(queued.id)).toMatchObject({ state: 'DELIVERED', attempts: before['attempts'] + 1 })
  })

  test('what is queued stays so, with the job that it has', async () => {
    const { id } = await queue()
    expect((await resend(id))[0]).toMatchObject({ state: 'QUEUED', attempts: 0 })
    expect(await jobs(id)).toBe(1)
  })

  // The job of the attempt before is there until its worker has recorded its end.
  test.each(ends)('what is %s has a job of its own, be the last one there yet', async (_state, end) => {
    const queued = await queue()
    const last = await all(
      `update graphile_worker._private_jobs set locked_at = now(), locked_by = 'a worker' where payload ->> 'id' = $1 returning id`,
      [queued.id],
    )
    expect(last).toHaveLength(1)
    await end(queued)
    await resend(queued.id)
    await all('delete from graphile_worker._private_jobs where id = $1', [last[0]!['id']])
    expect(await kept(queued.id)).toMatchObject({ state: 'QUEUED' })
    expect(await jobs(queued.id)).toBe(1)
  })

  test('of a webhook that is off it is cancelled', async () => {
    const { webhookId, id } = await queue()
    await attempt(id)
    await done(id)
    await endJobs()
    await change(webhookId, 'is_enabled => false')
    await resend(id)
    expect(await attempt(id)).toEqual(nothing)
    expect(await kept(id)).toMatchObject({ state: 'CANCELLED', attempts: 1, delivered_at: null })
  })
})
