import pg from 'pg'
import {
  asSession,
  bare,
  digest,
  login,
  openStage,
  type Actor,
  type Outcome,
  type Person,
  type Row,
  type Stage,
} from '../harness/stage.ts'

// Administering people: who may, what is refused, what it leaves, and that somebody is always left who may.

let stage: Stage
let api: pg.Client

beforeAll(async () => {
  stage = await openStage()
  api = await stage.db.connect('auth')
})
beforeEach(async () => {
  await stage.recast()
  await stage.root.query('update app_public.users set is_deleted = true where id = $1', [stage.id.gone])
})
afterAll(() => stage?.close())

const NOBODY = '00000000-0000-7000-8000-000000000000'
const quote = (value: string | null) => (value === null ? 'null' : `'${value.replaceAll("'", "''")}'`)
const id = (person: Person) => `'${stage.id[person]}'`

const create = ({ email = 'new@assent.test', name = 'New', role = 'USER' }: Row = {}) =>
  `select * from app_public.create_user(${[email, name, role].map(quote).join(', ')})`
const changes = {
  rename: (who: string) => `select * from app_public.update_user(${who}, name => 'Renamed')`,
  promote: (who: string) => `select * from app_public.update_user(${who}, role => 'ADMIN')`,
  deactivate: (who: string) => `select * from app_public.deactivate_user(${who})`,
  reactivate: (who: string) => `select * from app_public.reactivate_user(${who})`,
}
const invite = (who: string) => `select * from app_public.resend_invitation(${who})`

/** The entries that something has left, as stage.entry() makes them. */
const leaves = async (act: () => Promise<unknown>) => (await stage.leaves(act)).map(bare)
const keep = { keep: true, fetch: true }
const person = async (who: Person): Promise<Row> =>
  (await stage.root.query('select * from app_public.users where id = $1', [stage.id[who]])).rows[0]

/** The entries of a statement that has to succeed, and whose effects stay. */
const done = (actor: Actor, statement: string) => leaves(() => stage.rows(actor, statement))

const isWaiting = async () =>
  (await stage.root.query(`select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`))
    .rowCount! > 0

/** A statement that has to fail with RQ422, in words, and leave nothing: the column that it is about. */
async function invalid(actor: Actor, statement: string): Promise<string | null> {
  let outcome: Outcome
  expect(await leaves(async () => void (outcome = await stage.attempt(actor, statement, keep)))).toEqual([])
  expect(outcome!.code).toBe('RQ422')
  expect(outcome!.message).toMatch(/^(?!.*(users_|credentials_|violates|constraint)).{10,}/)
  return outcome!.column
}

describe('who may administer people', () => {
  test.each<[Person, Partial<Record<Person, string | null>>]>([
    ['user', { user: 'RQ403', manager: 'RQ403', admin: 'RQ403', user2: 'RQ403', gone: 'RQ403' }],
    ['manager', { manager: 'RQ403', user: 'RQ403', admin: 'RQ403', gone: 'RQ403' }],
    ['admin', { admin2: null, manager: null, user: null, gone: null }],
  ])('%s', async (actor, targets) => {
    for (const [target, code] of Object.entries(targets)) {
      for (const [name, change] of Object.entries(changes)) {
        const outcome = await stage.attempt(actor, change(id(target as Person)), { fetch: true })
        expect({ name, target, code: outcome.code, rows: outcome.count }).toEqual({ name, target, code, rows: code ? 0 : 1 })
      }
    }
    for (const change of Object.values(changes)) expect((await stage.attempt(actor, change(quote(NOBODY)))).code).toBe('RQ404')
  })

  test.each<[Actor, string]>([
    ['user', 'RQ403'],
    ['manager', 'RQ403'],
    ['gone', 'RQ401'],
    ['anonymous', '42501'],
    ['auditor', '42501'],
    ['authenticator', '42501'],
  ])('%s adds nobody, and hears of nothing else that is wrong', async (actor, code) => {
    for (const statement of [create(), create({ email: 'user@assent.test', name: '', role: 'BOSS' })]) {
      expect((await stage.attempt(actor, statement)).code).toBe(code)
    }
  })

  test('nor does a role without a person behind it', async () => {
    for (const role of ['assent_user', 'assent_manager', 'assent_admin']) {
      const outcome = await stage.attempt('anonymous', create(), { role })
      expect(outcome.code).toBe('RQ401')
    }
  })

  test('FORBIDDEN comes before what is wrong with the values', async () => {
    for (const values of [`name => ''`, `role => 'BOSS'`]) {
      const outcome = await stage.attempt('manager', `select app_public.update_user(${id('user')}, ${values})`)
      expect(outcome.code).toBe('RQ403')
    }
  })
})

describe('adding somebody', () => {
  test('leaves one entry without their address, and an account without a password, by which nobody logs in', async () => {
    const entries = await done('admin', create({ email: 'New.One@assent.test', name: 'New One', role: null }))
    const { rows } = await stage.root.query(`select * from app_public.users where name = 'New One'`)
    expect(rows).toMatchObject([{ role: 'USER', is_deleted: false }])
    expect(entries).toEqual([
      { ...stage.entry('USER_CREATE', 'admin', null, { name: 'New One', role: 'USER' }), user_id: rows[0].id },
    ])
    const unknown = await login(api, 'nobody@assent.test', '')
    expect(unknown).toMatchObject({ user_id: null, retry_after: null })
    for (const password of ['', 'null', 'a password of theirs']) {
      const failed = { ...stage.entry('LOGIN_FAILED', null, null), user_id: rows[0].id }
      expect(await leaves(async () => expect(await login(api, 'new.one@assent.test', password)).toEqual(unknown))).toEqual([
        failed,
      ])
    }
  })

  test('as the server of migration 000010 does sets no password either', async () => {
    const statement = `select * from app_hidden.create_user('old@assent.test', 'Old', 'USER', '${digest('chosen by an admin')}', null)`
    expect(await done('admin', statement)).toMatchObject([{ action: 'USER_CREATE' }])
    expect((await login(api, 'old@assent.test', 'chosen by an admin')).user_id).toBe(null)
  })

  test('by SQL, with a password or without, is up to the owner', async () => {
    await done('owner', `select app_private.register_user('with@assent.test', 'With', 'USER', '${digest('one of the owner')}')`)
    await done('owner', `select app_private.register_user('without@assent.test', 'Without', 'USER', null)`)
    expect((await login(api, 'with@assent.test', 'one of the owner')).user_id).toEqual(expect.any(String))
    expect((await login(api, 'without@assent.test', '')).user_id).toBe(null)
  })

  test.each(['USER', 'MANAGER', 'ADMIN'])('as %s', async (role) => {
    expect((await stage.attempt('admin', create({ role }), { fetch: true })).rows).toMatchObject([{ name: 'New', role }])
  })

  const bad = (email: string): [string, Row, string] => [`the address ${JSON.stringify(email)}`, { email }, 'email']
  test.each<[string, Row, string]>([
    ['no address', { email: null }, 'email'],
    ['an empty address', { email: '' }, 'email'],
    ['what is no address', { email: 'new' }, 'email'],
    ...['new@', '@b.cd', 'a@b@c', 'a b@c.d', 'a\n@b.cd', 'a@b..cd', 'a@.b', 'a@b.', 'a@b,c@d', 'g:a@b.cd;'].map(bad),
    ...['<a@b.cd>', 'a<b@c.d', 'a@b>c', 'a@b.cd,c', 'a@b.cd;c', '"a"@b.cd', 'a@b.cd(c)', 'a\\@b.cd', 'a@[192.0.2.1]'].map(bad),
    ...['a@-b.cd', 'a@b-.cd', 'a@b.-cd', 'a@b.cd-', 'a\ufffe@b.cd', 'a@b\ufdd0.cd', 'a@b.c\u{10ffff}'].map(bad),
    ['an address that is too long', { email: `${'x'.repeat(250)}@b.cd` }, 'email'],
    ['an address that is taken', { email: 'user@assent.test' }, 'email'],
    ['an address that is taken in another case', { email: 'USER@Assent.Test' }, 'email'],
    ['an address that is taken by somebody deactivated', { email: 'Gone@assent.test' }, 'email'],
    ['no name', { name: null }, 'name'],
    ['a blank name', { name: ' \u3000\u200b' }, 'name'],
    ['a name that is too long', { name: '😀'.repeat(201) }, 'name'],
    ['an unknown role', { role: 'BOSS' }, 'role'],
    ['a role in small letters', { role: 'user' }, 'role'],
    ['an empty role', { role: '' }, 'role'],
  ])('with %s is refused', async (_, values, column) => {
    const count = async () => (await stage.root.query('select from app_public.users')).rowCount
    const before = await count()
    expect(await invalid('admin', create(values))).toBe(column)
    expect(await count()).toBe(before)
  })

  test('twice at once under one address: the second is refused', async () => {
    const other = await stage.db.connect('auth')
    let outcomes: PromiseSettledResult<Row[]>[] = []
    const entries = await leaves(async () => {
      outcomes = await Promise.allSettled([
        asSession(api, stage.secret.admin, create({ email: 'twin@assent.test' })),
        asSession(other, stage.secret.admin, create({ email: 'TWIN@assent.test' })),
      ])
    })
    expect(entries).toMatchObject([{ action: 'USER_CREATE' }])
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    expect(outcomes.filter(({ status }) => status === 'rejected')).toMatchObject([{ reason: { code: 'RQ422', column: 'email' } }])
  })
})

describe('inviting somebody again', () => {
  let newcomer: string
  let count = 0
  beforeEach(async () => {
    const [row] = await stage.rows('admin', create({ email: `invited${++count}@assent.test` }))
    newcomer = row!['id']
  })
  const about = (action: string, metadata: Row = {}) => ({ ...stage.entry(action, 'admin', null, metadata), user_id: newcomer })
  const link = async (lifetime = '72 hours') =>
    (await stage.rows('owner', `select app_private.issue_reset_token('${newcomer}', '${lifetime}') as token`))[0]![
      'token'
    ] as string
  const choose = (token: string) =>
    asSession(api, '', 'select app_hidden.reset_password($1, $2, null)', [token, digest('a password of theirs')]).then(
      () => null,
      (error: pg.DatabaseError) => error.column,
    )

  test('leaves one entry, and ends the links of before', async () => {
    const first = await link()
    expect(await done('admin', invite(`'${newcomer}'`))).toEqual([about('INVITATION_RESEND')])
    expect(await choose(first)).toBe('token')
    expect(await choose(await link())).toBe(null)
    expect((await login(api, `invited${count}@assent.test`, 'a password of theirs')).user_id).toBe(newcomer)
  })

  const conflict = async (target: string) => {
    let outcome: Outcome
    expect(await leaves(async () => void (outcome = await stage.attempt('admin', invite(target), keep)))).toEqual([])
    return outcome!.code
  }

  test.each([
    ['has a password', async () => id('user')],
    ['has chosen one', async () => (await choose(await link()), `'${newcomer}'`)],
    ['is deactivated', async () => (await stage.rows('admin', changes.deactivate(`'${newcomer}'`)), `'${newcomer}'`)],
  ])('is refused for somebody who %s', async (_, target) => {
    expect(await conflict(await target())).toBe('RQ409')
  })

  test('waits for somebody who is just choosing a password', async () => {
    const [other, token] = [await stage.db.connect('auth'), await link()]
    await other.query(`begin; select app_hidden.become('', '')`)
    await other.query('select app_hidden.reset_password($1, $2, null)', [token, digest('a password of theirs')])
    const later = asSession(api, stage.secret.admin, invite(`'${newcomer}'`)).catch((error: pg.DatabaseError) => error.code)
    while (!(await isWaiting()));
    await other.query('commit')
    expect(await later).toBe('RQ409')
  })

  test.each<[Actor, string]>([
    ['user', 'RQ403'],
    ['manager', 'RQ403'],
    ['gone', 'RQ401'],
    ['anonymous', '42501'],
  ])('is not for %s', async (actor, code) => {
    expect((await stage.attempt(actor, invite(`'${newcomer}'`))).code).toBe(code)
  })

  test('is NOT_FOUND for an id never used, for everybody', async () => {
    for (const actor of ['user', 'manager', 'admin'] as const) {
      expect((await stage.attempt(actor, invite(quote(NOBODY)))).code).toBe('RQ404')
    }
  })

  test('ends with a deactivation, and is not brought back by a reactivation; a changed role changes nothing of it', async () => {
    const token = await link()
    await done('admin', `select * from app_public.update_user('${newcomer}', role => 'MANAGER')`)
    expect(await choose(token)).toBe(null)
    const [row] = await stage.rows('admin', create({ email: 'another@assent.test' }))
    newcomer = row!['id']
    const second = await link()
    for (const change of [changes.deactivate, changes.reactivate]) await done('admin', change(`'${newcomer}'`))
    expect(await choose(second)).toBe('token')
    expect(await done('admin', invite(`'${newcomer}'`))).toEqual([about('INVITATION_RESEND')])
  })
})

describe('changing somebody', () => {
  test('leaves one entry, of what has changed', async () => {
    const about = (action: string, metadata: Row) => [stage.entry(action, 'admin', 'idler', metadata)]
    const update = (values: string) => `select * from app_public.update_user(${id('idler')}, ${values})`
    const { name } = await person('idler')
    expect(await done('admin', update(`name => 'Ulla'`))).toEqual(about('USER_UPDATE', { name: { old: name, new: 'Ulla' } }))
    expect(await done('admin', update(`role => 'MANAGER'`))).toEqual(
      about('USER_UPDATE', { role: { old: 'USER', new: 'MANAGER' } }),
    )
    expect(await done('admin', update(`name => ${quote(name)}, role => 'USER'`))).toEqual(
      about('USER_UPDATE', { name: { old: 'Ulla', new: name }, role: { old: 'MANAGER', new: 'USER' } }),
    )
    expect(await done('admin', changes.deactivate(id('idler')))).toEqual(
      about('USER_DEACTIVATE', { is_deleted: { old: false, new: true } }),
    )
    expect(await done('admin', changes.reactivate(id('idler')))).toEqual(
      about('USER_REACTIVATE', { is_deleted: { old: true, new: false } }),
    )
  })

  test.each([
    ['nothing', (who: string, _: Row) => `select * from app_public.update_user(${who})`],
    [
      'to the same',
      (who: string, { name, role }: Row) =>
        `select * from app_public.update_user(${who}, name => ${quote(name)}, role => '${role}')`,
    ],
    ['to be active, who is', (who: string) => changes.reactivate(who)],
  ])('%s is no action', async (_, change) => {
    const before = await person('user')
    expect(await done('admin', change(id('user'), before))).toEqual([])
    expect(await person('user')).toEqual(before)
  })

  test('to be deactivated, who is, is no action either', async () => {
    expect(await done('admin', changes.deactivate(id('gone')))).toEqual([])
  })

  test('by SQL, to the same, is none either', async () => {
    const same = 'update app_public.users set name = name, role = role, is_deleted = is_deleted'
    expect(await leaves(() => stage.root.query(same))).toEqual([])
  })

  test.each([
    [`name => ''`, 'name'],
    [`name => ' \u3000'`, 'name'],
    [`name => repeat('😀', 201)`, 'name'],
    [`name => null`, 'name'],
    [`role => 'BOSS'`, 'role'],
    [`role => 'manager'`, 'role'],
    [`role => null`, 'role'],
    [`name => 'Fine', role => ''`, 'role'],
  ])('by %s is refused', async (values, column) => {
    const before = await person('user')
    expect(await invalid('admin', `select * from app_public.update_user(${id('user')}, ${values})`)).toBe(column)
    expect(await person('user')).toEqual(before)
  })

  test.each([
    ['{"name": 5}', 'name'],
    ['{"name": true}', 'name'],
    ['{"name": ["A"]}', 'name'],
    ['{"name": {"a": "A"}}', 'name'],
    ['{"role": 1}', 'role'],
    ['{"is_deleted": "true"}', 'is_deleted'],
    ['{"is_deleted": "yes"}', 'is_deleted'],
    ['{"is_deleted": 1}', 'is_deleted'],
    ['{"is_deleted": null}', 'is_deleted'],
    ['{"name": "Fine", "is_deleted": []}', 'is_deleted'],
  ])('by JSON takes no value of another type: %s', async (json, column) => {
    expect(await invalid('admin', `select app_hidden.change_user(${id('user')}::uuid, '${json}')`)).toBe(column)
  })

  test('writes name, role and is_deleted, and nothing else', async () => {
    const before = await person('user')
    const json = `{"id": "${NOBODY}", "created_at": "2001-01-01T00:00:00Z", "email": "other@assent.test", "name": "${before['name']}"}`
    expect(await done('admin', `select app_hidden.change_user(${id('user')}::uuid, '${json}')`)).toEqual([])
    expect(await person('user')).toEqual(before)
  })

  // Who was no admin any more a moment later is still who did it.
  test.each([
    [
      'demoted',
      `select * from app_public.update_user($id, role => 'USER')`,
      'USER_UPDATE',
      { role: { old: 'ADMIN', new: 'USER' } },
    ],
    [
      'deactivated',
      'select * from app_public.deactivate_user($id)',
      'USER_DEACTIVATE',
      { is_deleted: { old: false, new: true } },
    ],
  ])('an admin who has %s themselves is the one who did it', async (_, statement, action, metadata) => {
    await stage.root.query('begin')
    try {
      await stage.attempt('admin2', statement.replace('$id', id('admin2')), { keep: true })
      const { rows } = await stage.root.query('select * from app_public.audit_logs order by "timestamp" desc limit 1')
      expect(bare(rows[0])).toEqual(stage.entry(action, 'admin2', 'admin2', metadata))
    } finally {
      await stage.root.query('rollback')
    }
  })

  test('a role holds from the next request on, in the same session', async () => {
    const { id: request } = await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
    const approve = `select app_public.approve_request('${request}')`
    const as = async () => (await asSession(api, stage.secret.user2, 'select current_user as role'))[0]!['role']
    expect((await stage.attempt('user2', approve)).code).toBe('RQ404')
    await done('admin', `select * from app_public.update_user(${id('user2')}, role => 'MANAGER')`)
    expect([await as(), (await stage.attempt('user2', approve)).code]).toEqual(['assent_manager', null])
    await done('admin', `select * from app_public.update_user(${id('user2')}, role => 'USER')`)
    expect([await as(), (await stage.attempt('user2', approve)).code]).toEqual(['assent_user', 'RQ404'])
  })
})

/** A new session of somebody, without the slow hash of a login. */
async function open(who: Person): Promise<string> {
  const { rows } = await stage.root.query('select session_secret from app_private.open_session($1, false, null)', [stage.id[who]])
  return rows[0].session_secret
}

describe('a deactivation', () => {
  test('ends every session, and a reactivation brings none back, be it opened meanwhile', async () => {
    const secrets = [await open('manager2'), await open('manager2')]
    const role = (secret: string) =>
      asSession(api, secret, 'select current_user as role').then(
        ([row]) => row!['role'],
        (error: pg.DatabaseError) => error.code,
      )
    expect(await Promise.all(secrets.slice(0, 1).map(role))).toEqual(['assent_manager'])
    await done('admin', changes.deactivate(id('manager2')))
    // A login that had begun before.
    secrets.push(await open('manager2'))
    for (const secret of secrets) expect(await role(secret)).toBe('RQ401')
    await done('admin', changes.reactivate(id('manager2')))
    for (const secret of secrets) expect(await role(secret)).toBe('RQ401')
    const { rows } = await stage.root.query(
      'select count(*)::integer from app_private.sessions where user_id = $1 and revoked_at is null',
      [stage.id.manager2],
    )
    expect(rows).toEqual([{ count: 0 }])
    expect(await role((await login(api, 'manager2@assent.test')).session_secret!)).toBe('assent_manager')
  })

  test('leaves what was assigned to them to any manager', async () => {
    const { id: request } = await stage.request({ creator: 'user', assignee: 'left', status: 'SUBMITTED' })
    const decide = `select * from app_public.reject_request('${request}', 'No')`
    const inbox = `select from app_public.requests_awaiting_my_decision() where id = '${request}'`
    const asManager = async () => {
      const [decision, waiting] = await stage.attempts([decide, inbox].map((statement) => ({ actor: 'manager', statement })))
      return [decision!.code, waiting!.count]
    }
    expect(await asManager()).toEqual(['RQ403', 0])
    await done('admin', changes.deactivate(id('left')))
    expect(await asManager()).toEqual([null, 1])
    await done('admin', changes.reactivate(id('left')))
    expect(await asManager()).toEqual(['RQ403', 0])
  })
})

describe('the last active admin', () => {
  // Of those that the stage has, two: admin and admin2, in whatever state the last test has left them.
  const admins = async () => {
    const { rows } = await stage.root.query(
      `select id from app_public.users where role = 'ADMIN' and not is_deleted order by name`,
    )
    return rows.map((row) => Object.entries(stage.id).find(([, one]) => one === row.id)![0])
  }
  const restore = () =>
    stage.root.query(`update app_public.users set role = 'ADMIN', is_deleted = false where id = any ($1)`, [
      [stage.id.admin, stage.id.admin2],
    ])
  const retire = (change = 'is_deleted = true') =>
    stage.root.query(`update app_public.users set ${change} where id = $1`, [stage.id.admin2])
  beforeEach(restore)
  afterAll(restore)

  const lost = { code: 'RQ409', message: expect.stringContaining('last active admin') }

  test.each(['is_deleted = true', `role = 'MANAGER'`])('stays one, when of two one is: %s', async (change) => {
    await retire(change)
    const before = await person('admin')
    for (const statement of [
      `select * from app_public.update_user(${id('admin')}, role => 'MANAGER')`,
      `select * from app_public.update_user(${id('admin')}, name => 'A', role => 'USER')`,
      changes.deactivate(id('admin')),
    ]) {
      expect(await leaves(async () => expect(await stage.attempt('admin', statement, keep)).toMatchObject(lost))).toEqual([])
    }
    expect(await person('admin')).toEqual(before)
  })

  test('stays one beside an admin who has not chosen a password yet', async () => {
    const chosen = (hash: string | null) =>
      stage.root.query('update app_private.credentials set password_hash = $2 where user_id = $1', [stage.id.admin2, hash])
    const { rows } = await stage.root.query('select password_hash from app_private.credentials where user_id = $1', [
      stage.id.admin2,
    ])
    await chosen(null)
    expect(await stage.attempt('admin', changes.deactivate(id('admin')))).toMatchObject(lost)
    await chosen(rows[0].password_hash)
    expect((await stage.attempt('admin', changes.deactivate(id('admin')))).code).toBe(null)
  })

  test('INVALID_TRANSITION comes before what is wrong with the values', async () => {
    await retire()
    for (const json of ['{"name": "", "role": "USER"}', '{"name": 5, "role": "USER"}', '{"is_deleted": true, "role": "BOSS"}']) {
      const statement = `select app_hidden.change_user(${id('admin')}::uuid, '${json}')`
      expect(await stage.attempt('admin', statement)).toMatchObject(lost)
    }
  })

  test('may be renamed, and of two either may go', async () => {
    for (const who of ['admin', 'admin2'] as const) {
      expect((await stage.attempt('admin', `select app_public.update_user(${id(who)}, role => 'USER')`)).code).toBe(null)
      expect((await stage.attempt('admin', changes.deactivate(id(who)))).code).toBe(null)
    }
    await retire()
    expect((await stage.attempt('admin', changes.rename(id('admin')))).code).toBe(null)
    expect((await stage.attempt('admin', `select app_public.update_user(${id('admin2')}, role => 'USER')`)).code).toBe(null)
  })

  test.each(['owner', 'superuser'] as const)('stays one by SQL too, for the %s', async (actor) => {
    for (const statement of [
      `update app_public.users set role = 'USER'`,
      'update app_public.users set is_deleted = true',
      `update app_public.users set role = case id when ${id('admin')} then 'USER' else role end, is_deleted = id = ${id('admin2')}`,
    ]) {
      expect(await leaves(async () => expect(await stage.attempt(actor, statement, { keep: true })).toMatchObject(lost))).toEqual(
        [],
      )
    }
    await retire()
    expect(await stage.attempt(actor, `update app_public.users set role = 'USER' where id = ${id('admin')}`)).toMatchObject(lost)
    // When there is another, they may go.
    await stage.root.query('begin')
    const codes = [`role = 'ADMIN' where id = ${id('user')}`, `role = 'USER' where id = ${id('admin')}`].map(
      async (set) => (await stage.attempt(actor, `update app_public.users set ${set}`, { keep: true })).code,
    )
    expect(await Promise.all(codes)).toEqual([null, null])
    await stage.root.query('rollback')
  })

  type Rival = readonly [Person | 'owner', string, Person]
  const demote = (who: string) => `select * from app_public.update_user(${who}, role => 'USER')`
  const written = (who: string) => `update app_public.users set role = 'USER' where id = ${who}`

  /** The second acts while the first has acted and not yet committed, or rolled back: what the second fails with. */
  async function behind(rivals: readonly Rival[], end: string): Promise<string | null> {
    const clients = await Promise.all(
      rivals.map(async ([actor]) => {
        const client = await stage.db.connect(actor === 'owner' ? 'owner' : 'auth')
        await client.query('begin')
        const identify = `select app_hidden.become($1, '')`
        if (actor !== 'owner') await client.query(identify, [await open(actor)])
        return client
      }),
    )
    const [first, second] = rivals.map(
      ([, statement, target], i) =>
        () =>
          clients[i]!.query(statement.replace('$id', id(target))),
    )
    await first!()
    const later = second!().then(
      () => null,
      (error: pg.DatabaseError) => error.code!,
    )
    while (!(await isWaiting()));
    await clients[0]!.query(end)
    const code = await later
    await clients[1]!.query('commit')
    return code
  }

  test.each<[string, Rival, Rival, string, string | null, Person[]]>([
    [
      'two demote each other',
      ['admin', demote('$id'), 'admin2'],
      ['admin2', demote('$id'), 'admin'],
      'commit',
      'RQ403',
      ['admin'],
    ],
    [
      'one deactivates another, who demotes them',
      ['admin', changes.deactivate('$id'), 'admin2'],
      ['admin2', demote('$id'), 'admin'],
      'commit',
      'RQ401',
      ['admin'],
    ],
    [
      'one demotes another, who deactivates them',
      ['admin', demote('$id'), 'admin2'],
      ['admin2', changes.deactivate('$id'), 'admin'],
      'commit',
      'RQ403',
      ['admin'],
    ],
    [
      'both step down',
      ['admin', demote('$id'), 'admin'],
      ['admin2', changes.deactivate('$id'), 'admin2'],
      'commit',
      'RQ409',
      ['admin2'],
    ],
    [
      'both step down, and one does not after all',
      ['admin', demote('$id'), 'admin'],
      ['admin2', changes.deactivate('$id'), 'admin2'],
      'rollback',
      null,
      ['admin'],
    ],
    ['both go by SQL', ['owner', written('$id'), 'admin'], ['owner', written('$id'), 'admin2'], 'commit', 'RQ409', ['admin2']],
    ['one goes by SQL', ['owner', written('$id'), 'admin'], ['admin2', demote('$id'), 'admin2'], 'commit', 'RQ409', ['admin2']],
    [
      'the other goes by SQL',
      ['admin', demote('$id'), 'admin'],
      ['owner', written('$id'), 'admin2'],
      'commit',
      'RQ409',
      ['admin2'],
    ],
  ])('stays one, when at once %s', async (_, first, second, end, code, left) => {
    expect(await behind([first, second], end)).toBe(code)
    expect(await admins()).toEqual(left)
  })
})

describe('erasing somebody', () => {
  let owner: pg.Client
  beforeAll(async () => void (owner = await stage.db.connect('owner')))
  const erase = (who: string) => owner.query('select app_private.erase_person($1)', [who])
  const act = async (session: string, call: string): Promise<Row> =>
    (await asSession(api, session, `select * from app_public.${call}`))[0]!

  /** Somebody who has left data wherever people do. */
  async function withHistory() {
    const email = 'xerxes@example.org'
    const { id: who } = (await owner.query(`select * from app_private.register_user($1, 'Xerxes "X"', 'MANAGER', 'd')`, [email]))
      .rows[0]
    const { session_secret: session } = (
      await owner.query(`select * from app_private.open_session($1, false, 'Xerxes 1.0')`, [who])
    ).rows[0]
    await stage.rows('admin', `select app_public.update_user('${who}', name => 'Xerxes Y. "X"')`)
    const { id: request } = await act(session, `create_request('A throne')`)
    await stage.root.query(
      `insert into app_public.webhooks (url, events, signing_key)
       values ('https://x.test', '{request.submitted,request.approved}', 'k')`,
    )
    const dispatch = () =>
      stage.root.query('select app_private.dispatch(id) from app_public.audit_logs where request_id = $1', [request])
    await act(session, `submit_request('${request}')`)
    await dispatch()
    await stage.root.query(`update app_public.webhook_deliveries set state = 'FAILED'`)
    await stage.rows('admin', `select app_public.approve_request('${request}')`)
    await dispatch()
    await act(session, `set_notification_preference('APPROVED', 'NONE')`)
    await stage.root.query(
      `insert into app_private.idempotency_keys (user_id, key, fingerprint, answer) values ($1, 'k', '', '{"body": "Xerxes"}')`,
      [who],
    )
    await stage.root.query(
      `update app_public.notifications set mail_error = '550 <xerxes@example.org>' where recipient_id = $1`,
      [who],
    )
    await login(api, email, 'a wrong one')
    return { who, email, session, request }
  }

  /** The tables with rows that name somebody. */
  async function naming(text: string): Promise<Record<string, string[]>> {
    const tables = await stage.root.query(`
      select c.oid::regclass::text as name from pg_class c
      where c.relkind in ('r', 'p') and not c.relispartition and c.relnamespace::regnamespace::text ~ '^(app_|graphile_worker)'`)
    const found: Record<string, string[]> = {}
    for (const { name } of tables.rows) {
      const { rows } = await stage.root.query(`select to_jsonb(t) as row from ${name} t where to_jsonb(t)::text ilike $1`, [
        `%${text}%`,
      ])
      if (rows.length > 0) found[name] = rows.map(({ row }) => row.action ?? row.id)
    }
    return found
  }

  test('leaves their id, and the name in entries of before; they stay erased, and their address is free', async () => {
    const { who, email, session, request } = await withHistory()
    expect(Object.keys(await naming('xerxes')).sort()).toEqual([
      'app_private.credentials',
      'app_private.idempotency_keys',
      'app_private.sessions',
      'app_public.audit_logs',
      'app_public.notifications',
      'app_public.users',
      'app_public.webhook_deliveries',
    ])
    const deliveries = 'select state, payload from app_public.webhook_deliveries order by created_at'
    expect((await stage.root.query(deliveries)).rows).toMatchObject([{ state: 'FAILED' }, { state: 'QUEUED' }])

    const left = (await stage.leaves(() => erase(who))).filter((entry) => entry['user_id'])
    expect(left.map((entry) => [entry['action'], entry['user_id'], entry['database_login']])).toEqual(
      ['USER_DEACTIVATE', 'SESSION_REVOKE', 'USER_ERASE', 'CREDENTIALS_CHANGE', 'SESSION_CHANGE', 'PREFERENCE_CHANGE'].map(
        (action) => [action, who, 'assent_owner'],
      ),
    )
    expect(await naming('xerxes')).toEqual({ 'app_public.audit_logs': ['USER_CREATE', 'USER_UPDATE'] })
    expect((await stage.root.query(deliveries)).rows).toMatchObject([
      { state: 'QUEUED', payload: { data: { request: { creator: { id: who, name: 'Erased person' } } } } },
    ])
    expect((await stage.root.query('select name, is_deleted from app_public.users where id = $1', [who])).rows).toEqual([
      { name: 'Erased person', is_deleted: true },
    ])
    expect((await stage.root.query('select from audit.disagreements where request_id = $1', [request])).rows).toEqual([])

    await expect(act(session, `create_request('Another')`)).rejects.toMatchObject({ code: 'RQ401' })
    const again = ["update_user($, name => 'Back')", 'reactivate_user($)', 'resend_invitation($)']
    for (const call of again) {
      const statement = `select app_public.${call.replace('$', `'${who}'`)}`
      expect({ call, code: (await stage.attempt('admin', statement)).code }).toEqual({ call, code: 'RQ409' })
    }
    expect(await leaves(() => erase(who))).toEqual([])
    await stage.rows('admin', create({ email, name: 'Somebody else' }))
  })

  test('is refused while they have something to do, for the last admin, and for nobody', async () => {
    await expect(erase(NOBODY)).rejects.toMatchObject({ code: 'RQ404' })
    const open: [Person, Parameters<Stage['request']>[0], RegExp][] = [
      ['user2', { creator: 'user2', assignee: null, status: 'DRAFT' }, /not decided/],
      ['manager2', { creator: 'manager2', assignee: null, status: 'SUBMITTED' }, /not decided/],
      ['manager', { creator: 'user', assignee: 'manager', status: 'SUBMITTED' }, /wait for this person/],
    ]
    for (const [who, request, message] of open) {
      await stage.request(request)
      expect(
        await leaves(() =>
          expect(erase(stage.id[who])).rejects.toMatchObject({ code: 'RQ409', message: expect.stringMatching(message) }),
        ),
      ).toEqual([])
    }
    await owner.query('begin')
    try {
      await owner.query(`update app_public.users set is_deleted = true where role = 'ADMIN' and id <> $1 and not is_deleted`, [
        stage.id.admin,
      ])
      await expect(erase(stage.id.admin)).rejects.toMatchObject({
        code: 'RQ409',
        message: expect.stringMatching('last active admin'),
      })
    } finally {
      await owner.query('rollback')
    }
  })
})
