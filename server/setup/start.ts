import { startServer } from '../server.ts'
import type { Config } from '../config.ts'
import { accessNotes, openDatabase, prepareDatabase, type Database } from './database.ts'
import { runUntil } from '../run-until.ts'
import type { Logger } from '../logger.ts'
import { migrate } from './migrate.ts'
import { assertPortIsFree, assertReplicas, assertServable, assertWorkable } from './preflight.ts'
import { startWorker } from '../jobs/worker.ts'
import type { Report } from '../reports.ts'

/** The whole product in this process, until `signal`: database, jobs and API. */
export async function start(config: Config, log: Logger, signal: AbortSignal, report?: Report): Promise<void> {
  await assertPortIsFree(config)
  let database: Database
  let api: Awaited<ReturnType<typeof startServer>>
  await runUntil(signal, log, [
    async () => (database = await openDatabase(config)),
    () => prepareDatabase(database, log, migrate),
    async () => {
      await assertWorkable(database.workerDatabaseUrl)
      return startWorker({ ...config, ...database }, log, report)
    },
    async () => {
      await assertServable(database.authDatabaseUrl)
      await assertReplicas({ ...config, ...database })
      return (api = await startServer({ ...config, ...database }, log, report))
    },
    async () => console.log(welcome(config, api) + (await accessNotes(config, database))),
  ])
}

function welcome({ production }: Config, { url, metricsUrl }: { url: string; metricsUrl?: string }): string {
  return [
    '',
    'Assent is ready. Ctrl-C stops it.',
    '',
    `  GraphQL   ${url}/graphql`,
    `  REST      ${url}/api/v1/docs/`,
    ...(production ? [] : [`  GraphiQL  ${url}/graphiql`]),
    `  Health    ${url}/healthz, ${url}/readyz`,
    ...(metricsUrl ? [`  Metrics   ${metricsUrl}`] : []),
    '',
  ].join('\n')
}
