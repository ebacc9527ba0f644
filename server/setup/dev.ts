import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { watch } from 'node:fs'
import { join } from 'node:path'
import { environmentWith, type Config } from '../config.ts'
import { accessNotes, openDatabase, prepareDatabase, type Database } from './database.ts'
import { runUntil, type Service } from '../run-until.ts'
import type { Logger } from '../logger.ts'
import { applyCurrent } from './migrate.ts'
import { assertPortIsFree } from './preflight.ts'

const project = join(import.meta.dirname, '../..')

/**
 * Does what `start` does, and applies migrations/current.sql as well. It applies every change of SQL, and restarts the API at every
 * change of any file.
 */
export async function dev(config: Config, log: Logger, signal: AbortSignal): Promise<void> {
  await assertPortIsFree(config)
  let database: Database
  await runUntil(signal, log, [
    async () => (database = await openDatabase(config)),
    () => prepareDatabase(database, log, applyCurrent),
    async () => console.log(await accessNotes(config, database)),
    async () => reload(database, log),
  ])
}

/** Runs the API and the jobs in a process of their own, as new as the files are. The database stays up meanwhile. */
function reload(database: Database, log: Logger): Service {
  let child = serve(database)
  let queue = Promise.resolve()
  let timer: NodeJS.Timeout | undefined
  let sql = false

  async function renew(): Promise<void> {
    if (sql) {
      sql = false
      await applyCurrent(database, log)
    }
    await end(child)
    child = serve(database)
  }

  const watchers = ['db', 'migrations', 'server'].map((folder) =>
    watch(join(project, folder), { recursive: true }, () => {
      sql ||= folder !== 'server'
      clearTimeout(timer)
      // An editor writes a file in several steps, and a checkout many files.
      timer = setTimeout(() => {
        queue = queue.then(renew).catch(() => log.warn('The change is not applied; the API runs on as it was.'))
      }, 200)
    }),
  )

  return {
    async close() {
      for (const watcher of watchers) watcher.close()
      clearTimeout(timer)
      await queue
      await end(child)
    },
  }
}

function serve({ databaseUrl, authDatabaseUrl, workerDatabaseUrl, jwtSecrets, metricsPort }: Database): ChildProcess {
  return spawn(process.execPath, [join(project, 'server/main.js'), 'start'], {
    stdio: 'inherit',
    env: environmentWith({
      ROOT_DATABASE_URL: undefined,
      DATABASE_URL: databaseUrl,
      AUTH_DATABASE_URL: authDatabaseUrl,
      WORKER_DATABASE_URL: workerDatabaseUrl,
      JWT_SECRET: jwtSecrets.join(','),
      METRICS_PORT: metricsPort?.toString(),
    }),
  })
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill()
  await once(child, 'exit')
}
