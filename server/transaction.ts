import { LRU } from '@graphile/lru'
import pg, { type Pool, type PoolClient, type QueryResult } from 'pg'
import type { Logger } from 'pino'
import type { PgClient, PgClientQuery, PgClientResult, WithPgClient } from 'postgraphile/@dataplan/pg'
import { unauthenticated } from './errors.ts'
import type { Identity } from './identity.ts'

/** The one statement by which a transaction learns who is asking; see db/identity.sql. */
const IDENTIFY = {
  name: 'identify',
  text: `select set_config('assent.session', $1, true), set_config('assent.ip', $2, true),
    set_config('role', app_hidden.authenticate($1), true)`,
}

/** Prepared statements that one connection keeps. Callers choose their texts, so that there must be an end to them. */
const PREPARED_PER_CONNECTION = 200

/** Opens a pool of connections as the API's login role. */
export function openPool(connectionString: string, max: number, log: Logger): Pool {
  const pool = new pg.Pool({
    connectionString,
    max,
    application_name: 'assent api',
    // Statements are sent without waiting for the answer to the one before.
    pipeline: true,
    connectionTimeoutMillis: 900,
    statement_timeout: 10_000,
    lock_timeout: 5_000,
    idle_in_transaction_session_timeout: 15_000,
    // Compiling pays only for long scans; the API has none.
    options: '-c jit=off',
  } as pg.PoolConfig)
  pool.on('error', (err) => log.warn({ err }, 'idle database connection lost'))
  return pool
}

const preparedBy = new WeakMap<PoolClient, LRU<string, true>>()

/** Notes that the connection holds this prepared statement, and lets go of the one unused for longest. */
function notePrepared(client: PoolClient, name: string): void {
  let names = preparedBy.get(client)
  if (!names) {
    const { connection } = client as unknown as { connection: { parsedStatements: Record<string, string> } }
    names = new LRU({
      maxLength: PREPARED_PER_CONNECTION,
      dispose(oldest) {
        delete connection.parsedStatements[oldest]
        client.query(`deallocate ${client.escapeIdentifier(oldest)}`).catch(() => {})
      },
    })
    preparedBy.set(client, names)
  }
  if (!names.get(name)) names.set(name, true)
}

/** Runs a statement in a transaction that has been told who is asking. */
export type Query = <Row>(query: PgClientQuery) => Promise<PgClientResult<Row>>

/**
 * Runs `work` in one transaction as the caller. A reading transaction is read-only, and its commit is not waited for:
 * there is nothing in it that could fail to last. Throws RQ401 when the session is dead.
 */
export async function asCaller<T>(pool: Pool, caller: Identity, mode: 'read' | 'write', work: (query: Query) => Promise<T>): Promise<T> {
  const client = await pool.connect()
  let lost: Error | undefined
  try {
    // Sent in one go with the first statement of `work`. Should the identity be refused, the transaction is aborted,
    // and what follows in it fails: nothing ever runs as the login role.
    const identified = Promise.all([
      client.query(mode === 'read' ? 'begin read only' : 'begin'),
      client.query({ ...IDENTIFY, values: [caller.session, caller.ip] }),
    ])
    identified.catch(() => {})
    const query: Query = async ({ text, values, name, arrayMode }) => {
      if (name) notePrepared(client, name)
      const answered = client.query({ text, values, name, rowMode: arrayMode ? 'array' : undefined } as pg.QueryArrayConfig)
      answered.catch(() => {})
      await identified // First: why the identity was refused counts, and not that the transaction is aborted.
      const { rows, rowCount }: QueryResult = await answered
      return { rows, rowCount, notices: [] }
    }
    const result = await work(query)
    const committed = client.query('commit')
    if (mode === 'write') await committed
    else committed.catch(() => {})
    return result
  } catch (error) {
    await client.query('rollback').catch((e: Error) => (lost = e))
    // Without credentials, what is not granted asks for them.
    const denied = error instanceof pg.DatabaseError && error.code === '42501'
    throw denied && caller.session === '' ? unauthenticated() : error
  } finally {
    client.release(lost)
  }
}

/** Grafast's way to the database, in PostGraphile's place: one round trip for a read, where its own takes four. */
export function makeWithPgClient(pool: Pool, caller: Identity, mode: 'read' | 'write'): WithPgClient {
  return (_settings, callback) =>
    asCaller(pool, caller, mode, async (query) => {
      const client: PgClient = { query, withTransaction: async (inner) => inner(client as never) }
      return callback(client as never)
    })
}
