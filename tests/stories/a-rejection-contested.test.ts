import { openHouse, type House } from '../harness/house.ts'

let house: House
beforeAll(async () => void (house = await openHouse()))
afterAll(() => house.close())

test('Mia rejects a chair; Uma asks again with a better reason, and Max approves', async () => {
  const { api } = house
  const { user, manager2 } = api.db.people
  const ask = async (body: object) => {
    const { id } = (await api.rest('POST', '/requests/', body, 'user')).body
    expect((await api.rest('POST', `/requests/${id}/submit/`, {}, 'user')).status).toBe(200)
    return `/requests/${id}/`
  }
  const chair = await ask({ title: 'A chair', description: 'I want one.' })

  // Mia has to say why: a rejection without a reason is refused, and changes nothing.
  const bare = await api.rest('POST', `${chair}reject/`, {}, 'manager')
  expect([bare.status, bare.body.code, Object.keys(bare.body.errors)]).toEqual([422, 'VALIDATION_FAILED', ['comment']])
  const rejected = await api.rest('POST', `${chair}reject/`, { comment: 'You have a chair.' }, 'manager')
  expect(rejected.body).toMatchObject({ status: 'REJECTED', review_comment: 'You have a chair.', version: 3 })
  expect((await house.mail(user.email, 'A chair')).text).toContain('You have a chair.')

  // A decision stands. Uma cannot edit it away, and Mia cannot change her mind, nor can Max overrule her.
  const attempts = [
    await api.rest('PATCH', chair, { title: 'A chair, please' }, 'user'),
    await api.rest('POST', `${chair}approve/`, {}, 'manager'),
    await api.rest('POST', `${chair}approve/`, {}, 'manager2'),
  ]
  expect(attempts.map(({ body }) => body.code)).toEqual(['INVALID_TRANSITION', 'INVALID_TRANSITION', 'INVALID_TRANSITION'])

  // So she asks again, says more, and assigns it to Max. Now it is his to decide, and no longer Mia's.
  const reason = { title: 'A chair for my back', description: 'The doctor says so.', assigned_to_id: manager2.id }
  const again = await ask(reason)
  expect((await house.mail(manager2.email, reason.title)).text).toContain('Uma User')
  expect((await api.rest('POST', `${again}reject/`, { comment: 'Still no.' }, 'manager')).body.code).toBe('FORBIDDEN')

  // While Max has it open, Uma's version is that of his page: he decides on what he has read, or not at all.
  const page = await api.rest('GET', again, undefined, 'manager2')
  const stale = await api.rest('POST', `${again}approve/`, {}, 'manager2', { 'if-match': '"1-0"' })
  expect([stale.status, stale.body.code]).toEqual([412, 'STALE_VERSION'])
  const approved = await api.rest('POST', `${again}approve/`, {}, 'manager2', { 'if-match': page.headers.etag! })
  expect(approved.body).toMatchObject({ status: 'APPROVED', reviewed_by: { name: 'Max Manager' } })

  // Both stories stay in the trail, side by side.
  const actions = async (request: string) =>
    (await api.rest('GET', `${request}audit-logs/?ordering=timestamp`, undefined, 'user')).body.results.map(
      ({ action, actor }: any) => `${actor.name}: ${action}`,
    )
  expect(await actions(chair)).toEqual(['Uma User: CREATE', 'Uma User: SUBMIT', 'Mia Manager: REJECT'])
  expect(await actions(again)).toEqual(['Uma User: CREATE', 'Uma User: SUBMIT', 'Max Manager: APPROVE'])
})
