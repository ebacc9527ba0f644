import { once } from 'node:events'
import { createServer, STATUS_CODES, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { Server as NetServer, type AddressInfo } from 'node:net'
import type { Duplex } from 'node:stream'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import express from 'express'
import { makeSchema } from 'postgraphile'
import { makePgService } from 'postgraphile/adaptors/pg'
import type { Logger } from 'pino'
import { listeningUrl, type ConfigFor } from './config.ts'
import { ClientError, noSuchPath, toClientError, unsupportedMethod } from './errors.ts'
import { makeGraphQL, type GraphQL } from './graphql/handler.ts'
import { preset } from './graphql/schema/preset.ts'
import { isWebSocket, makeWebSockets } from './graphql/websocket.ts'
import { makeSpend } from './http/allowance.ts'
import { makeCheckCsrf, makeIsOwnOrigin } from './http/csrf.ts'
import { crossOrigin, HEADERS } from './http/headers.ts'
import { makeHealth } from './http/health.ts'
import { makeAddressOf, makeIdentify, makeIsSecure } from './http/identity.ts'
import { makeMetrics } from './http/metrics.ts'
import { PROBLEM, sendProblem } from './http/problem.ts'
import { makeRefusals } from './http/refusals.ts'
import { makeTokens } from './http/tokens.ts'
import { makeChanges } from './live/changes.ts'
import { makeLive } from './live/listener.ts'
import { makeSubscribers } from './live/subscribers.ts'
import { makeRegister, serveMetrics } from './metrics.ts'
import { makePasswords } from './passwords.ts'
import type { Report } from './reports.ts'
import { makeAccel } from './rest/accel.ts'
import { docs } from './rest/docs.ts'
import { makeRestHandler } from './rest/handler.ts'
import { makeOpenApi } from './rest/openapi.ts'
import { BASE, type Reference } from './rest/route.ts'
import { makeResources } from './rest/routes/index.ts'
import { makeDatabase } from './sql/as-caller.ts'
import { makeSessions } from './sql/in-use.ts'
import { connected, withSettings } from './sql/connection.ts'
import { makeOpenPool, type Limits } from './sql/pool.ts'
import { makeReplicas } from './sql/replicas.ts'
import { makeSearch } from './sql/search.ts'
import { traceRequest } from './tracing.ts'

const DOCS_PATH = `${BASE}/docs`
const OPENAPI_PATH = `${BASE}/openapi.json`

const POOL_SIZE = 10
/** Live news use their own pool, so that they queue behind each other and never in front of requests. */
const LIVE_POOL_SIZE = 4
/** Milliseconds that news wait for a connection: one event may be news to a thousand subscribers. */
const LIVE_PATIENCE = 20_000
/** Passwords are hashed in the database, and each hash occupies one of its cores. */
const SLOW_POOL_SIZE = 2
/** Milliseconds that they queue for it: longer than it takes to hash the 100 wrong guesses that one network has. */
const SLOW_PATIENCE = 5_000
/** Files come and go in chunks, which take a moment each. They queue behind each other, and never in front of other calls. */
const BULK_POOL_SIZE = 1
const BULK_PATIENCE = 10_000
/** A search can be slow whatever its words are: it can occupy only these connections, and each for so many milliseconds. */
const SEARCH_POOL_SIZE = 4
const LONGEST_SEARCH = 1_500
/** Milliseconds that requests under way have to finish when the server closes; no statement runs for longer. */
const LAST_CALL = 12_000
/** Milliseconds in which a proxy lets go of connections on which nothing happens: deploy/nginx has 3 seconds for that. */
const LETTING_GO = 4_000
/** Milliseconds of a turn of the event loop in which nothing happens, and how many turns are waited for one. */
const QUIET = 0.2
const MOST_TURNS = 50

/**
 * Milliseconds that the headers of a request may take, and all of it, and after which that is checked again. A slow caller holds
 * a descriptor of this process for as long, which is why there is also a limit to connections.
 */
const TIMEOUTS = { headersTimeout: 10_000, requestTimeout: 120_000, connectionsCheckingInterval: 5_000 }
const MAX_OPEN_CONNECTIONS = 20_000

/** Builds the GraphQL schema from the database's catalog, as the login role sees it. Throws when it cannot be built. */
export async function buildSchema(connectionString: string) {
  const service = makePgService({
    connectionString: withSettings(connectionString),
    schemas: ['app_public'],
    pubsub: false,
    poolConfig: { max: 1 },
  })
  try {
    return await makeSchema({ extends: [preset], pgServices: [service] })
  } finally {
    await service.release?.()
  }
}

/** The rows of the reference tables, which the login role may read, and the schema's version. */
const readReference = (connectionString: string) =>
  connected(connectionString, async (client) => {
    const { rows } = await client.query<Reference & { readonly schemaVersion: string }>(`select
      app_hidden.schema_version() as "schemaVersion",
      array(select status from app_public.request_statuses order by status) as statuses,
      array(select action from app_public.audit_actions order by action) as actions,
      array(select role from app_public.roles order by level) as roles`)
    return rows[0]!
  })

export type BuiltSchema = Awaited<ReturnType<typeof buildSchema>>

/**
 * Starts the API, with a schema of its own unless it is given one of the same catalog. Whoever tracks errors hears of INTERNAL ones
 * by `report`. `close` stops listening, lets what is
 * under way finish, and what a proxy sends meanwhile on connections that it has, and closes the pools, in this order.
 */
export async function startServer(
  config: ConfigFor<'server'>,
  log: Logger,
  report: Report = () => {},
  built?: BuiltSchema,
): Promise<{ url: string; metricsUrl?: string; close(): Promise<void> }> {
  const { schema, resolvedPreset } = built ?? (await buildSchema(config.authDatabaseUrl))
  const reference = await readReference(config.authDatabaseUrl)
  const resources = makeResources(reference)
  const sessions = makeSessions()
  const openPool = makeOpenPool(config.authDatabaseUrl, log)
  const { replicaDatabaseUrls } = config
  const replicas = replicaDatabaseUrls.length
    ? makeReplicas(replicaDatabaseUrls, openPool, log, (outcome) => metrics.read(outcome))
    : undefined
  const open = (name: string, size: number, limits?: Limits) =>
    makeDatabase(openPool(size, limits), sessions, replicas?.beside(name, size, limits))
  const db = open('api', POOL_SIZE)
  const slowDb = open('slow', SLOW_POOL_SIZE, { patience: SLOW_PATIENCE })
  const liveDb = open('live', LIVE_POOL_SIZE, { patience: LIVE_PATIENCE })
  const searchDb = open('search', SEARCH_POOL_SIZE, { longest: LONGEST_SEARCH })
  const bulkDb = open('bulk', BULK_POOL_SIZE, { patience: BULK_PATIENCE })
  let closing = false
  const { probes, isReady } = makeHealth(db.pool, reference.schemaVersion, () => closing)
  const pools = {
    api: db.pool,
    slow: slowDb.pool,
    live: liveDb.pool,
    search: searchDb.pool,
    bulk: bulkDb.pool,
    ...replicas?.pools,
  }
  const register = makeRegister(reference.schemaVersion, pools)
  const metrics = makeMetrics(register, db.pool, { subscribers: () => subscribers.count, isReady, replicas: replicas?.all ?? [] })

  const explained = new WeakSet<ClientError>()
  const isSecure = makeIsSecure(config)
  const isOwnOrigin = makeIsOwnOrigin(config, isSecure)
  const tokens = makeTokens(config.jwtSecrets)
  const addressOf = makeAddressOf(config.trustProxy)
  const identify = makeIdentify(tokens, addressOf, isSecure)
  const refusals = makeRefusals(log, identify, addressOf, sessions.userOf)
  const services = {
    db,
    slowDb,
    bulkDb,
    liveDb,
    search: makeSearch(searchDb, metrics.searchStopped),
    log,
    passwords: makePasswords(db, slowDb, metrics.login),
    tokens,
    identify,
    spend: makeSpend(addressOf, sessions.userOf),
    isSecure,
    isOwnOrigin,
    checkCsrf: makeCheckCsrf(db, isOwnOrigin),
    explain(thrown: unknown): ClientError {
      const error = toClientError(thrown, log)
      // An error that was explained before is counted and logged already.
      if (!explained.has(error)) {
        metrics.error(error.code)
        refusals.note(error)
        if (error.code === 'INTERNAL') report(error.cause, { id: error.id! })
      }
      explained.add(error)
      return error
    },
  }
  const lost = () => subscribers.endAll('UNAVAILABLE')
  const live = makeLive(config.authDatabaseUrl, log, lost)
  const changes = makeChanges(live, liveDb, services.explain, lost)
  const subscribers = makeSubscribers(live, liveDb, services.explain)
  const { production, jwtSecrets } = config
  const graphql = makeGraphQL({ ...services, schema, resolvedPreset, production, live, changes, subscribers })
  const sockets = makeWebSockets({ ...services, schema, graphql, subscribers, during: refusals.during })
  const rest = makeRestHandler({
    ...services,
    routes: resources.flatMap(({ routes }) => routes),
    accelOf: makeAccel(config),
    jwtSecrets,
  })
  const refuse: Refuse = (res, error) => sendProblem(res, services.explain(error))
  const openApi = makeOpenApi(resources, reference, config.publicUrl)
  const app = await makeApp(probes, openApi, production, refuse)

  const allowOrigins = crossOrigin(config.allowedOrigins)
  // Probes and pages are counted for themselves, by network: no caller's flood silences a probe, and no probe is without end.
  const probe = makeSpend(addressOf, () => undefined)
  const answer = makeAnswer({ graphql, rest, app, probe: (req) => probe(req, identify.leniently), refuse })

  const underWay = new Set<ServerResponse>()
  const server = createServer({ ...TIMEOUTS, requireHostHeader: false, shouldUpgradeCallback: isWebSocket }, (req, res) => {
    const start = performance.now()
    underWay.add(res.once('close', () => underWay.delete(res)))
    for (const [name, value] of HEADERS) res.setHeader(name, value)
    if (closing) res.setHeader('connection', 'close')
    const respond = () =>
      void traceRequest(req, res, config.trustProxy > 0, () => answer(req, res)).then(
        (route) => metrics.request(req.method!, route, res.statusCode, (performance.now() - start) / 1000),
        (err: unknown) => {
          log.error({ err }, 'no answer')
          res.destroy()
        },
      )
    refusals.during(req, () => (req.headers.origin === undefined ? respond() : allowOrigins(req, res, respond)))
  })
  server.maxConnections = MAX_OPEN_CONNECTIONS
  server.on('upgrade', (req, socket, head) => refusals.during(req, () => sockets.upgrade(req, socket, head)))
  server.on('clientError', refuseConnection)
  server.on('checkExpectation', (_req, res) => {
    const message = 'The header Expect names an expectation that this server does not meet.'
    refuse(res, new ClientError('BAD_REQUEST', message, { status: 417 }))
  })
  await listen(server, config.port, config.host)
  const served = await serveMetrics(register, config).catch(async (error) => {
    await close()
    throw error
  })
  return {
    url: listeningUrl(config.host, (server.address() as AddressInfo).port),
    ...(served && { metricsUrl: served.url }),
    close: () => Promise.all([close(), served?.close()]).then(() => {}),
  }

  async function close() {
    closing = true
    await untilQuiet()
    for (const res of underWay) if (!res.headersSent) res.setHeader('connection', 'close')
    const closed = once(server, 'close')
    // Not http's own close: it would cut connections on which nothing happens, and with them a request that is on its way.
    NetServer.prototype.close.call(server)
    sockets.close()
    subscribers.close()
    // Callers cannot keep us waiting: neither by a body that never ends, nor by a connection without a request.
    const deadline = setTimeout(() => server.closeAllConnections(), LAST_CALL)
    if (config.trustProxy > 0) await Promise.race([closed, sleep(LETTING_GO, undefined, { ref: false })])
    await Promise.all(Array.from(underWay, (res) => once(res, 'close')))
    clearTimeout(deadline)
    server.close()
    server.closeAllConnections()
    await closed
    await live.close()
    await Promise.all([db, slowDb, bulkDb, liveDb, searchDb].map(({ pool }) => pool.end()))
    await replicas?.close()
  }
}

/**
 * The system takes connections in before we do, and resets those that still wait for us when we stop listening: with them would
 * go a POST that no proxy sends again. So we stop right after a turn of the event loop that had nothing else to do.
 */
async function untilQuiet(): Promise<void> {
  for (let turns = 0; turns < MOST_TURNS; turns++) {
    const start = performance.now()
    await nextTurn()
    if (performance.now() - start < QUIET) return
  }
}

/** Answers an error. */
type Refuse = (res: ServerResponse, error: unknown) => void

/** Answers a request, and says by which route. */
type Answer = (req: IncomingMessage, res: ServerResponse) => Promise<string>

interface Doors {
  readonly graphql: GraphQL
  readonly rest: Answer
  readonly app: express.Express
  /** Takes a request to express from an allowance. */
  readonly probe: (req: IncomingMessage) => Promise<unknown>
  readonly refuse: Refuse
}

/** Frequent calls are answered before express, whose routing costs as much as the answer. */
function makeAnswer({ graphql, rest, app, probe, refuse }: Doors): Answer {
  return async (req, res) => {
    if (req.headers.host === undefined && req.httpVersion !== '1.0') {
      refuse(res, new ClientError('BAD_REQUEST', 'A request needs the header Host.'))
      return 'other'
    }
    // The absolute form, in which proxies are asked: a server must understand it, too (RFC 9112, 3.2.2).
    if (/^https?:/i.test(req.url!) && URL.canParse(req.url!)) {
      const { pathname, search } = new URL(req.url!)
      req.url = pathname + search
    }
    const path = req.url!.split('?', 1)[0]!
    if (path === '/graphql' && req.method === 'POST') return graphql.handle(req, res).then(() => path)
    if (path.startsWith(`${BASE}/`) && !path.startsWith(DOCS_PATH) && !path.startsWith(OPENAPI_PATH)) return rest(req, res)
    try {
      await probe(req)
    } catch (error) {
      refuse(res, error)
      return 'other'
    }
    if (path === '/graphql') return graphql.handle(req, res).then(() => path)
    app(req, res)
    if (!res.closed) await once(res, 'close')
    const { route, baseUrl } = req as express.Request
    return route ? baseUrl + route.path : 'other'
  }
}

/** The probes and the pages, which express serves. */
async function makeApp(probes: express.Router, openApi: object, production: boolean, refuse: Refuse): Promise<express.Express> {
  const app = express()
  app.disable('x-powered-by')
  app.use(probes)
  const document = JSON.stringify(openApi)
  app.get(OPENAPI_PATH, (_req, res) => void res.set('cache-control', 'no-cache').type('json').send(document))
  app.use(DOCS_PATH, docs(DOCS_PATH, OPENAPI_PATH))
  // Loaded only here: npm's --omit=dev leaves its packages out, which are larger than all others together.
  if (!production) app.use('/graphiql', (await import('./graphql/graphiql.ts')).graphiql())
  for (const path of ['/healthz', '/readyz', OPENAPI_PATH, DOCS_PATH])
    app.all(path, (req, res) => refuse(res.set('allow', 'GET, HEAD'), unsupportedMethod(req)))
  app.use((_req, res) => refuse(res, noSuchPath()))
  app.use(((error: { status?: number }, _req, res, _next) => {
    const isTheirs = error.status !== undefined && error.status < 500 // A path that cannot be decoded, for example.
    refuse(res, isTheirs ? noSuchPath() : error)
  }) satisfies express.ErrorRequestHandler)
  return app
}

/** Bytes that do not parse as HTTP never reach a handler, so answer them here. */
function refuseConnection(error: NodeJS.ErrnoException, socket: Duplex): void {
  if (!socket.writable || error.code === 'ECONNRESET') return void socket.destroy()
  const status = { HPE_HEADER_OVERFLOW: 431, ERR_HTTP_REQUEST_TIMEOUT: 408 }[error.code ?? ''] ?? 400
  const body = JSON.stringify(new ClientError('BAD_REQUEST', 'Malformed HTTP request.', { status }).problem)
  const headers = { ...Object.fromEntries(HEADERS), ...PROBLEM, connection: 'close', 'content-length': Buffer.byteLength(body) }
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join('')}\r\n${body}`)
}

async function listen(server: Server, port: number, host: string): Promise<void> {
  server.listen(port, host)
  await once(server, 'listening') // Throws when the port cannot be had.
}
