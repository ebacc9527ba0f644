import { createHash } from 'node:crypto'
import { ClientError } from './errors.ts'
import { flag, instant, isUuid, oneOf, pageSize, text, type ParameterType } from './parameters.ts'
import type { Ask } from './transaction.ts'

/** A list that is read page by page, by the position of a row and not by its number: exact while rows are added. */
export interface List {
  readonly from: string
  readonly id: string
  readonly document: string
  readonly where: readonly string[]
  /** By name, with "-" for descending, the column that it goes by; the first is the default. Each has an index. */
  readonly orderings: Record<string, string>
  readonly filters: Record<string, Filter>
}

export interface Filter {
  readonly type: ParameterType
  readonly description?: string
  /** The condition that it means, given its placeholder; without it, it has chosen the list. */
  readonly where?: (value: string) => string
}

export type Query = Record<string, string | string[] | undefined>

/** Rows are counted as far as this: to count more would cost more as tables grow. */
export const MOST_COUNTED = 10_000

/** The query parameters of a list. */
export const parametersOf = ({ orderings, filters }: List): Record<string, ParameterType> => ({
  ...Object.fromEntries(Object.entries(filters).map(([name, { type }]) => [name, type])),
  ordering: oneOf(Object.keys(orderings)),
  cursor: text,
  page_size: pageSize,
  count: flag,
})

const invalid = (field: string) =>
  new ClientError('VALIDATION_FAILED', `The parameter ${field} has a value that it cannot have.`, { field })

/** Reads query parameters of these types. One without a value counts as left out. Throws VALIDATION_FAILED. */
function readParameters(types: Record<string, ParameterType>, query: Query): Record<string, any> {
  const values: Record<string, unknown> = {}
  for (const [name, type] of Object.entries(types)) {
    const given = query[name]
    if (given === undefined || given === '') continue
    const value = typeof given === 'string' ? type.read(given) : undefined
    if (value === undefined) throw invalid(name)
    values[name] = value
  }
  return values
}

/** Where a page begins: after this row or, backwards, before it. */
interface Cursor {
  readonly ordering: string
  readonly backwards: boolean
  readonly position: string
  readonly id: string
}

const encodeCursor = ({ ordering, backwards, position, id }: Cursor): string =>
  Buffer.from(JSON.stringify([ordering, backwards, position, id])).toString('base64url')

function decodeCursor(cursor: string, ordering: string): Cursor {
  try {
    const [of, backwards, position, id] = JSON.parse(Buffer.from(cursor, 'base64url').toString()) as any[]
    const at = instant.read(position.replace(/([+-]\d\d)$/, '$1:00'))
    if (of === ordering && typeof backwards === 'boolean' && at && isUuid(id)) return { ordering, backwards, position, id }
  } catch {
    // It was not made here.
  }
  throw invalid('cursor')
}

/** The same text always has the same name, so that PostgreSQL plans it once for each connection. */
const names = new Map<string, string>()
export function prepared(text: string): { text: string; name: string } {
  let name = names.get(text)
  if (!name) names.set(text, (name = createHash('sha256').update(text).digest('base64').slice(0, 16)))
  return { text, name }
}

/** Answers one page as JSON text. `url` is the list's own, for links to its neighbours. Throws VALIDATION_FAILED. */
export async function readPage(ask: Ask, list: List, query: Query, url: string): Promise<string> {
  const parameters = readParameters(parametersOf(list), query)
  const { ordering = Object.keys(list.orderings)[0]!, page_size: size = 20 } = parameters
  const cursor = parameters['cursor'] && decodeCursor(parameters['cursor'], ordering)
  const backwards: boolean = cursor?.backwards ?? false
  const column = list.orderings[ordering]!
  const direction = ordering.startsWith('-') !== backwards ? 'desc' : 'asc'

  const values: unknown[] = []
  const bind = (value: unknown) => `$${values.push(value)}`
  const filters = Object.entries(list.filters).flatMap(([name, { where }]) =>
    where && name in parameters ? [where(bind(parameters[name]))] : [],
  )
  const matching = [...list.where, ...filters].join(' and ') || 'true'
  const filterValues = [...values]
  const beyond = cursor
    ? ` and (${column}, ${list.id}) ${direction === 'desc' ? '<' : '>'} (${bind(cursor.position)}::timestamptz, ${bind(cursor.id)}::uuid)`
    : ''
  const rows = await ask<{ document: string; position: string; id: string }>({
    ...prepared(
      `select ${list.document}::text as document, ${column}::text as position, ${list.id} as id from ${list.from}
       where ${matching}${beyond} order by ${column} ${direction}, ${list.id} ${direction} limit ${size + 1}`,
    ),
    values,
  })

  const page = rows.slice(0, size)
  if (backwards) page.reverse()
  const link = (row: { position: string; id: string } | undefined, backwards: boolean) => {
    if (!row) return null
    const search = new URLSearchParams(Object.keys(parameters).map((name): [string, string] => [name, query[name] as string]))
    search.set('cursor', encodeCursor({ ordering, backwards, position: row.position, id: row.id }))
    return `${url}?${search}`
  }
  const hasMore = rows.length > size
  const members = [
    `"results":[${page.map(({ document }) => document).join(',')}]`,
    `"next":${JSON.stringify(hasMore || backwards ? link(page.at(-1), false) : null)}`,
    `"previous":${JSON.stringify(backwards ? (hasMore ? link(page[0], true) : null) : cursor ? link(page[0], true) : null)}`,
  ]
  if (parameters['count']) {
    const counted = prepared(`select count(*)::integer from (select from ${list.from} where ${matching} limit ${MOST_COUNTED}) c`)
    const [row] = await ask<{ count: number }>({ ...counted, values: filterValues })
    members.push(`"count":${row!.count}`)
  }
  return `{${members.join(',')}}`
}
