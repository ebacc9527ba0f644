import type { JobHelpers, Task } from 'graphile-worker'
import pRetry from 'p-retry'
import type { PoolClient } from 'pg'

/** How one kind of thing is sent: a mail, a delivery. Its rules, and what they record, are in db/rules/outbox.sql. */
export interface Channel<Item> {
  /** What to send, or null: it is out already, or there is no point in it any more. */
  toSend(client: PoolClient, id: string): Promise<Item | null>
  /** Sends it, and answers what is worth recording. Throws when that has failed. */
  send(id: string, item: Item, signal: AbortSignal | undefined): Promise<unknown>
  /** Statements that record the outcome: of the id and what `send` has answered; of the id and what `describe` says. */
  readonly sent: string
  readonly failed: string
  /** The parameters of `failed` after the id, the last of them aside, which says that it will not be tried again. */
  describe(error: Error): unknown[]
  /** Would it be in vain to try again? */
  isForGood(error: Error): boolean
}

/**
 * The task that sends one row of the outbox. No other worker sends the same row meanwhile: a lock of one session is held for
 * all of it, and ends with the process.
 */
export const sending =
  <Item>(channel: Channel<Item>): Task<'send_mail' | 'deliver_webhook'> =>
  async ({ id }, helpers) => {
    await helpers.withPgClient(async (client) => {
      const { rows } = await client.query('select pg_try_advisory_lock(app_private.outbox_lock($1)) as locked', [id])
      if (!rows[0].locked) throw new Error('Another worker is sending this.')
      try {
        await sendOne(channel, id, client, helpers)
      } finally {
        await client.query('select pg_advisory_unlock(app_private.outbox_lock($1))', [id]).catch(() => {}) // Gone with the session.
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
    // The other side may say anything, and PostgreSQL, where graphile-worker keeps it too, takes no NUL.
    error.message = error.message.replaceAll('\0', ' ')
    const forGood = channel.isForGood(error) || job.attempts >= job.max_attempts
    await client.query(channel.failed, [id, ...channel.describe(error), forGood])
    if (forGood) return
    throw error
  }
  // It is out, whatever becomes of the database meanwhile: to forget that would be to send it again.
  await pRetry(() => query(channel.sent, [id, outcome]).catch(asError), { retries: 20, maxTimeout: 5_000 })
}

/** p-retry does not try again after a TypeError, and pg can throw one when a connection is gone. */
export const asError = (cause: unknown): never => {
  throw new Error((cause as Error).message, { cause })
}
