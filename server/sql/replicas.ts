import pRetry from 'p-retry'
import pg, { type Pool, type PoolClient } from 'pg'
import { asError, ClientError } from '../errors.ts'
import type { Logger } from '../logger.ts'
import { makeOpenPool, withClient, type Limits, type OpenPool } from './pool.ts'

/** Where the primary's write-ahead log ends: what a replica must have replayed to answer. See db/rules/replicas.sql. */
export interface Position {
  readonly history: string
  readonly lsn: string
}

/** Milliseconds in which a server has to say where it is. One that has vanished says nothing. */
const ANSWER_WITHIN = 1_000
const ASK_POSITION = {
  name: 'wal_position',
  text: 'select history, lsn from app_hidden.wal_position()',
  query_timeout: ANSWER_WITHIN,
}

/** What a transaction begins with that has to see everything up to a position: it fails where that cannot be seen. */
export const awaiting = ({ history, lsn }: Position) => ({
  name: 'await_wal',
  text: 'select app_hidden.await_wal($1, $2)',
  values: [history, lsn],
  query_timeout: ANSWER_WITHIN,
})

/** The error of app_hidden.await_wal. */
const NOT_THERE = '55000'
/** Errors that are about the server, as it is if there is no answer at all; others are about the statement. */
const OF_REPLICA = /^(55000|08|53|57P|58|XX)/
/** A statement that was stopped after so many milliseconds had used up its time, and would do so on the primary as well. */
const SHORTEST_LIMIT = 1_000

const codeOf = (error: unknown) => (error instanceof pg.DatabaseError ? error.code : undefined)

/** Who has answered a read: a replica; or the primary, because of the replica's lag, its failure, or because there is none. */
export const OUTCOMES = ['answered', 'late', 'failed', 'none'] as const
export type Outcome = (typeof OUTCOMES)[number]

/** Lets a replica answer a read, on a connection that `read` is given; undefined if the primary has to answer it. */
export type ReadAside = <T>(read: (client: PoolClient, position: Position) => Promise<T>) => Promise<T | undefined>

export interface Replica {
  /** Its address. */
  readonly name: string
  readonly isReady: boolean
  /** Bytes that it has yet to replay. */
  lag(): Promise<number>
}

/**
 * The servers of REPLICA_DATABASE_URL. A read that one of them answers has seen all that was done before the read began, so that
 * callers notice no difference: see docs/operations.md. Whatever is wrong with a replica, the primary is asked instead.
 */
export function makeReplicas(urls: readonly string[], openPrimary: OpenPool, log: Logger, note: (outcome: Outcome) => void) {
  const primary = openPrimary(1)
  const pools: Record<string, Pool> = { position: primary }
  const closing = new AbortController()
  const position = makeAskPosition(primary)
  const replicas = urls.map((url) => makeReplica(url, position, log, closing.signal))
  let turn = 0

  /** Opens pools beside the one of this name to the primary, with as many connections to each replica and with its limits. */
  function beside(name: string, size: number, limits?: Limits): ReadAside {
    const label = (replica: Replica) => `${name} of ${replica.name}`
    for (const replica of replicas) pools[label(replica)] = replica.openPool(size, limits)
    return async (read) => {
      const ready = replicas.filter(({ isReady }) => isReady)
      const replica = ready[turn++ % ready.length]
      const here = replica && (await position().catch(() => undefined))
      if (!here) return void note('none')
      const start = performance.now()
      try {
        const answer = await withClient(pools[label(replica)]!, (client) => read(client, here))
        note('answered')
        return answer
      } catch (error) {
        const code = codeOf(error)
        const isOver = code === '57014' && performance.now() - start > SHORTEST_LIMIT
        if (error instanceof ClientError || isOver) throw error
        if (code === undefined || OF_REPLICA.test(code)) replica.leave(error)
        return void note(code === NOT_THERE ? 'late' : 'failed')
      }
    }
  }

  return {
    all: replicas as readonly Replica[],
    pools,
    beside,
    async close() {
      closing.abort()
      await Promise.all([...Object.values(pools), ...replicas.map(({ looking }) => looking)].map((pool) => pool.end()))
    },
  }
}

/**
 * Asks the primary for its position, with one question at a time. An answer is good for whoever asked before the question was
 * sent: all who come while one is under way share the next. However many reads there are, the primary hears few questions.
 */
function makeAskPosition(primary: Pool): () => Promise<Position> {
  let last: Promise<unknown> = Promise.resolve()
  let next: Promise<Position> | undefined
  async function ask(): Promise<Position> {
    next = undefined
    return (await withClient(primary, (client) => client.query<Position>(ASK_POSITION))).rows[0]!
  }
  return () => {
    if (next) return next
    next = last.then(ask)
    last = next.catch(() => {})
    return next
  }
}

function makeReplica(url: string, position: () => Promise<Position>, log: Logger, closing: AbortSignal) {
  const name = new URL(url).host
  const openPool = makeOpenPool(url, log)
  const looking = openPool(1)
  let isReady = false

  const look = () => withClient(looking, async (client) => client.query(awaiting(await position())))

  /** Looks for it until it can answer. No caller waits for that. */
  function lookOut(): void {
    pRetry(() => look().catch(asError), {
      retries: Number.POSITIVE_INFINITY,
      minTimeout: 100,
      maxTimeout: 5_000,
      unref: true,
      signal: closing,
    }).then(
      () => {
        isReady = true
        log.debug({ replica: name }, 'replica answers')
      },
      () => {}, // It is closing.
    )
  }
  lookOut()

  return {
    name,
    get isReady() {
      return isReady
    },
    openPool,
    looking,
    leave(err: unknown): void {
      if (!isReady) return
      isReady = false
      log[codeOf(err) === NOT_THERE ? 'debug' : 'warn']({ err, replica: name }, 'replica left alone')
      lookOut()
    },
    async lag() {
      const { lsn } = await position()
      // Others may have written, and it replayed, since it was asked; and what never was a standby has nothing to replay.
      const text = 'select coalesce(greatest(0, pg_wal_lsn_diff($1, pg_last_wal_replay_lsn())), 0)::float as bytes'
      const { rows } = await withClient(looking, (client) => client.query<{ bytes: number }>(text, [lsn]))
      return rows[0]!.bytes
    },
  }
}
