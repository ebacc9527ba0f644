import { randomBytes, randomUUID } from 'node:crypto'
import { connect as connectSocket, createServer, type AddressInfo, type Socket as NetSocket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { jest } from '@jest/globals'
import jwt from 'jsonwebtoken'
import type { Client } from 'pg'
import pino from 'pino'
import { toClientError } from '../../../server/errors.ts'
import { makeTokens } from '../../../server/http/tokens.ts'
import type { Live } from '../../../server/live/listener.ts'
import { makeChanges } from '../../../server/live/changes.ts'
import { makeNews } from '../../../server/live/news.ts'
import { makeSubscribers } from '../../../server/live/subscribers.ts'
import { startServer } from '../../../server/server.ts'
import { makeDatabase } from '../../../server/sql/as-caller.ts'
import { makeSessions } from '../../../server/sql/in-use.ts'
import { makeOpenPool } from '../../../server/sql/pool.ts'
import {
  deadToken,
  fromElsewhere,
  JWT_SECRET,
  mutation,
  newRequest,
  PASSWORD,
  sendTo,
  startApi,
  type Api,
  type NewPerson,
  type Who,
} from '../../harness/client.ts'
import { act, closeAll, connect, INBOX, open, until, UPDATED } from '../../harness/socket.ts'

const PUBLIC_URL = 'https://assent.example.com'
const PAGE = 'https://app.example.com'

// Intervals of this process pass when a test says so; single timers and the clock are real.
jest.useFakeTimers({
  doNotFake: [
    'Date',
    'hrtime',
    'nextTick',
    'performance',
    'queueMicrotask',
    'setImmediate',
    'clearImmediate',
    'setTimeout',
    'clearTimeout',
  ],
})
const passTime = (seconds: number) => void jest.advanceTimersByTime(seconds * 1000)

let api: Api
let owner: Client
beforeAll(async () => {
  api = await startApi({ TRUST_PROXY: '1', PUBLIC_URL, ALLOWED_ORIGINS: PAGE }, undefined, startServer)
  owner = await api.db.connect('owner')
})
afterEach(closeAll)
afterAll(() => api.close())

/** Logs in as a browser does. Returns the cookie, and the token for changes. */
async function logIn({ email }: { email: string }) {
  const answer = await api.rest('POST', '/auth/session/', { email, password: PASSWORD }, undefined, fromElsewhere())
  return { cookie: answer.headers['set-cookie']![0]!.split(';')[0]!, csrf: answer.body.csrf_token as string }
}
/** Opens one more session of a person, without the slow hash of a login. */
async function anotherSession(person: NewPerson): Promise<NewPerson> {
  const { rows } = await owner.query('select session_secret from app_private.open_session($1, false, null)', [person.id])
  return { ...person, token: makeTokens([JWT_SECRET]).sign(rows[0].session_secret, randomUUID()).token }
}
const settings = (payload?: unknown) => JSON.stringify({ type: 'connection_init', payload })
const UNAUTHORIZED = { code: 4401, reason: 'Unauthorized' }

describe('who may connect', () => {
  test.each([
    ['nobody', undefined],
    ['a malformed token', { token: 'garbage' }],
    ['a forged token', { token: makeTokens(['a key that is not the one of this server']).sign('x', 'y').token }],
    ['a token of a session that never existed', { token: deadToken() }],
  ])('not %s', async (_who, who) => {
    await expect(connect(api, who, { headers: fromElsewhere() })).rejects.toMatchObject(UNAUTHORIZED)
  })

  test.each([
    ['no payload', settings()],
    ['null', settings(null)],
    ['a member of another name', settings({ token: 'Bearer x' })],
    ['no token', settings({ authorization: null })],
    ['an empty one', settings({ authorization: '' })],
    ['another scheme', settings({ authorization: 'Basic eDp5' })],
    ['a token that is an object', settings({ authorization: { Bearer: 'x' } })],
  ])('not with %s', async (_what, message) => {
    const socket = await open(api, { headers: fromElsewhere() })
    socket.send(message)
    expect(await socket.closed).toEqual([4401, 'Unauthorized'])
  })

  test('a caller with a token in the header of the upgrade; a bad one is refused there', async () => {
    const authorization = `Bearer ${api.token('user')}`
    const socket = await connect(api, undefined, { headers: { authorization } })
    expect(await socket.start('{ currentUser { name } }').data()).toEqual({ currentUser: { name: 'Uma User' } })
    await expect(open(api, { headers: { authorization: 'Bearer x', ...fromElsewhere() } })).rejects.toMatchObject({
      status: 401,
      text: expect.stringContaining('"UNAUTHENTICATED"'),
    })
  })

  test('a browser with its cookie, but not to change anything, since it has no CSRF token', async () => {
    const person = await api.person()
    const { cookie } = await logIn(person)
    const socket = await connect(api, undefined, { headers: { cookie, origin: PAGE } })
    expect(await socket.start('{ currentUser { id } }').data()).toEqual({ currentUser: { id: person.id } })
    expect(await socket.start(mutation('createRequest'), { input: { title: 'x' } }).code()).toBe('FORBIDDEN')
    // Explicit credentials come before the cookie.
    const both = await connect(api, 'user', { headers: { cookie } })
    expect(await both.start('{ currentUser { name } }').data()).toEqual({ currentUser: { name: 'Uma User' } })
    const dead = { headers: { cookie: 'assent_session=dead', ...fromElsewhere() } }
    await expect(connect(api, undefined, dead)).rejects.toMatchObject(UNAUTHORIZED)
  })

  test('only our own pages, whatever the credentials', async () => {
    const host = new URL(api.url).host
    for (const origin of [PUBLIC_URL, PAGE, `https://${host}`]) {
      expect([origin, (await connect(api, 'user', { headers: { origin } })).isOpen]).toEqual([origin, true])
    }
    for (const origin of ['https://evil.example.com', 'null', `${PAGE}.evil.example.com`, 'https://app.example.com:444', '']) {
      for (const headers of [{}, { authorization: `Bearer ${api.token('user')}` }] as Record<string, string>[]) {
        await expect(open(api, { headers: { origin, ...headers, ...fromElsewhere() } })).rejects.toMatchObject({
          status: 403,
          text: expect.stringContaining('"FORBIDDEN"'),
          headers: { 'content-type': expect.stringContaining('application/problem+json') },
        })
      }
    }
  })

  test('only at /graphql; a request to upgrade to anything else is answered as it is', async () => {
    const upgrade = { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13' }
    const key = { 'sec-websocket-key': randomBytes(16).toString('base64') }
    for (const path of ['/', '/api/v1/requests/', '/graphql/x']) {
      const { status } = await sendTo(api.url, { method: 'GET', path, headers: { ...upgrade, ...key } })
      expect([path, [401, 404].includes(status)]).toEqual([path, true])
    }
    expect((await sendTo(api.url, { method: 'GET', path: '/graphql', headers: upgrade })).status).toBe(400) // No key.
    const h2c = { connection: 'Upgrade, HTTP2-Settings', upgrade: 'h2c', 'http2-settings': 'AAMAAABkAAQAoAAAAAIAAAAA' }
    expect((await api.graphql('{ currentUser { name } }', {}, 'user', h2c)).body.data).toEqual({
      currentUser: { name: 'Uma User' },
    })
  })

  test('not too often: upgrades and operations come from the same allowance as calls', async () => {
    const sure = await startApi({}, api.db, startServer)
    // It grows meanwhile, but slower than sockets open.
    let refused: PromiseRejectedResult | undefined
    while (!refused) {
      const opened = await Promise.allSettled(Array.from({ length: 310 }, () => open(sure)))
      refused = opened.find(({ status }) => status === 'rejected') as PromiseRejectedResult | undefined
    }
    expect(refused.reason).toMatchObject({ status: 429, headers: { 'retry-after': expect.any(String) } })
    await closeAll()

    const token = makeTokens([JWT_SECRET]).sign(api.db.people.user2.session, api.db.people.user2.id).token
    const socket = await connect(api, { token })
    let answer
    for (let i = 0; i < 400 && answer?.type !== 'error'; i++) answer = await socket.start('{ __typename }').next()
    expect(answer!.payload[0].extensions).toEqual({ code: 'RATE_LIMITED', retryAfter: expect.any(Number) })
    expect(socket.isOpen).toBe(true)
    // However fast it refills, a hundred at once exceed what is left; an allowance of their own would have sufficed.
    const calls = await Promise.all(Array.from({ length: 100 }, () => api.graphql('{ __typename }', {}, { token })))
    expect(calls.map(({ status }) => status)).toContain(429)
    await sure.close()
  })
})

describe('malformed conversations', () => {
  const subscribe = (id: string) => JSON.stringify({ id, type: 'subscribe', payload: { query: INBOX } })

  test.each([
    ['text that is not JSON', ['hello'], 4400],
    ['a value that is not an object', ['[]'], 4400],
    ['a missing type', ['{}'], 4400],
    ['an unknown type', ['{"type":"start"}'], 4400],
    ['an operation without an id', ['{"type":"subscribe","payload":{"query":"{ __typename }"}}'], 4400],
    ['an operation without a query', ['{"type":"subscribe","id":"1","payload":{}}'], 4400],
    ['an operation whose variables are a list', ['{"type":"subscribe","id":"1","payload":{"query":"x","variables":[]}}'], 4400],
    ['a message that only a server sends', ['{"type":"next","id":"1","payload":{"data":{}}}'], 4400],
    ['bytes', [randomBytes(50)], 4400],
    ['a second connection_init', [settings({})], 4429],
    ['an id that is in use', [subscribe('1'), subscribe('1')], 4409],
    ['more than 100 kB', [JSON.stringify({ type: 'ping', payload: { pad: 'x'.repeat(100_000) } })], 1009],
    ['text that is not UTF-8', [{ invalid: true }], 1007],
  ] as [string, (string | Buffer | { invalid: true })[], number][])('%s closes the socket', async (_what, messages, code) => {
    const before = api.log().length
    const socket = await connect(api, 'user')
    for (const message of messages) {
      if (typeof message === 'string' || Buffer.isBuffer(message)) socket.send(message)
      else socket.ws.send(Buffer.from([0xff, 0xfe]), { binary: false })
    }
    expect((await socket.closed)[0]).toBe(code)
    // The faults are the caller's: no operator needs to look.
    expect(api.log().slice(before)).not.toMatch(/"level":(40|50)/)
  })

  test('bytes that are not a frame close the socket', async () => {
    const socket = await connect(api, 'user')
    const { _socket: raw } = socket.ws as unknown as { _socket: NetSocket }
    raw.write(Buffer.from([0x81, 0x05, 0x68, 0x65, 0x6c, 0x6c, 0x6f])) // A client must mask its frames.
    expect((await socket.closed)[0]).toBe(1002)
  })

  test('an operation before connection_init closes the socket', async () => {
    const socket = await open(api)
    socket.send({ id: '1', type: 'subscribe', payload: { query: '{ __typename }' } })
    expect(await socket.closed).toEqual([4401, 'Unauthorized'])
  })

  test.each([[['graphql-ws']], [['chat']], [[]]])('the protocols %j are not supported', async (protocols) => {
    const socket = await open(api, { protocols }).catch(() => undefined) // A client may refuse first.
    if (socket) expect((await socket.closed)[0]).toBe(4406)
    await until(async () => (await subscribers()) === 0)
  })

  test('those that do not say whose they are take no place of others, and of a network only so many may wait', async () => {
    const here = { headers: { 'x-forwarded-for': '203.0.113.200' } }
    const waiting = await Promise.all(Array.from({ length: 50 }, () => open(api, here)))
    const refused = await open(api, here)
    expect(await refused.closed).toEqual([1013, 'Too many requests'])
    expect((await connect(api, 'user', { headers: fromElsewhere() })).isOpen).toBe(true)
    await Promise.all(waiting.map(({ closed }) => closed)) // None of them has said it in time.
    expect((await connect(api, 'user', here)).isOpen).toBe(true)
  }, 20_000)

  test('a socket without connection_init is closed after 5 seconds', async () => {
    const start = performance.now()
    const socket = await open(api)
    expect(await socket.closed).toEqual([4408, 'Connection initialisation timeout'])
    expect(performance.now() - start).toBeGreaterThan(4_500)
  })
})

const subscribers = async (on = api) => Number(/^assent_subscribers (\d+)$/m.exec((await on.metrics()).text)![1])

describe('limits', () => {
  test('a socket has at most 20 operations at once; one that ends makes room', async () => {
    const socket = await connect(api, 'user')
    const first = await socket.subscribe(INBOX)
    for (let i = 1; i < 20; i++) socket.start(INBOX)
    expect(await socket.start(INBOX).code()).toBe('RATE_LIMITED')
    expect(await socket.start('{ currentUser { id } }').code()).toBe('RATE_LIMITED')
    socket.send({ id: first.id, type: 'complete' })
    expect(await socket.start('{ currentUser { name } }').data()).toEqual({ currentUser: { name: 'Uma User' } })
  })

  test('a person has at most 20 sockets, whatever their sessions; one that closes makes room', async () => {
    const person = await api.person()
    const again = await anotherSession(person)
    const sockets = await Promise.all(Array.from({ length: 20 }, (_, i) => connect(api, i % 2 ? person : again)))
    expect(await subscribers()).toBe(20)
    await expect(connect(api, person)).rejects.toMatchObject({ code: 1013, reason: 'Too many requests' })
    expect((await connect(api, 'user')).isOpen).toBe(true)
    sockets[0]!.ws.close()
    await sockets[0]!.closed
    await until(async () => (await subscribers()) === 20)
    expect((await connect(api, person)).isOpen).toBe(true)
  })

  test('a reader who leaves a megabyte unread is cut off', async () => {
    const requestId = await newRequest(api)
    const input = { requestId, description: '\u{1d518}'.repeat(10_000) }
    await api.data(mutation('updateRequest'), { input }, 'user')
    const socket = await connect(api, 'user')
    const fields = Array.from({ length: 10 }, (_, i) => `r${i}: request(id: $id) { description }`)
    socket.ws.pause()
    let sent = 0
    const sending = (async () => {
      while ((await subscribers()) > 0 && sent < 500) {
        socket.send({
          id: `${sent++}`,
          type: 'subscribe',
          payload: { query: `query ($id: UUID!) { ${fields} }`, variables: { id: requestId } },
        })
        await sleep(5)
      }
    })()
    await until(async () => (await subscribers()) === 0, 20_000)
    await sending
    socket.ws.resume()
    expect((await socket.closed)[0]).toBe(1006)
  })

  test('an answer of more than a megabyte reaches a caller who reads it', async () => {
    const requestId = await newRequest(api)
    const input = { requestId, description: '\u{1d518}'.repeat(10_000) }
    await api.data(mutation('updateRequest'), { input }, 'user')
    const fields = Array.from({ length: 10 }, (_, i) => `r${i}: request(id: $id) { a: description b: description }`)
    const socket = await connect(api, 'user')
    for (let i = 0; i < 3; i++) {
      const data = await socket.start(`query ($id: UUID!) { ${fields.join(' ')} }`, { id: requestId }).data()
      expect(JSON.stringify(data).length).toBeGreaterThan(300_000)
    }
    expect(socket.isOpen).toBe(true)
  })

  test('a caller who pings and does not read the answers is cut off before they grow large', async () => {
    const socket = await connect(api, 'user')
    socket.ws.pause()
    for (let i = 0; i < 500 && (await subscribers()) > 0; i++) {
      for (let j = 0; j < 1_000; j++) socket.ws.ping('x'.repeat(125), true, () => {})
      await sleep(5)
    }
    expect(await subscribers()).toBe(0)
    socket.ws.resume()
    expect((await socket.closed)[0]).toBe(1006)
  })

  test('a peer that does not answer pings is cut off; one that does stays', async () => {
    const [silent, lively] = [await connect(api, 'user', { autoPong: false }), await connect(api, 'user')]
    for (let i = 0; i < 3; i++) {
      const pinged = new Promise((resolve) => lively.ws.once('ping', resolve))
      passTime(15)
      await pinged
      await sleep(50) // The answer is on its way.
    }
    expect((await silent.closed)[0]).toBe(1006)
    expect(lively.isOpen).toBe(true)
    lively.send({ type: 'ping', payload: { mine: true } })
    expect(await lively.next()).toEqual({ type: 'pong', payload: { mine: true } })
  })
})

describe('a session that ends closes its sockets, and those of no other', () => {
  test.each<[string, (on: { person: NewPerson; other: NewPerson; cookie: string; csrf: string }) => Promise<unknown>]>([
    ['by logout', ({ person }) => api.data(mutation('logout', 'clientMutationId'), { input: {} }, person)],
    [
      'by ending it in the list of sessions',
      async ({ person, other }) => {
        const { body } = await api.rest('GET', '/auth/sessions/', undefined, person)
        const { id } = body.results.find((session: { is_current: boolean }) => session.is_current)
        expect((await api.rest('DELETE', `/auth/sessions/${id}/`, undefined, other)).status).toBe(204)
      },
    ],
    ['by ending all others', ({ other }) => api.rest('DELETE', '/auth/sessions/', undefined, other)],
    [
      'by a new password',
      ({ other }) => {
        const input = { oldPassword: PASSWORD, newPassword: 'correct horse battery staple' }
        return api.data(mutation('changePassword', 'clientMutationId'), { input }, other)
      },
    ],
  ])('%s', async (_how, end) => {
    const person = await api.person()
    const other = await anotherSession(person)
    const sockets = await Promise.all([connect(api, person), connect(api, person), connect(api, other)])
    await sockets[0].subscribe(INBOX)
    const start = performance.now()
    await end({ person, other, ...(await logIn(person)) })
    expect(await Promise.all([sockets[0].closed, sockets[1].closed])).toEqual(Array(2).fill([4401, 'Unauthorized']))
    expect(performance.now() - start).toBeLessThan(5_000)
    expect(await sockets[2].start('{ currentUser { id } }').data()).toEqual({ currentUser: { id: person.id } })
  })

  test('by the deactivation of the person, which closes all of theirs', async () => {
    const person = await api.person()
    const { cookie } = await logIn(person)
    const sockets = [await connect(api, person), await connect(api, undefined, { headers: { cookie } })]
    await api.data(mutation('deactivateUser', 'user { id }'), { input: { userId: person.id } }, 'admin')
    for (const { closed } of sockets) expect(await closed).toEqual([4401, 'Unauthorized'])
    await expect(connect(api, person)).rejects.toMatchObject(UNAUTHORIZED)
  })

  test('by endSessions, which closes all of theirs, and nobody else’s', async () => {
    const [person, bystander] = [await api.person(), await api.person()]
    const other = await anotherSession(person)
    const { cookie } = await logIn(person)
    const sockets = [
      await connect(api, person),
      await connect(api, other),
      await connect(api, undefined, { headers: { cookie } }),
    ]
    const spared = await connect(api, bystander)
    const end = (who: Who) => api.graphql(mutation('endSessions', 'clientMutationId'), { input: { userId: person.id } }, who)
    expect((await end(bystander)).body.errors[0].extensions.code).toBe('FORBIDDEN')
    expect(sockets.every(({ isOpen }) => isOpen)).toBe(true)
    expect((await end('admin')).body.errors).toBeUndefined()
    for (const { closed } of sockets) expect(await closed).toEqual([4401, 'Unauthorized'])
    expect(await spared.start('{ currentUser { id } }').data()).toEqual({ currentUser: { id: bystander.id } })
  })

  test('by SQL, whoever writes it', async () => {
    const person = await api.person()
    const socket = await connect(api, person)
    await owner.query('update app_private.sessions set revoked_at = now() where user_id = $1', [person.id])
    expect(await socket.closed).toEqual([4401, 'Unauthorized'])
  })

  test('by expiring, within a minute; until then its sockets keep it in use', async () => {
    const [expiring, idle, used] = [await api.person(), await api.person(), await api.person()]
    const sockets = [await connect(api, expiring), await connect(api, idle), await connect(api, used)]
    const set = (change: string, { id }: NewPerson) =>
      owner.query(`update app_private.sessions set ${change} where user_id = $1`, [id])
    await set('expires_at = now()', expiring)
    await set(`last_used_at = now() - interval '73 hours'`, idle)
    await set(`last_used_at = now() - interval '71 hours'`, used)
    await sleep(100)
    expect(sockets.map(({ isOpen }) => isOpen)).toEqual([true, true, true])
    const clock = jest.spyOn(Date, 'now').mockReturnValue(Date.now() + 60_000)
    for (let i = 0; i < 4; i++) {
      passTime(15)
      await sleep(50) // For the answer to a ping.
    }
    for (const { closed } of sockets.slice(0, 2)) expect(await closed).toEqual([4401, 'Unauthorized'])
    await until(async () => {
      const { rows } = await owner.query(
        `select from app_private.sessions where user_id = $1 and last_used_at > now() - interval '1 minute'`,
        [used.id],
      )
      return rows.length === 1
    })
    clock.mockRestore()
    expect(sockets[2]!.isOpen).toBe(true)
  })

  test('even while the socket is being opened: whichever comes first, no socket stays', async () => {
    const person = await api.person()
    const sessions: NewPerson[] = []
    for (let i = 0; i < 12; i++) sessions.push(await anotherSession(person))
    const outcomes = sessions.map(async (session, i) => {
      const socket = await open(api)
      socket.send(settings({ authorization: `Bearer ${session.token}` }))
      await sleep(i % 4)
      await api.data(mutation('logout', 'clientMutationId'), { input: {} }, session)
      return socket.closed
    })
    expect(await Promise.all(outcomes)).toEqual(Array(12).fill([4401, 'Unauthorized']))
  })
})

test('a subscriber has at most 20 subscriptions, and all end when it leaves, even those that nobody else remembers', async () => {
  const { id } = await api.person()
  const { rows } = await owner.query('select session_secret from app_private.open_session($1, false, null)', [id])
  const caller = { session: rows[0].session_secret as string, ip: '', userAgent: null, byCookie: false }
  const db = makeDatabase(makeOpenPool(api.db.urls.auth, pino({ level: 'silent' }))(1), makeSessions())
  const explain = (error: unknown) => toClientError(error, pino({ level: 'silent' }))
  const listening = new Set<string>()
  let n = 0
  const live: Live = {
    async open() {},
    on(topic) {
      const one = `${topic} ${n++}`
      listening.add(one)
      return () => listening.delete(one)
    },
    async close() {},
  }
  const subscribers = makeSubscribers(live, db, explain)
  const subscriber = subscribers.enter('192.0.2.1', () => {})
  await subscriber.admit(caller)
  const before = listening.size
  const changes = makeChanges(live, db, explain, () => {})
  const news = makeNews({ live, changes, db, explain }, caller, subscriber)
  const request = await newRequest(api)
  for (let i = 0; i < 10; i++) {
    await news.subscribe('inbox')
    await news.subscribe(`request ${request}`)
  }
  expect(listening.size).toBe(before + 20)
  await expect(news.subscribe('notification')).rejects.toMatchObject({ code: 'RATE_LIMITED' })
  subscriber.leave()
  expect(listening.size).toBe(0)
  // A subscription that was being opened when it left.
  await expect(((await news.subscribe('inbox')) as AsyncIterator<unknown>).next()).resolves.toMatchObject({ done: true })
  expect(listening.size).toBe(0)
  subscribers.close()
  await db.pool.end()
})

test('a session that ends after it was read, but before its end would be heard, lets nobody in', async () => {
  const { id } = await api.person()
  const { rows } = await owner.query('select session_secret from app_private.open_session($1, false, null)', [id])
  const caller = { session: rows[0].session_secret as string, ip: '', userAgent: null, byCookie: false }
  const db = makeDatabase(makeOpenPool(api.db.urls.auth, pino({ level: 'silent' }))(1), makeSessions())
  let ending: Promise<unknown> | undefined
  const live: Live = {
    async open() {},
    on() {
      ending = owner.query('update app_private.sessions set revoked_at = now() where user_id = $1', [id])
      return () => {} // It comes too late to hear of that.
    },
    async close() {},
  }
  const pool = Object.create(db.pool, { connect: { value: () => Promise.resolve(ending).then(() => db.pool.connect()) } })
  const all = makeSubscribers(live, { ...db, pool }, (error) => toClientError(error, pino({ level: 'silent' })))
  await expect(all.enter('192.0.2.1', () => {}).admit(caller)).rejects.toMatchObject({ code: 'RQ401' })
  expect(ending).toBeDefined()
  all.close()
  await db.pool.end()
})

test('an expired token ends nothing; but a new operation needs a good one, and clients come back with it', async () => {
  const claims = { issuer: 'assent', audience: 'assent', subject: api.db.people.user.id, expiresIn: 2 }
  const socket = await connect(api, { token: jwt.sign({ sid: api.db.people.user.session }, JWT_SECRET, claims) })
  const id = await newRequest(api)
  const heard = await socket.subscribe(UPDATED, { id })
  await sleep(2_000)
  await act(api, 'submitRequest', id, 'user')
  expect((await heard.data()).requestUpdated.request.status).toBe('SUBMITTED')
  socket.start('{ currentUser { id } }')
  expect(await socket.closed).toEqual([4403, 'Forbidden'])
})

describe('the listening connection', () => {
  test('is known to be dead within 5 seconds when it is silent', async () => {
    // The database's end vanishes: nothing comes back, and nothing is refused.
    const target = new URL(api.db.urls.auth)
    const pairs: [NetSocket, NetSocket][] = []
    const proxy = createServer((near) => {
      const far = connectSocket(Number(target.port), target.hostname)
      for (const each of [near, far]) each.on('error', () => {})
      near.pipe(far).pipe(near)
      pairs.push([near, far])
    })
    await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
    const { port } = proxy.address() as AddressInfo
    const near = Object.assign(new URL(target), { hostname: '127.0.0.1', port }).toString()
    const cut = await startApi({ AUTH_DATABASE_URL: near }, api.db, startServer)
    const socket = await connect(cut, 'user')
    for (const [near, far] of pairs) {
      near.unpipe()
      far.unpipe()
    }
    const start = performance.now()
    passTime(2)
    expect(await socket.closed).toEqual([1013, 'Try again later'])
    expect(performance.now() - start).toBeLessThan(4_000)
    for (const each of pairs.flat()) each.destroy()
    await cut.close()
    proxy.close()
  })
})

describe('close()', () => {
  test('sends everybody away, and waits for nobody', async () => {
    const closing = await startApi({}, api.db, startServer)
    const sockets = [await connect(closing, 'user'), await connect(closing, 'manager'), await open(closing)]
    await sockets[0]!.subscribe(INBOX)
    const stream = await fetch(`${closing.url}/graphql`, {
      method: 'POST',
      headers: {
        accept: 'text/event-stream',
        'content-type': 'application/json',
        authorization: `Bearer ${closing.token('user')}`,
      },
      body: JSON.stringify({ query: INBOX }),
    })
    expect(stream.status).toBe(200)
    const deaf = await connect(closing, 'user')
    deaf.ws.pause()
    // It is refused, but does not hang up.
    const lingering = connectSocket({ port: Number(new URL(closing.url).port), host: '127.0.0.1', allowHalfOpen: true })
    lingering.write(
      'GET /graphql HTTP/1.1\r\nhost: x\r\norigin: https://evil.example.com\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n',
    )
    await new Promise((resolve) => lingering.once('data', resolve))
    const start = performance.now()
    await closing.close()
    expect(performance.now() - start).toBeLessThan(5_000)
    for (const { closed } of sockets) expect(await closed).toEqual([1001, 'Going away'])
    expect(await stream.text()).toBe(':\n\n') // It ends as an answer does.
    lingering.destroy()
  })
})
