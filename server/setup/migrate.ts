import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import * as graphileMigrate from 'graphile-migrate'
import { clearAllPools } from 'graphile-migrate/dist/pg.js'
import { Logger as WorkerLogger, runMigrations } from 'graphile-worker'
import JSON5 from 'json5'
import pRetry from 'p-retry'
import pg from 'pg'
import { loginOf, StartError } from '../config.ts'
import { graphileLogFactory, type Logger } from '../logger.ts'
import { withSettings } from '../sql/connection.ts'

/** The database to migrate, as its owner, and the API's connection, whose role migrations grant to. */
export type Target = { databaseUrl: string; authDatabaseUrl?: string }

const project = join(import.meta.dirname, '../..')

/** Brings the tables up to the last committed migration, and then the rules to what db/ says. */
export async function migrate(target: Target, log: Logger): Promise<void> {
  await exclusively(target, log, async (settings, client) => {
    await runPending(settings, client, log)
    await applyRules(settings, client, log)
  })
}

/** Brings the tables alone up to the migration of this number, that of a backup. Throws a StartError. */
export async function migrateTo(last: string, target: Target, log: Logger): Promise<void> {
  const committed = join(project, 'migrations/committed')
  const names = (await readdir(committed)).filter((name) => name.slice(0, 6) <= last)
  if (!names.at(-1)?.startsWith(last)) throw new StartError(`There is no migration ${last} here: use a newer version of Assent.`)
  const migrationsFolder = await mkdtemp(join(tmpdir(), 'assent-migrations-'))
  try {
    await mkdir(join(migrationsFolder, 'committed'))
    for (const name of names) await symlink(join(committed, name), join(migrationsFolder, 'committed', name))
    await exclusively(target, log, (settings, client) => runPending({ ...settings, migrationsFolder }, client, log))
  } finally {
    await rm(migrationsFolder, { recursive: true })
  }
}

/** Does what `migrate` does, with migrations/current.sql in between: that is the schema as it is being developed. */
export async function applyCurrent(target: Target, log: Logger): Promise<void> {
  await exclusively(target, log, async (settings, client) => {
    await dropUnfinishedIndexes(client)
    await graphileMigrate.current(settings)
    const text = await readFile(join(project, 'migrations/current.sql'), 'utf8')
    await applyRules(settings, client, log, text.replace(/^\s*--.*$/gm, '').trim())
  })
}

type Settings = Parameters<typeof graphileMigrate.migrate>[0]

/** One migration at a time: graphile-migrate itself would fail where it can wait. */
async function exclusively(
  target: Target,
  log: Logger,
  work: (settings: Settings, client: pg.Client) => Promise<void>,
): Promise<void> {
  const connectionString = withSettings(target.databaseUrl)
  const client = new pg.Client({ connectionString })
  await client.connect()
  try {
    await assertWorker(client)
    await lock(client)
    await runMigrations({ connectionString, logger: new WorkerLogger(graphileLogFactory(log)) })
    await work(await settingsFor(target, client, log), client)
  } finally {
    // A private part of graphile-migrate, which keeps its connections open for a while and ends the whole process when one of
    // them is lost: so they are closed here.
    clearAllPools()
    await client.end()
  }
}

/** The rules grant to this role, which belongs to the cluster: only setup can create it. */
async function assertWorker(client: pg.Client): Promise<void> {
  const { rowCount } = await client.query(`select from pg_roles where rolname = 'assent_worker'`)
  if (!rowCount) throw new StartError('The role of the worker does not exist yet: run npm run setup, and then this again.')
}

/**
 * Polls, because a wait within a statement would hold a snapshot, for which an index that the other process builds concurrently
 * would wait in turn.
 */
export async function lock(client: pg.Client): Promise<void> {
  for (;;) {
    const { rows } = await client.query('select pg_try_advisory_lock(7277538) as locked')
    if (rows[0].locked) return
    await sleep(200)
  }
}

/** Runs the migrations that are pending. Throws a StartError that names the one which fails: those before it stay. */
async function runPending(settings: Settings, client: pg.Client, log: Logger): Promise<void> {
  try {
    await untilUnlocked('A migration', log, async () => {
      await dropUnfinishedIndexes(client)
      await graphileMigrate.migrate(settings)
    })
  } catch (error) {
    if (!(error instanceof pg.DatabaseError)) throw error
    const { rows } = await client.query('select max(filename) as last from graphile_migrate.migrations')
    const names = (await readdir(join(settings.migrationsFolder!, 'committed'))).sort()
    const failed = names.find((name) => name.slice(0, 6) > (rows[0].last ?? '').slice(0, 6))
    throw new StartError(
      `The migration ${failed} has failed and has changed nothing: ${error.message}. What runs goes on as before. Mend the cause, and run this again.`,
    )
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

/** The files of db/rules and db/doors, in the order of db/index.sql. */
async function ruleFiles(): Promise<string[]> {
  const index = await readFile(join(project, 'db/index.sql'), 'utf8')
  return [...index.matchAll(/^--!include ((?:rules|doors)\/.*)$/gm)].map(([, file]) => file!)
}

/**
 * Applies each file of rules that differs from what the database remembers, all in one transaction: no caller meets half of
 * them. After a migration every file counts as different, because it may have taken away what an unchanged file had made.
 */
async function applyRules(settings: Settings, client: pg.Client, log: Logger, current = ''): Promise<void> {
  const { rows: migrations } = await client.query(`
    select filename, hash from graphile_migrate.migrations
    union all select 'graphile-worker', max(id)::text from graphile_worker.migrations
    order by filename`)
  const { rows: applied } = await client.query<{ file: string; hash: string }>('select file, hash from app_private.applied_rules')
  const known = new Map(applied.map(({ file, hash }) => [file, hash]))
  const files = await Promise.all(
    (await ruleFiles()).map(async (file) => {
      const text = await graphileMigrate.compile(settings, await readFile(join(project, 'db', file), 'utf8'))
      const hash = createHash('sha256')
        .update(JSON.stringify([migrations, current, text]))
        .digest('hex')
      return { file, text, hash }
    }),
  )
  const changed = files.filter(({ file, hash }) => known.get(file) !== hash)
  if (changed.length > 0) {
    await untilUnlocked('The rules', log, () => applyInTransaction(client, changed))
    log.info(`Rules applied: ${changed.map(({ file }) => file).join(', ')}.`)
  }
  // The worker does it, too; but there may be none.
  await untilUnlocked('The trail', log, () => client.query('select app_private.extend_trail()'))
}

/**
 * A column, a policy or a partition is changed under a lock on its table, for which others then wait too: rather give up soon,
 * let them pass, and try again.
 */
async function untilUnlocked(what: string, log: Logger, change: () => Promise<unknown>): Promise<void> {
  await pRetry(change, {
    retries: 30,
    minTimeout: 200,
    maxTimeout: 2_000,
    shouldRetry: ({ error }) => ['55P03', '40P01'].includes((error as { code?: string }).code ?? ''),
    onFailedAttempt: () => log.info(`${what} must wait for a lock, and will be tried again.`),
  })
}

/** Every call begins with its session: who waits for that table holds nothing yet, and so nobody waits for them in turn. */
const LOCK_ALL = `
  do $$
  begin
    lock table app_private.sessions in access exclusive mode;
    execute (select 'lock table ' || string_agg(oid::regclass::text, ', ' order by oid) || ' in access exclusive mode'
      from pg_class where relkind in ('r', 'p') and not relispartition
        and relnamespace in ('app_public'::regnamespace, 'app_private'::regnamespace));
  end
  $$`

async function applyInTransaction(client: pg.Client, files: { file: string; text: string; hash: string }[]): Promise<void> {
  await client.query(`begin; set local lock_timeout = '500ms'`)
  try {
    // All tables at once, before anything is done, and waiting for less time than PostgreSQL takes to find a deadlock: no caller
    // is the victim of one.
    await client.query(LOCK_ALL)
    for (const { file, text, hash } of files) {
      await client.query(text).catch((error: Error) => {
        error.message = `db/${file}: ${error.message}`
        throw error
      })
      await client.query(
        `insert into app_private.applied_rules (file, hash) values ($1, $2)
         on conflict (file) do update set hash = excluded.hash, applied_at = clock_timestamp()`,
        [file, hash],
      )
    }
    await client.query('commit')
  } catch (error) {
    await client.query('rollback').catch(() => {}) // What failed first is what counts.
    throw error
  }
}

async function settingsFor({ databaseUrl, authDatabaseUrl }: Target, client: pg.Client, log: Logger): Promise<Settings> {
  const shared = JSON5.parse(await readFile(join(project, '.gmrc'), 'utf8'))
  const authenticator = authDatabaseUrl ? loginOf(authDatabaseUrl).user : await authenticatorOf(client)
  return {
    ...shared,
    // Whoever waits for a lock on a table holds up all that come after: a migration gives up instead, and is tried again.
    connectionString: withSettings(databaseUrl, 'lock_timeout=500ms'),
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
