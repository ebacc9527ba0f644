import pg, { type Client } from 'pg'
import pino from 'pino'
import { parseConfig } from '../../../server/config.ts'
import { toClientError } from '../../../server/errors.ts'
import { startWorker } from '../../../server/jobs/worker.ts'
import { withSettings } from '../../../server/sql/connection.ts'
import { makeOpenPool } from '../../../server/sql/pool.ts'
import { cloneDatabase, type TestDatabase } from '../../harness/database.ts'
import { newRequest, PASSWORD, startApi, type Api } from '../../harness/client.ts'
import { startProxy } from '../../harness/proxy.ts'
import { until } from '../../harness/socket.ts'

let db: TestDatabase
let root: Client
let api: Api
beforeAll(async () => {
  db = await cloneDatabase()
  root = await db.connect('root')
})
afterAll(() => db.close())

/** Sessions that begin from now on have this setting, as those of another node or of another owner's taste. */
const set = async (...settings: string[]) => {
  for (const setting of settings) await root.query(`alter database ${await name()} set ${setting}`)
}
const reset = async () => root.query(`alter database ${await name()} reset all`)
const name = async () => (await root.query('select current_database() as name')).rows[0].name as string
const endSessions = () =>
  root.query(`select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and application_name in ('assent api', 'assent live')`)

describe('after a failover to a node that takes no writes', () => {
  beforeAll(async () => {
    api = await startApi({}, db)
  })
  afterEach(reset)
  afterAll(() => api.close())

  const post = () => api.rest('POST', '/requests/', { title: 'Written' }, 'user')
  const ready = async () => (await api.send({ method: 'GET', path: '/readyz' })).status
  const read = async () => (await api.rest('GET', '/requests/', undefined, 'user')).status

  async function failOver(): Promise<void> {
    await Promise.all(Array.from({ length: 12 }, read)) // Every connection of the pool is in use.
    await set('default_transaction_read_only = on')
    await endSessions()
    await until(async () => (await read()) === 200)
    await Promise.all(Array.from({ length: 12 }, read))
  }

  test('a change or a login is UNAVAILABLE and may be tried again, reads go on, and /readyz says 503', async () => {
    await failOver()
    const login = await api.rest('POST', '/auth/token/', { email: db.people.user.email, password: PASSWORD })
    const inGraphQL = await api.graphql('mutation { markAllNotificationsRead(input: {}) { clientMutationId } }', {}, 'user')
    for (const { status, headers, body } of [await post(), login]) {
      expect([status, body.code, headers['retry-after']]).toEqual([503, 'UNAVAILABLE', '1'])
    }
    expect([inGraphQL.status, inGraphQL.headers['retry-after']]).toEqual([503, '1'])
    expect(inGraphQL.body.errors[0].extensions).toEqual({ code: 'UNAVAILABLE', retryAfter: 1 })
    expect([await ready(), await read()]).toEqual([503, 200])
    expect((await api.metrics()).text).toContain('assent_ready 0\n')
    expect(api.log()).not.toContain('internal error')
  })

  test('once the primary is back, at most one call meets an old connection', async () => {
    await failOver()
    expect((await post()).status).toBe(503)
    await Promise.all(Array.from({ length: 12 }, read))
    await reset()
    const statuses = []
    for (let n = 0; n < 12; n++) statuses.push((await post()).status)
    expect(statuses.slice(1)).toEqual(statuses.slice(1).map(() => 201))
    expect(await ready()).toBe(200)
  })

  test('/readyz, too, finds out by itself, and leaves no old connection to others', async () => {
    await failOver()
    await reset()
    expect(await ready()).toBe(200)
    const answers = await Promise.all(Array.from({ length: 20 }, post))
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 201))
  })
})

test('/readyz says 503 on a schema that is older than the server, and 200 while a newer one is being introduced', async () => {
  api = await startApi({}, db)
  const ready = async () => (await api.send({ method: 'GET', path: '/readyz' })).status
  const migrations = 'graphile_migrate.migrations'
  await root.query(
    `create table public.kept as select * from ${migrations} where filename = (select max(filename) from ${migrations})`,
  )
  expect(await ready()).toBe(200)
  await root.query(`delete from ${migrations} where filename in (select filename from public.kept)`)
  expect(await ready()).toBe(503)
  await root.query(`insert into ${migrations} select * from public.kept`)
  await root.query(`insert into ${migrations} (hash, filename) values ('sha1:x', '999999.sql')`)
  expect(await ready()).toBe(200)
  await root.query(`delete from ${migrations} where filename = '999999.sql'; drop table public.kept`)
  await api.close()
})

test('/readyz takes one connection, however many ask at once', async () => {
  api = await startApi({}, db)
  const answers = await Promise.all(Array.from({ length: 50 }, () => api.send({ method: 'GET', path: '/readyz' })))
  expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200))
  const { rows } = await root.query(
    `select count(*)::integer from pg_stat_activity where datname = current_database() and application_name = 'assent api'`,
  )
  expect(rows[0].count).toBe(1)
  await api.close()
})

test('whatever keeps us from a connection is UNAVAILABLE: a server that lets nobody in, or one that is not there', async () => {
  const proxy = await startProxy(db.urls.auth)
  api = await startApi({ AUTH_DATABASE_URL: proxy.url }, db)
  const code = async () => (await api.rest('GET', '/requests/', undefined, 'user')).body.code
  const admin = new pg.Client(Object.assign(new URL(db.urls.root), { pathname: '/postgres' }).href)
  await admin.connect()
  await endSessions()
  await admin.query(`alter database ${await name()} connection limit 0`)
  await until(async () => (await code()) === 'UNAVAILABLE')
  await admin.query(`alter database ${await name()} connection limit -1`)
  await until(async () => (await code()) === undefined)

  await root.query(`revoke connect on database ${await name()} from assent_authenticator`)
  await endSessions()
  await until(async () => (await code()) === 'UNAVAILABLE')
  await root.query(`grant connect on database ${await name()} to assent_authenticator`)
  await until(async () => (await code()) === undefined)

  await proxy.cut()
  await until(async () => (await code()) === 'UNAVAILABLE')
  await admin.end()
  await api.close()
  await proxy.close()
})

test('a statement to a server that has vanished is UNAVAILABLE once its time is up, and the next one goes elsewhere', async () => {
  const proxy = await startProxy(db.urls.auth)
  const log = pino({ level: 'silent' })
  const pool = makeOpenPool(proxy.url, log)(1, { longest: 100 })
  await pool.query('select 1')
  proxy.silence()
  const error = await pool.query('select 1').catch((error: unknown) => error)
  expect(toClientError(error, log).code).toBe('UNAVAILABLE')
  await pool.query('select 1')
  await pool.end()
  await proxy.close()
})

describe('on a database with other formats', () => {
  const TASTES = [
    ["datestyle = 'German'", "intervalstyle = 'sql_standard'", "timezone = 'Asia/Kathmandu'", "bytea_output = 'escape'"],
    ["datestyle = 'SQL, DMY'", "intervalstyle = 'iso_8601'", 'extra_float_digits = -15', 'quote_all_identifiers = on'],
    ["datestyle = 'Postgres, MDY'", "intervalstyle = 'postgres_verbose'", "timezone = 'America/St_Johns'"],
  ]
  afterEach(reset)

  test.each(TASTES)('with %s, a connection of ours writes as ever, and what the URL sets besides is kept', async (...taste) => {
    const own = new URL(db.urls.auth)
    own.searchParams.set('options', '-c statement_timeout=1234 -c datestyle=German')
    const values = async (connectionString: string) => {
      const client = new pg.Client({ connectionString })
      await client.connect()
      const { rows } = await client.query(
        `select timestamptz '2026-01-31 12:00:00.5+02'::text as at, date '2026-01-31'::text as day, interval '1 day 2 hours'::text as lapse,
           '\\x00ff'::bytea::text as bytes, (0.1::float8 + 0.2)::text as sum, current_setting('statement_timeout') as timeout,
           'app_public.users'::regclass::text as name`,
      )
      return client.end().then(() => rows[0])
    }
    const before = await values(withSettings(db.urls.auth))
    expect(before).toMatchObject({ at: '2026-01-31 10:00:00.5+00', day: '2026-01-31', lapse: '1 day 02:00:00', bytes: '\\x00ff' })
    await set(...taste)
    expect(await values(withSettings(own.href))).toEqual({ ...before, timeout: '1234ms' })
    expect(await values(db.urls.auth)).not.toEqual(before)
  })

  test.each(TASTES)('with %s, pages follow each other, and the worker does nothing that is not due', async (...taste) => {
    await set(...taste)
    api = await startApi({}, db)
    for (const title of ['One', 'Two', 'Three']) await newRequest(api, { title, submit: true })
    for (const list of [
      '/requests/?page_size=2',
      '/audit-logs/?page_size=2',
      '/requests/?awaiting_my_decision=true&page_size=2',
    ]) {
      const first = await api.rest('GET', list, undefined, 'admin')
      const second = await api.rest('GET', first.body.next.replace('/api/v1', ''), undefined, 'admin')
      const back = await api.rest('GET', second.body.previous.replace('/api/v1', ''), undefined, 'admin')
      expect([first.status, second.status, back.body.results]).toEqual([200, 200, first.body.results])
    }
    const since = encodeURIComponent((await api.rest('GET', '/requests/', undefined, 'admin')).body.results[0].created_at)
    expect((await api.rest('GET', `/audit-logs/?since=${since}`, undefined, 'admin')).status).toBe(200)
    await api.close()

    const worker = await startWorker(parseConfig({ WORKER_DATABASE_URL: db.urls.worker }, 'worker'), pino({ level: 'silent' }))
    await until(async () => (await root.query('select from graphile_worker._private_known_crontabs')).rows.length === 5)
    await worker.close()
    // Had it misread when they last ran, which is never, it would have filled in what it thinks was missed.
    const { rows } = await root.query(`select kind from app_public.notifications where kind in ('DIGEST', 'REMINDER')`)
    expect(rows).toEqual([])
  })
})
