import type { List } from '../lists.ts'
import { bodyOf, create, del, get, getList, idOf, patch, perform, post, show, type Reference, type Route } from '../route.ts'
import { FLAG, oneOf, PASSWORD, TEXT } from '../schemas.ts'
import { showMe } from './auth.ts'

const USER = `select app_hidden.user_document(u)::text as document from app_public.users u where u.id = $1`
const CHANGE_USER = `select app_hidden.user_document(u)::text as document
  from app_hidden.change_user(app_hidden.visible_user($1), $2) u`

const showUser = show(USER, idOf)

const users: List = {
  from: 'app_public.users d',
  id: 'd.id',
  document: 'app_hidden.user_document(d)',
  where: [],
  orderings: { '-created_at': 'd.created_at', created_at: 'd.created_at' },
  filters: {},
}

export const people = ({ roles }: Reference): readonly Route[] => [
  getList('/users/', 'The people that the caller may see, newest first', 'User', users),
  post('/users/', 'Add a person, for admins', {
    slow: true,
    body: { email: TEXT, name: TEXT, role: { type: ['string', 'null'], enum: [...roles, null] }, password: PASSWORD },
    required: ['email', 'name', 'password'],
    status: 201,
    shows: 'User',
    errors: ['FORBIDDEN'],
    run: create('/users/', async (call) => {
      const id = await call.passwords.createUser(call.caller, call.body, call.ask)
      return showUser({ ...call, params: { id } })
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
