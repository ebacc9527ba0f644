import jwt from 'jsonwebtoken'
import type { Client } from 'pg'
import {
  COMMANDS,
  deadToken,
  faultIn,
  mutation,
  newRequest,
  NOBODY,
  PASSWORD,
  startApi,
  type Api,
  type Command,
} from '../../harness/client.ts'

let api: Api
let owner: Client
beforeAll(async () => {
  api = await startApi()
  owner = await api.db.connect('owner')
})
afterAll(async () => {
  const auditor = await api.db.connect('auditor')
  const { rows } = await auditor.query('select * from audit.disagreements')
  await api.close()
  expect(rows).toEqual([])
})

const REQUEST = `id title description status version creator { id } creatorId assignedTo { id } assignedToId reviewedBy { id } reviewedById
  reviewedAt reviewComment submittedAt createdAt updatedAt isDeleted availableActions auditLogs { nodes { action } totalCount }`
const USER = 'id email name role permissions isDeleted createdAt'
const AUDIT_LOG = 'id actor { id } actorId action request { id } requestId user { id } userId metadata ipAddress timestamp'
const PAGE = 'pageInfo { hasNextPage hasPreviousPage startCursor endCursor } totalCount edges { cursor node { id } }'

const login = (email: string, password: string) =>
  api.data(mutation('login', `clientMutationId accessToken refreshToken expiresAt user { ${USER} }`), {
    input: { email, password },
  })

const command = (name: Command, requestId: string, input: object = COMMANDS[name]) =>
  [mutation(name), { input: { requestId, ...input } }] as const

const uuid = expect.stringMatching(/^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/)
const time = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d/)

describe('the names of the contract', () => {
  test('every query, and every field of a request, a person and an audit entry', async () => {
    const id = await newRequest(api, { title: 'Every field' })
    const { currentUser } = await api.data(`{ currentUser { ${USER} } }`, {}, 'user')
    expect(currentUser).toEqual({
      id: api.db.people.user.id,
      email: 'user@assent.test',
      name: 'Uma User',
      role: 'USER',
      permissions: ['request.create'],
      isDeleted: false,
      createdAt: time,
    })
    const { request } = await api.data(`query ($id: UUID!) { request(id: $id) { ${REQUEST} } }`, { id }, 'user')
    const me = api.db.people.user.id
    expect(request).toEqual({
      id,
      title: 'Every field',
      description: null,
      status: 'DRAFT',
      version: 1,
      creator: { id: me },
      creatorId: me,
      assignedTo: null,
      assignedToId: null,
      reviewedBy: null,
      reviewedById: null,
      reviewedAt: null,
      reviewComment: null,
      submittedAt: null,
      createdAt: time,
      updatedAt: time,
      isDeleted: false,
      availableActions: ['DELETE', 'SUBMIT', 'UPDATE'],
      auditLogs: { nodes: [{ action: 'CREATE' }], totalCount: 1 },
    })
    const { auditLogs } = await api.data(
      `query ($id: UUID!) { auditLogs(condition: { requestId: $id }) { nodes { ${AUDIT_LOG} } ${PAGE} } }`,
      { id },
      'user',
    )
    expect(auditLogs.nodes).toEqual([
      {
        id: uuid,
        actor: { id: me },
        actorId: me,
        action: 'CREATE',
        request: { id },
        requestId: id,
        user: null,
        userId: null,
        metadata: { old_status: null, new_status: 'DRAFT' },
        ipAddress: '127.0.0.1',
        timestamp: time,
      },
    ])
    const one = await api.data(
      `query ($user: UUID!, $auditLog: UUID!) { user(id: $user) { ${USER} } auditLog(id: $auditLog) { ${AUDIT_LOG} } }`,
      { user: me, auditLog: auditLogs.nodes[0].id },
      'user',
    )
    expect(one).toEqual({ user: currentUser, auditLog: auditLogs.nodes[0] })
    const lists = await api.data(
      `{ requests { nodes { ${REQUEST} } ${PAGE} } requestsAwaitingMyDecision { nodes { ${REQUEST} } ${PAGE} } users { nodes { ${USER} } ${PAGE} } }`,
      {},
      'user',
    )
    expect(lists.requests.nodes).toContainEqual(request)
    expect(lists.users.nodes).toContainEqual(currentUser)
    expect(lists.requestsAwaitingMyDecision.nodes).toEqual([])
  })

  test('ids are UUIDs, and enums are those of the contract', async () => {
    const { __schema } = await api.data(`{
      __schema {
        types { name enumValues { name } inputFields { name type { kind name ofType { name ofType { name ofType { name } } } } } }
        queryType { fields { name args { name type { kind name ofType { name } } } } }
        mutationType { fields { name args { name type { kind ofType { name } } } } }
      }
    }`)
    const type = (name: string) => __schema.types.find((t: { name: string }) => t.name === name)
    const names = (list: { name: string }[]) => list.map(({ name }) => name)
    const nameOf = (type: { name: string | null; ofType?: any }): string => type.name ?? nameOf(type.ofType)
    expect(names(type('Role').enumValues)).toEqual(['USER', 'MANAGER', 'ADMIN'])
    expect(names(type('RequestStatus').enumValues).sort()).toEqual(['APPROVED', 'DRAFT', 'REJECTED', 'SUBMITTED'])
    const queries = Object.fromEntries(__schema.queryType.fields.map((f: any) => [f.name, f.args]))
    for (const name of ['request', 'user', 'auditLog', 'notification']) {
      expect(queries[name]).toEqual([{ name: 'id', type: { kind: 'NON_NULL', name: null, ofType: { name: 'UUID' } } }])
    }
    for (const { args } of __schema.mutationType.fields) {
      expect(names(args)).toEqual(['input'])
      expect(names(type(args[0].type.ofType.name).inputFields)).toContain('clientMutationId')
    }
    const inputs: Record<string, string[]> = {
      login: ['email', 'password'],
      logout: [],
      createRequest: ['title', 'description', 'assignedToId', 'kindId', 'data'],
      updateRequest: ['requestId', 'title', 'description', 'assignedToId', 'version', 'data'],
      saveRequestKind: ['id', 'name', 'description', 'schema', 'isActive'],
      submitRequest: ['requestId', 'version'],
      approveRequest: ['requestId', 'comment', 'version'],
      rejectRequest: ['requestId', 'comment', 'version'],
      assignRequest: ['requestId', 'assignedToId', 'version'],
      deleteRequest: ['requestId', 'version'],
      changePassword: ['oldPassword', 'newPassword'],
      createUser: ['email', 'name', 'role'],
      resendInvitation: ['userId'],
      endSessions: ['userId'],
      updateUser: ['userId', 'name', 'role'],
      deactivateUser: ['userId'],
      reactivateUser: ['userId'],
      requestPasswordReset: ['email'],
      resetPassword: ['token', 'newPassword'],
      markNotificationRead: ['notificationId'],
      markAllNotificationsRead: [],
      setNotificationPreference: ['kind', 'delivery'],
      resendMail: ['notificationId'],
      createWebhook: ['url', 'events'],
      updateWebhook: ['webhookId', 'url', 'events', 'isEnabled'],
      deleteWebhook: ['webhookId'],
      resendWebhookDelivery: ['deliveryId'],
    }
    expect(names(__schema.mutationType.fields).sort()).toEqual(Object.keys(inputs).sort())
    const types: Record<string, string> = {
      version: 'Int',
      isEnabled: 'Boolean',
      isActive: 'Boolean',
      kindId: 'String',
      data: 'JSON',
      schema: 'JSON',
      role: 'Role',
      kind: 'NotificationKind',
      delivery: 'MailDelivery',
    }
    for (const [name, fields] of Object.entries(inputs)) {
      const input = type(`${name[0]!.toUpperCase()}${name.slice(1)}Input`)
      expect([name, ...names(input.inputFields).sort()]).toEqual([name, ...['clientMutationId', ...fields].sort()])
      for (const { name: field, type: t } of input.inputFields) {
        const isId = field.endsWith('Id') && field !== 'clientMutationId'
        const expected = types[field as string] ?? (isId ? 'UUID' : 'String')
        expect([field, nameOf(t)]).toEqual([field, expected])
      }
    }
  })

  test('login returns a token that works, and the person', async () => {
    const { login: payload } = await login('USER@assent.test', PASSWORD)
    expect(payload).toEqual({
      clientMutationId: null,
      accessToken: expect.stringMatching(/^[\w-]+\.[\w-]+\.[\w-]+$/),
      refreshToken: expect.stringMatching(/^[\w-]{43}\.[\w-]{43}$/),
      expiresAt: time,
      user: expect.objectContaining({ id: api.db.people.user.id, email: 'user@assent.test', role: 'USER' }),
    })
    expect(Date.parse(payload.expiresAt)).toBeGreaterThan(Date.now())
    const { currentUser } = await api.data('{ currentUser { id } }', {}, { token: payload.accessToken })
    expect(currentUser).toEqual({ id: api.db.people.user.id })
    const { exp } = jwt.decode(payload.accessToken) as { exp: number }
    expect(Math.abs(exp * 1000 - Date.parse(payload.expiresAt))).toBeLessThan(2000)
  })

  test('each payload returns clientMutationId', async () => {
    const clientMutationId = 'mine \u0001 ☃ "quoted"'
    const selection = 'clientMutationId'
    const {
      login: { clientMutationId: ofLogin },
    } = await api.data(mutation('login', selection), {
      input: { email: 'user@assent.test', password: PASSWORD, clientMutationId },
    })
    expect(ofLogin).toBe(clientMutationId)
    const { createRequest } = await api.data(
      mutation('createRequest', selection),
      { input: { title: 'x', clientMutationId } },
      'user',
    )
    expect(createRequest).toEqual({ clientMutationId })
    for (const name of Object.keys(COMMANDS) as Command[]) {
      const decided = !['updateRequest', 'deleteRequest', 'submitRequest'].includes(name)
      const requestId = await newRequest(api, { submit: decided })
      const input = { requestId, clientMutationId, ...COMMANDS[name] }
      expect(await api.data(mutation(name, selection), { input }, decided ? 'manager' : 'user')).toEqual({
        [name]: { clientMutationId },
      })
    }
    const {
      login: { accessToken: token },
    } = await login('user@assent.test', PASSWORD)
    expect(await api.data(mutation('logout', selection), { input: { clientMutationId } }, { token })).toEqual({
      logout: { clientMutationId },
    })
  })
})

describe('one life of a request', () => {
  const CHANGED = `request { ${REQUEST} }`
  const actions = (r: any) => r.auditLogs.nodes.map((a: { action: string }) => a.action)

  test('payloads are up to date, from the draft to its approval', async () => {
    const { user, manager } = api.db.people
    const created = (
      await api.data(
        mutation('createRequest', CHANGED),
        { input: { title: 'Life', description: 'd', assignedToId: manager.id } },
        'user',
      )
    ).createRequest.request
    expect(created).toMatchObject({
      status: 'DRAFT',
      version: 1,
      description: 'd',
      assignedTo: { id: manager.id },
      availableActions: ['DELETE', 'SUBMIT', 'UPDATE'],
    })
    expect(actions(created)).toEqual(['CREATE'])
    const requestId = created.id

    const updated = (await api.data(mutation('updateRequest', CHANGED), { input: { requestId, title: 'Life 2' } }, 'user'))
      .updateRequest.request
    expect(updated).toMatchObject({ title: 'Life 2', description: 'd', version: 2, assignedToId: manager.id })
    expect(actions(updated)).toEqual(['UPDATE', 'CREATE'])

    const submitted = (await api.data(mutation('submitRequest', CHANGED), { input: { requestId } }, 'user')).submitRequest.request
    expect(submitted).toMatchObject({ status: 'SUBMITTED', version: 3, submittedAt: time, availableActions: [] })
    expect(actions(submitted)).toEqual(['SUBMIT', 'UPDATE', 'CREATE'])

    const assigned = (await api.data(mutation('assignRequest', CHANGED), { input: { requestId, assignedToId: null } }, 'manager'))
      .assignRequest.request
    expect(assigned).toMatchObject({
      assignedTo: null,
      assignedToId: null,
      version: 4,
      availableActions: ['APPROVE', 'ASSIGN', 'REJECT'],
    })

    const approved = (await api.data(mutation('approveRequest', CHANGED), { input: { requestId, comment: 'Fine.' } }, 'manager'))
      .approveRequest.request
    expect(approved).toMatchObject({
      status: 'APPROVED',
      version: 5,
      reviewedBy: { id: manager.id },
      reviewedById: manager.id,
      reviewedAt: time,
      reviewComment: 'Fine.',
      availableActions: [],
      auditLogs: { totalCount: 5 },
    })
    expect(actions(approved)).toEqual(['APPROVE', 'ASSIGN', 'SUBMIT', 'UPDATE', 'CREATE'])
    expect(approved.creator).toEqual({ id: user.id })
  })

  test('assigning a request to somebody else takes the buttons away in the same payload', async () => {
    const requestId = await newRequest(api, { submit: true })
    const input = { requestId, assignedToId: api.db.people.manager2.id }
    const { assignRequest } = await api.data(mutation('assignRequest', CHANGED), { input }, 'manager')
    expect(assignRequest.request).toMatchObject({ availableActions: [], assignedTo: { id: api.db.people.manager2.id } })
  })

  test('waitsFor names whoever can decide a request now, to whoever sees it', async () => {
    const namesOf = async (id: string, who: 'user' | 'manager' | 'admin') => {
      const { request } = await api.data('query ($id: UUID!) { request(id: $id) { waitsFor { name } } }', { id }, who)
      return request.waitsFor.map(({ name }: { name: string }) => name)
    }
    const all = ['Ada Admin', 'Max Manager', 'Mia Manager']
    expect(await namesOf(await newRequest(api), 'user')).toEqual([])
    const id = await newRequest(api, { submit: true })
    for (const who of ['user', 'manager', 'admin'] as const) expect(await namesOf(id, who)).toEqual(all)
    expect(await namesOf(await newRequest(api, { by: 'manager', submit: true }), 'manager')).toEqual(['Ada Admin', 'Max Manager'])

    const leaver = await api.person('MANAGER')
    await api.data(mutation('assignRequest'), { input: { requestId: id, assignedToId: leaver.id } }, 'manager')
    expect(await namesOf(id, 'user')).toEqual(['Ada Admin', expect.any(String)])
    await owner.query('update app_public.users set is_deleted = true where id = $1', [leaver.id])
    expect(await namesOf(id, 'user')).toEqual(all) // An assignee who has left counts as none.

    await api.data(mutation('approveRequest'), { input: { requestId: id } }, 'admin')
    expect(await namesOf(id, 'user')).toEqual([])
  })

  test('turnaround sums up the decisions that the caller sees: in all, by decider and by day', async () => {
    const ask = `query ($from: Datetime!, $to: Datetime!) { turnaround(from: $from, to: $to) {
      decider { name } day decided approved rejected medianHours averageHours } }`
    const person = 'user2'
    const decide = async (hours: number, day: number, name: Command, who: 'manager' | 'admin', by: 'user' | 'user2' = person) => {
      const { createRequest } = await api.data(mutation('createRequest'), { input: { title: 'x' } }, by)
      const requestId = createRequest.request.id
      await api.data(mutation('submitRequest'), { input: { requestId } }, by)
      await api.data(...command(name, requestId, COMMANDS[name]), who)
      const root = await api.db.connect('root')
      await root.query('set session_replication_role = replica')
      await root.query(
        `update app_public.requests set reviewed_at = make_timestamptz(2020, 3, $2, 12, 0, 0, 'UTC'),
           submitted_at = make_timestamptz(2020, 3, $2, 12, 0, 0, 'UTC') - $3 * interval '1 hour' where id = $1`,
        [requestId, day, hours],
      )
      await root.end()
    }
    await decide(1, 1, 'approveRequest', 'manager')
    await decide(2, 1, 'rejectRequest', 'manager')
    await decide(9, 2, 'approveRequest', 'admin')
    await decide(20, 2, 'approveRequest', 'admin', 'user') // somebody else's
    const march = { from: '2020-03-01T00:00:00Z', to: '2020-04-01T00:00:00Z' }
    const row = (decided: number, approved: number, median: number, average: number, of: object = {}) => ({
      decider: null,
      day: null,
      decided,
      approved,
      rejected: decided - approved,
      medianHours: median,
      averageHours: average,
      ...of,
    })
    const [mia, ada] = [{ decider: { name: 'Mia Manager' } }, { decider: { name: 'Ada Admin' } }]
    const day = (number: number) => ({ day: expect.stringMatching(`^2020-03-0${number}T00:00:00`) })
    expect((await api.data(ask, march, person)).turnaround).toEqual([
      row(3, 2, 2, 4),
      row(2, 1, 1.5, 1.5, mia),
      row(1, 1, 9, 9, ada),
      row(2, 1, 1.5, 1.5, day(1)),
      row(1, 1, 9, 9, day(2)),
    ])
    expect((await api.data(ask, march, 'manager')).turnaround[0]).toEqual(row(4, 3, 5.5, 8))
    expect((await api.data(ask, { ...march, to: '2020-03-02T12:00:00Z' }, 'manager')).turnaround[0]).toEqual(row(2, 1, 1.5, 1.5))
    const none = { from: '2019-01-01T00:00:00Z', to: '2019-01-01T00:00:00Z' }
    expect((await api.data(ask, none, 'admin')).turnaround).toEqual([
      { ...row(0, 0, 0, 0), medianHours: null, averageHours: null },
    ])
    for (const [from, to] of [
      ['2020-04-01T00:00:00Z', '2020-03-01T00:00:00Z'],
      ['2020-01-01T00:00:00Z', '2021-01-02T00:00:00Z'],
    ]) {
      const { body } = await api.graphql(ask, { from, to }, 'admin')
      expect([from, to, body.errors[0].extensions]).toEqual([from, to, faultIn('to')])
    }
    for (const bounds of [
      ['-infinity', '2020-03-01T00:00:00Z'],
      ['2020-03-01T00:00:00Z', 'infinity'],
    ]) {
      // By GraphQL these are no times.
      const summed = api.db.commit('admin', 'select app_public.turnaround($1, $2)', bounds)
      await expect(summed).rejects.toMatchObject({ code: 'RQ422', column: 'to' })
    }
    for (const variables of [{}, { ...march, to: null }, { ...march, to: 'x' }]) {
      expect(['BAD_REQUEST', 'VALIDATION_FAILED']).toContain(await api.code(ask, variables, 'user'))
    }
    expect(await api.code(ask, march)).toBe('UNAUTHENTICATED')
  })

  test('a deleted draft is returned once, as deleted, and is then gone', async () => {
    const requestId = await newRequest(api)
    const { deleteRequest } = await api.data(mutation('deleteRequest', CHANGED), { input: { requestId } }, 'user')
    expect(deleteRequest.request).toMatchObject({ id: requestId, isDeleted: true, availableActions: [] })
    const query = 'query ($id: UUID!) { request(id: $id) { isDeleted } }'
    expect(await api.data(query, { id: requestId }, 'user')).toEqual({ request: null })
    expect(await api.data(query, { id: requestId }, 'manager')).toEqual({ request: null })
    expect(await api.data(query, { id: requestId }, 'admin')).toEqual({ request: { isDeleted: true } })
  })

  test('availableActions lists what the caller may do, and nothing else is allowed', async () => {
    const id = await newRequest(api, { submit: true, assignedToId: api.db.people.manager2.id })
    const query = 'query ($id: UUID!) { request(id: $id) { availableActions } }'
    const all = ['APPROVE', 'ASSIGN', 'REJECT']
    for (const [who, expected] of [
      ['user', []],
      ['manager', []],
      ['manager2', all],
      ['admin', all],
    ] as const) {
      expect([who, (await api.data(query, { id }, who)).request.availableActions]).toEqual([who, expected])
      if (expected.length === 0) {
        for (const name of ['approveRequest', 'rejectRequest', 'assignRequest'] as const)
          expect(await api.code(...command(name, id), who)).toBe('FORBIDDEN')
      }
    }
  })

  test('null clears a field, and a field left out is unchanged', async () => {
    const { manager } = api.db.people
    const select = 'request { title description assignedToId }'
    const { createRequest } = await api.data(
      mutation('createRequest', 'request { id }'),
      { input: { title: 't', description: 'd', assignedToId: manager.id } },
      'user',
    )
    const requestId = createRequest.request.id
    const update = async (input: object) =>
      (await api.data(mutation('updateRequest', select), { input: { requestId, ...input } }, 'user')).updateRequest.request
    expect(await update({ title: 'u' })).toEqual({ title: 'u', description: 'd', assignedToId: manager.id })
    expect(await update({ description: null })).toEqual({ title: 'u', description: null, assignedToId: manager.id })
    expect(await update({ assignedToId: null, description: '' })).toEqual({ title: 'u', description: '', assignedToId: null })
    // A variable that is declared but not given counts as left out.
    const { updateRequest } = await api.data(
      `mutation ($id: UUID!, $d: String, $t: String) { updateRequest(input: { requestId: $id, description: $d, title: $t }) { ${select} } }`,
      { id: requestId, d: 'e' },
      'user',
    )
    expect(updateRequest.request).toEqual({ title: 'u', description: 'e', assignedToId: null })
    expect(await api.code(mutation('updateRequest', select), { input: { requestId, title: null } }, 'user')).toBe(
      'VALIDATION_FAILED',
    )
    await api.data(mutation('submitRequest'), { input: { requestId } }, 'user')
    const assign = async (input: object) =>
      (await api.data(mutation('assignRequest', select), { input: { requestId, ...input } }, 'admin')).assignRequest.request
        .assignedToId
    expect(await assign({ assignedToId: manager.id })).toBe(manager.id)
    expect(await assign({})).toBe(manager.id)
    expect(await assign({ assignedToId: null })).toBeNull()
  })

  test('an edit that changes nothing leaves no trace', async () => {
    const requestId = await newRequest(api, { title: 'Same' })
    const { updateRequest } = await api.data(
      mutation('updateRequest', 'request { version auditLogs { totalCount } }'),
      { input: { requestId, title: 'Same' } },
      'user',
    )
    expect(updateRequest.request).toEqual({ version: 1, auditLogs: { totalCount: 1 } })
  })

  test('text is kept byte for byte, and lengths count code points', async () => {
    const text = '  \u0001\ttrailing \r\n é e\u0301 \u202e 😀 \ufffe "\\ $1 \u2028 '
    const { createRequest } = await api.data(
      mutation('createRequest', 'request { title description }'),
      { input: { title: text, description: text } },
      'user',
    )
    expect(createRequest.request).toEqual({ title: text, description: text })
    for (const [title, fits] of [
      ['😀'.repeat(200), true],
      ['😀'.repeat(201), false],
      ['x'.repeat(201), false],
    ] as const) {
      const { body } = await api.graphql(mutation('createRequest', 'request { title }'), { input: { title } }, 'user')
      expect(body.errors?.[0].extensions.code).toBe(fits ? undefined : 'VALIDATION_FAILED')
      if (fits) expect(body.data.createRequest.request.title).toBe(title)
    }
  })
})

describe('errors', () => {
  test('VALIDATION_FAILED names the field at fault', async () => {
    const { user, user2, manager } = api.db.people
    const bad: [object, string | undefined][] = [
      [{ title: '' }, 'title'],
      [{ title: ' \n\t\u00a0\u200b' }, 'title'],
      [{ title: 'x'.repeat(201) }, 'title'],
      [{ title: 'x', description: 'x'.repeat(10_001) }, 'description'],
      [{ title: 'x', assignedToId: NOBODY }, 'assignedToId'],
      [{ title: 'x', assignedToId: user.id }, 'assignedToId'],
      [{ title: 'x', assignedToId: user2.id }, 'assignedToId'],
    ]
    const count = 'select count(*) from app_public.requests'
    const before = (await owner.query(count)).rows
    for (const [input, field] of bad) {
      const { body } = await api.graphql(mutation('createRequest'), { input }, 'user')
      expect([input, body.errors?.[0].extensions]).toEqual([input, field ? faultIn(field) : { code: 'VALIDATION_FAILED' }])
      expect(body.data).toEqual({ createRequest: null })
    }
    expect(await api.code(mutation('createRequest'), { input: { title: 'x', assignedToId: manager.id } }, 'manager')).toBe(
      'VALIDATION_FAILED',
    )
    expect((await owner.query(count)).rows).toEqual(before)

    const requestId = await newRequest(api, { submit: true })
    const expectBadComment = async (name: Command, comment: unknown) => {
      const { body } = await api.graphql(...command(name, requestId, { comment }), 'manager')
      expect([comment, body.errors?.[0].extensions]).toEqual([comment, faultIn('comment')])
    }
    for (const comment of ['', ' \n']) await expectBadComment('rejectRequest', comment)
    await expectBadComment('approveRequest', 'x'.repeat(10_001))
  })

  test('BAD_REQUEST is the answer to a variable that is missing, null or of another type', async () => {
    const requestId = await newRequest(api, { submit: true })
    for (const input of [{}, { title: null }, { title: 1 }, { title: 'x', titel: 'x' }, { title: 'x', assignedToId: 'x' }]) {
      expect([input, await api.code(mutation('createRequest'), { input }, 'user')]).toEqual([input, 'BAD_REQUEST'])
    }
    for (const comment of [undefined, null]) {
      expect(await api.code(...command('rejectRequest', requestId, { comment }), 'manager')).toBe('BAD_REQUEST')
    }
    for (const [kind, delivery] of [
      ['SUBMITED', 'NONE'],
      ['SUBMITTED', 'none'],
      ['SUBMITTED', null],
    ]) {
      expect(await api.code(mutation('setNotificationPreference'), { input: { kind, delivery } }, 'user')).toBe('BAD_REQUEST')
    }
    expect(await api.code('query ($id: UUID!) { request(id: $id) { id } }', {}, 'user')).toBe('BAD_REQUEST')
  })

  test('STALE_VERSION is checked by every command; the current version passes', async () => {
    for (const name of Object.keys(COMMANDS) as Command[]) {
      const decided = !['updateRequest', 'deleteRequest', 'submitRequest'].includes(name)
      const id = await newRequest(api, { submit: decided })
      const who = decided ? 'manager' : 'user'
      const version = decided ? 2 : 1
      for (const stale of [version - 1, version + 1]) {
        expect([name, await api.code(...command(name, id, { ...COMMANDS[name], version: stale }), who)]).toEqual([
          name,
          'STALE_VERSION',
        ])
      }
      await api.data(...command(name, id, { ...COMMANDS[name], version }), who)
    }
  })

  test('INVALID_TRANSITION answers the second of two decisions', async () => {
    const id = await newRequest(api, { submit: true })
    const race = await Promise.all(
      (['manager', 'manager2', 'admin'] as const).map((who) => api.graphql(...command('approveRequest', id), who)),
    )
    const codes = race.map(({ body }) => body.errors?.[0].extensions.code ?? 'done').sort()
    expect(codes).toEqual(['INVALID_TRANSITION', 'INVALID_TRANSITION', 'done'])
    expect(await api.code(...command('rejectRequest', id), 'admin')).toBe('INVALID_TRANSITION')
    expect(await api.code(...command('updateRequest', id), 'user')).toBe('INVALID_TRANSITION')
    expect(await api.code(...command('submitRequest', id), 'user')).toBe('INVALID_TRANSITION')
  })

  test('FORBIDDEN answers whoever decides their own request, or edits another’s', async () => {
    for (const who of ['user', 'manager', 'admin'] as const) {
      const id = await newRequest(api, { by: who, submit: true })
      for (const name of ['approveRequest', 'rejectRequest'] as const) {
        expect([who, await api.code(...command(name, id), who)]).toEqual([who, 'FORBIDDEN'])
      }
    }
    const id = await newRequest(api, { submit: true })
    for (const name of ['updateRequest', 'deleteRequest', 'submitRequest'] as const) {
      expect(await api.code(...command(name, id), 'manager')).toBe('FORBIDDEN')
    }
  })

  test('come in the order of the checks: each fault hides those after it', async () => {
    const draft = await newRequest(api)
    const decided = await newRequest(api, { submit: true })
    await api.data(...command('approveRequest', decided), 'admin')
    const open = await newRequest(api, { submit: true })
    const wrong = { comment: ' ', version: 99 }
    expect(await api.code(...command('rejectRequest', NOBODY, wrong))).toBe('UNAUTHENTICATED')
    expect(await api.code(...command('rejectRequest', draft, wrong), 'manager')).toBe('NOT_FOUND')
    expect(await api.code(...command('rejectRequest', decided, wrong), 'user')).toBe('FORBIDDEN')
    expect(await api.code(...command('rejectRequest', decided, wrong), 'manager')).toBe('INVALID_TRANSITION')
    expect(await api.code(...command('rejectRequest', open, wrong), 'manager')).toBe('STALE_VERSION')
    expect(await api.code(...command('rejectRequest', open, { comment: ' ' }), 'manager')).toBe('VALIDATION_FAILED')
    expect(await api.code(...command('updateRequest', draft, { title: '', assignedToId: NOBODY, version: 7 }), 'user')).toBe(
      'STALE_VERSION',
    )
    expect(await api.code(...command('assignRequest', decided, { assignedToId: NOBODY, version: 7 }), 'admin')).toBe(
      'INVALID_TRANSITION',
    )
  })

  test('BAD_REQUEST answers what the schema refuses, outside production with a guess at misspelt names', async () => {
    const { status, body } = await api.graphql('{ requestz { nodes { id } } }', {}, 'user')
    expect([status, body.errors[0].extensions]).toEqual([400, { code: 'BAD_REQUEST' }])
    expect(body.errors[0].message).toMatch(/ Did you mean "request", "requests", or "requestKind"\?$/)
    for (const query of [
      '',
      '{',
      '{ currentUser }',
      'query ($x: Nope) { currentUser { id } }',
      '{ request(id: "no uuid") { id } }',
      '{ request { id } }',
    ]) {
      expect([query, await api.code(query, {}, 'user')]).toEqual([query, 'BAD_REQUEST'])
    }
    expect(await api.code(...command('approveRequest', NOBODY, { version: 2 ** 31 }), 'user')).toBe('BAD_REQUEST')
    expect(await api.code(...command('approveRequest', 'no uuid'), 'user')).toBe('BAD_REQUEST')
    expect(
      await api.code('query ($s: RequestStatus) { requests(condition: { status: $s }) { totalCount } }', { s: 'DRAF' }, 'user'),
    ).toBe('BAD_REQUEST')
  })
})

describe('what a caller may not see', () => {
  /** The answers for an id must be those for an id never used, except for the id itself. */
  const indistinguishable = async (
    query: string,
    variables: (id: string) => object,
    id: string,
    who: 'user' | 'user2' | 'manager',
  ) => {
    const [hidden, absent] = await Promise.all([id, NOBODY].map((it) => api.graphql(query, variables(it), who)))
    expect(hidden!.text.replaceAll(id, NOBODY)).toBe(absent!.text)
    expect(hidden!.status).toBe(absent!.status)
    return hidden!.body
  }

  test('a hidden request is null, byte for byte as one that never was, and no command finds it', async () => {
    const others = await newRequest(api, { by: 'user2', submit: true })
    const draft = await newRequest(api, { by: 'user2' })
    const deleted = await newRequest(api, { by: 'user2' })
    await api.data(...command('deleteRequest', deleted), 'user2')
    const hidden = [
      [others, 'user'],
      [draft, 'user'],
      [draft, 'manager'],
      [deleted, 'manager'],
      [deleted, 'user2'],
    ] as const
    for (const [id, who] of hidden) {
      expect((await api.data('query ($id: UUID!) { request(id: $id) { id } }', { id }, 'admin')).request).toEqual({ id })
      const body = await indistinguishable(
        `query ($id: UUID!) { request(id: $id) { ${REQUEST} } }`,
        (it) => ({ id: it }),
        id,
        who,
      )
      expect(body).toEqual({ data: { request: null } })
      for (const name of Object.keys(COMMANDS) as Command[]) {
        for (const extra of [{}, { version: 1 }]) {
          const answer = await indistinguishable(
            mutation(name),
            (requestId) => ({ input: { requestId, ...COMMANDS[name], ...extra } }),
            id,
            who,
          )
          expect(answer.errors[0].extensions.code).toBe('NOT_FOUND')
        }
      }
      for (const list of [
        'requests(condition: { id: $id }) { totalCount nodes { id } }',
        'auditLogs(condition: { requestId: $id }) { totalCount nodes { id } }',
      ]) {
        // Whoever deleted a draft keeps the entries of what they did.
        if (who === 'user2' && list.startsWith('audit')) continue
        await indistinguishable(`query ($id: UUID!) { ${list} }`, (it) => ({ id: it }), id, who)
      }
    }
  })

  test('hidden audit entries likewise', async () => {
    const requestId = await newRequest(api, { by: 'user2' })
    const {
      rows: [{ id }],
    } = await owner.query('select id from app_public.audit_logs where request_id = $1', [requestId])
    const auditLog = `query ($id: UUID!) { auditLog(id: $id) { ${AUDIT_LOG} } }`
    expect((await api.data(auditLog, { id }, 'user2')).auditLog.id).toBe(id)
    for (const who of ['user', 'manager'] as const) {
      expect(await indistinguishable(auditLog, (it) => ({ id: it }), id, who)).toEqual({ data: { auditLog: null } })
    }
    // As an assignee too, a plain user is refused like somebody who does not exist.
    await indistinguishable(
      mutation('createRequest'),
      (assignedToId) => ({ input: { title: 'x', assignedToId } }),
      api.db.people.user2.id,
      'user',
    )
  })

  test('everybody sees everybody, and certain addresses', async () => {
    const seen = async (who: 'user' | 'manager' | 'admin') => {
      const { users } = await api.data('{ users(first: 100) { nodes { name email role } totalCount } }', {}, who)
      expect(users.totalCount).toBe(users.nodes.length)
      return Object.fromEntries(users.nodes.map((u: { name: string; email: string | null }) => [u.name, u.email]))
    }
    const all = {
      'Ada Admin': 'admin@assent.test',
      'Mia Manager': 'manager@assent.test',
      'Max Manager': 'manager2@assent.test',
      'Uma User': 'user@assent.test',
      'Ugo User': 'user2@assent.test',
    }
    expect(await seen('manager')).toEqual(all)
    expect(await seen('admin')).toEqual(all)
    expect(await seen('user')).toEqual({
      'Ada Admin': null,
      'Mia Manager': null,
      'Max Manager': null,
      'Uma User': 'user@assent.test',
      'Ugo User': null,
    })
  })

  test('each role lists certain requests and audit entries', async () => {
    const mine = await newRequest(api, { submit: true })
    const draft = await newRequest(api, { by: 'user2' })
    const list = async (who: 'user' | 'manager' | 'admin') => {
      const { requests, auditLogs } = await api.data(
        '{ requests(first: 100) { nodes { id } } auditLogs(first: 100) { nodes { requestId } } }',
        {},
        who,
      )
      const ids = requests.nodes.map((r: { id: string }) => r.id)
      const audited = auditLogs.nodes.map((a: { requestId: string }) => a.requestId)
      return [mine, draft].flatMap((id) => [ids.includes(id), audited.includes(id)])
    }
    expect(await list('user')).toEqual([true, true, false, false])
    expect(await list('manager')).toEqual([true, true, false, false])
    expect(await list('admin')).toEqual([true, true, true, true])
  })

  test('a deactivated person stays visible in what they did', async () => {
    const id = await newRequest(api, { submit: true })
    const person = await api.person('MANAGER')
    await api.data(...command('approveRequest', id), person)
    await owner.query('update app_public.users set is_deleted = true where id = $1', [person.id])
    const query = `query ($id: UUID!) { request(id: $id) { reviewedBy { name isDeleted email } auditLogs { nodes { actor { name } } } } }`
    for (const who of ['user', 'manager', 'admin'] as const) {
      const { request } = await api.data(query, { id }, who)
      expect(request.reviewedBy).toEqual({
        name: 'Somebody New',
        isDeleted: true,
        email: who === 'user' ? null : person.email,
      })
      expect(request.auditLogs.nodes.map((a: any) => a.actor?.name)).toEqual(['Somebody New', 'Uma User', 'Uma User'])
    }
  })
})

describe('credentials', () => {
  const QUERIES = [
    `{ request(id: "${NOBODY}") { id } }`,
    '{ requests { totalCount } }',
    '{ requests { nodes { id } } }',
    '{ requestsAwaitingMyDecision { totalCount } }',
    `{ user(id: "${NOBODY}") { id } }`,
    '{ users { nodes { id } } }',
    `{ auditLog(id: "${NOBODY}") { id } }`,
    '{ auditLogs { nodes { id } } }',
  ]

  test('are needed for everything but login, currentUser and introspection', async () => {
    expect(await api.data('{ currentUser { id } }')).toEqual({ currentUser: null })
    expect(await api.data('{ __typename }')).toEqual({ __typename: 'Query' })
    expect((await api.data('{ __schema { queryType { name } } }')).__schema.queryType).toEqual({ name: 'Query' })
    for (const query of QUERIES) expect([query, await api.code(query)]).toEqual([query, 'UNAUTHENTICATED'])
    expect(await api.code(mutation('createRequest'), { input: { title: 'x' } })).toBe('UNAUTHENTICATED')
    expect(await api.code(mutation('createRequest'), { input: { title: '' } })).toBe('UNAUTHENTICATED')
    expect(await api.code(mutation('logout', 'clientMutationId'), { input: {} })).toBe('UNAUTHENTICATED')
    for (const name of Object.keys(COMMANDS) as Command[])
      expect(await api.code(...command(name, NOBODY))).toBe('UNAUTHENTICATED')
  })

  const ANY_CALL = [
    '{ currentUser { id } }',
    '{ __typename }',
    '{ __schema { queryType { name } } }',
    '{ requests { totalCount } }',
  ]

  /** The whole call fails: 401, no data. */
  const expectRefused = async (headers: Record<string, string>) => {
    for (const query of ANY_CALL) {
      const { status, body, text } = await api.graphql(query, {}, undefined, headers)
      expect([headers, query, status, body.errors?.[0].extensions]).toEqual([headers, query, 401, { code: 'UNAUTHENTICATED' }])
      expect(text).not.toContain('"data"')
    }
  }

  // sessions.test.ts tests what makes a token bad.
  test('fail the whole call when the bearer token is bad', async () => {
    const good = api.token('user')
    for (const token of ['', 'garbage', deadToken(), `${good}x`]) await expectRefused({ authorization: `Bearer ${token}` })
    for (const authorization of ['', 'Bearer', 'Basic dXNlcjpwYXNz', good, `Bearer ${good} x`, `Bearer ${good},Bearer ${good}`]) {
      await expectRefused({ authorization })
    }
    // The same token is good, with the scheme in any letter case.
    expect((await api.graphql('{ currentUser { id } }', {}, undefined, { authorization: `bEARER  ${good}` })).status).toBe(200)
    expect(api.log()).not.toContain(api.db.people.user.session)
  })

  test('that are bad make a login fail, which then does nothing', async () => {
    const {
      login: { accessToken: token },
    } = await login('user2@assent.test', PASSWORD)
    await api.data(mutation('logout', 'clientMutationId'), { input: {} }, { token })
    const count = async () => (await owner.query(`select count(*) from app_public.audit_logs where action like 'LOGIN%'`)).rows
    const before = await count()
    const input = { email: 'user2@assent.test', password: PASSWORD }
    expect(await api.code(mutation('login', 'accessToken'), { input }, { token })).toBe('UNAUTHENTICATED')
    expect(await api.code(mutation('login', 'accessToken'), { input }, { token: 'garbage' })).toBe('UNAUTHENTICATED')
    expect(await count()).toEqual(before)
  })

  test('of a session all end with its logout, and those of no other', async () => {
    const [first, second] = await Promise.all([login('user@assent.test', PASSWORD), login('user@assent.test', PASSWORD)])
    const token = first.login.accessToken
    await api.data(mutation('logout', 'clientMutationId'), { input: {} }, { token })
    await expectRefused({ authorization: `Bearer ${token}` })
    expect(await api.code(mutation('logout', 'clientMutationId'), { input: {} }, { token })).toBe('UNAUTHENTICATED')
    expect((await api.data('{ currentUser { id } }', {}, { token: second.login.accessToken })).currentUser.id).toBe(
      api.db.people.user.id,
    )
  })

  test('of an expired session are dead, whatever the token says', async () => {
    const {
      login: { accessToken: token },
    } = await login('user@assent.test', PASSWORD)
    await owner.query(`update app_private.sessions set expires_at = now() where secret_hash = app_private.hash_secret($1)`, [
      (jwt.decode(token) as { sid: string }).sid,
    ])
    await expectRefused({ authorization: `Bearer ${token}` })
  })
})

test('every command leaves its entry; that requests and trail agree, is asked after all tests', async () => {
  const [approved, rejected, deleted] = await Promise.all([newRequest(api), newRequest(api), newRequest(api)])
  for (const [name, id, who] of [
    ['updateRequest', approved, 'user'],
    ['submitRequest', approved, 'user'],
    ['approveRequest', approved, 'manager'],
    ['submitRequest', rejected, 'user'],
    ['rejectRequest', rejected, 'manager'],
    ['deleteRequest', deleted, 'user'],
  ] as const)
    await api.data(...command(name, id), who)
  const assigned = await newRequest(api, { submit: true })
  await api.data(...command('assignRequest', assigned, { assignedToId: api.db.people.manager.id }), 'admin')
  const { rows } = await owner.query('select distinct action from app_public.audit_logs where request_id = any ($1) order by 1', [
    [approved, rejected, deleted, assigned],
  ])
  expect(rows.map((r) => r.action)).toEqual(['APPROVE', 'ASSIGN', 'CREATE', 'DELETE', 'REJECT', 'SUBMIT', 'UPDATE'])
})
