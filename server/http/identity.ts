import type { IncomingMessage } from 'node:http'
import { isIP } from 'node:net'
import { parseCookie } from 'cookie'
import proxyaddr from 'proxy-addr'
import { unauthenticated } from '../errors.ts'
import type { Identity } from '../sql/as-caller.ts'
import { isSecret, type Tokens } from './tokens.ts'

export const COOKIE = 'assent_session'
/** The database puts this before a cookie's value; no token carries it, so that neither can be used as the other. */
const COOKIE_PREFIX = 'cookie:'
/** The secret of a new session by cookie, as the cookie has it. */
export const toCookie = (session: string): string => session.slice(COOKIE_PREFIX.length)

/** An identity as a request claims it. */
export interface Claim extends Identity {
  /** Whose session it is, as the token says, or null. */
  readonly userId: string | null
}

/** Reads the address that a request comes from, or "" if it has none. */
export type AddressOf = (req: IncomingMessage) => string

export function makeAddressOf(trustProxy: number): AddressOf {
  // A nearer proxy than TRUST_PROXY says is believed about the address before it; any that is further off is not.
  return (req) => {
    const address = proxyaddr(req, (_address, hop) => hop < trustProxy)
      .replace(/^::ffff:(?=\d+\.)/i, '')
      // An IPv6 zone ("%eth0") means something on the proxy's machine alone, and PostgreSQL takes it for no address.
      .replace(/%.*/, '')
    return isIP(address) ? address : ''
  }
}

export interface Identify {
  /** Reads who is asking from the bearer token (RFC 6750) or the cookie, and the address. Throws UNAUTHENTICATED. */
  (req: IncomingMessage): Claim
  /** The same where no credentials are needed, as for a refresh: a bearer token, which may have expired, is not looked at. */
  leniently(req: IncomingMessage): Claim
}

export function makeIdentify(tokens: Tokens, addressOf: AddressOf): Identify {
  const origin = (req: IncomingMessage) => ({ ip: addressOf(req), userAgent: req.headers['user-agent'] ?? null })

  function identify(req: IncomingMessage): Claim {
    const { authorization } = req.headers
    if (authorization === undefined) return leniently(req)
    const bearer = /^Bearer +([\w.~+/=-]+) *$/i.exec(authorization)
    if (!bearer) throw unauthenticated()
    const { session, userId } = tokens.verify(bearer[1]!)
    return { session, userId, byCookie: false, ...origin(req) }
  }

  function leniently(req: IncomingMessage): Claim {
    const { cookie } = req.headers
    const value = cookie && parseCookie(cookie)[COOKIE]
    const session = isSecret(value) ? COOKIE_PREFIX + value : ''
    return { session, userId: null, byCookie: session !== '', ...origin(req) }
  }

  return Object.assign(identify, { leniently })
}
