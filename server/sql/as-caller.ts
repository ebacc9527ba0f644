import pg, { type Pool, type PoolClient, type QueryResult } from 'pg'
import type { PgClientQuery, PgClientResult } from 'postgraphile/@dataplan/pg'
import { ClientError, unauthenticated } from '../errors.ts'
import { traceparent, traceStatement } from '../tracing.ts'
import type { Sessions } from './in-use.ts'
import { withClient } from './pool.ts'
import { connectionOf, makeKeepPrepared, prepareAnew, type KeepPrepared } from './prepared.ts'
import { awaiting, type Position, type ReadAside } from './replicas.ts'

/** Who a request claims to be: the database is told, and proves it. */
export interface Identity {
  /** The session's secret, or "" without credentials. */
  readonly session: string
  /** The caller's address, or "" when it is unknown. */
  readonly ip: string
  /** What the caller says it is, or null. */
  readonly userAgent: string | null
  /** The browser sent the session's cookie by itself: a change must be proven to be meant. */
  readonly byCookie: boolean
}

/** A pool, what is remembered of the sessions and connections that use it, and replicas for its reads if there are any. */
export interface Database {
  readonly pool: Pool
  readonly sessions: Sessions
  readonly keepPrepared: KeepPrepared
  readonly readAside: ReadAside | undefined
}

export const makeDatabase = (pool: Pool, sessions: Sessions, readAside?: ReadAside): Database => ({
  pool,
  sessions,
  keepPrepared: makeKeepPrepared(),
  readAside,
})

/** The one statement by which a transaction learns who is asking; see db/rules/caller.sql. */
const IDENTIFY = {
  name: 'identify',
  text: 'select app_hidden.become($1, $2) as role',
}

/**
 * Connections plan for any values (pool.ts). Of hundreds of conditions such a plan takes the planner seconds, where with
 * the values at hand it folds those that are alike.
 */
const MOST_GENERIC = 100
const PLAN_FOR_VALUES = `select app_hidden.become($1, $2) as role, set_config('plan_cache_mode', 'force_custom_plan', true)`
const IDENTIFY_AND_PLAN_FOR_VALUES = { name: 'identify and plan for values', text: PLAN_FOR_VALUES }

/**
 * A count or an aggregate: no index bounds what it reads. So it is planned for the values, by which few of many rows are found by
 * an index, and has less time than other statements.
 */
const SUMMARY = 'summary '
export const summary = (name: string) => `${SUMMARY}${name}`
const IDENTIFY_FOR_SUMMARY = {
  name: 'identify for a summary',
  text: `${PLAN_FOR_VALUES}, set_config('statement_timeout', '2s', true)`,
}

/** What is traced tells the jobs that it queues, see app_private.job_payload(). */
const IDENTIFY_AND_TRACE = { name: 'identify and trace', text: `${IDENTIFY.text}, set_config('assent.traceparent', $3, true)` }

function identifyFor({ session, ip }: Identity, mode: 'read' | 'write', { name, values: given = [] }: Partial<PgClientQuery>) {
  const values = [session, ip]
  if (name?.startsWith(SUMMARY)) return { ...IDENTIFY_FOR_SUMMARY, values }
  if (given.length > MOST_GENERIC) return { ...IDENTIFY_AND_PLAN_FOR_VALUES, values }
  const trace = mode === 'write' && traceparent()
  return trace ? { ...IDENTIFY_AND_TRACE, values: [...values, trace] } : { ...IDENTIFY, values }
}

const ANONYMOUS = 'assent_anonymous'

const roleIn = ({ rows }: QueryResult) => rows[0].role as string

/** PostgreSQL refuses a caller without credentials what strangers were not granted: they have to show some. */
const explain = (error: unknown, role: string) =>
  role === ANONYMOUS && error instanceof pg.DatabaseError && error.code === '42501' ? unauthenticated() : error

/**
 * A plan with row-level security in it is good for one role, and a connection serves all: each role has prepared statements
 * of its own. A role that has changed costs a new plan and nothing else. PostgreSQL takes names of 63 characters, and
 * PostGraphile's have 64.
 */
const nameFor = ({ sessions }: Database, { session }: Identity, name: string | undefined) =>
  name && `${name.slice(0, 40)} ${sessions.roleOf(session) ?? ''}`

/**
 * Was the statement prepared for tables that a migration has changed since? PostgreSQL finds out before it runs any of it: it says
 * that its columns have become others; or, of a function in FROM, that there are more than it knew, which is a fault of its own
 * (XX000), and so is told by where it was found.
 */
const isOutdated = (error: unknown) =>
  error instanceof pg.DatabaseError && ['RevalidateCachedQuery', 'expandRTE'].includes(error.routine ?? '')

/** Bytes that an answer may have, and that PostgreSQL may send for it. */
export const MAX_ANSWER = 8_000_000

export const tooLarge = () =>
  new ClientError('BAD_REQUEST', `The answer would be larger than ${MAX_ANSWER / 1e6} MB: ask for fewer rows or fields.`)

/** The bytes that PostgreSQL may still send for a call, however many statements it has. */
export interface Budget {
  bytes: number
}

/**
 * Runs one statement as the caller, in a transaction of its own and in one round trip: the identity, the statement and
 * the commit are sent together. Should the identity be refused, or the statement fail, what follows in the aborted
 * transaction fails too, and its commit is a rollback: no statement of a caller ever runs as the login role. A reading
 * transaction is read-only, and its commit is not waited for. Throws RQ401 when the session is dead, and BAD_REQUEST when
 * PostgreSQL sends more than the budget has: its connection is then cut, so that the rest is neither read nor kept.
 */
export async function asCaller<Row>(
  db: Database,
  caller: Identity,
  mode: 'read' | 'write',
  statement: PgClientQuery,
  budget?: Budget,
): Promise<PgClientResult<Row>> {
  const run = (client: PoolClient, position?: Position) => {
    const name = nameFor(db, caller, statement.name)
    const once = () => traced(client, statement, () => transact<Row>(db, client, caller, mode, statement, budget, position))
    return once().catch(async (error) => {
      if (!name || !isOutdated(error)) throw error
      await prepareAnew(client, name)
      return once()
    })
  }
  return (mode === 'read' && (await db.readAside?.(run))) || withClient(db.pool, run)
}

/** The types of a pool's connection do not name the server that it leads to. */
const traced = <T>(client: PoolClient, statement: { readonly name?: string; readonly text: string }, work: () => Promise<T>) =>
  traceStatement(client as unknown as pg.Client, statement, work)

/** What follows the wait for a position has to see what came meanwhile, whatever isolation the database would have by itself. */
const BEGIN = { read: 'begin read only', write: 'begin', aside: 'begin isolation level read committed read only' }

async function transact<Row>(
  db: Database,
  client: PoolClient,
  caller: Identity,
  mode: 'read' | 'write',
  statement: PgClientQuery,
  budget: Budget = { bytes: MAX_ANSWER },
  position?: Position,
): Promise<PgClientResult<Row>> {
  const { text, values, arrayMode } = statement
  const name = nameFor(db, caller, statement.name)
  let role = ANONYMOUS
  let received = 0
  let over: Promise<unknown> | undefined
  const { stream } = connectionOf(client)
  const count = (chunk: Buffer) => {
    received += chunk.length
    budget.bytes -= chunk.length
    if (budget.bytes < 0) stream.destroy(tooLarge())
  }
  try {
    stream.on('data', count)
    stream.cork()
    if (name) db.keepPrepared(client, name)
    const begun = client.query(BEGIN[position ? 'aside' : mode])
    const caughtUp = position && client.query(awaiting(position))
    const identified = client.query(identifyFor(caller, mode, statement))
    const answered = client.query({ text, values, name, rowMode: arrayMode ? 'array' : undefined } as pg.QueryArrayConfig)
    const committed = client.query('commit')
    stream.uncork()

    over = Promise.allSettled([begun, caughtUp, identified, answered, committed]) // Each is awaited below, or need not be.
    await begun
    await caughtUp
    role = roleIn(await identified) // First: if the identity was refused, this is the reason, and not the aborted transaction.
    const { rows, rowCount } = (await answered) as QueryResult
    if (mode === 'write') await committed
    note(db, caller, role)
    return { rows, rowCount, notices: [] }
  } catch (error) {
    // pg marks a statement as prepared when it is sent. Wait for the error, or the next caller will use one that does not exist.
    await over
    // The primary answers instead of a replica, and says who it was.
    if (position) budget.bytes += received
    else note(db, caller, role)
    throw explain(error, role)
  } finally {
    stream.off('data', count)
  }
}

function note(db: Database, caller: Identity, role: string): void {
  if (role === ANONYMOUS) return db.sessions.forget(caller.session)
  db.sessions.saw(caller.session, role, async () => {
    const touch = { text: 'select app_hidden.touch_session() as user_id' }
    const { rows } = await asCaller<{ user_id: string }>(db, caller, 'write', touch)
    return rows[0]!.user_id
  })
}

/** A statement as the caller: its rows. */
export type Ask = <Row>(statement: PgClientQuery) => Promise<readonly Row[]>

/** Asks as the caller, each statement in a transaction of its own. */
export const asking =
  (db: Database, caller: Identity, mode: 'read' | 'write'): Ask =>
  async <Row>(statement: PgClientQuery) =>
    (await asCaller<Row>(db, caller, mode, statement)).rows

/** Asks as the caller on one connection, each statement in a transaction of its own: only the first may have to wait for it. */
export const onOneConnection = <T>(db: Database, caller: Identity, work: (ask: Ask) => Promise<T>): Promise<T> =>
  withClient(db.pool, (client) =>
    work(async <Row>(statement: PgClientQuery) => {
      const { rows } = await traced(client, statement, () => transact<Row>(db, client, caller, 'write', statement))
      return rows
    }),
  )

/** Runs several statements as the caller, in one transaction that is committed unless `work` throws. */
export const inTransaction = <T>(db: Database, caller: Identity, work: (ask: Ask) => Promise<T>): Promise<T> =>
  withClient(db.pool, async (client) => {
    let role = ANONYMOUS
    try {
      await client.query('begin')
      role = roleIn(await client.query(identifyFor(caller, 'write', {})))
      const result = await work(async <Row>({ text, values }: PgClientQuery) => {
        const { rows } = await traced(client, { text }, () => client.query(text, values as unknown[]))
        return rows as Row[]
      })
      await client.query('commit')
      return result
    } catch (error) {
      await client.query('rollback').catch(() => {}) // What failed first is what counts.
      throw explain(error, role)
    } finally {
      note(db, caller, role)
    }
  })

/** Is nobody asking? A dead cookie counts as nobody. Throws RQ401 when a token's session is dead. */
export async function isStranger(db: Database, caller: Identity): Promise<boolean> {
  const [row] = await asking(db, caller, 'read')<{ role: string }>({ text: 'select current_role as role' })
  return row!.role === ANONYMOUS
}

/**
 * Who is asking, before anything is done for them: nobody, if the cookie is dead. Of a session that was alive when it was last
 * seen nothing is asked, since each of its statements proves it again. Throws RQ401 when a token's session is dead.
 */
export async function recognize(db: Database, caller: Identity): Promise<Identity> {
  const isKnown = caller.session === '' || db.sessions.roleOf(caller.session) !== undefined
  return isKnown || !(await isStranger(db, caller)) ? caller : { ...caller, session: '', byCookie: false }
}

/** Proves the session. Throws RQ401 when a token's is dead; a dead cookie is no fault. */
export async function prove(db: Database, caller: Identity): Promise<void> {
  await isStranger(db, caller)
}
