import type pg from 'pg'
import { asSession, digest, openStage, type Actor, type Person, type Stage } from '../harness/stage.ts'

// What is announced by NOTIFY, on the channel that the server listens to: whom it names, and that it says nothing else. That a
// subscriber is shown only what they may see: tests/doors/live.

let stage: Stage
let listener: pg.Client
let worker: pg.Client
const heard: string[] = []

beforeAll(async () => {
  stage = await openStage()
  worker = await stage.db.connect('owner')
  // Everybody who can connect can listen.
  listener = await stage.db.connect('auth')
  listener.on('notification', ({ channel, payload }) => channel === 'assent' && heard.push(payload ?? ''))
  await listener.query('listen assent')
  await stage.tell()
})
beforeEach(() => stage.recast())
afterAll(() => stage?.close())

/** What has been announced until now, since it was last asked; they arrive in the order of their commits. */
async function announced(): Promise<string[]> {
  await stage.root.query(`select pg_notify('assent', 'end')`)
  while (heard.at(-1) !== 'end') await listener.query('select 1')
  return heard.splice(0).slice(0, -1)
}

/** What something announces, the jobs that tell of it included. */
async function announces(act: () => Promise<unknown>, { tell = true } = {}): Promise<string[]> {
  await stage.tell()
  await announced()
  await act()
  if (tell) await stage.tell()
  return announced()
}

/** By name what is announced by id. */
const legible = (payloads: string[]) =>
  payloads
    .map((payload) => {
      expect(payload).toMatch(
        /^(request|inbox|session)( [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}){1}$|^notification( [0-9a-f-]{36}){2}$/,
      )
      const [topic, id] = payload.split(' ')
      return topic === 'inbox' || topic === 'notification' ? `${topic} ${stage.name(id!)}` : topic!
    })
    .sort()
const inboxes = (...of: Person[]) => of.map((person) => `inbox ${person}`)
const notifications = (...of: Person[]) => of.map((person) => `notification ${person}`)

const as = (actor: Actor, statement: string) => () => stage.rows(actor, statement)
const act = (actor: Actor, action: string, id: string) => as(actor, `select * from app_public.${action}_request('${id}')`)
const assign = (actor: Actor, id: string, to: Person | null) =>
  as(actor, `select * from app_public.assign_request('${id}', ${to ? `'${stage.id[to]}'` : 'null'})`)
const draft = async (assignee: Person | null = null, creator: Person = 'user') =>
  (await stage.request({ creator, assignee, status: 'DRAFT' })).id
const submitted = async (assignee: Person | null = null, creator: Person = 'user') =>
  (await stage.request({ creator, assignee, status: 'SUBMITTED' })).id

const everybody = ['admin', 'admin2', 'demoted', 'gone', 'idle', 'left', 'manager', 'manager2'] as const // who decides
const admins = ['admin', 'admin2'] as const

describe('a request', () => {
  test.each<[string, () => Promise<() => Promise<unknown>>, string[]]>([
    ['a creation', async () => as('user', `select * from app_public.create_request('T')`), []],
    ['an edit', async () => as('user', `select * from app_public.update_request('${await draft()}', title => 'Other')`), []],
    ['a deletion', async () => act('user', 'delete', await draft()), []],
    [
      'a submission: to whoever can decide it',
      async () => act('user', 'submit', await draft()),
      [...inboxes(...everybody), ...notifications(...everybody)],
    ],
    [
      'a submission of what is assigned: to its assignee, and those who decide any',
      async () => act('user', 'submit', await draft('manager')),
      [...inboxes(...admins, 'manager'), ...notifications('manager')],
    ],
    [
      'a submission by one who decides: not to them',
      async () => act('admin', 'submit', await draft(null, 'admin')),
      [...everybody.filter((one) => one !== 'admin').flatMap((one) => [`inbox ${one}`, `notification ${one}`])],
    ],
    [
      'an approval',
      async () => act('manager', 'approve', await submitted()),
      [...inboxes(...everybody), ...notifications('user')],
    ],
    [
      'a rejection of what was assigned',
      async () => as('manager', `select * from app_public.reject_request('${await submitted('manager')}', 'No')`),
      [...inboxes(...admins, 'manager'), ...notifications('user')],
    ],
    [
      'an assignment: to whoever could decide it, and can',
      async () => assign('admin', await submitted(), 'manager'),
      [...inboxes(...everybody, ...admins, 'manager'), ...notifications('manager')],
    ],
    [
      'an assignment to another: to both',
      async () => assign('admin', await submitted('manager'), 'manager2'),
      [...inboxes(...admins, ...admins, 'manager', 'manager2'), ...notifications('manager2')],
    ],
    [
      'giving it back: to all',
      async () => assign('manager', await submitted('manager'), null),
      inboxes(...everybody, ...admins, 'manager'),
    ],
  ])('%s', async (_, make, expected) => {
    const does = await make()
    const found = legible(await announces(does))
    // An inbox that is announced twice is announced.
    expect([...new Set(found)]).toEqual([...new Set([...expected, 'request'])].sort())
    expect(found.filter((one) => !one.startsWith('inbox'))).toHaveLength(
      new Set(found.filter((one) => !one.startsWith('inbox'))).size,
    )
  })

  test('names the request, the inbox its person, the notification its row', async () => {
    const id = await draft('manager')
    const payloads = await announces(act('user', 'submit', id))
    expect(payloads.filter((payload) => payload.startsWith('request'))).toEqual([`request ${id}`])
    const { rows } = await stage.root.query('select id from app_public.notifications where request_id = $1', [id])
    expect(payloads.filter((payload) => payload.startsWith('notification'))).toEqual([
      `notification ${stage.id.manager} ${rows[0].id}`,
    ])
  })

  test('is announced at once, and whom it concerns when they are found, by the job', async () => {
    const id = await draft()
    expect(legible(await announces(act('user', 'submit', id), { tell: false }))).toEqual(['request'])
  })

  test('is not announced by what fails, is undone or changes nothing', async () => {
    const id = await submitted()
    const attempts = async () => {
      const outcomes = await stage.attempts([
        { actor: 'user', keep: true, statement: `select app_public.approve_request('${id}')` },
        { actor: 'manager', keep: true, statement: `select app_public.assign_request('${id}', null)` },
        { actor: 'manager', keep: false, statement: `select app_public.approve_request('${id}')` },
      ])
      expect(outcomes.map(({ code }) => code)).toEqual(['RQ403', null, null])
    }
    expect(await announces(attempts)).toEqual([])
  })
})

describe('a person', () => {
  const change = (person: Person, changes: string) => () =>
    stage.root.query(`update app_public.users set ${changes} where id = $1`, [stage.id[person]])
  const before =
    (...happened: (() => Promise<unknown>)[]) =>
    async () => {
      for (const happens of happened) await happens()
    }
  const decides = change('idler', `role = 'MANAGER'`)
  const assigned = before(decides, () => submitted('idler'))

  // Sessions: below.
  test.each<[string, () => Promise<unknown>, () => Promise<unknown>, string[]]>([
    ['who is renamed: nobody', before(), change('idler', `name = 'Renamed'`), []],
    ['who comes to decide: they', before(), decides, ['inbox idler', 'notification idler']],
    ['who is deactivated: they', before(decides), change('idler', 'is_deleted = true'), ['inbox idler']],
    [
      'who comes back: they',
      before(decides, change('idler', 'is_deleted = true')),
      change('idler', 'is_deleted = false'),
      ['inbox idler'],
    ],
    ['who ceases to decide: they', before(decides), change('idler', `role = 'USER'`), ['inbox idler', 'notification idler']],
    [
      'to whom something was assigned, when they cease to decide: all to whom it falls',
      assigned,
      change('idler', `role = 'USER'`),
      [...inboxes(...everybody), 'inbox idler', 'notification idler'],
    ],
    [
      'to whom it was, when they decide again: all from whom it goes',
      before(assigned, change('idler', `role = 'USER'`)),
      change('idler', `role = 'ADMIN'`),
      [...inboxes(...everybody), 'inbox idler', 'notification idler'],
    ],
  ])('%s', async (_, happened, does, expected) => {
    // What earlier tests assigned to them would be announced as well.
    await stage.root.query(
      'begin; set local session_replication_role = replica; update app_public.requests set assigned_to_id = null; commit',
    )
    await happened()
    const found = legible(await announces(does)).filter((one) => one !== 'session')
    expect([...new Set(found)]).toEqual([...new Set(expected)].sort())
  })
})

describe('a notification', () => {
  const queue = (kind: string) => () =>
    stage.root.query(
      `insert into app_public.notifications (recipient_id, kind, event, mail_state) values ($1, $2, gen_random_uuid()::text, 'NONE')`,
      [stage.id.user, kind],
    )
  test('is announced to its recipient, of each kind that is shown and of no other', async () => {
    const { rows } = await stage.root.query('select kind, is_shown from app_public.notification_kinds')
    for (const { kind, is_shown } of rows) {
      expect({ kind, heard: legible(await announces(queue(kind))) }).toEqual({
        kind,
        heard: is_shown ? ['notification user'] : [],
      })
    }
  })

  test('is announced once: neither when it is mailed, nor when it is read', async () => {
    await queue('APPROVED')()
    const read = as('user', 'select app_public.mark_all_notifications_read()')
    expect(await announces(read)).toEqual([])
    expect(await announces(() => stage.root.query(`update app_public.notifications set mail_state = 'CANCELLED'`))).toEqual([])
  })

  test('of one job that runs twice is announced once', async () => {
    const id = await draft('manager')
    const twice = async () => {
      await stage.rows('user', `select * from app_public.submit_request('${id}')`)
      const [job] = await stage.jobs('dispatch')
      await worker.query('select app_private.dispatch($1)', [job!['id']])
      await worker.query('select app_private.dispatch($1)', [job!['id']])
    }
    const found = legible(await announces(twice, { tell: false }))
    expect(found.filter((one) => one.startsWith('notification'))).toEqual(['notification manager'])
  })
})

describe('the end of a session', () => {
  /** A new session, which is then ended. */
  const open = async (person: Person, byCookie = false) => {
    const { rows } = await stage.root.query('select session_secret as secret from app_private.open_session($1, $2, null)', [
      stage.id[person],
      byCookie,
    ])
    const kept = await stage.root.query('select id from app_private.sessions where secret_hash = app_private.hash_secret($1)', [
      rows[0].secret,
    ])
    return { id: kept.rows[0].id as string, secret: rows[0].secret as string }
  }
  const by = (secret: string, statement: string, values: unknown[] = []) => asSession(worker2, secret, statement, values)
  let worker2: pg.Client
  beforeAll(async () => void (worker2 = await stage.db.connect('auth')))

  type Session = { id: string; secret: string }
  test.each<[string, (mine: Session, other: Session) => Promise<unknown>, 'mine' | 'other' | 'both']>([
    ['by logging out', (mine) => by(mine.secret, 'select app_public.logout()'), 'mine'],
    ['by hand', (mine, other) => by(mine.secret, 'select app_hidden.end_session($1)', [other.id]), 'other'],
    ['by ending all others', (mine) => by(mine.secret, 'select app_hidden.end_other_sessions()'), 'other'],
    [
      'by a new password',
      async (mine) => {
        const [begun] = await by(mine.secret, 'select * from app_hidden.begin_password_change(null)')
        const values = [begun!['attempt_id'], digest('assent-demo-password')]
        await by(mine.secret, 'select * from app_hidden.change_password($1, $2, $2)', values)
      },
      'other',
    ],
    [
      'by a mailed link',
      async () => {
        const { rows } = await worker.query(`select app_private.issue_reset_token($1, '30 minutes') as token`, [stage.id.user2])
        await by('', 'select app_hidden.reset_password($1, $2, null)', [rows[0].token, digest('assent-demo-password')])
      },
      'both',
    ],
    ['by deactivation', () => stage.root.query(`update app_public.users set is_deleted = true where name = 'Ugo User'`), 'both'],
  ])('%s is announced, and no other', async (_, end, which) => {
    // Those of the tests before end too, otherwise.
    await stage.root.query('update app_private.sessions set revoked_at = now() where user_id = $1 and revoked_at is null', [
      stage.id.user2,
    ])
    await stage.root.query('update app_public.users set is_deleted = false where id = $1', [stage.id.user2])
    const [mine, other] = [await open('user2'), await open('user2')]
    await open('user')
    const payloads = await announces(() => end(mine, other), { tell: false })
    const ended = { mine: [mine], other: [other], both: [mine, other] }[which].map(({ id }) => `session ${id}`)
    expect(payloads.sort()).toEqual(ended.sort())
  })

  test('is announced once, and a use or a refresh is none', async () => {
    await stage.root.query('update app_public.users set is_deleted = false where id = $1', [stage.id.user2])
    const session = await open('user2')
    await stage.root.query(`update app_private.sessions set last_used_at = now() - interval '1 hour' where id = $1`, [session.id])
    expect(await announces(() => by(session.secret, 'select app_hidden.touch_session()'))).toEqual([])
    const end = () => stage.root.query('update app_private.sessions set revoked_at = now() where id = $1', [session.id])
    expect(await announces(end)).toEqual([`session ${session.id}`])
    expect(await announces(end)).toEqual([])
  })
})

test('who asks is told the ids that announcements name: of their session and of themselves', async () => {
  const asked = 'select * from app_hidden.my_session()'
  for (const person of ['user', 'manager', 'admin'] as const) {
    const { rows } = await stage.root.query(
      'select id from app_private.sessions where secret_hash = app_private.hash_secret($1)',
      [stage.secret[person]],
    )
    expect(await stage.rows(person, asked)).toEqual([{ session_id: rows[0].id, user_id: stage.id[person] }])
  }
  for (const role of ['assent_user', 'assent_admin']) {
    expect(await stage.attempt('manager', asked, { role })).toMatchObject({ code: null, count: 0 })
    expect(await stage.attempt('anonymous', asked, { role })).toMatchObject({ code: null, count: 0 })
  }
})
