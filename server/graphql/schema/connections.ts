import 'graphile-config'
import { constant, lambda, type ConnectionStep, type Step } from 'postgraphile/grafast'
import type { GraphQLEnumType } from 'postgraphile/graphql'
import {
  TYPES,
  type PgExecutor,
  type PgResource,
  type PgSelectQueryBuilder,
  type PgSelectSingleStep,
  type PgSelectStep,
} from 'postgraphile/@dataplan/pg'
import { sql } from 'postgraphile/pg-sql2'
import { addPgTableOrderBy, orderByAscDesc, wrapPlans } from 'postgraphile/utils'
import { ClientError } from '../../errors.ts'
import { MAX_PAGE_SIZE, MOST_COUNTED, PAGE_SIZE } from '../../http/pages.ts'
import { summary } from '../../sql/as-caller.ts'

type PageArguments = readonly [first?: number | null, last?: number | null, before?: string | null, after?: string | null]

/** Checks the arguments of a page (GraphQL Cursor Connections, 4) and fills in its size. Throws BAD_REQUEST. */
function pageSize([first, last, before, after]: PageArguments): { first: number | null; last: number | null } {
  const size = first ?? last ?? PAGE_SIZE
  if (size < 0 || size > MAX_PAGE_SIZE) {
    throw new ClientError('BAD_REQUEST', `A page has 0 to ${MAX_PAGE_SIZE} rows, not ${size}.`)
  }
  if ((first != null && (last != null || before != null)) || (last != null && after != null)) {
    throw new ClientError('BAD_REQUEST', 'Page forwards by "first" and "after", or backwards by "last" and "before".')
  }
  const backwards = last != null || (before != null && after == null)
  return backwards ? { first: null, last: size } : { first: size, last: null }
}

/** Does a condition or a filter say anything about this field, at any depth? */
function mentions(input: unknown, field: string): boolean {
  if (typeof input !== 'object' || input === null) return false
  return Object.entries(input).some(([key, value]) => key === field || mentions(value, field))
}

/** Whoever mentions `isDeleted` asks for deleted rows; whether they get any is for SQL to say. */
const inLists = (inputs: readonly unknown[]) => (query: PgSelectQueryBuilder) => {
  const isAskedFor = inputs.some((input) => mentions(input, 'isDeleted'))
  query.where(sql`app_hidden.is_listed(${query.alias}, ${isAskedFor ? sql`true` : sql`false`})`)
  // As a value it would not lead to the index of those that are.
  const { isDeleted } = Object.assign({}, ...inputs)
  if (isDeleted === true || isDeleted?.equalTo === true) query.where(sql`${query.alias}.is_deleted`)
}

/** Without an order, or with an empty one, rows come in the order of time: ids are time-ordered. */
const inOrder = (direction: 'ASC' | 'DESC') => (orderBy: unknown) => (query: PgSelectQueryBuilder) => {
  if (Array.isArray(orderBy) && orderBy.length > 0) return
  query.orderBy({ attribute: 'id', direction })
  query.setOrderIsUnique()
}

/** The names of the orders in the smart tag of the function or the table, separated by blanks. */
const defaultOrderOf = ({ extensions, codec }: PgResource): string | undefined =>
  (extensions?.tags?.['defaultOrderBy'] ?? codec.extensions?.tags?.['defaultOrderBy']) as string | undefined

const noPlan = () => {}

const ListArgumentsPlugin: GraphileConfig.Plugin = {
  name: 'ListArgumentsPlugin',
  description: 'Page sizes, no offset (which costs as much as it skips), and the default order that a smart tag names',
  schema: {
    hooks: {
      GraphQLObjectType_fields_field_args: {
        after: ['PgFirstLastBeforeAfterArgsPlugin'],
        callback(args, _build, { scope }) {
          if (scope.isPgFieldConnection) delete args['offset']
          return args
        },
      },
      GraphQLObjectType_fields_field_args_arg: {
        after: ['PgConnectionArgOrderByDefaultValuePlugin'],
        callback(arg, build, { scope }) {
          const { argName, isPgFieldConnection, pgFieldResource } = scope
          if (!isPgFieldConnection || !pgFieldResource) return arg
          // ListPlansPlugin sets both together.
          if (argName === 'first' || argName === 'last') return { ...arg, applyPlan: noPlan }
          const order = defaultOrderOf(pgFieldResource)
          if (argName !== 'orderBy' || !order) return arg
          const orders = build.graphql.getNamedType(arg.type) as GraphQLEnumType
          const defaultValue = order.split(' ').map((name) => {
            const value = orders.getValue(name)
            if (!value) throw new Error(`@defaultOrderBy: ${orders.name} has no ${name}`)
            return value.value
          })
          return { ...arg, defaultValue }
        },
      },
    },
  },
}

const ListPlansPlugin = wrapPlans(
  ({ scope }) => (scope.isPgFieldConnection && scope.pgFieldResource ? { resource: scope.pgFieldResource } : null),
  ({ resource }) =>
    (plan, _$parent, fieldArgs, { field }) => {
      const $connection = plan() as ConnectionStep<never, never, never, never>
      const argument = (name: string): Step => fieldArgs.getRaw(name)
      const has = (name: string) => field.args.some((arg) => arg.name === name)
      const $page = lambda(
        ['first', ...(has('last') ? ['last', 'before', 'after'] : [])].map(argument),
        (values) => pageSize(values as unknown as PageArguments),
        true,
      )
      $connection.setFirst(lambda($page, (page) => page.first, true))
      if (has('last')) $connection.setLast(lambda($page, (page) => page.last, true))
      const $rows = $connection.getSubplan() as unknown as PgSelectStep
      const direction = defaultOrderOf(resource)?.endsWith('_DESC') ? 'DESC' : 'ASC'
      // Rows without an id come in the order of their function.
      if (has('orderBy')) $rows.apply(lambda(argument('orderBy'), inOrder(direction), true))
      // Where the attribute is hidden, a policy hides the rows.
      const { is_deleted: isDeleted } = resource.codec.attributes ?? {}
      if (isDeleted && isDeleted.extensions?.tags?.behavior !== '-*' && !resource.parameters) {
        $rows.apply(lambda(['condition', 'filter'].map(argument), inLists, true))
      }
      return $connection
    },
)

type Options = Parameters<PgExecutor['executeWithCache']>[1]

/** A copy of the resource whose statements are changed before they are sent. */
function rewritten(resource: PgResource, change: (options: Options) => Options): PgResource {
  const { executor } = resource
  const changing =
    (execute: PgExecutor['executeWithCache']) =>
    (...[values, options]: Parameters<PgExecutor['executeWithCache']>) =>
      execute.call(executor, values, change(options))
  const changed = Object.assign(Object.create(executor) as PgExecutor, {
    executeWithCache: changing(executor.executeWithCache),
    executeWithoutCache: changing(executor.executeWithoutCache),
  })
  return Object.create(resource, { executor: { value: changed } }) as PgResource
}

/** Gives the rows a statement of their own, which is changed. */
function summarize($rows: PgSelectStep, known: WeakMap<PgResource, PgResource>, change: (options: Options) => Options): void {
  const { resource } = $rows
  if (!known.has(resource)) known.set(resource, rewritten(resource, change))
  Object.assign($rows, { resource: known.get(resource) })
  $rows.setInliningForbidden()
}

const asSummary = ({ name, ...options }: Options): Options => ({ ...options, name: name && summary(name) })

/** Asks for the number of rows instead of the rows: one for each identifier that they are asked for by. */
function asCount({ text, name, identifierIndex, ...options }: Options): Options {
  const rows = `from (${text.replace(/;$/, '')}) as counted`
  const isGrouped = identifierIndex != null
  return {
    ...options,
    text: isGrouped ? `select count(*)::text, "${identifierIndex}" ${rows} group by 2` : `select count(*)::text ${rows}`,
    name: name && summary(`count ${name}`),
    ...(isGrouped && { identifierIndex: 1 }),
  }
}

const counted = new WeakMap<PgResource, PgResource>()
const aggregated = new WeakMap<PgResource, PgResource>()

/** Rows are counted as far as it is cheap. PostGraphile's own plan would count them all. */
const TotalCountPlugin = wrapPlans(
  ({ scope }) => (scope.isPgConnectionTotalCountField ? scope : null),
  () => (_plan, $parent) => {
    const $connection = $parent as ConnectionStep<never, never, never, never>
    const $rows = $connection.cloneSubplanWithoutPagination('aggregate') as unknown as PgSelectStep // Without an order.
    summarize($rows, counted, asCount)
    $rows.setFirst(constant(MOST_COUNTED + 1))
    const $count = $rows.singleAsRecord().select(sql`1`, TYPES.int, false)
    return lambda($count, (count) => count ?? 0, true) // A parent without rows is not among those that are grouped.
  },
)

/** Aggregates read all that the filter leaves, as far as they get in their time. */
const AggregatesPlugin = wrapPlans(
  ({ scope }) => (scope.isPgConnectionRelated && /^(aggregates|groupedAggregates)$/.test(scope.fieldName) ? scope : null),
  () => (plan) => {
    const $aggregates = plan() as PgSelectStep | PgSelectSingleStep
    summarize('getClassStep' in $aggregates ? $aggregates.getClassStep() : $aggregates, aggregated, asSummary)
    return $aggregates
  },
)

const GroupsPlugin: GraphileConfig.Plugin = {
  name: 'GroupsPlugin',
  description: 'No groups by the very moment: there would be as many as rows',
  schema: {
    hooks: {
      GraphQLEnumType_values: {
        after: ['PgAggregatesAddGroupByAggregateEnumValuesForAttributesPlugin'],
        callback(values, _build, { scope }) {
          if (!scope.isPgAggregateGroupEnum) return values
          const moments = Object.keys(values).filter((name) => `${name}_TRUNCATED_TO_DAY` in values)
          for (const name of moments) delete values[name]
          return values
        },
      },
    },
  },
}

/** In the order of an inbox: see db/rules/deciders.sql. */
const SubmittedAtPlugin = addPgTableOrderBy({ schemaName: 'app_public', tableName: 'requests' }, () =>
  orderByAscDesc(
    'SUBMITTED_AT',
    ({ alias }) => ({ fragment: sql`app_hidden.waiting_since(${alias}.submitted_at)`, codec: TYPES.timestamptz }),
    { nullable: false },
  ),
)

/** Every list has pages of limited size, and comes newest first. */
export const ListsPreset: GraphileConfig.Preset = {
  plugins: [ListArgumentsPlugin, ListPlansPlugin, TotalCountPlugin, AggregatesPlugin, GroupsPlugin, SubmittedAtPlugin],
}
