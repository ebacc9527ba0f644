import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import { request as requestPlain, type IncomingMessage, type OutgoingHttpHeaders } from 'node:http'
import { request } from 'node:https'
import { text } from 'node:stream/consumers'
import { connect as connectTls, type ConnectionOptions } from 'node:tls'
import { gunzipSync } from 'node:zlib'
import { randomUUID } from 'node:crypto'
import { WebSocket, type ClientOptions } from 'ws'
import { load } from '../harness/load.ts'
import { checkProblem } from '../harness/rest.ts'
import { SERVER_NAME, startTopology, type Topology } from '../harness/topology.ts'

// In the order in which they stand: nginx is there first, then servers and workers, and then they are restarted.

let all: Topology
beforeAll(async () => {
  all = await startTopology()
})
afterAll(() => all.close())

interface Call {
  readonly method?: string
  readonly host?: string
  /** The caller's address. */
  readonly from?: string
  readonly headers?: OutgoingHttpHeaders
  readonly body?: string
}

interface Answer {
  readonly status: number
  readonly headers: IncomingMessage['headers']
  /** All values of a header. */
  values(name: string): string[]
  readonly text: string
  readonly body: any
}

async function send(
  path: string,
  { method = 'GET', host = SERVER_NAME, from = '127.0.0.1', headers, body }: Call = {},
): Promise<Answer> {
  const sent = request({
    host: '127.0.0.1',
    port: all.httpsPort,
    localAddress: from,
    ca: all.certificate,
    servername: SERVER_NAME,
    agent: false,
    method,
    path,
    headers: { host, ...(body && { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }), ...headers },
  })
  sent.end(body)
  const [res] = (await once(sent, 'response')) as [IncomingMessage]
  const answer = await text(res)
  return {
    status: res.statusCode!,
    headers: res.headers,
    values: (name) => res.headersDistinct[name] ?? [],
    text: answer,
    get body() {
      return JSON.parse(answer)
    },
  }
}

/** A call of the REST API as somebody. */
async function rest(email: string, method: string, path: string, json?: object, more: Omit<Call, 'method' | 'body'> = {}) {
  const authorization = `Bearer ${await all.token(email)}`
  return send(`/api/v1${path}`, {
    ...more,
    method,
    headers: { authorization, ...more.headers },
    ...(json && { body: JSON.stringify(json) }),
  })
}
const USER = 'user@assent.test'
const MANAGER = 'manager@assent.test'

const HSTS = ['max-age=31536000; includeSubDomains']

describe('nginx, with nobody behind it', () => {
  test('says so in the form of the API', async () => {
    const answer = await send('/api/v1/requests/')
    expect(answer).toMatchObject({ status: 503, headers: { 'retry-after': '1' }, body: { code: 'UNAVAILABLE' } })
    checkProblem(answer)
    const posted = await send('/graphql', { method: 'POST', body: '{}' })
    expect(posted).toMatchObject({
      status: 503,
      headers: { 'content-type': 'application/json; charset=utf-8', 'retry-after': '1' },
      body: { errors: [{ extensions: { code: 'UNAVAILABLE', retryAfter: 1 } }] },
    })
    for (const { values } of [answer, posted]) {
      expect([values('strict-transport-security'), values('x-content-type-options')]).toEqual([HSTS, ['nosniff']])
    }
  })

  test('serves from disk what lies there, with validators', async () => {
    const first = await send('/api/v1/docs/swagger-ui.css', { headers: { 'accept-encoding': 'identity' } })
    expect(first.status).toBe(200)
    expect(first.headers).toMatchObject({ 'content-type': 'text/css', 'cache-control': 'max-age=3600' })
    expect([first.values('strict-transport-security'), first.values('x-content-type-options')]).toEqual([HSTS, ['nosniff']])
    const again = await send('/api/v1/docs/swagger-ui.css', { headers: { 'if-none-match': first.headers['etag']! } })
    expect(again.status).toBe(304)
  })

  test('has the standby follow', async () => {
    await all.owner.query('create table public.followed ()')
    const { rows } = await all.root.query(`select application_name, state from pg_stat_replication`)
    expect(rows).toEqual([{ application_name: 'standby', state: 'streaming' }])
    const there = async () => (await all.standby.query(`select to_regclass('public.followed') as it`)).rows[0].it !== null
    while (!(await there()));
    await all.owner.query('drop table public.followed')
    await expect(all.standby.query('create table public.followed ()')).rejects.toMatchObject({ code: '25006' })
  })
})

describe('nginx', () => {
  beforeAll(() => Promise.all([all.startServers(), all.startWorkers()]))

  test('speaks TLS 1.2 and 1.3 and no older one, and HTTP/2', async () => {
    const protocol = (version: 'TLSv1.1' | 'TLSv1.2' | 'TLSv1.3') =>
      new Promise((done) => {
        const options: ConnectionOptions = { minVersion: version, maxVersion: version, ciphers: 'DEFAULT@SECLEVEL=0' }
        const socket = connectTls(
          { ...options, host: '127.0.0.1', port: all.httpsPort, ca: all.certificate, servername: SERVER_NAME },
          () => {
            done(socket.getProtocol())
            socket.destroy()
          },
        ).on('error', (error: NodeJS.ErrnoException) => done(error.code))
      })
    expect(await protocol('TLSv1.1')).toBe('ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION')
    expect(await protocol('TLSv1.2')).toBe('TLSv1.2')
    expect(await protocol('TLSv1.3')).toBe('TLSv1.3')

    const session = connectHttp2(`https://127.0.0.1:${all.httpsPort}`, { ca: all.certificate, servername: SERVER_NAME })
    const stream = session.request({ ':path': '/healthz', ':authority': SERVER_NAME })
    const [headers] = await once(stream, 'response')
    expect([headers[':status'], await text(stream)]).toEqual([200, '{"status":"ok"}'])
    session.close()
  })

  test('leads to TLS, and answers to no other name', async () => {
    const plain = requestPlain({ host: '127.0.0.1', port: all.httpPort, path: '/a?b', headers: { host: 'evil.example' } }).end()
    const [{ statusCode, headers }] = await once(plain, 'response')
    expect([statusCode, headers.location]).toEqual([308, `${all.publicUrl}/a?b`])
    expect((await send('/healthz', { host: 'evil.example' })).status).toBe(421)
    expect((await send('/healthz', { host: `${SERVER_NAME}:443` })).status).toBe(200)
  })

  test('passes on the address of the caller, and no other that the caller has made up', async () => {
    const forged = {
      'x-forwarded-for': '203.0.113.9',
      'x-real-ip': '203.0.113.9',
      forwarded: 'for=203.0.113.9',
      'x-forwarded-host': 'evil.example',
      'x-forwarded-proto': 'http',
    }
    const created = await rest(USER, 'POST', '/requests/', { title: 'From here' }, { from: '127.0.0.7', headers: forged })
    expect(created.status).toBe(201)
    const trail = await rest(USER, 'GET', `/requests/${created.body.id}/audit-logs/`)
    expect(trail.body.results).toMatchObject([{ ip_address: '127.0.0.7' }])

    const login = JSON.stringify({ email: USER, password: 'assent-demo-password' })
    const session = await send('/api/v1/auth/session/', { method: 'POST', body: login, headers: forged })
    expect(session.values('set-cookie')).toEqual([expect.stringMatching(/^__Host-assent_session=.*; Secure/)])
  })

  test('answers with its headers once, and publishes neither metrics nor probes but one', async () => {
    const { values, status } = await rest(USER, 'GET', '/requests/')
    expect([status, values('strict-transport-security'), values('x-content-type-options')]).toEqual([200, HSTS, ['nosniff']])
    for (const path of ['/metrics', '/readyz', '/graphiql', '/refused']) {
      const answer = await send(path)
      expect(answer).toMatchObject({ status: 404, body: { code: 'NOT_FOUND' } })
      checkProblem(answer)
    }
    expect((await send('/healthz')).status).toBe(200)
    expect((await send('/api/v1/docs/')).text).toContain('swagger-ui')
    expect((await send('/api/v1/docs/start.js')).text).toContain('openapi.json')
  })

  test('refuses what is too large in the form of the API', async () => {
    const body = JSON.stringify({ title: 'x'.repeat(2_000_000) })
    const posted = await rest(USER, 'POST', '/requests/', { title: 'x'.repeat(2_000_000) })
    expect(posted).toMatchObject({ status: 413, body: { code: 'PAYLOAD_TOO_LARGE' } })
    checkProblem(posted)
    const asked = await send('/graphql', { method: 'POST', body })
    expect(asked).toMatchObject({ status: 413, body: { errors: [{ extensions: { code: 'PAYLOAD_TOO_LARGE' } }] } })
    const headed = await send('/healthz', { headers: { 'x-long': 'x'.repeat(20_000) } })
    expect(headed).toMatchObject({ status: 431, body: { code: 'BAD_REQUEST' } })
  })

  test('limits logins by address, and hinders nobody else', async () => {
    const login = (from: string) => send('/api/v1/auth/token', { method: 'POST', body: '{}', from })
    const answers = await Promise.all(Array.from({ length: 70 }, () => login('127.0.0.50')))
    const refused = answers.filter(({ status }) => status === 429)
    expect(refused.length).toBeGreaterThan(0)
    expect(refused.length).toBeLessThan(11)
    expect(refused[0]).toMatchObject({ headers: { 'retry-after': '1' }, body: { code: 'RATE_LIMITED' } })
    checkProblem(refused[0]!)
    expect((await login('127.0.0.51')).status).toBe(422)
    expect((await send('/healthz', { from: '127.0.0.50' })).status).toBe(200)
  })

  test('compresses, and takes back what that makes of an entity tag', async () => {
    const created = await rest(USER, 'POST', '/requests/', { title: 'Long', description: 'why '.repeat(1000) })
    const path = `/requests/${created.body.id}/`
    const sent = request({
      host: '127.0.0.1',
      port: all.httpsPort,
      ca: all.certificate,
      servername: SERVER_NAME,
      path: `/api/v1${path}`,
      headers: { host: SERVER_NAME, authorization: `Bearer ${await all.token(USER)}`, 'accept-encoding': 'gzip' },
    }).end()
    const [res] = (await once(sent, 'response')) as [IncomingMessage]
    const chunks = await res.toArray()
    expect(JSON.parse(gunzipSync(Buffer.concat(chunks)).toString()).description).toBe(created.body.description)
    const { etag } = res.headers
    expect(etag).toMatch(/^W\//)
    const change = (title: string) => rest(USER, 'PATCH', path, { title }, { headers: { 'if-match': etag! } })
    expect((await change('Longer')).status).toBe(200)
    expect((await change('Too late')).body.code).toBe('STALE_VERSION')
  })

  test('lets GraphQL through by WebSocket and by event stream, without collecting events', async () => {
    const token = await all.token(USER)
    const query = 'subscription { notificationReceived { notification { kind } } }'
    const socket = await openSocket(token)
    socket.send(JSON.stringify({ id: '1', type: 'subscribe', payload: { query } }))
    const sent = request({
      host: '127.0.0.1',
      port: all.httpsPort,
      ca: all.certificate,
      servername: SERVER_NAME,
      method: 'POST',
      path: '/graphql',
      headers: {
        host: SERVER_NAME,
        authorization: `Bearer ${token}`,
        accept: 'text/event-stream',
        'content-type': 'application/json',
      },
    }).end(JSON.stringify({ query }))
    const [events] = (await once(sent, 'response')) as [IncomingMessage]
    expect(events.headers['content-type']).toMatch(/^text\/event-stream/)
    events.setEncoding('utf8')
    const seen = (async () => {
      let stream = ''
      for await (const chunk of events) if ((stream += chunk).includes('APPROVED')) return 'seen'
      return stream
    })()
    const heard = once(socket, 'message')

    const { id } = (await rest(USER, 'POST', '/requests/', { title: 'Told live' })).body
    await rest(USER, 'POST', `/requests/${id}/submit/`)
    expect((await rest(MANAGER, 'POST', `/requests/${id}/approve/`, { comment: 'Yes' })).status).toBe(200)
    expect(JSON.parse(String((await heard)[0])).payload.data.notificationReceived.notification.kind).toBe('APPROVED')
    expect(await seen).toBe('seen')
    events.destroy()
    socket.terminate()
    while (!all.mailbox.arrived.some(({ to }) => to[0] === USER)) await new Promise((next) => setTimeout(next, 50))
  })

  test('logs neither queries nor tokens', async () => {
    const secret = randomUUID()
    await send(`/api/v1/requests/?search=${secret}`, { headers: { authorization: `Bearer ${secret}` } })
    const log = await all.log()
    expect(log).not.toContain(secret)
    const lines = log.split('\n').filter((line) => line.startsWith('{'))
    expect(lines.map((line) => JSON.parse(line))).toContainEqual(
      expect.objectContaining({ ip: '127.0.0.7', method: 'POST', path: '/api/v1/requests/', status: 201 }),
    )
  })
})

/** A socket that the server has taken in. */
async function openSocket(token: string): Promise<WebSocket> {
  const socket = new WebSocket(`wss://127.0.0.1:${all.httpsPort}/graphql`, ['graphql-transport-ws'], {
    ca: all.certificate,
    headers: { host: SERVER_NAME },
    servername: SERVER_NAME,
  } as ClientOptions)
  await once(socket, 'open')
  socket.send(JSON.stringify({ type: 'connection_init', payload: { authorization: `Bearer ${token}` } }))
  expect(JSON.parse(String((await once(socket, 'message'))[0]))).toEqual({ type: 'connection_ack' })
  return socket
}

describe('under load', () => {
  test('servers that are restarted one after another, as deploy/upgrade.sh does, fail no call of 2,000', async () => {
    const token = await all.token(USER)
    const sockets = await Promise.all([1, 2, 3].map(() => openSocket(token)))
    const farewells = sockets.map(async (socket) => (await once(socket, 'close'))[0])
    const { calls, failures, lost, twice } = await load(all, 2_000, async () => {
      for (const n of all.servers.keys()) await all.restart(n, 'SIGTERM')
    })
    expect({ failures, lost, twice }).toEqual({ failures: [], lost: 0, twice: 0 })
    expect(calls).toBeGreaterThanOrEqual(2_000)
    // Clients of graphql-ws come back after that, each to a server that stays.
    expect(await Promise.all(farewells)).toEqual([1001, 1001, 1001])
    ;(await openSocket(token)).terminate()
  })

  test('a server that is killed fails only calls that must not be sent twice', async () => {
    const { failures, lost, twice } = await load(all, 500, async () => {
      await all.restart(0, 'SIGKILL')
    })
    expect({ lost, twice }).toEqual({ lost: 0, twice: 0 })
    expect(failures.filter(({ isRepeatable }) => isRepeatable)).toEqual([])
    for (const { answer } of failures) expect(answer).toBe('503 UNAVAILABLE')
  })

  test('servers and workers end cleanly', async () => {
    const ends = await Promise.all([...all.servers, ...all.workers].map((one) => one.end('SIGTERM')))
    expect(ends).toEqual([0, 0, 0, 0, 0])
  })
})
