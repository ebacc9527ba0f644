import 'graphile-config'
import { PgAggregatesPreset } from '@graphile/pg-aggregates'
import { PgSimplifyInflectionPreset } from '@graphile/simplify-inflection'
import { PostGraphileAmberPreset } from 'postgraphile/presets/amber'
import { PostGraphileConnectionFilterPreset } from 'postgraphile-plugin-connection-filter'
import { changeNullability } from 'postgraphile/utils'
import { DescriptionsPlugin } from './descriptions.ts'
import { ListsPreset } from './connections.ts'
import { PasswordMutationsPlugin } from './passwords.ts'
import { SubscriptionsPlugin } from './subscriptions.ts'

const NamesPlugin: GraphileConfig.Plugin = {
  name: 'NamesPlugin',
  inflection: {
    replace: {
      /** `id` is the row's UUID, under its own name; PostGraphile would keep `id` for an opaque node id. */
      _attributeName(previous, _options, details) {
        return previous!({ ...details, skipRowId: true })
      },
      /** The changed row comes back under the name of its type, as `request`. */
      functionMutationResultFieldName(previous, _options, details) {
        const { codec } = details.resource
        return codec.attributes ? this.camelCase(this.tableType(codec)) : previous!(details)
      },
    },
  },
}

/** What PostgreSQL's catalog cannot say of functions: no null comes out of these arrays, ids must be given, and a role is one of Role. */
const NullabilityPlugin = changeNullability({
  Request: { availableActions: '[!]!' },
  User: { permissions: '[!]!' },
})
const ArgumentsPlugin: GraphileConfig.Plugin = {
  name: 'ArgumentsPlugin',
  schema: {
    hooks: {
      GraphQLInputObjectType_fields_field(field, { graphql, getInputTypeByName }, { scope: { isMutationInput, fieldName } }) {
        if (!isMutationInput) return field
        if (fieldName === 'role') return { ...field, type: getInputTypeByName('Role') }
        if (!/^(\w+Id|email)$/.test(fieldName) || ['assignedToId', 'clientMutationId'].includes(fieldName)) return field
        return { ...field, type: new graphql.GraphQLNonNull(graphql.getNullableType(field.type)) }
      },
    },
  },
}

/** How the GraphQL schema is made of the database's. What is in it is decided there, by grants and by smart tags. */
export const preset: GraphileConfig.Preset = {
  extends: [
    PostGraphileAmberPreset,
    PgSimplifyInflectionPreset,
    PostGraphileConnectionFilterPreset,
    PgAggregatesPreset,
    ListsPreset,
  ],
  plugins: [NamesPlugin, NullabilityPlugin, ArgumentsPlugin, DescriptionsPlugin, PasswordMutationsPlugin, SubscriptionsPlugin],
  disablePlugins: [
    // Opaque node ids: a row's id is its UUID.
    'NodePlugin',
    // A field that leads back to the root would lead around the limit on root fields.
    'QueryQueryPlugin',
    'MutationPayloadQueryPlugin',
    'PgMutationPayloadEdgePlugin',
    // Filters and aggregates are of one list; across relations they would scan tables.
    'PgConnectionArgFilterBackwardRelationsPlugin',
    'PgConnectionArgFilterForwardRelationsPlugin',
    'PgAggregatesOrderByAggregatesPlugin',
    'PgAggregatesFilterRelationalAggregatesPlugin',
  ],
  schema: {
    // Rows are written by functions alone, and relations to many are shown where a smart tag says so.
    defaultBehavior: [
      '-insert -update -delete -manyRelation:resource:connection -manyRelation:resource:list',
      '-resource:groupedAggregates:having -attribute:havingBy',
    ].join(' '),
    dontSwallowErrors: true,
    connectionFilterAllowedOperators: [
      'isNull',
      'equalTo',
      'notEqualTo',
      'in',
      'notIn',
      'lessThan',
      'lessThanOrEqualTo',
      'greaterThan',
      'greaterThanOrEqualTo',
    ],
    connectionFilterComputedColumns: false,
    connectionFilterArrays: false,
    connectionFilterAllowEmptyObjectInput: true,
    connectionFilterAllowNullInput: true,
  },
}
