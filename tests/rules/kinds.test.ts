import { openStage, type Row, type Stage } from '../harness/stage.ts'

// Kinds of requests, below all doors: who makes them, what a request of a kind has to hold and when, and what the trail says.

let stage: Stage
beforeAll(async () => {
  stage = await openStage()
})
afterAll(() => stage?.close())

const quoted = (value: unknown) => `'${(typeof value === 'string' ? value : JSON.stringify(value)).replaceAll("'", "''")}'`
const SCHEMA = {
  type: 'object',
  properties: { amount: { type: 'integer', minimum: 1 }, currency: { enum: ['EUR', 'USD'] } },
  required: ['amount', 'currency'],
  additionalProperties: false,
}
const save = (id: string, changes: Row) => `select * from app_hidden.save_request_kind(${quoted(id)}, ${quoted(changes)})`
const create = (kind: string, data: unknown) =>
  `select * from app_public.create_request('A request', kind_id => ${quoted(kind)}, data => ${quoted(data)})`
const update = (id: string, data: unknown) => `select * from app_public.update_request('${id}', data => ${quoted(data)})`
const submit = (id: string) => `select * from app_public.submit_request('${id}')`
const faultsOf = async (actor: 'user' | 'admin', statement: string) => {
  const { code, message, column } = await stage.attempt(actor, statement)
  return [code, column, message]
}

beforeAll(async () => {
  await stage.rows('admin', save('PURCHASE', { name: 'Purchase', schema: SCHEMA }))
})

test('the kind of every request is GENERAL, unless it says otherwise, and has no data', async () => {
  const [request] = await stage.rows('user', `select * from app_public.create_request('Plain')`)
  expect(request).toMatchObject({ kind_id: 'GENERAL', data: {} })
  await stage.rows('user', update(request!['id'], { more: 1 }))
  expect(await faultsOf('user', submit(request!['id']))).toEqual(['RQ422', 'data.more', 'There is no such field.'])
  await stage.rows('user', update(request!['id'], {}))
  expect(await stage.rows('user', submit(request!['id']))).toMatchObject([{ status: 'SUBMITTED' }])
})

test('a draft may hold anything; a submission, only what its kind demands', async () => {
  const [{ id }] = (await stage.rows('user', create('PURCHASE', { amount: 'much', more: [] }))) as [{ id: string }]
  const { rows } = await stage.root.query(
    'select app_private.data_faults_of(r) as faults from app_public.requests r where id = $1',
    [id],
  )
  expect(rows[0].faults).toHaveLength(3)
  expect(await faultsOf('user', submit(id))).toEqual(['RQ422', 'data.currency', 'This is required.'])
  expect(await stage.rows('user', `select status, version from app_public.requests where id = '${id}'`)).toEqual([
    { status: 'DRAFT', version: 1 },
  ])
  await stage.rows('user', update(id, { amount: 100, currency: 'EUR' }))
  expect(await stage.rows('user', submit(id))).toMatchObject([{ status: 'SUBMITTED', data: { amount: 100, currency: 'EUR' } }])
  expect((await stage.attempt('user', update(id, {}))).code).toBe('RQ409')
})

test.each(['owner', 'superuser'] as const)(
  'by SQL, the %s cannot submit what the kind refuses, nor change the kind',
  async (actor) => {
    const [{ id }] = (await stage.rows('user', create('PURCHASE', {}))) as [{ id: string }]
    const asAction = (name: string, statement: string) =>
      stage.attempt(actor, `do $$ begin perform set_config('assent.action', '${name}', true); ${statement}; end $$`)
    const submitted = await asAction(
      'SUBMIT',
      `update app_public.requests set status = 'SUBMITTED', submitted_at = now() where id = '${id}'`,
    )
    expect([submitted.code, submitted.column]).toEqual(['RQ422', 'data.amount'])
    const moved = await asAction('UPDATE', `update app_public.requests set kind_id = 'GENERAL' where id = '${id}'`)
    expect(moved.code).toBe('RQ403')
  },
)

test('data is an object of at most 50,000 bytes, whatever the status', async () => {
  expect(await faultsOf('user', create('PURCHASE', [1]))).toEqual(['RQ422', 'data', 'This must be an object.'])
  expect(await faultsOf('user', create('PURCHASE', { note: 'x'.repeat(50_000) }))).toEqual([
    'RQ422',
    'data',
    'The data must have at most 50,000 bytes.',
  ])
  // Nested, as deep as a body can be.
  const depth = 24_000
  const deep = `{"a": ${'['.repeat(depth)}${']'.repeat(depth)}}`
  expect(['54001', 'RQ422', null]).toContain((await stage.attempt('user', create('PURCHASE', deep))).code)
})

test('new requests are of kinds that are offered; drafts of others are still submitted', async () => {
  await stage.rows('admin', save('OLD', { name: 'Old' }))
  const [{ id }] = (await stage.rows('user', create('OLD', {}))) as [{ id: string }]
  await stage.rows('admin', save('OLD', { is_active: false }))
  const refused = ['RQ422', 'kind_id', 'There is no such kind of request, or it is not offered any more.']
  expect(await faultsOf('user', create('OLD', {}))).toEqual(refused)
  expect(await faultsOf('user', create('NONE', {}))).toEqual(refused)
  expect(await faultsOf('user', create('x'.repeat(100), {}))).toEqual(refused)
  expect(await stage.rows('user', submit(id))).toMatchObject([{ status: 'SUBMITTED' }])
})

describe('a kind', () => {
  test('is made and changed by admins alone, and seen by everybody who is logged in', async () => {
    for (const actor of ['user', 'manager'] as const) {
      expect((await stage.attempt(actor, save('MINE', { name: 'Mine' }))).code).toBe('RQ403')
      expect((await stage.attempt(actor, save('PURCHASE', { name: 'Mine' }))).code).toBe('RQ403')
      expect((await stage.rows(actor, 'select id from app_public.request_kinds')).length).toBeGreaterThan(1)
    }
    expect((await stage.attempt('demoted', save('MINE', { name: 'Mine' }))).code).toMatch(/^RQ40[13]$/)
    expect((await stage.attempt('anonymous', 'select id from app_public.request_kinds')).code).toBe('42501')
    // Whoever merely sets the role sees none.
    expect(
      await stage.attempt('authenticator', 'select id from app_public.request_kinds', { role: 'assent_user', fetch: true }),
    ).toMatchObject({ code: null, count: 0 })
  })

  test('says everything that is wrong with it at once', async () => {
    const { rows } = await stage.root.query(
      `select app_private.violations('app_public.request_kinds', $1) || app_private.schema_faults($1 -> 'schema') as faults`,
      [JSON.stringify({ id: 'no id', name: ' ', schema: { type: 'object', oneOf: [] } })],
    )
    expect(rows[0].faults.map(({ field }: Row) => field)).toEqual(['id', 'name', 'schema.oneOf'])
    expect(await faultsOf('admin', save('no id', { name: ' ', schema: { type: 'object', oneOf: [] } }))).toEqual([
      'RQ422',
      'id',
      'The id must have 1 to 50 characters: capital letters, digits and underscores, with a letter first.',
    ])
    expect(await faultsOf('admin', save('NAMELESS', {}))).toEqual(['RQ422', 'name', 'A value for name is required.'])
    expect(await faultsOf('admin', save('PURCHASE', { schema: { type: 'object', $ref: '#' } }))).toEqual([
      'RQ422',
      'schema.$ref',
      'This keyword is not known here.',
    ])
    expect((await faultsOf('admin', save('PURCHASE', { schema: { type: 'object', description: 'x'.repeat(50_000) } })))[1]).toBe(
      'schema',
    )
  })

  test.each(['is_active', 'schema'])('GENERAL keeps its %s', async (field) => {
    const changes = { is_active: false, schema: { type: 'object' } }[field]
    expect(await faultsOf('admin', save('GENERAL', { [field]: changes }))).toEqual([
      'RQ422',
      'is_active',
      'The kind GENERAL is always there, and its requests have no data.',
    ])
    expect(await stage.rows('admin', save('GENERAL', { name: 'Anything' }))).toMatchObject([{ name: 'Anything' }])
  })

  test('leaves one entry for each change, whoever makes it, and is never removed', async () => {
    const bare = ({ action, actor_id, metadata }: Row) => ({ action, actor: stage.name(actor_id), metadata })
    const made = await stage.leaves(() => stage.rows('admin', save('TRAVEL', { name: 'Travel' })))
    expect(made.map(bare)).toMatchObject([
      { action: 'KIND_CREATE', actor: 'admin', metadata: { kind: 'TRAVEL', name: { old: null, new: 'Travel' } } },
    ])
    const changed = await stage.leaves(() => stage.rows('admin', save('TRAVEL', { name: 'Journey' })))
    expect(changed.map(bare)).toEqual([
      { action: 'KIND_UPDATE', actor: 'admin', metadata: { kind: 'TRAVEL', name: { old: 'Travel', new: 'Journey' } } },
    ])
    expect(await stage.leaves(() => stage.rows('admin', save('TRAVEL', { name: 'Journey' })))).toEqual([])
    const bySql = await stage.leaves(() =>
      stage.attempt('owner', `update app_public.request_kinds set is_active = false where id = 'TRAVEL'`, { keep: true }),
    )
    expect(bySql.map(bare)).toEqual([
      {
        action: 'KIND_UPDATE',
        actor: null,
        metadata: { kind: 'TRAVEL', is_active: { old: true, new: false }, database_user: 'assent_owner' },
      },
    ])
    for (const statement of ['delete from app_public.request_kinds', 'truncate app_public.request_kinds cascade']) {
      expect((await stage.attempt('owner', statement)).code).toBe('RQ403')
    }
  })

  test('by SQL, too, has a schema of known keywords alone', async () => {
    const { code, column } = await stage.attempt(
      'owner',
      `update app_public.request_kinds set schema = '{"type": "object", "not": {}}' where id = 'PURCHASE'`,
    )
    expect([code, column]).toEqual(['RQ422', 'schema.not'])
  })
})

test('data that was changed is in the trail, old and new', async () => {
  const [{ id }] = (await stage.rows('user', create('PURCHASE', { amount: 1 }))) as [{ id: string }]
  const entries = await stage.leaves(() => stage.rows('user', update(id, { amount: 2 })))
  expect(entries).toMatchObject([{ action: 'UPDATE', metadata: { data: { old: { amount: 1 }, new: { amount: 2 } } } }])
})
