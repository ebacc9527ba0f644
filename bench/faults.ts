import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import pino from 'pino'
import { SMTPServer } from 'smtp-server'
import { startEmbedded } from '../server/setup/embedded/postgres.ts'
import { MAILS_AT_ONCE } from '../server/jobs/mail.ts'
import { migrate } from '../server/setup/migrate.ts'
import { setup } from '../server/setup/roles.ts'
import { command, type Running } from '../tests/harness/process.ts'

// `npm run faults [pattern]`: does everybody get each mail once, whatever fails? Each drill has one request submitted, which 200
// people are to be told of, breaks something when a part of the mails is out, and counts, when no job is left, the mails that a
// real SMTP server has accepted. It prints the table of docs/operations.md; with a pattern, only the drills that match it.

const RECIPIENTS = 200
/** Milliseconds that the SMTP server takes for each mail, so that there is time to break something. */
const SMTP_DELAY = 20

/** A real SMTP server that can go away and come back at the same port, and counts what it accepts by Message-ID. */
class Mailbox {
  accepted = new Map<string, number>()
  private server: SMTPServer | undefined
  readonly port: number

  constructor(port: number) {
    this.port = port
  }

  get total(): number {
    return [...this.accepted.values()].reduce((sum, times) => sum + times, 0)
  }

  async open(): Promise<void> {
    const server = new SMTPServer({
      disabledCommands: ['AUTH', 'STARTTLS'],
      closeTimeout: 100,
      onData: (stream, _session, callback) => {
        let text = ''
        stream.on('data', (chunk: Buffer) => (text += chunk))
        stream.on('end', () => {
          setTimeout(() => {
            // What it has not acknowledged, a server that goes away has not accepted.
            if (this.server !== server) return
            const id = /^message-id: (\S+)/im.exec(text)![1]!
            this.accepted.set(id, (this.accepted.get(id) ?? 0) + 1)
            callback()
          }, SMTP_DELAY)
        })
      },
    })
    server.on('error', () => {}) // of a peer that was killed
    await new Promise<void>((resolve) => server.listen(this.port, '127.0.0.1', resolve))
    this.server = server
  }

  async close(): Promise<void> {
    const { server } = this
    this.server = undefined
    if (!server) return
    const closed = new Promise<void>((resolve) => server.close(() => resolve()))
    for (const connection of server.connections) connection.close()
    await closed
  }
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  return port
}

const dataDir = await mkdtemp(join(tmpdir(), 'assent-faults-'))
// As `npm start` has it: durable, and brought back when it is killed.
const { secrets, stop } = await startEmbedded({ dataDir })
const { ROOT_DATABASE_URL, DATABASE_URL, AUTH_DATABASE_URL, WORKER_DATABASE_URL } = secrets
await setup({
  rootDatabaseUrl: ROOT_DATABASE_URL,
  databaseUrl: DATABASE_URL,
  authDatabaseUrl: AUTH_DATABASE_URL,
  workerDatabaseUrl: WORKER_DATABASE_URL,
})
await migrate({ databaseUrl: DATABASE_URL, authDatabaseUrl: AUTH_DATABASE_URL }, pino({ level: 'warn' }))
const owner = new pg.Pool({ connectionString: DATABASE_URL })
owner.on('error', () => {})
const mailbox = new Mailbox(await freePort())

/** Asks until it is answered: PostgreSQL may be on its way up. */
async function ask(text: string, values: unknown[] = []): Promise<any> {
  for (;;) {
    try {
      return (await owner.query(text, values)).rows[0]
    } catch (error) {
      if (error instanceof pg.DatabaseError && !/^57P|^08/.test(error.code ?? '')) throw error
      await sleep(100)
    }
  }
}

/** Somebody who asks, and those who are to decide. */
async function addPeople(): Promise<string> {
  await ask(
    `with people as (
       insert into app_public.users (name, role) select 'Manager ' || n, 'MANAGER' from generate_series(1, $1::integer) n returning id
     )
     insert into app_private.credentials (user_id, email, password_hash) select id, id || '@assent.test', 'none' from people`,
    [RECIPIENTS],
  )
  const { secret } = await ask(
    `with person as (insert into app_public.users (name) values ('Uma User') returning id)
     select s.session_secret as secret from person, app_private.open_session(person.id, false, null) s`,
  )
  return secret
}

const session = await addPeople()

/** A request is submitted: the event that all of them are told of. */
async function submit(): Promise<void> {
  const client = new pg.Client(AUTH_DATABASE_URL)
  await client.connect()
  await client.query('begin')
  await client.query(`select app_hidden.become($1, '')`, [session])
  await client.query(`select app_public.submit_request(r.id) from app_public.create_request('A request') r`)
  await client.query('commit')
  await client.end()
}

const worker = (): Running =>
  command('worker', {
    WORKER_DATABASE_URL,
    SMTP_URL: `smtp://127.0.0.1:${mailbox.port}`,
    MAIL_FROM: 'assent@example.com',
    LOG_LEVEL: 'fatal',
  })

async function until(condition: () => Promise<boolean> | boolean): Promise<void> {
  while (!(await condition())) await sleep(20)
}

const some = (mails: number) => until(() => mailbox.total >= mails)

interface Drill {
  readonly name: string
  /** How many mails may come twice: those that a worker had under way when it died. */
  readonly mayComeTwice?: number
  /** Breaks something while mails are on their way. Answers the workers that still run, and when things were whole again. */
  run(first: Running): Promise<{ workers: Running[]; mendedAt: number }>
}

const drills: Drill[] = [
  {
    name: 'nothing fails',
    run: async (first) => ({ workers: [first], mendedAt: Date.now() }),
  },
  {
    name: 'two workers at once',
    run: async (first) => ({ workers: [first, worker()], mendedAt: Date.now() }),
  },
  {
    name: 'the worker is killed -9, and another started',
    mayComeTwice: MAILS_AT_ONCE,
    async run(first) {
      await some(RECIPIENTS / 2)
      await first.end('SIGKILL')
      return { workers: [worker()], mendedAt: Date.now() }
    },
  },
  {
    name: 'one of two workers is killed -9',
    mayComeTwice: MAILS_AT_ONCE,
    async run(first) {
      const second = worker()
      await some(RECIPIENTS / 2)
      await first.end('SIGKILL')
      return { workers: [second], mendedAt: Date.now() }
    },
  },
  {
    name: 'PostgreSQL is killed -9',
    async run(first) {
      await some(RECIPIENTS / 2)
      process.kill(Number(readFileSync(join(dataDir, 'postgres/postmaster.pid'), 'utf8').split('\n')[0]), 'SIGKILL')
      await sleep(500)
      await ask('select 1')
      return { workers: [first], mendedAt: Date.now() }
    },
  },
  {
    name: 'the SMTP server is away for a minute',
    async run(first) {
      await some(RECIPIENTS / 2)
      await mailbox.close()
      await sleep(60_000)
      await mailbox.open()
      return { workers: [first], mendedAt: Date.now() }
    },
  },
]

const pattern = new RegExp(process.argv[2] ?? '')

console.log('| what fails, when half of the mails are out | mails | accepted | of them twice | never | all out after |')
console.log('|---|---:|---:|---:|---:|---:|')
let failed = 0
for (const { name, run, mayComeTwice = 0 } of drills.filter(({ name }) => pattern.test(name))) {
  mailbox.accepted.clear()
  await mailbox.open()
  const first = worker()
  await submit()
  const { workers, mendedAt } = await run(first)
  await until(async () => (await ask('select count(*) as left from graphile_worker.jobs')).left === '0')
  const wholeAfter = ((Date.now() - mendedAt) / 1000).toFixed(0)
  for (const each of workers) await each.end('SIGTERM')
  await mailbox.close()

  const { queued } = await ask(`select count(*) as queued from app_public.notifications where mail_state <> 'SENT'`)
  const twice = [...mailbox.accepted.values()].filter((times) => times > 1).length
  const never = RECIPIENTS - mailbox.accepted.size
  console.log(`| ${name} | ${RECIPIENTS} | ${mailbox.total} | ${twice} | ${never} | ${wholeAfter} s |`)
  if (never > 0 || queued !== '0' || twice > mayComeTwice) failed++
}

await owner.end()
await stop()
await rm(dataDir, { recursive: true, force: true })
console.log(failed ? `\n${failed} drills have lost mails, or sent them twice.` : '\nNo mail was lost.')
process.exit(failed ? 1 : 0)
