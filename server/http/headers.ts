import type { IncomingMessage, ServerResponse } from 'node:http'
import cors from 'cors'
import helmet from 'helmet'

type Middleware = (req: IncomingMessage, res: ServerResponse, next: () => void) => void

/** The headers that helmet sets on every answer. They never change, so it is asked once. */
export function securityHeaders(): readonly [name: string, value: string][] {
  const headers: [string, string][] = []
  const recorder = { setHeader: (name: string, value: string) => headers.push([name, value]), removeHeader() {} }
  helmet({
    // Answers are data. The few pages, the documentation and GraphiQL, set a policy of their own.
    contentSecurityPolicy: { useDefaults: false, directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] } },
  })({} as IncomingMessage, recorder as unknown as ServerResponse, () => {})
  return headers
}

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
