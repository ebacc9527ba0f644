import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseEnv } from 'node:util'
import pg from 'pg'
import { command, type Running } from '../harness/process.ts'

// What a first start leaves in a new database: a month of requests that nobody can tell from one that was lived.

const DAY = 24 * 60 * 60 * 1000
const people = ['admin', 'manager', 'manager2', 'user', 'user2'].map((name) => `${name}@assent.test`)
const opened: { running: Running; dataDir: string; client: pg.Client }[] = []

/** The product on a new database, and the rows of a statement in it, as a superuser. */
async function start(env: Record<string, string> = {}) {
  const dataDir = await mkdtemp(join(tmpdir(), 'assent-demo-'))
  const running = command('start', { DATA_DIR: dataDir, PORT: '0', ...env })
  const url = await running.until(/GraphQL +(http:\S+)\/graphql[^]*psql/)
  const { ROOT_DATABASE_URL } = parseEnv(await readFile(join(dataDir, 'env'), 'utf8'))
  const client = new pg.Client(Object.assign(new URL(ROOT_DATABASE_URL!), { pathname: '/assent' }).href)
  client.on('error', () => {}) // It ends with PostgreSQL.
  await client.connect()
  opened.push({ running, dataDir, client })
  const rows = async (text: string) => (await client.query(text)).rows
  return { url, dataDir, rows }
}

async function post(url: string, body: object, token?: string): Promise<any> {
  const authorization = token ? { authorization: `Bearer ${token}` } : {}
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...authorization },
    body: JSON.stringify(body),
  })
  return response.json()
}

async function inbox(url: string, email: string): Promise<{ submittedAt: string }[]> {
  const { access_token } = await post(`${url}/api/v1/auth/token/`, { email, password: 'assent-demo-password' })
  const query = '{ requestsAwaitingMyDecision { nodes { submittedAt } } }'
  return (await post(`${url}/graphql`, { query }, access_token)).data.requestsAwaitingMyDecision.nodes
}

afterAll(async () => {
  for (const { client, running, dataDir } of opened) {
    await client.end()
    await running.end('SIGTERM')
    await rm(dataDir, { recursive: true, force: true })
  }
})

describe('the demo', () => {
  let product: Awaited<ReturnType<typeof start>>
  beforeAll(async () => void (product = await start()), 60_000)

  test('has some thirty requests, in every state, of every person, over a month', async () => {
    const [facts] = await product.rows(`
      select count(*)::int as all, count(distinct status)::int as statuses, (select count(*)::int from app_public.request_statuses) as possible,
        count(distinct creator_id)::int as creators, count(*) filter (where is_deleted)::int as deleted,
        count(assigned_to_id) > 5 as assigned, count(*) filter (where assigned_to_id is null) > 5 as unassigned,
        count(review_comment) > 5 as commented, max(created_at) - min(created_at) > interval '25 days' as spread,
        bool_and(created_at between now() - interval '31 days' and now()) as "of the month",
        bool_and(created_at < coalesce(submitted_at, 'infinity') and coalesce(submitted_at, created_at) < coalesce(reviewed_at, 'infinity')
          and updated_at = greatest(updated_at, reviewed_at, submitted_at, created_at) and updated_at <= now()) as "in order"
      from app_public.requests`)
    const { all, statuses, possible, ...others } = facts!
    expect(all).toBeGreaterThan(25)
    expect(all).toBeLessThan(40)
    expect(statuses).toBe(possible)
    expect(others).toEqual({
      creators: 5,
      deleted: 1,
      assigned: true,
      unassigned: true,
      commented: true,
      spread: true,
      'of the month': true,
      'in order': true,
    })
  })

  test('agrees with its trail, whose entries are of the times and the people of the requests', async () => {
    expect(await product.rows('select * from audit.disagreements')).toEqual([])
    expect(
      await product.rows(`
        select r.title, a.action from app_public.audit_logs a join app_public.requests r on r.id = a.request_id
        where a.timestamp <> case when a.action = 'CREATE' then r.created_at when a.action = 'SUBMIT' then r.submitted_at
            when a.action in ('APPROVE', 'REJECT') then r.reviewed_at else r.updated_at end
          or a.actor_id is null or (a.action in ('CREATE', 'UPDATE', 'DELETE', 'SUBMIT') and a.actor_id <> r.creator_id)`),
    ).toEqual([])
    const [people] = await product.rows(
      `select bool_and(u.created_at < r.first) as first from app_public.users u, (select min(created_at) as first from app_public.requests) r`,
    )
    expect(people).toEqual({ first: true })
  })

  test('leaves every rule in force', async () => {
    expect(
      await product.rows(
        `select tgrelid::regclass as table, tgname from pg_trigger where tgenabled not in ('O', 'A') and not tgisinternal`,
      ),
    ).toEqual([])
    expect(await product.rows(`select distinct tgenabled from pg_trigger where tgname = '_100_append_only'`)).toEqual([
      { tgenabled: 'A' },
    ])
    await expect(product.rows('delete from app_public.audit_logs')).rejects.toMatchObject({ code: 'RQ403' })
    await expect(product.rows(`update app_public.requests set title = 'Another'`)).rejects.toMatchObject({ code: 'RQ403' })
  })

  test('gives each manager something to decide, some of it for more than two days', async () => {
    for (const email of ['manager@assent.test', 'manager2@assent.test']) {
      const waiting = await inbox(product.url, email)
      expect(waiting.length).toBeGreaterThan(3)
      const old = waiting.filter(({ submittedAt }) => Date.now() - Date.parse(submittedAt) > 2 * DAY)
      expect(old.length).toBeGreaterThan(1)
    }
  })

  test('has told people in their inboxes, and by no mail: not now, nor by the reminders of the first day', async () => {
    const [told] = await product.rows(`
      select count(*) filter (where read_at is null) between 5 and 40 as unread, count(*) filter (where read_at is not null) > 20 as read,
        bool_and(mail_state = 'NONE') as unmailed, bool_and(created_at <= now()) as past, count(*) filter (where kind = 'REMINDER') > 3 as reminded
      from app_public.notifications`)
    expect(told).toEqual({ unread: true, read: true, unmailed: true, past: true, reminded: true })
    const events = () => product.rows('select event from app_public.notifications order by event')
    const before = await events()
    await product.rows('select app_private.remind()')
    expect(await events()).toEqual(before)
    const due = await product.rows(`
      select r.title from app_public.requests r
      where r.submitted_at is not null and r.reviewed_at is null
        and mod(extract(epoch from now() - greatest(r.submitted_at, r.updated_at)), 172800) > 86400`)
    expect(due).toEqual([])
    expect(await product.rows('select task_identifier from graphile_worker.jobs')).toEqual([])
    expect(existsSync(join(product.dataDir, 'mail'))).toBe(false)
  })

  test('leaves no session open but those of the tests', async () => {
    expect(await product.rows(`select from app_private.sessions where user_agent = 'demo'`)).toEqual([])
  })

  test('is not loaded a second time', async () => {
    const count = 'select count(*)::int from app_public.requests'
    const [before] = await product.rows(count)
    await product.rows(await readFile('db/demo-requests.sql', 'utf8'))
    expect(await product.rows(count)).toEqual([before])
  })
})

test('with DEMO=false a new database has these people and nothing else', async () => {
  const { rows } = await start({ DEMO: 'false' })
  expect(await rows('select email from app_private.credentials order by user_id')).toEqual(people.map((email) => ({ email })))
  expect(await rows('select from app_public.requests')).toEqual([])
  expect(await rows('select from app_public.notifications')).toEqual([])
  expect(opened.at(-1)!.running.output).toContain('user2@assent.test')
}, 60_000)
