import type { TaskList } from 'graphile-worker'
import type { Config } from '../config.ts'
import { traceparent } from '../tracing.ts'
import { isRefused, type MailDocument, type Mailer } from './mail.ts'
import { sending } from './outbox.ts'
import { deliver, DeliveryError, type Delivery } from './webhooks.ts'

declare global {
  namespace GraphileWorker {
    /** The payload of each job, as the SQL that adds it makes it. */
    interface Tasks {
      dispatch: { id: string; traceparent?: string }
      notify: { id: string }
      begin_password_reset: { email: string; ip: string | null }
      remind: object
      digest: { _cron?: { ts: string } }
      clear_away: object
      extend_trail: object
      sweep_files: object
      send_mail: { id: string; traceparent?: string }
      deliver_webhook: { id: string; traceparent?: string }
    }
  }
}

/** The schedule, in UTC. "fill" makes up for what was due while no worker was running. */
export const crontab = `
  */15 * * * *   remind        ?fill=1h
  0 7 * * 1-5    digest        ?fill=12h
  23 3 * * *     clear_away    ?fill=1d
  41 2 * * *     extend_trail  ?fill=1d
  */10 * * * *   sweep_files   ?fill=1h
`

/** Tasks that take a moment: each is one statement, whose rules are in db/. */
export const promptTasks: TaskList = {
  async dispatch({ id }, { query }) {
    // Its mails and deliveries learn what has queued them, see app_private.job_payload().
    await query(`select app_private.dispatch($1) from set_config('assent.traceparent', $2, true)`, [id, traceparent()])
  },
  /** This is for jobs that servers of migration 000009 have added. */
  async notify({ id }, { query }) {
    await query('select app_private.dispatch($1)', [id])
  },
  async begin_password_reset({ email, ip }, { query }) {
    await query('select app_private.begin_password_reset($1, $2)', [email, ip])
  },
  async remind(_payload, { query }) {
    await query('select app_private.remind()')
  },
  async digest({ _cron }, { query }) {
    // A job that was added by hand makes today's digest.
    const { ts } = _cron ?? { ts: new Date().toISOString() }
    await query('select app_private.make_digests($1)', [ts.slice(0, 10)])
  },
  async sweep_files(_payload, { query }) {
    await query('select app_private.sweep_files()')
  },
  async extend_trail(_payload, { query }) {
    await query('select app_private.extend_trail()')
  },
  /** Each batch is a transaction of its own. What is left when the worker is stopped has time until the next night. */
  async clear_away(_payload, { query, abortSignal }) {
    for (let more = true; more && !abortSignal?.aborted;) {
      const { rows } = await query<{ more: boolean }>('select app_private.clear_batch() as more')
      more = rows[0]!.more
    }
  },
}

/** The task that talks to the SMTP server. */
export const mailTasks = (mailer: Mailer): TaskList => ({
  send_mail: sending<MailDocument>({
    async toSend(client, id) {
      const { rows } = await client.query('select app_private.mail_to_send($1, $2) as mail', [id, mailer.domain])
      return rows[0].mail
    },
    async send(_id, mail, signal) {
      // A worker waits for a slow server, but not for ever once it is asked to stop.
      await mailer.send(mail, signal)
      return mail.news?.map(({ notification_id }) => notification_id) ?? []
    },
    sent: 'select app_private.mail_sent($1, $2)',
    failed: 'select app_private.mail_failed($1, $2, $3)',
    describe: ({ message }) => [message],
    isForGood: isRefused,
  }),
})

/** The task that talks to webhooks. */
export const webhookTasks = ({ privateWebhooks }: Pick<Config, 'privateWebhooks'>): TaskList => ({
  deliver_webhook: sending<Delivery>({
    async toSend(client, id) {
      const { rows } = await client.query<Delivery | { url: null }>('select * from app_private.delivery_to_send($1)', [id])
      const delivery = rows[0]!
      return delivery.url === null ? null : delivery
    },
    send: (id, delivery) => deliver(id, delivery, privateWebhooks),
    sent: 'select app_private.delivery_sent($1, $2)',
    failed: 'select app_private.delivery_failed($1, $2, $3, $4)',
    describe: (error) => [(error as DeliveryError).status, error.message],
    isForGood: (error) => error instanceof DeliveryError && error.forGood,
  }),
})
