/**
 * The project's benchmark: what GraphQL and REST cost over the same SQL.
 *
 *   npm run bench                 two seconds a round, three rounds
 *   npm run bench -- --seconds 5 --rounds 5
 *
 * Each operation runs by turns as plain SQL from a client (pgbench where the machine has it, else `pg`), over GraphQL and
 * over REST, on 10,000 requests, with durable commits. The SQL has the same identity set-up, transaction and columns. Read the
 * ratios, and the CPU time per call: calls per second are this machine's, and the client shares its cores.
 */
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, readdirSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { Agent, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs, promisify } from 'node:util'
import pg from 'pg'
import pino from 'pino'
import { startEmbedded } from '../server/embedded.ts'
import { applyCurrent } from '../server/migrate.ts'
import { setup } from '../server/setup.ts'

const { values: options } = parseArgs({
  options: {
    seconds: { type: 'string', default: '2' },
    rounds: { type: 'string', default: '3' },
    clients: { type: 'string', default: '4' },
  },
})
const SECONDS = Number(options.seconds)
const ROUNDS = Number(options.rounds)
const CLIENTS = Number(options.clients)
const REQUESTS = 10_000
const SAMPLE = 50
const PORT = 5699

const IDENTIFY = (session: string) =>
  `select set_config('assent.session', '${session}', true), set_config('assent.ip', '127.0.0.1', true),
    set_config('role', app_hidden.authenticate('${session}'), true);`

interface Sessions {
  user: string
  manager: string
}
/** A statement of one transaction, and who runs it; `$id` is the row in question, or the id that the first one gave. */
type Step = { as: keyof Sessions; sql: string; graphql: string; rest: [method: string, path: string, body?: object] }
type Operation = { name: string; sampled: boolean; steps: Step[] }

const ROW = `r.id, r.title, r.description, r.status, r.version, r.created_at`
const FIELDS = 'id title description status version createdAt'
const LAPTOP = { title: 'A laptop', description: 'The old one is broken' }

const operations: Operation[] = [
  {
    name: 'read one',
    sampled: true,
    steps: [
      {
        as: 'user',
        sql: `select ${ROW}, u.id, u.name, app_public.requests_available_actions(r)
        from app_public.requests r left join app_public.users u on u.id = r.creator_id where r.id = '$id';`,
        graphql: `query($id: UUID!) { request(id: $id) { ${FIELDS} creator { id name } availableActions } }`,
        rest: ['GET', '/requests/$id/'],
      },
    ],
  },
  {
    name: 'list of 20',
    sampled: false,
    steps: [
      {
        as: 'manager',
        sql: `select ${ROW}, u.id, u.name, app_public.requests_available_actions(r) from app_public.requests r left join app_public.users u on u.id = r.creator_id
        where not r.is_deleted order by r.created_at desc, r.id limit 20;`,
        graphql: `{ requests { nodes { ${FIELDS} creator { id name } availableActions } } }`,
        rest: ['GET', '/requests/'],
      },
    ],
  },
  {
    name: 'create',
    sampled: false,
    steps: [
      {
        as: 'user',
        sql: `select ${ROW} from app_public.create_request('A laptop', 'The old one is broken') r;`,
        graphql: `mutation { createRequest(input: { title: "A laptop", description: "The old one is broken" }) { request { ${FIELDS} } } }`,
        rest: ['POST', '/requests/', LAPTOP],
      },
    ],
  },
  {
    name: 'create, submit, approve',
    sampled: false,
    steps: [
      {
        as: 'user',
        sql: `select r.id from app_public.create_request('A laptop', 'The old one is broken') r`,
        graphql: `mutation { createRequest(input: { title: "A laptop", description: "The old one is broken" }) { request { id } } }`,
        rest: ['POST', '/requests/', LAPTOP],
      },
      {
        as: 'user',
        sql: `select r.id, r.status, r.version from app_public.submit_request('$id') r;`,
        graphql: `mutation($id: UUID!) { submitRequest(input: { requestId: $id }) { request { id status version } } }`,
        rest: ['POST', '/requests/$id/submit/'],
      },
      {
        as: 'manager',
        sql: `select r.id, r.status, r.version from app_public.approve_request('$id', 'Fine') r;`,
        graphql: `mutation($id: UUID!) { approveRequest(input: { requestId: $id, comment: "Fine" }) { request { id status version } } }`,
        rest: ['POST', '/requests/$id/approve/', { comment: 'Fine' }],
      },
    ],
  },
]

/** A way to run operations: gives the number of calls in one round. */
type Door = { name: string; run(operation: Operation): Promise<number>; close(): Promise<void> }

/** As many callers as clients, each calling again as soon as it is answered. */
async function keepBusy(call: (client: number) => Promise<void>): Promise<number> {
  const end = Date.now() + SECONDS * 1000
  let calls = 0
  await Promise.all(
    Array.from({ length: CLIENTS }, async (_, client) => {
      for (; Date.now() < end; calls++) await call(client)
    }),
  )
  return calls
}

/** One of the sampled ids, in turn. */
const pick = (ids: string[], n: number) => ids[n % ids.length]!

/** One call of the API, on a connection that stays; answers the JSON. */
function makeCall(tokens: Record<keyof Sessions, string[]>) {
  const agent = new Agent({ keepAlive: true, maxSockets: CLIENTS })
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

/** A door of the server's: `step` takes one step of an operation, and answers the request's id. */
function door(name: string, ids: string[], step: (step: Step, id?: string) => Promise<string>, close: Door['close']): Door {
  let n = 0
  return {
    name,
    run: ({ sampled, steps }) =>
      keepBusy(async () => {
        let id = sampled ? pick(ids, n++) : undefined
        for (const each of steps) id = await step(each, id)
      }),
    close,
  }
}

function graphqlDoor(tokens: Record<keyof Sessions, string[]>, ids: string[]): Door {
  const { call, close } = makeCall(tokens)
  const step = async ({ as, graphql: query }: Step, id?: string) => {
    const { data } = await call(as, 'POST', '/graphql', { query, variables: id ? { id } : {} })
    const [payload] = Object.values<any>(data)
    return payload.request?.id
  }
  return door('graphql', ids, step, close)
}

function restDoor(tokens: Record<keyof Sessions, string[]>, ids: string[]): Door {
  const { call, close } = makeCall(tokens)
  const step = async ({ as, rest: [method, path, body] }: Step, id?: string) => {
    const answer = await call(as, method, `/api/v1${path.replace('$id', id ?? '')}`, body)
    return answer['id']
  }
  return door('rest', ids, step, close)
}

function pgDoor(url: string, sessions: Sessions, ids: string[]): Door {
  const pool = new pg.Pool({ connectionString: url, max: CLIENTS, options: '-c jit=off' })
  let n = 0
  return {
    name: 'sql (pg)',
    run: ({ name, sampled, steps }) =>
      keepBusy(async () => {
        let id = sampled ? pick(ids, n++) : undefined
        const client = await pool.connect()
        for (const [i, { as, sql }] of steps.entries()) {
          await client.query('begin')
          await client.query({ name: `identify-${as}`, text: IDENTIFY(sessions[as]) })
          const { rows } = await client.query({ name: `${name}-${i}`, text: sql.replace(`'$id'`, '$1'), values: id ? [id] : [] })
          await client.query('commit')
          id ??= rows[0].id
        }
        client.release()
      }),
    close: () => pool.end(),
  }
}

/** pgbench, with a script for each sampled id and prepared statements. */
async function pgbenchDoor(url: string, sessions: Sessions, ids: string[], folder: string): Promise<Door> {
  return {
    name: 'sql (pgbench)',
    async run({ sampled, steps }) {
      const files = await Promise.all(
        (sampled ? ids : ['']).map(async (id, i) => {
          const script = steps
            .map(({ as, sql }, step) => {
              // The first statement of several tells its id to those that follow.
              const chained =
                steps.length > 1 && step === 0
                  ? `${sql} \\gset`
                  : sql.replace(`'$id'`, id ? `'${id}'` : `':id'`.replaceAll(`'`, ''))
              return `begin;\n${IDENTIFY(sessions[as])}\n${chained}\ncommit;\n`
            })
            .join('')
            .replace(/\n\s+/g, ' ')
          const file = join(folder, `${i}.sql`)
          await writeFile(file, script)
          return ['-f', file]
        }),
      )
      const { stdout } = await promisify(execFile)(
        'pgbench',
        ['-n', '-M', 'prepared', '-c', String(CLIENTS), '-j', '1', '-T', String(SECONDS), ...files.flat(), url],
        { env: { ...process.env, PGOPTIONS: '-c jit=off' } },
      )
      return Number(/transactions actually processed: (\d+)/.exec(stdout)![1])
    },
    close: async () => {},
  }
}

/** CPU seconds that a process has used, with those of its children that have ended; Linux only. */
function cpuSeconds(pid: number): number {
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
const databaseCpu = (postmaster: number) => [postmaster, ...children(postmaster)].reduce((sum, pid) => sum + cpuSeconds(pid), 0)

const median = (values: number[]) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)]!

async function seed(ownerUrl: string, authUrl: string): Promise<{ sessions: Sessions; ids: string[] }> {
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
  await caller.query(`begin; ${IDENTIFY(sessions.user)}`)
  await caller.query(`do $$ begin for n in 1..${REQUESTS} loop
    perform app_public.submit_request(r.id) from app_public.create_request('Request ' || n, repeat('why ', 50)) r;
  end loop; end $$`)
  await caller.query('commit')
  const { rows } = await owner.query(`select id from app_public.requests order by random() limit ${SAMPLE}`)
  await caller.end()
  await owner.query('analyze')
  await owner.end()
  return { sessions, ids: rows.map(({ id }) => id) }
}

const hasPgbench = await promisify(execFile)('pgbench', ['--version']).then(
  () => true,
  () => false,
)
const dataDir = await mkdtemp(join(tmpdir(), 'assent-bench-'))
const postgres = await startEmbedded({ dataDir })
const { DATABASE_URL, AUTH_DATABASE_URL, ROOT_DATABASE_URL, JWT_SECRET } = postgres.secrets
await setup({ rootDatabaseUrl: ROOT_DATABASE_URL, databaseUrl: DATABASE_URL, authDatabaseUrl: AUTH_DATABASE_URL })
await applyCurrent({ databaseUrl: DATABASE_URL, authDatabaseUrl: AUTH_DATABASE_URL }, pino({ level: 'warn' }))
const { sessions, ids } = await seed(DATABASE_URL, AUTH_DATABASE_URL)

const server = spawn(process.execPath, ['--max-semi-space-size=4', 'server/main.js', 'server'], {
  stdio: 'inherit',
  env: { ...process.env, PORT: String(PORT), AUTH_DATABASE_URL, JWT_SECRET, NODE_ENV: 'production', LOG_LEVEL: 'warn' },
})
for (let tries = 0; tries < 100; tries++) {
  if (
    await fetch(`http://127.0.0.1:${PORT}/readyz`).then(
      (res) => res.ok,
      () => false,
    )
  )
    break
  await sleep(100)
}
const { makeTokens } = await import('../server/identity.ts')
const { sign } = makeTokens([JWT_SECRET])
// As of many callers: each has an allowance of its own.
const manyOf = (session: string) => Array.from({ length: 1000 }, (_, n) => sign(session, `caller ${n}`).token)
const tokens = { user: manyOf(sessions.user), manager: manyOf(sessions.manager) }
const postmaster = Number(readFileSync(join(dataDir, 'postgres/postmaster.pid'), 'utf8').split('\n')[0])

const sql = hasPgbench ? await pgbenchDoor(AUTH_DATABASE_URL, sessions, ids, dataDir) : pgDoor(AUTH_DATABASE_URL, sessions, ids)
const doors = [sql, graphqlDoor(tokens, ids), restDoor(tokens, ids)]

console.log(`${REQUESTS} requests, ${CLIENTS} clients, ${ROUNDS} rounds of ${SECONDS} s each; medians\n`)
console.log('operation                | door          |  calls/s | ratio | CPU µs a call: server | database')
console.log('-------------------------|---------------|---------:|------:|----------------------:|---------:')
for (const operation of operations) {
  const results = new Map<Door, { rate: number; server: number; database: number }[]>(doors.map((door) => [door, []]))
  for (let round = -1; round < ROUNDS; round++) {
    for (const [door, rounds] of results) {
      const before = { server: cpuSeconds(server.pid!), database: databaseCpu(postmaster) }
      const calls = await door.run(operation)
      await sleep(50)
      const used = (now: number, then: number) => ((now - then) * 1e6) / calls
      // The first round of each is for warming up.
      if (round >= 0)
        rounds.push({
          rate: calls / SECONDS,
          server: used(cpuSeconds(server.pid!), before.server),
          database: used(databaseCpu(postmaster), before.database),
        })
    }
  }
  for (const [door, rounds] of results) {
    const ratio = median(rounds.map(({ rate }, i) => results.get(sql)![i]!.rate / rate))
    const figure = (key: 'rate' | 'server' | 'database', width: number) =>
      median(rounds.map((r) => r[key]))
        .toFixed(0)
        .padStart(width)
    console.log(
      [
        operation.name.padEnd(24),
        ` ${door.name.padEnd(14)}`,
        ` ${figure('rate', 8)} `,
        ` ${(door === sql ? '1' : ratio.toFixed(1)).padStart(5)} `,
        ` ${figure('server', 21)} `,
        ` ${figure('database', 8)}`,
      ].join('|'),
    )
  }
}
const memory = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${server.pid}/status`, 'utf8'))
if (memory) console.log(`\nServer memory afterwards: ${(Number(memory[1]) / 1024).toFixed(0)} MB`)

await Promise.all(doors.map((door) => door.close()))
server.kill('SIGTERM')
await once(server, 'exit')
await postgres.stop()
await rm(dataDir, { recursive: true, force: true })
process.exit()
