import { chmod, copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { makeTokens } from '../../server/http/tokens.ts'
import { startEmbedded } from '../../server/setup/embedded/postgres.ts'
import { compose, environmentOf, makeSecrets } from './compose.ts'
import { command, Running } from './process.ts'
import { startSmtp, type Mailbox } from './smtp.ts'
import { freePorts, startStandby, type Standby } from './standby.ts'

export const SERVER_NAME = 'assent.test'

/** What docker-compose.yml starts, as processes of this machine: from its commands, its environments and deploy/'s files. */
export interface Topology {
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
  readonly owner: pg.Client
  readonly root: pg.Client
  /** The standby, the superuser's connection to it, and what the API is given to reach it and the primary. */
  readonly follower: Standby
  readonly standby: pg.Client
  readonly apiUrls: { readonly primary: string; readonly standby: string }
  /** A bearer token of somebody of the demo, as one of many callers: each has an allowance of its own. */
  token(email: string, caller?: number): Promise<string>
  /** The secret of a new session of somebody's. */
  session(email: string): Promise<string>
  /** A bearer token of a session. */
  sign(session: string, caller?: string): string
  startServers(): Promise<void>
  startWorkers(): Promise<void>
  /** Ends one server by this signal, and starts it again. */
  restart(server: number, signal: NodeJS.Signals): Promise<void>
  close(): Promise<void>
}

/** The arguments of a service's PostgreSQL, as settings, but for the paths of its container. */
const settingsOf = (service: string): Record<string, string> =>
  Object.fromEntries(
    (compose.services[service].command as string[]).slice(1).flatMap((argument) => {
      const [, name, value] = /^--(\w+)=(.*)$/.exec(argument)!
      return value!.startsWith('/') ? [] : [[name!, value!]]
    }),
  )

/** Starts all but servers and workers: nginx has nobody behind it at first. */
export async function startTopology(): Promise<Topology> {
  const started = new AsyncDisposableStack()
  try {
    return await start(started)
  } catch (error) {
    await started.disposeAsync()
    throw error
  }
}

async function start(started: AsyncDisposableStack): Promise<Topology> {
  const folder = await mkdtemp(join(tmpdir(), 'assent-deploy-'))
  started.defer(() => rm(folder, { recursive: true, force: true }))
  await chmod(folder, 0o711) // PostgreSQL may be another user.
  const [httpPort, httpsPort, ...ports] = (await freePorts(2 + compose.services.server.deploy.replicas)) as [number, number]
  const publicUrl = `https://${SERVER_NAME}:${httpsPort}`
  const env = { SERVER_NAME, PUBLIC_URL: publicUrl, MAIL_FROM: 'assent@assent.test' }
  const secrets = await makeSecrets(folder, env)
  const mailbox = await startSmtp()
  started.defer(() => mailbox.close())
  const settings = { ...settingsOf('postgres'), fsync: 'off', shared_buffers: '64MB' }
  const primary = await startEmbedded({ dataDir: join(folder, 'primary'), settings })
  started.defer(() => primary.stop())

  const at = new URL(primary.secrets.ROOT_DATABASE_URL).host
  for (const name of ['owner', 'api', 'worker']) {
    const file = join(secrets, `${name}_database_url`)
    await writeFile(file, (await readFile(file, 'utf8')).replace('@postgres/', `@${at}/`))
  }
  await writeFile(join(secrets, 'root_database_url'), primary.secrets.ROOT_DATABASE_URL)
  await writeFile(join(secrets, 'smtp_url'), mailbox.url)

  const run = (service: string, more: Record<string, string> = {}) =>
    command(compose.services[service].command[2], { ...environmentOf(service, secrets, env), ...more })
  const finish = async (service: string) => {
    // Any number may start at once.
    for (const one of [run(service), run(service)]) if ((await one.exit) !== 0) throw new Error(one.output)
  }
  const nginx = await startNginx(join(folder, 'nginx'), {
    ...environmentOf('nginx', secrets, env),
    HTTP: `listen 127.0.0.1:${httpPort};`,
    HTTPS: `listen 127.0.0.1:${httpsPort} ssl http2;`,
    SERVERS: ports.map((port) => `server 127.0.0.1:${port} max_fails=0;`).join(' '),
    STATIC_FILES: join(folder, 'static'),
    ACCESS_LOG: join(folder, 'access.log'),
  })
  started.defer(async () => void (await nginx.end('SIGTERM')))
  await copyStaticFiles(join(folder, 'static'))
  await finish('setup')
  await finish('migrate')

  const open = async (connectionString: string) => {
    const client = new pg.Client(connectionString)
    client.on('error', () => {}) // The standby is killed.
    await client.connect()
    started.defer(() => client.end())
    return client
  }
  const ownerUrl = await readFile(join(secrets, 'owner_database_url'), 'utf8')
  const owner = await open(ownerUrl.trim())
  await owner.query(await readFile('db/demo.sql', 'utf8'))
  const root = await open(primary.secrets.ROOT_DATABASE_URL)
  const replication = (await readFile(join(secrets, 'replication_password'), 'utf8')).trim()
  await root.query(`create role assent_replication login replication password '${replication}'`)
  const follower = await startStandby(
    root,
    join(folder, 'primary/postgres'),
    join(folder, 'standby/postgres'),
    compose.services.standby.environment.PRIMARY.replace('host=postgres', `password=${replication}`),
    { ...settings, ...settingsOf('standby') },
  )
  started.defer(() => follower.stop())
  const apiUrl = (await readFile(join(secrets, 'api_database_url'), 'utf8')).trim()
  const apiUrls = { primary: apiUrl, standby: follower.url(apiUrl) }
  await writeFile(join(secrets, 'replica_database_url'), apiUrls.standby)
  const standby = await open(
    Object.assign(new URL(follower.url(primary.secrets.ROOT_DATABASE_URL)), { pathname: '/assent' }).href,
  )

  const { sign } = makeTokens([(await readFile(join(secrets, 'jwt_secret'), 'utf8')).trim()])
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
    owner,
    root,
    follower,
    standby,
    apiUrls,
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
      for (let n = 0; n < compose.services.worker.deploy.replicas; n++) workers.push(run('worker'))
      await Promise.all(workers.map((worker) => worker.until(/The worker looks for jobs/)))
    },
    async restart(n, signal) {
      await servers[n]!.end(signal)
      await startServer(n)
    },
    close: () => started.disposeAsync(),
  }
}

async function openSession(owner: pg.Client, email: string): Promise<string> {
  const { rows } = await owner.query(
    `select s.session_secret from app_private.credentials c, app_private.open_session(c.user_id, false, null) s where c.email = $1`,
    [email],
  )
  return rows[0].session_secret
}

/** nginx from the file of its image, whose variables are filled in as envsubst does. */
async function startNginx(folder: string, env: Record<string, string>): Promise<Running> {
  await mkdir(folder)
  const template = await readFile('deploy/nginx/nginx.conf.template', 'utf8')
  const file = join(folder, 'nginx.conf')
  await writeFile(
    file,
    template.replace(/\$\{(\w+)\}/g, (_, name: string) => env[name]!),
  )
  // Its workers would be somebody else's, who may not enter our folder.
  const user = process.getuid?.() === 0 ? ' user root;' : ''
  const nginx = new Running('nginx', ['-p', `${folder}/`, '-c', file, '-g', `daemon off;${user}`], {
    PATH: `${process.env['PATH']}:/usr/sbin`,
  })
  const port = Number(/127\.0\.0\.1:(\d+)/.exec(env['HTTPS']!)![1])
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
