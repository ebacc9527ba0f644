import type { IncomingMessage, ServerResponse } from 'node:http'
import { pipeline } from 'node:stream/promises'
import findMyWay from 'find-my-way'
import {
  ClientError,
  invalid,
  memberOf,
  noSuchPath,
  toClientError,
  unauthenticated,
  unsupportedMethod,
  type Fault,
} from '../errors.ts'
import { isObject, readBody } from '../http/body.ts'
import { foreignOrigin } from '../http/csrf.ts'
import type { IsSecure } from '../http/identity.ts'
import { isAllowed, isKnown } from '../http/preconditions.ts'
import { sendProblem } from '../http/problem.ts'
import type { Services } from '../http/services.ts'
import type { Logger } from '../logger.ts'
import { asking, inTransaction, isStranger, type Ask, type Database, type Identity } from '../sql/as-caller.ts'
import type { AccelOf } from './accel.ts'
import { keyOf, makeOnce } from './idempotency.ts'
import type { Query } from './lists.ts'
import { BASE, staleVersion, tagOf, takesBody, type Answer, type Call, type Received, type Route } from './route.ts'
import { compile } from './schemas.ts'

export interface RestServices extends Services {
  readonly routes: readonly Route[]
  readonly slowDb: Database
  readonly bulkDb: Database
  readonly isSecure: IsSecure
  readonly accelOf: AccelOf
  readonly jwtSecrets: readonly string[]
  readonly log: Logger
}

interface Found {
  readonly route: Route
  readonly params: Call['params']
  readonly query: Query
}

const withTag = ({ version, ...answer }: Answer): Answer =>
  version === undefined ? answer : { ...answer, headers: { ...answer.headers, etag: tagOf(version, answer.body!) } }

async function send(req: IncomingMessage, res: ServerResponse, answer: Answer): Promise<void> {
  const { status, headers, body = '', bytes } = answer
  const isRead = req.method === 'GET' || req.method === 'HEAD'
  const tag = isRead ? headers?.['etag'] : undefined
  if (tag && !isAllowed(req.headers, tag)) throw staleVersion()
  for (const [name, value] of Object.entries(headers ?? {})) res.setHeader(name, value)
  if (tag && isKnown(req.headers, tag)) {
    for (const name of ['content-type', 'content-length']) res.removeHeader(name)
    res.writeHead(304).end()
  } else if (status === 204) {
    res.writeHead(204).end()
  } else if (bytes) {
    res.writeHead(status)
    if (req.method === 'HEAD') res.end()
    else await pipeline(bytes, res)
  } else {
    if (!res.hasHeader('content-type')) res.setHeader('content-type', 'application/json; charset=utf-8')
    res.writeHead(status, { 'content-length': Buffer.byteLength(body) })
    res.end(body)
  }
}

/** The router has one entry for a path, which holds the routes of all its methods. */
function makeFind(routes: readonly Route[]) {
  const router = findMyWay({ ignoreTrailingSlash: true })
  for (const [path, here] of Map.groupBy(routes, ({ path }) => path)) router.on('GET', BASE + path, () => {}, here)

  /** Throws NOT_FOUND and METHOD_NOT_ALLOWED. */
  return (req: IncomingMessage, res: ServerResponse): Found => {
    const found = router.find('GET', req.url!)
    if (!found) throw noSuchPath()
    const here = found.store as Route[]
    const route = here.find(({ method }) => method === (req.method === 'HEAD' ? 'GET' : req.method))
    if (route) return { route, params: found.params, query: found.searchParams as Query }
    const allowed = here.map(({ method }) => method)
    res.setHeader('allow', [...allowed, ...(allowed.includes('GET') ? ['HEAD'] : [])].join(', '))
    throw unsupportedMethod(req)
  }
}

/**
 * The database is asked about a body with faults, too: an object is passed on empty, and text without what PostgreSQL cannot
 * store, so that it is our rules that refuse them.
 */
const harmless = (value: unknown) =>
  typeof value === 'string' ? value.toWellFormed().replaceAll('\0', '\ufffd') : typeof value === 'object' && value ? {} : value

/** Reads the members that a route names from a body; others are ignored. Throws BAD_REQUEST. */
function makeReadMembers({ body: schemas = {}, required }: Route) {
  const check = compile(schemas, required)
  return (body: unknown = {}): { body: Call['body']; faults: Fault[] } => {
    if (!isObject(body)) throw new ClientError('BAD_REQUEST', 'The body must be a JSON object.')
    const given = Object.entries(body).filter(([name]) => Object.hasOwn(schemas, name))
    const faults = check(Object.fromEntries(given))
    const members = faults.length > 0 ? given.map(([name, value]) => [name, harmless(value)] as const) : given
    return { body: Object.fromEntries(members), faults }
  }
}

/** Answers everything below /api/v1, by the table of routes: it has no rule of its own. */
export function makeRestHandler(services: RestServices) {
  const { routes, db, slowDb, bulkDb, search, passwords, tokens, identify, checkCsrf, isOwnOrigin, isSecure, log, explain } =
    services
  const find = makeFind(routes)
  const once = makeOnce(services.jwtSecrets, explain)
  const readers = new Map(routes.map((route) => [route, makeReadMembers(route)]))

  /** Says who is asking. Where credentials are needed, a stranger is refused before anything is read. */
  async function authenticate(req: IncomingMessage, { open, fromOwnOrigin, method }: Route): Promise<Identity> {
    if (open) {
      if (fromOwnOrigin && !isOwnOrigin(req)) throw foreignOrigin()
      return await services.spend(req, identify.leniently)
    }
    const claimed = await services.spend(req, identify)
    const caller = method === 'GET' ? claimed : await checkCsrf(req, claimed)
    if (!caller.session) throw unauthenticated()
    return caller
  }

  /**
   * Answers a body with faults. They come last of all that can be wrong, so the database is asked first, and what it does is
   * undone. Where it names a fault itself, its words are used: GraphQL has the same.
   */
  async function refuse(ask: Ask, run: (ask: Ask) => Promise<Answer>, faults: readonly Fault[]): Promise<never> {
    await ask({ text: 'savepoint judged' })
    const refusal = await run(ask).then(
      () => undefined,
      (error: unknown) => toClientError(error, log),
    )
    await ask({ text: 'rollback to savepoint judged' })
    if (refusal && refusal.code !== 'VALIDATION_FAILED') throw refusal
    const found = refusal?.faults ?? []
    throw invalid([...found, ...faults.filter(({ field }) => !found.some((fault) => memberOf(fault) === field))])
  }

  async function receive(res: ServerResponse, route: Route, call: Call): Promise<Received> {
    if (route.receive) return await route.receive(call)
    return readers.get(route)!(takesBody(route) ? await readBody(call.req, res, call.caller.ip, services.spend) : {})
  }

  /** A caller who leaves before the end is no fault; what else ends a file early is, and the caller sees that bytes are missing. */
  async function* watched(bytes: AsyncIterable<Buffer>) {
    try {
      yield* bytes
    } catch (error) {
      explain(error)
      throw error
    }
  }

  async function answer(req: IncomingMessage, res: ServerResponse, { route, params, query }: Found): Promise<Answer> {
    const caller = await authenticate(req, route)
    const mode = route.method === 'GET' ? 'read' : 'write'
    const routeDb = route.slow ? slowDb : db
    const ask = asking(routeDb, caller, mode)
    const call: Call = {
      req,
      caller,
      params,
      query,
      body: {},
      ask,
      carry: asking(bulkDb, caller, mode),
      pay: (requests) => services.spend.more(req, requests),
      askAs: (caller: Identity) => asking(db, caller, mode),
      search,
      path: req.url!.split('?', 1)[0]!,
      isSecure: isSecure(req),
      accel: services.accelOf(req),
      tokens,
      passwords,
    }
    let received: Received | undefined
    try {
      const key = keyOf(req, route)
      received = await receive(res, route, call)
      const { body, faults, file } = received
      if (faults.length > 0 && route.open) throw invalid(faults)
      const run = async (ask: Ask) => withTag(await route.run({ ...call, body, ask, ...(file && { file }) }))
      const work = faults.length > 0 ? (ask: Ask) => refuse(ask, run, faults) : run
      const conditions = req.headers['if-match'] === undefined ? [] : [req.headers['if-match']]
      const asked = [route.method, route.path, params, body, ...conditions]
      if (key !== undefined) return await once(routeDb, caller, key, asked, work)
      return await (faults.length > 0 ? inTransaction(routeDb, caller, work) : run(ask))
    } catch (error) {
      // That the session has ended comes before all else that is wrong. The database keeps this order itself.
      if (error instanceof ClientError && !route.open && (await isStranger(db, caller))) throw unauthenticated()
      throw error
    } finally {
      await received?.file?.drop()
    }
  }

  /** Answers a request, and says which route it was. */
  return async (req: IncomingMessage, res: ServerResponse): Promise<string> => {
    let label = 'unknown'
    try {
      const found = find(req, res)
      label = BASE + found.route.path
      const { bytes, ...rest } = await answer(req, res, found)
      await send(req, res, { ...rest, ...(bytes && { bytes: watched(bytes) }) })
    } catch (error) {
      if (!res.headersSent) sendProblem(res, explain(error))
    }
    return label
  }
}
