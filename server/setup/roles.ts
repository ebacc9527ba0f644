import { createHmac, createHash, pbkdf2Sync, randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import pg from 'pg'
import { loginOf, StartError } from '../config.ts'
import { connected } from '../sql/connection.ts'

/** Connection strings: of the superuser who sets up the others, the owner, the API, the worker and perhaps an auditor. */
export type Logins = {
  rootDatabaseUrl: string
  databaseUrl: string
  authDatabaseUrl: string
  workerDatabaseUrl: string
  auditorDatabaseUrl?: string
}

/** Creates the roles and the database, or brings them up to date: it may be run again at any time. */
export async function setup(logins: Logins): Promise<void> {
  await connected(logins.rootDatabaseUrl, async (root) => {
    await assertVersion(root)
    // Two at once would create the same things.
    await root.query('select pg_advisory_lock(7277537)')
    await createRoles(root, logins)
    await createDatabase(root, logins)
    await restrict(logins)
  })
}

/** A superuser's connection string, with the database of another one. */
export function asRootOf(databaseUrl: string, rootDatabaseUrl: string): string {
  return Object.assign(new URL(rootDatabaseUrl), { pathname: new URL(databaseUrl).pathname }).href
}

async function assertVersion(root: pg.Client): Promise<void> {
  const { rows } = await root.query(
    `select current_setting('server_version') as version, current_setting('server_version_num')::int >= 150000 as fit`,
  )
  if (!rows[0].fit) throw new StartError(`PostgreSQL 15 or newer is needed; this one is ${rows[0].version}.`)
}

async function createRoles(
  root: pg.Client,
  { databaseUrl, authDatabaseUrl, workerDatabaseUrl, auditorDatabaseUrl }: Logins,
): Promise<void> {
  const owner = loginOf(databaseUrl)
  const authenticator = loginOf(authDatabaseUrl)
  const worker = loginOf(workerDatabaseUrl)
  await root.query(
    `select set_config('assent.owner', $1, false), set_config('assent.owner_password', $2, false),
            set_config('assent.authenticator', $3, false), set_config('assent.authenticator_password', $4, false),
            set_config('assent.worker', $5, false), set_config('assent.worker_password', $6, false)`,
    [owner, authenticator, worker].flatMap(({ user, password }) => [user, scramVerifier(password)]),
  )
  await root.query(await sql('roles.sql'))
  if (auditorDatabaseUrl) {
    const { user, password } = loginOf(auditorDatabaseUrl)
    await root.query(`alter role ${pg.escapeIdentifier(user)} login password ${pg.escapeLiteral(scramVerifier(password))}`)
  }
}

async function createDatabase(root: pg.Client, { databaseUrl, authDatabaseUrl }: Logins): Promise<void> {
  const { user, database } = loginOf(databaseUrl)
  const name = pg.escapeIdentifier(database)
  const owner = pg.escapeIdentifier(user)
  const { rowCount } = await root.query('select from pg_database where datname = $1', [database])
  if (!rowCount) await root.query(`create database ${name} owner ${owner} template template0 encoding 'UTF8'`)
  await root.query(`alter database ${name} owner to ${owner}`)
  await root.query(`revoke all on database ${name} from public`)
  const authenticator = pg.escapeIdentifier(loginOf(authDatabaseUrl).user)
  await root.query(`grant connect on database ${name} to ${authenticator}, assent_worker, assent_auditor`)
  // What PostgreSQL lets everybody do in the databases that come with it: a login of ours has no business there.
  await root.query('revoke connect, temporary on database postgres, template1 from public')
}

/** Takes from everybody what PostgreSQL allows them in a new database. */
async function restrict({ rootDatabaseUrl, databaseUrl }: Logins): Promise<void> {
  const restrictions = await sql('restrictions.sql')
  await connected(asRootOf(databaseUrl, rootDatabaseUrl), (root) => root.query(restrictions))
}

function sql(file: string): Promise<string> {
  return readFile(join(import.meta.dirname, '../../db', file), 'utf8')
}

/**
 * What PostgreSQL stores of a password (RFC 5803). It is made here so that the password itself is never part of a
 * statement: statements end up in logs and statistics.
 */
function scramVerifier(password: string): string {
  if (!password) return ''
  const salt = randomBytes(16)
  const salted = pbkdf2Sync(password.normalize('NFKC'), salt, 4096, 32, 'sha256')
  const key = (name: string) => createHmac('sha256', salted).update(name).digest()
  const stored = createHash('sha256').update(key('Client Key')).digest('base64')
  return `SCRAM-SHA-256$4096:${salt.toString('base64')}$${stored}:${key('Server Key').toString('base64')}`
}
