import type { Client } from 'pg'
import pino from 'pino'
import { toClientError } from '../../../server/errors.ts'
import { deadToken, mutation, newRequest, NOBODY, startApi, type Api, type Who } from '../../harness/client.ts'
import { openRest, outcome, type Rest } from '../../harness/rest.ts'

let api: Api
let rest: Rest
let owner: Client
beforeAll(async () => {
  api = await startApi({ TRUST_PROXY: '1' })
  rest = await openRest(api)
  owner = await api.db.connect('owner')
})
afterAll(() => api.close())

const countTrail = async () => (await owner.query('select count(*) from app_public.audit_logs')).rows[0].count

describe('a body with faults', () => {
  const bad = { title: 5, description: 'x\0', assigned_to_id: 'nobody' }

  test('is answered by all of them, each by its first', async () => {
    const draft = await newRequest(api)
    const before = await countTrail()
    const cases: [who: Who, call: string, body: object, expected: string][] = [
      ['user', `PATCH /requests/${draft}/`, bad, 'title assigned_to_id description'],
      ['user', 'POST /requests/', { ...bad, description: [] }, 'title description assigned_to_id'],
      ['user', 'POST /requests/', { description: 'x\0' }, 'title description'],
      ['admin', 'POST /users/', { email: 5, role: 'KING' }, 'email name role'],
      ['user', 'PATCH /notifications/preferences/', {}, 'kind delivery'],
      [undefined, 'POST /auth/token/', { email: '\0' }, 'email password'],
    ]
    for (const [who, call, body, expected] of cases) {
      const said = outcome(await rest(who, call, body))
      expect([call, body, said.split(' ').toSorted()]).toEqual([
        call,
        body,
        `422 VALIDATION_FAILED ${expected}`.split(' ').toSorted(),
      ])
    }
    expect(await countTrail()).toBe(before)
  })

  test('says what each should be', async () => {
    const { body } = await rest('user', 'POST /requests/', { title: 'x', description: '\ud800', assigned_to_id: 'x' })
    expect(body.errors).toEqual({
      assigned_to_id: ['This must be a UUID.'],
      description: ['Text must be well-formed Unicode, without the character NUL.'],
    })
    const { body: user } = await rest('admin', `PATCH /users/${api.db.people.user2.id}/`, { role: 'KING', is_deleted: 'no' })
    expect(user.errors).toMatchObject({ is_deleted: ['This must be true or false.'] })
  })

  test('comes last of all that can be wrong', async () => {
    const [submitted, draft] = [await newRequest(api, { submit: true }), await newRequest(api)]
    const stale = { 'if-match': '"9"' }
    const cases: [who: Who, call: string, body: object, expected: string, headers?: object][] = [
      [{ token: deadToken() }, `PATCH /requests/${draft}/`, bad, '401 UNAUTHENTICATED'],
      ['user2', `PATCH /requests/${draft}/`, bad, '404 NOT_FOUND'],
      ['user', `PATCH /requests/${NOBODY}/`, bad, '404 NOT_FOUND'],
      ['manager', `PATCH /requests/${submitted}/`, bad, '403 FORBIDDEN'],
      ['user', `PATCH /requests/${submitted}/`, bad, '409 INVALID_TRANSITION'],
      ['user', `PATCH /requests/${draft}/`, bad, '412 STALE_VERSION', stale],
      ['user', `POST /requests/${submitted}/reject/`, {}, '403 FORBIDDEN'],
      ['manager', `POST /requests/${submitted}/reject/`, {}, '412 STALE_VERSION', stale],
      ['manager', `POST /requests/${submitted}/reject/`, {}, '422 VALIDATION_FAILED comment'],
      ['user', 'POST /users/', { email: 5 }, '403 FORBIDDEN'],
      ['user', `PATCH /users/${NOBODY}/`, { role: 5 }, '404 NOT_FOUND'],
    ]
    for (const [who, call, body, expected, headers] of cases)
      expect([call, outcome(await rest(who, call, body, headers as never))]).toEqual([call, expected])
  })

  test('is an answer that is kept under its key, and leaves nothing else behind', async () => {
    const before = await countTrail()
    const send = () => rest('user', 'POST /requests/', bad, { 'idempotency-key': 'faults' })
    const first = await send()
    expect(outcome(first)).toMatch(/^422 VALIDATION_FAILED title/)
    expect((await send()).text).toBe(first.text)
    expect(await countTrail()).toBe(before)
  })
})

test('query parameters with faults are all named', async () => {
  const query = 'status=NONE&creator_id=x&page_size=0&count=maybe&ordering=title&search=%00'
  const { body } = await rest('user', `GET /requests/?${query}`)
  expect(body.errors).toEqual({
    status: ['Invalid value for parameter status. This must be one of APPROVED, DRAFT, REJECTED, SUBMITTED.'],
    creator_id: ['Invalid value for parameter creator_id. This must be a UUID.'],
    search: ['Invalid value for parameter search. Text must be well-formed Unicode, without the character NUL.'],
    ordering: [expect.stringMatching(/^Invalid value for parameter ordering\. This must be one of -created_at, /)],
    page_size: ['Invalid value for parameter page_size. This must be at least 1.'],
    count: ['Invalid value for parameter count. This must be true or false.'],
  })
})

test('faults that the database names, all in DETAIL or one in COLUMN, reach both doors', async () => {
  const raise = async (using: string) =>
    toClientError(
      await owner.query(`do $$ begin raise exception using errcode = 'RQ422', ${using}; end $$`).catch((error: unknown) => error),
      pino({ level: 'silent' }),
    )
  const title = { field: 'title', message: 'A request needs a title.' }
  const detail = JSON.stringify([
    title,
    { field: 'review_comment', message: 'Too long.' },
    { field: 'title', message: 'Too plain.' },
  ])
  const all = await raise(`message = 'A request needs a title.', column = 'title', detail = '${detail}'`)
  expect(all.problem).toMatchObject({
    detail: 'A request needs a title.',
    errors: { title: ['A request needs a title.', 'Too plain.'], comment: ['Too long.'] },
  })
  const one = await raise(`message = 'It is nobody.', column = 'assigned_to_id'`)
  expect(one.problem).toMatchObject({ detail: 'It is nobody.', errors: { assigned_to_id: ['It is nobody.'] } })
  expect(one.extensions).toEqual({
    code: 'VALIDATION_FAILED',
    field: 'assignedToId',
    fields: [{ field: 'assignedToId', message: 'It is nobody.' }],
  })
  expect((await raise(`message = 'No field.'`)).problem).not.toHaveProperty('errors')

  const { body } = await api.graphql(mutation('createRequest'), { input: { title: 'x', assignedToId: NOBODY } }, 'user')
  const { field, fields } = body.errors[0].extensions
  expect([field, fields.map((fault: { field: string }) => fault.field)]).toEqual(['assignedToId', ['assignedToId']])
})

test('a change by cookie is told apart: without its token, or from a foreign page', async () => {
  const { email } = await api.person()
  const login = await rest(undefined, 'POST /auth/session/', { email, password: 'assent-demo-password' })
  const cookie = login.headers['set-cookie']![0]!.split(';')[0]!
  const change = (headers: object) => rest(undefined, 'POST /requests/', { title: 'x' }, { cookie, ...headers })
  const token = { 'x-csrf-token': login.body.csrf_token }
  const foreign = { origin: 'https://elsewhere.example' }
  const messages = [await change({}), await change({ ...token, ...foreign }), await change(foreign)].map(
    ({ body }) => body.detail,
  )
  expect(messages).toEqual([expect.stringContaining('X-CSRF-Token'), expect.stringContaining('origin'), messages[1]])
  expect((await change(token)).status).toBe(201)
})
