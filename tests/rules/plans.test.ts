import { makeResources } from '../../server/rest/routes/index.ts'
import type { Ask } from '../../server/sql/as-caller.ts'
import type { Search } from '../../server/sql/search.ts'
import { cloneCrowd, notifyCrowd } from '../harness/crowd.ts'
import { openStage, type Person, type Stage } from '../harness/stage.ts'

// No list may read through its table to find its page: each is met by an index, in spite of row-level security. Pages
// read are what is measured, in a database where each table is hundreds of pages.

const most = 180
/** What an action that is told reads of the queue's tables and of their indexes. */
const addingAJob = 20
/** A search is planned anew at each call, for its words: that reads what PostgreSQL knows of them. */
const planning = 100
const NOBODY = '00000000-0000-7000-8000-000000000000'
let stage: Stage
let oneRequest: string
let waiting: string

beforeAll(async () => {
  stage = await openStage(await cloneCrowd())
  oneRequest = (await stage.root.query(`select id from app_public.requests where title = 'Request 2009'`)).rows[0].id
  waiting = (await stage.root.query(`select id from app_public.requests where title = 'Request 3000'`)).rows[0].id
}, 120_000)
afterAll(() => stage?.close())

interface Plan {
  'Node Type': string
  'Relation Name'?: string
  'Shared Hit Blocks': number
  'Shared Read Blocks': number
  'Actual Rows': number
  'Actual Loops': number
  Plans?: Plan[]
}

/** What a statement did as somebody, functions and policies included. `before` is run first, in the same transaction. */
async function planOf(person: Person | 'owner', statement: string, before = ''): Promise<Plan> {
  await stage.root.query('begin')
  try {
    if (person === 'owner') await stage.root.query('set local role assent_owner')
    else await stage.root.query(`select app_hidden.become($1, '')`, [stage.secret[person]])
    await stage.root.query(`select set_config('assent.ip', '192.0.2.1', true)`)
    if (before) await stage.root.query(before)
    const { rows } = await stage.root.query(`explain (analyze, buffers, timing off, format json) ${statement}`)
    return rows[0]['QUERY PLAN'][0].Plan
  } finally {
    await stage.root.query('rollback')
  }
}
const pagesOf = (plan: Plan) => plan['Shared Hit Blocks'] + plan['Shared Read Blocks']

const newest = 'order by created_at desc, id desc limit 20'
const latest = 'order by "timestamp" desc, id desc limit 20'
const id = (person: Person) => `'${stage.id[person]}'`

const lists: [string, Person | 'owner', () => string][] = [
  ['all requests', 'manager', () => `select * from app_public.requests ${newest}`],
  ['all requests', 'admin', () => `select * from app_public.requests ${newest}`],
  ['all requests, not deleted', 'admin', () => `select * from app_public.requests where not is_deleted ${newest}`],
  ["one's own requests", 'user', () => `select * from app_public.requests ${newest}`],
  ["the number of one's own requests", 'user', () => 'select count(*) from app_public.requests'],
  ['the requests of somebody', 'manager', () => `select * from app_public.requests where creator_id = ${id('user')} ${newest}`],
  ['the requests of somebody', 'admin', () => `select * from app_public.requests where creator_id = ${id('user')} ${newest}`],
  [
    "the number of one's own drafts, with thousands of requests",
    'idler',
    () => `select count(*) from app_public.requests where status = 'DRAFT'`,
  ],
  [
    'the inbox of whoever decides nothing, with thousands of requests',
    'idler',
    () => 'select count(*) from app_public.requests_awaiting_my_decision()',
  ],
  ['the number of deleted requests', 'admin', () => 'select count(*) from app_public.requests where is_deleted'],
  ['submitted requests', 'manager', () => `select * from app_public.requests where status = 'SUBMITTED' ${newest}`],
  ['submitted requests', 'admin', () => `select * from app_public.requests where status = 'SUBMITTED' ${newest}`],
  [
    'requests assigned to somebody',
    'manager',
    () => `select * from app_public.requests where assigned_to_id = ${id('manager2')} ${newest}`,
  ],
  [
    'requests assigned to somebody',
    'admin',
    () => `select * from app_public.requests where assigned_to_id = ${id('manager2')} ${newest}`,
  ],
  [
    'requests decided by somebody',
    'manager',
    () => `select * from app_public.requests where reviewed_by_id = ${id('manager2')} ${newest}`,
  ],
  [
    'the inbox',
    'manager',
    () => `select * from app_public.requests_awaiting_my_decision() order by coalesce(submitted_at, '9999-12-31Z'), id limit 20`,
  ],
  [
    'the inbox',
    'admin',
    () => `select * from app_public.requests_awaiting_my_decision() order by coalesce(submitted_at, '9999-12-31Z'), id limit 20`,
  ],
  ['the number of the inbox', 'manager', () => 'select count(*) from app_public.requests_awaiting_my_decision()'],
  ['a search for a rare word', 'manager', () => `select app_hidden.matching_requests('quest 2009', null, null, null)`],
  ['a search for a rare word', 'admin', () => `select app_hidden.matching_requests('quest 2009', null, null, null)`],
  [
    "a search for a rare word among one's own",
    'user',
    () => `select app_hidden.matching_requests('quest 2009', null, null, null)`,
  ],
  ['a search for a common word', 'manager', () => `select app_hidden.matching_requests('QUEST', null, null, null)`],
  ['a search for a common word', 'admin', () => `select app_hidden.matching_requests('QUEST', null, null, null)`],
  ["a search for a common word among one's own", 'user', () => `select app_hidden.matching_requests('QUEST', null, null, null)`],
  [
    'a search for a word that is nowhere',
    'manager',
    () => `select app_hidden.matching_requests('quest nowhere', null, null, null)`,
  ],
  [
    "a search for a word that is nowhere among one's own",
    'user',
    () => `select app_hidden.matching_requests('quest nowhere', null, null, null)`,
  ],
  [
    'a search for a word in letters of its own',
    'manager',
    () => `select app_hidden.matching_requests('заявление', null, null, null)`,
  ],
  ...(['user', 'manager', 'admin'] as const).flatMap((person): typeof lists => [
    ['a search for two letters', person, () => `select app_hidden.matching_requests('qu', null, null, null)`],
    ['a search for one character', person, () => `select app_hidden.matching_requests('采', null, null, null)`],
    ['a search for somebody', person, () => `select app_hidden.matching_users('son 1234')`],
    ['a search for two letters of a name', person, () => `select app_hidden.matching_users('wu')`],
  ]),
  ['the trail', 'admin', () => `select * from app_public.audit_logs ${latest}`],
  ['the trail', 'manager', () => `select * from app_public.audit_logs ${latest}`],
  ["the trail of one's own", 'user', () => `select * from app_public.audit_logs ${latest}`],
  ['the trail of a request', 'admin', () => `select * from app_public.audit_logs where request_id = '${oneRequest}' ${latest}`],
  ['the trail of a person', 'admin', () => `select * from app_public.audit_logs where user_id = ${id('user')} ${latest}`],
  ['what somebody did', 'admin', () => `select * from app_public.audit_logs where actor_id = ${id('manager2')} ${latest}`],
  ['what somebody did', 'manager', () => `select * from app_public.audit_logs where actor_id = ${id('manager2')} ${latest}`],
  [
    'the number of what somebody did of one kind, with thousands of entries',
    'admin',
    () => `select count(*) from app_public.audit_logs where actor_id = ${id('idler')} and action = 'UPDATE'`,
  ],
  ['entries of one kind', 'admin', () => `select * from app_public.audit_logs where action = 'USER_UPDATE' ${latest}`],
  ['people', 'admin', () => `select * from app_public.users ${newest}`],
  ['people', 'manager', () => `select * from app_public.users ${newest}`],
  ['people one sees', 'user', () => `select * from app_public.users ${newest}`],
  ['people one sees, with thousands of requests', 'idler', () => `select * from app_public.users ${newest}`],
  ['managers', 'admin', () => `select * from app_public.users where role = 'MANAGER' ${newest}`],
  ['who decides', 'user', () => 'select * from app_hidden.deciders'],
  ['who is asking', 'user', () => 'select * from app_public.get_current_user()'],
  ['a session', 'owner', () => `select * from app_private.live_session('${stage.secret.user}')`],
  ['the sessions of somebody', 'owner', () => `select * from app_private.sessions where user_id = ${id('user')}`],
  ['an account', 'owner', () => `select * from app_private.credentials c where lower(c.email) = lower('User@assent.test')`],
  ['the beginning of a login', 'owner', () => `select * from app_hidden.begin_login('user@assent.test')`],
  [
    'the end of a login',
    'owner',
    () =>
      `select * from app_hidden.finish_login((select attempt_id from app_hidden.begin_login('77@')), '77@', 'x', false, null)`,
  ],
  ...(['user', 'manager', 'admin'] as const).flatMap((person): typeof lists => [
    ['notifications', person, () => `select * from app_public.notifications ${newest}`],
    ['unread notifications', person, () => `select * from app_public.notifications where read_at is null ${newest}`],
    ['the number of unread notifications', person, () => 'select app_public.unread_notification_count()'],
  ]),
  ['notifications, with thousands of them', 'manager2', () => `select * from app_public.notifications ${newest}`],
  [
    'unread notifications, with thousands read',
    'manager2',
    () => `select * from app_public.notifications where read_at is null ${newest}`,
  ],
  ['the number of unread notifications, with thousands read', 'manager2', () => 'select app_public.unread_notification_count()'],
  ['mails that were not delivered', 'admin', () => `select * from app_public.undelivered_mails ${newest}`],
  ['a creation', 'user', () => `select * from app_public.create_request('T')`],
  ['an approval', 'manager', () => `select * from app_public.approve_request('${waiting}')`],
]

test('the tables are so big that a scan would show', async () => {
  const { rows } = await stage.root.query(
    `
    select relname, relpages from pg_class
    where oid in ('app_public.requests'::regclass, 'app_private.audit_logs_earliest'::regclass, 'app_public.users'::regclass, 'app_private.sessions'::regclass,
      'app_private.credentials'::regclass, 'app_private.login_attempts'::regclass, 'app_public.notifications'::regclass) and relpages <= $1`,
    [most],
  )
  expect(rows).toEqual([])
  const requests = await stage.root.query(`select relpages from pg_class where oid = 'app_public.requests'::regclass`)
  expect(requests.rows[0].relpages).toBeGreaterThan(1.5 * (most + planning))
})

test.each(lists)('%s, by %s, reads few pages', async (name, person, statement) => {
  // As the API's connections have it: otherwise the first five calls of what a function asks are planned, which reads, too.
  const generic = 'set local plan_cache_mode = force_generic_plan'
  await planOf(person, statement(), generic) // The first time PostgreSQL also reads its catalog, for what it has not met yet.
  let plan = await planOf(person, statement(), generic)
  expect(plan['Actual Rows']).toBeGreaterThan(0)
  const limit = most + (name.startsWith('a search') ? planning : name === 'an approval' ? addingAJob : 0)
  // Now and then it has to read it anew; not twice.
  if (pagesOf(plan) >= limit) plan = await planOf(person, statement(), generic)
  expect(pagesOf(plan)).toBeLessThan(limit)
})

test('a search among deleted requests reads those, and for whoever sees none of them not even those', async () => {
  const [deleted, to] = [600, (role: string) => `set session_replication_role = ${role}`]
  await stage.root.query(to('replica'))
  await stage.root.query(
    `insert into app_public.requests (title, description, status, creator_id, is_deleted)
     select 'Gone', repeat('so long that a page has four. ', 60), 'DRAFT', $1, true from generate_series(1, $2::integer)`,
    [stage.id.user, deleted],
  )
  await stage.root.query(to('origin'))
  try {
    // All others have this word.
    const search = `select app_hidden.matching_requests('quest', null, null, null, true)`
    await planOf('admin', search)
    expect(pagesOf(await planOf('admin', search))).toBeLessThan(3 * deleted)
    expect(pagesOf(await planOf('manager', search))).toBeLessThan(most)
  } finally {
    await stage.root.query(to('replica'))
    await stage.root.query('delete from app_public.requests where is_deleted')
    await stage.root.query(to('origin'))
  }
})

describe("REST's lists", () => {
  const reference = { statuses: ['SUBMITTED', 'APPROVED'], actions: ['APPROVE', 'USER_UPDATE'], roles: ['USER'] }
  const routes = makeResources(reference).flatMap(({ routes }) => routes)
  const position = Buffer.from(JSON.stringify(['-created_at', false, '2026-01-01 00:00:00+00', NOBODY])).toString('base64url')

  const queries: [string, string, () => Record<string, string>][] = [
    ['requests', '/requests/', () => ({})],
    ['the oldest requests', '/requests/', () => ({ ordering: 'created_at' })],
    ['requests after one', '/requests/', () => ({ cursor: position })],
    ['waiting requests, counted', '/requests/', () => ({ status: 'SUBMITTED', count: 'true' })],
    ["somebody's requests, counted", '/requests/', () => ({ creator_id: stage.id.user, count: 'true' })],
    ['requests assigned to somebody, counted', '/requests/', () => ({ assigned_to_id: stage.id.manager2, count: 'true' })],
    [
      "somebody's requests that wait for somebody",
      '/requests/',
      () => ({ creator_id: stage.id.user, assigned_to_id: stage.id.manager2, status: 'SUBMITTED' }),
    ],
    ['the inbox, counted', '/requests/', () => ({ awaiting_my_decision: 'true', count: 'true' })],
    ['the newest of the inbox', '/requests/', () => ({ awaiting_my_decision: 'true', ordering: '-submitted_at' })],
    ['a search for a rare word, counted', '/requests/', () => ({ search: 'quest 2009', count: 'true' })],
    ['a search for a common word', '/requests/', () => ({ search: 'quest' })],
    ['a search for a common word of somebody', '/requests/', () => ({ search: 'quest', creator_id: stage.id.user })],
    ['a search among waiting requests', '/requests/', () => ({ search: 'quest', status: 'SUBMITTED' })],
    ['audit entries', '/audit-logs/', () => ({})],
    ['the oldest audit entries', '/audit-logs/', () => ({ ordering: 'timestamp' })],
    ["somebody's audit entries", '/audit-logs/', () => ({ actor_id: stage.id.manager2 })],
    ['audit entries of one kind', '/audit-logs/', () => ({ action: 'USER_UPDATE' })],
    ['audit entries of a request', '/audit-logs/', () => ({ request_id: oneRequest })],
    ['audit entries between two times', '/audit-logs/', () => ({ since: '2000-01-01T00:00:00Z', until: '2100-01-01T00:00:00Z' })],
    ['audit entries before all times', '/audit-logs/', () => ({ until: '2000-01-01T00:00:00Z' })],
    ['people', '/users/', () => ({})],
    ['a search for somebody', '/users/', () => ({ search: 'son 1234' })],
    ['a search for many people, counted', '/users/', () => ({ search: 'pers', count: 'true' })],
    ['the oldest people', '/users/', () => ({ ordering: 'created_at' })],
    ["one's own sessions", '/auth/sessions/', () => ({})],
    ["one's notifications", '/notifications/', () => ({})],
    ["one's unread notifications", '/notifications/', () => ({ unread: 'true' })],
    ["one's notifications that are read", '/notifications/', () => ({ unread: 'false' })],
  ]

  /** The statements that a list asks, as server/rest/lists.ts builds them. */
  async function asked(person: Person, path: string, query: Record<string, string>) {
    const statements: { text: string; values?: unknown[] }[] = []
    const ask = (async (statement) => {
      statements.push(statement as never)
      return [{ count: 0 }]
    }) as Ask
    const route = routes.find((one) => one.method === 'GET' && one.path === path)!
    const search: Search = async (_caller, what, text, filter) => {
      const [status, creator, assignee] = ['status', 'creator_id', 'assigned_to_id'].map((name) => {
        const value = filter(name)
        return value === null ? 'null' : stage.root.escapeLiteral(value)
      })
      const words = stage.root.escapeLiteral(text)
      const found =
        what === 'users'
          ? `app_hidden.matching_users(${words})`
          : `app_hidden.matching_requests(${words}, ${status}, ${creator}, ${assignee})`
      return (await stage.attempt(person, `select ${found} as ids`, { fetch: true })).rows[0]!['ids']
    }
    await route.run({ ask, search, query, params: {}, url: '' } as never)
    return statements
  }

  /** Pages that a search may take beside: each id that it has found can be a look-up. */
  async function searching(person: Person, path: string, { search }: Record<string, string>): Promise<number> {
    if (!search) return 0
    const words = stage.root.escapeLiteral(search)
    const found = path === '/users/' ? `matching_users(${words})` : `matching_requests(${words}, null, null, null)`
    const count = `select cardinality(app_hidden.${found}) as count`
    return planning + 3 * (await stage.attempt(person, count, { fetch: true })).rows[0]!['count']
  }

  const nodes = (plan: Plan): Plan[] => [plan, ...(plan.Plans ?? []).flatMap(nodes)]
  const fullScans = (plan: Plan) =>
    nodes(plan).filter(
      (node) =>
        node['Node Type'] === 'Seq Scan' &&
        ['requests', 'audit_logs_earliest', 'users', 'sessions', 'notifications', 'request_texts'].includes(
          node['Relation Name']!,
        ) &&
        node['Actual Loops'] > 0,
    )

  /** Planned as the API has it: a prepared statement that has been executed before, whose plan may be for any values. */
  async function planPrepared(person: Person, { text, values = [] }: { text: string; values?: unknown[] }): Promise<Plan> {
    const literals = values
      .map((value) => stage.root.escapeLiteral(Array.isArray(value) ? `{${value}}` : String(value)))
      .join(', ')
    const execute = `execute list${literals && `(${literals})`}`
    const before = `prepare list as ${text}; ${`${execute}; `.repeat(6)}`
    return planOf(person, execute, before).finally(() => stage.root.query('deallocate list'))
  }

  describe.each(['user', 'manager', 'admin'] as const)('as %s', (person) => {
    test.each(queries)('%s', async (_, path, query) => {
      for (const statement of await asked(person, path, query())) {
        let plan = await planPrepared(person, statement)
        expect({ query: query(), scans: fullScans(plan) }).toEqual({ query: query(), scans: [] })
        // Beside the list, each document on it has people, and what can be done.
        const limit = most + 30 * plan['Actual Rows'] + (await searching(person, path, query()))
        // Now and then PostgreSQL has to read its catalog anew; not twice.
        if (pagesOf(plan) >= limit) plan = await planPrepared(person, statement)
        expect(pagesOf(plan)).toBeLessThan(limit)
      }
    })
  })

  test('a full scan would be seen', async () => {
    const text = `select title from app_public.requests where title like '%x%'`
    expect(fullScans(await planPrepared('admin', { text }))).toHaveLength(1)
  })
})

test("nobody pays for others' notifications", async () => {
  const statements = [
    `select * from app_public.notifications ${newest}`,
    `select * from app_public.notifications where read_at is null ${newest}`,
    'select app_public.unread_notification_count()',
    'select app_public.mark_all_notifications_read()',
  ]
  const asked = (['user', 'manager', 'admin'] as const).flatMap((person) =>
    statements.map((statement) => [person, statement] as const),
  )
  const pages = async () => {
    const read: number[] = []
    for (const [person, statement] of asked) {
      await planOf(person, statement)
      read.push(pagesOf(await planOf(person, statement)))
    }
    return read
  }
  const before = await pages()
  await stage.root.query('begin; set local session_replication_role = replica')
  await notifyCrowd(stage.root, 8)
  await stage.root.query('commit')
  await stage.root.query('vacuum analyze app_public.notifications')
  const after = await pages()
  // Another plan or a level of an index, at most, where 160,000 are thousands of pages.
  asked.forEach((one, i) => expect({ one, bounded: after[i]! < 1.3 * before[i]! + most / 2 }).toEqual({ one, bounded: true }))
})

describe('with 20,000 waiting requests', () => {
  let one: string
  let assigned: string
  let due: number

  beforeAll(async () => {
    await stage.root.query('set session_replication_role = replica')
    await stage.root.query(`update app_public.users set role = 'MANAGER' where name like 'Person %00' and name like '%0'`)
    await stage.root.query(
      `with people as (
         select array_agg(id) filter (where role = 'USER') as users, array_agg(id) filter (where role = 'MANAGER') as managers
         from app_public.users where name like 'Person %'
       )
       insert into app_public.requests (title, status, creator_id, assigned_to_id, submitted_at, created_at)
       select 'Waiting ' || n, 'SUBMITTED', users[1 + n % cardinality(users)], case when n % 2 = 0 then managers[1 + n % cardinality(managers)] end,
         now() - n * interval '8 seconds', now() - n * interval '8 seconds'
       from people, generate_series(1, 20000) n`,
    )
    // The crowd's few have waited for weeks: those of yesterday are the many.
    await stage.root.query(
      `update app_public.requests set submitted_at = now() where title like 'Request %' and status = 'SUBMITTED'`,
    )
    await stage.root.query(
      `update app_public.requests set submitted_at = now() - interval '3 days' where title in ('Waiting 10', 'Waiting 20', 'Waiting 30')`,
    )
    await stage.root.query('set session_replication_role = origin')
    await stage.root.query('vacuum analyze')
    const waiting = (title: string) => stage.root.query('select id from app_public.requests where title = $1', [title])
    one = (await waiting('Waiting 101')).rows[0].id
    assigned = (await waiting('Waiting 102')).rows[0].id
    due = 3
  }, 60_000)

  const recipients = (request: string, action: string) =>
    `select r.* from jsonb_populate_record(null::app_public.audit_logs, '{"action": "${action}", "request_id": "${request}"}') a, app_private.recipients(a) r`
  const queue = (kind: string) => `
    insert into app_public.notifications (recipient_id, kind, event, request_id, mail_state)
    select assigned_to_id, '${kind}', 'planned', id, 'QUEUED' from app_public.requests where title = 'Waiting 102'`
  const mail = `select app_private.begin_mail(id, 'assent.test') from app_public.notifications where event = 'planned'`

  // Those who decide are 200 and more, each on a page of their own: so the most that naming them may read.
  test.each<[string, () => string, number, string?]>([
    ['whom to ask about one', () => `select * from app_private.deciders_to_notify('${one}')`, 2 * most],
    ['whom to ask about one that is assigned', () => `select * from app_private.deciders_to_notify('${assigned}')`, 2 * most],
    ['whom to tell of its submission', () => recipients(one, 'SUBMIT'), 2 * most],
    ['whom to tell of its approval', () => recipients(one, 'APPROVE'), 2 * most],
    ['a mail that asks for a decision', () => mail, 3 * most, queue('SUBMITTED')],
  ])('%s reads a bounded number of pages', async (_, statement, bound, before = '') => {
    await planOf('owner', statement(), before)
    let plan = await planOf('owner', statement(), before)
    // As above: now and then PostgreSQL has to read its catalog anew, but not twice.
    if (pagesOf(plan) >= bound) plan = await planOf('owner', statement(), before)
    await stage.root.query('select pg_advisory_unlock_all()')
    expect(plan['Actual Rows']).toBeGreaterThan(0)
    expect(pagesOf(plan)).toBeLessThan(bound)
  })

  test.each(['manager', 'admin'] as const)('the inbox of %s reads what is on the page', async (person) => {
    const plan = await planOf(
      person,
      'select id from app_public.requests_awaiting_my_decision() r order by app_hidden.waiting_since(submitted_at), id limit 20',
    )
    expect(plan['Actual Rows']).toBe(20)
    expect(pagesOf(plan)).toBeLessThan(4 * most)
  })

  /** The pages of a second run, for which everything is done, after a first that was made to end in time. */
  async function rerun(statement: string): Promise<number> {
    return pagesOf(await planOf('owner', statement, `set local statement_timeout = '5s'; ${statement}`))
  }

  test('reminders read what is due, and nothing of what merely waits', async () => {
    expect(await rerun('select app_private.remind()')).toBeLessThan((due + 1) * 2 * most)
  })

  test('digests read for each who decides the first that waits, and nothing of the others', async () => {
    const { rows } = await stage.root.query('select from app_hidden.deciders')
    expect(await rerun(`select app_private.make_digests('2026-03-02')`)).toBeLessThan(most + 100 * rows.length)
  })
})
