import type { IncomingMessage, ServerResponse } from 'node:http'
import cors from 'cors'
import helmet from 'helmet'

type Middleware = (req: IncomingMessage, res: ServerResponse, next: () => void) => void

/** What no page of ours needs. Of these, only default-src is a fallback for others. */
const NOTHING = ["default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "object-src 'none'"]

/** The Content-Security-Policy of a page that may do this; answers that are data may do nothing. */
export const policy = (...allowed: string[]): string => {
  const byName = new Map([...NOTHING, ...allowed].map((directive) => [directive.split(' ', 1)[0], directive]))
  return [...byName.values()].join('; ')
}

/** The headers of every answer, unless it has others: helmet's, which never change, so that it is asked once. */
export const HEADERS: ReadonlyMap<string, string> = (() => {
  const headers = new Map<string, string>()
  const recorder = { setHeader: (name: string, value: string) => headers.set(name.toLowerCase(), value), removeHeader() {} }
  helmet({ contentSecurityPolicy: false })({} as IncomingMessage, recorder as unknown as ServerResponse, () => {})
  // Almost every answer is somebody's own, or a token, so no cache may keep it. Clients can remember entity tags all the same.
  return headers.set('content-security-policy', policy()).set('cache-control', 'no-store')
})()

/** Lets pages of these origins read our answers, and send the cookie along (Fetch Standard, CORS protocol). */
export const crossOrigin = (allowedOrigins: readonly string[]): Middleware =>
  cors({
    origin: [...allowedOrigins],
    credentials: true,
    methods: ['GET', 'POST', 'PATCH', 'DELETE'],
    allowedHeaders: ['authorization', 'content-type', 'x-csrf-token', 'if-match', 'if-none-match', 'idempotency-key'],
    exposedHeaders: ['etag', 'location', 'retry-after'],
    maxAge: 600,
  })
