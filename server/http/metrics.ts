import { createServer, type Server } from 'node:http'
import type { Pool } from 'pg'
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { Code } from '../errors.ts'

/** Milliseconds: Prometheus asks less often. */
const COUNT_EVERY = 1_000

/** What Prometheus reads: requests, errors by code, the pools, and the process with its event loop. */
export function makeMetrics(pools: Record<'api' | 'slow' | 'live' | 'search', Pool>, subscribers: () => number) {
  const register = new Registry()
  const registers = [register]
  collectDefaultMetrics({ register })
  const requests = new Histogram({
    name: 'http_request_duration_seconds',
    help: 'Requests answered, by route and status.',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10],
    registers,
  })
  const errors = new Counter({ name: 'assent_errors_total', help: 'Errors answered, by code.', labelNames: ['code'], registers })
  new Gauge({
    name: 'assent_database_connections',
    help: 'Connections of each pool, and requests that wait for one.',
    labelNames: ['pool', 'state'],
    registers,
    collect() {
      for (const [name, { totalCount, idleCount, waitingCount }] of Object.entries(pools)) {
        this.set({ pool: name, state: 'busy' }, totalCount - idleCount)
        this.set({ pool: name, state: 'idle' }, idleCount)
        this.set({ pool: name, state: 'waiting' }, waitingCount)
      }
    },
  })
  new Gauge({
    name: 'assent_subscribers',
    help: 'Sockets and event streams that are connected for live news.',
    registers,
    collect() {
      this.set(subscribers())
    },
  })
  let countedAt = 0
  new Gauge({
    name: 'assent_jobs',
    help: 'Jobs by task and state: waiting, scheduled, running, failing (to be tried again), given up; and mails refused for good.',
    labelNames: ['task', 'state'],
    registers,
    async collect() {
      // The database is asked seldom. If the count fails, report the last one, so that an alert does not clear by itself.
      if (Date.now() - countedAt < COUNT_EVERY) return
      countedAt = Date.now()
      const counted = await pools.api
        .query('select task, state, count::integer from app_hidden.count_jobs()')
        .catch(() => undefined)
      if (!counted) return
      this.reset()
      for (const { task, state, count } of counted.rows) this.set({ task, state }, count)
    },
  })
  return {
    /** A server of its own, which answers /metrics and nothing else: what it tells is meant for operators alone. */
    server: (): Server =>
      createServer(async ({ method = '', url = '' }, res) => {
        const isRead = method === 'GET' || method === 'HEAD'
        if (url.split('?', 1)[0] !== '/metrics') res.writeHead(404).end()
        else if (!isRead) res.writeHead(405, { allow: 'GET, HEAD' }).end()
        else
          res.writeHead(200, { 'content-type': register.contentType, 'cache-control': 'no-store' }).end(await register.metrics())
      }),
    error: (code: Code) => errors.inc({ code }),
    /** `route` as it is declared, without the values that callers put in it: it has few values. */
    request: (method: string, route: string, status: number, seconds: number) =>
      requests.observe({ method, route, status }, seconds),
  }
}
