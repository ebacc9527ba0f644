import { mutation } from '../harness/client.ts'
import { openHouse, type House } from '../harness/house.ts'

let house: House
beforeAll(async () => void (house = await openHouse()))
afterAll(() => house.close())

test('Uma asks for a laptop, and Mia approves', async () => {
  const { api } = house
  const { user, manager } = api.db.people

  // Uma writes a draft. Nobody else sees it yet, and only she can do something with it.
  const input = { title: 'A laptop', description: 'Mine is six years old.' }
  const created = await api.data(mutation('createRequest', 'request { id status availableActions }'), { input }, 'user')
  const { id: requestId, ...draft } = created.createRequest.request
  expect(draft).toEqual({ status: 'DRAFT', availableActions: ['DELETE', 'SUBMIT', 'UPDATE'] })
  const look = 'query ($requestId: UUID!) { request(id: $requestId) { status availableActions } }'
  expect(await api.data(look, { requestId }, 'manager')).toEqual({ request: null })

  // She submits it. Those who can decide are told by mail, and find it in their inbox.
  await api.data(mutation('submitRequest'), { input: { requestId } }, 'user')
  expect((await house.mail(manager.email, 'A laptop')).text).toContain('Uma User')
  const inbox = '{ requestsAwaitingMyDecision { nodes { id title availableActions } } }'
  expect((await api.data(inbox, {}, 'manager')).requestsAwaitingMyDecision.nodes).toEqual([
    { id: requestId, title: 'A laptop', availableActions: ['APPROVE', 'ASSIGN', 'REJECT'] },
  ])

  // Nobody decides their own: for Uma, there is nothing to be done but wait.
  expect(await api.code(mutation('approveRequest'), { input: { requestId } }, 'user')).toBe('FORBIDDEN')

  // Mia approves. Uma hears of it, and sees who it was and what she said.
  await api.data(mutation('approveRequest'), { input: { requestId, comment: 'Take the light one.' } }, 'manager')
  expect((await house.mail(user.email, 'A laptop')).text).toContain('Take the light one.')
  const decided =
    'query ($requestId: UUID!) { request(id: $requestId) { status reviewComment reviewedBy { name } availableActions } }'
  expect(await api.data(decided, { requestId }, 'user')).toEqual({
    request: {
      status: 'APPROVED',
      reviewComment: 'Take the light one.',
      reviewedBy: { name: 'Mia Manager' },
      availableActions: [],
    },
  })
  expect((await api.data(inbox, {}, 'manager')).requestsAwaitingMyDecision.nodes).toEqual([])

  // That was the last word. And each step has left an entry in the trail: who did what, and when.
  expect(await api.code(mutation('rejectRequest'), { input: { requestId, comment: 'Or not.' } }, 'manager2')).toBe(
    'INVALID_TRANSITION',
  )
  const trail = `query ($requestId: UUID!) {
    request(id: $requestId) { auditLogs(orderBy: [TIMESTAMP_ASC]) { nodes { action actor { name } metadata } } }
  }`
  expect((await api.data(trail, { requestId }, 'user')).request.auditLogs.nodes).toMatchObject([
    { action: 'CREATE', actor: { name: 'Uma User' } },
    { action: 'SUBMIT', actor: { name: 'Uma User' }, metadata: { old_status: 'DRAFT', new_status: 'SUBMITTED' } },
    { action: 'APPROVE', actor: { name: 'Mia Manager' }, metadata: { old_status: 'SUBMITTED', new_status: 'APPROVED' } },
  ])
})
