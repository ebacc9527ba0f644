import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { finished } from 'node:stream'
import { LRU } from '@graphile/lru'
import {
  getOperationAST,
  GraphQLError,
  OperationTypeNode,
  parse,
  validate,
  type DocumentNode,
  type FormattedExecutionResult,
  type GraphQLFormattedError,
  type GraphQLSchema,
  type ValidationRule,
} from 'graphql'
import type { Pool } from 'pg'
import type { WithPgClient } from 'postgraphile/@dataplan/pg'
import { execute } from 'postgraphile/grafast'
import { isObject, readBody } from '../http/body.ts'
import type { CheckCsrf, IsOwnOrigin } from '../http/csrf.ts'
import { ClientError } from '../errors.ts'
import { sendEvents, takesEvents } from './sse.ts'
import type { Identify, Identity, Tokens } from '../http/identity.ts'
import { checkVariables, documentRules, documentRulesWithoutIntrospection, MAX_TOKENS } from './document-rules.ts'
import type { Live } from '../live/listener.ts'
import type { Passwords } from '../passwords.ts'
import type { Subscriber, Subscribers } from '../live/subscribers.ts'
import { makeNews } from '../live/news.ts'
import { isAnonymous, makeWithPgClient } from '../sql/as-caller.ts'

export interface GraphQLServices {
  readonly schema: GraphQLSchema
  readonly resolvedPreset: GraphileConfig.ResolvedPreset
  readonly pool: Pool
  readonly livePool: Pool
  readonly live: Live
  readonly subscribers: Subscribers
  readonly passwords: Passwords
  readonly tokens: Tokens
  readonly identify: Identify
  readonly checkCsrf: CheckCsrf
  readonly isOwnOrigin: IsOwnOrigin
  readonly production: boolean
  /** Turns what was thrown into what the caller may hear. */
  readonly explain: (error: unknown) => ClientError
}

export interface Call {
  readonly query: string
  readonly variables: Record<string, unknown>
  readonly operationName: string | undefined
}

type Data = Record<string, unknown>

/** What Grafast answers. `data` is JSON text, but for a subscriber. */
export interface Result {
  readonly data?: Data | string | null
  readonly errors?: readonly GraphQLError[]
}

/** What a subscription tells, one event after another. */
export type Events = AsyncGenerator<Result, void>

export const isEvents = (result: Result | Events): result is Events => Symbol.asyncIterator in result

/** An error, as it is answered. Made once: what is internal is logged by it. */
export interface Formatted {
  readonly error: ClientError
  readonly json: GraphQLFormattedError
}

const CACHED_DOCUMENTS = 500

/** Reads a call as GraphQL over HTTP has it. Throws BAD_REQUEST. */
export function readCall(body: unknown): Call {
  const { query, variables, operationName } = isObject(body) ? body : {}
  if (typeof query !== 'string') throw new ClientError('BAD_REQUEST', 'The body must be an object with a string "query".')
  if (variables != null && !isObject(variables)) throw new ClientError('BAD_REQUEST', '"variables" must be an object.')
  if (operationName != null && typeof operationName !== 'string')
    throw new ClientError('BAD_REQUEST', '"operationName" must be a string.')
  checkVariables(variables ?? {})
  return { query, variables: variables ?? {}, operationName: operationName ?? undefined }
}

/** Throws BAD_REQUEST too: graphql-js goes as deep into a value as it is nested, which few tokens suffice for. */
function parseAll(query: string): DocumentNode {
  try {
    return parse(query, { maxTokens: MAX_TOKENS })
  } catch (error) {
    if (error instanceof RangeError) throw new ClientError('BAD_REQUEST', 'The document is nested too deeply.')
    throw error
  }
}

/**
 * Parses and validates. Grafast keeps its plan with the document, so that the next call with the same text plans nothing.
 * Throws an AggregateError of what is wrong.
 */
function makeDocuments(schema: GraphQLSchema, rules: readonly ValidationRule[]): (query: string) => DocumentNode {
  const cache = new LRU<string, DocumentNode>({ maxLength: CACHED_DOCUMENTS })
  return (query) => {
    let document = cache.get(query)
    if (!document) {
      document = parseAll(query)
      const errors = validate(schema, document, rules)
      if (errors.length > 0) throw new AggregateError(errors)
      cache.set(query, document)
    }
    return document
  }
}

function send(res: ServerResponse, status: number, json: string, headers: OutgoingHttpHeaders = {}): void {
  const body = Buffer.from(json)
  res.writeHead(status, { 'content-type': 'application/json; charset=utf-8', 'content-length': body.length, ...headers })
  res.end(body)
}

/** A call whose document is good. */
export interface Prepared {
  readonly document: DocumentNode
  readonly operation: OperationTypeNode | undefined
  /** Does it. A subscriber's answers are data, and a subscription is answered by events. */
  start(subscriber?: Subscriber): Promise<Result | Events>
}

export interface GraphQL {
  /** Answers `/graphql`: one call, one JSON answer; every error has a code, and nothing internal is in it. */
  handle(req: IncomingMessage, res: ServerResponse): Promise<void>
  /** What a call is about to do. Throws what is wrong with it, and an AggregateError if that is several things. */
  prepare(req: IncomingMessage, call: Call, caller: Identity): Promise<Prepared>
  format(thrown: unknown): Formatted
  /** A result as it is told. An event that cannot be had sends its subscriber away. */
  toPayload(result: Result, subscriber?: Subscriber): FormattedExecutionResult
}

export function makeGraphQL(services: GraphQLServices): GraphQL {
  const { schema, resolvedPreset, pool, livePool, subscribers, passwords, tokens, identify, checkCsrf, production, explain } =
    services
  const documents = makeDocuments(schema, documentRules)
  const documentsForStrangers = production ? makeDocuments(schema, documentRulesWithoutIntrospection) : documents

  async function prepare(req: IncomingMessage, { query, variables, operationName }: Call, caller: Identity): Promise<Prepared> {
    // In production a document of a stranger is judged by other rules, and a cookie may turn out to be a stranger's.
    const stranger = caller.session === '' || (production && caller.byCookie && (await isAnonymous(pool, caller)))
    const document = (stranger ? documentsForStrangers : documents)(query)
    const operation = getOperationAST(document, operationName)?.operation
    const isMutation = operation === OperationTypeNode.MUTATION
    // login() changes it, for the fields that follow.
    const identity = { ...(isMutation ? await checkCsrf(req, caller) : caller) }

    async function start(subscriber?: Subscriber): Promise<Result | Events> {
      // What is told to many at once waits for each other, and not before what is asked.
      const isSubscription = operation === OperationTypeNode.SUBSCRIPTION
      const withPgClient = makeWithPgClient(isSubscription ? livePool : pool, identity, isMutation ? 'write' : 'read')
      // Any statement proves the session; what needs none, as introspection, must not outlive it.
      let proven = isSubscription
      const prove = async () => {
        if (!proven && identity.session) await isAnonymous(pool, identity)
      }
      const result = (await execute({
        schema,
        document,
        resolvedPreset,
        variableValues: variables,
        operationName,
        contextValue: {
          identity,
          tokens,
          passwords,
          news: subscriber ? makeNews({ ...services, pool: livePool }, caller, subscriber) : null,
          pgSettings: null,
          withPgClient: ((settings, callback) => {
            proven = true
            return withPgClient(settings, callback)
          }) as WithPgClient,
        },
        middleware: null,
        // The answer's text, made by Grafast as it collects the data.
        outputDataAsString: !subscriber,
      } as Parameters<typeof execute>[0])) as Result | Events
      await prove()
      return result
    }

    return { document, operation, start }
  }

  function format(thrown: unknown): Formatted {
    const error = explain(thrown)
    const { locations, path } = thrown instanceof GraphQLError ? thrown : {}
    const { message, extensions } = error
    return { error, json: { message, ...(locations && { locations }), ...(path && { path }), extensions } }
  }

  /** Fails the whole call, with the status of its first error. */
  function refuse(res: ServerResponse, errors: readonly Formatted[]): void {
    const { error } = errors[0]!
    send(res, error.status, JSON.stringify({ errors: errors.map(({ json }) => json) }), {
      ...error.headers,
      ...(error.code === 'METHOD_NOT_ALLOWED' && { allow: 'POST' }),
    })
  }

  const toPayload: GraphQL['toPayload'] = ({ data, errors }, subscriber) => {
    if (!errors) return { data: data as Data }
    const formatted = errors.map(format)
    const fatal = formatted.find(({ error: { code } }) => code === 'UNAVAILABLE' || code === 'UNAUTHENTICATED')
    if (fatal) subscriber?.end(fatal.error.code)
    return { errors: formatted.map(({ json }) => json), ...(data !== undefined && { data: data as Data }) }
  }

  /** Answers a subscription, for as long as the caller stays. */
  async function stream(req: IncomingMessage, res: ServerResponse, caller: Identity, start: Prepared['start']): Promise<void> {
    if (!takesEvents(req)) {
      throw new ClientError('BAD_REQUEST', 'A subscription is asked by WebSocket, or accepts text/event-stream.')
    }
    if (!services.isOwnOrigin(req)) throw new ClientError('FORBIDDEN', 'This origin is not allowed.')
    const subscriber = subscribers.enter(() => res.destroy())
    finished(res, subscriber.leave)
    await subscriber.admit(caller)
    const result = await start(subscriber)
    if (isEvents(result)) sendEvents(res, result, (event) => toPayload(event, subscriber))
    else refuse(res, result.errors!.map(format))
  }

  async function handle(req: IncomingMessage, res: ServerResponse): Promise<void> {
    try {
      if (req.method !== 'POST') throw new ClientError('METHOD_NOT_ALLOWED', 'GraphQL is asked by POST.')
      const caller = identify(req)
      const { operation, start } = await prepare(req, readCall(await readBody(req, res)), caller)
      if (operation === OperationTypeNode.SUBSCRIPTION) return await stream(req, res, caller, start)
      const { data, errors } = (await start()) as Result
      if (!errors) return send(res, 200, `{"data":${data}}`)

      const formatted = errors.map(format)
      // No field can be trusted when the session turns out dead, or the database gone.
      const isFatal = ({ error: { code } }: Formatted) =>
        code === 'UNAVAILABLE' || (code === 'UNAUTHENTICATED' && caller.session && !caller.byCookie)
      const fatal = formatted.find(isFatal)
      if (fatal) {
        // Not of one field then, and not to be told from a token that was never good.
        const { message, extensions } = fatal.error
        return refuse(res, [{ ...fatal, json: { message, extensions } }])
      }
      if (data === undefined) return refuse(res, formatted)
      const { headers } = formatted.find(({ error }) => error.retryAfter)?.error ?? {}
      const json = JSON.stringify(formatted.map((error) => error.json))
      send(res, 200, `{"errors":${json},"data":${data}}`, headers)
    } catch (error) {
      refuse(res, (error instanceof AggregateError ? error.errors : [error]).map(format))
    }
  }

  return { handle, prepare, format, toPayload }
}
