import { isUtf8 } from 'node:buffer'
import type { IncomingMessage, ServerResponse } from 'node:http'
import express from 'express'
import { ClientError } from '../errors.ts'

const MAX_BODY = '1mb'

/** Bytes that are not UTF-8 would be read, and stored, as U+FFFD. */
function verifyUtf8(_req: IncomingMessage, _res: ServerResponse, body: Buffer): void {
  if (!isUtf8(body)) throw new Error('not UTF-8')
}

const readBytes = express.raw({ limit: MAX_BODY, type: () => true })
const parseJson = express.json({ limit: MAX_BODY, type: () => true, strict: false, verify: verifyUtf8 })

/** The body parser's error, in our codes. */
function toBodyError(error: { status?: number; type?: string }): ClientError {
  if (error.type === 'entity.verify.failed') return new ClientError('BAD_REQUEST', 'The body is not UTF-8.')
  if (error.status === 413) return new ClientError('PAYLOAD_TOO_LARGE', `The body is larger than ${MAX_BODY}.`)
  if (error.status === 415)
    return new ClientError('UNSUPPORTED_MEDIA_TYPE', 'The charset or encoding of the body is not supported.')
  return new ClientError('BAD_REQUEST', 'The body is not JSON.')
}

/** A body of no bytes. If its length is not declared, only reading it tells. */
const isEmpty = ({ headers }: IncomingMessage) =>
  headers['transfer-encoding'] === undefined && (headers['content-length'] ?? '0') === '0'

/**
 * The JSON value of a request's body; undefined for a body that is empty, whatever it is said to be. Throws
 * UNSUPPORTED_MEDIA_TYPE, PAYLOAD_TOO_LARGE and BAD_REQUEST.
 */
export async function readBody(req: IncomingMessage, res: ServerResponse): Promise<unknown> {
  if (isEmpty(req)) return undefined
  // A body that turns out to have no bytes needs no type.
  if (req.headers['content-type'] === undefined && ((await read(readBytes, req, res)) as Buffer).length === 0) return undefined
  if (!/^application\/json *(;|$)/i.test(req.headers['content-type'] ?? '')) {
    throw new ClientError('UNSUPPORTED_MEDIA_TYPE', 'The body must be application/json.')
  }
  return read(parseJson, req, res)
}

function read(parser: express.RequestHandler, req: IncomingMessage, res: ServerResponse): Promise<unknown> {
  return new Promise((resolve, reject) =>
    parser(req as express.Request, res as express.Response, (error?: unknown) =>
      error ? reject(toBodyError(error)) : resolve((req as express.Request).body),
    ),
  )
}

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
