import { createHmac } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { crc32 } from 'node:zlib'
import findMyWay, { type HTTPMethod } from 'find-my-way'
import fresh from 'fresh'
import { DatabaseError, type Pool } from 'pg'
import { isObject, readBody } from '../http/body.ts'
import type { Config } from '../config.ts'
import type { CheckCsrf, IsOwnOrigin } from '../http/csrf.ts'
import { ClientError, unauthenticated } from '../errors.ts'
import type { Identify, Identity, Tokens } from '../http/identity.ts'
import type { Query } from './lists.ts'
import type { Passwords } from '../passwords.ts'
import type { Answer, Route } from './routes.ts'
import { asCaller, inTransaction, isAnonymous, type Ask } from '../sql/as-caller.ts'

export const BASE = '/api/v1'

export interface RestServices {
  readonly routes: readonly Route[]
  readonly pool: Pool
  readonly slowPool: Pool
  readonly passwords: Passwords
  readonly tokens: Tokens
  readonly identify: Identify
  readonly checkCsrf: CheckCsrf
  readonly isOwnOrigin: IsOwnOrigin
  readonly config: Pick<Config, 'publicUrl' | 'trustProxy'> & { readonly jwtSecrets: readonly string[] }
  /** Turns what was thrown into what the caller may hear. */
  readonly explain: (error: unknown) => ClientError
}

const PROBLEM = { 'content-type': 'application/problem+json; charset=utf-8', 'cache-control': 'no-store' }
const METHODS: readonly HTTPMethod[] = ['GET', 'POST', 'PATCH', 'DELETE']

/** Answers an error as Problem Details, whichever door it happened at. */
export function sendProblem(res: ServerResponse, error: ClientError): void {
  const body = JSON.stringify(error.problem)
  for (const [name, value] of Object.entries(error.headers)) res.setHeader(name, value!)
  res.writeHead(error.status, { ...PROBLEM, 'content-length': Buffer.byteLength(body) })
  res.end(body)
}

/** The version of a request, for If-Match, and what else the answer depends on, such as the caller's role. */
const entityTag = (version: number, body: string) => `"${version}-${crc32(body).toString(16)}"`

function send(req: IncomingMessage, res: ServerResponse, { status, headers, body = '' }: Answer): void {
  for (const [name, value] of Object.entries(headers ?? {})) res.setHeader(name, value)
  if (!res.hasHeader('cache-control')) res.setHeader('cache-control', 'private, no-cache')
  const isRead = req.method === 'GET' || req.method === 'HEAD'
  if (isRead && headers?.['etag'] && fresh(req.headers, headers)) {
    res.writeHead(304).end()
  } else if (status === 204) {
    res.writeHead(204).end()
  } else {
    if (!res.hasHeader('content-type')) res.setHeader('content-type', 'application/json; charset=utf-8')
    res.writeHead(status, { 'content-length': Buffer.byteLength(body) })
    res.end(body)
  }
}

/** The members of the body that the route names; others are ignored. Throws BAD_REQUEST and VALIDATION_FAILED. */
function membersOf(body: unknown = {}, { body: named = {} }: Route): Record<string, unknown> {
  if (!isObject(body)) throw new ClientError('BAD_REQUEST', 'The body must be a JSON object.')
  const members = Object.entries(body)
    .filter(([name]) => Object.hasOwn(named, name))
    // None is an object. That it is one the database says when it comes to it; how deep it is does not matter.
    .map(([name, value]) => [name, typeof value === 'object' && value !== null ? {} : value] as const)
  for (const [field, value] of members) {
    if (typeof value === 'string' && (!value.isWellFormed() || value.includes('\0')))
      throw new ClientError('VALIDATION_FAILED', 'Text must be well-formed Unicode, without the character NUL.', { field })
  }
  return Object.fromEntries(members)
}

/** Answers all below /api/v1, by the table of routes: no rule of its own. */
export function makeRestHandler(services: RestServices) {
  const { routes, pool, slowPool, passwords, tokens, identify, checkCsrf, isOwnOrigin, config, explain } = services
  const router = findMyWay({ ignoreTrailingSlash: true })
  for (const route of routes) router.on(route.method, BASE + route.path, () => {}, route)

  /** Throws NOT_FOUND and METHOD_NOT_ALLOWED. */
  function find(req: IncomingMessage, res: ServerResponse) {
    const all = METHODS.flatMap((method) => {
      const found = router.find(method, req.url!)
      return found ? [{ route: found.store as Route, params: found.params, query: found.searchParams as Query }] : []
    })
    // What has a path of its own, as /users/me/, is no id.
    const own = all.filter(({ route }) => !route.path.includes(':'))
    const here = own.length > 0 ? own : all
    const found = here.find(({ route }) => route.method === (req.method === 'HEAD' ? 'GET' : req.method))
    if (found) return found
    if (here.length === 0) throw new ClientError('NOT_FOUND', 'There is no such path.')
    const allowed = here.map(({ route }) => route.method)
    res.setHeader('allow', [...allowed, ...(allowed.includes('GET') ? ['HEAD'] : [])].join(', '))
    throw new ClientError('METHOD_NOT_ALLOWED', `${req.method} is not possible here.`)
  }

  /** Who is asking: nobody, where credentials are needed, is refused before anything is read. */
  async function authenticate(req: IncomingMessage, { open, fromOwnOrigin, method }: Route): Promise<Identity> {
    if (open) {
      if (fromOwnOrigin && !isOwnOrigin(req)) throw new ClientError('FORBIDDEN', 'This origin is not allowed.')
      return identify.leniently(req)
    }
    const claimed = identify(req)
    const caller = method === 'GET' ? claimed : await checkCsrf(req, claimed)
    if (!caller.session) throw unauthenticated()
    return caller
  }

  const isSecure = (req: IncomingMessage) =>
    config.publicUrl.startsWith('https:') ||
    (config.trustProxy > 0 && /^https *(,|$)/.test(String(req.headers['x-forwarded-proto'])))

  /** As the caller has it, so that links lead back the same way. */
  function urlOf(req: IncomingMessage): string {
    const { host } = req.headers
    const origin = `${isSecure(req) ? 'https' : 'http'}://${host}`
    return (/^[\w.:[\]-]+$/.test(host ?? '') && URL.canParse(origin) ? origin : config.publicUrl) + req.url!.split('?', 1)[0]
  }

  const withTag = ({ version, ...answer }: Answer): Answer =>
    version === undefined ? answer : { ...answer, headers: { ...answer.headers, etag: entityTag(version, answer.body!) } }

  /** Bodies can hold passwords: the fingerprint of one is of use to nobody who has not got the key. */
  const fingerprints = (request: readonly unknown[]) =>
    config.jwtSecrets.map((secret) => createHmac('sha256', secret).update(JSON.stringify(request)).digest())

  /** Does the work once for this key: see db/rules/idempotency.sql. Refusals are answers, and are kept too. */
  function once(pool: Pool, caller: Identity, key: string, prints: Buffer[], work: (ask: Ask) => Promise<Answer>) {
    return inTransaction(pool, caller, async (ask) => {
      const claim = { text: 'select * from app_hidden.claim_idempotency_key($1, $2)', values: [key, prints] }
      const [claimed] = await ask<{ state: string; answer: Answer }>(claim)
      const { state, answer: first } = claimed!
      if (state === 'ANSWERED') return first
      if (state === 'RUNNING')
        throw new ClientError('IDEMPOTENCY_CONFLICT', 'A request with this key is still running.', { retryAfter: 1 })
      if (state === 'OTHER')
        throw new ClientError('IDEMPOTENCY_CONFLICT', 'This key has been used for another request.', { status: 422 })

      await ask({ text: 'savepoint work' })
      const answer = await work(ask).catch(async (error: unknown) => {
        const refusal = explain(error)
        if (refusal.status >= 500 || refusal.code === 'UNAUTHENTICATED') throw refusal
        // Only what failed is undone: a wrong password is an outcome, and counts.
        if (error instanceof DatabaseError) await ask({ text: 'rollback to savepoint work' })
        const headers = { ...PROBLEM, ...(refusal.headers as Record<string, string>) }
        return { status: refusal.status, body: JSON.stringify(refusal.problem), headers }
      })
      // To be tried again is no answer for good.
      if (answer.status !== 429)
        await ask({ text: 'select app_hidden.keep_answer($1, $2, $3)', values: [key, prints[0], answer] })
      return answer
    })
  }

  async function answer(
    req: IncomingMessage,
    res: ServerResponse,
    { route, params, query }: ReturnType<typeof find>,
  ): Promise<Answer> {
    const caller = await authenticate(req, route)
    const mode = route.method === 'GET' ? 'read' : 'write'
    const askOn =
      (pool: Pool, caller: Identity): Ask =>
      async <Row>(statement: Parameters<Ask>[0]) =>
        (await asCaller<Row>(pool, caller, mode, statement)).rows
    const routePool = route.slow ? slowPool : pool
    const call = {
      req,
      caller,
      params,
      query,
      askAs: (caller: Identity) => askOn(pool, caller),
      url: urlOf(req),
      isSecure: isSecure(req),
      tokens,
      passwords,
    }
    try {
      const body = mode === 'read' || route.method === 'DELETE' ? {} : membersOf(await readBody(req, res), route)
      const run = async (ask: Ask) => withTag(await route.run({ ...call, body, ask }))
      const key = route.method === 'POST' && !route.unrepeatable ? req.headers['idempotency-key'] : undefined
      if (key === undefined) return await run(askOn(routePool, caller))
      if (!/^[\x21-\x7e]{1,255}$/.test(String(key)))
        throw new ClientError('BAD_REQUEST', 'An Idempotency-Key has 1 to 255 visible ASCII characters.')
      return await once(routePool, caller, String(key), fingerprints([route.method, route.path, params, body]), run)
    } catch (error) {
      // That the session has ended comes before all else that is wrong. What the database finds comes in that order.
      if (error instanceof ClientError && !route.open && (await isAnonymous(pool, caller))) throw unauthenticated()
      throw error
    }
  }

  /** Answers a request, and which route it was. */
  return async (req: IncomingMessage, res: ServerResponse): Promise<string> => {
    let label = 'unknown'
    try {
      const found = find(req, res)
      label = BASE + found.route.path
      send(req, res, await answer(req, res, found))
    } catch (error) {
      sendProblem(res, explain(error))
    }
    return label
  }
}
