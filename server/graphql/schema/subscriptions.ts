import 'graphile-config'
import { context, lambda, listen, type GrafastSubscriber, type Step } from 'postgraphile/grafast'
import { extendSchema, gql } from 'postgraphile/utils'
import { INBOX_LIMIT } from '../../live/news.ts'

declare global {
  namespace Grafast {
    interface Context {
      /** What a subscription can follow; null where nothing can be. */
      news: GrafastSubscriber | null
    }
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
        How many requests await it now, as far as ${INBOX_LIMIT.toLocaleString('en')}.
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
