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
  /** The database whose passwords are hashed at the lowest cost. */
  readonly quick: string
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
  process.env[`TEST_POSTGRES_${major}`] = JSON.stringify({ ...cluster.secrets, QUICK: cluster.quick })
}

/** A throw-away PostgreSQL whose databases, one as it is and one that hashes quickly, are migrated and have the demo accounts. */
export async function startCluster(major: 15 | 18): Promise<Cluster> {
  const dataDir = await mkdtemp(join(tmpdir(), `assent-test-${major}-`))
  const settings = { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off', max_connections: '200' }
  const { secrets, stop } = await startEmbedded({ dataDir, major, settings })
  const { ROOT_DATABASE_URL, DATABASE_URL, AUTH_DATABASE_URL, WORKER_DATABASE_URL, AUDITOR_DATABASE_URL } = secrets
  await setup({
    rootDatabaseUrl: ROOT_DATABASE_URL,
    databaseUrl: DATABASE_URL,
    authDatabaseUrl: AUTH_DATABASE_URL,
    workerDatabaseUrl: WORKER_DATABASE_URL,
    auditorDatabaseUrl: AUDITOR_DATABASE_URL,
  })
  await applyCurrent({ databaseUrl: DATABASE_URL, authDatabaseUrl: AUTH_DATABASE_URL }, pino({ level: 'warn' }))
  const quick = 'assent_quick'
  await query(ROOT_DATABASE_URL, `create database ${quick} template assent owner assent_owner`)
  const quickUrl = Object.assign(new URL(DATABASE_URL), { pathname: `/${quick}` }).toString()
  await query(quickUrl, HASH_QUICKLY)
  for (const url of [DATABASE_URL, quickUrl]) await query(url, await readFile('db/demo.sql', 'utf8'))
  return {
    quick,
    secrets,
    async stop() {
      await stop()
      await rm(dataDir, { recursive: true, force: true })
    },
  }
}

/** A hash of cost 10 takes a tenth of a second, and the tests make hundreds: of cost 4, they take nothing. */
const HASH_QUICKLY = `do $$
  declare
    definition text := pg_get_functiondef('app_private.hash_password(text)'::regprocedure);
  begin
    if definition not like '%gen_salt(''bf'', 10)%' then
      raise exception 'The cost of a hash is not where it was: bring tests/harness/postgres.ts up to date.';
    end if;
    execute replace(definition, 'gen_salt(''bf'', 10)', 'gen_salt(''bf'', 4)');
  end $$`

async function query(url: string, text: string): Promise<void> {
  const client = new pg.Client(url)
  await client.connect()
  await client.query(text).finally(() => client.end())
}

/** Jest's global teardown. */
export async function stopAll(): Promise<void> {
  for (const cluster of running) await cluster.stop()
}
