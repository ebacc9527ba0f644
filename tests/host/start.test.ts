import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseEnv } from 'node:util'
import pg from 'pg'
import { command, Running } from '../harness/process.ts'

const ready = /GraphQL +(http:\S+)\/graphql[^]*psql/
let dataDir: string
let env: Record<string, string>
const started: Running[] = []

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'assent-start-'))
  env = { DATA_DIR: dataDir, PORT: '0' }
})

afterAll(async () => {
  for (const { child } of started) if (child.exitCode === null) child.kill()
  await Promise.all(started.map(({ exit }) => exit))
  await rm(dataDir, { recursive: true, force: true })
})

function start(more: Record<string, string> = {}): Running {
  const running = command('start', { ...env, ...more })
  started.push(running)
  return running
}

async function secrets(): Promise<Record<string, string>> {
  return parseEnv(await readFile(join(dataDir, 'env'), 'utf8')) as Record<string, string>
}

async function query(text: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client((await secrets()).DATABASE_URL)
  await client.connect()
  const { rows } = await client.query(text).finally(() => client.end())
  return rows
}

const postgresRuns = () => existsSync(join(dataDir, 'postgres', 'postmaster.pid'))

// A first start is ready, tells the addresses and the demo logins, and ends. All tests begin on what it leaves.
beforeAll(async () => {
  // What a start leaves that was killed in the middle of it.
  await mkdir(join(dataDir, 'postgres.4194305/base'), { recursive: true })
  const running = start()
  const url = await running.until(ready)
  for (const path of ['/graphiql', '/healthz', '/readyz', '/api/v1/docs/']) {
    expect(running.output).toContain(url + path)
    expect((await fetch(url + path)).status).toBe(200)
  }
  const metricsUrl = `http://127.0.0.1:${(await secrets()).METRICS_PORT}/metrics`
  expect(running.output).toContain(metricsUrl)
  expect((await fetch(metricsUrl)).status).toBe(200)
  expect((await fetch(`${url}/metrics`)).status).toBe(404)
  for (const name of ['admin', 'manager', 'manager2', 'user', 'user2']) expect(running.output).toContain(`${name}@assent.test`)
  expect(running.output).toContain('assent-demo-password')
  expect((await readdir(dataDir)).sort()).toEqual(['env', 'postgres'])
  // The welcome is the last that is said, until it stops; a pipe gets log lines as JSON.
  const [before, after] = running.output.split(/^Assent is ready/m)
  expect(
    before!
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line).level),
  ).toContain(30)
  expect(after).not.toContain('{')
  expect(await running.end('SIGTERM')).toBe(0)
  expect(running.output).toMatch(/"msg":"Stopping …"\}\n$/)
  expect(postgresRuns()).toBe(false)
}, 60_000)

test('its secrets are only for the owner of the files, and of no use to guess', async () => {
  expect((await stat(join(dataDir, 'env'))).mode & 0o777).toBe(0o600)
  expect((await stat(join(dataDir, 'postgres'))).mode & 0o077).toBe(0)
  const { METRICS_PORT, ...values } = await secrets()
  expect(METRICS_PORT).toMatch(/^[1-9]\d{3,4}$/)
  expect(Object.keys(values).sort()).toEqual([
    'AUDITOR_DATABASE_URL',
    'AUTH_DATABASE_URL',
    'DATABASE_URL',
    'JWT_SECRET',
    'ROOT_DATABASE_URL',
    'WORKER_DATABASE_URL',
  ])
  const made = Object.values(values).map((value) => (URL.canParse(value) ? new URL(value).password : value))
  for (const secret of made) expect(secret).toMatch(/^[0-9a-f]{64}$/)
  expect(new Set(made).size).toBe(6)
  for (const { output } of started) for (const secret of made) expect(output).not.toContain(secret)
})

test('a folder that knows no login for the worker, nor a port for metrics, gets them at the next start', async () => {
  const { WORKER_DATABASE_URL: _, METRICS_PORT: __, ...old } = await secrets()
  await writeFile(
    join(dataDir, 'env'),
    Object.entries(old)
      .map(([name, value]) => `${name}=${value}\n`)
      .join(''),
  )
  const running = start()
  await running.until(ready)
  const { WORKER_DATABASE_URL, METRICS_PORT, ...others } = await secrets()
  expect((await fetch(`http://127.0.0.1:${METRICS_PORT}/metrics`)).status).toBe(200)
  expect(others).toEqual(old)
  const client = new pg.Client(WORKER_DATABASE_URL)
  await client.connect()
  expect((await client.query('select session_user as login')).rows).toEqual([{ login: 'assent_worker' }])
  await client.end()
  expect(await running.end('SIGTERM')).toBe(0)
}, 60_000)

test('after kill -9 the next start takes the same database over, with all that was committed', async () => {
  const killed = start()
  await killed.until(ready)
  await query('create table public.kept as select 1 as row')
  const { DATABASE_URL } = await secrets()
  await killed.end('SIGKILL')
  expect(postgresRuns()).toBe(true)

  const next = start()
  await next.until(ready)
  expect((await secrets()).DATABASE_URL).toBe(DATABASE_URL)
  expect(await query('select * from public.kept')).toEqual([{ row: 1 }])
  expect(await next.end('SIGINT')).toBe(0)
  expect(postgresRuns()).toBe(false)
}, 60_000)

test('a second start on the same data is refused, and does the first no harm', async () => {
  const first = start()
  const url = await first.until(ready)
  const second = start()
  expect(await second.exit).toBe(1)
  expect(second.output).toMatch(/^Another process already runs the database in \S+\. [^\n]+\n$/)
  expect((await fetch(`${url}/readyz`)).status).toBe(200)
  expect(await first.end('SIGTERM')).toBe(0)
}, 60_000)

test.each<[string, NodeJS.Signals, number]>([
  ['Ctrl-C in a terminal, twice', 'SIGINT', -1],
  ['SIGTERM to npm alone', 'SIGTERM', 1],
])(
  'npm start ends everything by %s',
  async (_name, signal, group) => {
    const npm = new Running('npm', ['start'], env)
    started.push(npm)
    await npm.until(ready)
    process.kill(group * npm.child.pid!, signal)
    await sleep(20)
    if (group < 0) process.kill(group * npm.child.pid!, signal)
    await npm.exit
    expect(postgresRuns()).toBe(false)
    expect(npm.output).not.toMatch(/"level":[456]0/)
    expect(npm.output.match(/"msg":"Stopping …"/g)).toHaveLength(1)
  },
  60_000,
)

test('in production there are no demo accounts, no GraphiQL, and none later either', async () => {
  const own = { DATA_DIR: await mkdtemp(join(tmpdir(), 'assent-start-')) }
  const production = start({ ...own, NODE_ENV: 'production' })
  const url = await production.until(ready)
  expect((await fetch(`${url}/graphiql`)).status).toBe(404)
  expect(production.output).not.toContain('graphiql')
  expect(await production.end('SIGTERM')).toBe(0)
  const later = start(own)
  await later.until(ready)
  expect(await later.end('SIGTERM')).toBe(0)
  for (const { output } of [production, later]) expect(output).not.toContain('@assent.test')
  await rm(own.DATA_DIR, { recursive: true })
}, 60_000)

test('psql is promised only where there is one', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'assent-start-'))
  const script = `
    const { accessNotes } = await import('./server/setup/database.ts')
    console.log(await accessNotes({ dataDir: '.data' }, { demoLogins: async () => [] }))`
  async function notes(): Promise<string> {
    const running = new Running(process.execPath, ['--input-type=module', '-e', script], { PATH: folder })
    expect(await running.exit).toBe(0)
    return running.output.trim()
  }
  expect(await notes()).toBe('psql      is not installed here; once it is, it finds its connection strings in .data/env')
  await writeFile(join(folder, 'psql'), '#!/bin/sh\n', { mode: 0o755 })
  expect(await notes()).toBe('psql      (set -a; . .data/env; psql "$DATABASE_URL")')
  await rm(folder, { recursive: true })
})

test('secrets that are gone are not silently replaced', async () => {
  const own = { DATA_DIR: await mkdtemp(join(tmpdir(), 'assent-start-')) }
  await mkdir(join(own.DATA_DIR, 'postgres'))
  await writeFile(join(own.DATA_DIR, 'postgres', 'PG_VERSION'), '18\n')
  const running = start(own)
  expect(await running.exit).toBe(1)
  expect(running.output).toContain(`${join(own.DATA_DIR, 'env')} is missing`)
  await rm(own.DATA_DIR, { recursive: true })
}, 60_000)

test('a wrong environment starts nothing', async () => {
  const running = start({ PORT: 'x', LOG_LEVEL: 'y' })
  expect(await running.exit).toBe(1)
  expect(running.output).toMatch(/^The environment is not usable:\n- PORT [^\n]+\n- LOG_LEVEL [^\n]+\n$/)
})
