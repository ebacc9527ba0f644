import { randomUUID } from 'node:crypto'
import { STATUS_CODES, type OutgoingHttpHeaders } from 'node:http'
import { DatabaseError } from 'pg'
import { GraphQLError } from 'graphql'
import type { Logger } from 'pino'
import { isSafeError } from 'postgraphile/grafast'

/** Every error code that a caller can meet, with its HTTP status; the conflict of two bodies under one key has 422. */
export const STATUS = {
  BAD_REQUEST: 400,
  UNAUTHENTICATED: 401,
  FORBIDDEN: 403,
  NOT_FOUND: 404,
  METHOD_NOT_ALLOWED: 405,
  INVALID_TRANSITION: 409,
  IDEMPOTENCY_CONFLICT: 409,
  STALE_VERSION: 412,
  PAYLOAD_TOO_LARGE: 413,
  UNSUPPORTED_MEDIA_TYPE: 415,
  VALIDATION_FAILED: 422,
  TOO_MANY_ATTEMPTS: 429,
  RATE_LIMITED: 429,
  INTERNAL: 500,
  UNAVAILABLE: 503,
} as const

export type Code = keyof typeof STATUS

/** The errors that our SQL raises, in SQLSTATE class RQ: the last three digits are the HTTP status. */
const RAISED: Record<string, Code> = {
  RQ401: 'UNAUTHENTICATED',
  RQ403: 'FORBIDDEN',
  RQ404: 'NOT_FOUND',
  RQ409: 'INVALID_TRANSITION',
  RQ412: 'STALE_VERSION',
  RQ422: 'VALIDATION_FAILED',
  RQ429: 'RATE_LIMITED',
}

/** Arguments with another name than the column that they are written to. */
const ARGUMENTS: Record<string, string> = { review_comment: 'comment' }
/** Members of REST's documents likewise, where GraphQL has the column's name. */
const MEMBERS: Record<string, string> = { kind_id: 'kind' }
/** The member of a REST body that a fault is about. */
export const memberOf = ({ field }: Fault): string => MEMBERS[field] ?? field

/** PostgreSQL's own errors that a caller may hear of, in our words: its own could name a table. */
const REFUSED: Record<string, [Code, string]> = {
  '22021': ['VALIDATION_FAILED', 'Text must not contain the character NUL.'],
  '22P05': ['VALIDATION_FAILED', 'Text must not contain the character NUL.'],
  '22P02': ['VALIDATION_FAILED', 'A value does not have the form of its type.'],
  '22003': ['VALIDATION_FAILED', 'A number is out of range.'],
  '22007': ['VALIDATION_FAILED', 'A value is not a valid date or time.'],
  '22008': ['VALIDATION_FAILED', 'A date or time is out of range.'],
  '22009': ['VALIDATION_FAILED', 'A time zone is out of range.'],
  '22023': ['VALIDATION_FAILED', 'A value, such as a time zone, is unknown.'],
  '54001': ['BAD_REQUEST', 'A value is nested too deeply.'],
  '42501': ['FORBIDDEN', 'You are not allowed to do this.'],
  '40001': ['UNAVAILABLE', 'The request collided with another one and was stopped. Try again.'],
  '40P01': ['UNAVAILABLE', 'The request collided with another one and was stopped. Try again.'],
  '57014': ['UNAVAILABLE', 'The request took too long and was stopped.'],
  '55P03': ['UNAVAILABLE', 'The request waited too long for another one and was stopped. Try again.'],
}

/** An input field, in snake_case, and what is wrong with it. */
export interface Fault {
  readonly field: string
  readonly message: string
}

/** The names within data are its kind's own. */
const camelCase = (path: string) =>
  path.replace(/^[^.]+/, (name) => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()))

/** An error that may be shown to the caller as it is. */
export class ClientError extends Error {
  readonly code: Code
  readonly status: number
  readonly faults: readonly Fault[]
  /** Seconds after which it is worth another try. */
  readonly retryAfter: number | undefined
  /** Of an INTERNAL error: the id by which the log explains it. */
  readonly id: string | undefined

  constructor(
    code: Code,
    message: string,
    details: { status?: number; faults?: readonly Fault[]; retryAfter?: number; id?: string; cause?: unknown } = {},
  ) {
    super(message, details.cause === undefined ? {} : { cause: details.cause })
    this.code = code
    this.status = details.status ?? STATUS[code]
    this.faults = details.faults ?? []
    this.retryAfter = details.retryAfter
    this.id = details.id
  }

  get extensions(): Record<string, unknown> {
    const fields = this.faults.map(({ field, message }) => ({ field: camelCase(field), message }))
    return {
      code: this.code,
      ...(fields[0] && { field: fields[0].field, fields }),
      ...(this.retryAfter && { retryAfter: this.retryAfter }),
    }
  }

  /** The answer of REST: Problem Details (RFC 9457). */
  get problem(): Record<string, unknown> {
    const messages = Map.groupBy(this.faults, memberOf)
    return {
      type: 'about:blank',
      title: STATUS_CODES[this.status],
      status: this.status,
      detail: this.message,
      code: this.code,
      ...(messages.size && {
        errors: Object.fromEntries(Array.from(messages, ([field, faults]) => [field, faults.map(({ message }) => message)])),
      }),
    }
  }

  /** The headers that tell a client about it, beside the body. */
  get headers(): OutgoingHttpHeaders {
    return {
      ...(this.retryAfter && { 'retry-after': String(this.retryAfter) }),
      ...(this.code === 'UNAUTHENTICATED' && { 'www-authenticate': 'Bearer' }),
    }
  }
}

/** VALIDATION_FAILED, with all that is wrong; the first is the message. */
export const invalid = (faults: readonly Fault[]): ClientError =>
  new ClientError('VALIDATION_FAILED', faults[0]!.message, { faults })

export const unauthenticated = (): ClientError => new ClientError('UNAUTHENTICATED', 'Valid credentials are required.')

export const noSuchPath = (): ClientError => new ClientError('NOT_FOUND', 'There is no such path.')

export const unsupportedMethod = ({ method }: { method?: string }): ClientError =>
  new ClientError('METHOD_NOT_ALLOWED', `${method} is not supported here.`)

/** The faults that our SQL names: all of them in DETAIL, as JSON, or the one that the message is about in COLUMN. */
function faultsOf({ column, detail, message }: DatabaseError): Fault[] {
  const faults: Fault[] = detail ? JSON.parse(detail) : column ? [{ field: column, message }] : []
  return faults.map(({ field, message }) => ({ field: ARGUMENTS[field] ?? field, message }))
}

/** For p-retry, which does not try again after a TypeError: pg can throw one when a connection is lost. */
export const asError = (cause: unknown): never => {
  throw new Error((cause as Error).message, { cause })
}

/** The database cannot be reached, or lets nobody in. */
export class Unreachable extends Error {
  constructor(cause: unknown) {
    super('The database cannot be reached.', { cause })
  }
}

/**
 * Was there no connection, or was it lost under way? The socket's errors say so, pg's own, and the SQLSTATEs about the server's
 * state: it is going down, has no room, takes no writes (25006), or has ended a session that waited (25P03, 25P04).
 */
function isUnavailable(error: unknown): boolean {
  if (error instanceof Unreachable) return true
  const { code, message } = Object(error) as { code?: unknown; message?: unknown }
  return (
    /^(08|25006|25P0[34]|53|57P|58|ECONN|EPIPE|ENOTFOUND|ETIMEDOUT|EAI_AGAIN|EHOSTUNREACH)/.test(String(code)) ||
    /^(timeout exceeded when trying to connect|Query read timeout|Connection terminated|Client has encountered a connection error|Client was closed)/.test(
      String(message),
    )
  )
}

/** graphql-js wraps what is thrown, more than once. */
function causeOf(error: unknown): unknown {
  return error instanceof GraphQLError && error.originalError ? causeOf(error.originalError) : error
}

/** Turns whatever was thrown into what the caller may hear. Anything unforeseen becomes an id that only the log explains. */
export function toClientError(error: unknown, log: Logger): ClientError {
  if (error instanceof ClientError) return error
  // A scalar failed on a value in variables that it did not expect.
  if (error instanceof GraphQLError && error.message.startsWith('Variable "$') && !(causeOf(error) instanceof GraphQLError)) {
    return new ClientError('BAD_REQUEST', 'Invalid value for the type of a variable.')
  }
  if (error instanceof GraphQLError && error.originalError) return toClientError(error.originalError, log)
  // A newer server has written a name that our schema does not have, and we are about to be replaced.
  if (error instanceof GraphQLError && /^Enum "\w+" cannot represent value/.test(error.message)) {
    log.warn({ err: error }, 'value of a newer version: restart this server')
    return new ClientError('UNAVAILABLE', 'This server does not know a value that a newer one has written.', { retryAfter: 1 })
  }
  // It is graphql-js's own: the document or its variables are at fault.
  if (error instanceof GraphQLError) return new ClientError('BAD_REQUEST', error.message)
  // It is Grafast's own, about something that a caller sent, such as a malformed cursor.
  if (error instanceof Error && isSafeError(error)) return new ClientError('BAD_REQUEST', error.message)
  if (error instanceof DatabaseError && error.code) {
    const raised = RAISED[error.code]
    const retry = raised === 'RATE_LIMITED' ? { retryAfter: 1 } : {}
    if (raised) return new ClientError(raised, error.message, { faults: faultsOf(error), ...retry })
    const refused = REFUSED[error.code]
    if (refused) {
      const [code, message] = refused
      if (code === 'UNAVAILABLE') log.warn({ err: error }, 'statement stopped')
      return new ClientError(code, message, code === 'UNAVAILABLE' ? { retryAfter: 1 } : {})
    }
  }
  if (isUnavailable(error)) {
    log.warn({ err: error }, 'database unavailable')
    return new ClientError('UNAVAILABLE', 'The service is not available at the moment.', { retryAfter: 1 })
  }
  const id = randomUUID()
  log.error({ err: error, id }, 'internal error')
  return new ClientError('INTERNAL', `Something went wrong. Quote this id to your operator: ${id}`, { id, cause: error })
}
