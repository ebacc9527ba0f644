import { openStage, type Person, type Stage } from '../harness/stage.ts'

// Searching requests by words, as REST's list does it: the function's ids, filtered by row-level security.

let stage: Stage

/** What there is to be found, by a letter that stands for it. */
const texts: Record<string, [title: string, description: string | null]> = {
  A: ['Quarterly report for Zürich', 'Äpfel und Birnen; 50% off'],
  B: ['quarterly REPORTS', null],
  C: ['100% cotton_shirts', 'C:\\temp\\new'],
  D: ['1000 cottonXshirts', 'C:temp:new'],
  E: ['Don\'t "quote" (me) [at] all.*', null],
  F: ['日本語の申請', null],
  G: ['tab\tand\nline', 'Straße'],
}
const letters = new Map<string, string>()

const insert = async (creator: Person, title: string, description: string | null): Promise<string> => {
  const [text, more] = [title, description].map((value) => (value === null ? 'null' : stage.root.escapeLiteral(value)))
  return (await stage.rows(creator, `select (app_public.create_request(${text}, ${more})).id`))[0]!['id']
}

beforeAll(async () => {
  stage = await openStage()
  for (const [letter, text] of Object.entries(texts)) letters.set(await insert('user', ...text), letter)
})
afterAll(() => stage?.close())

/** The titles that somebody finds. */
async function find(person: Person, search: string, filters = 'null, null, null') {
  const matching = `app_hidden.matching_requests(${stage.root.escapeLiteral(search)}, ${filters})`
  const statement = `select id, title from app_public.requests where id = any ((select ${matching})::uuid[])`
  return stage.attempt(person, statement, { fetch: true })
}
const found = async (person: Person, search: string, filters?: string): Promise<string[]> => {
  const { code, message, rows } = await find(person, search, filters)
  if (code) throw new Error(`${code} ${message}`)
  return rows.map(({ title }) => title).sort()
}

test.each([
  // Every word, in whatever order and wherever it stands; parts of words.
  ['quarterly', 'AB'],
  ['quarterly report', 'AB'],
  ['report quarterly', 'AB'],
  ['uarter epor', 'AB'],
  ['reports', 'B'],
  ['zürich birnen', 'A'],
  ['report cotton', ''],
  ['quarterly a e i', 'A'],
  ['  quarterly \t\n reports ', 'B'],
  ['tab and line', 'G'],
  // Letter case.
  ['QUARTERLY rEPORT', 'AB'],
  ['ZÜRICH', 'A'],
  ['äpfel', 'A'],
  ['STRASSE', ''],
  ['straße', 'G'],
  ['日本語', 'F'],
  // What means something to LIKE means itself.
  ['100%', 'C'],
  ['100% cotton', 'C'],
  ['cotton_shirts', 'C'],
  ['cotton%shirts', ''],
  ['50%', null],
  ['off 50%', 'A'],
  ['off 5_%', ''],
  ['c:\\temp', 'C'],
  ['temp\\', 'C'],
  ['\\temp\\new', 'C'],
  ['temp\\\\new', ''],
  ['C:temp', 'D'],
  // Nor does anything mean something to a regular expression, or to SQL.
  [`don't`, 'E'],
  ['quo.e', ''],
  ['"quote" (me) [at] all.*', 'E'],
  ['all.* $1 {}', ''],
  [`quote'); drop table app_public.requests; --`, ''],
  // Less than three letters or digits together.
  ['', null],
  ['   ', null],
  ['ab', null],
  ['12', null],
  ['a b c', null],
  ['ab-cd', null],
  ['%%%%', null],
  ['___', null],
  ['日本', null],
  ['für', ''],
  ['123', ''],
  // At most 200 characters.
  [`quarterly ${'r '.repeat(95)}`, 'AB'],
  [`quarterly ${'r '.repeat(96)}`, null],
  [`abc${'x'.repeat(197)}`, ''],
  [`😀abc${'x'.repeat(196)}`, ''],
  [`abc${'x'.repeat(198)}`, null],
])('%j finds %j, looked up by words or by time', async (search, expected) => {
  for (const way of ['enable_bitmapscan', 'enable_indexscan']) {
    await stage.root.query(`set ${way} = off; set enable_seqscan = off`)
    const { code, column, rows } = await find('user', search)
    await stage.root.query('reset all')
    const refused = expected === null
    expect({ code, column }).toEqual({ code: refused ? 'RQ422' : null, column: refused ? 'search' : null })
    const met = rows.map(({ id }) => letters.get(id)).sort()
    expect(met.join('')).toBe(expected ?? '')
  }
})

test('each finds what they see, and of that what is not deleted', async () => {
  for (const creator of ['user', 'user2', 'manager', 'manager2'] as const) {
    for (const status of ['DRAFT', 'SUBMITTED', 'APPROVED', 'DELETED'] as const) {
      await stage.request({ creator, assignee: null, status })
    }
  }
  const theirs =
    (...who: string[]) =>
    (...statuses: string[]) =>
      who.flatMap((name) => statuses.map((status) => `${name}'s ${status}`))
  const decided = theirs('manager', 'manager2', 'user', 'user2')('APPROVED', 'SUBMITTED')
  expect(await found('user', 'user is')).toEqual(theirs('user')('APPROVED', 'DRAFT', 'SUBMITTED'))
  expect(await found('user2', 'user is')).toEqual(theirs('user2')('APPROVED', 'DRAFT', 'SUBMITTED'))
  expect(await found('admin2', 'user2 draft')).toEqual(theirs('user2')('DRAFT'))
  expect(await found('manager', 'r2 draft')).toEqual([])
  expect(await found('manager2', 'draft is')).toEqual(theirs('manager2')('DRAFT'))
  const mixed = [...(await found('manager', 'submitted')), ...(await found('manager', 'approved'))].sort()
  expect(mixed).toEqual(decided)
  expect(await found('admin', 'deleted')).toEqual([])
})

test('whose permission it is not to see others, is told no id of theirs', async () => {
  const ids = (person: Person) =>
    stage.attempt(person, `select unnest(app_hidden.matching_requests('quarterly', null, null, null)) as id`, { fetch: true })
  expect((await ids('user2')).rows).toEqual([])
  expect((await ids('user')).rows).toHaveLength(2)
  expect((await stage.attempt('anonymous', `select app_hidden.matching_requests('quarterly', null, null, null)`)).code).toBe(
    '42501',
  )
  const forged = await stage.attempt('anonymous', `select unnest(app_hidden.matching_requests('quarterly', null, null, null))`, {
    role: 'assent_admin',
  })
  expect(forged.count).toBe(0)
})

describe('of very many', () => {
  beforeAll(async () => {
    // Newest first: 300 drafts of user's, 501 submitted ones; and one of user2's, and one that is assigned.
    await stage.root.query('set session_replication_role = replica')
    await stage.root.query(
      `insert into app_public.requests (title, status, creator_id, assigned_to_id, submitted_at, created_at)
       select 'Heap ' || n, case when n <= 300 then 'DRAFT' else 'SUBMITTED' end, case n when 802 then $2::uuid else $1 end,
         case n when 803 then $3::uuid end, case when n > 300 then now() end, now() - n * interval '1 minute'
       from generate_series(1, 803) n`,
      [stage.id.user, stage.id.user2, stage.id.manager],
    )
    await stage.root.query('set session_replication_role = origin')
  })
  const numbers = async (person: Person, filters?: string) =>
    (await found(person, 'heap', filters)).map((title) => Number(title.slice(5))).sort((a, b) => a - b)
  const from = (first: number, last: number) => Array.from({ length: last - first + 1 }, (_, i) => first + i)

  test.each([
    ['user', 1, 500],
    ['admin', 1, 500],
    // Drafts of others are not there for a manager, and so are not counted either.
    ['manager', 301, 800],
  ] as const)('%s finds the newest 500 of what they see', async (person, first, last) => {
    expect(await numbers(person)).toEqual(from(first, last))
  })

  // A list that is filtered otherwise, too, has the newest 500 of what it lists.
  test.each([
    ['by status', () => `'SUBMITTED', null, null`, 301, 800],
    ['by creator', () => `null, '${stage.id.user2}', null`, 802, 802],
    ['by assignee', () => `null, null, '${stage.id.manager}'`, 803, 803],
    ['by all of it', () => `'SUBMITTED', '${stage.id.user}', '${stage.id.manager}'`, 803, 803],
    ['by what does not go together', () => `'DRAFT', '${stage.id.user2}', null`, 1, 0],
  ])('filtered %s', async (_, filters, first, last) => {
    expect(await numbers('admin', filters())).toEqual(from(first, last))
  })
})
