import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Config } from '../config.ts'
import type { Service } from '../run-until.ts'
import type { Logger } from '../logger.ts'
import { connected } from '../sql/connection.ts'
import type { Target } from './migrate.ts'
import { asRootOf } from './roles.ts'

/** The database that the product runs on, and the secrets that go with it. */
export type Database = Service & {
  rootDatabaseUrl?: string
  databaseUrl: string
  authDatabaseUrl: string
  workerDatabaseUrl: string
  auditorDatabaseUrl?: string
  jwtSecrets: string[]
  metricsPort?: number
  /** Loads the demo into a database that is meant to have it. */
  seed(): Promise<void>
  /** Says that it has its first rows, from wherever they came. */
  filled(): Promise<void>
  /** The demo accounts' addresses. */
  demoLogins(): Promise<string[]>
}

/** The database that the environment names, or else the embedded one. */
export async function openDatabase(config: Config): Promise<Database> {
  const { databaseUrl, authDatabaseUrl, workerDatabaseUrl } = config
  if (!databaseUrl || !authDatabaseUrl || !workerDatabaseUrl) return openEmbedded(config)
  const { rootDatabaseUrl, jwtSecrets, metricsPort } = config
  return {
    rootDatabaseUrl,
    databaseUrl,
    authDatabaseUrl,
    workerDatabaseUrl,
    jwtSecrets,
    metricsPort,
    seed: async () => {},
    filled: async () => {},
    demoLogins: async () => [],
    close: async () => {},
  }
}

async function openEmbedded({ dataDir, jwtSecrets, metricsPort, production, demo }: Config): Promise<Database> {
  const { startEmbedded } = await import('./embedded/postgres.ts')
  const { secrets, isNew, filled, stop } = await startEmbedded({ dataDir, metricsPort })
  const databaseUrl = secrets.DATABASE_URL
  return {
    rootDatabaseUrl: secrets.ROOT_DATABASE_URL,
    databaseUrl,
    authDatabaseUrl: secrets.AUTH_DATABASE_URL,
    workerDatabaseUrl: secrets.WORKER_DATABASE_URL,
    auditorDatabaseUrl: secrets.AUDITOR_DATABASE_URL,
    jwtSecrets: jwtSecrets.length ? jwtSecrets : [secrets.JWT_SECRET],
    metricsPort: Number(secrets.METRICS_PORT),
    async seed() {
      if (isNew && !production) {
        await runFile(databaseUrl, 'demo.sql')
        // This takes a superuser: nobody else can write entries of the past.
        if (demo) await runFile(asRootOf(databaseUrl, secrets.ROOT_DATABASE_URL), 'demo-requests.sql')
      }
      await filled()
    },
    filled,
    async demoLogins() {
      if (production) return []
      const { rows } = await query(
        databaseUrl,
        `select email from app_private.credentials where email like '%@assent.test' order by user_id`,
      )
      return rows.map((row) => row.email)
    },
    close: stop,
  }
}

/** A superuser's connection to the database that the environment names, or else to the embedded one, for as long as `use` takes. */
export async function withRoot<T>(
  { rootDatabaseUrl, databaseUrl, dataDir }: Config,
  use: (rootUrl: string) => Promise<T>,
): Promise<T> {
  if (rootDatabaseUrl && databaseUrl) return use(asRootOf(databaseUrl, rootDatabaseUrl))
  const { joinEmbedded } = await import('./embedded/postgres.ts')
  const { secrets, stop } = await joinEmbedded(dataDir)
  return use(asRootOf(secrets.DATABASE_URL, secrets.ROOT_DATABASE_URL)).finally(stop)
}

/** Brings roles, schema and first rows up to date; `apply` is migrate, or applyCurrent while developing. */
export async function prepareDatabase(
  { rootDatabaseUrl, ...database }: Database,
  log: Logger,
  apply: (target: Target, log: Logger) => Promise<void>,
): Promise<void> {
  if (rootDatabaseUrl) {
    const { setup } = await import('./roles.ts')
    await setup({ rootDatabaseUrl, ...database })
  }
  await apply(database, log)
  await database.seed()
}

/** How to get into an embedded database, from the API and from psql. */
export async function accessNotes({ dataDir, databaseUrl }: Config, database: Database): Promise<string> {
  const logins = await database.demoLogins()
  return [
    ...(logins.length
      ? ['', '  Demo logins, each with the password assent-demo-password:', ...logins.map((login) => `    ${login}`)]
      : []),
    ...(databaseUrl ? [] : ['', `  psql      ${await psqlNote(join(dataDir, 'env'))}`]),
    '',
  ].join('\n')
}

/** The embedded PostgreSQL brings no programs for people: what is said depends on what this machine has. */
async function psqlNote(file: string): Promise<string> {
  return promisify(execFile)('psql', ['--version']).then(
    () => `(set -a; . ${file}; psql "$DATABASE_URL")`,
    () => `is not installed here; once it is, it finds its connection strings in ${file}`,
  )
}

const query = (connectionString: string, text: string) => connected(connectionString, (client) => client.query(text))

async function runFile(connectionString: string, name: string): Promise<void> {
  await query(connectionString, await readFile(join(import.meta.dirname, '../../db', name), 'utf8'))
}
