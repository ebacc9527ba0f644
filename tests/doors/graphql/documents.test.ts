import { readFileSync } from 'node:fs'
import { buildSchema } from 'graphql'
import { makeDocuments, type Call } from '../../../server/graphql/documents.ts'

// What is kept of documents: valid ones that are short, as many as weigh no more than the cache holds.

const schema = buildSchema(readFileSync('server/graphql/schema.graphql', 'utf8'))
const { read, validate } = makeDocuments(schema, false)
const call = (query: string, variables = {}): Call => ({ query, variables, operationName: undefined })
const use = (made: Call) => {
  const parsed = read(made)
  if (!parsed.isValid) validate(made, parsed)
  return parsed
}
const isKept = (made: Call) => read(made).isValid

test('a valid document is kept, an invalid one is not', () => {
  expect(isKept(call('{ currentUser { id } }'))).toBe(false)
  use(call('{ currentUser { id } }'))
  expect(isKept(call('{ currentUser { id } }'))).toBe(true)
  expect(() => use(call('{ currentUser { nope } }'))).toThrow('Cannot query field')
  expect(isKept(call('{ currentUser { nope } }'))).toBe(false)
})

test('a text that is long is not kept', () => {
  const padded = (length: number) => call('{ currentUser { id } } #'.padEnd(length, 'x'))
  for (const [length, kept] of [
    [8_000, true],
    [8_001, false],
    [1_000_000, false],
  ] as const) {
    use(padded(length))
    expect([length, isKept(padded(length))]).toEqual([length, kept])
  }
})

test('those used longest ago go first, and the larger they are the fewer are kept', () => {
  const document = (fields: number, n: number) => call(`{ currentUser { ${'id '.repeat(fields)} } } # ${n}`)
  const countKept = (of: number, fields: number) => {
    const all = Array.from({ length: of }, (_, n) => document(fields, n))
    all.forEach(use)
    const kept = all.map(isKept)
    expect(kept.lastIndexOf(false)).toBe(kept.indexOf(true) - 1)
    return kept.filter(Boolean).length
  }
  expect(countKept(40, 350)).toBeLessThan(25)
  expect(countKept(600, 10)).toBe(600)
})

test('each combination of conditions is a document, and no other variable makes one', () => {
  const query = 'query ($if: Boolean!, $id: UUID!) { request(id: $id) { id title @include(if: $if) } }'
  use(call(query, { if: true, id: '1' }))
  expect(isKept(call(query, { if: true, id: '2' }))).toBe(true)
  expect(isKept(call(query, { if: false, id: '1' }))).toBe(false)
})

test('plans belong to their document', () => {
  const [one, other] = ['{ currentUser { id } }', '{ currentUser { name } }'].map((query) => use(call(query)).schema)
  expect(one!.extensions['grafast']).not.toBe(other!.extensions['grafast'])
  expect(one!.getQueryType()).toBe(schema.getQueryType())
})
