/**
 * The project's benchmark: what GraphQL and REST cost over the same SQL.
 *
 *   npm run bench                 two seconds a round, three rounds
 *   npm run bench -- --seconds 5 --rounds 5
 *   npm run bench -- --replica    with a standby that the server reads from
 *
 * Each operation runs by turns as plain SQL from a client (pgbench where the machine has it, else `pg`), over GraphQL and
 * over REST, on 10,000 requests, with durable commits. The SQL has the same identity set-up, transaction and columns. Read the
 * ratios, and the CPU time per call: calls per second are this machine's, and the client shares its cores.
 */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs, promisify } from 'node:util'
import pg from 'pg'
import { cpuSeconds, databaseCpu, IDENTIFY, makeCall, median, openStage, pick, type Sessions, type Tokens } from './stage.ts'

const { values: options } = parseArgs({
  options: {
    seconds: { type: 'string', default: '2' },
    rounds: { type: 'string', default: '3' },
    clients: { type: 'string', default: '4' },
    replica: { type: 'boolean', default: false },
  },
})
const SECONDS = Number(options.seconds)
const ROUNDS = Number(options.rounds)
const CLIENTS = Number(options.clients)
const REQUESTS = 10_000

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

function graphqlDoor(tokens: Tokens, ids: string[]): Door {
  const { call, close } = makeCall(tokens, CLIENTS)
  const step = async ({ as, graphql: query }: Step, id?: string) => {
    const { data } = await call(as, 'POST', '/graphql', { query, variables: id ? { id } : {} })
    const [payload] = Object.values<any>(data)
    return payload.request?.id
  }
  return door('graphql', ids, step, close)
}

function restDoor(tokens: Tokens, ids: string[]): Door {
  const { call, close } = makeCall(tokens, CLIENTS)
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

const hasPgbench = await promisify(execFile)('pgbench', ['--version']).then(
  () => true,
  () => false,
)
const stage = await openStage(REQUESTS, [], options.replica)
const { sessions, tokens, ids, server, postmaster, follower } = stage
const sql = hasPgbench ? await pgbenchDoor(stage.urls.auth, sessions, ids, stage.dataDir) : pgDoor(stage.urls.auth, sessions, ids)
const doors = [sql, graphqlDoor(tokens, ids), restDoor(tokens, ids)]

console.log(`${REQUESTS} requests, ${CLIENTS} clients, ${ROUNDS} rounds of ${SECONDS} s each; medians\n`)
console.log('operation                | door          |  calls/s | ratio | CPU µs a call: server | database | standby')
console.log('-------------------------|---------------|---------:|------:|----------------------:|---------:|--------:')
for (const operation of operations) {
  const results = new Map<Door, { rate: number; server: number; database: number; standby: number }[]>(
    doors.map((door) => [door, []]),
  )
  for (let round = -1; round < ROUNDS; round++) {
    for (const [door, rounds] of results) {
      const cpu = () => ({
        server: cpuSeconds(server.pid!),
        database: databaseCpu(postmaster),
        standby: follower ? databaseCpu(follower) : 0,
      })
      const before = cpu()
      const calls = await door.run(operation)
      await sleep(50)
      const after = cpu()
      const used = (of: keyof typeof after) => ((after[of] - before[of]) * 1e6) / calls
      // The first round of each is for warming up.
      if (round >= 0)
        rounds.push({
          rate: calls / SECONDS,
          server: used('server'),
          database: used('database'),
          standby: used('standby'),
        })
    }
  }
  for (const [door, rounds] of results) {
    const ratio = median(rounds.map(({ rate }, i) => results.get(sql)![i]!.rate / rate))
    const figure = (key: 'rate' | 'server' | 'database' | 'standby', width: number) =>
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
        ` ${figure('database', 8)} `,
        ` ${figure('standby', 7)}`,
      ].join('|'),
    )
  }
}
const memory = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${server.pid}/status`, 'utf8'))
if (memory) console.log(`\nServer memory afterwards: ${(Number(memory[1]) / 1024).toFixed(0)} MB`)

await Promise.all(doors.map((door) => door.close()))
await stage.close()
process.exit()
