import { ClientError, unauthenticated, type Code } from '../errors.ts'
import type { Live } from './listener.ts'
import { asking, type Database, type Identity } from '../sql/as-caller.ts'

const MOST = 5_000
const MOST_PER_PERSON = 20
/** Streams of one subscriber. */
const MOST_STREAMS = 20
const CHECK_EVERY = 60_000

/** Why a subscriber is sent away. Whoever may have missed something is, so that it comes back and reads what there is. */
export type Farewell = Code | 'CLOSING'

/** Somebody who is connected for live news, by a WebSocket or by an event stream. */
export interface Subscriber {
  /** Who it is, once admitted. */
  caller?: Identity
  userId?: string
  /** Lets it in as the caller. Throws UNAUTHENTICATED, RATE_LIMITED and UNAVAILABLE. */
  admit(caller: Identity): Promise<void>
  /** Keeps a stream of news, to be ended when the subscriber leaves; answers how to forget it. Throws RATE_LIMITED. */
  keep(end: () => void): () => void
  /** Sends it away. */
  end(why: Farewell): void
  /** To be called when its connection has closed. */
  leave(): void
}

export interface Subscribers {
  readonly count: number
  /** A new one, with what closes its connection. Throws UNAVAILABLE when there are too many. */
  enter(end: (why: Farewell) => void): Subscriber
  endAll(why: Farewell): void
  close(): void
}

/** Counts the subscribers of this process, and sends those away whose session ends. */
export function makeSubscribers(live: Live, db: Database, explain: (error: unknown) => ClientError): Subscribers {
  const all = new Set<Subscriber>()
  let closed = false

  /** The session and whose it is. Throws when it is dead. */
  async function sessionOf(caller: Identity): Promise<{ session_id: string; user_id: string }> {
    const statement = { name: 'my_session', text: 'select * from app_hidden.my_session()' }
    const [session] = await asking(db, caller, 'read')<{ session_id: string; user_id: string }>(statement)
    if (!session) throw unauthenticated()
    return session
  }

  // That a session has expired is not announced. To ask for it also keeps it in use.
  let checking = false
  async function check(): Promise<void> {
    if (checking) return
    checking = true
    for (const { caller, end } of all) {
      if (!caller) continue
      const code = await sessionOf(caller).then(
        () => undefined,
        (error: unknown) => explain(error).code,
      )
      if (code === 'UNAUTHENTICATED') end(code)
      // The others would have to wait as long for the same.
      if (code === 'UNAVAILABLE') break
    }
    checking = false
  }
  const timer = setInterval(check, CHECK_EVERY).unref()

  async function admit(subscriber: Subscriber, caller: Identity): Promise<() => void> {
    if (!caller.session) throw unauthenticated()
    await live.open()
    const { session_id, user_id } = await sessionOf(caller)
    Object.assign(subscriber, { caller, userId: user_id })
    if ([...all].filter(({ userId }) => userId === user_id).length > MOST_PER_PERSON) {
      const message = `A person has at most ${MOST_PER_PERSON} connections for live news.`
      throw new ClientError('RATE_LIMITED', message, { retryAfter: 60 })
    }
    const off = live.on(`session ${session_id}`, () => subscriber.end('UNAUTHENTICATED'))
    // Had it ended before anybody listened, nobody would hear of it.
    await sessionOf(caller).catch((error: unknown) => {
      off()
      throw error
    })
    return off
  }

  return {
    get count() {
      return all.size
    },
    enter(end) {
      if (closed || all.size >= MOST) throw new ClientError('UNAVAILABLE', 'There is no room for live news.', { retryAfter: 1 })
      let off = () => {}
      const streams = new Set<() => void>()
      const subscriber: Subscriber = {
        async admit(caller) {
          off = await admit(subscriber, caller)
          if (!all.has(subscriber)) off() // It has left meanwhile.
        },
        keep(end) {
          if (streams.size >= MOST_STREAMS) {
            throw new ClientError('RATE_LIMITED', `A connection has at most ${MOST_STREAMS} subscriptions at once.`)
          }
          streams.add(end)
          if (!all.has(subscriber)) end() // It has left meanwhile.
          return () => void streams.delete(end)
        },
        end,
        leave() {
          all.delete(subscriber)
          off()
          for (const end of streams) end()
        },
      }
      all.add(subscriber)
      return subscriber
    },
    endAll: (why) => all.forEach(({ end }) => end(why)),
    close() {
      closed = true
      clearInterval(timer)
      this.endAll('CLOSING')
    },
  }
}
