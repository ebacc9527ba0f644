import { readFile } from 'node:fs/promises'
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
  H: ['采购申请', '出差'],
  I: ['노트북 구매', 'ПК и ИТ'],
  J: ['A PC for IT', 'C++ & C# <🚀>'],
  K: ['Mu\u0308ller, Rene\u0301', '각'.normalize('NFD')],
  L: ['ΛΟΓΟΣ λόγος', `A${'word'.repeat(30)} that is long`],
}
const letters = new Map<string, string>()

const insert = async (creator: Person, title: string, description: string | null): Promise<string> => {
  const [text, more] = [title, description].map((value) => (value === null ? 'null' : stage.root.escapeLiteral(value)))
  return (await stage.rows(creator, `select (app_public.create_request(${text}, ${more})).id`))[0]!['id']
}

/** Somebody who has few requests finds by looking through them; whoever has many, by the index. */
beforeAll(async () => {
  stage = await openStage()
  for (const person of ['user', 'idler'] as const) {
    for (const [letter, text] of Object.entries(texts)) letters.set(await insert(person, ...text), letter)
  }
  await stage.root.query('set session_replication_role = replica')
  await stage.root.query(
    `insert into app_public.requests (title, status, creator_id) select '∎', 'DRAFT', $1 from generate_series(1, 400)`,
    [stage.id.idler],
  )
  await stage.root.query('set session_replication_role = origin')
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

const searches: [search: string, found: string | null][] = [
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
  ['quarterly\u3000reports', 'B'],
  [`a${'word'.repeat(30)}`, 'L'],
  [`${'word'.repeat(20)}wor`, 'L'],
  [`${'word'.repeat(20)}wora`, ''],
  // Letter case.
  ['QUARTERLY rEPORT', 'AB'],
  ['ZÜRICH', 'A'],
  ['äpfel', 'A'],
  ['STRASSE', 'G'],
  ['straße', 'G'],
  ['日本語', 'F'],
  ['λογος', 'L'],
  ['ΛΌΓΟΣ', 'L'],
  // Canonical equivalents.
  ['Müller', 'K'],
  ['mu\u0308ller', 'K'],
  ['MÜLLER RENÉ', 'K'],
  ['Z\u0075\u0308rich', 'A'],
  ['Muller', ''],
  ['각', 'K'],
  ['노트북'.normalize('NFD'), 'I'],
  // Short words, and characters that are no letters, in any script.
  ['采购', 'H'],
  ['购申', 'H'],
  ['出差', 'H'],
  ['出', 'H'],
  ['日本', 'F'],
  ['구매', 'I'],
  ['트북', 'I'],
  ['ПК', 'I'],
  ['ит', 'I'],
  ['PC', 'J'],
  ['it pc', 'J'],
  ['C++', 'J'],
  ['++', 'J'],
  ['c#', 'J'],
  ['🚀', 'J'],
  ['<🚀>', 'J'],
  ['&', 'J'],
  ['é', 'K'],
  ['ab', 'G'],
  ['12', ''],
  ['ab-cd', ''],
  ['%%%%', ''],
  ['___', ''],
  // What means something to LIKE means itself.
  ['100%', 'C'],
  ['100% cotton', 'C'],
  ['cotton_shirts', 'C'],
  ['cotton%shirts', ''],
  ['50%', 'A'],
  ['off 50%', 'A'],
  ['off 5_%', ''],
  ['c:\\temp', 'C'],
  ['temp\\', 'C'],
  ['\\temp\\new', 'C'],
  ['temp\\\\new', ''],
  ['C:temp', 'D'],
  // Nor does anything mean something to a regular expression, to a text search, or to SQL.
  [`don't`, 'E'],
  ['quo.e', ''],
  ['"quote" (me) [at] all.*', 'E'],
  ['all.* $1 {}', ''],
  ['quote:*', ''],
  ['!quote', ''],
  ['quote | quarterly', ''],
  [`'`, 'E'],
  [`quote'); drop table app_public.requests; --`, ''],
  ['quarterly & report', ''],
  ['quarterly <-> report', ''],
  ['', null],
  ['   ', null],
  // At most five different words.
  ['quarterly report for zürich und', 'A'],
  ['quarterly report for zürich und off', null],
  ['für', ''],
  ['123', ''],
  // At most 200 characters.
  [`quarterly ${'r R '.repeat(47)}r`, 'AB'],
  [`quarterly ${'r '.repeat(96)}`, null],
  [`abc${'x'.repeat(197)}`, ''],
  [`😀abc${'x'.repeat(196)}`, ''],
  [`abc${'x'.repeat(198)}`, null],
]

test.each(searches)('%j finds %j, among few requests and among many', async (search, expected) => {
  for (const person of ['user', 'idler'] as const) {
    const { code, column, rows } = await find(person, search)
    const refused = expected === null
    expect({ code, column }).toEqual({ code: refused ? 'RQ422' : null, column: refused ? 'search' : null })
    const met = rows.map(({ id }) => letters.get(id)).sort()
    expect(met.join('')).toBe(expected ?? '')
  }
})

test('the index misses nothing that contains the words', async () => {
  const { rows } = await stage.root.query(
    `select t.text, s.search, app_private.contains_all(app_private.folded(t.text), terms) as contains,
       app_private.grams(t.text) @@ app_private.gram_query(terms) as matches
     from unnest($1::text[]) t(text), unnest($2::text[]) s(search), app_private.search_terms(s.search) terms`,
    [Object.values(texts).map((text) => text.join(' ')), searches.flatMap(([search, found]) => (found === null ? [] : search))],
  )
  expect(rows.filter(({ contains }) => contains).length).toBeGreaterThan(50)
  expect(rows.filter(({ contains, matches }) => contains && !matches)).toEqual([])
  // And of what does not contain them, it brings nearly nothing.
  expect(rows.filter(({ contains, matches }) => matches && !contains).length).toBeLessThan(3)
})

describe('text of which nothing but marks is left', () => {
  /** Marks in the order in which normalization has most to do. */
  const marks = (count: number) => `'a' || repeat(U&'\\0301', ${count / 2}) || repeat(U&'\\0316', ${count / 2})`

  test('is normalized in pieces: as a whole it takes PostgreSQL seconds, which nothing interrupts', async () => {
    const { rows } = await stage.root.query(
      `select folded <> normalize(text) as is_cut, normalize(folded) = normalize(text) as is_equivalent, char_length(folded) as length
       from (values (${marks(2000)})) v(text), app_private.folded(text)`,
    )
    expect(rows).toEqual([{ is_cut: true, is_equivalent: true, length: 2000 }])
  })

  test('does not keep a search from being stopped', async () => {
    await stage.root.query('begin; set local session_replication_role = replica')
    await stage.root.query(
      `insert into app_public.requests (title, description, status, creator_id) select 'Marks', ${marks(9998)}, 'DRAFT', $1 from generate_series(1, 300)`,
      [stage.id.user2],
    )
    await stage.root.query(`set local statement_timeout = 100; select app_hidden.become('${stage.secret.user2}', '')`)
    const searching = stage.root.query(`select app_hidden.matching_requests('nowhere', null, null, null)`)
    await expect(searching).rejects.toMatchObject({ code: '57014' })
    await stage.root.query('rollback')
  })
})

test.each([
  ['Vietnamese', 'Số lượng hàng thiết kế '],
  ['decomposed letters', 'Z\u0075\u0308rich Rene\u0301 '],
  ['Japanese without blanks', 'ガギグゲゴは'.normalize('NFD')],
  ['Korean', '노트북 구매'.normalize('NFD')],
  ['Thai without blanks', 'ที่นี่มีน้ำ'],
  ['Hindi', 'क़ानूनी हिन्दी '],
])('a long text in %s is normalized as if it were one piece', async (_, text) => {
  const { rows } = await stage.root.query(
    `select app_private.normalized(text) = normalize(text) as same from (values ($1 || repeat($2, 400))) v(text)`,
    ['a', text],
  )
  expect(rows).toEqual([{ same: true }])
})

test('what is not normalized would not have changed', async () => {
  const { rows } = await stage.root.query(
    `select n from generate_series(1, 131071) n where n not between 55296 and 57343
     and app_private.folded(chr(n)) <> replace(replace(lower(normalize(chr(n))), 'ß', 'ss'), 'ς', 'σ')`,
  )
  expect(rows).toEqual([])
})

test('a person has two searches at once', async () => {
  const search = `select app_hidden.matching_requests('quarterly', null, null, null)`
  const others = await Promise.all([1, 2].map(() => stage.db.connect('root')))
  for (const one of others) await one.query(`begin; select app_hidden.become('${stage.secret.user}', '')`)
  await others[0]!.query(search)
  expect((await find('user', 'quarterly')).count).toBe(2)
  await others[1]!.query(`select app_hidden.matching_users('quarterly')`)
  expect((await find('user', 'quarterly')).code).toBe('55P03')
  expect((await find('idler', 'quarterly')).count).toBe(2)
  for (const one of others) await one.query('rollback')
  expect((await find('user', 'quarterly')).count).toBe(2)
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

  const deleted = theirs('manager', 'manager2', 'user', 'user2')('DELETED')
  expect(await found('admin', 'is', 'null, null, null, true')).toEqual(deleted)
  expect(await found('admin', 'r2 is', `null, '${stage.id.user2}', null, true`)).toEqual(theirs('user2')('DELETED'))
  expect(await found('admin', 'is', `'APPROVED', null, null, true`)).toEqual([])
  expect(await found('admin', 'is', 'null, null, null, null')).toEqual(await found('admin', 'is'))
  for (const person of ['user', 'manager'] as const) expect(await found(person, 'is', 'null, null, null, true')).toEqual([])
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

test('what is edited is found by its new words, and no longer by its old ones', async () => {
  const id = await insert('idler', 'An armadillo', 'in a bathtub')
  expect(await found('idler', 'armadillo bathtub')).toEqual(['An armadillo'])
  await stage.rows('idler', `select app_public.update_request('${id}', title => 'A bandicoot')`)
  expect(await found('idler', 'armadillo')).toEqual([])
  expect(await found('idler', 'bandicoot bathtub')).toEqual(['A bandicoot'])
  await stage.rows('idler', `select app_public.update_request('${id}', description => 'in a sink')`)
  expect(await found('idler', 'bathtub')).toEqual([])
  await stage.rows('idler', `select app_public.submit_request('${id}')`)
  expect(await found('idler', 'bandicoot sink', `'SUBMITTED', null, null`)).toEqual(['A bandicoot'])
})

/** Requests whose text is not what it should be. */
const strays = async () =>
  (
    await stage.root.query(
      `select r.title, t.text from app_public.requests r left join app_private.request_texts t on t.request_id = r.id
       where t.text is distinct from app_private.searched_text(r.title, r.description)
         or (t.creator_id, t.created_at) is distinct from (r.creator_id, r.created_at)`,
    )
  ).rows

test('texts of requests that are older than the table are filled in, whatever happens meanwhile', async () => {
  const fill = await readFile('migrations/committed/000026-texts-of-the-requests-that-there-are.sql', 'utf8')
  await stage.root.query('set session_replication_role = replica')
  await stage.root.query(
    `insert into app_public.requests (title, status, creator_id) select 'Old ' || n, 'DRAFT', $1 from generate_series(1, 2500) n`,
    [stage.id.user2],
  )
  await stage.root.query('set session_replication_role = origin')
  const old = async (title: string) =>
    (await stage.root.query('select id from app_public.requests where title = $1', [title])).rows[0].id as string
  expect(await strays()).toHaveLength(2900) // with those of idler's that hold nothing

  // Somebody edits the last, and has not committed yet: the migration waits for them, and is killed there.
  const [editor, ...owners] = await Promise.all((['root', 'owner', 'owner'] as const).map((who) => stage.db.connect(who)))
  await editor!.query(`begin; select app_hidden.become('${stage.secret.user2}', '')`)
  await editor!.query('select app_public.update_request($1, title => $2)', [await old('Old 2500'), 'New 2500'])
  const waits = async (pid: number): Promise<void> => {
    const { rows } = await stage.root.query(`select wait_event_type = 'Lock' as waits from pg_stat_activity where pid = $1`, [
      pid,
    ])
    if (!rows[0].waits) await waits(pid)
  }
  const pid = async (n: number) => (await owners[n]!.query('select pg_backend_pid() as pid')).rows[0].pid as number
  owners[0]!.on('error', () => {})
  const first = await pid(0)
  const killed = expect(owners[0]!.query(fill)).rejects.toThrow()
  await waits(first)
  await stage.root.query('select pg_terminate_backend($1)', [first])
  await killed
  const left = await strays()
  expect(left.length).toBeGreaterThan(500)
  expect(left.length).toBeLessThan(1001)

  const second = await pid(1)
  const filled = owners[1]!.query(fill)
  await waits(second)
  // One that was filled in before, and one that has yet to be seen by those who wait.
  await editor!.query('select app_public.update_request($1, title => $2)', [await old('Old 1'), 'New 1'])
  await editor!.query('commit')
  await filled
  expect(await strays()).toEqual([])
  expect(await found('user2', 'new 2500')).toEqual(['New 2500'])
  expect(await found('user2', 'old 2500')).toEqual([])
})

describe('of very many', () => {
  beforeAll(async () => {
    // Newest first: 300 drafts of user's, 501 submitted ones; and one of user2's, and one that is assigned.
    await stage.root.query('set session_replication_role = replica')
    await stage.root.query(
      `with heap as (
         insert into app_public.requests (title, status, creator_id, assigned_to_id, submitted_at, created_at)
         select 'Heap ' || n, case when n <= 300 then 'DRAFT' else 'SUBMITTED' end, case n when 802 then $2::uuid else $1 end,
           case n when 803 then $3::uuid end, case when n > 300 then now() end, now() - n * interval '1 minute'
         from generate_series(1, 803) n
         returning *
       )
       insert into app_private.request_texts select id, creator_id, created_at, app_private.searched_text(title, null) from heap`,
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

describe('people', () => {
  /** The names and addresses of the people who are found. */
  async function people(person: Person, search: string): Promise<string[]> {
    const matching = `app_hidden.matching_users(${stage.root.escapeLiteral(search)})`
    const { code, rows } = await stage.attempt(
      person,
      `select id from app_public.users where id = any ((select ${matching})::uuid[])`,
      {
        fetch: true,
      },
    )
    return code ? [code] : rows.map(({ id }) => stage.name(id) ?? id).sort()
  }

  beforeAll(async () => {
    await stage.root.query(`update app_public.users set name = 'Li Müller-Österreich' where id = $1`, [stage.id.idle])
    await stage.root.query(`update app_public.users set name = '王伟' where id = $1`, [stage.id.manager2])
    await stage.root.query(`update app_private.credentials set email = 'Known.As@example.org' where user_id = $1`, [
      stage.id.user,
    ])
  })

  test.each([
    ['li', 'idle'],
    ['MU\u0308LLER li', 'idle'],
    ['österr', 'idle'],
    ['王', 'manager2'],
    ['王伟', 'manager2'],
    ['nobody-has-this', ''],
    ['   ', 'RQ422'],
  ])('%j finds %j by name, for everybody', async (search, expected) => {
    for (const person of ['user', 'user2', 'manager', 'admin'] as const) {
      expect((await people(person, search)).join(' ')).toBe(expected)
    }
  })

  test('whoever sees addresses finds people by them, and everybody finds themselves', async () => {
    expect(await people('admin', 'known.as@EXAMPLE')).toEqual(['user'])
    expect(await people('manager', 'known.as@EXAMPLE')).toEqual(['user'])
    expect(await people('user', 'known.as@EXAMPLE')).toEqual(['user'])
    expect(await people('user2', 'known.as@EXAMPLE')).toEqual([])
    // Each word in the name, or each in the address.
    expect(await people('admin', 'known example')).toEqual(['user'])
  })

  test('whoever has no session is told nobody', async () => {
    const forged = await stage.attempt('anonymous', `select unnest(app_hidden.matching_users('li'))`, { role: 'assent_admin' })
    expect([forged.code, forged.count]).toEqual([null, 0])
  })
})
