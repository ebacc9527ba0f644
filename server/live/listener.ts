import pg from 'pg'
import { ClientError } from '../errors.ts'
import type { Logger } from '../logger.ts'

type Listener = (detail: string) => void

/** What the database announces (see db/rules/announcements.sql), to whoever listens in this process. */
export interface Live {
  /** Begins to listen to the database, if it is not done. Throws when it cannot be. */
  open(): Promise<void>
  /**
   * Hears what is announced of a topic, as "request <id>"; the detail is what is said after it. Answers how to hear no more.
   * Heard is what comes while the connection stands: `lost` says when there may be something that was not.
   */
  on(topic: string, listener: Listener): () => void
  close(): Promise<void>
}

/** Milliseconds. A session that has ended is to be known within 5 seconds: so long nothing may have been heard, unknown to us. */
const LOOK_EVERY = 2_000
const ANSWER_WITHIN = 2_000

/**
 * Listens by one connection for the whole process, which is opened when first somebody subscribes. It is not opened again
 * by itself: when it is lost, the subscribers are sent away, and the first to come back opens the next.
 */
export function makeLive(connectionString: string, log: Logger, lost: () => void): Live {
  const topics = new Map<string, Set<Listener>>()
  let opened: Promise<pg.Client> | undefined
  let closed = false

  function dispatch({ payload = '' }: pg.Notification): void {
    const [kind, id, detail = ''] = payload.split(' ')
    for (const listener of topics.get(`${kind} ${id}`) ?? []) listener(detail)
  }

  async function connect(): Promise<pg.Client> {
    const client = new pg.Client({
      connectionString,
      application_name: 'assent live',
      keepAlive: true,
      connectionTimeoutMillis: 900,
      query_timeout: ANSWER_WITHIN,
      // With it, a statement without an answer ends the connection.
      pipeline: true,
    } as pg.ClientConfig)
    client.on('error', (err) => log.warn({ err }, 'live connection lost'))
    client.on('notification', dispatch)
    await client.connect()
    try {
      await client.query('listen assent')
    } catch (error) {
      await client.end()
      throw error
    }
    // A peer that has vanished says nothing, as one does with nothing to say.
    const looking = setInterval(() => client.query('select 1').catch(() => {}), LOOK_EVERY)
    client.once('end', () => {
      clearInterval(looking)
      opened = undefined
      lost()
    })
    return client
  }

  return {
    async open() {
      if (closed) throw new ClientError('UNAVAILABLE', 'The service is closing.', { retryAfter: 1 })
      opened ??= connect().catch((error: unknown) => {
        opened = undefined
        throw error
      })
      await opened
    },
    on(topic, listener) {
      const listeners = topics.get(topic) ?? new Set()
      topics.set(topic, listeners.add(listener))
      return () => {
        listeners.delete(listener)
        if (listeners.size === 0 && topics.get(topic) === listeners) topics.delete(topic)
      }
    },
    async close() {
      closed = true
      const client = await opened?.catch(() => undefined)
      await client?.end()
    },
  }
}
