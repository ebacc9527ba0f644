import pg from 'pg'
import { cloneDatabase } from '../harness/database.ts'
import { asSession, digest, finishLogin, login, openStage, type Person, type Stage } from '../harness/stage.ts'

const password = 'assent-demo-password'
let stage: Stage
let api: pg.Client

beforeAll(async () => {
  stage = await openStage()
  api = await stage.db.connect('auth')
  for (const creator of ['user', 'user2', 'manager', 'admin'] as const) {
    for (const status of ['DRAFT', 'SUBMITTED'] as const) await stage.request({ creator, assignee: null, status })
  }
})
beforeEach(() => stage.recast())
afterAll(() => stage?.close())

const roles = ['assent_anonymous', 'assent_user', 'assent_manager', 'assent_admin']
const ownRole: Partial<Record<Person, string>> = {
  user: 'assent_user',
  user2: 'assent_user',
  manager: 'assent_manager',
  admin: 'assent_admin',
}

/** One transaction on the API's connection, rolled back: the settings as given, by hand, and then a statement. */
async function by(settings: Record<string, string>, statement: string, values: unknown[] = []): Promise<pg.QueryResult | string> {
  await api.query('begin')
  try {
    for (const [name, value] of Object.entries(settings)) await api.query('select set_config($1, $2, true)', [name, value])
    return await api.query(statement, values)
  } catch (error) {
    return (error as pg.DatabaseError).code!
  } finally {
    await api.query('rollback')
  }
}

const value = (result: pg.QueryResult | string) => (typeof result === 'string' ? result : Object.values(result.rows[0] ?? {})[0])

describe('forging', () => {
  const sessions: [string, () => string][] = [
    ['none', () => ''],
    ['a guess', () => 'guess'],
    ['the id of a person', () => stage.id.admin],
    ['a refresh token', () => `${stage.secret.admin2}.r`],
    ['a null-ish word', () => 'null'],
    ['a cookie made up', () => 'cookie:guess'],
    ["a token's secret for a cookie", () => `cookie:${stage.secret.admin}`],
  ]
  const sights = [
    'app_public.requests',
    'app_public.audit_logs',
    'app_public.users',
    'app_public.requests_awaiting_my_decision()',
  ]

  describe.each(sessions)('with %s for a session', (name, session) => {
    test('authenticate answers nobody', async () => {
      expect(value(await by({}, 'select app_hidden.authenticate($1)', [session()]))).toBe(
        // A browser sends its cookie unasked, so that a dead one is as none.
        name === 'none' || name.includes('cookie') ? 'assent_anonymous' : 'RQ401',
      )
    })

    test.each(roles)('%s is nobody, and sees and does nothing', async (role) => {
      const as = { 'assent.session': session(), role }
      expect(value(await by(as, 'select app_hidden.current_user_id()'))).toBe(null)
      expect(value(await by(as, `select app_hidden.has_permission('request.create')`))).toBe(false)
      expect(value(await by(as, 'select (app_public.get_current_user()).id'))).toBe(null)
      if (role === 'assent_anonymous') return
      const seen = await Promise.all([
        value(await by(as, `select count(*)::integer from ${sights[0]}`)),
        value(await by(as, `select count(*)::integer from ${sights[1]}`)),
        value(await by(as, `select count(*)::integer from ${sights[2]}`)),
        value(await by(as, `select count(*)::integer from ${sights[3]}`)),
      ])
      expect(seen).toEqual([0, 0, 0, 0])
      expect(await by(as, `select app_public.create_request('Forged')`)).toBe('RQ401')
    })
  })

  test('what a backup holds of a session opens nothing', async () => {
    const { rows } = await stage.root.query(
      `
      select encode(secret_hash, 'hex') as hex, encode(secret_hash, 'base64') as base64, secret_hash::text as bytes, id::text from app_private.sessions where user_id = $1`,
      [stage.id.admin],
    )
    for (const kept of Object.values(rows[0]))
      expect(value(await by({}, 'select app_hidden.authenticate($1)', [kept]))).toBe('RQ401')
    expect(value(await by({}, 'select app_hidden.authenticate($1)', [stage.secret.admin]))).toBe('assent_admin')
  })

  test("one's own session works in one's own role alone", async () => {
    for (const person of ['user', 'manager', 'admin'] as const) {
      for (const role of roles) {
        const as = { 'assent.session': stage.secret[person], role }
        const mine = role === ownRole[person]
        expect({ person, role, me: value(await by(as, 'select app_hidden.current_user_id()')) }).toEqual({
          person,
          role,
          me: mine ? stage.id[person] : null,
        })
        if (role === 'assent_anonymous') continue
        for (const sight of sights.slice(0, 3)) {
          const seen = value(await by(as, `select count(*)::integer from ${sight}`)) as unknown as number
          expect({ person, role, sight, some: seen > 0 }).toEqual({ person, role, sight, some: mine })
        }
        const may = await by(as, `select app_public.create_request('Mine')`)
        expect({ person, role, may: typeof may === 'string' ? may : 'created' }).toEqual({
          person,
          role,
          may: mine ? 'created' : 'RQ403',
        })
      }
    }
  })

  test("nor does one decide in another role than one's own, though one might in that", async () => {
    const { id } = await stage.request({ creator: 'user2', assignee: null, status: 'SUBMITTED' })
    for (const person of ['manager', 'admin'] as const) {
      for (const role of roles.slice(1)) {
        const as = { 'assent.session': stage.secret[person], role }
        const outcome = await by(as, `select app_hidden.transition($1, 'APPROVE', null, '{}')`, [id])
        if (role === ownRole[person]) expect(outcome).toMatchObject({ rowCount: 1 })
        else expect(['RQ403', 'RQ404']).toContain(outcome)
      }
    }
  })

  test("no decision under a role that is not one's own", async () => {
    const { id } = await stage.request({ creator: 'user2', assignee: null, status: 'SUBMITTED' })
    for (const role of ['assent_manager', 'assent_admin']) {
      const as = { 'assent.session': stage.secret.user, role }
      expect(await by(as, 'select app_public.approve_request($1)', [id])).toBe('RQ404')
      expect(['RQ403', 'RQ404']).toContain(await by(as, `select app_hidden.transition($1, 'APPROVE', null, '{}')`, [id]))
    }
  })

  test.each(['assent_owner', 'assent_auditor', 'postgres', 'pg_read_all_data', 'pg_write_all_data', 'pg_execute_server_program'])(
    "the API's login cannot become %s",
    async (role) => {
      expect(await by({}, `set local role ${role}`)).toBe('42501')
      expect(await by({ role: 'assent_admin', 'assent.session': stage.secret.admin }, `set local role ${role}`)).toBe('42501')
      expect(await by({}, `set local session authorization ${role}`)).toBe('42501')
    },
  )

  test.each(['reset role', 'set role none', 'set session authorization default', 'reset all', 'discard all'])(
    'after %s there is nothing to see',
    async (reset) => {
      await api.query('begin')
      await api.query(`select set_config('assent.session', $1, true), set_config('role', 'assent_admin', true)`, [
        stage.secret.admin,
      ])
      const cut = await api.query(`savepoint a; ${reset}`).catch((error) => error.code) // discard all: 25001, not in a transaction
      const codes = await api.query('select from app_public.requests').then(
        ({ rowCount }) => rowCount,
        (error) => error.code,
      )
      await api.query('rollback')
      // reset all leaves the role as it is, and takes the session away
      expect({ reset, cut: typeof cut, codes }).toEqual(
        reset === 'discard all'
          ? { reset, cut: 'string', codes: '25P02' }
          : { reset, cut: 'object', codes: reset === 'reset all' ? 0 : '42501' },
      )
    },
  )

  test("settings of PostgreSQL's own do not open anything", async () => {
    const as = { 'assent.session': stage.secret.user, role: 'assent_user' }
    expect(await by(as, `select set_config('session_replication_role', 'replica', true)`)).toBe('42501')
    // "off" means to fail rather than to filter
    expect(await by({ ...as, row_security: 'off' }, 'select from app_public.requests')).toBe('42501')
    for (const named of ['assent.user_id', 'assent.role', 'assent.action', 'jwt.claims.user_id', 'is_superuser_']) {
      const odd = { ...as, [named.includes('.') ? named : `x.${named}`]: stage.id.admin }
      expect(value(await by(odd, 'select app_hidden.current_user_id()'))).toBe(stage.id.user)
    }
    const { id } = await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
    expect(
      await by({ ...as, 'assent.action': 'APPROVE' }, `update app_public.requests set status = 'APPROVED' where id = $1`, [id]),
    ).toBe('42501')
    expect(await by({ ...as, 'assent.action': 'APPROVE' }, 'select app_public.approve_request($1)', [id])).toBe('RQ403')
  })

  test('no role may make temporary objects', async () => {
    for (const role of roles) expect(await by({ role }, 'create temporary table requests ()')).toBe('42501')
    expect(await by({}, 'create temporary table requests ()')).toBe('42501')
  })
})

describe('temporary objects, should somebody be allowed to make them,', () => {
  beforeAll(() =>
    stage.root.query(`do $$ begin execute format('grant temporary on database %I to public', current_database()); end $$`),
  )
  afterAll(() =>
    stage.root.query(`do $$ begin execute format('revoke temporary on database %I from public', current_database()); end $$`),
  )

  const shadows = `
    create temporary table users as select 'x'::text as name;
    create temporary table requests (id uuid, creator_id uuid, status text, assigned_to_id uuid, is_deleted boolean);
    create temporary table sessions (id uuid, user_id uuid, secret_hash bytea, revoked_at timestamptz, expires_at timestamptz);
    create temporary table role_permissions (role text, permission text);
    create function pg_temp.current_setting(text) returns text language sql as $$ select 'assent_admin' $$;
    create function pg_temp.current_setting(text, boolean) returns text language sql as $$ select 'SECRET' $$;
    create function pg_temp.now() returns timestamptz language sql as $$ select 'epoch'::timestamptz $$;
    create function pg_temp.sha256(bytea) returns bytea language sql as $$ select ''::bytea $$;
    create function pg_temp.jsonb_populate_record(anyelement, jsonb) returns anyelement language sql as $$ select null $$;
    create function pg_temp.set_config(text, text, boolean) returns text language sql as $$ select 'x' $$;
    create function pg_temp.equal(text, text) returns boolean language sql as $$ select true $$;
    create function pg_temp.equal(uuid, uuid) returns boolean language sql as $$ select true $$;
    create function pg_temp.differ(uuid, uuid) returns boolean language sql as $$ select true $$;
    create operator pg_temp.= (leftarg = text, rightarg = text, function = pg_temp.equal);
    create operator pg_temp.= (leftarg = uuid, rightarg = uuid, function = pg_temp.equal);
    create operator pg_temp.<> (leftarg = uuid, rightarg = uuid, function = pg_temp.differ);
    set local search_path to pg_temp, pg_catalog`

  /** As user with the shadows cast, each statement after the other. */
  async function shadowed(statements: string[]): Promise<unknown[]> {
    const client = await stage.db.connect('auth')
    await client.query('begin')
    await client.query(`select set_config('assent.session', $1, true), set_config('role', 'assent_user', true)`, [
      stage.secret.user,
    ])
    await client.query(shadows.replace('SECRET', stage.secret.admin))
    const found: unknown[] = []
    for (const statement of statements) {
      await client.query('savepoint s')
      found.push(
        await client.query(statement).then(
          ({ rows }) => Object.values(rows[0] ?? {})[0],
          (error) => error.code,
        ),
      )
      await client.query('rollback to savepoint s')
    }
    await client.query('rollback')
    return found
  }

  test('do not deceive the functions that run as their owner', async () => {
    const { id } = await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
    const foreign = await stage.request({ creator: 'user2', assignee: null, status: 'SUBMITTED' })
    expect(
      await shadowed([
        'select app_hidden.current_user_id()',
        `select app_hidden.has_permission('user.manage')`,
        'select (app_public.get_current_user()).id',
        `select app_hidden.transition('${id}', 'APPROVE', null, '{}')`,
        `select app_hidden.transition('${id}', 'ASSIGN', null, '{}')`,
        `select app_public.approve_request('${id}')`,
        `select pg_catalog.count(*)::integer from app_public.requests where creator_id operator(pg_catalog.<>) '${stage.id.user}'`,
        `select pg_catalog.count(*)::integer from app_public.audit_logs where actor_id operator(pg_catalog.=) '${stage.id.user2}'`,
        `select app_public.users_email(u) from pg_catalog.jsonb_populate_record(null::app_public.users, '{"id": "${stage.id.user2}"}') u`,
      ]),
    ).toEqual([stage.id.user, false, stage.id.user, 'RQ403', 'RQ403', 'RQ403', 0, 0, null])
    expect(['RQ403', 'RQ404']).toContain(
      (await shadowed([`select app_hidden.transition('${foreign.id}', 'APPROVE', null, '{}')`]))[0],
    )
  })

  test('are really there', async () => {
    expect(
      await shadowed([
        `select pg_temp.current_setting('x')`,
        `select pg_temp.now()::text`,
        `select pg_catalog.count(*)::integer from requests`,
        `select 'a'::text operator(pg_temp.=) 'b'::text`,
      ]),
    ).toEqual(['assent_admin', expect.stringMatching(/^1970-01-01/), 0, true])
  })
})

describe('what ends an identity, ends it at once', () => {
  /** A new session of a person, as the API has it after a login. */
  async function opened(person: Person): Promise<string> {
    const { rows } = await stage.root.query(
      `
      with secret as (select app_private.random_secret() as s), kept as (
        insert into app_private.sessions (user_id, secret_hash, refresh_hash, expires_at)
        select $1, app_private.hash_secret(s), app_private.hash_secret(s || 'r'), now() + interval '1 hour' from secret)
      select s from secret`,
      [stage.id[person]],
    )
    return rows[0].s
  }
  const role = async (secret: string) => value(await by({}, 'select app_hidden.authenticate($1)', [secret]))
  const meAs = async (secret: string, as: string) =>
    value(await by({ 'assent.session': secret, role: as }, 'select app_hidden.current_user_id()'))

  test('logout: of this session and no other', async () => {
    const [one, other] = [await opened('user'), await opened('user')]
    await api.query('begin')
    await api.query(`select app_hidden.become($1, '')`, [one])
    await api.query('select app_public.logout()')
    expect((await api.query('select app_hidden.current_user_id() as me')).rows).toEqual([{ me: null }])
    await api.query('commit')
    expect(await role(one)).toBe('RQ401')
    expect(await meAs(one, 'assent_user')).toBe(null)
    expect(await role(other)).toBe('assent_user')
  })

  test('a deactivation: of every session, for good; who comes back logs in anew', async () => {
    const secrets = [await opened('manager2'), await opened('manager2')]
    await stage.root.query('update app_public.users set is_deleted = true where id = $1', [stage.id.manager2])
    for (const secret of secrets) expect([await role(secret), await meAs(secret, 'assent_manager')]).toEqual(['RQ401', null])
    expect((await login(api, 'manager2@assent.test')).user_id).toBe(null)
    await stage.root.query('update app_public.users set is_deleted = false where id = $1', [stage.id.manager2])
    for (const secret of secrets) expect(await role(secret)).toBe('RQ401')
    expect((await login(api, 'manager2@assent.test')).user_id).toBe(stage.id.manager2)
  })

  test("a changed role: the old one is no one's", async () => {
    const secret = await opened('manager2')
    expect(await role(secret)).toBe('assent_manager')
    await stage.root.query(`update app_public.users set role = 'USER' where id = $1`, [stage.id.manager2])
    expect([await role(secret), await meAs(secret, 'assent_manager'), await meAs(secret, 'assent_user')]).toEqual([
      'assent_user',
      null,
      stage.id.manager2,
    ])
    await stage.root.query(`update app_public.users set role = 'MANAGER' where id = $1`, [stage.id.manager2])
  })

  test('it ends in the midst of a transaction, too', async () => {
    const secret = await opened('manager2')
    const { id } = await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
    await api.query('begin')
    await api.query(`select app_hidden.become($1, '')`, [secret])
    expect((await api.query('select from app_public.requests where id = $1', [id])).rowCount).toBe(1)
    await stage.root.query(`update app_public.users set is_deleted = true where id = $1`, [stage.id.manager2])
    expect((await api.query('select from app_public.requests where id = $1', [id])).rowCount).toBe(0)
    expect(await api.query('select app_public.approve_request($1)', [id]).catch((error) => error.code)).toBe('RQ401')
    await api.query('rollback')
    await stage.root.query(`update app_public.users set is_deleted = false where id = $1`, [stage.id.manager2])
  })

  test.each([
    ['expired', `expires_at = now() - interval '1 second'`],
    ['revoked', 'revoked_at = now()'],
    ['expiring now', 'expires_at = clock_timestamp()'],
  ])('a session that is %s', async (_, set) => {
    const secret = await opened('admin')
    expect(await role(secret)).toBe('assent_admin')
    await stage.root.query(`update app_private.sessions set ${set} where secret_hash = app_private.hash_secret($1)`, [secret])
    expect([await role(secret), await meAs(secret, 'assent_admin')]).toEqual(['RQ401', null])
  })

  test('a login opens a session that lives, and neither of its secrets is kept', async () => {
    const opened = await login(api, 'Manager@Assent.Test')
    expect(opened).toMatchObject({ user_id: stage.id.manager, retry_after: null })
    expect(opened.session_secret).toMatch(/^[A-Za-z0-9_-]{43}$/)
    const [session, token] = opened.refresh_token!.split('.')
    expect(session).toBe(opened.session_secret)
    expect(token).toMatch(/^[A-Za-z0-9_-]{43}$/)
    expect(token).not.toBe(session)
    expect(await role(opened.session_secret!)).toBe('assent_manager')
    for (const other of [token!, opened.refresh_token!]) expect(await role(other)).toBe('RQ401')
    const { rows } = await stage.root.query(`select s::text from app_private.sessions s where user_id = $1`, [stage.id.manager])
    expect(rows.length).toBeGreaterThan(0)
    expect(rows.filter(({ s }) => s.includes(session) || s.includes(token))).toEqual([])
  })
})

describe('an account', () => {
  /** What somebody is refused with, or null. */
  async function register(email: string, name = 'Somebody', role = 'USER'): Promise<string | null> {
    const statement = `select app_private.register_user('${email}', '${name}', '${role}', 'digest')`
    const { code, column } = await stage.attempt('owner', statement)
    return code && `${code} ${column}`
  }

  test('is made with an address, a name and a role', async () => {
    expect(await register('new@assent.test')).toBe(null)
    expect(await register('new@assent.test', '😀'.repeat(200), 'ADMIN')).toBe(null)
  })

  test('is the only one with its address, in whatever letters, though its person be deactivated', async () => {
    for (const email of ['user@assent.test', 'USER@Assent.Test']) expect(await register(email)).toBe('RQ422 email')
    await stage.root.query('update app_public.users set is_deleted = true where id = $1', [stage.id.manager2])
    expect(await register('Manager2@assent.test')).toBe('RQ422 email')
    await stage.root.query('update app_public.users set is_deleted = false where id = $1', [stage.id.manager2])
  })

  test.each([
    '',
    'nobody',
    '@assent.test',
    'a@',
    'a b@assent.test',
    'a@b@c',
    'a b@c',
    'a\u200bb@c.de',
    'a@b\u00ad.de',
    `${'a'.repeat(250)}@b.cd`,
  ])('has no such address as %j', async (email) => {
    expect(await register(email)).toBe('RQ422 email')
  })

  test.each([
    ' jos\u00e9@assent.test',
    'jose\u0301@assent.test\u00a0',
    '\ufeffJOS\u00c9@assent.test',
    '\u202ajose\u0301@ASSENT.test\n',
  ])('is one however its address is typed: %j', async (email) => {
    await stage.root.query(`select app_private.register_user('jose\u0301@assent.test ', 'Jos\u00e9', 'USER', $1)`, [
      digest(password),
    ])
    const { rows } = await stage.root.query(
      'select user_id, email from app_private.credentials where user_id = app_private.account_of($1)',
      [email],
    )
    expect(rows).toEqual([{ user_id: expect.any(String), email: 'jos\u00e9@assent.test' }])
    expect(await register(email)).toBe('RQ422 email')
    expect((await login(api, email)).user_id).toBe(rows[0].user_id)
    // Nor can it be made another by SQL.
    await expect(
      stage.root.query('update app_private.credentials set email = $2 where user_id = $1', [stage.id.user, email]),
    ).rejects.toMatchObject({ code: '23505' })
    await stage.root.query('set session_replication_role = replica')
    await stage.root.query('delete from app_private.credentials where user_id = $1', [rows[0].user_id])
    await stage.root.query('set session_replication_role = origin')
  })

  test('that collided before stays its own, by exactly its spelling', async () => {
    const spellings = ['zo\u00eb@assent.test', 'zoe\u0308@assent.test', 'zo\u00eb\u200b@assent.test']
    await stage.root.query('set session_replication_role = replica') // as they were before there was a trigger
    const ids = []
    for (const [i, email] of spellings.entries()) {
      await stage.root.query('alter table app_private.credentials drop constraint credentials_email_shows')
      const { rows } = await stage.root.query(
        `with person as (insert into app_public.users (name) values ('Zo\u00eb') returning id)
         insert into app_private.credentials (user_id, email, password_hash, collides)
         select id, $1, app_private.hash_password($2), $3 from person returning user_id`,
        [email, digest(password), i > 0],
      )
      ids.push(rows[0].user_id)
      await stage.root.query(
        `alter table app_private.credentials add constraint credentials_email_shows check (email !~ ('[' || app_private.blanks() || ']')) not valid`,
      )
    }
    await stage.root.query('set session_replication_role = origin')
    for (const [i, email] of spellings.entries()) expect((await login(api, email)).user_id).toBe(ids[i])
    expect((await login(api, ` ${spellings[1]!.toUpperCase()}`)).user_id).toBe(ids[0])
    const { rows } = await stage.root.query('select user_id, collides from audit.colliding_addresses order by email_key, user_id')
    expect(rows).toEqual(ids.map((user_id, i) => ({ user_id, collides: i > 0 })))
    // Another address is no more than an address.
    const { rows: changed } = await stage.root.query(
      `update app_private.credentials set email = ' zoe2@assent.test' where user_id = $1 returning email, collides`,
      [ids[2]],
    )
    expect(changed).toEqual([{ email: 'zoe2@assent.test', collides: false }])
  })

  test('has a password that is the same in either form of its letters, and one that was set in the other stays good', async () => {
    const set = (hash: string, value: string) =>
      stage.root.query(
        `update app_private.credentials set password_hash = app_private.hash_password(${hash}) where user_id = $1`,
        [stage.id.user2, value],
      )
    const [composed, decomposed] = ['p\u00e4sswort f\u00fcr mich', 'pa\u0308sswort fu\u0308r mich']
    const by = async (first: string, typed: string | null) => {
      const [begun] = await asSession(api, '', 'select * from app_hidden.begin_login($1)', ['user2@assent.test'])
      const values = [begun!['attempt_id'], 'user2@assent.test', digest(first), typed && digest(typed)]
      const [done] = await asSession(api, '', 'select * from app_hidden.finish_login($1, $2, $3, false, null, $4)', values)
      return done!['user_id']
    }
    const { rows } = await stage.root.query('select app_private.password_digest($1) = $2 as same', [decomposed, digest(composed)])
    expect(rows).toEqual([{ same: true }])
    await set('app_private.password_digest($2)', decomposed)
    for (const typed of [decomposed, null]) expect(await by(composed, typed)).toBe(stage.id.user2)
    await set('$2', digest(decomposed)) // as it was before
    expect(await by(composed, decomposed)).toBe(stage.id.user2)
    expect(await by(composed, null)).toBe(null)
    expect(await by('wrong', 'wrong as well')).toBe(null)
    const long = 'e\u0301'.repeat(700)
    expect((await stage.root.query('select app_private.password_digest($1) as digest', [long])).rows).toEqual([
      { digest: digest(long) },
    ])
    await set('$2', digest(password))
    await stage.root.query('delete from app_private.login_attempts')
  })

  test.each(['', ' ', '\u3000', '\u200b', '\u3164', '\u115f\u1160', '\u2800', '\u00ad\u034f', '\u{e0041}', 'x'.repeat(201)])(
    'has no such name as %j',
    async (name) => {
      expect(await register('new@assent.test', name)).toBe('RQ422 name')
    },
  )

  test('has a role that there is', async () => {
    expect(await register('new@assent.test', 'Somebody', 'BOSS')).toBe('RQ422 role')
  })

  test('keeps its password as bcrypt of cost 10 or more, salted', async () => {
    // The stage's own database hashes at a lower cost, to be quick.
    const pristine = await cloneDatabase('pristine')
    const root = await pristine.connect('root')
    const { rows } = await root.query(`
      select app_private.hash_password('same') as hash from generate_series(1, 2)
      union all select password_hash from app_private.credentials where password_hash <> 'none'`)
    await pristine.close()
    expect(rows.length).toBeGreaterThan(2)
    for (const { hash } of rows) expect(hash).toMatch(/^\$2[abxy]\$1[0-9]\$[./A-Za-z0-9]{53}$/)
    expect(new Set(rows.map(({ hash }) => hash)).size).toBe(rows.length)
  })

  test.each([
    `app_private.credentials (user_id, email, password_hash) values (gen_random_uuid(), 'x@assent.test', 'none')`,
    `app_private.sessions (user_id, secret_hash, refresh_hash, expires_at) values (gen_random_uuid(), 'x', 'y', now())`,
  ])("is somebody's: %s", async (values) => {
    expect((await stage.attempt('owner', `insert into ${values}`)).code).toBe('23503')
  })

  test.each(['secret_hash', 'refresh_hash'])('shares the %s of a session with no other', async (column) => {
    const { rows } = await stage.root.query(`select ${column} as hash from app_private.sessions limit 1`)
    const other = column === 'secret_hash' ? 'refresh_hash' : 'secret_hash'
    await expect(
      stage.root.query(
        `insert into app_private.sessions (user_id, ${column}, ${other}, expires_at) values ($1, $2, '\\x00', now())`,
        [stage.id.user, rows[0].hash],
      ),
    ).rejects.toMatchObject({ code: '23505' })
  })
})

test('what is blank follows from Unicode: where this fails, Node knows a newer one, and app_private.blanks() has to', async () => {
  const { rows } = await stage.root.query(`
    select c from generate_series(1, 1114111) c where c not between 55296 and 57343 and app_private.is_blank(chr(c)) order by c`)
  const empty = /[\p{White_Space}\p{Default_Ignorable_Code_Point}\p{Cc}\p{Cf}\u2800\u{13441}\u{13442}\u{16fe4}\u{1d159}]/u
  const expected: number[] = []
  for (let c = 1; c <= 0x10ffff; c++) if ((c < 0xd800 || c > 0xdfff) && empty.test(String.fromCodePoint(c))) expected.push(c)
  expect(rows.map(({ c }) => c)).toEqual(expected)
  const { rows: texts } = await stage.root.query(
    `select app_private.is_blank(t) from unnest(array['', U&' \\3164\\+0E0041', U&'\\0301', U&'\\200B.', U&'\\2764\\FE0F']) t`,
  )
  expect(texts.map(({ is_blank }) => is_blank)).toEqual([true, true, false, false, false])
})

describe('between two transactions of one connection', () => {
  const state = `select current_user as who, coalesce(current_setting('assent.session', true), '') as session, current_setting('role') as role`
  const nobody = { who: 'assent_authenticator', session: '', role: 'none' }

  test.each(['commit', 'rollback'])('nothing is left after a %s', async (end) => {
    await api.query('begin')
    await api.query(`select app_hidden.become($1, '')`, [stage.secret.admin])
    expect((await api.query(state)).rows).toEqual([{ who: 'assent_admin', session: stage.secret.admin, role: 'assent_admin' }])
    await api.query(end)
    expect((await api.query(state)).rows).toEqual([nobody])
    expect(await api.query('select from app_public.requests').catch((error) => error.code)).toBe('42501')
  })

  test('what somebody has set for the whole session does not reach the next, who says who they are', async () => {
    const client = await stage.db.connect('auth')
    await client.query('begin')
    await client.query(
      `select set_config('assent.session', $1, false), set_config('assent.ip', '203.0.113.66', false), set_config('role', 'assent_admin', false)`,
      [stage.secret.admin],
    )
    await client.query('commit')
    expect((await client.query(state)).rows).toEqual([{ who: 'assent_admin', session: stage.secret.admin, role: 'assent_admin' }]) // it leaks indeed
    const identify = `select app_hidden.become($1, $2)`
    await client.query('begin; set local role none')
    await client.query(identify, ['', ''])
    expect((await client.query(state)).rows).toEqual([{ who: 'assent_anonymous', session: '', role: 'assent_anonymous' }])
    expect((await client.query('select app_hidden.current_user_id() as me')).rows).toEqual([{ me: null }])
    await client.query('commit; begin; set local role none')
    await client.query(identify, [stage.secret.user, '192.0.2.1'])
    expect((await client.query('select app_hidden.current_user_id() as me')).rows).toEqual([{ me: stage.id.user }])
    await client.query('rollback')
  })
})

describe('guessing', () => {
  beforeEach(() => stage.root.query('delete from app_private.login_attempts'))
  const keys = (count: number, email: string, network: string, age = '0') =>
    stage.root.query(
      `
    insert into app_private.login_attempts (account_key, network, failed, attempted_at)
    select app_private.account_key($1), $2::cidr, true, clock_timestamp() - $3::interval from generate_series(1, $4)`,
      [email, network, age, count],
    )

  /** How often crypt() runs, in the transaction of a superuser. */
  async function hashed(act: (client: pg.Client) => Promise<unknown>): Promise<number> {
    const calls = `select coalesce(sum(calls), 0)::integer as calls from pg_stat_xact_user_functions where funcname = 'crypt'`
    await stage.root.query(`begin; set local track_functions to 'all'`)
    try {
      const before = (await stage.root.query(calls)).rows[0].calls // of earlier transactions, not sent off yet
      await act(stage.root)
      return (await stage.root.query(calls)).rows[0].calls - before
    } finally {
      await stage.root.query('rollback')
      await stage.root.query('select pg_stat_force_next_flush()') // Sent off later, they would count in another test.
    }
  }
  const begin = async (client: pg.Client, email: string) =>
    (await client.query('select attempt_id from app_hidden.begin_login($1)', [email])).rows[0].attempt_id
  const finish = async (client: pg.Client, attempt: string | null, email: string, guess: string) =>
    (
      await client.query('select * from app_hidden.finish_login($1, $2, app_private.password_digest($3), false, null)', [
        attempt,
        email,
        guess,
      ])
    ).rows[0]

  test.each([
    ['a known account', 'user@assent.test', 'wrong'],
    ['an unknown account', 'nobody@assent.test', 'wrong'],
    ['the right password', 'user@assent.test', password],
    ['an empty password', 'user@assent.test', ''],
  ])('costs one hash with %s', async (_, email, guess) => {
    expect(await hashed(async (client) => finish(client, await begin(client, email), email, guess))).toBe(1)
  })

  test('costs one hash with a deactivated account, and gets the same answer', async () => {
    expect(
      await hashed(async (client) => {
        await client.query('update app_public.users set is_deleted = true where id = $1', [stage.id.user])
        const right = await finish(client, await begin(client, 'user@assent.test'), 'user@assent.test', password)
        expect(right).toEqual({ user_id: null, session_secret: null, refresh_token: null, retry_after: null })
      }),
    ).toBe(1)
  })

  test.each(['user@assent.test', 'nobody@assent.test'])(
    '%s: ten failures, then no more, not even with the right password',
    async (email) => {
      for (let i = 0; i < 10; i++)
        expect(await login(api, i % 2 ? email : email.toUpperCase(), `wrong ${i}`)).toMatchObject({
          user_id: null,
          retry_after: null,
        })
      for (const guess of [password, 'wrong']) {
        const answer = await login(api, email, guess)
        expect(answer).toMatchObject({ user_id: null, session_secret: null })
        expect(answer.retry_after).toBeGreaterThan(880)
        expect(answer.retry_after).toBeLessThanOrEqual(900)
      }
      const begun = hashed(async (client) => {
        await client.query(`select set_config('assent.ip', '192.0.2.1', true)`)
        const attempt = await begin(client, email)
        if (attempt) await finish(client, attempt, email, password)
      })
      expect(await begun).toBe(0)
      expect((await login(api, 'manager@assent.test')).user_id).toBe(stage.id.manager) // others are not locked out
      // Nor is who logs in from elsewhere, or from an address that nobody knows.
      for (const ip of ['203.0.113.5', '']) {
        expect(await login(api, email, password, ip)).toMatchObject({
          user_id: email.startsWith('user') ? stage.id.user : null,
          retry_after: null,
        })
      }
    },
  )

  test('a hundred failures at one account, from wherever they are, and it is shut to everybody', async () => {
    for (let i = 0; i < 11; i++) await keys(9, 'user@assent.test', `198.51.100.${i}`)
    expect((await login(api, 'user@assent.test')).user_id).toBe(stage.id.user)
    expect((await login(api, 'user@assent.test', 'wrong')).retry_after).toBe(null)
    for (const ip of ['192.0.2.1', '203.0.113.5', '2001:db8::1', '']) {
      expect(await login(api, 'user@assent.test', password, ip)).toMatchObject({ user_id: null, retry_after: expect.any(Number) })
    }
    expect((await login(api, 'manager@assent.test')).user_id).toBe(stage.id.manager)
  })

  test('callers of unknown address do not shut each other out, but from one account', async () => {
    await stage.root.query(`
      insert into app_private.login_attempts (account_key, failed)
      select app_private.account_key('nobody' || n), true from generate_series(1, 200) n`)
    expect((await login(api, 'user@assent.test', password, '')).user_id).toBe(stage.id.user)
    for (let i = 0; i < 10; i++) expect((await login(api, 'user@assent.test', 'wrong', '')).retry_after).toBe(null)
    expect((await login(api, 'user@assent.test', password, '')).retry_after).toBeGreaterThan(880)
    expect((await login(api, 'user@assent.test', password, '192.0.2.1')).user_id).toBe(stage.id.user)
  })

  const underWay = (count: number, network: string, age: string) =>
    stage.root.query(
      `insert into app_private.login_attempts (account_key, network, attempted_at)
       select app_private.account_key('nobody' || n), $2::cidr, clock_timestamp() - $3::interval from generate_series(1, $1) n`,
      [count, network, age],
    )

  test('what is under way is no failure: it keeps others of the network waiting for half a minute, and not for a quarter of an hour', async () => {
    await underWay(100, '192.0.2.1', '29 seconds')
    await expect(login(api, 'user@assent.test')).rejects.toMatchObject({ code: '55P03' })
    expect((await login(api, 'user@assent.test', password, '192.0.2.2')).user_id).toBe(stage.id.user)
    await stage.root.query(`update app_private.login_attempts set attempted_at = attempted_at - interval '2 seconds'`)
    expect((await login(api, 'user@assent.test')).user_id).toBe(stage.id.user)
    await keys(50, 'nobody@assent.test', '192.0.2.1')
    await underWay(50, '192.0.2.1', '0')
    await expect(login(api, 'user@assent.test')).rejects.toMatchObject({ code: '55P03' })
  })

  test.each([
    ['29 seconds', 'in time'],
    ['31 seconds', '55P03'],
  ])('one that was begun %s ago: %s', async (age, expected) => {
    const attempt = await begin(stage.root, 'user@assent.test')
    await stage.root.query('update app_private.login_attempts set attempted_at = attempted_at - $1::interval', [age])
    const done = finishLogin(api, attempt, 'user@assent.test', password)
    const outcome = done.then(
      ({ user_id }) => user_id === stage.id.user && 'in time',
      (error) => error.code,
    )
    expect(await outcome).toBe(expected)
  })

  test('only failures count: successes never do, and take nothing of the failures away', async () => {
    for (let i = 0; i < 11; i++) expect((await login(api, 'user@assent.test')).user_id).toBe(stage.id.user)
    expect((await stage.root.query('select from app_private.login_attempts')).rowCount).toBe(0)
    await keys(9, 'user@assent.test', '192.0.2.1')
    expect((await login(api, 'user@assent.test')).user_id).toBe(stage.id.user)
    expect((await stage.root.query('select from app_private.login_attempts')).rowCount).toBe(9)
    expect((await login(api, 'user@assent.test', 'wrong')).retry_after).toBe(null)
    expect((await login(api, 'user@assent.test')).retry_after).toBeGreaterThan(0)
  })

  test('failures count for fifteen minutes', async () => {
    await keys(10, 'user@assent.test', '192.0.2.1', '14 minutes 50 seconds')
    const soon = await login(api, 'user@assent.test')
    expect(soon.retry_after).toBeGreaterThan(0)
    expect(soon.retry_after).toBeLessThanOrEqual(10)
    await stage.root.query(`update app_private.login_attempts set attempted_at = attempted_at - interval '11 seconds'`)
    expect((await login(api, 'user@assent.test')).user_id).toBe(stage.id.user)
    await keys(100, 'nobody@assent.test', '192.0.2.1', '15 minutes 1 second')
    expect((await login(api, 'user@assent.test')).user_id).toBe(stage.id.user)
  })

  test('the wait is for the oldest of the last ten', async () => {
    await keys(5, 'user@assent.test', '192.0.2.1', '10 minutes')
    await keys(5, 'user@assent.test', '192.0.2.1', '1 minute')
    const { retry_after } = await login(api, 'user@assent.test')
    expect(retry_after).toBeGreaterThan(290)
    expect(retry_after).toBeLessThanOrEqual(300)
  })

  test('a hundred failures from one address, on whichever accounts', async () => {
    await stage.root.query(`
      insert into app_private.login_attempts (account_key, network, failed)
      select app_private.account_key('nobody' || n), '192.0.2.1', true from generate_series(1, 99) n`)
    expect((await login(api, 'user@assent.test')).user_id).toBe(stage.id.user)
    expect((await login(api, 'user@assent.test', 'wrong')).retry_after).toBe(null)
    for (const guess of [password, 'wrong'])
      expect((await login(api, 'user@assent.test', guess)).retry_after).toBeGreaterThan(880)
    expect((await login(api, 'user@assent.test', password, '192.0.2.2')).user_id).toBe(stage.id.user)
  })

  test('an IPv6 caller is their /64', async () => {
    await keys(100, 'nobody@assent.test', '2001:db8:1:1::/64')
    expect((await login(api, 'user@assent.test', password, '2001:db8:1:1::1')).retry_after).toBeGreaterThan(0)
    expect((await login(api, 'user@assent.test', password, '2001:db8:1:1:ffff:ffff:ffff:ffff')).retry_after).toBeGreaterThan(0)
    expect((await login(api, 'user@assent.test', password, '2001:db8:1:2::1')).user_id).toBe(stage.id.user)
    await stage.root.query('delete from app_private.login_attempts')
    await login(api, 'user@assent.test', 'wrong', '2001:db8:1:1:2:3:4:5')
    await login(api, 'user@assent.test', 'wrong', '192.0.2.7')
    expect((await stage.root.query('select network::text from app_private.login_attempts order by network')).rows).toEqual([
      { network: '192.0.2.7/32' },
      { network: '2001:db8:1:1::/64' },
    ])
  })

  /** Forty at once, each on a connection of its own; how often crypt() ran for them. */
  async function burst(act: (client: pg.Client, i: number) => Promise<unknown>): Promise<number> {
    const calls = async () =>
      (
        await stage.root.query(
          `select coalesce(sum(calls), 0)::integer as calls from pg_stat_user_functions where funcname = 'crypt'`,
        )
      ).rows[0].calls
    const database = (change: string) =>
      stage.root.query(`do $$ begin execute format('alter database %I ${change}', current_database()); end $$`)
    await database("set track_functions to ''all''")
    const before = await calls()
    const clients = await Promise.all(
      Array.from({ length: 40 }, async () => {
        const client = new pg.Client(stage.db.urls.auth)
        await client.connect()
        return client
      }),
    )
    await database('reset track_functions')
    await Promise.all(clients.map(act))
    const pids = clients.map((client) => (client as unknown as { processID: number }).processID)
    await Promise.all(clients.map((client) => client.end())) // its counts are complete when a connection is gone
    const gone = async () => (await stage.root.query('select from pg_stat_activity where pid = any ($1)', [pids])).rowCount === 0
    while (!(await gone())) await new Promise((resolve) => setTimeout(resolve, 10))
    return (await calls()) - before
  }

  test.each<[string, (i: number) => string, number]>([
    ['from one network', (i) => `2001:db8:7:7::${i}`, 0],
    ['from an address that is not known', () => '', 0],
    ['from everywhere, which has failed ninety times', (i) => `198.51.100.${i}`, 90],
  ])('of forty guesses at once at one account ten are hashed: %s', async (_, ip, failed) => {
    for (let i = 0; i < failed / 9; i++) await keys(9, 'manager@assent.test', `203.0.113.${i}`)
    const failures = async () =>
      (
        await stage.root.query(`select from app_public.audit_logs where action = 'LOGIN_FAILED' and user_id = $1`, [
          stage.id.manager,
        ])
      ).rowCount!
    const before = await failures()
    const answers: Awaited<ReturnType<typeof login>>[] = []
    expect(await burst(async (client, i) => answers.push(await login(client, 'manager@assent.test', `guess ${i}`, ip(i))))).toBe(
      10,
    )
    expect(answers.filter(({ retry_after }) => retry_after === null)).toHaveLength(10)
    expect(answers.every(({ user_id }) => user_id === null)).toBe(true)
    expect((await failures()) - before).toBe(10)
  })

  test('of forty at once from an address that has failed ninety times, ten begin', async () => {
    await keys(90, 'nobody@assent.test', '198.51.100.7')
    const begun: boolean[] = []
    await burst(async (client, i) => {
      const begin = 'select attempt_id from app_hidden.begin_login($1)'
      const rows = await asSession(client, '', begin, [`somebody${i}@assent.test`], '198.51.100.7').catch((error) => error.code)
      begun.push(rows !== '55P03' && rows[0]['attempt_id'] !== null)
    })
    expect(begun.filter((one) => one)).toHaveLength(10)
  })

  // Rules stand in the database: whoever calls finish_login without a count of this guess gets no further than by login.
  test.each<[string, (client: pg.Client) => Promise<string | null>]>([
    ['no attempt', async () => null],
    ['an attempt made up', async () => '00000000-0000-7000-8000-000000000000'],
    ['an attempt for another account', (client) => begin(client, 'nobody@assent.test')],
    ['one attempt for all', (client) => begin(client, 'user@assent.test')],
  ])('by %s is not possible without limit', async (_, begun) => {
    expect(
      await hashed(async (client) => {
        const attempt = await begun(client)
        for (let i = 0; i < 12; i++) {
          await client.query('savepoint guess')
          await finish(client, attempt, 'user@assent.test', `guess ${i}`).catch(() => client.query('rollback to savepoint guess'))
        }
      }),
    ).toBeLessThanOrEqual(10)
  })

  test('an attempt is good for one login', async () => {
    const [begun] = await asSession(api, '', 'select * from app_hidden.begin_login($1)', ['user@assent.test'])
    const attempt = begun!['attempt_id']
    expect((await finishLogin(api, attempt, 'user@assent.test', password)).user_id).toBe(stage.id.user)
    const again = await finishLogin(api, attempt, 'user@assent.test', password).catch(() => ({ user_id: null }))
    expect(again.user_id).toBe(null)
  })
})
