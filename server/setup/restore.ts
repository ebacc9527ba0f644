import { createReadStream } from 'node:fs'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'
import pg from 'pg'
import { from } from 'pg-copy-streams'
import split from 'split2'
import { loginOf, StartError, type Config } from '../config.ts'
import type { Logger } from '../logger.ts'
import { connected } from '../sql/connection.ts'
import { TITLE } from './backup.ts'
import { openDatabase } from './database.ts'
import { migrate, migrateTo } from './migrate.ts'
import { asRootOf, setup, type Logins } from './roles.ts'

/** What has been restored: numbers of rows, when the last entry was written into the trail, and how many jobs will be done. */
export type Restored = { requests: number; entries: number; last: string | null; jobs: Record<string, number> }

/** What `restore` does at its end, for a database that came back by other means; as its owner. */
export const afterRestore = (databaseUrl: string): Promise<Restored> => connected(databaseUrl, conclude)

/** Restores into the database that the environment names, or else into the embedded one. */
export async function restore(config: Config, file: string, log: Logger): Promise<Restored> {
  const migration = await migrationOf(file)
  const database = await openDatabase(config)
  try {
    const logins = { ...database, rootDatabaseUrl: database.rootDatabaseUrl! }
    const restored = await connected(logins.rootDatabaseUrl, (root) => replaceEmpty(root, logins, migration, file, log))
    await database.filled()
    return restored
  } finally {
    await database.close()
  }
}

/**
 * Puts the database of a backup where there is none yet, or one without people. It is filled under another name and renamed when
 * it is whole, so that it is never there in part.
 */
async function replaceEmpty(root: pg.Client, logins: Logins, migration: string, file: string, log: Logger): Promise<Restored> {
  await assertEmpty(root, logins)
  const draft = draftOf(logins)
  const [name, draftName] = [logins, draft].map(({ databaseUrl }) => pg.escapeIdentifier(loginOf(databaseUrl).database))
  await root.query(`drop database if exists ${draftName} with (force)`) // What an attempt before this one has left.
  await setup(draft)
  await migrateTo(migration, draft, log)
  const draftUrl = asRootOf(draft.databaseUrl, draft.rootDatabaseUrl)
  await connected(draftUrl, (client) => run(client, file))
  await migrate(draft, log)
  const restored = await connected(draftUrl, conclude)
  await root.query(`drop database if exists ${name}`)
  await root.query(`alter database ${draftName} rename to ${name}`)
  return restored
}

/** The same logins to the database while it is being filled. */
function draftOf(logins: Logins): Logins {
  const rename = (url: string) =>
    Object.assign(new URL(url), { pathname: `/${encodeURIComponent(`${loginOf(url).database} restoring`)}` }).href
  const { databaseUrl, authDatabaseUrl, workerDatabaseUrl } = logins
  return {
    ...logins,
    databaseUrl: rename(databaseUrl),
    authDatabaseUrl: rename(authDatabaseUrl),
    workerDatabaseUrl: rename(workerDatabaseUrl),
  }
}

/** Nobody's data is replaced: who wants that drops the database first. */
async function assertEmpty(root: pg.Client, { rootDatabaseUrl, databaseUrl }: Logins): Promise<void> {
  const { database } = loginOf(databaseUrl)
  const { rowCount } = await root.query('select from pg_database where datname = $1', [database])
  if (!rowCount) return
  await connected(asRootOf(databaseUrl, rootDatabaseUrl), async (client) => {
    const { rows } = await client.query(`select to_regclass('app_public.users') is not null as made`)
    if (!rows[0].made) return
    const { rowCount: people } = await client.query('select from app_public.users limit 1')
    if (people) throw new StartError(`The database "${database}" has people in it. Restore into another one, or drop it first.`)
  })
}

/** The lines of a backup. Throws a StartError for a file that is none, or that was cut off. */
async function* linesOf(file: string): AsyncGenerator<string> {
  const lines = split('\n')
  // Whatever fails ends the last stream as well, and so is thrown here.
  void pipeline(createReadStream(file), createGunzip(), lines).catch(() => {})
  try {
    yield* lines
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code?.startsWith('Z')) throw new StartError(`${file} is no whole backup of Assent.`)
    throw code?.startsWith('E') ? new StartError(`${file} cannot be read (${code}).`) : error
  } finally {
    lines.destroy()
  }
}

async function migrationOf(file: string): Promise<string> {
  for await (const line of linesOf(file)) {
    const [, migration] = TITLE.exec(line) ?? []
    if (migration) return migration
    break
  }
  throw new StartError(`${file} is no backup of Assent.`)
}

/** Runs a backup as psql would: after `copy … from stdin;` come rows, down to a line with `\.` alone. */
async function run(client: pg.Client, file: string): Promise<void> {
  const lines = linesOf(file)
  let statements = ''
  for (let next = await lines.next(); !next.done; next = await lines.next()) {
    if (/^copy .* from stdin;$/.test(next.value)) {
      await client.query(statements)
      statements = ''
      await pipeline(Readable.from(rowsOf(lines)), client.query(from(next.value)))
    } else {
      statements += `${next.value}\n`
    }
  }
  if (!statements.endsWith('\ncommit;\n')) throw new StartError('The backup ends before its end: it is not whole.')
  await client.query(statements)
}

async function* rowsOf(lines: AsyncGenerator<string>): AsyncGenerator<string> {
  for (let next = await lines.next(); next.value !== '\\.'; next = await lines.next()) {
    if (next.done) throw new StartError('The backup ends within a table: it is not whole.')
    yield `${next.value}\n`
  }
}

/**
 * Ends every restore: holds the requests against their trail, and ends all sessions, of which some had ended since. It takes no
 * more than the owner.
 */
async function conclude(client: pg.Client): Promise<Restored> {
  const { rows: faults } = await client.query('select count(*)::integer as number from audit.disagreements')
  if (faults[0].number)
    throw new StartError(`${faults[0].number} requests do not agree with their trail: see audit.disagreements.`)
  const { rows } = await client.query(`
    select (select count(*)::integer from app_public.requests) as requests, count(*)::integer as entries,
      max("timestamp")::text as last, (
        select coalesce(jsonb_object_agg(task, number), '{}') from (
          select task, sum(count)::integer as number from app_hidden.count_jobs()
          where state not in ('given up', 'refused') group by task) jobs) as jobs
    from app_public.audit_logs`)
  await client.query('update app_private.sessions set revoked_at = now() where revoked_at is null and expires_at > now()')
  return rows[0]
}
