import type pg from 'pg'
import { openStage, type Person, type Row, type Stage } from '../harness/stage.ts'

// The same POST under the same key has one effect: claimed, done and answered in one transaction.

let stage: Stage
let clients: pg.Client[]

beforeAll(async () => {
  stage = await openStage()
  clients = [await stage.db.connect('auth'), await stage.db.connect('auth')]
})
afterAll(() => stage?.close())
beforeEach(() => stage.root.query('delete from app_private.idempotency_keys'))

const answer = '{"status":201,  "body":"{\\"b\\":1,\\"a\\":2}"}' // as it was written, blanks and order too

/** A transaction of somebody, on the first connection or the second, up to the answer of the claim. */
async function claim(person: Person, { on = 0, key = 'key', prints = ['aa'] } = {}): Promise<Row> {
  const client = clients[on]!
  await client.query('begin')
  await client.query(`select app_hidden.become($1, '')`, [stage.secret[person]])
  const bytes = prints.map((print) => Buffer.from(print, 'hex'))
  const claim = 'select state, answer::text from app_hidden.claim_idempotency_key($1, $2)'
  return (await client.query(claim, [key, bytes])).rows[0]
}
const keep = ({ on = 0, key = 'key', prints = ['aa'] } = {}) =>
  clients[on]!.query('select app_hidden.keep_answer($1, $2, $3)', [key, Buffer.from(prints[0]!, 'hex'), answer])
const end = (how: 'commit' | 'rollback', on = 0) => clients[on]!.query(how)

/** A claim that is all that its transaction does. */
async function claimed(person: Person, options: Parameters<typeof claim>[1] = {}): Promise<Row> {
  return claim(person, options).finally(() => end('commit', options.on))
}
async function answered(person: Person, options: Parameters<typeof claim>[1] = {}): Promise<void> {
  expect(await claim(person, options)).toEqual(NEW)
  await keep(options)
  await end('commit')
}

const [NEW, RUNNING, OTHER] = ['NEW', 'RUNNING', 'OTHER'].map((state) => ({ state, answer: null }))
const ANSWERED = { state: 'ANSWERED', answer }

test('a key is new once, and then has its answer, as often as one asks', async () => {
  await answered('user')
  for (let i = 0; i < 3; i++) expect(await claimed('user')).toEqual(ANSWERED)
})

test('another request under the same key is told so, and not the answer', async () => {
  await answered('user')
  expect(await claimed('user', { prints: ['bb'] })).toEqual(OTHER)
  // Nor does it take the first one's place.
  expect(await claimed('user')).toEqual(ANSWERED)
})

test('a request is known by any of its fingerprints: their keys can be replaced', async () => {
  await answered('user')
  expect(await claimed('user', { prints: ['bb', 'aa'] })).toEqual(ANSWERED)
  expect(await claimed('user', { prints: ['bb', 'cc'] })).toEqual(OTHER)
})

test.each([
  ['another key', 'user', 'other'],
  ['a key in another case', 'user', 'KEY'],
  ["another's key", 'user2', 'key'],
] as const)('%s is another', async (_, person, key) => {
  await answered('user')
  expect(await claimed(person, { key })).toEqual(NEW)
})

test('what is rolled back leaves nothing: neither what was done nor its answer', async () => {
  const count = async () => (await stage.root.query('select from app_public.requests')).rowCount!
  const before = await count()
  for (const [how, more] of [
    ['rollback', 0],
    ['commit', 1],
  ] as const) {
    expect(await claim('user')).toEqual(NEW)
    await clients[0]!.query(`select app_public.create_request('Once')`)
    await keep()
    await end(how)
    expect(await count()).toBe(before + more)
  }
  expect(await claimed('user')).toEqual(ANSWERED)
})

test('a claim that was not answered was none', async () => {
  expect(await claimed('user')).toEqual(NEW)
  expect(await claimed('user')).toEqual(NEW)
})

test.each([
  ['commit', ANSWERED],
  ['rollback', NEW],
] as const)('while one is at it the second is told so; after its %s no more', async (how, after) => {
  expect(await claim('user')).toEqual(NEW)
  await keep()
  // With whatever fingerprint: there is no answer yet to compare with.
  for (const prints of [['aa'], ['bb']]) expect(await claimed('user', { on: 1, prints })).toEqual(RUNNING)
  // Others are not hindered.
  expect(await claimed('user', { on: 1, key: 'other' })).toEqual(NEW)
  expect(await claimed('user2', { on: 1 })).toEqual(NEW)
  await end(how)
  expect(await claimed('user', { on: 1 })).toEqual(after)
})

test('of two at once one is new', async () => {
  for (let i = 0; i < 20; i++) {
    const states = await Promise.all([0, 1].map((on) => claim('user', { on, key: `key ${i}` })))
    expect(states.map(({ state }) => state).sort()).toEqual(['NEW', 'RUNNING'])
    await Promise.all([0, 1].map((on) => end('commit', on)))
  }
})

test.each([
  ['23:59:30', ANSWERED],
  ['24:00:01', NEW],
])('an answer is good for 24 hours: after %s', async (age, expected) => {
  await answered('user')
  await answered('user2')
  await stage.root.query('update app_private.idempotency_keys set created_at = now() - $1::interval', [age])
  expect(await claimed('user')).toEqual(expected)
  // Whoever claims clears away what is over, of others too.
  const { rowCount } = await stage.root.query('select from app_private.idempotency_keys')
  expect(rowCount).toBe(expected === NEW ? 0 : 2)
})

test('what is over is cleared away a few at a time, oldest first, and not waited for', async () => {
  await stage.root.query(
    `insert into app_private.idempotency_keys (user_id, key, fingerprint, answer, created_at)
     select $1, n, '', '{}', now() - interval '25 hours' - n * interval '1 hour' from generate_series(1, 15) n`,
    [stage.id.user2],
  )
  const keys = async () => {
    const { rows } = await stage.root.query('select key::integer from app_private.idempotency_keys order by 1')
    return rows.map(({ key }) => key)
  }
  expect(await claim('user2', { key: '15' })).toEqual(NEW) // itself over, and the oldest
  expect(await claimed('user', { on: 1 })).toEqual(NEW) // the other ten are being cleared away
  expect(await keys()).toEqual([6, 7, 8, 9, 10, 11, 12, 13, 14, 15])
  await end('rollback')
  expect(await claimed('user')).toEqual(NEW)
  expect(await keys()).toEqual([])
})

test.each<[string, Person, string, string, typeof ANSWERED | null]>([
  ['a demoted admin', 'admin2', 'ADMIN', 'MANAGER', null],
  ['a demoted manager', 'manager2', 'MANAGER', 'USER', null],
  ['somebody promoted', 'user2', 'USER', 'ADMIN', ANSWERED],
])('%s is shown the answer only with the permissions of then', async (_, person, then, now, expected) => {
  const become = (role: string) =>
    stage.root.query('update app_public.users set role = $1 where id = $2', [role, stage.id[person]])
  await answered(person)
  try {
    await become(now)
    const met = await claimed(person).catch(({ code }: pg.DatabaseError) => code)
    expect(met).toEqual(expected ?? 'RQ403')
    // Of another request it is told as before, and other keys are new.
    expect(await claimed(person, { prints: ['bb'] })).toEqual(OTHER)
    expect(await claimed(person, { key: 'other' })).toEqual(NEW)
  } finally {
    await become(then)
  }
  expect(await claimed(person)).toEqual(ANSWERED)
})

test('a key that is over can be used for another request', async () => {
  await answered('user')
  await stage.root.query(`update app_private.idempotency_keys set created_at = now() - interval '25 hours'`)
  await answered('user', { prints: ['bb'] })
  expect(await claimed('user', { prints: ['aa'] })).toEqual(OTHER)
})

test.each([
  ['', '23514'],
  ['x'.repeat(255), null],
  ['x'.repeat(256), '23514'],
])('a key has 1 to 255 characters', async (key, code) => {
  const outcome = await stage.attempt('user', `select app_hidden.keep_answer('${key}', '\\xaa', '{}')`)
  expect(outcome.code).toBe(code)
})

test('the first answer stays the answer', async () => {
  await answered('user')
  await stage.attempt('user', `select app_hidden.keep_answer('key', '\\xbb', '{}')`, { keep: true })
  expect(await claimed('user')).toEqual(ANSWERED)
})

test('who is nobody has no keys', async () => {
  const statement = `select app_hidden.claim_idempotency_key('key', '{}')`
  expect((await stage.attempt('anonymous', statement)).code).toBe('42501')
  expect((await stage.attempt('anonymous', statement, { role: 'assent_user' })).code).toBe('RQ401')
  const keeping = `select app_hidden.keep_answer('key', '', '{}')`
  expect((await stage.attempt('anonymous', keeping, { role: 'assent_user' })).code).toBe('RQ401')
})
