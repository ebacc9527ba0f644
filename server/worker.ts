import { Logger as WorkerLogger, run, runMigrations } from 'graphile-worker'
import pg from 'pg'
import { graphileLogFactory, type Logger } from './logger.ts'
import { tasks } from './tasks/index.ts'

/** Runs the jobs that SQL adds, until it is closed; then those under way are finished first. */
export async function startWorker({ databaseUrl }: { databaseUrl: string }, log: Logger): Promise<{ close(): Promise<void> }> {
  const logger = new WorkerLogger(graphileLogFactory(log))
  await runMigrations({ connectionString: databaseUrl, logger })
  const presence = await announce(databaseUrl, log)
  const runner = await run({
    connectionString: databaseUrl,
    logger,
    taskList: tasks,
    parsedCronItems: [],
    concurrency: 4,
    // The process has more to end than the worker, and in an order.
    noHandleSignals: true,
  })
  // It retries by itself while the database is away, so an end that nobody asked for is a defect: let it end the process.
  runner.promise.catch((error) => {
    log.fatal(error, 'The worker failed.')
    process.exitCode = 1
    process.kill(process.pid, 'SIGTERM')
  })
  return {
    async close() {
      await runner.stop()
      await presence.end()
    },
  }
}

/**
 * Keeps a lock for as long as this worker lives. Who finds itself the only one frees the jobs of workers that were
 * killed; they would stay locked for four hours.
 */
async function announce(databaseUrl: string, log: Logger): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: databaseUrl, keepAlive: true })
  client.on('error', (error) => log.warn(error, 'The worker lost a connection.'))
  await client.connect()
  const { rows } = await client.query('select pg_try_advisory_lock(7277539) as alone')
  if (rows[0].alone) {
    await client.query(`
      select graphile_worker.force_unlock_workers(array(
        select locked_by from graphile_worker.jobs where locked_by is not null))`)
  }
  await client.query('select pg_advisory_lock_shared(7277539)')
  if (rows[0].alone) await client.query('select pg_advisory_unlock(7277539)')
  return client
}
