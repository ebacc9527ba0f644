import type { Client } from 'pg'
import { mutation, NOBODY, PASSWORD, sendTo, startApi, type Answer, type Api, type Who } from '../../harness/client.ts'

let api: Api
let owner: Client
beforeAll(async () => {
  api = await startApi()
  owner = await api.db.connect('owner')
})
// Failures from one address count together, so each test starts anew.
beforeEach(async () => {
  await owner.query('delete from app_private.login_attempts')
  // Of more than 20 sessions, that of the cast would end first, which was opened first.
  await owner.query(`
    update app_private.sessions s set last_used_at = now() + interval '1 hour'
    where s.id = (select o.id from app_private.sessions o where o.user_id = s.user_id order by o.created_at, o.id limit 1)`)
})
afterAll(() => api.close())

const LOGIN = mutation('login', 'accessToken user { id email }')
const attempt = (email: string, password: string, on = api, headers = {}) =>
  on.graphql(LOGIN, { input: { email, password } }, undefined, headers)
const codeOf = (answer: Answer) => answer.body.errors?.[0].extensions.code ?? 'done'
const code = async (email: string, password: string) => codeOf(await attempt(email, password))

const trail = async () =>
  (
    await owner.query(
      `select action, actor_id, user_id, host(ip_address) as ip, metadata from app_public.audit_logs where action like 'LOG%' order by "timestamp", id`,
    )
  ).rows
const lastEntry = async () => (await trail()).at(-1)

describe('after 10 failures on an account', () => {
  test('it is throttled whatever the password, and nothing else is', async () => {
    for (let i = 0; i < 10; i++)
      expect(await code(i % 2 ? 'User@Assent.TEST' : 'user@assent.test', `wrong ${i}`)).toBe('UNAUTHENTICATED')
    const before = await trail()
    for (const [email, password] of [
      ['user@assent.test', 'wrong'],
      ['user@assent.test', PASSWORD],
      ['USER@ASSENT.test', PASSWORD],
    ] as const) {
      const answer = await attempt(email, password)
      const { extensions, message } = answer.body.errors[0]
      expect(answer.body.data).toEqual({ login: null })
      expect(extensions).toEqual({ code: 'TOO_MANY_ATTEMPTS', retryAfter: expect.any(Number) })
      expect(extensions.retryAfter).toBeGreaterThan(14 * 60)
      expect(extensions.retryAfter).toBeLessThanOrEqual(15 * 60)
      expect(answer.headers['retry-after']).toBe(String(extensions.retryAfter))
      expect(message).not.toContain(email)
    }
    expect(await trail()).toEqual(before)
    expect(await code('user2@assent.test', PASSWORD)).toBe('done')
    // Its person still logs in from elsewhere.
    const behind = await startApi({ TRUST_PROXY: '1' }, api.db)
    const elsewhere = await attempt('user@assent.test', PASSWORD, behind, { 'x-forwarded-for': '203.0.113.9' })
    await behind.close()
    expect(codeOf(elsewhere)).toBe('done')
    // The account's sessions live on.
    expect((await api.data('{ currentUser { id } }', {}, 'user')).currentUser.id).toBe(api.db.people.user.id)
  })

  test('it opens again once they are 15 minutes old', async () => {
    for (let i = 0; i < 10; i++) await attempt('user@assent.test', 'wrong')
    expect(await code('user@assent.test', PASSWORD)).toBe('TOO_MANY_ATTEMPTS')
    await owner.query(`update app_private.login_attempts set attempted_at = attempted_at - interval '14 minutes'`)
    const { body } = await attempt('user@assent.test', PASSWORD)
    expect(body.errors[0].extensions.retryAfter).toBeLessThanOrEqual(60)
    await owner.query(`update app_private.login_attempts set attempted_at = attempted_at - interval '1 minute'`)
    expect(await code('user@assent.test', PASSWORD)).toBe('done')
  })

  test('an address without an account is throttled likewise, with the same message', async () => {
    const texts = new Set<string>()
    for (let i = 0; i < 11; i++) {
      const [known, unknown] = [await attempt('user@assent.test', 'wrong'), await attempt('nobody@assent.test', 'wrong')]
      expect(unknown.status).toBe(known.status)
      for (const { text } of [known, unknown]) texts.add(text.replace(/"retryAfter":\d+/, ''))
    }
    expect(texts.size).toBe(2)
  })

  test('successes do not count', async () => {
    for (let i = 0; i < 12; i++) expect(await code('user@assent.test', PASSWORD)).toBe('done')
    for (let i = 0; i < 9; i++) await attempt('user@assent.test', 'wrong')
    expect(await code('user@assent.test', PASSWORD)).toBe('done')
    expect(await code('user@assent.test', 'wrong')).toBe('UNAUTHENTICATED')
    expect(await code('user@assent.test', PASSWORD)).toBe('TOO_MANY_ATTEMPTS')
  })
})

test('at most 10 of 40 parallel guesses are checked', async () => {
  const answers = await Promise.all(Array.from({ length: 40 }, (_, i) => attempt('user@assent.test', `guess ${i}`)))
  const codes = answers.map(codeOf)
  const looked = codes.filter((it) => it === 'UNAUTHENTICATED').length
  expect(looked).toBeGreaterThan(0)
  expect(looked).toBeLessThanOrEqual(10)
  for (const it of codes) expect(['UNAUTHENTICATED', 'TOO_MANY_ATTEMPTS', 'UNAVAILABLE']).toContain(it)
  // The trail and the counter tell how many were checked.
  const {
    rows: [{ failed }],
  } = await owner.query('select count(*)::int as failed from app_private.login_attempts where failed')
  expect(failed).toBe(looked)
  for (let i = looked; i < 10; i++) expect(await code('user@assent.test', 'guess')).toBe('UNAUTHENTICATED')
  expect(await code('user@assent.test', PASSWORD)).toBe('TOO_MANY_ATTEMPTS')
})

test('right logins in a burst behind one address are all served, and none of them counts', async () => {
  const answers = await Promise.all(Array.from({ length: 140 }, () => attempt('user@assent.test', PASSWORD)))
  expect(answers.map(codeOf).filter((it) => it !== 'done')).toEqual([])
  expect((await owner.query('select from app_private.login_attempts')).rowCount).toBe(0)
})

test('a login that gets no connection is UNAVAILABLE, and counts for nothing', async () => {
  const lock = await api.db.connect('root')
  await lock.query('begin; lock table app_private.login_attempts in exclusive mode')
  // Two hold the connections, and wait for the lock; the others wait for a connection.
  const answers = await Promise.all(Array.from({ length: 6 }, () => attempt('user@assent.test', PASSWORD)))
  await lock.query('rollback')
  for (const answer of answers) expect([codeOf(answer), answer.headers['retry-after']]).toEqual(['UNAVAILABLE', '1'])
  expect((await owner.query('select from app_private.login_attempts')).rowCount).toBe(0)
  expect(await code('user@assent.test', PASSWORD)).toBe('done')
})

test('100 failures from an address throttle that address for every account, and no other address', async () => {
  await owner.query(
    `insert into app_private.login_attempts (account_key, network, failed) select sha256(i::text::bytea), '127.0.0.1', true from generate_series(1, 100) i`,
  )
  const answer = await attempt('user@assent.test', PASSWORD)
  expect([codeOf(answer), Number(answer.headers['retry-after']) > 0]).toEqual(['TOO_MANY_ATTEMPTS', true])
  await owner.query(`update app_private.login_attempts set network = '192.0.2.7'`)
  expect(await code('user@assent.test', PASSWORD)).toBe('done')
})

describe('passwords', () => {
  const change = (password: string) =>
    owner.query(
      'update app_private.credentials set password_hash = app_private.hash_password(app_private.password_digest($1)) where lower(email) = $2',
      [password, 'user2@assent.test'],
    )
  afterAll(() => change(PASSWORD))

  test('differ beyond byte 72, and by letter case and blanks', async () => {
    const long = 'x'.repeat(72)
    await change(`${long}right`)
    expect(await code('user2@assent.test', `${long}wrong`)).toBe('UNAUTHENTICATED')
    expect(await code('user2@assent.test', long)).toBe('UNAUTHENTICATED')
    expect(await code('user2@assent.test', `${long}right `)).toBe('UNAUTHENTICATED')
    expect(await code('user2@assent.test', `${long}Right`)).toBe('UNAUTHENTICATED')
    expect(await code('user2@assent.test', `${long}right`)).toBe('done')
  })

  test('may be any text, and no rule is applied at login', async () => {
    for (const password of ['x', ' ', '😀é\u0301\n', 'p'.repeat(10_000), "' or 1 = 1 --", '$2a$10$']) {
      await change(password)
      expect(await code('user2@assent.test', password)).toBe('done')
      expect(await code('user2@assent.test', `${password}!`)).toBe('UNAUTHENTICATED')
      await owner.query('delete from app_private.login_attempts')
    }
    for (const [email, password] of [
      ['', ''],
      ['user@assent.test', ''],
      ['', PASSWORD],
      ['%', PASSWORD],
      ['user%', PASSWORD],
      ['us.er@assent.test', PASSWORD],
    ] as const) {
      expect([email, await code(email, password)]).toEqual([email, 'UNAUTHENTICATED'])
    }
  })
})

test('addresses and passwords are taken as people type them', async () => {
  for (const email of [' user@assent.test', 'user@assent.test\u00a0', '\ufeffUser@ASSENT.test\n', 'us\u200ber@assent.test']) {
    expect([email, await code(email, PASSWORD)]).toEqual([email, 'done'])
  }
  const [composed, decomposed] = ['p\u00e4sswort f\u00fcr mich', 'pa\u0308sswort fu\u0308r mich']
  const { email, token } = await api.person()
  const change = (oldPassword: string, newPassword: string) =>
    api.data(mutation('changePassword', 'user { id }'), { input: { oldPassword, newPassword } }, { token })
  await change(PASSWORD, decomposed)
  for (const typed of [composed, decomposed]) expect(await code(email, typed)).toBe('done')
  await owner.query(
    `update app_private.credentials set password_hash = app_private.hash_password(encode(sha256(convert_to('assent:' || $1, 'UTF8')), 'base64'))
     where email = $2`,
    [decomposed, email],
  )
  expect([await code(email, composed), await code(email, decomposed)]).toEqual(['UNAUTHENTICATED', 'done'])
  await change(decomposed, 'another long passphrase')
})

test('nobody chooses their name or their address, in whatever disguise, for a password', async () => {
  const { email, token, id } = await api.person()
  await owner.query(`update app_public.users set name = 'Pat Pupp\u00e9t' where id = $1`, [id])
  const change = (newPassword: string) =>
    api.graphql(mutation('changePassword', 'user { id }'), { input: { oldPassword: PASSWORD, newPassword } }, { token })
  for (const word of ['puppet', 'PUPPE\u0301T', 'Pupp3t', 'p a t p u p p e t', email.split('@')[0]!]) {
    expect([word, codeOf(await change(`${word} goes a long way`))]).toEqual([word, 'VALIDATION_FAILED'])
  }
  expect(codeOf(await change('a muppet goes a long way'))).toBe('done')
})

test('a wrong password, an unknown account and a deactivated one get the same answer', async () => {
  await owner.query('update app_public.users set is_deleted = true where id = $1', [api.db.people.manager2.id])
  const answers = await Promise.all([
    attempt('user@assent.test', 'wrong'),
    attempt('nobody@assent.test', 'wrong'),
    attempt('manager2@assent.test', PASSWORD),
    attempt('manager2@assent.test', 'wrong'),
    attempt('no address', PASSWORD),
  ])
  await owner.query('update app_public.users set is_deleted = false where id = $1', [api.db.people.manager2.id])
  expect(new Set(answers.map(({ status, text }) => `${status} ${text}`)).size).toBe(1)
  expect(answers.map(codeOf)).toContain('UNAUTHENTICATED')
})

describe('the trail', () => {
  test('records whose LOGIN, LOGIN_FAILED and LOGOUT it was, about whom, and from where', async () => {
    const user = await api.person()
    const { login } = await api.data(LOGIN, { input: { email: user.email, password: PASSWORD } })
    expect(await lastEntry()).toEqual({ action: 'LOGIN', actor_id: user.id, user_id: user.id, ip: '127.0.0.1', metadata: {} })
    await attempt(user.email.toUpperCase(), 'wrong')
    expect(await lastEntry()).toEqual({ action: 'LOGIN_FAILED', actor_id: null, user_id: user.id, ip: '127.0.0.1', metadata: {} })
    await attempt('nobody@assent.test', 'wrong')
    expect(await lastEntry()).toEqual({ action: 'LOGIN_FAILED', actor_id: null, user_id: null, ip: '127.0.0.1', metadata: {} })
    await api.data(mutation('logout', 'clientMutationId'), { input: {} }, { token: login.accessToken })
    expect(await lastEntry()).toEqual({ action: 'LOGOUT', actor_id: user.id, user_id: user.id, ip: '127.0.0.1', metadata: {} })
    // People see their own actions; only admins see the failures on an account.
    const query = `query ($id: UUID!) { auditLogs(condition: { userId: $id }, first: 100) { nodes { action } } }`
    const seen = async (who: Who) =>
      (await api.data(query, { id: user.id }, who)).auditLogs.nodes.map((n: { action: string }) => n.action)
    expect(await seen(user)).toEqual(expect.arrayContaining(['LOGIN', 'LOGOUT']))
    expect(await seen(user)).not.toContain('LOGIN_FAILED')
    expect(await seen('admin')).toContain('LOGIN_FAILED')
    expect(await api.data('query ($id: UUID!) { user(id: $id) { id } }', { id: NOBODY }, 'admin')).toEqual({ user: null })
  })

  const FORWARDED: [number, string | undefined, string][] = [
    [0, '203.0.113.9', '127.0.0.1'],
    [0, undefined, '127.0.0.1'],
    [1, undefined, '127.0.0.1'],
    [1, '203.0.113.9', '203.0.113.9'],
    [1, '198.51.100.1, 203.0.113.9', '203.0.113.9'],
    [1, ' 198.51.100.1 ,203.0.113.9 ', '203.0.113.9'],
    [1, '2001:db8::9', '2001:db8::9'],
    [1, '::ffff:203.0.113.9', '203.0.113.9'],
    [1, '::FFFF:cb00:7109', '203.0.113.9'],
    [1, '64:ff9b::203.0.113.9', '64:ff9b::cb00:7109'],
    [1, '[2001:db8::203.0.113.9]:80', '2001:db8::cb00:7109'],
    [1, 'fe80::203.0.113.9%eth0', 'fe80::cb00:7109'],
    [1, '203.0.113.9:4711', '203.0.113.9'],
    [1, '[2001:db8::9]', '2001:db8::9'],
    [1, '[2001:DB8:0::9]:443', '2001:db8::9'],
    [1, '[::ffff:203.0.113.9]:443', '203.0.113.9'],
    [1, '"[2001:db8::9]:443"', '2001:db8::9'],
    [1, '[fe80::1%eth0]:443', 'fe80::1'],
    [2, '[2001:db8::9]:1, 198.51.100.1:80', '2001:db8::9'],
    [2, '198.51.100.1, 203.0.113.9', '198.51.100.1'],
    [2, '192.0.2.1, 198.51.100.1, 203.0.113.9', '198.51.100.1'],
    [2, '203.0.113.9', '203.0.113.9'],
  ]
  const NONSENSE = [
    'x',
    '',
    ',',
    '999.1.1.1',
    '203.0.113.9:',
    '203.0.113.9:x',
    '[203.0.113.9',
    '[]:443',
    '2001:db8::9]:443',
    '127.1',
    '0x7f.0.0.1:80',
    'unknown',
    "'; drop table x",
    '1.2.3.4/8',
    'x'.repeat(5000),
  ]

  test('believes X-Forwarded-For for as many proxies as TRUST_PROXY says, and no more', async () => {
    for (const hops of [0, 1, 2]) {
      const server = await startApi({ TRUST_PROXY: String(hops) }, api.db)
      try {
        for (const [, header, expected] of FORWARDED.filter(([n]) => n === hops)) {
          const headers =
            header === undefined ? {} : { 'x-forwarded-for': header, forwarded: 'for=192.0.2.99', 'x-real-ip': '192.0.2.98' }
          expect(codeOf(await attempt('manager@assent.test', PASSWORD, server, headers))).toBe('done')
          expect([hops, header, (await lastEntry()).ip]).toEqual([hops, header, expected])
        }
        for (const header of hops === 1 ? NONSENSE : NONSENSE.slice(0, 1)) {
          const answer = await attempt('manager@assent.test', PASSWORD, server, { 'x-forwarded-for': header })
          expect([hops, header, codeOf(answer)]).toEqual([hops, header, 'done'])
          if (hops === 0) expect((await lastEntry()).ip).toBe('127.0.0.1')
        }
      } finally {
        await server.close()
      }
    }
  })

  test('shows that a forged header does not evade the limit of an address', async () => {
    await owner.query(
      `insert into app_private.login_attempts (account_key, network, failed) select sha256(i::text::bytea), '127.0.0.1', true from generate_series(1, 100) i`,
    )
    for (const ip of ['203.0.113.1', '203.0.113.2']) {
      expect(codeOf(await attempt('user@assent.test', PASSWORD, api, { 'x-forwarded-for': ip }))).toBe('TOO_MANY_ATTEMPTS')
    }
    const direct = await sendTo(api.url, {
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ query: '{ currentUser { id } }' }),
    })
    expect(direct.status).toBe(200)
  })
})

describe('csrfToken', () => {
  const ASK = '{ csrfToken currentUser { email } }'
  const logIn = async () => {
    const answer = await api.rest('POST', '/auth/session/', { email: 'user2@assent.test', password: PASSWORD })
    return { cookie: answer.headers['set-cookie']![0]!.split(';')[0]!, token: answer.body.csrf_token as string }
  }

  test('is that of the session which the cookie names, and lets its changes through', async () => {
    const { cookie, token } = await logIn()
    const { body } = await api.graphql(ASK, {}, undefined, { cookie })
    expect(body).toEqual({ data: { csrfToken: token, currentUser: { email: 'user2@assent.test' } } })
    const create = mutation('createRequest', 'clientMutationId')
    const input = { title: 'By a page' }
    const refused = await api.graphql(create, { input }, undefined, { cookie })
    expect(codeOf(refused)).toBe('FORBIDDEN')
    expect(codeOf(await api.graphql(create, { input }, undefined, { cookie, 'x-csrf-token': body.data.csrfToken }))).toBe('done')
  })

  test('is null without a cookie whose session is live', async () => {
    const { cookie, token } = await logIn()
    await api.rest('DELETE', '/auth/session/', undefined, undefined, { cookie, 'x-csrf-token': token })
    for (const headers of [{}, { cookie }, { cookie: 'assent_session=x' }]) {
      const { body } = await api.graphql(ASK, {}, undefined, headers)
      expect(body).toEqual({ data: { csrfToken: null, currentUser: null } })
    }
    const { email, token: accessToken } = await api.person()
    const { body } = await api.graphql(ASK, {}, { token: accessToken }, { cookie: (await logIn()).cookie })
    expect(body).toEqual({ data: { csrfToken: null, currentUser: { email } } })
  })
})
