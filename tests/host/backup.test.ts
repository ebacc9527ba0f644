import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gunzipSync, gzipSync } from 'node:zlib'
import pg from 'pg'
import { setTimeout as sleep } from 'node:timers/promises'
import { joinEmbedded, startEmbedded, type Embedded } from '../../server/setup/embedded/postgres.ts'
import { command } from '../harness/process.ts'

// A disaster: the database is lost, and comes back from its backup, on a newer major version of PostgreSQL.

let folder: string
let old: Embedded
const servers: Embedded[] = []
const opened: pg.Client[] = []

/** What an operator has in the environment. */
const environment = ({ secrets }: Pick<Embedded, 'secrets'>) => ({
  ROOT_DATABASE_URL: secrets.ROOT_DATABASE_URL,
  DATABASE_URL: secrets.DATABASE_URL,
  AUTH_DATABASE_URL: secrets.AUTH_DATABASE_URL,
  WORKER_DATABASE_URL: secrets.WORKER_DATABASE_URL,
})

/** Runs a command to its end, and answers what it said. */
async function run(name: string, env: Record<string, string>, ...args: string[]): Promise<string> {
  const running = command(name, env, args)
  const code = await running.exit
  return `${code}: ${running.output}`
}

async function asRoot({ secrets }: Pick<Embedded, 'secrets'>, database = 'assent'): Promise<pg.Client> {
  const url = Object.assign(new URL(secrets.ROOT_DATABASE_URL), { pathname: `/${database}` })
  const client = new pg.Client(url.href)
  client.on('error', () => {}) // It ends with PostgreSQL.
  await client.connect()
  opened.push(client)
  return client
}

/** Every row of every table, but of those which say how the database was made. */
async function rowsOf(client: pg.Client): Promise<Record<string, string[]>> {
  const { rows: tables } = await client.query(`
    select oid::regclass::text as name from pg_class
    where relkind in ('r', 'p') and not relispartition and relnamespace::regnamespace::text in ('app_public', 'app_private', 'graphile_worker')
      and oid <> all (array['app_private.applied_rules', 'graphile_worker.migrations']::regclass[])`)
  const all: Record<string, string[]> = {}
  for (const { name } of tables) {
    const { rows } = await client.query(`select to_jsonb(t)::text as row from ${name} t order by to_jsonb(t)::text collate "C"`)
    all[name] = rows.map(({ row }) => row)
  }
  return all
}

const dump = async (client: pg.Client) => {
  const results = (await client.query(await readFile('db/checks/dump.sql', 'utf8'))) as unknown as pg.QueryResult[]
  return results.at(-1)!.rows
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'assent-backup-'))
  await chmod(folder, 0o711) // PostgreSQL does not run as root.
  old = await startEmbedded({ dataDir: join(folder, 'old'), major: 15, settings: { fsync: 'off' } })
  servers.push(old)
  const env = environment(old)
  expect(await run('setup', env)).toMatch(/^0:/)
  expect(await run('migrate', env)).toMatch(/^0:/)
  const owner = new pg.Client(old.secrets.DATABASE_URL)
  await owner.connect()
  await owner.query(await readFile('db/demo.sql', 'utf8'))
  await owner.end()
  const root = await asRoot(old)
  await root.query(await readFile('db/demo-requests.sql', 'utf8'))
  // What a backup as text could get wrong.
  await root.query(`update app_public.roles set description = E'a\\tb\\\\c\\n\\\\.\\r\\u2028\\u0085"''🚀' where role = 'USER'`)
  await root.query(`select graphile_worker.add_job('send_mail', '{"n": 1}', run_at => now() + interval '1 day')`)
}, 90_000)

afterAll(async () => {
  for (const client of opened) await client.end()
  for (const server of servers) await server.stop()
  await rm(folder, { recursive: true })
})

const PNG = Buffer.from('89504e470d0a1a0a'.repeat(20_000), 'hex')

/** What somebody of the demo is answered by a server of their own on this database. */
async function withServer<T>(
  on: Embedded,
  work: (ask: (path: string, init?: RequestInit) => Promise<Response>) => Promise<T>,
): Promise<T> {
  const { AUTH_DATABASE_URL, JWT_SECRET } = on.secrets
  const server = command('server', { PORT: '0', AUTH_DATABASE_URL, JWT_SECRET })
  const url = `${await server.until(/(http:\/\/127\.0\.0\.1:\d+)/)}/api/v1`
  const json = { method: 'POST', headers: { 'content-type': 'application/json' } }
  const login = { email: 'user@assent.test', password: 'assent-demo-password' }
  const { access_token } = (await (await fetch(`${url}/auth/token/`, { ...json, body: JSON.stringify(login) })).json()) as any
  try {
    return await work((path, init) =>
      fetch(url + path, { ...init, headers: { ...init?.headers, authorization: `Bearer ${access_token}` } }),
    )
  } finally {
    await server.end('SIGTERM')
  }
}

/** Attaches a file, and answers with its path. */
const attach = (on: Embedded) =>
  withServer(on, async (ask) => {
    const headers = { 'content-type': 'application/json' }
    const request: any = await (await ask('/requests/', { method: 'POST', headers, body: '{"title":"Evidence"}' })).json()
    const body = new FormData()
    body.append('file', new Blob([PNG]), 'Beleg März.png')
    const attached: any = await (await ask(`/requests/${request.id}/attachments/`, { method: 'POST', body })).json()
    return `/attachments/${attached.id}/`
  })

test('a backup restores every row and every rule, on a newer PostgreSQL, and nobody stays logged in', async () => {
  const root = await asRoot(old)
  const evidence = await attach(old) // By a session that stays live.
  const [rows, schema] = [await rowsOf(root), await dump(root)]
  const file = join(folder, 'whole.gz')
  expect(await run('backup', environment(old), file)).toMatch(/^0:/)
  expect((await stat(file)).mode & 0o777).toBe(0o600)

  const server = await startEmbedded({ dataDir: join(folder, 'new'), settings: { fsync: 'off' } })
  servers.push(server)
  const env = environment(server)
  const said = await run('restore', env, file)
  expect(said).toMatch(/^0:/)
  expect(said).toContain(`${rows['app_public.requests']!.length} requests and ${rows['app_public.audit_logs']!.length} entries`)
  const restored = await asRoot(server)
  const { 'app_private.sessions': sessions, 'app_public.audit_logs': entries, ...others } = await rowsOf(restored)
  const { 'app_private.sessions': formerSessions, 'app_public.audit_logs': formerEntries, ...former } = rows
  expect(others).toEqual(former)
  expect(entries).toEqual(expect.arrayContaining(formerEntries!))
  expect(sessions).toHaveLength(formerSessions!.length)
  const { rows: live } = await restored.query('select from app_private.sessions where revoked_at is null and expires_at > now()')
  expect(live).toEqual([])
  const { rows: added } = await restored.query(
    `select action, count(*)::integer from app_public.audit_logs a where to_jsonb(a)::text <> all ($1) group by action`,
    [formerEntries],
  )
  expect(added).toEqual([{ action: 'SESSION_REVOKE', count: 1 }])

  expect(await dump(restored)).toEqual(schema)
  await expect(restored.query('delete from app_public.audit_logs')).rejects.toMatchObject({ code: 'RQ403' })
  const { rows: next } = await restored.query(`select id > (select max(id) - 1 from graphile_worker._private_jobs) as free
    from graphile_worker.add_job('send_mail')`)
  expect(next).toEqual([{ free: true }])

  expect(rows['app_private.file_chunks']).toHaveLength(3)
  const download = await withServer(server, (ask) => ask(evidence))
  expect(download.headers.get('content-disposition')).toContain(encodeURIComponent('Beleg März.png'))
  expect(Buffer.from(await download.arrayBuffer()).equals(PNG)).toBe(true)
}, 120_000)

test('a restore replaces nobody, fills no database in part, and leaves what npm start goes on with', async () => {
  const dataDir = join(folder, 'embedded')
  const env = { DATA_DIR: dataDir, PORT: '0' }
  expect(await run('backup', env, join(folder, 'none.gz'))).toContain(`There is no database in ${dataDir}.`)
  expect(existsSync(dataDir)).toBe(false)

  // A folder of another major version says which way leads on.
  expect(await run('start', { DATA_DIR: join(folder, 'old'), PORT: '0' })).toMatch(
    /^1: .*belongs to PostgreSQL 15, and this is 18\. .*npm run backup; .*npm run restore into another DATA_DIR\.\n$/,
  )

  const path = (name: string) => join(folder, name)
  const whole = path('another.gz')
  expect(await run('backup', environment(old), whole)).toMatch(/^0:/)
  expect(await run('restore', environment(old), whole)).toMatch(/^1: The database "assent" has people in it\./)
  const bytes = await readFile(whole)
  await writeFile(path('cut.gz'), bytes.subarray(0, bytes.length - 100))
  await writeFile(path('foreign.gz'), gzipSync('select 1;\n'))
  await writeFile(
    path('unmade.gz'),
    gzipSync(
      gunzipSync(bytes)
        .toString()
        .replace(/of migration \d+/, 'of migration 999999'),
    ),
  )
  // Whoever compresses half a script again does not make it whole.
  const lines = gunzipSync(bytes).toString().split('\n')
  const within = lines.findIndex((line) => line.startsWith('copy app_public.audit_logs')) + 5
  await writeFile(path('half.gz'), gzipSync(`${lines.slice(0, within).join('\n')}\n`))
  await writeFile(path('nearly.gz'), gzipSync(`${lines.slice(0, -4).join('\n')}\n`))
  expect(await run('restore', env)).toContain('Usage: npm run restore -- FILE')
  expect(await run('restore', env, path('absent.gz'))).toContain('cannot be read (ENOENT).')
  expect(await run('restore', env, path('foreign.gz'))).toContain('foreign.gz is no backup of Assent.')
  expect(await run('restore', env, path('unmade.gz'))).toContain('There is no migration 999999 here: use a newer version')
  expect(await run('restore', env, path('cut.gz'))).toContain('cut.gz is no whole backup of Assent.')
  expect(await run('restore', env, path('half.gz'))).toContain('The backup ends within a table: it is not whole.')
  expect(await run('restore', env, path('nearly.gz'))).toContain('The backup ends before its end: it is not whole.')

  // Killed at any moment, it can be run again.
  const killed = command('restore', env, [whole])
  await killed.until(/Running migration '000010/)
  await sleep(300)
  await killed.end('SIGKILL')
  const left = await joinEmbedded(dataDir)
  const { rows: databases } = await (await asRoot(left, 'postgres')).query(`select from pg_database where datname = 'assent'`)
  expect(databases).toEqual([])
  await left.stop()
  expect(await run('restore', env, whole)).toMatch(/^0:/)

  const running = command('start', env)
  const url = await running.until(/GraphQL +(http:\S+)\/graphql[^]*psql/)
  const response = await fetch(`${url}/api/v1/auth/token/`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ email: 'user@assent.test', password: 'assent-demo-password' }),
  })
  expect(response.status).toBe(200)
  const again = path('again.gz')
  expect(await run('backup', env, again)).toMatch(/^0:/)
  expect(await running.end('SIGTERM')).toBe(0)
  const linesOf = async (file: string) =>
    gunzipSync(await readFile(file))
      .toString()
      .split('\n').length
  expect(await linesOf(again)).toBeGreaterThan(await linesOf(whole))
}, 120_000)

test('a backup that is killed, cut off or has nowhere to go leaves no file that could be taken for one, and says why', async () => {
  const file = join(folder, 'killed.gz')
  const root = await asRoot(old)
  const holdUp = () => root.query('begin; lock table app_public.users in access exclusive mode')
  await holdUp()
  const observer = await asRoot(old) // Within a transaction, it would see the same activity again and again.
  const isWaiting = async () =>
    (await observer.query(`select from pg_stat_activity where wait_event_type = 'Lock' and query like 'copy %'`)).rowCount
  const killed = command('backup', environment(old), [file])
  while (!(await isWaiting())) await sleep(50)
  await killed.end('SIGKILL')
  await root.query('rollback')
  await holdUp() // and with it, wait for the end of that backup's session

  // The connection is lost, which is no fault of the file.
  const ends: Socket[] = []
  const between = createServer((socket) => {
    const to = connect(root.port, root.host)
    socket.pipe(to).pipe(socket)
    for (const end of [socket, to]) end.on('error', () => {})
    ends.push(socket)
  }).listen(0, '127.0.0.1')
  await once(between, 'listening')
  const { port } = between.address() as AddressInfo
  const moved = Object.entries(environment(old)).map(([name, url]) => [name, url.replace(`:${root.port}/`, `:${port}/`)])
  const cut = command('backup', Object.fromEntries(moved), [file])
  while (!(await isWaiting())) await sleep(50)
  for (const end of ends) end.resetAndDestroy()
  expect([await cut.exit, cut.output]).toEqual([1, 'read ECONNRESET\n'])
  between.close()

  await root.query('rollback')
  expect((await readdir(folder)).filter((name) => name.startsWith('killed.gz'))).toEqual([`killed.gz.${killed.child.pid}`])
  expect(await run('backup', environment(old), join(folder, 'no/such/folder'))).toMatch(/^1: .*cannot be written \(ENOENT\)\.\n$/)
}, 60_000)
