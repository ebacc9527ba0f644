import pg, { type Pool } from 'pg'
import type { Logger } from '../logger.ts'

/** An advisory lock of this class shows that a pool of workers is alive; the second key is the hash of the pool's id. */
const LIVES = 7277539
/** Milliseconds that a connection may take to open, and that the one which holds our locks may take to answer a query. */
export const ANSWER_WITHIN = 5_000
/** Milliseconds. A pool counts as dead when it has had no lock for `deadAfter`: a lost connection is replaced sooner. */
export const RESCUE = { lookEvery: 5_000, deadAfter: 20_000 }

/** If a machine vanishes without closing its connections, PostgreSQL ends its sessions, and so their locks, after 20 seconds. */
export const KEEPALIVE = ['tcp_keepalives_idle=10', 'tcp_keepalives_interval=5', 'tcp_keepalives_count=2']

export interface Presence {
  /** Announces that this pool of workers is alive, for as long as this process is. */
  announce(poolId: string): void
  /** Withdraws that: the pool has ended, and others may take jobs that it has left. */
  withdraw(poolId: string): void
  close(): Promise<void>
}

/**
 * graphile-worker frees the jobs of a worker that was killed only after four hours. Here each process holds a lock for each of
 * its pools, which ends with the process however that ends. Each process also looks for jobs whose pool has no lock, and frees
 * them. `lost` is called when the server that holds our locks has vanished or takes no writes any more.
 */
export async function makePresence(
  connectionString: string,
  pool: Pool,
  log: Logger,
  times = RESCUE,
  lost = () => {},
): Promise<Presence> {
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
        connectionTimeoutMillis: ANSWER_WITHIN,
        query_timeout: ANSWER_WITHIN,
        // In this mode, a statement that gets no answer ends the connection.
        pipeline: true,
      } as pg.ClientConfig)
      opened.on('error', (err) => log.warn({ err }, 'The worker lost a connection.'))
      opened.once('end', () => {
        if (client !== opened) return
        client = undefined
        lost()
      })
      await opened.connect()
      client = opened
      locked = new Set()
    }
    const { rows } = await client.query('show transaction_read_only')
    if (rows[0].transaction_read_only === 'on') {
      // Nobody looks for locks on a standby, or on a primary that has been replaced.
      await client.end()
      throw new Error('The database takes no writes.')
    }
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
    // This uses another session than the one that holds our own locks, which would get them a second time. It asks for shared
    // locks, because other processes may look at the same moment, and would take exclusive ones for a sign of life.
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
      const last = client
      client = undefined
      await last?.end()
    },
  }
}
