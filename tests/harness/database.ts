import { randomBytes } from 'node:crypto'
import pg from 'pg'

declare const POSTGRES: 15 | 18

export type Name = 'admin' | 'manager' | 'manager2' | 'user' | 'user2'
export type Person = { readonly id: string; readonly email: string; readonly session: string }
type Row = Record<string, any>

/** Statements as one caller, within the test's transaction. */
export interface As {
  /** The rows of a statement. */
  rows(text: string, values?: unknown[]): Promise<Row[]>
  /** The one row of a statement. */
  row(text: string, values?: unknown[]): Promise<Row>
  /** The SQLSTATE that a statement fails with, or undefined; what it did is undone. */
  fails(text: string, values?: unknown[]): Promise<string | undefined>
}

/** A clone of the migrated template, for one test file, with the demo people and a session for each. */
export interface TestDatabase {
  readonly urls: { readonly root: string; readonly owner: string; readonly auth: string; readonly auditor: string }
  readonly people: Record<Name, Person>
  /** A connection of its own as the superuser, the owner or the auditor, closed with the database. */
  connect(as: keyof TestDatabase['urls']): Promise<pg.Client>
  /** As somebody, or with no credentials, in the test's transaction. */
  as(name: Name | 'anonymous'): As
  /** Runs one statement in a committed transaction of its own as somebody: for tests with several callers at once. */
  commit(name: Name, text: string, values?: unknown[]): Promise<Row[]>
  close(): Promise<void>
}

const IDENTIFY = `select app_hidden.become($1, '192.0.2.1')`

/** Clones the template. With `transactional` every test runs in a transaction that is rolled back after it. */
export async function cloneDatabase({ transactional = true } = {}): Promise<TestDatabase> {
  const secrets = JSON.parse(process.env[`TEST_POSTGRES_${POSTGRES}`]!) as Record<string, string>
  const name = `test_${randomBytes(6).toString('hex')}`
  const template = new URL(secrets['DATABASE_URL']!).pathname.slice(1)
  const admin = new pg.Client(secrets['ROOT_DATABASE_URL'])
  await admin.connect()
  // CREATE DATABASE wants the template to itself; test files in other processes want it at the same time.
  await admin.query('select pg_advisory_lock(4711)')
  await admin.query(`create database ${name} template ${template} owner assent_owner`)
  await admin.query('select pg_advisory_unlock(4711)')
  await admin.query(
    `revoke all on database ${name} from public; grant connect on database ${name} to assent_authenticator, assent_auditor`,
  )

  const to = (url: string, database = name) => Object.assign(new URL(url), { pathname: `/${database}` }).toString()
  const urls = {
    root: to(secrets['ROOT_DATABASE_URL']!),
    owner: to(secrets['DATABASE_URL']!),
    auth: to(secrets['AUTH_DATABASE_URL']!),
    auditor: to(secrets['AUDITOR_DATABASE_URL']!),
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
  const client = await connect('auth')
  const pool = new pg.Pool({ connectionString: urls.auth, max: 45 })
  pool.on('error', () => {}) // A connection may still be ending when its database is dropped.

  if (transactional) {
    beforeEach(async () => void (await client.query('begin')))
    afterEach(async () => void (await client.query('rollback')))
  }

  const become = (name: Name | 'anonymous', on: pg.ClientBase = client) =>
    on.query(IDENTIFY, [name === 'anonymous' ? '' : people[name].session])

  return {
    urls,
    people,
    connect,
    as: (name) => {
      const rows = async (text: string, values?: unknown[]) => {
        await client.query('reset role')
        await become(name)
        return (await client.query(text, values)).rows
      }
      return {
        rows,
        async row(text, values) {
          const found = await rows(text, values)
          if (found.length !== 1) throw new Error(`${found.length} rows, not 1`)
          return found[0]!
        },
        async fails(text, values) {
          await client.query('savepoint before')
          try {
            await rows(text, values)
            return undefined
          } catch (error) {
            return (error as pg.DatabaseError).code
          } finally {
            await client.query('rollback to savepoint before')
          }
        },
      }
    },
    async commit(name, text, values) {
      const on = await pool.connect()
      try {
        await on.query('begin')
        await become(name, on)
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
  const { rows } = await owner.query(`
    with opened as (
      select c.email, c.user_id, app_private.random_secret() as session from app_private.credentials c
    ), kept as (
      insert into app_private.sessions (user_id, secret_hash, refresh_hash, expires_at)
      select user_id, app_private.hash_secret(session), app_private.hash_secret(session || 'r'), now() + interval '1 day' from opened
    )
    select user_id as id, email, session from opened`)
  return Object.fromEntries(rows.map((row) => [row.email.split('@')[0], row])) as Record<Name, Person>
}
