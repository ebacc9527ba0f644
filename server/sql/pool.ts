import pg, { type Pool } from 'pg'
import type { Logger } from '../logger.ts'

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
    // Compiling pays only for long scans; the API has none. Generic plans: a prepared statement whose custom plan looks cheaper
    // would be planned at every call, at many times the cost of running it.
    options: '-c jit=off -c timezone=UTC -c plan_cache_mode=force_generic_plan',
  } as pg.PoolConfig)
  pool.on('error', (err) => log.warn({ err }, 'idle database connection lost'))
  // When a connection in use is lost, the statements on it fail; but an event that nobody heard would end the process.
  pool.on('connect', (client) => void client.on('error', () => {}))
  return pool
}
