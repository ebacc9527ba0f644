import { isUtf8 } from 'node:buffer'
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { LRU } from '@graphile/lru'
import express from 'express'
import {
  getOperationAST,
  GraphQLError,
  OperationTypeNode,
  parse,
  validate,
  type DocumentNode,
  type GraphQLSchema,
  type ValidationRule,
} from 'graphql'
import type { Pool } from 'pg'
import type { Logger } from 'pino'
import type { WithPgClient } from 'postgraphile/@dataplan/pg'
import { execute } from 'postgraphile/grafast'
import { asCaller, makeWithPgClient } from './transaction.ts'
import { ClientError, STATUS, toClientError, type Code } from './errors.ts'
import type { Identity, Tokens } from './identity.ts'
import { checkVariables, documentRules, documentRulesWithoutIntrospection, MAX_TOKENS } from './limits.ts'
import { login } from './login.ts'

export interface GraphQLServices {
  readonly schema: GraphQLSchema
  readonly resolvedPreset: GraphileConfig.ResolvedPreset
  readonly pool: Pool
  readonly loginPool: Pool
  readonly tokens: Tokens
  readonly identify: (req: IncomingMessage) => Identity
  readonly production: boolean
  readonly log: Logger
}

interface Call {
  readonly query: string
  readonly variables: Record<string, unknown>
  readonly operationName: string | undefined
}

/** What Grafast answers: `data` is JSON text. */
interface Result {
  readonly data?: string | null
  readonly errors?: readonly GraphQLError[]
}

/** An error, as it is answered. Made once: what is internal is logged by it. */
interface Formatted {
  readonly code: Code
  readonly json: Record<string, unknown>
  readonly retryAfter: number | undefined
}

const MAX_BODY = '1mb'
const CACHED_DOCUMENTS = 500

/** Bytes that are no UTF-8 would be read as U+FFFD, and kept so. */
function verifyUtf8(_req: IncomingMessage, _res: ServerResponse, body: Buffer): void {
  if (!isUtf8(body)) throw new ClientError('BAD_REQUEST', 'The body is not UTF-8.')
}

const readJson = express.json({ limit: MAX_BODY, type: () => true, strict: false, verify: verifyUtf8 })

/** What the body parser says, in our codes. */
function toBodyError(error: { status?: number }): ClientError {
  if (error.status === 413) return new ClientError('PAYLOAD_TOO_LARGE', `The body is larger than ${MAX_BODY}.`)
  if (error.status === 415)
    return new ClientError('UNSUPPORTED_MEDIA_TYPE', 'The charset or encoding of the body is not supported.')
  return new ClientError('BAD_REQUEST', 'The body is not JSON.')
}

async function readBody(req: IncomingMessage, res: ServerResponse): Promise<unknown> {
  const contentType = req.headers['content-type'] ?? ''
  if (!/^application\/json *(;|$)/i.test(contentType)) {
    throw new ClientError('UNSUPPORTED_MEDIA_TYPE', 'The body must be application/json.')
  }
  await new Promise<void>((resolve, reject) =>
    readJson(req as express.Request, res as express.Response, (error?: unknown) =>
      error ? reject(toBodyError(error)) : resolve(),
    ),
  )
  return (req as express.Request).body
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Reads a call as GraphQL over HTTP has it. Throws BAD_REQUEST. */
function readCall(body: unknown): Call {
  const { query, variables, operationName } = isObject(body) ? body : {}
  if (typeof query !== 'string') throw new ClientError('BAD_REQUEST', 'The body must be an object with a string "query".')
  if (variables != null && !isObject(variables)) throw new ClientError('BAD_REQUEST', '"variables" must be an object.')
  if (operationName != null && typeof operationName !== 'string')
    throw new ClientError('BAD_REQUEST', '"operationName" must be a string.')
  checkVariables(variables ?? {})
  return { query, variables: variables ?? {}, operationName: operationName ?? undefined }
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
      document = parse(query, { maxTokens: MAX_TOKENS })
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

const retryAfterHeader = (seconds: number | undefined) => (seconds ? { 'retry-after': String(seconds) } : {})

/** Answers `/graphql`: one call, one JSON answer; every error has a code, and nothing internal is in it. */
export function makeGraphQLHandler(services: GraphQLServices) {
  const { schema, resolvedPreset, pool, loginPool, tokens, identify, production, log } = services
  const documents = makeDocuments(schema, documentRules)
  const documentsForStrangers = production ? makeDocuments(schema, documentRulesWithoutIntrospection) : documents

  async function run({ query, variables, operationName }: Call, caller: Identity): Promise<Result> {
    const document = (caller.session ? documents : documentsForStrangers)(query)
    const operation = getOperationAST(document, operationName)?.operation
    if (operation === OperationTypeNode.SUBSCRIPTION) throw new ClientError('BAD_REQUEST', 'A subscription is not answered here.')
    const mode = operation === OperationTypeNode.MUTATION ? 'write' : 'read'
    const identity = { ...caller } // login() changes it, for the fields that follow.
    const withPgClient = makeWithPgClient(pool, identity, mode)
    // Any statement proves the session; what needs none, as introspection, must not outlive it.
    let proven = caller.session === ''
    const prove = async () => {
      if (!proven) await asCaller(pool, caller, 'read', { text: 'select' })
    }
    const result = (await execute({
      schema,
      document,
      resolvedPreset,
      variableValues: variables,
      operationName,
      contextValue: {
        identity,
        pgSettings: null,
        withPgClient: ((settings, callback) => {
          proven = true
          return withPgClient(settings, callback)
        }) as WithPgClient,
        login: async (email: string, password: string) => {
          await prove()
          return login(loginPool, tokens, identity.ip, email, password)
        },
      },
      middleware: null,
      // The answer's text, made by Grafast as it collects the data.
      outputDataAsString: true,
    } as Parameters<typeof execute>[0])) as Result
    await prove()
    return result
  }

  function format(error: unknown): Formatted {
    const { code, message, extensions, retryAfter } = toClientError(error, log)
    const { locations, path } = error instanceof GraphQLError ? error : {}
    return { code, json: { message, ...(locations && { locations }), ...(path && { path }), extensions }, retryAfter }
  }

  /** Fails the whole call, with the status of its first error. */
  function refuse(res: ServerResponse, errors: readonly Formatted[]): void {
    const { code, retryAfter } = errors[0]!
    send(res, STATUS[code], JSON.stringify({ errors: errors.map(({ json }) => json) }), {
      ...retryAfterHeader(retryAfter),
      ...(code === 'METHOD_NOT_ALLOWED' && { allow: 'POST' }),
    })
  }

  return async (req: IncomingMessage, res: ServerResponse): Promise<void> => {
    try {
      if (req.method !== 'POST') throw new ClientError('METHOD_NOT_ALLOWED', 'GraphQL is asked by POST.')
      const caller = identify(req)
      const { data, errors } = await run(readCall(await readBody(req, res)), caller)
      if (!errors) return send(res, 200, `{"data":${data}}`)

      const formatted = errors.map(format)
      // No field can be trusted when the session turns out dead, or the database gone.
      const fatal = formatted.find(({ code }) => code === 'UNAVAILABLE' || (code === 'UNAUTHENTICATED' && caller.session))
      if (fatal) {
        // Not of one field then, and not to be told from a token that was never good.
        const { message, extensions } = fatal.json
        return refuse(res, [{ ...fatal, json: { message, extensions } }])
      }
      if (data === undefined) return refuse(res, formatted)
      const retryAfter = formatted.find((error) => error.retryAfter)?.retryAfter
      const json = JSON.stringify(formatted.map((error) => error.json))
      send(res, 200, `{"errors":${json},"data":${data}}`, retryAfterHeader(retryAfter))
    } catch (error) {
      refuse(res, (error instanceof AggregateError ? error.errors : [error]).map(format))
    }
  }
}
