import 'graphile-config'
import { context, lambda, type ConnectionStep } from 'postgraphile/grafast'
import type { PgResource, PgSelectQueryBuilder, PgSelectStep } from 'postgraphile/@dataplan/pg'
import { sql } from 'postgraphile/pg-sql2'
import { wrapPlans } from 'postgraphile/utils'
import { isSearchable, SEARCHES, type Searchable } from '../../sql/search.ts'

type Filter = (name: string) => string | null

declare global {
  namespace Grafast {
    interface Context {
      /** Finds the ids of the rows that match, as the caller. */
      search: (what: Searchable, text: string, filter: Filter) => Promise<readonly string[]>
    }
  }
}

/** The list of the query's that can be searched, or null. */
function searchable(scope: GraphileBuild.ScopeObjectFieldsField): Searchable | null {
  const { isRootQuery, isPgFieldConnection, pgFieldResource } = scope as typeof scope & { isRootQuery?: boolean }
  const resource = pgFieldResource as PgResource | undefined
  return isRootQuery && isPgFieldConnection && resource && isSearchable(resource.name) ? resource.name : null
}

/** The value that a field must equal, by the condition or by the filter. */
const equality =
  (condition: unknown, filter: unknown, fieldOf: (name: string) => string): Filter =>
  (name) => {
    const field = fieldOf(name)
    return Object(condition)[field] ?? Object(Object(filter)[field]).equalTo ?? null
  }

const among = (found: readonly string[]) => (query: PgSelectQueryBuilder) =>
  query.where(sql`${query.alias}.id = any(${sql.value(found)}::uuid[])`)

const SearchArgumentPlugin: GraphileConfig.Plugin = {
  name: 'SearchArgumentPlugin',
  schema: {
    hooks: {
      GraphQLObjectType_fields_field_args(args, { extend, graphql }, { scope }) {
        const what = searchable(scope)
        if (!what) return args
        const search = { type: graphql.GraphQLString, description: SEARCHES[what], applyPlan() {} }
        return extend(args, { search }, 'The argument of searches')
      },
    },
  },
}

const SearchPlansPlugin = wrapPlans(
  ({ scope }, build) => {
    const what = searchable(scope)
    return what && { what, fieldOf: (name: string) => build.inflection.camelCase(name) }
  },
  ({ what, fieldOf }) =>
    (plan, _$parent, fieldArgs) => {
      const $connection = plan() as ConnectionStep<never, never, never, never>
      const $rows = $connection.getSubplan() as unknown as PgSelectStep
      const [$text, $condition, $filter] = ['search', 'condition', 'filter'].map((name) => fieldArgs.getRaw(name))
      $rows.apply(
        lambda([$text!, $condition!, $filter!, context().get('search')] as const, async ([text, condition, filter, search]) =>
          text ? among(await search(what, text as string, equality(condition, filter, fieldOf))) : null,
        ),
      )
      return $connection
    },
)

/** Lists that can be searched: the ids are found first, on connections of their own, and the list is read of those. */
export const SearchPreset: GraphileConfig.Preset = { plugins: [SearchArgumentPlugin, SearchPlansPlugin] }
