import type { JobHelpers, Task } from 'graphile-worker'
import pRetry from 'p-retry'
import type { PoolClient } from 'pg'
import { asError } from '../errors.ts'

/** How mails or deliveries are sent. What is sent, and what is recorded, is in db/rules/mails.sql and webhooks.sql. */
export interface Channel<Item> {
  /** Returns what to send, or null if it was sent already or there is no point in sending it any more. */
  toSend(client: PoolClient, id: string): Promise<Item | null>
  /** Sends it, and returns what `sent` records. Throws when that has failed. */
  send(id: string, item: Item, signal: AbortSignal | undefined): Promise<unknown>
  /** The statement that records a success. Its parameters are the id and what `send` has returned. */
  readonly sent: string
  /** The statement that records a failure. Its parameters are the id, what `describe` returns, and whether it was the last. */
  readonly failed: string
  /** Returns what `failed` records about an error. */
  describe(error: Error): unknown[]
  /** Is it useless to try again? */
  isForGood(error: Error): boolean
}

/**
 * The task that sends one row of the outbox. No other worker sends the same row meanwhile, because the session holds a lock
 * until it is done; if the process dies, the lock ends with its session.
 */
export const sending =
  <Item>(channel: Channel<Item>): Task<'send_mail' | 'deliver_webhook'> =>
  async ({ id }, helpers) => {
    await helpers.withPgClient(async (client) => {
      const { rows } = await client.query('select app_private.lock_outbox($1) as locked', [id])
      if (!rows[0].locked) throw new Error('Another worker is sending this.')
      try {
        await sendOne(channel, id, client, helpers)
      } finally {
        // If this fails, the lock has ended with its session.
        await client.query('select app_private.unlock_outbox($1)', [id]).catch(() => {})
      }
    })
  }

async function sendOne<Item>(channel: Channel<Item>, id: string, client: PoolClient, helpers: JobHelpers): Promise<void> {
  const { query, job, abortSignal } = helpers
  const item = await channel.toSend(client, id)
  if (item === null) return
  let outcome: unknown
  try {
    outcome = await channel.send(id, item, abortSignal)
  } catch (thrown) {
    const error = thrown as Error
    // The other side may send anything, but PostgreSQL, where graphile-worker stores the message too, accepts no NUL.
    error.message = error.message.replaceAll('\0', ' ')
    const forGood = channel.isForGood(error) || job.attempts >= job.max_attempts
    await client.query(channel.failed, [id, ...channel.describe(error), forGood])
    if (forGood) return
    throw error
  }
  // It has been sent, and if that is not recorded, it will be sent again: so a failing database does not stop this.
  await pRetry(() => query(channel.sent, [id, outcome]).catch(asError), { retries: 20, maxTimeout: 5_000 })
}
