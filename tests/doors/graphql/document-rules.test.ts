import { readFile } from 'node:fs/promises'
import { gzipSync } from 'node:zlib'
import type { Client } from 'pg'
import { buildSchema, getIntrospectionQuery, getNamedType, getNullableType, isListType, isObjectType } from 'graphql'
import { LISTS } from '../../../server/graphql/document-rules.ts'
import { deadToken, mutation, newRequest, NOBODY, PASSWORD, startApi, type Answer, type Api } from '../../harness/client.ts'
import { startProxy } from '../../harness/proxy.ts'

let api: Api
let owner: Client
beforeAll(async () => {
  api = await startApi()
  owner = await api.db.connect('owner')
})
afterAll(() => api.close())

const JSON_TYPE = { 'content-type': 'application/json' }
const post = (body: string | Buffer, headers: Record<string, string> = {}) =>
  api.send({ headers: { ...JSON_TYPE, ...headers }, body })
const codeOf = ({ body, text }: Answer) => body?.errors?.[0].extensions.code ?? text
const expectBadRequest = (answer: Answer) => expect([answer.status, codeOf(answer)]).toEqual([400, 'BAD_REQUEST'])
const expectUnauthenticated = (answer: Answer) => {
  expect([answer.status, codeOf(answer)]).toEqual([401, 'UNAUTHENTICATED'])
  expect(answer.text).not.toContain('"data"')
}

/** How long a call took, in seconds. */
async function timed<T>(work: Promise<T>): Promise<[T, number]> {
  const start = performance.now()
  return [await work, (performance.now() - start) / 1000]
}

const requestCount = async () => Number((await owner.query('select count(*) from app_public.requests')).rows[0].count)
const auditCount = async () => Number((await owner.query('select count(*) from app_public.audit_logs')).rows[0].count)

describe('documents', () => {
  const aliases = (n: number, field = 'currentUser { id }') => Array.from({ length: n }, (_, i) => `a${i}: ${field}`).join(' ')

  test('with 10 root fields pass; with 11 they are refused as a whole, however they are written', async () => {
    expect(Object.keys(await api.data(`{ ${aliases(10)} }`, {}, 'user'))).toHaveLength(10)
    const eleven = [
      `{ ${aliases(11)} }`,
      `{ ${'currentUser { id } '.repeat(11)} }`,
      `{ ...F } fragment F on Query { ${aliases(11)} }`,
      `{ ... on Query { ${aliases(6)} } ... { b: currentUser { id } ...F } } fragment F on Query { ${aliases(4)} }`,
      `{ ...F ...F ...F } fragment F on Query { a: currentUser { id } b: currentUser { id } c: currentUser { id } d: currentUser { id } }`,
      `{ ...A } fragment A on Query { ...B } fragment B on Query { ${aliases(11)} }`,
      `{ ${aliases(11)} @skip(if: true) }`,
      `query A { currentUser { id } } query B { ${aliases(11)} }`,
      `{ ${'__typename '.repeat(11)} }`,
    ]
    for (const query of eleven) {
      const answer = await api.graphql(query, {}, 'user')
      expectBadRequest(answer)
      expect(answer.text).not.toContain('"data"')
    }
  })

  test('with two mutation fields execute neither', async () => {
    const before = [await requestCount(), await auditCount()]
    const create = 'createRequest(input: { title: "x" }) { clientMutationId }'
    const login = `login(input: { email: "user@assent.test", password: "${PASSWORD}" }) { accessToken }`
    const two = [
      `mutation { a: ${create} b: ${create} }`,
      `mutation { ${create} ${create} }`,
      `mutation { ...F } fragment F on Mutation { a: ${create} b: ${create} }`,
      `mutation { ... on Mutation { a: ${create} } ... { b: ${create} } }`,
      `mutation { ...F ...F } fragment F on Mutation { ${create} }`,
      `mutation { a: ${create} ...F } fragment F on Mutation { ...G } fragment G on Mutation { b: ${create} }`,
      `mutation { ${login} ${create} }`,
      `mutation { a: ${login} b: ${login} }`,
      `mutation { ${create} __typename }`,
    ]
    for (const query of two) expectBadRequest(await api.graphql(query, {}, 'user'))
    expect([await requestCount(), await auditCount()]).toEqual(before)
  })

  test('are limited in depth, aliases, uses of variables and tokens', async () => {
    const nested = (n: number): string => (n === 0 ? 'totalCount' : `nodes { request { auditLogs { ${nested(n - 1)} } } }`)
    await api.data(`{ auditLogs { ${nested(1)} } }`, {}, 'user')
    expectBadRequest(await api.graphql(`{ auditLogs { ${nested(4)} } }`, {}, 'user'))
    expectBadRequest(await api.graphql(`{ auditLogs { ...F } } fragment F on AuditLogConnection { ${nested(4)} }`, {}, 'user'))
    await api.data(`{ currentUser { ${aliases(30, 'id')} } }`, {}, 'user')
    expectBadRequest(await api.graphql(`{ currentUser { ${aliases(31, 'id')} } }`, {}, 'user'))
    expectBadRequest(
      await api.graphql(`query ($x: UUID!) { requests(filter: { id: { in: [$x, $x] } }) { totalCount } }`, { x: NOBODY }, 'user'),
    )
    const uses = (n: number) =>
      `query ($x: UUID!) { requests(filter: { or: [${'{ id: { equalTo: $x } } '.repeat(n)}] }) { totalCount } }`
    expect(await api.data(uses(60), { x: NOBODY }, 'user')).toEqual({ requests: { totalCount: 0 } })
    expectBadRequest(await api.graphql(uses(61), { x: NOBODY }, 'user'))
    const tokens = (n: number) => `{ requests(filter: { id: { in: [${`"${NOBODY}" `.repeat(n)}] } }) { totalCount } }`
    expect(await api.data(tokens(1900), {}, 'user')).toEqual({ requests: { totalCount: 0 } })
    expectBadRequest(await api.graphql(tokens(2000), {}, 'user'))
    expectBadRequest(await api.graphql('{ currentUser '.repeat(900), {}, 'user'))
    expectBadRequest(
      await api.graphql(`{ requests(filter: ${'{ not: '.repeat(600)} {} ${'}'.repeat(600)}) { totalCount } }`, {}, 'user'),
    )
  })

  test('select at most 400 fields and fragments, wherever those are spread', async () => {
    const ids = (n: number) => 'id '.repeat(n)
    const fit = [
      `{ currentUser { ${ids(399)} } }`,
      `{ currentUser { ...F ...F } } fragment F on User { ...G ...G } fragment G on User { ${ids(98)} }`,
    ]
    for (const query of fit) expect((await api.graphql(query, {}, 'user')).status).toBe(200)
    const tooMany = [
      `{ currentUser { ${ids(400)} } }`,
      `{ currentUser { ...F ...F } } fragment F on User { ...G ...G } fragment G on User { ${ids(99)} }`,
      `{ currentUser { ${'... { id } '.repeat(200)} } }`,
      `{ currentUser { id } } fragment F on User { ${ids(401)} }`,
      `query A { currentUser { ${ids(250)} } } query B { currentUser { ${ids(250)} } }`,
      `{ requests { nodes { ${'creator { id } '.repeat(480)} } } }`,
    ]
    for (const query of tooMany) {
      const answer = await api.graphql(query, {}, 'user')
      expectBadRequest(answer)
      expect(answer.text).toContain('400 fields')
    }
    expect((await api.graphql(getIntrospectionQuery(), {}, 'user')).status).toBe(200)
  })

  test('with several faults are answered by the first', async () => {
    const { body } = await api.graphql('{ currentUser { a b c } requests { d } }', {}, 'user')
    expect(body.errors.map(({ message }: { message: string }) => message)).toEqual(['Cannot query field "a" on type "User".'])
  })

  test('that are not known cost a request for each ten selections, until they are', async () => {
    const person = await api.person()
    const query = (n: number) => `{ currentUser { ${'id '.repeat(199)} } } # ${n}`
    const answers = async (numbers: number[]) =>
      (await Promise.all(numbers.map((n) => api.graphql(query(n), {}, person)))).map(({ status }) => status)
    expect(await answers(Array.from({ length: 10 }, (_, n) => n))).toEqual(Array(10).fill(200)) // 10 × 21 of 300.
    expect(await answers(Array(20).fill(0))).toEqual(Array(20).fill(200))
    expect(await answers(Array.from({ length: 40 }, (_, n) => 10 + n))).toContain(429)
  })

  test('ask for at most 20,000 rows, with those of pages within pages', async () => {
    const logs = (size: number | string) => `auditLogs(first: ${size}) { nodes { id } }`
    const fit = [
      `{ requests(first: 100) { nodes { ${logs(100)} } } }`,
      `{ requests { edges { node { ${aliases(30, logs(33))} } } } }`,
      `{ requests(first: 100) { nodes { waitsFor { id } } } }`,
      `{ requests(first: 100) { nodes { id creator { id } pageInfo: auditLogs { pageInfo { hasNextPage } } } } }`,
    ]
    for (const query of fit) expect((await api.graphql(query, {}, 'user')).body.errors).toBeUndefined()
    const tooMany = [
      `{ requests(first: 100) { nodes { ${aliases(2, logs(100))} } } }`,
      `{ requests(first: 100) { nodes { ${aliases(2, 'waitsFor { id }')} } } }`,
      `{ requests(first: 100) { nodes { ${logs(99)} waitsFor { id } a: auditLogs { groupedAggregates(groupBy: [ACTION]) { keys } } } } }`,
      `{ requests(first: 100) { nodes { waitsFor { ...U } } a: nodes { waitsFor { ...U } } } } fragment U on User { id }`,
      `query ($n: Int) { requests(last: $n) { nodes { ${aliases(2, logs('$n'))} } } }`,
      `{ requests(first: 100) { ...C } } fragment C on RequestConnection { nodes { ...R } } fragment R on Request { ${aliases(30, logs(100))} }`,
    ]
    for (const query of tooMany) {
      const answer = await api.graphql(query, { n: 1 }, 'user')
      expectBadRequest(answer)
      expect(answer.text).toContain('20,000 rows')
    }
  })

  test('have no list of objects whose rows are not counted', async () => {
    const lists = Object.values(buildSchema(await readFile('server/graphql/schema.graphql', 'utf8')).getTypeMap())
      .filter(isObjectType)
      .filter(({ name }) => !name.startsWith('__'))
      .flatMap((type) => Object.values(type.getFields()))
      .filter(({ type }) => isListType(getNullableType(type)) && isObjectType(getNamedType(type)))
      .map(({ name }) => name)
    expect(new Set(lists)).toEqual(new Set(['nodes', 'edges', ...Object.keys(LISTS)]))
  })

  test('that grow exponentially are answered quickly', async () => {
    const bomb = (n: number, type: string, leaf: string, spread: (next: string) => string) =>
      Array.from({ length: n }, (_, i) => `fragment F${i} on ${type} { ${i === n - 1 ? leaf : spread(`...F${i + 1}`)} }`).join(
        ' ',
      )
    const bombs = [
      `{ ...F0 } ${bomb(60, 'Query', 'currentUser { id }', (f) => `${f} ${f} ${f} ${f}`)}`,
      `{ currentUser { ...F0 } } ${bomb(60, 'User', 'id name', (f) => `${f} ${f} ${f} ${f}`)}`,
      `{ currentUser { ...F0 } } ${bomb(60, 'User', 'id', (f) => `... on User { ${f} } ... { ${f} }`)}`,
      `{ auditLogs { nodes { ...F0 } } } ${bomb(40, 'AuditLog', 'id', (f) => `request { auditLogs { nodes { ${f} } } } user { id } ${f}`)}`,
      `{ ...F0 } fragment F0 on Query { ...F1 } fragment F1 on Query { ...F0 currentUser { id } }`,
      `{ currentUser { ${'...F0 '.repeat(300)} } } ${bomb(30, 'User', 'id', (f) => `${f} ${f}`)}`,
      `{ requests(filter: { or: [${'{ id: { in: [] } } '.repeat(150)}] }) { totalCount } }`,
    ]
    for (const query of bombs) {
      const [answer, seconds] = await timed(api.graphql(query, {}, 'user'))
      expect([query.slice(0, 60), answer.status < 500, seconds < 2]).toEqual([query.slice(0, 60), true, true])
    }
  })

  test('name the operation to run by a string, and by nothing else', async () => {
    const query = 'query A { currentUser { id } } query B { currentUser { name } }'
    const ask = (operationName: unknown, text = query) =>
      post(JSON.stringify({ query: text, operationName }), { authorization: `Bearer ${api.token('user')}` })
    expect((await ask('B')).body).toEqual({ data: { currentUser: { name: 'Uma User' } } })
    for (const name of ['C', '', undefined, null, '__proto__', 'constructor', 'a'.repeat(10_000), '\0', '😀'])
      expectBadRequest(await ask(name))
    for (const name of [1, {}, [], true]) expectBadRequest(await ask(name))
    // The named operation counts, not the first one.
    const before = await requestCount()
    const both = 'query A { currentUser { id } } mutation B { createRequest(input: { title: "by name" }) { request { title } } }'
    expect((await ask('A', both)).body.data).toEqual({ currentUser: { id: api.db.people.user.id } })
    expect(await requestCount()).toBe(before)
    expect((await ask('B', both)).body.data).toEqual({ createRequest: { request: { title: 'by name' } } })
    for (const text of [
      'subscription { currentUser { id } }',
      'subscription S { x }',
      'fragment F on Query { currentUser { id } }',
      'type A { b: Int }',
      '',
    ]) {
      expectBadRequest(await ask(undefined, text))
    }
  })

  test('may hold directives of incremental delivery, which do not break an answer', async () => {
    for (const query of [
      '{ currentUser { id ... @defer { name } } }',
      '{ requests { nodes @stream(initialCount: 0) { id } } }',
    ]) {
      const answer = await api.graphql(query, {}, 'user')
      expect(answer.body).toBeDefined()
      expect(answer.status).toBeLessThan(500)
    }
  })
})

describe('documents of strangers', () => {
  const OPEN = ['csrfToken', 'currentUser', 'login', 'requestPasswordReset', 'resetPassword']

  test('ask for the open fields, and for nothing else: whatever is in them, and however it is written', async () => {
    const type = (name: string) => `${name}: __type(name: "${name}") { fields { name } }`
    const schema = await api.data(`{ ${['Query', 'Mutation', 'Subscription'].map(type).join(' ')} }`)
    const closed: string[] = []
    for (const operation of ['query', 'mutation', 'subscription']) {
      const root = `${operation[0]!.toUpperCase()}${operation.slice(1)}`
      for (const { name } of schema[root].fields) {
        // What the schema says of it is not looked at.
        const documents = [
          `${operation} { ${name} { nope } }`,
          `${operation} { ...A } fragment A on ${root} { ... { ...B } } fragment B on ${root} { x: ${name}(nope: 1) }`,
        ]
        for (const query of documents) {
          const [answer, byCookie] = await Promise.all([
            api.graphql(query),
            api.graphql(query, {}, undefined, { cookie: 'assent_session=dead' }),
          ])
          expect([query, codeOf(byCookie)]).toEqual([query, codeOf(answer)])
          if (codeOf(answer) === 'UNAUTHENTICATED') closed.push(name)
          else expect(OPEN).toContain(name)
        }
      }
    }
    expect(new Set(closed)).toContain('requests')
    for (const name of OPEN) expect(closed).not.toContain(name)
    expectUnauthenticated(await api.graphql('{ currentUser { id } requests { totalCount } }'))
    expectUnauthenticated(await api.graphql('query A { currentUser { id } } query B { requests { totalCount } }'))
    expectUnauthenticated(await api.graphql('{ currentUser { id } ...F } fragment F on Query { nope }'))
  })

  test('are refused without a word to the database', async () => {
    const proxy = await startProxy(api.db.urls.auth)
    const far = await startApi({ AUTH_DATABASE_URL: proxy.url }, api.db)
    await proxy.cut()
    for (const query of [
      '{ requests { totalCount } }',
      mutation('logout', 'clientMutationId'),
      'subscription { inboxChanged { totalCount } }',
    ])
      expectUnauthenticated(await far.graphql(query, { input: {} }))
    expect((await far.graphql('{ requests { totalCount } }', {}, 'user')).status).toBe(503)
    await far.close()
    await proxy.close()
  })

  test('with a dead session fail before anything else is said of them', async () => {
    for (const query of [
      '{ requests { nope } }',
      '{ currentUser { nope } }',
      '{ requests {',
      `{ ${'currentUser { id } '.repeat(11)} }`,
    ]) {
      for (const token of ['bad', deadToken()]) expectUnauthenticated(await api.graphql(query, {}, { token }))
    }
    const person = await api.person()
    expectBadRequest(await api.graphql('{ requests { nope } }', {}, person))
    await owner.query('update app_private.sessions set revoked_at = now() where user_id = $1', [person.id])
    // It was alive when it was last seen, so that a statement has to find out.
    expectUnauthenticated(await api.graphql('{ requests { totalCount } }', {}, person))
    expectUnauthenticated(await api.graphql('{ requests { nope } }', {}, person))
  })
})

describe('answers', () => {
  test('end at 8 MB, by both doors, whether PostgreSQL sends too much or the answer repeats it', async () => {
    const person = await api.person()
    const root = await api.db.connect('root')
    await root.query('set session_replication_role = replica')
    await root.query(
      `insert into app_public.requests (title, status, creator_id, description)
       select 'Long', 'DRAFT', $1, repeat('😀', 10000) from generate_series(1, 90)`,
      [person.id],
    )
    const page = (size: number) => `a${size}: requests(first: ${size}) { nodes { description } }`
    expect((await api.data(`{ ${page(10)} }`, {}, person)).a10.nodes).toHaveLength(10)
    const large = [
      `{ ${[61, 62, 63, 64, 65, 66, 67, 68].map(page).join(' ')} }`,
      `{ requests(first: 30) { nodes { ${Array.from({ length: 30 }, (_, n) => `a${n}: description`).join(' ')} } } }`,
    ]
    for (const query of large) {
      const answer = await api.graphql(query, {}, person)
      expectBadRequest(answer)
      expect([answer.text.includes('8 MB'), answer.text.includes('"data"')]).toEqual([true, false])
    }
    const list = (size: number) => api.rest('GET', `/requests/?page_size=${size}`, undefined, person)
    expect((await list(90)).body.results).toHaveLength(90)
    // In JSON each of these characters has six.
    await root.query(
      `update app_public.requests set description = 'x' || repeat(chr(1), 9999), review_comment = 'x' || repeat(chr(1), 9999),
         status = 'REJECTED', submitted_at = now(), reviewed_at = now(), reviewed_by_id = $2 where creator_id = $1`,
      [person.id, api.db.people.admin.id],
    )
    expect([(await list(100)).status, (await list(100)).body.code]).toEqual([400, 'BAD_REQUEST'])
    expect((await list(20)).body.results).toHaveLength(20)
    expectBadRequest(await api.graphql(large[1]!.replace('first: 30', 'first: 5'), {}, person))
    expect((await api.graphql('{ currentUser { id } }', {}, person)).status).toBe(200)
  })

  test('of a change that are too large say that it was made', async () => {
    const root = await api.db.connect('root')
    await root.query('set session_replication_role = replica')
    const repeated = Array.from({ length: 28 }, (_, n) => `a${n}: description`).join(' ')
    for (const [metadata, asked] of [
      [`jsonb_build_object('x', repeat('y', 100000))`, 'metadata'],
      [`'{}'`, `request { ${repeated} }`],
    ]) {
      const id = await newRequest(api, { submit: true })
      await root.query(`update app_public.requests set description = repeat('😀', 10000) where id = $1`, [id])
      await root.query(
        `insert into app_public.audit_logs (actor_id, action, request_id, request_creator_id, metadata)
         select creator_id, 'UPDATE', id, creator_id, ${metadata} from app_public.requests, generate_series(1, 100) where id = $1`,
        [id],
      )
      const { status, body } = await api.graphql(
        `mutation { a: approveRequest(input: { requestId: "${id}" }) { request { auditLogs(first: 100) { nodes { ${asked} } } } } }`,
        {},
        'manager',
      )
      expect([status, body.data, body.errors.length]).toEqual([200, { a: null }, 1])
      expect(body.errors[0]).toMatchObject({
        message: expect.stringContaining('was made'),
        path: ['a'],
        extensions: { code: 'BAD_REQUEST' },
      })
      const { rows } = await root.query('select status from app_public.requests where id = $1', [id])
      expect(rows).toEqual([{ status: 'APPROVED' }])
    }
    await root.query('set session_replication_role = origin')
  })

  test('have the media type that Accept prefers, whatever their status; 406 if it is none of ours', async () => {
    const plain = 'application/json'
    const specific = 'application/graphql-response+json'
    const accepted: [accept: string | undefined, type: string][] = [
      [undefined, plain],
      ['', plain],
      [' , ', plain],
      ['*/*', plain],
      ['application/*', plain],
      ['application/json', plain],
      ['application/graphql-response+json', specific],
      ['application/graphql-response+json, application/json', specific],
      ['application/json, application/graphql-response+json', plain],
      ['application/graphql-response+json; charset=utf-8, application/json;q=0.9', specific],
      ['application/json;q=0.5, application/graphql-response+json;q=0.6', specific],
      ['application/graphql-response+json;q=0, */*;q=0.1', plain],
      ['text/html, APPLICATION/GRAPHQL-RESPONSE+JSON', specific],
    ]
    for (const [accept, type] of accepted) {
      for (const [query, status] of [
        ['{ currentUser { id } }', 200],
        ['{ nope }', 400],
        ['{', 400],
      ] as const) {
        const answer = await api.graphql(query, {}, 'user', accept === undefined ? {} : { accept })
        const { 'content-type': answered, vary } = answer.headers
        expect([accept, query, answer.status, answered, vary]).toEqual([
          accept,
          query,
          status,
          `${type}; charset=utf-8`,
          'Accept',
        ])
      }
    }
    for (const accept of ['application/xml', 'text/html', 'application/json;q=0', 'image/*, text/plain']) {
      const before = await requestCount()
      const answer = await api.graphql(mutation('createRequest'), { input: { title: 'x' } }, 'user', { accept })
      expect([accept, answer.status, codeOf(answer)]).toEqual([accept, 406, 'BAD_REQUEST'])
      expect(await requestCount()).toBe(before)
    }
  })
})

describe('bodies', () => {
  const query = '{ currentUser { id } }'

  test('of exactly the limit pass; with one byte more they are 413, sent by length or in chunks', async () => {
    const frame = JSON.stringify({ query, variables: { pad: '' } })
    const sized = (bytes: number) => frame.replace('"pad":""', `"pad":"${'x'.repeat(bytes - frame.length)}"`)
    const limit = 1024 * 1024
    expect((await post(sized(limit))).status).toBe(200)
    for (const bytes of [limit + 1, limit * 3]) {
      const answer = await post(sized(bytes))
      expect([answer.status, codeOf(answer)]).toEqual([413, 'PAYLOAD_TOO_LARGE'])
    }
    const chunked = await post(sized(limit + 1), { 'transfer-encoding': 'chunked' })
    expect([chunked.status, codeOf(chunked)]).toEqual([413, 'PAYLOAD_TOO_LARGE'])
    expect((await post(sized(5000), { 'transfer-encoding': 'chunked' })).status).toBe(200)
  })

  test('that are compressed are read, but only up to the limit', async () => {
    expect((await post(gzipSync(JSON.stringify({ query })), { 'content-encoding': 'gzip' })).body).toEqual({
      data: { currentUser: null },
    })
    const bomb = gzipSync(JSON.stringify({ query, variables: { pad: 'x'.repeat(100_000_000) } }))
    const [answer, seconds] = await timed(post(bomb, { 'content-encoding': 'gzip' }))
    expect([answer.status, codeOf(answer), seconds < 2]).toEqual([413, 'PAYLOAD_TOO_LARGE', true])
    expectBadRequest(await post('no gzip', { 'content-encoding': 'gzip' }))
    const unknown = await post('{}', { 'content-encoding': 'secret' })
    expect([unknown.status, codeOf(unknown)]).toEqual([415, 'UNSUPPORTED_MEDIA_TYPE'])
  })

  test('that are not application/json are 415', async () => {
    const body = JSON.stringify({ query })
    for (const type of [
      'text/plain',
      'application/x-www-form-urlencoded',
      'multipart/form-data; boundary=x',
      'application/graphql',
      'application/jsonx',
      'json',
      '',
    ]) {
      const answer = await post(body, { 'content-type': type })
      expect([type, answer.status, codeOf(answer)]).toEqual([type, 415, 'UNSUPPORTED_MEDIA_TYPE'])
    }
    const none = await api.send({ body })
    expect([none.status, codeOf(none)]).toEqual([415, 'UNSUPPORTED_MEDIA_TYPE'])
    const latin = await post(body, { 'content-type': 'application/json; charset=latin1' })
    expect([latin.status, codeOf(latin)]).toEqual([415, 'UNSUPPORTED_MEDIA_TYPE'])
    for (const type of [
      'application/json; charset=utf-8',
      'APPLICATION/JSON',
      'application/json;charset="UTF-8"',
      'application/json ; x=y',
    ]) {
      expect([type, (await post(body, { 'content-type': type })).status]).toEqual([type, 200])
    }
    for (const type of [
      'application/json; charset=utf-nonsense',
      'application/json; charset=',
      'application/json; charset="',
      'application/json;;;',
    ]) {
      const answer = await post(body, { 'content-type': type })
      expect([type, answer.body !== undefined, answer.status < 500]).toEqual([type, true, true])
    }
  })

  test('sent by another method are 405', async () => {
    for (const method of ['GET', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE']) {
      const answer = await api.send({ method, headers: JSON_TYPE, path: `/graphql?query=${encodeURIComponent(query)}` })
      expect([method, answer.status, codeOf(answer), answer.headers.allow]).toEqual([method, 405, 'METHOD_NOT_ALLOWED', 'POST'])
    }
    expect((await api.send({ method: 'HEAD' })).status).toBe(405)
  })

  test('that are not a call are 400', async () => {
    const bodies = [
      '',
      ' ',
      'null',
      'true',
      '1',
      '"x"',
      '[]',
      '{}',
      '{',
      '{"query":',
      'query { currentUser { id } }',
      JSON.stringify([{ query }]),
      JSON.stringify([{ query }, { query }]),
      ...[null, 1, true, [], {}, [query]].map((wrong) => JSON.stringify({ query: wrong })),
      ...[1, true, [], '{}', 'x', [{}]].map((variables) => JSON.stringify({ query, variables })),
      '\ufeff\ufeff{}',
      `${JSON.stringify({ query })}}`,
      "{'query': '{ __typename }'}",
      '{"query":"{ __typename }\n"}',
    ]
    for (const body of bodies) {
      const answer = await post(body)
      expect([body, answer.status, codeOf(answer)]).toEqual([body, 400, 'BAD_REQUEST'])
    }
    for (const extra of [{ variables: null }, { operationName: null }, { extensions: { persistedQuery: {} } }, { id: 1 }]) {
      expect((await post(JSON.stringify({ query, ...extra }))).body).toEqual({ data: { currentUser: null } })
    }
  })

  test('that are not UTF-8 are 400: no byte is replaced by a guess', async () => {
    const before = await requestCount()
    const whole = JSON.stringify({ query: mutation('createRequest'), variables: { input: { title: 'x@' } } })
    for (const bytes of [[0xff], [0xc3, 0x28], [0xed, 0xa0, 0x80], [0xf0, 0x9f, 0x98], [0xc0, 0x80]]) {
      const at = whole.indexOf('@')
      const body = Buffer.concat([Buffer.from(whole.slice(0, at)), Buffer.from(bytes), Buffer.from(whole.slice(at + 1))])
      expectBadRequest(await post(body, { authorization: `Bearer ${api.token('user')}` }))
    }
    expect(await requestCount()).toBe(before)
  })

  test('name the fields whose text none can have, and only to who is logged in', async () => {
    const variables = { input: { title: 'a\0', description: ['\ud800'], clientMutationId: 'fine' } }
    const answer = await api.graphql(mutation('createRequest'), variables, 'user')
    expect([answer.status, answer.body.errors[0].extensions]).toEqual([
      422,
      {
        code: 'VALIDATION_FAILED',
        field: 'title',
        fields: [
          { field: 'title', message: 'Text must not contain the character NUL.' },
          { field: 'description', message: 'Text must be well-formed Unicode.' },
        ],
      },
    ])
    expectUnauthenticated(await api.graphql(mutation('createRequest'), variables))
    expectUnauthenticated(await api.graphql(mutation('createRequest'), variables, { token: deadToken() }))
  })

  test('with lone surrogates or NUL in text are refused, wherever those stand', async () => {
    const authorization = `Bearer ${api.token('user')}`
    const before = await requestCount()
    const create = mutation('createRequest')
    for (const bad of ['\\ud800', 'x\\udc00y', '\\udc00\\ud800', '\\u0000', 'a\\u0000b']) {
      for (const field of ['title', 'description']) {
        const answer = await post(`{"query":${JSON.stringify(create)},"variables":{"input":{"title":"t","${field}":"${bad}"}}}`, {
          authorization,
        })
        expect([bad, codeOf(answer)]).toEqual([bad, 'VALIDATION_FAILED'])
      }
      const literal = `mutation { createRequest(input: { title: \\"${bad}\\" }) { clientMutationId } }`
      expect([bad, codeOf(await post(`{"query":"${literal}"}`, { authorization }))]).toEqual([
        bad,
        expect.stringMatching(/^(BAD_REQUEST|VALIDATION_FAILED)$/),
      ])
    }
    expect(
      codeOf(
        await post(
          `{"query":${JSON.stringify(mutation('login', 'accessToken'))},"variables":{"input":{"email":"a\\u0000@b","password":"x"}}}`,
        ),
      ),
    ).toBe('VALIDATION_FAILED')
    expect(await requestCount()).toBe(before)
    const pair = await post(
      `{"query":${JSON.stringify(mutation('createRequest', 'request { title }'))},"variables":{"input":{"title":"\\ud83d\\ude00"}}}`,
      { authorization },
    )
    expect(pair.body.data.createRequest.request.title).toBe('😀')
  })

  test.each([1_000, 1_999, 3_000, 100_000])('with a document of %d nested brackets are 400', async (n) => {
    expectBadRequest(await api.graphql(`{ request(id: ${'['.repeat(n)}) { id } }`, {}, 'user'))
    expectBadRequest(await api.graphql(`{ request(id: ${'['.repeat(n)}${']'.repeat(n)}) { id } }`, {}, 'user'))
  })

  test.each([
    'subscription { inboxChanged @skip(if: true) { totalCount } }',
    'subscription ($if: Boolean!) { inboxChanged @include(if: $if) { totalCount } }',
    'subscription { ...F @skip(if: true) } fragment F on Subscription { inboxChanged { totalCount } }',
    'subscription { ...F } fragment F on Subscription { ... @include(if: false) { inboxChanged { totalCount } } }',
  ])('with a subscription under a condition are 400: %s', async (query) => {
    expectBadRequest(await api.graphql(query, { if: false }, 'user', { accept: 'text/event-stream' }))
  })

  test('with very long strings, deep nesting and odd keys are answered as they should be', async () => {
    const long = 'x'.repeat(900_000)
    const calls: [string, object, string][] = [
      [mutation('createRequest'), { input: { title: long } }, 'VALIDATION_FAILED'],
      [mutation('createRequest'), { input: { title: 'x', description: long } }, 'VALIDATION_FAILED'],
      [mutation('login', 'accessToken'), { input: { email: long, password: 'x' } }, 'UNAUTHENTICATED'],
      [mutation('login', 'accessToken'), { input: { email: 'a@b', password: long } }, 'UNAUTHENTICATED'],
      ['query ($id: UUID!) { request(id: $id) { id } }', { id: long }, 'BAD_REQUEST'],
      ['query ($a: Cursor) { requests(after: $a) { nodes { id } } }', { a: long }, 'BAD_REQUEST'],
    ]
    for (const [text, variables, expected] of calls) {
      const answer = await api.graphql(text, variables, 'user')
      expect(codeOf(answer)).toBe(expected)
      expect(answer.text.length).toBeLessThan(2_000_000)
    }
    expect((await api.graphql(`{ currentUser { id } } #${long}`, {}, 'user')).status).toBe(200)
    for (const [open, close] of [
      ['[', ']'],
      ['{"a":', '}'],
    ] as const) {
      for (const depth of [1000, 100_000]) {
        const deep = `${open.repeat(depth)}1${close.repeat(depth)}`
        expectBadRequest(await post(`{"query":"{ __typename }","variables":{"x":${deep}}}`))
        expectBadRequest(
          await post(`{"query":"query ($f: RequestFilter) { requests(filter: $f) { totalCount } }","variables":{"f":${deep}}}`, {
            authorization: `Bearer ${api.token('user')}`,
          }),
        )
        expect((await post(`{"query":"{ __typename }","extensions":${deep}}`)).status).toBe(200)
      }
    }
    for (const key of ['__proto__', 'constructor', 'toString', 'hasOwnProperty']) {
      expect((await post(`{"query":"{ __typename }","${key}":{"query":"{ x }"},"variables":{"${key}":{"x":1}}}`)).body).toEqual({
        data: { __typename: 'Query' },
      })
      expectBadRequest(await post(`{"${key}":{"query":"{ __typename }"}}`))
      const authorization = `Bearer ${api.token('user')}`
      const input = `{"title":"x","${key}":{"title":"y"}}`
      expectBadRequest(
        await post(`{"query":${JSON.stringify(mutation('createRequest'))},"variables":{"input":${input}}}`, { authorization }),
      )
    }
    expect(({} as any).query).toBeUndefined()
  })
})

describe('in production', () => {
  let production: Api
  beforeAll(async () => {
    production = await startApi({ NODE_ENV: 'production' }, api.db)
  })
  afterAll(() => production.close())

  test('strangers get no introspection, and errors do not guess at names', async () => {
    const login = { email: 'user@assent.test', password: PASSWORD }
    const cookie = (await production.rest('POST', '/auth/session/', login)).headers['set-cookie']![0]!.split(';')[0]!
    for (const query of [
      getIntrospectionQuery(),
      '{ __type(name: "User") { name } }',
      '{ ...F } fragment F on Query { x: __schema { types { name } } }',
    ]) {
      expectUnauthenticated(await production.graphql(query))
      expect((await production.graphql(query, {}, 'user')).status).toBe(200)
      expectUnauthenticated(await production.graphql(query, {}, { token: 'bad' }))
      expectUnauthenticated(await production.graphql(query, {}, undefined, { cookie: 'assent_session=dead' }))
      expect((await production.graphql(query, {}, undefined, { cookie })).status).toBe(200)
      expect((await api.graphql(query)).status).toBe(200)
    }
    expect(await production.data('{ __typename currentUser { id __typename } }')).toEqual({
      __typename: 'Query',
      currentUser: null,
    })
    for (const who of [undefined, 'user'] as const) {
      for (const [query, variables] of [
        ['{ requestz { nodes { id } } }'],
        ['{ requests(condition: { statuz: DRAFT }) { totalCount } }'],
        ['query ($s: RequestStatus) { requests(condition: { status: $s }) { totalCount } }', { s: 'DRAF' }],
      ] as [string, object?][]) {
        const answer = await production.graphql(query, variables, who)
        if (who) expectBadRequest(answer)
        else expectUnauthenticated(answer)
        expect(answer.text).not.toMatch(/did you mean/i)
      }
    }
  })

  test('strangers cannot probe the schema: whatever is wrong with a document, its answer is the same', async () => {
    const probes = [
      '{ currentUser { nope } }',
      '{ currentUser { id ...F } } fragment F on Nope { id }',
      '{ currentUser { id ...F } } fragment F on Request { title }',
      '{ currentUser { id } } fragment F on Request { titl }',
      'query ($x: Nope) { currentUser { id } }',
      'query ($x: RequestFilter) { currentUser { id } }',
    ]
    const answers = await Promise.all(probes.map((query) => production.graphql(query)))
    answers.forEach(expectBadRequest)
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1)
    // Whoever is logged in, and everybody outside production, learns what it is.
    for (const server of [production.graphql(probes[0]!, {}, 'user'), api.graphql(probes[0]!)]) {
      expect((await server).text).toContain('Cannot query field')
    }
  })

  test('there is no GraphiQL and GET /graphql is 405; outside production there is GraphiQL', async () => {
    for (const path of ['/graphiql', '/graphiql/', '/graphiql/static/ruru.js']) {
      expect([path, (await production.send({ method: 'GET', path })).status]).toEqual([path, 404])
    }
    const answer = await production.send({ method: 'GET', path: '/graphql', headers: { accept: 'text/html' } })
    expect([answer.status, codeOf(answer)]).toEqual([405, 'METHOD_NOT_ALLOWED'])
    const page = await api.send({ method: 'GET', path: '/graphiql' })
    expect([page.status, page.headers['content-type']]).toEqual([200, expect.stringContaining('text/html')])
    expect(page.headers['content-security-policy']).toContain('default-src')
  })

  test('no other path reveals what runs here', async () => {
    for (const path of [
      '/',
      '/graphql/',
      '/graphql/x',
      '/nowhere',
      '/%',
      '/%ff',
      '/graphiql/%',
      '/graphiql/static/%ff',
      '/graphiql/static/../../package.json',
      '/healthz/%',
      '//',
    ]) {
      for (const server of [production, api]) {
        const { status, text, headers } = await server.send({ method: 'GET', path })
        expect([path, status < 500]).toEqual([path, true])
        expect(text).not.toMatch(/node_modules|\.ts\b|at .*:\d+:\d+|Error:/)
        expect(headers['x-powered-by']).toBeUndefined()
      }
    }
  })
})

describe('when the database is slow or cannot be reached', () => {
  const expectUnavailable = (answer: Answer) => {
    expect([answer.status, codeOf(answer)]).toEqual([503, 'UNAVAILABLE'])
    expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0)
    expect(answer.body.errors[0].extensions.retryAfter).toBe(Number(answer.headers['retry-after']))
    expect(answer.text).not.toContain('"data"')
  }

  test('waiting for a lock of another session ends in UNAVAILABLE, and nothing is done', async () => {
    const requestId = await newRequest(api)
    const other = await api.db.connect('owner')
    await other.query('begin')
    await other.query('select from app_public.requests where id = $1 for update', [requestId])
    const [answer, seconds] = await timed(api.graphql(mutation('updateRequest'), { input: { requestId, title: 'Late' } }, 'user'))
    await other.query('rollback')
    expectUnavailable(answer)
    expect(seconds).toBeLessThan(9)
    expect((await api.data('query ($id: UUID!) { request(id: $id) { title } }', { id: requestId }, 'user')).request.title).toBe(
      'A request',
    )
    await api.data(mutation('updateRequest'), { input: { requestId, title: 'In time' } }, 'user')
  })

  test('an exhausted pool answers within a second or so, and recovers', async () => {
    const requestId = await newRequest(api)
    const other = await api.db.connect('owner')
    await other.query('begin')
    await other.query('select from app_public.requests where id = $1 for update', [requestId])
    const waiting = Array.from({ length: 10 }, () =>
      api.graphql(mutation('updateRequest'), { input: { requestId, title: 'Waited' } }, 'user'),
    )
    // The ten calls must hold the pool's ten connections before the eleventh call comes.
    const root = await api.db.connect('root')
    const blocked = `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
    while (Number((await root.query(blocked)).rows[0].count) < 10) await new Promise((resolve) => setTimeout(resolve, 10))
    const [answer, seconds] = await timed(api.graphql('{ requests { totalCount } }', {}, 'user'))
    await other.query('rollback')
    expectUnavailable(answer)
    expect(seconds).toBeLessThan(2)
    for (const done of await Promise.all(waiting)) expect([done.status, done.body.errors]).toEqual([200, undefined])
    await api.data('{ requests { totalCount } }', {}, 'user')
  })

  test('terminated connections fail the calls under way, and later calls find new ones', async () => {
    const root = await api.db.connect('root')
    await Promise.all(Array.from({ length: 10 }, () => api.data('{ requests { totalCount } }', {}, 'user')))
    await root.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'assent api'`,
    )
    const answers = await Promise.all(Array.from({ length: 30 }, () => api.graphql('{ requests { totalCount } }', {}, 'user')))
    for (const answer of answers) {
      if (answer.status !== 200) expectUnavailable(answer)
    }
    for (let i = 0; i < 20; i++) {
      const answer = await api.graphql('{ requests { totalCount } }', {}, 'user')
      if (i > 12) expect(answer.status).toBe(200)
    }
  })

  test('without the database everything is UNAVAILABLE within a second or so, until it is back', async () => {
    const proxy = await startProxy(api.db.urls.auth)
    const far = await startApi({ AUTH_DATABASE_URL: proxy.url }, api.db)
    const login = () =>
      far.graphql(mutation('login', 'accessToken'), { input: { email: 'user@assent.test', password: PASSWORD } })
    const calls = [
      () => far.graphql('{ requests { totalCount } }', {}, 'user'),
      () => far.graphql(mutation('createRequest'), { input: { title: 'x' } }, 'user'),
      login,
      () => far.graphql('{ __typename }', {}, 'user'),
    ]
    const all = async (expected: (answer: Answer) => void) => {
      for (const [answer, seconds] of await Promise.all(calls.map((call) => timed(call())))) {
        expected(answer)
        expect(seconds).toBeLessThan(2)
      }
    }
    const expectFine = (answer: Answer) => expect([answer.status, answer.body.errors]).toEqual([200, undefined])
    try {
      await all(expectFine)
      for (const trouble of [proxy.cut, proxy.block]) {
        await trouble()
        await all(expectUnavailable)
        const ready = await far.send({ method: 'GET', path: '/readyz' })
        expect([ready.status, ready.headers['retry-after']]).toEqual([503, expect.stringMatching(/^\d+$/)])
        expect((await far.send({ method: 'GET', path: '/healthz' })).status).toBe(200)
        await proxy.mend()
        await all(expectFine)
        expect((await far.send({ method: 'GET', path: '/readyz' })).status).toBe(200)
      }
      expect(far.log()).not.toContain('internal error')
    } finally {
      await far.close()
      await proxy.close()
    }
  })
})

test('none of this was an internal error', () => {
  expect(api.log()).not.toContain('internal error')
})
