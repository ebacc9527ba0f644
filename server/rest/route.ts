import type { IncomingMessage } from 'node:http'
import { crc32 } from 'node:zlib'
import { ClientError, type Code, type Fault } from '../errors.ts'
import type { Tokens } from '../http/tokens.ts'
import type { Passwords } from '../passwords.ts'
import type { Ask, Identity } from '../sql/as-caller.ts'
import { prepared } from '../sql/prepared.ts'
import type { Search } from '../sql/search.ts'
import type { Accel } from './accel.ts'
import { makeReadPage, type List, type Query } from './lists.ts'
import { isUuid, type Schema } from './schemas.ts'

export const BASE = '/api/v1'

/** What a route is given. */
export interface Call {
  readonly req: IncomingMessage
  readonly caller: Identity
  readonly params: Readonly<Record<string, string | undefined>>
  readonly query: Query
  /** The members of the body that the route names, as far as they were sent. */
  readonly body: Readonly<Record<string, unknown>>
  /** The file that has come with it, for a route that receives one. */
  readonly file?: ReceivedFile
  /** Asks the database as the caller. */
  readonly ask: Ask
  /** Asks likewise for a piece of a file: those queue behind each other, and never in front of other calls. */
  readonly carry: Ask
  /** Asks it as somebody else, such as a person who has just logged in. */
  readonly askAs: (caller: Identity) => Ask
  /** Finds ids by words, as the caller. */
  readonly search: Search
  /** Takes requests from the caller's allowance, for what costs as much as several. Throws RATE_LIMITED. */
  readonly pay: (requests: number) => void
  /** The path that the route was called by: links in answers are relative to the host, as the caller knows it. */
  readonly path: string
  readonly isSecure: boolean
  /** Sends files, where nginx is in front. */
  readonly accel: Accel | undefined
  readonly tokens: Tokens
  readonly passwords: Passwords
}

/** A file that has arrived in the database, and does not belong to anything yet. */
export interface ReceivedFile {
  readonly id: string
  /** Deletes it, unless something has become of it. What cannot be deleted now is swept later. */
  readonly drop: () => Promise<void>
}

/** A body that has arrived. */
export interface Received {
  readonly body: Call['body']
  readonly faults: readonly Fault[]
  readonly file?: ReceivedFile
}

export interface Answer {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  /** JSON text; without it the answer is empty. */
  readonly body?: string
  /** A file, instead of a body. */
  readonly bytes?: AsyncIterable<Buffer>
  /** Of the request that is shown: becomes its entity tag. */
  readonly version?: number
}

export type Run = (call: Call) => Promise<Answer>

/** One operation of the REST API: how it is called, what it shows, and the SQL that it stands for. */
export interface Route {
  readonly method: 'GET' | 'POST' | 'PATCH' | 'DELETE'
  readonly path: string
  readonly summary: string
  /** Needs no credentials. */
  readonly open?: true
  /** Logs a browser in. A foreign page could make a browser do that, so the origin must be one of ours. */
  readonly fromOwnOrigin?: true
  /** Hashes a password, so its statements run on the pool for slow ones. */
  readonly slow?: true
  /** Takes a body that is not JSON: one part "file" of multipart/form-data. */
  readonly receive?: (call: Call) => Promise<Received>
  /** Answers with a file. */
  readonly sendsFile?: true
  /** For nginx and not for callers, so no document names it. */
  readonly undocumented?: true
  /** Repeats are harmless or anonymous, so Idempotency-Key does not apply. */
  readonly unrepeatable?: true
  /** If-Match counts. */
  readonly versioned?: true
  /** The schemas of the members that it reads of the body, and the names of those that must be there. */
  readonly body?: Readonly<Record<string, Schema>>
  readonly required?: readonly string[]
  readonly list?: List
  /** The status of its answer, and the schema in server/rest/openapi.ts; without one the answer is empty. */
  readonly status: 200 | 201 | 202 | 204
  readonly shows?: string
  /** The errors that do not follow from the rest of the route. */
  readonly errors?: readonly Code[]
  readonly run: Run
}

export const takesBody = ({ method }: Route): boolean => method === 'POST' || method === 'PATCH'

/** May it be called again under the same Idempotency-Key? */
export const isRepeatable = ({ method, unrepeatable }: Route): boolean => method === 'POST' && !unrepeatable

/** The rows of the reference tables that input is checked against. */
export interface Reference {
  readonly statuses: readonly string[]
  readonly actions: readonly string[]
  readonly roles: readonly string[]
}

type Details = Omit<Route, 'method' | 'path' | 'summary' | 'status'> & { readonly status?: Route['status'] }

const on =
  (method: Route['method']) =>
  (path: string, summary: string, details: Details): Route => ({
    method,
    path,
    summary,
    status: details.shows ? 200 : 204,
    ...details,
  })
export const get = on('GET')
export const post = on('POST')
export const patch = on('PATCH')
export const del = on('DELETE')

/** The version of a request, for people, and a hash of all else that the answer depends on, such as the caller's role. */
export const tagOf = (version: number, document: string): string => `"${version}-${crc32(document).toString(16)}"`

export const staleVersion = () => new ClientError('STALE_VERSION', 'It has changed since you read it: read it again.')

export const notFound = () => new ClientError('NOT_FOUND', 'It does not exist, or you are not allowed to see it.')

/** Reads a value for a statement from the call; it may have to ask for it. */
type Read = (call: Call) => unknown

/** The id in the path. Anything but a UUID is nobody's id. */
export function idOf({ params }: Call): string {
  const id = params['id']
  if (id === undefined || !isUuid(id)) throw notFound()
  return id
}
export const bodyOf: Read = ({ body }) => body
export const member =
  (name: string): Read =>
  ({ body }) =>
    body[name]

/** Asks, for a call, by a statement of these values. */
function makeAsk(sql: string, values: readonly Read[]) {
  const statement = prepared(sql)
  return async <Row>(call: Call) => call.ask<Row>({ ...statement, values: await Promise.all(values.map((read) => read(call))) })
}

/** Asks for one document. */
export function show(sql: string, ...values: Read[]): Run {
  const ask = makeAsk(sql, values)
  return async (call) => {
    const [row] = await ask<{ document: string | null; version?: number }>(call)
    if (!row?.document) throw notFound()
    return { status: 200, body: row.document, ...(row.version && { version: row.version }) }
  }
}

/** Asks for something to be done, which leaves nothing to show. */
export function perform(sql: string, ...values: Read[]): Run {
  const ask = makeAsk(sql, values)
  return async (call) => {
    await ask(call)
    return { status: 204 }
  }
}

/** Shows something new, and its place in the collection at `path`. */
export const create =
  (path: string, run: Run): Run =>
  async (call) => {
    const answer = await run(call)
    return { ...answer, status: 201, headers: { location: `${BASE}${path}${JSON.parse(answer.body!).id}/` } }
  }

/** Shows a page of a list. */
export function page(list: List): Run {
  const readPage = makeReadPage(list)
  return async (call) => ({ status: 200, body: await readPage(call) })
}

/** A route that shows the pages of a list. */
export const getList = (path: string, summary: string, shows: string, list: List): Route =>
  get(path, summary, { list, shows, run: page(list) })
