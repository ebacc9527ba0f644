import 'graphile-config'
import { GraphQLError, type GraphQLOutputType } from 'postgraphile/graphql'
import { changeNullability } from 'postgraphile/utils'
import { isInstant, toTimestamp } from '../../http/instants.ts'

// PostgreSQL's catalog cannot say what is true of a function's result and arguments, or of what a caller sees.

/** What is never null: everybody sees everybody and every kind, no null is in these arrays, and a rejection has a comment. */
export const NonNullPlugin = changeNullability({
  CreateWebhookInput: { events: '[!]!' },
  RejectRequestInput: { comment: '!' },
  Query: { turnaround: '[!]' },
  Request: { availableActions: '[!]!', creator: '!', kind: '!', waitsFor: '[!]!' },
  UndeliveredMail: { recipient: '!' },
  UpdateWebhookInput: { events: '[!]' },
  User: { permissions: '[!]!' },
  Webhook: { events: '[!]!' },
})

/** The enums of texts that no foreign key leads to, by field or by the argument's name. */
const ENUMS: Record<string, string> = {
  'Request.availableActions': 'RequestAction',
  delivery: 'MailDelivery',
  kind: 'NotificationKind',
  role: 'Role',
}

export const TypesPlugin: GraphileConfig.Plugin = {
  name: 'TypesPlugin',
  description:
    'Enums in place of texts; times in every form that RFC 3339 has; and no null where a mutation returns its row, or an aggregate counts',
  schema: {
    hooks: {
      // PostgreSQL reads more than that, such as "now" and "yesterday", which mean something else at each call.
      GraphQLScalarType(config) {
        if (config.name !== 'Datetime') return config
        const parseValue = (value: unknown) => {
          const text = String(config.parseValue!(value))
          if (isInstant(text)) return toTimestamp(text)
          throw new GraphQLError('A time must have the form of RFC 3339, such as 2026-01-31T12:00:00Z.')
        }
        const description =
          'A point in time in the form of RFC 3339, such as 2026-01-31T12:00:00Z. Shorter ones are taken, too: without an offset it is ' +
          'UTC, and without a time the beginning of the day.'
        return { ...config, description, parseValue, parseLiteral: (node) => parseValue(config.parseLiteral!(node)) }
      },
      GraphQLInputObjectType_fields_field(field, { graphql, getInputTypeByName }, { scope: { isMutationInput, fieldName } }) {
        const name = isMutationInput && ENUMS[fieldName]
        if (!name) return field
        const type = getInputTypeByName(name)
        return { ...field, type: graphql.isNonNullType(field.type) ? new graphql.GraphQLNonNull(type) : type }
      },
      GraphQLObjectType_fields_field: {
        before: ['ChangeNullability'],
        callback(field, { graphql, getOutputTypeByName }, { Self, scope }) {
          const { fieldName, isMutationPayload, pgCodec, isCursorField, isConnectionType, isPgAggregateField, pgAggregateSpec } =
            scope
          const name = ENUMS[`${Self.name}.${fieldName}`]
          if (name) return { ...field, type: new graphql.GraphQLList(getOutputTypeByName(name)) }
          const isNeverNull =
            (isMutationPayload && pgCodec?.attributes && fieldName !== 'clientMutationId') ||
            isCursorField ||
            (isConnectionType && fieldName === 'groupedAggregates') ||
            isPgAggregateField ||
            (pgAggregateSpec?.id === 'distinctCount' && fieldName !== 'keys')
          if (!isNeverNull || graphql.isNonNullType(field.type)) return field
          return { ...field, type: new graphql.GraphQLNonNull(field.type) as GraphQLOutputType }
        },
      },
    },
  },
}
