import { EventEmitter, once } from 'node:events'
import {
  Logger as WorkerLogger,
  parseCrontab,
  run,
  type Runner,
  type Task,
  type TaskList,
  type WorkerEvents,
} from 'graphile-worker'
import pRetry from 'p-retry'
import pg from 'pg'
import { Counter, type Registry } from 'prom-client'
import type { ConfigFor } from '../config.ts'
import { asError } from '../errors.ts'
import type { Service } from '../run-until.ts'
import { graphileLogFactory, type Logger } from '../logger.ts'
import { makeRegister } from '../metrics.ts'
import type { Report } from '../reports.ts'
import { makeMailer, MAILS_AT_ONCE } from './mail.ts'
import { ANSWER_WITHIN, KEEPALIVE, makePresence, RESCUE, type Presence } from './rescue.ts'
import { withSettings } from '../sql/connection.ts'
import { traceJob } from '../tracing.ts'
import { makeWatch } from '../sql/pool.ts'
import { crontab, mailTasks, promptTasks, webhookTasks } from './tasks.ts'

/** Milliseconds. When the worker closes, mails under way have `lastCall` to be accepted; those that are not may be sent twice. */
export const TIMES = { ...RESCUE, lastCall: 20_000 }

/** How many webhooks may fail to respond before deliveries to others have to wait for a timeout. */
const WEBHOOKS_AT_ONCE = 8

/**
 * Runs the jobs that SQL adds, until it is closed; it then finishes those under way first. Tasks that wait for an SMTP server or
 * for a webhook have workers of their own, so that they hold nothing else up. Whoever tracks errors hears by `report` of jobs that are
 * given up.
 */
export async function startWorker(
  config: ConfigFor<'worker'>,
  log: Logger,
  report: Report = () => {},
  times = TIMES,
): Promise<Service & { readonly register: Registry }> {
  const connectionString = withSettings(config.workerDatabaseUrl, ...KEEPALIVE)
  const logger = new WorkerLogger(graphileLogFactory(log))
  const pool = new pg.Pool({
    connectionString,
    max: 24,
    application_name: 'assent worker',
    connectionTimeoutMillis: ANSWER_WITHIN,
    keepAlive: true,
    // The default is two hours, for which graphile-worker would listen to a server that has vanished.
    keepAliveInitialDelayMillis: 10_000,
  })
  pool.on('error', (err) => log.warn({ err }, 'idle database connection lost'))
  // Whoever uses a connection gets its errors; but an error event without a listener would end the process.
  pool.on('connect', (client) => void client.on('error', () => {}))
  const { watch, cut } = makeWatch()
  watch(pool)
  const presence = await makePresence(connectionString, pool, log, times, cut)
  const mailer = makeMailer(config)
  const { rows } = await pool.query('select app_hidden.schema_version() as schema')
  const register = makeRegister(rows[0].schema, { jobs: pool })
  const attempts = new Counter({
    name: 'assent_job_attempts_total',
    help: 'Attempts at jobs, by task and how they ended: done or failed.',
    labelNames: ['task', 'result'],
    registers: [register],
  })

  const start = (taskList: TaskList, concurrency: number, cron = '') => {
    // Counters begin at 0, so that the first attempt is a rise.
    for (const task of Object.keys(taskList)) for (const result of ['done', 'failed']) attempts.inc({ task, result }, 0)
    return keepRunning(
      (events) => {
        events.on('job:complete', ({ job, error }) =>
          attempts.inc({ task: job.task_identifier, result: error ? 'failed' : 'done' }),
        )
        events.on('job:failed', ({ job, error }) => report(error, { task: job.task_identifier, job: job.id }))
        return run({
          pgPool: pool,
          logger,
          events,
          taskList: traced(taskList),
          concurrency,
          parsedCronItems: parseCrontab(cron),
          // The process handles signals itself: it has more to close than the worker, in a certain order.
          noHandleSignals: true,
          preset: {
            worker: {
              gracefulShutdownAbortTimeout: times.lastCall,
              // Without these, a job whose end cannot be recorded would end the process.
              completeJobBatchDelay: 0,
              failJobBatchDelay: 0,
            },
          },
        })
      },
      presence,
      log,
    )
  }
  const workers = [
    start(promptTasks, 2, crontab),
    start(mailTasks(mailer), MAILS_AT_ONCE),
    start(webhookTasks(config), WEBHOOKS_AT_ONCE),
  ]
  return {
    register,
    async close() {
      await Promise.all(workers.map((worker) => worker.close()))
      mailer.close()
      await presence.close()
      await pool.end()
    },
  }
}

/** The tasks, each attempt at which is traced. */
const traced = (tasks: TaskList): TaskList =>
  Object.fromEntries(
    Object.entries(tasks as Record<string, Task>).map(([name, task]): [string, Task] => [
      name,
      (payload, helpers) =>
        traceJob(helpers.job, (payload as { traceparent?: string }).traceparent, async () => task(payload, helpers)),
    ]),
  )

/**
 * Resolves when a worker cannot look for its first job. graphile-worker asks for the ids of its tasks once, and keeps the error if
 * that fails, as it does on a server that takes no writes yet: such a worker never finds a job.
 */
function neverBegins(events: WorkerEvents): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  let hasBegun = false
  events.once('job:start', () => (hasBegun = true))
  events.once('worker:getJob:empty', () => (hasBegun = true))
  events.on('worker:getJob:error', () => hasBegun || resolve())
  return promise
}

/** Restarts a worker whenever it ends by itself, as it does when the database fails while a job's end is being recorded. */
function keepRunning(start: (events: WorkerEvents) => Promise<Runner>, presence: Presence, log: Logger): Service {
  const closing = new AbortController()
  let runner: Runner | undefined

  async function runOnce(): Promise<void> {
    if (closing.signal.aborted) return
    const pools: string[] = []
    const events: WorkerEvents = new EventEmitter()
    events.on('pool:create', ({ workerPool: { id } }) => {
      pools.push(id)
      presence.announce(id)
    })
    const failed = once(events, 'pool:fatalError')
    const stillborn = neverBegins(events)
    try {
      const started = await start(events)
      runner = started
      if (closing.signal.aborted) await started.stop()
      // A worker that could not record a job's end takes no more jobs, but its promise may never settle.
      await Promise.race([started.promise, failed, stillborn.then(() => started.stop())])
    } finally {
      for (const id of pools) presence.withdraw(id)
    }
    if (!closing.signal.aborted) throw new Error('The worker has ended.')
  }

  const ended = pRetry(() => runOnce().catch(asError), {
    retries: Number.POSITIVE_INFINITY,
    minTimeout: 500,
    maxTimeout: 5_000,
    signal: closing.signal,
    onFailedAttempt: ({ error }) => log.warn({ err: error }, 'The worker is started again.'),
  }).catch((error: unknown) => {
    if (!closing.signal.aborted) throw error
  })
  return {
    async close() {
      closing.abort()
      runner?.stop().catch(() => {}) // It may have ended by itself.
      await ended
    },
  }
}
