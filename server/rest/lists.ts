import { invalid } from '../errors.ts'
import { isInstant, toTimestamp } from '../http/instants.ts'
import { MAX_PAGE_SIZE, MOST_COUNTED, PAGE_SIZE } from '../http/pages.ts'
import { summary, type Ask, type Identity } from '../sql/as-caller.ts'
import { prepared } from '../sql/prepared.ts'
import type { Search, Searchable } from '../sql/search.ts'
import { compile, FLAG, isUuid, oneOf, SIZE, TEXT, type Schema } from './schemas.ts'

/** A list that is read page by page, by the position of a row and not by its number: exact while rows are added. */
export interface List {
  /** A relation under the name d, whose rows have an id. */
  readonly from: string
  readonly document: string
  /** Which of its rows are listed; absent for all. */
  readonly where?: string
  /** What it can be ordered by: the column of each name, which begins with "-" if it descends. The first is the default. */
  readonly orderings: Readonly<Record<string, string>>
  readonly filters: Readonly<Record<string, Filter>>
}

export interface Filter {
  readonly schema: Schema
  readonly description?: string
  /** Its text is searched for, and the rows are those that have been found. */
  readonly finds?: Searchable
  /** The condition that it means, given its placeholder; absent for a search, and if the parameter selects the list. */
  readonly where?: (value: string) => string
}

export type Query = Readonly<Record<string, string | string[] | undefined>>
type Parameters = ReadonlyMap<string, unknown>

const LOWEST = '00000000-0000-0000-0000-000000000000'
const HIGHEST = 'ffffffff-ffff-ffff-ffff-ffffffffffff'

/** The schemas of a list's query parameters. */
export const parametersOf = ({ orderings, filters }: List): Record<string, Schema> => ({
  ...Object.fromEntries(Object.entries(filters).map(([name, { schema }]) => [name, schema])),
  ordering: oneOf(Object.keys(orderings)),
  cursor: TEXT,
  page_size: SIZE,
  count: FLAG,
})

const invalidParameter = (field: string, advice: string) => ({
  field,
  message: `Invalid value for parameter ${field}. ${advice}`,
})

/** A parameter's text as a value of its type. Text that is not of the type stays as it is, and the schema refuses it. */
function valueOf(given: string | string[], { type }: Schema): unknown {
  if (typeof given !== 'string') return given
  if (type === 'boolean') return { true: true, false: false }[given] ?? given
  if (type === 'integer' && /^\d+$/.test(given)) return Number(given)
  return given
}

/** Reads the query parameters that have a schema. One without a value counts as left out. Throws VALIDATION_FAILED. */
function makeReadParameters(schemas: Record<string, Schema>): (query: Query) => Parameters {
  const check = compile(schemas)
  return (query) => {
    const given = Object.entries(schemas).flatMap(([name, schema]): [string, unknown][] =>
      query[name] === undefined || query[name] === '' ? [] : [[name, valueOf(query[name], schema)]],
    )
    const faults = check(Object.fromEntries(given))
    if (faults.length > 0) throw invalid(faults.map(({ field, message }) => invalidParameter(field, message)))
    const asTimestamp = (name: string, value: unknown) =>
      schemas[name]!['format'] === 'date-time' ? toTimestamp(value as string) : value
    return new Map(given.map(([name, value]) => [name, asTimestamp(name, value)]))
  }
}

/** A row's place in an ordering. */
interface Position {
  readonly position: string
  readonly id: string
}

/** Where a page begins: after this row or, backwards, before it. */
interface Cursor extends Position {
  readonly backwards: boolean
}

const encodeCursor = (ordering: string, { position, id }: Position, backwards: boolean): string =>
  Buffer.from(JSON.stringify([ordering, backwards, position, id])).toString('base64url')

/** Throws VALIDATION_FAILED for what was not made by encodeCursor, for this ordering. */
function decodeCursor(cursor: string, ordering: string): Cursor {
  const [of, backwards, position, id] = parse(Buffer.from(cursor, 'base64url').toString())
  // In UTC, as PostgreSQL writes it in JSON; the version before took what it writes as text.
  const isPosition = typeof position === 'string' && /\+00(:00)?$/.test(position) && isInstant(position.replace(/\+.*/, 'Z'))
  if (of !== ordering || typeof backwards !== 'boolean' || !isPosition || typeof id !== 'string' || !isUuid(id))
    throw invalid([invalidParameter('cursor', 'Follow the links next and previous.')])
  return { backwards, position, id }
}

function parse(text: string): unknown[] {
  try {
    const value: unknown = JSON.parse(text)
    return Array.isArray(value) ? value : []
  } catch {
    return []
  }
}

/** A condition, and the values that it is about. */
interface Condition {
  readonly text: string
  readonly values: unknown[]
}

/** The condition for what is asked for, where `find` searches for text. */
async function conditionOf(
  { where = 'true', filters }: List,
  parameters: Parameters,
  find: (what: Searchable, name: string) => Promise<readonly string[]>,
): Promise<Condition> {
  const conditions = [where]
  const values: unknown[] = []
  const bind = (value: unknown) => `$${values.push(value)}`
  for (const [name, { where, finds }] of Object.entries(filters)) {
    if (!parameters.has(name)) continue
    if (finds) conditions.push(`d.id = any (${bind(await find(finds, name))}::uuid[])`)
    if (where) conditions.push(where(bind(parameters.get(name))))
  }
  return { text: conditions.join(' and '), values }
}

/** Asks for the rows of a page: those beyond the cursor, in the direction that leads away from it. */
function pageOf(
  { document, from, orderings }: List,
  ordering: string,
  { text, values }: Condition,
  limit: number,
  cursor?: Cursor,
) {
  const column = orderings[ordering]!
  const descending = ordering.startsWith('-') !== (cursor?.backwards ?? false)
  const direction = descending ? 'desc' : 'asc'
  const place = `($${values.length + 1}::timestamptz, $${values.length + 2}::uuid)`
  const statement = prepared(`select ${document}::text as document, to_json(${column}) #>> '{}' as position, d.id
    from ${from}
    where ${text}${cursor ? ` and (${column}, d.id) ${descending ? '<' : '>'} ${place}` : ''}
    order by ${column} ${direction}, d.id ${direction}
    limit ${limit}`)
  return { ...statement, values: cursor ? [...values, cursor.position, cursor.id] : values }
}

/** What a page is read with. `path` is the list's own, for links to its neighbours. */
export interface PageCall {
  readonly caller: Identity
  readonly query: Query
  readonly path: string
  readonly ask: Ask
  readonly search: Search
}

/** Answers one page as JSON text. Throws VALIDATION_FAILED, and what the search throws. */
export function makeReadPage(list: List): (call: PageCall) => Promise<string> {
  const readParameters = makeReadParameters(parametersOf(list))
  return async ({ caller, query, path, ask, search }) => {
    const parameters = readParameters(query)
    const textOf = (name: string) => parameters.get(name) as string | undefined
    const ordering = textOf('ordering') ?? Object.keys(list.orderings)[0]!
    const size = Math.min((parameters.get('page_size') as number | undefined) ?? PAGE_SIZE, MAX_PAGE_SIZE)
    const given = textOf('cursor')
    const cursor = given === undefined ? undefined : decodeCursor(given, ordering)
    const backwards = cursor?.backwards ?? false

    const condition = await conditionOf(list, parameters, (what, name) =>
      search(caller, what, textOf(name)!, (other) => textOf(other) ?? null),
    )
    // One row more than is shown tells whether there are more.
    const rows = await ask<Position & { document: string }>(pageOf(list, ordering, condition, size + 1, cursor))
    const hasMore = rows.length > size
    const page = rows.slice(0, size)
    if (backwards) page.reverse()

    const link = (row: Position | undefined, backwards: boolean) => {
      if (!row) return null
      const search = new URLSearchParams(Array.from(parameters.keys(), (name): [string, string] => [name, query[name] as string]))
      search.set('cursor', encodeCursor(ordering, row, backwards))
      return `${path}?${search}`
    }
    // If all rows beyond the cursor are gone, the way back begins at the cursor's own, and so just past it.
    const [before, behind] = ordering.startsWith('-') ? [HIGHEST, LOWEST] : [LOWEST, HIGHEST]
    const first = page[0] ?? (cursor && { ...cursor, id: behind })
    const last = page.at(-1) ?? (cursor && { ...cursor, id: before })
    const members = [
      `"results":[${page.map(({ document }) => document).join(',')}]`,
      // Backwards, the page that we come from is the next one.
      `"next":${JSON.stringify(hasMore || backwards ? link(last, false) : null)}`,
      `"previous":${JSON.stringify(cursor && (hasMore || !backwards) ? link(first, true) : null)}`,
    ]
    if (parameters.get('count')) {
      const rows = `select from ${list.from} where ${condition.text} limit ${MOST_COUNTED + 1}`
      const counted = prepared(`select count(*)::integer from (${rows}) c`)
      const [row] = await ask<{ count: number }>({ ...counted, name: summary(counted.name), values: condition.values })
      members.push(`"count":${row!.count}`)
    }
    return `{${members.join(',')}}`
  }
}
