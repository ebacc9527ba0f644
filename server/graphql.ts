import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { LRU } from '@graphile/lru'
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
import type { WithPgClient } from 'postgraphile/@dataplan/pg'
import { execute } from 'postgraphile/grafast'
import { isObject, readBody } from './body.ts'
import type { CheckCsrf } from './csrf.ts'
import { ClientError } from './errors.ts'
import type { Identify, Identity, Tokens } from './identity.ts'
import { checkVariables, documentRules, documentRulesWithoutIntrospection, MAX_TOKENS } from './limits.ts'
import type { Passwords } from './passwords.ts'
import { isAnonymous, makeWithPgClient } from './transaction.ts'

export interface GraphQLServices {
  readonly schema: GraphQLSchema
  readonly resolvedPreset: GraphileConfig.ResolvedPreset
  readonly pool: Pool
  readonly passwords: Passwords
  readonly tokens: Tokens
  readonly identify: Identify
  readonly checkCsrf: CheckCsrf
  readonly production: boolean
  /** Turns what was thrown into what the caller may hear. */
  readonly explain: (error: unknown) => ClientError
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
  readonly error: ClientError
  readonly json: Record<string, unknown>
}

const CACHED_DOCUMENTS = 500

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

/** Answers `/graphql`: one call, one JSON answer; every error has a code, and nothing internal is in it. */
export function makeGraphQLHandler(services: GraphQLServices) {
  const { schema, resolvedPreset, pool, passwords, tokens, identify, checkCsrf, production, explain } = services
  const documents = makeDocuments(schema, documentRules)
  const documentsForStrangers = production ? makeDocuments(schema, documentRulesWithoutIntrospection) : documents

  async function run(req: IncomingMessage, { query, variables, operationName }: Call, caller: Identity): Promise<Result> {
    // In production a document of a stranger is judged by other rules, and a cookie may turn out to be a stranger's.
    const stranger = caller.session === '' || (production && caller.byCookie && (await isAnonymous(pool, caller)))
    const document = (stranger ? documentsForStrangers : documents)(query)
    const operation = getOperationAST(document, operationName)?.operation
    if (operation === OperationTypeNode.SUBSCRIPTION) throw new ClientError('BAD_REQUEST', 'A subscription is not answered here.')
    const isMutation = operation === OperationTypeNode.MUTATION
    // login() changes it, for the fields that follow.
    const identity = { ...(isMutation ? await checkCsrf(req, caller) : caller) }
    const withPgClient = makeWithPgClient(pool, identity, isMutation ? 'write' : 'read')
    // Any statement proves the session; what needs none, as introspection, must not outlive it.
    let proven = caller.session === ''
    const prove = async () => {
      if (!proven) await isAnonymous(pool, caller)
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
        pgSettings: null,
        withPgClient: ((settings, callback) => {
          proven = true
          return withPgClient(settings, callback)
        }) as WithPgClient,
      },
      middleware: null,
      // The answer's text, made by Grafast as it collects the data.
      outputDataAsString: true,
    } as Parameters<typeof execute>[0])) as Result
    await prove()
    return result
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

  return async (req: IncomingMessage, res: ServerResponse): Promise<void> => {
    try {
      if (req.method !== 'POST') throw new ClientError('METHOD_NOT_ALLOWED', 'GraphQL is asked by POST.')
      const caller = identify(req)
      const { data, errors } = await run(req, readCall(await readBody(req, res)), caller)
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
}
