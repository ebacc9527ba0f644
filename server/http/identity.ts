import { createHash, createSecretKey, randomUUID } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { isIP } from 'node:net'
import { LRU } from '@graphile/lru'
import { parseCookie } from 'cookie'
import ipaddr from 'ipaddr.js'
import jwt from 'jsonwebtoken'
import { TokenBucket } from 'limiter'
import proxyaddr from 'proxy-addr'
import { ClientError, unauthenticated } from '../errors.ts'

/** Who a request claims to be: what the database is told, and proves. */
export interface Identity {
  /** The session's secret, or "" without credentials. */
  readonly session: string
  /** The caller's address, or "" when it is unknown. */
  readonly ip: string
  /** What the caller says it is, or null. */
  readonly userAgent: string | null
  /** It came by itself, with the browser's cookie: what it changes must be proven to be meant. */
  readonly byCookie: boolean
}

export const COOKIE = 'assent_session'
/** What the database has before a cookie's value; no token carries it, so that neither can be used as the other. */
const COOKIE_PREFIX = 'cookie:'
/** Seconds that an access token is good for. The session behind it can end sooner. */
export const TOKEN_LIFETIME = 900
const CLAIMS = { algorithm: 'HS256', issuer: 'assent', audience: 'assent' } as const
const REMEMBERED_TOKENS = 10_000

const isSecret = (value: unknown): value is string => typeof value === 'string' && /^[\w-]+$/.test(value)

/** Signs and reads access tokens: JSON Web Tokens (RFC 7519) that carry a session's secret and whose it is. */
export interface Tokens {
  sign(session: string, userId: string): { token: string; expiresAt: Date }
  verify(token: string): { session: string; userId: string }
}

/** Tokens under these keys: the first signs, all verify, so that a key can be replaced without a failed request. */
export function makeTokens(secrets: readonly string[]): Tokens {
  // Keys are made once: from a string, jsonwebtoken would make one at every call.
  const keys = secrets.map((secret) => createSecretKey(Buffer.from(secret)))
  const verified = new LRU<string, { session: string; userId: string; exp: number }>({ maxLength: REMEMBERED_TOKENS })

  function read(token: string) {
    for (const key of keys) {
      try {
        const { algorithm, ...claims } = CLAIMS
        const payload = jwt.verify(token, key, { ...claims, algorithms: [algorithm] })
        if (typeof payload !== 'object' || !isSecret(payload['sid']) || !payload.sub || !payload.exp) continue
        return { session: payload['sid'], userId: payload.sub, exp: payload.exp }
      } catch {
        // Not by this key.
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

/** The secret of a new session by cookie, as the cookie has it. */
export const toCookie = (session: string): string => session.slice(COOKIE_PREFIX.length)

/** What a page has to say, beside the cookie, to change something: known to nobody who does not know the cookie. */
export const csrfToken = (session: string): string => createHash('sha256').update(`csrf:${session}`).digest('base64url')

/** "A caller may send bursts of 300 requests and 1,200 a minute": a token bucket for each of the latest callers. */
function makeAllowance(): (caller: string) => void {
  const buckets = new LRU<string, TokenBucket>({ maxLength: 50_000 })
  return (caller) => {
    let bucket = buckets.get(caller)
    if (!bucket) {
      bucket = new TokenBucket({ bucketSize: 300, tokensPerInterval: 1200, interval: 'minute' })
      bucket.content = bucket.bucketSize
      buckets.set(caller, bucket)
    }
    if (!bucket.tryRemoveTokens(1)) {
      const retryAfter = Math.max(1, Math.ceil(bucket.getWaitTime(1) / 1000))
      throw new ClientError('RATE_LIMITED', 'Too many requests. Try again later.', { retryAfter })
    }
  }
}

const userAgentOf = ({ headers }: IncomingMessage) => headers['user-agent'] ?? null

/** What one caller has: an IPv4 address, or a /64 of IPv6. */
function networkOf(ip: string): string {
  if (isIP(ip) !== 6) return ip
  return ipaddr.IPv6.parse(ip).toByteArray().slice(0, 8).join('.')
}

export interface Identify {
  /**
   * Reads a request's identity from its bearer token (RFC 6750) or its cookie, and its address, and takes the request
   * from its caller's allowance. Throws UNAUTHENTICATED for a bad token, and RATE_LIMITED.
   */
  (req: IncomingMessage): Identity
  /** The same for what needs no credentials, such as a refresh: a bearer token, which may have expired, is not looked at. */
  leniently(req: IncomingMessage): Identity
}

/**
 * `knownUser`: whose session by cookie it is, if it has been seen alive lately. Else the address is the caller: a made-up
 * cookie would be a new one each time.
 */
export function makeIdentify(tokens: Tokens, trustProxy: number, knownUser: (session: string) => string | undefined): Identify {
  const take = makeAllowance()

  function addressOf(req: IncomingMessage): string {
    // A nearer proxy than TRUST_PROXY says is believed about the address before it; whatever is further off is not.
    // An IPv6 zone ("%eth0") is of the proxy's machine alone, and no address to PostgreSQL.
    const address = proxyaddr(req, (_address, hop) => hop < trustProxy)
      .replace(/^::ffff:(?=\d+\.)/i, '')
      .replace(/%.*/, '')
    return isIP(address) ? address : ''
  }

  function identify(req: IncomingMessage): Identity {
    const { authorization } = req.headers
    if (authorization !== undefined) {
      const ip = addressOf(req)
      try {
        const bearer = /^Bearer +([\w.~+/=-]+) *$/i.exec(authorization)
        if (!bearer) throw unauthenticated()
        const { session, userId } = tokens.verify(bearer[1]!)
        take(userId)
        return { session, ip, userAgent: userAgentOf(req), byCookie: false }
      } catch (error) {
        if ((error as ClientError).code === 'UNAUTHENTICATED') take(networkOf(ip))
        throw error
      }
    }
    return leniently(req)
  }

  function leniently(req: IncomingMessage): Identity {
    const { cookie } = req.headers
    const ip = addressOf(req)
    const value = cookie && parseCookie(cookie)[COOKIE]
    const session = isSecret(value) ? COOKIE_PREFIX + value : ''
    take(knownUser(session) ?? networkOf(ip))
    return { session, ip, userAgent: userAgentOf(req), byCookie: session !== '' }
  }

  return Object.assign(identify, { leniently })
}
