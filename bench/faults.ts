import { availableParallelism, totalmem } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { MAILS_AT_ONCE } from '../server/jobs/mail.ts'
import { load } from '../tests/harness/load.ts'
import { startPair, type Database, type Pair } from '../tests/harness/pair.ts'
import { missingPackages, startPatroni, type Cluster } from '../tests/harness/patroni.ts'
import { startTopology, type Topology } from '../tests/harness/topology.ts'

// `npm run faults [pattern]`: starts what docker-compose.yml starts, as processes, and breaks its parts under load: eight callers by
// REST and GraphQL through nginx, one who subscribes, and a request of which 200 people are told by mail. It counts what fails,
// what is lost and what is done twice, and prints the table of docs/operations.md; with a pattern, only the rows that match it.

/** People who are told of a request. */
const RECIPIENTS = 200
/** Milliseconds that the SMTP server takes for each mail, so that some are on their way when something breaks. */
const SMTP_DELAY = 20
/** Calls of a row at least, and of one that restarts servers in turn. */
const CALLS = 1_000
const MANY_CALLS = 10_000

interface Fault<D extends Database> {
  readonly name: string
  readonly calls?: number
  /** Which answers callers may get. */
  readonly allowed: RegExp
  /** May calls fail that a proxy could send again, because it is the database that is away, or the proxy? */
  readonly failsAll?: boolean
  /** How many mails may come twice: those that a worker had under way when it died. */
  readonly mayComeTwice?: number
  /** What has to be there before it breaks. */
  prepare?(all: Topology<D>): Promise<void>
  /** Breaks something and mends it; how often, if not once. */
  run(all: Topology<D>, isEnough: () => boolean): Promise<number | void>
}

const NONE = /^$/
const UNAVAILABLE = /^503 UNAVAILABLE$/

const inTurn =
  (signal: NodeJS.Signals) =>
  async (all: Topology, isEnough: () => boolean): Promise<number> => {
    let times = 0
    while (!isEnough()) await all.restart(times++ % all.servers.length, signal)
    return times
  }

const onPair: Fault<Pair>[] = [
  { name: 'nothing', allowed: NONE, run: async () => 0 },
  { name: 'servers in turn, SIGTERM', calls: MANY_CALLS, allowed: NONE, run: inTurn('SIGTERM') },
  { name: 'servers in turn, kill -9', calls: MANY_CALLS, allowed: UNAVAILABLE, run: inTurn('SIGKILL') },
  {
    name: 'both workers, kill -9',
    allowed: NONE,
    mayComeTwice: 2 * MAILS_AT_ONCE,
    async run(all) {
      await all.killWorkers(2)
      await all.startWorkers()
    },
  },
  {
    name: 'one of two workers, kill -9',
    allowed: NONE,
    mayComeTwice: MAILS_AT_ONCE,
    async run(all) {
      await all.killWorkers(1)
      await sleep(1_000)
    },
  },
  {
    name: 'the SMTP server, away for 20 s',
    allowed: NONE,
    async run({ mailbox }) {
      await mailbox.close()
      await sleep(20_000)
      await mailbox.open()
    },
  },
  { name: 'nginx, reload', allowed: NONE, run: async (all) => void all.nginx.child.kill('SIGHUP') },
  { name: 'nginx, kill -9', allowed: /ECONN|socket hang up/, failsAll: true, run: (all) => all.restartNginx('SIGKILL') },
  {
    name: 'PostgreSQL, kill -9, restarted',
    allowed: UNAVAILABLE,
    failsAll: true,
    async run({ database }) {
      await database.killPrimary()
      await database.startPrimary()
    },
  },
  {
    name: 'the standby, away for 3 s without a farewell',
    allowed: NONE,
    async run({ database: { standby } }) {
      await standby.stop('immediate')
      await sleep(3_000)
      await standby.start()
    },
  },
  {
    name: 'a single name: the primary, kill -9; the name moves after 1 s, and the standby takes over 2 s later',
    allowed: UNAVAILABLE,
    failsAll: true,
    prepare: ({ database }) => database.addHeir(),
    async run({ database }) {
      await database.killPrimary()
      await sleep(1_000)
      await database.moveName()
      await sleep(2_000)
      await database.promoteHeir()
    },
  },
]

const onPatroni: Fault<Cluster>[] = [
  {
    name: 'Patroni: the machine of the primary, kill -9',
    allowed: UNAVAILABLE,
    failsAll: true,
    async run({ database }) {
      const { primary } = await database.roles()
      await database.kill(primary)
      await database.roles(primary)
      await database.start(primary)
    },
  },
  {
    name: 'Patroni: the machine of the synchronous standby, kill -9',
    allowed: UNAVAILABLE,
    failsAll: true,
    async run({ database }) {
      const { sync } = await database.roles()
      await database.kill(sync)
      await database.roles(sync)
      await database.start(sync)
    },
  },
  {
    name: 'Patroni: a planned switchover',
    allowed: UNAVAILABLE,
    failsAll: true,
    run: ({ database }) => database.switchOver(),
  },
]

const pattern = new RegExp(process.argv[2] ?? '')
const chosen = ({ name }: { name: string }) => pattern.test(name)
let failed = 0

async function drill<D extends Database>(all: Topology<D>, fault: Fault<D>): Promise<void> {
  const { name, calls = CALLS, allowed, failsAll, mayComeTwice = 0 } = fault
  const before = all.mailbox.arrived.length
  let times = 1
  let brokenAt = 0
  await fault.prepare?.(all)
  const result = await load(all, calls, async (count) => {
    while (all.mailbox.arrived.length < before + RECIPIENTS / 4) await sleep(5)
    brokenAt = Date.now()
    times = (await fault.run(all, () => count() >= calls)) ?? 1
  })
  const { failures, lost, twice, mails, disagreements } = result
  const repeatable = failures.filter(({ isRepeatable }) => isRepeatable)
  const seconds = Object.values(result.well).map((at) => (Math.max(0, at - brokenAt) / 1000).toFixed(1))
  const counted = `${failures.length} (${repeatable.length})`
  const cells = [name, times, result.calls, counted, `${lost} / ${twice}`, mails.all, `${mails.lost} / ${mails.twice}`]
  console.log(`| ${[...cells, seconds.join(' / ')].join(' | ')} |`)

  const unexpected = failures.filter(({ answer, isRepeatable }) => !allowed.test(answer) || (isRepeatable && !failsAll))
  for (const { kind, answer, line } of unexpected) console.log(`${kind}: ${answer} ${line ?? ''}`)
  if (disagreements) console.log(`The trail disagrees with ${disagreements} requests.`)
  const isBad = unexpected.length + lost + twice + mails.lost + disagreements > 0 || mails.twice > mayComeTwice
  if (isBad) failed++
}

async function drillAll<D extends Database>(
  faults: Fault<D>[],
  startDatabase: (folder: string, password: string) => Promise<D>,
): Promise<void> {
  if (!faults.some(chosen)) return
  const all = await startTopology(startDatabase)
  let closing: Promise<void> | undefined
  const close = () => (closing ??= all.close())
  // What has been started is out of reach of a Ctrl-C.
  const stop = () => void close().finally(() => process.exit(1))
  process.once('SIGINT', stop).once('SIGTERM', stop)
  try {
    await addManagers(all)
    all.mailbox.answer = async (at) => (at === 'DATA' ? sleep(SMTP_DELAY, undefined) : undefined)
    await all.startServers()
    for (const fault of faults.filter(chosen)) {
      await all.startWorkers()
      await drill(all, fault)
    }
  } finally {
    await close()
    process.off('SIGINT', stop).off('SIGTERM', stop)
  }
}

/** The demo has three people who can decide; with these, a request has so many recipients. */
async function addManagers(all: Topology): Promise<void> {
  await all.owner.query(
    `with people as (
       insert into app_public.users (name, role) select 'Manager ' || n, 'MANAGER' from generate_series(1, $1::integer) n returning id
     )
     insert into app_private.credentials (user_id, email, password_hash) select id, id || '@assent.test', 'none' from people`,
    [RECIPIENTS - 3],
  )
}

const missing = onPatroni.some(chosen) ? missingPackages() : []
if (missing.length) {
  console.error(`The rows of Patroni need Debian's packages: apt-get install --no-install-recommends ${missing.join(' ')}`)
  process.exit(1)
}
console.log(`${availableParallelism()} cores, ${Math.round(totalmem() / 1e9)} GB\n`)
console.log(
  '| what is killed, under load | times | calls | failed (repeatable) | writes lost / twice | mails | lost / twice | seconds until calls / live news / mails are well |',
)
console.log('|---|---:|---:|---:|---:|---:|---:|---:|')
await drillAll(onPair, startPair)
await drillAll(onPatroni, startPatroni)
console.log(failed ? `\n${failed} rows have faults that they must not have.` : '\nNothing was lost.')
process.exit(failed ? 1 : 0)
