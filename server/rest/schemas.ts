import { Ajv2020, type ErrorObject } from 'ajv/dist/2020.js'
import type { Fault } from '../errors.ts'
import { isInstant } from '../http/instants.ts'
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
/** Any object: what may be in it, its kind says. */
export const DATA = { type: 'object' }
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

const ajv = new Ajv2020({ allErrors: true, allowUnionTypes: true, formats: { uuid: isUuid, 'date-time': isInstant } })

const NAMES: Record<string, string> = {
  string: 'a string',
  boolean: 'true or false',
  object: 'an object',
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
