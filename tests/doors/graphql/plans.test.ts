import { parse } from 'graphql'
import { execute } from 'postgraphile/grafast'
import { buildSchema } from '../../../server/server.ts'
import { cloneCrowd } from '../../harness/crowd.ts'
import type { Name } from '../../harness/database.ts'

// Every list and count that GraphQL offers, as each role, on tables large enough that the planner prefers an index: by
// the very SQL that PostGraphile makes of them. No plan may read a growing table from end to end.

/** A tenth of the crowd's requests. */
const MOST_READ = 3_000

const db = await cloneCrowd()
const { schema, resolvedPreset } = await buildSchema(db.urls.auth)
afterAll(() => db.close())

const lists = {
  requests: '{ requests { nodes { id title status createdAt } } }',
  'requests by status': '{ requests(condition: { status: SUBMITTED }) { nodes { id title } } }',
  'requests by creator': '{ requests(filter: { creatorId: { equalTo: "$ID" } }) { nodes { id title } } }',
  'requests by assignee': '{ requests(filter: { assignedToId: { equalTo: "$ID" } }) { nodes { id title } } }',
  'requests after a time': '{ requests(filter: { createdAt: { lessThan: "2026-01-01" } }) { nodes { id title } } }',
  'oldest requests': '{ requests(orderBy: [CREATED_AT_ASC]) { nodes { id title } } }',
  inbox: '{ requestsAwaitingMyDecision { nodes { id title } } }',
  'audit logs': '{ auditLogs { nodes { id action timestamp } } }',
  'audit logs by actor': '{ auditLogs(condition: { actorId: "$ID" }) { nodes { id action } } }',
  'audit logs by action': '{ auditLogs(condition: { action: APPROVE }) { nodes { id action } } }',
  'audit logs by request': '{ auditLogs(condition: { requestId: "$ID" }) { nodes { id action } } }',
  users: '{ users { nodes { id name } } }',
}
/** These cost as much as they count: a person's own requests, or the backlog, but never everything. */
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
const growing = ['requests', 'audit_logs', 'users']
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

test('a full scan would be noticed', async () => {
  const [row] = await db.commit(
    'admin',
    `explain (analyze, timing off, format json) select count(*) from app_public.requests where title like '%x%'`,
  )
  expect(nodes(row!['QUERY PLAN'][0].Plan).filter(isFullScan)).toHaveLength(1)
})
