import type pg from 'pg'
import { openStage, type Actor, type Person, type Row, type Stage } from '../harness/stage.ts'

// The outbox: what a worker is given to send, once, and what becomes of it.

let stage: Stage
/** Two workers, each on a connection of its own. */
let workers: [pg.Client, pg.Client]

beforeAll(async () => {
  stage = await openStage()
  workers = [await stage.db.connect('owner'), await stage.db.connect('owner')]
})
afterAll(() => stage?.close())

const NOBODY = '00000000-0000-7000-8000-000000000000'

interface Queued {
  readonly kind?: string
  readonly to?: Person
  readonly request?: string | null
  readonly by?: Person | null
  readonly state?: string
}

/** Queues a mail; its notification's id. */
async function queue({ kind = 'APPROVED', to = 'user', request = null, by = null, state = 'QUEUED' }: Queued = {}) {
  const { rows } = await stage.root.query(
    `insert into app_public.notifications (recipient_id, kind, event, request_id, actor_id, mail_state)
     values ($1, $2, gen_random_uuid()::text, $3, $4, $5) returning id`,
    [stage.id[to], kind, request, by && stage.id[by], state],
  )
  return rows[0].id as string
}

const begin = async (id: string, worker = workers[0], domain = 'assent.test'): Promise<Row | null> =>
  (await worker.query('select app_private.begin_mail($1, $2) as mail', [id, domain])).rows[0].mail
const letGo = (id: string, worker = workers[0]) =>
  worker.query('select pg_advisory_unlock(app_private.mail_lock($1)) as held', [id])
const sent = (id: string, news: string[] = []) => workers[0].query('select app_private.mail_sent($1, $2)', [id, news])
const failed = (id: string, error: string, forGood: boolean) =>
  workers[0].query('select app_private.mail_failed($1, $2, $3)', [id, error, forGood])
/** One attempt to begin, with its lock let go at its end. */
const attempt = (id: string) => begin(id).finally(() => letGo(id))

const kept = async (id: string): Promise<Row> =>
  (await stage.root.query('select * from app_public.notifications where id = $1', [id])).rows[0]
const jobs = async (id: string) => (await stage.jobs('send_mail')).filter((payload) => payload['id'] === id).length
const submitted = async (assignee: Person | null = null, creator: Person = 'user') =>
  (await stage.request({ creator, assignee, status: 'SUBMITTED' })).id

describe('what is to be sent', () => {
  test.each(['QUEUED', 'FAILED', 'CANCELLED', 'DIGEST', 'NONE'])('%s: a job, or none', async (state) => {
    expect(await jobs(await queue({ state }))).toBe(state === 'QUEUED' ? 1 : 0)
  })

  test('is told whole: to whom, of what, by whom, and with which comment', async () => {
    const { id: request } = await stage.request({ creator: 'user', assignee: null, status: 'REJECTED', reviewer: 'manager' })
    const id = await queue({ kind: 'REJECTED', request, by: 'manager' })
    expect(await attempt(id)).toEqual({
      kind: 'REJECTED',
      headline: 'Rejected',
      name: 'Uma User',
      address: 'user@assent.test',
      role: 'USER',
      actor: 'Mia Manager',
      request_id: request,
      title: "user's REJECTED",
      creator: 'Uma User',
      comment: 'Not so',
      message_id: `<${id}@assent.test>`,
    })
  })

  test('is as the request is now, and nothing of it is secret but a link', async () => {
    const request = await submitted('manager')
    const id = await queue({ kind: 'ASSIGNED', to: 'manager', request, by: 'admin' })
    expect(await attempt(id)).toMatchObject({ kind: 'ASSIGNED', title: "user's SUBMITTED", actor: 'Ada Admin', comment: null })
    const { rows: kinds } = await stage.root.query('select kind from app_public.notification_kinds')
    for (const { kind } of kinds) {
      const mail = await attempt(await queue({ kind, to: 'manager', request }))
      if (kind === 'INVITATION') {
        expect(mail).toBe(null) // They have a password.
        continue
      }
      expect(
        Object.keys(mail!)
          .filter((key) => ['token', 'waiting', 'waiting_count', 'news'].includes(key))
          .sort(),
      ).toEqual({ PASSWORD_RESET: ['token'], DIGEST: ['news', 'waiting', 'waiting_count'] }[kind as string] ?? [])
    }
  })

  describe('to somebody invited', () => {
    let newcomer: string
    let count = 0
    beforeEach(async () => {
      await stage.tell()
      const create = `select * from app_public.create_user('invited${++count}@assent.test', 'New', 'USER')`
      newcomer = (await stage.rows('admin', create))[0]!['id']
    })
    const again = () => stage.rows('admin', `select app_public.resend_invitation('${newcomer}')`)
    /** The mails that are queued now, the oldest first. */
    const queued = async () => {
      await stage.tell()
      const { rows } = await stage.root.query(
        `select id, kind from app_public.notifications where recipient_id = $1 and mail_state = 'QUEUED' order by created_at, id`,
        [newcomer],
      )
      return rows as { id: string; kind: string }[]
    }
    const links = async () =>
      (
        await stage.root.query(
          `select secret_hash, extract(epoch from expires_at - now())::float as seconds
           from app_private.password_resets where user_id = $1`,
          [newcomer],
        )
      ).rows

    test('has a link of 72 hours, another at each attempt', async () => {
      const [mail, ...others] = await queued()
      expect([mail!.kind, others]).toEqual(['ACCOUNT_CREATED', []])
      const tokens = [(await attempt(mail!.id))!['token'], (await attempt(mail!.id))!['token']]
      expect(new Set(tokens).size).toBe(2)
      const made = await links()
      expect(made).toHaveLength(2)
      for (const { seconds } of made) expect(Math.abs(72 * 3600 - seconds)).toBeLessThan(60)
    })

    test('is not sent a second time when they have chosen a password', async () => {
      await again()
      const { id } = (await queued()).at(-1)!
      const { token } = (await attempt(id))!
      await stage.rows('anonymous', `select app_hidden.reset_password('${token}', 'digest', null)`)
      expect(await attempt(id)).toBe(null)
      expect(await kept(id)).toMatchObject({ mail_state: 'CANCELLED' })
    })

    test('is sent without a link when they have a password, and were not told of their account', async () => {
      const [mail] = await queued()
      await stage.root.query(`update app_private.credentials set password_hash = 'x' where user_id = $1`, [newcomer])
      expect(await attempt(mail!.id)).not.toHaveProperty('token')
      expect(await links()).toEqual([])
    })

    test.each<[string, number, (first: string) => Promise<unknown>]>([
      ['is queued', 0, async () => {}],
      ['has been begun', 1, attempt],
      ['is sent', 1, async (first) => (await attempt(first), sent(first))],
    ])('has one good link when they are invited again, and the first mail %s', async (_, before, happens) => {
      const [first] = await queued()
      await happens(first!.id)
      expect(await links()).toHaveLength(before)
      await again()
      expect(await attempt(first!.id)).toBe(null)
      const [second, ...others] = await queued()
      expect([second!.kind, others]).toEqual(['INVITATION', []])
      await attempt(second!.id)
      expect(await links()).toHaveLength(1)
    })

    test('has that of the last one, when none was dispatched before they were invited again, and again', async () => {
      for (let i = 0; i < 2; i++) await again()
      const mails = await queued()
      expect(mails.map(({ kind }) => kind)).toEqual(['ACCOUNT_CREATED', 'INVITATION', 'INVITATION'])
      const sent = []
      for (const { id } of mails) sent.push((await attempt(id)) !== null)
      expect(sent).toEqual([false, false, true])
    })
  })

  test('no mail of a kind that there is not', async () => {
    await expect(queue({ kind: 'WHATEVER' })).rejects.toMatchObject({ code: '23503' })
    await expect(queue({ state: 'WHATEVER' })).rejects.toMatchObject({ code: '23514' })
    await expect(queue({ state: 'SENT' })).rejects.toMatchObject({ code: '23514' }) // at no time
  })
})

describe('a mail', () => {
  test('that is sent has its time, and is not begun again', async () => {
    const id = await queue()
    await attempt(id)
    expect(await kept(id)).toMatchObject({ mail_state: 'QUEUED', mail_attempts: 1, mail_error: null, mailed_at: null })
    await failed(id, 'busy', false)
    await attempt(id)
    await sent(id)
    const row = await kept(id)
    expect(row).toMatchObject({ mail_state: 'SENT', mail_attempts: 2, mail_error: null, mailed_at: expect.any(Date) })
    expect(await attempt(id)).toBe(null)
    await sent(id)
    await failed(id, 'late', true)
    expect(await kept(id)).toEqual(row)
    expect(await jobs(id)).toBe(1)
  })

  test('that has failed is tried again, under the same Message-ID wherever it is sent from then', async () => {
    const id = await queue()
    const first = await attempt(id)
    await failed(id, 'x'.repeat(2000), false)
    expect(await kept(id)).toMatchObject({ mail_state: 'QUEUED', mail_error: 'x'.repeat(1000), mail_attempts: 1 })
    const second = await begin(id, workers[0], 'elsewhere.test').finally(() => letGo(id))
    expect(first!['message_id']).toBe(`<${id}@assent.test>`)
    expect(second).toEqual(first)
    expect(await kept(id)).toMatchObject({ mail_attempts: 2, mail_message_id: first!['message_id'] })
    expect(await jobs(id)).toBe(1) // graphile-worker's own retries
  })

  test('that has failed for good is not begun again, nor taken for sent', async () => {
    const id = await queue()
    await attempt(id)
    await failed(id, '550 no such mailbox', true)
    const row = await kept(id)
    expect(row).toMatchObject({ mail_state: 'FAILED', mail_error: '550 no such mailbox', mailed_at: null })
    expect(await attempt(id)).toBe(null)
    await sent(id)
    expect(await kept(id)).toEqual(row)
  })

  test('of no such id is none', async () => expect(await attempt(NOBODY)).toBe(null))
})

describe('of two workers', () => {
  test('the second does not begin what the first is sending, and counts no attempt', async () => {
    const [id, other] = [await queue(), await queue()]
    const [first, second] = workers
    expect(await begin(id, first)).toMatchObject({ kind: 'APPROVED' })
    await expect(begin(id, second)).rejects.toMatchObject({ code: '55P03' })
    expect(await kept(id)).toMatchObject({ mail_attempts: 1 })
    // What it has not got it cannot let go of; and another mail is another lock.
    expect((await letGo(id, second)).rows).toEqual([{ held: false }])
    await expect(begin(id, second)).rejects.toMatchObject({ code: '55P03' })
    expect(await begin(other, second)).not.toBe(null)
    await letGo(other, second)

    await sent(id)
    await letGo(id, first)
    expect(await begin(id, second)).toBe(null)
    await letGo(id, second)
  })

  test('the second begins anew what the first died of', async () => {
    const id = await queue()
    const dying = await stage.db.connect('owner')
    dying.on('error', () => {}) // It is to be terminated.
    const first = await begin(id, dying)
    const { rows } = await dying.query('select pg_backend_pid() as pid')
    await stage.root.query('select pg_terminate_backend($1, 10000)', [rows[0].pid])
    const second = await begin(id, workers[1])
    await letGo(id, workers[1])
    expect(second).toEqual(first)
    expect(await kept(id)).toMatchObject({ mail_state: 'QUEUED', mail_attempts: 2 })
  })

  test('the lock outlives a transaction that fails: it is let go of by hand', async () => {
    const id = await queue()
    await workers[0].query('begin')
    await begin(id)
    await workers[0].query('rollback')
    expect(await kept(id)).toMatchObject({ mail_attempts: 0, mail_message_id: null })
    await expect(begin(id, workers[1])).rejects.toMatchObject({ code: '55P03' })
    await letGo(id)
  })
})

describe('a mail that has become pointless is cancelled', () => {
  const as = (actor: Actor, statement: string) => () => stage.rows(actor, statement)
  const change = (person: Person, changes: string) => () =>
    stage.root.query(`update app_public.users set ${changes} where id = $1`, [stage.id[person]])
  const approve = (id: string) => as('admin2', `select * from app_public.approve_request('${id}')`)
  const assign = (id: string, to: Person | null) =>
    as('admin2', `select * from app_public.assign_request('${id}', ${to ? `'${stage.id[to]}'` : 'null'})`)

  type Case = [string, Person | null, (id: string) => () => Promise<unknown>, boolean]
  const cases: Case[] = [
    ['nothing happens', 'manager', () => async () => {}, false],
    ['it is unassigned', null, () => async () => {}, false],
    ['it is decided', 'manager', approve, true],
    ['it is assigned to another', 'manager', (id) => assign(id, 'manager2'), true],
    ['it is assigned to another, of all who could', null, (id) => assign(id, 'manager2'), true],
    ['it is given back to all', 'manager', (id) => assign(id, null), false],
    ['its recipient is demoted', 'manager', () => change('manager', `role = 'USER'`), true],
    ['its recipient is promoted', 'manager', () => change('manager', `role = 'ADMIN'`), false],
    ['its recipient is deactivated', 'manager', () => change('manager', 'is_deleted = true'), true],
    ['its creator is deactivated', 'manager', () => change('user', 'is_deleted = true'), false],
    ['its assignee, who was another, is demoted', 'manager2', () => change('manager2', `role = 'USER'`), false],
  ]
  const after = async (happens: () => Promise<unknown>, id: string) => {
    await stage.root.query('begin')
    try {
      await happens()
      await stage.root.query('set local role assent_owner')
      const { rows } = await stage.root.query('select app_private.begin_mail($1, $2) as mail', [id, 'assent.test'])
      const left = await kept(id)
      return { mail: rows[0].mail as Row | null, left }
    } finally {
      await stage.root.query('rollback')
      await letGo(id, stage.root as pg.Client)
    }
  }

  describe.each(['SUBMITTED', 'ASSIGNED', 'REMINDER'])('%s', (kind) => {
    test.each(cases)('when %s', async (_, assignee, happens, cancelled) => {
      const request = await submitted(assignee)
      const id = await queue({ kind, to: 'manager', request })
      const { mail, left } = await after(happens(request), id)
      expect(mail === null).toBe(cancelled)
      expect(left).toMatchObject(
        cancelled
          ? { mail_state: 'CANCELLED', mail_attempts: 0, mail_message_id: null, read_at: null }
          : { mail_state: 'QUEUED', mail_attempts: 1 },
      )
    })
  })

  test.each(['APPROVED', 'REJECTED', 'ACCOUNT_CREATED', 'ROLE_CHANGED', 'PASSWORD_CHANGED', 'PASSWORD_RESET'])(
    '%s, when its recipient is deactivated, and not before',
    async (kind) => {
      const request = kind.startsWith('A') || kind === 'REJECTED' ? await submitted() : null
      const id = await queue({ kind, to: 'user', request })
      expect((await after(change('user', `role = 'ADMIN'`), id)).mail).toMatchObject({ kind })
      expect(await after(change('user', 'is_deleted = true'), id)).toMatchObject({
        mail: null,
        left: { mail_state: 'CANCELLED' },
      })
    },
  )

  test('DIGEST, when it is empty', async () => {
    await stage.root.query('delete from app_public.notifications')
    const id = await queue({ kind: 'DIGEST', to: 'user2' })
    expect(await after(async () => {}, id)).toMatchObject({ mail: null, left: { mail_state: 'CANCELLED' } })
    expect((await after(() => queue({ to: 'user2', state: 'DIGEST' }), id)).mail).toMatchObject({ kind: 'DIGEST' })
    const promoted = change('user2', `role = 'MANAGER'`)
    await submitted()
    expect((await after(promoted, id)).mail).toMatchObject({ kind: 'DIGEST', news: [] })
  })

  test('and stays so, though it should not be any more', async () => {
    const request = await submitted('manager')
    const id = await queue({ kind: 'ASSIGNED', to: 'manager', request })
    await assign(request, 'manager2')()
    expect(await attempt(id)).toBe(null)
    await assign(request, 'manager')()
    expect(await attempt(id)).toBe(null)
    expect(await kept(id)).toMatchObject({ mail_state: 'CANCELLED' })
  })
})

describe('a digest', () => {
  beforeEach(async () => {
    await stage.root.query('delete from app_public.notifications')
    // What was submitted until now waits no longer.
    const { rows } = await stage.root.query(`select id from app_public.requests where status = 'SUBMITTED'`)
    for (const { id } of rows) await stage.rows('admin2', `select * from app_public.approve_request('${id}')`)
  })

  test('has what waits for its recipient, the longest first, and how many', async () => {
    const [old, theirs, others] = [await submitted(), await submitted('manager', 'user2'), await submitted('manager2')]
    const own = await submitted(null, 'manager')
    const listed = async (to: Person) => {
      const mail = await attempt(await queue({ kind: 'DIGEST', to }))
      expect(mail!['waiting_count']).toBe(mail!['waiting'].length)
      return mail!['waiting']
    }
    expect(await listed('manager')).toEqual([
      { request_id: old, title: "user's SUBMITTED", creator: 'Uma User' },
      { request_id: theirs, title: "user2's SUBMITTED", creator: 'Ugo User' },
    ])
    expect((await listed('manager2')).map((one: Row) => one['request_id'])).toEqual([old, others, own])
    expect((await listed('admin')).map((one: Row) => one['request_id'])).toEqual([old, theirs, others, own])
  })

  test('brings no news that have become pointless: what asks for a decision that is not theirs any more', async () => {
    const [decided, reassigned, waits] = [await submitted('manager2'), await submitted('manager2'), await submitted('manager2')]
    const news = async (request: string, kind: string) => queue({ kind, request, to: 'manager2', state: 'DIGEST' })
    const ids = [await news(decided, 'SUBMITTED'), await news(reassigned, 'ASSIGNED'), await news(waits, 'REMINDER')]
    const others = await queue({ kind: 'SUBMITTED', request: decided, to: 'manager', state: 'DIGEST' })
    await stage.rows('admin2', `select * from app_public.approve_request('${decided}')`)
    await stage.rows('admin2', `select * from app_public.assign_request('${reassigned}', '${stage.id.manager}')`)
    const mail = await attempt(await queue({ kind: 'DIGEST', to: 'manager2' }))
    expect(mail!['news'].map((one: Row) => one['notification_id'])).toEqual([ids[2]])
    const states = await Promise.all([...ids, others].map(async (id) => (await kept(id))['mail_state']))
    expect(states).toEqual(['CANCELLED', 'CANCELLED', 'DIGEST', 'DIGEST'])
    expect(await attempt(await queue({ kind: 'DIGEST', to: 'user2' }))).toBe(null)
  })

  test('has at most 20 of them, and says how many there are', async () => {
    for (let i = 0; i < 22; i++) await submitted('admin')
    const { rows } = await stage.root.query(
      `select id from app_public.requests where status = 'SUBMITTED' and creator_id <> $1 order by submitted_at`,
      [stage.id.admin],
    )
    const mail = await attempt(await queue({ kind: 'DIGEST', to: 'admin' }))
    expect(mail!['waiting_count']).toBe(rows.length)
    expect(mail!['waiting'].map((one: Row) => one['request_id'])).toEqual(rows.slice(0, 20).map(({ id }) => id))
  })

  test("brings the news that its recipient wants in digests, once, and nobody else's", async () => {
    const request = await submitted()
    const [one, two, foreign, now] = [
      await queue({ kind: 'APPROVED', request, state: 'DIGEST' }),
      await queue({ kind: 'REJECTED', state: 'DIGEST' }),
      await queue({ to: 'user2', state: 'DIGEST' }),
      await queue({ kind: 'APPROVED' }),
    ]
    const digest = await queue({ kind: 'DIGEST' })
    const mail = await attempt(digest)
    expect(mail).toMatchObject({
      waiting: [],
      waiting_count: 0,
      news: [
        { notification_id: one, headline: 'Approved', request_id: request, title: "user's SUBMITTED" },
        { notification_id: two, headline: 'Rejected', request_id: null, title: null },
      ],
    })
    const later = await queue({ state: 'DIGEST' }) // after the mail was made
    await failed(digest, 'busy', false)
    expect(await kept(one)).toMatchObject({ mail_state: 'DIGEST' })

    const again = await attempt(digest)
    expect(again!['news'].map((news: Row) => news['notification_id'])).toEqual([one, two, later])
    await sent(digest, [one, two])
    for (const id of [digest, one, two]) {
      expect(await kept(id)).toMatchObject({
        mail_state: 'SENT',
        mail_message_id: `<${digest}@assent.test>`,
        mailed_at: expect.any(Date),
      })
    }
    for (const id of [later, foreign]) expect(await kept(id)).toMatchObject({ mail_state: 'DIGEST', mailed_at: null })
    expect(await kept(now)).toMatchObject({ mail_state: 'QUEUED' })

    const next = await attempt(await queue({ kind: 'DIGEST' }))
    expect(next!['news'].map((news: Row) => news['notification_id'])).toEqual([later])
  })

  test('that failed for good leaves its news to the next', async () => {
    const news = await queue({ to: 'user2', state: 'DIGEST' })
    const digest = await queue({ kind: 'DIGEST', to: 'user2' })
    await attempt(digest)
    await failed(digest, '550', true)
    expect(await kept(news)).toMatchObject({ mail_state: 'DIGEST' })
  })

  test('has at most 100 news; the next has the rest', async () => {
    await stage.root.query(
      `insert into app_public.notifications (recipient_id, kind, event, mail_state)
       select $1, 'APPROVED', 'news ' || n, 'DIGEST' from generate_series(1, 101) n`,
      [stage.id.idler],
    )
    const digest = await queue({ kind: 'DIGEST', to: 'idler' })
    const mail = await attempt(digest)
    expect(mail!['news']).toHaveLength(100)
    await sent(
      digest,
      mail!['news'].map((news: Row) => news['notification_id']),
    )
    expect((await attempt(await queue({ kind: 'DIGEST', to: 'idler' })))!['news']).toHaveLength(1)
  })
})

describe('a mail that failed for good', () => {
  const refuse = async (to: Person = 'user') => {
    const id = await queue({ to })
    await attempt(id)
    await failed(id, '550 no such mailbox', true)
    return id
  }
  const resend = (id: string | null) => `select app_public.resend_mail(${id === null ? 'null' : `'${id}'`})`

  test('is shown to admins, with what the server said', async () => {
    const id = await refuse()
    const { rows } = await stage.attempt('admin', `select * from app_public.undelivered_mails where id = '${id}'`, {
      fetch: true,
    })
    expect(rows).toEqual([
      {
        id,
        recipient_id: stage.id.user,
        kind: 'APPROVED',
        request_id: null,
        attempts: 1,
        error: '550 no such mailbox',
        created_at: expect.any(String),
      },
    ])
  })

  test('is sent again when an admin says so, as often as it fails, each time by one job', async () => {
    const id = await refuse()
    for (const attempts of [2, 3]) {
      await stage.rows('admin', resend(id))
      expect(await kept(id)).toMatchObject({ mail_state: 'QUEUED' })
      expect(await jobs(id)).toBe(attempts) // that of each time before was not done here
      expect((await stage.attempt('admin', resend(id))).code).toBe('RQ404') // it is under way
      expect(await attempt(id)).toMatchObject({ message_id: `<${id}@assent.test>` })
      await failed(id, '550 still none', true)
      expect(await kept(id)).toMatchObject({ mail_state: 'FAILED', mail_attempts: attempts })
    }
    await stage.rows('admin', resend(id))
    await attempt(id)
    await sent(id)
    expect(await kept(id)).toMatchObject({ mail_state: 'SENT', mail_error: null })
  })

  test('sent again, leaves an entry in the trail: who had it sent, and to whom', async () => {
    const id = await refuse()
    const left = await stage.leaves(() => stage.rows('admin', resend(id)))
    expect(left).toMatchObject([
      {
        action: 'MAIL_RESEND',
        actor_id: stage.id.admin,
        user_id: stage.id.user,
        request_id: null,
        metadata: { notification_id: id, kind: 'APPROVED' },
      },
    ])
    expect(await stage.leaves(() => stage.attempt('admin', resend(id), { keep: true }))).toEqual([])
  })

  test.each<[string, Actor, string]>([
    ['admins', 'admin', 'RQ404'],
    ['managers', 'manager', 'RQ404'],
    ['users, its recipient too', 'user', 'RQ404'],
    ['callers without credentials', 'anonymous', '42501'],
  ])('is none to %s, if it has not failed or is not theirs to see', async (_, actor, code) => {
    const [queued, done, none] = [await queue(), await queue(), await queue({ state: 'NONE' })]
    await attempt(done)
    await sent(done)
    for (const id of [queued, done, none, NOBODY, null]) {
      expect((await stage.attempt(actor, resend(id), { keep: true })).code).toBe(code)
    }
    expect(await kept(none)).toMatchObject({ mail_state: 'NONE' })
    if (actor === 'admin') return
    expect((await stage.attempt(actor, resend(await refuse()), { keep: true })).code).toBe(code)
  })

  test.each(['manager', 'anonymous'] as const)('is sent again by no %s who merely sets the role', async (actor) => {
    const outcome = await stage.attempt(actor, resend(await refuse()), { role: 'assent_admin', keep: true })
    expect(outcome.code).toBe(actor === 'manager' ? 'RQ404' : 'RQ401')
  })
})

describe('for auditors and operators', () => {
  test('audit.mails says who was told of what, and what became of the mail', async () => {
    const id = await queue({ to: 'user2' })
    await attempt(id)
    await sent(id)
    const { rows } = await stage.attempt('auditor', `select * from audit.mails where notification_id = '${id}'`, { fetch: true })
    expect(rows).toEqual([
      {
        created_at: expect.any(String),
        kind: 'APPROVED',
        recipient_id: stage.id.user2,
        recipient_name: 'Ugo User',
        recipient_email: 'user2@assent.test',
        request_id: null,
        state: 'SENT',
        attempts: 1,
        message_id: `<${id}@assent.test>`,
        error: null,
        mailed_at: expect.any(String),
        notification_id: id,
      },
    ])
    const all = await stage.attempt('auditor', 'select from audit.mails')
    expect(all.count).toBe((await stage.root.query('select from app_public.notifications')).rowCount)
  })

  test('jobs are counted by task and state, and those that fail are shown with their error', async () => {
    await stage.root.query('delete from graphile_worker._private_jobs')
    await stage.root.query(`delete from app_public.notifications where mail_state = 'FAILED'`)
    const plant = async (changes: string) => {
      const { rows } = await stage.root.query(`select id from graphile_worker.add_job('task')`)
      await stage.root.query(`update graphile_worker._private_jobs set ${changes} where id = $1`, [rows[0].id])
      return rows[0].id
    }
    await plant('attempts = 0')
    await plant(`run_at = now() + interval '1 hour'`)
    await plant(`locked_at = now(), locked_by = 'worker', attempts = 1`)
    const failing = await plant(`attempts = 3, last_error = 'busy', run_at = now() + interval '1 minute'`)
    const givenUp = await plant(`attempts = 25, last_error = 'never'`)
    const { rows } = await stage.attempt('authenticator', 'select * from app_hidden.count_jobs()', { fetch: true })
    expect(rows.map(({ task, state, count }) => `${task} ${state} ${count}`).sort()).toEqual([
      'send_mail refused 0',
      'task failing 1',
      'task given up 1',
      'task running 1',
      'task scheduled 1',
      'task waiting 1',
    ])
    const shown = await stage.attempt('auditor', 'select * from audit.failing_jobs order by attempts', { fetch: true })
    expect(shown.rows).toEqual([
      expect.objectContaining({
        id: Number(failing),
        task: 'task',
        attempts: 3,
        max_attempts: 25,
        error: 'busy',
        next_try: expect.any(String),
      }),
      expect.objectContaining({ id: Number(givenUp), attempts: 25, error: 'never', next_try: null }),
    ])
  })
})
