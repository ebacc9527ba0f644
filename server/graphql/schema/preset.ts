import 'graphile-config'
import { PgAggregatesPreset } from '@graphile/pg-aggregates'
import { PgSimplifyInflectionPreset } from '@graphile/simplify-inflection'
import { PostGraphileAmberPreset } from 'postgraphile/presets/amber'
import { PostGraphileConnectionFilterPreset } from 'postgraphile-plugin-connection-filter'
import { ListsPreset } from './connections.ts'
import { CsrfTokenPlugin } from './csrf.ts'
import { DescriptionsPlugin } from './descriptions.ts'
import { NamesPlugin } from './names.ts'
import { PasswordMutationsPlugin } from './passwords.ts'
import { SearchPreset } from './search.ts'
import { SubscriptionsPlugin } from './subscriptions.ts'
import { NonNullPlugin, TypesPlugin } from './types.ts'

/** How the GraphQL schema is made from the database's, where grants and smart tags decide what is in it. */
export const preset: GraphileConfig.Preset = {
  extends: [
    PostGraphileAmberPreset,
    PgSimplifyInflectionPreset,
    PostGraphileConnectionFilterPreset,
    PgAggregatesPreset,
    ListsPreset,
    SearchPreset,
  ],
  plugins: [
    NamesPlugin,
    TypesPlugin,
    NonNullPlugin,
    DescriptionsPlugin,
    CsrfTokenPlugin,
    PasswordMutationsPlugin,
    SubscriptionsPlugin,
  ],
  disablePlugins: [
    // It makes opaque node ids, but a row's id is its UUID.
    'NodePlugin',
    // A field that leads back to the root would lead past the limit on root fields.
    'QueryQueryPlugin',
    'MutationPayloadQueryPlugin',
    'PgMutationPayloadEdgePlugin',
    // Filters and aggregates stay within one list: across relations they would scan tables.
    'PgConnectionArgFilterBackwardRelationsPlugin',
    'PgConnectionArgFilterForwardRelationsPlugin',
    'PgAggregatesOrderByAggregatesPlugin',
    'PgAggregatesFilterRelationalAggregatesPlugin',
  ],
  // An argument without a default must be given.
  gather: { pgStrictFunctions: true },
  schema: {
    // Rows are written only by functions, and relations to many are shown only where a smart tag says so.
    defaultBehavior: [
      '-insert -update -delete -manyRelation:resource:connection -manyRelation:resource:list',
      '-resource:groupedAggregates:having -attribute:havingBy',
    ].join(' '),
    // No list holds a null.
    pgForbidSetofFunctionsToReturnNull: true,
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
