import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import type { Client } from 'pg'
import type { Name } from '../../harness/database.ts'
import {
  deadToken,
  fromElsewhere,
  newRequest,
  NOBODY,
  PASSWORD,
  startApi,
  type Answer,
  type Api,
  type Who,
} from '../../harness/client.ts'
import { BASE, checkProblem, openRest, outcome, type Rest } from '../../harness/rest.ts'

let api: Api
let rest: Rest
let owner: Client
beforeAll(async () => {
  api = await startApi({ TRUST_PROXY: '1' })
  rest = await openRest(api)
  owner = await api.db.connect('owner')
})
afterAll(() => api.close())

const UUID = expect.stringMatching(/^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/)
const INSTANT = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00$/)
const NAMES: Record<Name, [name: string, role: string]> = {
  admin: ['Ada Admin', 'ADMIN'],
  manager: ['Mia Manager', 'MANAGER'],
  manager2: ['Max Manager', 'MANAGER'],
  user: ['Uma User', 'USER'],
  user2: ['Ugo User', 'USER'],
}
const idOf = (name: Name) => api.db.people[name].id
const personOf = (name: Name) => ({ id: idOf(name), name: NAMES[name][0], role: NAMES[name][1] })
const entries = async () => (await owner.query('select count(*)::int as n from app_public.audit_logs')).rows[0].n as number

type State = 'DRAFT' | 'SUBMITTED' | 'ASSIGNED' | 'APPROVED' | 'REJECTED' | 'DELETED'

/** A request of Uma's; ASSIGNED is submitted, and assigned to Max. */
async function inState(state: State): Promise<string> {
  const id = await newRequest(api, {
    submit: state !== 'DRAFT' && state !== 'DELETED',
    ...(state === 'ASSIGNED' && { assignedToId: idOf('manager2') }),
  })
  const take = async (who: Who, call: string, body?: object) => expect((await rest(who, call, body)).status).toBeLessThan(300)
  if (state === 'APPROVED') await take('admin', `POST /requests/${id}/approve/`)
  if (state === 'REJECTED') await take('admin', `POST /requests/${id}/reject/`, { comment: 'No' })
  if (state === 'DELETED') await take('user', `DELETE /requests/${id}/`)
  return id
}

/** Every change of a request, with the least that it needs. */
const CHANGES: [call: string, body?: object][] = [
  ['PATCH /requests/ID/', { title: 'Changed' }],
  ['DELETE /requests/ID/'],
  ['POST /requests/ID/submit/'],
  ['POST /requests/ID/approve/'],
  ['POST /requests/ID/reject/', { comment: 'No' }],
  ['POST /requests/ID/assign/', { assigned_to_id: null }],
]
const READS: [call: string, body?: object][] = [['GET /requests/ID/'], ['GET /requests/ID/audit-logs/']]

describe('what is shown', () => {
  test('a request has exactly its members, and people in it are id, name and role', async () => {
    const created = await rest('user', 'POST /requests/', {
      title: 'A laptop',
      description: 'The old one broke',
      assigned_to_id: idOf('manager'),
    })
    expect(created.status).toBe(201)
    const { id } = created.body
    expect(created.headers.location).toBe(`${BASE}/requests/${id}/`)
    const draft = {
      id: UUID,
      title: 'A laptop',
      description: 'The old one broke',
      kind: 'GENERAL',
      data: {},
      status: 'DRAFT',
      version: 1,
      creator: personOf('user'),
      assigned_to: personOf('manager'),
      reviewed_by: null,
      reviewed_at: null,
      review_comment: null,
      submitted_at: null,
      created_at: INSTANT,
      updated_at: INSTANT,
      available_actions: ['DELETE', 'SUBMIT', 'UPDATE'],
    }
    expect(created.body).toEqual(draft)
    expect((await rest('user', `GET ${created.headers.location!.slice(BASE.length)}`)).text).toBe(created.text)

    const submitted = await rest('user', `POST /requests/${id}/submit/`)
    expect(submitted.body).toEqual({
      ...draft,
      status: 'SUBMITTED',
      version: 2,
      submitted_at: INSTANT,
      available_actions: [],
    })
    const approved = await rest('manager', `POST /requests/${id}/approve/`, { comment: 'Enjoy' })
    expect(approved.body).toEqual({
      ...draft,
      status: 'APPROVED',
      version: 3,
      submitted_at: submitted.body.submitted_at,
      reviewed_by: personOf('manager'),
      reviewed_at: INSTANT,
      review_comment: 'Enjoy',
      available_actions: [],
    })
    for (const who of ['user', 'manager2', 'admin'] as const) {
      expect((await rest(who, `GET /requests/${id}/`)).body).toEqual(approved.body)
    }
  })

  test('what each may do with it now is shown to each', async () => {
    const id = await inState('ASSIGNED')
    const actions = async (who: Who) => (await rest(who, `GET /requests/${id}/`)).body.available_actions
    expect(await Promise.all((['user', 'manager', 'manager2', 'admin'] as const).map(actions))).toEqual([
      [],
      [],
      ['APPROVE', 'ASSIGN', 'REJECT'],
      ['APPROVE', 'ASSIGN', 'REJECT'],
    ])
  })

  test('an audit log has exactly its members', async () => {
    const from = { 'x-forwarded-for': '192.0.2.77' }
    const { body } = await rest('user', 'POST /requests/', { title: 'x' }, from)
    await rest('user', `PATCH /requests/${body.id}/`, { title: 'y' }, from)
    await rest('user', `POST /requests/${body.id}/submit/`, undefined, from)
    const log = (action: string, metadata: object) => ({
      id: UUID,
      actor: personOf('user'),
      action,
      request_id: body.id,
      user_id: null,
      metadata,
      ip_address: '192.0.2.77',
      timestamp: INSTANT,
    })
    const trail = [
      log('SUBMIT', { old_status: 'DRAFT', new_status: 'SUBMITTED' }),
      log('UPDATE', { title: { old: 'x', new: 'y' } }),
      log('CREATE', { old_status: null, new_status: 'DRAFT' }),
    ]
    for (const who of ['user', 'manager', 'admin'] as const) {
      expect((await rest(who, `GET /requests/${body.id}/audit-logs/`)).body.results).toEqual(trail)
      const all = await rest(who, `GET /audit-logs/?request_id=${body.id}`)
      expect(all.body.results).toEqual(trail)
    }
  })

  test('a user has exactly its members, and an address only for those who may see it', async () => {
    const permissions = { USER: 1, MANAGER: 4, ADMIN: 12 } as Record<string, number>
    const show = async (who: Name, whom: Name) => (await rest(who, `GET /users/${idOf(whom)}/`)).body
    for (const name of Object.keys(NAMES) as Name[]) {
      const me = (await rest(name, 'GET /users/me/')).body
      expect(me).toEqual({
        ...personOf(name),
        email: `${name}@assent.test`,
        permissions: expect.any(Array),
        is_deleted: false,
        created_at: INSTANT,
      })
      expect(me.permissions).toHaveLength(permissions[me.role]!)
      expect(await show(name, name)).toEqual(me)
      if (name !== 'user2') expect(await show('user', name)).toEqual({ ...me, email: name === 'user' ? me.email : null })
      expect(await show('manager', name)).toEqual(me)
      expect(await show('admin', name)).toEqual(me)
    }
  })

  test('text is kept byte for byte', async () => {
    const title = ' \t"\\/\u{1f600}é é\u202e\u0001\u2028<b>%00\\u0000 \ufeff'
    const { body } = await rest('user', 'POST /requests/', { title, description: `${title}\r\n${title}` })
    expect([body.title, body.description]).toEqual([title, `${title}\r\n${title}`])
    expect((await rest('user', `GET /requests/${body.id}/`)).body.title).toBe(title)
  })
})

describe('who may do what', () => {
  const WHO = ['user', 'user2', 'manager', 'manager2', 'admin', undefined] as const
  const codes: Record<string, string> = {
    '401': '401 UNAUTHENTICATED',
    '403': '403 FORBIDDEN',
    '404': '404 NOT_FOUND',
    '409': '409 INVALID_TRANSITION',
  }
  //                             user user2 manager manager2 admin nobody
  const MATRIX: Record<State, Record<string, string>> = {
    DRAFT: {
      'GET /requests/ID/': '      200 404 404 404 200 401',
      'GET /requests/ID/audit-logs/': '200 404 404 404 200 401',
      'PATCH /requests/ID/': '    200 404 404 404 403 401',
      'DELETE /requests/ID/': '   204 404 404 404 403 401',
      'POST /requests/ID/submit/': '200 404 404 404 403 401',
      'POST /requests/ID/approve/': '403 404 404 404 409 401',
      'POST /requests/ID/reject/': '403 404 404 404 409 401',
      'POST /requests/ID/assign/': '403 404 404 404 409 401',
    },
    SUBMITTED: {
      'GET /requests/ID/': '      200 404 200 200 200 401',
      'GET /requests/ID/audit-logs/': '200 404 200 200 200 401',
      'PATCH /requests/ID/': '    409 404 403 403 403 401',
      'DELETE /requests/ID/': '   409 404 403 403 403 401',
      'POST /requests/ID/submit/': '409 404 403 403 403 401',
      'POST /requests/ID/approve/': '403 404 200 200 200 401',
      'POST /requests/ID/reject/': '403 404 200 200 200 401',
      'POST /requests/ID/assign/': '403 404 200 200 200 401',
    },
    ASSIGNED: {
      'GET /requests/ID/': '      200 404 200 200 200 401',
      'PATCH /requests/ID/': '    409 404 403 403 403 401',
      'POST /requests/ID/approve/': '403 404 403 200 200 401',
      'POST /requests/ID/reject/': '403 404 403 200 200 401',
      'POST /requests/ID/assign/': '403 404 403 200 200 401',
    },
    APPROVED: {
      'GET /requests/ID/': '      200 404 200 200 200 401',
      'GET /requests/ID/audit-logs/': '200 404 200 200 200 401',
      'PATCH /requests/ID/': '    409 404 403 403 403 401',
      'DELETE /requests/ID/': '   409 404 403 403 403 401',
      'POST /requests/ID/submit/': '409 404 403 403 403 401',
      'POST /requests/ID/approve/': '403 404 409 409 409 401',
      'POST /requests/ID/reject/': '403 404 409 409 409 401',
      'POST /requests/ID/assign/': '403 404 409 409 409 401',
    },
    REJECTED: {
      'GET /requests/ID/': '      200 404 200 200 200 401',
      'PATCH /requests/ID/': '    409 404 403 403 403 401',
      'POST /requests/ID/approve/': '403 404 409 409 409 401',
      'POST /requests/ID/assign/': '403 404 409 409 409 401',
    },
    DELETED: {
      'GET /requests/ID/': '      404 404 404 404 200 401',
      'PATCH /requests/ID/': '    404 404 404 404 403 401',
      'DELETE /requests/ID/': '   404 404 404 404 403 401',
      'POST /requests/ID/submit/': '404 404 404 404 403 401',
      'POST /requests/ID/approve/': '404 404 404 404 409 401',
    },
  }

  test.each(Object.keys(MATRIX) as State[])('each call on a request that is %s, as each', async (state) => {
    for (const [call, expected] of Object.entries(MATRIX[state])) {
      const [, body] = [...READS, ...CHANGES].find(([name]) => name === call)!
      const met = await Promise.all(
        WHO.map(async (who) => outcome(await rest(who, call.replace('ID', await inState(state)), body))),
      )
      expect([call, met]).toEqual([
        call,
        expected
          .trim()
          .split(/ +/)
          .map((status) => codes[status] ?? status),
      ])
    }
  })

  test('whose request is not to be seen has no audit logs at its path either, not even of one’s own actions', async () => {
    const decider = await api.person('MANAGER')
    const approved = await inState('SUBMITTED')
    await rest(decider, `POST /requests/${approved}/approve/`)
    await rest('admin', `PATCH /users/${decider.id}/`, { role: 'USER' })
    const cases: [who: Who, id: string][] = [
      ['user', await inState('DELETED')],
      [decider, approved],
    ]
    for (const [who, id] of cases) {
      expect(outcome(await rest(who, `GET /requests/${id}/`))).toBe('404 NOT_FOUND')
      // As actions of their own they are still to be seen.
      expect((await rest(who, `GET /audit-logs/?request_id=${id}`)).body.results).not.toEqual([])
      expect(outcome(await rest(who, `GET /requests/${id}/audit-logs/`))).toBe('404 NOT_FOUND')
    }
    expect(outcome(await rest('admin', `GET /requests/${cases[0]![1]}/audit-logs/`))).toBe('200')
  })

  test('people: everybody sees them, admins alone add and change them', async () => {
    const newcomer = () => ({ email: `${crypto.randomUUID()}@assent.test`, name: 'New' })
    const TABLE: [call: string, body: (() => object) | undefined, expected: string][] = [
      ['GET /users/', undefined, '       200 200 200 200 200 401'],
      ['GET /users/me/', undefined, '    200 200 200 200 200 401'],
      ['GET /users/USER/', undefined, '  200 200 200 200 200 401'],
      ['GET /users/MANAGER/', undefined, '200 200 200 200 200 401'],
      ['POST /users/', newcomer, '       403 403 403 403 201 401'],
      ['PATCH /users/USER/', () => ({ name: 'Renamed' }), '403 403 403 403 200 401'],
      ['PATCH /users/MANAGER/', () => ({ role: 'USER' }), '403 403 403 403 200 401'],
      ['DELETE /users/USER/', undefined, '   403 403 403 403 204 401'],
      ['DELETE /users/MANAGER/', undefined, '403 403 403 403 204 401'],
    ]
    for (const [call, body, expected] of TABLE) {
      const role = call.includes('MANAGER') ? 'MANAGER' : 'USER'
      const met = await Promise.all(
        WHO.map(async (who) => outcome(await rest(who, call.replace(role, (await api.person(role)).id), body?.()))),
      )
      expect([call, met]).toEqual([
        call,
        expected
          .trim()
          .split(/ +/)
          .map((status) => codes[status] ?? status),
      ])
    }
  })

  test('nobody changes themselves by it, but an admin', async () => {
    for (const name of ['user', 'manager'] as const) {
      expect(outcome(await rest(name, `PATCH /users/${idOf(name)}/`, { role: 'ADMIN' }))).toBe('403 FORBIDDEN')
      expect(outcome(await rest(name, `DELETE /users/${idOf(name)}/`))).toBe('403 FORBIDDEN')
    }
    const admin = await api.person('ADMIN')
    const demoted = await rest(admin, `PATCH /users/${admin.id}/`, { role: 'USER' })
    expect(demoted.body).toMatchObject({ id: admin.id, email: admin.email, role: 'USER', permissions: ['request.create'] })
    expect((await rest(admin, 'GET /users/me/')).body).toEqual(demoted.body)
  })

  test('who deactivates or demotes themselves is on record as the one who did', async () => {
    for (const [call, body, action] of [
      ['PATCH', { name: 'Renamed', role: 'USER' }, 'USER_UPDATE'],
      ['PATCH', { is_deleted: true }, 'USER_DEACTIVATE'],
      ['DELETE', undefined, 'USER_DEACTIVATE'],
    ] as const) {
      const admin = await api.person('ADMIN')
      expect((await rest(admin, `${call} /users/${admin.id}/`, body)).status).toBeLessThan(300)
      const { body: trail } = await rest('admin', `GET /audit-logs/?action=${action}&page_size=1`)
      expect(trail.results[0]).toMatchObject({ actor: { id: admin.id }, action, user_id: admin.id })
      expect(trail.results[0].metadata).not.toHaveProperty('database_user')
    }
  })

  test('who deactivates themselves is told so, by GraphQL too, whatever they ask to be told', async () => {
    for (const fields of ['name isDeleted', 'email isDeleted', 'permissions isDeleted']) {
      const { id, token } = await api.person('ADMIN')
      const { body } = await api.graphql(
        `mutation { deactivateUser(input: { userId: "${id}" }) { user { id ${fields} } } }`,
        {},
        { token },
      )
      expect([fields, body]).toEqual([
        fields,
        { data: { deactivateUser: { user: expect.objectContaining({ id, isDeleted: true }) } } },
      ])
    }
  })

  test('DELETE deactivates, PATCH reactivates, and the last active admin stays one', async () => {
    const { id, token } = await api.person('MANAGER')
    expect((await rest('admin', `DELETE /users/${id}/`)).status).toBe(204)
    expect(outcome(await rest({ token }, 'GET /users/me/'))).toBe('401 UNAUTHENTICATED')
    expect((await rest('admin', `GET /users/${id}/`)).body).toMatchObject({ id, is_deleted: true })
    // A name stays visible where it is named; lists leave out those deactivated, but for an admin who asks.
    expect((await rest('manager', `GET /users/${id}/`)).body).toMatchObject({ id, is_deleted: true })
    const listed = async (who: Name, query: string) =>
      (await rest(who, `GET /users/?page_size=100${query}`)).body.results.some((one: { id: string }) => one.id === id)
    expect([await listed('admin', ''), await listed('admin', '&is_deleted=true')]).toEqual([false, true])
    expect([await listed('manager', ''), await listed('manager', '&is_deleted=true')]).toEqual([false, false])
    const back = await rest('admin', `PATCH /users/${id}/`, { is_deleted: false, name: 'Back', role: 'USER' })
    expect(back.body).toMatchObject({ id, is_deleted: false, name: 'Back', role: 'USER' })
    // Their old session does not come back with them.
    expect(outcome(await rest({ token }, 'GET /users/me/'))).toBe('401 UNAUTHENTICATED')

    await owner.query(`update app_public.users set role = 'USER' where role = 'ADMIN' and id <> $1`, [idOf('admin')])
    const conflict = '409 INVALID_TRANSITION'
    expect(outcome(await rest('admin', `DELETE /users/${idOf('admin')}/`))).toBe(conflict)
    expect(outcome(await rest('admin', `PATCH /users/${idOf('admin')}/`, { role: 'MANAGER' }))).toBe(conflict)
    expect(outcome(await rest('admin', `PATCH /users/${idOf('admin')}/`, { is_deleted: true }))).toBe(conflict)
    expect((await rest('admin', 'GET /users/me/')).body.role).toBe('ADMIN')
  })

  test('a new person gets a Location, chooses a password, and is USER unless said otherwise', async () => {
    const [chosen, password] = ['chosen by the admin, and ignored', 'a long enough passphrase']
    const created = await rest('admin', 'POST /users/', { email: 'New@Assent.test', name: 'New', password: chosen })
    expect(created.body).toMatchObject({ email: 'New@Assent.test', name: 'New', role: 'USER', is_deleted: false })
    expect(created.headers.location).toBe(`${BASE}/users/${created.body.id}/`)
    expect((await rest('admin', `GET ${created.headers.location!.slice(BASE.length)}`)).text).toBe(created.text)
    const login = (password: string) => rest(undefined, 'POST /auth/token/', { email: 'new@assent.TEST', password })
    const unknown = await rest(undefined, 'POST /auth/token/', { email: 'nobody@assent.test', password })
    expect((await login(chosen)).text).toBe(unknown.text)
    const owner = await api.db.connect('owner')
    const { rows } = await owner.query(`select app_private.issue_reset_token($1, '72 hours') as token`, [created.body.id])
    await rest(undefined, 'POST /auth/password-reset/confirm/', { token: rows[0].token, new_password: password })
    expect((await login(password)).body.user).toEqual(created.body)
    expect(outcome(await login(chosen))).toBe('401 UNAUTHENTICATED')
    const { body: manager } = await rest('admin', 'POST /users/', { email: 'm@x.y', name: 'M', role: 'MANAGER' })
    expect(manager.role).toBe('MANAGER')
  })
})

describe('logging in', () => {
  test('by token: exactly its members, and a refresh gives the same with a new refresh token', async () => {
    const { email, id } = await api.person()
    const first = await rest(undefined, 'POST /auth/token/', { email, password: PASSWORD })
    const members = {
      access_token: expect.stringMatching(/^[\w-]+\.[\w-]+\.[\w-]+$/),
      refresh_token: expect.any(String),
      token_type: 'Bearer',
      expires_in: 900,
      user: expect.objectContaining({ id, email }),
    }
    expect(first.body).toEqual(members)
    const who = { token: first.body.access_token }
    expect((await rest(who, 'GET /users/me/')).body).toEqual(first.body.user)
    const second = await rest(undefined, 'POST /auth/refresh/', { refresh_token: first.body.refresh_token })
    expect(second.body).toEqual(members)
    expect(second.body.refresh_token).not.toBe(first.body.refresh_token)
    const wrong: [call: string, body: object, expected: string][] = [
      ['token', { email, password: 'wrong' }, '401 UNAUTHENTICATED'],
      ['token', { email: '', password: '' }, '401 UNAUTHENTICATED'],
      ['token', {}, '422 VALIDATION_FAILED email password'],
      ['token', { email }, '422 VALIDATION_FAILED password'],
      ['token', { email: 5, password: {} }, '422 VALIDATION_FAILED email password'],
      ['session', { email, password: ['x'] }, '422 VALIDATION_FAILED password'],
      ['session', { email, password: 'wrong' }, '401 UNAUTHENTICATED'],
      ['refresh', {}, '422 VALIDATION_FAILED refresh_token'],
      ['refresh', { refresh_token: 5 }, '422 VALIDATION_FAILED refresh_token'],
      ['refresh', { refresh_token: '' }, '401 UNAUTHENTICATED'],
      ['refresh', { refresh_token: `${first.body.access_token}.x` }, '401 UNAUTHENTICATED'],
    ]
    for (const [call, body, expected] of wrong)
      expect([call, body, outcome(await rest(undefined, `POST /auth/${call}/`, body))]).toEqual([call, body, expected])
  })

  test('by cookie: HttpOnly and SameSite; GET says who and the CSRF token, DELETE ends it', async () => {
    const { email, id } = await api.person()
    const login = await rest(undefined, 'POST /auth/session/', { email, password: PASSWORD })
    expect(login.body).toEqual({ user: expect.objectContaining({ id, email }), csrf_token: expect.any(String) })
    const [set = ''] = login.headers['set-cookie']!
    expect(set.split('; ').map((word) => word.split('=')[0])).toEqual(
      expect.arrayContaining(['assent_session', 'HttpOnly', 'SameSite', 'Path']),
    )
    const cookie = set.split(';')[0]!
    expect((await rest(undefined, 'GET /auth/session/', undefined, { cookie })).body).toEqual(login.body)
    expect(outcome(await rest(undefined, 'POST /requests/', { title: 'x' }, { cookie }))).toBe('403 FORBIDDEN')
    const headers = { cookie, 'x-csrf-token': login.body.csrf_token }
    expect((await rest(undefined, 'POST /requests/', { title: 'x' }, headers)).body.creator.id).toBe(id)
    expect((await rest(undefined, 'DELETE /auth/session/', undefined, headers)).status).toBe(204)
    expect(outcome(await rest(undefined, 'GET /auth/session/', undefined, { cookie }))).toBe('401 UNAUTHENTICATED')
  })

  test('sessions: one’s own live ones, ended one by one or all others at once', async () => {
    const { email } = await api.person()
    const from = { 'x-forwarded-for': '192.0.2.9', 'user-agent': 'tests' }
    const [a, b, c] = await Promise.all(
      [1, 2, 3].map(async () => {
        const { body } = await rest(undefined, 'POST /auth/token/', { email, password: PASSWORD }, from)
        return { token: body.access_token as string }
      }),
    )
    const listed = async (who: Who) => (await rest(who, 'GET /auth/sessions/')).body.results
    const sessions = await listed(a)
    expect(sessions).toHaveLength(4) // With the one that they came with.
    const current = sessions.find((session: { is_current: boolean }) => session.is_current)
    expect(current).toEqual({
      id: UUID,
      created_at: INSTANT,
      last_used_at: INSTANT,
      expires_at: INSTANT,
      ip_address: '192.0.2.9',
      user_agent: 'tests',
      is_current: true,
    })
    const { id } = (await listed(b)).find((session: { is_current: boolean }) => session.is_current)
    expect((await rest(a, `DELETE /auth/sessions/${id}/`)).status).toBe(204)
    expect(outcome(await rest(b, 'GET /users/me/'))).toBe('401 UNAUTHENTICATED')
    expect(outcome(await rest(a, `DELETE /auth/sessions/${id}/`))).toBe('404 NOT_FOUND')
    expect(outcome(await rest('user', `DELETE /auth/sessions/${current.id}/`))).toBe('404 NOT_FOUND')
    expect((await rest(a, 'DELETE /auth/sessions/')).status).toBe(204)
    expect(outcome(await rest(c, 'GET /users/me/'))).toBe('401 UNAUTHENTICATED')
    expect(await listed(a)).toEqual([expect.objectContaining({ id: current.id })])
  })

  test('a new password is 204 and ends one’s other sessions', async () => {
    const who = await api.person()
    const other = await rest(undefined, 'POST /auth/token/', { email: who.email, password: PASSWORD })
    const body = { old_password: PASSWORD, new_password: 'another long passphrase' }
    expect((await rest(who, 'POST /auth/password/', body)).status).toBe(204)
    expect(outcome(await rest({ token: other.body.access_token }, 'GET /users/me/'))).toBe('401 UNAUTHENTICATED')
    expect((await rest(who, 'GET /users/me/')).status).toBe(200)
    const login = (password: string) => rest(undefined, 'POST /auth/token/', { email: who.email, password })
    expect([outcome(await login(PASSWORD)), outcome(await login(body.new_password))]).toEqual(['401 UNAUTHENTICATED', '200'])
  })
})

describe('the form of a call', () => {
  test('a path works with and without its last slash, and with any query', async () => {
    const id = await inState('SUBMITTED')
    const paths = Object.entries<any>(rest.document.paths).flatMap(([path, { get }]) => (get ? [path] : []))
    expect(paths.length).toBeGreaterThan(8)
    for (const template of paths) {
      const path = `${template.replace('{id}', template.startsWith('/users') ? idOf('manager') : id).replace(/\/$/, '')}/`
      const [a, b, c] = await Promise.all(
        [path, path.slice(0, -1), `${path}?unknown=1`].map((path) => rest('user', `GET ${path}`)),
      )
      expect([template, b!.status, c!.status]).toEqual([template, a!.status, a!.status])
      // Links lead back by the path that was called.
      const [first, ...others] = [a, b, c].map((answer) => answer!.text.replace(/\/\?/g, '?').replace('unknown=1&', ''))
      expect(others).toEqual([first, first])
    }
    const created = await rest('user', 'POST /requests', { title: 'x' })
    expect(created.status).toBe(201)
    const path = `/requests/${created.body.id}`
    expect((await rest('user', `PATCH ${path}`, { title: 'y' })).status).toBe(200)
    expect((await rest('user', `POST ${path}/submit`)).status).toBe(200)
    expect((await rest('user', `GET /requests/${created.body.id.toUpperCase()}/`)).body.id).toBe(created.body.id)
    expect(outcome(await rest('user', `GET /requests//${created.body.id}/`))).toBe('404 NOT_FOUND')
  })

  test('HEAD answers as GET does, without the body', async () => {
    const id = await inState('SUBMITTED')
    const from = fromElsewhere()
    const withoutDate = ({ status, headers: { date: _, ...headers } }: Answer) => ({ status, headers })
    for (const [who, path] of [
      ['user', `/requests/${id}/`],
      ['user', '/requests/'],
      ['user', '/users/me/'],
      ['user2', `/requests/${id}/`],
      ['user', '/requests/?page_size=0'],
      [undefined, '/requests/'],
      ['user', '/nothing/'],
    ] as const) {
      const get = await rest(who, `GET ${path}`, undefined, from)
      const head = await rest(who, `HEAD ${path}`, undefined, from)
      expect(withoutDate(head)).toEqual(withoutDate(get))
      expect([get.text === '', head.text]).toEqual([false, ''])
    }
    expect(outcome(await rest('user', 'HEAD /auth/token/'))).toBe('405')
  })

  test('an empty POST body is {}, whatever it is said to be', async () => {
    const empties: [string | undefined, Record<string, string>][] = [
      [undefined, {}],
      [undefined, { 'content-length': '0' }],
      ['', {}],
      ['', { 'content-type': 'text/plain' }],
      ['{}', {}],
      [undefined, { 'transfer-encoding': 'chunked', 'content-type': 'application/json' }],
    ]
    for (const [body, headers] of empties) {
      const submitted = await rest('user', `POST /requests/${await inState('DRAFT')}/submit/`, body, headers)
      expect([body, headers, outcome(submitted)]).toEqual([body, headers, '200'])
      expect(outcome(await rest('user', 'POST /requests/', body, headers))).toBe('422 VALIDATION_FAILED title')
      expect(outcome(await rest(undefined, 'POST /auth/token/', body, headers))).toBe('422 VALIDATION_FAILED email password')
    }
  })

  test('an empty POST body is {}, even if only its end tells that it is', async () => {
    const headers = { 'transfer-encoding': 'chunked' }
    expect(outcome(await rest('user', `POST /requests/${await inState('DRAFT')}/submit/`, undefined, headers))).toBe('200')
    expect(outcome(await rest('user', 'POST /requests/', undefined, headers))).toBe('422 VALIDATION_FAILED title')
  })

  test('unknown members are ignored, and those that another call has', async () => {
    const extra = {
      id: NOBODY,
      status: 'APPROVED',
      version: 9,
      creator_id: idOf('admin'),
      creator: personOf('admin'),
      is_deleted: true,
      reviewed_by_id: idOf('admin'),
      review_comment: 'x',
      submitted_at: '2020-01-01',
      comment: 'x',
      action: 'APPROVE',
      nothing: { a: [1] },
      '': '\ud800',
      constructor: 5,
    }
    const raw = (body: object) => JSON.stringify(body).replace('{', '{"__proto__": {"title": "z", "status": 5}, ')
    const created = await rest('user', 'POST /requests/', raw({ ...extra, title: 'x' }))
    const own = { title: 'x', status: 'DRAFT', version: 1, creator: personOf('user'), review_comment: null, submitted_at: null }
    expect(created.body).toMatchObject(own)
    expect(created.body.id).not.toBe(NOBODY)
    const path = `/requests/${created.body.id}`
    expect((await rest('user', `PATCH ${path}/`, raw(extra))).body).toEqual(created.body)
    const submitted = await rest('user', `POST ${path}/submit/`, raw({ ...extra, title: 'z', assigned_to_id: 'x' }))
    expect(submitted.body).toMatchObject({ ...own, status: 'SUBMITTED', version: 2, assigned_to: null, submitted_at: INSTANT })
    const approved = await rest('manager', `POST ${path}/approve/`, raw({ ...extra, title: 5, comment: null }))
    expect(approved.body).toMatchObject({
      title: 'x',
      status: 'APPROVED',
      review_comment: null,
      reviewed_by: personOf('manager'),
    })
    const { id, name } = (await rest('user', 'GET /users/me/')).body
    const renamed = await rest('admin', `PATCH /users/${id}/`, { name, email: 'x@y.z', password: 'x', permissions: [] })
    expect(renamed.body).toMatchObject({ id, name, email: 'user@assent.test', permissions: ['request.create'] })
  })

  test('PATCH: what is left out stays, null clears, and an edit that changes nothing is no action', async () => {
    const title = 'A title'
    const full = { title, description: 'Some', assigned_to_id: idOf('manager') }
    const { body } = await rest('user', 'POST /requests/', full)
    const path = `PATCH /requests/${body.id}/`
    const patch = async (change: object) => {
      const { title, description, assigned_to, version } = (await rest('user', path, change)).body
      return [title, description, assigned_to?.id ?? null, version]
    }
    const before = await entries()
    for (const change of [{}, { title }, full, { assigned_to_id: idOf('manager').toUpperCase() }])
      expect(await patch(change)).toEqual([title, 'Some', idOf('manager'), 1])
    expect(await entries()).toBe(before)
    expect(await patch({ title: 'B' })).toEqual(['B', 'Some', idOf('manager'), 2])
    expect(await patch({ description: null })).toEqual(['B', null, idOf('manager'), 3])
    expect(await patch({ assigned_to_id: null })).toEqual(['B', null, null, 4])
    expect(await patch({ description: '', assigned_to_id: idOf('admin') })).toEqual(['B', '', idOf('admin'), 5])
    expect(await entries()).toBe(before + 4)
    expect(outcome(await rest('user', path, { title: null }))).toBe('422 VALIDATION_FAILED title')
  })

  test('POST …/assign/ assigns, to none by null', async () => {
    const id = await inState('SUBMITTED')
    const assign = async (who: Who, body: object) => (await rest(who, `POST /requests/${id}/assign/`, body)).body.assigned_to
    expect(await assign('manager', { assigned_to_id: idOf('manager2') })).toEqual(personOf('manager2'))
    expect(await assign('manager2', { assigned_to_id: null })).toBeNull()
    expect(await assign('admin', { assigned_to_id: idOf('admin') })).toEqual(personOf('admin'))
  })
})

describe('a value that cannot be', () => {
  const refused = (field: string) => `422 VALIDATION_FAILED ${field}`
  const notText: unknown[] = [5, 1.5, true, [], ['x'], {}, { a: 1 }, { toString: 1 }, [{ toString: null, valueOf: 'x' }]]
  const notUuid = [5, true, [], {}, '', 'x', '0', `{${NOBODY}}`, NOBODY.replaceAll('-', ''), `${NOBODY} `, "' or ''='", '\ud800']
  const cases: [who: Name, call: string, state: State | 'new', field: string, values: unknown[], more?: object][] = [
    ['user', 'POST /requests/', 'new', 'title', [undefined, null, ...notText, '', ' \t\n\u00a0', 'x'.repeat(201), '\ud800']],
    ['user', 'POST /requests/', 'new', 'description', [...notText, 'x'.repeat(10_001), 'a\udc00b'], { title: 'x' }],
    ['user', 'PATCH /requests/ID/', 'DRAFT', 'title', [null, ...notText, '', '\u3000', 'x'.repeat(201)]],
    ['user', 'PATCH /requests/ID/', 'DRAFT', 'description', [...notText, 'x'.repeat(10_001)]],
    ['user', 'PATCH /requests/ID/', 'DRAFT', 'assigned_to_id', notUuid],
    ['user', 'POST /requests/', 'new', 'assigned_to_id', [...notUuid, NOBODY], { title: 'x' }],
    ['manager', 'POST /requests/ID/approve/', 'SUBMITTED', 'comment', [...notText, 'x'.repeat(10_001), '\ud800']],
    ['manager', 'POST /requests/ID/reject/', 'SUBMITTED', 'comment', [undefined, null, ...notText, '', ' ', 'x'.repeat(10_001)]],
    ['manager', 'POST /requests/ID/assign/', 'SUBMITTED', 'assigned_to_id', [...notUuid, NOBODY]],
  ]

  test.each(cases)('%s, %s (%s): %s', async (...[who, call, state, field, values, more]) => {
    const path = state === 'new' ? call : call.replace('ID', await inState(state))
    const before = await entries()
    for (const value of values) {
      const answer = await rest(who, path, { ...more, [field]: value })
      expect([value, outcome(answer)]).toEqual([value, refused(field)])
    }
    expect(await entries()).toBe(before)
  })

  test('the character NUL, in any text', async () => {
    const [draft, submitted] = [await inState('DRAFT'), await inState('SUBMITTED')]
    const met = [
      await rest('user', 'POST /requests/', { title: 'a\0b' }),
      await rest('user', 'POST /requests/', { title: 'x', description: '\0' }),
      await rest('user', `PATCH /requests/${draft}/`, { title: '\0' }),
      await rest('manager', `POST /requests/${submitted}/approve/`, { comment: '\0' }),
      await rest('admin', `PATCH /users/${idOf('user')}/`, { name: '\0' }),
      await rest('admin', 'POST /users/', { email: 'n@x.y', name: '\0' }),
    ]
    expect(met.map(outcome)).toEqual(['title', 'description', 'title', 'comment', 'name', 'name'].map(refused))
  })

  test('an assignee who could not decide', async () => {
    const { id: gone } = await api.person('MANAGER')
    await rest('admin', `DELETE /users/${gone}/`)
    const submitted = await inState('SUBMITTED')
    for (const assigned_to_id of [idOf('user'), idOf('user2'), gone]) {
      expect(outcome(await rest('user', 'POST /requests/', { title: 'x', assigned_to_id }))).toBe(refused('assigned_to_id'))
      expect(outcome(await rest('manager', `POST /requests/${submitted}/assign/`, { assigned_to_id }))).toBe(
        refused('assigned_to_id'),
      )
    }
    expect(outcome(await rest('manager', 'POST /requests/', { title: 'x', assigned_to_id: idOf('manager') }))).toBe(
      refused('assigned_to_id'),
    )
  })

  test('of a person', async () => {
    const ok = { email: 'ok@assent.test', name: 'Ok', role: 'USER' }
    const wrong: Record<keyof typeof ok, unknown[]> = {
      email: [undefined, null, ...notText, '', 'x', '@x', 'x@', 'a@b@c', 'a b@c', 'USER@assent.TEST', `${'x'.repeat(250)}@x.yz`],
      name: [undefined, null, ...notText, '', ' ', 'x'.repeat(201), '\ud800'],
      role: [5, true, {}, [], '', 'user', 'KING', 'assent_admin'],
    }
    const before = await entries()
    for (const [field, values] of Object.entries(wrong)) {
      for (const value of values)
        expect([value, outcome(await rest('admin', 'POST /users/', { ...ok, [field]: value }))]).toEqual([value, refused(field)])
    }
    const path = `PATCH /users/${idOf('user2')}/`
    const changes = {
      name: wrong.name.slice(1),
      role: [null, ...wrong.role],
      is_deleted: [null, 0, 1, 'true', 'false', '', [], {}],
    }
    for (const [field, values] of Object.entries(changes)) {
      for (const value of values)
        expect([value, outcome(await rest('admin', path, { [field]: value }))]).toEqual([value, refused(field)])
    }
    expect(await entries()).toBe(before)
    expect((await rest('admin', 'POST /users/', { ...ok, name: '𝔘'.repeat(200) })).status).toBe(201)
    await rest('admin', `DELETE /users/${(await rest('admin', 'GET /users/?page_size=1')).body.results[0].id}/`)
    expect(outcome(await rest('admin', 'POST /users/', { ...ok, email: 'OK@ASSENT.TEST' }))).toBe(refused('email'))
  })

  test('of a password', async () => {
    const who = await api.person()
    const change = async (old_password: unknown, new_password: unknown) =>
      outcome(await rest(who, 'POST /auth/password/', { old_password, new_password }))
    for (const weak of [undefined, null, 5, {}, '', 'short', '123456789012', '\ud800'.repeat(12)])
      expect([weak, await change(PASSWORD, weak)]).toEqual([weak, refused('new_password')])
    for (const old of [undefined, 5, {}, '', 'wrong'])
      expect(await change(old, 'a long enough passphrase')).toBe(refused('old_password'))
    expect(await change(PASSWORD, 'a long enough passphrase')).toBe('204')
  })

  test('of a password, that is no text and would not become any', async () => {
    const change = (old_password: unknown, new_password: unknown = 'a long enough passphrase') =>
      rest('user', 'POST /auth/password/', { old_password, new_password })
    for (const odd of [{ toString: 1 }, [{ toString: null }], { valueOf: 5, toString: 'x' }]) {
      expect(outcome(await change(odd))).toBe(refused('old_password'))
      expect(outcome(await change(PASSWORD, odd))).toBe(refused('new_password'))
    }
  })

  test.each([100, 6_000, 200_000])(
    'nested %i deep, which is refused and noticed by nobody else',
    async (depth) => {
      // A server of its own: what goes wrong here goes wrong for whoever comes next.
      const server = await startApi({ TRUST_PROXY: '1' }, api.db)
      const rest = await openRest(server)
      const nested = `${'['.repeat(depth)}${']'.repeat(depth)}`
      const draft = await newRequest(api, { by: 'user2' })
      const calls: [who: Name, call: string, field: string, sound: string][] = [
        ['user2', 'POST /requests/', 'title', 'x'],
        ['user2', `PATCH /requests/${draft}/`, 'description', 'x'],
        ['admin', `PATCH /users/${idOf('user2')}/`, 'name', 'Ugo User'],
      ]
      try {
        for (const [who, call, field, sound] of calls) {
          // As many as the server has connections to the database.
          const send = (body: string, headers = {}) =>
            Promise.all(Array.from({ length: 10 }, () => rest(who, call, `{"${field}":${body}}`, headers)))
          await send(JSON.stringify(sound)) // It opens them all: what is looked for is not how fast that is.
          for (const headers of [{}, { 'idempotency-key': `nested-${depth}` }]) {
            const met = (await send(nested, headers)).map(outcome)
            expect([call, met.filter((each) => !/^(422 VALIDATION_FAILED|400 BAD_REQUEST|409 IDEMPOTENCY)/.test(each))]).toEqual([
              call,
              [],
            ])
          }
          for (let i = 0; i < 3; i++) {
            const met = (await send(JSON.stringify(sound))).map(outcome)
            expect([call, met.filter((each) => !/^20[01]$/.test(each))]).toEqual([call, []])
          }
        }
      } finally {
        await server.close()
      }
    },
    120_000,
  )

  test('lengths count code points', async () => {
    const [title, description] = ['😀'.repeat(200), '😀'.repeat(10_000)]
    expect((await rest('user', 'POST /requests/', { title, description })).body).toMatchObject({ title, description })
  })
})

describe('an id', () => {
  const CALLS: [who: Name, call: string, body?: object][] = [
    ...[...READS, ...CHANGES].map(([call, body]): [Name, string, object | undefined] => ['user2', call, body]),
    ['user2', 'GET /users/ID/'],
    ['user2', 'PATCH /users/ID/', { name: 'x' }],
    ['user2', 'DELETE /users/ID/'],
    ['user2', 'DELETE /auth/sessions/ID/'],
    ['admin', 'GET /users/ID/'],
    ['admin', 'PATCH /users/ID/', { name: 'x' }],
    ['admin', 'DELETE /users/ID/'],
  ]
  const from = { 'x-forwarded-for': '192.0.2.5' }
  /** All that can be told of an answer. */
  const seen = ({ status, headers: { date: _, ...headers }, text }: Answer) => ({ status, headers, text })

  test('that is no UUID is 404, whatever else is wrong', async () => {
    const malformed = ['x', '0', 'me2', NOBODY.slice(1), `${NOBODY}0`, NOBODY.replaceAll('-', ''), `%7B${NOBODY}%7D`]
    malformed.push(
      '%00',
      '%',
      '%zz',
      '%ff',
      '%F0%9F%98%80',
      "'%20or%20''='",
      '..',
      '%2e%2e',
      '*',
      'x'.repeat(99),
      'x'.repeat(5000),
    )
    for (const [who, call, body] of CALLS) {
      for (const id of malformed) {
        const answer = await rest(who, call.replace('ID', id), body, { 'if-match': '"9"' })
        expect([call, id, outcome(answer)]).toEqual([call, id, '404 NOT_FOUND'])
      }
    }
  }, 20_000)

  test('that is invisible and one never used are answered byte for byte alike', async () => {
    const mine = (await rest('user', 'GET /auth/sessions/')).body.results[0].id
    const hidden: Record<string, string[]> = {
      requests: await Promise.all((['DRAFT', 'SUBMITTED', 'APPROVED', 'DELETED'] as const).map(inState)),
      users: [], // people are no secret
      auth: [mine],
    }
    let compared = 0
    for (const [who, call, body] of CALLS.filter(([who]) => who === 'user2')) {
      const ask = async (id: string, headers = {}) => seen(await rest(who, call.replace('ID', id), body, { ...from, ...headers }))
      const never = await ask(NOBODY)
      expect(never.status).toBe(404)
      for (const id of hidden[call.split('/')[1]!]!) {
        expect([call, await ask(id)]).toEqual([call, never])
        expect([call, await ask(id, { 'if-match': '"1"', 'if-none-match': '*' })]).toEqual([call, never])
        compared++
      }
    }
    expect(compared).toBe(8 * 4 + 1)
    // It is not for want of the row.
    for (const id of hidden['requests']!) expect((await rest('admin', `GET /requests/${id}/`)).status).toBe(200)
  })
})

describe('checks come in their order', () => {
  const STALE = { 'if-match': '"7"' }
  const BROKEN = { title: '', description: 5, comment: 5, assigned_to_id: 'x' }

  test('401 before all else: of nobody, of a bad token, of a dead session', async () => {
    const dead = { token: deadToken() }
    const asks: [call: string, body?: unknown, headers?: Record<string, string>][] = [
      ['GET /requests/?page_size=x'],
      ['GET /requests/?cursor=x'],
      ['GET /requests/x/'],
      [`PATCH /requests/${NOBODY}/`, BROKEN, STALE],
      ['POST /requests/', '{'],
      ['POST /requests/', '[]'],
      ['POST /requests/', Buffer.from([0xff])],
      ['POST /requests/', 'x', { 'content-type': 'text/plain' }],
      ['POST /requests/', `{"x":"${'x'.repeat(1_100_000)}"}`],
      ['POST /requests/', {}, { 'idempotency-key': 'no key' }],
      ['POST /users/', {}],
      ['POST /auth/password/', {}],
      ['DELETE /auth/session/'],
      ['DELETE /users/x/'],
    ]
    for (const who of [undefined, dead, { token: 'x' }]) {
      for (const [call, body, headers] of asks)
        expect([call, outcome(await rest(who, call, body, headers))]).toEqual([call, '401 UNAUTHENTICATED'])
    }
  })

  test.each([
    ['404 NOT_FOUND', 'user2', 'DRAFT', CHANGES],
    ['404 NOT_FOUND', 'manager', 'DRAFT', CHANGES],
    ['403 FORBIDDEN', 'manager', 'APPROVED', CHANGES.slice(0, 3)],
    ['403 FORBIDDEN', 'user', 'APPROVED', CHANGES.slice(3)],
    ['409 INVALID_TRANSITION', 'user', 'APPROVED', CHANGES.slice(0, 3)],
    ['409 INVALID_TRANSITION', 'manager', 'REJECTED', CHANGES.slice(3)],
    ['412 STALE_VERSION', 'user', 'DRAFT', CHANGES.slice(0, 3)],
    ['412 STALE_VERSION', 'manager', 'SUBMITTED', CHANGES.slice(3)],
  ] as const)('%s (%s, %s) before all that comes after it', async (expected, who, state, changes) => {
    const id = await inState(state)
    for (const [call] of changes)
      expect([call, outcome(await rest(who, call.replace('ID', id), BROKEN, STALE))]).toEqual([call, expected])
  })

  test('of people too: 404, 403, then the rest', async () => {
    const { id } = await api.person()
    const path = `PATCH /users/${id}/`
    expect(outcome(await rest('user', `PATCH /users/${NOBODY}/`, { role: 5 }))).toBe('404 NOT_FOUND')
    expect(outcome(await rest('manager', path, { role: 5 }))).toBe('403 FORBIDDEN')
    expect(outcome(await rest('manager', 'POST /users/', { role: 5 }))).toBe('403 FORBIDDEN')
    expect(outcome(await rest('admin', path, { role: 5 }))).toBe('422 VALIDATION_FAILED role')
  })
})

describe('entity tags', () => {
  const tagOf = ({ headers }: Answer) => headers.etag!

  test('a request has one wherever it is shown, which changes with it', async () => {
    const created = await rest('user', 'POST /requests/', { title: 'x' })
    const path = `/requests/${created.body.id}`
    const tags = [tagOf(created)]
    for (const [who, call, body] of [
      ['user', `PATCH ${path}/`, { title: 'y' }],
      ['user', `POST ${path}/submit/`, undefined],
      ['manager', `POST ${path}/assign/`, { assigned_to_id: idOf('manager') }],
      ['manager', `POST ${path}/reject/`, { comment: 'No' }],
    ] as const) {
      const answer = await rest(who, call, body)
      expect(tagOf(await rest(who, `GET ${path}/`))).toBe(tagOf(answer))
      tags.push(tagOf(answer))
    }
    for (const tag of tags) expect(tag).toMatch(/^"[\x21\x23-\x7e]+"$/)
    expect(new Set(tags).size).toBe(5)
  })

  test('If-None-Match: 304 for what is known, and only for it', async () => {
    const id = await inState('SUBMITTED')
    const get = await rest('user', `GET /requests/${id}/`)
    const tag = tagOf(get)
    for (const method of ['GET', 'HEAD']) {
      const ask = (header: string) => rest('user', `${method} /requests/${id}/`, undefined, { 'if-none-match': header })
      for (const header of [tag, `W/${tag}`, `"x", ${tag}`, `, "a,b" ,\t${tag},`, ' * ']) {
        const { status, headers, text } = await ask(header)
        expect([header, status, headers.etag, text]).toEqual([header, 304, tag, ''])
        expect(headers['cache-control']).toBe(get.headers['cache-control'])
        expect(headers.date).toBeDefined()
      }
      for (const header of ['"x"', tag.slice(1, -1), 'x', '', tag.replace('"', '"0'), `"x ${tag}`, `${tag} "x"`, `w/${tag}`])
        expect([header, (await ask(header)).status]).toEqual([header, 200])
      // Which fetch adds by itself, whenever a script sets If-None-Match.
      for (const directive of ['no-cache', 'max-age=0', 'no-store']) {
        const headers = { 'if-none-match': tag, 'cache-control': directive, pragma: 'no-cache' }
        expect((await rest('user', `${method} /requests/${id}/`, undefined, headers)).status).toBe(304)
      }
      // If-Match comes first (RFC 9110, 13.2.2).
      for (const [header, status] of [
        ['"x"', 412],
        [tag, 304],
        [`W/${tag}`, 412],
        ['x', 400],
      ] as const) {
        const headers = { 'if-match': header, 'if-none-match': tag }
        expect([header, (await rest('user', `${method} /requests/${id}/`, undefined, headers)).status]).toEqual([header, status])
      }
    }
    // Another's view is another document: what they may do differs.
    expect((await rest('manager', `GET /requests/${id}/`, undefined, { 'if-none-match': tag })).status).toBe(200)
    await rest('manager', `POST /requests/${id}/approve/`)
    expect((await rest('user', `GET /requests/${id}/`, undefined, { 'if-none-match': tag })).status).toBe(200)
    // It says nothing of what one may not see.
    expect(outcome(await rest('user2', `GET /requests/${id}/`, undefined, { 'if-none-match': '*' }))).toBe('404 NOT_FOUND')
    // A change is not made where it matches (RFC 9110, 13.1.2).
    const draft = await inState('DRAFT')
    const submit = async (header: string) =>
      outcome(await rest('user', `POST /requests/${draft}/submit/`, undefined, { 'if-none-match': header }))
    const current = tagOf(await rest('user', `GET /requests/${draft}/`))
    for (const header of ['*', current, `W/${current}`]) expect(await submit(header)).toBe('412 STALE_VERSION')
    expect(await submit('"x"')).toBe('200')
  })

  test.each(CHANGES)('If-Match counts on %s', async (...[call, body]) => {
    const decides = /approve|reject|assign/.test(call)
    const who: Name = decides ? 'manager' : 'user'
    const change = async (header: string) => {
      const id = await inState(decides ? 'SUBMITTED' : 'DRAFT')
      if (!decides) await rest('user', `PATCH /requests/${id}/`, { title: 'Version 2' })
      const current = tagOf(await rest(who, `GET /requests/${id}/`))
      // What the creator read is another view of it than the decider's, though the version is the same.
      const creators = tagOf(await rest('user', `GET /requests/${id}/`))
      const value = header
        .replace('CREATORS', creators)
        .replace('CURRENT', current)
        .replace('VERSION', current.replace(/-.*/, '"'))
      return outcome(
        await rest(who, call.replace('ID', id), body && { ...body, ...(/assign/.test(call) && { assigned_to_id: idOf(who) }) }, {
          'if-match': value,
        }),
      )
    }
    const done = call.startsWith('DELETE') ? '204' : '200'
    const old = '"1-0"'
    const table: [header: string, expected: string][] = [
      ['CURRENT', done],
      ['CREATORS', decides ? '412 STALE_VERSION' : done],
      ['*', done],
      ['"x", CURRENT', done],
      ['CURRENT,,', done],
      ['W/CURRENT', '412 STALE_VERSION'], // Tags are compared strongly.
      ['VERSION', '412 STALE_VERSION'],
      [old, '412 STALE_VERSION'],
      [`W/${old}`, '412 STALE_VERSION'],
      ['"99"', '412 STALE_VERSION'],
      ['"0"', '412 STALE_VERSION'],
      ['"-1"', '412 STALE_VERSION'],
      ['"2147483648"', '412 STALE_VERSION'],
      [`"${'9'.repeat(400)}"`, '412 STALE_VERSION'],
      ['"x"', '412 STALE_VERSION'],
      ['""', '412 STALE_VERSION'],
      ['x', '400 BAD_REQUEST'],
      ['', '400 BAD_REQUEST'],
      ['CURRENT "x"', '400 BAD_REQUEST'],
      ['"x', '400 BAD_REQUEST'],
      ["'; drop table app_public.requests", '400 BAD_REQUEST'],
      [`${old}, "x"`, '412 STALE_VERSION'],
    ]
    const met = await Promise.all(table.map(async ([header]) => [header, await change(header)]))
    expect(met).toEqual(table)
  })
})

test('If-Match may list tags, of which one has to be the current one (RFC 9110, 13.1.1)', async () => {
  const id = await inState('DRAFT')
  const tag = (await rest('user', `GET /requests/${id}/`)).headers.etag
  const header = { 'if-match': `"7-0", ${tag}` }
  expect(outcome(await rest('user', `POST /requests/${id}/submit/`, undefined, header))).toBe('200')
  expect(outcome(await rest('manager', `POST /requests/${id}/approve/`, undefined, header))).toBe('412 STALE_VERSION')
})

test.each([
  ['the tag that both have read', true, ['200', '412 STALE_VERSION']],
  ['any tag', false, ['200', '200']],
])('of two changes at once with If-Match and %s, as many win', async (_, isTag, expected) => {
  const id = await inState('DRAFT')
  const tag = isTag ? (await rest('user', `GET /requests/${id}/`)).headers.etag! : '*'
  // Both have compared the tag before either gets the lock.
  const [root, watch] = [await api.db.connect('root'), await api.db.connect('root')]
  await root.query('begin')
  await root.query('select from app_public.requests where id = $1 for update', [id])
  const changes = ['A', 'B'].map((title) => rest('user', `PATCH /requests/${id}/`, { title }, { 'if-match': tag }))
  const waiting = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
  while ((await watch.query(waiting)).rowCount! < 2) await sleep(10)
  await root.query('commit')
  expect((await Promise.all(changes)).map(outcome).sort()).toEqual(expected)
})

describe('what is no call of ours is a problem', () => {
  const problem = (answer: Answer) => {
    checkProblem(answer)
    return outcome(answer)
  }

  test('404: an unknown path, whoever asks and however', async () => {
    const paths = ['/', '/x', '/api', '/api/', '/api/v1', '/api/v1/', '/api/v1/x', '/api/v1/requests/a/b/', '/api/v2/requests/']
    paths.push('/api/v1/docsx', '/api/v1/openapi.jsonx', '/api/v1/Requests/', '/graphql/x', '/favicon.ico', '/robots.txt')
    paths.push(
      '//',
      '/%zz',
      '/%ff',
      '/api/v1/%zz',
      '/api/v1/requests/%E0%A4%A/',
      '/..',
      '/api/v1/../../etc/passwd',
      '/%2e%2e/x',
      '*',
    )
    paths.push(
      '/api/v1/docs/../package.json',
      '/api/v1/docs/%2e%2e/package.json',
      '/api/v1/docs/package.json',
      '/api/v1/x?'.padEnd(8000, 'y'),
    )
    for (const path of paths) {
      for (const method of ['GET', 'POST', 'PUT', 'OPTIONS', 'DELETE']) {
        const answer = await api.send({ method, path, headers: { authorization: `Bearer ${api.token('user')}` } })
        expect([method, path, problem(answer)]).toEqual([method, path, '404 NOT_FOUND'])
      }
      expect((await api.send({ method: 'GET', path })).status).toBe(404)
    }
  })

  test('405, with Allow: another method of a known path', async () => {
    const methods = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'PROPFIND', 'QUERY']
    for (const [template, operations] of Object.entries<object>(rest.document.paths)) {
      if (/^\/users\/me\b/.test(template)) continue // As the next test has it.
      const known = Object.keys(operations).map((method) => method.toUpperCase())
      const allowed = [...known, ...(known.includes('GET') ? ['HEAD'] : [])].sort()
      for (const method of methods.filter((method) => !allowed.includes(method))) {
        for (const who of ['user', undefined] as const) {
          const answer = await rest(who, `${method} ${template.replace('{id}', NOBODY)}`)
          expect([method, template, answer.status]).toEqual([method, template, 405])
          if (method !== 'HEAD') expect(outcome(answer)).toBe('405 METHOD_NOT_ALLOWED')
          expect(answer.headers.allow?.split(', ').sort()).toEqual(allowed)
        }
      }
    }
  })

  test('405, with Allow: /users/me/ is a path of its own, and no id', async () => {
    for (const method of ['POST', 'PATCH', 'DELETE']) {
      const answer = await rest('admin', `${method} /users/me/`, { name: 'x' })
      expect([method, outcome(answer), answer.headers.allow]).toEqual([method, '405 METHOD_NOT_ALLOWED', 'GET, HEAD'])
    }
  })

  test.each(['/api/v1/openapi.json', '/api/v1/docs/', '/healthz', '/readyz'])('405, with Allow: POST %s', async (path) => {
    const answer = await api.send({ path })
    expect(problem(answer)).toBe('405 METHOD_NOT_ALLOWED')
    expect(answer.headers.allow).toBe('GET, HEAD')
  })

  test('413: a body over 1 MB, however it is sent', async () => {
    const sized = (bytes: number) => `{"title":"x","x":"${'x'.repeat(bytes - 20)}"}`
    const MEGABYTE = 1024 * 1024
    expect(sized(1000)).toHaveLength(1000)
    expect((await rest('user', 'POST /requests/', sized(MEGABYTE))).status).toBe(201)
    const over = sized(MEGABYTE + 1)
    const tooLarge = '413 PAYLOAD_TOO_LARGE'
    expect(outcome(await rest('user', 'POST /requests/', over))).toBe(tooLarge)
    expect(outcome(await rest('user', `PATCH /requests/${NOBODY}/`, over))).toBe(tooLarge)
    expect(outcome(await rest(undefined, 'POST /auth/token/', over))).toBe(tooLarge)
    const chunked = { 'transfer-encoding': 'chunked', 'content-length': undefined }
    expect(outcome(await rest('user', 'POST /requests/', over, chunked))).toBe(tooLarge)
    const bomb = gzipSync(sized(20 * MEGABYTE))
    expect(bomb.length).toBeLessThan(30_000)
    expect(outcome(await rest('user', 'POST /requests/', bomb, { 'content-encoding': 'gzip' }))).toBe(tooLarge)
  })

  test('415: what is not application/json', async () => {
    const types = ['', 'text/plain', 'text/json', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', 'json']
    types.push('application/json5', 'application/merge-patch+json', 'application/jsonp', 'application/json, text/plain', '*/*')
    const draft = await inState('DRAFT')
    for (const type of types) {
      for (const call of ['POST /requests/', `PATCH /requests/${draft}/`, 'POST /auth/token/']) {
        const answer = await rest('user', call, '{"title":"x"}', { 'content-type': type })
        expect([type, call, outcome(answer)]).toEqual([type, call, '415 UNSUPPORTED_MEDIA_TYPE'])
      }
    }
    const charsets = ['klingon', 'utf-7', '"UTF-7"', 'utf-16', 'utf-16le', 'utf-32', 'iso-8859-1', 'utf-8x']
    for (const headers of [
      ...charsets.map((charset) => ({ 'content-type': `application/json; charset=${charset}` })),
      ...['klingon', 'zstd', 'compress', 'gzip, gzip'].map((encoding) => ({ 'content-encoding': encoding })),
    ])
      expect(outcome(await rest('user', 'POST /requests/', '{"title":"x"}', headers))).toBe('415 UNSUPPORTED_MEDIA_TYPE')
    for (const type of [
      'application/json;charset=UTF-8',
      'application/json; charset="utf-8"',
      'application/json;\tCharset=Utf-8; x="a;b"',
      'application/json; charset=utf8',
      'APPLICATION/JSON',
      'application/json ; x=y',
    ])
      expect((await rest('user', 'POST /requests/', '{"title":"x"}', { 'content-type': type })).status).toBe(201)
    expect((await rest('user', 'POST /requests/', gzipSync('{"title":"x"}'), { 'content-encoding': 'gzip' })).status).toBe(201)
  })

  const bodies: [string, string | Buffer][] = [
    ['cut off', '{"title":"x"'],
    ['of two values', '{"title":"x"}{}'],
    ['with a comment', '{"title":"x"/**/}'],
    ['with a comma too many', '{"title":"x",}'],
    ['of a form', 'title=x'],
    ['of blanks', '  '],
    ['with NaN', '{"title":NaN}'],
    ['an array', '[{"title":"x"}]'],
    ['a string', '"title"'],
    ['a number', '5'],
    ['true', 'true'],
    ['null', 'null'],
    ['cut in a character', Buffer.from('{"title":"\xf0\x9f"}', 'latin1')],
    ['in Latin-1', Buffer.from('{"title":"\xe9"}', 'latin1')],
    ['with half a surrogate pair, in CESU-8', Buffer.from('{"title":"\xed\xa0\x80"}', 'latin1')],
    ['in UTF-16', Buffer.from('{"title":"x"}', 'utf16le')],
    ['nested without end', '['.repeat(100_000)],
  ]
  test.each(bodies)('400: a body that is %s', async (_, body) => {
    const draft = await inState('DRAFT')
    for (const call of ['POST /requests/', `PATCH /requests/${draft}/`, `POST /requests/${draft}/submit/`, 'POST /auth/token/'])
      expect([call, outcome(await rest('user', call, body))]).toEqual([call, '400 BAD_REQUEST'])
  })

  test('400: a key for idempotency that is none', async () => {
    const key = (value: string) => rest('user', 'POST /requests/', { title: 'x' }, { 'idempotency-key': value })
    for (const value of ['', 'a b', 'x'.repeat(256), 'caf\xe9'])
      expect([value, outcome(await key(value))]).toEqual([value, '400 BAD_REQUEST'])
    expect((await key('x'.repeat(255))).status).toBe(201)
  })

  /** What the server says to bytes on a socket, until it ends the connection or nothing more comes. */
  const say = (bytes: string) =>
    new Promise<string>((resolve, reject) => {
      const { hostname, port } = new URL(api.url)
      const socket = connect(Number(port), hostname)
      let heard = ''
      socket.on('error', reject)
      socket.on('data', (data) => {
        heard += data.toString('latin1')
        // A whole answer has come; the connection may stay open.
        if (/\r\n\r\n.*\}$/s.test(heard)) socket.end()
      })
      socket.on('close', () => resolve(heard))
      socket.setTimeout(2_000, () => socket.destroy())
      socket.write(bytes, 'latin1')
    })
  const GET = `GET ${BASE}/requests/ HTTP/1.1\r\n`
  const noHttp: [string, string, number][] = [
    ['no HTTP at all', 'hello\r\n\r\n', 400],
    ['TLS', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', 400],
    ['an unknown method', `FLY / HTTP/1.1\r\nhost: x\r\n\r\n`, 400],
    ['no host', `${GET}\r\n`, 400],
    ['two lengths', `POST ${BASE}/requests/ HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!`, 400],
    [
      'a length and chunks',
      `POST ${BASE}/requests/ HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`,
      400,
    ],
    ['a header with NUL', `${GET}host: x\r\nx: a\0b\r\n\r\n`, 400],
    ['a path with a byte that is none', `GET ${BASE}/\xff HTTP/1.1\r\nhost: x\r\n\r\n`, 400],
    ['headers without end', `${GET}host: x\r\nx: ${'x'.repeat(20_000)}\r\n\r\n`, 431],
    ['an expectation', `${GET}host: x\r\nexpect: miracles\r\n\r\n`, 417],
  ]
  test.each(noHttp)('a raw socket with %s is told so by a problem', async (_, bytes, status) => {
    const heard = await say(bytes)
    const [head = '', body = ''] = heard.split('\r\n\r\n')
    expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} `))
    expect(head).toMatch(/^content-type: application\/problem\+json/im)
    expect(JSON.parse(body)).toMatchObject({ status, code: 'BAD_REQUEST', detail: expect.any(String) })
    // It lives on.
    expect((await rest('user', 'GET /users/me/')).status).toBe(200)
  })

  test('a server that has been told all this has logged no fault of its own', () => {
    expect(api.log()).not.toContain('internal error')
  })
})
