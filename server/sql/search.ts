import pg from 'pg'
import { ClientError } from '../errors.ts'
import { asCaller, type Database, type Identity } from './as-caller.ts'
import { prepared } from './prepared.ts'

/** The lists that can be searched: the functions of db/rules/search.sql, and the filters that each takes beside the text. */
const FUNCTIONS = {
  requests: {
    filters: ['status', 'creator_id', 'assigned_to_id', 'is_deleted'],
    ...prepared('select app_hidden.matching_requests($1, $2, $3, $4, $5) as ids'),
  },
  requests_awaiting_my_decision: {
    filters: ['creator_id', 'assigned_to_id'],
    ...prepared('select app_hidden.matching_requests($1, app_hidden.waiting_status(), $2, $3) as ids'),
  },
  users: { filters: [], ...prepared('select app_hidden.matching_users($1) as ids') },
} as const

export type Searchable = keyof typeof FUNCTIONS
export const isSearchable = (name: string): name is Searchable => Object.hasOwn(FUNCTIONS, name)

const REQUESTS =
  'Words, or parts of them, that the title or the description contains, in any letter case: at most five. Finds the newest 500 ' +
  'of those with the status, creator and assignee that are asked for.'

/** What the argument of each says to callers. */
export const SEARCHES: Record<Searchable, string> = {
  requests: REQUESTS,
  requests_awaiting_my_decision: REQUESTS,
  users:
    'Words, or parts of them, that the name contains, in any letter case: at most five. Whoever may see email addresses finds ' +
    'people by those, too. Finds the newest 500.',
}

/** Finds the ids of the rows that match as the caller; `filter` gives the value of a filter, or null. */
export type Search = (
  caller: Identity,
  what: Searchable,
  text: string,
  filter: (name: string) => string | null,
) => Promise<readonly string[]>

/** Searches run on connections of their own, so that neither many nor slow ones hold up other calls. */
export const makeSearch =
  (db: Database, noteStopped: (reason: 'slow' | 'busy') => void): Search =>
  async (caller, what, text, filter) => {
    const { filters, ...statement } = FUNCTIONS[what]
    const values = [text, ...filters.map(filter)]
    const { rows } = await asCaller<{ ids: string[] }>(db, caller, 'read', { ...statement, values }).catch((error) =>
      explain(error, noteStopped),
    )
    return rows[0]!.ids
  }

function explain(error: unknown, noteStopped: (reason: 'slow' | 'busy') => void): never {
  const { code } = error instanceof pg.DatabaseError ? error : {}
  if (code === '55P03') {
    noteStopped('busy')
    throw new ClientError('RATE_LIMITED', 'Two of your searches are still running. Wait for them to end.', { retryAfter: 1 })
  }
  if (code === '57014') {
    noteStopped('slow')
    throw new ClientError('UNAVAILABLE', 'The search took too long and was stopped. Search for longer or rarer words.', {
      retryAfter: 1,
    })
  }
  throw error
}
