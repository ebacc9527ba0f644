import { fromElsewhere, mutation, newRequest, PASSWORD } from '../harness/client.ts'
import { openHouse, type House } from '../harness/house.ts'

let house: House
beforeAll(async () => void (house = await openHouse({ withWorker: false })))
afterAll(() => house.close())

test('Mia leaves: what waited for her waits for others, and what she decided stays decided by her', async () => {
  const { api } = house
  const { manager, admin } = api.db.people
  const review =
    'query ($requestId: UUID!) { request(id: $requestId) { status assignedTo { name } reviewedBy { name isDeleted } } }'

  // She has approved one request, and another one is assigned to her: Max has to leave it alone.
  const settled = await newRequest(api, { title: 'A desk', submit: true })
  await api.data(mutation('approveRequest'), { input: { requestId: settled } }, 'manager')
  const requestId = await newRequest(api, { title: 'A lamp', submit: true, assignedToId: manager.id })
  expect(await api.code(mutation('approveRequest'), { input: { requestId } }, 'manager2')).toBe('FORBIDDEN')

  // Max cannot send her away. Ada can, but not herself: somebody has to be left who could undo it.
  const deactivate = mutation('deactivateUser', 'user { name isDeleted }')
  expect(await api.code(deactivate, { input: { userId: manager.id } }, 'manager2')).toBe('FORBIDDEN')
  expect(await api.code(deactivate, { input: { userId: admin.id } }, 'admin')).toBe('INVALID_TRANSITION')
  const { deactivateUser } = await api.data(deactivate, { input: { userId: manager.id } }, 'admin')
  expect(deactivateUser.user).toEqual({ name: 'Mia Manager', isDeleted: true })

  // It takes effect at once, though her token would be good for a while; and she cannot log in again.
  expect(await api.code('{ requests { totalCount } }', {}, 'manager')).toBe('UNAUTHENTICATED')
  const credentials = { email: manager.email, password: PASSWORD }
  expect((await api.rest('POST', '/auth/token/', credentials, undefined, fromElsewhere())).status).toBe(401)

  // An assignee who can no longer decide counts as none: the lamp is in everybody's inbox, and Max approves it.
  const inbox = '{ requestsAwaitingMyDecision { nodes { id } } }'
  expect((await api.data(inbox, {}, 'manager2')).requestsAwaitingMyDecision.nodes).toEqual([{ id: requestId }])
  await api.data(mutation('approveRequest'), { input: { requestId } }, 'manager2')
  expect((await api.data(review, { requestId }, 'user')).request).toMatchObject({
    status: 'APPROVED',
    reviewedBy: { name: 'Max Manager' },
  })

  // Nothing new can be assigned to her; but her decision keeps her name.
  const assigned = { title: 'A plant', assignedToId: manager.id }
  expect(await api.code(mutation('createRequest'), { input: assigned }, 'user')).toBe('VALIDATION_FAILED')
  expect((await api.data(review, { requestId: settled }, 'user')).request.reviewedBy).toEqual({
    name: 'Mia Manager',
    isDeleted: true,
  })

  // Should she return, she is who she was, but for her sessions: she logs in anew.
  await api.data(mutation('reactivateUser', 'user { id }'), { input: { userId: manager.id } }, 'admin')
  expect(await api.code('{ requests { totalCount } }', {}, 'manager')).toBe('UNAUTHENTICATED')
  expect((await api.rest('POST', '/auth/token/', credentials, undefined, fromElsewhere())).status).toBe(200)
  await api.data(mutation('createRequest'), { input: assigned }, 'user')

  // The trail has her leaving and her return.
  const trail =
    'query ($userId: UUID!) { auditLogs(condition: { userId: $userId }, orderBy: [TIMESTAMP_ASC]) { nodes { action actorId } } }'
  const { auditLogs } = await api.data(trail, { userId: manager.id }, 'admin')
  expect(auditLogs.nodes.filter(({ actorId }: any) => actorId === admin.id)).toEqual([
    { action: 'USER_DEACTIVATE', actorId: admin.id },
    { action: 'USER_REACTIVATE', actorId: admin.id },
  ])
})
