import { LRUCache } from 'lru-cache'

/** Milliseconds between two notes, in the database, that a session is in use. */
const NOTE_EVERY = 60_000

/** What was last seen of a session: its database role, when its use was noted, and whose it is, as the database then said. */
interface Seen {
  readonly role: string
  readonly notedAt: number
  readonly userId?: string
}

/** The sessions that this process has lately seen alive, by their secrets. */
export interface Sessions {
  roleOf(session: string): string | undefined
  userOf(session: string): string | undefined
  /** Remembers the role. Once a minute it has `note` tell the database that the session is in use, which answers whose it is. */
  saw(session: string, role: string, note: () => Promise<string>): void
  /** Forgets one that has turned out to be dead, or that cannot be asked about. */
  forget(session: string): void
}

export function makeSessions(): Sessions {
  const seen = new LRUCache<string, Seen>({ max: 50_000 })
  return {
    roleOf: (session) => seen.get(session)?.role,
    userOf: (session) => seen.get(session)?.userId,
    saw(session, role, note) {
      const last = seen.get(session)
      const now = Date.now()
      const isDue = !last || now - last.notedAt >= NOTE_EVERY
      if (!isDue && last.role === role) return
      seen.set(session, { ...last, role, notedAt: isDue ? now : last.notedAt })
      if (!isDue) return
      note().then(
        (userId) => seen.set(session, { role, notedAt: now, userId }),
        () => {}, // The next minute's note will do.
      )
    },
    forget: (session) => void seen.delete(session),
  }
}
