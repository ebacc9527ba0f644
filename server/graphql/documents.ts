import { LRU } from '@graphile/lru'
import { NoSchemaIntrospectionCustomRule, parse, validate, type DocumentNode, type GraphQLSchema } from 'graphql'
import { ClientError } from '../errors.ts'
import { isObject } from '../http/body.ts'
import { checkVariables, documentRules, MAX_TOKENS } from './document-rules.ts'

const MAX_CACHED = 500

export interface Call {
  readonly query: string
  readonly variables: Record<string, unknown>
  readonly operationName: string | undefined
}

/** Reads a call as GraphQL over HTTP defines it. Throws BAD_REQUEST. */
export function readCall(body: unknown): Call {
  const { query, variables, operationName } = isObject(body) ? body : {}
  if (typeof query !== 'string') throw new ClientError('BAD_REQUEST', 'The body must be an object with a string "query".')
  if (variables != null && !isObject(variables)) throw new ClientError('BAD_REQUEST', '"variables" must be an object.')
  if (operationName != null && typeof operationName !== 'string')
    throw new ClientError('BAD_REQUEST', '"operationName" must be a string.')
  checkVariables(variables ?? {})
  return { query, variables: variables ?? {}, operationName: operationName ?? undefined }
}

export interface ValidDocument {
  readonly document: DocumentNode
  /** Does it ask for the schema? */
  readonly introspects: boolean
}

/**
 * Parses and validates documents. The latest are kept, since Grafast keeps its plans with them: a text that comes again is not
 * planned again. (grafserv has such a cache, but parses without a limit on tokens.) The function throws BAD_REQUEST, or an
 * AggregateError of all that is wrong.
 */
export function makeDocuments(schema: GraphQLSchema): (query: string) => ValidDocument {
  const cache = new LRU<string, ValidDocument>({ maxLength: MAX_CACHED })

  function read(query: string): ValidDocument {
    const document = parseTokens(query)
    const errors = validate(schema, document, documentRules)
    if (errors.length > 0) throw new AggregateError(errors)
    return { document, introspects: validate(schema, document, [NoSchemaIntrospectionCustomRule]).length > 0 }
  }

  return (query) => {
    let valid = cache.get(query)
    if (!valid) cache.set(query, (valid = read(query)))
    return valid
  }
}

function parseTokens(query: string): DocumentNode {
  try {
    return parse(query, { maxTokens: MAX_TOKENS })
  } catch (error) {
    // graphql-js recurses into nested values, and a few tokens nest them too deeply for it.
    if (error instanceof RangeError) throw new ClientError('BAD_REQUEST', 'The document is nested too deeply.')
    throw error
  }
}
