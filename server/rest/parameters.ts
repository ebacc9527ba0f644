/** What a query parameter can be: its JSON Schema, and how its text is read. `read` answers undefined for what it is not. */
export interface ParameterType {
  readonly schema: Record<string, unknown>
  read(text: string): unknown
}

const matching = (schema: Record<string, unknown>, accepts: (text: string) => boolean): ParameterType => ({
  schema,
  read: (text) => (accepts(text) ? text : undefined),
})

const UUID = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i
export const isUuid = (text: string): boolean => UUID.test(text)

/** RFC 3339, as strictly as PostgreSQL and ECMAScript both read it; without an offset it is UTC. */
const INSTANT = /^((?!0000)\d{4}-\d\d-\d\d)([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-](0\d|1[0-5]):?\d\d)?)?$/i

/** A day that is in the calendar, which ECMAScript takes the 30th of February for too. */
function isInstant(text: string): boolean {
  const [, day] = INSTANT.exec(text) ?? []
  return day !== undefined && !Number.isNaN(Date.parse(text)) && new Date(`${day}T00:00:00Z`).toISOString().startsWith(day)
}

export const uuid = matching({ type: 'string', format: 'uuid' }, isUuid)
export const instant = matching(
  { type: 'string', format: 'date-time' },
  // A "+" that was not encoded arrives as a blank; then it is no instant.
  isInstant,
)
export const text = matching({ type: 'string' }, (text) => text.isWellFormed() && !text.includes('\0'))
export const oneOf = (choices: readonly string[]): ParameterType =>
  matching({ type: 'string', enum: choices }, (text) => choices.includes(text))
export const flag: ParameterType = {
  schema: { type: 'boolean' },
  read: (text) => ({ true: true, false: false })[text],
}
/** A larger page is asked for in vain, not in error. */
export const pageSize: ParameterType = {
  schema: { type: 'integer', minimum: 1, default: 20, description: 'More than 100 means 100.' },
  read: (text) => (/^\d+$/.test(text) && Number(text) > 0 ? Math.min(Number(text), 100) : undefined),
}
