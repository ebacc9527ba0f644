import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { createServer, type AddressInfo, type Server } from 'node:net'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { pino } from 'pino'
import { startEmbedded, type Embedded } from '../../server/setup/embedded/postgres.ts'
import { migrate } from '../../server/setup/migrate.ts'
import { setup } from '../../server/setup/roles.ts'
import { command } from '../harness/process.ts'

// What a command refuses before it does anything, each time in one sentence that says what to do.

const last = Math.max(...(await readdir('migrations/committed')).map((name) => Number.parseInt(name, 10)))
let dataDir: string
let postgres: Embedded
let urls: { root: string; owner: string; api: string; worker: string }

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'assent-preflight-'))
  postgres = await startEmbedded({ dataDir, major: 15, settings: { fsync: 'off' } })
  const { ROOT_DATABASE_URL, DATABASE_URL, AUTH_DATABASE_URL, WORKER_DATABASE_URL } = postgres.secrets
  const logins = {
    rootDatabaseUrl: ROOT_DATABASE_URL,
    databaseUrl: DATABASE_URL,
    authDatabaseUrl: AUTH_DATABASE_URL,
    workerDatabaseUrl: WORKER_DATABASE_URL,
  }
  await setup(logins)
  await migrate(logins, pino({ level: 'warn' }))
  urls = {
    root: inDatabase(ROOT_DATABASE_URL, 'assent'),
    owner: DATABASE_URL,
    api: AUTH_DATABASE_URL,
    worker: WORKER_DATABASE_URL,
  }
}, 60_000)

afterAll(async () => {
  await postgres.stop()
  await rm(dataDir, { recursive: true })
})

function inDatabase(url: string, database: string): string {
  return Object.assign(new URL(url), { pathname: `/${database}` }).href
}

async function query(connectionString: string, text: string): Promise<void> {
  const client = new pg.Client({ connectionString })
  await client.connect()
  await client.query(text).finally(() => client.end())
}

/** What a command says that ends by itself, and with 1. */
async function refusal(name: string, env: Record<string, string>, args: string[] = [], input?: string): Promise<string> {
  const running = command(name, env, args, input)
  expect(await running.exit).toBe(1)
  return running.output
}

const server = (url: string) =>
  refusal('server', { PORT: '0', AUTH_DATABASE_URL: url, JWT_SECRET: 'signs whatever these tests ask for' })
const worker = (url: string) => refusal('worker', { WORKER_DATABASE_URL: url })
const createAdmin = (url: string) =>
  refusal('create-admin', { DATABASE_URL: url }, ['ada@example.com', 'Ada'], 'a rather long password')

describe('who may not log in', () => {
  const instead = {
    server: 'name the login of the API there, which npm run setup creates.\n',
    worker: 'name the login of the worker there, which npm run setup creates.\n',
  }

  test('as the API or the worker: a superuser, the owner, a role with BYPASSRLS, and whoever may become one of them', async () => {
    await query(
      urls.root,
      `create role unbound login bypassrls password 'pw'; grant connect on database assent to unbound;
       create role climber login noinherit password 'pw'; grant connect on database assent to climber; grant assent_owner to climber`,
    )
    const as = (user: string) => Object.assign(new URL(urls.api), { username: user, password: 'pw' }).href
    expect(await server(urls.root)).toBe(`AUTH_DATABASE_URL logs in as postgres, a superuser: ${instead.server}`)
    expect(await server(as('unbound'))).toBe(`AUTH_DATABASE_URL logs in as unbound, a role with BYPASSRLS: ${instead.server}`)
    const owns = 'the owner of the database or of something in it'
    expect(await server(urls.owner)).toBe(`AUTH_DATABASE_URL logs in as assent_owner, ${owns}: ${instead.server}`)
    expect(await server(as('climber'))).toBe(
      `AUTH_DATABASE_URL logs in as climber, who may become assent_owner, ${owns}: ${instead.server}`,
    )
    expect(await worker(urls.root)).toBe(`WORKER_DATABASE_URL logs in as postgres, a superuser: ${instead.worker}`)
    expect(await worker(as('unbound'))).toBe(`WORKER_DATABASE_URL logs in as unbound, a role with BYPASSRLS: ${instead.worker}`)
    expect(await worker(urls.owner)).toBe(`WORKER_DATABASE_URL logs in as assent_owner, ${owns}: ${instead.worker}`)
    expect(await worker(as('climber'))).toBe(
      `WORKER_DATABASE_URL logs in as climber, who may become assent_owner, ${owns}: ${instead.worker}`,
    )
  }, 60_000)

  test('nor the API as the worker, the worker as the API, or either as an auditor', async () => {
    await query(urls.root, `create role jane login password 'pw' in role assent_auditor`)
    const jane = Object.assign(new URL(urls.api), { username: 'jane', password: 'pw' }).href
    const audits = 'jane, who may become assent_auditor, the login of an auditor'
    expect(await server(urls.worker)).toBe(
      `AUTH_DATABASE_URL logs in as assent_worker, the login of the worker: ${instead.server}`,
    )
    expect(await server(jane)).toBe(`AUTH_DATABASE_URL logs in as ${audits}: ${instead.server}`)
    expect(await worker(urls.api)).toBe(
      `WORKER_DATABASE_URL logs in as assent_authenticator, who may become assent_anonymous, the login of the API: ${instead.worker}`,
    )
    expect(await worker(jane)).toBe(`WORKER_DATABASE_URL logs in as ${audits}: ${instead.worker}`)
  })

  test('nor either with a role that PostgreSQL brings along, nor an API whose login inherits what it may become', async () => {
    const given = 'who may become pg_read_all_data, a role that PostgreSQL brings along'
    await query(urls.root, 'grant pg_read_all_data to assent_authenticator, assent_worker')
    try {
      expect(await server(urls.api)).toBe(`AUTH_DATABASE_URL logs in as assent_authenticator, ${given}: ${instead.server}`)
      expect(await worker(urls.worker)).toBe(`WORKER_DATABASE_URL logs in as assent_worker, ${given}: ${instead.worker}`)
    } finally {
      await query(urls.root, 'revoke pg_read_all_data from assent_authenticator, assent_worker')
    }
    await query(urls.root, 'alter role assent_authenticator inherit')
    try {
      expect(await server(urls.api)).toBe(
        `AUTH_DATABASE_URL logs in as assent_authenticator, who may become assent_admin, a role whose rights it inherits: ${instead.server}`,
      )
    } finally {
      await query(urls.root, 'alter role assent_authenticator noinherit')
    }
  }, 30_000)

  test('nor an API whose login has been given something in the database', async () => {
    await query(urls.root, 'create table public.gift (); alter table public.gift owner to assent_authenticator')
    try {
      expect(await server(urls.api)).toMatch(/^AUTH_DATABASE_URL logs in as assent_authenticator, the owner of [^\n]+\n$/)
    } finally {
      await query(urls.root, 'drop table public.gift')
    }
  })
})

describe('a schema that is another', () => {
  test('none: run migrate', async () => {
    await query(urls.root, 'create database empty owner assent_owner')
    const none = 'The database has no schema yet: run npm run migrate.\n'
    expect(await server(inDatabase(urls.api, 'empty'))).toBe(none)
    expect(await worker(inDatabase(urls.worker, 'empty'))).toBe(none)
    expect(await createAdmin(inDatabase(urls.owner, 'empty'))).toBe(none)
  }, 60_000)

  test.each([
    ['older', `delete from graphile_migrate.migrations where filename = (select max(filename) from graphile_migrate.migrations)`],
    ['newer', `insert into graphile_migrate.migrations (hash, filename) values ('sha1:x', '000099.sql')`],
  ])('%s', async (age, change) => {
    const said = {
      older: `The schema is at migration ${last - 1} of ${last}: run npm run migrate.\n`,
      newer: `The schema is at migration 99, newer than this server, which knows ${last}: start the version that migrated it.\n`,
    }[age]
    await query(urls.root, `create database ${age} template assent owner assent_owner`)
    await query(inDatabase(urls.owner, age), change)
    expect(await server(inDatabase(urls.api, age))).toBe(said)
    expect(await worker(inDatabase(urls.worker, age))).toBe(said)
    expect(await createAdmin(inDatabase(urls.owner, age))).toBe(said)
  })

  test('one that cannot even tell which it is: run migrate', async () => {
    await query(urls.root, 'create database silent template assent owner assent_owner')
    await query(inDatabase(urls.owner, 'silent'), 'drop function app_hidden.schema_version()')
    expect(await server(inDatabase(urls.api, 'silent'))).toBe('The schema is older than this server: run npm run migrate.\n')
  })
})

describe('a replica', () => {
  const env = () => ({ PORT: '0', AUTH_DATABASE_URL: urls.api, JWT_SECRET: 'signs whatever these tests ask for' })

  test('of another database is refused', async () => {
    const { AUTH_DATABASE_URL } = JSON.parse(process.env['TEST_POSTGRES_18']!)
    expect(await refusal('server', { ...env(), REPLICA_DATABASE_URL: AUTH_DATABASE_URL })).toBe(
      `REPLICA_DATABASE_URL names ${new URL(AUTH_DATABASE_URL).host}, which is no copy of the database that AUTH_DATABASE_URL names.\n`,
    )
  })

  test('of a primary that acknowledges what it has not written is refused', async () => {
    const hasty = { AUTH_DATABASE_URL: `${urls.api}?options=-c%20synchronous_commit%3Doff`, REPLICA_DATABASE_URL: urls.api }
    expect(await refusal('server', { ...env(), ...hasty })).toMatch(
      /^REPLICA_DATABASE_URL needs synchronous_commit on the primary[^\n]+\n$/,
    )
  })

  test('that is away does not keep a server from starting', async () => {
    const away = Object.assign(new URL(urls.api), { port: '1' }).href
    const running = command('server', { ...env(), REPLICA_DATABASE_URL: away })
    await running.until(/The API listens/)
    expect(await running.end('SIGTERM')).toBe(0)
  })
})

describe('a port that is taken', () => {
  let other: Server
  let PORT: string
  beforeAll(async () => {
    other = createServer().listen(0, '127.0.0.1')
    await once(other, 'listening')
    PORT = String((other.address() as AddressInfo).port)
  })
  afterAll(() => void other.close())

  const saying = (typed: string) => `Port ${PORT} is taken. Start with another: PORT=${Number(PORT) + 1} ${typed}\n`

  test.each([
    ['start', 'npm start'],
    ['dev', 'npm run dev'],
  ])('%s says what to type instead, and has made nothing', async (name, typed) => {
    const folder = await mkdtemp(join(tmpdir(), 'assent-preflight-'))
    expect(await refusal(name, { DATA_DIR: folder, PORT })).toBe(saying(typed))
    expect(await readdir(folder)).toEqual([])
    await rm(folder, { recursive: true })
  })

  test('server says so too', async () => {
    expect(await refusal('server', { PORT, AUTH_DATABASE_URL: urls.api, JWT_SECRET: 'signs whatever these tests ask for' })).toBe(
      saying('npm run server'),
    )
  })
})
