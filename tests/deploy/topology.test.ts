import { on, once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import { request as requestPlain, type IncomingMessage, type OutgoingHttpHeaders } from 'node:http'
import { request } from 'node:https'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect as connectTls, type ConnectionOptions } from 'node:tls'
import { gunzipSync } from 'node:zlib'
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import pino from 'pino'
import { WebSocket, type ClientOptions } from 'ws'
import { asCaller, makeDatabase } from '../../server/sql/as-caller.ts'
import { makeSessions } from '../../server/sql/in-use.ts'
import { makeOpenPool } from '../../server/sql/pool.ts'
import { makeReplicas, type Outcome } from '../../server/sql/replicas.ts'
import { load } from '../harness/load.ts'
import { checkProblem } from '../harness/rest.ts'
import { startPair, type Pair } from '../harness/pair.ts'
import { OTHER_ORIGIN, SERVER_NAME, startTopology, type Topology } from '../harness/topology.ts'

// In the order in which they stand: nginx is there first, then servers and workers, and then they are restarted.

let all: Topology<Pair>
beforeAll(async () => {
  all = await startTopology(startPair)
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

  describe('sends a file that a server permits', () => {
    const bytes = randomBytes(100_000).toString('hex')
    const hash = createHash('sha256').update(bytes).digest('hex')
    let path: string
    let request: string
    const get = (who: string, headers: OutgoingHttpHeaders = {}) => rest(who, 'GET', path, undefined, { headers })
    beforeAll(async () => {
      request = `/requests/${(await rest(USER, 'POST', '/requests/', { title: 'Evidence' })).body.id}/`
      const attached = await send(`/api/v1${request}attachments/`, {
        method: 'POST',
        headers: { authorization: `Bearer ${await all.token(USER)}`, 'content-type': 'multipart/form-data; boundary=b' },
        body: `--b\r\ncontent-disposition: form-data; name="file"; filename="50%0d%0a \\"März\\" 你好.txt"\r\n\r\n${bytes}\r\n--b--\r\n`,
      })
      expect(attached.status).toBe(201)
      path = `/attachments/${attached.body.id}/`
    })

    test('whole, with all that is true of it, and of its caller alone', async () => {
      const first = await get(USER, { origin: OTHER_ORIGIN, 'x-sendfile-type': 'none' })
      expect([first.status, first.text === bytes]).toEqual([200, true])
      const name = '50%0d%0a "März" 你好.txt'
      for (const [header, ...values] of [
        ['content-type', 'text/plain; charset=utf-8'],
        ['content-length', '200000'],
        ['content-disposition', expect.stringContaining(`filename*=UTF-8''${encodeURIComponent(name)}`)],
        ['content-security-policy', "sandbox; default-src 'none'"],
        ['x-content-type-options', 'nosniff'],
        ['cache-control', 'no-store'],
        ['etag', `"${hash}"`],
        ['accept-ranges', 'bytes'],
        ['strict-transport-security', ...HSTS],
        ['x-request-id', expect.any(String)],
        ['access-control-allow-origin', OTHER_ORIGIN],
        ['access-control-allow-credentials', 'true'],
        ['vary', 'Origin'],
        ['x-accel-redirect'],
        ['set-cookie'],
      ])
        expect([header, first.values(header as string)]).toEqual([header, values])
      expect((await get(USER)).values('access-control-allow-origin')).toEqual([])
      const head = await rest(USER, 'HEAD', path)
      expect([head.status, head.values('content-length'), head.text]).toEqual([200, ['200000'], ''])
    })

    test('to whoever may see it at that moment, and from what nginx has', async () => {
      await all.owner.query('delete from app_private.file_chunks')
      expect((await get(MANAGER)).status).toBe(404)
      expect((await rest(USER, 'POST', `${request}submit/`)).status).toBe(200)
      expect((await get(MANAGER)).text).toBe(bytes)
      expect((await get('user2@assent.test')).body.code).toBe('NOT_FOUND')
      expect((await send(`/api/v1${path}`)).body.code).toBe('UNAUTHENTICATED')
      const lines = (await all.log()).split('\n').filter((line) => line.includes(`"path":"/api/v1${path}"`))
      const kept = lines.map((line) => JSON.parse(line).cache).filter(Boolean)
      expect([kept[0], new Set(kept.slice(1))]).toEqual(['MISS', new Set(['HIT'])])
    })

    test('or a part of it, and not again to who has it', async () => {
      const etag = `"${hash}"`
      const part = await get(USER, { range: 'bytes=70000-70009', 'if-range': etag })
      expect([part.status, part.text, part.headers['content-range']]).toEqual([
        206,
        bytes.slice(70_000, 70_010),
        'bytes 70000-70009/200000',
      ])
      expect(part.values('content-disposition')).toHaveLength(1)
      for (const headers of [{ range: 'bytes=0-1,5-6' }, { range: 'bytes=0-1', 'if-range': '"other"' }])
        expect((await get(USER, headers)).text === bytes).toBe(true)
      // The last of them nginx refuses by itself.
      for (const range of ['bytes=200000-', 'bytes=x', 'bytes=,0-1,']) {
        const answer = await get(USER, { range })
        expect([range, answer.status]).toEqual([range, 416])
        checkProblem(answer)
      }
      const known = await get(USER, { 'if-none-match': etag })
      expect([known.status, known.text, known.values('etag')]).toEqual([304, '', [etag]])
    })

    test('and shows nobody where it has it', async () => {
      for (const place of [`/api/v1/files/${hash}/`, `/api/v1/files/${hash}/?pass=x`, '/api/v1/files/']) {
        const answer = await rest(USER, 'GET', place.slice('/api/v1'.length), undefined, {
          headers: { 'x-sendfile-type': 'X-Accel-Redirect' },
        })
        expect(answer).toMatchObject({ status: 404, body: { code: 'NOT_FOUND' } })
        checkProblem(answer)
      }
      const lines = (await all.log()).split('\n').filter((line) => line.includes('"path":"/api/v1/files/'))
      expect(lines.map((line) => JSON.parse(line).upstream)).toEqual(['', '', ''])
    })

    test('and says how large one may be', async () => {
      const large = await rest(USER, 'POST', `${request}attachments/`, undefined, { headers: { 'content-length': 12e6 } })
      expect(large).toMatchObject({ status: 413, body: { detail: 'The body is larger than 10 MB.' } })
      const posted = await rest(USER, 'POST', '/requests/', { title: 'x'.repeat(2_000_000) })
      expect(posted.body.detail).toBe('The body is larger than 1 MB.')
    })
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

/** How many reads of all servers have had each outcome. */
async function outcomes(): Promise<Record<Outcome, number>> {
  const sum = { answered: 0, late: 0, failed: 0, none: 0 }
  for (const n of all.servers.keys()) {
    const found = (await all.metrics(n)).matchAll(/^assent_replica_reads_total\{outcome="(\w+)"\} (\d+)$/gm)
    for (const [, outcome, count] of found) sum[outcome as Outcome] += Number(count)
  }
  return sum
}

/** A call of one server, past nginx, whose answer is its status and its body. */
async function direct(server: number, token: string, method: string, path: string, json?: object) {
  const headers = { authorization: `Bearer ${token}`, ...(json && { 'content-type': 'application/json' }) }
  const answer = await fetch(`${all.url(server)}/api/v1${path}`, { method, headers, ...(json && { body: JSON.stringify(json) }) })
  return { status: answer.status, body: answer.status === 204 ? undefined : ((await answer.json()) as any) }
}

/** Waits until every server has its reads answered by the standby. */
async function untilReady(): Promise<void> {
  for (const n of all.servers.keys()) while (!/^assent_replica_ready\{.*\} 1$/m.test(await all.metrics(n)));
}

/** Does something while the standby replays nothing, which the servers do not know yet. */
async function whilePaused(work: () => Promise<void>): Promise<void> {
  await untilReady()
  await all.standby.query('select pg_wal_replay_pause()')
  await work().finally(() => all.standby.query('select pg_wal_replay_resume()'))
}

describe('the standby', () => {
  test('answers what is read', async () => {
    const token = await all.token(USER, 90)
    for (const n of all.servers.keys()) {
      await untilReady()
      const { answered } = await outcomes()
      // One that comes just after a job of a worker may find it late.
      while ((await outcomes()).answered === answered) await direct(n, token, 'GET', '/requests/?page_size=1')
    }
    expect(await all.metrics(0)).toMatch(/^assent_replica_lag_bytes\{replica="127.0.0.1:\d+"\} \d+$/m)
  })

  test('shows callers what they have written by any server, while it is stopped and let go on', async () => {
    const before = await outcomes()
    let over = false
    const hindering = (async () => {
      while (!over) {
        await all.standby.query('select pg_wal_replay_pause()')
        await new Promise((next) => setTimeout(next, 100))
        await all.standby.query('select pg_wal_replay_resume()')
        await new Promise((next) => setTimeout(next, 300))
      }
    })()
    const caller = async (_: unknown, n: number) => {
      const token = await all.token(USER, n)
      for (let i = 0; i < 40; i++) {
        const { body } = await direct(n % 3, token, 'POST', '/requests/', { title: `Mine ${n} ${i}` })
        const read = (server: number) => direct(server % 3, token, 'GET', `/requests/${body.id}/`)
        expect(await read(n + i)).toMatchObject({ status: 200, body: { version: 1, title: body.title } })
        await direct(n % 3, token, 'PATCH', `/requests/${body.id}/`, { title: 'Changed' })
        expect(await read(n + i + 1)).toMatchObject({ status: 200, body: { version: 2, title: 'Changed' } })
      }
    }
    await Promise.all(Array.from({ length: 6 }, caller)).finally(() => (over = true))
    await hindering
    const after = await outcomes()
    expect(after.answered).toBeGreaterThan(before.answered)
    expect(after.late + after.none).toBeGreaterThan(before.late + before.none)
  })

  test('knows at once of a session that has ended, of a new role and of a person who is deactivated', async () => {
    const change = (text: string) =>
      all.owner.query(
        `update app_public.users u set ${text} from app_private.credentials c where c.user_id = u.id and c.email = 'user2@assent.test'`,
      )
    const token = all.sign(await all.session('user2@assent.test'))
    const everywhere = (token: string) => Promise.all([0, 1, 2].map((n) => direct(n, token, 'GET', '/auth/session/')))
    for (const role of ['MANAGER', 'USER']) {
      await whilePaused(async () => {
        await change(`role = '${role}'`)
        for (const answer of await everywhere(token)) expect(answer).toMatchObject({ status: 200, body: { user: { role } } })
      })
    }
    await whilePaused(async () => {
      expect((await direct(0, token, 'DELETE', '/auth/session/')).status).toBe(204)
      for (const { status } of await everywhere(token)) expect(status).toBe(401)
    })
    const other = all.sign(await all.session('user2@assent.test'))
    await whilePaused(async () => {
      await change('is_deleted = true')
      for (const { status } of await everywhere(other)) expect(status).toBe(401)
    })
    await change('is_deleted = false')
  })

  test('shows those who are told of a change what they are told of', async () => {
    const token = await all.token(USER, 91)
    const { id } = (await direct(0, token, 'POST', '/requests/', { title: 'Followed' })).body
    const socket = await openSocket(token)
    const query = `subscription { requestUpdated(id: "${id}") { request { version } } }`
    socket.send(JSON.stringify({ id: '1', type: 'subscribe', payload: { query } }))
    const seen = (async () => {
      for await (const [message] of on(socket, 'message', { signal: AbortSignal.timeout(10_000) })) {
        const { version } = JSON.parse(String(message)).payload.data.requestUpdated.request
        const now = await direct(version % 3, token, 'GET', `/requests/${id}/`)
        expect(now.body.version).toBeGreaterThanOrEqual(version)
        if (version > 20) return version
      }
    })()
    await whilePaused(async () => {
      for (let n = 1; n <= 20; n++) await direct(n % 3, token, 'PATCH', `/requests/${id}/`, { title: `Followed ${n}` })
      expect(await seen).toBe(21)
    })
    socket.terminate()
  })

  test('leaves a read that it is stopped in to the primary', async () => {
    const log = pino({ level: 'silent' })
    const openPool = makeOpenPool(all.apiUrls.primary, log)
    const met: Outcome[] = []
    const replicas = makeReplicas([all.apiUrls.standby], openPool, log, (outcome) => met.push(outcome))
    const db = makeDatabase(openPool(2), makeSessions(), replicas.beside('api', 2))
    const caller = { session: await all.session(USER), ip: '', userAgent: null, byCookie: false }
    const ask = (what: string) => asCaller<{ there: boolean }>(db, caller, 'read', { text: `select ${what}` })
    const isReady = async () => {
      while (!replicas.all[0]!.isReady) await new Promise((next) => setTimeout(next, 10))
    }
    /** Who answers a read that this is done to as soon as the standby runs it. */
    async function stopped(by: () => Promise<unknown>): Promise<boolean> {
      await isReady()
      const asked = ask('pg_is_in_recovery() as there, pg_sleep(0.5) from (select from app_public.roles limit 1) one')
      const runs = `select from pg_stat_activity where query like '%pg_sleep%' and pid <> pg_backend_pid() and state = 'active'`
      while ((await all.standby.query(runs)).rowCount === 0);
      await by()
      return (await asked).rows[0]!.there
    }
    const signal = (how: string) => () =>
      all.standby.query(`select ${how}(pid) from pg_stat_activity where query like '%pg_sleep%' and pid <> pg_backend_pid()`)

    expect(await stopped(async () => {})).toBe(true)
    expect(await stopped(signal('pg_cancel_backend'))).toBe(false)
    expect(await stopped(signal('pg_terminate_backend'))).toBe(false)
    await all.standby.query('alter system set max_standby_streaming_delay = 0')
    await all.standby.query('select pg_reload_conf()')
    expect(await stopped(() => all.owner.query('begin; lock table app_public.roles in access exclusive mode; commit'))).toBe(
      false,
    )
    expect(met).toEqual(['answered', 'failed', 'failed', 'failed'])

    // What is wrong with the statement is not the standby's fault, and an answer that is too large is none on the primary either.
    await isReady()
    await expect(ask('1 / 0')).rejects.toMatchObject({ code: '22012' })
    await expect(ask(`repeat('x', 9000000)`)).rejects.toMatchObject({ code: 'BAD_REQUEST' })
    expect([met.slice(4), replicas.all[0]!.isReady]).toEqual([['failed'], true])
    await Promise.all([replicas.close(), db.pool.end()])
  })
})

describe('under load', () => {
  test('a standby that is killed, comes back and is promoted fails no call', async () => {
    const killed = await load(all, 300, async () => {
      await all.database.standby.stop('immediate')
      await all.database.standby.start()
      await untilReady()
      await all.database.standby.promote()
    })
    expect(killed).toMatchObject({ failures: [], lost: 0, twice: 0 })
    const before = await outcomes()
    const token = await all.token(USER, 92)
    for (const n of all.servers.keys()) expect((await direct(n, token, 'GET', '/requests/')).status).toBe(200)
    expect((await outcomes()).answered).toBe(before.answered)
  })

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

  test('when the primary dies, its standby takes over with all that was acknowledged, and nobody starts anything again', async () => {
    await all.database.addHeir()
    // Mails are on their way meanwhile, and what became of them is to be recorded by the new primary.
    const promoted = Promise.withResolvers<undefined>()
    let held = 0
    all.mailbox.answer = (at) => (at === 'DATA' && ++held ? promoted.promise : undefined)
    const { failures, lost, twice, mails, disagreements } = await load(all, 300, async () => {
      while (held < 3) await sleep(20)
      await all.database.killPrimary()
      // As a managed service's name may, it leads to the standby while that takes no writes yet.
      await all.database.moveName()
      await sleep(1_000)
      await all.database.promoteHeir()
      promoted.resolve(undefined)
    })
    const none = { lost: 0, twice: 0 }
    expect({ lost, twice, mails, disagreements }).toEqual({ ...none, mails: { all: 3, ...none }, disagreements: 0 })
    expect(new Set(failures.map(({ answer }) => answer))).toEqual(new Set(['503 UNAVAILABLE']))
  })

  test('servers and workers end cleanly', async () => {
    const ends = await Promise.all([...all.servers, ...all.workers].map((one) => one.end('SIGTERM')))
    expect(ends).toEqual([0, 0, 0, 0, 0])
  })
})
