import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { chown, mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { serverUser } from '../../server/setup/embedded/machine.ts'
import type { Database } from './pair.ts'
import { freePorts } from './standby.ts'
import { Running } from './process.ts'

/** Three servers under Patroni and HAProxy in front of them, by the files in deploy/. */
export interface Cluster extends Database {
  /** The names of the primary and of the standby that confirms its commits, once there are both and neither is `lost`. */
  roles(lost?: string): Promise<{ primary: string; sync: string }>
  /** The machine of a server goes down: neither Patroni nor PostgreSQL says a word. */
  kill(name: string): Promise<void>
  start(name: string): Promise<void>
  /** The standby that confirms commits becomes the primary, as for maintenance. */
  switchOver(): Promise<void>
}

const BIN = '/usr/lib/postgresql/15/bin'
const PACKAGES = {
  patroni: '/usr/bin/patroni',
  'python3-etcd': '/usr/lib/python3/dist-packages/etcd',
  'etcd-server': '/usr/bin/etcd',
  haproxy: '/usr/sbin/haproxy',
  'postgresql-15': BIN,
}

/** Debian's packages that are missing on this machine. */
export const missingPackages = () => Object.entries(PACKAGES).flatMap(([name, path]) => (existsSync(path) ? [] : [name]))

export async function startPatroni(folder: string, replicationPassword: string): Promise<Cluster> {
  const password = randomBytes(32).toString('hex')
  const names = ['one', 'two', 'three']
  const ports = await freePorts(4 + 2 * names.length)
  const [etcdPort, etcdPeerPort, primaries, standbys, ...rest] = ports.map((port) => `127.0.0.1:${port}`)
  const nodes = new Map(names.map((name, n) => [name, { postgres: rest[2 * n]!, api: rest[2 * n + 1]! }]))
  const running = new Map<string, Running>()

  const etcdAt = [`http://${etcdPort}`, `http://${etcdPeerPort}`] as const
  const etcd = new Running(PACKAGES['etcd-server'], [
    `--data-dir=${join(folder, 'etcd')}`,
    `--listen-client-urls=${etcdAt[0]}`,
    `--advertise-client-urls=${etcdAt[0]}`,
    `--listen-peer-urls=${etcdAt[1]}`,
    `--initial-advertise-peer-urls=${etcdAt[1]}`,
    `--initial-cluster=default=${etcdAt[1]}`,
  ])
  const user = await serverUser(join(folder, 'one'))

  async function start(name: string): Promise<void> {
    const home = join(folder, name)
    await mkdir(home, { recursive: true })
    if (user) await chown(home, user.uid, user.gid)
    const { postgres, api } = nodes.get(name)!
    const asUser = user ? ['setpriv', `--reuid=${user.uid}`, `--regid=${user.gid}`, '--clear-groups'] : []
    const [program, ...args] = [...asUser, PACKAGES.patroni, 'deploy/patroni.yml']
    const patroni = new Running(program!, args, {
      HOME: home,
      PATRONI_NAME: name,
      PATRONI_ETCD3_HOSTS: etcdPort!,
      PATRONI_RESTAPI_LISTEN: api,
      PATRONI_RESTAPI_CONNECT_ADDRESS: api,
      PATRONI_POSTGRESQL_LISTEN: postgres,
      PATRONI_POSTGRESQL_CONNECT_ADDRESS: postgres,
      PATRONI_POSTGRESQL_DATA_DIR: join(home, 'data'),
      PATRONI_POSTGRESQL_BIN_DIR: BIN,
      PATRONI_SUPERUSER_PASSWORD: password,
      PATRONI_REPLICATION_PASSWORD: replicationPassword,
    })
    running.set(name, patroni)
  }

  /** What Patroni says of its members; any of them knows all. */
  async function members(): Promise<{ name: string; role: string; state: string }[]> {
    for (const { api } of nodes.values()) {
      const answer = await fetch(`http://${api}/cluster`).catch(() => undefined)
      if (answer?.ok) return ((await answer.json()) as { members: [] }).members
    }
    return []
  }
  async function roles(lost?: string): Promise<{ primary: string; sync: string }> {
    for (;;) {
      const known = await members()
      const inRole = (role: string) => known.find((one) => one.role === role && /running|streaming/.test(one.state))?.name
      const [primary, sync] = [inRole('leader'), inRole('sync_standby')]
      if (primary && sync && primary !== lost && sync !== lost) return { primary, sync }
      for (const { child, output } of [etcd, haproxy, ...running.values()]) if (child.exitCode !== null) throw new Error(output)
      await sleep(200)
    }
  }

  // One of them makes the database, and the others copy it.
  for (const name of names) await start(name)
  const haproxy = new Running(PACKAGES.haproxy, ['-db', '-f', 'deploy/haproxy.cfg'], {
    PRIMARY_BIND: primaries!,
    STANDBYS_BIND: standbys!,
    ...Object.fromEntries(
      [...nodes.values()].flatMap(({ postgres, api }, n) => [
        [`POSTGRES_${n + 1}`, postgres],
        [`PATRONI_${n + 1}`, api],
      ]),
    ),
  })
  async function close(): Promise<void> {
    await Promise.all(Array.from(running.values(), (patroni) => patroni.end('SIGTERM')))
    await haproxy.end('SIGTERM')
    await etcd.end('SIGTERM')
  }
  await roles().catch(async (error) => {
    await close()
    throw error
  })
  return {
    url: `postgres://postgres:${password}@${primaries}/postgres`,
    standbyUrl: `postgres://postgres:${password}@${standbys}/postgres`,
    roles,
    start,
    async kill(name) {
      const patroni = running.get(name)!
      const postmaster = Number((await readFile(join(folder, name, 'data/postmaster.pid'), 'utf8')).split('\n')[0])
      running.delete(name)
      const ended = patroni.end('SIGKILL')
      process.kill(postmaster, 'SIGKILL')
      await ended
    },
    async switchOver() {
      const { primary, sync } = await roles()
      const answer = await fetch(`http://${nodes.get(primary)!.api}/switchover`, {
        method: 'POST',
        body: JSON.stringify({ leader: primary, candidate: sync }),
      })
      if (!answer.ok) throw new Error(`Patroni says ${answer.status}: ${await answer.text()}`)
    },
    close,
  }
}
