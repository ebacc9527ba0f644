import type { JobHelpers, Task, TaskList } from 'graphile-worker'
import pRetry from 'p-retry'
import type { PoolClient } from 'pg'
import type { Config } from '../config.ts'
import { isRefused, type MailDocument, type Mailer } from './mail.ts'
import { deliver, type Delivery, type DeliveryError } from './webhooks.ts'

/** What comes by time, in UTC; "fill" makes up for what fell into a time without any worker. */
export const crontab = `
  */15 * * * *   remind      ?fill=1h
  0 7 * * 1-5    digest      ?fill=12h
  23 3 * * *     clear_away  ?fill=1d
`

/** What takes a moment: each is one statement, whose rules are in db/. */
export const promptTasks: TaskList = {
  dispatch: (payload, { query }) => query('select app_private.dispatch($1)', [(payload as { id: string }).id]).then(() => {}),
  // Jobs that a server of migration 000009 has added.
  notify: (payload, { query }) => query('select app_private.dispatch($1)', [(payload as { id: string }).id]).then(() => {}),
  begin_password_reset(payload, { query }) {
    const { email, ip } = payload as { email: string; ip: string | null }
    return query('select app_private.begin_password_reset($1, $2)', [email, ip]).then(() => {})
  },
  remind: (_payload, { query }) => query('select app_private.remind()').then(() => {}),
  digest(payload, { query }) {
    // By hand, it is today's.
    const { ts } = (payload as { _cron?: { ts: string } })._cron ?? { ts: new Date().toISOString() }
    return query('select app_private.make_digests($1)', [ts.slice(0, 10)]).then(() => {})
  },
  clear_away: (_payload, { query }) => query('select app_private.clear_away()').then(() => {}),
}

/** What speaks to the SMTP server. */
export const mailTasks = (mailer: Mailer): TaskList => ({
  send_mail: exclusively('app_private.mail_lock', async (id, client, { query, job, abortSignal }) => {
    const { rows } = await client.query<{ mail: MailDocument | null }>('select app_private.begin_mail($1, $2) as mail', [
      id,
      mailer.domain,
    ])
    const mail = rows[0]!.mail
    if (!mail) return
    try {
      // A slow server is waited for, but not for ever by a worker that is to end.
      await mailer.send(mail, abortSignal)
    } catch (error) {
      const forGood = isRefused(error) || job.attempts >= job.max_attempts
      // A server may say anything; PostgreSQL, where graphile-worker keeps it too, takes no NUL.
      const reason = (error as Error).message.replaceAll('\0', ' ')
      await client.query('select app_private.mail_failed($1, $2, $3)', [id, reason, forGood])
      if (forGood) return
      throw new Error(reason, { cause: error })
    }
    const news = mail.news?.map(({ notification_id }) => notification_id) ?? []
    await untilRecorded(() => query('select app_private.mail_sent($1, $2)', [id, news]))
  }),
})

/** What speaks to webhooks. */
export const webhookTasks = ({ privateWebhooks }: Pick<Config, 'privateWebhooks'>): TaskList => ({
  deliver_webhook: exclusively('app_private.delivery_lock', async (id, client, { query, job }) => {
    const { rows } = await client.query<Delivery | { url: null }>('select * from app_private.begin_delivery($1)', [id])
    const delivery = rows[0]!
    if (delivery.url === null) return
    let status: number
    try {
      status = await deliver(id, delivery, privateWebhooks)
    } catch (error) {
      const { message, status, forGood: isVain } = error as DeliveryError
      const forGood = isVain || job.attempts >= job.max_attempts
      await client.query('select app_private.delivery_failed($1, $2, $3, $4)', [id, status, message, forGood])
      if (forGood) return
      throw error
    }
    await untilRecorded(() => query('select app_private.delivery_done($1, $2)', [id, status]))
  }),
})

/** A task of one row, in whose way no other worker comes: a lock of one session for all of it, which ends with the process. */
const exclusively =
  (lock: string, work: (id: string, client: PoolClient, helpers: JobHelpers) => Promise<void>): Task =>
  async (payload, helpers) => {
    const { id } = payload as { id: string }
    await helpers.withPgClient(async (client) => {
      try {
        await work(id, client, helpers)
      } finally {
        await client.query(`select pg_advisory_unlock(${lock}($1))`, [id]).catch(() => {}) // Gone with the session.
      }
    })
  }

/** It is out, whatever becomes of the database meanwhile: to forget that would be to send it again. */
const untilRecorded = (record: () => Promise<unknown>) =>
  pRetry(() => record().catch(asError), { retries: 20, maxTimeout: 5_000 })

/** p-retry does not try again after a TypeError, and pg can throw one of a connection that is gone. */
export const asError = (cause: unknown): never => {
  throw new Error((cause as Error).message, { cause })
}
