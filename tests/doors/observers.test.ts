import { randomUUID } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { makeTokens } from '../../server/http/tokens.ts'
import { cloneDatabase, type Name, type TestDatabase } from '../harness/database.ts'
import { JWT_SECRET, PASSWORD } from '../harness/client.ts'
import { startObservers, type Observers, type Span } from '../harness/observers.ts'
import { command, type Running } from '../harness/process.ts'

// What leaves a server and a worker for a collector of traces and for Sentry, as they run in production.

/** A word of whatever callers send and people are called: nothing that leaves may have it. */
const CANARY = `canary${randomUUID().replaceAll('-', '')}`
const ADDRESS = '203.0.113.77'
const TRACE = randomUUID().replaceAll('-', '')

let db: TestDatabase
let observers: Observers
let deaf: Observers
/** One whose observers are deaf, and one whose observers are away. */
let servers: Running[]
let server: Running
let worker: Running
let url: string
let folder: string

const tokens = makeTokens([JWT_SECRET])

async function call(path: string, body: object | undefined, who?: Name, headers: Record<string, string> = {}): Promise<any> {
  const token = who && tokens.sign(db.people[who].session, randomUUID()).token
  const response = await fetch(url + path, {
    method: body ? 'POST' : 'GET',
    headers: { 'content-type': 'application/json', ...(token && { authorization: `Bearer ${token}` }), ...headers },
    ...(body && { body: JSON.stringify(body) }),
  })
  return response.json()
}

async function until<T>(look: () => T | undefined | false): Promise<T> {
  for (;;) {
    const found = look()
    if (found) return found
    await sleep(20)
  }
}

const start = (name: 'server' | 'worker', env: Record<string, string>) =>
  command(name, {
    NODE_ENV: 'production',
    PORT: '0',
    JWT_SECRET,
    TRUST_PROXY: '1',
    DATA_DIR: folder,
    AUTH_DATABASE_URL: db.urls.auth,
    WORKER_DATABASE_URL: db.urls.worker,
    ...observers.env,
    ...env,
  })

const listening = (running: Running) => running.until(/The API listens at (http:[^ "]*\d)/)

const spansOf = (trace: string) => observers.spans.filter((span) => span.trace === trace)
const named = (spans: readonly Span[], name: string) => spans.find((span) => span.name === name)!

beforeAll(async () => {
  ;[db, observers, deaf, folder] = await Promise.all([
    cloneDatabase(),
    startObservers(),
    startObservers(true),
    mkdtemp(join(tmpdir(), 'assent-observers-')),
  ])
  // So long a delay that what arrives was sent when the server ended.
  server = start('server', { OTEL_BSP_SCHEDULE_DELAY: '600000' })
  const away = {
    OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:1',
    SENTRY_DSN: 'http://key@127.0.0.1:1/42',
    OTEL_EXPORTER_OTLP_TIMEOUT: '300',
  }
  const common = { TRUST_PROXY: '0', OTEL_BSP_SCHEDULE_DELAY: '1' }
  servers = [deaf.env, away].map((env) => start('server', { ...common, ...env }))
  const crash = `process.on('SIGUSR2', () => Promise.reject(new TypeError('${CANARY}')))`
  worker = start('worker', { OTEL_BSP_SCHEDULE_DELAY: '20', NODE_OPTIONS: `--import=data:text/javascript,${encodeURI(crash)}` })
  url = await listening(server)

  const root = await db.connect('root')
  await root.query(`update app_public.users set name = $1`, [CANARY])
  const traceparent = `00-${TRACE}-00f067aa0ba902b7-01`
  const created = await call(
    '/graphql',
    {
      query: `mutation Create($input: CreateRequestInput!) { createRequest(input: $input) { request { id title } } }`,
      variables: { input: { title: CANARY, description: CANARY } },
    },
    'user',
    {
      traceparent,
      tracestate: `them=${CANARY}`,
      baggage: `who=${CANARY}`,
      'user-agent': CANARY,
      'x-forwarded-for': ADDRESS,
      cookie: `x=${CANARY}`,
    },
  )
  const { id } = created.data.createRequest.request
  await call(`/api/v1/requests/${id}/submit/`, {}, 'user')
  await call(`/api/v1/requests/?search=${CANARY}&page_size=5`, undefined, 'manager')
  await call(
    '/graphql',
    { query: `{ requests(first: 3, filter: { title: { equalTo: "${CANARY}" } }) { nodes { id } } }` },
    'manager',
  )
  await call('/api/v1/auth/token/', { email: `${CANARY}@example.com`, password: PASSWORD })
  await call('/readyz', undefined)

  // Defects, whose messages quote what somebody wrote.
  await root.query(`
    create function public.fail() returns trigger language plpgsql as $$
      begin raise 'An unforeseen value: "${CANARY}@example.com"' using detail = '${CANARY}', hint = '${CANARY}'; end $$;
    create trigger fail before insert on app_public.requests for each row execute function public.fail();
    create or replace function app_private.remind() returns void language plpgsql as $$
      begin raise '${CANARY}'; end $$;
    select graphile_worker.add_job('remind', max_attempts => 1)`)
  internal = await call('/api/v1/requests/', { title: CANARY }, 'user')
  await call('/api/v1/requests/', { title: CANARY })
  await call(`/api/v1/requests/${id}/approve/`, {}, 'user')

  await until(() => observers.spans.some(({ name }) => name === 'process send_mail'))
  await until(() => observers.reports.some(({ tags }) => tags.task))
  worker.child.kill('SIGUSR2')
  ends = [await server.end('SIGTERM'), await worker.exit]
}, 60_000)
afterAll(async () => {
  await Promise.all([observers.close(), deaf.close(), db.close(), rm(folder, { recursive: true })])
})

/** The answer to a call that met a defect. */
let internal: any
/** How both processes ended. */
let ends: (number | null)[]

test('a trace leads from the request over the operation to the statement, and is sent when the server ends', () => {
  const spans = spansOf(TRACE)
  const request = named(spans, 'POST /graphql')
  const operation = named(spans, 'mutation')
  expect(request).toMatchObject({
    service: 'assent-server',
    kind: 'SERVER',
    parent: '00f067aa0ba902b7',
    failed: false,
    attributes: { 'http.request.method': 'POST', 'http.route': '/graphql', 'http.response.status_code': 200 },
  })
  expect(operation).toMatchObject({
    parent: request.id,
    attributes: { 'graphql.operation.type': 'mutation', 'graphql.operation.name': 'Create' },
  })
  const statements = spans.filter(({ kind }) => kind === 'CLIENT')
  expect(statements.length).toBeGreaterThan(0)
  expect(named(statements, 'SELECT app_public.create_request')).toMatchObject({
    parent: operation.id,
    attributes: {
      'db.system.name': 'postgresql',
      'db.namespace': new URL(db.urls.auth).pathname.slice(1),
      'server.address': new URL(db.urls.auth).hostname,
      'server.port': Number(new URL(db.urls.auth).port),
    },
  })
  expect(ends[0]).toBe(0)
})

test('a request of REST is traced by its route, and its jobs are linked to it: those that it queued, and those that they did', () => {
  const request = named(observers.spans, 'POST /api/v1/requests/:id/submit/')
  expect(request.parent).toBe('')
  expect(named(spansOf(request.trace), 'SELECT app_hidden.act_on_request')).toMatchObject({
    parent: request.id,
    attributes: { 'assent.statement': expect.stringMatching(/^\S+$/) },
  })
  const dispatch = observers.spans.find(({ name, links }) => name === 'process dispatch' && links.includes(request.trace))!
  expect(dispatch).toMatchObject({
    service: 'assent-worker',
    kind: 'CONSUMER',
    attributes: { 'messaging.destination.name': 'dispatch', 'assent.attempt': 1 },
  })
  expect(observers.spans.find(({ name }) => name === 'process send_mail')!.links).toEqual([dispatch.trace])
})

test('what fails is marked by its code', () => {
  const failed = observers.spans.filter((span) => span.failed)
  expect(failed.map(({ name, attributes }) => [name, attributes['error.type']])).toEqual(
    expect.arrayContaining([
      ['POST /api/v1/requests/', '500'],
      ['SELECT app_hidden.act_on_request', 'P0001'],
      ['process remind', 'P0001'],
    ]),
  )
})

test('probes are not traced', () => {
  expect(observers.spans.filter(({ attributes }) => String(attributes['http.route']).endsWith('z'))).toEqual([])
})

test('a defect that a caller met is reported by the id that they were given, with its trace, and the others without one', () => {
  const request = observers.spans.find(({ failed, name }) => failed && name === 'POST /api/v1/requests/')!
  const at = { filename: expect.stringMatching(/^\/(server|node_modules)\//), function: expect.any(String) }
  expect(observers.reports).toEqual(
    expect.arrayContaining([
      expect.objectContaining({
        level: 'error',
        environment: 'production',
        release: expect.stringMatching(/^assent@\d/),
        tags: { id: /[0-9a-f-]{36}$/.exec(internal.detail)![0] },
        contexts: { trace: { trace_id: request.trace, span_id: expect.any(String) } },
        exception: {
          values: [
            expect.objectContaining({
              type: 'DatabaseError',
              value: expect.stringMatching(/^P0001, public.fail line 2, app_private.write_request line \d+$/),
              stacktrace: { frames: expect.arrayContaining([expect.objectContaining(at)]) },
            }),
          ],
        },
      }),
      expect.objectContaining({ tags: { task: 'remind', job: expect.stringMatching(/^\d+$/) } }),
      expect.objectContaining({
        tags: { fatal: 'yes' },
        exception: { values: [expect.objectContaining({ type: 'TypeError', value: '' })] },
      }),
    ]),
  )
  // What callers cause is no defect.
  expect(observers.reports.length).toBe(3)
  expect(ends[1]).toBe(1)
})

test('no word of anybody is sent, no token, no header and no address', () => {
  const received = observers.received()
  expect(received).toContain('create_request') // It has what it is searched for in.
  for (const word of [CANARY, PASSWORD, JWT_SECRET, ADDRESS, '@assent', '@example', 'ip_address', 'cookie', 'headers']) {
    const at = received.indexOf(word)
    expect([word, at < 0 ? '' : received.slice(at - 100, at + 100)]).toEqual([word, ''])
  }
  for (const { session, id } of Object.values(db.people)) {
    expect(received).not.toContain(session)
    expect(received).not.toContain(id)
  }
})

test('callers do not notice, nor does the end of a process, that both do not answer or are away; the log says so', async () => {
  for (const running of servers) {
    url = await listening(running)
    expect((await call('/api/v1/requests/', { title: 'It fails' }, 'user')).code).toBe('INTERNAL')
    if (running === servers[0]) await until(() => deaf.received())
    else await running.until(/The collector of traces does not take them/)
    const asked = Array.from({ length: 100 }, () => call('/graphql', { query: '{ currentUser { id } }' }, 'user'))
    expect(await Promise.all(asked)).toEqual(Array(100).fill({ data: { currentUser: { id: db.people.user.id } } }))
  }
  expect(await Promise.all(servers.map((running) => running.end('SIGTERM')))).toEqual([0, 0])
}, 60_000)
