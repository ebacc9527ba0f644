import { createHmac, generateKeyPairSync, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import jwt from 'jsonwebtoken'
import type { Client } from 'pg'
import pino from 'pino'
import { makeSpend } from '../../../server/http/allowance.ts'
import { makeAddressOf } from '../../../server/http/identity.ts'
import { makeResources } from '../../../server/rest/routes/index.ts'
import { parseConfig } from '../../../server/config.ts'
import { startServer } from '../../../server/server.ts'
import { asCaller, makeDatabase, type Identity } from '../../../server/sql/as-caller.ts'
import { makeSessions } from '../../../server/sql/in-use.ts'
import { makeOpenPool } from '../../../server/sql/pool.ts'
import {
  deadToken,
  fromElsewhere,
  JWT_SECRET,
  mutation,
  newRequest,
  NOBODY,
  PASSWORD,
  startApi,
  type Answer,
  type Api,
  type Call,
  type NewPerson,
  type Who,
} from '../../harness/client.ts'
import { until } from '../../harness/socket.ts'

const PAGE = 'https://app.example.com'
const PUBLIC_URL = 'http://assent.example.com:8080'
const GOOD = 'correct horse battery staple'
const NEWER_SECRET = 'a newer key of at least 32 characters too'

let api: Api
/** The same, with no proxy to trust, at an https address. */
let direct: Api
/** And by defaults alone, but for a newer key, which signs. */
let rotated: Api
let owner: Client
beforeAll(async () => {
  // With the clock of these tests, which they set.
  const env = { TRUST_PROXY: '1', ALLOWED_ORIGINS: `https://other.example.com,${PAGE}`, PUBLIC_URL }
  api = await startApi(env, undefined, startServer)
  direct = await startApi({ PUBLIC_URL: 'https://assent.example.com/' }, api.db)
  rotated = await startApi({ JWT_SECRET: `${NEWER_SECRET}, ${JWT_SECRET}` }, api.db)
  owner = await api.db.connect('owner')
})
afterAll(async () => {
  await rotated.close()
  await direct.close()
  await api.close()
})

type Headers = Record<string, string>

/** A call of the REST API, from an address of its own unless the headers say otherwise. */
const rest = (method: string, path: string, body?: unknown, headers: Headers = {}, on = api) =>
  on.rest(method, path, body, undefined, { ...fromElsewhere(), ...headers })
const graphql = (query: string, variables: object = {}, headers: Headers = {}, on = api) =>
  on.graphql(query, variables, undefined, { ...fromElsewhere(), ...headers })
const bearer = (token: string) => ({ authorization: `Bearer ${token}` })

const codeOf = ({ status, body }: Answer) => body?.code ?? body?.errors?.[0].extensions.code ?? status
/** Who is asking, by both doors, or the code of their refusal; null: nobody. */
const whoIs = async (headers: Headers, on = api) => {
  const [one, other] = await Promise.all([
    rest('GET', '/users/me/', undefined, headers, on),
    graphql('{ currentUser { id } }', {}, headers, on),
  ])
  return [one.body.id ?? codeOf(one), other.body.data ? (other.body.data.currentUser?.id ?? null) : codeOf(other)]
}
const REFUSED = ['UNAUTHENTICATED', 'UNAUTHENTICATED']
const NOBODY_IS = ['UNAUTHENTICATED', null]

async function logInByToken({ email }: { email: string }, password = PASSWORD) {
  const { body } = await rest('POST', '/auth/token/', { email, password })
  for (const secret of [body.access_token, ...body.refresh_token.split('.')]) secrets.add(secret)
  return body as { access_token: string; refresh_token: string; user: object }
}
const refresh = (refreshToken: unknown, headers: Headers = {}) =>
  rest('POST', '/auth/refresh/', { refresh_token: refreshToken }, headers)

const logInByCookie = ({ email }: { email: string }, headers: Headers = {}, on = api) =>
  rest('POST', '/auth/session/', { email, password: PASSWORD }, headers, on)
/** Every secret that has been handed out here: the last test looks for them. */
const secrets = new Set<string>([PASSWORD, GOOD, JWT_SECRET])
const cookieOf = (answer: Answer) => {
  const [cookie] = answer.headers['set-cookie']![0]!.split(';')
  secrets.add(cookie!.split('=')[1]!)
  return cookie!
}
/** A person's browser: the headers that it sends unasked, and those of a page of ours that changes something. */
async function openBrowser(person: { email: string }) {
  const answer = await logInByCookie(person)
  const cookie = cookieOf(answer)
  return { cookie: { cookie }, page: { cookie, 'x-csrf-token': answer.body.csrf_token as string } }
}

const actionsAbout = async (userId: string) =>
  (
    await owner.query<{ action: string }>(
      // But for the sessions that the harness has opened.
      `select action from app_public.audit_logs where user_id = $1 and action <> 'SESSION_OPEN' order by "timestamp", id`,
      [userId],
    )
  ).rows.map(({ action }) => action)

describe('a session by cookie', () => {
  test('opens by POST, is shown by GET, ends by DELETE', async () => {
    const person = await api.person()
    const opened = await logInByCookie(person)
    const user = expect.objectContaining({ id: person.id, email: person.email, role: 'USER', is_deleted: false })
    expect([opened.status, opened.body]).toEqual([200, { user, csrf_token: expect.stringMatching(/^[\w-]{43}$/) }])
    expect(opened.headers['cache-control']).toBe('no-store')
    const cookie = { cookie: cookieOf(opened) }
    const shown = await rest('GET', '/auth/session/', undefined, cookie)
    expect([shown.status, shown.body]).toEqual([200, opened.body])
    expect(await whoIs(cookie)).toEqual([person.id, person.id])
    expect(await whoIs({ cookie: `a=b; ${cookie.cookie}; c="d"` })).toEqual([person.id, person.id])

    const ended = await rest('DELETE', '/auth/session/', undefined, { ...cookie, 'x-csrf-token': opened.body.csrf_token })
    expect([ended.status, ended.text]).toEqual([204, ''])
    expect(ended.headers['set-cookie']).toEqual([expect.stringMatching(/^assent_session=;.*Max-Age=0/)])
    expect(ended.headers['set-cookie']![0]).toContain('Path=/')
    expect(ended.headers['clear-site-data']).toBe('"cache", "storage"')
    expect(await whoIs(cookie)).toEqual(NOBODY_IS)
    expect((await rest('GET', '/auth/session/', undefined, cookie)).status).toBe(401)
    expect((await actionsAbout(person.id)).slice(1)).toEqual(['LOGIN', 'LOGOUT'])
  })

  test('has 256 random bits that no script, other site or proxy gets', async () => {
    const [header] = (await logInByCookie(await api.person())).headers['set-cookie']!
    const [cookie, ...attributes] = header!.split('; ')
    expect(cookie).toMatch(/^assent_session=[\w-]{43}$/)
    expect(Buffer.from(cookie!.split('=')[1]!, 'base64url')).toHaveLength(32)
    expect(attributes.sort()).toEqual(['HttpOnly', 'Path=/', 'SameSite=Strict'])
  })

  test.each<[string, Headers, () => Api, boolean]>([
    ['no', {}, () => api, false],
    ['no, by the trusted proxy', { 'x-forwarded-proto': 'http' }, () => api, false],
    ['yes, by the trusted proxy', { 'x-forwarded-proto': 'https' }, () => api, true],
    ['no, by anybody who is not trusted to say so', { 'x-forwarded-proto': 'https' }, () => rotated, false],
    ['yes, by PUBLIC_URL', {}, () => direct, true],
  ])('Secure: %s', async (_, headers, on, expected) => {
    const [header] = (await logInByCookie(await api.person(), headers, on())).headers['set-cookie']!
    expect(/; *Secure/i.test(header!)).toBe(expected)
    expect(header).toMatch(expected ? /^__Host-assent_session=.*Path=\// : /^assent_session=/)
    expect(header).not.toMatch(/Domain/i)
  })

  test.each([
    ['https', 'https', true],
    ['HTTPS', 'https', true],
    ['the last of two, which the proxy has added', 'https, http', false],
    ['the last of two, and the first is made up', 'http,https', true],
    ['none that the proxy has named', ',', false],
  ])('Secure by X-Forwarded-Proto: %s', async (_, scheme, expected) => {
    const [header] = (await logInByCookie(await api.person(), { 'x-forwarded-proto': scheme })).headers['set-cookie']!
    expect(/; *Secure/i.test(header!)).toBe(expected)
  })

  test('behind two proxies, the scheme that the outer one has seen counts', async () => {
    const two = await startApi({ TRUST_PROXY: '2' }, api.db)
    for (const [scheme, expected] of [
      ['https, http', true],
      ['https', true],
      ['https, http, https', false],
      ['http, https, http', true],
    ] as const) {
      const [header] = (await logInByCookie(await api.person(), { 'x-forwarded-proto': scheme }, two)).headers['set-cookie']!
      expect([scheme, /; *Secure/i.test(header!)]).toEqual([scheme, expected])
    }
    await two.close()
  })

  test('by TLS, no other host of the site can plant one; and of two, whoever sends them is nobody', async () => {
    const [victim, attacker] = [await api.person(), await api.person()]
    const secure = { 'x-forwarded-proto': 'https' }
    const nameless = async (person: typeof victim, headers: Headers = {}) =>
      cookieOf(await logInByCookie(person, headers)).replace(/^.*?=/, '')
    const [mine, theirs] = [await nameless(victim, secure), await nameless(attacker, secure)]
    const ask = async (cookie: string, headers = secure as Headers) => whoIs({ cookie, ...headers })
    expect(await ask(`__Host-assent_session=${mine}`)).toEqual([victim.id, victim.id])
    expect(await ask(`assent_session=${theirs}; __Host-assent_session=${mine}`)).toEqual([victim.id, victim.id])
    expect(await ask(`assent_session=${theirs}`)).toEqual(NOBODY_IS)
    for (const [one, other] of [
      [mine, theirs],
      [theirs, mine],
      [mine, mine],
      [mine, ''],
    ]) {
      expect(await ask(`__Host-assent_session=${one}; __Host-assent_session=${other}`)).toEqual(NOBODY_IS)
      expect(await ask(`assent_session=${one};assent_session=${other}`, {})).toEqual(NOBODY_IS)
    }
    expect(await ask(`assent_session=${await nameless(victim)}; x=assent_session=1`, {})).toEqual([victim.id, victim.id])
  })

  test('is a new one at each login, and the old one is dead; a failed login leaves it', async () => {
    const person = await api.person()
    const elsewhere = await openBrowser(person)
    const first = await openBrowser(person)
    const failed = await rest('POST', '/auth/session/', { email: person.email, password: 'wrong' }, first.cookie)
    expect([failed.status, failed.headers['set-cookie']]).toEqual([401, undefined])
    expect(await whoIs(first.cookie)).toEqual([person.id, person.id])

    const second = { cookie: cookieOf(await logInByCookie(person, first.cookie)) }
    expect(second.cookie).not.toBe(first.cookie.cookie)
    expect(await whoIs(first.cookie)).toEqual(NOBODY_IS)
    expect(await whoIs(second)).toEqual([person.id, person.id])
    // What the caller brings is never taken over, and a token's login is no browser's.
    const planted = `assent_session=${'x'.repeat(43)}`
    expect(cookieOf(await logInByCookie(person, { cookie: planted }))).not.toBe(planted)
    await rest('POST', '/auth/token/', { email: person.email, password: PASSWORD }, second)
    expect(await whoIs(second)).toEqual([person.id, person.id])
    expect(await whoIs(elsewhere.cookie)).toEqual([person.id, person.id])
    // Whoever logs in next at the same browser, whatever their roles.
    const admin = await api.person('ADMIN')
    const third = { cookie: cookieOf(await logInByCookie(admin, second)) }
    expect([await whoIs(second), await whoIs(third)]).toEqual([NOBODY_IS, [admin.id, admin.id]])
    expect(await actionsAbout(admin.id)).toEqual(['USER_CREATE', 'LOGIN'])
  })

  test('stays alive by its use', async () => {
    // One that this process has not met yet: it has the use noted once a minute.
    const { id, token } = await api.person()
    await owner.query(`update app_private.sessions set last_used_at = now() - interval '2 days' where user_id = $1`, [id])
    expect(await whoIs(bearer(token))).toEqual([id, id])
    const used = `select from app_private.sessions where user_id = $1 and last_used_at > now() - interval '1 minute'`
    // Beside the request, and not by it.
    while ((await owner.query(used, [id])).rowCount === 0) await sleep(10)
  })

  test('has a CSRF token of its own, which tells nothing of it', async () => {
    const person = await api.person()
    const [one, other] = [await openBrowser(person), await openBrowser(person)]
    expect(one.page['x-csrf-token']).not.toBe(other.page['x-csrf-token'])
    expect(one.cookie.cookie).not.toContain(one.page['x-csrf-token'])
  })

  test.each([
    ['3 days unused', `last_used_at = now() - interval '3 days 1 minute'`],
    ['past its end', 'expires_at = now()'],
    ['revoked', 'revoked_at = now()'],
  ])('is dead: %s', async (_, change) => {
    const person = await api.person()
    const { cookie } = await openBrowser(person)
    expect(await whoIs(cookie)).toEqual([person.id, person.id])
    await owner.query(`update app_private.sessions set ${change} where user_id = $1`, [person.id])
    expect(await whoIs(cookie)).toEqual(NOBODY_IS)
    expect(await whoIs(bearer(person.token))).toEqual(REFUSED)
  })

  test('when dead, counts as none: for reads, for changes, and for a login', async () => {
    const person = await api.person()
    const { page } = await openBrowser(person)
    await rest('DELETE', '/auth/session/', undefined, page)
    const made = { cookie: `assent_session=${'A'.repeat(43)}` }
    const nonsense = { cookie: 'assent_session=x%00y' }
    const login = mutation('login', 'user { id }')
    const input = { email: person.email, password: PASSWORD }
    for (const dead of [page, { cookie: page.cookie }, made, nonsense, { cookie: 'assent_session=' }]) {
      for (const query of [
        '{ currentUser { id } }',
        '{ requests { totalCount } }',
        '{ __typename }',
        mutation('createRequest'),
      ]) {
        const variables = { input: { title: 'x' } }
        expect((await graphql(query, variables, dead)).text).toBe((await graphql(query, variables)).text)
      }
      expect((await rest('POST', '/requests/', { title: 'x' }, dead)).text).toBe(
        (await rest('POST', '/requests/', { title: 'x' })).text,
      )
    }
    expect((await graphql(login, { input }, page)).body.data).toEqual({ login: { user: { id: person.id } } })
    for (const dead of [{ cookie: page.cookie }, made]) {
      expect((await graphql(login, { input }, dead)).body.data).toEqual({ login: { user: { id: person.id } } })
      expect((await rest('POST', '/auth/session/', input, dead)).status).toBe(200)
    }
  })

  test('beside a bearer token does not count, be the token good or bad', async () => {
    const [person, other] = [await api.person(), await api.person()]
    const { cookie } = await openBrowser(person)
    for (const authorization of ['', 'Bearer x', `Bearer ${deadToken()}`, 'Basic eDp5']) {
      expect(await whoIs({ ...cookie, authorization })).toEqual(REFUSED)
    }
    expect(await whoIs({ ...cookie, ...bearer(other.token) })).toEqual([other.id, other.id])
    const created = await rest('POST', '/requests/', { title: 'x' }, { ...cookie, ...bearer(other.token) })
    expect([created.status, created.body.creator?.id]).toEqual([201, other.id])
  })

  test('is no token, and a token’s session is no cookie', async () => {
    const person = await api.person()
    const { cookie } = await openBrowser(person)
    const value = cookie.cookie.split('=')[1]!
    const claims = { iss: 'assent', aud: 'assent', sub: person.id, exp: Math.floor(Date.now() / 1000) + 60 }
    for (const token of [value, ...[value, `cookie:${value}`].map((sid) => jwt.sign({ ...claims, sid }, JWT_SECRET))]) {
      expect(await whoIs(bearer(token))).toEqual(REFUSED)
    }
    const { sid } = jwt.decode(person.token) as { sid: string }
    const { refresh_token } = await logInByToken(person)
    for (const made of [sid, `cookie:${sid}`, encodeURIComponent(`cookie:${sid}`), person.token, refresh_token]) {
      expect(await whoIs({ cookie: `assent_session=${made}` })).toEqual(NOBODY_IS)
    }
    for (const made of [value, `cookie:${value}`, `cookie:${value}.x`, `${value}.x`])
      expect((await refresh(made)).status).toBe(401)
    expect(await whoIs(cookie)).toEqual([person.id, person.id])
  })
})

describe('a change by cookie', () => {
  let person: NewPerson
  let browser: Awaited<ReturnType<typeof openBrowser>>
  let stranger: typeof browser
  beforeAll(async () => {
    person = await api.person()
    ;[browser, stranger] = [await openBrowser(person), await openBrowser(await api.person())]
  })

  const title = 'by cookie'
  /** A change of nothing that other tests look at, by either door. */
  const changes: [string, (headers: Headers) => Promise<Answer>][] = [
    ['REST', (headers) => rest('POST', '/requests/', { title }, headers)],
    ['GraphQL', (headers) => graphql(mutation('createRequest'), { input: { title } }, headers)],
  ]
  const ours = () => owner.query('select count(*)::int as n from app_public.requests where title = $1', [title])
  const countOurs = async () => (await ours()).rows[0].n as number
  const withoutHost = (url: string) => url.replace(/^http:\/\//, '')

  const refused: [string, () => Headers][] = [
    ['no token', () => browser.cookie],
    ['an empty token', () => ({ ...browser.cookie, 'x-csrf-token': '' })],
    ['a wrong token', () => ({ ...browser.cookie, 'x-csrf-token': 'x'.repeat(43) })],
    ['a longer token', () => ({ ...browser.cookie, 'x-csrf-token': `${browser.page['x-csrf-token']}x` })],
    ['a token of another case', () => ({ ...browser.cookie, 'x-csrf-token': browser.page['x-csrf-token'].toLowerCase() })],
    ['the cookie itself', () => ({ ...browser.cookie, 'x-csrf-token': browser.cookie.cookie.split('=')[1]! })],
    ['the token of another session', () => ({ ...browser.cookie, 'x-csrf-token': stranger.page['x-csrf-token'] })],
    ['a token by another header', () => ({ ...browser.cookie, 'csrf-token': browser.page['x-csrf-token'] })],
    ...[
      'https://evil.example.com',
      'null',
      '',
      `${PAGE}.evil.com`,
      `${PAGE}:444`,
      `${PAGE}/`,
      'http://app.example.com',
      'https://evil.com/https://app.example.com',
      'http://127.0.0.1',
      'http://localhost',
      'http://assent.example.com',
      'file://',
    ].map((origin): [string, () => Headers] => [`origin ${origin}`, () => ({ ...browser.page, origin })]),
    [
      'our own host without TLS, on a site that has it',
      () => ({
        ...browser.page,
        cookie: `__Host-${browser.page.cookie}`,
        origin: `http://${withoutHost(api.url)}`,
        'x-forwarded-proto': 'https',
      }),
    ],
    ['an allowed origin, and no token', () => ({ ...browser.cookie, origin: PAGE })],
  ]
  test.each(refused)('is FORBIDDEN with %s', async (_, headers) => {
    const before = await countOurs()
    for (const [door, change] of changes) {
      const answer = await change(headers())
      expect([door, answer.status, codeOf(answer)]).toEqual([door, 403, 'FORBIDDEN'])
      expect(answer.body.data).toBeUndefined()
    }
    expect(await countOurs()).toBe(before)
  })

  test.each<[string, () => Headers]>([
    ['without an origin', () => ({})],
    ['from our own host', () => ({ origin: api.url })],
    [
      'from our own host behind https',
      () => ({
        cookie: `__Host-${browser.page.cookie}`,
        origin: `https://${withoutHost(api.url)}`,
        'x-forwarded-proto': 'https',
      }),
    ],
    ['from PUBLIC_URL', () => ({ origin: PUBLIC_URL })],
    ['from ALLOWED_ORIGINS', () => ({ origin: PAGE })],
  ])('is done with its token %s', async (_, headers) => {
    const before = await countOurs()
    for (const [door, change] of changes) {
      const answer = await change({ ...browser.page, ...headers() })
      expect([door, answer.body.errors, answer.status < 300]).toEqual([door, undefined, true])
    }
    expect(await countOurs()).toBe(before + changes.length)
  })

  test('is refused without a token on every route that changes something, and by every mutation', async () => {
    const before = await owner.query('select count(*) from app_public.audit_logs')
    const routes = makeResources({ statuses: ['DRAFT'], actions: ['CREATE'], roles: ['USER'] })
      .flatMap(({ routes }) => routes)
      .filter(({ method, open }) => method !== 'GET' && !open)
    expect(routes.length).toBeGreaterThan(10)
    for (const { method, path } of routes) {
      const answer = await rest(method, path.replace(':id', person.id), {}, browser.cookie)
      expect([method, path, answer.status, codeOf(answer)]).toEqual([method, path, 403, 'FORBIDDEN'])
    }
    const { __schema } = await api.data('{ __schema { mutationType { fields { name } } } }', {}, 'user')
    const names: string[] = __schema.mutationType.fields.map(({ name }: { name: string }) => name)
    expect(names).toContain('login')
    for (const name of names) {
      const answer = await graphql(mutation(name, 'clientMutationId'), { input: {} }, browser.cookie)
      expect([name, answer.status, codeOf(answer)]).toEqual([name, 403, 'FORBIDDEN'])
    }
    expect((await owner.query('select count(*) from app_public.audit_logs')).rows).toEqual(before.rows)
  })

  test('a read needs no token, wherever it comes from; a bearer token needs none for anything', async () => {
    for (const origin of [{}, { origin: 'https://evil.example.com' }] as Headers[]) {
      expect(await whoIs({ ...browser.cookie, ...origin })).toEqual([person.id, person.id])
      for (const [door, change] of changes) {
        const answer = await change({ ...bearer(person.token), ...origin })
        expect([door, answer.body.errors, answer.status < 300]).toEqual([door, undefined, true])
      }
    }
  })

  test('a login by cookie takes an origin of ours too: nobody is logged in from elsewhere', async () => {
    for (const origin of ['https://evil.example.com', 'null', `${PAGE}.evil.com`]) {
      const answer = await logInByCookie(person, { origin })
      expect([origin, answer.status, codeOf(answer), answer.headers['set-cookie']]).toEqual([origin, 403, 'FORBIDDEN', undefined])
    }
    for (const origin of [PAGE, PUBLIC_URL, api.url]) expect((await logInByCookie(person, { origin })).status).toBe(200)
  })
})

describe('tokens', () => {
  test('POST /auth/token/ answers what the contract says, and a token that works', async () => {
    const person = await api.person('MANAGER')
    const answer = await rest('POST', '/auth/token/', { email: person.email.toUpperCase(), password: PASSWORD })
    expect([answer.status, answer.body]).toEqual([
      200,
      {
        access_token: expect.stringMatching(/^[\w-]+\.[\w-]+\.[\w-]+$/),
        refresh_token: expect.any(String),
        token_type: 'Bearer',
        expires_in: 900,
        user: expect.objectContaining({ id: person.id, role: 'MANAGER' }),
      },
    ])
    expect([answer.headers['cache-control'], answer.headers['set-cookie']]).toEqual(['no-store', undefined])
    expect(await whoIs(bearer(answer.body.access_token))).toEqual([person.id, person.id])
    const { iat, exp } = jwt.decode(answer.body.access_token) as { iat: number; exp: number }
    expect(exp - iat).toBe(900)
  })

  test('a login that fails is the same whatever is wrong, and says how to log in', async () => {
    const { email } = await api.person()
    const gone = await api.person()
    await owner.query('update app_public.users set is_deleted = true where id = $1', [gone.id])
    const wrong = [
      { email, password: 'wrong' },
      { email, password: '' },
      { email: 'nobody@assent.test', password: PASSWORD },
      { email: '', password: '' },
      { email: gone.email, password: PASSWORD },
    ]
    for (const path of ['/auth/token/', '/auth/session/', '/auth/token']) {
      const answers = await Promise.all(wrong.map((body) => rest('POST', path, body)))
      expect(new Set(answers.map(({ text }) => text)).size).toBe(1)
      for (const { status, body, headers } of answers) {
        expect([status, body.code, headers['www-authenticate']]).toEqual([401, 'UNAUTHENTICATED', 'Bearer'])
        expect([headers['content-type'], headers['set-cookie']]).toEqual(['application/problem+json; charset=utf-8', undefined])
      }
    }
  })

  test('a member that is left out or no text is VALIDATION_FAILED, and all of them are named', async () => {
    const { email } = await api.person()
    const cases: [string, unknown, ...string[]][] = [
      ...['/auth/token/', '/auth/session/'].flatMap((path): [string, unknown, ...string[]][] => [
        [path, undefined, 'email', 'password'],
        [path, { email: 5, password: '\0' }, 'email', 'password'],
        [path, { password: PASSWORD }, 'email'],
        [path, { email: [email], password: PASSWORD }, 'email'],
        [path, { email }, 'password'],
        [path, { email, password: null }, 'password'],
        [path, { email, password: { toString: 'x' } }, 'password'],
      ]),
      ...[undefined, {}, { refresh_token: null }, { refresh_token: 1 }, { refresh_token: ['x'] }].map(
        (body): [string, unknown, string] => ['/auth/refresh/', body, 'refresh_token'],
      ),
    ]
    for (const [path, body, ...fields] of cases) {
      const answer = await rest('POST', path, body)
      expect([path, body, answer.status, codeOf(answer), answer.body.errors]).toEqual([
        path,
        body,
        422,
        'VALIDATION_FAILED',
        Object.fromEntries(fields.map((field) => [field, [expect.stringMatching(/^\S.*\.$/)]])),
      ])
      expect(answer.body.errors[fields[0]!]).toEqual([answer.body.detail])
    }
  })

  test.each(['/auth/token/', '/auth/session/'])('the tenth failure throttles every door: %s', async (failing) => {
    const person = await api.person()
    const { email } = person
    const here = fromElsewhere()
    for (let i = 0; i < 10; i++) expect((await rest('POST', failing, { email, password: 'wrong' }, here)).status).toBe(401)
    for (const path of ['/auth/token/', '/auth/session/']) {
      const answer = await rest('POST', path, { email, password: PASSWORD }, here)
      expect([answer.status, codeOf(answer), answer.headers['retry-after']]).toEqual([
        429,
        'TOO_MANY_ATTEMPTS',
        expect.stringMatching(/^(8[4-9]\d|900)$/),
      ])
    }
    const login = mutation('login', 'accessToken')
    expect(codeOf(await graphql(login, { input: { email, password: PASSWORD } }, here))).toBe('TOO_MANY_ATTEMPTS')
    expect((await graphql(login, { input: { email, password: PASSWORD } })).body.errors).toBeUndefined()
  })

  test('a refresh gives new tokens of the same session, and the old access token stays good until it expires', async () => {
    const person = await api.person()
    const first = await logInByToken(person)
    const answer = await refresh(first.refresh_token)
    expect([answer.status, answer.headers['cache-control']]).toEqual([200, 'no-store'])
    expect(answer.body).toEqual({ ...first, access_token: expect.any(String), refresh_token: expect.any(String) })
    expect(answer.body.refresh_token).not.toBe(first.refresh_token)
    for (const token of [first.access_token, answer.body.access_token])
      expect(await whoIs(bearer(token))).toEqual([person.id, person.id])
    // One login, one session, however often it is refreshed; a bearer token beside it is not looked at.
    const again = await refresh(answer.body.refresh_token, bearer('expired'))
    expect(again.status).toBe(200)
    const sessions = await rest('GET', '/auth/sessions/', undefined, bearer(again.body.access_token))
    expect(sessions.body.results).toHaveLength(2)
    expect((await actionsAbout(person.id)).slice(1)).toEqual(['LOGIN'])
  })

  test('a refresh token of GraphQL’s login is as good', async () => {
    const { email, id } = await api.person()
    const { login } = (await graphql(mutation('login', 'refreshToken'), { input: { email, password: PASSWORD } })).body.data
    expect((await refresh(login.refreshToken)).body.user.id).toBe(id)
  })

  test('one used again after its 10 seconds ends its session: for the access tokens, and for the refresh token that came of it', async () => {
    const person = await api.person()
    const [first, other] = [await logInByToken(person), await logInByToken(person)]
    const second = (await refresh(first.refresh_token)).body
    await owner.query(
      `update app_private.refresh_tokens set good_until = now()
       where session_id in (select id from app_private.sessions where user_id = $1)`,
      [person.id],
    )
    const reused = await refresh(first.refresh_token)
    expect([reused.status, codeOf(reused)]).toEqual([401, 'UNAUTHENTICATED'])
    for (const token of [first.access_token, second.access_token]) expect(await whoIs(bearer(token))).toEqual(REFUSED)
    for (const token of [first.refresh_token, second.refresh_token]) expect((await refresh(token)).text).toBe(reused.text)
    expect(await whoIs(bearer(other.access_token))).toEqual([person.id, person.id])
    expect((await actionsAbout(person.id)).filter((action) => action === 'SESSION_REVOKE')).toHaveLength(1)
  })

  test('one used by two at once serves both, and each goes on with tokens of their own', async () => {
    const person = await api.person()
    const first = await logInByToken(person)
    const answers = await Promise.all([refresh(first.refresh_token), refresh(first.refresh_token)])
    expect(new Set(answers.map(({ body }) => body.refresh_token)).size).toBe(2)
    for (const { status, body } of answers) {
      expect(status).toBe(200)
      expect(await whoIs(bearer(body.access_token))).toEqual([person.id, person.id])
      expect((await refresh(body.refresh_token)).status).toBe(200)
    }
  })

  test('what is no refresh token is UNAUTHENTICATED, and ends nothing', async () => {
    const person = await api.person()
    const { access_token, refresh_token } = await logInByToken(person)
    const { sid } = jwt.decode(access_token) as { sid: string }
    const unknown = ['', 'x', '.', 'x.y', access_token, `x${refresh_token}`, refresh_token.split('.')[1], "' or 1=1 --"]
    for (const it of unknown) expect([it, codeOf(await refresh(it))]).toEqual([it, 'UNAUTHENTICATED'])
    expect(codeOf(await refresh(`${refresh_token}\0`))).toBe('VALIDATION_FAILED')
    expect(await whoIs(bearer(access_token))).toEqual([person.id, person.id])
    // It names its session rightly, and is not the one token that is good: somebody had it who should not.
    expect((await refresh(`${sid}.forged`)).status).toBe(401)
    expect(await whoIs(bearer(access_token))).toEqual(REFUSED)
  })

  test.each<[string, (person: NewPerson, token: string) => Promise<unknown>]>([
    ['a logout', (_, token) => rest('DELETE', '/auth/session/', undefined, bearer(token))],
    ['a logout by GraphQL', (_, token) => graphql(mutation('logout', 'clientMutationId'), { input: {} }, bearer(token))],
    [
      'a new password',
      (person) => rest('POST', '/auth/password/', { old_password: PASSWORD, new_password: GOOD }, bearer(person.token)),
    ],
    ['30 days', ({ id }) => owner.query('update app_private.sessions set expires_at = now() where user_id = $1', [id])],
    [
      '3 days unused',
      ({ id }) =>
        owner.query(`update app_private.sessions set last_used_at = now() - interval '3 days 1 minute' where user_id = $1`, [id]),
    ],
  ])('after %s neither the access token nor the refresh token is good', async (_, end) => {
    const person = await api.person()
    const { access_token, refresh_token } = await logInByToken(person)
    await end(person, access_token)
    expect(await whoIs(bearer(access_token))).toEqual(REFUSED)
    expect((await refresh(refresh_token)).status).toBe(401)
  })
})

test('what a dead session asks does not disturb who gets its connection next', async () => {
  const db = makeDatabase(makeOpenPool(api.db.urls.auth, pino({ level: 'silent' }))(1), makeSessions())
  const { id } = await api.person()
  const sessions = `select (app_private.open_session($1, false, n::text)).session_secret as session from generate_series(1, 2) n`
  const { rows } = await owner.query<{ session: string }>(sessions, [id])
  const [dead, alive] = rows.map(({ session }) => ({ session, ip: '', userAgent: null, byCookie: false }))
  const ask = (caller: Identity, name: string) => asCaller(db, caller, 'read', { name, text: 'select 1' })
  for (const caller of [dead!, alive!]) await ask(caller, 'first')
  await owner.query('update app_private.sessions set revoked_at = now() where secret_hash = app_private.hash_secret($1)', [
    dead!.session,
  ])
  for (let i = 0; i < 200; i++) {
    const answers = await Promise.allSettled([ask(dead!, `statement ${i}`), ask(alive!, `statement ${i}`)])
    expect(answers).toMatchObject([{ reason: { code: 'RQ401' } }, { value: { rowCount: 1 } }])
  }
  await db.pool.end()
})

describe('one’s own sessions', () => {
  const list = async (headers: Headers) => (await rest('GET', '/auth/sessions/', undefined, headers)).body
  const end = (id: string, headers: Headers) => rest('DELETE', `/auth/sessions/${id}/`, undefined, headers)

  test('are listed, newest first and without secrets: where and when they began, and which one asks', async () => {
    const person = await api.person()
    await logInByToken(await api.person())
    const from = { 'x-forwarded-for': '203.0.113.7', 'user-agent': 'Mozilla/5.0 (somebody’s)'.replace('’', "'") }
    const cookie = { cookie: cookieOf(await logInByCookie(person, from)) }
    const ended = await logInByToken(person)
    await rest('DELETE', '/auth/session/', undefined, bearer(ended.access_token))
    const { results, ...page } = await list(cookie)
    expect(page).toEqual({ next: null, previous: null })
    const time = expect.stringMatching(/^\d{4}-\d\d-\d\dT/)
    const session = { id: expect.stringMatching(/^[\da-f-]{36}$/), created_at: time, last_used_at: time, expires_at: time }
    expect(results).toEqual([
      { ...session, ip_address: '203.0.113.7', user_agent: from['user-agent'], is_current: true },
      { ...session, ip_address: null, user_agent: null, is_current: false },
    ])
    const days = (Date.parse(results[0].expires_at) - Date.parse(results[0].created_at)) / 86_400_000
    expect(days).toBe(30)
    expect((await list(bearer(person.token))).results.map((it: { is_current: boolean }) => it.is_current)).toEqual([false, true])
  })

  test('end one by one, at once', async () => {
    const person = await api.person()
    const { access_token } = await logInByToken(person)
    const [other, own] = (await list(bearer(person.token))).results
    expect([other.is_current, own.is_current]).toEqual([false, true])
    const ended = await end(other.id, bearer(person.token))
    expect([ended.status, ended.text]).toEqual([204, ''])
    expect(await whoIs(bearer(access_token))).toEqual(REFUSED)
    expect((await list(bearer(person.token))).results).toEqual([own])
    expect((await end(own.id, bearer(person.token))).status).toBe(204)
    expect(await whoIs(bearer(person.token))).toEqual(REFUSED)
    expect((await actionsAbout(person.id)).filter((action) => action === 'SESSION_REVOKE')).toHaveLength(2)
  })

  test('another’s is as one that never was, and so is one that has ended', async () => {
    const [person, other] = [await api.person(), await api.person('ADMIN')]
    const gone = await logInByToken(person)
    const [goneId] = (await list(bearer(gone.access_token))).results.map(({ id }: { id: string }) => id)
    await rest('DELETE', '/auth/session/', undefined, bearer(gone.access_token))
    const [own] = (await list(bearer(person.token))).results
    const never = await end(NOBODY, bearer(other.token))
    expect([never.status, codeOf(never)]).toEqual([404, 'NOT_FOUND'])
    for (const [id, headers] of [
      [own.id, bearer(other.token)],
      [goneId, bearer(person.token)],
      [NOBODY.toUpperCase(), bearer(person.token)],
    ] as const) {
      expect((await end(id, headers)).text).toBe(never.text)
    }
    for (const id of ['x', `${own.id}x`, "';--"])
      expect((await end(encodeURIComponent(id), bearer(person.token))).status).toBe(404)
    expect(await whoIs(bearer(person.token))).toEqual([person.id, person.id])
    expect((await end(own.id, {})).status).toBe(401)
  })

  test('all others end together, and nobody else’s', async () => {
    const [person, other] = [await api.person(), await api.person()]
    const [first, second] = [await logInByToken(person), await openBrowser(person)]
    const ended = await rest('DELETE', '/auth/sessions/', undefined, second.page)
    expect([ended.status, ended.text]).toEqual([204, ''])
    expect(await whoIs(second.cookie)).toEqual([person.id, person.id])
    for (const token of [first.access_token, person.token]) expect(await whoIs(bearer(token))).toEqual(REFUSED)
    expect((await refresh(first.refresh_token)).status).toBe(401)
    expect(await whoIs(bearer(other.token))).toEqual([other.id, other.id])
    expect((await rest('DELETE', '/auth/sessions/', undefined, second.page)).status).toBe(204)
    expect((await actionsAbout(person.id)).filter((action) => action === 'SESSION_REVOKE')).toHaveLength(1)
  })
})

describe('POST /auth/password/', () => {
  const change = (body: unknown, headers: Headers) => rest('POST', '/auth/password/', body, headers)

  test('changes it, by token or by cookie, and ends the other sessions', async () => {
    const person = await api.person()
    const { cookie, page } = await openBrowser(person)
    const changed = await change({ old_password: PASSWORD, new_password: GOOD }, page)
    expect([changed.status, changed.text]).toEqual([204, ''])
    expect(await whoIs(cookie)).toEqual([person.id, person.id])
    expect(await whoIs(bearer(person.token))).toEqual(REFUSED)
    expect((await rest('POST', '/auth/token/', { email: person.email, password: PASSWORD })).status).toBe(401)
    const { access_token } = await logInByToken(person, GOOD)
    expect((await change({ old_password: GOOD, new_password: 'another long passphrase' }, bearer(access_token))).status).toBe(204)
    expect(await whoIs(cookie)).toEqual(NOBODY_IS)
    expect((await actionsAbout(person.id)).filter((action) => action === 'PASSWORD_CHANGE')).toHaveLength(2)
  })

  test('names the field at fault, and changes nothing', async () => {
    const { email, token } = await api.person()
    for (const [body, field, other] of [
      [{ old_password: 'wrong', new_password: GOOD }, 'old_password'],
      [{ new_password: GOOD }, 'old_password'],
      [{ old_password: PASSWORD, new_password: 'passwordpassword' }, 'new_password'],
      [{ old_password: PASSWORD, new_password: '😀'.repeat(11) }, 'new_password'],
      [{ old_password: PASSWORD, new_password: 123456789012345 }, 'new_password'],
      [{ old_password: PASSWORD, new_password: null }, 'new_password'],
      [{ old_password: PASSWORD }, 'new_password'],
      [undefined, 'new_password', 'old_password'],
      [{ old_password: 5, new_password: 'short' }, 'new_password', 'old_password'],
    ] as const) {
      const answer = await change(body, bearer(token))
      expect([body, answer.status, answer.body]).toEqual([
        body,
        422,
        {
          type: 'about:blank',
          title: 'Unprocessable Entity',
          status: 422,
          detail: expect.any(String),
          code: 'VALIDATION_FAILED',
          errors: { [field]: [answer.body.detail], ...(other && { [other]: [expect.any(String)] }) },
        },
      ])
    }
    expect((await rest('POST', '/auth/token/', { email, password: PASSWORD })).status).toBe(200)
  })

  test('takes ten wrong old passwords, and then none, for 15 minutes', async () => {
    const person = await api.person()
    const { token } = person
    const wrong = { old_password: 'wrong', new_password: GOOD }
    for (let i = 0; i < 10; i++) expect((await change(wrong, bearer(token))).status).toBe(422)
    expect((await actionsAbout(person.id)).filter((action) => action === 'LOGIN_FAILED')).toHaveLength(10)
    const answer = await change({ ...wrong, old_password: PASSWORD }, bearer(token))
    expect([answer.status, codeOf(answer), answer.headers['retry-after']]).toEqual([
      429,
      'TOO_MANY_ATTEMPTS',
      expect.stringMatching(/^(8[4-9]\d|900)$/),
    ])
  })
})

describe('a refusal', () => {
  type Line = Record<string, unknown>
  const refusals = (ip: string): Line[] =>
    api
      .log()
      .split('\n')
      .filter((line) => line.includes('"refused"'))
      .map((line) => JSON.parse(line) as Line)
      .filter((line) => line['ip'] === ip)

  test('is one line of the log that says who was refused what, and holds no secret', async () => {
    const person = await api.person()
    const { cookie } = await openBrowser(person)
    const tokens = await logInByToken(person)
    const from = { 'x-forwarded-for': '198.51.100.41' }
    const as = { ...from, ...bearer(tokens.access_token) }
    const { rows } = await owner.query(
      `select left(encode(secret_hash, 'hex'), 16) as hash from app_private.sessions where user_id = $1 order by created_at desc limit 1`,
      [person.id],
    )
    await rest('POST', '/users/', { email: 'x@assent.test', name: 'x' }, as)
    await rest('POST', '/auth/password/', { old_password: 'wrong', new_password: GOOD }, as)
    await graphql('{ requests { totalCount } }', {}, from)
    await graphql(mutation('updateUser', 'user { id }'), { input: { userId: person.id, name: 'x' } }, as)
    await rest('POST', '/requests/', { title: 'x' }, { ...from, ...cookie })
    await rest('GET', '/users/me/', undefined, { ...from, ...bearer('x.y.z') })
    await refresh(tokens.refresh_token)
    await refresh(`${tokens.refresh_token.split('.')[0]}.made-up`, from)
    const lines = refusals('198.51.100.41').map(({ code, method, route, userId, session }) => [
      code,
      method,
      route,
      userId,
      session,
    ])
    const known = [person.id, rows[0].hash]
    expect(lines).toEqual([
      ['FORBIDDEN', 'POST', '/api/v1/users/', ...known],
      ['VALIDATION_FAILED', 'POST', '/api/v1/auth/password/', ...known],
      ['UNAUTHENTICATED', 'POST', '/graphql', undefined, ''],
      ['FORBIDDEN', 'POST', '/graphql', ...known],
      ['FORBIDDEN', 'POST', '/api/v1/requests/', person.id, expect.stringMatching(/^[0-9a-f]{16}$/)],
      ['UNAUTHENTICATED', 'GET', '/api/v1/users/me/', undefined, ''],
      ['UNAUTHENTICATED', 'POST', '/api/v1/auth/refresh/', undefined, ''],
    ])
    for (const line of refusals('198.51.100.41')) expect(line['level']).toBe(40)
  })

  test('by a flood of them leaves a line a second, and says how many left none', async () => {
    const from = { 'x-forwarded-for': '198.51.100.42' }
    for (let i = 0; i < 9; i++) await Promise.all(Array.from({ length: 10 }, () => rest('GET', '/users/me/', undefined, from)))
    expect(refusals('198.51.100.42').length).toBeGreaterThanOrEqual(60)
    expect(refusals('198.51.100.42').length).toBeLessThan(75)
  })
})

describe('a forged token', () => {
  const base64 = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const inAnHour = Math.floor(Date.now() / 1000) + 3600
  const claims = () => ({
    iss: 'assent',
    aud: 'assent',
    sub: api.db.people.user.id,
    sid: api.db.people.user.session,
    jti: randomUUID(),
    exp: inAnHour,
  })
  /** A token by hand, which no library would make. */
  const made = (header: object, payload: unknown, key = JWT_SECRET, hash = 'sha256') => {
    const input = `${base64({ typ: 'JWT', ...header })}.${base64(payload)}`
    return `${input}.${createHmac(hash, key).update(input).digest('base64url')}`
  }
  const hs256 = (payload: unknown, key?: string) => made({ alg: 'HS256' }, payload, key)
  const unsigned = (alg: string) => `${base64({ alg, typ: 'JWT' })}.${base64(claims())}.`
  const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  const pem = publicKey.export({ type: 'spki', format: 'pem' }).toString()

  test('nothing is wrong with one that is made by hand as ours are', async () => {
    expect(await whoIs(bearer(hs256(claims())))).toEqual([api.db.people.user.id, api.db.people.user.id])
  })

  const without = (name: string) => Object.fromEntries(Object.entries(claims()).filter(([key]) => key !== name))
  test.each<[string, () => string]>([
    ['alg none', () => unsigned('none')],
    ['alg None', () => unsigned('None')],
    ['alg none with a signature', () => made({ alg: 'none' }, claims())],
    ['alg HS512', () => made({ alg: 'HS512' }, claims(), JWT_SECRET, 'sha512')],
    ['alg HS384', () => made({ alg: 'HS384' }, claims(), JWT_SECRET, 'sha384')],
    ['alg HS512 with a signature of HS256', () => made({ alg: 'HS512' }, claims())],
    ['alg hs256', () => made({ alg: 'hs256' }, claims())],
    ['no alg', () => made({}, claims())],
    ['alg RS256, by a key of its own', () => jwt.sign(claims(), privateKey, { algorithm: 'RS256' })],
    ['alg RS256 with a signature of HS256', () => made({ alg: 'RS256' }, claims())],
    ['a public key as the secret', () => hs256(claims(), pem)],
    [
      'its key in the header',
      () =>
        jwt.sign(claims(), privateKey, {
          algorithm: 'RS256',
          header: { alg: 'RS256', jwk: publicKey.export({ format: 'jwk' }) } as never,
        }),
    ],
    ['another key', () => hs256(claims(), 'another key of at least 32 characters')],
    ['an empty key', () => hs256(claims(), '')],
    ['a part of the key', () => hs256(claims(), JWT_SECRET.slice(0, -1))],
    ['kid: a path to an empty file', () => made({ alg: 'HS256', kid: '../../../../../dev/null' }, claims(), '')],
    ['kid: SQL that answers a key', () => made({ alg: 'HS256', kid: "x' union select 'k' --" }, claims(), 'k')],
    ['kid: a URL', () => made({ alg: 'HS256', kid: 'http://127.0.0.1:1/', jku: 'http://127.0.0.1:1/' }, claims(), 'k')],
    ['another audience', () => hs256({ ...claims(), aud: 'else' })],
    ['no audience', () => hs256(without('aud'))],
    ['another issuer', () => hs256({ ...claims(), iss: 'else' })],
    ['no issuer', () => hs256(without('iss'))],
    ['expired', () => hs256({ ...claims(), exp: Math.floor(Date.now() / 1000) - 1 })],
    ['expired in milliseconds of 1970', () => hs256({ ...claims(), exp: -1 })],
    ['an end that is text', () => hs256({ ...claims(), exp: '9999999999' })],
    ['no end', () => hs256(without('exp'))],
    ['not yet valid', () => hs256({ ...claims(), nbf: inAnHour })],
    ['no session', () => hs256(without('sid'))],
    ['a session that is no text', () => hs256({ ...claims(), sid: 1 })],
    ['a list of sessions', () => hs256({ ...claims(), sid: [api.db.people.user.session] })],
    ['an empty session', () => hs256({ ...claims(), sid: '' })],
    ['an unknown session', () => hs256({ ...claims(), sid: 'x'.repeat(43) })],
    ['a session with NUL', () => hs256({ ...claims(), sid: `${api.db.people.user.session}\0` })],
    ['the id of a person as session', () => hs256({ ...claims(), sid: api.db.people.user.id })],
    ['no subject', () => hs256(without('sub'))],
    ['an empty subject', () => hs256({ ...claims(), sub: '' })],
    ['a payload that is a list', () => hs256([claims()])],
    ['a payload that is text', () => hs256('x')],
    ['a payload that is null', () => hs256(null)],
    [
      'another’s session put in',
      () => {
        const [header, , signature] = hs256(claims()).split('.')
        return [header, base64({ ...claims(), sid: api.db.people.admin.session }), signature].join('.')
      },
    ],
    [
      'a changed signature',
      () => hs256(claims()).replace(/\.(.)([^.]*)$/, (_, first, rest) => `.${first === 'A' ? 'B' : 'A'}${rest}`),
    ],
    ['no signature', () => hs256(claims()).replace(/[^.]*$/, '')],
    ['two parts', () => hs256(claims()).split('.').slice(0, 2).join('.')],
    ['four parts', () => `${hs256(claims())}.x`],
    ['a dead session', () => deadToken()],
  ])('is refused by both doors: %s', async (_, forge) => {
    expect(await whoIs(bearer(forge()))).toEqual(REFUSED)
  })

  test('a token is read from the header alone', async () => {
    const token = api.token('user')
    for (const path of [`/users/me/?access_token=${token}`, `/users/me/?authorization=Bearer%20${token}`]) {
      expect((await rest('GET', path)).status).toBe(401)
    }
    expect(await whoIs({ cookie: `access_token=${token}; authorization=Bearer ${token}` })).toEqual(NOBODY_IS)
  })

  test('one that was good, and is remembered, expires all the same', async () => {
    const { token } = await api.person()
    const { now } = Date
    try {
      for (const [seconds, expected] of [
        [0, 200],
        [890, 200],
        [901, 401],
      ] as const) {
        Date.now = () => now() + seconds * 1000
        expect([seconds, (await rest('GET', '/users/me/', undefined, bearer(token))).status]).toEqual([seconds, expected])
      }
    } finally {
      Date.now = now
    }
  })
})

test('JWT_SECRET: the first key signs, all verify, a removed one does not; cookies and refresh tokens outlive them', async () => {
  const person = await api.person()
  const { cookie } = await openBrowser(person)
  const old = await logInByToken(person)
  const refreshed = await rotated.rest('POST', '/auth/refresh/', { refresh_token: old.refresh_token })
  const fresh = bearer(refreshed.body.access_token)
  const only = await startApi({ JWT_SECRET: NEWER_SECRET }, api.db)
  try {
    const mine = [person.id, person.id]
    expect(await whoIs(bearer(old.access_token), rotated)).toEqual(mine)
    expect(await whoIs(bearer(old.access_token), only)).toEqual(REFUSED)
    for (const on of [rotated, only]) expect([await whoIs(fresh, on), await whoIs(cookie, on)]).toEqual([mine, mine])
    expect(await whoIs(fresh)).toEqual(REFUSED)
  } finally {
    await only.close()
  }
})

describe('pages of other origins', () => {
  const CORS = /^access-control-/
  const corsOf = ({ headers }: Answer) => Object.fromEntries(Object.entries(headers).filter(([name]) => CORS.test(name)))
  const preflight = (origin: string, path: string) =>
    api.send({
      method: 'OPTIONS',
      path,
      headers: { origin, 'access-control-request-method': 'POST', 'access-control-request-headers': 'content-type,x-csrf-token' },
    })
  const words = (header: unknown) => String(header).toLowerCase().split(/ *, */).sort()

  test('may read answers and send the cookie, if they are allowed; refusals too', async () => {
    const { cookie } = await openBrowser(await api.person())
    for (const answer of [
      await rest('GET', '/users/me/', undefined, { ...cookie, origin: PAGE }),
      await rest('GET', '/users/me/', undefined, { origin: PAGE }),
      await rest('GET', '/nowhere/', undefined, { origin: PAGE }),
      await graphql('{ currentUser { id } }', {}, { ...cookie, origin: PAGE }),
      await graphql('{', {}, { origin: PAGE }),
      await api.send({ method: 'GET', path: '/nowhere', headers: { origin: PAGE } }),
    ]) {
      const { 'access-control-expose-headers': exposed, ...rest } = corsOf(answer)
      expect(rest).toEqual({ 'access-control-allow-origin': PAGE, 'access-control-allow-credentials': 'true' })
      expect(words(exposed)).toEqual(expect.arrayContaining(['etag', 'location', 'retry-after']))
      expect(words(answer.headers.vary)).toContain('origin')
    }
    expect(words((await graphql('{', {}, { origin: PAGE })).headers.vary)).toEqual(['accept', 'origin'])
  })

  test('may ask beforehand for every method and header of the API', async () => {
    for (const path of ['/api/v1/requests/', '/api/v1/auth/session/', '/graphql']) {
      const answer = await preflight(PAGE, path)
      expect([answer.status, answer.text]).toEqual([204, ''])
      expect(answer.headers['access-control-allow-origin']).toBe(PAGE)
      expect(answer.headers['access-control-allow-credentials']).toBe('true')
      expect(words(answer.headers['access-control-allow-methods'])).toEqual(
        expect.arrayContaining(['delete', 'get', 'patch', 'post']),
      )
      expect(words(answer.headers['access-control-allow-headers'])).toEqual(
        expect.arrayContaining(['authorization', 'content-type', 'idempotency-key', 'if-match', 'if-none-match', 'x-csrf-token']),
      )
    }
  })

  test('get nothing that lets them read an answer, if they are not', async () => {
    for (const origin of ['https://evil.example.com', 'null', `${PAGE}.evil.com`, 'http://app.example.com', '*']) {
      for (const answer of [
        await rest('GET', '/users/me/', undefined, { ...bearer(api.token('user')), origin }),
        await graphql('{ currentUser { id } }', {}, { origin }),
        await preflight(origin, '/api/v1/requests/'),
        await preflight(origin, '/graphql'),
      ]) {
        expect([origin, answer.headers['access-control-allow-origin']]).toEqual([origin, undefined])
      }
    }
    expect(corsOf(await rest('GET', '/users/me/', undefined, bearer(api.token('user'))))).toEqual({})
    // Where none is allowed, none is.
    const { headers } = await graphql('{ currentUser { id } }', {}, { origin: PAGE }, direct)
    expect(headers['access-control-allow-origin']).toBeUndefined()
  })
})

describe('every answer', () => {
  const GET = (path: string, headers: Headers = {}): Call => ({ method: 'GET', path, headers })
  const JSON_TYPE = { 'content-type': 'application/json' }
  const kinds: [string, number, () => Call][] = [
    ['a document', 200, () => GET('/api/v1/users/me/', bearer(api.token('user')))],
    ['a list', 200, () => GET('/api/v1/requests/', bearer(api.token('user')))],
    ['a refusal', 401, () => GET('/api/v1/users/me/')],
    ['no such thing', 404, () => GET(`/api/v1/requests/${NOBODY}/`, bearer(api.token('user')))],
    ['no such route', 404, () => GET('/api/v1/nowhere/')],
    ['no such path', 404, () => GET('/nowhere')],
    ['a path that is none', 404, () => GET('/%ff')],
    ['another method', 405, () => ({ method: 'PUT', path: '/api/v1/requests/' })],
    ['nothing', 204, () => ({ method: 'DELETE', path: '/api/v1/auth/sessions/', headers: bearer(api.token('manager2')) })],
    ['GraphQL', 200, () => ({ headers: JSON_TYPE, body: '{"query":"{ __typename }"}' })],
    ['a bad GraphQL call', 400, () => ({ headers: JSON_TYPE, body: '{' })],
    ['too much', 413, () => ({ headers: JSON_TYPE, body: 'x'.repeat(1_100_000) })],
    ['another type', 415, () => ({ headers: { 'content-type': 'text/plain' }, body: '{}' })],
    ['a preflight', 204, () => ({ method: 'OPTIONS', headers: { origin: PAGE, 'access-control-request-method': 'POST' } })],
    ['health', 200, () => GET('/healthz')],
    ['readiness', 200, () => GET('/readyz')],
    ['the OpenAPI document', 200, () => GET('/api/v1/openapi.json')],
    ['the documentation', 200, () => GET('/api/v1/docs/')],
    ['its script', 200, () => GET('/api/v1/docs/swagger-ui-bundle.js')],
    ['GraphiQL', 200, () => GET('/graphiql')],
  ]
  test.each(kinds)('has the headers that browsers need to be careful: %s', async (_, status, call) => {
    const { headers, status: answered } = await api.send(call())
    expect(answered).toBe(status)
    expect(headers).toMatchObject({
      'x-content-type-options': 'nosniff',
      'x-frame-options': 'SAMEORIGIN',
      'referrer-policy': 'no-referrer',
      'cross-origin-opener-policy': 'same-origin',
      'cross-origin-resource-policy': 'same-origin',
      'strict-transport-security': expect.stringMatching(/^max-age=\d{8}/),
    })
    for (const directive of ['base-uri', 'form-action', 'frame-ancestors', 'object-src']) {
      expect(headers['content-security-policy']).toContain(`${directive} 'none'`)
    }
    expect(headers['content-security-policy']).toMatch(/^default-src '(none|self)'/)
    expect(headers['x-powered-by']).toBeUndefined()
  })

  test('the documentation runs no script but its own', async () => {
    const { headers } = await api.send(GET('/api/v1/docs/'))
    expect(headers['content-security-policy']).toMatch(/script-src 'self'(;|$)/)
  })
})

describe('the allowance of a caller', () => {
  const me = (headers: Headers, on = api) => rest('GET', '/users/me/', undefined, headers, on)
  const all = (count: number, call: (i: number) => Promise<Answer>) =>
    Promise.all(Array.from({ length: count }, (_, i) => call(i)))
  /** Calls until it is refused; the allowance grows meanwhile, but slower than calls are answered. */
  async function exhaust(call: (i: number) => Promise<Answer>): Promise<Answer> {
    for (let i = 0; i < 100; i++) {
      const answer = (await all(20, (j) => call(20 * i + j))).find(({ status }) => status === 429)
      if (answer) return answer
    }
    throw new Error('There is no end to it.')
  }
  const tokenFor = (subject: string) =>
    jwt.sign({ sid: api.db.people.user.session }, JWT_SECRET, { issuer: 'assent', audience: 'assent', subject, expiresIn: 60 })

  test('for probes and pages is one of their own, for each network', async () => {
    const headers = fromElsewhere()
    const probe = (path: string, from = headers) => api.send({ method: 'GET', path, headers: from })
    const paths = ['/healthz', '/readyz', '/api/v1/openapi.json', '/graphql', '/nowhere']
    let n = 0
    const answer = await exhaust(() => probe(paths[n++ % paths.length]!))
    expect([answer.body.code, Number(answer.headers['retry-after']) > 0]).toEqual(['RATE_LIMITED', true])
    expect(n).toBeGreaterThan(300)
    expect((await probe('/healthz', fromElsewhere())).status).toBe(200)
    // Neither takes from the other.
    expect((await graphql('{ __typename }', {}, headers)).status).toBe(200)
    const elsewhere = fromElsewhere()
    await exhaust(() => graphql('{ __typename }', {}, elsewhere))
    expect((await probe('/healthz', elsewhere)).status).toBe(200)
  })

  test('is 300 at once; then RATE_LIMITED by both doors, with the time to wait, whatever it calls from', async () => {
    const subject = randomUUID()
    for (const { status } of await all(300, () => me(bearer(tokenFor(subject))))) expect(status).toBe(200)
    const answer = await exhaust(() => me(bearer(tokenFor(subject))))
    const retryAfter = Number(answer.headers['retry-after'])
    expect(retryAfter).toBeGreaterThan(0)
    expect([answer.body.code, answer.body.status, answer.headers['content-type']]).toEqual([
      'RATE_LIMITED',
      429,
      'application/problem+json; charset=utf-8',
    ])
    const byGraphQL = await exhaust(() => graphql('{ __typename }', {}, bearer(tokenFor(subject))))
    expect(byGraphQL.body.errors[0].extensions).toEqual({
      code: 'RATE_LIMITED',
      retryAfter: Number(byGraphQL.headers['retry-after']),
    })
    expect(byGraphQL.body.data).toBeUndefined()

    // Everybody else goes on, and so does what needs no caller.
    expect((await me(bearer(tokenFor(randomUUID())))).status).toBe(200)
    for (const path of ['/healthz', '/readyz']) {
      expect((await api.send({ method: 'GET', path, headers: bearer(tokenFor(subject)) })).status).toBe(200)
    }
    await sleep(retryAfter * 1000)
    expect((await me(bearer(tokenFor(subject)))).status).toBe(200)
  })

  test('without credentials is the address’s: bad tokens and made-up cookies count there too', async () => {
    const elsewhere = { 'x-forwarded-for': '198.51.100.77' }
    const { cookie } = await openBrowser(await api.person())
    await me(cookie)
    const kinds = [
      () => ({}),
      () => ({ authorization: 'Bearer x' }),
      () => bearer(jwt.sign({}, 'x'.repeat(32))),
      () => ({ cookie: `assent_session=${randomUUID()}` }),
    ]
    const answer = await exhaust((i) => me({ ...elsewhere, ...kinds[i % kinds.length]!() }))
    expect(answer.body.code).toBe('RATE_LIMITED')
    for (const kind of kinds) await exhaust(() => me({ ...elsewhere, ...kind() }))
    const login = await exhaust(() => rest('POST', '/auth/refresh/', {}, elsewhere))
    expect(login.body.code).toBe('RATE_LIMITED')
    // From there, who is known goes on; and from elsewhere, everybody.
    expect((await me({ ...elsewhere, ...cookie })).status).toBe(200)
    expect((await me({ ...elsewhere, ...bearer(api.token('user')) })).status).toBe(200)
    expect((await me({ 'x-forwarded-for': '198.51.100.78' })).status).toBe(401)
  })

  test('by cookie is the person’s, wherever they are, and their tokens share it', async () => {
    const [person, other] = [await api.person(), await api.person()]
    const { access_token } = await logInByToken(person)
    const [browser, others] = [await openBrowser(person), await openBrowser(other)]
    for (const { cookie } of [browser, others]) expect((await me(cookie)).status).toBe(200)
    const answer = await exhaust(() => me(browser.cookie))
    expect(answer.body.code).toBe('RATE_LIMITED')
    const byToken = await all(20, () => me(bearer(access_token)))
    expect(byToken.map(({ status }) => status)).toContain(429)
    expect((await me(others.cookie)).status).toBe(200)
  })

  test('pays for a long body as for several requests, whether its length is declared or not', async () => {
    const body = JSON.stringify({ query: `{ __typename } # ${'x'.repeat(900_000)}` })
    for (const declared of [{ 'content-length': body.length }, { 'transfer-encoding': 'chunked' }]) {
      const headers = { 'content-type': 'application/json', ...declared, ...fromElsewhere() }
      const answers = await all(20, () => api.send({ headers, body }))
      const codes = answers.map(({ status, body }) => (status === 200 ? 'fine' : body.errors[0].extensions.code))
      expect(new Set(codes)).toEqual(new Set(['fine', 'RATE_LIMITED']))
    }
  })

  test('comes with turns: between two of its requests, those of others are looked at', async () => {
    const spend = makeSpend(makeAddressOf(0), () => undefined)
    const order: string[] = []
    const call = async (ip: string) => {
      const req = { headers: {} } as IncomingMessage
      await spend(req, () => ({ ip, session: '', userId: null, userAgent: null, byCookie: false }))
      order.push(ip)
    }
    await Promise.all([...Array.from({ length: 5 }, () => '192.0.2.1'), '192.0.2.2'].map(call))
    expect(order.indexOf('192.0.2.2')).toBe(1)
    expect(order.length).toBe(6)
  })

  test('of IPv6 is a /64’s', async () => {
    await exhaust((i) => me({ 'x-forwarded-for': `2001:db8:0:1::${i.toString(16)}` }))
    expect((await me({ 'x-forwarded-for': '2001:db8:0:2::1' })).status).toBe(401)
  })
})

test('bodies that do not arrive are limited for each network, whoever sends them', async () => {
  const people = await Promise.all([api.person(), api.person()])
  const { port } = new URL(api.url)
  const begin = (from: string, { token }: NewPerson) => {
    const socket = connect(Number(port), '127.0.0.1')
    socket.write(
      `POST /api/v1/requests/ HTTP/1.1\r\nhost: x\r\nx-forwarded-for: ${from}\r\nauthorization: Bearer ${token}\r\n` +
        'content-type: application/json\r\ncontent-length: 100\r\n\r\n{',
    )
    return socket
  }
  const slow = Array.from({ length: 300 }, (_, i) => begin('198.51.100.150', people[i % 2]!))
  const answered = async (from: string) => {
    const socket = begin(from, people[0]!)
    const answer = await Promise.race([once(socket, 'data').then(([data]) => String(data)), sleep(1_000).then(() => 'none')])
    socket.destroy()
    return /^HTTP\/1.1 (\d+)/.exec(answer)?.[1] ?? answer
  }
  await until(async () => (await answered('198.51.100.150')) === '429', 10_000)
  expect(await answered('198.51.100.151')).toBe('none') // It waits for the rest.
  for (const socket of slow) socket.destroy()
  await until(async () => (await answered('198.51.100.150')) === 'none', 10_000)
}, 30_000)

describe('X-Forwarded-For', () => {
  const ipOf = async (headers: Headers, on: Api) => {
    const person = await api.person()
    const { body } = await on.rest('POST', '/auth/token/', { email: person.email, password: PASSWORD }, undefined, headers)
    const who: Who = { token: body.access_token }
    const id = (await on.rest('POST', '/requests/', { title: 'x' }, who, headers)).body.id
    const { rows } = await owner.query<{ ip: string }>(
      `select distinct host(ip_address) as ip from app_public.audit_logs where request_id = $1 or (actor_id = $2 and action = 'LOGIN')`,
      [id, person.id],
    )
    return rows.map(({ ip }) => ip)
  }

  test('is not believed without a proxy to trust; of one, the last hop counts', async () => {
    for (const forged of ['203.0.113.9', '203.0.113.9, 198.51.100.1']) {
      const headers = { 'x-forwarded-for': forged, 'x-real-ip': '203.0.113.9', forwarded: 'for=203.0.113.9' }
      expect(await ipOf(headers, direct)).toEqual(['127.0.0.1'])
    }
    expect(await ipOf({ 'x-forwarded-for': '203.0.113.9, 198.51.100.1' }, api)).toEqual(['198.51.100.1'])
  })

  test.each<readonly [written: string, expected: string]>([
    ['203.0.113.5', '203.0.113.5'],
    ['"203.0.113.5"', '203.0.113.5'],
    ['"203.0.113.5:80"', '203.0.113.5'],
    ['203.0.113.7:', '203.0.113.7'],
    ['203.0.113.7:65535', '203.0.113.7'],
    ['::ffff:203.0.113.7', '203.0.113.7'],
    ['2001:db8::1', '2001:db8::1'],
    ['"[2001:db8::1]:443"', '2001:db8::1'],
    ['[2001:DB8:0::1]:', '2001:db8::1'],
    ['fe80::1%eth0', 'fe80::1'],
    ['[fe80::1%25eth0]', 'fe80::1'],
    ['198.51.100.1, ', '198.51.100.1'],
    // What is no address is the proxy that has sent it, and never what the caller has written before.
    ...['unknown', '_hidden', '"', '""', '"203.0.113.5', '203.0.113.256', '203.0.113.5:x', '[::1', '[]', ':::', '%', '010.1.1.1']
      .flatMap((unreadable) => [unreadable, `203.0.113.9, ${unreadable}`])
      .map((unreadable) => [unreadable, '127.0.0.1'] as const),
  ])('of a trusted proxy is read in every form that has an address: %s', (written, expected) => {
    const req = { headers: { 'x-forwarded-for': written }, socket: { remoteAddress: '::ffff:127.0.0.1' } }
    expect(makeAddressOf(1)(req as unknown as IncomingMessage)).toBe(expected)
  })

  test('that cannot be read takes nobody’s address away', async () => {
    expect(await ipOf({ 'x-forwarded-for': '203.0.113.9, "unknown"' }, api)).toEqual(['127.0.0.1'])
  })
})

describe('/metrics', () => {
  /** The value of a series, 0 if there is none yet. */
  const read = async () => {
    const { text, headers, status } = await direct.metrics()
    expect([status, headers['content-type']]).toEqual([200, expect.stringMatching(/^text\/plain/)])
    const series = new Map(
      text.split('\n').flatMap((line) => (/^[a-z]/.test(line) ? [line.split(/ (?=[^ ]*$)/) as [string, string]] : [])),
    )
    return { text, value: (name: string) => Number(series.get(name) ?? 0) }
  }

  test('is served on a port of its own alone, and only where one is set', async () => {
    expect((await direct.send({ method: 'GET', path: '/metrics' })).status).toBe(404)
    for (const [path, method, status] of [
      ['/metrics?x=1', 'GET', 200],
      ['/metrics', 'HEAD', 200],
      ['/metrics', 'POST', 405],
      ['/', 'GET', 404],
      ['/healthz', 'GET', 404],
      ['/api/v1/users/me/', 'GET', 404],
    ] as const) {
      expect([path, method, (await direct.metrics({ path, method })).status]).toEqual([path, method, status])
    }
    const config = { ...parseConfig({ PORT: '0', AUTH_DATABASE_URL: api.db.urls.auth, JWT_SECRET }, 'server') }
    const without = await startServer(config, pino({ level: 'silent' }))
    expect(without.metricsUrl).toBeUndefined()
    expect((await fetch(`${without.url}/metrics`)).status).toBe(404)
    await without.close()
  })

  test('counts requests by route and status, errors by code, and looks at the pools and the event loop', async () => {
    const before = await read()
    const id = await newRequest(api)
    await rest('GET', `/requests/${id}/`, undefined, bearer(api.token('user')), direct)
    await rest('GET', `/requests/${NOBODY}/`, undefined, bearer(api.token('user')), direct)
    await graphql('{ currentUser { id } }', {}, {}, direct)
    await graphql(mutation('createRequest'), { input: { title: 'x' } }, {}, direct)
    await rest('POST', '/auth/token/', { email: 'nobody@assent.test', password: PASSWORD }, {}, direct)
    await graphql(
      mutation('login', 'accessToken'),
      { input: { email: api.db.people.user.email, password: PASSWORD } },
      {},
      direct,
    )
    await rest('GET', `/nowhere/${id}`, undefined, {}, direct)
    await direct.send({ method: 'GET', path: `/${id}` })
    const after = await read()
    const grown = (name: string) => after.value(name) - before.value(name)
    const requests = (labels: string) => grown(`http_request_duration_seconds_count{${labels}}`)
    expect(requests('method="GET",route="/api/v1/requests/:id/",status="200"')).toBe(1)
    expect(requests('method="GET",route="/api/v1/requests/:id/",status="404"')).toBe(1)
    expect(requests('method="POST",route="/graphql",status="200"')).toBe(2)
    expect(requests('method="POST",route="/graphql",status="401"')).toBe(1)
    expect(requests('method="GET",route="unknown",status="404"')).toBe(1)
    expect(requests('method="GET",route="other",status="404"')).toBe(1)
    expect(grown('assent_errors_total{code="NOT_FOUND"}')).toBe(3)
    expect(grown('assent_errors_total{code="UNAUTHENTICATED"}')).toBe(2)
    for (const result of ['OK', 'UNAUTHENTICATED']) expect(grown(`assent_logins_total{result="${result}"}`)).toBe(1)
    for (const pool of ['api', 'slow']) {
      for (const state of ['busy', 'idle', 'waiting'])
        expect(after.text).toContain(`assent_database_connections{pool="${pool}",state="${state}"} `)
    }
    expect(after.value('assent_database_connections{pool="api",state="idle"}')).toBeGreaterThan(0)
    expect(after.text).toMatch(/^nodejs_eventloop_lag_seconds /m)
    expect(after.text).toMatch(/^process_cpu_seconds_total /m)
    // What callers send makes no series of its own.
    expect(after.text).not.toContain(id)
  })
})

test('none of this was an internal error, and no secret was logged or kept', async () => {
  const { rows } = await owner.query<{ kept: string }>(`
    select x::text as kept from app_private.sessions x union all select x::text from app_private.credentials x
    union all select x::text from app_private.login_attempts x union all select x::text from app_public.audit_logs x`)
  const written = [api.log(), direct.log(), ...rows.map(({ kept }) => kept)].join('\n')
  expect(written).not.toContain('internal error')
  expect(secrets.size).toBeGreaterThan(50)
  expect([...secrets].filter((secret) => written.includes(secret))).toEqual([])
  expect((await (await api.db.connect('auditor')).query('select * from audit.disagreements')).rows).toEqual([])
})
