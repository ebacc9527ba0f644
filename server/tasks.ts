import type { Task, TaskList } from 'graphile-worker'
import pRetry from 'p-retry'
import { isRefused, type MailDocument, type Mailer } from './mail.ts'

/** What comes by time, in UTC; "fill" makes up for what fell into a time without any worker. */
export const crontab = `
  */15 * * * *   remind      ?fill=1h
  0 7 * * 1-5    digest      ?fill=12h
  23 3 * * *     clear_away  ?fill=1d
`

/** What takes a moment: each is one statement, whose rules are in db/. */
export const promptTasks: TaskList = {
  notify: (payload, { query }) => query('select app_private.notify($1)', [(payload as { id: string }).id]).then(() => {}),
  begin_password_reset(payload, { query }) {
    const { email, ip } = payload as { email: string; ip: string | null }
    return query('select app_private.begin_password_reset($1, $2)', [email, ip]).then(() => {})
  },
  remind: (_payload, { query }) => query('select app_private.remind()').then(() => {}),
  digest(payload, { query }) {
    const { ts } = (payload as { _cron: { ts: string } })._cron
    return query('select app_private.make_digests($1)', [ts.slice(0, 10)]).then(() => {})
  },
  clear_away: (_payload, { query }) => query('select app_private.clear_away()').then(() => {}),
}

/** What speaks to the SMTP server. */
export const mailTasks = (mailer: Mailer): TaskList => ({ send_mail: makeSendMail(mailer) })

function makeSendMail(mailer: Mailer): Task {
  return async (payload, { withPgClient, query, job }) => {
    const { id } = payload as { id: string }
    // One connection for all of it: the lock that keeps others from sending the same mail is its session's.
    await withPgClient(async (client) => {
      try {
        const { rows } = await client.query<{ mail: MailDocument | null }>('select app_private.begin_mail($1, $2) as mail', [
          id,
          mailer.domain,
        ])
        const mail = rows[0]!.mail
        if (!mail) return
        try {
          await mailer.send(mail)
        } catch (error) {
          const forGood = isRefused(error) || job.attempts >= job.max_attempts
          await client.query('select app_private.mail_failed($1, $2, $3)', [id, (error as Error).message, forGood])
          if (forGood) return
          throw error
        }
        // It is out, whatever becomes of this connection: to forget that would be to send it again.
        const news = mail.news?.map(({ notification_id }) => notification_id) ?? []
        await pRetry(() => query('select app_private.mail_sent($1, $2)', [id, news]), { retries: 20, maxTimeout: 5_000 })
      } finally {
        await client.query('select pg_advisory_unlock(app_private.mail_lock($1))', [id]).catch(() => {}) // Gone with the session.
      }
    })
  }
}

/** What speaks to webhooks. */
export const webhookTasks = (_config: object): TaskList => ({})
