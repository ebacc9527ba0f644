import { once } from 'node:events'
import { listeningUrl, loadConfig, startedByNpm, StartError, type Command, type Config } from './config.ts'
import { makeLogger, type Logger } from './logger.ts'
import type { Report } from './reports.ts'
import { runUntil } from './run-until.ts'
import type { Restored } from './setup/restore.ts'

/** The commands of package.json. Each imports only what it runs: a process keeps what it has once loaded. */
const commands = {
  start: {
    help: 'Runs the whole product: database, jobs and API. With no database in the environment it brings its own.',
    async run() {
      const { config, log } = prepare('start')
      tellOfStop(log)
      const { start } = await import('./setup/start.ts')
      await observed(config, 'assent', log, (report) => start(config, log, stop.signal, report))
    },
  },
  dev: {
    help: 'Runs the whole product, and reloads it whenever a file in db/, migrations/ or server/ changes.',
    async run() {
      const { config, log } = prepare('start')
      const { dev } = await import('./setup/dev.ts')
      await dev(config, log, stop.signal)
    },
  },
  setup: {
    help: 'Creates the roles and the database, or brings them up to date. Run it once before migrate.',
    async run() {
      const { config, log } = prepare('setup')
      const { setup } = await import('./setup/roles.ts')
      await setup(config)
      log.info('The roles and the database are set up.')
    },
  },
  migrate: {
    help: 'Brings the schema up to date. Run it before every new version of server and worker.',
    async run() {
      const { config, log } = prepare('migrate')
      const { migrate } = await import('./setup/migrate.ts')
      await migrate(config, log)
    },
  },
  server: {
    help: 'Runs the API, and metrics on METRICS_PORT if it is set, until it is stopped by Ctrl-C or SIGTERM.',
    async run() {
      const { config, log } = prepare('server')
      tellOfStop(log)
      const { assertPortIsFree, assertReplicas, assertServable } = await import('./setup/preflight.ts')
      await assertPortIsFree(config)
      await assertServable(config.authDatabaseUrl)
      await assertReplicas(config)
      const { startServer } = await import('./server.ts')
      const start = async (report: Report) => {
        const api = await startServer(config, log, report)
        log.info(`The API listens at ${api.url}.`)
        if (api.metricsUrl) log.info(`Metrics are at ${api.metricsUrl}.`)
        return api
      }
      await observed(config, 'assent-server', log, (report) => runUntil(stop.signal, log, [() => start(report)]))
    },
  },
  worker: {
    help: 'Runs the jobs, such as mails and webhooks, and metrics on METRICS_PORT if it is set, until it is stopped by Ctrl-C or SIGTERM.',
    async run() {
      const { config, log } = prepare('worker')
      tellOfStop(log)
      const { assertWorkable } = await import('./setup/preflight.ts')
      await assertWorkable(config.workerDatabaseUrl)
      const { startWorker } = await import('./jobs/worker.ts')
      const { serveMetrics } = await import('./metrics.ts')
      let worker: Awaited<ReturnType<typeof startWorker>>
      const start = async (report: Report) => {
        worker = await startWorker(config, log, report)
        log.info('The worker looks for jobs.')
        return worker
      }
      const serve = async () => {
        const metrics = await serveMetrics(worker.register, config)
        if (metrics) log.info(`Metrics are at ${metrics.url}.`)
        return metrics
      }
      await observed(config, 'assent-worker', log, (report) => runUntil(stop.signal, log, [() => start(report), serve]))
    },
  },
  'create-admin': {
    help: 'EMAIL NAME: adds an admin. Asks for the password, or reads it from standard input.',
    async run() {
      const { config, log } = prepare('create-admin')
      const { createAdmin } = await import('./setup/create-admin.ts')
      const email = await createAdmin(config, process.argv.slice(3))
      log.info(`${email} is an admin.`)
    },
  },
  healthcheck: {
    help: 'Asks the API on HOST and PORT whether it can serve, and fails if it cannot: for the health check of a container.',
    async run() {
      const { config } = prepare('healthcheck')
      const url = `${listeningUrl(config.host, config.port)}/readyz`
      const { status } = await fetch(url).catch((error) => Promise.reject(error.cause))
      if (status !== 200) throw new StartError(`${url} answers ${status}.`)
    },
  },
  backup: {
    help: 'FILE: writes all rows of the database into a file. Nobody has to stop for it.',
    async run() {
      const { config, log } = prepare('backup')
      const file = onlyArgument('FILE')
      const { backup } = await import('./setup/backup.ts')
      const { withRoot } = await import('./setup/database.ts')
      await withRoot(config, (rootUrl) => backup(rootUrl, file))
      log.info(`The backup is in ${file}.`)
    },
  },
  restore: {
    help: 'FILE: makes the database of a backup, where there is none yet. It ends all sessions.',
    async run() {
      const { config, log } = prepare('restore')
      const file = onlyArgument('FILE')
      const { restore } = await import('./setup/restore.ts')
      tellOfRestored(await restore(config, file, log), log)
    },
  },
  'after-restore': {
    help: "Ends all sessions and checks the trail, when the database was restored by PostgreSQL's own tools.",
    async run() {
      const { config, log } = prepare('after-restore')
      const { afterRestore } = await import('./setup/restore.ts')
      tellOfRestored(await afterRestore(config.databaseUrl), log)
    },
  },
  'preview-mails': {
    help: 'Writes a sample of every mail into DATA_DIR/mail-preview.',
    async run() {
      const { config } = prepare('preview-mails')
      const { previewMails } = await import('./jobs/preview.ts')
      console.log(`The mails are in ${await previewMails(config)}.`)
    },
  },
}

type Name = keyof typeof commands

function prepare<C extends Command>(command: C) {
  const config = loadConfig(command)
  return { config, log: makeLogger(config) }
}

/** Runs what is traced, and whose defects are reported, if the environment says to whom. The last of both is sent at its end. */
async function observed(config: Config, name: string, log: Logger, run: (report: Report) => Promise<void>): Promise<void> {
  const { makeReports } = await import('./reports.ts')
  const { startTracing } = await import('./tracing.ts')
  const reports = await makeReports(config, log)
  const traces = await startTracing(config, name, log)
  try {
    await run(reports.report)
  } finally {
    await Promise.all([reports.close(), traces?.close()])
  }
}

/** Stopping takes a moment, in which whoever pressed Ctrl-C should see that it was heard. In dev, the child process says so. */
function tellOfStop(log: Logger): void {
  void once(stop.signal, 'abort').then(() => log.info('Stopping …'))
}

/** What somebody should know before workers start. */
function tellOfRestored({ requests, entries, last, jobs }: Restored, log: Logger): void {
  log.info(`${requests} requests and ${entries} entries of the trail are restored, and agree. The last entry is of ${last}.`)
  log.info(
    { jobs },
    'All sessions are ended. These jobs will be done as soon as a worker starts, though some may have been done.',
  )
}

/** The one argument of this command. */
function onlyArgument(name: string): string {
  const [argument, ...rest] = args
  if (!argument || rest.length > 0) throw new StartError(`Usage: ${typed(command)} -- ${name}`)
  return argument
}

/** As npm runs it, which is how a message tells people to type it. */
function typed(command: Name): string {
  return command === 'start' ? 'npm start' : `npm run ${command}`
}

function usage(): string {
  const names = Object.keys(commands) as Name[]
  return ['Usage:', ...names.map((name) => `  ${typed(name).padEnd(22)} ${commands[name].help}`)].join('\n')
}

const [, , name = '', ...args] = process.argv
if (['help', '--help', '-h'].includes(name)) {
  console.log(usage())
  process.exit()
}
if (!Object.hasOwn(commands, name)) {
  console.error(usage())
  process.exit(2)
}
const command = name as Name
if (args.some((arg) => ['--help', '-h'].includes(arg))) {
  console.log(`${typed(command)}  ${commands[command].help}`)
  process.exit()
}

const stop = new AbortController()
// These are never removed: npm passes a signal on that the terminal has sent already, and a second one must not cut the end
// short.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stop.abort())

// A signal sent to npm alone reaches only the shell between npm and us. We notice by losing our parent.
const parent = process.ppid
if (startedByNpm()) setInterval(() => process.ppid === parent || stop.abort(), 500).unref()

try {
  await commands[command].run()
  process.exit()
} catch (error) {
  console.error(explain(error))
  process.exit(1)
}

/** A refusal by us, the system or PostgreSQL says what is wrong; anything else is a defect, and where it is counts. */
function explain(error: unknown): unknown {
  const { message, code, port } = error as { message?: string; code?: string; port?: number }
  if (code === 'EADDRINUSE' && port) {
    const other = port < 65_535 ? port + 1 : port - 1
    return `Port ${port} is taken. Start with another: PORT=${other} ${typed(command)}`
  }
  const refusal = error instanceof StartError || (code && !code.startsWith('ERR_'))
  return refusal ? message || code : error
}
