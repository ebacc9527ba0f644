import { prepared } from '../../sql/prepared.ts'
import { SEARCHES } from '../../sql/search.ts'
import type { List } from '../lists.ts'
import { bodyOf, create, del, get, idOf, page, patch, perform, post, show, type Reference, type Route } from '../route.ts'
import { FLAG, oneOf, TEXT } from '../schemas.ts'
import { showMe } from './auth.ts'

const USER = `select app_hidden.user_document(u)::text as document from app_public.users u where u.id = $1`
const CHANGE_USER = `select app_hidden.user_document(u)::text as document
  from app_hidden.change_user($1::uuid, $2::jsonb) u`
// A statement does not see the address that it has added: the document is made by another.
const CREATE_USER = prepared('select id from app_public.create_user($1, $2, $3)')
const showUser = show(USER, idOf)

const active: List = {
  from: 'app_public.users d',
  document: 'app_hidden.user_document(d)',
  where: 'app_hidden.is_listed(d, false)',
  orderings: { '-created_at': 'd.created_at', created_at: 'd.created_at' },
  filters: {
    is_deleted: { schema: FLAG, description: 'True: only those deactivated, which admins alone are shown.' },
    search: { schema: TEXT, description: SEARCHES.users, finds: 'users' },
  },
}
const deactivated: List = { ...active, where: 'd.is_deleted and app_hidden.is_listed(d, true)' }
const [pageOfActive, pageOfDeactivated] = [page(active), page(deactivated)]

export const people = ({ roles }: Reference): readonly Route[] => [
  get('/users/', 'People, newest first', {
    list: active,
    shows: 'User',
    run: (call) => (call.query['is_deleted'] === 'true' ? pageOfDeactivated : pageOfActive)(call),
  }),
  post('/users/', 'Add a person, for admins, who is mailed a link of 72 hours to choose a password', {
    body: { email: TEXT, name: TEXT, role: { type: ['string', 'null'], enum: [...roles, null] } },
    required: ['email', 'name'],
    status: 201,
    shows: 'User',
    errors: ['FORBIDDEN'],
    run: create('/users/', async (call) => {
      const { email, name, role } = call.body
      const [user] = await call.ask<{ id: string }>({ ...CREATE_USER, values: [email, name, role] })
      return showUser({ ...call, params: { id: user!.id } })
    }),
  }),
  get('/users/me/', 'Who is asking', { shows: 'User', run: async (call) => ({ status: 200, body: await showMe(call) }) }),
  get('/users/:id/', 'A person', { shows: 'User', run: showUser }),
  patch('/users/:id/', 'Rename a person, change their role, deactivate or reactivate them, for admins', {
    body: { name: TEXT, role: oneOf(roles), is_deleted: FLAG },
    shows: 'User',
    errors: ['FORBIDDEN', 'INVALID_TRANSITION'],
    run: show(CHANGE_USER, idOf, bodyOf),
  }),
  del('/users/:id/', 'Deactivate a person, for admins', {
    errors: ['FORBIDDEN', 'INVALID_TRANSITION'],
    run: perform(CHANGE_USER, idOf, () => ({ is_deleted: true })),
  }),
]
