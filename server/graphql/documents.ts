import { parse, validate, type DocumentNode, type GraphQLSchema } from 'graphql'
import { LRUCache } from 'lru-cache'
import { ClientError } from '../errors.ts'
import { isObject } from '../http/body.ts'
import { asksOnlyFor, checkSize, documentRules, MAX_SELECTIONS, MAX_TOKENS, selectionsOf } from './document-rules.ts'

/** What strangers may ask for, which row-level security and the functions behind these fields allow them. */
const OPEN_FIELDS = ['__typename', 'currentUser', 'csrfToken', 'login', 'requestPasswordReset', 'resetPassword']
/** What they may ask for as well where the schema is no secret. */
const INTROSPECTION = ['__schema', '__type']

/** Longer texts have values in them, and so seldom come again. */
const MAX_CACHED_TEXT = 8_000
/** Selections of all documents that are kept: each takes about 20 kB as Grafast plans it. */
const MAX_CACHED_SELECTIONS = 8_000
/** Selections that cost as much of the caller's allowance as a request, if the document has to be validated and planned. */
const SELECTIONS_PER_REQUEST = 10

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
  return { query, variables: variables ?? {}, operationName: operationName ?? undefined }
}

/** A document that has been parsed. */
export interface Parsed {
  readonly document: DocumentNode
  /** The schema, with the plans of this document. */
  readonly schema: GraphQLSchema
  /** May a stranger ask for all that it asks for? */
  readonly isOpen: boolean
  readonly selections: number
  /** How many requests it costs, beside the one that it is, unless it is known to be valid. */
  readonly cost: number
  isValid: boolean
}

/**
 * Parses documents, and validates them. The latest that are valid are kept with their plans, as many as have a certain size
 * together: a text that comes again is not planned again. (grafserv has such a cache, but it counts texts and not what they
 * weigh, as does Grafast's own.)
 */
export function makeDocuments(schema: GraphQLSchema, production: boolean) {
  const openFields = new Set(production ? OPEN_FIELDS : [...OPEN_FIELDS, ...INTROSPECTION])
  const cache = new LRUCache<string, Parsed>({
    maxSize: MAX_CACHED_SELECTIONS,
    sizeCalculation: ({ selections }) => selections + 1,
  })

  /** Grafast makes a plan for each combination of conditions, such as that of @include(if: $x): each counts for itself. */
  const keyOf = ({ query, variables }: Call) =>
    query + JSON.stringify(Object.entries(variables).filter(([, value]) => typeof value === 'boolean'))

  return {
    /** Reads a document without the schema. Throws BAD_REQUEST. */
    read(call: Call): Parsed {
      const known = call.query.length <= MAX_CACHED_TEXT ? cache.get(keyOf(call)) : undefined
      if (known) return known
      const document = parseTokens(call.query)
      const selections = selectionsOf(document)
      return {
        document,
        schema: withPlansOfItsOwn(schema),
        isOpen: asksOnlyFor(openFields, document),
        selections,
        cost: Math.floor(Math.min(selections, MAX_SELECTIONS) / SELECTIONS_PER_REQUEST),
        isValid: false,
      }
    },
    /** Holds it to the schema and to our limits. Throws BAD_REQUEST, or the first that is wrong. */
    validate(call: Call, parsed: Parsed): void {
      checkSize(parsed.document)
      // The first is told, and the second ends it: to look for more costs as much again.
      const [error] = validate(schema, parsed.document, documentRules, { maxErrors: 1 })
      if (error) throw error
      parsed.isValid = true
      if (call.query.length <= MAX_CACHED_TEXT) cache.set(keyOf(call), parsed)
    },
  }
}

/** Grafast keeps plans with their schema, up to a number of them: so they go when the document goes. */
function withPlansOfItsOwn(schema: GraphQLSchema): GraphQLSchema {
  const grafast = { ...schema.extensions.grafast, operationOperationPlansCacheMaxLength: 2 }
  return Object.create(schema, { extensions: { value: { ...schema.extensions, grafast } } }) as GraphQLSchema
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
