import { once } from 'node:events'
import { createServer, STATUS_CODES, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import express from 'express'
import { makeSchema } from 'postgraphile'
import { makePgService } from 'postgraphile/adaptors/pg'
import pg from 'pg'
import type { Logger } from 'pino'
import { listeningUrl, type ConfigFor } from './config.ts'
import { makeCheckCsrf, makeIsOwnOrigin } from './http/csrf.ts'
import { docs } from './rest/docs.ts'
import { ClientError, toClientError } from './errors.ts'
import { graphiql } from './graphql/graphiql.ts'
import { makeGraphQL } from './graphql/handler.ts'
import { crossOrigin, securityHeaders } from './http/headers.ts'
import { makeIdentify, makeTokens } from './http/identity.ts'
import { makeLive } from './live/listener.ts'
import { makeMetrics } from './http/metrics.ts'
import { makeOpenApi } from './rest/openapi.ts'
import { makePasswords } from './passwords.ts'
import { preset } from './graphql/schema/preset.ts'
import { BASE, makeRestHandler, sendProblem } from './rest/handler.ts'
import { makeRoutes, type Reference } from './rest/routes.ts'
import { makeSubscribers } from './live/subscribers.ts'
import { knownUser, openPool } from './sql/as-caller.ts'
import { isWebSocket, makeWebSockets } from './graphql/websocket.ts'

const DOCS_PATH = `${BASE}/docs`
const OPENAPI_PATH = `${BASE}/openapi.json`

const POOL_SIZE = 10
/** For live news: what is told to many at once keeps nobody waiting who asks. */
const LIVE_POOL_SIZE = 4
/** Milliseconds that news wait for a connection: a thousand subscribers may be told of one event. */
const LIVE_PATIENCE = 20_000
/** Passwords are hashed in the database, which costs it a core each. */
const SLOW_POOL_SIZE = 2
/** Milliseconds that requests under way have to finish when the server closes; no statement runs for longer. */
const LAST_CALL = 12_000

/** Builds the GraphQL schema from the database's catalog, as the login role sees it. Throws when it cannot be built. */
export async function buildSchema(connectionString: string) {
  const service = makePgService({ connectionString, schemas: ['app_public'], pubsub: false, poolConfig: { max: 1 } })
  try {
    return await makeSchema({ extends: [preset], pgServices: [service] })
  } finally {
    await service.release?.()
  }
}

/** The rows of the reference tables, which the login role may read. */
async function readReference(connectionString: string): Promise<Reference> {
  const client = new pg.Client({ connectionString })
  await client.connect()
  try {
    const { rows } = await client.query<Reference>(`select
      array(select status from app_public.request_statuses order by status) as statuses,
      array(select action from app_public.audit_actions order by action) as actions,
      array(select role from app_public.roles order by level) as roles`)
    return rows[0]!
  } finally {
    await client.end()
  }
}

export type BuiltSchema = Awaited<ReturnType<typeof buildSchema>>

/**
 * Starts the API, with a schema of its own unless it is given one of the same catalog. `close` stops listening, lets what is
 * under way finish, and closes the pools, in this order.
 */
export async function startServer(
  config: ConfigFor<'server'>,
  log: Logger,
  built?: BuiltSchema,
): Promise<{ url: string; close(): Promise<void> }> {
  const { schema, resolvedPreset } = built ?? (await buildSchema(config.authDatabaseUrl))
  const reference = await readReference(config.authDatabaseUrl)
  const routes = makeRoutes(reference)
  const pool = openPool(config.authDatabaseUrl, POOL_SIZE, log)
  const slowPool = openPool(config.authDatabaseUrl, SLOW_POOL_SIZE, log)
  const livePool = openPool(config.authDatabaseUrl, LIVE_POOL_SIZE, log, LIVE_PATIENCE)
  const metrics = makeMetrics({ api: pool, slow: slowPool, live: livePool }, () => subscribers.count)

  const explained = new WeakSet<ClientError>()
  const isOwnOrigin = makeIsOwnOrigin(config)
  const tokens = makeTokens(config.jwtSecrets)
  const services = {
    pool,
    slowPool,
    passwords: makePasswords(pool, slowPool),
    tokens,
    identify: makeIdentify(tokens, config.trustProxy, knownUser),
    isOwnOrigin,
    checkCsrf: makeCheckCsrf(pool, isOwnOrigin),
    explain(thrown: unknown): ClientError {
      const error = toClientError(thrown, log)
      // What was explained before is counted already.
      if (!explained.has(error)) metrics.error(error.code)
      explained.add(error)
      return error
    },
  }
  const live = makeLive(config.authDatabaseUrl, log, () => subscribers.endAll('UNAVAILABLE'))
  const subscribers = makeSubscribers(live, livePool, services.explain)
  const { production } = config
  const graphql = makeGraphQL({ ...services, schema, resolvedPreset, production, livePool, live, subscribers })
  const sockets = makeWebSockets({ ...services, schema, graphql, subscribers })
  const rest = makeRestHandler({ ...services, routes, config })
  const openApi = JSON.stringify(makeOpenApi(routes, reference))

  const app = express()
  app.disable('x-powered-by')
  app.get('/healthz', (_req, res) => void res.json({ status: 'ok' }))
  app.get('/readyz', async (_req, res) => {
    const ready = await pool.query('select 1').then(
      () => true,
      () => false,
    )
    if (!ready) res.set('retry-after', '1')
    res.status(ready ? 200 : 503).json({ status: ready ? 'ok' : 'unavailable' })
  })
  app.get('/metrics', async (_req, res) => void res.type(metrics.contentType).send(await metrics.text()))
  app.get(OPENAPI_PATH, (_req, res) => void res.type('json').send(openApi))
  app.use(DOCS_PATH, docs(DOCS_PATH, OPENAPI_PATH))
  if (!config.production) app.use('/graphiql', graphiql())
  for (const path of ['/healthz', '/readyz', '/metrics', OPENAPI_PATH, DOCS_PATH]) {
    app.all(path, (req, res) => {
      res.set('allow', 'GET, HEAD')
      sendProblem(res, services.explain(new ClientError('METHOD_NOT_ALLOWED', `${req.method} is not possible here.`)))
    })
  }
  app.use((_req, res) => sendProblem(res, services.explain(new ClientError('NOT_FOUND', 'There is no such path.'))))
  app.use(((error: { status?: number }, _req, res, _next) => {
    const isTheirs = error.status !== undefined && error.status < 500 // a path that cannot be decoded, for example
    sendProblem(res, services.explain(isTheirs ? new ClientError('NOT_FOUND', 'There is no such path.') : error))
  }) satisfies express.ErrorRequestHandler)

  const headers = securityHeaders()
  const allowOrigins = crossOrigin(config.allowedOrigins)

  /** Answers, and says by which route. What is asked often is answered before express, whose routing costs as much. */
  async function answer(req: IncomingMessage, res: ServerResponse): Promise<string> {
    if (req.headers.host === undefined && req.httpVersion !== '1.0') {
      sendProblem(res, services.explain(new ClientError('BAD_REQUEST', 'A request needs the header Host.')))
      return 'other'
    }
    // As a proxy is asked (RFC 9112, 3.2.2): a server must understand it, too.
    if (/^https?:/i.test(req.url!) && URL.canParse(req.url!)) {
      const { pathname, search } = new URL(req.url!)
      req.url = pathname + search
    }
    const path = req.url!.split('?', 1)[0]!
    if (path === '/graphql') return graphql.handle(req, res).then(() => path)
    if (path.startsWith(`${BASE}/`) && !path.startsWith(DOCS_PATH) && !path.startsWith(OPENAPI_PATH)) return rest(req, res)
    app(req, res)
    if (!res.closed) await once(res, 'close')
    const { route, baseUrl } = req as express.Request
    return route ? baseUrl + route.path : 'other'
  }

  const underWay = new Set<ServerResponse>()
  const server = createServer({ requireHostHeader: false, shouldUpgradeCallback: isWebSocket }, (req, res) => {
    const start = performance.now()
    underWay.add(res.once('close', () => underWay.delete(res)))
    for (const [name, value] of headers) res.setHeader(name, value)
    const respond = () =>
      void answer(req, res).then(
        (route) => metrics.request(req.method!, route, res.statusCode, (performance.now() - start) / 1000),
        (err: unknown) => {
          log.error({ err }, 'no answer')
          res.destroy()
        },
      )
    if (req.headers.origin === undefined) respond()
    else allowOrigins(req, res, respond)
  })
  server.on('upgrade', sockets.upgrade)
  server.on('clientError', refuseConnection)
  server.on('checkExpectation', (_req, res) =>
    sendProblem(res, services.explain(new ClientError('BAD_REQUEST', 'The expectation cannot be met.', { status: 417 }))),
  )
  await listen(server, config.port, config.host)
  const { port } = server.address() as AddressInfo
  return {
    url: listeningUrl(config.host, port),
    async close() {
      const closed = new Promise((resolve) => server.close(resolve))
      sockets.close()
      subscribers.close()
      // Callers cannot hold us: neither by a body that never ends, nor by a connection that never asks anything.
      const deadline = setTimeout(() => server.closeAllConnections(), LAST_CALL)
      await Promise.all(Array.from(underWay, (res) => once(res, 'close')))
      clearTimeout(deadline)
      server.closeAllConnections()
      await closed
      await live.close()
      await Promise.all([pool.end(), slowPool.end(), livePool.end()])
    },
  }
}

/** What is no HTTP never becomes a request; it is told so all the same. */
function refuseConnection(error: NodeJS.ErrnoException, socket: Duplex): void {
  if (!socket.writable || error.code === 'ECONNRESET') return void socket.destroy()
  const status = { HPE_HEADER_OVERFLOW: 431, ERR_HTTP_REQUEST_TIMEOUT: 408 }[error.code ?? ''] ?? 400
  const body = JSON.stringify(new ClientError('BAD_REQUEST', 'This is no HTTP request that can be read.', { status }).problem)
  const head = `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nconnection: close\r\ncontent-type: application/problem+json; charset=utf-8`
  socket.end(`${head}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`)
}

function listen(server: Server, port: number, host: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      server.off('error', reject)
      resolve()
    })
  })
}
