import { startApi, type Api } from '../harness/client.ts'

// Kinds of requests and their data, as both doors take and show them. What holds: rules/kinds.test.ts and rules/data.test.ts.

let api: Api
beforeAll(async () => {
  api = await startApi()
  const input = {
    id: 'PURCHASE',
    name: 'Purchase',
    schema: {
      type: 'object',
      properties: { unit_price: { type: 'integer' }, lines: { type: 'array', items: { type: 'string' } } },
      required: ['unit_price'],
    },
  }
  const { body } = await api.graphql(SAVE, { input }, 'admin')
  expect(body).toEqual({ data: { saveRequestKind: { requestKind: { ...input, description: null, isActive: true } } } })
})
afterAll(() => api.close())

const KIND = 'id name description schema isActive'
const SAVE = `mutation ($input: SaveRequestKindInput!) { saveRequestKind(input: $input) { requestKind { ${KIND} } } }`

describe('by REST', () => {
  test('kinds are listed and shown', async () => {
    const { body: list } = await api.rest('GET', '/kinds/', undefined, 'user')
    expect(list).toMatchObject({ results: [{ id: 'GENERAL' }, { id: 'PURCHASE', is_active: true }], next: null, previous: null })
    const one = await api.rest('GET', '/kinds/PURCHASE', undefined, 'user')
    expect([one.status, one.body]).toEqual([200, list.results[1]])
    for (const id of ['NONE', 'purchase', '%00'])
      expect((await api.rest('GET', `/kinds/${id}/`, undefined, 'user')).status).toBe(404)
  })

  test('a request shows its kind and its data, and says by field what is wrong with them', async () => {
    const data = { unit_price: '12', lines: ['a', 1], more: { kept: [null, 1.5, 'ä'] } }
    const created = await api.rest('POST', '/requests/', { title: 'Chairs', kind: 'PURCHASE', data }, 'user')
    expect([created.status, created.body.kind, created.body.data]).toEqual([201, 'PURCHASE', data])
    const path = `/requests/${created.body.id}/`
    const refused = await api.rest('POST', `${path}submit/`, undefined, 'user')
    expect([refused.status, refused.body.code, refused.body.errors]).toEqual([
      422,
      'VALIDATION_FAILED',
      { 'data.unit_price': ['This must be a whole number.'], 'data.lines.1': ['This must be a string.'] },
    ])
    const edited = await api.rest('PATCH', path, { data: { unit_price: 12 } }, 'user')
    expect([edited.body.data, edited.body.version]).toEqual([{ unit_price: 12 }, 2])
    expect((await api.rest('POST', `${path}submit/`, undefined, 'user')).body).toMatchObject({
      status: 'SUBMITTED',
      kind: 'PURCHASE',
    })
  })

  test.each([
    [
      { title: ' ', kind: 'NONE' },
      { title: ['The title must not be blank.'], kind: [expect.any(String)] },
    ],
    [
      { title: 'T', kind: 7, data: [] },
      { kind: ['This must be a string.'], data: ['This must be an object.'] },
    ],
    [{ title: 'T', kind: null }, { kind: ['A value for kind id is required.'] }],
  ])('%j is refused', async (body, errors) => {
    const answer = await api.rest('POST', '/requests/', body, 'user')
    expect([answer.status, answer.body.errors]).toEqual([422, errors])
  })
})

describe('by GraphQL', () => {
  const CREATE = `mutation ($input: CreateRequestInput!) { createRequest(input: $input) { request { id kindId data kind { id name } } } }`

  test('likewise, and the names within data are left as they are', async () => {
    const input = { title: 'Chairs', kindId: 'PURCHASE', data: { unit_price: 1.5 } }
    const { body } = await api.graphql(CREATE, { input }, 'user')
    const { id, ...shown } = body.data.createRequest.request
    expect(shown).toEqual({ kindId: 'PURCHASE', data: input.data, kind: { id: 'PURCHASE', name: 'Purchase' } })
    const submit = `mutation ($id: UUID!) { submitRequest(input: { requestId: $id }) { request { status } } }`
    const refused = await api.graphql(submit, { id }, 'user')
    const field = { field: 'data.unit_price', message: 'This must be a whole number.' }
    expect(refused.body.errors[0].extensions).toEqual({ code: 'VALIDATION_FAILED', field: field.field, fields: [field] })
    const update = `mutation ($input: UpdateRequestInput!) { updateRequest(input: $input) { request { title data } } }`
    const changed = await api.graphql(update, { input: { requestId: id, data: { unit_price: 2 } } }, 'user')
    expect(changed.body.data.updateRequest.request).toEqual({ title: 'Chairs', data: { unit_price: 2 } })
    const kept = await api.graphql(update, { input: { requestId: id, title: 'Tables' } }, 'user')
    expect(kept.body.data.updateRequest.request).toEqual({ title: 'Tables', data: { unit_price: 2 } })
  })

  test('a kind that is not there is said of kindId', async () => {
    const { body } = await api.graphql(CREATE, { input: { title: 'T', kindId: 'NONE' } }, 'user')
    expect(body.errors[0].extensions).toMatchObject({ code: 'VALIDATION_FAILED', field: 'kindId' })
  })

  test('everybody sees kinds, and admins alone save them', async () => {
    const { body } = await api.graphql(
      '{ requestKinds { nodes { id } totalCount } requestKind(id: "GENERAL") { name } }',
      {},
      'user',
    )
    expect(body.data).toEqual({
      requestKinds: { nodes: [{ id: 'GENERAL' }, { id: 'PURCHASE' }], totalCount: 2 },
      requestKind: { name: 'General' },
    })
    const refused = await api.graphql(SAVE, { input: { id: 'PURCHASE', name: 'Mine' } }, 'manager')
    expect(refused.body.errors[0].extensions.code).toBe('FORBIDDEN')
    const faulty = await api.graphql(SAVE, { input: { id: 'x', name: 'X', schema: { type: 'object', if: {} } } }, 'admin')
    expect(faulty.body.errors[0].extensions.fields.map(({ field }: { field: string }) => field)).toEqual(['id', 'schema.if'])
  })
})
