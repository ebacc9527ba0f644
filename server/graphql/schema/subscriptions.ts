import 'graphile-config'
import { context, lambda, listen, type GrafastSubscriber, type Step } from 'postgraphile/grafast'
import { extendSchema, gql } from 'postgraphile/utils'
import { MOST_COUNTED } from '../../http/pages.ts'

declare global {
  namespace Grafast {
    interface Context {
      /** What a subscription can follow; null for other operations. */
      news: GrafastSubscriber | null
    }
  }
}

/** A UUID as PostgreSQL writes it: callers may use upper case, and leave the hyphens out. */
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
      "A request has changed."
      type RequestUpdatedPayload {
        "The request as it is now; null once, when the subscriber can no longer see it."
        request: Request
      }

      "Requests have changed."
      type RequestsChangedPayload {
        "The requests that have changed."
        ids: [UUID!]!
      }

      "The requests awaiting the subscriber's decision have changed."
      type InboxChangedPayload {
        "How many requests await it now: exact up to ${MOST_COUNTED.toLocaleString('en')}, and ${String(MOST_COUNTED + 1)} means more."
        totalCount: Int!
      }

      "The subscriber has a new notification."
      type NotificationReceivedPayload {
        "The new notification."
        notification: Notification!
      }

      extend type Subscription {
        """
        Reports every change of a request that the subscriber can see; several changes at once may come as one event. About a
        request that does not exist, or that the subscriber cannot see, no event ever comes.
        """
        requestUpdated(
          "Which request."
          id: UUID!
        ): RequestUpdatedPayload

        """
        Reports which requests have changed, of those that the subscriber can see: created, edited, submitted, assigned or
        decided; and which of their own they have deleted. Changes within a tenth of a second come as one event.
        """
        requestsChanged: RequestsChangedPayload

        "Reports when a request begins or ceases to await the subscriber's decision."
        inboxChanged: InboxChangedPayload

        "Reports every new notification of the subscriber."
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
          requestsChanged: { subscribePlan: () => listenTo('requests'), plan: itself },
          inboxChanged: { subscribePlan: () => listenTo('inbox'), plan: itself },
          notificationReceived: { subscribePlan: () => listenTo('notification'), plan: itself },
        },
      },
      RequestUpdatedPayload: { plans: { request: ($id: Step) => requests!.get({ id: $id } as never) } },
      RequestsChangedPayload: { plans: { ids: itself } },
      InboxChangedPayload: { plans: { totalCount: itself } },
      NotificationReceivedPayload: { plans: { notification: ($id: Step) => notifications!.get({ id: $id } as never) } },
    },
  }
})
