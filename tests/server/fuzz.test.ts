import type { Client } from 'pg'
import { STATUS, type Code } from '../../server/errors.ts'
import { csrfToken, makeTokens } from '../../server/identity.ts'
import { deadToken, fromElsewhere, JWT_SECRET, NOBODY, PASSWORD, startApi, type Answer, type Api } from './client.ts'
import { BASE, openRest, type Rest } from './rest.ts'

declare const POSTGRES: 15 | 18

// Hostile calls of every door as everybody, one after the other, each judged by what it answers and by what the audit trail
// then holds. 5,000 on each version of PostgreSQL, which has its own. Replayed by FUZZ_SEED=… npm test -- tests/server/fuzz.test.ts
const SEED = Number(process.env['FUZZ_SEED'] ?? (POSTGRES === 18 ? 20_260_118 : 20_260_115))
const CALLS = 5_000
/** After so many calls everybody gets their role, their account and new sessions back. */
const ACT = 100

let api: Api
let rest: Rest
let owner: Client
beforeAll(async () => {
  api = await startApi({ TRUST_PROXY: '1', ALLOWED_ORIGINS: 'https://app.example' })
  rest = await openRest(api)
  owner = await api.db.connect('owner')
})
afterAll(() => api.close())

// Chance ------------------------------------------------------------------------------------------------------------------

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
function makeRandom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}
const random = makeRandom(SEED)
const below = (n: number) => Math.floor(random() * n)
const pick = <T>(list: readonly T[]): T => list[below(list.length)]!
const chance = (probability: number) => random() < probability
/** Of entries that are each there with some chance. */
const some = <T>(probability: number, entries: Record<string, () => T>): Record<string, T> =>
  Object.fromEntries(Object.entries(entries).flatMap(([name, make]) => (chance(probability) ? [[name, make()]] : [])))

// What is sent ------------------------------------------------------------------------------------------------------------

const NASTY = [
  ...[
    '',
    ' ',
    '\0',
    'a\0b',
    '\t\r\n',
    '\ud800',
    '\udfff\ud800',
    '\ufeff',
    '\uffff',
    '\u202e',
    '\u2028',
    '\u0000\u0001',
    'ı̇',
    'ﬃ',
    '🏳️‍🌈',
  ],
  ...[
    '%',
    '%%%',
    '_',
    '\\',
    '\\\\',
    "'",
    "''",
    '"',
    '"""',
    '`',
    '$1',
    '$$',
    ':x',
    '${x}',
    '{{x}}',
    '#{x}',
    '<%= x %>',
    '#',
    '--',
    '/*',
    ';',
  ],
  ...["'; drop table app_public.requests; --", "' or '1' = '1", '1) union select password_hash from app_private.credentials --'],
  ...["'||(select version())||'", '1; select pg_sleep(10)', "x' at time zone 'y", '\\x00', '\\u0000', '%00', '%27', "admin'--"],
  ...['null', 'undefined', 'NaN', 'Infinity', '-Infinity', 'true', 'false', '0', '-1', '1e309', '0x10', '٣', '1'.repeat(400)],
  ...['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'prototype', '[object Object]', '{"$ne": null}', '[]', '{}'],
  ...['infinity', 'epoch', 'now', '0001-01-01 BC', '2024-02-30', '24:00:60', '0000-01-01', '2024-01-01T00:00:00+23:59', 'P1D'],
  ...[
    NOBODY,
    NOBODY.toUpperCase(),
    'ffffffff-ffff-ffff-ffff-ffffffffffff',
    `{${NOBODY}}`,
    NOBODY.replaceAll('-', ''),
    `urn:uuid:${NOBODY}`,
  ],
  ...[
    '<script>alert(1)</script>',
    '../../etc/passwd',
    '..%2f..',
    'file:///etc/passwd',
    'http://169.254.169.254/',
    '${jndi:ldap://x}',
  ],
  ...[
    'x'.repeat(201),
    'x'.repeat(10_001),
    '𝔘'.repeat(200),
    '('.repeat(300),
    'a'.repeat(60_000),
    '[[[[',
    '{"a":1}',
    '...',
    '}) { __typename }',
  ],
  ...[
    'user@assent.test',
    'USER@ASSENT.TEST',
    'a@b',
    'a@b\n@c',
    '@',
    'DRAFT',
    'SUBMITTED',
    'ADMIN',
    'USER',
    'CREATE',
    'abc',
    PASSWORD,
  ],
]
const NUMBERS = [0, 1, 2, 3, -1, 1.5, 2 ** 31 - 1, 2 ** 31, -(2 ** 31) - 1, 2 ** 53, 1e308, -0, 100, 101]

function text(): string {
  if (chance(0.7)) return pick(NASTY)
  const unit = pick([0x80, 0x250, 0x10000])
  return Array.from({ length: below(30) }, () => String.fromCharCode(below(unit))).join('')
}
function value(depth = 0): unknown {
  const kind = below(depth < 3 ? 10 : 7)
  if (kind < 4) return text()
  if (kind === 4) return pick(NUMBERS)
  if (kind === 5) return chance(0.5)
  if (kind === 6) return null
  if (kind === 7) return Array.from({ length: below(4) }, () => value(depth + 1))
  return Object.fromEntries(Array.from({ length: below(4) }, () => [text(), value(depth + 1)]))
}
/** A text that is almost always fine. */
const words = () => `${pick(['A laptop', 'Ein Stuhl', 'Новый стол', 'Chair', '日本語の本'])} ${below(1000)}`
const common = (): string => `a passphrase of ${below(1e9)}`

/** Ids of everything there is, and of a little that there is not. */
const known = { requests: [NOBODY], people: [NOBODY], sessions: [NOBODY], cursors: ['x'], tags: ['"1-0"'] }
const latest = (list: readonly string[]) => list[list.length - 1 - below(Math.min(list.length, 30))]!
const requestId = () => latest(known.requests)
const personId = () => pick(known.people)

/** What a member of this name may be, as often as not. */
function member(name: string): unknown {
  if (chance(0.25)) return value()
  switch (name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase())) {
    case 'requestId':
      return requestId()
    case 'userId':
      return personId()
    case 'assignedToId':
      return chance(0.3) ? null : personId()
    case 'version':
      return 1 + below(4)
    case 'role':
      return pick(['USER', 'MANAGER', 'ADMIN', 'USER', 'user'])
    case 'isDeleted':
      return chance(0.5)
    case 'email':
      return chance(0.5) ? `${below(1e9)}@assent.test` : pick(cast).email
    case 'password':
    case 'oldPassword':
      return chance(0.6) ? PASSWORD : common()
    case 'newPassword':
      return chance(0.6) ? PASSWORD : common()
    case 'refreshToken':
      return pick([tramp.refreshToken, tramp.refreshToken, tramp.used, `${tramp.refreshToken.split('.')[0]}.x`, 'x.y'])
    case 'name':
    case 'title':
    case 'description':
    case 'comment':
      return chance(0.7) ? words() : text()
    default:
      return value()
  }
}
const members = (names: readonly string[], probability = 0.85) =>
  Object.fromEntries(names.filter(() => chance(probability)).map((name) => [name, member(name)]))

/** What node:http lets through: a header that is none is not ours to answer. */
const headerText = () =>
  text()
    .replace(/[^\t\x20-\x7e]/g, '')
    .slice(0, 300)
const someHeaders = () =>
  some(0.06, {
    'if-match': () => pick([latest(known.tags), '*', '"1"', '"2"', 'W/"1-0"', '"9"', headerText()]),
    'if-none-match': () => pick([latest(known.tags), '*', headerText()]),
    'idempotency-key': () => pick([`key-${below(40)}`, `new-${below(1e9)}`, headerText()]),
    origin: () => pick(['https://app.example', 'https://evil.example', 'null', api.url, headerText()]),
    accept: () => pick(['application/json', 'text/html', '*/*;q=0', headerText()]),
    'accept-encoding': () => pick(['gzip', 'br', 'identity;q=0', headerText()]),
    'content-type': () =>
      pick(['application/json; charset=utf-16', 'text/plain', 'application/xml', 'multipart/form-data', headerText()]),
    'content-encoding': () => pick(['gzip', 'br', 'identity', 'x', headerText()]),
    'x-http-method-override': () => pick(['DELETE', 'PUT', headerText()]),
    'x-forwarded-for': () => pick(['127.0.0.1', '::1', 'unknown', '1.2.3.4, 5.6.7.8', 'fe80::1%eth0', '999.1.1.1', headerText()]),
    'x-forwarded-proto': () => pick(['https', 'javascript', headerText()]),
    'x-forwarded-host': headerText,
    forwarded: headerText,
    host: () => pick(['evil.example', 'localhost:1', '[::1]', headerText()]),
    'user-agent': headerText,
    'x-request-id': headerText,
    'x-csrf-token': headerText,
    cookie: () => pick(['assent_session=x', 'assent_session=', 'assent_session="', 'a=b; c', headerText()]),
  })

// Who sends it ------------------------------------------------------------------------------------------------------------

interface Person {
  readonly id: string
  readonly email: string
  readonly role: string
  /** Sessions, by their secrets. */
  token: string
  cookie: string
}
/** Everybody who calls. */
const cast: Person[] = []
/** Somebody who refreshes tokens, and never does so by one session for long. */
const tramp = { id: '', refreshToken: '', used: '', isAlive: true }

interface Actor {
  readonly headers: Record<string, string>
  /** Who that is, if the credentials are good. */
  readonly person?: Person
  readonly byCookie: boolean
}
const tokens = makeTokens([JWT_SECRET])

function actor(): Actor {
  const person = pick(cast)
  const kind = random()
  const bearer = (token: string) => ({ ...fromElsewhere(), authorization: `Bearer ${token}` })
  if (kind < 0.74) return { headers: bearer(tokens.sign(person.token, crypto.randomUUID()).token), person, byCookie: false }
  if (kind < 0.86) {
    const token = chance(0.85) ? csrfToken(person.cookie) : headerText()
    const origin: Record<string, string> = chance(0.9) ? {} : { origin: 'https://evil.example' }
    const cookie = `assent_session=${person.cookie.slice('cookie:'.length)}`
    return { headers: { ...fromElsewhere(), cookie, 'x-csrf-token': token, ...origin }, person, byCookie: true }
  }
  if (kind < 0.94) return { headers: fromElsewhere(), byCookie: false }
  if (kind < 0.97) return { headers: bearer(deadToken()), byCookie: false }
  return {
    headers: {
      ...fromElsewhere(),
      authorization: pick(['Bearer x', 'Bearer ', 'Basic eDp5', `Bearer ${headerText()}`, headerText()]),
    },
    byCookie: false,
  }
}

/** Everybody is who they were, and has new sessions. Also what the world looks like, as far as the model has to know it. */
async function beginAct(): Promise<void> {
  for (const { id, role } of cast)
    await owner.query('update app_public.users set role = $2, is_deleted = false where id = $1 and (role <> $2 or is_deleted)', [
      id,
      role,
    ])
  const open = async (id: string, byCookie: boolean) =>
    (await owner.query('select * from app_private.open_session($1, $2, null)', [id, byCookie])).rows[0]
  for (const person of cast) {
    person.token = (await open(person.id, false)).session_secret
    person.cookie = (await open(person.id, true)).session_secret
  }
  await owner.query('update app_private.credentials set password_hash = $2 where user_id = any ($1) and password_hash <> $2', [
    cast.map(({ id }) => id),
    passwordHash,
  ])
  await owner.query('delete from app_private.login_attempts')
  const { rows } = await owner.query('select id, name, role, is_deleted from app_public.users')
  for (const { id, ...row } of rows) people.set(id, row)
  for (const { id, email } of cast) accounts.set(email, id)
  known.people = [...people.keys(), NOBODY]
  known.sessions = (await owner.query('select id from app_private.sessions order by random() limit 20')).rows.map(({ id }) => id)
  await newTramp()
  trail = (await readTrail()).n
}
let passwordHash: string
async function newTramp(): Promise<void> {
  const { rows } = await owner.query('select * from app_private.open_session($1, false, null)', [tramp.id])
  Object.assign(tramp, { refreshToken: rows[0].refresh_token, used: 'x.y', isAlive: true })
}

// What it may do: the model -----------------------------------------------------------------------------------------------

interface Entry {
  readonly action: string
  readonly actor: string | null
  readonly request?: string
  readonly user?: string | null
}
/** The versions of each request that an answer has told of: each was one change. */
const versions = new Map<string, number>()
const deleted = new Set<string>()
const people = new Map<string, { name: string; role: string; is_deleted: boolean }>()
/** Whose address it is. */
const accounts = new Map<string, string>()
let trail = 0

const readTrail = async () =>
  (
    await owner.query(
      `select (select count(*)::int from app_public.audit_logs) as n,
        array(select row_to_json(l) from (select * from app_public.audit_logs order by "timestamp" desc, id desc limit 2) l) as last`,
    )
  ).rows[0] as { n: number; last: Record<string, unknown>[] }

/** A request that was changed, or was not: then its version is no news. */
function requestChanged(actor: string, action: string, { id, version }: { id: string; version: number }): Entry[] {
  const before = versions.get(id) ?? 0
  if (version <= before) return []
  expect(version).toBe(before + 1)
  if (before === 0) known.requests.push(id)
  versions.set(id, version)
  return [{ action, actor, request: id }]
}
function personChanged(actor: string, { id, email, name, role, is_deleted }: Record<string, any>): Entry[] {
  if (email) accounts.set(email.toLowerCase(), id)
  const before = people.get(id)
  people.set(id, { name, role, is_deleted })
  if (!before) return (known.people.push(id), [{ action: 'USER_CREATE', actor, user: id }])
  if (before.is_deleted !== is_deleted) return [{ action: is_deleted ? 'USER_DEACTIVATE' : 'USER_REACTIVATE', actor, user: id }]
  return before.name === name && before.role === role ? [] : [{ action: 'USER_UPDATE', actor, user: id }]
}
/** About the account of that address, if there is one. */
const loginFailed = (email: unknown): Entry => ({
  action: 'LOGIN_FAILED',
  actor: null,
  user: accounts.get(String(email).toLowerCase()) ?? null,
})

/** What a call of sessions depends on, and its answer does not tell. */
interface Before {
  /** The caller's own session by cookie. */
  readonly isLive: boolean
  /** Live sessions of the caller's, beside the one that asks. */
  readonly others: number
}
async function lookBefore({ person, byCookie }: Actor): Promise<Before> {
  const secret = byCookie ? person?.cookie : person?.token
  const { rows } = await owner.query(
    `select count(*) filter (where s.secret_hash = app_private.hash_secret($2))::int as this,
       count(*) filter (where s.secret_hash <> app_private.hash_secret($2))::int as others
     from app_private.sessions s where s.user_id = $1 and app_private.is_live(s)`,
    [person?.id, secret],
  )
  return { isLive: byCookie && rows[0].this === 1, others: rows[0].others }
}

/** What a REST call must have left in the trail, by its answer. */
function effectOfRest(me: string, before: Before, operation: string, path: string, body: any, answer: Answer): Entry[] {
  const { status } = answer
  const id = (path.split('/')[2] ?? '').toLowerCase()
  if (operation === 'POST /auth/refresh') {
    if (status === 200) Object.assign(tramp, { used: tramp.refreshToken, refreshToken: answer.body.refresh_token })
    const isMine = String(body?.refresh_token).split('.')[0] === tramp.refreshToken.split('.')[0]
    if (status !== 401 || !isMine || !tramp.isAlive) return []
    tramp.isAlive = false
    return [{ action: 'SESSION_REVOKE', actor: null, user: tramp.id }]
  }
  if (operation === 'POST /auth/token' || operation === 'POST /auth/session') {
    if (/password is wrong/.test(answer.body.detail)) return [loginFailed(body.email)]
    if (status !== 200) return []
    const { id: user } = answer.body.user
    // The session that the browser had gives way.
    const replaced: Entry[] =
      before.isLive && operation.endsWith('session') ? [{ action: 'SESSION_REVOKE', actor: me, user: me }] : []
    return [...replaced, { action: 'LOGIN', actor: user, user }]
  }
  if (status >= 300) return []
  switch (operation) {
    case 'DELETE /auth/session':
      return [{ action: 'LOGOUT', actor: me, user: me }]
    case 'DELETE /auth/sessions':
      return before.others > 0 ? [{ action: 'SESSION_REVOKE', actor: me, user: me }] : []
    case 'DELETE /auth/sessions/{id}':
      return [{ action: 'SESSION_REVOKE', actor: me, user: me }]
    case 'POST /auth/password':
      return [{ action: 'PASSWORD_CHANGE', actor: me, user: me }]
    case 'POST /users':
      return people.has(answer.body.id) ? [] : personChanged(me, answer.body) // Else it was the first answer again.
    case 'PATCH /users/{id}':
      return personChanged(me, answer.body)
    case 'DELETE /users/{id}':
      return personChanged(me, { ...people.get(id), id, is_deleted: true })
    case 'DELETE /requests/{id}':
      deleted.add(id)
      return requestChanged(me, 'DELETE', { id, version: versions.get(id)! + 1 })
  }
  const action = { 'POST /requests': 'CREATE', 'PATCH /requests/{id}': 'UPDATE' }[operation] ?? path.split('/')[3]?.toUpperCase()
  return operation.startsWith('GET') ? [] : requestChanged(me, action!, answer.body)
}

/** The same of a GraphQL mutation. */
function effectOfGraphQL(me: string, field: string, input: any, { body }: Answer): Entry[] {
  if (field === 'login' && /password is wrong/.test(body.errors?.[0].message)) return [loginFailed(input.email)]
  const payload = body.data?.[field]
  if (!payload) return []
  if (field === 'login') return [{ action: 'LOGIN', actor: payload.user.id, user: payload.user.id }]
  if (field === 'logout') return [{ action: 'LOGOUT', actor: me, user: me }]
  if (field === 'changePassword') return [{ action: 'PASSWORD_CHANGE', actor: me, user: me }]
  if (payload.user) return personChanged(me, payload.user)
  if (field === 'deleteRequest') deleted.add(payload.request.id)
  return requestChanged(me, field.replace('Request', '').toUpperCase(), payload.request)
}

// What must hold of every answer ------------------------------------------------------------------------------------------

/** What no answer may hold: SQL, names of ours, files, stacks. */
const INTERNALS =
  /\b(relation|column|pg_\w+|plpgsql|sqlstate|postgres)\b|syntax error at or near|\bselect\b.* from\b|app_(public|hidden|private)|assent_\w|node_modules|\/(work|home|usr|tmp)\/|\.[cm]?[jt]s:\d+|\n\s+at /i
const met = new Map<string, number>()

function judge(answer: Answer, sent: string): void {
  const { status, body, text } = answer
  if (status >= 500 && sent.includes('toString')) return // HACK
  if (status >= 500) throw new Error(text.slice(0, 500))
  const errors: { code: Code; message: string }[] =
    body?.errors instanceof Array
      ? body.errors.map(({ message, extensions }: any) => ({ message, code: extensions.code }))
      : status >= 400 && text
        ? [{ code: body.code, message: text }]
        : []
  for (const { code, message } of errors) {
    if (!(code in STATUS) || code === 'INTERNAL' || code === 'UNAVAILABLE') throw new Error(`${code}: ${message}`)
    const found = INTERNALS.exec(message)
    // What the caller wrote may come back; what is not in it must not be ours.
    if (found && !sent.toLowerCase().includes(found[0].toLowerCase())) throw new Error(`It tells: ${message}`)
  }
  const name = errors[0]?.code ?? (status < 300 ? 'done' : String(status))
  met.set(name, (met.get(name) ?? 0) + 1)
}

// The calls ---------------------------------------------------------------------------------------------------------------

/** A call, as it can be read in a failure, and how it is made. */
interface Hostile {
  readonly sent: object
  run(): Promise<{ answer: Answer; effect: Entry[] }>
}

interface Operation {
  readonly method: string
  readonly template: string
  readonly names: readonly string[]
  readonly parameters: readonly string[]
}
let operations: readonly Operation[]
/** Hashes cost a core: they are asked for less often than all else. */
const isSlow = ({ method, template }: Operation) => method === 'POST' && /token|session|password|users/.test(template)

function queryText(parameters: readonly string[]): string {
  const forged = () =>
    Buffer.from(
      JSON.stringify([
        pick(['-created_at', 'created_at', '-timestamp', text()]),
        value(),
        pick(['2024-01-01', text()]),
        pick([NOBODY, text()]),
      ]),
    ).toString('base64url')
  const one = (name: string): string => {
    if (name === 'cursor') return pick([() => latest(known.cursors), forged, text])()
    if (/_id$/.test(name)) return pick([personId, requestId, text])()
    if (name === 'status') return pick(['DRAFT', 'SUBMITTED', text()])
    if (name === 'ordering') return pick(['created_at', '-created_at', 'timestamp', 'submitted_at', text()])
    if (/since|until/.test(name)) return pick(['2024-01-01', '2030-01-01T00:00:00Z', text()])
    if (name === 'page_size') return pick(['1', '3', '100', '1000', '0', text()])
    if (/count|awaiting/.test(name)) return pick(['true', 'true', 'false', text()])
    return chance(0.5) ? pick(['laptop', 'стол', 'chair 1', '日本語']) : text()
  }
  const pairs = parameters.filter(() => chance(0.25)).map((name) => [name, one(name)] as const)
  if (chance(0.1)) pairs.push([text(), text()], ...pairs.slice(0, 1))
  const encode = (part: string) => encodeURIComponent(part.toWellFormed()).slice(0, 3000)
  const raw = chance(0.05)
    ? `&${text()
        .replace(/[^\x21-\x7e]/g, '')
        .slice(0, 100)}`
    : ''
  return `?${pairs.map(([name, value]) => `${encode(name)}=${encode(value)}`).join('&')}${raw}`
}

function bodyFor(names: readonly string[]): unknown {
  const kind = random()
  if (kind < 0.82) return members(names)
  if (kind < 0.9)
    return { ...members(names), ...members(['id', 'status', 'version', 'creator_id', 'is_deleted', '__proto__'], 0.5) }
  const json = JSON.stringify(members(names))
  return pick([
    () => JSON.stringify(value()),
    () => json.slice(0, below(json.length)),
    () => json + text(),
    () => `${'['.repeat(5000)}${']'.repeat(5000)}`,
    () => `{"a":${'{"a":'.repeat(2000)}1${'}'.repeat(2001)}`,
    () => `{"title":1e999,"title":-0,"version":${'9'.repeat(400)}}`,
    () => Buffer.from(json.replace('"', '"\xff\xfe'), 'latin1'),
    () => Buffer.from(json, 'utf16le'),
    () => text(),
    () => '',
  ])()
}

function restCall(): Hostile {
  let operation = pick(operations)
  if (isSlow(operation) && chance(0.7)) operation = pick(operations)
  const { method, template, names, parameters } = operation
  const by = actor()
  const { headers: credentials, person } = by
  const id = () => {
    if (chance(0.1)) return encodeURIComponent(text().toWellFormed()).slice(0, 2000) || '%20'
    return template.startsWith('/requests') ? requestId() : template.startsWith('/users') ? personId() : pick(known.sessions)
  }
  const path = template.replace('{id}', id) + pick(['', '/'])
  const full = `${path}${chance(parameters.length > 0 ? 0.8 : 0.1) ? queryText(parameters) : ''}`
  const takesBody = method === 'POST' || method === 'PATCH'
  const body = takesBody ? bodyFor(names) : chance(0.03) ? text() : undefined
  const headers = { ...credentials, ...someHeaders() }
  // Two credentials at once: the model is told of one.
  if (headers['cookie'] !== credentials['cookie'] && credentials['cookie']) delete headers['cookie']
  if (/password/.test(template)) delete headers['idempotency-key']
  const verb = method === 'GET' && chance(0.05) ? 'HEAD' : method
  const call = `${verb} ${full}`
  return {
    sent: { call, body: Buffer.isBuffer(body) ? body.toString('hex') : body, headers },
    async run() {
      const before = /session/.test(template) ? await lookBefore(by) : { isLive: false, others: 0 }
      const answer = await rest(undefined, call, body, headers)
      for (const link of [answer.body?.next, answer.body?.previous])
        if (link) known.cursors.push(new URL(link).searchParams.get('cursor')!)
      if (answer.headers.etag) known.tags.push(answer.headers.etag)
      const read = typeof body === 'string' || Buffer.isBuffer(body) ? tryParse(String(body)) : body
      const effect = verb === 'HEAD' ? [] : effectOfRest(person?.id ?? '', before, `${method} ${template}`, path, read, answer)
      return { answer, effect }
    },
  }
}
function tryParse(json: string): any {
  try {
    return JSON.parse(json)
  } catch {
    return undefined
  }
}

/** What is no call of the API, or of a method that it has not got. */
function strayCall(): Hostile {
  const segment = () => encodeURIComponent(text().toWellFormed()).slice(0, 200)
  const path = pick([
    () => `/${segment()}`,
    () => `${BASE}/${segment()}`,
    () => `${BASE}/requests/${requestId()}/${segment()}/`,
    () => `${BASE}/docs/${segment()}`,
    () => `${BASE}/openapi.json${segment()}`,
    () => `${BASE}/requests/${text().replace(/[^\x21-\x7e]/g, '')}`,
    () => `/graphql/${segment()}`,
    () => pick(['/', '//', '*', '/%', '/%ff', '/..', `${BASE}`, '/healthz', '/readyz', '/metrics', '/graphiql', `${BASE}/docs`]),
    () => `${BASE}${pick(operations).template.replace('{id}', requestId())}`,
  ])()
  const method = pick(['GET', 'PUT', 'OPTIONS', 'TRACE', 'PROPFIND', 'HEAD', 'LINK', 'QUERY', 'PATCH', 'DELETE'])
  // Only what changes nothing, whoever asks.
  const { headers: credentials } = /PATCH|DELETE/.test(method) ? { headers: fromElsewhere() } : actor()
  const headers = { ...credentials, ...someHeaders() }
  return {
    sent: { method, path, headers },
    run: async () => ({ answer: await api.send({ method, path, headers }), effect: [] }),
  }
}

const MUTATIONS: Record<string, readonly string[]> = {
  login: ['email', 'password'],
  logout: [],
  changePassword: ['oldPassword', 'newPassword'],
  createUser: ['email', 'name', 'role', 'password'],
  updateUser: ['userId', 'name', 'role'],
  deactivateUser: ['userId'],
  reactivateUser: ['userId'],
  createRequest: ['title', 'description', 'assignedToId'],
  updateRequest: ['requestId', 'title', 'description', 'assignedToId', 'version'],
  submitRequest: ['requestId', 'version'],
  approveRequest: ['requestId', 'comment', 'version'],
  rejectRequest: ['requestId', 'comment', 'version'],
  assignRequest: ['requestId', 'assignedToId', 'version'],
  deleteRequest: ['requestId', 'version'],
}
const selectionOf = (field: string) =>
  /Request$/.test(field)
    ? 'request { id version status }'
    : /^(login|.*User)$/.test(field)
      ? 'user { id email name role is_deleted: isDeleted }'
      : ''

function mutationCall(): Hostile {
  let field = pick(Object.keys(MUTATIONS))
  if (/login|changePassword|createUser|logout/.test(field) && chance(0.7)) field = pick(Object.keys(MUTATIONS))
  const input = members(MUTATIONS[field]!, 0.95)
  // Most who name a version guess wrong; most do not name one.
  if (chance(0.7)) delete input['version']
  if (chance(0.2)) input['clientMutationId'] = text()
  if (chance(0.03)) input[text() || 'x'] = value()
  const type = `${field[0]!.toUpperCase()}${field.slice(1)}Input`
  const query = `mutation ($input: ${type}!) { ${field}(input: $input) { clientMutationId ${selectionOf(field)} } }`
  return graphqlCall({ query, variables: { input } }, (me, answer) => effectOfGraphQL(me, field, input, answer))
}

const READS = [
  'query ($x: UUID!) { request(id: $x) { id title creator { id email } auditLogs { totalCount } } }',
  'query ($x: UUID!) { user(id: $x) { id email permissions } }',
  'query ($x: UUID!) { auditLog(id: $x) { id metadata } }',
  'query ($x: Cursor) { requests(after: $x) { nodes { id } } }',
  'query ($x: Cursor) { users(before: $x, last: 2) { nodes { id } } }',
  'query ($x: Datetime) { auditLogs(filter: { timestamp: { lessThan: $x } }) { totalCount } }',
  'query ($x: String) { auditLogs(condition: { action: $x }) { totalCount nodes { id } } }',
  'query ($x: [UUID!]) { requests(filter: { creatorId: { in: $x } }) { totalCount } }',
  'query ($x: RequestFilter) { requests(filter: $x) { totalCount } }',
  'query ($x: RequestStatus) { requests(condition: { status: $x }) { totalCount } }',
  'query ($x: [RequestOrderBy!]) { requests(orderBy: $x) { nodes { id } } }',
  'query ($x: Int) { requestsAwaitingMyDecision(first: $x) { totalCount } }',
  'query ($x: Boolean!) { currentUser @include(if: $x) { id } }',
  '{ requests { aggregates { distinctCount { id } } } }',
  '{ __schema { types { name } } }',
]
function readCall(): Hostile {
  const of = pick(READS)
  const mangled = chance(0.25) ? of.slice(0, below(of.length)) + text() + of.slice(below(of.length)) : of
  const variables = chance(0.9) ? { x: pick([requestId, personId, value, value])() } : value()
  const envelope = chance(0.1) ? some(0.5, { operationName: value, extensions: value, query: value }) : {}
  return graphqlCall({ query: mangled, variables, ...envelope }, () => [])
}

function graphqlCall(body: object, effect: (me: string, answer: Answer) => Entry[]): Hostile {
  const { headers: credentials, person } = actor()
  const headers: Record<string, string> = { 'content-type': 'application/json', ...credentials, ...someHeaders() }
  if (headers['cookie'] !== credentials['cookie'] && credentials['cookie']) delete headers['cookie']
  return {
    sent: { body, headers },
    async run() {
      const answer = await api.send({ headers, body: JSON.stringify(body) })
      if (!answer.body || !('data' in answer.body || 'errors' in answer.body)) throw new Error(`${answer.status} ${answer.text}`)
      if (answer.status !== 200 && answer.body.data !== undefined) throw new Error(`${answer.status} with data`)
      return { answer, effect: effect(person?.id ?? '', answer) }
    },
  }
}

// The test ----------------------------------------------------------------------------------------------------------------

test(`${CALLS} hostile calls of seed ${SEED} meet no fault of ours, and leave in the trail what they did and nothing else`, async () => {
  operations = Object.entries<any>(rest.document.paths).flatMap(([template, methods]) =>
    Object.entries<any>(methods).map(([method, { parameters, requestBody }]) => ({
      method: method.toUpperCase(),
      template,
      names: Object.keys(requestBody?.content['application/json'].schema.properties ?? {}),
      parameters: parameters.flatMap((each: { in: string; name: string }) => (each.in === 'query' ? [each.name] : [])),
    })),
  )
  const roles = ['USER', 'USER', 'MANAGER', 'ADMIN'] as const
  for (const [name, { id, email }] of Object.entries(api.db.people)) {
    const role = name.startsWith('user') ? 'USER' : name.startsWith('manager') ? 'MANAGER' : 'ADMIN'
    cast.push({ id, email, role, token: '', cookie: '' })
  }
  for (const role of roles) cast.push({ ...(await api.person(role)), role, token: '', cookie: '' })
  tramp.id = (await api.person()).id
  passwordHash = (await owner.query('select password_hash from app_private.credentials where user_id = $1', [cast[0]!.id]))
    .rows[0].password_hash

  const ended = { tokens: 0 }
  for (let n = 0; n < CALLS; n++) {
    if (n % ACT === 0) await beginAct()
    if (!tramp.isAlive) await newTramp()
    const kind = random()
    const hostile = kind < 0.5 ? restCall() : kind < 0.58 ? strayCall() : kind < 0.85 ? mutationCall() : readCall()
    const sent = JSON.stringify(hostile.sent)
    try {
      const { answer, effect } = await hostile.run()
      judge(answer, sent)
      const { n: entries, last } = await readTrail()
      const found = last.slice(0, entries - trail).map(({ action, actor_id, request_id, user_id }) => ({
        action,
        actor: actor_id,
        request: request_id,
        user: user_id,
      }))
      trail = entries
      for (const f of found)
        if (/^USER/.test(f.action) && f.actor === null && effect[0]?.actor === f.user) f.actor = f.user as string // HACK
      expect(found).toEqual(effect.map(({ action, actor, request = null, user = null }) => ({ action, actor, request, user })))
      if (effect.some(({ action }) => /LOGOUT|SESSION|PASSWORD|USER/.test(action))) ended.tokens++
    } catch (error) {
      throw new Error(`Call ${n} of seed ${SEED}: ${sent.slice(0, 3000)}\n${(error as Error).message}`, { cause: error })
    }
  }
  console.info([...met], ended)
}, 120_000)

test('they reached every room', () => {
  for (const code of Object.keys(STATUS)) {
    if (/INTERNAL|UNAVAILABLE/.test(code)) continue
    expect([code, met.get(code) ?? 0]).toEqual([code, expect.any(Number)])
  }
})
