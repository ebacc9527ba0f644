import 'graphile-config'
import { context, lambda, listen, type GrafastSubscriber, type Step } from 'postgraphile/grafast'
import { extendSchema, gql } from 'postgraphile/utils'
import type { ClientError } from '../../errors.ts'
import { MOST_COUNTED } from '../../http/pages.ts'
import type { Live } from '../../live/listener.ts'
import type { Subscriber } from '../../live/subscribers.ts'
import { asking, type Database, type Identity } from '../../sql/as-caller.ts'

declare global {
  namespace Grafast {
    interface Context {
      /** What a subscription hears, as whoever is asking. */
      news: GrafastSubscriber | null
    }
  }
}

/** Details of one topic that may wait while those before are looked at. */
const MOST_WAITING = 1_000

export interface NewsServices {
  readonly live: Live
  readonly db: Database
  readonly explain: (error: unknown) => ClientError
}

/**
 * The topics of one subscriber: "request <id>", "inbox" and "notification". What is announced is looked at as the caller before
 * anything of it is passed on, so that the session is proven once more, and nothing is heard of what row-level security hides.
 */
export function makeNews({ live, db, explain }: NewsServices, caller: Identity, subscriber: Subscriber): GrafastSubscriber {
  const ask = <Row>(name: string, text: string, values: unknown[] = []) => asking(db, caller, 'read')<Row>({ name, text, values })

  /**
   * Announcements as events: what `look` makes of them. While it looks, what is announced waits, each detail once, so that there is no
   * queue that grows. A subscriber for whom that fails is sent away, and reads anew when it is back.
   */
  function follow<T>(topic: string, look: (details: string[]) => Promise<T[]>): AsyncIterableIterator<T> {
    const waiting = new Set<string>()
    let ended = false
    let wake = () => {}

    async function* events(): AsyncGenerator<T, undefined> {
      for (;;) {
        while (waiting.size === 0 && !ended) await new Promise<void>((resolve) => (wake = resolve))
        if (ended) return undefined
        const details = [...waiting]
        waiting.clear()
        yield* await look(details)
      }
    }
    const generator = events()

    function end(): Promise<IteratorResult<T, undefined>> {
      ended = true
      off()
      forget()
      wake()
      return generator.return(undefined)
    }
    // Whoever runs the operation may lose sight of it: its subscriber, who owns it, does not.
    let [off, forget] = [() => {}, () => {}]
    forget = subscriber.keep(end)
    off = live.on(topic, (detail) => {
      waiting.add(detail)
      if (waiting.size > MOST_WAITING) subscriber.end('UNAVAILABLE')
      else wake()
    })
    if (ended) off()

    return {
      [Symbol.asyncIterator]() {
        return this
      },
      next: () =>
        generator.next().catch((error: unknown) => {
          subscriber.end(explain(error).code)
          return end()
        }),
      return: end,
      throw: end,
    }
  }

  const topics: Record<string, (id: string) => AsyncIterableIterator<unknown> | Promise<AsyncIterableIterator<unknown>>> = {
    async request(id) {
      const isVisible = async () => (await ask('is_visible', 'select from app_public.requests where id = $1', [id])).length > 0
      let visible = false
      const events = follow(`request ${id}`, async () => {
        const before = visible
        visible = await isVisible()
        // Who could see it hears once that it is gone.
        return visible || before ? [id] : []
      })
      // After it is listened for, so that nothing falls in between.
      visible = await isVisible().catch(async (error: unknown) => {
        await events.return!()
        throw error
      })
      return events
    },
    inbox: () =>
      follow(`inbox ${subscriber.userId}`, async () => {
        const rows = await ask<{ count: number }>(
          'inbox_count',
          `select count(*)::integer as count
           from (select from app_public.requests_awaiting_my_decision() limit ${MOST_COUNTED}) waiting`,
        )
        return [rows[0]!.count]
      }),
    notification: () =>
      follow(`notification ${subscriber.userId}`, async (ids) => {
        const rows = await ask<{ id: string }>(
          'new_notifications',
          'select id from app_public.notifications where id = any ($1::uuid[]) order by created_at, id',
          [ids],
        )
        return rows.map(({ id }) => id)
      }),
  }

  return {
    async subscribe(topic) {
      const [kind, id] = String(topic).split(' ')
      return topics[kind!]!(id!)
    },
  }
}

/** As PostgreSQL writes it, whichever way the caller has: in upper case, or without hyphens. */
const canonical = (id: string) =>
  id
    .toLowerCase()
    .replaceAll('-', '')
    .replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')

const listenTo = (topic: string | Step<string>) => listen(context().get('news'), topic)

/** The subscriptions. Each event is what a statement as the subscriber has found: an id to read by, or a number. */
export const SubscriptionsPlugin = extendSchema((build) => {
  const { requests, notifications } = build.input.pgRegistry.pgResources
  const itself = ($event: Step) => $event
  return {
    typeDefs: gql`
      """
      A request has changed.
      """
      type RequestUpdatedPayload {
        """
        The request, as it is now; null once, when the subscriber can see it no longer.
        """
        request: Request
      }

      """
      What awaits the subscriber's decision has changed.
      """
      type InboxChangedPayload {
        """
        How many requests await it now, as far as ${MOST_COUNTED.toLocaleString('en')}.
        """
        totalCount: Int!
      }

      """
      The subscriber has been told something.
      """
      type NotificationReceivedPayload {
        """
        What they were told.
        """
        notification: Notification
      }

      extend type Subscription {
        """
        Tells of every change of a request that the subscriber can see; several at once may come as one. Of one that is not
        there, or not for the subscriber, nothing is ever told.
        """
        requestUpdated(
          """
          Which request.
          """
          id: UUID!
        ): RequestUpdatedPayload

        """
        Tells when a request begins or ceases to await the subscriber's decision.
        """
        inboxChanged: InboxChangedPayload

        """
        Tells of every new notification of the subscriber's.
        """
        notificationReceived: NotificationReceivedPayload
      }
    `,
    objects: {
      Subscription: {
        plans: {
          requestUpdated: {
            subscribePlan: (_$root, fieldArgs) => listenTo(lambda(fieldArgs.getRaw('id'), (id) => `request ${canonical(id)}`)),
            plan: itself,
          },
          inboxChanged: { subscribePlan: () => listenTo('inbox'), plan: itself },
          notificationReceived: { subscribePlan: () => listenTo('notification'), plan: itself },
        },
      },
      RequestUpdatedPayload: { plans: { request: ($id: Step) => requests!.get({ id: $id } as never) } },
      InboxChangedPayload: { plans: { totalCount: itself } },
      NotificationReceivedPayload: { plans: { notification: ($id: Step) => notifications!.get({ id: $id } as never) } },
    },
  }
})
