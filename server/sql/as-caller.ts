import type { Socket } from 'node:net'
import { LRU } from '@graphile/lru'
import pg, { type Pool, type PoolClient, type QueryResult } from 'pg'
import type { Logger } from 'pino'
import type { PgClient, PgClientQuery, PgClientResult, WithPgClient } from 'postgraphile/@dataplan/pg'
import { unauthenticated } from '../errors.ts'
import type { Identity } from '../http/identity.ts'

/** The one statement by which a transaction learns who is asking; see db/rules/caller.sql. */
const IDENTIFY = {
  name: 'identify',
  text: 'select app_hidden.become($1, $2) as role',
}
const ANONYMOUS = 'assent_anonymous'

/** The database role of each session lately seen alive. */
const roles = new LRU<string, string>({ maxLength: 50_000 })

/** When this process last had it noted that a session is in use, and whose it is, as the database then said. */
const touched = new LRU<string, { at: number; userId?: string }>({ maxLength: 50_000 })
const TOUCH_EVERY = 60_000
/** Whose session it is, if it has been seen alive lately. */
export const knownUser = (session: string): string | undefined => touched.get(session)?.userId

/** Prepared statements that one connection keeps. Callers choose their texts, so that there must be an end to them. */
const PREPARED_PER_CONNECTION = 200

/** Opens a pool of connections as the API's login role. `patience`: milliseconds to wait for one of them. */
export function openPool(connectionString: string, max: number, log: Logger, patience = 900): Pool {
  const pool = new pg.Pool({
    connectionString,
    max,
    application_name: 'assent api',
    // Statements are sent without waiting for the answer to the one before.
    pipeline: true,
    connectionTimeoutMillis: patience,
    statement_timeout: 10_000,
    lock_timeout: 5_000,
    idle_in_transaction_session_timeout: 15_000,
    // Compiling pays only for long scans; the API has none.
    options: '-c jit=off -c timezone=UTC -c plan_cache_mode=force_generic_plan',
  } as pg.PoolConfig)
  pool.on('error', (err) => log.warn({ err }, 'idle database connection lost'))
  // Of a connection in use, what is under way on it fails; but an event that nobody heard would end the process.
  pool.on('connect', (client) => void client.on('error', () => {}))
  return pool
}

/** What pg keeps to itself: the socket, and the prepared statements of the session. */
const connectionOf = (client: PoolClient) =>
  (client as unknown as { connection: { stream: Socket; parsedStatements: Record<string, string> } }).connection

const preparedOn = new WeakMap<PoolClient, LRU<string, true>>()

/** Notes a use of a prepared statement, and lets go of the one unused for longest; before a transaction, not in one. */
function keepPrepared(client: PoolClient, name: string): void {
  let names = preparedOn.get(client)
  if (!names) {
    const { parsedStatements } = connectionOf(client)
    const dispose = (unused: string) => {
      if (!(unused in parsedStatements)) return // It did not even parse.
      delete parsedStatements[unused]
      client.query(`deallocate ${client.escapeIdentifier(unused)}`).catch(() => {})
    }
    preparedOn.set(client, (names = new LRU({ maxLength: PREPARED_PER_CONNECTION, dispose })))
  }
  if (!names.get(name)) names.set(name, true)
}

/** The role that the identity was given, remembered for the next request of the session. */
function roleOf(caller: Identity, { rows }: QueryResult): string {
  const role = rows[0].role as string
  if (caller.session === '' || role === ANONYMOUS) return ANONYMOUS
  roles.set(caller.session, role)
  return role
}

/** PostgreSQL refuses what a caller without credentials was not granted: they have to show some. */
const isRefusal = (error: unknown) => error instanceof pg.DatabaseError && error.code === '42501'

/**
 * A plan that row-level security had a part in is good for one role, and a connection serves all: each role has prepared
 * statements of its own. A role that is no longer the session's costs a new plan and nothing else.
 */
const nameFor = (caller: Identity, name: string | undefined) => name && `${name.slice(0, 40)} ${roles.get(caller.session) ?? ''}` // PostgreSQL takes 63 characters, and PostGraphile's have 64.

/**
 * Runs one statement as the caller, in a transaction of its own and in one round trip: who is asking, the statement and
 * the commit are sent together. Should the identity be refused, or the statement fail, what follows in the aborted
 * transaction fails too, and its commit is a rollback: no statement of a caller ever runs as the login role. A reading transaction is
 * read-only, and its commit is not waited for. Throws RQ401 when the session is dead.
 */
export async function asCaller<Row>(
  pool: Pool,
  caller: Identity,
  mode: 'read' | 'write',
  statement: PgClientQuery,
): Promise<PgClientResult<Row>> {
  const { text, values, arrayMode } = statement
  const name = nameFor(caller, statement.name)
  const client = await pool.connect()
  let role = ANONYMOUS
  let broken = false
  let over: Promise<unknown> | undefined
  try {
    const { stream } = connectionOf(client)
    stream.cork()
    if (name) keepPrepared(client, name)
    const begun = client.query(mode === 'read' ? 'begin read only' : 'begin')
    const identified = client.query({ ...IDENTIFY, values: [caller.session, caller.ip] })
    const answered = client.query({ text, values, name, rowMode: arrayMode ? 'array' : undefined } as pg.QueryArrayConfig)
    const committed = client.query('commit')
    stream.uncork()

    over = Promise.allSettled([begun, identified, answered, committed]) // Each is awaited below, or need not be.
    await begun
    role = roleOf(caller, await identified) // First: why the identity was refused counts, and not that the transaction is aborted.
    const { rows, rowCount } = (await answered) as QueryResult
    if (mode === 'write') await committed
    return { rows, rowCount, notices: [] }
  } catch (error) {
    // Until its refusal has come, pg takes a statement that was sent for one that is prepared: the next caller's would be.
    await over
    // What PostgreSQL did not say itself may have left the connection in any state.
    broken = !(error instanceof pg.DatabaseError)
    throw role === ANONYMOUS && isRefusal(error) ? unauthenticated() : error
  } finally {
    client.release(broken)
    if (role !== ANONYMOUS) noteUse(pool, caller)
  }
}

/** Has the database note, in a transaction of its own and once a minute, that the session is in use. */
function noteUse(pool: Pool, caller: Identity): void {
  const now = Date.now()
  const last = touched.get(caller.session)
  if ((last && now - last.at < TOUCH_EVERY) || pool.ending) return
  touched.set(caller.session, { ...last, at: now })
  asCaller<{ user_id: string }>(pool, caller, 'write', { text: 'select app_hidden.touch_session() as user_id' }).then(
    ({ rows }) => touched.set(caller.session, { at: now, userId: rows[0]!.user_id }),
    () => {}, // The next minute's will do.
  )
}

/** Who is asking, and whether anybody is: a cookie may be dead. Throws RQ401 when a token's session is. */
export async function isAnonymous(pool: Pool, caller: Identity): Promise<boolean> {
  const { rows } = await asCaller<{ role: string }>(pool, caller, 'read', { text: 'select current_role as role' })
  return rows[0]!.role === ANONYMOUS
}

/** A statement as the caller: its rows. */
export type Ask = <Row>(statement: PgClientQuery) => Promise<readonly Row[]>

/** Runs several statements as the caller, in one transaction that is committed unless `work` throws. */
export async function inTransaction<T>(pool: Pool, caller: Identity, work: (ask: Ask) => Promise<T>): Promise<T> {
  const client = await pool.connect()
  let role = ANONYMOUS
  try {
    await client.query('begin')
    role = roleOf(caller, await client.query({ ...IDENTIFY, values: [caller.session, caller.ip] }))
    const result = await work(async ({ text, values }) => (await client.query(text, values as unknown[])).rows)
    await client.query('commit')
    return result
  } catch (error) {
    await client.query('rollback').catch(() => {}) // What failed first is what counts.
    throw role === ANONYMOUS && isRefusal(error) ? unauthenticated() : error
  } finally {
    client.release()
    if (role !== ANONYMOUS) noteUse(pool, caller)
  }
}

/** Grafast's way to the database, in PostGraphile's place, whose own takes four round trips for a statement. */
export function makeWithPgClient(pool: Pool, caller: Identity, mode: 'read' | 'write'): WithPgClient {
  let done = false
  const client: PgClient = {
    async query<Row>(statement: PgClientQuery) {
      try {
        const result = await asCaller<Row>(pool, caller, mode, statement)
        done = mode === 'write'
        return result
      } catch (error) {
        // What it shows of a change that has ended its own session, it shows as to a stranger: nothing that is not open.
        const isOver = error instanceof pg.DatabaseError && error.code === 'RQ401' && done
        if (!isOver) throw error
        return asCaller<Row>(pool, { ...caller, session: '' }, 'read', statement)
      }
    },
    // PostGraphile's mutations are single statements, each a transaction anyhow.
    withTransaction: async (work) => work(client as never),
  }
  return async (_settings, callback) => callback(client as never)
}
