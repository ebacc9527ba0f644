import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import type pg from 'pg'
import { StartError, type Config, type ConfigFor } from '../config.ts'
import { connected } from '../sql/connection.ts'

// These checks come before anything is made or served, so that whoever starts us is told in one sentence what to do.

/** Listens for a moment where the API will. Should the port be lost again before that, the API fails with the same error. */
export async function assertPortIsFree({ port, host }: Pick<Config, 'port' | 'host'>): Promise<void> {
  const probe = createServer().listen(port, host)
  await once(probe, 'listening')
  await new Promise((closed) => probe.close(closed))
}

/** Refuses to serve a schema that this program was not built for, and a login that could get past the rules or has other work. */
export const assertServable = (authDatabaseUrl: string): Promise<void> =>
  assertLogin(authDatabaseUrl, 'AUTH_DATABASE_URL', 'API', [worker, auditor, inherited])

/** Refuses to do the jobs of such a schema, or by such a login. */
export const assertWorkable = (workerDatabaseUrl: string): Promise<void> =>
  assertLogin(workerDatabaseUrl, 'WORKER_DATABASE_URL', 'worker', [api, auditor])

async function assertLogin(connectionString: string, variable: string, of: string, others: Fault[]): Promise<void> {
  await connected(connectionString, async (client) => {
    const fault = await faultOf(client, [...unbound, owner, predefined, ...others])
    if (fault) {
      throw new StartError(`${variable} logs in as ${fault}: name the login of the ${of} there, which npm run setup creates.`)
    }
    await assertSchema(client)
  })
}

/** Milliseconds for reaching a replica. */
const PATIENCE = 900
const CLUSTER = `select system_identifier as cluster, current_setting('synchronous_commit') as commits from pg_control_system()`

/**
 * Refuses replicas that could not be trusted. Their logins and their schema are the primary's once they have caught up, which each
 * read makes sure of: one that is late or away is not refused, and is used as soon as it is there.
 */
export async function assertReplicas({
  authDatabaseUrl,
  replicaDatabaseUrls,
}: Pick<ConfigFor<'server'>, 'authDatabaseUrl' | 'replicaDatabaseUrls'>): Promise<void> {
  if (replicaDatabaseUrls.length === 0) return
  const ask = (url: string, patience?: number) =>
    connected(url, async (client) => (await client.query<Record<string, string>>(CLUSTER)).rows[0]!, patience)
  const primary = await ask(authDatabaseUrl)
  if (primary['commits'] === 'off') {
    throw new StartError(
      'REPLICA_DATABASE_URL needs synchronous_commit on the primary, or replicas may lack what callers were told is done: set it to on.',
    )
  }
  await Promise.all(
    replicaDatabaseUrls.map(async (url) => {
      const replica = await ask(url, PATIENCE).catch(() => primary)
      if (replica['cluster'] === primary['cluster']) return
      const { host } = new URL(url)
      throw new StartError(`REPLICA_DATABASE_URL names ${host}, which is no copy of the database that AUTH_DATABASE_URL names.`)
    }),
  )
}

/** Refuses to work with a schema that is older or newer than this program, or with none. */
export async function assertMigrated(databaseUrl: string): Promise<void> {
  await connected(databaseUrl, assertSchema)
}

async function assertSchema(client: pg.Client): Promise<void> {
  const { rows } = await client.query(`
    select to_regnamespace('app_hidden') is not null as exists, exists (
      select from pg_proc f
      where f.pronamespace = to_regnamespace('app_hidden') and f.proname = 'schema_version'
        and has_schema_privilege(f.pronamespace, 'usage') and has_function_privilege(f.oid, 'execute')) as tells`)
  if (!rows[0].exists) throw new StartError('The database has no schema yet: run npm run migrate.')
  if (!rows[0].tells) throw new StartError('The schema is older than this server: run npm run migrate.')

  const { rows: versions } = await client.query('select app_hidden.schema_version() as last')
  const found = numberOf(versions[0].last ?? '0')
  const built = await lastCommitted()
  if (found < built) throw new StartError(`The schema is at migration ${found} of ${built}: run npm run migrate.`)
  if (found > built) {
    throw new StartError(
      `The schema is at migration ${found}, newer than this server, which knows ${built}: start the version that migrated it.`,
    )
  }
}

/** What a role must not be, in words, and the condition on pg_roles by which it is known. */
type Fault = { words: string; condition: string }

const unbound: Fault[] = [
  { words: 'a superuser', condition: 'r.rolsuper' },
  { words: 'a role with BYPASSRLS', condition: 'r.rolbypassrls' },
]

const owner: Fault = {
  words: 'the owner of the database or of something in it',
  condition: `exists (
    select from pg_shdepend d join pg_database here on here.datname = current_database()
    where d.refclassid = 'pg_authid'::regclass and d.refobjid = r.oid and d.deptype = 'o'
      and (d.dbid = here.oid or (d.classid = 'pg_database'::regclass and d.objid = here.oid)))`,
}

const api: Fault = { words: 'the login of the API', condition: `r.rolname = 'assent_anonymous'` }
const worker: Fault = { words: 'the login of the worker', condition: `r.rolname = 'assent_worker'` }
const auditor: Fault = { words: 'the login of an auditor', condition: `r.rolname = 'assent_auditor'` }

/** Such as pg_read_all_data, which needs no grant of ours, and pg_monitor, which shows what others ask. */
const predefined: Fault = { words: 'a role that PostgreSQL brings along', condition: `r.rolname ^@ 'pg_'` }

/** What may be done as such a role may be done without becoming it, by whoever says nothing of who is asking. */
const inherited: Fault = {
  words: 'a role whose rights it inherits',
  condition: `r.rolname <> session_user and pg_has_role(session_user, r.oid, 'USAGE')`,
}

/** As whom a connection logs in, and the first fault of that role or of those that it may become; undefined if there is none. */
async function faultOf(client: pg.Client, faults: Fault[]): Promise<string | undefined> {
  for (const { words, condition } of faults) {
    const { rows } = await client.query(`
      select session_user as login, r.rolname as role from pg_roles r
      where pg_has_role(session_user, r.oid, 'MEMBER') and ${condition}
      order by r.rolname <> session_user, r.rolname limit 1`)
    const found = rows[0]
    if (found) return `${found.login}, ${found.role === found.login ? '' : `who may become ${found.role}, `}${words}`
  }
  return undefined
}

/** The number of the last migration that this program was built with. */
async function lastCommitted(): Promise<number> {
  const names = await readdir(join(import.meta.dirname, '../../migrations/committed'))
  return Math.max(...names.filter((name) => name.endsWith('.sql')).map(numberOf))
}

/** graphile-migrate numbers them: a file is 000009-what-it-does.sql, and 000009.sql where it records that it was run. */
const numberOf = (name: string): number => Number.parseInt(name, 10)
