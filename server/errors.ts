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

/** What the database says with SQLSTATE class RQ; the last three digits are the HTTP status. */
const RAISED: Record<string, Code> = {
  RQ401: 'UNAUTHENTICATED',
  RQ403: 'FORBIDDEN',
  RQ404: 'NOT_FOUND',
  RQ409: 'INVALID_TRANSITION',
  RQ412: 'STALE_VERSION',
  RQ422: 'VALIDATION_FAILED',
}

/** Where a column has another name than the argument that is written to it. */
const ARGUMENTS: Record<string, string> = { review_comment: 'comment' }

/** What PostgreSQL itself says and a caller may hear, in words of ours: its own could name a table. */
const REFUSED: Record<string, [Code, string]> = {
  '22021': ['VALIDATION_FAILED', 'Text must not contain the character NUL.'],
  '22P05': ['VALIDATION_FAILED', 'Text must not contain the character NUL.'],
  '22P02': ['VALIDATION_FAILED', 'A value is not of the form its type has.'],
  '22003': ['VALIDATION_FAILED', 'A number is out of range.'],
  '22007': ['VALIDATION_FAILED', 'A value is no date and time.'],
  '22008': ['VALIDATION_FAILED', 'A date or time is out of range.'],
  '22009': ['VALIDATION_FAILED', 'A time zone is out of range.'],
  '22023': ['VALIDATION_FAILED', 'A time zone is unknown.'],
  '54001': ['BAD_REQUEST', 'A value is nested too deeply.'],
  '42501': ['FORBIDDEN', 'You may not do this.'],
  '40001': ['UNAVAILABLE', 'The request met another and was stopped.'],
  '40P01': ['UNAVAILABLE', 'The request met another and was stopped.'],
  '57014': ['UNAVAILABLE', 'The request took too long and was stopped.'],
  '55P03': ['UNAVAILABLE', 'The request waited too long for another and was stopped.'],
}

/** An error that may be shown to the caller as it is. */
export class ClientError extends Error {
  readonly code: Code
  readonly status: number
  /** The input field at fault, in snake_case. */
  readonly field: string | undefined
  /** Seconds after which it is worth another try. */
  readonly retryAfter: number | undefined

  constructor(code: Code, message: string, details: { status?: number; field?: string | undefined; retryAfter?: number } = {}) {
    super(message)
    this.code = code
    this.status = details.status ?? STATUS[code]
    this.field = details.field
    this.retryAfter = details.retryAfter
  }

  get extensions(): Record<string, unknown> {
    return {
      code: this.code,
      ...(this.field && { field: this.field.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()) }),
      ...(this.retryAfter && { retryAfter: this.retryAfter }),
    }
  }

  /** What REST answers: Problem Details (RFC 9457). */
  get problem(): Record<string, unknown> {
    return {
      type: 'about:blank',
      title: STATUS_CODES[this.status],
      status: this.status,
      detail: this.message,
      code: this.code,
      ...(this.field && { errors: { [this.field]: [this.message] } }),
    }
  }

  /** What a client is told outside the body. */
  get headers(): OutgoingHttpHeaders {
    return {
      ...(this.retryAfter && { 'retry-after': String(this.retryAfter) }),
      ...(this.code === 'UNAUTHENTICATED' && { 'www-authenticate': 'Bearer' }),
    }
  }
}

export const unauthenticated = (): ClientError => new ClientError('UNAUTHENTICATED', 'Valid credentials are required.')

/** No connection to be had, or lost under way: SQLSTATE classes 08, 53 and 57P, the socket's errors, and pg's own. */
function isUnavailable(error: unknown): boolean {
  const { code, message } = Object(error) as { code?: unknown; message?: unknown }
  return (
    /^(08|53|57P|ECONN|EPIPE|ENOTFOUND|ETIMEDOUT|EAI_AGAIN|EHOSTUNREACH)/.test(String(code)) ||
    /^(timeout exceeded when trying to connect|Connection terminated|Client has encountered a connection error|Client was closed)/.test(
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
  // A scalar that did not expect such a value in variables, and stumbled.
  if (error instanceof GraphQLError && error.message.startsWith('Variable "$') && !(causeOf(error) instanceof GraphQLError)) {
    return new ClientError('BAD_REQUEST', 'A variable has a value that its type cannot have.')
  }
  if (error instanceof GraphQLError && error.originalError) return toClientError(error.originalError, log)
  // graphql-js's own: the document or its variables are at fault.
  if (error instanceof GraphQLError) return new ClientError('BAD_REQUEST', error.message)
  // Grafast's own, of what a caller sent: a cursor that is none, for example.
  if (error instanceof Error && isSafeError(error)) return new ClientError('BAD_REQUEST', error.message)
  if (error instanceof DatabaseError && error.code) {
    const raised = RAISED[error.code]
    if (raised)
      return new ClientError(raised, error.message, { field: ARGUMENTS[error.column ?? ''] ?? (error.column || undefined) })
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
  return new ClientError('INTERNAL', `Something went wrong. Quote this id to your operator: ${id}`)
}
