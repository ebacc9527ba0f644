import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { Pool } from 'pg'
import { collectDefaultMetrics, Gauge, Registry } from 'prom-client'
import { listeningUrl, StartError, type Config } from './config.ts'
import type { Service } from './run-until.ts'

/** That of this program. */
export const { version }: { version: string } = JSON.parse(readFileSync(join(import.meta.dirname, '../package.json'), 'utf8'))

/** What Prometheus reads of every process, API or worker: its version, its pools, and the process with its event loop. */
export function makeRegister(schema: string, pools: Readonly<Record<string, Pool>>): Registry {
  const register = new Registry()
  const registers = [register]
  collectDefaultMetrics({ register })
  new Gauge({
    name: 'assent_info',
    help: 'Always 1; its labels are the version of the program, and the migration of the database when it was started.',
    labelNames: ['version', 'schema'],
    registers,
  }).set({ version, schema }, 1)
  new Gauge({
    name: 'assent_database_connections',
    help: 'Connections of each pool that are busy or idle, and callers that are waiting for one.',
    labelNames: ['pool', 'state'],
    registers,
    collect() {
      for (const [pool, { totalCount, idleCount, waitingCount }] of Object.entries(pools)) {
        this.set({ pool, state: 'busy' }, totalCount - idleCount)
        this.set({ pool, state: 'idle' }, idleCount)
        this.set({ pool, state: 'waiting' }, waitingCount)
      }
    },
  })
  return register
}

/** Answers /metrics, on a port of its own where nothing else is: what it tells is meant for operators alone. */
export async function serveMetrics(
  register: Registry,
  { host, metricsPort }: Pick<Config, 'host' | 'metricsPort'>,
): Promise<(Service & { readonly url: string }) | undefined> {
  if (metricsPort === undefined) return undefined
  const server = createServer(async ({ method = '', url = '' }, res) => {
    const isRead = method === 'GET' || method === 'HEAD'
    if (url.split('?', 1)[0] !== '/metrics') res.writeHead(404).end()
    else if (!isRead) res.writeHead(405, { allow: 'GET, HEAD' }).end()
    else res.writeHead(200, { 'content-type': register.contentType, 'cache-control': 'no-store' }).end(await register.metrics())
  })
  server.listen(metricsPort, host)
  await once(server, 'listening').catch((error) => {
    throw error.code === 'EADDRINUSE' ? new StartError(`Port ${metricsPort} is taken: set METRICS_PORT to another one.`) : error
  })
  return {
    url: `${listeningUrl(host, (server.address() as AddressInfo).port)}/metrics`,
    async close() {
      server.close()
      server.closeAllConnections()
    },
  }
}
