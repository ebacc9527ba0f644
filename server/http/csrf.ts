import { createHash, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import type { Config } from '../config.ts'
import { ClientError } from '../errors.ts'
import type { IsSecure } from './identity.ts'
import { isStranger, type Database, type Identity } from '../sql/as-caller.ts'

/** Does the browser, if it is one, say that the request comes from a page of ours? */
export type IsOwnOrigin = (req: IncomingMessage) => boolean

/** A page that came without TLS may be anybody's, even from our own host: where TLS is used, it is a stranger's. */
export function makeIsOwnOrigin(
  { publicUrl, allowedOrigins }: Pick<Config, 'publicUrl' | 'allowedOrigins'>,
  isSecure: IsSecure,
): IsOwnOrigin {
  const own = new Set([new URL(publicUrl).origin, ...allowedOrigins])
  return (req) => {
    const { origin, host } = req.headers
    if (origin === undefined || own.has(origin)) return true
    const schemes = isSecure(req) ? ['https:'] : ['https:', 'http:']
    return URL.canParse(origin) && new URL(origin).host === host && schemes.includes(new URL(origin).protocol)
  }
}

/** What a page has to send beside the cookie to change something: it can only be computed from the cookie. */
export const csrfToken = (session: string): string => createHash('sha256').update(`csrf:${session}`).digest('base64url')

function hasToken({ headers }: IncomingMessage, session: string): boolean {
  const given = Buffer.from(String(headers['x-csrf-token'] ?? ''))
  const expected = Buffer.from(csrfToken(session))
  return given.length === expected.length && timingSafeEqual(given, expected)
}

export const foreignOrigin = () => new ClientError('FORBIDDEN', 'This origin is not allowed.')

/**
 * A browser sends the cookie whichever page asks it to: a change must come with the session's CSRF token and from an origin
 * of ours (OWASP Cross-Site Request Forgery Prevention Cheat Sheet). Answers who is asking, which is nobody if the
 * cookie is dead. Throws FORBIDDEN.
 */
export type CheckCsrf = (req: IncomingMessage, caller: Identity) => Promise<Identity>

export function makeCheckCsrf(db: Database, isOwnOrigin: IsOwnOrigin): CheckCsrf {
  return async (req, caller) => {
    if (!caller.byCookie) return caller
    const isOwn = isOwnOrigin(req)
    if (isOwn && hasToken(req, caller.session)) return caller
    if (await isStranger(db, caller)) return { ...caller, session: '', byCookie: false }
    if (!isOwn) throw foreignOrigin()
    throw new ClientError(
      'FORBIDDEN',
      "A change authenticated by cookie needs the header X-CSRF-Token: send the session's csrf_token in it.",
    )
  }
}
