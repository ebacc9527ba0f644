import type { Client } from 'pg'
import {
  faultIn,
  mutation,
  newRequest,
  NOBODY,
  PASSWORD,
  startApi,
  type Answer,
  type Api,
  type NewPerson,
  type Who,
} from '../../harness/client.ts'

let api: Api
let owner: Client
beforeAll(async () => {
  api = await startApi()
  owner = await api.db.connect('owner')
})
afterAll(() => api.close())

const USER = 'id email name role permissions isDeleted createdAt'
const GOOD = 'correct horse battery staple'
let count = 0
/** An address that nobody has yet. */
const newEmail = () => `Person.${++count}@Assent.TEST`

const run = (name: string, input: object, who?: Who) => api.graphql(mutation(name, `user { ${USER} }`), { input }, who)
/** The person in a mutation's payload; the mutation must succeed. */
const done = async (name: string, input: object, who: Who = 'admin') =>
  (await api.data(mutation(name, `user { ${USER} }`), { input }, who))[name].user
const extensionsOf = ({ body }: Answer) => body.errors?.[0].extensions ?? 'done'
const code = async (name: string, input: object, who?: Who) => {
  const { body } = await run(name, input, who)
  return body.errors?.[0].extensions.code ?? 'done'
}
const logIn = (email: string, password = PASSWORD) =>
  api.graphql(mutation('login', 'accessToken'), { input: { email, password } })
const loginCode = async (email: string, password?: string) => {
  const { body } = await logIn(email, password)
  return body.errors?.[0].extensions.code ?? 'done'
}
/** Has somebody choose a password by a link, as if it had been mailed. */
async function choose(userId: string, newPassword: string): Promise<void> {
  const { rows } = await owner.query(`select app_private.issue_reset_token($1, '72 hours') as token`, [userId])
  await api.data(mutation('resetPassword', 'clientMutationId'), { input: { token: rows[0].token, newPassword } })
}
/** The caller, as the server says, or why it does not say. */
const me = async (who: Who) => {
  const { body } = await api.graphql('{ currentUser { id } }', {}, who)
  return body.data?.currentUser.id ?? body.errors[0].extensions.code
}

const trailOf = async (userId: string) =>
  (
    await owner.query(
      `select action, actor_id, metadata, host(ip_address) as ip from app_public.audit_logs where user_id = $1 order by "timestamp", id`,
      [userId],
    )
  ).rows
/** Everything in which a refusal must leave no trace. */
const everything = async () =>
  (
    await owner.query(
      `select (select json_agg(u order by u.id) from app_public.users u) as users, (select count(*) from app_public.audit_logs) as entries,
         (select json_agg(c order by c.user_id) from app_private.credentials c) as credentials`,
    )
  ).rows[0]

/** Each mutation about a person, with valid input. */
const ABOUT_A_PERSON: Record<string, object> = {
  updateUser: { name: 'Renamed', role: 'MANAGER' },
  deactivateUser: {},
  reactivateUser: {},
  resendInvitation: {},
}

describe('an admin', () => {
  test('adds, changes, deactivates and reactivates people: each payload shows the change, and the trail each step', async () => {
    const { admin } = api.db.people
    const email = newEmail()
    const added = await done('createUser', { email, name: 'Nina New' })
    expect(added).toEqual({
      id: expect.stringMatching(/^[\da-f-]{36}$/),
      email,
      name: 'Nina New',
      role: 'USER',
      permissions: ['request.create'],
      isDeleted: false,
      createdAt: expect.any(String),
    })
    const userId = added.id
    expect(await loginCode(email, GOOD)).toBe('UNAUTHENTICATED')
    expect(await done('resendInvitation', { userId })).toEqual(added)
    await choose(userId, GOOD)
    expect(await code('resendInvitation', { userId }, 'admin')).toBe('INVALID_TRANSITION')
    expect(await loginCode(email, GOOD)).toBe('done')
    const promoted = { ...added, role: 'MANAGER', permissions: expect.arrayContaining(['request.decide', 'request.create']) }
    expect(await done('updateUser', { userId, role: 'MANAGER' })).toEqual(promoted)
    const renamed = { ...promoted, name: 'Nina Newer' }
    expect(await done('updateUser', { userId, name: 'Nina Newer' })).toEqual(renamed)
    expect(await done('deactivateUser', { userId })).toEqual({ ...renamed, isDeleted: true })
    expect(await done('reactivateUser', { userId })).toEqual(renamed)

    const by = { actor_id: admin.id, ip: '127.0.0.1' }
    expect(await trailOf(userId)).toEqual([
      { ...by, action: 'USER_CREATE', metadata: { name: 'Nina New', role: 'USER' } },
      { ...by, actor_id: null, action: 'LOGIN_FAILED', metadata: {} },
      { ...by, action: 'INVITATION_RESEND', metadata: {} },
      // The test makes the link by SQL, in place of a mail.
      { actor_id: null, ip: null, action: 'CREDENTIALS_CHANGE', metadata: expect.objectContaining({ by: 'SQL' }) },
      { ...by, actor_id: userId, action: 'PASSWORD_CHANGE', metadata: { by: 'a mailed link' } },
      { ...by, actor_id: userId, action: 'LOGIN', metadata: {} },
      { ...by, action: 'USER_UPDATE', metadata: { role: { old: 'USER', new: 'MANAGER' } } },
      { ...by, action: 'USER_UPDATE', metadata: { name: { old: 'Nina New', new: 'Nina Newer' } } },
      { ...by, action: 'USER_DEACTIVATE', metadata: { is_deleted: { old: false, new: true } } },
      { ...by, action: 'USER_REACTIVATE', metadata: { is_deleted: { old: true, new: false } } },
    ])
  })

  test.each(['USER', 'MANAGER', 'ADMIN'])('adds somebody as %s', async (role) => {
    expect(await done('createUser', { email: newEmail(), name: 'x', role })).toMatchObject({ role })
  })

  test('leaves no trace by a change that changes nothing', async () => {
    const { id: userId } = await api.person()
    const before = await everything()
    for (const input of [{}, { name: 'Somebody New' }, { role: 'USER' }]) await done('updateUser', { userId, ...input })
    await done('reactivateUser', { userId })
    expect(await everything()).toEqual(before)
    await done('deactivateUser', { userId })
    const deactivated = await everything()
    expect(await done('deactivateUser', { userId })).toMatchObject({ isDeleted: true })
    expect(await everything()).toEqual(deactivated)
  })

  test('may give up being one, and the payload shows it', async () => {
    const one = await api.person('ADMIN')
    expect(await done('updateUser', { userId: one.id, role: 'USER' }, one)).toMatchObject({ id: one.id, role: 'USER' })
    expect(await code('updateUser', { userId: one.id, role: 'ADMIN' }, one)).toBe('FORBIDDEN')
  })

  test('may deactivate themselves: the payload shows it, and the next request is refused', async () => {
    const one = await api.person('ADMIN')
    expect(await done('deactivateUser', { userId: one.id }, one)).toMatchObject({ id: one.id, isDeleted: true })
    expect(await me(one)).toBe('UNAUTHENTICATED')
  })
})

test('each payload returns clientMutationId', async () => {
  const clientMutationId = 'mine ☃'
  const person = await done('createUser', { email: newEmail(), name: 'x' })
  const calls: [string, object, Who][] = [
    ['createUser', { email: newEmail(), name: 'x' }, 'admin'],
    ...Object.entries(ABOUT_A_PERSON).map(([name, input]): [string, object, Who] => [
      name,
      { userId: person.id, ...input },
      'admin',
    ]),
  ]
  for (const [name, input, who] of calls) {
    const { [name]: payload } = await api.data(mutation(name, 'clientMutationId'), { input: { ...input, clientMutationId } }, who)
    expect([name, payload]).toEqual([name, { clientMutationId }])
  }
  const change = { oldPassword: PASSWORD, newPassword: GOOD, clientMutationId }
  const { token } = await api.person()
  expect(await api.data(mutation('changePassword', 'clientMutationId'), { input: change }, { token })).toEqual({
    changePassword: { clientMutationId },
  })
})

describe('a caller who is not an admin', () => {
  const TAKEN = { email: 'USER@assent.test', name: '' }

  test('adds nobody, whatever else is wrong with the call', async () => {
    const good = { email: newEmail(), name: 'x' }
    const before = await everything()
    for (const input of [good, { ...good, role: 'ADMIN' }, TAKEN]) {
      expect(await code('createUser', input)).toBe('UNAUTHENTICATED')
      for (const who of ['user', 'manager'] as const)
        expect([who, await code('createUser', input, who)]).toEqual([who, 'FORBIDDEN'])
    }
    expect(await everything()).toEqual(before)
  })

  test('changes nobody, and finds nobody who does not exist', async () => {
    const { user, user2, manager, admin } = api.db.people
    const gone = await api.person()
    await done('deactivateUser', { userId: gone.id })
    const cases: [Who, string, string][] = [
      [undefined, user.id, 'UNAUTHENTICATED'],
      [undefined, NOBODY, 'UNAUTHENTICATED'],
      ['user', user.id, 'FORBIDDEN'],
      ['user', manager.id, 'FORBIDDEN'],
      ['user', user2.id, 'FORBIDDEN'],
      ['user', gone.id, 'FORBIDDEN'],
      ['user', NOBODY, 'NOT_FOUND'],
      ['manager', manager.id, 'FORBIDDEN'],
      ['manager', user2.id, 'FORBIDDEN'],
      ['manager', admin.id, 'FORBIDDEN'],
      ['manager', gone.id, 'FORBIDDEN'],
      ['manager', NOBODY, 'NOT_FOUND'],
    ]
    const before = await everything()
    for (const [who, userId, expected] of cases) {
      for (const [name, input] of Object.entries({ ...ABOUT_A_PERSON, 'updateUser ': { name: '' } })) {
        const answer = await run(name.trim(), { userId, ...input }, who)
        expect([who, name, userId, extensionsOf(answer)]).toEqual([who, name, userId, { code: expected }])
        const absent = await run(name.trim(), { userId: NOBODY, ...input }, who)
        if (expected === 'NOT_FOUND') expect(answer.text).toBe(absent.text)
      }
    }
    expect(await everything()).toEqual(before)
  })
})

test('nobody sends a password for somebody else: it is an unknown field', async () => {
  const before = await everything()
  expect(await code('createUser', { email: newEmail(), name: 'x', password: GOOD }, 'admin')).toBe('BAD_REQUEST')
  expect(await everything()).toEqual(before)
})

test('an admin gets NOT_FOUND for an id never used, whatever else is wrong, and BAD_REQUEST for an invalid UUID or role', async () => {
  const { id: userId } = await api.person()
  for (const [name, input] of Object.entries({ ...ABOUT_A_PERSON, 'updateUser ': { name: '' } })) {
    expect(await code(name.trim(), { ...input, userId: NOBODY }, 'admin')).toBe('NOT_FOUND')
    expect(await code(name.trim(), { ...input, userId: 'x' }, 'admin')).toBe('BAD_REQUEST')
    expect(await code(name.trim(), { ...input, userId: null }, 'admin')).toBe('BAD_REQUEST')
  }
  for (const role of ['OWNER', 'user', '', 1]) {
    expect(await code('updateUser', { userId, role }, 'admin')).toBe('BAD_REQUEST')
    expect(await code('createUser', { email: newEmail(), name: 'x', role }, 'admin')).toBe('BAD_REQUEST')
  }
})

describe('VALIDATION_FAILED', () => {
  const good = { email: 'nobody@assent.test', name: 'x' }
  const BAD_NAMES = ['', ' \t\u00a0', 'x'.repeat(201)]
  const BAD_EMAILS = ['', 'x', '@', 'a@', '@b', 'a@b@c', 'a b@c', 'a\u200bb@c', `${'x'.repeat(250)}@b.cd`]
  const WEAK = [
    '',
    'x'.repeat(11),
    '😀'.repeat(11),
    'passwordpassword',
    'PasswordPassword',
    'Password1234',
    'password1234',
    '123456789012',
    'qwertyuiop123',
    'P@ssw0rd1234',
    ' '.repeat(12),
    '\u{1F680}'.repeat(12),
    'Summer2026!!',
    'Assent-Assent-1',
    'my ASSENT is long',
    'P a s s w o r d 1 2 3 4',
    'p.a.s.s.w.o.r.d',
    'password    1234',
    'Password     !',
    'p  a  s  s  w  o  r  d',
    'pass\u00adword1234',
  ]

  test('answers createUser with an invalid or taken address, or a bad name; nothing is left of it', async () => {
    const gone = await api.person()
    await done('deactivateUser', { userId: gone.id })
    const before = await everything()
    const cases: [object, string][] = [
      ...BAD_EMAILS.map((email): [object, string] => [{ email }, 'email']),
      ...['user@assent.test', 'USER@ASSENT.TEST', gone.email, gone.email.toUpperCase()].map((email): [object, string] => [
        { email },
        'email',
      ]),
      ...BAD_NAMES.map((name): [object, string] => [{ name }, 'name']),
    ]
    for (const [wrong, field] of cases) {
      const answer = await run('createUser', { ...good, ...wrong }, 'admin')
      expect([wrong, extensionsOf(answer)]).toEqual([wrong, faultIn(field)])
      expect(answer.body.data).toEqual({ createUser: null })
    }
    expect(await everything()).toEqual(before)
  })

  test('answers text with NUL or half a character, even as a password', async () => {
    const { token } = await api.person()
    const before = await everything()
    for (const bad of ['\0', '\ud800']) {
      for (const wrong of [{ name: bad }, { email: `a${bad}@b.cd` }]) {
        expect([wrong, await code('createUser', { ...good, ...wrong }, 'admin')]).toEqual([wrong, 'VALIDATION_FAILED'])
      }
      const change = { oldPassword: PASSWORD, newPassword: GOOD + bad }
      expect([bad, await code('changePassword', change, { token })]).toEqual([bad, 'VALIDATION_FAILED'])
    }
    expect(await everything()).toEqual(before)
  })

  test('answers an address that is taken in any letter case, of any alphabet', async () => {
    await choose((await done('createUser', { ...good, email: 'Jürgen.Ж@Assent.test' })).id, GOOD)
    for (const email of ['jürgen.ж@assent.test', 'JÜRGEN.Ж@ASSENT.TEST']) {
      expect([email, await code('createUser', { ...good, email }, 'admin')]).toEqual([email, 'VALIDATION_FAILED'])
      expect([email, await loginCode(email, GOOD)]).toEqual([email, 'done'])
    }
  })

  test('answers one of two calls that add the same address at once', async () => {
    const email = newEmail()
    const codes = await Promise.all(
      [email, email.toUpperCase(), email.toLowerCase()].map((it) => code('createUser', { ...good, email: it }, 'admin')),
    )
    expect(codes.sort()).toEqual(['VALIDATION_FAILED', 'VALIDATION_FAILED', 'done'])
  })

  test('answers updateUser with a bad name, and with null for what cannot be cleared', async () => {
    const { id: userId } = await api.person()
    const before = await everything()
    const cases: [object, string][] = [
      ...BAD_NAMES.map((name): [object, string] => [{ name }, 'name']),
      [{ name: null }, 'name'],
      [{ role: null }, 'role'],
    ]
    for (const [wrong, field] of cases) {
      const answer = await run('updateUser', { userId, ...wrong }, 'admin')
      expect([wrong, extensionsOf(answer)]).toEqual([wrong, faultIn(field)])
    }
    expect(await everything()).toEqual(before)
  })

  test('answers a weak new password before the old one is checked, and counts no attempt', async () => {
    const { email, token, id } = await api.person()
    const before = await trailOf(id)
    for (const newPassword of [...WEAK, ...WEAK]) {
      const answer = await run('changePassword', { oldPassword: 'wrong', newPassword }, { token })
      expect([newPassword, extensionsOf(answer)]).toEqual([newPassword, faultIn('newPassword')])
    }
    expect(await trailOf(id)).toEqual(before)
    expect(await loginCode(email)).toBe('done')
  })

  test.each([
    ['emoji', '😀😁😂🤣😃😄😅😆😉😊😋😎'],
    ['letters', 'twelve chars'],
    ['blanks', '   é à ü õ   '],
    ['a line', 'a line of text\n'],
    ['a book', 'a book '.repeat(15_000) + 'ends'],
  ])('does not answer 12 code points, which then have to be given exactly: %s', async (_, password) => {
    const email = newEmail()
    const added = await done('createUser', { email, name: 'x' })
    await choose(added.id, password)
    expect(await loginCode(email, password)).toBe('done')
    expect(await loginCode(email, password.trim())).toBe(password.trim() === password ? 'done' : 'UNAUTHENTICATED')
    const {
      rows: [{ kept }],
    } = await owner.query('select c::text as kept from app_private.credentials c where user_id = $1', [added.id])
    expect(kept).not.toContain(password)
    expect(JSON.stringify(await trailOf(added.id))).not.toContain(password)
    expect(api.log()).not.toContain(password)
  })
})

describe('the last active admin', () => {
  let last: NewPerson
  // The demo admin steps down for this, and comes back; a changed role ends no session.
  const setRole = (role: string) =>
    owner.query('update app_public.users set role = $1 where id = $2', [role, api.db.people.admin.id])
  beforeEach(async () => {
    last = await api.person('ADMIN')
    await owner.query(`update app_public.users set role = 'USER' where role = 'ADMIN' and id <> $1`, [last.id])
  })
  afterEach(() => setRole('ADMIN'))

  test('stays one, whoever tries to change that', async () => {
    const before = await everything()
    for (const [name, input] of [
      ['updateUser', { role: 'USER' }],
      ['updateUser', { role: 'MANAGER', name: 'Renamed' }],
      ['deactivateUser', {}],
    ] as const) {
      const answer = await run(name, { userId: last.id, ...input }, last)
      expect(extensionsOf(answer)).toEqual({ code: 'INVALID_TRANSITION' })
    }
    expect(await everything()).toEqual(before)
    expect(await done('updateUser', { userId: last.id, name: 'Renamed' }, last)).toMatchObject({ name: 'Renamed', role: 'ADMIN' })
  })

  test('stays one: that is checked before anything else that is wrong', async () => {
    expect(await code('updateUser', { userId: last.id, role: 'USER', name: '' }, last)).toBe('INVALID_TRANSITION')
  })

  test('must be active: a deactivated admin does not count', async () => {
    const other = await api.person('ADMIN')
    await done('deactivateUser', { userId: other.id }, last)
    expect(await code('updateUser', { userId: last.id, role: 'USER' }, last)).toBe('INVALID_TRANSITION')
    await done('reactivateUser', { userId: other.id }, last)
    expect(await code('updateUser', { userId: last.id, role: 'USER' }, last)).toBe('done')
  })

  test.each([
    ['demote', 'updateUser', { role: 'USER' }, 'FORBIDDEN'],
    ['deactivate', 'deactivateUser', {}, 'UNAUTHENTICATED'],
  ])('is left when two %s each other at once', async (_, name, input, expected) => {
    for (let round = 0; round < 5; round++) {
      const other = await api.person('ADMIN')
      const codes = await Promise.all([
        code(name, { userId: other.id, ...input }, last),
        code(name, { userId: last.id, ...input }, other),
      ])
      expect(codes.toSorted()).toEqual([expected, 'done'].toSorted())
      const { rows } = await owner.query(`select id from app_public.users where role = 'ADMIN' and not is_deleted`)
      last = codes[0] === 'done' ? last : other
      expect(rows).toEqual([{ id: last.id }])
    }
  })

  test('is left when two give it up at once', async () => {
    const other = await api.person('ADMIN')
    const codes = await Promise.all([last, other].map((who) => code('updateUser', { userId: who.id, role: 'USER' }, who)))
    expect(codes.toSorted()).toEqual(['INVALID_TRANSITION', 'done'])
  })
})

describe('on the next request of an old token', () => {
  test('a deactivated person is locked out by token, refresh token, cookie and password; once reactivated, they log in anew', async () => {
    const { id: userId, email, token } = await api.person('MANAGER')
    const { body: tokens } = await api.rest('POST', '/auth/token/', { email, password: PASSWORD })
    const { headers } = await api.rest('POST', '/auth/session/', { email, password: PASSWORD })
    const cookie = headers['set-cookie']![0]!.split(';')[0]!
    const byCookie = async () =>
      (await api.graphql('{ currentUser { id } }', {}, undefined, { cookie })).body.data.currentUser as unknown
    const refresh = () => api.rest('POST', '/auth/refresh/', { refresh_token: tokens.refresh_token })
    expect([await me({ token }), await byCookie()]).toEqual([userId, { id: userId }])

    await done('deactivateUser', { userId })
    const wrong = await logIn(email, 'wrong')
    const dead = async () => {
      for (const it of [token, tokens.access_token]) expect(await me({ token: it })).toBe('UNAUTHENTICATED')
      expect((await refresh()).status).toBe(401)
      expect(await byCookie()).toBeNull()
    }
    await dead()
    expect((await logIn(email)).text).toBe(wrong.text)

    await done('reactivateUser', { userId })
    await dead()
    expect(await loginCode(email)).toBe('done')
  })

  test('any manager can decide what was assigned to somebody deactivated', async () => {
    const { id: assignedToId } = await api.person('MANAGER')
    const requestId = await newRequest(api, { submit: true, assignedToId })
    expect(await api.code(mutation('approveRequest'), { input: { requestId } }, 'manager')).toBe('FORBIDDEN')
    await done('deactivateUser', { userId: assignedToId })
    await api.data(mutation('approveRequest'), { input: { requestId } }, 'manager')
  })

  test('a changed role counts', async () => {
    const { id: userId, token } = await api.person()
    const id = await newRequest(api, { submit: true })
    const query = 'query ($id: UUID!) { currentUser { role permissions } request(id: $id) { availableActions } }'
    const user = { currentUser: { role: 'USER', permissions: ['request.create'] }, request: null }
    expect(await api.data(query, { id }, { token })).toEqual(user)
    await done('updateUser', { userId, role: 'MANAGER' })
    expect(await api.data(query, { id }, { token })).toEqual({
      currentUser: { role: 'MANAGER', permissions: expect.arrayContaining(['request.decide']) },
      request: { availableActions: ['APPROVE', 'ASSIGN', 'REJECT'] },
    })
    await done('updateUser', { userId, role: 'USER' })
    expect(await api.data(query, { id }, { token })).toEqual(user)
    expect(await api.code(mutation('approveRequest'), { input: { requestId: id } }, { token })).toBe('NOT_FOUND')
  })

  test('a new password has ended the person’s other sessions, and no other person’s', async () => {
    const { id, email, token: here } = await api.person()
    const { body } = await logIn(email)
    const elsewhere = { token: body.data.login.accessToken }
    expect(await me(elsewhere)).toBe(id)
    expect(await done('changePassword', { oldPassword: PASSWORD, newPassword: GOOD }, { token: here })).toMatchObject({
      id,
      email,
    })
    expect([await me({ token: here }), await me(elsewhere)]).toEqual([id, 'UNAUTHENTICATED'])
    expect([await loginCode(email), await loginCode(email, GOOD)]).toEqual(['UNAUTHENTICATED', 'done'])
    expect(await me('user')).toBe(api.db.people.user.id)
    expect((await trailOf(id)).filter(({ action }) => action === 'PASSWORD_CHANGE')).toEqual([
      { action: 'PASSWORD_CHANGE', actor_id: id, metadata: {}, ip: '127.0.0.1' },
    ])
  })
})

describe('a wrong old password', () => {
  const change = (who: Who, oldPassword: string) => run('changePassword', { oldPassword, newPassword: GOOD }, who)

  test('is VALIDATION_FAILED and changes nothing; after ten none is taken in that session, and logins are as before', async () => {
    const { id, email, token } = await api.person()
    for (let i = 0; i < 10; i++) {
      const answer = await change({ token }, `wrong ${i}`)
      expect(extensionsOf(answer)).toEqual(faultIn('oldPassword'))
    }
    for (const oldPassword of ['wrong', PASSWORD]) {
      const answer = await change({ token }, oldPassword)
      expect(extensionsOf(answer)).toEqual({ code: 'TOO_MANY_ATTEMPTS', retryAfter: expect.any(Number) })
      expect(answer.headers['retry-after']).toBe(String(extensionsOf(answer).retryAfter))
    }
    // The session lives on, and the password is unchanged.
    expect(await me({ token })).toBe(id)
    expect(await loginCode(email)).toBe('done')
    const actions = (await trailOf(id)).map(({ action }) => action)
    expect(actions).not.toContain('PASSWORD_CHANGE')
    expect(actions.filter((action) => action === 'LOGIN_FAILED')).toHaveLength(10)
  })

  test('does not count together with failed logins', async () => {
    const { email, token } = await api.person()
    for (let i = 0; i < 10; i++) expect(await loginCode(email.toUpperCase(), 'wrong')).toBe('UNAUTHENTICATED')
    expect(await loginCode(email)).toBe('TOO_MANY_ATTEMPTS')
    expect(extensionsOf(await change({ token }, 'wrong')).code).toBe('VALIDATION_FAILED')
    expect((await change({ token }, PASSWORD)).body.errors).toBeUndefined()
    await owner.query('delete from app_private.login_attempts')
  })

  test('is checked at most 10 times when 20 come at once', async () => {
    const { token } = await api.person()
    const codes = (await Promise.all(Array.from({ length: 20 }, (_, i) => change({ token }, `guess ${i}`)))).map(
      (answer) => extensionsOf(answer).code,
    )
    const looked = codes.filter((it) => it === 'VALIDATION_FAILED').length
    expect(looked).toBeGreaterThan(0)
    expect(looked).toBeLessThanOrEqual(10)
    for (const it of codes) expect(['VALIDATION_FAILED', 'TOO_MANY_ATTEMPTS', 'UNAVAILABLE']).toContain(it)
  })
})

test('changing a password needs credentials', async () => {
  for (const newPassword of [GOOD, 'weak']) {
    expect(await code('changePassword', { oldPassword: PASSWORD, newPassword })).toBe('UNAUTHENTICATED')
  }
})

test('none of this was an internal error, and the requests agree with their trail', async () => {
  expect(api.log()).not.toContain('internal error')
  expect((await (await api.db.connect('auditor')).query('select * from audit.disagreements')).rows).toEqual([])
})
