import { ClientError, unauthenticated, type Code } from '../errors.ts'
import { networkOf } from '../http/allowance.ts'
import { asking, type Database, type Identity } from '../sql/as-caller.ts'
import type { Live } from './listener.ts'

/** Connections for live news, WebSockets and event streams together: of this process, and of one person. */
const MAX_CONNECTIONS = 5_000
const MAX_CONNECTIONS_PER_PERSON = 20
/** Connections of one network that have not said yet whose they are. They take no place from those that have. */
const MAX_UNKNOWN_PER_NETWORK = 50
/** Subscriptions that one connection may follow. */
const MAX_SUBSCRIPTIONS = 20
const CHECK_EVERY = 60_000

/** Why a subscriber is sent away. Whoever may have missed something is, and reads everything anew when it is back. */
export type Farewell = Code | 'CLOSING'

/** One connection for live news: a WebSocket or an event stream. */
export interface Subscriber {
  /** Who it is; undefined until it is admitted. */
  caller?: Identity
  userId?: string
  /** Where it comes from. */
  readonly network: string
  /** Lets it in as the caller. Throws UNAUTHENTICATED, RATE_LIMITED and UNAVAILABLE. */
  admit(caller: Identity): Promise<void>
  /** Keeps a subscription, to be ended when the subscriber leaves, or at once if it has left. Throws RATE_LIMITED. */
  keep(end: () => void): void
  /** Forgets a subscription that has ended. */
  forget(end: () => void): void
  /** Sends it away. */
  end(why: Farewell): void
  /** Must be called when its connection has closed. */
  leave(): void
}

export type Subscribers = ReturnType<typeof makeSubscribers>

/** Counts the subscribers of this process, and sends those away whose session ends. */
export function makeSubscribers(live: Live, db: Database, explain: (error: unknown) => ClientError) {
  const all = new Set<Subscriber>()
  let closed = false

  /** The caller's session, and whose it is. Throws when it is dead. */
  async function sessionOf(caller: Identity): Promise<{ session_id: string; user_id: string }> {
    const statement = { name: 'my_session', text: 'select * from app_hidden.my_session()' }
    const [session] = await asking(db, caller, 'read')<{ session_id: string; user_id: string }>(statement)
    if (!session) throw unauthenticated()
    return session
  }

  // Nothing announces that a session has expired, so ask for each now and then. Asking also keeps the session in use.
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
      // The others would each wait as long, and learn as little.
      if (code === 'UNAVAILABLE') break
    }
    checking = false
  }
  const timer = setInterval(check, CHECK_EVERY).unref()

  const noRoom = () => new ClientError('UNAVAILABLE', 'There is no room for another live connection.', { retryAfter: 1 })
  const count = (isMeant: (subscriber: Subscriber) => boolean) => [...all].filter(isMeant).length

  /** Lets a new connection wait to be admitted; `end` closes it. Throws RATE_LIMITED when too many of its network wait. */
  function enter(ip: string, end: (why: Farewell) => void): Subscriber {
    if (closed) throw noRoom()
    const network = networkOf(ip)
    if (count((other) => other.userId === undefined && other.network === network) >= MAX_UNKNOWN_PER_NETWORK) {
      throw new ClientError('RATE_LIMITED', 'Too many connections that have not been initialised.', { retryAfter: 1 })
    }
    const subscriptions = new Set<() => void>()
    let off = () => {}
    const subscriber: Subscriber = {
      network,
      async admit(caller) {
        if (!caller.session) throw unauthenticated()
        await live.open()
        const { session_id, user_id } = await sessionOf(caller)
        if (count(({ userId }) => userId !== undefined) >= MAX_CONNECTIONS) throw noRoom()
        Object.assign(subscriber, { caller, userId: user_id })
        if (count(({ userId }) => userId === user_id) > MAX_CONNECTIONS_PER_PERSON) {
          const message = `You already have ${MAX_CONNECTIONS_PER_PERSON} live connections: close one.`
          throw new ClientError('RATE_LIMITED', message, { retryAfter: 60 })
        }
        // Any login to the database can announce this: the database is asked whether it is so.
        let asked: Promise<unknown> | undefined
        const ask = () => sessionOf(caller).catch((error: unknown) => end(explain(error).code))
        off = live.on(`session ${session_id}`, () => (asked ??= ask().finally(() => (asked = undefined))))
        if (!all.has(subscriber)) off() // It left while it was being admitted.
        // Had the session ended before its end could be heard, nobody would hear of it: ask once more.
        await sessionOf(caller)
      },
      keep(endOne) {
        if (subscriptions.size >= MAX_SUBSCRIPTIONS) {
          throw new ClientError('RATE_LIMITED', `This connection already has ${MAX_SUBSCRIPTIONS} subscriptions: end one.`)
        }
        subscriptions.add(endOne)
        if (!all.has(subscriber)) endOne()
      },
      forget: (endOne) => void subscriptions.delete(endOne),
      end,
      leave() {
        all.delete(subscriber)
        off()
        for (const endOne of subscriptions) endOne()
      },
    }
    all.add(subscriber)
    return subscriber
  }

  const endAll = (why: Farewell) => all.forEach(({ end }) => end(why))

  return {
    get count() {
      return all.size
    },
    enter,
    endAll,
    close() {
      closed = true
      clearInterval(timer)
      endAll('CLOSING')
    },
  }
}
