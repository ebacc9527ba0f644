import type { List } from '../lists.ts'
import { get, getList, idOf, member, patch, perform, post, show, type Route } from '../route.ts'
import { FLAG, oneOf, TEXT } from '../schemas.ts'

const MARK_READ = `select app_hidden.notification_document(n)::text as document from app_public.mark_notification_read($1) n`
const PREFERENCES = `select coalesce(json_object_agg(p.kind, p.delivery order by p.kind), '{}')::text as document
  from app_public.my_notification_preferences() p`
const SET_PREFERENCE = 'select app_public.set_notification_preference($1, $2)'

const notificationsList: List = {
  from: 'app_public.notifications d',
  document: 'app_hidden.notification_document(d)',
  orderings: { '-created_at': 'd.created_at', created_at: 'd.created_at' },
  filters: {
    unread: {
      schema: FLAG,
      description: 'Only those that are unread, or only those that are not.',
      where: (value) => `(d.read_at is null) = ${value}`,
    },
  },
}

const showPreferences = show(PREFERENCES)
const setPreference = perform(SET_PREFERENCE, member('kind'), member('delivery'))

export const notifications: readonly Route[] = [
  getList('/notifications/', "One's own notifications, newest first", 'Notification', notificationsList),
  post('/notifications/:id/read/', 'Mark one of your notifications as read', {
    shows: 'Notification',
    run: show(MARK_READ, idOf),
  }),
  post('/notifications/read-all/', 'Mark all of your notifications as read', {
    run: perform('select app_public.mark_all_notifications_read()'),
  }),
  get('/notifications/preferences/', 'Your mail preferences', {
    shows: 'NotificationPreferences',
    run: showPreferences,
  }),
  patch('/notifications/preferences/', 'Set your mail preference for one kind of notification', {
    body: { kind: TEXT, delivery: oneOf(['AT_ONCE', 'DIGEST', 'NONE']) },
    required: ['kind', 'delivery'],
    shows: 'NotificationPreferences',
    async run(call) {
      await setPreference(call)
      return showPreferences(call) // The answer is all of them.
    },
  }),
]
