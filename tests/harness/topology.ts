import { chmod, copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { makeTokens } from '../../server/http/tokens.ts'
import { compose, environmentOf, makeSecrets } from './compose.ts'
import type { Database } from './pair.ts'
import { command, Running } from './process.ts'
import { startSmtp, type Mailbox } from './smtp.ts'
import { freePorts } from './standby.ts'

export const SERVER_NAME = 'assent.test'
export const OTHER_ORIGIN = 'https://pages.assent.test'

/** What docker-compose.yml starts, as processes of this machine: from its commands, its environments and deploy/'s files. */
export interface Topology<D extends Database = Database> {
  readonly httpsPort: number
  readonly httpPort: number
  readonly publicUrl: string
  readonly certificate: string
  /** What nginx has logged so far. */
  log(): Promise<string>
  readonly servers: readonly Running[]
  /** Where a server answers without nginx, and its metrics. */
  url(server: number): string
  metrics(server: number): Promise<string>
  readonly workers: readonly Running[]
  readonly mailbox: Mailbox
  readonly database: D
  /** Connections as the owner, and as a superuser to the primary and to a standby. */
  readonly owner: pg.Pool
  readonly root: pg.Pool
  readonly standby: pg.Pool
  /** What the API is given to reach the primary and the standby. */
  readonly apiUrls: { readonly primary: string; readonly standby: string }
  /** A bearer token of somebody of the demo, as one of many callers: each has an allowance of its own. */
  token(email: string, caller?: number): Promise<string>
  /** The secret of a new session of somebody's. */
  session(email: string): Promise<string>
  /** A bearer token of a session. */
  sign(session: string, caller?: string): string
  startServers(): Promise<void>
  /** Starts as many as there are to be. */
  startWorkers(): Promise<void>
  /** Ends so many by kill -9. */
  killWorkers(count: number): Promise<void>
  /** Ends one server by this signal, and starts it again. */
  restart(server: number, signal: NodeJS.Signals): Promise<void>
  readonly nginx: Running
  restartNginx(signal: NodeJS.Signals): Promise<void>
  close(): Promise<void>
}

/** Makes a database in this folder, whose standbys log in with this password. */
type StartDatabase<D> = (folder: string, replicationPassword: string) => Promise<D>

/** Starts all but servers and workers: nginx has nobody behind it at first. */
export async function startTopology<D extends Database>(startDatabase: StartDatabase<D>): Promise<Topology<D>> {
  const started = new AsyncDisposableStack()
  try {
    return await start(started, startDatabase)
  } catch (error) {
    await started.disposeAsync()
    throw error
  }
}

async function start<D extends Database>(started: AsyncDisposableStack, startDatabase: StartDatabase<D>): Promise<Topology<D>> {
  const folder = await mkdtemp(join(tmpdir(), 'assent-deploy-'))
  started.defer(() => rm(folder, { recursive: true, force: true }))
  await chmod(folder, 0o711) // PostgreSQL may be another user.
  const [httpPort, httpsPort, ...ports] = (await freePorts(2 + compose.services.server.deploy.replicas)) as [number, number]
  const publicUrl = `https://${SERVER_NAME}:${httpsPort}`
  const env = { SERVER_NAME, PUBLIC_URL: publicUrl, MAIL_FROM: 'assent@assent.test', ALLOWED_ORIGINS: OTHER_ORIGIN }
  const secrets = await makeSecrets(folder, env)
  const mailbox = await startSmtp()
  started.defer(() => mailbox.close())
  const read = async (secret: string) => (await readFile(join(secrets, secret), 'utf8')).trim()
  const database = await startDatabase(folder, await read('replication_password'))
  started.defer(() => database.close())

  const at = new URL(database.url).host
  for (const name of ['owner', 'api', 'worker']) {
    const url = (await read(`${name}_database_url`)).replace('@postgres/', `@${at}/`)
    await writeFile(join(secrets, `${name}_database_url`), url)
  }
  await writeFile(join(secrets, 'root_database_url'), database.url)
  const apiUrl = await read('api_database_url')
  const apiUrls = { primary: apiUrl, standby: Object.assign(new URL(apiUrl), { host: new URL(database.standbyUrl).host }).href }
  await writeFile(join(secrets, 'replica_database_url'), apiUrls.standby)
  await writeFile(join(secrets, 'smtp_url'), mailbox.url)

  const run = (service: string, more: Record<string, string> = {}) =>
    command(compose.services[service].command[2], { ...environmentOf(service, secrets, env), ...more })
  const finish = async (service: string) => {
    // Any number may start at once.
    for (const one of [run(service), run(service)]) if ((await one.exit) !== 0) throw new Error(one.output)
  }
  const file = await configureNginx(join(folder, 'nginx'), {
    ...environmentOf('nginx', secrets, env),
    HTTP: `listen 127.0.0.1:${httpPort};`,
    HTTPS: `listen 127.0.0.1:${httpsPort} ssl http2;`,
    SERVERS: ports.map((port) => `server 127.0.0.1:${port} max_fails=0;`).join(' '),
    STATIC_FILES: join(folder, 'static'),
    ACCESS_LOG: join(folder, 'access.log'),
    CACHE: join(folder, 'files'),
  })
  let nginx = await startNginx(file, httpsPort)
  started.defer(async () => void (await nginx.end('SIGTERM')))
  await copyStaticFiles(join(folder, 'static'))
  await finish('setup')
  await finish('migrate')

  const open = (connectionString: string) => {
    const pool = new pg.Pool({ connectionString, max: 2 })
    pool.on('error', () => {}) // Servers that they lead to are killed.
    started.defer(() => pool.end())
    return pool
  }
  const owner = open(await read('owner_database_url'))
  const root = open(database.url)
  const standby = open(Object.assign(new URL(database.standbyUrl), { pathname: '/assent' }).href)
  await owner.query(await readFile('db/demo.sql', 'utf8'))

  const { sign } = makeTokens([await read('jwt_secret')])
  const sessions = new Map<string, Promise<string>>()
  const servers: Running[] = []
  const workers: Running[] = []
  started.defer(async () => void (await Promise.all([...servers, ...workers].map((one) => one.end('SIGTERM')))))
  const startServer = async (n: number) => {
    servers[n] = run('server', { HOST: '127.0.0.1', PORT: String(ports[n]), METRICS_PORT: '0' })
    await servers[n].until(/The API listens/)
  }
  return {
    httpsPort,
    httpPort,
    publicUrl,
    certificate: await readFile(join(secrets, 'tls_certificate'), 'utf8'),
    log: async () => (await readFile(join(folder, 'access.log'), 'utf8')) + nginx.output,
    servers,
    url: (n) => `http://127.0.0.1:${ports[n]}`,
    async metrics(n) {
      const url = await servers[n]!.until(/Metrics are at (http:[^ "]*\/metrics)/)
      return (await fetch(url)).text()
    },
    workers,
    mailbox,
    database,
    owner,
    root,
    standby,
    apiUrls,
    get nginx() {
      return nginx
    },
    async restartNginx(signal) {
      // Its workers would live on without it.
      process.kill(-nginx.child.pid!, signal)
      await nginx.exit
      nginx = await startNginx(file, httpsPort)
    },
    async token(email, caller = 0) {
      if (!sessions.has(email)) sessions.set(email, openSession(owner, email))
      return sign(await sessions.get(email)!, `${email} ${caller}`).token
    },
    session: (email) => openSession(owner, email),
    sign: (session, caller = session) => sign(session, caller).token,
    async startServers() {
      await Promise.all(ports.map((_port, n) => startServer(n)))
    },
    async startWorkers() {
      while (workers.length < compose.services.worker.deploy.replicas) workers.push(run('worker', { METRICS_PORT: '' }))
      await Promise.all(workers.map((worker) => worker.until(/The worker looks for jobs/)))
    },
    async killWorkers(count) {
      await Promise.all(workers.splice(0, count).map((worker) => worker.end('SIGKILL')))
    },
    async restart(n, signal) {
      await servers[n]!.end(signal)
      await startServer(n)
    },
    close: () => started.disposeAsync(),
  }
}

async function openSession(owner: pg.Pool, email: string): Promise<string> {
  const { rows } = await owner.query(
    `select s.session_secret from app_private.credentials c, app_private.open_session(c.user_id, false, null) s where c.email = $1`,
    [email],
  )
  return rows[0].session_secret
}

/** The file of nginx's image, whose variables are filled in as envsubst does. */
async function configureNginx(folder: string, env: Record<string, string>): Promise<string> {
  await mkdir(folder)
  const template = await readFile('deploy/nginx/nginx.conf.template', 'utf8')
  const file = join(folder, 'nginx.conf')
  await writeFile(
    file,
    template.replace(/\$\{(\w+)\}/g, (_, name: string) => env[name]!),
  )
  return file
}

async function startNginx(file: string, port: number): Promise<Running> {
  // Its workers would be somebody else's, who may not enter our folder.
  const user = process.getuid?.() === 0 ? ' user root;' : ''
  const nginx = new Running('nginx', ['-p', `${dirname(file)}/`, '-c', file, '-g', `daemon off;${user}`], {
    PATH: `${process.env['PATH']}:/usr/sbin`,
  })
  const accepts = () =>
    new Promise<boolean>((done) => {
      const socket = connect(port, '127.0.0.1', () => done(Boolean(socket.destroy()))).on('error', () => done(false))
    })
  while (!(await accepts())) {
    if (nginx.child.exitCode !== null) throw new Error(nginx.output)
    await sleep(20)
  }
  return nginx
}

/** As deploy/Dockerfile copies them. */
async function copyStaticFiles(folder: string): Promise<void> {
  const [, list, target] = /^COPY --from=assent (.+) \/srv\/static(\/\S+)$/m.exec(await readFile('deploy/Dockerfile', 'utf8'))!
  await mkdir(join(folder, target!), { recursive: true })
  for (const path of list!.split(' ')) {
    const file = path.replace(/^\/assent\//, '')
    await copyFile(file, join(folder, target!, file.split('/').at(-1)!))
  }
}
