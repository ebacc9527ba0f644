import { EventEmitter } from 'node:events'
import pg from 'pg'
import { ClientError, Unreachable } from '../errors.ts'
import type { Logger } from '../logger.ts'
import { withSettings } from '../sql/connection.ts'

export type Listener = (detail: string) => void

/** What the database announces (see db/rules/announcements.sql), for whoever listens in this process. */
export interface Live {
  /** Begins to listen to the database, unless it does already. Throws when the database cannot be reached. */
  open(): Promise<void>
  /**
   * Hears what is announced of a topic such as "request <id>"; what follows the topic is the detail. A topic of one word, such
   * as "request", is all of that kind, and the id is the detail. Returns a function that stops it. Announcements are heard only
   * while the connection stands: `lost` says when some may have been missed.
   */
  on(topic: string, listener: Listener): () => void
  close(): Promise<void>
}

/** Every login to the database can announce anything. Whatever does not have the form of ours is passed over. */
const ID = '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}'
const ANNOUNCEMENT = new RegExp(`^(request|inbox|session|notification(?= ${ID} ${ID}$)) (${ID})(?: (${ID}))?$`)

/** Milliseconds. The end of a session must be known within 5 seconds, so no silence may stay unexplained for longer. */
const PROBE_EVERY = 2_000
const ANSWER_WITHIN = 2_000

/**
 * Listens by one connection for the whole process, which is opened when somebody first subscribes. A lost connection is not
 * opened again by itself: the subscribers are sent away, and the first of them to come back opens the next.
 */
export function makeLive(connectionString: string, log: Logger, lost: () => void): Live {
  const topics = new EventEmitter<Record<string, [detail: string]>>().setMaxListeners(0)
  let opened: Promise<pg.Client> | undefined
  let closed = false

  function dispatch({ payload = '' }: pg.Notification): void {
    const [, kind, id, detail = ''] = ANNOUNCEMENT.exec(payload) ?? []
    if (!kind || !id) return
    topics.emit(`${kind} ${id}`, detail)
    topics.emit(kind, id)
  }

  async function connect(): Promise<pg.Client> {
    const client = new pg.Client({
      connectionString: withSettings(connectionString),
      application_name: 'assent live',
      keepAlive: true,
      connectionTimeoutMillis: 900,
      query_timeout: ANSWER_WITHIN,
      pipeline: true, // In this mode a statement that is not answered in time ends the connection.
    } as pg.ClientConfig)
    client.on('error', (err) => log.warn({ err }, 'live connection lost'))
    client.on('notification', dispatch)
    try {
      await client.connect()
      await client.query('listen assent')
    } catch (cause) {
      await client.end()
      throw new Unreachable(cause)
    }
    // A vanished peer is as silent as an idle one, so probe it; and where nothing is written, nothing is announced either.
    const probing = setInterval(() => {
      client.query<{ transaction_read_only: string }>('show transaction_read_only').then(
        ({ rows }) => void (rows[0]!.transaction_read_only === 'on' && client.end()),
        () => {},
      )
    }, PROBE_EVERY)
    client.once('end', () => {
      clearInterval(probing)
      opened = undefined
      lost()
    })
    return client
  }

  return {
    async open() {
      if (closed) throw new ClientError('UNAVAILABLE', 'The service is shutting down.', { retryAfter: 1 })
      opened ??= connect().catch((error: unknown) => {
        opened = undefined
        throw error
      })
      await opened
    },
    on(topic, listener) {
      topics.on(topic, listener)
      return () => void topics.off(topic, listener)
    },
    async close() {
      closed = true
      const client = await opened?.catch(() => undefined)
      await client?.end()
    },
  }
}
