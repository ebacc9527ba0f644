import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { startEmbedded, type Embedded } from '../../server/setup/embedded/postgres.ts'
import { command, Running } from '../harness/process.ts'

// A server of the operator's own, and names and passwords that need quoting everywhere.
let dataDir: string
let postgres: Embedded
let root: URL
let env: Record<string, string>
const admin = { email: 'Jane.Admin@example.com', name: "Jane O'Admin", password: 'correct horse, "battery"; staple' }
const passwords = ['it\'s 100% "mine": ü/?#@', 'pass$word\\', 'a "worker"']

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
    WORKER_DATABASE_URL: login('Worker 3', passwords[2]!),
    JWT_SECRET: 'signs whatever these tests ask for',
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

// What an operator does first, and only then anything else.
const logins = () => only('ROOT_DATABASE_URL', 'DATABASE_URL', 'AUTH_DATABASE_URL', 'WORKER_DATABASE_URL')
const setup = () => command('setup', logins()).exit
const migrate = async () => {
  const running = command('migrate', only('DATABASE_URL'))
  if ((await running.exit) !== 0) throw new Error(running.output)
}
const createAdmin = (args: string[], input: string) => command('create-admin', only('DATABASE_URL'), args, input)
beforeAll(async () => {
  // Any number may start at once, as containers do.
  const both = async () => {
    expect(await setup()).toBe(0)
    await migrate()
  }
  await Promise.all(Array.from({ length: 5 }, both))
  const added = createAdmin([admin.email, admin.name], `${admin.password}\n`)
  expect(await added.exit).toBe(0)
  expect(added.output).toContain(`${admin.email} is an admin.`)
  expect(added.output).not.toContain(admin.password)
}, 120_000)

test('setup creates the roles and the database, also five at once, and may be run again', async () => {
  expect(await setup()).toBe(0)
  expect(await query(env.DATABASE_URL!, 'select current_user as me, current_database() as db')).toEqual([
    { me: "The Owner's", db: 'Approvals' },
  ])
  expect(await query(env.AUTH_DATABASE_URL!, 'select current_user as me')).toEqual([{ me: 'api-2' }])
  const [roles] = await query(
    root.href,
    `
    select bool_or(rolsuper or rolbypassrls or rolcreaterole or rolcreatedb) as mighty,
           bool_or(rolinherit) filter (where rolname = 'api-2') as inherits,
           max(rolconnlimit) filter (where rolname = 'api-2') as connections
    from pg_roles where rolname in ('The Owner''s', 'api-2', 'Worker 3')`,
  )
  expect(roles).toEqual({ mighty: false, inherits: false, connections: 68 })
  const open = await query(
    root.href,
    `select datname from pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba))) where grantee = 0 and datallowconn`,
  )
  expect(open).toEqual([])
}, 60_000)

test('no password is in the log of PostgreSQL, which wrote every statement', async () => {
  const log = await readFile(join(dataDir, 'postgres', 'server.log'), 'utf8')
  expect(log).toContain('alter role')
  expect(log).toContain('SCRAM-SHA-256$')
  for (const password of passwords) expect(log).not.toContain(password)
})

test('migrate needs only the owner, and several at once wait for each other', async () => {
  expect(await query(env.DATABASE_URL!, 'select indexrelid::regclass from pg_index where not indisvalid')).toEqual([])
  expect(await query(env.DATABASE_URL!, `select has_schema_privilege('api-2', 'app_public', 'usage') as granted`)).toEqual([
    { granted: true },
  ])
}, 60_000)

describe('create-admin', () => {
  const trail = `select a.action, a.actor_id, a.metadata, u.name, u.role from app_public.audit_logs a join app_public.users u on u.id = a.user_id
    where a.action = 'USER_CREATE' order by a.id`

  test('adds an admin with the password from standard input, and the trail says who did it', async () => {
    const { name } = admin
    const metadata = { name, role: 'ADMIN', database_user: "The Owner's" }
    expect((await query(env.DATABASE_URL!, trail))[0]).toEqual({
      action: 'USER_CREATE',
      actor_id: null,
      metadata,
      name,
      role: 'ADMIN',
    })
    expect(await readFile(join(dataDir, 'postgres', 'server.log'), 'utf8')).not.toContain(admin.password)
  }, 60_000)

  test('by npm, with blanks in the name', async () => {
    const args = ['run', 'create-admin', '--', 'second@example.com', 'The Second']
    const added = new Running('npm', args, only('DATABASE_URL'), admin.password)
    expect(await added.exit).toBe(0)
    expect(await query(env.DATABASE_URL!, `select role from app_public.users where name = 'The Second'`)).toEqual([
      { role: 'ADMIN' },
    ])
  }, 60_000)

  test('says in one line what is wrong, and adds nobody', async () => {
    const { password, name } = admin
    const cases: [string[], string, string][] = [
      [['new@example.com', name], '', 'The password must have at least 12 characters.'],
      [['new@example.com', name], `${'😀'.repeat(11)}\n`, 'The password must have at least 12 characters.'],
      [
        ['new@example.com', name],
        'Password1234\r\n',
        'This password is too common: it is one of the most common ones, or a pattern, with little else.',
      ],
      [[admin.email, name], password, 'This email address is taken.'],
      [[admin.email.toLowerCase(), name], password, 'This email address is taken.'],
      [['no address', name], password, 'This is not an email address.'],
      [['new@example.com', ' '], password, 'The name must have 1 to 200 characters, and must not be blank.'],
      [['new@example.com'], password, 'Usage: npm run create-admin -- EMAIL NAME'],
      [[], password, 'Usage: npm run create-admin -- EMAIL NAME'],
    ]
    const before = await query(env.DATABASE_URL!, trail)
    const refused = await Promise.all(
      cases.map(async ([args, input]) => {
        const running = createAdmin(args, input)
        return [args, input, await running.exit, running.output]
      }),
    )
    expect(refused).toEqual(cases.map(([args, input, line]) => [args, input, 1, `${line}\n`]))
    expect(await query(env.DATABASE_URL!, trail)).toEqual(before)
  }, 60_000)

  test('needs the owner’s connection', async () => {
    const running = command('create-admin', only(), [admin.email, admin.name], admin.password)
    expect(await running.exit).toBe(1)
    expect(running.output).toBe('The environment is not usable:\n- DATABASE_URL is missing\n')
  })
})

test('server and worker run from their own variables alone, the new admin can log in, and they end with 0', async () => {
  const server = command('server', only('AUTH_DATABASE_URL', 'JWT_SECRET'))
  const worker = command('worker', only('WORKER_DATABASE_URL'))
  await worker.until(/The worker looks for jobs/)
  const url = await server.until(/(http:\/\/127\.0\.0\.1:\d+)/)
  const healthcheck = () => command('healthcheck', { PORT: new URL(url).port })
  expect(await healthcheck().exit).toBe(0)
  const body = JSON.stringify({ email: admin.email, password: admin.password })
  const login = await fetch(`${url}/api/v1/auth/token/`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body,
  })
  expect([login.status, ((await login.json()) as { user: object }).user]).toMatchObject([
    200,
    { name: admin.name, role: 'ADMIN' },
  ])
  expect(await Promise.all([server.end('SIGTERM'), worker.end('SIGINT')])).toEqual([0, 0])
  const gone = healthcheck()
  expect([await gone.exit, gone.output]).toEqual([1, expect.stringMatching(/^connect ECONNREFUSED [^\n]*\n$/)])
}, 60_000)

test('a command says in one line that it cannot log in', async () => {
  const migrating = command('migrate', { ...only('DATABASE_URL'), DATABASE_URL: login('nobody', 'x') })
  expect(await migrating.exit).toBe(1)
  expect(migrating.output).toBe('password authentication failed for user "nobody"\n')
  const wrong = Object.assign(new URL(root), { password: 'wrong' }).href
  const settingUp = command('setup', { ...logins(), ROOT_DATABASE_URL: wrong })
  expect(await settingUp.exit).toBe(1)
  expect(settingUp.output).toBe('password authentication failed for user "postgres"\n')
})
