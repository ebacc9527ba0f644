import type { Client } from 'pg'
import { newRequest, NOBODY, PASSWORD, startApi, type Answer, type Api, type NewPerson, type Who } from '../../harness/client.ts'
import { openRest, outcome, type Rest } from '../../harness/rest.ts'

let api: Api
let rest: Rest
let owner: Client
beforeAll(async () => {
  api = await startApi({ TRUST_PROXY: '1' })
  rest = await openRest(api)
  owner = await api.db.connect('owner')
})
afterAll(() => api.close())

/** Submitted requests, named r0 (the oldest) and so on; threes of them share their times to the microsecond. */
async function insertMany(creatorId: string, count: number): Promise<void> {
  await owner.query('begin')
  await owner.query(`select set_config('assent.action', 'CREATE', true)`)
  await owner.query(
    `insert into app_public.requests (title, status, creator_id, created_at)
    select 'r' || i, 'DRAFT', $1, now() - interval '1 day' + i / 3 * interval '1 microsecond' from generate_series(0, $2 - 1) i`,
    [creatorId, count],
  )
  await owner.query(`select set_config('assent.action', 'SUBMIT', true)`)
  await owner.query(`update app_public.requests set status = 'SUBMITTED', submitted_at = created_at where creator_id = $1`, [
    creatorId,
  ])
  await owner.query('commit')
}

type Row = Record<string, any>
interface Page {
  readonly results: Row[]
  readonly next: string | null
  readonly previous: string | null
  readonly count?: number
}

async function page(who: Who, path: string): Promise<Page> {
  const answer = await rest(who, `GET ${path}`)
  expect([path, outcome(answer)]).toEqual([path, '200'])
  return answer.body
}
const idsOf = ({ results }: Pick<Page, 'results'>) => results.map((row) => row['id'] as string)
const titlesOf = ({ results }: Page) => results.map((row) => row['title'] as string)
const query = (path: string, parameters: Record<string, string>) => `${path}?${new URLSearchParams(parameters)}`

/** From a page to the end by its links; `between` happens before each further page. */
async function follow(who: Who, first: Page, link: 'next' | 'previous', between = async () => {}): Promise<Page[]> {
  const pages = [first]
  for (let path = first[link]; path; path = pages.at(-1)![link]) {
    await between()
    pages.push(await page(who, path))
    if (pages.length > 100) throw new Error('It does not end.')
  }
  return pages
}

const refuses = async (who: Who, path: string, parameter: string) =>
  expect([path, outcome(await rest(who, `GET ${path}`))]).toEqual([path, `422 VALIDATION_FAILED ${parameter}`])

/** Somebody with as many requests, and nothing else to be seen of others. */
async function withRequests(count: number): Promise<NewPerson> {
  const person = await api.person()
  await insertMany(person.id, count)
  return person
}

const LISTS = ['/requests/', '/audit-logs/', '/users/', '/auth/sessions/']

describe('the size of a page', () => {
  test('is 20, or what is asked for, and at most 100', async () => {
    const who = await withRequests(105)
    for (const [size, rows] of [
      [undefined, 20],
      ['', 20],
      ['1', 1],
      ['7', 7],
      ['007', 7],
      ['100', 100],
      ['101', 100],
      ['1000', 100],
      ['999999999', 100],
    ] as const) {
      const { results } = await page(who, size === undefined ? '/requests/' : `/requests/?page_size=${size}`)
      expect([size, results.length]).toEqual([size, rows])
    }
    expect((await page('admin', '/audit-logs/?page_size=500')).results).toHaveLength(100)
  })

  test.each(['9999999999', '1'.padEnd(30, '0')])('of %s means 100 too', async (size) => {
    expect(outcome(await rest('user', `GET /requests/?page_size=${size}`))).toBe('200')
  })

  test.each(LISTS)('that is none is refused: %s', async (path) => {
    for (const size of ['0', '-1', 'x', '1.0', '1e1', '0x10', '+5', ' 5', '5 ', '٥', 'null', 'true', 'NaN', '00', "1'", '1%00'])
      await refuses('user', `${path}?page_size=${size}`, 'page_size')
    await refuses('user', `${path}?page_size=5&page_size=6`, 'page_size')
    await refuses('user', `${path}?page_size=5&page_size=5`, 'page_size')
  })
})

describe('paging', () => {
  const sizes = [1, 4, 10, 20, 21]

  test('gives every row once, forwards and back, for each list and each order', async () => {
    const who = await withRequests(20)
    const acted = await newRequest(api, { submit: true })
    await Promise.all(
      ['a', 'b', 'c', 'd'].map((title) => rest('user', `PATCH /requests/${acted}/`, { title }).then(() => newRequest(api))),
    )
    for (let i = 0; i < 3; i++) await api.person('MANAGER')
    const lists: [who: Who, path: string, orderings: string[]][] = [
      [who, '/requests/', ['-created_at', 'created_at']],
      ['manager', `/requests/?awaiting_my_decision=true&creator_id=${who.id}`, ['submitted_at', '-submitted_at']],
      ['user', '/audit-logs/', ['-timestamp', 'timestamp']],
      ['user', `/requests/${acted}/audit-logs/`, ['-timestamp', 'timestamp']],
      ['manager', '/users/', ['-created_at', 'created_at']],
    ]
    for (const [who, path, orderings] of lists) {
      const all = await Promise.all(
        ['', ...orderings].map((ordering) =>
          page(who, `${path}${path.includes('?') ? '&' : '?'}page_size=100&ordering=${ordering}`),
        ),
      )
      const [inOrder, asFirst, reversed] = all.map(idsOf)
      expect(inOrder!.length).toBeGreaterThan(1)
      expect([asFirst, reversed]).toEqual([inOrder, inOrder!.toReversed()])
      for (const size of sizes) {
        for (const [ordering, expected] of [
          [orderings[0]!, inOrder!],
          [orderings[1]!, reversed!],
        ] as const) {
          const first = await page(who, `${path}${path.includes('?') ? '&' : '?'}page_size=${size}&ordering=${ordering}`)
          const there = await follow(who, first, 'next')
          expect([path, size, there.flatMap(idsOf)]).toEqual([path, size, expected])
          expect(there.map(({ results }) => results.length).slice(0, -1)).toEqual(Array(there.length - 1).fill(size))
          const back = await follow(who, there.at(-1)!, 'previous')
          expect(back.reverse().map(idsOf)).toEqual(there.map(idsOf))
          // And from the beginning, as it was come back to, forwards once more.
          expect((await follow(who, back[0]!, 'next')).flatMap(idsOf)).toEqual(expected)
        }
      }
    }
  }, 20_000)

  test('says null at both ends, and only there', async () => {
    const who = await withRequests(6)
    for (const [size, lengths] of [
      [6, [6]],
      [3, [3, 3]],
      [4, [4, 2]],
      [2, [2, 2, 2]],
    ] as const) {
      const there = await follow(who, await page(who, `/requests/?page_size=${size}`), 'next')
      const back = (await follow(who, there.at(-1)!, 'previous')).reverse()
      for (const pages of [there, back]) {
        const ends = pages.map(({ results, next, previous }) => [results.length, previous === null, next === null])
        expect(ends).toEqual(lengths.map((length, i) => [length, i === 0, i === lengths.length - 1]))
      }
    }
    const nobody = await api.person()
    for (const list of ['/requests/', '/audit-logs/', '/requests/?awaiting_my_decision=true'])
      expect(await page(nobody, list)).toEqual({ results: [], next: null, previous: null })
  })

  test('skips and repeats nothing while rows are added and removed', async () => {
    const who = await api.person()
    const create = async (n: number) => (await rest(who, 'POST /requests/', { title: `n${n}` })).body.id as string
    const remove = async (id: string) => expect((await rest(who, `DELETE /requests/${id}/`)).status).toBe(204)
    const start: string[] = []
    for (let i = 0; i < 24; i++) start.unshift(await create(i))
    const gone = new Set<string>()
    const added: string[] = []
    let step = 0
    // What has been read, what has not, and the very row that the link goes by.
    const churn = async () => {
      step++
      added.unshift(await create(100 + step))
      for (const at of [step * 4 - 1, step * 4 - 3, step * 4 + 2]) {
        const id = start[at]!
        if (!id || gone.has(id)) continue
        await remove(id)
        gone.add(id)
      }
    }
    const first = await page(who, '/requests/?page_size=4')
    const there = await follow(who, first, 'next', churn)
    expect(step).toBeGreaterThan(4)
    const seen = there.flatMap(idsOf)
    const stayed = start.filter((id) => !gone.has(id))
    expect(new Set(seen).size).toBe(seen.length)
    expect(seen.filter((id) => !gone.has(id))).toEqual(stayed)
    expect(seen.filter((id) => added.includes(id))).toEqual([])

    // Back again: what came in at the front is met at the front.
    const before = step
    const back = (
      await follow(who, there.at(-1)!, 'previous', async () => void (step++, added.unshift(await create(200 + step))))
    ).reverse()
    const all = back.flatMap(idsOf)
    expect(new Set(all).size).toBe(all.length)
    expect(all.filter((id) => start.includes(id) && !gone.has(id))).toEqual(stayed)
    expect(all.filter((id) => added.includes(id))).toEqual(added.slice(added.indexOf(all[0]!)))
    expect(step).toBeGreaterThan(before + 4)
  })

  test('leads on from a page whose rows have all gone meanwhile', async () => {
    const who = await api.person()
    const ids: string[] = []
    for (let i = 0; i < 9; i++) ids.unshift((await rest(who, 'POST /requests/', { title: 'x' })).body.id)
    const remove = (some: string[]) => Promise.all(some.map((id) => rest(who, `DELETE /requests/${id}/`)))
    const first = await page(who, '/requests/?page_size=3')
    const second = await page(who, first.next!)
    await remove(ids.slice(6))
    const third = await page(who, second.next!)
    expect(third).toMatchObject({ results: [], next: null })
    expect(idsOf(await page(who, third.previous!))).toEqual(ids.slice(3, 6))
    await remove(ids.slice(0, 3))
    const before = await page(who, second.previous!)
    expect(before).toMatchObject({ results: [], previous: null })
    expect(idsOf(await page(who, before.next!))).toEqual(ids.slice(3, 6))
  })

  test('goes by links that are relative to the host, however it is called, and keep what was asked', async () => {
    const who = await withRequests(9)
    const asked = { status: 'SUBMITTED', creator_id: who.id, ordering: 'created_at', page_size: '3', count: 'true' }
    const first = await page(who, query('/requests/', { ...asked, unknown: '1', search: '' }))
    expect(first.next).toMatch(/^\/api\/v1\/requests\/\?/)
    const next = new URL(first.next!, api.url)
    const { cursor, ...kept } = Object.fromEntries(next.searchParams)
    expect(kept).toEqual(asked)
    expect(cursor).toMatch(/^[\w-]+$/) // Needs no encoding.
    const second = await page(who, first.next!)
    expect(titlesOf(second)).toHaveLength(3)
    expect(second.count).toBe(9)
    expect(Object.keys(Object.fromEntries(new URL(second.previous!, api.url).searchParams)).sort()).toEqual(
      [...Object.keys(asked), 'cursor'].sort(),
    )

    const forwarded = { 'x-forwarded-proto': 'https', 'x-forwarded-host': 'other.example' }
    for (const headers of [forwarded, { host: 'assent.example:8443' }, { host: 'evil" onload="x' }]) {
      const { body } = await rest(who, 'GET /requests?page_size=3', undefined, headers)
      expect(body.next).toMatch(/^\/api\/v1\/requests\?page_size=3&cursor=[\w-]+$/)
    }
  })

  test('of sessions too', async () => {
    const { email } = await api.person()
    const login = () => rest(undefined, 'POST /auth/token/', { email, password: PASSWORD })
    const who = { token: (await login()).body.access_token }
    await Promise.all([login(), login(), login()])
    const all = idsOf(await page(who, '/auth/sessions/'))
    expect(all).toHaveLength(5)
    const there = await follow(who, await page(who, '/auth/sessions/?page_size=2'), 'next')
    expect(there.map(idsOf)).toEqual([all.slice(0, 2), all.slice(2, 4), all.slice(4)])
    expect((await follow(who, there.at(-1)!, 'previous')).reverse().map(idsOf)).toEqual(there.map(idsOf))
  })
})

describe('a cursor', () => {
  const make = (...members: unknown[]) => Buffer.from(JSON.stringify(members)).toString('base64url')
  const at = '2024-01-01 00:00:00+00'

  test('is good for its own order, and refused for another', async () => {
    const who = await withRequests(3)
    const cursorOf = async (path: string) => new URL((await page(who, path)).next!, api.url).searchParams.get('cursor')!
    const newest = await cursorOf('/requests/?page_size=1')
    const oldest = await cursorOf('/requests/?page_size=1&ordering=created_at')
    const log = await cursorOf('/audit-logs/?page_size=1')
    const user = await cursorOf('/users/?page_size=1&ordering=created_at')
    for (const path of [
      `/requests/?ordering=created_at&cursor=${newest}`,
      `/requests/?ordering=-created_at&cursor=${oldest}`,
      `/requests/?cursor=${oldest}`,
      `/requests/?awaiting_my_decision=true&cursor=${newest}`,
      `/requests/?cursor=${log}`,
      `/requests/?cursor=${user}`,
      `/audit-logs/?cursor=${newest}`,
      `/users/?cursor=${log}`,
      `/auth/sessions/?cursor=${log}`,
    ])
      await refuses(who, path, 'cursor')
    // Another page size and other filters go on from the same row.
    expect(titlesOf(await page(who, `/requests/?page_size=5&cursor=${newest}`))).toHaveLength(2)
    expect(titlesOf(await page(who, `/requests/?status=APPROVED&cursor=${newest}`))).toEqual([])
  })

  test('that was not given is refused', async () => {
    const forged = [
      'x',
      '!',
      '0',
      'null',
      'true',
      'WyI',
      'é',
      '%00',
      '%ff',
      '..',
      '-'.repeat(5000),
      make(),
      make(''),
      make('-created_at'),
    ]
    forged.push(
      Buffer.from('{}').toString('base64url'),
      Buffer.from('null').toString('base64url'),
      Buffer.from('"-created_at"').toString('base64url'),
      Buffer.from(`["-created_at",false,"${at}","${NOBODY}"`).toString('base64url'),
      Buffer.from([0xff, 0xfe]).toString('base64url'),
      make('title', false, at, NOBODY),
      make('created_at', false, at, NOBODY),
      make(['-created_at'], false, at, NOBODY),
      make('-created_at', 0, at, NOBODY),
      make('-created_at', 'false', at, NOBODY),
      make('-created_at', null, at, NOBODY),
      make('-created_at', false, at, ''),
      make('-created_at', false, at, 'x'),
      make('-created_at', false, at, null),
      make('-created_at', false, at, `${NOBODY}'`),
      make('-created_at', false, at, NOBODY.replaceAll('-', '')),
      make('-created_at', false, at),
    )
    const positions = [
      '',
      'x',
      'now',
      'infinity',
      '-infinity',
      'epoch',
      'today',
      null,
      5,
      {},
      '24-01-01',
      '2024-13-01',
      '2024-02-30',
    ]
    positions.push('0000-01-01', '2024-01-01 BC', "2024-01-01'", '2024-01-01\0', '2024-01-01T25:00:00Z', '99999-01-01')
    forged.push(...positions.map((position) => make('-created_at', false, position, NOBODY)))
    for (const cursor of forged) await refuses('user', `/requests/?cursor=${cursor}`, 'cursor')
    await refuses('user', `/requests/?cursor=x&cursor=y`, 'cursor')
  })

  test('of what has no text is refused', async () => {
    for (const odd of [{ toString: 1 }, [[{ toString: null }]], { valueOf: 1, toString: 'x' }]) {
      for (const members of [
        [odd, false, at, NOBODY],
        ['-created_at', odd, at, NOBODY],
        ['-created_at', false, odd, NOBODY],
        ['-created_at', false, at, odd],
      ])
        await refuses('user', `/requests/?cursor=${make(...members)}`, 'cursor')
    }
  })

  test('with a time zone that there is none of is refused', async () => {
    await refuses('user', `/requests/?cursor=${make('-created_at', false, '2024-01-01T00:00:00+23:59', NOBODY)}`, 'cursor')
  })

  test('opens nothing: who may see what is asked anew on each page', async () => {
    const who = await withRequests(3)
    const { next } = await page(who, '/requests/?page_size=1')
    expect((await page('user2', next!)).results).toEqual([])
    expect(outcome(await rest(undefined, `GET ${next}`))).toBe('401 UNAUTHENTICATED')
  })
})

describe('filters', () => {
  let everything: Row[]
  let creator: NewPerson
  let ids: { manager: string; manager2: string; admin: string }
  beforeAll(async () => {
    creator = await api.person()
    ids = { manager: api.db.people.manager.id, manager2: api.db.people.manager2.id, admin: api.db.people.admin.id }
    const create = async (title: string, assigned_to_id: string | null, actions: [Who, string, object?][]) => {
      const { body } = await rest(creator, 'POST /requests/', { title, description: `About ${title}`, assigned_to_id })
      for (const [who, action, more] of actions) {
        expect((await rest(who, `POST /requests/${body.id}/${action}/`, more)).status).toBe(200)
      }
    }
    const submit: [Who, string] = [creator, 'submit']
    for (const assignee of [null, ids.manager, ids.manager2]) {
      await create('Draft laptop', assignee, [])
      await create('Waiting chair', assignee, [submit])
      await create('Approved desk', assignee, [submit, ['admin', 'approve']])
      await create('Rejected desk lamp', assignee, [submit, ['admin', 'reject', { comment: 'No' }]])
    }
    everything = (await page(creator, '/requests/?page_size=100')).results
    expect(everything).toHaveLength(12)
  })

  test('each, and all of them together, choose what they name', async () => {
    const STATUSES = [undefined, 'DRAFT', 'SUBMITTED', 'APPROVED', 'REJECTED']
    const ASSIGNEES = [undefined, ids.manager, ids.manager2, ids.manager.toUpperCase(), ids.admin]
    const CREATORS = [undefined, creator.id, ids.admin]
    const SEARCHES = [undefined, 'desk', 'desk lamp']
    let chosen = 0
    for (const status of STATUSES) {
      for (const assigned_to_id of ASSIGNEES) {
        for (const creator_id of CREATORS) {
          for (const search of SEARCHES) {
            const parameters = JSON.parse(JSON.stringify({ status, assigned_to_id, creator_id, search, count: 'true' }))
            const expected = everything.filter(
              (row) =>
                (!status || row['status'] === status) &&
                (!assigned_to_id || row['assigned_to']?.id === assigned_to_id.toLowerCase()) &&
                (!creator_id || row['creator'].id === creator_id) &&
                (!search || search.split(' ').every((word) => row['title'].includes(word))),
            )
            const found = await page(creator, query('/requests/', parameters))
            expect([parameters, idsOf(found)]).toEqual([parameters, expected.map(({ id }) => id)])
            expect(found.count).toBe(expected.length)
            if (expected.length > 0) chosen++
          }
        }
      }
    }
    expect(chosen).toBeGreaterThan(60)
  }, 20_000)

  test('ordering=created_at is the oldest first', async () => {
    const oldest = await page(creator, '/requests/?ordering=created_at')
    expect(oldest.results).toEqual(everything.toReversed())
    expect((await page(creator, '/requests/?ordering=-created_at')).results).toEqual(everything)
  })

  test('awaiting_my_decision=true is all that I can decide, the oldest submission first', async () => {
    const late = await newRequest(api, { title: 'Created first, submitted last' })
    const early = await newRequest(api, { title: 'Submitted first', submit: true })
    await rest('user', `POST /requests/${late}/submit/`)
    const inbox = '/requests/?awaiting_my_decision=true&page_size=100'
    for (const who of ['user', 'user2', 'manager', 'manager2', 'admin'] as const) {
      const found = await page(who, inbox)
      const { requestsAwaitingMyDecision } = await api.data(
        '{ requestsAwaitingMyDecision(first: 100) { nodes { id } totalCount } }',
        {},
        who,
      )
      expect(idsOf(found)).toEqual(requestsAwaitingMyDecision.nodes.map(({ id }: Row) => id))
      const all = await follow(who, await page(who, '/requests/?page_size=100'), 'next')
      const decidable = all.flatMap(({ results }) => results.filter((row) => row['available_actions'].includes('APPROVE')))
      decidable.sort((a, b) => (a['submitted_at'] < b['submitted_at'] ? -1 : 1))
      expect(found.results.map((row) => row['submitted_at'])).toEqual(decidable.slice(0, 100).map((row) => row['submitted_at']))
      expect((await page(who, `${inbox}&count=true`)).count).toBe(requestsAwaitingMyDecision.totalCount)
      expect(decidable.length > 0).toBe(!who.startsWith('user'))
    }
    const mine = idsOf(await page('manager', `${inbox}&creator_id=${api.db.people.user.id}`))
    expect(mine.slice(-2)).toEqual([early, late])
    expect(idsOf(await page('manager', `${inbox}&creator_id=${api.db.people.user.id}&ordering=-submitted_at`))).toEqual(
      mine.toReversed(),
    )
    expect(titlesOf(await page('manager', `${inbox}&creator_id=${creator.id}`))).toEqual(['Waiting chair', 'Waiting chair'])
    expect(titlesOf(await page('manager', `${inbox}&assigned_to_id=${ids.manager}&search=chair`))).toEqual(['Waiting chair'])
    expect(titlesOf(await page('manager', `${inbox}&assigned_to_id=${ids.manager2}`))).toEqual([])
    expect(titlesOf(await page('manager', `${inbox}&status=APPROVED`))).toEqual([])
    expect(await page(creator, '/requests/?awaiting_my_decision=false')).toEqual(await page(creator, '/requests/'))
  })

  test('search looks for every word, or part of one, in title and description, in any letter case', async () => {
    const who = await api.person()
    const texts: [title: string, description: string | null][] = [
      ['Ein größerer Tisch', 'für das Büro'],
      ['A larger table', null],
      ['A TABLE cloth', '100% cotton_blend \\ "quoted" (50)'],
      ['Новый ноутбук', 'Старый сломался'],
      ['Nothing else', 'but a tablet, and a large one'],
      ['采购申请 🚀', 'PC'],
    ]
    for (const [title, description] of texts) await rest(who, 'POST /requests/', { title, description })
    const found = async (search: string) => titlesOf(await page(who, query('/requests/', { search, ordering: 'created_at' })))
    const table: [search: string, found: number[]][] = [
      ['table', [1, 2, 4]],
      ['TABLE', [1, 2, 4]],
      ['able', [1, 2, 4]],
      ['table large', [1, 4]],
      ['large table', [1, 4]],
      ['  large   a  ', [1, 4]],
      ['tablecloth', []],
      ['table cloth cotton', [2]],
      ['100%', [2]],
      ['100_', []],
      ['cot%nd', []],
      ['cotton_blend', [2]],
      ['cotton-blend', []],
      ['cotton \\', [2]],
      ['"quoted"', [2]],
      ["table' or ''='", []],
      ['größerer', [0]],
      ['GRÖSSERER', [0]],
      ['gro\u0308ßerer', [0]],
      ['GRÖßERER', [0]],
      ['BÜRO', [0]],
      ['ноутбук', [3]],
      ['НОУТБУК СТАРЫЙ', [3]],
      ['nothing at all', []],
      ['采购', [5]],
      ['PC', [5]],
      ['🚀', [5]],
    ]
    for (const [search, expected] of table)
      expect([search, await found(search)]).toEqual([search, expected.map((n) => texts[n]![0])])
    expect(titlesOf(await page('user2', '/requests/?search=größerer'))).toEqual([])
  })

  describe('a search among a thousand newer drafts with the same words', () => {
    let who: NewPerson
    let found: string
    beforeAll(async () => {
      who = await api.person()
      found = (await rest(who, 'POST /requests/', { title: 'An aardvark' })).body.id
      await rest(who, `POST /requests/${found}/submit/`)
      await owner.query('begin')
      await owner.query(`select set_config('assent.action', 'CREATE', true)`)
      await owner.query(
        `insert into app_public.requests (title, status, creator_id) select 'Aardvark ' || i, 'DRAFT', $1 from generate_series(1, 1000) i`,
        [who.id],
      )
      await owner.query('commit')
    })

    test('finds what was submitted for whom the drafts are not to be seen', async () => {
      expect(idsOf(await page('manager', '/requests/?search=aardvark'))).toEqual([found])
    })

    test('finds what was submitted for whom asks for that status', async () => {
      expect(idsOf(await page(who, '/requests/?search=aardvark&status=SUBMITTED'))).toEqual([found])
    })
  })

  test('a search of too little or too much is refused', async () => {
    for (const search of ['%20%20', 'a b c d e f', 'x'.repeat(201)])
      await refuses('user', `/requests/?search=${search}`, 'search')
    await refuses('user', '/requests/?search=abc&search=abd', 'search')
  })

  test('people are searched by name, and by address where it may be seen', async () => {
    const { id, email } = await api.person()
    await owner.query(`update app_public.users set name = 'Zoë Öztürk' where id = $1`, [id])
    const found = async (who: Who, search: string) => idsOf(await page(who, query('/users/', { search, count: 'true' })))
    for (const who of ['user', 'admin'] as const) expect(await found(who, 'ZTÜRK zo')).toEqual([id])
    expect(await found('admin', email.toUpperCase())).toEqual([id])
    expect(await found('user', email)).toEqual([])
    await refuses('user', '/users/?search=a+b+c+d+e+f', 'search')
  })

  describe('searches', () => {
    let blocker: Client
    beforeAll(async () => void (blocker = await api.db.connect('root')))
    afterEach(() => blocker.query('rollback'))

    test('are two at once for a person, and not for others', async () => {
      const asked = () => rest('user', 'GET /requests/?search=table')
      const busy = async () => {
        const { text } = await api.metrics()
        return Number(/^assent_searches_stopped_total\{reason="busy"\} (\d+)$/m.exec(text)![1])
      }
      const before = await busy()
      await blocker.query('begin')
      await blocker.query(
        `select pg_advisory_xact_lock(hashtextextended('search ' || n || ' of ' || $1::uuid, 0)) from generate_series(1, 2) n`,
        [api.db.people.user.id],
      )
      const { status, body, headers } = await asked()
      expect([status, body.code, headers['retry-after']]).toEqual([429, 'RATE_LIMITED', '1'])
      expect(await busy()).toBe(before + 1)
      expect((await rest('user2', 'GET /requests/?search=table')).status).toBe(200)
      expect((await rest('user', 'GET /requests/')).status).toBe(200)
      await blocker.query('rollback')
      expect((await asked()).status).toBe(200)
    })

    test('that take too long are stopped, and keep nobody from reading', async () => {
      await blocker.query('begin; lock table app_private.credentials')
      // Whoever searches for people waits for the lock, as for any slow work.
      const slow = (['user', 'user2', 'manager', 'admin', 'manager2'] as const).flatMap((who) => [
        rest(who, 'GET /users/?search=a'),
        rest(who, 'GET /users/?search=b'),
      ])
      const answered = await rest('user', 'GET /requests/')
      expect(answered.status).toBe(200)
      const stopped = await Promise.all(slow)
      for (const { status, body, headers } of stopped) {
        expect([status, body.code, headers['retry-after']]).toEqual([503, 'UNAVAILABLE', '1'])
      }
      expect(stopped.map(({ body }) => body.detail)).toContainEqual(expect.stringMatching(/^The search took too long/))
      expect((await api.metrics()).text).toMatch(/^assent_searches_stopped_total\{reason="slow"\} [1-9]/m)
      await blocker.query('rollback')
      expect((await rest('user', 'GET /users/?search=a')).status).toBe(200)
    })
  })

  test('count is there only when it is asked for', async () => {
    for (const list of ['/requests/', '/requests/?awaiting_my_decision=true', '/audit-logs/', '/users/', '/auth/sessions/']) {
      const and = list.includes('?') ? '&' : '?'
      const { results } = await page('admin', `${list}${and}page_size=100`)
      for (const asked of ['', `${and}count=false`, `${and}count=`])
        expect(Object.keys(await page('admin', list + asked))).toEqual(['results', 'next', 'previous'])
      const counted = await page('admin', `${list}${and}count=true&page_size=1`)
      expect(counted.count! >= results.length && (results.length === 100 || counted.count === results.length)).toBe(true)
      if (counted.next) expect((await page('admin', counted.next)).count).toBe(counted.count)
    }
  })
})

describe('audit logs', () => {
  test('are filtered by each of their parameters, and by all together', async () => {
    const who = await api.person()
    const id = (await rest(who, 'POST /requests/', { title: 'x' })).body.id
    const other = (await rest(who, 'POST /requests/', { title: 'y' })).body.id
    for (const title of ['a', 'b']) await rest(who, `PATCH /requests/${id}/`, { title })
    for (const each of [id, other]) await rest(who, `POST /requests/${each}/submit/`)
    await rest('manager', `POST /requests/${id}/approve/`)
    const all = (await page(who, '/audit-logs/')).results
    expect(all.map((row) => row['action'])).toEqual(['APPROVE', 'SUBMIT', 'SUBMIT', 'UPDATE', 'UPDATE', 'CREATE', 'CREATE'])
    const times = all.map((row) => row['timestamp'] as string)
    expect(idsOf(await page(who, query('/audit-logs/', { since: times[2]!, until: times[2]! })))).toEqual([])
    for (const actor_id of [undefined, who.id, api.db.people.manager.id, NOBODY]) {
      for (const action of [undefined, 'UPDATE', 'APPROVE', 'LOGIN']) {
        for (const request_id of [undefined, id, other, NOBODY]) {
          for (const [since, until] of [[], [times[5]], [undefined, times[1]], [times[4], times[2]]]) {
            const parameters = JSON.parse(JSON.stringify({ actor_id, action, request_id, since, until }))
            const expected = all.filter(
              (row) =>
                (!actor_id || row['actor'].id === actor_id) &&
                (!action || row['action'] === action) &&
                (!request_id || row['request_id'] === request_id) &&
                (!since || row['timestamp'] >= since) &&
                (!until || row['timestamp'] < until),
            )
            const found = await page(who, query('/audit-logs/', parameters))
            expect([parameters, idsOf(found)]).toEqual([parameters, expected.map((row) => row['id'])])
          }
        }
      }
    }
    expect(idsOf(await page(who, '/audit-logs/?ordering=timestamp'))).toEqual(all.map((row) => row['id']).toReversed())
    const update = await page(who, `/requests/${id}/audit-logs/?action=UPDATE&page_size=1`)
    expect(idsOf(await page(who, update.next!))).toEqual([all[4]!['id']])
    // The path says which request; no parameter says otherwise.
    expect(idsOf(await page(who, `/requests/${id}/audit-logs/?request_id=${other}&action=CREATE`))).toEqual([all[6]!['id']])
  }, 20_000)

  test('since and until are instants, to the microsecond, at any offset', async () => {
    const who = await api.person()
    for (const title of ['a', 'b', 'c']) await rest(who, 'POST /requests/', { title })
    const [newest, , oldest] = (await page(who, '/audit-logs/')).results.map((row) => row['timestamp'] as string)
    const found = async (parameters: Record<string, string>) =>
      (await page(who, query('/audit-logs/', parameters))).results.length
    expect(newest).toMatch(/\.\d{4,6}\+00:00$/)
    expect(await found({ since: newest! })).toBe(1)
    expect(await found({ until: newest! })).toBe(2)
    expect(await found({ since: oldest!, until: newest! })).toBe(2)
    expect(await found({ since: newest!.replace('+00:00', 'Z') })).toBe(1)
    expect(await found({ since: newest!.replace('T', ' ') })).toBe(1)
    const day = newest!.slice(0, 10)
    for (const since of [day, `${day}T00:00`, `${day}T00:00:00`, `${day}T00:00:00Z`, `${day}T00:00:00.000-00:00`, '2020-02-29'])
      expect([since, await found({ since })]).toEqual([since, 3])
    const later = `${Number(day.slice(0, 4)) + 1}${day.slice(4, 8)}01`
    expect([await found({ since: later }), await found({ until: later })]).toEqual([0, 3])
    // 14 hours ahead of us it is the same instant.
    const ahead = new Date(Date.parse(newest!) + 14 * 3600_000).toISOString().replace(/\.\d+Z/, newest!.slice(19, -6) + '+14:00')
    expect(await found({ since: ahead })).toBe(1)
  })

  test('what is no instant is refused', async () => {
    const none = [
      'x',
      'now',
      'yesterday',
      'infinity',
      '-infinity',
      'epoch',
      'allballs',
      '1',
      '1700000000',
      '2024',
      '2024-01',
      '20240101',
    ]
    none.push('24-01-01', '2024-13-01', '2024-00-01', '2024-01-00', '2024-01-32', '2024-01-01T25:00', '2024-01-01T00:60')
    none.push('2024-01-01T00:00:00 UTC', '2024-01-01T00:00:00[Europe/Paris]', '2024-01-01T00:00:00+99:99')
    none.push(
      '2024-01-01%00',
      '-2024-01-01',
      '+2024-01-01',
      '12024-01-01',
      '2024-W01-1',
      '2024-001',
      'Jan 1 2024',
      '2024-01-01 BC',
      '%ff',
    )
    none.push('2024-01-01T00:00:00+00:00') // Its "+" is a blank: what a caller who does not encode sends.
    for (const name of ['since', 'until']) {
      for (const value of none) await refuses('user', `/audit-logs/?${name}=${value}`, name)
      await refuses('user', `/audit-logs/?${name}=2024-01-01&${name}=2024-01-02`, name)
    }
  })

  test('nor is a day that its month has not got, or an offset', async () => {
    const none = ['2024-02-30', '2023-02-29', '2024-04-31', '2024-02-30T00:00:00Z', '2024-00-01']
    none.push('2024-01-01T00:00:00%2B24:00', '2024-01-01T00:00:00-00:60', '2024-01-01T00:00:61Z', '2024-01-01T24:00:00Z')
    for (const value of none) await refuses('user', `/audit-logs/?since=${value}`, 'since')
  })

  test('in any form that RFC 3339 has, an instant is that instant', async () => {
    const { results } = await page('admin', '/audit-logs/?page_size=1')
    const at = new Date(Math.floor(Date.parse(results[0]!['timestamp'] as string) / 60_000) * 60_000)
    const shifted = (minutes: number) => new Date(at.getTime() + minutes * 60_000).toISOString().slice(0, 17)
    const since = async (value: string) => {
      const found = await page('admin', `/audit-logs/?since=${encodeURIComponent(value)}&count=true`)
      return [value, found.count]
    }
    const [, count] = await since(at.toISOString())
    expect(count).toBeGreaterThan(0)
    for (const value of [
      at.toISOString().toLowerCase(),
      `${shifted(0)}00.000000000000z`,
      `${shifted(0)}00.${'0'.repeat(200)}Z`,
      `${shifted(-1)}59.9999999999Z`,
      `${shifted(-1)}60Z`, // A leap second.
      `${shifted(-1)}60.0Z`,
      `${shifted(0)}00-00:00`,
      `${shifted(23 * 60 + 59)}00+23:59`,
      `${shifted(-23 * 60 - 59)}00.0-23:59`,
      `${shifted(16 * 60)}00+16:00`,
      shifted(0).replace('T', ' ') + '00Z',
    ]) {
      expect(await since(value)).toEqual([value, count])
    }
    const all = (await page('admin', '/audit-logs/?count=true')).count
    for (const value of ['0000-01-01T00:00:00Z', '0000-01-01T00:00:00+23:59', '0001-01-01T00:00:00+00:01']) {
      expect(await since(value)).toEqual([value, all])
    }
    for (const value of ['9999-12-31T23:59:60Z', '9999-12-31T23:59:59-23:59']) expect(await since(value)).toEqual([value, 0])
  })
})

describe('a bad parameter', () => {
  const notUuid = [
    'x',
    '0',
    'null',
    'me',
    '%00',
    NOBODY.slice(1),
    NOBODY.replaceAll('-', ''),
    `{${NOBODY}}`,
    `${NOBODY}%20`,
    "'--",
  ]
  const notFlag = ['1', '0', 'yes', 'TRUE', 'True', 'on', 'null', 'true%20', '%00']
  const notAction = ['x', 'create', 'CREATE%20', 'CREATE,UPDATE', '%00', '__proto__', 'constructor', 'toString']
  const id = NOBODY

  test.each([
    ['/requests/', 'status', ['x', 'draft', 'DRAFT,SUBMITTED', ' DRAFT', '%00', '__proto__', 'constructor', "DRAFT'"]],
    ['/requests/', 'creator_id', notUuid],
    ['/requests/', 'assigned_to_id', notUuid],
    ['/requests/', 'awaiting_my_decision', notFlag],
    ['/requests/', 'count', notFlag],
    [
      '/requests/',
      'ordering',
      ['x', 'title', 'id', 'CREATED_AT', '--created_at', 'created_at desc', 'created_at,id', '__proto__'],
    ],
    ['/requests/', 'ordering', ['submitted_at', '-submitted_at', 'timestamp']],
    ['/requests/?awaiting_my_decision=true', 'ordering', ['created_at', '-created_at', 'x']],
    ['/audit-logs/', 'actor_id', notUuid],
    ['/audit-logs/', 'request_id', notUuid],
    ['/audit-logs/', 'action', notAction],
    ['/audit-logs/', 'ordering', ['created_at', 'x', '']],
    ['/audit-logs/', 'count', notFlag],
    ['/users/', 'ordering', ['name', 'x']],
    ['/users/', 'count', notFlag],
  ])('of %s is refused by its name: %s', async (path, parameter, values) => {
    for (const value of values.filter((value) => value !== ''))
      await refuses('admin', `${path}${path.includes('?') ? '&' : '?'}${parameter}=${value}`, parameter)
    const and = path.includes('?') ? '&' : '?'
    await refuses('admin', `${path}${and}${parameter}=a&${parameter}=b`, parameter)
  })

  test('is not one that has no value, nor one that nobody knows', async () => {
    const all = await page('user', '/requests/')
    const blank = 'status=&creator_id=&assigned_to_id=&awaiting_my_decision=&search=&ordering=&cursor=&page_size=&count='
    for (const parameters of [
      blank,
      'x=y',
      'status',
      'is_deleted=true',
      'status[]=x',
      '&&&',
      '__proto__=x',
      'constructor=y',
      '%zz=%zz',
    ])
      expect([parameters, await page('user', `/requests/?${parameters}`)]).toEqual([parameters, all])
  })

  test('NUL in a search is refused by its name too', () => refuses('user', '/requests/?search=abc%00', 'search'))

  test('is said after 404, of a request that is not to be seen', async () => {
    for (const id of [NOBODY, await newRequest(api)])
      expect(outcome(await rest('user2', `GET /requests/${id}/audit-logs/?page_size=x`))).toBe('404 NOT_FOUND')
    expect(outcome(await rest('user2', `GET /requests/${id}/audit-logs/`))).toBe('404 NOT_FOUND')
  })
})

describe('what each role lists is what GraphQL lists', () => {
  const PERSON = '{ id name role }'
  const REQUEST = `id title description kind: kindId data status version creator ${PERSON} assigned_to: assignedTo ${PERSON} reviewed_by: reviewedBy ${PERSON}
    reviewed_at: reviewedAt review_comment: reviewComment submitted_at: submittedAt created_at: createdAt updated_at: updatedAt
    available_actions: availableActions`
  const LOG = `id actor ${PERSON} action request_id: requestId user_id: userId metadata ip_address: ipAddress timestamp`
  const USER = 'id email name role permissions is_deleted: isDeleted created_at: createdAt'

  beforeAll(async () => {
    // Of what deactivated and demoted people did, too.
    const [gone, demoted, creator] = [await api.person('MANAGER'), await api.person('MANAGER'), await api.person()]
    for (const decider of [gone, demoted]) {
      for (const by of [creator, 'user', 'manager'] as const) {
        const { body } = await rest(by, 'POST /requests/', { title: 'Of those who went', assigned_to_id: decider.id })
        await rest(by, `POST /requests/${body.id}/submit/`)
        await rest(decider, `POST /requests/${body.id}/reject/`, { comment: 'No' })
      }
      for (const assigned_to_id of [decider.id, null]) {
        const waiting = await rest('user', 'POST /requests/', { title: 'Waits, also for who went', assigned_to_id })
        await rest('user', `POST /requests/${waiting.body.id}/submit/`)
      }
    }
    await rest('admin', `DELETE /users/${gone.id}/`)
    await rest('admin', `DELETE /users/${creator.id}/`)
    await rest('admin', `PATCH /users/${demoted.id}/`, { role: 'USER' })
    await rest('user', `DELETE /requests/${await newRequest(api, { title: 'Deleted' })}/`)
    await rest(undefined, 'POST /auth/token/', { email: 'user@assent.test', password: 'wrong' })
  })

  /** GraphQL writes six digits of a second; REST, as PostgreSQL's JSON has them, none that is a last zero. */
  const sameTimes = (rows: Row[]): Row[] =>
    JSON.parse(JSON.stringify(rows).replace(/(:\d\d(?:\.\d*[1-9])?)\.?0+(?=\+00:00")/g, '$1'))

  /** All pages by REST, and the same by GraphQL. */
  async function both(who: Who, path: string, field: string, selection: string): Promise<[rest: Row[], graphql: Row[]]> {
    const pages = await follow(who, await page(who, `${path}${path.includes('?') ? '&' : '?'}page_size=100`), 'next')
    const rows: Row[] = []
    for (let after: string | null = null; ;) {
      const data: any = await api.data(
        `query ($after: Cursor) { ${field}(first: 100, after: $after) { nodes { ${selection} } pageInfo { hasNextPage endCursor } } }`,
        { after },
        who,
      )
      rows.push(...data[field].nodes)
      if (!data[field].pageInfo.hasNextPage) return [pages.flatMap(({ results }) => results), sameTimes(rows)]
      after = data[field].pageInfo.endCursor
    }
  }
  /** Ties of time are broken by each door in its own way. */
  const byId = (rows: Row[]) => rows.toSorted((a, b) => (a['id'] < b['id'] ? -1 : 1))

  test.each(['user', 'user2', 'manager', 'manager2', 'admin'] as const)(
    '%s',
    async (who) => {
      for (const [path, field, selection, time] of [
        ['/requests/', 'requests', REQUEST, 'created_at'],
        ['/requests/?awaiting_my_decision=true', 'requestsAwaitingMyDecision', REQUEST, 'submitted_at'],
        ['/audit-logs/', 'auditLogs', LOG, 'timestamp'],
        ['/users/', 'users', USER, 'created_at'],
      ] as const) {
        const [rows, theirs] = await both(who, path, field, selection)
        if (who !== 'user2' && !(who === 'user' && path.includes('?'))) expect(rows.length).toBeGreaterThan(3)
        expect(byId(rows)).toEqual(byId(theirs))
        expect(rows.map((row) => row[time])).toEqual(theirs.map((row) => row[time]))
      }
    },
    20_000,
  )

  test('and what a request’s own list has', async () => {
    const { results } = await page('manager', '/requests/?status=REJECTED&page_size=5')
    for (const { id } of results) {
      const { request } = await api.data(
        `query ($id: UUID!) { request(id: $id) { auditLogs { nodes { ${LOG} } } } }`,
        { id },
        'manager',
      )
      expect((await page('manager', `/requests/${id}/audit-logs/`)).results).toEqual(sameTimes(request.auditLogs.nodes))
    }
    expect(results.length).toBeGreaterThan(2)
  })
})

test('lists are not kept by anybody, the browser included', async () => {
  const cached = (answer: Answer) => answer.headers['cache-control']
  for (const list of LISTS) expect(cached(await rest('user', `GET ${list}`))).toBe('no-store')
  expect(api.log()).not.toContain('internal error')
})
