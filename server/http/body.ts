import type { IncomingMessage, ServerResponse } from 'node:http'
import { finished } from 'node:stream'
import { MIMEType } from 'node:util'
import express from 'express'
import { ClientError } from '../errors.ts'
import { networkOf, type Spend } from './allowance.ts'

const MAX_BODY = 2 ** 20
/** Bytes that cost as much of the caller's allowance as a request: to read them takes as long. */
const BYTES_PER_REQUEST = 50_000
/** The parser may know more of them, on some versions of Node and not on others. */
const ENCODINGS = ['identity', 'gzip', 'deflate', 'br']

const readBytes = express.raw({ limit: MAX_BODY, type: () => true })
/** Throws at bytes that are not UTF-8: they would be read, and stored, as U+FFFD. */
const utf8 = new TextDecoder('utf-8', { fatal: true })

export const unsupportedEncoding = () => new ClientError('UNSUPPORTED_MEDIA_TYPE', 'The encoding of the body is not supported.')

export const malformedBody = () => new ClientError('BAD_REQUEST', 'The body is not what its headers say.')

/** The body parser's error, in our codes. */
function toBodyError(error: { status?: number }): ClientError {
  if (error.status === 413) return new ClientError('PAYLOAD_TOO_LARGE', 'The body is larger than 1 MB.')
  if (error.status === 415) return unsupportedEncoding()
  return malformedBody()
}

/** A body of no bytes. If its length is not declared, only reading it tells. */
const isEmpty = ({ headers }: IncomingMessage) =>
  headers['transfer-encoding'] === undefined && (headers['content-length'] ?? '0') === '0'

/**
 * Bodies of one network that may be on their way to this process at once: as many as a burst may have, so that only slow ones
 * can be more.
 */
const MAX_BODIES = 300

const underWay = new Map<string, number>()

/** Counts a body of this caller's network until it has arrived. Throws RATE_LIMITED for one too many. */
export function countBody(req: IncomingMessage, ip: string): void {
  const network = networkOf(ip)
  const others = underWay.get(network) ?? 0
  if (others >= MAX_BODIES) {
    throw new ClientError('RATE_LIMITED', 'Too many bodies are on their way. Try again later.', { retryAfter: 1 })
  }
  underWay.set(network, others + 1)
  finished(req, { writable: false }, () => {
    const left = underWay.get(network)! - 1
    if (left > 0) underWay.set(network, left)
    else underWay.delete(network)
  })
}

/** JSON is UTF-8 (RFC 8259, 8.1); whoever says so may say it in any letter case, and in quotation marks. */
function assertJson(contentType: string): void {
  const type = parseType(contentType)
  if (type?.essence !== 'application/json') {
    throw new ClientError('UNSUPPORTED_MEDIA_TYPE', 'The body must be application/json.')
  }
  if (!/^utf-?8$/i.test(type.params.get('charset') ?? 'utf-8')) {
    throw new ClientError('UNSUPPORTED_MEDIA_TYPE', 'The charset of the body must be UTF-8.')
  }
}

/** Is it this type, whatever its parameters and in any letter case? */
export const isOfType = (contentType: string, essence: string): boolean => parseType(contentType)?.essence === essence

function parseType(contentType: string): MIMEType | undefined {
  try {
    return new MIMEType(contentType)
  } catch {
    return undefined
  }
}

/**
 * The JSON value of a request's body; undefined for a body that is empty, whatever it is said to be. A long one costs as much
 * as several requests, and is paid for before it arrives as far as its length is declared. Throws UNSUPPORTED_MEDIA_TYPE,
 * PAYLOAD_TOO_LARGE, BAD_REQUEST and RATE_LIMITED.
 */
export async function readBody(req: IncomingMessage, res: ServerResponse, ip: string, spend: Spend): Promise<unknown> {
  if (isEmpty(req)) return undefined
  countBody(req, ip)
  const { 'content-type': type, 'content-encoding': encoding = 'identity' } = req.headers
  if (!ENCODINGS.includes(encoding.toLowerCase())) throw unsupportedEncoding()
  if (type !== undefined) assertJson(type)
  const declared = Number(req.headers['content-length'] ?? 0)
  if (declared <= MAX_BODY) spend.more(req, Math.floor(declared / BYTES_PER_REQUEST))
  const bytes = await read(req, res)
  if (bytes.length === 0) return undefined
  spend.more(req, Math.floor(Math.max(0, bytes.length - declared) / BYTES_PER_REQUEST))
  await spend.turn(req)
  assertJson(type ?? '') // Only a body without bytes needs no type.
  let text: string
  try {
    text = utf8.decode(bytes)
  } catch {
    throw new ClientError('BAD_REQUEST', 'The body is not UTF-8.')
  }
  try {
    return JSON.parse(text)
  } catch {
    throw new ClientError('BAD_REQUEST', 'The body is not JSON.')
  }
}

function read(req: IncomingMessage, res: ServerResponse): Promise<Buffer> {
  return new Promise((resolve, reject) =>
    readBytes(req as express.Request, res as express.Response, (error?: unknown) =>
      error ? reject(toBodyError(error)) : resolve((req as express.Request).body ?? Buffer.alloc(0)),
    ),
  )
}

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
