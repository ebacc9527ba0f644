import { setTimeout as sleep } from 'node:timers/promises'
import type { Pool } from 'pg'
import { Counter, Gauge, Histogram, type Registry } from 'prom-client'
import { STATUS, type Code } from '../errors.ts'
import { OUTCOMES, type Outcome, type Replica } from '../sql/replicas.ts'

/** Milliseconds: Prometheus asks less often. */
const ASK_EVERY = 1_000
/** Milliseconds that an answer of the database may take. Without it, a scrape would hang with the database and say nothing. */
const PATIENCE = 2_000

const within = <T>(answer: Promise<T>): Promise<T | undefined> =>
  Promise.race([answer.catch(() => undefined), sleep(PATIENCE, undefined, { ref: false })])

interface Known {
  readonly subscribers: () => number
  readonly isReady: () => Promise<boolean>
  readonly replicas: readonly Replica[]
}

/** What Prometheus reads of the API beside what every process tells. Counters begin at 0, so that the first event is a rise. */
export function makeMetrics(register: Registry, pool: Pool, { subscribers, isReady, replicas }: Known) {
  const registers = [register]
  const requests = new Histogram({
    name: 'http_request_duration_seconds',
    help: 'Requests answered, by route and status.',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10],
    registers,
  })
  const errors = new Counter({ name: 'assent_errors_total', help: 'Errors answered, by code.', labelNames: ['code'], registers })
  for (const code of Object.keys(STATUS)) errors.inc({ code }, 0)
  const logins = new Counter({
    name: 'assent_logins_total',
    help: 'Logins by password: OK, or the code of the refusal.',
    labelNames: ['result'],
    registers,
  })
  for (const result of ['OK', 'UNAUTHENTICATED', 'TOO_MANY_ATTEMPTS']) logins.inc({ result }, 0)
  const searches = new Counter({
    name: 'assent_searches_stopped_total',
    help: 'Searches that took too long (slow), or were one too many of their person (busy).',
    labelNames: ['reason'],
    registers,
  })
  for (const reason of ['slow', 'busy']) searches.inc({ reason }, 0)
  new Gauge({
    name: 'assent_subscribers',
    help: 'Sockets and event streams that are connected for live news.',
    registers,
    collect() {
      this.set(subscribers())
    },
  })
  new Gauge({
    name: 'assent_ready',
    help: 'What /readyz says: 1 if this server can serve, 0 if the database does not let it or it is closing.',
    registers,
    async collect() {
      this.set((await within(isReady())) ? 1 : 0)
    },
  })
  const reads = new Counter({
    name: 'assent_replica_reads_total',
    help: 'Reads by outcome: answered by a replica; or by the primary, as a replica was late, it failed, or none was ready.',
    labelNames: ['outcome'],
    registers,
  })
  for (const outcome of OUTCOMES) reads.inc({ outcome }, 0)
  new Gauge({
    name: 'assent_replica_ready',
    help: 'Whether each replica is asked: 1, or 0 while it is late or away. No series: there are no replicas.',
    labelNames: ['replica'],
    registers,
    collect() {
      for (const { name, isReady } of replicas) this.set({ replica: name }, isReady ? 1 : 0)
    },
  })
  new Gauge({
    name: 'assent_replica_lag_bytes',
    help: 'Bytes of the log of the primary that each replica has yet to replay. No series: it does not say.',
    labelNames: ['replica'],
    registers,
    async collect() {
      this.reset()
      const lags = await Promise.all(replicas.map(({ lag }) => within(lag())))
      for (const [n, { name }] of replicas.entries()) if (lags[n] !== undefined) this.set({ replica: name }, lags[n])
    },
  })

  /** If the database does not answer, the last answer is reported, so that an alert does not clear by itself. */
  function askDatabase(name: string, help: string, labelNames: string[], statement: string): void {
    let askedAt = 0
    new Gauge({
      name,
      help,
      labelNames,
      registers,
      async collect() {
        if (Date.now() - askedAt < ASK_EVERY) return
        askedAt = Date.now()
        const answer = await within(pool.query(statement))
        if (!answer) return
        this.reset()
        for (const { value, ...labels } of answer.rows) this.set(labels, value)
      },
    })
  }
  askDatabase(
    'assent_jobs',
    'Jobs by task and state: waiting, scheduled, running, failing (to be tried again), given up; and mails refused for good.',
    ['task', 'state'],
    'select task, state, count::integer as value from app_hidden.count_jobs()',
  )
  askDatabase(
    'assent_queue_age_seconds',
    'For how long the oldest job of each task is due that no worker has taken. No series: none is due.',
    ['task'],
    'select task, seconds as value from app_hidden.queue_ages()',
  )

  return {
    error: (code: Code) => errors.inc({ code }),
    login: (result: 'OK' | Code) => logins.inc({ result }),
    read: (outcome: Outcome) => reads.inc({ outcome }),
    searchStopped: (reason: 'slow' | 'busy') => searches.inc({ reason }),
    /** `route` as it is declared, without the values that callers put in it: it has few values. */
    request: (method: string, route: string, status: number, seconds: number) =>
      requests.observe({ method, route, status }, seconds),
  }
}
