import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { Agent, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import pino from 'pino'
import { startEmbedded } from '../server/setup/embedded/postgres.ts'
import { makeTokens } from '../server/http/tokens.ts'
import { applyCurrent } from '../server/setup/migrate.ts'
import { setup } from '../server/setup/roles.ts'
import { startStandby } from '../tests/harness/standby.ts'

export const PORT = 5699
const SAMPLE = 50

/** What a statement of a transaction's own begins with. */
export const IDENTIFY = (session: string) => `select app_hidden.become('${session}', '127.0.0.1');`

export interface Sessions {
  user: string
  manager: string
}
/** One of the sampled ids, in turn. */
export const pick = (ids: string[], n: number) => ids[n % ids.length]!

/** Bearer tokens of each person, of many callers: each has an allowance of its own. */
export type Tokens = Record<keyof Sessions, string[]>

/** One call of the API, on a connection that stays; answers the JSON. */
export function makeCall(tokens: Tokens, clients: number) {
  const agent = new Agent({ keepAlive: true, maxSockets: clients })
  let n = 0
  async function call(as: keyof Sessions, method: string, path: string, json?: object): Promise<Record<string, any>> {
    const body = json && JSON.stringify(json)
    const req = request({
      agent,
      port: PORT,
      path,
      method,
      headers: {
        ...(body && { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
        authorization: `Bearer ${pick(tokens[as], n++)}`,
      },
    })
    req.end(body)
    const [res] = await once(req, 'response')
    let text = ''
    for await (const chunk of res) text += chunk
    const answer = JSON.parse(text)
    if (res.statusCode >= 300 || answer.errors) throw new Error(text)
    return answer
  }
  return { call, close: async () => agent.destroy() }
}

/** CPU seconds that a process has used, with those of its children that have ended; Linux only. */
export function cpuSeconds(pid: number): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ').map(Number)
    return (fields[11]! + fields[12]! + fields[13]! + fields[14]!) / 100
  } catch {
    return 0
  }
}

function children(pid: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((child) => {
      try {
        return readFileSync(`/proc/${child}/stat`, 'utf8').split(') ')[1]!.split(' ')[1] === String(pid)
      } catch {
        return false
      }
    })
}

/** CPU seconds of PostgreSQL: its main process, and all that it has started. */
export const databaseCpu = (postmaster: number) =>
  [postmaster, ...children(postmaster)].reduce((sum, pid) => sum + cpuSeconds(pid), 0)

export const median = (values: number[]) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)]!

async function seed(ownerUrl: string, authUrl: string, requests: number): Promise<{ sessions: Sessions; ids: string[] }> {
  const owner = new pg.Client(ownerUrl)
  await owner.connect()
  await owner.query(readFileSync('db/demo.sql', 'utf8'))
  const open = async (email: string) => {
    const { rows } = await owner.query(
      `with s as (select app_private.random_secret() as secret)
      insert into app_private.sessions (user_id, secret_hash, refresh_hash, expires_at)
      select user_id, app_private.hash_secret(secret), app_private.hash_secret(secret || 'r'), now() + interval '1 day'
      from s, app_private.credentials where email = $1 returning (select secret from s)`,
      [email],
    )
    return rows[0].secret as string
  }
  const sessions = { user: await open('user@assent.test'), manager: await open('manager@assent.test') }

  const caller = new pg.Client(authUrl)
  await caller.connect()
  await caller.query('set statement_timeout = 0') // This is one long statement.
  await caller.query(`begin; ${IDENTIFY(sessions.user)}`)
  await caller.query(`do $$ begin for n in 1..${requests} loop
    perform app_public.submit_request(r.id) from app_public.create_request('Request ' || n, repeat('why ', 50)) r;
  end loop; end $$`)
  await caller.query('commit')
  const { rows } = await owner.query(`select id from app_public.requests order by random() limit ${SAMPLE}`)
  await caller.end()
  // Nobody is told of them.
  await owner.query('delete from graphile_worker._private_jobs')
  await owner.query('analyze')
  await owner.end()
  return { sessions, ids: rows.map(({ id }) => id) }
}

const postmasterOf = (folder: string) => Number(readFileSync(join(folder, 'postmaster.pid'), 'utf8').split('\n')[0])

/** A standby that the server reads from. */
async function follow(dataDir: string, rootUrl: string, authUrl: string) {
  const root = new pg.Client(rootUrl)
  await root.connect()
  await root.query(`create role follower login replication password 'follows'`)
  const folder = join(dataDir, 'standby/postgres')
  const standby = await startStandby(root, join(dataDir, 'postgres'), folder, 'user=follower password=follows', {})
  await root.end()
  return { stop: () => standby.stop(), postmaster: postmasterOf(folder), env: { REPLICA_DATABASE_URL: standby.url(authUrl) } }
}

/** The product on a PostgreSQL of its own with durable commits and this many requests: the API in a process, and the people. */
export interface Stage {
  readonly dataDir: string
  readonly urls: { readonly owner: string; readonly auth: string; readonly worker: string }
  readonly sessions: Sessions
  readonly tokens: Tokens
  /** A sample of the requests. */
  readonly ids: string[]
  readonly server: ChildProcess
  readonly postmaster: number
  /** That of the standby, if there is one. */
  readonly follower?: number
  close(): Promise<void>
}

export async function openStage(requests: number, nodeOptions: string[] = [], withReplica = false): Promise<Stage> {
  const dataDir = await mkdtemp(join(tmpdir(), 'assent-bench-'))
  const postgres = await startEmbedded({ dataDir })
  const { DATABASE_URL, AUTH_DATABASE_URL, WORKER_DATABASE_URL, ROOT_DATABASE_URL, JWT_SECRET } = postgres.secrets
  await setup({
    rootDatabaseUrl: ROOT_DATABASE_URL,
    databaseUrl: DATABASE_URL,
    authDatabaseUrl: AUTH_DATABASE_URL,
    workerDatabaseUrl: WORKER_DATABASE_URL,
  })
  await applyCurrent({ databaseUrl: DATABASE_URL, authDatabaseUrl: AUTH_DATABASE_URL }, pino({ level: 'warn' }))
  const { sessions, ids } = await seed(DATABASE_URL, AUTH_DATABASE_URL, requests)
  const standby = withReplica ? await follow(dataDir, ROOT_DATABASE_URL, AUTH_DATABASE_URL) : undefined

  const server = spawn(process.execPath, ['--max-semi-space-size=4', ...nodeOptions, 'server/main.js', 'server'], {
    stdio: 'inherit',
    env: {
      ...process.env,
      PORT: String(PORT),
      AUTH_DATABASE_URL,
      JWT_SECRET,
      NODE_ENV: 'production',
      LOG_LEVEL: 'error',
      ...standby?.env,
    },
  })
  const isReady = () =>
    fetch(`http://127.0.0.1:${PORT}/readyz`).then(
      (res) => res.ok,
      () => false,
    )
  for (let tries = 0; tries < 100 && !(await isReady()); tries++) await sleep(100)

  const { sign } = makeTokens([JWT_SECRET])
  const manyOf = (session: string) => Array.from({ length: 1000 }, (_, n) => sign(session, `caller ${n}`).token)
  return {
    dataDir,
    urls: { owner: DATABASE_URL, auth: AUTH_DATABASE_URL, worker: WORKER_DATABASE_URL },
    sessions,
    tokens: { user: manyOf(sessions.user), manager: manyOf(sessions.manager) },
    ids,
    server,
    postmaster: postmasterOf(join(dataDir, 'postgres')),
    ...(standby && { follower: standby.postmaster }),
    async close() {
      server.kill('SIGTERM')
      await once(server, 'exit')
      await standby?.stop()
      await postgres.stop()
      await rm(dataDir, { recursive: true, force: true })
    },
  }
}
