import { createSecretKey, randomUUID } from 'node:crypto'
import jwt from 'jsonwebtoken'
import { LRUCache } from 'lru-cache'
import { unauthenticated } from '../errors.ts'

/** Seconds that an access token is good for. The session behind it can end sooner. */
export const TOKEN_LIFETIME = 900
const CLAIMS = { algorithm: 'HS256', issuer: 'assent', audience: 'assent' } as const
const REMEMBERED_TOKENS = 10_000

/** A session's secret as tokens and cookies carry it. */
export const isSecret = (value: unknown): value is string => typeof value === 'string' && /^[\w-]+$/.test(value)

/** Signs and reads access tokens: JSON Web Tokens (RFC 7519) that carry a session's secret and whose it is. */
export interface Tokens {
  sign(session: string, userId: string): { token: string; expiresAt: Date }
  /** Throws UNAUTHENTICATED. */
  verify(token: string): { session: string; userId: string }
}

/** Tokens under these keys: the first signs, all verify, so that a key can be replaced without a failed request. */
export function makeTokens(secrets: readonly string[]): Tokens {
  // Keys are made once: from a string, jsonwebtoken would make one at every call.
  const keys = secrets.map((secret) => createSecretKey(Buffer.from(secret)))
  const verified = new LRUCache<string, { session: string; userId: string; exp: number }>({ max: REMEMBERED_TOKENS })

  function read(token: string) {
    for (const key of keys) {
      try {
        const { algorithm, ...claims } = CLAIMS
        const payload = jwt.verify(token, key, { ...claims, algorithms: [algorithm] })
        if (typeof payload !== 'object' || !isSecret(payload['sid']) || !payload.sub || !payload.exp) continue
        return { session: payload['sid'], userId: payload.sub, exp: payload.exp }
      } catch {
        // It was not signed by this key.
      }
    }
    throw unauthenticated()
  }

  return {
    sign(session, userId) {
      const options = { ...CLAIMS, expiresIn: TOKEN_LIFETIME, subject: userId, jwtid: randomUUID() }
      const token = jwt.sign({ sid: session }, keys[0]!, options)
      return { token, expiresAt: new Date(Date.now() + TOKEN_LIFETIME * 1000) }
    },
    verify(token) {
      let payload = verified.get(token)
      if (!payload) verified.set(token, (payload = read(token)))
      if (payload.exp * 1000 <= Date.now()) throw unauthenticated()
      return payload
    },
  }
}
