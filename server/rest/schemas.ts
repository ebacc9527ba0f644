import { Ajv2020, type ErrorObject } from 'ajv/dist/2020.js'
import type { Fault } from '../errors.ts'
import { MAX_PAGE_SIZE, PAGE_SIZE } from '../http/pages.ts'
import { MIN_PASSWORD_LENGTH } from '../passwords.ts'

/** JSON Schema, by which input is both documented and validated. */
export type Schema = Readonly<Record<string, unknown>>

/** Well-formed Unicode without NUL, which is all that PostgreSQL stores. */
export const TEXT = { type: 'string', pattern: '^[^\\u0000\\ud800-\\udfff]*$' }
export const TEXT_OR_NULL = { ...TEXT, type: ['string', 'null'] }
export const PASSWORD = { ...TEXT, minLength: MIN_PASSWORD_LENGTH }
export const UUID = { type: 'string', format: 'uuid' }
export const UUID_OR_NULL = { type: ['string', 'null'], format: 'uuid' }
export const INSTANT = { type: 'string', format: 'date-time' }
export const FLAG = { type: 'boolean' }
export const oneOf = (choices: readonly string[]) => ({ type: 'string', enum: choices })
/** Larger values are capped, not rejected. */
export const SIZE = {
  type: 'integer',
  minimum: 1,
  default: PAGE_SIZE,
  description: `More than ${MAX_PAGE_SIZE} means ${MAX_PAGE_SIZE}.`,
}

export const isUuid = (text: string): boolean => /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i.test(text)

/** RFC 3339 in the whole of its grammar, with a leap second; and shorter, where without an offset it is UTC. */
const INSTANT_FORM =
  /^(\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01]))(?:[T ]((?:[01]\d|2[0-3]):[0-5]\d)(:(?:[0-5]\d|60)(?:\.\d+)?)?(?:Z|([+-])([01]\d|2[0-3]):?([0-5]\d))?)?$/i

/** Has the text this form, and a day that is in the calendar? A "+" that was not encoded arrives as a blank, and has not. */
export function isInstant(text: string): boolean {
  const [, day] = INSTANT_FORM.exec(text) ?? []
  return day !== undefined && new Date(`${day}T00:00:00Z`).toISOString().startsWith(day)
}

/** An instant in UTC as PostgreSQL reads it, which knows no offsets over 15 hours and no year 0. */
export function toTimestamp(instant: string): string {
  const [, day, time = '00:00', seconds = '', sign, hours, minutes] = INSTANT_FORM.exec(instant)!
  const offset = (Number(hours ?? 0) * 60 + Number(minutes ?? 0)) * (sign === '-' ? -1 : 1)
  const utc = new Date(Date.parse(`${day}T${time}:00Z`) - offset * 60_000)
  const year = utc.getUTCFullYear()
  const [, rest] = /-(\d\d-\d\dT\d\d:\d\d)/.exec(utc.toISOString())!
  return `${String(year > 0 ? year : 1 - year).padStart(4, '0')}-${rest}${seconds}+00${year > 0 ? '' : ' BC'}`
}

const ajv = new Ajv2020({ allErrors: true, allowUnionTypes: true, formats: { uuid: isUuid, 'date-time': isInstant } })

const NAMES: Record<string, string> = {
  string: 'a string',
  boolean: 'true or false',
  integer: 'a whole number',
  uuid: 'a UUID',
  'date-time': 'a date and time, such as 2026-01-31T12:00:00Z',
}

const messages: Record<string, (params: Record<string, unknown>) => string> = {
  required: () => 'This is required.',
  type: ({ type }) => `This must be ${NAMES[[type].flat()[0] as string]}.`,
  format: ({ format }) => `This must be ${NAMES[format as string]}.`,
  enum: ({ allowedValues }) => `This must be one of ${(allowedValues as unknown[]).filter(Boolean).join(', ')}.`,
  pattern: () => 'Text must be well-formed Unicode, without the character NUL.',
  minLength: ({ limit }) => `This must have at least ${limit} characters.`,
  minimum: ({ limit }) => `This must be at least ${limit}.`,
}

const toFault = ({ keyword, params, instancePath }: ErrorObject): Fault => ({
  field: keyword === 'required' ? params['missingProperty'] : instancePath.slice(1),
  message: messages[keyword]!(params),
})

/** Says all that is wrong with an object's members, the first fault of each. */
export type Check = (members: Record<string, unknown>) => Fault[]

/** Compiles the schemas of an object's members. */
export function compile(properties: Readonly<Record<string, Schema>>, required: readonly string[] = []): Check {
  const validate = ajv.compile({ type: 'object', properties, required })
  const order = Object.keys(properties)
  return (members) => {
    if (validate(members)) return []
    const byField = new Map(
      validate
        .errors!.map(toFault)
        .reverse()
        .map((fault) => [fault.field, fault]),
    )
    return [...byField.values()].sort((a, b) => order.indexOf(a.field) - order.indexOf(b.field))
  }
}
