import { Logger as WorkerLogger, runOnce } from 'graphile-worker'
import type { Client } from 'pg'
import { promptTasks } from '../../../server/jobs/tasks.ts'
import type { Name } from '../../harness/database.ts'
import {
  deadToken,
  mutation,
  newRequest,
  NOBODY,
  PASSWORD,
  startApi,
  type Api,
  type NewPerson,
  type Who,
} from '../../harness/client.ts'
import { openRest, outcome, type Rest } from '../../harness/rest.ts'

let api: Api
let rest: Rest
let owner: Client
let root: Client
beforeAll(async () => {
  api = await startApi({ TRUST_PROXY: '1' })
  rest = await openRest(api)
  owner = await api.db.connect('owner')
  root = await api.db.connect('root')
})
afterAll(() => api.close())

const UUID = expect.stringMatching(/^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/)
const INSTANT = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00$/)

/** Does the jobs that are due but for mails, as a worker does. */
async function work(): Promise<void> {
  const logger = new WorkerLogger(() => () => {})
  await runOnce({ connectionString: api.db.urls.owner, taskList: promptTasks, noHandleSignals: true, logger })
}
/** Tells somebody something; the notification's id. */
async function tell({ id }: { id: string }, kind = 'ROLE_CHANGED'): Promise<string> {
  const { rows } = await root.query(
    `insert into app_public.notifications (recipient_id, kind, event, mail_state)
     values ($1, $2, gen_random_uuid()::text, 'NONE') returning id`,
    [id, kind],
  )
  return rows[0].id
}
const readAt = async (id: string) =>
  (await root.query('select read_at from app_public.notifications where id = $1', [id])).rows[0].read_at
const forget = () => root.query('delete from app_public.notifications')

const LIST = '{ notifications { totalCount nodes { id kind request { id title status } actor { id name } createdAt readAt } } }'
const listOf = async (who: Who) => (await api.data(LIST, {}, who)).notifications
const unread = async (who: Who) => (await api.data('{ unreadNotificationCount }', {}, who)).unreadNotificationCount as number
const mark = (notificationId: string, who?: Who) =>
  api.graphql(mutation('markNotificationRead', 'notification { id readAt }'), { input: { notificationId } }, who)
const codeOf = ({ body }: { body: any }) => body.errors?.[0].extensions.code ?? 'done'

const act = (name: string, input: object, who: Who) => api.data(mutation(name, 'clientMutationId'), { input }, who)

describe('the inbox', () => {
  test('has what each was told, by both doors the same: kind, request, actor and times', async () => {
    await work() // what earlier tests left
    await forget()
    const requestId = await newRequest(api, { title: 'A laptop', submit: true })
    await work()
    const person = (name: Name, label: string, role: string) => ({ id: api.db.people[name].id, name: label, role })
    for (const who of ['manager', 'manager2', 'admin'] as const) {
      const { totalCount, nodes } = await listOf(who)
      expect([totalCount, nodes]).toEqual([
        1,
        [
          {
            id: UUID,
            kind: 'SUBMITTED',
            request: { id: requestId, title: 'A laptop', status: 'SUBMITTED' },
            actor: { id: api.db.people.user.id, name: 'Uma User' },
            createdAt: INSTANT,
            readAt: null,
          },
        ],
      ])
      const { body } = await rest(who, 'GET /notifications/')
      const [{ id, createdAt }] = nodes
      expect(body).toEqual({
        results: [
          {
            id,
            kind: 'SUBMITTED',
            request: { id: requestId, title: 'A laptop', status: 'SUBMITTED' },
            actor: person('user', 'Uma User', 'USER'),
            created_at: expect.any(String),
            read_at: null,
          },
        ],
        next: null,
        previous: null,
      })
      expect(Date.parse(body.results[0].created_at)).toBe(Date.parse(createdAt))
      const byId = await api.data(`query ($id: UUID!) { notification(id: $id) { id kind } }`, { id }, who)
      expect(byId.notification).toEqual({ id, kind: 'SUBMITTED' })
    }
    for (const who of ['user', 'user2'] as const) {
      expect(await listOf(who)).toEqual({ totalCount: 0, nodes: [] })
      expect((await rest(who, 'GET /notifications/')).body.results).toEqual([])
    }

    await act('rejectRequest', { requestId, comment: 'No' }, 'manager2')
    await work()
    expect((await listOf('user')).nodes).toMatchObject([
      { kind: 'REJECTED', request: { id: requestId, status: 'REJECTED' }, actor: { name: 'Max Manager' }, readAt: null },
    ])
    expect((await rest('user', 'GET /notifications/')).body.results).toMatchObject([
      { kind: 'REJECTED', request: { id: requestId, status: 'REJECTED' }, actor: person('manager2', 'Max Manager', 'MANAGER') },
    ])
  })

  test('is one’s own, whatever one’s role: nobody reads, counts or marks another’s', async () => {
    const person = await api.person()
    const id = await tell(person)
    for (const who of ['user', 'user2', 'manager', 'admin'] as const) {
      expect((await listOf(who)).nodes.map((node: { id: string }) => node.id)).not.toContain(id)
      const { body } = await rest(who, 'GET /notifications/?count=true')
      expect(body.results.map((each: { id: string }) => each.id)).not.toContain(id)
      const before = await unread(who)
      expect(await api.data(`query ($id: UUID!) { notification(id: $id) { id } }`, { id }, who)).toEqual({ notification: null })
      // Byte for byte what is said of an id never used.
      const answers = await Promise.all([id, NOBODY].map((each) => rest(who, `POST /notifications/${each}/read/`)))
      expect(answers.map(outcome)).toEqual(['404 NOT_FOUND', '404 NOT_FOUND'])
      expect(answers[0]!.text).toBe(answers[1]!.text)
      const [theirs, none] = await Promise.all([mark(id, who), mark(NOBODY, who)])
      expect([codeOf(theirs), theirs.text]).toEqual(['NOT_FOUND', none.text])
      await act('markAllNotificationsRead', {}, who)
      expect([await readAt(id), before >= (await unread(who))]).toEqual([null, true])
    }
    expect(await unread(person)).toBe(1)
  })

  test('is nobody’s without credentials', async () => {
    const id = await tell(api.db.people.user)
    for (const call of [
      'GET /notifications/',
      `POST /notifications/${id}/read/`,
      `POST /notifications/x/read/`,
      'POST /notifications/read-all/',
      'GET /notifications/preferences/',
      'PATCH /notifications/preferences/',
    ])
      expect([call, outcome(await rest(undefined, call))]).toEqual([call, '401 UNAUTHENTICATED'])
    for (const query of [
      LIST,
      '{ unreadNotificationCount }',
      '{ notificationPreferences { nodes { kind } } }',
      '{ undeliveredMails { totalCount } }',
    ])
      expect([query, await api.code(query)]).toEqual([query, 'UNAUTHENTICATED'])
    for (const [name, input] of Object.entries({
      markNotificationRead: { notificationId: id },
      markAllNotificationsRead: {},
      setNotificationPreference: { kind: 'APPROVED', delivery: 'NONE' },
      resendMail: { notificationId: id },
    }))
      expect([name, await api.code(mutation(name, 'clientMutationId'), { input })]).toEqual([name, 'UNAUTHENTICATED'])
    expect(await readAt(id)).toBeNull()
  })

  test('is over with the session', async () => {
    const dead = { token: deadToken() }
    expect(outcome(await rest(dead, 'GET /notifications/'))).toBe('401 UNAUTHENTICATED')
    expect(outcome(await rest(dead, 'POST /notifications/x/read/'))).toBe('401 UNAUTHENTICATED')
    expect(await api.code(LIST, {}, dead)).toBe('UNAUTHENTICATED')
    expect(codeOf(await mark(NOBODY, dead))).toBe('UNAUTHENTICATED')
  })

  test('shows no digest, and none can be marked', async () => {
    const person = await api.person()
    const id = await tell(person, 'DIGEST')
    expect([await listOf(person), await unread(person)]).toEqual([{ totalCount: 0, nodes: [] }, 0])
    expect((await rest(person, 'GET /notifications/?count=true')).body).toMatchObject({ results: [], count: 0 })
    expect(outcome(await rest(person, `POST /notifications/${id}/read/`))).toBe('404 NOT_FOUND')
    expect(codeOf(await mark(id, person))).toBe('NOT_FOUND')
    await act('markAllNotificationsRead', {}, person)
    expect(await readAt(id)).toBeNull()
  })

  test('has one entry for each event and person, newest first, whatever became of it since', async () => {
    const [creator, one, other] = [await api.person(), await api.person('MANAGER'), await api.person('MANAGER')]
    const { createRequest } = await api.data(mutation('createRequest'), { input: { title: 'x', assignedToId: one.id } }, creator)
    const requestId = createRequest.request.id
    await act('submitRequest', { requestId }, creator)
    await work()
    await act('assignRequest', { requestId, assignedToId: other.id }, one)
    await work()
    await act('assignRequest', { requestId, assignedToId: one.id }, other)
    await act('updateUser', { userId: one.id, role: 'ADMIN' }, 'admin')
    await act('approveRequest', { requestId }, one)
    await work()
    await work()
    const told = async (who: Who) =>
      (await listOf(who)).nodes.map((n: any) => [n.kind, n.actor.id, n.request?.id, n.request?.status])
    const { admin } = api.db.people
    expect(await told(other)).toEqual([['ASSIGNED', one.id, requestId, 'APPROVED']])
    expect(await told(creator)).toEqual([['APPROVED', one.id, requestId, 'APPROVED']])
    // That it is theirs again they have not been told before it was decided: then it is news no more.
    expect(await told(one)).toEqual([
      ['ROLE_CHANGED', admin.id, undefined, undefined],
      ['SUBMITTED', creator.id, requestId, 'APPROVED'],
    ])
    // Who acted stays who they are, gone or not.
    await act('deactivateUser', { userId: one.id }, 'admin')
    expect(await told(creator)).toEqual([['APPROVED', one.id, requestId, 'APPROVED']])
    const { body } = await rest(creator, 'GET /notifications/')
    expect(body.results[0].actor).toEqual({ id: one.id, name: 'Somebody New', role: 'ADMIN' })
  })

  test('shows no more of a request than can be seen', async () => {
    const person = await api.person('MANAGER')
    const requestId = await newRequest(api, { title: 'Not for long', submit: true })
    await work()
    const shown = async () => [
      (await listOf(person)).nodes[0].request,
      (await rest(person, 'GET /notifications/')).body.results[0].request,
    ]
    expect(await shown()).toEqual([
      { id: requestId, title: 'Not for long', status: 'SUBMITTED' },
      { id: requestId, title: 'Not for long', status: 'SUBMITTED' },
    ])
    await act('updateUser', { userId: person.id, role: 'USER' }, 'admin')
    expect(await shown()).toEqual([null, null])
    expect(JSON.stringify(await listOf(person))).not.toContain('Not for long')
  })
})

describe('to mark as read', () => {
  test('keeps the first time, by either door', async () => {
    const person = await api.person()
    const [one, two, three] = [await tell(person), await tell(person), await tell(person)]
    expect(await unread(person)).toBe(3)
    const first = await rest(person, `POST /notifications/${one}/read/`)
    expect([first.status, first.body]).toEqual([
      200,
      { id: one, kind: 'ROLE_CHANGED', request: null, actor: null, created_at: INSTANT, read_at: INSTANT },
    ])
    expect((await rest(person, `POST /notifications/${one}/read`)).body).toEqual(first.body)
    const again = (await mark(one, person)).body.data.markNotificationRead.notification
    expect([again.id, Date.parse(again.readAt)]).toEqual([one, Date.parse(first.body.read_at)])
    const { notification } = (await mark(two, person)).body.data.markNotificationRead
    expect(notification).toEqual({ id: two, readAt: INSTANT })
    expect([await unread(person), await readAt(three)]).toEqual([1, null])
  })

  test('all of one’s own at once, which leaves what was read as it was', async () => {
    const [person, other] = [await api.person(), await api.person()]
    const ids = [await tell(person), await tell(person), await tell(person)]
    await tell(other)
    await mark(ids[0]!, person)
    const before = await readAt(ids[0]!)
    await act('markAllNotificationsRead', {}, person)
    const after = await Promise.all(ids.map(readAt))
    expect([after[0], after[1], after[2]]).toEqual([before, expect.any(Date), expect.any(Date)])
    expect([await unread(person), await unread(other)]).toEqual([0, 1])
    // By REST too; and with nothing to mark there is nothing wrong.
    await tell(person)
    for (let i = 0; i < 2; i++) {
      const { status, text } = await rest(person, 'POST /notifications/read-all/')
      expect([status, text, await unread(person)]).toEqual([204, '', 0])
    }
    expect(await unread(other)).toBe(1)
  })

  test.each(['x', '1', '%20', NOBODY.slice(1), `${NOBODY}0`, 'null'])('an id that is no UUID is 404: %s', async (id) => {
    expect(outcome(await rest('user', `POST /notifications/${id}/read/`))).toBe('404 NOT_FOUND')
  })

  test.each([[null], ['x'], [5], [NOBODY.slice(1)]])('by GraphQL it is BAD_REQUEST: %j', async (id) => {
    expect(codeOf(await mark(id as string, 'user'))).toBe('BAD_REQUEST')
  })

  test('by cookie, needs what every change does', async () => {
    const person = await api.person()
    const ids = [await tell(person), await tell(person)]
    const login = await rest(undefined, 'POST /auth/session/', { email: person.email, password: PASSWORD })
    const cookie = login.headers['set-cookie']![0]!.split(';')[0]!
    const page = { cookie, 'x-csrf-token': login.body.csrf_token }
    for (const call of [
      `POST /notifications/${ids[0]}/read/`,
      'POST /notifications/read-all/',
      'PATCH /notifications/preferences/',
    ]) {
      const { status, body } = await rest(undefined, call, {}, { cookie })
      expect([call, status, body.code]).toEqual([call, 403, 'FORBIDDEN'])
    }
    expect(await unread(person)).toBe(2)
    expect(outcome(await rest(undefined, `POST /notifications/${ids[0]}/read/`, {}, page))).toBe('200')
    expect(await unread(person)).toBe(1)
    expect(outcome(await rest(undefined, 'POST /notifications/read-all/', {}, page))).toBe('204')
    expect(await unread(person)).toBe(0)
  })

  test('is audited by nobody: it is no action', async () => {
    const entries = async () => (await owner.query('select count(*) as n from app_public.audit_logs')).rows[0].n
    const person = await api.person()
    const [id, before] = [await tell(person), await entries()]
    await mark(id, person)
    await act('markAllNotificationsRead', {}, person)
    expect(await entries()).toBe(before)
    // A preference decides whether somebody is mailed, and so is one.
    await rest(person, 'PATCH /notifications/preferences/', { kind: 'APPROVED', delivery: 'NONE' })
    expect(Number(await entries()) - Number(before)).toBe(1)
  })

  test('under an Idempotency-Key: answered the same again, and another’s key is another', async () => {
    const [person, other] = [await api.person(), await api.person()]
    const ids = [await tell(person), await tell(person)]
    const under = (key: string) => ({ 'idempotency-key': key })
    const first = await rest(person, `POST /notifications/${ids[0]}/read/`, undefined, under('k'))
    const again = await rest(person, `POST /notifications/${ids[0]}/read/`, undefined, under('k'))
    expect([first.status, again.status, again.text]).toEqual([200, 200, first.text])
    expect(outcome(await rest(person, `POST /notifications/${ids[1]}/read/`, undefined, under('k')))).toBe(
      '422 IDEMPOTENCY_CONFLICT',
    )
    expect(await readAt(ids[1]!)).toBeNull()
    expect(outcome(await rest(other, `POST /notifications/${ids[0]}/read/`, undefined, under('k')))).toBe('404 NOT_FOUND')
  })
})

describe('the list', () => {
  let person: NewPerson
  let ids: string[]
  beforeAll(async () => {
    person = await api.person()
    ids = []
    for (let i = 0; i < 25; i++) ids.push(await tell(person))
    for (const id of ids.slice(0, 5)) await mark(id, person)
  })
  const idsOf = (results: { id: string }[]) => results.map(({ id }) => id)

  test('by REST: newest first, 20 a page, with links to its neighbours', async () => {
    const { body: first } = await rest(person, 'GET /notifications/')
    expect([idsOf(first.results), first.previous, 'count' in first]).toEqual([ids.toReversed().slice(0, 20), null, false])
    const { body: second } = await rest(person, `GET ${first.next}`)
    expect([idsOf(second.results), second.next]).toEqual([ids.toReversed().slice(20), null])
    const { body: back } = await rest(person, `GET ${second.previous}`)
    expect(idsOf(back.results)).toEqual(idsOf(first.results))
    const { body: oldest } = await rest(person, 'GET /notifications/?ordering=created_at&page_size=3&count=true')
    expect([idsOf(oldest.results), oldest.count]).toEqual([ids.slice(0, 3), 25])
    expect((await rest(person, 'GET /notifications/?page_size=1000')).body.results).toHaveLength(25)
  })

  test('by REST: those that are unread, or those that are not', async () => {
    const { body: unreadOnes } = await rest(person, 'GET /notifications/?unread=true&page_size=12&count=true')
    expect([idsOf(unreadOnes.results), unreadOnes.count]).toEqual([ids.toReversed().slice(0, 12), 20])
    const { body: rest2 } = await rest(person, `GET ${unreadOnes.next}`)
    expect([idsOf(rest2.results), rest2.next]).toEqual([ids.toReversed().slice(12, 20), null])
    const { body: read } = await rest(person, 'GET /notifications/?unread=false&count=true')
    expect([idsOf(read.results), read.count]).toEqual([ids.slice(0, 5).toReversed(), 5])
  })

  test.each(['unread=yes', 'unread=1', 'ordering=kind', 'cursor=x', 'page_size=0', 'count=maybe'])(
    'by REST: a bad parameter is 422: %s',
    async (query) => {
      expect(outcome(await rest(person, `GET /notifications/?${query}`))).toBe(`422 VALIDATION_FAILED ${query.split('=')[0]}`)
    },
  )

  test('by GraphQL: a connection, newest first, 20 a page and at most 100, with filter, condition and order', async () => {
    const list = async (args: string) =>
      (await api.data(`{ notifications${args} { totalCount nodes { id } pageInfo { hasNextPage endCursor } } }`, {}, person))
        .notifications
    const first = await list('')
    expect([first.totalCount, idsOf(first.nodes)]).toEqual([25, ids.toReversed().slice(0, 20)])
    const next = await list(`(after: "${first.pageInfo.endCursor}")`)
    expect([idsOf(next.nodes), next.pageInfo.hasNextPage]).toEqual([ids.toReversed().slice(20), false])
    expect(await api.code('{ notifications(first: 101) { totalCount } }', {}, person)).toBe('BAD_REQUEST')
    const unreadOnes = await list('(first: 100, filter: { readAt: { isNull: true } })')
    expect([unreadOnes.totalCount, idsOf(unreadOnes.nodes)]).toEqual([20, ids.slice(5).toReversed()])
    const readOnes = await list('(filter: { readAt: { isNull: false } })')
    expect([readOnes.totalCount, idsOf(readOnes.nodes)]).toEqual([5, ids.slice(0, 5).toReversed()])
    const oldest = await list('(first: 2, orderBy: CREATED_AT_ASC, condition: { kind: ROLE_CHANGED })')
    expect(idsOf(oldest.nodes)).toEqual(ids.slice(0, 2))
    expect(await unread(person)).toBe(20)
  })

  test('tells nothing of its mails, nor of whom else was told', async () => {
    const { body } = await api.graphql('{ __type(name: "Notification") { fields { name } } }')
    expect(body.data.__type.fields.map(({ name }: { name: string }) => name).toSorted()).toEqual([
      'actor',
      'actorId',
      'createdAt',
      'id',
      'kind',
      'readAt',
      'request',
      'requestId',
    ])
  })
})

describe('preferences', () => {
  const DECLINABLE = ['APPROVED', 'ASSIGNED', 'DIGEST', 'REJECTED', 'REMINDER', 'SUBMITTED']
  const read = async (who: Who) => {
    const { notificationPreferences } = await api.data(
      '{ notificationPreferences { nodes { kind headline delivery } } }',
      {},
      who,
    )
    return Object.fromEntries(
      notificationPreferences.nodes.map((node: { kind: string; delivery: string }) => [node.kind, node.delivery]),
    )
  }
  const all = (delivery: string) => Object.fromEntries(DECLINABLE.map((kind) => [kind, delivery]))

  test('mail at once is the default, of each kind that can be declined; by both doors the same', async () => {
    const person = await api.person()
    expect(await read(person)).toEqual(all('AT_ONCE'))
    const { body } = await rest(person, 'GET /notifications/preferences/')
    expect(body).toEqual(all('AT_ONCE'))
  })

  test('are set by either door, one at a time, for oneself', async () => {
    const [person, other] = [await api.person(), await api.person()]
    const { body } = await rest(person, 'PATCH /notifications/preferences/', { kind: 'APPROVED', delivery: 'NONE' })
    expect(body).toEqual({ ...all('AT_ONCE'), APPROVED: 'NONE' })
    const set = mutation('setNotificationPreference', 'notificationPreference { kind headline delivery }')
    const { setNotificationPreference } = await api.data(set, { input: { kind: 'REMINDER', delivery: 'DIGEST' } }, person)
    expect(setNotificationPreference.notificationPreference).toEqual({
      kind: 'REMINDER',
      headline: 'Still awaiting your decision',
      delivery: 'DIGEST',
    })
    expect(await read(person)).toEqual({ ...all('AT_ONCE'), APPROVED: 'NONE', REMINDER: 'DIGEST' })
    await rest(person, 'PATCH /notifications/preferences', { kind: 'APPROVED', delivery: 'AT_ONCE' })
    expect((await rest(person, 'GET /notifications/preferences/')).body).toEqual({ ...all('AT_ONCE'), REMINDER: 'DIGEST' })
    expect(await read(other)).toEqual(all('AT_ONCE'))
  })

  const bad: [body: object, field: string][] = [
    [{ kind: 'APPROVED', delivery: 'LATER' }, 'delivery'],
    [{ kind: 'APPROVED', delivery: 'none' }, 'delivery'],
    [{ kind: 'APPROVED', delivery: null }, 'delivery'],
    [{ kind: 'APPROVED', delivery: 5 }, 'delivery'],
    [{ kind: 'APPROVED' }, 'delivery'],
    [{ kind: 'NEWS', delivery: 'NONE' }, 'kind'],
    [{ kind: '\0', delivery: 'NONE' }, 'kind'],
    [{ delivery: 'NONE' }, 'kind'],
    [{ kind: 'PASSWORD_RESET', delivery: 'NONE' }, 'kind'],
    [{ kind: 'PASSWORD_CHANGED', delivery: 'DIGEST' }, 'kind'],
    [{ kind: 'ROLE_CHANGED', delivery: 'NONE' }, 'kind'],
    [{ kind: 'ACCOUNT_CREATED', delivery: 'NONE' }, 'kind'],
  ]
  test.each(bad)('%j is VALIDATION_FAILED of %s, and changes nothing', async (body, field) => {
    const person = await api.person()
    expect(outcome(await rest(person, 'PATCH /notifications/preferences/', body))).toBe(`422 VALIDATION_FAILED ${field}`)
    if (Object.values(body).length === 2 && Object.values(body).every((value) => typeof value === 'string')) {
      const set = mutation('setNotificationPreference', 'clientMutationId')
      // GraphQL's enums have no other values, and no text has NUL.
      const isJudged = /^([A-Z_]+(CREATED|CHANGED|RESET)|\0)$/.test(String((body as { kind?: unknown }).kind))
      expect(await api.code(set, { input: body }, person)).toBe(isJudged ? 'VALIDATION_FAILED' : 'BAD_REQUEST')
    }
    expect(await read(person)).toEqual(all('AT_ONCE'))
  })

  test('decide about the mail, and not about the inbox', async () => {
    await root.query('delete from app_public.notifications')
    const people = await Promise.all(
      ['AT_ONCE', 'DIGEST', 'NONE'].map(async (delivery) => {
        const person = await api.person()
        await act('setNotificationPreference', { kind: 'APPROVED', delivery }, person)
        const { createRequest } = await api.data(mutation('createRequest'), { input: { title: delivery } }, person)
        const requestId = createRequest.request.id
        await act('submitRequest', { requestId }, person)
        await act('approveRequest', { requestId }, 'admin')
        return { person, delivery }
      }),
    )
    await work()
    for (const { person, delivery } of people) {
      expect((await listOf(person)).nodes).toMatchObject([{ kind: 'APPROVED', readAt: null }])
      const { rows } = await root.query('select mail_state from app_public.notifications where recipient_id = $1', [person.id])
      expect([delivery, rows]).toEqual([delivery, [{ mail_state: delivery === 'AT_ONCE' ? 'QUEUED' : delivery }]])
    }
  })
})

test('none of this was an internal error', () => expect(api.log()).not.toContain('internal error'))
