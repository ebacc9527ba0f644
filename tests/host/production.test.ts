import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { startEmbedded, type Embedded } from '../../server/embedded.ts'
import { command } from './process.ts'

// A server of the operator's own, and names and passwords that need quoting everywhere.
let dataDir: string
let postgres: Embedded
let root: URL
let env: Record<string, string>
const passwords = ['it\'s 100% "mine": ü/?#@', 'pass$word\\']

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'assent-production-'))
  postgres = await startEmbedded({ dataDir, major: 15, settings: { fsync: 'off', log_statement: 'all' } })
  root = new URL(postgres.secrets.ROOT_DATABASE_URL)
  env = {
    NODE_ENV: 'production',
    PORT: '0',
    ROOT_DATABASE_URL: root.href,
    DATABASE_URL: login("The Owner's", passwords[0]!),
    AUTH_DATABASE_URL: login('api-2', passwords[1]!),
    JWT_SECRET: 's'.repeat(32),
  }
}, 60_000)

afterAll(async () => {
  await postgres.stop()
  await rm(dataDir, { recursive: true })
})

function login(user: string, password: string): string {
  return `postgres://${encodeURIComponent(user)}:${encodeURIComponent(password)}@${root.host}/Approvals`
}

function only(...names: string[]): Record<string, string> {
  return Object.fromEntries([...names, 'NODE_ENV', 'PORT'].map((name) => [name, env[name]!]))
}

async function query(connectionString: string, text: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString })
  await client.connect()
  return (await client.query(text).finally(() => client.end())).rows
}

test('setup creates the roles and the database, and may be run again, also twice at once', async () => {
  const setup = () => command('setup', only('ROOT_DATABASE_URL', 'DATABASE_URL', 'AUTH_DATABASE_URL')).exit
  expect(await Promise.all([setup(), setup()])).toEqual([0, 0])
  expect(await setup()).toBe(0)
  expect(await query(env.DATABASE_URL!, 'select current_user as me, current_database() as db')).toEqual([
    { me: "The Owner's", db: 'Approvals' },
  ])
  expect(await query(env.AUTH_DATABASE_URL!, 'select current_user as me')).toEqual([{ me: 'api-2' }])
  const [roles] = await query(
    root.href,
    `
    select bool_or(rolsuper or rolbypassrls or rolcreaterole or rolcreatedb) as mighty,
           bool_or(rolinherit) filter (where rolname = 'api-2') as inherits
    from pg_roles where rolname in ('The Owner''s', 'api-2')`,
  )
  expect(roles).toEqual({ mighty: false, inherits: false })
  const [database] = await query(root.href, `select has_database_privilege('public', 'Approvals', 'connect') as anyone`)
  expect(database).toEqual({ anyone: false })
}, 60_000)

test('no password is in the log of PostgreSQL, which wrote every statement', async () => {
  const log = await readFile(join(dataDir, 'postgres', 'server.log'), 'utf8')
  expect(log).toContain('alter role')
  expect(log).toContain('SCRAM-SHA-256$')
  for (const password of passwords) expect(log).not.toContain(password)
})

test('migrate needs only the owner, and two at once wait for each other', async () => {
  const migrate = () => command('migrate', only('DATABASE_URL')).exit
  expect(await Promise.all([migrate(), migrate()])).toEqual([0, 0])
  expect(await query(env.DATABASE_URL!, `select has_schema_privilege('api-2', 'app_public', 'usage') as granted`)).toEqual([
    { granted: true },
  ])
}, 60_000)

test('server and worker run from their own variables alone, and end with 0', async () => {
  const server = command('server', only('AUTH_DATABASE_URL', 'JWT_SECRET'))
  const worker = command('worker', only('DATABASE_URL'))
  await worker.until(/Worker connected/)
  const url = await server.until(/(http:\/\/127\.0\.0\.1:\d+)/)
  expect((await fetch(`${url}/readyz`)).status).toBe(200)
  expect(await Promise.all([server.end('SIGTERM'), worker.end('SIGINT')])).toEqual([0, 0])
}, 60_000)

test('a command says in one line that it cannot log in', async () => {
  const worker = command('migrate', { ...only('DATABASE_URL'), DATABASE_URL: login('nobody', 'x') })
  expect(await worker.exit).toBe(1)
  expect(worker.output).toBe('password authentication failed for user "nobody"\n')
})
