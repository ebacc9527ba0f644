import { timingSafeEqual } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import type { Pool } from 'pg'
import type { Config } from '../config.ts'
import { ClientError } from '../errors.ts'
import { csrfToken, type Identity } from './identity.ts'
import { isAnonymous } from '../sql/as-caller.ts'

/** Does the browser, if it is one, say that the request comes from a page of ours? */
export type IsOwnOrigin = (req: IncomingMessage) => boolean

export function makeIsOwnOrigin({ publicUrl, allowedOrigins }: Pick<Config, 'publicUrl' | 'allowedOrigins'>): IsOwnOrigin {
  const own = new Set([new URL(publicUrl).origin, ...allowedOrigins])
  return ({ headers: { origin, host } }) =>
    origin === undefined || own.has(origin) || (URL.canParse(origin) && new URL(origin).host === host)
}

function hasToken({ headers }: IncomingMessage, session: string): boolean {
  const given = Buffer.from(String(headers['x-csrf-token'] ?? ''))
  const expected = Buffer.from(csrfToken(session))
  return given.length === expected.length && timingSafeEqual(given, expected)
}

/**
 * A browser sends the cookie whichever page asks it to: a change must come with the session's CSRF token and from an origin
 * of ours (OWASP Cross-Site Request Forgery Prevention Cheat Sheet). Answers who is asking, which is nobody if the
 * cookie is dead. Throws FORBIDDEN.
 */
export type CheckCsrf = (req: IncomingMessage, caller: Identity) => Promise<Identity>

export function makeCheckCsrf(pool: Pool, isOwnOrigin: IsOwnOrigin): CheckCsrf {
  return async (req, caller) => {
    if (!caller.byCookie || (isOwnOrigin(req) && hasToken(req, caller.session))) return caller
    if (await isAnonymous(pool, caller)) return { ...caller, session: '', byCookie: false }
    throw new ClientError('FORBIDDEN', 'A change by cookie needs the header X-CSRF-Token, and an origin that is allowed.')
  }
}
