import type { OutgoingHttpHeaders } from 'node:http'
import type { Client } from 'pg'
import {
  deadToken,
  fromElsewhere,
  faultIn,
  mutation,
  PASSWORD,
  startApi,
  type Answer,
  type Api,
  type NewPerson,
  type Who,
} from '../../harness/client.ts'
import { openRest, outcome, type Rest } from '../../harness/rest.ts'

// A forgotten password, as callers see it: what asking for a link says, which is nothing, and what the link does, once.

let api: Api
let rest: Rest
let owner: Client
let worker: Client
beforeAll(async () => {
  api = await startApi({ TRUST_PROXY: '1' })
  rest = await openRest(api)
  owner = await api.db.connect('owner')
  worker = await api.db.connect('worker')
})
afterAll(() => api.close())

const GOOD = 'correct horse battery staple'
const all = async (text: string, values: unknown[] = []) => (await owner.query(text, values)).rows

const ask = (body: unknown, who?: Who, headers: OutgoingHttpHeaders = {}) =>
  rest(who, 'POST /auth/password-reset/', body, headers)
const askGraphQL = (email: unknown, who?: Who, headers: OutgoingHttpHeaders = {}) =>
  api.graphql(mutation('requestPasswordReset', 'clientMutationId'), { input: { email, clientMutationId: 'c' } }, who, {
    ...fromElsewhere(),
    ...headers,
  })
const ASKED = '{"data":{"requestPasswordReset":{"clientMutationId":"c"}}}'

const confirm = (token: unknown, new_password: unknown = GOOD, who?: Who, headers: OutgoingHttpHeaders = {}) =>
  rest(who, 'POST /auth/password-reset/confirm/', { token, new_password }, headers)
const resetGraphQL = (token: unknown, newPassword: unknown = GOOD, who?: Who) =>
  api.graphql(
    mutation('resetPassword', 'clientMutationId'),
    { input: { token, newPassword, clientMutationId: 'c' } },
    who,
    fromElsewhere(),
  )
const RESET = '{"data":{"resetPassword":{"clientMutationId":"c"}}}'
const extensionsOf = ({ body }: Answer) => body.errors?.[0].extensions ?? 'done'

const logIn = async ({ email }: { email: string }, password: string) =>
  outcome(await rest(undefined, 'POST /auth/token/', { email, password }))
/** Which of the two passwords logs in. */
const passwordOf = async (person: NewPerson) =>
  (await Promise.all([PASSWORD, GOOD].map(async (password) => [await logIn(person, password), password] as const)))
    .filter(([said]) => said === '200')
    .map(([, password]) => password)
const isAlive = async (who: Who) => outcome(await rest(who, 'GET /users/me/')) === '200'

/** A browser's headers, and those of a page of ours. */
async function openBrowser({ email }: { email: string }) {
  const { headers, body } = await rest(undefined, 'POST /auth/session/', { email, password: PASSWORD })
  const cookie = headers['set-cookie']![0]!.split(';')[0]!
  return { cookie: { cookie }, page: { cookie, 'x-csrf-token': body.csrf_token as string } }
}

/** What the worker does of all that was asked for: each job's one statement, and then that of the entry which it leaves. */
async function work(): Promise<void> {
  const jobs = await all(
    `select j.id, j.payload ->> 'email' as email, j.payload ->> 'ip' as ip
     from graphile_worker._private_jobs j join graphile_worker._private_tasks t on t.id = j.task_id
     where t.identifier = 'begin_password_reset' order by j.id`,
  )
  for (const { email, ip } of jobs) await worker.query('select app_private.begin_password_reset($1, $2)', [email, ip])
  await all('select graphile_worker.complete_jobs($1)', [jobs.map(({ id }) => id)])
  const entries = await all(`select id from app_public.audit_logs where action like 'PASSWORD%'`)
  for (const { id } of entries) await worker.query('select app_private.dispatch($1)', [id])
}
/** Where this person asked from, as often as it came to something. */
const asked = async ({ id }: { id: string }) =>
  (
    await all(
      `select host(ip_address) as ip, actor_id, metadata from app_public.audit_logs
       where user_id = $1 and action = 'PASSWORD_RESET_REQUEST' order by "timestamp"`,
      [id],
    )
  ).map(({ ip, ...rest }) => {
    expect(rest).toEqual({ actor_id: null, metadata: {} })
    return ip as string
  })
/** The secrets of all links that wait to be mailed to this person. */
async function mailed({ id }: { id: string }): Promise<string[]> {
  const waiting = await all(
    `select n.id from app_public.notifications n
     where n.recipient_id = $1 and n.kind = 'PASSWORD_RESET' and n.mail_state = 'QUEUED' order by n.created_at`,
    [id],
  )
  const tokens: string[] = []
  for (const { id: notification } of waiting) {
    const [{ mail }] = await all(`select app_private.begin_mail($1, 'example.com') as mail`, [notification])
    tokens.push(mail.token)
    await all('select app_private.mail_sent($1, null)', [notification])
    await all('select pg_advisory_unlock(app_private.mail_lock($1))', [notification])
  }
  return tokens
}
/** Every secret that was mailed here: the last test looks for them. */
const tokens: string[] = []
/** The secret of a link that this person asked for and was mailed. */
async function link(person: NewPerson): Promise<string> {
  expect(outcome(await ask({ email: person.email }))).toBe('202')
  await work()
  const [token, ...others] = await mailed(person)
  expect(others).toEqual([])
  tokens.push(token!)
  return token!
}

describe('to ask for a link', () => {
  let person: NewPerson
  let gone: NewPerson
  let spent: NewPerson
  beforeAll(async () => {
    ;[person, gone, spent] = [await api.person(), await api.person(), await api.person()]
    await api.data(mutation('deactivateUser', 'clientMutationId'), { input: { userId: gone.id } }, 'admin')
    for (let i = 0; i < 5; i++) await ask({ email: spent.email })
    await work()
    expect(await asked(spent)).toHaveLength(3)
  })

  const ADDRESSES: Record<string, () => string> = {
    known: () => person.email,
    'known, in capitals': () => person.email.toUpperCase(),
    unknown: () => 'nobody@assent.test',
    'that of somebody deactivated': () => gone.email,
    throttled: () => spent.email,
    'two of them': () => `${person.email}, ${gone.email}`,
    'known, with a blank before it': () => ` ${person.email}`,
    'known, with a header after it': () => `${person.email}\r\nBcc: victim@example.com`,
    'of no @': () => 'nobody',
    'an @': () => '@',
    empty: () => '',
    'a statement': () => `' or 1 = 1 --`,
    'of a foreign alphabet': () => 'é☃\u2028@assent.test',
    'of 10 kB': () => `${'x'.repeat(10_000)}@assent.test`,
    'known, and 10 kB more': () => person.email + ' '.repeat(10_000),
  }

  test('says the same of any address, to the letter, and leaves no trace but of one that is known', async () => {
    const from = { 'x-forwarded-for': '203.0.113.7' }
    const answers: Answer[] = []
    for (const email of Object.values(ADDRESSES)) answers.push(await ask({ email: email() }, undefined, from))
    const told = answers.map(({ status, headers: { date: _, ...headers }, text }) => ({ status, headers, text }))
    expect(told).toEqual(told.map(() => told[0]))
    expect(told[0]).toMatchObject({ status: 202, text: '{}' })

    const entries = async () => (await all('select count(*)::integer as n from app_public.audit_logs'))[0].n
    const before = await entries()
    await work()
    expect([await asked(person), await asked(gone), (await asked(spent)).length]).toEqual([
      ['203.0.113.7', '203.0.113.7', '203.0.113.7'],
      [],
      3,
    ])
    expect(await entries()).toBe(before + 3)
    expect([(await mailed(person)).length, await mailed(gone), (await mailed(spent)).length]).toEqual([3, [], 3])
    // What was asked for is said nowhere that others read.
    expect((await rest('admin', 'GET /audit-logs/?action=PASSWORD_RESET_REQUEST')).text).not.toContain('victim')
  })

  test('says the same by GraphQL', async () => {
    const answers: Answer[] = []
    for (const email of Object.values(ADDRESSES)) answers.push(await askGraphQL(email()))
    expect(answers.map(({ status, text }) => [status, text])).toEqual(answers.map(() => [200, ASKED]))
    expect(new Set(answers.map(({ headers: { date: _, ...headers } }) => JSON.stringify(headers))).size).toBe(1)
  })

  test('is for whoever asks, with credentials or without, for themselves or somebody else', async () => {
    const [other, { email }] = [await api.person(), await api.person()]
    const { cookie, page } = await openBrowser(other)
    const answers = [
      await ask({ email }, other),
      await ask({ email }, 'admin'),
      await ask({ email }, undefined, page),
      // It is open: who asks is not looked at, and has nothing to prove.
      await ask({ email }, undefined, cookie),
      await ask({ email }, undefined, { cookie: 'assent_session=x' }),
      await ask({ email }, { token: deadToken() }),
      await ask({ email }, { token: 'x' }),
    ]
    expect(answers.map(outcome)).toEqual(answers.map(() => '202'))
    const byGraphQL = [
      await askGraphQL(email),
      await askGraphQL(email, other),
      await askGraphQL(email, 'admin'),
      await askGraphQL(email, undefined, page),
      await askGraphQL(email, undefined, { cookie: 'assent_session=x' }),
    ]
    expect(byGraphQL.map(({ text }) => text)).toEqual(byGraphQL.map(() => ASKED))
    // What is asked for here is a change like others.
    expect(extensionsOf(await askGraphQL(email, undefined, cookie))).toEqual({ code: 'FORBIDDEN' })
    expect(extensionsOf(await askGraphQL(email, { token: deadToken() }))).toEqual({ code: 'UNAUTHENTICATED' })
    expect([await isAlive(other), await isAlive('admin')]).toEqual([true, true])
  })

  test.each([
    [undefined],
    [{}],
    [{ email: null }],
    [{ email: 5 }],
    [{ email: true }],
    [{ email: ['user@assent.test'] }],
    [{ email: { address: 'user@assent.test' } }],
    [{ email: 'user@assent.test\0' }],
    [{ email: '\ud800' }],
    [{ mail: 'user@assent.test' }],
  ])('without text for an address it is 422: %j', async (body) => {
    expect(outcome(await ask(body))).toBe('422 VALIDATION_FAILED email')
  })

  test.each([
    [null, 'BAD_REQUEST'],
    [5, 'BAD_REQUEST'],
    [['user@assent.test'], 'BAD_REQUEST'],
    ['user@assent.test\0', 'VALIDATION_FAILED'],
  ])('nor by GraphQL: %j is %s', async (email, code) => {
    expect(extensionsOf(await askGraphQL(email)).code).toBe(code)
  })

  test('does nothing to the account: its password, its sessions and its other links stay good', async () => {
    const person = await api.person()
    const [first, second] = [await link(person), await link(person)]
    expect(first).not.toBe(second)
    expect([await isAlive(person), await passwordOf(person)]).toEqual([true, [PASSWORD]])
    expect(outcome(await confirm(first))).toBe('204')
  })

  test('again is mailed again, whatever the Idempotency-Key', async () => {
    const person = await api.person()
    for (let i = 0; i < 2; i++) await ask({ email: person.email }, undefined, { 'idempotency-key': 'k' })
    await work()
    expect(await mailed(person)).toHaveLength(2)
  })
})

describe('the link', () => {
  test('has 256 random bits', async () => {
    const token = await link(await api.person())
    expect(token).toMatch(/^[\w-]{43}$/)
    expect(Buffer.from(token, 'base64url')).toHaveLength(32)
  })

  test('sets a new password: the old one is dead, with all sessions, refresh tokens and other links', async () => {
    const person = await api.person()
    const { cookie, page } = await openBrowser(person)
    const { body } = await rest(undefined, 'POST /auth/token/', { email: person.email, password: PASSWORD })
    const [other, token] = [await link(person), await link(person)]

    const { status, text, headers } = await confirm(token)
    expect([status, text, headers['set-cookie']]).toEqual([204, '', undefined])

    for (const who of [person, { token: body.access_token as string }]) expect(await isAlive(who)).toBe(false)
    for (const browser of [cookie, page])
      expect(outcome(await rest(undefined, 'GET /auth/session/', undefined, browser))).toBe('401 UNAUTHENTICATED')
    expect(outcome(await rest(undefined, 'POST /auth/refresh/', { refresh_token: body.refresh_token }))).toBe(
      '401 UNAUTHENTICATED',
    )
    expect(await passwordOf(person)).toEqual([GOOD])
    for (const used of [token, other]) expect(outcome(await confirm(used, `${GOOD} 2`))).toBe('422 VALIDATION_FAILED token')
    expect(await passwordOf(person)).toEqual([GOOD])
    // Nobody else is concerned.
    expect(await isAlive('user')).toBe(true)
  })

  test('leaves an entry in the trail, by its person and from where it was used, and has them told', async () => {
    const person = await api.person()
    await confirm(await link(person), GOOD, undefined, { 'x-forwarded-for': '203.0.113.8' })
    const entries = await all(
      `select actor_id, metadata, host(ip_address) as ip from app_public.audit_logs where user_id = $1 and action = 'PASSWORD_CHANGE'`,
      [person.id],
    )
    expect(entries).toEqual([{ actor_id: person.id, metadata: { by: 'a mailed link' }, ip: '203.0.113.8' }])
    await work()
    const token = (await rest(undefined, 'POST /auth/token/', { email: person.email, password: GOOD })).body.access_token
    const { body } = await rest({ token }, 'GET /notifications/')
    expect(body.results.map(({ kind }: { kind: string }) => kind)).toEqual(['PASSWORD_CHANGED', 'PASSWORD_RESET'])
  })

  test('is good once, also for several at once', async () => {
    const person = await api.person()
    const token = await link(person)
    const chosen = [1, 2, 3, 4].map((n) => `${GOOD} ${n}`)
    const answers = await Promise.all(chosen.map((password) => confirm(token, password)))
    expect(answers.map(outcome).toSorted()).toEqual(['204', ...Array(3).fill('422 VALIDATION_FAILED token')])
    const works = await Promise.all(chosen.map((password) => logIn(person, password)))
    expect(works).toEqual(answers.map(({ status }) => (status === 204 ? '200' : '401 UNAUTHENTICATED')))
  })

  test('of one account, several at once: the first that is used ends the others', async () => {
    const person = await api.person()
    const links = [await link(person), await link(person), await link(person)]
    const answers = await Promise.all(links.map((token, i) => confirm(token, `${GOOD} ${i}`)))
    const works = await Promise.all(links.map((_, i) => logIn(person, `${GOOD} ${i}`)))
    expect(works.filter((said) => said === '200')).toHaveLength(1)
    expect(answers.map(outcome).toSorted()).toEqual(['204', ...Array(2).fill('422 VALIDATION_FAILED token')])
  })

  test.each([
    ['too short', 'x'.repeat(11)],
    ['too short, of many bytes', '😀'.repeat(11)],
    ['among the most common', 'PasswordPassword'],
    ['with NUL in it', `${GOOD}\0`],
    ['half a character', `${GOOD}\ud800`],
    ['empty', ''],
    ['no text', 123456789012],
    ['null', null],
  ])('stays good when the password is %s', async (_, weak) => {
    const person = await api.person()
    const token = await link(person)
    expect(outcome(await confirm(token, weak))).toBe('422 VALIDATION_FAILED new_password')
    const leftOut = await rest(undefined, 'POST /auth/password-reset/confirm/', { token })
    expect(outcome(leftOut)).toBe('422 VALIDATION_FAILED new_password')
    expect([await isAlive(person), await logIn(person, PASSWORD)]).toEqual([true, '200'])
    expect(outcome(await confirm(token))).toBe('204')
  })

  test('that is none, over, or somebody deactivated’s, is 422 of token, whatever the password', async () => {
    const [person, gone] = [await api.person(), await api.person()]
    const [over, ofGone] = [await link(person), await link(gone)]
    const [{ hash }] = await all(
      `select encode(secret_hash, 'hex') as hash from app_private.password_resets where user_id = $1`,
      [person.id],
    )
    await all('update app_private.password_resets set expires_at = now() where user_id = $1', [person.id])
    await api.data(mutation('deactivateUser', 'clientMutationId'), { input: { userId: gone.id } }, 'admin')
    const bad = ['', 'x', over, ` ${over}`, ofGone, hash, `\\x${hash}`, 'x'.repeat(100_000), person.token, '\0', '\ud800']
    for (const token of [...bad, null, 5, [over], { over }, undefined]) {
      expect([token, outcome(await confirm(token))]).toEqual([token, '422 VALIDATION_FAILED token'])
      expect([token, outcome(await confirm(token, 'short'))]).toEqual([token, '422 VALIDATION_FAILED token'])
    }
    const empty = await rest(undefined, 'POST /auth/password-reset/confirm/')
    expect(outcome(empty)).toBe('422 VALIDATION_FAILED token new_password')
    expect([await isAlive(person), await passwordOf(person)]).toEqual([true, [PASSWORD]])
    await api.data(mutation('reactivateUser', 'clientMutationId'), { input: { userId: gone.id } }, 'admin')
    expect(await logIn(gone, PASSWORD)).toBe('200')
  })

  test('is good for 30 minutes', async () => {
    const person = await api.person()
    const token = await link(person)
    const expires = (change: string) =>
      all(
        `update app_private.password_resets set expires_at = expires_at - $2::interval where user_id = $1
         returning extract(epoch from expires_at - now())::integer as seconds`,
        [person.id, change],
      )
    const [{ seconds }] = await expires('0')
    expect(seconds).toBeGreaterThan(1700)
    expect(seconds).toBeLessThanOrEqual(1800)
    await expires('1801 seconds')
    expect(outcome(await confirm(token))).toBe('422 VALIDATION_FAILED token')
    await expires('-60 seconds')
    expect(outcome(await confirm(token))).toBe('204')
  })

  test('opens an account that failed logins have closed', async () => {
    const person = await api.person()
    // The rows that a hundred failures leave, without the slow hashes.
    await all(
      `insert into app_private.login_attempts (account_key, failed) select app_private.account_key($1), true from generate_series(1, 100)`,
      [person.email],
    )
    expect(await logIn(person, PASSWORD)).toBe('429 TOO_MANY_ATTEMPTS')
    const token = await link(person)
    expect(await logIn(person, PASSWORD)).toBe('429 TOO_MANY_ATTEMPTS')
    expect(outcome(await confirm(token))).toBe('204')
    expect(await logIn(person, GOOD)).toBe('200')
  })

  test('is used by whoever has it, logged in or not, as somebody else too', async () => {
    const other = await api.person()
    const { cookie } = await openBrowser(other)
    const ways: [string, (token: string, person: NewPerson) => Promise<Answer>][] = [
      ['themselves', (token, person) => confirm(token, GOOD, person)],
      ['somebody else', (token) => confirm(token, GOOD, other)],
      ['a browser of somebody else’s', (token) => confirm(token, GOOD, undefined, cookie)],
      ['who has a dead token', (token) => confirm(token, GOOD, { token: deadToken() })],
    ]
    for (const [who, use] of ways) {
      const person = await api.person()
      expect([who, outcome(await use(await link(person), person)), await passwordOf(person)]).toEqual([who, '204', [GOOD]])
    }
    expect([await isAlive(other), await passwordOf(other)]).toEqual([true, [PASSWORD]])
  })

  test('under an Idempotency-Key is as used as without', async () => {
    const token = await link(await api.person())
    const again = () => confirm(token, GOOD, undefined, { 'idempotency-key': 'k' })
    expect([outcome(await again()), outcome(await again())]).toEqual(['204', '422 VALIDATION_FAILED token'])
  })
})

describe('by GraphQL', () => {
  test('resetPassword does the same, and names the field at fault', async () => {
    const person = await api.person()
    const token = await link(person)
    for (const weak of ['short', 'passwordpassword', `${GOOD}\0`])
      expect(extensionsOf(await resetGraphQL(token, weak))).toEqual(faultIn('newPassword'))
    expect(await isAlive(person)).toBe(true)
    const done = await resetGraphQL(token)
    expect([done.status, done.text]).toEqual([200, RESET])
    for (const bad of [token, 'x', ''])
      expect([bad, extensionsOf(await resetGraphQL(bad, 'short'))]).toEqual([bad, faultIn('token')])
    expect([await isAlive(person), await passwordOf(person)]).toEqual([false, [GOOD]])
  })

  test.each([[null], [5], [{}]])('what is no string is BAD_REQUEST: %j', async (bad) => {
    expect(extensionsOf(await resetGraphQL(bad)).code).toBe('BAD_REQUEST')
    expect(extensionsOf(await resetGraphQL('x', bad)).code).toBe('BAD_REQUEST')
  })

  test('a link that is used by REST is used here, and at once there is one', async () => {
    const person = await api.person()
    const token = await link(person)
    const [one, other] = await Promise.all([confirm(token, `${GOOD} 1`), resetGraphQL(token, `${GOOD} 2`)])
    expect([outcome(one), extensionsOf(other)]).toEqual(
      one.status === 204 ? ['204', faultIn('token')] : ['422 VALIDATION_FAILED token', 'done'],
    )
  })

  test('who is logged in as somebody else stays so', async () => {
    const person = await api.person()
    expect((await resetGraphQL(await link(person), GOOD, 'user')).text).toBe(RESET)
    expect([await isAlive('user'), await passwordOf(person)]).toEqual([true, [GOOD]])
  })

  test('who is still logged in is told that it is done, though it has ended that very session', async () => {
    const person = await api.person()
    const { text } = await resetGraphQL(await link(person), GOOD, person)
    expect([await isAlive(person), await passwordOf(person), text]).toEqual([false, [GOOD], RESET])
  })
})

test('none of this was an internal error; a secret is kept as a hash alone, and logged nowhere, not even by a failure', async () => {
  expect(api.log()).not.toContain('internal error')
  // A link that was tried, and is still good.
  const person = await api.person()
  const token = await link(person)
  await confirm(token, 'short')
  await resetGraphQL(token, 'short')
  await all('alter function app_hidden.reset_password(text, text, text) rename to gone')
  expect(outcome(await confirm(token))).toBe('500 INTERNAL')
  expect(extensionsOf(await resetGraphQL(token))).toEqual({ code: 'INTERNAL' })
  await all('alter function app_hidden.gone(text, text, text) rename to reset_password')

  const tables = await all(
    `select c.oid::regclass::text as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and not c.relispartition and n.nspname ~ '^(app_|graphile_worker)'`,
  )
  let written = api.log()
  for (const { name } of tables) written += (await all(`select string_agg(t::text, ' ') as rows from ${name} t`))[0].rows
  const [{ hash }] = await all(`select encode(secret_hash, 'hex') as hash from app_private.password_resets where user_id = $1`, [
    person.id,
  ])
  // It is all there, so that a secret would be seen.
  for (const each of [hash, person.email, 'internal error']) expect(written).toContain(each)
  expect(tokens.length).toBeGreaterThan(20)
  expect([...tokens, PASSWORD, GOOD].filter((secret) => written.includes(secret))).toEqual([])
})
