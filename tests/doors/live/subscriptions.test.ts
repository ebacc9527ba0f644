import { request, type IncomingMessage } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { createClient as createEventsClient } from 'graphql-sse'
import { createClient } from 'graphql-ws'
import type { Client } from 'pg'
import { WebSocket } from 'ws'
import {
  deadToken,
  mutation,
  newRequest as createRequest,
  NOBODY,
  startApi,
  type Api,
  type NewPerson,
} from '../../harness/client.ts'
import { startProxy } from '../../harness/proxy.ts'
import { act, closeAll, connect, INBOX, RECEIVED, until, UPDATED, type Heard, type Socket } from '../../harness/socket.ts'

let api: Api
/** A second process on the same database. */
let other: Api
let owner: Client
/** A request that nobody follows. */
let beacon: string
beforeAll(async () => {
  api = await startApi({ TRUST_PROXY: '1' })
  other = await startApi({}, api.db)
  owner = await api.db.connect('owner')
  beacon = await createRequest(api)
})
afterEach(closeAll)
afterAll(async () => {
  await other.close()
  await api.close()
})

/** Does the worker's part for the latest action on a request or a person. */
const work = (id: string) =>
  owner.query(
    `select app_private.notify(a.id) from app_public.audit_logs a
     where a.request_id = $1 or (a.user_id = $1 and a.action like 'USER%') order by a."timestamp" desc limit 1`,
    [id],
  )
/** Waits until this server has heard what was announced before: that comes in the order of the commits. */
async function settle(on = api): Promise<void> {
  const socket = await connect(on, 'admin')
  const heard = await socket.subscribe(UPDATED, { id: beacon })
  await owner.query(`select pg_notify('assent', 'request ' || $1)`, [beacon])
  await heard.data()
  socket.ws.close()
  await socket.closed
}
/** A new request, which is no news any more to whoever subscribes from now on. */
async function newRequest(...[on, options]: Parameters<typeof createRequest>): Promise<string> {
  const id = await createRequest(on, options)
  await settle(on)
  return id
}
/** Submits a new request, and announces it. */
async function submitted(options: Parameters<typeof newRequest>[1] = {}): Promise<string> {
  const id = await newRequest(api, { ...options, submit: true })
  await work(id)
  return id
}
/** An event that each of these must hear: whatever has not come before it will not come. */
async function expectNothingElse(heard: readonly (readonly [Heard, Socket])[]): Promise<void> {
  await sleep(50)
  for (const [{ waiting }, socket] of heard) {
    await socket.subscribe('subscription { inboxChanged { __typename } }')
    expect(waiting).toEqual([])
    expect(socket.isOpen).toBe(true)
  }
}
const count = async (heard: Heard) => (await heard.data()).inboxChanged.totalCount as number
const statusOf = async (heard: Heard) => (await heard.data()).requestUpdated.request?.status ?? null
const subscribers = async (on = api) => Number(/^assent_subscribers (\d+)$/m.exec((await on.metrics()).text)![1])
const awaiting = async (who: string | NewPerson) =>
  (await api.data('{ requestsAwaitingMyDecision { totalCount } }', {}, who as never)).requestsAwaitingMyDecision.totalCount

describe('requestsChanged', () => {
  const CHANGED = 'subscription { requestsChanged { ids } }'
  const idsOf = async (heard: Heard) => (await heard.data()).requestsChanged.ids as string[]
  /** As above, by what is not news here. */
  async function settleInbox(): Promise<void> {
    const heard = await (await connect(api, 'manager')).subscribe(INBOX)
    await owner.query(`select pg_notify('assent', 'inbox ' || $1)`, [api.db.people.manager.id])
    await heard.data()
  }
  const hear = async (...names: ('user' | 'user2' | 'manager' | 'manager2' | 'admin')[]) => {
    await settleInbox()
    const sockets = await Promise.all(names.map((who) => connect(api, who)))
    return Promise.all(sockets.map(async (socket) => [await socket.subscribe(CHANGED), socket] as const))
  }

  test('tells whoever sees a request that it has changed, and nobody else', async () => {
    const id = await createRequest(api)
    const all = await hear('user', 'admin', 'manager', 'user2')
    const [uma, ada, mia] = all.map(([heard]) => heard)
    await act(other, 'updateRequest', id, 'user', { title: 'In another tab' })
    for (const heard of [uma!, ada!]) expect(await idsOf(heard)).toEqual([id])
    for (const [name, who] of [
      ['submitRequest', 'user'],
      ['assignRequest', 'admin'],
      ['approveRequest', 'admin'],
    ] as const) {
      await act(other, name, id, who, name === 'assignRequest' ? { assignedToId: api.db.people.manager2.id } : {})
      for (const heard of [uma!, ada!, mia!]) expect(await idsOf(heard)).toEqual([id])
    }
    await sleep(300)
    await expectNothingElse(all)
  })

  test('tells of a new draft, and of its deletion, its creator and whoever sees all', async () => {
    const all = await hear('user', 'admin', 'manager', 'user2')
    const [uma, ada] = all.map(([heard]) => heard)
    const id = await createRequest(other)
    for (const heard of [uma!, ada!]) expect(await idsOf(heard)).toEqual([id])
    await act(other, 'deleteRequest', id, 'user')
    for (const heard of [uma!, ada!]) expect(await idsOf(heard)).toEqual([id])
    await sleep(300)
    await expectNothingElse(all)
  })

  test('sends its subscribers away when more is announced than can be asked about', async () => {
    const [[, socket]] = (await hear('user')) as [readonly [Heard, Socket]]
    await owner.query(`select pg_notify('assent', 'request ' || gen_random_uuid()) from generate_series(1, 12000)`)
    expect(await socket.closed).toEqual([1013, 'Try again later'])
    const [[heard]] = (await hear('user')) as [readonly [Heard, Socket]]
    const id = await createRequest(api)
    expect(await idsOf(heard)).toEqual([id])
  })

  test('tells many changes at once as one event', async () => {
    const drafts = await Promise.all(Array.from({ length: 8 }, () => createRequest(api)))
    const [[heard, socket]] = (await hear('user')) as [readonly [Heard, Socket]]
    await owner.query(`select pg_notify('assent', 'request ' || id) from unnest($1::uuid[]) id, generate_series(1, 5)`, [drafts])
    expect((await idsOf(heard)).toSorted()).toEqual(drafts.toSorted())
    await sleep(300)
    await expectNothingElse([[heard, socket]])
  })

  test('goes by the role of the moment, and ends with the session', async () => {
    const id = await createRequest(api, { submit: true })
    const person = await api.person('MANAGER')
    const socket = await connect(api, person)
    const heard = await socket.subscribe(CHANGED)
    const assign = (assignedToId: string | null) => act(api, 'assignRequest', id, 'admin', { assignedToId })
    await assign(api.db.people.manager2.id)
    expect(await idsOf(heard)).toEqual([id])
    await api.data(mutation('updateUser', 'user { role }'), { input: { userId: person.id, role: 'USER' } }, 'admin')
    await assign(null)
    await sleep(300)
    expect(heard.waiting).toEqual([])
    await api.data(mutation('deactivateUser', 'user { id }'), { input: { userId: person.id } }, 'admin')
    expect((await socket.closed)[0]).toBe(4401)
  })
})

describe('requestUpdated', () => {
  test('reports every change, as the subscriber may see it', async () => {
    const id = await newRequest(api)
    const [uma, mia] = [await connect(api, 'user'), await connect(api, 'manager')]
    const query = `subscription ($id: UUID!) { changed: requestUpdated(id: $id) { __typename request {
      title status version availableActions reviewedBy { name } auditLogs(first: 1) { nodes { action } } } } }`
    const byUser = await uma.subscribe(query, { id })
    await act(api, 'updateRequest', id, 'user', { title: 'Better' })
    expect(await byUser.data()).toEqual({
      changed: {
        __typename: 'RequestUpdatedPayload',
        request: {
          title: 'Better',
          status: 'DRAFT',
          version: 2,
          availableActions: ['DELETE', 'SUBMIT', 'UPDATE'],
          reviewedBy: null,
          auditLogs: { nodes: [{ action: 'UPDATE' }] },
        },
      },
    })
    await act(api, 'submitRequest', id, 'user')
    expect((await byUser.data()).changed.request).toMatchObject({ status: 'SUBMITTED', availableActions: [] })
    const byManager = await mia.subscribe(query, { id })
    await act(api, 'assignRequest', id, 'admin', { assignedToId: api.db.people.manager.id })
    expect((await byManager.data()).changed.request).toMatchObject({ availableActions: ['APPROVE', 'ASSIGN', 'REJECT'] })
    expect((await byUser.data()).changed.request).toMatchObject({ version: 4 })
    await act(api, 'approveRequest', id, 'manager')
    for (const heard of [byUser, byManager]) {
      expect((await heard.data()).changed.request).toMatchObject({ status: 'APPROVED', reviewedBy: { name: 'Mia Manager' } })
    }
    await expectNothingElse([
      [byUser, uma],
      [byManager, mia],
    ])
  })

  test('accepts an id in any spelling', async () => {
    const id = await newRequest(api)
    const socket = await connect(api, 'user')
    const heard = await Promise.all(
      [id.toUpperCase(), id.replaceAll('-', '')].map((written) => socket.subscribe(UPDATED, { id: written })),
    )
    await act(api, 'submitRequest', id, 'user')
    for (const each of heard) expect((await each.data()).requestUpdated.request.id).toBe(id)
  })

  test('reports nothing about a request that the subscriber cannot see, nor about an id never used', async () => {
    const id = await newRequest(api)
    const admin = await connect(api, 'admin')
    const seen = await admin.subscribe(UPDATED, { id })
    const sockets = await Promise.all((['user2', 'manager', 'manager2'] as const).map((who) => connect(api, who)))
    const unseen = await Promise.all(sockets.map((socket) => socket.subscribe(UPDATED, { id })))
    const unknown = await Promise.all(sockets.map((socket) => socket.subscribe(UPDATED, { id: NOBODY })))
    await act(api, 'updateRequest', id, 'user', { title: 'Still a draft' })
    expect(await statusOf(seen)).toBe('DRAFT')
    await expectNothingElse([...unseen, ...unknown].map((heard, i) => [heard, sockets[i % 3]!]))
    // Managers hear of it from the moment they may see it.
    await act(api, 'submitRequest', id, 'user')
    expect(await statusOf(seen)).toBe('SUBMITTED')
    for (const heard of unseen.slice(1)) expect(await statusOf(heard)).toBe('SUBMITTED')
    await act(api, 'rejectRequest', id, 'admin', { comment: 'No.' })
    for (const heard of unseen.slice(1)) expect(await statusOf(heard)).toBe('REJECTED')
    await expectNothingElse([
      [unseen[0]!, sockets[0]!],
      [unknown[0]!, sockets[0]!],
    ])
  })

  test('reports once, by null, that the request can no longer be seen', async () => {
    const id = await newRequest(api)
    const [uma, admin] = [await connect(api, 'user'), await connect(api, 'admin')]
    const [byUser, byAdmin] = [await uma.subscribe(UPDATED, { id }), await admin.subscribe(UPDATED, { id })]
    await act(api, 'deleteRequest', id, 'user')
    expect(await byUser.data()).toEqual({ requestUpdated: { request: null } })
    expect(await statusOf(byAdmin)).toBe('DRAFT') // Admins also see deleted requests.
    await owner.query(`select pg_notify('assent', 'request ' || $1)`, [id])
    expect(await statusOf(byAdmin)).toBe('DRAFT')
    await expectNothingElse([[byUser, uma]])
  })

  test('goes by the role of the moment: whoever is no longer a manager hears that once', async () => {
    const id = await newRequest(api, { submit: true })
    const person = await api.person('MANAGER')
    const socket = await connect(api, person)
    const heard = await socket.subscribe(UPDATED, { id })
    await act(api, 'assignRequest', id, 'admin', { assignedToId: api.db.people.manager2.id })
    expect(await statusOf(heard)).toBe('SUBMITTED')
    await api.data(mutation('updateUser', 'user { role }'), { input: { userId: person.id, role: 'USER' } }, 'admin')
    await act(api, 'assignRequest', id, 'admin', { assignedToId: null })
    expect(await statusOf(heard)).toBe(null)
    await act(api, 'approveRequest', id, 'admin')
    await expectNothingElse([[heard, socket]])
  })

  test('reports many changes at once as one event, with the final state', async () => {
    const id = await newRequest(api)
    const socket = await connect(api, 'user')
    const heard = await socket.subscribe(UPDATED, { id })
    const [holder, notifier] = [await api.db.connect('owner'), await api.db.connect('root')]
    const announce = () => notifier.query(`select pg_notify('assent', 'request ' || $1)`, [id])
    await holder.query('begin; lock table app_public.requests in access exclusive mode')
    try {
      await announce()
      await until(async () => {
        const waiting = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
        return (await notifier.query(waiting)).rows.length > 0
      })
      for (let i = 0; i < 50; i++) await announce()
      await sleep(500) // Until they are heard.
    } finally {
      await holder.query('rollback')
    }
    await heard.data()
    await heard.data()
    await expectNothingElse([[heard, socket]])
  })
})

describe('inboxChanged', () => {
  test('tells deciders, and nobody else, how many requests await them now', async () => {
    const people = ['manager', 'manager2', 'admin', 'user', 'user2'] as const
    const sockets = await Promise.all(people.map((who) => connect(api, who)))
    const [manager, manager2, admin, ...users] = (await Promise.all(sockets.map((socket) => socket.subscribe(INBOX)))) as [
      Heard,
      Heard,
      Heard,
      ...Heard[],
    ]
    const before = [await awaiting('manager'), await awaiting('manager2'), await awaiting('admin')]
    const counts = async () => [await count(manager), await count(manager2), await count(admin)]

    const id = await submitted()
    expect(await counts()).toEqual(before.map((n) => n + 1))
    await act(api, 'assignRequest', id, 'manager', { assignedToId: api.db.people.manager2.id })
    await work(id)
    expect(await counts()).toEqual([before[0], before[1]! + 1, before[2]! + 1])
    await act(api, 'approveRequest', id, 'manager2')
    await work(id)
    // The first manager could no longer decide it, and hears nothing.
    expect([await count(manager2), await count(admin)]).toEqual([before[1], before[2]])

    // A manager's own request awaits others.
    await submitted({ by: 'manager' })
    expect([await count(manager2), await count(admin)]).toEqual([before[1]! + 1, before[2]! + 1])
    await expectNothingElse([manager, ...users].map((heard, i) => [heard, sockets[i === 0 ? 0 : i + 2]!]))
  })

  test('reports when somebody becomes or ceases to be a decider, also to those who inherit their requests', async () => {
    const [person, watcher] = [await api.person('MANAGER'), await api.person('MANAGER')]
    await submitted({ assignedToId: person.id })
    const [theirs, watching] = [await connect(api, person), await connect(api, watcher)]
    const [mine, others] = [await theirs.subscribe(INBOX), await watching.subscribe(INBOX)]
    const [had, watched] = [await awaiting(person), await awaiting(watcher)]
    const change = async (role: string) => {
      await api.data(mutation('updateUser', 'user { role }'), { input: { userId: person.id, role } }, 'admin')
      await work(person.id)
    }
    await change('USER')
    expect([await count(mine), await count(others)]).toEqual([0, watched + 1])
    await change('MANAGER')
    expect([await count(mine), await count(others)]).toEqual([had, watched])
    await api.data(mutation('deactivateUser', 'user { id }'), { input: { userId: person.id } }, 'admin')
    await work(person.id)
    expect(await count(others)).toBe(watched + 1)
    expect(await theirs.closed).toEqual([4401, 'Unauthorized'])
  })
})

describe('notificationReceived', () => {
  test('reports each notification to its recipient, and to nobody else', async () => {
    const people = ['user', 'user2', 'manager', 'manager2'] as const
    const sockets = await Promise.all(people.map((who) => connect(api, who)))
    const [uma, user2, mia, manager2] = await Promise.all(sockets.map((socket) => socket.subscribe(RECEIVED)))
    const id = await submitted({ assignedToId: api.db.people.manager.id })
    const { notification } = (await mia!.data()).notificationReceived
    expect(notification).toMatchObject({ kind: 'SUBMITTED', request: { id }, actor: { name: 'Uma User' } })
    const { notifications } = await api.data('{ notifications(first: 1) { nodes { id } } }', {}, 'manager')
    expect(notifications.nodes).toEqual([{ id: notification.id }])

    await act(api, 'rejectRequest', id, 'manager', { comment: 'Too dear.' })
    await work(id)
    expect((await uma!.data()).notificationReceived.notification).toMatchObject({ kind: 'REJECTED', request: { id } })
    await expectNothingElse([uma, user2, mia, manager2].map((heard, i) => [heard!, sockets[i]!]))
  })

  test('reports each in order when many come at once, except those that exist only as mail', async () => {
    const person = await api.person()
    const socket = await connect(api, person)
    const heard = await socket.subscribe(RECEIVED)
    const { rows } = await owner.query<{ id: string }>(
      `insert into app_public.notifications (recipient_id, kind, event, mail_state)
       select $1, case when n % 10 = 0 then 'DIGEST' else 'ROLE_CHANGED' end, 'test ' || n, 'NONE' from generate_series(1, 100) n
       returning id`,
      [person.id],
    )
    for (const [i, { id }] of rows.entries()) {
      if ((i + 1) % 10 === 0) continue
      expect((await heard.data()).notificationReceived.notification.id).toBe(id)
    }
    await expectNothingElse([[heard, socket]])
  })

  test('reports nothing when an announcement names a notification of somebody else', async () => {
    const socket = await connect(api, 'user2')
    const heard = await socket.subscribe(RECEIVED)
    const { rows } = await owner.query(
      `insert into app_public.notifications (recipient_id, kind, event, mail_state)
       values ($1, 'ROLE_CHANGED', gen_random_uuid()::text, 'NONE') returning id`,
      [api.db.people.user.id],
    )
    await owner.query(`select pg_notify('assent', format('notification %s %s', $1::uuid, $2::uuid))`, [
      api.db.people.user2.id,
      rows[0].id,
    ])
    await expectNothingElse([[heard, socket]])
  })
})

test('what is made up with a stolen login ends no socket, and hides no news', async () => {
  const thief = await api.db.connect('auth')
  const id = await newRequest(api)
  const socket = await connect(api, 'user')
  const heard = [await socket.subscribe(RECEIVED), await socket.subscribe(UPDATED, { id })]
  const me = api.db.people.user.id
  const { rows } = await owner.query('select id from app_private.sessions where user_id = $1', [me])
  expect(rows.length).toBeGreaterThan(0)
  const made = [
    ...rows.map((session) => `session ${session.id}`),
    ...['', ' ', 'notification', `notification ${me}`, `notification ${me} nonsense`, `notification ${me} ${NOBODY} ${NOBODY}`],
    ...['session', 'session nonsense', 'request', `request ${id} nonsense`, 'constructor', '__proto__ x', `inbox ${me} x`],
  ]
  await thief.query(`select pg_notify('assent', payload) from unnest($1::text[]) payload`, [made])
  await thief.query(
    `select pg_notify('assent', format('notification %s %s', $1::uuid, gen_random_uuid())) from generate_series(1, 3000)`,
    [me],
  )
  await act(api, 'submitRequest', id, 'user')
  expect(await statusOf(heard[1]!)).toBe('SUBMITTED')
  const told = await owner.query(
    `insert into app_public.notifications (recipient_id, kind, event, mail_state)
     values ($1, 'ROLE_CHANGED', gen_random_uuid()::text, 'NONE') returning id`,
    [me],
  )
  expect((await heard[0]!.data()).notificationReceived.notification.id).toBe(told.rows[0].id)
  expect(socket.isOpen).toBe(true)
})

describe('the listening connection', () => {
  const listeners = async () =>
    (
      await owner.query<{ n: number }>(
        `select count(*)::integer as n from pg_stat_activity where datname = current_database() and application_name = 'assent live'`,
      )
    ).rows[0]!.n

  test('exists once in each process, and all processes hear', async () => {
    const id = await newRequest(api)
    const sockets = [await connect(api, 'user'), await connect(other, 'user'), await connect(other, 'admin')]
    const heard = await Promise.all(sockets.map((socket) => socket.subscribe(UPDATED, { id })))
    expect(await listeners()).toBe(2)
    await act(other, 'submitRequest', id, 'user')
    for (const each of heard) expect(await statusOf(each)).toBe('SUBMITTED')
  })

  test('sends subscribers away when it is lost, since they may miss something; clients come back by themselves', async () => {
    const root = await api.db.connect('root')
    const id = await newRequest(api)
    const socket = await connect(api, 'user')
    await socket.subscribe(UPDATED, { id })

    const messages: unknown[] = []
    let connections = 0
    const client = createClient({
      url: `${api.url.replace('http', 'ws')}/graphql`,
      webSocketImpl: WebSocket,
      connectionParams: () => ({ Authorization: `Bearer ${api.token('user')}` }),
      retryAttempts: 5,
      retryWait: () => new Promise((resolve) => setTimeout(resolve, 20)),
      on: { connected: () => void connections++ },
    })
    const failed = new Promise((_resolve, reject) => {
      client.subscribe(
        { query: UPDATED, variables: { id } },
        { next: (message) => void messages.push(message), error: reject, complete: () => reject(new Error('It is over.')) },
      )
    })
    failed.catch(() => {})
    await until(() => connections === 1)

    await root.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'assent live'`,
    )
    expect(await socket.closed).toEqual([1013, 'Try again later'])
    await until(() => connections === 2)
    for (let title = 1; messages.length === 0; title++) {
      await act(api, 'updateRequest', id, 'user', { title: String(title) })
      await Promise.race([failed, new Promise((resolve) => setTimeout(resolve, 50))])
    }
    expect(messages[0]).toMatchObject({ data: { requestUpdated: { request: { id } } } })
    await client.dispose()
  })

  test('refuses live news while it cannot be opened, and nothing else', async () => {
    const proxy = await startProxy(api.db.urls.auth)
    const away = await startApi({ AUTH_DATABASE_URL: proxy.url }, api.db)
    await proxy.cut()
    await expect(connect(away, 'user')).rejects.toMatchObject({ code: 1013, reason: 'Try again later' })
    expect((await away.send({ method: 'GET', path: '/healthz' })).status).toBe(200)
    await proxy.mend()
    const socket = await connect(away, 'user')
    const id = await newRequest(away)
    const heard = await socket.subscribe(UPDATED, { id })
    await act(away, 'submitRequest', id, 'user')
    expect(await statusOf(heard)).toBe('SUBMITTED')
    // Nothing but the closing tells the client.
    await proxy.cut()
    expect(await socket.closed).toEqual([1013, 'Try again later'])
    await away.close()
    await proxy.close()
  })
})

describe('one socket', () => {
  test('carries several operations, each until it completes', async () => {
    const socket = await connect(api, 'user')
    const [one, two] = [await newRequest(api), await newRequest(api)]
    const [first, second] = [await socket.subscribe(UPDATED, { id: one }), await socket.subscribe(UPDATED, { id: two })]
    await act(api, 'updateRequest', two, 'user', { title: 'Two' })
    expect((await second.data()).requestUpdated.request.title).toBe('Two')
    socket.send({ id: second.id, type: 'complete' })
    await act(api, 'submitRequest', two, 'user')
    await act(api, 'submitRequest', one, 'user')
    expect(await statusOf(first)).toBe('SUBMITTED')
    await expectNothingElse([
      [first, socket],
      [second, socket],
    ])
  })

  test('answers queries and mutations as POST does', async () => {
    const socket = await connect(api, 'user')
    const asked = socket.start('query ($id: UUID!) { currentUser { name } requests(condition: { id: $id }) { totalCount } }', {
      id: NOBODY,
    })
    expect(await asked.data()).toEqual({ currentUser: { name: 'Uma User' }, requests: { totalCount: 0 } })
    expect(await asked.next()).toEqual({ id: asked.id, type: 'complete' })
    const made = socket.start(mutation('createRequest', 'request { title }'), { input: { title: 'By WebSocket' } })
    expect(await made.data()).toEqual({ createRequest: { request: { title: 'By WebSocket' } } })
    const failed = socket.start(mutation('approveRequest'), { input: { requestId: await newRequest(api) } })
    expect(await failed.next()).toMatchObject({
      type: 'next',
      payload: { data: { approveRequest: null }, errors: [{ path: ['approveRequest'], extensions: { code: 'FORBIDDEN' } }] },
    })
    expect(socket.isOpen).toBe(true)
  })

  test('hears what is wrong with a document, with a code', async () => {
    const socket = await connect(api, 'user')
    for (const [query, variables] of [
      ['subscription { nothing }'],
      ['subscription {'],
      ['subscription { inboxChanged { totalCount } notificationReceived { notification { id } } }'],
      ['subscription { __typename }'],
      [UPDATED],
      [UPDATED, { id: 'x' }],
      [UPDATED, { id: null }],
      ['subscription A { inboxChanged { totalCount } } subscription B { inboxChanged { totalCount } }'],
      ['fragment F on Query { currentUser { id } }'],
      ['{ currentUser { id } }', { deep: [[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]] }],
      [`{ ${'currentUser { id } '.repeat(11)} }`],
    ] as [string, object?][]) {
      expect([query, await socket.start(query, variables).code()]).toEqual([query, 'BAD_REQUEST'])
    }
    expect(socket.isOpen).toBe(true)
  })
})

describe('server-sent events', () => {
  interface Stream {
    readonly res: IncomingMessage
    text(): string
    readonly ended: Promise<void>
  }
  const streams = new Set<IncomingMessage>()
  afterEach(() => {
    for (const res of streams) res.destroy()
    streams.clear()
  })

  function stream(on: Api, query: string, variables: object, headers: Record<string, string>): Promise<Stream> {
    return new Promise((resolve, reject) => {
      const req = request(`${on.url}/graphql`, {
        method: 'POST',
        headers: { accept: 'text/event-stream', 'content-type': 'application/json', ...headers },
      })
      req.on('error', reject)
      req.on('response', (res) => {
        streams.add(res)
        let text = ''
        res.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
        const ended = new Promise<void>((done) => res.once('close', done))
        res.on('error', () => {})
        resolve({ res, text: () => text, ended })
      })
      req.end(JSON.stringify({ query, variables }))
    })
  }
  const bearer = (token: string) => ({ authorization: `Bearer ${token}` })

  test('carry the same news, as a stream of "next" events', async () => {
    const id = await newRequest(api)
    const { res, text } = await stream(api, UPDATED, { id }, bearer(api.token('user')))
    expect(res.statusCode).toBe(200)
    expect(res.headers).toMatchObject({
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store',
      'x-accel-buffering': 'no',
    })
    await act(api, 'updateRequest', id, 'user', { title: 'Line\nbreaks\r\nare data' })
    await until(() => text().includes('event'))
    const request = { id, title: 'Line\nbreaks\r\nare data', status: 'DRAFT', version: 2 }
    expect(text()).toBe(`:\n\nevent: next\ndata: ${JSON.stringify({ data: { requestUpdated: { request } } })}\n\n`)
  })

  test('are only for our own pages', async () => {
    const origin = { origin: 'https://evil.example.com' }
    expect((await stream(api, INBOX, {}, { ...bearer(api.token('user')), ...origin })).res.statusCode).toBe(403)
    expect((await stream(api, INBOX, {}, { ...bearer(api.token('user')), origin: api.url })).res.statusCode).toBe(200)
  })

  test('are understood by the client of graphql-sse', async () => {
    await until(async () => (await subscribers()) === 0)
    const client = createEventsClient({ url: `${api.url}/graphql`, headers: bearer(api.token('manager')), retryAttempts: 0 })
    const events = client.iterate({ query: INBOX })
    const first = events.next()
    const before = await awaiting('manager')
    await until(async () => (await subscribers()) === 1)
    await submitted()
    expect((await first).value).toEqual({ data: { inboxChanged: { totalCount: before + 1 } } })
    await events.return!()
    client.dispose()
    await until(async () => (await subscribers()) === 0)
  })

  test('answer queries and mutations, too, with one "next" and "complete", errors of fields included', async () => {
    const ask = async (query: string, variables = {}) => {
      const { res, text, ended } = await stream(api, query, variables, bearer(api.token('user')))
      await ended
      expect([res.statusCode, res.headers['content-type']]).toEqual([200, 'text/event-stream; charset=utf-8'])
      const [, json] = /^:\n\nevent: next\ndata: (.*)\n\nevent: complete\ndata:\n\n$/.exec(text())!
      return JSON.parse(json!)
    }
    expect(await ask('{ currentUser { name } }')).toEqual({ data: { currentUser: { name: 'Uma User' } } })
    const made = await ask(mutation('createRequest', 'request { title }'), { input: { title: 'By events' } })
    expect(made).toEqual({ data: { createRequest: { request: { title: 'By events' } } } })
    const refused = await ask(mutation('createRequest'), { input: { title: ' ' } })
    expect([refused.data, refused.errors[0].extensions.code]).toEqual([{ createRequest: null }, 'VALIDATION_FAILED'])
  })

  test('are only for callers who accept them, and subscriptions for nobody else', async () => {
    expect(await api.code(INBOX, {}, 'user')).toBe('BAD_REQUEST')
    for (const [accept, status] of [
      ['text/event-stream;q=0, */*', 400],
      ['application/json, */*', 400],
      ['application/json, Text/Event-Stream;q=0.1', 200],
    ] as const)
      expect([accept, (await stream(api, INBOX, {}, { ...bearer(api.token('user')), accept })).res.statusCode]).toEqual([
        accept,
        status,
      ])
    const asked = await api.graphql('{ currentUser { name } }', {}, 'user', { accept: 'application/json, text/event-stream' })
    expect(asked.headers['content-type']).toMatch('application/json')
    expect(asked.body).toEqual({ data: { currentUser: { name: 'Uma User' } } })
  })

  test('need credentials; a refusal is JSON, as everywhere', async () => {
    const ask = async (headers: Record<string, string>, query = INBOX, variables = {}) => {
      const { res, text, ended } = await stream(api, query, variables, headers)
      await ended
      return [res.statusCode, JSON.parse(text()).errors[0].extensions.code]
    }
    const person = await api.person()
    for (const headers of [{}, bearer('x'), bearer(deadToken()), { cookie: 'assent_session=dead' }] as Record<string, string>[]) {
      expect([headers, await ask(headers)]).toEqual([headers, [401, 'UNAUTHENTICATED']])
    }
    expect(await ask(bearer(person.token), 'subscription { x }')).toEqual([400, 'BAD_REQUEST'])
    expect(await ask(bearer(person.token), UPDATED, { id: 'x' })).toEqual([400, 'BAD_REQUEST'])
    const asked = await api.graphql(INBOX, {}, 'user', { accept: 'text/event-stream', 'content-type': 'text/plain' })
    expect(asked.status).toBe(415)
  })

  test('end with their session, and count among the connections of their person', async () => {
    const person = await api.person()
    const all = await Promise.all(Array.from({ length: 20 }, () => stream(api, INBOX, {}, bearer(person.token))))
    expect(all.map(({ res }) => res.statusCode)).toEqual(Array(20).fill(200))
    const { res, text, ended } = await stream(api, INBOX, {}, bearer(person.token))
    await ended
    expect([res.statusCode, JSON.parse(text()).errors[0].extensions.code]).toEqual([429, 'RATE_LIMITED'])
    await expect(connect(api, person)).rejects.toMatchObject({ code: 1013 })
    const start = performance.now()
    await api.data(mutation('logout', 'clientMutationId'), { input: {} }, person)
    await Promise.all(all.map((each) => each.ended))
    expect(performance.now() - start).toBeLessThan(5_000)
    // The answer is whole, for HTTP. No "complete" is sent, since the end was not the client's: it asks again, and hears why.
    for (const { res, text } of all) expect([res.complete, text()]).toEqual([true, ':\n\n'])
  })
})
