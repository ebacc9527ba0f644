import { parse } from 'graphql'
import { execute } from 'postgraphile/grafast'
import { buildSchema } from '../../../server/server.ts'
import { cloneDatabase, type Name } from '../../harness/database.ts'

// Every list and count that GraphQL offers, as each role, on tables large enough that the planner prefers an index: by
// the very SQL that PostGraphile makes of them. No plan may read a growing table from end to end.

const REQUESTS = 15_000

const db = await cloneDatabase({ transactional: false })
const { schema, resolvedPreset } = await buildSchema(db.urls.auth)
afterAll(() => db.close())

beforeAll(async () => {
  const root = await db.connect('root')
  await root.query(`
    set session_replication_role = replica; -- no triggers: history at a stroke
    insert into app_public.users (name, role) select 'Person ' || n, case when n % 200 = 0 then 'MANAGER' else 'USER' end from generate_series(1, 8000) n;
    insert into app_public.requests
      (title, status, creator_id, assigned_to_id, reviewed_by_id, reviewed_at, review_comment, submitted_at, created_at)
    select 'Request ' || n, status, creator.id, case when n % 7 = 0 then manager.id end,
      case when decided then manager.id end, case when decided then at end, 'Because', case when status <> 'DRAFT' then at end, at
    from generate_series(1, ${REQUESTS}) n
    cross join lateral (select case n % 20 when 0 then 'SUBMITTED' when 1 then 'DRAFT' when 2 then 'REJECTED' else 'APPROVED' end as status) s
    cross join lateral (select status in ('APPROVED', 'REJECTED') as decided, now() - (${REQUESTS} - n) * interval '1 minute' as at) d
    join (select id, row_number() over (order by id) as i from app_public.users where role = 'USER') creator on creator.i = 1 + n * 7919 % 1960
    join (select id, row_number() over (order by id) as i from app_public.users where role = 'MANAGER') manager on manager.i = 1 + n * 31 % 40;
    insert into app_public.audit_logs (actor_id, action, request_id, request_creator_id, metadata, "timestamp")
    select case action when 'CREATE' then creator_id else coalesce(reviewed_by_id, creator_id) end, action, id, creator_id,
      jsonb_build_object('new_status', status), created_at + interval '1 second' * n
    from app_public.requests, unnest(array['CREATE', 'SUBMIT', 'APPROVE']) with ordinality a (action, n);`)
  await root.query('vacuum analyze')
})

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
  'audit logs by action': '{ auditLogs(condition: { action: "APPROVE" }) { nodes { id action } } }',
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
      expect(Math.max(0, ...read)).toBeLessThan(REQUESTS / 10)
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
