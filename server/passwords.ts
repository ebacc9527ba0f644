import { createHash } from 'node:crypto'
import { ClientError, invalid, type Code } from './errors.ts'
import { asking, onOneConnection, type Ask, type Database, type Identity } from './sql/as-caller.ts'

export const MIN_PASSWORD_LENGTH = 12

/** A password with more characters than these is none of the common ones, and judging it would take the square of its length. */
const MOST_JUDGED = 128
/** The fewest pieces that a password may consist of; one of the most common passwords weighs as much as 3 characters. */
const MIN_PIECES = 8
/** The fewest different characters that it may have, whatever their script: with fewer it is a pattern. */
const FEWEST_CHARACTERS = 4
const WORD_PIECES = 3
const LONGEST_WORD = 20
/** What people write in place of letters. */
const DISGUISES: Record<string, string> = {
  ...{ '0': 'o', '3': 'e', '4': 'a', '5': 's', '7': 't', '8': 'b', '9': 'g' },
  ...{ '@': 'a', $: 's', '+': 't', '(': 'c', '€': 'e' },
}

/** Text as it is compared: without letter case, accents and other variants of a character. */
const fold = (text: string) => text.normalize('NFKD').replace(/\p{M}/gu, '').toLowerCase()

/** Folded text as it may be meant: as it is, and with letters for what may stand in their place. */
function readings(text: string): string[] {
  const undisguised = text.replace(/./gsu, (character) => DISGUISES[character] ?? character)
  return [text, ...['i', 'l'].map((letter) => undisguised.replace(/[1!|]/g, letter))]
}

/** Does a password contain the name of the product, or a name or an address of its person, as a whole or a word of it? */
function containsOwn(text: string, own: readonly string[]): boolean {
  const isLong = (word: string) => word.length >= 4 || /[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}]{2}/u.test(word)
  return readings(text).some((reading) =>
    // Of an address, what comes before the @ is a name too; what comes after it is everybody's.
    ['Assent', ...own, ...own.map((name) => name.replace(/@.*/s, ''))].some((name) => {
      const words = fold(name.slice(0, MOST_JUDGED)).match(/[\p{L}\p{N}]+/gu) ?? []
      const whole = words.join('')
      return (
        (isLong(whole) && reading.replace(/[^\p{L}\p{N}]/gu, '').includes(whole)) ||
        (!name.includes('@') && words.some((word) => isLong(word) && reading.includes(word)))
      )
    }),
  )
}

/** The most common passwords, and which keys are neighbours. They are read when a password is first chosen. */
async function readCommon() {
  const { dictionary, adjacencyGraphs } = await import('@zxcvbn-ts/language-common')
  const words = new Set(dictionary['passwords-common'].map(String).filter(({ length }) => length >= 4 && length <= LONGEST_WORD))
  const neighbours = new Map(Object.entries(adjacencyGraphs.qwerty).map(([key, keys]) => [key, keys.join('')]))
  return { words, neighbours }
}
let common: ReturnType<typeof readCommon> | undefined

/**
 * How many pieces folded text consists of, reading each time as far as one goes: a year, a run along the alphabet, the digits or
 * the keyboard, something that came before, a common password, or else a character.
 */
function countPieces(text: string, { words, neighbours }: Awaited<ReturnType<typeof readCommon>>): number {
  const read = readings(text)
  const isKey = (i: number) => text[i]! > ' ' && text[i]! <= '~'
  const isNear = (i: number) =>
    isKey(i) &&
    isKey(i - 1) &&
    (Math.abs(text.charCodeAt(i) - text.charCodeAt(i - 1)) <= 1 || !!neighbours.get(text[i - 1]!)?.includes(text[i]!))
  let pieces = 0
  for (let i = 0; i < text.length;) {
    let end = i + (/^(19|20)\d\d/.test(text.slice(i, i + 4)) ? 4 : 1)
    let run = i + 1
    while (run < text.length && isNear(run)) run++
    if (run >= i + 3 || text[i + 1] === text[i]) end = Math.max(end, run)
    let repeat = i + 2
    while (isKey(i) && repeat < text.length && text.indexOf(text.slice(i, repeat + 1)) < i) repeat++
    if (repeat >= i + 3) end = Math.max(end, repeat)
    let word = Math.min(text.length, i + LONGEST_WORD)
    while (word > end && !read.some((reading) => words.has(reading.slice(i, word)))) word--
    pieces += word > end ? WORD_PIECES : 1
    i = Math.max(end, word)
  }
  return pieces
}

/** A common password stays common when it is spaced out, with something between each two of its characters. */
const closed = (text: string) =>
  text.replace(/(?<=(?:^|[^\p{L}\p{N}])[\p{L}\p{N}])[^\p{L}\p{N}](?=[\p{L}\p{N}](?:[^\p{L}\p{N}]|$))/gu, '')

/**
 * What is wrong with a new password of somebody with these names and addresses, or null (NIST SP 800-63B, 5.1.1.2: a length,
 * nothing that is common or about its person; no other rules). It is judged here because PostgreSQL never sees it; PostgreSQL is
 * told, and raises it only when everything else is right.
 */
export async function weaknessOf(password: unknown, own: readonly string[]): Promise<string | null> {
  if (typeof password !== 'string' || !password.isWellFormed()) return 'The password must be a string.'
  if (password.includes('\0')) return 'The password must not contain the character NUL.'
  if (Array.from(password).length < MIN_PASSWORD_LENGTH)
    return `The password must have at least ${MIN_PASSWORD_LENGTH} characters.`
  const text = fold(password.slice(0, MOST_JUDGED)).slice(0, MOST_JUDGED)
  if (containsOwn(text, own)) return 'The password must not contain your name, your email address or the name of this product.'
  const areFew = new Set(text.replace(/\s/g, '')).size < FEWEST_CHARACTERS
  const known = await (common ??= readCommon())
  // Several blanks are as one, and what does not show is nothing. Without anything common left, that is no fault.
  const shown = text.replace(/\p{Cf}/gu, '').replace(/\s+/g, ' ')
  const fewest = new Map([
    ...[shown, closed(shown)].map((one): [string, number] => [one, Math.min(MIN_PIECES, one.length)]),
    ...[text, closed(text)].map((one): [string, number] => [one, MIN_PIECES]),
  ])
  const isCommon = () => [...fewest].some(([one, least]) => countPieces(one, known) < least)
  if (areFew || (password.length <= MOST_JUDGED && isCommon()))
    return 'This password is too common: it is one of the most common ones, or a pattern, with little else.'
  return null
}

const digestOf = (text: string): string => createHash('sha256').update(`assent:${text}`).digest('base64')

/** Beyond this many bytes a password is taken as it was typed: bringing it into NFC takes the square of its length. */
const MAX_NORMALIZED = 2000
const normalize = (password: string) => (Buffer.byteLength(password) <= MAX_NORMALIZED ? password.normalize('NFC') : password)

/** Sent in place of a password: the comment on app_private.password_digest says why. */
export const passwordDigest = (password: string): string => digestOf(normalize(password))

/** The digest of a password that is not in NFC, as it was made when it was set before passwords were normalized; else null. */
const typedDigest = (password: string): string | null => (normalize(password) === password ? null : digestOf(password))

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
 * `noteLogin` hears of each login.
 */
export function makePasswords(db: Database, slowDb: Database, noteLogin: (result: 'OK' | Code) => void) {
  const slowly = (caller: Identity) => asking(slowDb, caller, 'write')

  /** What a new password must not contain: the name and the address of whose link it is or, without a link, of the caller. */
  async function ownWords(caller: Identity, token: string | null): Promise<readonly string[]> {
    const statement = { text: 'select app_hidden.own_words($1) as words', values: [token] }
    const [row] = await asking(db, caller, 'read')<{ words: string[] | null }>(statement)
    return row!.words ?? []
  }

  return {
    /** Opens a session, by token or by cookie. Throws UNAUTHENTICATED and TOO_MANY_ATTEMPTS. */
    async login(caller: Identity, email: string, password: string, byCookie = false): Promise<Session> {
      // A login queues for its connection before it counts: one that gets none is no attempt.
      const session = await onOneConnection(slowDb, caller, async (ask) => {
        const attempt = await begin(ask, 'select * from app_hidden.begin_login($1)', [email])
        const [done] = await ask<LoginRow>({
          text: 'select * from app_hidden.finish_login($1, $2, $3, $4, $5, $6)',
          values: [attempt, email, passwordDigest(password), byCookie, caller.userAgent, typedDigest(password)],
        })
        refuseRetry(done!.retry_after)
        if (!done!.user_id) throw new ClientError('UNAUTHENTICATED', 'The email address or the password is wrong.')
        return { userId: done!.user_id, secret: done!.session_secret, refreshToken: done!.refresh_token }
      }).catch((error: unknown) => {
        if (error instanceof ClientError) noteLogin(error.code)
        throw error
      })
      noteLogin('OK')
      return session
    },

    /** Answers whose password it is. Throws UNAUTHENTICATED, VALIDATION_FAILED for either password, and TOO_MANY_ATTEMPTS. */
    async change(caller: Identity, oldPassword: unknown, newPassword: unknown, ask: Ask = slowly(caller)): Promise<string> {
      const weakness = await weaknessOf(newPassword, await ownWords(caller, null))
      if (typeof oldPassword !== 'string' && !weakness) throw invalidOldPassword('The password must be a string.')
      const text = 'select * from app_hidden.begin_password_change($1)'
      const attempt = await begin(asking(db, caller, 'write'), text, [weakness])
      const [done] = await ask<{ user_id: string | null; retry_after: number | null }>({
        text: 'select * from app_hidden.change_password($1, $2, $3, $4)',
        values: [
          attempt,
          passwordDigest(String(oldPassword)),
          passwordDigest(String(newPassword)),
          typedDigest(String(oldPassword)),
        ],
      })
      refuseRetry(done!.retry_after)
      if (!done!.user_id) throw invalidOldPassword('The old password is wrong.')
      return done!.user_id
    },

    /** Sets a new password by the secret of a mailed link. Throws VALIDATION_FAILED for either. */
    async reset(caller: Identity, token: string, newPassword: string): Promise<void> {
      const weakness = await weaknessOf(newPassword, await ownWords(caller, token))
      await slowly(caller)({
        text: 'select app_hidden.reset_password($1, $2, $3)',
        values: [token, passwordDigest(newPassword), weakness],
      })
    },
  }
}

export type Passwords = ReturnType<typeof makePasswords>
