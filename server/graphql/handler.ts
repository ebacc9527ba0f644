import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { finished } from 'node:stream'
import {
  getOperationAST,
  GraphQLError,
  OperationTypeNode,
  type FormattedExecutionResult,
  type GraphQLFormattedError,
  type GraphQLSchema,
} from 'graphql'
import Negotiator from 'negotiator'
import type { WithPgClient } from 'postgraphile/@dataplan/pg'
import { execute } from 'postgraphile/grafast'
import { ClientError, unauthenticated } from '../errors.ts'
import { readBody } from '../http/body.ts'
import { foreignOrigin } from '../http/csrf.ts'
import type { Claim } from '../http/identity.ts'
import type { Services } from '../http/services.ts'
import type { Changes } from '../live/changes.ts'
import type { Live } from '../live/listener.ts'
import { makeNews } from '../live/news.ts'
import type { Farewell, Subscriber, Subscribers } from '../live/subscribers.ts'
import { MAX_ANSWER, prove, recognize, tooLarge, type Database, type Identity } from '../sql/as-caller.ts'
import { makeWithPgClient } from '../sql/grafast.ts'
import { traceOperation } from '../tracing.ts'
import { checkVariables } from './document-rules.ts'
import { makeDocuments, readCall, type Call, type Parsed } from './documents.ts'
import { acceptsEvents, sendEvents } from './sse.ts'

export interface GraphQLServices extends Services {
  readonly schema: GraphQLSchema
  readonly resolvedPreset: GraphileConfig.ResolvedPreset
  readonly liveDb: Database
  readonly live: Live
  readonly changes: Changes
  readonly subscribers: Subscribers
  readonly production: boolean
}

/** The result of an operation. */
interface Result {
  readonly data?: Record<string, unknown> | null
  readonly errors?: readonly GraphQLError[]
}
/** The results of a subscription, one after another. */
type Events = AsyncGenerator<Result, void>

/** An error as it is answered. Each is formatted once, because formatting logs what is internal. */
interface Formatted {
  readonly error: ClientError
  readonly json: GraphQLFormattedError
}

/** A call whose document is valid, and who asks for it. */
export interface Operation extends Call, Parsed {
  readonly type: OperationTypeNode | undefined
  /** As its document names it. */
  readonly name: string | undefined
  readonly caller: Identity
}

const JSON_TYPE = 'application/json; charset=utf-8'
const EVENTS_TYPE = 'text/event-stream; charset=utf-8'
/** The media types of GraphQL over HTTP, the one for whoever names none first; and that of GraphQL over server-sent events. */
const MEDIA_TYPES = [JSON_TYPE, 'application/graphql-response+json; charset=utf-8', EVENTS_TYPE]

function send(res: ServerResponse, status: number, answer: object, headers: OutgoingHttpHeaders = {}): void {
  const body = Buffer.from(JSON.stringify(answer))
  res.writeHead(status, { 'content-length': body.length, ...headers })
  res.end(body)
}

/** Throws when an answer is longer than it may be, before it becomes text: in its data, what repeats is one string. */
function checkLength(data: unknown): void {
  let left = MAX_ANSWER
  function visit(value: unknown): void {
    // In JSON a character can take six bytes.
    left -= typeof value === 'string' ? Buffer.byteLength(JSON.stringify(value)) : 4
    if (left < 0) throw tooLarge()
    if (typeof value !== 'object' || value === null) return
    for (const key in value) {
      left -= key.length
      visit((value as Record<string, unknown>)[key])
    }
  }
  visit(data)
}

const isTooLarge = ({ message }: Error) => message === tooLarge().message

/** The result of a change. What it is asked for is read when it has been made: an answer that is too large does not undo it. */
function withoutExcess(result: Result): Result {
  try {
    checkLength(result.data)
    if (!result.errors?.some(isTooLarge)) return result
  } catch (error) {
    if (!isTooLarge(error as Error)) throw error
  }
  const made = new ClientError(
    'BAD_REQUEST',
    `The change was made, but the answer would be larger than ${MAX_ANSWER / 1e6} MB: read what you need by a query.`,
  )
  const path = Object.keys(result.data!)
  return { data: { [path[0]!]: null }, errors: [new GraphQLError(made.message, { path, originalError: made })] }
}

/** Why somebody was sent away before there was an answer. */
const sentAway = (why: Farewell) =>
  why === 'UNAUTHENTICATED'
    ? unauthenticated()
    : new ClientError('UNAVAILABLE', 'There are no live updates at the moment. Try again.', { retryAfter: 1 })

async function* only<T>(event: T): AsyncGenerator<T, void> {
  yield event
}

export type GraphQL = ReturnType<typeof makeGraphQL>

export function makeGraphQL(services: GraphQLServices) {
  const { resolvedPreset, db, liveDb, passwords, tokens, production, explain } = services
  const documents = makeDocuments(services.schema, production)

  /**
   * The operation that a call asks for. Nothing is validated or planned for strangers but what they may ask for, and a
   * document that is not known costs by its size. Throws what is wrong with it.
   */
  async function prepare(req: IncomingMessage, call: Call, claim: Claim): Promise<Operation> {
    const caller = await recognize(db, claim)
    const parsed = documents.read(call)
    if (caller.session === '' && !parsed.isOpen) throw unauthenticated()
    checkVariables(call.variables)
    if (!parsed.isValid) {
      services.spend.more(req, parsed.cost)
      await services.spend.turn(req)
      try {
        documents.validate(call, parsed)
      } catch (error) {
        // What is wrong with it would tell strangers the schema's names.
        if (production && caller.session === '')
          throw new ClientError('BAD_REQUEST', 'The document is invalid. Log in to learn why.')
        throw error
      }
    }
    const definition = getOperationAST(parsed.document, call.operationName)
    const type = definition?.operation
    const changes = type === OperationTypeNode.MUTATION
    return {
      ...call,
      ...parsed,
      type,
      name: definition?.name?.value,
      caller: changes ? await services.checkCsrf(req, caller) : caller,
    }
  }

  /** Runs it. A subscriber gets events for a subscription. */
  const run = (operation: Operation, subscriber?: Subscriber): Promise<Result | Events> =>
    traceOperation(operation.type, operation.name, () => runUntraced(operation, subscriber))

  async function runUntraced(operation: Operation, subscriber?: Subscriber): Promise<Result | Events> {
    const { document, schema, type, variables, operationName } = operation
    const isSubscription = type === OperationTypeNode.SUBSCRIPTION
    // login() changes it, for the fields that follow.
    const identity = { ...operation.caller }
    const mode = type === OperationTypeNode.MUTATION ? 'write' : 'read'
    const askDatabase = isSubscription
      ? makeWithPgClient(liveDb, identity, mode)
      : makeWithPgClient(db, identity, mode, { bytes: MAX_ANSWER })
    let asked = false
    const withPgClient: WithPgClient = (settings, callback) => {
      asked = true
      return askDatabase(settings, callback)
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
        search: ((...search) => services.search(identity, ...search)) satisfies Grafast.Context['search'],
        news: subscriber ? makeNews({ ...services, db: liveDb }, identity, subscriber) : null,
        pgSettings: null,
        withPgClient,
      },
      middleware: null,
    } as Parameters<typeof execute>[0])) as Result | Events
    // Any statement proves the session. An operation without one, such as introspection, must not outlive the session either.
    if (!asked && !isSubscription && identity.session) await prove(db, identity)
    if (Symbol.asyncIterator in result) return result
    if (mode === 'write') return withoutExcess(result)
    checkLength(result.data)
    return result
  }

  function format(thrown: unknown): Formatted {
    const error = explain(thrown)
    const { locations, path } = thrown instanceof GraphQLError ? thrown : {}
    // graphql-js guesses at misspelt names. In production that would reveal the schema to whoever may not ask for it.
    const message = production ? error.message.replace(/ Did you mean [^]*\?$/, '') : error.message
    return { error, json: { message, ...(locations && { locations }), ...(path && { path }), extensions: error.extensions } }
  }

  /** Fails the whole call, with the status of its first error. */
  function refuse(res: ServerResponse, errors: readonly Formatted[]): void {
    const { error } = errors[0]!
    send(res, error.status, { errors: errors.map(({ json }) => json) }, error.headers)
  }

  function answer(res: ServerResponse, caller: Identity, { data, errors = [] }: Result, type: string): void {
    const formatted = errors.map(format)
    // When the session turns out to be dead, or the database to be gone, no field can be trusted and the whole call fails: a
    // token that has died is answered as one that was never good. So does a call that is answered by too much.
    const fatal = formatted.find(
      ({ error: { code } }, i) =>
        code === 'UNAVAILABLE' || (code === 'UNAUTHENTICATED' && caller.session && !caller.byCookie) || isTooLarge(errors[i]!),
    )
    if (fatal) throw fatal.error
    if (data === undefined) return refuse(res, formatted)
    const { headers } = formatted.find(({ error }) => error.retryAfter)?.error ?? {}
    const payload = { ...(errors.length > 0 && { errors: formatted.map(({ json }) => json) }), data }
    if (type === EVENTS_TYPE) sendEvents(res, only(payload), (event) => event)
    else send(res, 200, payload, headers)
  }

  /** A result as it is sent to a subscriber, who is sent away if the session or the database is gone. */
  function toPayload({ data, errors }: Result, subscriber?: Subscriber): FormattedExecutionResult {
    const payload = data === undefined ? {} : { data }
    if (!errors) return payload
    const formatted = errors.map(format)
    const fatal = formatted.find(({ error: { code } }) => code === 'UNAVAILABLE' || code === 'UNAUTHENTICATED')
    if (fatal) subscriber?.end(fatal.error.code)
    return { errors: formatted.map(({ json }) => json), ...payload }
  }

  /** Answers a subscription with events, for as long as the caller stays. */
  async function stream(req: IncomingMessage, res: ServerResponse, operation: Operation): Promise<void> {
    if (!acceptsEvents(req)) throw new ClientError('BAD_REQUEST', 'Subscribe by WebSocket, or accept text/event-stream.')
    if (!services.isOwnOrigin(req)) throw foreignOrigin()
    let farewell: Farewell | undefined
    const subscriber = services.subscribers.enter(operation.caller.ip, (why) => {
      farewell ??= why
      // The answer ends as HTTP has it, so that no proxy takes it for broken, but without "complete": clients ask again.
      if (res.headersSent) res.end()
    })
    finished(res, subscriber.leave)
    await subscriber.admit(operation.caller)
    const result = await run(operation, subscriber)
    if (farewell) {
      if (Symbol.asyncIterator in result) void result.return()
      throw sentAway(farewell)
    }
    if (Symbol.asyncIterator in result) sendEvents(res, result, (event) => toPayload(event, subscriber))
    else refuse(res, result.errors!.map(format))
  }

  /** Answers `/graphql`: one call, one JSON answer; every error has a code, and nothing internal is in it. */
  async function handle(req: IncomingMessage, res: ServerResponse): Promise<void> {
    try {
      // A header that names nothing is as none (RFC 9110, 12.5.1).
      const type = /[^\s,]/.test(req.headers.accept ?? '') ? new Negotiator(req).mediaType(MEDIA_TYPES) : JSON_TYPE
      // CORS may have named Origin.
      res.appendHeader('vary', 'Accept')
      // Only what has been run has events: a refusal has a status of its own, and is JSON for whoever asks for events, too.
      res.setHeader('content-type', type === undefined || type === EVENTS_TYPE ? JSON_TYPE : type)
      if (req.method !== 'POST') {
        res.setHeader('allow', 'POST')
        throw new ClientError('METHOD_NOT_ALLOWED', 'Send GraphQL by POST.')
      }
      const caller = await services.spend(req, services.identify)
      if (!type) {
        const message = `The answer can be ${MEDIA_TYPES.join(' or ')}: accept one of them.`
        throw new ClientError('BAD_REQUEST', message, { status: 406 })
      }
      const operation = await prepare(req, readCall(await readBody(req, res, caller.ip, services.spend)), caller)
      if (operation.type === OperationTypeNode.SUBSCRIPTION) await stream(req, res, operation)
      else answer(res, caller, (await run(operation)) as Result, type)
    } catch (error) {
      refuse(res, [format(error)])
    }
  }

  return { handle, prepare, run, format, toPayload }
}
