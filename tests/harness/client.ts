import { randomBytes, randomUUID } from 'node:crypto'
import { Agent, request, type IncomingHttpHeaders, type OutgoingHttpHeaders } from 'node:http'
import { format } from 'node:util'
import type { Client } from 'pg'
import pino from 'pino'
import type { startServer } from '../../server/server.ts'
import { parseConfig } from '../../server/config.ts'
import { makeTokens } from '../../server/http/tokens.ts'
import { cloneDatabase, type Name, type TestDatabase } from './database.ts'

/** What tests/harness/environment.ts has made on the other side of Jest's wall. */
declare const outside: { readonly console: Console; readonly startServer: typeof startServer }

export const PASSWORD = 'assent-demo-password'
export const JWT_SECRET = 'a key that signs tokens in these tests alone'
/** An id that no row has. */
export const NOBODY = '01890000-0000-7000-8000-000000000000'

export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
  /** The text as JSON, or undefined if it is none. */
  readonly body: any
}

export interface Call {
  readonly path?: string
  readonly method?: string
  readonly headers?: OutgoingHttpHeaders
  readonly body?: string | Buffer
}

/** Whose call it is: a demo person (with the session that the clone came with), any bearer token, or nobody. */
export type Who = Name | { readonly token: string } | undefined

/** Somebody new, with a session of their own. Their password is PASSWORD. */
export interface NewPerson {
  readonly id: string
  readonly email: string
  readonly token: string
}

export interface Api {
  readonly db: TestDatabase
  readonly url: string
  /** What the server has logged so far, as text. */
  log(): string
  token(name: Name): string
  /** One HTTP request, as it stands. */
  send(call: Call): Promise<Answer>
  /** One HTTP request to the server of metrics, for them unless it says otherwise. */
  metrics(call?: Call): Promise<Answer>
  /** One GraphQL call, with its whole answer. */
  graphql(query: string, variables?: object, who?: Who, headers?: OutgoingHttpHeaders): Promise<Answer>
  /** One GraphQL call that must succeed: its data. */
  data(query: string, variables?: object, who?: Who): Promise<any>
  /** One GraphQL call that must fail: the code of its first error. */
  code(query: string, variables?: object, who?: Who): Promise<string>
  /** One call of the REST API: `rest('GET', '/requests/')`. */
  rest(method: string, path: string, body?: unknown, who?: Who, headers?: OutgoingHttpHeaders): Promise<Answer>
  /** Adds somebody to the database: for tests that would leave a demo person without a session, or change them. */
  person(role?: 'USER' | 'MANAGER' | 'ADMIN'): Promise<NewPerson>
  /** Stops the server alone; close() does it too, and drops the database. */
  stop(): Promise<void>
  close(): Promise<void>
}

/**
 * An address that nobody has called from: to a server with TRUST_PROXY=1, the caller of these headers. Calls without
 * credentials are counted by address, and their allowance is not what most tests are about.
 */
export const fromElsewhere = (): { 'x-forwarded-for': string } => {
  const [a, b, c] = randomBytes(3)
  return { 'x-forwarded-for': `10.${a}.${b}.${c}` }
}

/** A token that nothing is wrong with but that its session never was. */
export const deadToken = (): string => makeTokens([JWT_SECRET]).sign('dead', randomUUID()).token

/**
 * The API over HTTP, on a clone of the template. `env` is what the process would find in its environment. Where a test's own
 * clock is to be the server's too, it brings the server's `start`.
 */
export async function startApi(
  env: Record<string, string> = {},
  given?: TestDatabase,
  start = outside.startServer,
): Promise<Api> {
  const db = given ?? (await cloneDatabase())
  const lines: string[] = []
  // Libraries write here of what callers send: it is part of the log.
  const console = start === outside.startServer ? outside.console : globalThis.console
  const { error, warn, log } = console
  for (const level of ['error', 'warn', 'log'] as const) console[level] = (...args) => void lines.push(`${format(...args)}\n`)
  const config = parseConfig({ PORT: '0', METRICS_PORT: '0', AUTH_DATABASE_URL: db.urls.auth, JWT_SECRET, ...env }, 'server')
  // No redaction: what is secret must not even be handed to the logger.
  const server = await start(config, pino({ level: 'trace' }, { write: (line: string) => void lines.push(line) }))
  // Without a timeout of its own, an agent does not heed the server's, and now and then writes to a connection just closed.
  const agent = new Agent({ keepAlive: true, maxSockets: 50, timeout: 60_000 })
  const tokens = makeTokens([JWT_SECRET])
  // A subject of its own each time: the allowance of requests is the subject's, and meant to be used up by no test but one.
  const sign = (session: string) => tokens.sign(session, randomUUID()).token
  const token = (name: Name) => sign(db.people[name].session)
  const bearer = (who: Who) => {
    const given = typeof who === 'string' ? token(who) : who?.token
    return given === undefined ? {} : { authorization: `Bearer ${given}` }
  }

  let owner: Client | undefined
  const sent = new Set<Promise<Answer>>()
  const send = (call: Call) => {
    const answer = sendTo(server.url, { ...call, agent })
    sent.add(answer)
    void answer.catch(() => {}).finally(() => sent.delete(answer))
    return answer
  }
  const graphql: Api['graphql'] = (query, variables, who, headers) =>
    send({
      headers: { 'content-type': 'application/json', ...bearer(who), ...headers },
      body: JSON.stringify({ query, variables }),
    })
  let stopped: Promise<void> | undefined
  const stop = () =>
    (stopped ??= Promise.all([
      server.close(),
      // It waits for connections that a proxy may still use, and so takes us for one.
      Promise.allSettled(sent).then(() => agent.destroy()),
    ]).then(() => {}))

  return {
    db,
    url: server.url,
    log: () => lines.join(''),
    token,
    send,
    metrics: (call) => sendTo(server.metricsUrl!, { method: 'GET', path: '/metrics', ...call }),
    graphql,
    async data(query, variables, who) {
      const { text, body } = await graphql(query, variables, who)
      if (!body?.data || body.errors) throw new Error(`It failed: ${text}\n${query}`)
      return body.data
    },
    async code(query, variables, who) {
      const { text, body } = await graphql(query, variables, who)
      if (!body?.errors) throw new Error(`It succeeded: ${text}\n${query}`)
      return body.errors[0].extensions.code
    },
    rest(method, path, body, who, headers) {
      const text = body === undefined ? undefined : JSON.stringify(body)
      // Of a DELETE, node:http sends the length only when told.
      const type = text && { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }
      return send({
        method,
        path: `/api/v1${path}`,
        headers: { ...type, ...bearer(who), ...headers },
        ...(text && { body: text }),
      })
    },
    async person(role = 'USER') {
      const email = `${randomUUID()}@assent.test`
      // The hash is another's, who has the same password: making one takes its time.
      const { rows } = await (owner ??= await db.connect('owner')).query(
        `with person as (insert into app_public.users (name, role) values ('Somebody New', $2) returning id),
           login as (insert into app_private.credentials (user_id, email, password_hash)
             select person.id, $1, c.password_hash from person, app_private.credentials c where c.user_id = $3 returning user_id)
         select user_id as id, s.session_secret as session from login, app_private.open_session(user_id, false, null) s`,
        [email, role, db.people.user.id],
      )
      return { id: rows[0].id, email, token: sign(rows[0].session) }
    },
    stop,
    async close() {
      Object.assign(console, { error, warn, log })
      await stop()
      if (!given) await db.close()
    },
  }
}

/** One HTTP request. `POST /graphql` is what it is unless the call says otherwise. */
export function sendTo(
  url: string,
  { path = '/graphql', method = 'POST', headers, body, agent }: Call & { agent?: Agent },
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const req = request(new URL(url), { path, method, headers, agent }, (res) => {
      const chunks: Buffer[] = []
      res.on('data', (chunk: Buffer) => chunks.push(chunk))
      res.on('error', reject)
      res.on('end', () => {
        const text = Buffer.concat(chunks).toString()
        resolve({ status: res.statusCode!, headers: res.headers, text, body: parse(text) })
      })
    })
    req.on('error', reject)
    req.end(body)
  })
}

function parse(text: string): any {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** The extensions of a GraphQL error about one input field. */
export const faultIn = (field: string) => ({
  code: 'VALIDATION_FAILED',
  field,
  fields: [{ field, message: expect.stringMatching(/^\S.*\.$/s) }],
})

/** The mutations on an existing request, with the least that each needs beside its id. */
export const COMMANDS = {
  updateRequest: { title: 'Changed' },
  deleteRequest: {},
  submitRequest: {},
  approveRequest: {},
  rejectRequest: { comment: 'No.' },
  assignRequest: { assignedToId: null },
} as const

export type Command = keyof typeof COMMANDS

/** The text of a mutation with one input object, which is its variable. */
export function mutation(name: string, selection = 'request { id status version }'): string {
  const type = `${name[0]!.toUpperCase()}${name.slice(1)}Input`
  return `mutation ($input: ${type}!) { ${name}(input: $input) { ${selection} } }`
}

/** Creates a draft and takes it as far as is asked; answers its id. */
export async function newRequest(
  api: Api,
  {
    by = 'user',
    title = 'A request',
    submit = false,
    assignedToId,
  }: { by?: Name; title?: string; submit?: boolean; assignedToId?: string } = {},
): Promise<string> {
  const { createRequest } = await api.data(mutation('createRequest'), { input: { title, assignedToId } }, by)
  const requestId: string = createRequest.request.id
  if (submit) await api.data(mutation('submitRequest'), { input: { requestId } }, by)
  return requestId
}
