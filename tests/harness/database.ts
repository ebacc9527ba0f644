import { randomBytes } from 'node:crypto'
import pg from 'pg'

declare const POSTGRES: 15 | 18

const names = ['admin', 'manager', 'manager2', 'user', 'user2'] as const
export type Name = (typeof names)[number]
export type Person = { readonly id: string; readonly email: string; readonly session: string }
type Row = Record<string, any>

/** A clone of the migrated template, for one test file, with the demo people and a session for each. */
export interface TestDatabase {
  readonly urls: {
    readonly root: string
    readonly owner: string
    readonly auth: string
    readonly worker: string
    readonly auditor: string
  }
  readonly people: Record<Name, Person>
  /** A connection of its own as one of the logins, closed with the database. */
  connect(as: keyof TestDatabase['urls']): Promise<pg.Client>
  /** Runs one statement in a committed transaction of its own as somebody: for tests with several callers at once. */
  commit(name: Name, text: string, values?: unknown[]): Promise<Row[]>
  close(): Promise<void>
}

const IDENTIFY = `select app_hidden.become($1, '192.0.2.1')`

const secrets = () => JSON.parse(process.env[`TEST_POSTGRES_${POSTGRES}`]!) as Record<string, string>

/** A database that can be cloned: `quick` hashes passwords at the lowest cost, `pristine` is what migrations leave behind. */
type Template = 'quick' | 'pristine' | 'crowded'
function nameOf(template: Template): string {
  const { DATABASE_URL, QUICK } = secrets()
  const pristine = new URL(DATABASE_URL!).pathname.slice(1)
  const quick = QUICK ?? pristine // drill.ts has but one
  return { quick, pristine, crowded: `${quick}_crowded` }[template]
}

const to = (url: string, database: string) => Object.assign(new URL(url), { pathname: `/${database}` }).toString()

async function connectRoot(database?: string): Promise<pg.Client> {
  const url = secrets()['ROOT_DATABASE_URL']!
  const root = new pg.Client(database === undefined ? url : to(url, database))
  await root.connect()
  return root
}

async function createDatabase(admin: pg.Client, name: string, template: Template): Promise<void> {
  // CREATE DATABASE wants the template to itself; test files in other processes want it at the same time.
  await admin.query('select pg_advisory_lock(4711)')
  await admin.query(`create database ${name} template ${nameOf(template)} owner assent_owner`)
  await admin.query('select pg_advisory_unlock(4711)')
}

/** Makes the crowded template of this version, unless there is one: whoever comes second waits for the first. */
export async function makeCrowded(fill: (root: pg.Client) => Promise<void>): Promise<void> {
  const [name, admin] = [nameOf('crowded'), await connectRoot()]
  try {
    await admin.query('select pg_advisory_lock(4712)')
    if ((await admin.query('select from pg_database where datname = $1', [name])).rows.length > 0) return
    await admin.query(`drop database if exists ${name}_unfinished with (force)`)
    await createDatabase(admin, `${name}_unfinished`, 'quick')
    const root = await connectRoot(`${name}_unfinished`)
    await fill(root).finally(() => root.end())
    await admin.query(`alter database ${name}_unfinished rename to ${name}`)
  } finally {
    await admin.end()
  }
}

/** Clones a template. */
export async function cloneDatabase(template: Template = 'quick'): Promise<TestDatabase> {
  const name = `test_${randomBytes(6).toString('hex')}`
  const admin = await connectRoot()
  await createDatabase(admin, name, template)
  await admin.query(
    `revoke all on database ${name} from public; grant connect on database ${name} to assent_authenticator, assent_worker, assent_auditor`,
  )

  const { ROOT_DATABASE_URL, DATABASE_URL, AUTH_DATABASE_URL, WORKER_DATABASE_URL, AUDITOR_DATABASE_URL } = secrets()
  const urls = {
    root: to(ROOT_DATABASE_URL!, name),
    owner: to(DATABASE_URL!, name),
    auth: to(AUTH_DATABASE_URL!, name),
    worker: to(WORKER_DATABASE_URL!, name),
    auditor: to(AUDITOR_DATABASE_URL!, name),
  }
  const clients: pg.Client[] = []
  const connect = async (as: keyof typeof urls) => {
    const client = new pg.Client(urls[as])
    await client.connect()
    clients.push(client)
    return client
  }
  const owner = await connect('owner')
  const people = await openSessions(owner)
  const pool = new pg.Pool({ connectionString: urls.auth, max: 45 })
  pool.on('error', () => {}) // A connection may still be ending when its database is dropped.

  return {
    urls,
    people,
    connect,
    async commit(name, text, values) {
      const on = await pool.connect()
      try {
        await on.query('begin')
        await on.query(IDENTIFY, [people[name].session])
        const { rows } = await on.query(text, values)
        await on.query('commit')
        return rows
      } catch (error) {
        await on.query('rollback')
        throw error
      } finally {
        on.release()
      }
    },
    async close() {
      await pool.end()
      await Promise.all(clients.map((client) => client.end()))
      await admin.query(`drop database ${name} with (force)`)
      await admin.end()
    },
  }
}

/** A session for each demo account, without the slow hash of a login. */
async function openSessions(owner: pg.Client): Promise<Record<Name, Person>> {
  const { rows } = await owner.query(
    `
    with opened as (
      select c.email, c.user_id, app_private.random_secret() as session from app_private.credentials c where c.email = any ($1)
    ), kept as (
      insert into app_private.sessions (user_id, secret_hash, refresh_hash, expires_at)
      select user_id, app_private.hash_secret(session), app_private.hash_secret(session || 'r'), now() + interval '1 day' from opened
    )
    select user_id as id, email, session from opened`,
    [names.map((name) => `${name}@assent.test`)],
  )
  return Object.fromEntries(rows.map((row) => [row.email.split('@')[0], row])) as Record<Name, Person>
}
