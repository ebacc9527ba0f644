import type { IncomingMessage } from 'node:http'
import { isIP } from 'node:net'
import { parseCookie } from 'cookie'
import ipaddr from 'ipaddr.js'
import proxyaddr from 'proxy-addr'
import type { Config } from '../config.ts'
import { unauthenticated } from '../errors.ts'
import type { Identity } from '../sql/as-caller.ts'
import { isSecret, type Tokens } from './tokens.ts'

/** The session's cookie. By TLS, no other host of the same site can set one of its name (RFC 6265bis, 4.1.3.2). */
export const cookieName = (isSecure: boolean): string => (isSecure ? '__Host-assent_session' : 'assent_session')
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

/**
 * An address as proxies write it: quoted, with a port, in brackets, with a zone that means something on the proxy's machine
 * alone. It is "" for what is no address.
 */
function parseAddress(written = ''): string {
  const bare = written.trim().replace(/^"(.*)"$/s, '$1')
  const [, bracketed, version4] = /^(?:\[([^\]]*)\]|([\d.]+))(?::\d*)?$/.exec(bare) ?? []
  const address = (bracketed ?? version4 ?? bare).replace(/%.*/s, '')
  if (!isIP(address)) return ''
  // A URL spells every form of an IPv6 address alike; the library does not read all of those that end like an IPv4 address.
  const spelt = isIP(address) === 6 ? new URL(`http://[${address}]`).hostname.slice(1, -1) : address
  // An IPv4 address within an IPv6 one is that IPv4 address.
  return ipaddr.process(spelt).toString()
}

export function makeAddressOf(trustProxy: number): AddressOf {
  // A nearer proxy than TRUST_PROXY says is believed about the address before it; any that is further off is not. Where it has
  // written what is no address, the caller counts as that proxy.
  return (req) =>
    proxyaddr
      .all(req, (_address, hop) => hop < trustProxy)
      .map(parseAddress)
      .findLast(Boolean) ?? ''
}

/** Does the caller come by TLS? */
export type IsSecure = (req: IncomingMessage) => boolean

export function makeIsSecure({ publicUrl, trustProxy }: Pick<Config, 'publicUrl' | 'trustProxy'>): IsSecure {
  return ({ headers }) => {
    if (publicUrl.startsWith('https:')) return true
    if (trustProxy === 0) return false
    // Proxies add to the list. The outermost one that is trusted has seen how the caller came; what is before it is made up.
    const schemes = String(headers['x-forwarded-proto'] ?? '').split(',')
    return (schemes.at(-trustProxy) ?? schemes[0]!).trim().toLowerCase() === 'https'
  }
}

export interface Identify {
  /** Reads who is asking from the bearer token (RFC 6750) or the cookie, and the address. Throws UNAUTHENTICATED. */
  (req: IncomingMessage): Claim
  /** The same where no credentials are needed, as for a refresh: a bearer token, which may have expired, is not looked at. */
  leniently(req: IncomingMessage): Claim
}

/** The cookie of this name. Of two, one may be planted by another host of the site, and there is no telling which. */
function readCookie(header: string, name: string): string | undefined {
  const isOne = header.split(';').filter((pair) => pair.split('=', 1)[0]!.trim() === name).length === 1
  return isOne ? parseCookie(header)[name] : undefined
}

export function makeIdentify(tokens: Tokens, addressOf: AddressOf, isSecure: IsSecure): Identify {
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
    const value = readCookie(req.headers.cookie ?? '', cookieName(isSecure(req)))
    const session = isSecret(value) ? COOKIE_PREFIX + value : ''
    return { session, userId: null, byCookie: session !== '', ...origin(req) }
  }

  return Object.assign(identify, { leniently })
}
