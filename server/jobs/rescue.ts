import pg, { type Pool } from 'pg'
import type { Logger } from '../logger.ts'

/** Advisory locks of this class say that a pool of workers lives; the other half of the key is the hash of its id. */
const LIVES = 7277539
/** Milliseconds that the connection which holds our locks may take to be made, and to answer. */
const ANSWER_WITHIN = 5_000
/** Milliseconds. A pool counts as dead when it has had no lock for so long: a connection that was lost is back sooner. */
export const RESCUE = { lookEvery: 5_000, deadAfter: 20_000 }

/** A machine that vanishes does not say so: PostgreSQL then ends its sessions, and with them their locks, after 20 seconds. */
export const KEEPALIVE = '-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=2'

export interface Presence {
  /** Says that this pool of workers lives, for as long as this process does. */
  announce(poolId: string): void
  /** Takes that back: it has ended, and jobs that it may have left are for others. */
  withdraw(poolId: string): void
  close(): Promise<void>
}

/**
 * graphile-worker frees the jobs of a worker that was killed after four hours. Here each process keeps a lock for each of
 * its pools, which ends with the process however that ends; and each looks for jobs whose pool has none, and frees them.
 */
export async function makePresence(connectionString: string, pool: Pool, log: Logger, times = RESCUE): Promise<Presence> {
  const announced = new Set<string>()
  const missingSince = new Map<string, number>()
  let client: pg.Client | undefined
  let locked = new Set<string>()

  async function keepLocks(): Promise<void> {
    if (!client) {
      const opened = new pg.Client({
        connectionString,
        application_name: 'assent worker',
        keepAlive: true,
        options: KEEPALIVE,
        connectionTimeoutMillis: ANSWER_WITHIN,
        query_timeout: ANSWER_WITHIN,
        // With it, a statement without an answer ends the connection.
        pipeline: true,
      } as pg.ClientConfig)
      opened.on('error', (err) => log.warn({ err }, 'The worker lost a connection.'))
      opened.once('end', () => {
        if (client === opened) client = undefined
      })
      await opened.connect()
      client = opened
      locked = new Set()
    }
    await client.query('select 1') // Does it still stand?
    for (const id of announced) {
      if (locked.has(id)) continue
      await client.query('select pg_advisory_lock($1, hashtext($2))', [LIVES, id])
      locked.add(id)
    }
    for (const id of locked) {
      if (announced.has(id)) continue
      await client.query('select pg_advisory_unlock($1, hashtext($2))', [LIVES, id])
      locked.delete(id)
    }
  }

  async function freeJobsOfTheDead(): Promise<void> {
    // Another session asks than the one that holds our own locks, as that one would get them once more. It asks for a shared
    // lock: others look at the same moment, and each would take the lock of another's look for a sign of life.
    const { rows } = await pool.query<{ id: string }>(
      `select held.id
       from (select distinct locked_by as id from graphile_worker.jobs where locked_by is not null offset 0) held
       where pg_try_advisory_xact_lock_shared($1, hashtext(held.id))`,
      [LIVES],
    )
    const now = Date.now()
    const missing = new Set(rows.map(({ id }) => id))
    for (const id of missingSince.keys()) if (!missing.has(id)) missingSince.delete(id)
    for (const id of missing) if (!missingSince.has(id)) missingSince.set(id, now)
    const dead = [...missing].filter((id) => now - missingSince.get(id)! >= times.deadAfter)
    if (dead.length === 0) return
    await pool.query('select graphile_worker.force_unlock_workers($1)', [dead])
    log.warn({ pools: dead }, 'Workers have died; their jobs are free again.')
  }

  let looking: Promise<void> | undefined
  const look = () =>
    (looking ??= keepLocks()
      .then(freeJobsOfTheDead)
      .catch((err: unknown) => log.warn({ err }, 'The worker could not look after its locks.'))
      .finally(() => (looking = undefined)))

  await keepLocks()
  const timer = setInterval(look, times.lookEvery)
  return {
    announce(poolId) {
      announced.add(poolId)
      void look()
    },
    withdraw(poolId) {
      announced.delete(poolId)
    },
    async close() {
      clearInterval(timer)
      await looking
      await client?.end()
    },
  }
}
