import pino from 'pino'
import { parseConfig } from '../../server/config.ts'
import { startWorker, TIMES } from '../../server/jobs/worker.ts'
import type { Service } from '../../server/run-until.ts'
import { startApi, type Api } from './client.ts'
import { startSmtp, type Arrived, type Mailbox } from './smtp.ts'
import { until } from './socket.ts'

/** The whole product on a database of its own: the API, a worker, and an SMTP server that takes its mails. */
export interface House {
  readonly api: Api
  readonly mailbox: Mailbox
  /** What a worker finds in its environment. */
  readonly env: Record<string, string>
  /** Starts one more worker. */
  work(times?: typeof TIMES): Promise<Service>
  /** Waits for the mail to this address whose subject has these words. */
  mail(to: string, subject: string): Promise<Arrived['mail']>
  close(): Promise<void>
}

export async function openHouse({ withWorker = true } = {}): Promise<House> {
  const [api, mailbox] = await Promise.all([startApi({ TRUST_PROXY: '1' }), startSmtp()])
  const env = { WORKER_DATABASE_URL: api.db.urls.worker, SMTP_URL: mailbox.url, MAIL_FROM: 'assent@example.com' }
  const workers: Service[] = []
  const work = async (times = TIMES) => {
    const worker = await startWorker(parseConfig(env, 'worker'), pino({ level: 'silent' }), undefined, times)
    workers.push(worker)
    return worker
  }
  if (withWorker) await work()
  return {
    api,
    mailbox,
    env,
    work,
    async mail(to, subject) {
      const found = () => mailbox.arrived.find((one) => one.to.includes(to) && one.mail.subject!.includes(subject))
      await until(() => found() !== undefined, 15_000)
      return found()!.mail
    },
    async close() {
      await Promise.all(workers.map((worker) => worker.close()))
      await mailbox.close()
      await api.close()
    },
  }
}
