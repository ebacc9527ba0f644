import type { GrafastSubscriber } from 'postgraphile/grafast'
import type { ClientError } from '../errors.ts'
import { MOST_COUNTED } from '../http/pages.ts'
import { asking, type Database, type Identity } from '../sql/as-caller.ts'
import type { Changes } from './changes.ts'
import type { Listener, Live } from './listener.ts'
import type { Subscriber } from './subscribers.ts'

/** Announcements of one topic that may wait while earlier ones are looked at. More can only be made up: the oldest is dropped. */
const MAX_WAITING = 1_000

export interface NewsServices {
  readonly live: Live
  readonly changes: Changes
  readonly db: Database
  readonly explain: (error: unknown) => ClientError
}

/**
 * What one subscriber can follow: "request <id>" (events are its id), "requests" (lists of ids), "inbox" (a count) and
 * "notification" (ids). An announcement says only that there is something to look at. It is looked at as the caller before
 * anything is passed on: that proves the session once more, and row-level security hides from news what it hides from queries.
 */
export function makeNews(
  { live, changes, db, explain }: NewsServices,
  caller: Identity,
  subscriber: Subscriber,
): GrafastSubscriber {
  const ask = <Row>(name: string, text: string, values: unknown[] = []) => asking(db, caller, 'read')<Row>({ name, text, values })

  /**
   * The events that `look` makes of what is announced. Announcements that come while it looks wait, each detail once, so
   * that no queue can grow. If looking fails, the subscriber is sent away: it reads everything anew when it is back.
   */
  function follow<T>(
    listen: (listener: Listener) => () => void,
    look: (details: string[]) => Promise<T[]>,
  ): AsyncIterableIterator<T> {
    const waiting = new Set<string>()
    let ended = false
    let wake = () => {}
    let off = () => {}

    async function* events(): AsyncGenerator<T, void> {
      try {
        while (!ended) {
          const details = [...waiting]
          waiting.clear()
          if (details.length > 0) yield* await look(details)
          else await new Promise<void>((resolve) => (wake = resolve))
        }
      } catch (error) {
        end()
        subscriber.end(explain(error).code)
      }
    }
    const generator = events()

    function end(): void {
      ended = true
      off()
      subscriber.forget(end)
      wake()
      void generator.return()
    }

    // The subscriber ends it even if whoever runs the operation has lost sight of it; or at once, if it has left already.
    subscriber.keep(end)
    if (!ended) {
      off = listen((detail) => {
        waiting.add(detail)
        if (waiting.size > MAX_WAITING) waiting.delete(waiting.values().next().value!)
        wake()
      })
    }

    const stop = () => {
      end()
      return generator.return()
    }
    return {
      [Symbol.asyncIterator]() {
        return this
      },
      next: () => generator.next(),
      return: stop,
      throw: stop,
    }
  }

  const announced = (topic: string) => (listener: Listener) => live.on(topic, listener)

  async function followRequest(id: string): Promise<AsyncIterableIterator<string>> {
    const isVisible = async () => (await ask('is_visible', 'select from app_public.requests where id = $1', [id])).length > 0
    let visible = false
    const events = follow(announced(`request ${id}`), async () => {
      const before = visible
      visible = await isVisible()
      // A subscriber who could see it hears once that it can be seen no longer.
      return visible || before ? [id] : []
    })
    try {
      // Asked only now that announcements are heard, so that no change is missed in between.
      visible = await isVisible()
    } catch (error) {
      await events.return!()
      throw error
    }
    return events
  }

  const followInbox = () =>
    follow(announced(`inbox ${subscriber.userId}`), async () => {
      const rows = await ask<{ count: number }>(
        'inbox_count',
        `select count(*)::integer as count
         from (select from app_public.requests_awaiting_my_decision() limit ${MOST_COUNTED + 1}) waiting`,
      )
      return [rows[0]!.count]
    })

  const followNotifications = () =>
    follow(announced(`notification ${subscriber.userId}`), async (ids) => {
      const rows = await ask<{ id: string }>(
        'new_notifications',
        'select id from app_public.notifications where id = any ($1::uuid[]) order by created_at, id',
        [ids],
      )
      return rows.map(({ id }) => id)
    })

  /** What is seen has been asked for everybody at once. */
  const followRequests = () =>
    follow(
      (listener) => changes.on(caller.session, listener),
      async (ids) => [ids],
    )

  return {
    async subscribe(topic) {
      const [kind, id] = String(topic).split(' ')
      if (kind === 'request') return followRequest(id!)
      if (kind === 'requests') return followRequests()
      return kind === 'inbox' ? followInbox() : followNotifications()
    },
  }
}
