import { loadConfig, startedByNpm, StartError, type Command } from './config.ts'
import { makeLogger } from './logger.ts'
import { runUntil } from './run-until.ts'

/** The commands of package.json. Each imports only what it runs: a process keeps what it has once loaded. */
const commands = {
  async start(signal: AbortSignal) {
    const { config, log } = prepare('start')
    const { start } = await import('./setup/start.ts')
    await start(config, log, signal)
  },

  async dev(signal: AbortSignal) {
    const { config, log } = prepare('start')
    const { dev } = await import('./setup/dev.ts')
    await dev(config, log, signal)
  },

  async setup() {
    const { config, log } = prepare('setup')
    const { setup } = await import('./setup/roles.ts')
    await setup(config)
    log.info('The roles and the database are set up.')
  },

  async migrate() {
    const { config, log } = prepare('migrate')
    const { migrate } = await import('./setup/migrate.ts')
    await migrate(config, log)
  },

  async server(signal: AbortSignal) {
    const { config, log } = prepare('server')
    const { startServer } = await import('./server.ts')
    await runUntil(signal, log, [
      async () => {
        const api = await startServer(config, log)
        log.info(`The API listens at ${api.url}.`)
        return api
      },
    ])
  },

  async 'create-admin'() {
    const { config, log } = prepare('create-admin')
    const { createAdmin } = await import('./setup/create-admin.ts')
    const email = await createAdmin(config, process.argv.slice(3))
    log.info(`${email} is an admin.`)
  },

  async 'preview-mails'() {
    const { config } = prepare('preview-mails')
    const { previewMails } = await import('./jobs/preview.ts')
    console.log(`The mails are in ${await previewMails(config)}.`)
  },

  async worker(signal: AbortSignal) {
    const { config, log } = prepare('worker')
    const { startWorker } = await import('./jobs/worker.ts')
    await runUntil(signal, log, [
      async () => {
        const worker = await startWorker(config, log)
        log.info('The worker looks for jobs.')
        return worker
      },
    ])
  },
}

function prepare<C extends Command>(command: C) {
  const config = loadConfig(command)
  return { config, log: makeLogger(config) }
}

const name = process.argv[2] ?? ''
if (!Object.hasOwn(commands, name)) {
  console.error(`Usage: node server/main.js ${Object.keys(commands).join(' | ')}`)
  process.exit(2)
}

const stop = new AbortController()
// Never removed: npm passes a signal on that the terminal has sent already, and a second one must not cut the end short.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stop.abort())

// Of a signal sent to npm alone, only the shell between us hears; its end is all that we notice.
const parent = process.ppid
if (startedByNpm()) setInterval(() => process.ppid === parent || stop.abort(), 500).unref()

try {
  await commands[name as keyof typeof commands](stop.signal)
  process.exit()
} catch (error) {
  console.error(explain(error))
  process.exit(1)
}

/** A refusal by us, the system or PostgreSQL says what is wrong; anything else is a defect, and where it is counts. */
function explain(error: unknown): unknown {
  const { message, code } = error as { message?: string; code?: string }
  const refusal = error instanceof StartError || (code && !code.startsWith('ERR_'))
  return refusal ? message || code : error
}
