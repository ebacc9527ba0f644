import { createSecretKey } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { isIP } from 'node:net'
import jwt from 'jsonwebtoken'
import proxyaddr from 'proxy-addr'
import { unauthenticated } from './errors.ts'

/** Who a request claims to be: what the database is told, and proves. */
export interface Identity {
  /** The session's secret, or "" without credentials. */
  readonly session: string
  /** The caller's address, or "" when it is unknown. */
  readonly ip: string
}

/** Seconds that an access token is good for. The session behind it can end sooner. */
const LIFETIME = 3600
const CLAIMS = { algorithm: 'HS256', issuer: 'assent', audience: 'assent' } as const

const isSecret = (value: unknown): value is string => typeof value === 'string' && /^[\w-]+$/.test(value)

/** Signs and reads access tokens: JSON Web Tokens (RFC 7519) that carry nothing but a session's secret. */
export interface Tokens {
  sign(session: string): { token: string; expiresAt: Date }
  verify(token: string): string
}

/** Tokens under these keys: the first signs, all verify, so that a key can be replaced without a failed request. */
export function makeTokens(secrets: readonly string[]): Tokens {
  // Keys are made once: from a string, jsonwebtoken would make one at every call.
  const keys = secrets.map((secret) => createSecretKey(Buffer.from(secret)))
  return {
    sign(session) {
      const token = jwt.sign({ sid: session }, keys[0]!, { ...CLAIMS, expiresIn: LIFETIME })
      return { token, expiresAt: new Date(Date.now() + LIFETIME * 1000) }
    },
    verify(token) {
      for (const key of keys) {
        try {
          const { algorithm, ...claims } = CLAIMS
          const payload = jwt.verify(token, key, { ...claims, algorithms: [algorithm] })
          if (typeof payload === 'object' && isSecret(payload['sid'])) return payload['sid']
        } catch {
          // Not by this key.
        }
      }
      throw unauthenticated()
    },
  }
}

/** Reads a request's identity from its bearer token (RFC 6750) and its address. Throws UNAUTHENTICATED for a bad token. */
export function makeIdentify(tokens: Tokens, trustProxy: number): (req: IncomingMessage) => Identity {
  return (req) => {
    const { authorization } = req.headers
    let session = ''
    if (authorization !== undefined) {
      const bearer = /^Bearer +([\w.~+/=-]+) *$/i.exec(authorization)
      if (!bearer) throw unauthenticated()
      session = tokens.verify(bearer[1]!)
    }
    // A nearer proxy than TRUST_PROXY says is believed about the address before it; whatever is further off is not.
    // An IPv6 zone ("%eth0") is of the proxy's machine alone, and no address to PostgreSQL.
    const address = proxyaddr(req, (_address, hop) => hop < trustProxy)
      .replace(/^::ffff:(?=\d+\.)/i, '')
      .replace(/%.*/, '')
    return { session, ip: isIP(address) ? address : '' }
  }
}
