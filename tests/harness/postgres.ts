import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import pino from 'pino'
import { startEmbedded, type Embedded } from '../../server/setup/embedded/postgres.ts'
import { applyCurrent } from '../../server/setup/migrate.ts'
import { setup } from '../../server/setup/roles.ts'

export interface Cluster {
  readonly secrets: Embedded['secrets']
  stop(): Promise<void>
}

const running: Cluster[] = []

/** Jest's global setup: a throw-away PostgreSQL of each version, with a migrated template to clone. */
export default async function (): Promise<void> {
  await Promise.all([start(18), start(15)])
}

async function start(major: 15 | 18): Promise<void> {
  if (process.env[`TEST_POSTGRES_${major}`]) return // drill.ts brings its own
  const cluster = await startCluster(major)
  running.push(cluster)
  // Read by database.ts in Jest's workers, which inherit the environment.
  process.env[`TEST_POSTGRES_${major}`] = JSON.stringify(cluster.secrets)
}

/** A throw-away PostgreSQL whose database is migrated and has the demo accounts. */
export async function startCluster(major: 15 | 18): Promise<Cluster> {
  const dataDir = await mkdtemp(join(tmpdir(), `assent-test-${major}-`))
  const settings = { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off', max_connections: '200' }
  const { secrets, stop } = await startEmbedded({ dataDir, major, settings })
  const { ROOT_DATABASE_URL, DATABASE_URL, AUTH_DATABASE_URL, AUDITOR_DATABASE_URL } = secrets
  await setup({
    rootDatabaseUrl: ROOT_DATABASE_URL,
    databaseUrl: DATABASE_URL,
    authDatabaseUrl: AUTH_DATABASE_URL,
    auditorDatabaseUrl: AUDITOR_DATABASE_URL,
  })
  await applyCurrent({ databaseUrl: DATABASE_URL, authDatabaseUrl: AUTH_DATABASE_URL }, pino({ level: 'warn' }))
  const owner = new pg.Client(DATABASE_URL)
  await owner.connect()
  await owner.query(await readFile('db/demo.sql', 'utf8'))
  await owner.end()
  return {
    secrets,
    async stop() {
      await stop()
      await rm(dataDir, { recursive: true, force: true })
    },
  }
}

/** Jest's global teardown. */
export async function stopAll(): Promise<void> {
  for (const cluster of running) await cluster.stop()
}
