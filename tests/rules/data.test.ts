import { readFileSync } from 'node:fs'
import { Ajv2020 } from 'ajv/dist/2020.js'
import fc from 'fast-check'
import type pg from 'pg'
import { cloneDatabase, type TestDatabase } from '../harness/database.ts'

// Data against a schema, in SQL: beside the official test suite, and beside ajv on whatever fast-check thinks up. What a schema may
// say.

let db: TestDatabase
let root: pg.Client
beforeAll(async () => {
  db = await cloneDatabase()
  root = await db.connect('root')
})
afterAll(() => db.close())

type Json = Record<string, any>
interface Fault {
  readonly field: string
  readonly message: string
}

const schemaFaults = async (schema: unknown): Promise<Fault[]> =>
  (await root.query('select app_private.schema_faults($1) as faults', [JSON.stringify(schema)])).rows[0].faults
/** What is wrong with each of these values by the schema beside it. */
async function dataFaults(pairs: readonly (readonly [value: unknown, schema: unknown])[]): Promise<Fault[][]> {
  const { rows } = await root.query(
    `select app_private.data_faults(pair -> 0, pair -> 1) as faults
     from jsonb_array_elements($1::jsonb) with ordinality p (pair, place) order by place`,
    [JSON.stringify(pairs)],
  )
  return rows.map(({ faults }) => faults)
}

describe('the official test suite', () => {
  // Of draft 4, the newest that there is a package of; what these keywords mean is the same in 2020-12, but for two: there,
  // exclusiveMinimum and exclusiveMaximum are numbers, and so they are left to ajv.
  const FILES = [
    'additionalProperties',
    'enum',
    'items',
    'maximum',
    'maxItems',
    'maxLength',
    'minimum',
    'minItems',
    'minLength',
    'multipleOf',
    'pattern',
    'properties',
    'required',
    'type',
    'uniqueItems',
  ]
  interface Case {
    readonly description: string
    readonly schema: Json
    readonly tests: readonly { description: string; data: unknown; valid: boolean }[]
  }
  const folder = 'node_modules/json-schema-test-suite/tests/draft4'
  const cases = FILES.flatMap((file): Case[] => JSON.parse(readFileSync(`${folder}/${file}.json`, 'utf8')))
  const KNOWN = /^(type|enum|minimum|maximum|multipleOf|(min|max)(Length|Items)|pattern|uniqueItems|required)$/
  const isOurs = (schema: unknown): boolean =>
    typeof schema !== 'object' ||
    Object.entries(schema as Json).every(([keyword, value]) => {
      if (keyword === 'properties') return Object.values(value).every(isOurs)
      if (keyword === 'items' || keyword === 'additionalProperties') return !Array.isArray(value) && isOurs(value)
      return KNOWN.test(keyword)
    })
  const applicable = cases.filter(({ schema }) => isOurs(schema))
  test('has cases for every keyword', () => {
    expect(applicable.length).toBe(30)
    for (const { schema } of cases)
      if (!isOurs(schema)) expect(JSON.stringify(schema)).toMatch(/patternProp|exclusive|"items":\[|additionalItems/)
  })
  test.each(applicable.map((one) => [one.description, one] as const))('%s', async (_, { schema, tests }) => {
    const found = await dataFaults(tests.map(({ data }) => [data, schema]))
    expect(tests.map(({ description }, n) => [description, found[n]!.length === 0])).toEqual(
      tests.map(({ description, valid }) => [description, valid]),
    )
  })
})

describe('ajv', () => {
  const ajv = new Ajv2020({ strict: false, validateFormats: false })
  const number = fc.oneof(fc.integer({ min: -5, max: 20 }), fc.constantFrom(0, 0.5, 1.5, -2.25, 10.75, 1e3))
  const text = fc.oneof(fc.constantFrom('', 'a', 'ab', 'abc', 'EUR', 'USD', '2026-01-31', '🙂', 'ä'), fc.string({ maxLength: 5 }))
  const key = fc.constantFrom('amount', 'currency', 'items', 'note', 'who')
  const { value } = fc.letrec<{ value: unknown }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 3 },
      number,
      text,
      fc.boolean(),
      fc.constant(null),
      fc.array(tie('value'), { maxLength: 3 }),
      fc.dictionary(key, tie('value'), { maxKeys: 4, noNullPrototype: true }),
    ),
  }))
  const type = fc.constantFrom('null', 'boolean', 'integer', 'number', 'string', 'array', 'object')
  const count = fc.integer({ min: 0, max: 3 })
  const keywords = (schema: fc.Arbitrary<unknown>) => ({
    type: fc.oneof(type, fc.uniqueArray(type, { minLength: 1, maxLength: 3 })),
    enum: fc.uniqueArray(value, { minLength: 1, maxLength: 4, comparator: (a, b) => JSON.stringify(a) === JSON.stringify(b) }),
    const: value,
    minimum: number,
    maximum: number,
    exclusiveMinimum: number,
    exclusiveMaximum: number,
    multipleOf: fc.constantFrom(1, 2, 0.5, 0.25, 3),
    minLength: count,
    maxLength: count,
    pattern: fc.constantFrom('^a', 'b$', '^[A-Z]{3}$', '\\d+', '^(?:EUR|USD)$', '^[^x]*$'),
    items: schema,
    minItems: count,
    maxItems: count,
    uniqueItems: fc.boolean(),
    properties: fc.dictionary(key, schema, { maxKeys: 3, noNullPrototype: true }),
    required: fc.uniqueArray(key, { maxLength: 2 }),
    additionalProperties: schema,
  })
  const { schema } = fc.letrec<{ schema: unknown }>((tie) => ({
    schema: fc.oneof(
      { maxDepth: 3, withCrossShrink: true },
      fc.boolean(),
      fc
        .tuple(
          fc.record(keywords(tie('schema')), { requiredKeys: [] }),
          fc.uniqueArray(fc.nat(19), { minLength: 1, maxLength: 3 }),
        )
        // Few keywords at a time, or nothing would ever be valid.
        .map(([all, kept]) => Object.fromEntries(Object.entries(all).filter((_, n) => kept.includes(n)))),
    ),
  }))

  test('says the same of 10,000 values, and finds the same fields', async () => {
    const pairs = fc.sample(fc.tuple(value, schema), { numRuns: 10_000, seed: 20261127 })
    const found = await dataFaults(pairs)
    let valid = 0
    for (const [n, [value, schema]] of pairs.entries()) {
      const isValid = ajv.validate(schema as object, value)
      if (isValid) valid++
      expect({ value, schema, faults: found[n], isValid: found[n]!.length === 0 }).toMatchObject({ isValid })
      // Half of the schemas would be refused for their patterns or depth, were they read by different rules.
      if (schema !== true && schema !== false) ajv.removeSchema(schema as object)
    }
    expect(valid).toBeGreaterThan(2_000)
    expect(valid).toBeLessThan(8_000)
  })
})

test('each fault is said of its field, the first of each, and all at once', async () => {
  const schema = {
    type: 'object',
    properties: {
      amount: { type: 'integer', minimum: 1 },
      currency: { enum: ['EUR', 'USD'] },
      items: { type: 'array', items: { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] } },
    },
    required: ['amount', 'currency', 'reason'],
    additionalProperties: false,
  }
  const data = { amount: 0.5, currency: 'XXX', items: [{ name: 'A' }, {}, 3], more: 1 }
  const [faults] = await dataFaults([[data, schema]])
  expect(Object.fromEntries(faults!.map(({ field, message }) => [field, message]))).toEqual({
    'data.amount': 'This must be a whole number.',
    'data.currency': 'This must be one of EUR, USD.',
    'data.items.1.name': 'This is required.',
    'data.items.2': 'This must be an object.',
    'data.more': 'There is no such field.',
    'data.reason': 'This is required.',
  })
})

describe('a schema', () => {
  const inObject = (schema: unknown) => ({ type: 'object', properties: { it: schema } })
  test.each([
    [
      {
        type: 'string',
        minLength: 1,
        maxLength: 20,
        pattern: '^[A-Z]+$',
        title: 'T',
        description: 'D',
        default: 'A',
        examples: ['A'],
      },
    ],
    [{ type: ['integer', 'null'], minimum: 0, maximum: 10, exclusiveMinimum: -1, exclusiveMaximum: 11, multipleOf: 0.01 }],
    [{ type: 'array', items: { enum: [1, 'a', null] }, minItems: 0, maxItems: 3, uniqueItems: true }],
    [{ type: 'object', properties: {}, required: ['a'], additionalProperties: { const: false } }],
    [true],
  ])('may say %j', async (schema) => expect(await schemaFaults(inObject(schema))).toEqual([]))

  test.each([
    [{ oneOf: [] }, 'oneOf'],
    [{ $ref: '#' }, '$ref'],
    [{ format: 'date' }, 'format'],
    [{ type: 'text' }, 'type'],
    [{ type: [] }, 'type'],
    [{ enum: 'a' }, 'enum'],
    [{ minimum: '1' }, 'minimum'],
    [{ multipleOf: 0 }, 'multipleOf'],
    [{ maxLength: -1 }, 'maxLength'],
    [{ maxLength: 1.5 }, 'maxLength'],
    [{ pattern: '(' }, 'pattern'],
    [{ pattern: '(a)\\1' }, 'pattern'],
    [{ pattern: '(?=a)' }, 'pattern'],
    [{ pattern: '(?i)a' }, 'pattern'],
    [{ pattern: '\\p{L}' }, 'pattern'],
    [{ pattern: '[[:alpha:]]' }, 'pattern'],
    [{ pattern: '***=a' }, 'pattern'],
    [{ pattern: 'a'.repeat(201) }, 'pattern'],
    [{ required: [1] }, 'required'],
    [{ properties: [] }, 'properties'],
    [{ properties: { 'a.b': true } }, 'properties'],
    [{ items: [true] }, 'items'],
    [{ additionalProperties: null }, 'additionalProperties'],
    [{ title: 1 }, 'title'],
    [{ properties: { deep: { items: { minimum: null } } } }, 'properties.deep.items.minimum'],
  ])('may not say %j', async (schema, place) => {
    expect(await schemaFaults(inObject(schema))).toEqual([
      { field: `schema.properties.it.${place}`, message: expect.stringMatching(/\.$/) },
    ])
  })

  test('is of an object, and at most 10 deep', async () => {
    for (const schema of [true, [], 'object', null, {}, { type: 'array' }]) {
      expect(await schemaFaults(schema)).toEqual([{ field: 'schema', message: expect.any(String) }])
    }
    const nested = (depth: number): unknown => (depth === 0 ? true : { items: nested(depth - 1) })
    expect(await schemaFaults({ type: 'object', additionalProperties: nested(9) })).toEqual([])
    expect(await schemaFaults({ type: 'object', additionalProperties: nested(11) })).toHaveLength(1)
  })
})
