import { existsSync } from 'node:fs'
import { chmod, mkdir, readFile, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { StartError } from '../../config.ts'
import { assertMajor, initialise, majors, pgCtl, runningPort, type Cluster } from './cluster.ts'
import { assertReachable, freePort, programsOf, serverUser } from './machine.ts'
import { newMark, passwordOf, portOf, readSecrets, withPort, writePorts, type Secrets } from './secrets.ts'

/** A PostgreSQL that runs for as long as this process wants it to. */
export type Embedded = {
  secrets: Secrets
  /** Until `filled` was called once, in this process or in one before it. */
  isNew: boolean
  filled(): Promise<void>
  stop(): Promise<void>
}

/**
 * Starts the PostgreSQL of `dataDir`, having created it if need be, or takes it over from a process that was killed.
 * Refuses while another process owns it. `settings` are PostgreSQL's own; tests trade durability for speed by them.
 *
 * Only the programs of the npm package are used: its own class stops PostgreSQL on SIGINT before the API has finished.
 */
export async function startEmbedded({
  dataDir,
  metricsPort,
  major = 18,
  settings = {},
}: {
  dataDir: string
  /** The port for metrics; if it is left out, that of the last start if it is free, or else any that is free. */
  metricsPort?: number
  major?: keyof typeof majors
  settings?: Record<string, string>
}): Promise<Embedded> {
  const root = resolve(dataDir)
  await mkdir(root, { recursive: true })
  const folder = join(root, 'postgres')
  const user = await serverUser(folder)
  const programs = programsOf(majors[major].package)
  const fixed = { listen_addresses: '127.0.0.1', unix_socket_directories: '', timezone: 'UTC', log_timezone: 'UTC' }
  const options = Object.entries({ ...fixed, ...settings }).map(([name, value]) => `-c ${name}='${value}'`)
  const cluster: Cluster = { folder, programs, user, options }

  // PostgreSQL's own user has to pass through here to its files, but need not see what else is here.
  await chmod(root, user ? 0o711 : 0o700)
  if (user) await assertReachable([root, programs], user)

  let secrets = await readSecrets(root)
  if (!existsSync(folder)) await initialise(cluster, major, passwordOf(secrets.ROOT_DATABASE_URL))
  await assertMajor(folder, major)

  let stopping = false
  let owner: pg.Client
  async function open(): Promise<void> {
    owner = await own(cluster, secrets)
    owner.once('end', () => stopping || reopen())
  }
  // Should PostgreSQL fail under us, bring it back and own it again; the pools of the API and the worker reconnect.
  async function reopen(attempts = 20): Promise<void> {
    await sleep(500)
    if (!stopping) await open().catch((error) => (attempts ? reopen(attempts - 1) : Promise.reject(error)))
  }
  await open()
  secrets = await writePorts(root, secrets, owner!.port, metricsPort || (await freePort(Number(secrets.METRICS_PORT))))

  const mark = newMark(root)
  return {
    secrets,
    isNew: existsSync(mark),
    filled: () => rm(mark, { force: true }),
    async stop() {
      stopping = true
      await untilAlone(owner).catch(() => {}) // It may be down already.
      await pgCtl(cluster, 'stop', '-m', 'fast', '-w', '-t', '300')
      await owner.end()
    },
  }
}

/** The PostgreSQL of `dataDir`, which another process may be running: then `stop` leaves it to that one. */
export async function joinEmbedded(dataDir: string): Promise<Pick<Embedded, 'secrets' | 'stop'>> {
  const root = resolve(dataDir)
  const folder = join(root, 'postgres')
  if (!existsSync(folder)) throw new StartError(`There is no database in ${root}.`)
  const secrets = await readSecrets(root)
  const client = await connect({ folder }, secrets)
  if (!client) return startEmbedded({ dataDir })
  await client.end()
  return { secrets, stop: async () => {} }
}

/**
 * Makes this process the owner of a running PostgreSQL. The ownership is a lock of the returned session: it ends with
 * the process, however that ends, so a PostgreSQL left behind by `kill -9` can be told from one that is in use.
 */
async function own(cluster: Cluster, secrets: Secrets): Promise<pg.Client> {
  const client = (await connect(cluster, secrets)) ?? (await start(cluster, secrets))
  const { rows } = await client.query('select pg_try_advisory_lock(7277536) as mine')
  if (rows[0].mine) return client
  await client.end()
  throw new StartError(`Another process already runs the database in ${cluster.folder}. Stop it first, or set another DATA_DIR.`)
}

/**
 * Pools that were closed have sent their farewell, but PostgreSQL may not have read it, and would then end their sessions
 * with an error. Somebody's psql may stay for as long as it likes: a second is enough.
 */
async function untilAlone(client: pg.Client): Promise<void> {
  for (let tries = 0; tries < 20; tries++) {
    const { rowCount } = await client.query(
      `select from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid() limit 1`,
    )
    if (!rowCount) return
    await sleep(50)
  }
}

/** A superuser's session with the cluster's PostgreSQL; undefined if it does not run. */
async function connect(cluster: Pick<Cluster, 'folder'>, secrets: Secrets): Promise<pg.Client | undefined> {
  const port = await runningPort(cluster)
  if (!port) return undefined
  const client = new pg.Client({
    connectionString: withPort(secrets.ROOT_DATABASE_URL, port),
    connectionTimeoutMillis: 5_000,
    keepAlive: true,
  })
  client.on('error', () => {}) // its end is what counts
  try {
    await client.connect()
    return client
  } catch (error) {
    // 57P03: on its way up, or down. Anything else is no PostgreSQL, or one with other passwords: not ours.
    if ((error as { code?: string }).code !== '57P03') return undefined
    await sleep(100)
    return connect(cluster, secrets)
  }
}

async function start(cluster: Cluster, secrets: Secrets): Promise<pg.Client> {
  const log = join(cluster.folder, 'server.log')
  const options = [`-p ${await freePort(portOf(secrets))}`, ...cluster.options].join(' ')
  const failure = await pgCtl(cluster, 'start', '-w', '-t', '300', '-l', log, '-o', options).catch((error: Error) => error)
  // Another process may have been quicker; then its PostgreSQL is the one that answers.
  const client = await connect(cluster, secrets)
  if (client) return client
  const tail = await readFile(log, 'utf8').then(
    (text) => text.trimEnd().split('\n').slice(-5).join('\n'),
    () => '',
  )
  throw new StartError(`PostgreSQL did not start.\n${tail || failure}`)
}
