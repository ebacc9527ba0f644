import type pg from 'pg'
import { digest, openStage, type Actor, type Person, type Row, type Stage } from '../harness/stage.ts'

// Who is told of what, held against a model of its own; that each is told once, and only of what was committed; and what people
// do with what they were told. Which rows they see: permissions.test.ts. What becomes of the mail: mail.test.ts.

let stage: Stage
/** Two workers, each on a connection of its own. */
let workers: [pg.Client, pg.Client]

beforeAll(async () => {
  stage = await openStage()
  workers = [await stage.db.connect('owner'), await stage.db.connect('owner')]
  for (const creator of ['user', 'manager', 'admin'] as const) {
    for (const assignee of [null, 'manager', 'manager2', 'admin', 'admin2', 'demoted', 'gone'] as const) {
      if (assignee === creator) continue
      const { id: draft } = await stage.request({ creator, assignee, status: 'DRAFT' })
      situations.push({ creator, assignee, draft, waiting: await submitted(assignee, creator) })
    }
  }
  await stage.retire()
  await stage.tell()
})
beforeEach(() => stage.root.query('delete from app_private.notification_preferences'))
afterAll(() => stage?.close())

/** Requests of different people and for different people, of whom some have gone since. */
const situations: { creator: Person; assignee: Person | null; draft: string; waiting: string }[] = []
const roleOf: Partial<Record<Person, 'USER' | 'MANAGER' | 'ADMIN'>> = {
  user: 'USER',
  user2: 'USER',
  demoted: 'USER',
  manager: 'MANAGER',
  manager2: 'MANAGER',
  admin: 'ADMIN',
  admin2: 'ADMIN',
} // and nobody else is active
const active = Object.keys(roleOf) as Person[]
const decides = (person: Person | null) => person !== null && (roleOf[person] ?? 'USER') !== 'USER'
const canDecide = (person: Person, creator: Person, assignee: Person | null) =>
  decides(person) && person !== creator && (roleOf[person] === 'ADMIN' || !decides(assignee) || assignee === person)

const NOBODY = '00000000-0000-7000-8000-000000000000'

/** What something tells, and whom; all of it is undone. */
async function telling(act: () => Promise<unknown>): Promise<Row[]> {
  await stage.root.query('begin')
  try {
    await act()
    return await stage.tell()
  } finally {
    await stage.root.query('rollback')
  }
}
const brief = (told: Row[]) => told.map(({ kind, recipient_id }) => `${kind} ${stage.name(recipient_id)}`).sort()
/** Whom a statement tells of what, as `KIND person`. */
const tells = async (actor: Actor, statement: string) => brief(await telling(() => stage.rows(actor, statement)))
const assign = (request: string, to: Person | null) =>
  `select * from app_public.assign_request('${request}', ${to ? `'${stage.id[to]}'` : 'null'})`
const act = (action: string, request: string) => `select * from app_public.${action}_request('${request}')`
const reject = (request: string) => `select * from app_public.reject_request('${request}', 'No')`
const submitted = async (assignee: Person | null = null, creator: Person = 'user') =>
  (await stage.request({ creator, assignee, status: 'SUBMITTED' })).id

test('the accounts that a database begins with were told nothing', async () => {
  const fresh = await openStage()
  try {
    expect((await fresh.jobs('dispatch')).length).toBeGreaterThan(5)
    expect(await fresh.tell()).toEqual([])
    expect((await fresh.root.query('select * from app_public.notifications')).rows).toEqual([])
  } finally {
    await fresh.close()
  }
})

describe('who is told', () => {
  /** The notification of each, whose event is the one entry that the action left. */
  async function told(actor: Person, statement: string): Promise<{ code: string | null; told: string[]; jobs: number }> {
    const outcome: { code: string | null; told: string[]; jobs: number } = { code: null, told: [], jobs: 0 }
    const rows = await telling(async () => {
      outcome.code = (await stage.attempt(actor, statement, { keep: true })).code
      outcome.jobs = (await stage.jobs('dispatch')).length
    })
    for (const row of rows) expect(row).toMatchObject({ actor_id: stage.id[actor], read_at: null, mail_state: 'QUEUED' })
    return { ...outcome, told: brief(rows) }
  }

  test('of a submission: those who can decide it; its assignee alone, if they can', async () => {
    for (const { creator, assignee, draft } of situations) {
      const deciders = decides(assignee) ? [assignee!] : active.filter((person) => canDecide(person, creator, assignee))
      const expected = { code: null, jobs: 1, told: deciders.map((person) => `SUBMITTED ${person}`).sort() }
      expect({ creator, assignee, ...(await told(creator, act('submit', draft))) }).toEqual({ creator, assignee, ...expected })
    }
  })

  test.each(['approve', 'reject'] as const)('of what they %s: its creator', async (action) => {
    for (const { creator, assignee, waiting } of situations) {
      for (const actor of active) {
        const kind = action === 'approve' ? 'APPROVED' : 'REJECTED'
        const { code, ...outcome } = await told(actor, action === 'approve' ? act('approve', waiting) : reject(waiting))
        const may = canDecide(actor, creator, assignee)
        const expected = may ? { jobs: 1, told: [`${kind} ${creator}`] } : { jobs: 0, told: [] }
        expect({ creator, assignee, actor, done: code === null, ...outcome }).toEqual({
          creator,
          assignee,
          actor,
          done: may,
          ...expected,
        })
      }
    }
  })

  test('of an assignment: the new assignee, if they have not taken it themselves', async () => {
    for (const { creator, assignee, waiting } of situations) {
      for (const actor of active) {
        for (const to of [null, 'manager', 'manager2', 'admin', 'demoted', 'user2'] as const) {
          const { code, ...outcome } = await told(actor, assign(waiting, to))
          const may = canDecide(actor, creator, assignee) || roleOf[actor] === 'ADMIN'
          const done = may && (to === null || to === assignee || (decides(to) && to !== creator))
          const changes = done && to !== assignee
          const situation = { creator, assignee, actor, to }
          expect({ ...situation, done: code === null, ...outcome }).toEqual({
            ...situation,
            done,
            jobs: changes ? 1 : 0,
            told: changes && to !== null && to !== actor ? [`ASSIGNED ${to}`] : [],
          })
        }
      }
    }
  })

  test('names the request, who did it, and the audit entry as its event', async () => {
    const { draft } = situations[0]!
    let entry: Row | undefined
    const [row] = await telling(async () => {
      await stage.rows('user', act('submit', draft))
      entry = (await stage.jobs('dispatch'))[0]
    })
    expect(row).toMatchObject({ request_id: draft, actor_id: stage.id.user, event: entry!['id'] })
  })

  test.each(['create', 'update', 'delete'])('nobody of what they %s', async (action) => {
    const { draft } = situations[0]!
    const statement = {
      create: `select * from app_public.create_request('T', null, '${stage.id.manager}')`,
      update: `select * from app_public.update_request('${draft}', title => 'Other', assigned_to_id => '${stage.id.manager}')`,
      delete: act('delete', draft),
    }[action]!
    expect(await told('user', statement)).toEqual({ code: null, told: [], jobs: 0 })
  })
})

describe('who is told is found when the job runs', () => {
  const as = (actor: Actor, statement: string) => () => stage.rows(actor, statement)
  const retired = (person: Person) => () =>
    stage.root.query('update app_public.users set is_deleted = true where id = $1', [stage.id[person]])

  test.each<[string, Person | null, (id: string) => (() => Promise<unknown>)[], string[]]>([
    ['decided meanwhile', null, (id) => [as('admin2', act('approve', id))], ['APPROVED user']],
    [
      'assigned meanwhile',
      null,
      (id) => [as('admin', assign(id, 'manager2'))],
      ['ASSIGNED manager2', 'SUBMITTED manager2'], // two events: the second says why it is theirs
    ],
    [
      'assigned to one, and then to another',
      'manager',
      (id) => [as('admin', assign(id, 'manager2')), as('admin', assign(id, 'admin2'))],
      ['ASSIGNED admin2', 'SUBMITTED admin2'],
    ],
    [
      'assigned, and given back',
      'manager',
      (id) => [as('admin', assign(id, null))],
      ['admin', 'admin2', 'manager', 'manager2'].map((one) => `SUBMITTED ${one}`),
    ],
    ['of somebody deactivated meanwhile', null, (id) => [as('admin', act('approve', id)), retired('user')], []],
    ['assigned to one who is deactivated meanwhile', 'manager', () => [retired('manager')], ['admin', 'admin2', 'manager2']],
    [
      'assigned to one who is demoted meanwhile, who is told of that',
      'manager2',
      () => [() => stage.root.query(`update app_public.users set role = 'USER' where id = $1`, [stage.id.manager2])],
      ['ROLE_CHANGED manager2', 'admin', 'admin2', 'manager'],
    ],
  ])('a request that is %s', async (_, assignee, meanwhile, expected) => {
    const { id } = await stage.request({ creator: 'user', assignee, status: 'DRAFT' })
    await stage.tell()
    const told = await telling(async () => {
      await stage.rows('user', act('submit', id))
      for (const happens of meanwhile(id)) await happens()
    })
    expect(brief(told)).toEqual(expected.map((one) => (one.includes(' ') ? one : `SUBMITTED ${one}`)).sort())
  })
})

describe("of one's account", () => {
  const create = `select * from app_public.create_user('new@assent.test', 'New', 'USER')`
  test('who is invited is told; who is added by SQL is not', async () => {
    const [invited, ...others] = await telling(() => stage.rows('admin', create))
    expect(others).toEqual([])
    expect(invited).toMatchObject({ kind: 'ACCOUNT_CREATED', actor_id: stage.id.admin, request_id: null, mail_state: 'QUEUED' })
    const by = `select app_private.register_user('new@assent.test', 'New', 'ADMIN', 'digest')`
    expect(await telling(() => stage.root.query(by))).toEqual([])
  })

  test('who is invited again is told by mail alone', async () => {
    const told = await telling(async () => {
      const [{ id }] = (await stage.rows('admin', create)) as [Row]
      await stage.rows('admin', `select app_public.resend_invitation('${id}')`)
    })
    expect(told).toMatchObject(
      ['ACCOUNT_CREATED', 'INVITATION'].map((kind) => ({ kind, actor_id: stage.id.admin, mail_state: 'QUEUED' })),
    )
    expect(told[0]!['recipient_id']).toBe(told[1]!['recipient_id'])
  })

  const update = (changes: string) => `select * from app_public.update_user('${stage.id.user2}', ${changes})`
  test.each<[string, () => string, string[]]>([
    ['a change of role', () => update(`role => 'MANAGER'`), ['ROLE_CHANGED user2']],
    ['a change of role and name', () => update(`role => 'MANAGER', name => 'New'`), ['ROLE_CHANGED user2']],
    ['a change of name', () => update(`name => 'New'`), []],
    ['a deactivation', () => `select * from app_public.deactivate_user('${stage.id.user2}')`, []],
    ['a reactivation', () => `select * from app_public.reactivate_user('${stage.id.idle}')`, []],
  ])('%s', async (_, statement, expected) => {
    expect(await tells('admin', statement())).toEqual(expected)
  })

  test('a change of role by SQL', async () => {
    const change = () => stage.root.query(`update app_public.users set role = 'ADMIN' where id = $1`, [stage.id.user2])
    expect(brief(await telling(change))).toEqual(['ROLE_CHANGED user2'])
  })

  test('a new password, though they set it themselves', async () => {
    const told = await telling(async () => {
      const begun = await stage.rows('user2', 'select * from app_hidden.begin_password_change(null)')
      const change = `select * from app_hidden.change_password('${begun[0]!['attempt_id']}', '${digest('assent-demo-password')}', 'x')`
      await stage.rows('user2', change)
    })
    expect(brief(told)).toEqual(['PASSWORD_CHANGED user2'])
  })
})

describe('the job', () => {
  const isTold = [
    'SUBMIT',
    'ASSIGN',
    'APPROVE',
    'REJECT',
    'PASSWORD_RESET_REQUEST',
    'PASSWORD_CHANGE',
    'INVITATION_RESEND',
  ].concat(['CREATE', 'UPDATE', 'DEACTIVATE', 'REACTIVATE'].map((action) => `USER_${action}`))

  test('is there for each action that is told, and for no other', async () => {
    await stage.tell()
    const { rows: actions } = await stage.root.query('select action from app_public.audit_actions')
    expect(actions.map(({ action }) => action)).toEqual(expect.arrayContaining([...isTold, 'CREATE', 'UPDATE', 'LOGIN']))
    for (const { action } of actions) {
      await stage.root.query('begin')
      const { rows } = await stage.root.query('insert into app_public.audit_logs (action) values ($1) returning id', [action])
      const jobs = await stage.jobs('dispatch')
      await stage.root.query('rollback')
      expect({ action, jobs }).toEqual({ action, jobs: isTold.includes(action) ? [{ id: rows[0].id }] : [] })
    }
  })

  test("comes and goes with the action's transaction, and no other connection sees it before", async () => {
    const { id } = await stage.request({ creator: 'user', assignee: null, status: 'DRAFT' })
    await stage.tell()
    const client = await stage.db.connect('auth')
    const begin = async () => {
      await client.query('begin')
      await client.query(`select set_config('assent.session', $1, true), set_config('role', 'assent_user', true)`, [
        stage.secret.user,
      ])
      await client.query(act('submit', id))
      expect(await stage.jobs('dispatch')).toEqual([])
    }
    await begin()
    await client.query('rollback')
    expect(await stage.jobs('dispatch')).toEqual([])
    await begin()
    await client.query('commit')
    const [entry] = (
      await stage.root.query(`select id from app_public.audit_logs where request_id = $1 and action = 'SUBMIT'`, [id])
    ).rows
    expect(await stage.jobs('dispatch')).toEqual([{ id: entry!.id }])
  })

  const entryOf = async (request: string) =>
    (await stage.root.query(`select id from app_public.audit_logs where request_id = $1 and action = 'SUBMIT'`, [request]))
      .rows[0].id
  const notify = (worker: pg.Client, entry: string) => worker.query('select app_private.dispatch($1)', [entry])
  const notified = async (event: string) =>
    (await stage.root.query('select recipient_id, id from app_public.notifications where event = $1 order by id', [event])).rows
  const mails = async (ids: string[]) => (await stage.jobs('send_mail')).filter(({ id }) => ids.includes(id)).length

  test('that runs twice tells each once', async () => {
    const entry = await entryOf(await submitted())
    await notify(workers[0], entry)
    const before = await notified(entry)
    expect(before).toHaveLength(4)
    expect(await mails(before.map(({ id }) => id))).toBe(4)
    await notify(workers[1], entry)
    expect(await notified(entry)).toEqual(before)
    expect(await mails(before.map(({ id }) => id))).toBe(4)
  })

  test.each(['commit', 'rollback'])('that two run at once tells each once, should the first %s', async (end) => {
    const entry = await entryOf(await submitted())
    const [first, second] = workers
    await first.query('begin')
    await notify(first, entry)
    const later = notify(second, entry)
    await waiting()
    await first.query(end)
    await later
    const told = await notified(entry)
    expect(told.map(({ recipient_id }) => stage.name(recipient_id)).sort()).toEqual(['admin', 'admin2', 'manager', 'manager2'])
    expect(await mails(told.map(({ id }) => id))).toBe(4)
  })
  async function waiting(): Promise<void> {
    const { rowCount } = await stage.root.query(
      `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
    )
    if (!rowCount) await waiting()
  }

  test('of an entry that is not there fails, and is tried again', async () => {
    await expect(notify(workers[0], NOBODY)).rejects.toMatchObject({ code: 'P0002' })
  })
})

describe('the inbox', () => {
  const mine = async (person: Person, kind = 'APPROVED'): Promise<string> => {
    const { rows } = await stage.root.query(
      `insert into app_public.notifications (recipient_id, kind, event, mail_state) values ($1, $2, gen_random_uuid()::text, 'NONE') returning id`,
      [stage.id[person], kind],
    )
    return rows[0].id
  }
  const read = async (id: string) =>
    (await stage.root.query('select read_at from app_public.notifications where id = $1', [id])).rows[0]?.read_at
  const markRead = (id: string) => `select * from app_public.mark_notification_read('${id}')`
  const markAll = 'select app_public.mark_all_notifications_read()'
  const unread = 'select app_public.unread_notification_count() as count'
  const count = async (actor: Person, statement: string) => (await stage.rows(actor, statement))[0]!['count']

  beforeEach(() => stage.root.query('delete from app_public.notifications'))

  test.each(['user', 'manager', 'admin'] as const)('of %s is counted and marked as read, one by one and all', async (person) => {
    const [one] = await Promise.all([mine(person), mine(person), mine(person)])
    const [others, digests] = [await mine('user2'), await mine(person, 'DIGEST')]
    expect(await count(person, unread)).toBe(3)
    expect(await stage.rows(person, markRead(one))).toEqual([expect.objectContaining({ id: one, read_at: expect.any(String) })])
    expect(await count(person, unread)).toBe(2)

    const at = await read(one)
    await stage.rows(person, markRead(one))
    expect(await read(one)).toEqual(at)

    await stage.rows(person, markAll)
    expect(await count(person, unread)).toBe(0)
    await stage.rows(person, markAll)
    expect(await read(one)).toEqual(at)
    expect([await read(others), await read(digests)]).toEqual([null, null])
  })

  test.each<[string, () => Promise<string>]>([
    ["another's", () => mine('user2')],
    ["an admin's", () => mine('admin')],
    ['a digest', () => mine('user', 'DIGEST')],
    ['of no such id', async () => NOBODY],
  ])('has none to mark that is %s', async (_, choose) => {
    const id = await choose()
    const outcome = await stage.attempt('user', markRead(id), { keep: true })
    expect(outcome).toEqual(await stage.attempt('user', markRead(NOBODY), { keep: true }))
    expect(outcome.code).toBe('RQ404')
    expect((await read(id)) ?? null).toBe(null)
  })

  test('is counted as far as 10,000', async () => {
    await stage.root.query(
      `insert into app_public.notifications (recipient_id, kind, event, mail_state)
       select $1, 'APPROVED', 'event ' || n, 'NONE' from generate_series(1, 10001) n`,
      [stage.id.user],
    )
    expect(await count('user', unread)).toBe(10_000)
  })

  test.each<[string, string]>([
    ['anonymous', '42501'],
    ['auditor', '42501'],
    ['authenticator', '42501'],
  ])('is for people, not for %s', async (actor, code) => {
    for (const statement of [markRead(NOBODY), markAll, unread, 'select * from app_public.my_notification_preferences()']) {
      expect((await stage.attempt(actor as Actor, statement)).code).toBe(code)
    }
  })

  test.each(['assent_user', 'assent_manager', 'assent_admin'])('is not for who merely sets the role %s', async (role) => {
    // Nor does that show only where there is something to mark.
    expect((await stage.attempt('anonymous', markAll, { role })).code).toBe('RQ401')
    const id = await mine('manager')
    const preference = `select app_public.set_notification_preference('SUBMITTED', 'NONE')`
    for (const statement of [markRead(id), markAll, preference]) {
      expect((await stage.attempt('anonymous', statement, { role })).code).toBe('RQ401')
    }
    const { rows } = await stage.attempt('anonymous', unread, { role, fetch: true })
    expect(rows).toEqual([{ count: 0 }])
    expect(await read(id)).toBe(null)
  })

  test('answers to the person of a session, whose role has changed meanwhile', async () => {
    const id = await mine('manager')
    const outcome = await stage.attempt('manager', markRead(id), { role: 'assent_user', fetch: true, keep: true })
    expect(outcome.rows).toEqual([expect.objectContaining({ id })])
    expect((await stage.attempt('gone', markRead(id), { role: 'assent_manager' })).code).toBe('RQ401')
  })
})

describe('preferences', () => {
  const set = (kind: string | null, delivery: string | null) =>
    `select * from app_public.set_notification_preference(${[kind, delivery].map((one) => (one === null ? 'null' : `'${one}'`)).join(', ')})`
  const mine = (person: Person) => stage.rows(person, 'select * from app_public.my_notification_preferences()')
  const declinable = ['APPROVED', 'ASSIGNED', 'DIGEST', 'REJECTED', 'REMINDER', 'SUBMITTED']
  const mandatory = ['ACCOUNT_CREATED', 'PASSWORD_CHANGED', 'PASSWORD_RESET', 'ROLE_CHANGED']

  test('are a mail at once, of each kind that can be declined', async () => {
    expect(await mine('user')).toEqual(
      declinable.map((kind) => ({ kind, headline: expect.stringMatching(/\w{3}/), delivery: 'AT_ONCE' })),
    )
  })

  test("are set for oneself, and changed, and leave another's alone", async () => {
    expect(await stage.rows('user', set('APPROVED', 'NONE'))).toEqual([
      { kind: 'APPROVED', headline: 'Approved', delivery: 'NONE' },
    ])
    await stage.rows('user', set('REMINDER', 'NONE'))
    expect(await stage.rows('user', set('REMINDER', 'DIGEST'))).toMatchObject([{ kind: 'REMINDER', delivery: 'DIGEST' }])
    const chosen: Record<string, string> = { APPROVED: 'NONE', REMINDER: 'DIGEST' }
    expect((await mine('user')).map(({ kind, delivery }) => [kind, delivery])).toEqual(
      declinable.map((kind) => [kind, chosen[kind] ?? 'AT_ONCE']),
    )
    expect(new Set((await mine('user2')).map(({ delivery }) => delivery))).toEqual(new Set(['AT_ONCE']))
  })

  test.each<[string, string | null, string | null, string]>([
    ...mandatory.map((kind): [string, string, string, string] => [`that decline ${kind}`, kind, 'NONE', 'kind']),
    ['of no such kind', 'WHATEVER', 'NONE', 'kind'],
    ['of a kind in small letters', 'submitted', 'NONE', 'kind'],
    ['of no kind', null, 'NONE', 'kind'],
    ['of no such delivery', 'SUBMITTED', 'SOMETIMES', 'delivery'],
    ['of no delivery', 'SUBMITTED', null, 'delivery'],
  ])('are none %s', async (_, kind, delivery, column) => {
    const outcome = await stage.attempt('user', set(kind, delivery), { keep: true })
    expect({ code: outcome.code, column: outcome.column }).toEqual({ code: 'RQ422', column })
    expect(outcome.message).toMatch(/^(?!.*(notification_|violates|constraint)).{10,}/)
    expect((await stage.root.query('select from app_private.notification_preferences')).rowCount).toBe(0)
  })

  test('say what becomes of a mail; those about the account are sent, whatever they say', async () => {
    const states: Record<string, string> = { '': 'QUEUED', AT_ONCE: 'QUEUED', DIGEST: 'DIGEST', NONE: 'NONE' }
    for (const delivery of Object.keys(states)) {
      for (const kind of [...declinable, ...mandatory]) {
        await stage.root.query('delete from app_private.notification_preferences')
        const given = [stage.id.user, kind, delivery]
        if (delivery) await stage.root.query('insert into app_private.notification_preferences values ($1, $2, $3)', given)
        const { rows } = await stage.root.query('select app_private.mail_state_for($1, $2) as state', given.slice(0, 2))
        // A digest of digests is a digest.
        const sent = mandatory.includes(kind) || (kind === 'DIGEST' && delivery === 'DIGEST')
        expect({ kind, delivery, state: rows[0].state }).toEqual({ kind, delivery, state: sent ? 'QUEUED' : states[delivery] })
      }
    }
  })

  test.each([
    ['AT_ONCE', 'QUEUED', 1],
    ['DIGEST', 'DIGEST', 0],
    ['NONE', 'NONE', 0],
  ])('of %s: all the same in the inbox, %s in the outbox', async (delivery, state, mails) => {
    await stage.rows('manager', set('SUBMITTED', delivery))
    const { id } = await stage.request({ creator: 'user', assignee: 'manager', status: 'DRAFT' })
    await stage.tell()
    const jobs = async () => (await stage.jobs('send_mail')).length
    const before = await jobs()
    await stage.rows('user', act('submit', id))
    expect(await stage.tell()).toEqual([expect.objectContaining({ mail_state: state, read_at: null })])
    expect((await jobs()) - before).toBe(mails)
    expect(
      await stage.rows('manager', `select mail_state from app_public.notifications where request_id = '${id}'`),
    ).toHaveLength(1)
  })
})
