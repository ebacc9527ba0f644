import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import type { Client } from 'pg'
import { mutation, newRequest, sendTo, startApi, type Api } from '../harness/client.ts'
import { startProxy } from '../harness/proxy.ts'
import { cloneDatabase, type TestDatabase } from '../harness/database.ts'

let db: TestDatabase
let root: Client
beforeAll(async () => {
  db = await cloneDatabase()
  root = await db.connect('root')
})
afterAll(() => db.close())

const connections = async () =>
  (
    await root.query(
      `select count(*)::int as n from pg_stat_activity where datname = current_database() and application_name = 'assent api'`,
    )
  ).rows[0].n

async function until(condition: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if (await condition()) return
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  throw new Error('It did not come about.')
}

/** Whoever connects before it stops listening is answered. */
const untilRefused = ({ url }: Api) =>
  until(() =>
    sendTo(url, { path: '/healthz', method: 'GET' }).then(
      () => false,
      (error: { code?: string }) => error.code === 'ECONNREFUSED',
    ),
  )

/** Holds a request's row, so that a call on it stays under way until it is let go. */
async function hold(requestId: string): Promise<() => Promise<unknown>> {
  const holder = await db.connect('owner')
  await holder.query('begin')
  await holder.query('select from app_public.requests where id = $1 for update', [requestId])
  return () => holder.query('rollback')
}

/** A connection as a proxy keeps it, for one request after another. */
class Line {
  readonly socket: Socket
  readonly closed: Promise<unknown>
  readonly #api: Api

  constructor(api: Api) {
    this.#api = api
    this.socket = connect(Number(new URL(api.url).port), '127.0.0.1').setEncoding('utf8')
    this.closed = once(this.socket, 'close')
  }

  async ask(method: string, path: string, json?: object): Promise<{ head: string; body: any }> {
    const body = json ? JSON.stringify(json) : ''
    const headers = ['Host: x', 'Content-Type: application/json', `Content-Length: ${Buffer.byteLength(body)}`]
    this.socket.write(
      [`${method} ${path} HTTP/1.1`, ...headers, `Authorization: Bearer ${this.#api.token('user')}`, '', body].join('\r\n'),
    )
    let text = ''
    for (;;) {
      text += (await once(this.socket, 'data'))[0]
      const [head, answer] = text.split('\r\n\r\n', 2)
      const length = Number(/^content-length: (\d+)/im.exec(head!)?.[1])
      if (Buffer.byteLength(answer ?? '') === length) return { head: `${head}\r\n`, body: JSON.parse(answer!) }
    }
  }
}

const someoneWaits = async () =>
  (
    await root.query(
      `select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
    )
  ).rows[0].n > 0

describe('close()', () => {
  test('refuses new connections, lets what is under way finish, then closes the pools', async () => {
    const api = await startApi({}, db)
    const requestId = await newRequest(api)
    const release = await hold(requestId)
    const underWay = api.graphql(mutation('updateRequest'), { input: { requestId, title: 'Just in time' } }, 'user')
    await until(someoneWaits)

    let closed = false
    const closing = api.close().then(() => (closed = true))
    await untilRefused(api)
    expect(closed).toBe(false)
    expect(await connections()).toBeGreaterThan(0)

    await release()
    const { status, body } = await underWay
    expect([status, body.data?.updateRequest.request.version]).toEqual([200, 2])
    await closing
    await until(async () => (await connections()) === 0)
    const { rows } = await root.query('select title from app_public.requests where id = $1', [requestId])
    expect(rows).toEqual([{ title: 'Just in time' }])
  })

  test('behind a proxy, answers what comes on connections that are open, ends them with it, and says that it is not ready', async () => {
    const api = await startApi({ TRUST_PROXY: '1' }, db)
    const [posting, probing, idle] = [new Line(api), new Line(api), new Line(api)]
    for (const line of [posting, probing, idle]) expect((await line.ask('GET', '/readyz')).head).toMatch(/^HTTP\/1.1 200 /)
    const closing = api.close()
    await untilRefused(api)

    const created = await posting.ask('POST', '/api/v1/requests/', { title: 'On its way' })
    expect(created.head).toMatch(/^HTTP\/1.1 201 .*\r\nconnection: close\r\n/is)
    const { rows } = await root.query(`select id from app_public.requests where title = 'On its way'`)
    expect(rows).toEqual([{ id: created.body.id }])
    const probed = await probing.ask('GET', '/readyz')
    expect(probed.head).toMatch(/^HTTP\/1.1 503 .*\r\nconnection: close\r\n/is)
    await Promise.all([posting.closed, probing.closed])
    idle.socket.destroy() // As a proxy does with what it has not used for a while.
    await closing
  })

  test('ends a connection with an answer that was under way before', async () => {
    const api = await startApi({ TRUST_PROXY: '1' }, db)
    const requestId = await newRequest(api)
    const release = await hold(requestId)
    const line = new Line(api)
    const underWay = line.ask('PATCH', `/api/v1/requests/${requestId}/`, { title: 'Slowly' })
    await until(someoneWaits)
    const closing = api.close()
    await release()
    expect((await underWay).head).toMatch(/^HTTP\/1.1 200 .*\r\nconnection: close\r\n/is)
    await line.closed
    await closing
  })

  test('does not wait for callers who keep their connections open', async () => {
    const api = await startApi({}, db)
    await api.data('{ currentUser { id } }', {}, 'user') // Its connection is kept alive.
    const silent = connect(Number(new URL(api.url).port), '127.0.0.1')
    await new Promise((resolve) => silent.once('connect', resolve))
    const ended = new Promise((resolve) => silent.once('close', resolve))
    const start = performance.now()
    await api.close()
    await ended
    expect(performance.now() - start).toBeLessThan(5000)
  })

  test('when the database is gone, ends too', async () => {
    const proxy = await startProxy(db.urls.auth)
    const api = await startApi({ AUTH_DATABASE_URL: proxy.url }, db)
    await api.data('{ requests { totalCount } }', {}, 'user')
    await proxy.cut()
    await api.graphql('{ requests { totalCount } }', {}, 'user')
    await api.close()
    await proxy.close()
  })
})

describe('startServer()', () => {
  test('rejects when the port is taken, or the database is away, and leaves no connection behind', async () => {
    const first = await startApi({}, db)
    await first.data('{ requests { totalCount } }', {}, 'user')
    await expect(startApi({ PORT: new URL(first.url).port }, db)).rejects.toMatchObject({ code: 'EADDRINUSE' })
    await first.close()
    await until(async () => (await connections()) === 0)
    const proxy = await startProxy(db.urls.auth)
    await proxy.cut()
    await expect(startApi({ AUTH_DATABASE_URL: proxy.url }, db)).rejects.toMatchObject({
      message: expect.stringContaining('ECONNREFUSED'),
    })
  })
})

describe('health', () => {
  let api: Api
  let proxy: Awaited<ReturnType<typeof startProxy>>
  beforeAll(async () => {
    proxy = await startProxy(db.urls.auth)
    api = await startApi({ AUTH_DATABASE_URL: proxy.url }, db)
  })
  afterAll(async () => {
    await api.close()
    await proxy.close()
  })
  const get = (path: string) => api.send({ method: 'GET', path })

  test('/healthz while the process lives, /readyz while it can serve; without credentials, with bad ones too', async () => {
    for (const path of ['/healthz', '/readyz']) {
      expect([path, (await get(path)).status]).toEqual([path, 200])
      expect((await api.send({ method: 'GET', path, headers: { authorization: 'Bearer x' } })).status).toBe(200)
    }
    await proxy.cut()
    const start = performance.now()
    const away = await get('/readyz')
    expect(performance.now() - start).toBeLessThan(2000)
    expect([away.status, away.headers['retry-after']]).toEqual([503, expect.stringMatching(/^\d+$/)])
    expect(away.text).not.toMatch(/ECONN|127\.0\.0\.1|postgres/)
    expect((await get('/healthz')).status).toBe(200)
    await proxy.mend()
    await until(async () => (await get('/readyz')).status === 200)
  })
})
