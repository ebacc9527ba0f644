import 'graphile-config'
import type { PgCodec } from 'postgraphile/@dataplan/pg'
import { MOST_COUNTED } from '../../http/pages.ts'

/** The comment on a column. */
const commentOn = (codec: PgCodec | undefined, attribute: string | undefined): string | undefined =>
  attribute === undefined ? undefined : codec?.attributes?.[attribute]?.description

/** Descriptions of arguments that are written to no column. */
const OTHERS: Record<string, string> = {
  email: 'The address that the person logs in with, in any letter case.',
  'turnaround.from': 'The first moment.',
  'turnaround.to': 'The moment after the last, at most 366 days later.',
}

const most = MOST_COUNTED.toLocaleString('en')
const TOTAL_COUNT = `How many there are on all pages: exact up to ${most}, and ${MOST_COUNTED + 1} means more.`

/** PostgreSQL has no comments on arguments, so an argument is described by the column that it is written to. */
export const DescriptionsPlugin: GraphileConfig.Plugin = {
  name: 'DescriptionsPlugin',
  schema: {
    hooks: {
      GraphQLInputObjectType_fields_field(field, build, { Self, scope: { isMutationInput, fieldName } }) {
        if (!isMutationInput || field.description) return field
        const { inflection, input } = build
        const mutation = Object.values(input.pgRegistry.pgResources).find(
          (resource) => resource.parameters && inflection.customMutationInput({ resource: resource as never }) === Self.name,
        )
        const attributes = Object.keys(mutation?.codec.attributes ?? {})
        // By its name or its end: the argument "comment" is written to review_comment.
        const attribute =
          attributes.find((name) => inflection.camelCase(name) === fieldName) ??
          attributes.find((name) => inflection.camelCase(name).toLowerCase().endsWith(fieldName.toLowerCase()))
        const table = mutation?.codec.attributes && inflection.camelCase(inflection.tableType(mutation.codec))
        const [, thing] = /^(\w+)Id$/.exec(fieldName) ?? []
        field.description =
          thing && (thing === table || !attribute)
            ? `Which ${thing}.`
            : (commentOn(mutation?.codec, attribute) ?? OTHERS[fieldName])
        return field
      },
      GraphQLObjectType_fields_field(
        field,
        _build,
        { scope: { isMutationPayload, isPgConnectionTotalCountField, pgCodec, fieldName } },
      ) {
        if (isPgConnectionTotalCountField) field.description = TOTAL_COUNT
        if (isMutationPayload && pgCodec?.attributes) field.description ??= `The ${fieldName} as it is now.`
        return field
      },
      GraphQLObjectType_fields_field_args_arg(arg, { inflection }, { scope }) {
        const { isPgRowByUniqueConstraintField, pgFieldResource, fieldName, argName } = scope
        arg.description ??= OTHERS[`${fieldName}.${argName}`]
        if (!isPgRowByUniqueConstraintField || !pgFieldResource) return arg
        const attribute = Object.keys(pgFieldResource.codec.attributes).find((name) => inflection.camelCase(name) === argName)
        arg.description ??= commentOn(pgFieldResource.codec, attribute)
        return arg
      },
      GraphQLEnumType(type, { input: { pgRegistry }, inflection }) {
        const codec = Object.values(pgRegistry.pgCodecs).find(
          (codec) => codec.extensions?.isEnumTableEnum && inflection.enumType(codec as never) === type.name,
        )
        const { tableName } = codec?.extensions?.enumTableEnumDetails ?? {}
        type.description ??= tableName && pgRegistry.pgResources[tableName]?.description
        return type
      },
    },
  },
}
