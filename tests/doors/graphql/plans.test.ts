import { parse } from 'graphql'
import { execute } from 'postgraphile/grafast'
import { buildSchema } from '../../../server/server.ts'
import { startApi } from '../../harness/client.ts'
import { cloneCrowd } from '../../harness/crowd.ts'
import type { Name } from '../../harness/database.ts'

// Every list and count that GraphQL offers, as each role, on tables large enough that the planner prefers an index: by
// the very SQL that PostGraphile makes of them. No plan may read a growing table from end to end.

/** A tenth of the crowd's requests. */
const MOST_READ = 3_000

const db = await cloneCrowd()
const { schema, resolvedPreset } = await buildSchema(db.urls.auth)
const api = await startApi({}, db)
afterAll(async () => {
  await api.close()
  await db.close()
})

const lists = {
  requests: '{ requests { nodes { id title status createdAt } } }',
  'requests by status': '{ requests(condition: { status: SUBMITTED }) { nodes { id title } } }',
  'requests by creator': '{ requests(filter: { creatorId: { equalTo: "$ID" } }) { nodes { id title } } }',
  'requests by assignee': '{ requests(filter: { assignedToId: { equalTo: "$ID" } }) { nodes { id title } } }',
  'requests after a time': '{ requests(filter: { createdAt: { lessThan: "2026-01-01" } }) { nodes { id title } } }',
  'oldest requests': '{ requests(orderBy: [CREATED_AT_ASC]) { nodes { id title } } }',
  'deleted requests': '{ requests(condition: { isDeleted: true }) { nodes { id } } }',
  'deleted requests, by a filter': '{ requests(filter: { isDeleted: { equalTo: true } }) { nodes { id } totalCount } }',
  inbox: '{ requestsAwaitingMyDecision { nodes { id title } } }',
  'audit logs': '{ auditLogs { nodes { id action timestamp } } }',
  'audit logs by actor': '{ auditLogs(condition: { actorId: "$ID" }) { nodes { id action } } }',
  'audit logs by action': '{ auditLogs(condition: { action: APPROVE }) { nodes { id action } } }',
  'audit logs by request': '{ auditLogs(condition: { requestId: "$ID" }) { nodes { id action } } }',
  users: '{ users { nodes { id name } } }',
}
/** These cost as much as they count: a person's own requests, or the backlog. */
const counts: [Name, string, string][] = [
  ['user', 'own requests', '{ requests { totalCount } }'],
  ['user', 'own audit entries', '{ auditLogs { totalCount } }'],
  ['user', 'inbox', '{ requestsAwaitingMyDecision { totalCount } }'],
  ['manager', 'inbox', '{ requestsAwaitingMyDecision { totalCount } }'],
  ['admin', 'inbox', '{ requestsAwaitingMyDecision { totalCount } }'],
  ['manager', 'requests of one person', '{ requests(condition: { creatorId: "$ID" }) { totalCount } }'],
  ['manager', 'audit entries of one request', '{ auditLogs(condition: { requestId: "$ID" }) { totalCount } }'],
]
const roles: Name[] = ['user', 'manager', 'admin']

interface Plan {
  'Node Type': string
  'Relation Name'?: string
  'Actual Rows': number
  'Actual Loops': number
  'Rows Removed by Filter'?: number
  Plans?: Plan[]
}

/** The plans of a query's statements, with what really happened. */
async function plansOf(name: Name, query: string): Promise<Plan[]> {
  const statements: { text: string; values?: unknown[] }[] = []
  const client = { query: async (statement: (typeof statements)[0]) => (statements.push(statement), { rows: [], rowCount: 0 }) }
  const document = parse(query.replaceAll('$ID', db.people[name].id))
  await execute({
    schema,
    document,
    resolvedPreset,
    middleware: null,
    contextValue: { pgSettings: null, withPgClient: (_: unknown, work: (c: unknown) => unknown) => work(client) },
  } as never)
  expect(statements.length).toBeGreaterThan(0)
  return Promise.all(
    statements.map(async ({ text, values }) => {
      const [row] = await db.commit(name, `explain (analyze, timing off, format json) ${text}`, values)
      return row!['QUERY PLAN'][0].Plan
    }),
  )
}

const nodes = (plan: Plan): Plan[] => [plan, ...(plan.Plans ?? []).flatMap(nodes)]
const growing = ['requests', 'audit_logs_earliest', 'users']
const isFullScan = (node: Plan) =>
  node['Node Type'] === 'Seq Scan' && growing.includes(node['Relation Name'] ?? '') && node['Actual Loops'] > 0
/** The rows that a node has read, whether it kept them or not. */
const rowsRead = (node: Plan) => node['Actual Loops'] * (node['Actual Rows'] + (node['Rows Removed by Filter'] ?? 0))

describe.each(roles)('as %s', (role) => {
  test.each(Object.entries(lists))('%s', async (_, query) => {
    for (const plan of await plansOf(role, query)) {
      expect(nodes(plan).filter(isFullScan)).toEqual([])
      const read = nodes(plan)
        .filter((node) => growing.includes(node['Relation Name'] ?? ''))
        .map(rowsRead)
      expect(Math.max(0, ...read)).toBeLessThan(MOST_READ)
    }
  })
})

test.each(counts)('as %s: count of %s', async (role, _, query) => {
  for (const plan of await plansOf(role, query)) expect(nodes(plan).filter(isFullScan)).toEqual([])
})

test.each([
  ['manager', 'requests'],
  ['admin', 'requests'],
  ['admin', 'auditLogs'],
  ['user', 'users'],
] as const)('as %s: the count of all %s ends at 10,001', async (role, list) => {
  const plans = await plansOf(role, `{ ${list} { totalCount } }`)
  const read = plans.flatMap(nodes).filter((node) => growing.includes(node['Relation Name'] ?? ''))
  expect(Math.max(...read.map(rowsRead))).toBeGreaterThan(10_000)
  expect(Math.max(...read.map(rowsRead))).toBeLessThan(10_100)
})

test('a full scan would be noticed', async () => {
  const [row] = await db.commit(
    'admin',
    `explain (analyze, timing off, format json) select count(*) from app_public.requests where title like '%x%'`,
  )
  expect(nodes(row!['QUERY PLAN'][0].Plan).filter(isFullScan)).toHaveLength(1)
})

test('counts and aggregates, which no index bounds, have less time than other statements', async () => {
  const root = await db.connect('root')
  await root.query('begin; lock table app_public.requests in access exclusive mode')
  const [stopped, waited] = ['The request took too long and was stopped.', 'The request waited too long for another one']
  try {
    const outcomes = [
      '{ requests(first: 0) { totalCount } }',
      '{ requests(first: 0) { aggregates { distinctCount { id } } } }',
      '{ requests(first: 0) { groupedAggregates(groupBy: [STATUS]) { keys } } }',
    ].map(async (query) => expect((await api.graphql(query, {}, 'admin')).body.errors[0].message).toBe(stopped))
    const list = api.graphql('{ requests { nodes { id } } }', {}, 'admin')
    await Promise.all(outcomes)
    expect((await list).body.errors[0].message).toContain(waited)
  } finally {
    await root.query('rollback')
  }
}, 20_000)

test('counts are exact up to 10,000, and 10001 stands for more', async () => {
  const root = await db.connect('root')
  await root.query('set session_replication_role = replica')
  const add = (count: number) =>
    root.query(
      `insert into app_public.requests (title, status, creator_id) select 'One of many', 'DRAFT', $1 from generate_series(1, $2)`,
      [db.people.user2.id, count],
    )
  const counted = async () => {
    const { requests } = await api.data('{ requests(first: 1) { totalCount nodes { auditLogs { totalCount } } } }', {}, 'user2')
    // The counts of lists within a list are asked for together, and those that are 0 have no row of their own.
    expect(requests.nodes).toEqual([{ auditLogs: { totalCount: 0 } }])
    const { body } = await api.rest('GET', '/requests/?count=true&page_size=1', undefined, 'user2')
    return [requests.totalCount, body.count]
  }
  for (const [more, count] of [
    [9_999, 9_999],
    [1, 10_000],
    [1, 10_001],
    [1, 10_001],
  ] as const) {
    await add(more)
    expect(await counted()).toEqual([count, count])
  }
  const filtered = '{ requests(condition: { status: APPROVED }) { totalCount nodes { id } } }'
  expect((await api.data(filtered, {}, 'user2')).requests).toEqual({ totalCount: 0, nodes: [] })
  expect((await api.data(filtered, {}, 'manager')).requests.totalCount).toBe(10_001)
})
