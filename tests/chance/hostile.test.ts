import fc from 'fast-check'
import type { Client } from 'pg'
import { STATUS } from '../../server/errors.ts'
import {
  COMMANDS,
  deadToken,
  fromElsewhere,
  mutation,
  newRequest,
  NOBODY,
  startApi,
  type Answer,
  type Api,
  type Command,
  type Who,
} from '../harness/client.ts'

let api: Api
let owner: Client
beforeAll(async () => {
  api = await startApi({ TRUST_PROXY: '1' })
  owner = await api.db.connect('owner')
})
afterAll(() => api.close())

// Replayed by its seed, which a failure names: FUZZ_SEED=… npm test -- tests/chance/hostile.test.ts
const seed = Number(process.env['FUZZ_SEED'] ?? 20_240_229)
const CALLS = 2_000

/** What no answer may hold: SQL, names of ours, files, stacks. */
const INTERNALS =
  /\b(relation|pg_catalog|plpgsql|sqlstate)\b|syntax error at or near|\bselect .* from\b|app_(public|hidden|private)|assent_\w|node_modules|\/work\/|\.[cm]?[jt]s:\d+|\n\s+at /i
// No caller here asks too often, and GraphQL knows no Idempotency-Key.
const UNEXPECTED = ['INTERNAL', 'UNAVAILABLE', 'RATE_LIMITED', 'IDEMPOTENCY_CONFLICT']
const CODES = Object.keys(STATUS).filter((code) => !UNEXPECTED.includes(code))

const WHO: (Who | 'dead')[] = ['user', 'user2', 'manager', 'manager2', 'admin', undefined, { token: 'garbage' }, 'dead' as const]

const nasty = fc.constantFrom(
  '',
  ' ',
  '\0',
  '\ud800',
  '\udfff\ud800',
  '\ufeff',
  '\uffff',
  '\u202e',
  '\u2028',
  'ı̇',
  'ﬃ',
  '𝔘'.repeat(200),
  '%',
  '_',
  '\\',
  "'",
  '"',
  '"""',
  '$1',
  '${x}',
  '{{x}}',
  "'; drop table app_public.requests; --",
  "' or '1' = '1",
  '1) union select password_hash from app_private.credentials --',
  '\\x00',
  '\\u0000',
  'null',
  'NaN',
  '-Infinity',
  '__proto__',
  'constructor',
  'infinity',
  'epoch',
  'now',
  '0001-01-01 BC',
  '2024-02-30',
  '24:00:60',
  NOBODY,
  NOBODY.toUpperCase(),
  'ffffffff-ffff-ffff-ffff-ffffffffffff',
  '{' + NOBODY + '}',
  NOBODY.replaceAll('-', ''),
  '<script>',
  '../../etc/passwd',
  'x'.repeat(10_001),
  '}) { __typename } }',
  'user@assent.test',
  '#',
  '...',
  '[[[[',
  '{"a":1}',
)
const text = fc.oneof(
  { weight: 3, arbitrary: nasty },
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.string({ unit: 'grapheme', maxLength: 40 }),
)
const number = fc.constantFrom<number>(0, -1, 1, 1.5, 2 ** 31, -(2 ** 31) - 1, 2 ** 53, 1e308, -0, 101, 100)
const scalar = fc.oneof<fc.Arbitrary<unknown>[]>({ weight: 4, arbitrary: text } as never, number, fc.boolean(), fc.constant(null))
const anything = fc.oneof(
  { weight: 5, arbitrary: scalar },
  fc.array(scalar, { maxLength: 3 }),
  fc.dictionary(text, scalar, { maxKeys: 3 }),
)

let known: string[] = []
const id = fc.oneof({ weight: 4, arbitrary: fc.nat(999).map((n) => known[n % known.length]!) }, text as fc.Arbitrary<unknown>)
const who = fc.nat(999).map((n) => WHO[n % WHO.length])

interface Hostile {
  readonly who: Who | 'dead'
  readonly query: unknown
  readonly variables?: unknown
  readonly headers?: Record<string, string>
  readonly extra?: object
}

const command = fc.record({
  who,
  query: fc
    .constantFrom(...(Object.keys(COMMANDS) as Command[]))
    .map((name) => mutation(name, 'clientMutationId request { id title status availableActions }')),
  variables: fc.record({
    input: fc.record(
      {
        requestId: id,
        title: text,
        description: anything,
        comment: text,
        assignedToId: fc.option(id),
        version: fc.oneof(fc.nat(4), number),
        clientMutationId: text,
        zz: anything,
      },
      { requiredKeys: ['requestId'] },
    ),
  }),
})
/** Only what each command takes, so that many get as far as the database. */
const fitting = fc
  .record({
    who,
    name: fc.constantFrom(...(Object.keys(COMMANDS) as Command[])),
    requestId: id,
    value: text,
    version: fc.option(fc.nat(4), { nil: undefined }),
  })
  .map(({ name, requestId, value, version, who: by }) => {
    const fields: Record<Command, object> = {
      updateRequest: { title: value, description: value },
      deleteRequest: {},
      submitRequest: {},
      approveRequest: { comment: value },
      rejectRequest: { comment: value },
      assignRequest: { assignedToId: requestId },
    }
    return { who: by, query: mutation(name), variables: { input: { requestId, version, ...fields[name] } } }
  })
const create = fc.record({
  who,
  query: fc.constant(mutation('createRequest', 'request { id title description }')),
  variables: fc.record({
    input: fc.record({ title: anything, description: fc.option(text), assignedToId: fc.option(id) }, { requiredKeys: [] }),
  }),
})
const login = fc.record({
  who,
  query: fc.constant(mutation('login', 'accessToken user { id email }')),
  variables: fc.record({
    input: fc.record({ email: fc.oneof(text, anything), password: fc.oneof(text, anything) }, { requiredKeys: ['email'] }),
  }),
})
/** The administration of people: by an admin only what changes nobody's session or role, which other calls live on. */
const people = fc
  .record({
    by: who,
    name: fc.constantFrom('updateUser', 'deactivateUser', 'reactivateUser', 'createUser', 'changePassword'),
    userId: id,
    value: fc.oneof(text, fc.constant('long enough to be one')),
    role: fc.option(fc.constantFrom('USER', 'ADMIN', 'user', 'OWNER', ''), { nil: undefined }),
  })
  .map(({ by, name: drawn, userId, value, role: wanted }) => {
    const name = by === 'admin' && drawn === 'deactivateUser' ? 'updateUser' : drawn
    const role = by === 'admin' ? undefined : wanted
    const input: Record<string, object> = {
      updateUser: { userId, name: value, role },
      deactivateUser: { userId },
      reactivateUser: { userId },
      createUser: { email: by === 'admin' ? 'USER@assent.test' : value, name: value, role, password: value },
      changePassword: { oldPassword: value, newPassword: value },
    }
    return { who: by, query: mutation(name, 'user { id email }'), variables: { input: input[name] } }
  })
const look = fc.record({
  who,
  query: fc.constantFrom(
    'query ($x: UUID!) { request(id: $x) { id title creator { id email } auditLogs { totalCount } } }',
    'query ($x: UUID!) { user(id: $x) { id email } }',
    'query ($x: UUID!) { auditLog(id: $x) { id metadata } }',
    'query ($x: Cursor) { requests(after: $x) { nodes { id } } }',
    'query ($x: Cursor) { users(before: $x, last: 2) { nodes { id } } }',
    'query ($x: Datetime) { requests(filter: { createdAt: { lessThan: $x } }) { totalCount } }',
    'query ($x: String) { auditLogs(condition: { action: $x }) { totalCount nodes { id } } }',
    'query ($x: [UUID!]) { requests(filter: { creatorId: { in: $x } }) { totalCount } }',
    'query ($x: RequestFilter) { requests(filter: $x) { totalCount } }',
    'query ($x: RequestStatus) { requests(condition: { status: $x }) { totalCount } }',
    'query ($x: [RequestOrderBy!]) { requests(orderBy: $x) { nodes { id } } }',
    'query ($x: Int) { requests(first: $x) { nodes { id } } }',
    'query ($x: Int) { requestsAwaitingMyDecision(first: $x) { totalCount } }',
    'query ($x: AuditLogCondition) { auditLogs(condition: $x) { totalCount } }',
    'query ($x: Boolean!) { currentUser @include(if: $x) { id } }',
  ),
  variables: fc.record({ x: fc.oneof(id, anything) }),
})
/** Documents with something inserted, cut out or put in another's place. */
const document = fc.record({
  who,
  query: fc
    .tuple(
      fc.constantFrom(
        mutation('createRequest'),
        '{ requests(first: 2) { nodes { id title } totalCount } }',
        'query A { currentUser { id } } fragment F on User { id }',
        '{ __schema { types { name } } }',
        'subscription { x }',
      ),
      fc.nat(120),
      fc.nat(20),
      text,
    )
    .map(([of, at, cut, put]) => of.slice(0, at) + put + of.slice(at + cut)),
  variables: fc.oneof(anything, fc.constant({})),
})
const literal = fc.record({
  who,
  query: text.map((value) => `mutation { createRequest(input: { title: ${JSON.stringify(value)} }) { request { title } } }`),
})
const envelope = fc.record({
  who,
  query: fc.oneof(anything, fc.constant('{ currentUser { id } }')),
  variables: anything,
  extra: fc.dictionary(fc.oneof(text, fc.constantFrom('operationName', 'extensions', 'query')), anything, { maxKeys: 3 }),
  headers: fc.dictionary(
    fc.constantFrom(
      'x-forwarded-for',
      'x-forwarded-host',
      'cookie',
      'origin',
      'accept',
      'authorization',
      'content-type',
      'x-http-method-override',
      'content-encoding',
      'x-request-id',
      'forwarded',
    ),
    // What node:http lets through: a header that is none is not ours to answer.
    fc
      .oneof(nasty, fc.constantFrom('application/json; charset=x', 'gzip', 'Bearer ', 'Basic eDp5', 'a=b; c=d', '*/*', 'DELETE'))
      .map((s) => s.replace(/[^\t\x20-\x7e]/g, '').slice(0, 300)),
    { maxKeys: 3 },
  ),
})
const hostile: fc.Arbitrary<Hostile> = fc.oneof<fc.Arbitrary<Hostile>[]>(
  { weight: 4, arbitrary: command } as never,
  { weight: 5, arbitrary: fitting } as never,
  { weight: 3, arbitrary: create } as never,
  { weight: 1, arbitrary: login } as never,
  { weight: 2, arbitrary: people } as never,
  { weight: 4, arbitrary: look } as never,
  { weight: 2, arbitrary: document } as never,
  { weight: 1, arbitrary: literal } as never,
  { weight: 2, arbitrary: envelope } as never,
)

function call({ who: by, query, variables, headers, extra }: Hostile): Promise<Answer> {
  const token = by === 'dead' ? deadToken() : typeof by === 'string' ? api.token(by) : by?.token
  const authorization = token && { authorization: `Bearer ${token}` }
  return api.send({
    headers: { 'content-type': 'application/json', ...fromElsewhere(), ...authorization, ...headers },
    body: JSON.stringify({ query, variables, ...extra }),
  })
}

/** Whatever came in: a JSON answer, no fault of ours, a documented code, and nothing from the inside. */
function check(answer: Answer, sent: string): void {
  const { status, body, text: shown } = answer
  if (status >= 500 || !body || !('data' in body || 'errors' in body)) throw new Error(`${status} ${shown.slice(0, 500)}`)
  for (const { message, extensions } of body.errors ?? []) {
    if (!CODES.includes(extensions.code)) throw new Error(`${extensions.code}: ${message}`)
    // What the caller wrote may come back; what is not in it must not be ours.
    const found = INTERNALS.exec(message)
    if (found && !sent.includes(JSON.stringify(found[0]).slice(1, -1))) throw new Error(`It tells: ${message}`)
  }
  if (status !== 200 && body.data !== undefined) throw new Error(`${status} with data`)
}

const changes = async () =>
  (
    await owner.query(
      `select sum(version)::int as versions, count(*)::int as requests, (select count(*)::int from app_public.audit_logs where request_id is not null) as entries from app_public.requests`,
    )
  ).rows[0]

test(`${CALLS} hostile calls meet no fault of ours, and the trail agrees with what they did`, async () => {
  const drafts = await Promise.all(
    (['user', 'user2', 'manager', 'admin'] as const).flatMap((by) => [1, 2, 3].map(() => newRequest(api, { by }))),
  )
  const submitted = await Promise.all(
    (['user', 'user2', 'manager'] as const).flatMap((by) => [1, 2, 3].map(() => newRequest(api, { by, submit: true }))),
  )
  known = [...drafts, ...submitted, ...Object.values(api.db.people).map((person) => person.id), NOBODY]
  const before = await changes()
  expect(before.versions).toBe(before.entries)

  const met = new Map<string, number>()
  let calls = 0
  // In tens at a time: callers at once also meet each other's locks.
  const ten = fc.array(hostile, { minLength: 10, maxLength: 10 })
  await fc.assert(
    fc.asyncProperty(ten, async (batch) => {
      await Promise.all(
        batch.map(async (it) => {
          const answer = await call(it)
          check(answer, JSON.stringify(it))
          const code = answer.body.errors?.[0].extensions.code ?? 'done'
          met.set(code, (met.get(code) ?? 0) + 1)
          calls++
        }),
      )
    }),
    { numRuns: CALLS / 10, seed, endOnFailure: true },
  )

  expect(calls).toBe(CALLS)
  // The fuzzer reaches every room: a change of it that only ever meets the door fails here.
  for (const code of [
    'done',
    'BAD_REQUEST',
    'UNAUTHENTICATED',
    'NOT_FOUND',
    'FORBIDDEN',
    'INVALID_TRANSITION',
    'STALE_VERSION',
    'VALIDATION_FAILED',
    'UNSUPPORTED_MEDIA_TYPE',
  ]) {
    expect([code, (met.get(code) ?? 0) > 2]).toEqual([code, true])
  }
  const after = await changes()
  expect(after.requests).toBeGreaterThan(before.requests)
  expect(after.versions).toBe(after.entries)
  const auditor = await api.db.connect('auditor')
  expect((await auditor.query('select * from audit.disagreements')).rows).toEqual([])
  expect((await owner.query('select count(*)::int as n from app_public.users')).rows[0].n).toBe(5)
  expect(api.log()).not.toContain('internal error')
  expect((await api.data('{ requests { totalCount } }', {}, 'admin')).requests.totalCount).toBeGreaterThan(0)
}, 60_000)

/** Selections of a request, each of which is another statement of SQL. */
const FIELDS = [
  'title',
  'description',
  'status',
  'version',
  'creatorId',
  'assignedToId',
  'reviewedById',
  'reviewedAt',
  'reviewComment',
]
const selections = (from: number, count: number) =>
  Array.from(
    { length: count },
    (_, n) => `{ requests(first: 1) { nodes { id ${FIELDS.filter((_, bit) => ((n + from) >> bit) & 1).join(' ')} } } }`,
  )

test('more statements than a connection keeps, with dead sessions in between, break nobody’s call', async () => {
  const dead: Who = { token: deadToken() }
  // One caller after the other: they meet the same connection.
  for (const query of selections(0, 40)) expect((await api.graphql(query, {}, dead)).status).toBe(401)
  for (const query of selections(40, 260)) expect((await api.graphql(query, {}, 'user')).body.errors).toBeUndefined()
  for (const query of selections(300, 60)) expect((await api.graphql(query, {}, dead)).status).toBe(401)
  for (const query of selections(0, 300)) expect((await api.graphql(query, {}, 'manager')).body.errors).toBeUndefined()
}, 60_000)
