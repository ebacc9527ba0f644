import {
  openStage,
  type Actor,
  type Attempt,
  type Outcome,
  type Person,
  type Situation,
  type Stage,
  type Status,
} from '../harness/stage.ts'

const actions = ['UPDATE', 'DELETE', 'SUBMIT', 'APPROVE', 'REJECT', 'ASSIGN'] as const
type Action = (typeof actions)[number]

// What each action answers, by what the caller is to the request: written from the contract, not from the SQL.
const table = `
  caller                                  status     UPDATE DELETE SUBMIT APPROVE REJECT ASSIGN
  creator, a user                         DRAFT      ok     ok     ok     403     403    403
  creator, a user                         SUBMITTED  409    409    409    403     403    403
  creator, a user                         APPROVED   409    409    409    403     403    403
  creator, a user                         REJECTED   409    409    409    403     403    403
  creator, a user                         DELETED    404    404    404    404     404    404
  creator, a manager                      DRAFT      ok     ok     ok     403     403    403
  creator, a manager                      SUBMITTED  409    409    409    403     403    403
  creator, a manager                      APPROVED   409    409    409    403     403    403
  creator, a manager                      REJECTED   409    409    409    403     403    403
  creator, a manager                      DELETED    404    404    404    404     404    404
  creator, an admin                       DRAFT      ok     ok     ok     403     403    409
  creator, an admin                       SUBMITTED  409    409    409    403     403    ok
  creator, an admin                       APPROVED   409    409    409    403     403    409
  creator, an admin                       REJECTED   409    409    409    403     403    409
  creator, an admin                       DELETED    409    409    409    403     403    409
  other user                              DRAFT      404    404    404    404     404    404
  other user                              SUBMITTED  404    404    404    404     404    404
  other user                              APPROVED   404    404    404    404     404    404
  other user                              REJECTED   404    404    404    404     404    404
  other user                              DELETED    404    404    404    404     404    404
  manager, unassigned                     DRAFT      404    404    404    404     404    404
  manager, unassigned                     SUBMITTED  403    403    403    ok      ok     ok
  manager, unassigned                     APPROVED   403    403    403    409     409    409
  manager, unassigned                     REJECTED   403    403    403    409     409    409
  manager, unassigned                     DELETED    404    404    404    404     404    404
  manager, assigned to them               DRAFT      404    404    404    404     404    404
  manager, assigned to them               SUBMITTED  403    403    403    ok      ok     ok
  manager, assigned to them               APPROVED   403    403    403    409     409    409
  manager, assigned to them               REJECTED   403    403    403    409     409    409
  manager, assigned to them               DELETED    404    404    404    404     404    404
  manager, assigned to another            DRAFT      404    404    404    404     404    404
  manager, assigned to another            SUBMITTED  403    403    403    403     403    403
  manager, assigned to another            APPROVED   403    403    403    403     403    403
  manager, assigned to another            REJECTED   403    403    403    403     403    403
  manager, assigned to another            DELETED    404    404    404    404     404    404
  manager, assignee can no longer decide  DRAFT      404    404    404    404     404    404
  manager, assignee can no longer decide  SUBMITTED  403    403    403    ok      ok     ok
  manager, assignee can no longer decide  APPROVED   403    403    403    409     409    409
  manager, assignee can no longer decide  REJECTED   403    403    403    409     409    409
  manager, assignee can no longer decide  DELETED    404    404    404    404     404    404
  admin, whoever is assigned              DRAFT      403    403    403    409     409    409
  admin, whoever is assigned              SUBMITTED  403    403    403    ok      ok     ok
  admin, whoever is assigned              APPROVED   403    403    403    409     409    409
  admin, whoever is assigned              REJECTED   403    403    403    409     409    409
  admin, whoever is assigned              DELETED    403    403    403    409     409    409`

const expectations = new Map(
  table
    .trim()
    .split('\n')
    .slice(1)
    .map((line) => {
      const [caller, status, ...answers] = line.trim().split(/ {2,}| (?=[0-9]{3}|ok)/)
      return [`${caller} × ${status}`, answers.map((answer) => (answer === 'ok' ? null : `RQ${answer}`))]
    }),
)

const creators: Person[] = ['user', 'manager', 'admin']
const assignees: (Person | null)[] = [null, 'manager', 'manager2', 'admin', 'gone', 'demoted']
const callers: Person[] = ['user', 'user2', 'manager', 'manager2', 'admin', 'admin2', 'demoted']
const rank: Partial<Record<Person, string>> = {
  manager: 'a manager',
  manager2: 'a manager',
  admin: 'an admin',
  admin2: 'an admin',
}

/** The row of the table that applies. */
function relation(caller: Person, { creator, assignee }: Situation): string {
  if (caller === creator) return `creator, ${rank[caller] ?? 'a user'}`
  if (!rank[caller]) return 'other user'
  if (rank[caller] === 'an admin') return 'admin, whoever is assigned'
  if (!assignee) return 'manager, unassigned'
  if (assignee === 'gone' || assignee === 'demoted') return 'manager, assignee can no longer decide'
  return assignee === caller ? 'manager, assigned to them' : 'manager, assigned to another'
}

function expected(caller: Person, situation: Situation): (string | null)[] {
  return expectations.get(`${relation(caller, situation)} × ${situation.status}`)!
}

let stage: Stage
let situations: Situation[]

/** An action that is valid in itself; or one that also names a wrong version and values that no request may have. */
function statement(action: Action, request: string, wrong = false): string {
  const version = wrong ? ', version => 99' : ''
  const long = `repeat('x', 10001)`
  const title = wrong ? `''` : `'Edited'`
  const assignee = wrong ? stage.id.user2 : stage.id.manager2 // a user is assigned nothing
  switch (action) {
    case 'UPDATE':
      return `select * from app_public.update_request('${request}', title => ${title}${version})`
    case 'DELETE':
      return `select * from app_public.delete_request('${request}'${version})`
    case 'SUBMIT':
      return `select * from app_public.submit_request('${request}'${version})`
    case 'APPROVE':
      return `select * from app_public.approve_request('${request}', ${wrong ? long : 'null'}${version})`
    case 'REJECT':
      return `select * from app_public.reject_request('${request}', ${wrong ? 'null' : `'No'`}${version})`
    case 'ASSIGN':
      return `select * from app_public.assign_request('${request}', '${assignee}'${version})`
  }
}

/** Every caller with every request. */
function everyPair(): { caller: Person; situation: Situation }[] {
  return callers.flatMap((caller) => situations.map((situation) => ({ caller, situation })))
}

const name = ({ creator, assignee, status }: Situation) => `${creator}'s ${status} assigned to ${assignee ?? 'nobody'}`

/** Runs every action for each pair; what differs from the expectation, in words. */
async function differences(wrong: boolean, expect: (caller: Person, situation: Situation) => (string | null)[]) {
  const pairs = everyPair()
  const outcomes = await stage.attempts(
    pairs.flatMap(({ caller, situation }) =>
      actions.map((action): Attempt => ({ actor: caller, statement: statement(action, situation.id, wrong) })),
    ),
  )
  return pairs.flatMap(({ caller, situation }, i) =>
    actions.flatMap((action, j) => {
      const [want, got] = [expect(caller, situation)[j], outcomes[i * actions.length + j]!.code]
      return want === got ? [] : [`${action} by ${caller} on ${name(situation)}: ${got}, not ${want}`]
    }),
  )
}

beforeAll(async () => {
  stage = await openStage()
  situations = []
  for (const creator of creators) {
    for (const status of ['DRAFT', 'SUBMITTED', 'APPROVED', 'REJECTED', 'DELETED'] satisfies Status[]) {
      for (const assignee of assignees) {
        if (assignee !== creator) situations.push(await stage.request({ creator, assignee, status }))
      }
    }
  }
  await stage.retire()
})
afterAll(() => stage?.close())

describe('the product of status, action and caller', () => {
  test('the table has a row for every relation and status, and the cast meets each', () => {
    const met = new Set(everyPair().map(({ caller, situation }) => `${relation(caller, situation)} × ${situation.status}`))
    expect([...met].sort()).toEqual([...expectations.keys()].sort())
    for (const answers of expectations.values()) expect(answers).toHaveLength(actions.length)
  })

  test('each action answers as the table says', async () => {
    expect(await differences(false, expected)).toEqual([])
  })

  test('NOT_FOUND, FORBIDDEN and INVALID_TRANSITION come before STALE_VERSION, and that before VALIDATION_FAILED', async () => {
    expect(await differences(true, (caller, situation) => expected(caller, situation).map((code) => code ?? 'RQ412'))).toEqual([])
  })

  test('availableActions are exactly the actions that succeed', async () => {
    const pairs = everyPair()
    const outcomes = await stage.attempts(
      pairs.map(({ caller, situation }) => ({
        actor: caller,
        fetch: true,
        statement: `select app_public.requests_available_actions(r) as actions from app_public.requests r where id = '${situation.id}'`,
      })),
    )
    const wrong = pairs.flatMap(({ caller, situation }, i) => {
      const codes = expected(caller, situation)
      const want = codes.every((code) => code === 'RQ404') ? [] : [actions.filter((_, j) => codes[j] === null).sort()]
      const got = outcomes[i]!.rows.map((row) => [...row['actions']].sort())
      return JSON.stringify(want) === JSON.stringify(got)
        ? []
        : [`${caller} on ${name(situation)}: ${JSON.stringify(got)}, not ${JSON.stringify(want)}`]
    })
    expect(wrong).toEqual([])
  })

  test('the inbox holds exactly the requests that can be approved, and REJECT and APPROVE go together', async () => {
    for (const caller of callers) {
      const { rows } = await stage.attempt(caller, 'select id from app_public.requests_awaiting_my_decision()', { fetch: true })
      const known = rows.map((row) => row['id'] as string).filter((id) => situations.some((situation) => situation.id === id))
      const decidable = situations.filter((situation) => expected(caller, situation)[actions.indexOf('APPROVE')] === null)
      expect(known.sort()).toEqual(decidable.map(({ id }) => id).sort())
    }
    const inboxes = await stage.attempts(
      callers.map((actor) => ({ actor, statement: 'select from app_public.requests_awaiting_my_decision()' })),
    )
    expect(Object.fromEntries(callers.map((caller, i) => [caller, inboxes[i]!.count > 0]))).toEqual({
      user: false,
      user2: false,
      manager: true,
      manager2: true,
      admin: true,
      admin2: true,
      demoted: false,
    })
  })

  test('whom to tell of a request are those whose inbox it is in', async () => {
    const { rows } = await stage.root.query(
      `select (d.request).id, array_agg(d.user_id order by d.user_id) as people from app_hidden.request_deciders d group by 1`,
    )
    const inboxes = new Map<string, string[]>()
    for (const caller of callers) {
      const inbox = await stage.attempt(caller, 'select id from app_public.requests_awaiting_my_decision()', { fetch: true })
      for (const { id } of inbox.rows) inboxes.set(id, [...(inboxes.get(id) ?? []), stage.id[caller]].sort())
    }
    expect(new Map(rows.map((row) => [row.id, row.people]))).toEqual(inboxes)
  })

  test('an id never used and an invisible one get the same answer', async () => {
    const hidden = situations.find(({ creator, status }) => creator === 'user' && status === 'DRAFT')!
    for (const action of actions) {
      const [invisible, absent] = await stage.attempts(
        [hidden.id, '00000000-0000-7000-8000-000000000000'].map((id) => ({ actor: 'manager', statement: statement(action, id) })),
      )
      expect(invisible).toEqual(absent)
      expect(absent!.code).toBe('RQ404')
    }
  })

  test('the function behind the actions tells nobody of a request that they cannot see', async () => {
    const hidden = situations.find(({ creator, status }) => creator === 'user' && status === 'DRAFT')!
    const [invisible, absent] = await stage.attempts(
      [hidden.id, '00000000-0000-7000-8000-000000000000'].map((id) => ({
        actor: 'user2',
        statement: `select app_hidden.transition('${id}', 'UPDATE', null, '{}')`,
      })),
    )
    expect(invisible).toEqual(absent)
  })
})

describe('with no session', () => {
  test.each(['anonymous', 'authenticator', 'auditor'] as Actor[])('%s may call no action', async (actor) => {
    const outcomes = await stage.attempts([
      { actor, statement: `select app_public.create_request('Mine')` },
      ...actions.map((action) => ({ actor, statement: statement(action, situations[0]!.id) })),
    ])
    expect(outcomes.map(({ code }) => code)).toEqual(outcomes.map(() => '42501'))
  })

  test.each(['assent_user', 'assent_manager', 'assent_admin'])('%s without a person behind it may not create', async (role) => {
    expect((await stage.attempt('anonymous', `select app_public.create_request('Mine')`, { role })).code).toBe('RQ401')
  })

  test('the deactivated may not even begin', async () => {
    expect((await stage.attempt('gone', 'select 1')).code).toBe('RQ401')
  })
})

describe('a request', () => {
  /** Runs one action on a new request of user's, and returns the request before and after it. */
  async function around(status: Status, actor: Person, act: (id: string) => string, assignee: Person | null = null) {
    const { id } = await stage.request({ creator: 'user', assignee, status })
    const before = (await stage.rows('superuser', `select * from app_public.requests where id = '${id}'`))[0]!
    const answer = (await stage.rows(actor, act(id)))[0]!
    const after = (await stage.rows('superuser', `select * from app_public.requests where id = '${id}'`))[0]!
    expect(answer).toEqual(after) // the changed row comes back as it is now
    const changed = Object.keys(after)
      .filter((key) => JSON.stringify(after[key]) !== JSON.stringify(before[key]))
      .sort()
    return { id, before, after, changed }
  }
  const trace = ['updated_at', 'version']

  test('begins as a draft of its creator, at version 1', async () => {
    const [made] = await stage.rows('user', `select * from app_public.create_request('New ☂', 'What for', '${stage.id.manager}')`)
    expect(made).toMatchObject({
      title: 'New ☂',
      description: 'What for',
      status: 'DRAFT',
      version: 1,
      creator_id: stage.id.user,
      assigned_to_id: stage.id.manager,
      reviewed_by_id: null,
      reviewed_at: null,
      review_comment: null,
      submitted_at: null,
      is_deleted: false,
    })
    const [bare] = await stage.rows('manager', `select * from app_public.create_request('Bare')`)
    expect(bare).toMatchObject({ title: 'Bare', description: null, assigned_to_id: null, creator_id: stage.id.manager })
  })

  test('UPDATE writes what is given, and nothing else', async () => {
    const title = await around('DRAFT', 'user', (id) => `select * from app_public.update_request('${id}', title => 'B')`)
    expect(title.changed).toEqual(['title', ...trace].sort())
    expect(title.after).toMatchObject({ title: 'B', version: 2 })
    expect(title.after['updated_at'] > title.before['updated_at']).toBe(true)
    const description = await around(
      'DRAFT',
      'user',
      (id) => `select * from app_public.update_request('${id}', description => 'B')`,
    )
    expect(description.changed).toEqual(['description', ...trace].sort())
    const assignee = await around(
      'DRAFT',
      'user',
      (id) => `select * from app_public.update_request('${id}', assigned_to_id => '${stage.id.manager}')`,
    )
    expect(assignee.changed).toEqual(['assigned_to_id', ...trace].sort())
  })

  test('UPDATE takes null for a value, and what is left out for unchanged', async () => {
    const cleared = await around(
      'DRAFT',
      'user',
      (id) => `select * from app_public.update_request('${id}', description => null, assigned_to_id => null)`,
      'manager',
    )
    expect(cleared.before).toMatchObject({ description: 'as is', assigned_to_id: stage.id.manager })
    expect(cleared.after).toMatchObject({ title: cleared.before['title'], description: null, assigned_to_id: null, version: 2 })
    const { code, column } = await stage.attempt('user', `select app_public.update_request('${cleared.id}', title => null)`)
    expect({ code, column }).toEqual({ code: 'RQ422', column: 'title' })
  })

  test.each([
    ['UPDATE with nothing', 'DRAFT', (id: string) => `select * from app_public.update_request('${id}')`],
    [
      'UPDATE to the same',
      'DRAFT',
      (id: string) => `select * from app_public.update_request('${id}', description => 'as is', version => 1)`,
    ],
    ['ASSIGN to the same', 'SUBMITTED', (id: string) => `select * from app_public.assign_request('${id}', null)`],
  ] as const)('%s is no action', async (_, status, act) => {
    const { id, changed, after } = await around(status, status === 'DRAFT' ? 'user' : 'manager', act)
    expect(changed).toEqual([])
    const entries = await stage.rows('superuser', `select * from app_public.audit_logs where request_id = '${id}'`)
    expect(entries).toHaveLength(after['version'])
  })

  test('SUBMIT leaves its time', async () => {
    const { before, after, changed } = await around(
      'DRAFT',
      'user',
      (id) => `select * from app_public.submit_request('${id}', 1)`,
    )
    expect(changed).toEqual(['status', 'submitted_at', ...trace].sort())
    expect(after).toMatchObject({ status: 'SUBMITTED', version: 2 })
    expect(after['submitted_at'] >= before['created_at']).toBe(true)
  })

  test('APPROVE leaves who, when and what they said, which may be nothing', async () => {
    const said = await around('SUBMITTED', 'manager', (id) => `select * from app_public.approve_request('${id}', 'Fine', 2)`)
    expect(said.changed).toEqual(['status', 'reviewed_by_id', 'reviewed_at', 'review_comment', ...trace].sort())
    expect(said.after).toMatchObject({ status: 'APPROVED', reviewed_by_id: stage.id.manager, review_comment: 'Fine', version: 3 })
    const silent = await around('SUBMITTED', 'admin', (id) => `select * from app_public.approve_request('${id}')`)
    expect(silent.after).toMatchObject({ status: 'APPROVED', reviewed_by_id: stage.id.admin, review_comment: null })
  })

  test('REJECT likewise, with a comment', async () => {
    const { after, changed } = await around(
      'SUBMITTED',
      'manager',
      (id) => `select * from app_public.reject_request('${id}', 'No', 2)`,
    )
    expect(changed).toEqual(['status', 'reviewed_by_id', 'reviewed_at', 'review_comment', ...trace].sort())
    expect(after).toMatchObject({ status: 'REJECTED', reviewed_by_id: stage.id.manager, review_comment: 'No', version: 3 })
  })

  test('ASSIGN changes the assignee alone; null clears it', async () => {
    const given = await around(
      'SUBMITTED',
      'manager',
      (id) => `select * from app_public.assign_request('${id}', '${stage.id.manager2}', 2)`,
    )
    expect(given.changed).toEqual(['assigned_to_id', ...trace].sort())
    expect(given.after).toMatchObject({ status: 'SUBMITTED', assigned_to_id: stage.id.manager2, version: 3 })
    const cleared = await around(
      'SUBMITTED',
      'manager',
      (id) => `select * from app_public.assign_request('${id}', null)`,
      'manager',
    )
    expect(cleared.after).toMatchObject({ assigned_to_id: null })
  })

  test('DELETE is a mark', async () => {
    const { after, changed } = await around('DRAFT', 'user', (id) => `select * from app_public.delete_request('${id}', 1)`)
    expect(changed).toEqual(['is_deleted', ...trace].sort())
    expect(after).toMatchObject({ status: 'DRAFT', is_deleted: true, version: 2 })
  })

  test('what an action has no business with, it does not write', async () => {
    const draft = await stage.request({ creator: 'user', assignee: null, status: 'DRAFT' })
    const submitted = await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
    const content = ['title', 'description', 'assigned_to_id']
    const written: Record<Action | 'CREATE', string[]> = {
      CREATE: [...content, 'kind_id', 'data'],
      UPDATE: [...content, 'data'],
      DELETE: [],
      SUBMIT: [],
      APPROVE: ['review_comment'],
      REJECT: ['review_comment'],
      ASSIGN: ['assigned_to_id'],
    }
    const { rows } = await stage.root.query(
      `select attname as field from pg_attribute where attrelid = 'app_public.requests'::regclass and attnum > 0 and not attisdropped`,
    )
    for (const [action, fields] of Object.entries(written)) {
      const decides = ['APPROVE', 'REJECT', 'ASSIGN'].includes(action)
      const outcomes = await stage.attempts(
        rows.map(({ field }) => ({
          actor: decides ? 'manager' : 'user',
          statement: `select app_hidden.transition('${decides ? submitted.id : draft.id}', '${action}', null, '{"${field}": null}')`,
        })),
      )
      const refused = rows.filter((_, i) => outcomes[i]!.code === 'RQ403').map(({ field }) => field)
      expect({ action, refused }).toEqual({
        action,
        refused: rows.map(({ field }) => field).filter((field) => !fields.includes(field)),
      })
    }
  })
})

describe('an edge that leads back', () => {
  test.each([
    ['of its creator', 'WITHDRAW', 'CREATOR', 'user'],
    ['of whoever can decide', 'RETURN', 'DECIDER', 'manager'],
  ] as const)('%s takes a row of the table, and clears what it says: %s', async (_, action, who, actor) => {
    const { id } = await stage.request({ creator: 'user', assignee: 'manager', status: 'SUBMITTED' })
    const kept = async () => (await stage.root.query('select * from app_public.requests where id = $1', [id])).rows[0]
    const before = await kept()
    const take = `select * from app_hidden.transition('${id}', '${action}')`
    await stage.root.query('begin; set local role assent_owner')
    try {
      await stage.root.query(
        `insert into app_public.audit_actions (action, description) values ($1, 'For this test.') on conflict do nothing`,
        [action],
      )
      await stage.root.query(
        `insert into app_public.request_transitions (from_status, action, to_status, who, stamps)
         values ('SUBMITTED', $1, 'DRAFT', $2, '{"submitted_at": null, "assigned_to_id": null, "description": "@caller"}')`,
        [action, who],
      )
      await stage.root.query('reset role')
      // Of another party it is not: what is not theirs to see, or to do.
      expect((await stage.attempt('user2', take)).code).toBe('RQ404')
      expect((await stage.attempt(who === 'CREATOR' ? 'manager' : 'user', take)).code).toBe('RQ403')
      const left = await stage.leaves(() => stage.rows(actor, take))
      expect(left).toMatchObject([
        { action, request_id: id, actor_id: stage.id[actor], metadata: { old_status: 'SUBMITTED', new_status: 'DRAFT' } },
      ])
      const back = { status: 'DRAFT', submitted_at: null, assigned_to_id: null, description: stage.id[actor] }
      expect(await kept()).toMatchObject({ ...back, version: before.version + 1 })
      expect((await stage.attempt(actor, take)).code).toBe(who === 'CREATOR' ? 'RQ409' : 'RQ404') // It leads from there alone.
      await stage.rows('user', `select * from app_public.submit_request('${id}')`)
      expect(await kept()).toMatchObject({ status: 'SUBMITTED', submitted_at: expect.any(Date), assigned_to_id: null })
    } finally {
      await stage.root.query('rollback')
    }
    expect(await kept()).toEqual(before)
  })
})

describe('validation', () => {
  const create = (title: string, description = 'null', assignee = 'null') =>
    `select * from app_public.create_request(${title}, ${description}, ${assignee})`

  async function invalid(actor: Person, statement: string): Promise<string | null> {
    const { code, column, message } = await stage.attempt(actor, statement)
    expect(code).toBe('RQ422')
    expect(message).toMatch(/^(?!.*(requests_|violates|constraint)).{10,}/) // in words, not the constraint's name
    return column
  }

  test('lengths count code points', async () => {
    for (const letter of ['x', 'é', '語', '😀']) {
      expect((await stage.attempt('user', create(`repeat('${letter}', 200)`, `repeat('${letter}', 10000)`))).code).toBe(null)
      expect(await invalid('user', create(`repeat('${letter}', 201)`))).toBe('title')
      expect(await invalid('user', create(`'T'`, `repeat('${letter}', 10001)`))).toBe('description')
    }
  })

  const blanks = [
    '',
    ' ',
    '\t',
    '\n',
    '\v',
    '\f',
    '\r',
    '\u0085',
    '\u00a0',
    '\u1680',
    '\u2000',
    '\u2003',
    '\u200a',
    '\u200b',
    '\u2028',
    '\u2029',
    '\u202f',
    '\u205f',
    '\u2060',
    '\u3000',
    '\ufeff',
    ' \t\u3000\u00a0 ',
  ]
  test('blanks alone are no title and no comment, whatever Unicode calls a blank', async () => {
    const { id } = await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
    const draft = await stage.request({ creator: 'user', assignee: null, status: 'DRAFT' })
    for (const blank of blanks) {
      expect(await invalid('user', create(`'${blank}'`))).toBe('title')
      expect(await invalid('user', `select app_public.update_request('${draft.id}', '${blank}')`)).toBe('title')
      expect(await invalid('manager', `select app_public.reject_request('${id}', '${blank}')`)).toBe('review_comment')
    }
    expect(await invalid('user', create('null'))).toBe('title')
  })

  test('a blank beside a letter is kept byte for byte', async () => {
    for (const text of blanks.slice(1).map((blank) => `${blank}a${blank}`)) {
      expect((await stage.attempt('user', create(`'${text}'`, `'${text}'`), { fetch: true })).rows).toMatchObject([
        { title: text, description: text },
      ])
    }
  })

  test('a rejection needs a comment, and a comment has at most 10,000 characters', async () => {
    const { id } = await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
    expect(await invalid('manager', `select app_public.reject_request('${id}')`)).toBe('review_comment')
    expect(await invalid('manager', `select app_public.reject_request('${id}', repeat('😀', 10001))`)).toBe('review_comment')
    expect(await invalid('manager', `select app_public.approve_request('${id}', repeat('😀', 10001))`)).toBe('review_comment')
    expect((await stage.attempt('manager', `select app_public.reject_request('${id}', repeat('😀', 10000))`)).code).toBe(null)
    expect((await stage.attempt('manager', `select app_public.approve_request('${id}', repeat('😀', 10000))`)).code).toBe(null)
  })

  const noAssignee: [string, () => string][] = [
    ['a user', () => stage.id.user2],
    ['a manager who was demoted', () => stage.id.demoted],
    ['a manager who was deactivated', () => stage.id.gone],
    ['nobody known', () => '00000000-0000-7000-8000-000000000000'],
  ]
  test.each(noAssignee)('no assignee is %s', async (_, id) => {
    const draft = await stage.request({ creator: 'user', assignee: null, status: 'DRAFT' })
    const submitted = await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
    expect(await invalid('user', create(`'T'`, 'null', `'${id()}'`))).toBe('assigned_to_id')
    expect(await invalid('user', `select app_public.update_request('${draft.id}', assigned_to_id => '${id()}')`)).toBe(
      'assigned_to_id',
    )
    expect(await invalid('manager', `select app_public.assign_request('${submitted.id}', '${id()}')`)).toBe('assigned_to_id')
    expect(await invalid('admin', `select app_public.assign_request('${submitted.id}', '${id()}')`)).toBe('assigned_to_id')
  })

  test('nor is the creator, by whomever', async () => {
    const draft = await stage.request({ creator: 'manager', assignee: null, status: 'DRAFT' })
    const submitted = await stage.request({ creator: 'manager', assignee: null, status: 'SUBMITTED' })
    expect(await invalid('manager', create(`'T'`, 'null', `'${stage.id.manager}'`))).toBe('assigned_to_id')
    expect(
      await invalid('manager', `select app_public.update_request('${draft.id}', assigned_to_id => '${stage.id.manager}')`),
    ).toBe('assigned_to_id')
    expect(await invalid('manager2', `select app_public.assign_request('${submitted.id}', '${stage.id.manager}')`)).toBe(
      'assigned_to_id',
    )
    expect(await invalid('admin', `select app_public.assign_request('${submitted.id}', '${stage.id.manager}')`)).toBe(
      'assigned_to_id',
    )
  })

  test('active managers and admins are', async () => {
    for (const person of ['manager', 'manager2', 'admin', 'admin2'] as const) {
      expect((await stage.attempt('user', create(`'T'`, 'null', `'${stage.id[person]}'`))).code).toBe(null)
    }
  })

  test('an assignee who can no longer decide does not hinder the draft', async () => {
    const draft = situations.find(
      ({ creator, assignee, status }) => creator === 'user' && assignee === 'gone' && status === 'DRAFT',
    )!
    expect((await stage.attempt('user', `select app_public.update_request('${draft.id}', title => 'Still editable')`)).code).toBe(
      null,
    )
    expect((await stage.attempt('user', `select app_public.submit_request('${draft.id}')`)).code).toBe(null)
  })
})

describe('by JSON', () => {
  const id = '01890000-0000-7000-8000-000000000000'
  const act = (request: string | null, action: string, body: string, version = 'null') =>
    `select (document ->> 'title') as title, document from app_hidden.act_on_request(${request ? `'${request}'` : 'null'}, '${action}', ${version}, '${body}')`

  test.each([
    ['CREATE', '{"title": 5}', 'title'],
    ['CREATE', '{"title": true}', 'title'],
    ['CREATE', '{"title": ["T"]}', 'title'],
    ['CREATE', '{"title": {"T": "T"}}', 'title'],
    ['CREATE', '{"title": null}', 'title'],
    ['CREATE', '{}', 'title'],
    ['CREATE', '{"title": "T", "description": 5}', 'description'],
    ['CREATE', '{"title": "T", "description": false}', 'description'],
    ['CREATE', '{"title": "T", "assigned_to_id": 5}', 'assigned_to_id'],
    ['CREATE', '{"title": "T", "assigned_to_id": ""}', 'assigned_to_id'],
    ['CREATE', '{"title": "T", "assigned_to_id": "manager"}', 'assigned_to_id'],
    ['CREATE', `{"title": "T", "assigned_to_id": "{${id}}"}`, 'assigned_to_id'],
    ['CREATE', `{"title": "T", "assigned_to_id": "${id.replaceAll('-', '')}"}`, 'assigned_to_id'],
    ['CREATE', `{"title": "T", "assigned_to_id": ["${id}"]}`, 'assigned_to_id'],
    ['UPDATE', '{"title": 5}', 'title'],
    ['UPDATE', '{"title": null}', 'title'],
    ['UPDATE', '{"description": {}}', 'description'],
    ['UPDATE', '{"assigned_to_id": 5}', 'assigned_to_id'],
    ['UPDATE', `{"assigned_to_id": "x${id}"}`, 'assigned_to_id'],
    ['ASSIGN', '{"assigned_to_id": 5}', 'assigned_to_id'],
    ['ASSIGN', '{"assigned_to_id": "nobody"}', 'assigned_to_id'],
    ['APPROVE', '{"comment": 5}', 'review_comment'],
    ['APPROVE', '{"comment": ["Fine"]}', 'review_comment'],
    ['REJECT', '{"comment": 5}', 'review_comment'],
    ['REJECT', '{"comment": null}', 'review_comment'],
    ['REJECT', '{}', 'review_comment'],
  ])('%s takes no %s: a value is of the type of its column', async (action, body, column) => {
    const drafts = action === 'CREATE' || action === 'UPDATE'
    const request = { creator: 'user', assignee: null, status: drafts ? 'DRAFT' : 'SUBMITTED' } as const
    const on = action === 'CREATE' ? null : (await stage.request(request)).id
    const outcome = await stage.attempt(drafts ? 'user' : 'manager', act(on, action, body))
    expect({ code: outcome.code, column: outcome.column }).toEqual({ code: 'RQ422', column })
    expect(outcome.message).toMatch(/^(?!.*(requests_|violates|constraint|syntax)).{10,}/)
  })

  test('what is of its type is taken: null too, a UUID in capitals, and text that looks like something else', async () => {
    const body = `{"title": "5", "description": null, "assigned_to_id": "${stage.id.manager.toUpperCase()}"}`
    const [created] = await stage.rows('user', act(null, 'CREATE', body))
    expect(created!['document']).toMatchObject({ title: '5', description: null, assigned_to: { id: stage.id.manager } })
    const { id } = created!['document']
    const [edited] = await stage.rows('user', act(id, 'UPDATE', '{"description": "null", "assigned_to_id": null}'))
    expect(edited!['document']).toMatchObject({ title: '5', description: 'null', assigned_to: null, version: 2 })
    await stage.rows('user', act(id, 'SUBMIT', '{}'))
    const [decided] = await stage.rows('manager', act(id, 'APPROVE', '{"comment": "true"}', 'array[3]'))
    expect(decided!['document']).toMatchObject({ status: 'APPROVED', review_comment: 'true', available_actions: [] })
  })

  test('NOT_FOUND, FORBIDDEN, INVALID_TRANSITION and STALE_VERSION come before a value of another type', async () => {
    const draft = (await stage.request({ creator: 'user', assignee: null, status: 'DRAFT' })).id
    const submitted = (await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })).id
    const outcomes = await stage.attempts([
      { actor: 'user2', statement: act(draft, 'UPDATE', '{"title": 5}') },
      { actor: 'admin', statement: act(draft, 'UPDATE', '{"title": 5}') },
      { actor: 'user', statement: act(submitted, 'UPDATE', '{"title": 5}') },
      { actor: 'user', statement: act(draft, 'UPDATE', '{"title": 5}', 'array[7]') },
    ])
    expect(outcomes.map(({ code }) => code)).toEqual(['RQ404', 'RQ403', 'RQ409', 'RQ412'])
  })

  test.each([
    ['null', null],
    ['array[1]', null],
    ['array[7, 1]', null],
    ['array[1, 7]', null],
    ['array[7]', 'RQ412'],
    ['array[0, 2, 7]', 'RQ412'],
    [`'{}'`, 'RQ412'],
    ['array[null]::integer[]', 'RQ412'],
  ])('of a request at version 1, %s is what was expected: %s', async (versions, code) => {
    const { id } = await stage.request({ creator: 'user', assignee: null, status: 'DRAFT' })
    expect((await stage.attempt('user', act(id, 'UPDATE', '{"title": "New"}', versions))).code).toBe(code)
  })

  test('each action answers as its function does, and leaves the same', async () => {
    const actions = ['UPDATE', 'DELETE', 'SUBMIT', 'APPROVE', 'REJECT', 'ASSIGN'] as const
    const bodies = {
      UPDATE: '{"title": "Edited"}',
      DELETE: '{}',
      SUBMIT: '{}',
      APPROVE: '{"comment": null}',
      REJECT: '{"comment": "No"}',
      ASSIGN: `{"assigned_to_id": "${stage.id.manager2}"}`,
    }
    const pairs = everyPair().filter(({ situation }) => situation.creator === 'user' && situation.assignee === 'manager')
    expect(pairs.length).toBeGreaterThan(20)
    const outcomes = await stage.attempts(
      pairs.flatMap(({ caller, situation }) =>
        actions.flatMap((action): Attempt[] => [
          { actor: caller, statement: statement(action, situation.id) },
          { actor: caller, statement: act(situation.id, action, bodies[action]) },
        ]),
      ),
    )
    for (let i = 0; i < outcomes.length; i += 2) expect(outcomes[i + 1]).toEqual(outcomes[i])
  })
})

describe('by SQL, past the actions', () => {
  const everybody: Actor[] = ['anonymous', 'user', 'manager', 'admin', 'auditor', 'authenticator', 'owner', 'superuser']

  test.each(everybody)('%s sets no status', async (actor) => {
    const targets: Status[] = ['DRAFT', 'SUBMITTED', 'APPROVED', 'REJECTED']
    const outcomes = await stage.attempts(
      situations.flatMap(({ id }) =>
        targets.map((status) => ({
          actor,
          statement: `update app_public.requests set status = '${status}' where id = '${id}'`,
        })),
      ),
    )
    const code = actor === 'owner' || actor === 'superuser' ? 'RQ403' : '42501'
    expect(new Set(outcomes.map((outcome) => outcome.code))).toEqual(new Set([code]))
  })

  test('the owner, too, changes and creates by an action alone', async () => {
    const { id } = situations[0]!
    const changes = [
      'version = version + 1',
      `title = 'Other'`,
      'is_deleted = true',
      `creator_id = '${stage.id.user2}'`,
      'assigned_to_id = null',
      'updated_at = now()',
    ]
    for (const change of changes) {
      expect((await stage.attempt('owner', `update app_public.requests set ${change} where id = '${id}'`)).code).toBe('RQ403')
    }
    const insert = `insert into app_public.requests (title, status, creator_id) values ('T', 'DRAFT', '${stage.id.user}')`
    expect((await stage.attempt('owner', insert)).code).toBe('RQ403')
  })

  // Who owns the tables may name an action, but not one that the state machine lacks, nor break what always holds.
  const named = (action: string, set: string) => (id: string) =>
    `with named as materialized (select set_config('assent.action', '${action}', true))
     update app_public.requests set ${set} from named where id = '${id}'`
  const decided = (by: Person, comment = `'x'`) =>
    `reviewed_by_id = '${stage.id[by]}', reviewed_at = now(), review_comment = ${comment}`
  test.each([
    [
      'leaps to a decision',
      'DRAFT',
      () => named('APPROVE', `status = 'APPROVED', submitted_at = now(), ${decided('admin')}`),
      'RQ403',
    ],
    ['reopens', 'APPROVED', () => named('SUBMIT', `status = 'SUBMITTED'`), 'RQ403'],
    ['changes its mind', 'APPROVED', () => named('REJECT', `status = 'REJECTED'`), 'RQ403'],
    ['takes back', 'SUBMITTED', () => named('UPDATE', `status = 'DRAFT', submitted_at = null`), 'RQ403'],
    ['gives it to another creator', 'DRAFT', () => named('UPDATE', `creator_id = '${stage.id.user2}'`), 'RQ403'],
    ['changes its id', 'DRAFT', () => named('UPDATE', 'id = gen_random_uuid()'), 'RQ403'],
    ['changes its birthday', 'DRAFT', () => named('UPDATE', 'created_at = now()'), 'RQ403'],
    ['lets its creator decide', 'SUBMITTED', () => named('APPROVE', `status = 'APPROVED', ${decided('user')}`), '23514'],
    [
      'decides by nobody known',
      'SUBMITTED',
      () => named('APPROVE', `status = 'APPROVED', reviewed_at = now(), reviewed_by_id = gen_random_uuid()`),
      '23503',
    ],
    ['decides by nobody', 'SUBMITTED', () => named('APPROVE', `status = 'APPROVED', reviewed_at = now()`), '23514'],
    ['decides at no time', 'SUBMITTED', () => named('APPROVE', `status = 'APPROVED'`), '23514'],
    ['rejects without a word', 'SUBMITTED', () => named('REJECT', `status = 'REJECTED', ${decided('admin', 'null')}`), '23514'],
    ['submits at no time', 'DRAFT', () => named('SUBMIT', `status = 'SUBMITTED'`), '23514'],
    ['deletes what is submitted', 'SUBMITTED', () => named('ASSIGN', 'is_deleted = true'), '23514'],
    ['assigns to the creator', 'SUBMITTED', () => named('ASSIGN', `assigned_to_id = '${stage.id.user}'`), 'RQ422'],
    ['names a reviewer before a decision', 'SUBMITTED', () => named('ASSIGN', `reviewed_by_id = '${stage.id.admin}'`), '23514'],
  ] as const)('the owner who names an action %s in vain', async (_, status, act, code) => {
    const situation = situations.find((one) => one.creator === 'user' && one.status === status && !one.assignee)!
    const outcome: Outcome = await stage.attempt('owner', act()(situation.id))
    expect({ code: outcome.code, count: outcome.count }).toEqual({ code, count: 0 })
  })

  test.each([
    ['by nobody known', `('T', 'DRAFT', gen_random_uuid(), 1)`, '23503'],
    ['by nobody', `('T', 'DRAFT', null, 1)`, '23502'],
    ['at version 0', `('T', 'DRAFT', $user, 0)`, '23514'],
    ['already submitted', `('T', 'SUBMITTED', $user, 1)`, 'RQ403'],
    ['in no status there is', `('T', 'WHATEVER', $user, 1)`, 'RQ403'],
    ['without a title', `('', 'DRAFT', $user, 1)`, '23514'],
  ])('the owner who names an action creates none %s', async (_, values, code) => {
    const { rows } = await stage.root.query('select count(*)::integer from app_public.requests')
    const statement = `with named as materialized (select set_config('assent.action', 'CREATE', true))
      insert into app_public.requests (title, status, creator_id, version)
      select v.title, v.status, v.creator_id, v.version
      from named, (values ${values.replace('$user', `'${stage.id.user}'::uuid`)}) v (title, status, creator_id, version)`
    expect((await stage.attempt('owner', statement.replace(', null, 1', ', null::uuid, 1'), { keep: true })).code).toBe(code)
    expect((await stage.root.query('select count(*)::integer from app_public.requests')).rows).toEqual(rows)
  })

  test('the owner who names an action still raises the version by one', async () => {
    const { id } = situations.find((one) => one.creator === 'user' && one.status === 'DRAFT')!
    const { rows } = await stage.root.query(`select version from app_public.requests where id = $1`, [id])
    const after = await stage.db.connect('owner')
    await after.query('begin')
    await after.query(named('UPDATE', `title = 'x', version = 70`)(id))
    expect((await after.query('select version from app_public.requests where id = $1', [id])).rows).toEqual([
      { version: rows[0].version + 1 },
    ])
    await after.query('rollback')
  })

  test.each([
    ['succeeded', `select app_public.update_request($1, title => 'x')`],
    ['changed nothing', 'select app_public.update_request($1)'],
    ['failed', `select app_public.update_request($1, title => '')`],
  ])('an action that %s opens no door to the next statement', async (_, action) => {
    const { id } = situations.find((one) => one.creator === 'user' && one.status === 'DRAFT')!
    await stage.root.query('begin')
    await stage.root.query(`select set_config('assent.session', $1, true), set_config('role', 'assent_user', true)`, [
      stage.secret.user,
    ])
    await stage.root.query('savepoint action')
    await stage.root.query(action, [id]).catch(() => stage.root.query('rollback to savepoint action'))
    await stage.root.query('set local role assent_owner')
    const code = await stage.root
      .query(`update app_public.requests set title = 'y' where id = $1`, [id])
      .catch((error) => error.code)
    await stage.root.query('rollback')
    expect(code).toBe('RQ403')
  })

  test.each([
    'delete from app_public.requests',
    'delete from app_public.users',
    'truncate app_public.requests cascade',
    'truncate app_public.users cascade',
  ])('%s is refused to everybody', async (statement) => {
    const outcomes = await stage.attempts(everybody.map((actor) => ({ actor, statement })))
    expect(outcomes.map(({ code }) => code)).toEqual(
      everybody.map((actor) => (actor === 'owner' || actor === 'superuser' ? 'RQ403' : '42501')),
    )
  })
})
