import type { ServerResponse } from 'node:http'
import type { ClientError } from '../errors.ts'
import { HEADERS } from './headers.ts'

/** The headers of every answer in Problem Details. */
export const PROBLEM = { 'content-type': 'application/problem+json; charset=utf-8', 'cache-control': 'no-store' }

/** Answers an error as Problem Details (RFC 9457), whichever door it happened at. */
export function sendProblem(res: ServerResponse, error: ClientError): void {
  const body = JSON.stringify(error.problem)
  for (const [name, value] of HEADERS) if (!res.hasHeader(name)) res.setHeader(name, value)
  for (const [name, value] of Object.entries(error.headers)) res.setHeader(name, value!)
  res.writeHead(error.status, { ...PROBLEM, 'content-length': Buffer.byteLength(body) })
  res.end(body)
}
