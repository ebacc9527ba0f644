import { setTimeout as sleep } from 'node:timers/promises'
import type { ClientError } from '../errors.ts'
import type { Database } from '../sql/as-caller.ts'
import { prepared } from '../sql/prepared.ts'
import type { Listener, Live } from './listener.ts'

/** Milliseconds for which changes are gathered before the database is asked who sees them. */
const GATHER_FOR = 100
/** Requests that are asked about at once. */
const MOST_AT_ONCE = 100
/** Requests that may wait for that, which takes some ten seconds. */
const MOST_WAITING = 10_000

export interface Changes {
  /** Hears the ids of requests that have changed and that the person of this session sees. Returns a function that stops it. */
  on(session: string, listener: Listener): () => void
}

/**
 * Tells everybody in this process who follows them which requests have changed. One statement asks for all of them at once,
 * because a statement for each subscriber and change would be too many. If asking fails, or too many wait, all subscribers are
 * sent away: they read everything anew when they are back.
 */
export function makeChanges(live: Live, { pool }: Database, explain: (error: unknown) => ClientError, lost: () => void): Changes {
  const followers = new Map<string, Set<Listener>>()
  const waiting = new Set<string>()
  let off = () => {}
  let looking = false

  async function look(): Promise<void> {
    while (waiting.size > 0) {
      await sleep(GATHER_FOR)
      const ids = [...waiting].slice(0, MOST_AT_ONCE)
      for (const id of ids) waiting.delete(id)
      const statement = prepared('select secret, seen from app_hidden.viewers_of($1, $2)')
      const { rows } = await pool.query<{ secret: string; seen: string[] }>({
        ...statement,
        values: [ids, [...followers.keys()]],
      })
      for (const { secret, seen } of rows) for (const tell of followers.get(secret) ?? []) seen.forEach(tell)
    }
  }

  function giveUp(): void {
    waiting.clear()
    lost()
  }

  function hear(id: string): void {
    waiting.add(id)
    if (waiting.size > MOST_WAITING) giveUp()
    if (looking) return
    looking = true
    look()
      .catch((error: unknown) => {
        explain(error)
        giveUp()
      })
      .finally(() => (looking = false))
  }

  return {
    on(session, listener) {
      if (followers.size === 0) off = live.on('request', hear)
      const listeners = followers.get(session) ?? new Set()
      followers.set(session, listeners.add(listener))
      return () => {
        listeners.delete(listener)
        if (listeners.size === 0 && followers.get(session) === listeners) followers.delete(session)
        if (followers.size === 0) off()
      }
    },
  }
}
