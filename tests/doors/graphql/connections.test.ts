import type { Client } from 'pg'
import { faultIn, NOBODY, mutation, newRequest, startApi, type Api, type Who } from '../../harness/client.ts'

let api: Api
let owner: Client
beforeAll(async () => {
  api = await startApi()
  owner = await api.db.connect('owner')
  await insertMany(130)
})
afterAll(() => api.close())

/** Submitted requests of user2, named r0 (oldest) to r129; groups of three share their times to the microsecond. */
async function insertMany(count: number): Promise<void> {
  await owner.query('begin')
  await owner.query(`select set_config('assent.action', 'CREATE', true)`)
  await owner.query(
    `insert into app_public.requests (title, status, creator_id, created_at, updated_at)
    select 'r' || i, 'DRAFT', $1, now() - interval '1 day' + i / 3 * interval '1 minute', now() from generate_series(0, $2 - 1) i`,
    [api.db.people.user2.id, count],
  )
  await owner.query(`select set_config('assent.action', 'SUBMIT', true)`)
  await owner.query(`update app_public.requests set status = 'SUBMITTED', submitted_at = created_at`)
  await owner.query('commit')
}

interface Page {
  readonly nodes: { id: string; title: string }[]
  readonly pageInfo: { hasNextPage: boolean; hasPreviousPage: boolean; startCursor: string | null; endCursor: string | null }
}
const PAGE = 'nodes { id title } pageInfo { hasNextPage hasPreviousPage startCursor endCursor }'

const list = async (field: string, args: string, who: Who = 'manager', selection = PAGE) =>
  (await api.data(`{ ${field}${args && `(${args})`} { ${selection} } }`, {}, who))[field]
const code = (field: string, args: string, who: Who = 'manager') => api.code(`{ ${field}(${args}) { nodes { id } } }`, {}, who)
const titles = (page: Page) => page.nodes.map((n) => n.title)
const ids = (page: Page) => page.nodes.map((n) => n.id)

/** All rows that the manager sees, by their sort key. How ties are broken is up to the API, as long as it is consistent. */
const rows = async (order: string): Promise<{ id: string; created_at: Date; status: string; creator_id: string }[]> =>
  (
    await owner.query(
      `select * from app_public.requests
       where not is_deleted and (status <> 'DRAFT' or creator_id = $1) order by ${order}`,
      [api.db.people.manager.id],
    )
  ).rows
const times = async (order: string): Promise<Date[]> => (await rows(order)).map((row) => row.created_at)
const timesOf = async (found: string[]): Promise<Date[]> =>
  (
    await owner.query(
      'select created_at from unnest($1::uuid[]) with ordinality u (id, n) join app_public.requests using (id) order by n',
      [found],
    )
  ).rows.map((r) => r.created_at)

/** All rows, page by page. */
async function walk(field: string, args: string, size: number, backwards = false, between = async () => {}): Promise<string[]> {
  const found: string[] = []
  let cursor: string | null = null
  for (let i = 0; i < 60; i++) {
    const at: string = cursor ? `, ${backwards ? 'before' : 'after'}: ${JSON.stringify(cursor)}` : ''
    const page: Page = await list(field, `${backwards ? 'last' : 'first'}: ${size}${at}${args && `, ${args}`}`)
    if (backwards) found.unshift(...ids(page))
    else found.push(...ids(page))
    const { hasNextPage, hasPreviousPage, startCursor, endCursor } = page.pageInfo
    if (!(backwards ? hasPreviousPage : hasNextPage)) return found
    cursor = backwards ? startCursor : endCursor
    await between()
  }
  throw new Error('It does not end.')
}

describe('pages', () => {
  test('have 20 rows unless asked otherwise, newest first', async () => {
    const page = await list('requests', '')
    expect(page.nodes).toHaveLength(20)
    expect(await timesOf(ids(page))).toEqual((await times('created_at desc')).slice(0, 20))
    expect(page.pageInfo).toMatchObject({ hasNextPage: true, hasPreviousPage: false })
    const { users, auditLogs } = await api.data(
      '{ users { nodes { createdAt } } auditLogs { nodes { timestamp } } }',
      {},
      'admin',
    )
    const joined = users.nodes.map((u: { createdAt: string }) => u.createdAt)
    expect(joined).toEqual([...joined].sort().reverse())
    const stamps = auditLogs.nodes.map((a: { timestamp: string }) => a.timestamp)
    expect(stamps).toHaveLength(20)
    expect(stamps).toEqual([...stamps].sort().reverse())
  })

  test('of the inbox come oldest first, by time of submission', async () => {
    const page = await list('requestsAwaitingMyDecision', '')
    expect(page.nodes).toHaveLength(20)
    expect(await timesOf(ids(page))).toEqual((await times('submitted_at')).slice(0, 20))
    expect(ids(page)).toEqual((await walk('requestsAwaitingMyDecision', '', 100)).slice(0, 20))
  })

  test('have at most 100 rows on every list; an invalid number of rows is refused', async () => {
    expect((await list('requests', 'first: 100')).nodes).toHaveLength(100)
    expect((await list('requests', 'last: 100')).nodes).toHaveLength(100)
    expect((await list('requests', 'first: 0')).nodes).toHaveLength(0)
    expect((await list('requests', 'first: null')).nodes).toHaveLength(20)
    for (const field of ['requests', 'requestsAwaitingMyDecision', 'users', 'auditLogs']) {
      for (const first of [101, 2 ** 31 - 1, -1])
        expect([field, first, await code(field, `first: ${first}`)]).toEqual([field, first, 'BAD_REQUEST'])
    }
    for (const args of ['last: 101', 'last: -1', 'first: 5, last: 5', 'first: "5"', `first: ${2 ** 31}`, 'first: 1.5']) {
      expect([args, await code('requests', args)]).toEqual([args, 'BAD_REQUEST'])
    }
    expect(await api.code('{ requests(first: 1) { nodes { auditLogs(first: 101) { nodes { id } } } } }', {}, 'manager')).toBe(
      'BAD_REQUEST',
    )
    const args = `first: 100, condition: { creatorId: "${api.db.people.user2.id}" }`
    const { nodes } = await list('requests', args, 'manager', 'nodes { auditLogs { nodes { id } totalCount } }')
    expect(nodes[0].auditLogs.totalCount).toBe(2)
  })

  test('can have a variable as their size', async () => {
    const query = 'query ($first: Int) { requests(first: $first) { nodes { id } } }'
    for (const [first, length] of [
      [7, 7],
      [0, 0],
      [100, 100],
      [3, 3],
      [undefined, 20],
      [null, 20],
    ] as const) {
      expect((await api.data(query, { first }, 'manager')).requests.nodes).toHaveLength(length)
    }
    expect(await api.code(query, { first: 101 }, 'manager')).toBe('BAD_REQUEST')
    expect(await api.code(query, { first: -1 }, 'manager')).toBe('BAD_REQUEST')
  })

  test('have no offset', async () => {
    for (const field of ['requests', 'requestsAwaitingMyDecision', 'users', 'auditLogs'])
      expect(await code(field, 'offset: 1')).toBe('BAD_REQUEST')
    expect(await api.code('{ requests { nodes { auditLogs(offset: 1) { nodes { id } } } } }', {}, 'manager')).toBe('BAD_REQUEST')
  })

  test('hold every row once and in order, forwards and backwards, ties included', async () => {
    const newestFirst = await walk('requests', '', 100)
    expect(new Set(newestFirst).size).toBe(newestFirst.length)
    expect(await timesOf(newestFirst)).toEqual(await times('created_at desc'))
    expect(await walk('requests', '', 7)).toEqual(newestFirst)
    expect(await walk('requests', '', 7, true)).toEqual(newestFirst)
    expect(await timesOf(await walk('requests', 'orderBy: [CREATED_AT_ASC]', 7))).toEqual(await times('created_at'))
    // A page may end within a tie, from either side.
    const all = newestFirst.slice(0, 12)
    for (let size = 1; size <= 5; size++) {
      const first = await list('requests', `first: ${size}`)
      const next = await list('requests', `first: 5, after: ${JSON.stringify(first.pageInfo.endCursor)}`)
      expect([...ids(first), ...ids(next)]).toEqual(all.slice(0, size + 5))
      const back = await list('requests', `last: ${size}, before: ${JSON.stringify(next.pageInfo.startCursor)}`)
      expect(ids(back)).toEqual(ids(first))
      expect(back.pageInfo).toMatchObject({ hasPreviousPage: false })
    }
  })

  test('hold each row once when many rows tie', async () => {
    const everything = (await walk('requests', '', 100)).sort()
    for (const order of [
      '[CREATOR_ID_ASC]',
      '[SUBMITTED_AT_DESC]',
      '[CREATOR_ID_DESC, CREATED_AT_ASC]',
      '[PRIMARY_KEY_DESC]',
      '[CREATED_AT_DESC]',
    ]) {
      const walked = await walk('requests', `orderBy: ${order}`, 40)
      expect([order, [...walked].sort()]).toEqual([order, everything])
      expect([order, await walk('requests', `orderBy: ${order}`, 40, true)]).toEqual([order, walked])
    }
    const theirs = (await rows('id')).filter(({ creator_id }) => creator_id !== api.db.people.manager.id).map(({ id }) => id)
    expect([...(await walk('requestsAwaitingMyDecision', '', 40))].sort()).toEqual(theirs)
  })

  test('neither repeat nor hide a row when another is added or removed meanwhile', async () => {
    const before = await walk('requests', '', 100)
    let n = 0
    const walked = await walk('requests', '', 20, false, async () => {
      await newRequest(api, { by: 'manager', title: `New ${n++}` })
      const victim = await newRequest(api, { by: 'manager', title: 'To go' })
      await api.data(mutation('deleteRequest'), { input: { requestId: victim } }, 'manager')
    })
    expect(n).toBeGreaterThan(3)
    expect(walked).toEqual(before)

    // Oldest first, newly added rows come at the end, and rows of earlier pages may go.
    const drafts = await Promise.all([1, 2, 3].map((i) => newRequest(api, { by: 'manager2', title: `Draft ${i}` })))
    const mine = `orderBy: [CREATED_AT_ASC], condition: { creatorId: "${api.db.people.manager2.id}" }`
    const first: Page = await list('requests', `first: 2, ${mine}`, 'manager2')
    await api.data(mutation('deleteRequest'), { input: { requestId: first.nodes[1]!.id } }, 'manager2')
    const added = await newRequest(api, { by: 'manager2' })
    // Its cursor is still good, though its row is gone.
    const rest: Page = await list('requests', `after: ${JSON.stringify(first.pageInfo.endCursor)}, ${mine}`, 'manager2')
    expect([...ids(first), ...ids(rest)].sort()).toEqual([...drafts, added].sort())
    expect(rest.pageInfo).toMatchObject({ hasNextPage: false })
  })

  test('may be empty', async () => {
    const none = await list('requests', `condition: { creatorId: "${NOBODY}" }`, 'manager', `${PAGE} totalCount`)
    expect(none).toEqual({
      nodes: [],
      totalCount: 0,
      pageInfo: { hasNextPage: false, hasPreviousPage: false, startCursor: null, endCursor: null },
    })
  })
})

describe('cursors', () => {
  const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64')

  test('are BAD_REQUEST when malformed, or taken from another list or order', async () => {
    const cursor = (await list('requests', 'first: 1')).pageInfo.endCursor
    const parts = JSON.parse(Buffer.from(cursor, 'base64').toString())
    const garbage = [
      '',
      'garbage',
      '!!',
      '😀',
      'null',
      encode(null),
      encode({}),
      encode([]),
      encode('x'),
      encode(1),
      encode([parts[0]]),
      encode(['x', ...parts.slice(1)]),
      encode([...parts, 'more']),
      encode([parts[0], [parts[1], parts[2]]]),
      'x'.repeat(50_000),
      encode('['.repeat(5_000)),
      Buffer.from('['.repeat(50_000)).toString('base64'),
    ]
    // Well-formed, but with values that no row can have.
    const forged = [
      ['no time', NOBODY],
      [parts[1], 'no id'],
      [{}, []],
      [1, 2],
      ['2024-01-01\0', NOBODY],
      ["'; drop table app_public.requests; --", NOBODY],
      ['x'.repeat(100_000), NOBODY],
      ['2024-01-01 Nowhere/Land', NOBODY],
      ['2024-01-01', '\ud800'],
    ].map((values) => encode([parts[0], ...values]))
    for (const [values, code] of [
      [garbage, /^BAD_REQUEST$/],
      [forged, /^(BAD_REQUEST|VALIDATION_FAILED)$/],
    ] as const) {
      for (const value of values) {
        for (const args of ['first: 2, after: $c', 'last: 2, before: $c']) {
          const { text, body } = await api.graphql(
            `query ($c: Cursor) { requests(${args}) { nodes { id } } }`,
            { c: value },
            'manager',
          )
          const shown = [value.slice(0, 80), text.slice(0, 300)]
          // NUL in a value is refused before anybody asks what the value is.
          const nul = { code: 'VALIDATION_FAILED', field: 'c', fields: [expect.objectContaining({ field: 'c' })] }
          const refusal = value.includes('\0') ? nul : { code: expect.stringMatching(code) }
          expect([shown, body.errors?.[0].extensions]).toEqual([shown, refusal])
        }
      }
    }
    // No text can have NUL, whatever it is for.
    const after = 'query ($c: Cursor) { requests(after: $c) { nodes { id } } }'
    const { body: withNul } = await api.graphql(after, { c: '\u0000' }, 'manager')
    expect(withNul.errors?.[0].extensions).toMatchObject({ code: 'VALIDATION_FAILED', field: 'c' })
    expect(
      (
        await api.graphql(
          'query ($c: Cursor) { requests(after: $c) { nodes { id } } }',
          { c: encode([parts[0], null, null]) },
          'manager',
        )
      ).status,
    ).toBe(200)
    for (const args of ['orderBy: [SUBMITTED_AT_DESC]', 'orderBy: [CREATOR_ID_ASC]', 'orderBy: [PRIMARY_KEY_ASC]']) {
      expect([args, await code('requests', `${args}, after: ${JSON.stringify(cursor)}`)]).toEqual([args, 'BAD_REQUEST'])
    }
    for (const field of ['requestsAwaitingMyDecision', 'users', 'auditLogs']) {
      expect([field, await code(field, `after: ${JSON.stringify(cursor)}`)]).toEqual([field, 'BAD_REQUEST'])
    }
    for (const value of ['1', '1.5', 'true', '[]', '{}', 'X'])
      expect(await code('requests', `after: ${value}`)).toBe('BAD_REQUEST')
    expect(api.log()).not.toContain('internal error')
  })

  test('show another caller nothing more', async () => {
    const cursor = (await list('requests', 'first: 1')).pageInfo.endCursor
    const page = await list('requests', `after: ${JSON.stringify(cursor)}`, 'user')
    expect(page.nodes).toEqual([])
  })
})

describe('counts', () => {
  const NUMBERS =
    'totalCount aggregates { distinctCount { id creatorId status } } groupedAggregates(groupBy: STATUS) { keys distinctCount { id } }'

  test('totalCount and aggregates cover the rows that the caller can see, whatever the page', async () => {
    const total = Number(
      (await owner.query(`select count(*) from app_public.requests where creator_id = $1`, [api.db.people.user2.id])).rows[0]
        .count,
    )
    const mine = `condition: { creatorId: "${api.db.people.user2.id}" }`
    for (const args of [mine, `first: 3, ${mine}`, `first: 0, ${mine}`, `last: 3, ${mine}`]) {
      const { totalCount, aggregates, groupedAggregates } = await list('requests', args, 'manager', NUMBERS)
      expect([args, totalCount]).toEqual([args, total])
      expect(aggregates.distinctCount).toEqual({ id: String(total), creatorId: '1', status: '1' })
      expect(groupedAggregates).toEqual([{ keys: ['SUBMITTED'], distinctCount: { id: String(total) } }])
    }
    const nothing = await list('requests', '', 'user', NUMBERS)
    expect(nothing.totalCount).toBe(0)
    expect(nothing.aggregates.distinctCount).toEqual({ id: '0', creatorId: '0', status: '0' })
    expect(nothing.groupedAggregates).toEqual([])
    expect((await list('requestsAwaitingMyDecision', 'first: 1', 'manager', 'totalCount')).totalCount).toBe(total)
    expect((await list('requestsAwaitingMyDecision', '', 'user2', 'totalCount')).totalCount).toBe(0)
  })

  test('can be grouped by day, and those of the audit trail by action', async () => {
    const { groupedAggregates } = await list(
      'requests',
      '',
      'user2',
      'groupedAggregates(groupBy: [STATUS, CREATED_AT_TRUNCATED_TO_DAY]) { keys distinctCount { id } }',
    )
    const sum = groupedAggregates.reduce((n: number, g: any) => n + Number(g.distinctCount.id), 0)
    expect(sum).toBe((await list('requests', '', 'user2', 'totalCount')).totalCount)
    const byAction = await list('auditLogs', '', 'user2', 'groupedAggregates(groupBy: ACTION) { keys distinctCount { id } }')
    expect(byAction.groupedAggregates).toContainEqual({ keys: ['SUBMIT'], distinctCount: { id: '130' } })
  })

  test('include nothing that the caller cannot see, neither addresses nor requests of others', async () => {
    const query = '{ users { totalCount aggregates { distinctCount { email id } } } }'
    expect((await api.data(query, {}, 'user')).users).toEqual({
      totalCount: 5,
      aggregates: { distinctCount: { email: '1', id: '5' } },
    })
    expect((await api.data(query, {}, 'admin')).users).toEqual({
      totalCount: 5,
      aggregates: { distinctCount: { email: '5', id: '5' } },
    })
  })
})

describe('filters', () => {
  test('work together with the condition and the order of a list', async () => {
    const me = api.db.people.user2.id
    const byCondition = await list(
      'requests',
      `first: 100, condition: { status: SUBMITTED, creatorId: "${me}" }, orderBy: [CREATED_AT_ASC]`,
    )
    const byFilter = await list(
      'requests',
      `first: 100, filter: { status: { in: [SUBMITTED, APPROVED] }, creatorId: { equalTo: "${me}" } }, orderBy: [CREATED_AT_ASC]`,
    )
    expect(byCondition.nodes).toHaveLength(100)
    expect(ids(byFilter)).toEqual(ids(byCondition))
    // The 100th is one of three at the same time.
    expect(titles(byFilter)).toEqual(expect.arrayContaining(Array.from({ length: 99 }, (_, i) => `r${i}`)))
    const none = await list('requests', `filter: { creatorId: { equalTo: "${me}" }, not: { status: { equalTo: SUBMITTED } } }`)
    expect(none.nodes).toEqual([])
    const either = await list(
      'requests',
      `filter: { or: [{ id: { equalTo: "${ids(byFilter)[0]}" } }, { id: { equalTo: "${NOBODY}" } }] }`,
    )
    expect(ids(either)).toEqual([ids(byFilter)[0]])
  })

  test('filter by an instant in any form that RFC 3339 has, however long its fraction, in variables and in the document', async () => {
    const { rows } = await owner.query<{ at: string; later: string; earlier: string }>(
      `select to_char(t, f) as at, to_char(t + '23:59', f) as later, to_char(t - '23:59'::interval, f) as earlier
       from (select created_at at time zone 'UTC' from app_public.requests where title = 'r40') r (t), (values ($1)) v (f)`,
      ['YYYY-MM-DD"T"HH24:MI:SS.US'],
    )
    const { at, later, earlier } = rows[0]!
    const three = ['r39', 'r40', 'r41'] // They are of the same time, and of the same millisecond come in any order.
    const find = async (equalTo: string) => {
      const inDocument = await list('requests', `filter: { createdAt: { equalTo: "${equalTo}" } }`)
      const { requests } = await api.data(
        'query ($t: Datetime) { requests(filter: { createdAt: { equalTo: $t } }) { nodes { title } } }',
        { t: equalTo },
        'manager',
      )
      return [equalTo, titles(inDocument).toSorted(), titles(requests).toSorted()]
    }
    for (const time of [
      `${at}Z`,
      `${at.toLowerCase()}0000z`,
      `${at.replace('T', ' ')}-00:00`,
      `${at}${'0'.repeat(200)}Z`,
      `${later}+23:59`,
      `${earlier}-23:59`,
    ]) {
      expect(await find(time)).toEqual([time, three, three])
    }
    for (const time of ['0000-01-01T00:00:00+23:59', '9999-12-31T23:59:60-23:59'])
      expect(await find(time)).toEqual([time, [], []])
  })

  test('filter by time, and refuse an invalid time', async () => {
    const noon = (
      await owner.query(`select created_at from app_public.requests where title = 'r60'`)
    ).rows[0].created_at.toISOString()
    const older = await list('requests', `first: 100, filter: { createdAt: { lessThan: "${noon}" } }`)
    expect(older.nodes.length).toBeGreaterThan(50)
    expect(older.nodes.length).toBeLessThan(70)
    for (const time of [
      '',
      'x',
      // PostgreSQL reads these.
      'now',
      'yesterday',
      'infinity',
      '20240101',
      'Jan 1 2024',
      '2024-01-01T00:00:00 Europe/Berlin',
      'J2451187',
      '2024-13-01',
      '2024-01-01T00:00:00+99:00',
      '2024-01-01 00:00 Nowhere/Land',
      '999999-01-01T00:00:00Z',
      '1e400',
    ]) {
      const answer = await api.graphql(
        'query ($t: Datetime) { requests(condition: { createdAt: $t }) { totalCount } }',
        { t: time },
        'manager',
      )
      const message = expect.stringContaining('A time must have the form of RFC 3339')
      expect([time, answer.body.errors]).toEqual([
        time,
        [expect.objectContaining({ message, extensions: expect.objectContaining({ code: 'BAD_REQUEST' }) })],
      ])
    }
    const ask = 'query ($t: Datetime) { requests(condition: { createdAt: $t }) { totalCount } }'
    expect(await api.code(ask, { t: '2024-01-01\0' }, 'manager')).toBe('VALIDATION_FAILED')
  })

  test('list deleted requests only for admins, and only when they ask for them', async () => {
    const requestId = await newRequest(api, { by: 'user', title: 'Deleted' })
    await api.data(mutation('deleteRequest'), { input: { requestId } }, 'user')
    const has = async (args: string, who: Who) => ids(await list('requests', `first: 100${args}`, who)).includes(requestId)
    const asking = [
      ', condition: { isDeleted: true }',
      ', filter: { isDeleted: { equalTo: true } }',
      ', filter: { or: [{ isDeleted: { equalTo: true } }] }',
      ', filter: { not: { isDeleted: { equalTo: false } } }',
      ', filter: { isDeleted: { in: [true, false] } }',
    ]
    for (const args of ['', ', condition: { isDeleted: false }', `, condition: { creatorId: "${api.db.people.user.id}" }`]) {
      expect([args, await has(args, 'admin')]).toEqual([args, false])
    }
    for (const args of asking) {
      expect([args, await has(args, 'admin')]).toEqual([args, true])
      expect([args, await has(args, 'user')]).toEqual([args, false])
      expect([args, await has(args, 'manager')]).toEqual([args, false])
    }
    for (const args of asking.slice(0, 2)) {
      expect([args, await has(`${args}, search: "delete"`, 'admin')]).toEqual([args, true])
      expect([args, await has(`${args}, search: "deletex"`, 'admin')]).toEqual([args, false])
      expect([args, await has(`${args}, search: "delete"`, 'user')]).toEqual([args, false])
    }
    expect(await has(', search: "delete"', 'admin')).toBe(false)
    const count = async (args: string) => (await list('requests', args, 'admin', 'totalCount')).totalCount
    const live = Number((await owner.query('select count(*) from app_public.requests where not is_deleted')).rows[0].count)
    const dead = Number((await owner.query('select count(*) from app_public.requests where is_deleted')).rows[0].count)
    expect(await count('')).toBe(live)
    expect(await count('condition: { isDeleted: true }')).toBe(dead)
    expect(await count('filter: { isDeleted: { in: [true, false] } }')).toBe(live + dead)
    // As a variable, too.
    const query = 'query ($f: RequestFilter, $c: RequestCondition) { requests(filter: $f, condition: $c) { totalCount } }'
    expect((await api.data(query, { f: { isDeleted: { equalTo: true } } }, 'admin')).requests.totalCount).toBe(dead)
    expect((await api.data(query, { c: { isDeleted: true } }, 'admin')).requests.totalCount).toBe(dead)
    expect((await api.data(query, {}, 'admin')).requests.totalCount).toBe(live)
  })

  test('list deactivated people for admins who ask, and for nobody else', async () => {
    await owner.query('update app_public.users set is_deleted = true where id = $1', [api.db.people.user2.id])
    const ask = async (who: 'admin' | 'manager') =>
      (await list('users', 'condition: { isDeleted: true }', who, 'nodes { name }')).nodes
    const [nodes, others] = [await ask('admin'), await ask('manager')]
    const { nodes: usual } = await list('users', '', 'admin', 'nodes { name }')
    await owner.query('update app_public.users set is_deleted = false where id = $1', [api.db.people.user2.id])
    expect([nodes, others]).toEqual([[{ name: 'Ugo User' }], []])
    expect(usual).not.toContainEqual({ name: 'Ugo User' })
  })

  test('filter nothing when empty or null', async () => {
    const all = (await list('requests', '', 'manager', 'totalCount')).totalCount
    for (const args of [
      'filter: {}',
      'filter: null',
      'condition: {}',
      'condition: null',
      'filter: { and: [] }',
      'filter: { status: {} }',
      'orderBy: []',
    ]) {
      expect([args, (await list('requests', args, 'manager', 'totalCount')).totalCount]).toEqual([args, all])
    }
  })

  test('are the caller’s fault when larger than PostgreSQL can take', async () => {
    const older = (n: number) => ({ or: Array.from({ length: n }, () => ({ createdAt: { lessThan: '2020-01-01T00:00:00Z' } })) })
    const deep = (n: number): object => (n === 0 ? {} : { not: deep(n - 1) })
    const once = 'query ($f: RequestFilter!) { requests(filter: $f) { totalCount } }'
    const times = (n: number) =>
      `query ($f: RequestFilter!) { requests(filter: { and: [${'{ or: [$f] } '.repeat(n)}] }) { totalCount } }`
    const twice = 'query ($f: RequestFilter!) { requests(filter: { and: [$f, $f] }) { totalCount } }'
    for (const [query, f] of [
      [once, older(15_000)],
      [times(200), older(300)],
      [twice, older(1)],
      [once, deep(1000)],
      [once, deep(4000)],
    ] as const) {
      const { status, body } = await api.graphql(query, { f }, 'manager')
      expect([status, body.errors[0].extensions]).toEqual([400, { code: 'BAD_REQUEST' }])
    }
    for (const [query, f] of [
      [once, older(300)],
      [times(60), older(300)],
      [once, deep(10)],
    ] as const) {
      expect((await api.graphql(query, { f }, 'manager')).status).toBe(200)
    }
  })
})

describe('search', () => {
  const words = 'Größe 采购 (search)'
  let mine: string[]
  beforeAll(async () => {
    mine = []
    for (let i = 0; i < 5; i++) mine.push(await newRequest(api, { title: `${words} ${i}`, submit: i > 0 }))
    await newRequest(api, { by: 'manager2', title: `${words} draft` })
  })

  test('finds requests that contain all words, page by page, in any order, filtered, and counted', async () => {
    const found = (args: string, who?: Who) =>
      list('requests', `search: "采购 GRÖSSE"${args && `, ${args}`}`, who, `totalCount ${PAGE}`)
    const newest = mine.toReversed()
    expect(ids(await found('', 'user'))).toEqual(newest)
    expect(ids(await found('orderBy: CREATED_AT_ASC', 'user'))).toEqual(mine)
    const first = await found('first: 2', 'user')
    expect([ids(first), first.totalCount]).toEqual([newest.slice(0, 2), 5])
    const after = JSON.stringify(first.pageInfo.endCursor)
    expect(ids(await found(`first: 2, after: ${after}`, 'user'))).toEqual(newest.slice(2, 4))
    expect(ids(await found('last: 2', 'user'))).toEqual(newest.slice(3))
    for (const asked of [
      'condition: { status: DRAFT }',
      'filter: { status: { equalTo: DRAFT } }',
      'filter: { status: { in: [DRAFT] } }',
    ]) {
      const drafts = await found(asked, 'user')
      expect([ids(drafts), drafts.totalCount]).toEqual([mine.slice(0, 1), 1])
    }
    // A draft is not there for others.
    expect(ids(await found('', 'manager'))).toEqual(newest.slice(0, 4))
    expect(ids(await found(`condition: { creatorId: "${api.db.people.manager2.id}" }`, 'manager'))).toEqual([])
    expect((await found(`condition: { creatorId: "${api.db.people.manager2.id}" }`, 'admin')).totalCount).toBe(1)
    const { keys } = (
      await list('requests', 'search: "采购"', 'user', 'groupedAggregates(groupBy: STATUS) { keys }')
    ).groupedAggregates.at(-1)
    expect(keys).toEqual(['SUBMITTED'])
  })

  test('takes variables, and left out, null or empty means all', async () => {
    const query = 'query ($search: String) { requests(search: $search) { totalCount } }'
    const all = (await list('requests', '', 'manager', 'totalCount')).totalCount
    for (const search of [undefined, null, '']) {
      expect((await api.data(query, { search }, 'manager')).requests.totalCount).toBe(all)
    }
    expect((await api.data(query, { search: '采购' }, 'manager')).requests.totalCount).toBe(4)
    const inbox = '{ requestsAwaitingMyDecision(search: "采购") { totalCount } }'
    expect((await api.data(inbox, {}, 'manager')).requestsAwaitingMyDecision.totalCount).toBe(4)
  })

  test('that is none is the caller’s fault', async () => {
    for (const search of ['   ', 'a b c d e f', 'x'.repeat(201)]) {
      const { body } = await api.graphql('query ($s: String) { requests(search: $s) { totalCount } }', { s: search }, 'user')
      expect(body.errors[0].extensions).toEqual(faultIn('search'))
    }
    expect((await api.graphql('{ requests(search: "a\u0000") { totalCount } }', {}, 'user')).body.errors[0].extensions.code).toBe(
      'VALIDATION_FAILED',
    )
  })

  test('finds people by name, and by address whoever may see it, in the order of names', async () => {
    const names = ['Zoë Öztürk', 'Anna Öztürk', 'Mia Öztürk']
    for (const name of names) {
      const { id } = await api.person()
      await owner.query('update app_public.users set name = $1 where id = $2', [name, id])
    }
    const found = async (args: string, who: Who) =>
      (await list('users', args, who, 'totalCount nodes { name } pageInfo { endCursor }')) as {
        totalCount: number
        nodes: { name: string }[]
        pageInfo: { endCursor: string }
      }
    const namesOf = ({ nodes }: { nodes: { name: string }[] }) => nodes.map(({ name }) => name)
    const first = await found('search: "öztürk", orderBy: NAME_ASC, first: 2', 'user')
    expect([namesOf(first), first.totalCount]).toEqual([['Anna Öztürk', 'Mia Öztürk'], 3])
    const after = JSON.stringify(first.pageInfo.endCursor)
    expect(namesOf(await found(`search: "öztürk", orderBy: NAME_ASC, first: 2, after: ${after}`, 'user'))).toEqual(['Zoë Öztürk'])
    expect(namesOf(await found('search: "ÖZTÜRK zo"', 'manager'))).toEqual(['Zoë Öztürk'])
    expect((await found('search: "@assent.test", condition: { role: ADMIN }', 'admin')).totalCount).toBe(1)
    expect((await found('search: "@assent.test"', 'user')).totalCount).toBe(1)
  })
})

describe('the audit logs of a request', () => {
  test('are a list of their own, with pages, filter and count', async () => {
    const requestId = await newRequest(api, { by: 'user', title: 'v1' })
    for (let i = 2; i <= 6; i++) await api.data(mutation('updateRequest'), { input: { requestId, title: `v${i}` } }, 'user')
    const query = `query ($id: UUID!, $after: Cursor) { request(id: $id) {
      auditLogs(first: 4, after: $after) { totalCount nodes { action } pageInfo { hasNextPage endCursor } }
      oldest: auditLogs(first: 1, orderBy: [TIMESTAMP_ASC]) { nodes { action } }
      updates: auditLogs(condition: { action: UPDATE }) { totalCount }
    } }`
    const { request } = await api.data(query, { id: requestId }, 'user')
    expect(request).toMatchObject({
      auditLogs: { totalCount: 6, pageInfo: { hasNextPage: true } },
      oldest: { nodes: [{ action: 'CREATE' }] },
      updates: { totalCount: 5 },
    })
    const next = await api.data(query, { id: requestId, after: request.auditLogs.pageInfo.endCursor }, 'user')
    expect(next.request.auditLogs.nodes).toEqual([{ action: 'UPDATE' }, { action: 'CREATE' }])
  })
})
