import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import * as graphileMigrate from 'graphile-migrate'
import { clearAllPools } from 'graphile-migrate/dist/pg.js'
import { Logger as WorkerLogger, runMigrations } from 'graphile-worker'
import JSON5 from 'json5'
import pg from 'pg'
import { loginOf, StartError } from '../config.ts'
import { graphileLogFactory, type Logger } from '../logger.ts'

/** The database to migrate, as its owner, and the API's connection, whose role migrations grant to. */
export type Target = { databaseUrl: string; authDatabaseUrl?: string }

const project = join(import.meta.dirname, '../..')

/** Brings the schema up to the last committed migration. */
export async function migrate(target: Target, log: Logger): Promise<void> {
  await exclusively(target, log, (settings) => graphileMigrate.migrate(settings))
}

/** As `migrate`, and then migrations/current.sql: the schema as it is being developed. */
export async function applyCurrent(target: Target, log: Logger): Promise<void> {
  await exclusively(target, log, (settings) => graphileMigrate.current(settings))
}

type Settings = Parameters<typeof graphileMigrate.migrate>[0]

/** One migration at a time: graphile-migrate itself would fail where it can wait. */
async function exclusively(target: Target, log: Logger, work: (settings: Settings) => Promise<void>): Promise<void> {
  const client = new pg.Client({ connectionString: target.databaseUrl })
  await client.connect()
  try {
    await lock(client)
    await dropUnfinishedIndexes(client)
    await runMigrations({ connectionString: target.databaseUrl, logger: new WorkerLogger(graphileLogFactory(log)) })
    await work(await settingsFor(target, client, log))
  } finally {
    // It keeps its connections for a while, and ends the whole process should one be lost: do not let it.
    clearAllPools()
    await client.end()
  }
}

/**
 * Asks again and again: who waits within a statement holds a snapshot, which an index that the other one builds
 * concurrently would wait for in turn.
 */
async function lock(client: pg.Client): Promise<void> {
  for (;;) {
    const { rows } = await client.query('select pg_try_advisory_lock(7277538) as locked')
    if (rows[0].locked) return
    await sleep(200)
  }
}

/** An index whose building was interrupted is of no use, and in the way of the migration that builds it again. */
async function dropUnfinishedIndexes(client: pg.Client): Promise<void> {
  const { rows } = await client.query(`
    select format('%I.%I', n.nspname, c.relname) as name
    from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
    where not i.indisvalid and n.nspname in ('app_public', 'app_private')`)
  for (const { name } of rows) await client.query(`drop index concurrently ${name}`)
}

async function settingsFor({ databaseUrl, authDatabaseUrl }: Target, client: pg.Client, log: Logger): Promise<Settings> {
  const shared = JSON5.parse(await readFile(join(project, '.gmrc'), 'utf8'))
  const authenticator = authDatabaseUrl ? loginOf(authDatabaseUrl).user : await authenticatorOf(client)
  return {
    ...shared,
    connectionString: withLockTimeout(databaseUrl),
    databaseOwner: pg.escapeIdentifier(loginOf(databaseUrl).user),
    migrationsFolder: join(project, 'migrations'),
    placeholders: { ...shared.placeholders, ':DATABASE_AUTHENTICATOR': pg.escapeIdentifier(authenticator) },
    logger: new graphileMigrate.Logger(graphileLogFactory(log)),
  }
}

/** The API's login, where the environment does not name it: the one that may become a request without credentials. */
async function authenticatorOf(client: pg.Client): Promise<string> {
  const { rows } = await client.query(`
    select login.rolname
    from pg_auth_members
    join pg_roles login on login.oid = member and login.rolcanlogin and not login.rolinherit
    where roleid = 'assent_anonymous'::regrole`)
  if (rows.length !== 1)
    throw new StartError('Which role the API logs in as is not clear from the database: set AUTH_DATABASE_URL.')
  return rows[0].rolname
}

/** Whoever waits for a lock on a table holds up all that come after: a migration gives up instead, and can be run again. */
function withLockTimeout(connectionString: string): string {
  const url = new URL(connectionString)
  const given = url.searchParams.get('options') ?? ''
  url.searchParams.set('options', `-c lock_timeout=5s ${given}`) // Of two settings the last one counts.
  return url.toString()
}
