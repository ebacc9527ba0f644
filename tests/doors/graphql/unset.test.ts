import { mutation, newRequest, PASSWORD, startApi, type Api } from '../../harness/client.ts'

// An outside tester found these: values that were mistaken for "left out", and orders that were empty.

let api: Api
beforeAll(async () => void (api = await startApi()))
afterAll(() => api.close())

test('U+FFFF is text like any other', async () => {
  const requestId = await newRequest(api)
  const input = { requestId, title: '\uffff', description: '\uffff' }
  const { updateRequest } = await api.data(mutation('updateRequest', 'request { title description }'), { input }, 'user')
  expect(updateRequest.request).toEqual({ title: '\uffff', description: '\uffff' })
})

test('the Max UUID is an assignee that does not exist', async () => {
  const input = { requestId: await newRequest(api), assignedToId: 'ffffffff-ffff-ffff-ffff-ffffffffffff' }
  expect(await api.code(mutation('updateRequest'), { input }, 'user')).toBe('VALIDATION_FAILED')
})

test('a dead session and a forged token get the same answer', async () => {
  const forged = await api.graphql('{ currentUser { id } }', {}, { token: 'x.y.z' } as never)
  const input = { email: 'manager2@assent.test', password: PASSWORD }
  const login = await api.data('mutation($input: LoginInput!) { login(input: $input) { accessToken } }', { input })
  const token = login.login.accessToken
  await api.graphql('mutation { logout(input: {}) { clientMutationId } }', {}, { token } as never)
  const dead = await api.graphql('{ currentUser { id } }', {}, { token } as never)
  expect([dead.status, dead.text]).toEqual([forged.status, forged.text])
})

describe('orders', () => {
  const walk = async (args: string): Promise<string[]> => {
    const found: string[] = []
    for (let after = ''; ;) {
      const { requests } = await api.data(
        `{ requests(first: 3, ${args} ${after}) { nodes { id } pageInfo { hasNextPage endCursor } } }`,
        {},
        'user',
      )
      found.push(...requests.nodes.map(({ id }: { id: string }) => id))
      if (!requests.pageInfo.hasNextPage) return found
      after = `, after: ${JSON.stringify(requests.pageInfo.endCursor)}`
    }
  }

  let all: string[]
  beforeAll(async () => {
    for (let i = 0; i < 8; i++) {
      const requestId = await newRequest(api)
      if (i % 2) await api.data(mutation('submitRequest'), { input: { requestId } }, 'user')
    }
    all = await walk('')
  })

  test.each(['SUBMITTED_AT_ASC', 'SUBMITTED_AT_DESC', 'CREATED_AT_ASC', 'CREATOR_ID_DESC'])(
    '%s pages through everything once',
    async (order) => {
      const found = await walk(`orderBy: [${order}]`)
      expect([...found].sort()).toEqual([...all].sort())
    },
  )

  test('that are null or empty mean newest first, as does leaving them out', async () => {
    expect(await walk('orderBy: null')).toEqual(all)
    expect(await walk('orderBy: []')).toEqual(all)
  })
})
