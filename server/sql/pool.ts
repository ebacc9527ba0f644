import pg, { type Pool, type PoolClient } from 'pg'
import { ClientError, Unreachable } from '../errors.ts'
import type { Logger } from '../logger.ts'
import { withSettings } from './connection.ts'
import { connectionOf } from './prepared.ts'

/** PostgreSQL's error on a server that takes no writes, such as the old primary after a failover. */
const READ_ONLY = '25006'
/**
 * Errors that are about the connection or its server: a statement that PostgreSQL has lost, a plan that no longer fits, a standby in
 * place of the primary or the other way round (55000).
 */
const OF_CONNECTION = /^(08|0A000|25P0[34]|26000|53|55000|57P|58|XX)/

/**
 * Keeps connections out of a pool that are of no more use, and forgets them as soon as they are returned. Where one server
 * takes no writes, all that are open may lead to it: none of them is used again, in any of the pools that share this.
 */
export function makeWatch() {
  const pools = new Map<Pool, Set<PoolClient>>()
  const useless = new WeakSet<PoolClient>()

  function leaveServer(): void {
    for (const [pool, open] of pools) {
      for (const client of open) useless.add(client)
      for (let idle = pool.idleCount; idle > 0; idle--)
        pool.connect().then(
          (client) => client.release(true),
          () => {},
        )
    }
  }

  function watch(pool: Pool): void {
    const open = new Set<PoolClient>()
    pools.set(pool, open)
    pool.on('connect', (client) => {
      open.add(client)
      connectionOf(client).on('errorMessage', ({ code = '' }: { code?: string }) => {
        if (code === READ_ONLY) leaveServer()
        else if (OF_CONNECTION.test(code)) useless.add(client)
      })
    })
    pool.on('remove', (client) => open.delete(client))
    // The pool does not keep a connection that is ending.
    pool.on('release', (_error, client) => useless.has(client) && void client.end())
  }

  /** Ends all connections, those in use as well: their server has vanished, and no statement on them will be answered. */
  function cut(): void {
    for (const open of pools.values()) for (const client of open) connectionOf(client).stream.destroy()
  }
  return { watch, cut }
}

/** Milliseconds for opening a connection. One that takes longer leads nowhere, however long a caller may queue for it. */
const OPENED_WITHIN = 900
/** Milliseconds that an answer may take on its way. A server that has vanished is silent for ever. */
const UNDER_WAY = 2_000

class Client extends pg.Client {
  constructor(config?: pg.ClientConfig) {
    super({ ...config, connectionTimeoutMillis: OPENED_WITHIN })
  }
}

/** In milliseconds. */
export interface Limits {
  /** How long to wait for a connection. */
  readonly patience?: number
  /** How long a statement may run. */
  readonly longest?: number
}

/** Opens a pool of at most so many connections. */
export type OpenPool = (max: number, limits?: Limits) => Pool

/** Opens pools of connections as the API's login role. */
export function makeOpenPool(connectionString: string, log: Logger): OpenPool {
  const { watch } = makeWatch()
  return (max, { patience = OPENED_WITHIN, longest = 10_000 } = {}) => {
    const pool = new pg.Pool({
      Client,
      // Compiling pays only for long scans, of which the API has none. Plans are generic because a prepared statement whose
      // custom plan looks cheaper would be planned at every call, at many times the cost of running it.
      connectionString: withSettings(connectionString, 'jit=off', 'plan_cache_mode=force_generic_plan'),
      max,
      application_name: 'assent api',
      // Statements are sent without waiting for the answer to the one before.
      pipeline: true,
      connectionTimeoutMillis: patience,
      statement_timeout: longest,
      query_timeout: longest + UNDER_WAY,
      lock_timeout: 5_000,
      idle_in_transaction_session_timeout: 15_000,
    } as pg.PoolConfig)
    pool.on('error', (err) => log.warn({ err }, 'idle database connection lost'))
    // When a connection in use is lost, the statements on it fail; but an event that nobody heard would end the process.
    pool.on('connect', (client) => void client.on('error', () => {}))
    watch(pool)
    return pool
  }
}

/** A connection of the pool. Whatever stands in the way, even a password that has changed, is no fault of the caller. */
async function checkOut(pool: Pool): Promise<PoolClient> {
  try {
    return await pool.connect()
  } catch (cause) {
    throw new Unreachable(cause)
  }
}

/** Works on a connection of the pool. */
export async function withClient<T>(pool: Pool, work: (client: PoolClient) => Promise<T>): Promise<T> {
  const client = await checkOut(pool)
  let broken = false
  try {
    return await work(client)
  } catch (error) {
    // Any error but PostgreSQL's own, or one of ours, may have left the connection in any state.
    broken = !(error instanceof pg.DatabaseError || error instanceof ClientError)
    throw error
  } finally {
    client.release(broken)
  }
}
