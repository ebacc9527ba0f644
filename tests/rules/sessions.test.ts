import { createHash } from 'node:crypto'
import pg from 'pg'
import { asSession, bare, digest, finishLogin, login, openStage, type Person, type Row, type Stage } from '../harness/stage.ts'

// What a token and a cookie name: how a session begins, is kept and ends, and what it leaves in the audit trail. That a
// dead one opens nothing: identity.test.ts.

let stage: Stage
let api: pg.Client

beforeAll(async () => {
  stage = await openStage()
  api = await stage.db.connect('auth')
})
beforeEach(() => stage.recast())
afterAll(() => stage?.close())

// More than 20 sessions of one person would end those of the stage.
let begun: string[]
beforeAll(async () => {
  begun = (await stage.root.query('select id from app_private.sessions')).rows.map(({ id }) => id)
})
afterEach(() => stage.root.query('delete from app_private.sessions where id <> all ($1)', [begun]))

const NOBODY = '00000000-0000-7000-8000-000000000000'
const email = (person: Person) => `${person}@assent.test`
const hash = (secret: string) => createHash('sha256').update(secret).digest()

type Opened = { id: string; secret: string; refresh: string }

/** A new session of somebody, without the slow hash of a login. */
async function open(person: Person, byCookie = false): Promise<Opened> {
  const { rows } = await stage.root.query('select * from app_private.open_session($1, $2, null)', [stage.id[person], byCookie])
  const { session_secret: secret, refresh_token: refresh } = rows[0]
  const kept = await stage.root.query('select id from app_private.sessions where secret_hash = $1', [hash(secret)])
  return { id: kept.rows[0].id, secret, refresh }
}

const kept = async ({ id }: { id: string }): Promise<Row> =>
  (await stage.root.query('select *, now() from app_private.sessions where id = $1', [id])).rows[0]
const set = (changes: string, { id }: { id: string }) =>
  stage.root.query(`update app_private.sessions set ${changes} where id = $1`, [id])

/** What became of a statement: its one row, or what it failed with. */
async function by(secret: string, statement: string, values?: unknown[], client = api): Promise<Row> {
  try {
    return (await asSession(client, secret, statement, values))[0]!
  } catch (error) {
    const { code, column, message } = error as pg.DatabaseError
    return { code, column, message }
  }
}

/** Whom a secret is taken for: a database role, or what it is refused with. */
async function role(secret: string): Promise<string> {
  const answer = await by(secret, 'select current_user as role')
  return answer['role'] ?? answer['code']
}

/** The entries that something has left, as stage.entry() makes them. */
const leaves = async (act: () => Promise<unknown>) => (await stage.leaves(act)).map(bare)

/** Resolves when a statement in this database waits for a lock. */
async function waiting(): Promise<void> {
  const { rowCount } = await stage.root.query(
    `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  )
  if (!rowCount) await waiting()
}

const refresh = (token: unknown, client = api) => by('', 'select * from app_hidden.refresh_session($1)', [token], client)
const refused = { user_id: null, session_secret: null, refresh_token: null }

describe('a session', () => {
  test.each([
    ['new', 'id = id', true],
    ['unused for nearly three days', `last_used_at = now() - interval '2 days 23:59:30'`, true],
    ['unused for three days', `last_used_at = now() - interval '3 days'`, false],
    ['in use, and in its last minute', `expires_at = now() + interval '30 seconds'`, true],
    ['in use, and at its end', 'expires_at = now()', false],
    ['ended', 'revoked_at = now()', false],
  ])('that is %s', async (_, changes, alive) => {
    const [token, cookie] = [await open('user'), await open('user', true)]
    for (const session of [token, cookie]) await set(changes, session)
    expect(await role(token.secret)).toBe(alive ? 'assent_user' : 'RQ401')
    // A browser sends a dead cookie unasked.
    expect(await role(cookie.secret)).toBe(alive ? 'assent_user' : 'assent_anonymous')
    const ids = await asSession(api, stage.secret.user, 'select id from app_hidden.my_sessions()')
    for (const { id } of [token, cookie]) expect(ids.some((row) => row['id'] === id)).toBe(alive)
  })

  test('ends after 30 days, however much it is used', async () => {
    const session = await open('user')
    const { created_at, expires_at } = await kept(session)
    expect(expires_at - created_at).toBe(30 * 24 * 60 * 60 * 1000)
    await set(`last_used_at = now() - interval '1 day'`, session)
    await by(session.secret, 'select app_hidden.touch_session()')
    await refresh(session.refresh)
    expect((await kept(session))['expires_at']).toEqual(expires_at)
  })

  test('notes its use to the minute, and that of no other', async () => {
    const [session, other] = [await open('user'), await open('user')]
    const used = async (ago: string) => {
      for (const each of [session, other]) await set(`last_used_at = now() - interval '${ago}'`, each)
      expect(await by(session.secret, 'select app_hidden.touch_session() as whose')).toEqual({ whose: stage.id.user })
      const { last_used_at, now } = await kept(session)
      return now - last_used_at < 10_000
    }
    expect(await used('40 seconds')).toBe(false)
    expect(await used('61 seconds')).toBe(true)
    expect(await used('2 days 23:59:30')).toBe(true)
    const { last_used_at, now } = await kept(other)
    expect(now - last_used_at).toBeGreaterThan(2 * 24 * 60 * 60 * 1000)
  })

  test('is not brought back by a use', async () => {
    const session = await open('user')
    await set(`last_used_at = now() - interval '3 days'`, session)
    const before = await kept(session)
    await stage.root.query(`begin; set local role assent_user`)
    await stage.root.query(`select set_config('assent.session', $1, true)`, [session.secret])
    expect((await stage.root.query('select app_hidden.touch_session() as whose')).rows).toEqual([{ whose: null }])
    await stage.root.query('commit')
    expect((await kept(session))['last_used_at']).toEqual(before['last_used_at'])
  })

  test.each([false, true])('is kept as hashes alone (by cookie: %s)', async (byCookie) => {
    const session = await open('user', byCookie)
    const { secret_hash, refresh_hash } = await kept(session)
    expect(secret_hash).toEqual(hash(session.secret))
    expect(refresh_hash).toEqual(byCookie ? null : hash(session.refresh))
    const { rows } = await stage.root.query('select s::text as text from app_private.sessions s where id = $1', [session.id])
    for (const secret of `${session.secret}.${session.refresh}`.split(/[.:]/).filter((part) => part.length > 40)) {
      expect(rows[0].text).not.toContain(secret)
      expect(rows[0].text).not.toContain(Buffer.from(secret).toString('hex'))
    }
  })

  test('is kept with where it came from and what with, as far as that goes', async () => {
    const { session_secret } = await login(api, email('user'), undefined, '2001:db8::1', { userAgent: 'x'.repeat(301) })
    const { rows } = await stage.root.query(
      `select host(ip_address) as ip, user_agent, created_at = last_used_at as new from app_private.sessions where secret_hash = $1`,
      [hash(session_secret!)],
    )
    expect(rows).toEqual([{ ip: '2001:db8::1', user_agent: 'x'.repeat(300), new: true }])
  })

  test('by token is none by cookie, whatever stands before its secret, nor the other way round', async () => {
    const [token, cookie] = [await open('admin'), await open('admin', true)]
    expect(cookie.secret).toMatch(/^cookie:[A-Za-z0-9_-]{43}$/)
    expect(cookie.refresh).toBe(null)
    expect(await role(`cookie:${token.secret}`)).toBe('assent_anonymous')
    expect(await role(cookie.secret.replace('cookie:', ''))).toBe('RQ401')
    for (const made of [cookie.secret, `${cookie.secret}.x`, `${cookie.secret.replace('cookie:', '')}.x`]) {
      expect(await refresh(made)).toEqual(refused)
    }
    expect([await role(token.secret), await role(cookie.secret)]).toEqual(['assent_admin', 'assent_admin'])
  })

  test('that is dead and by cookie is nobody, who may log in', async () => {
    const cookie = await open('admin', true)
    await set('revoked_at = now()', cookie)
    expect(await by(cookie.secret, 'select (app_public.get_current_user()).id as me')).toEqual({ me: null })
    for (const statement of [
      'select count(*) from app_public.requests',
      `select app_public.create_request('T')`,
      'select app_public.logout()',
      'select * from app_hidden.my_sessions()',
      'select app_hidden.end_other_sessions()',
      'select app_hidden.touch_session()',
    ]) {
      expect(await by(cookie.secret, statement)).toMatchObject({ code: '42501' })
    }
    const { user_id } = await login(api, email('user'), undefined, undefined, { session: cookie.secret, byCookie: true })
    expect(user_id).toBe(stage.id.user)
  })
})

describe('a login', () => {
  test.each([
    ['by cookie ends the session that the browser had', true, undefined, 'user', true],
    ["by cookie ends it though it was another's", true, undefined, 'user2', true],
    ['that fails ends none', true, 'wrong', 'user', false],
    ['by token ends none', false, undefined, 'user', false],
  ] as const)('%s, and no other', async (_, byCookie, password, had, ends) => {
    const [session, other] = [await open(had, true), await open(had, true)]
    const entries = await leaves(async () => {
      const opened = await login(api, email('user'), password, undefined, { session: session.secret, byCookie })
      expect(opened.session_secret?.startsWith('cookie:')).toBe(password ? undefined : byCookie)
      expect(opened.refresh_token === null).toBe(byCookie)
      if (opened.session_secret) expect(await role(opened.session_secret)).toBe('assent_user')
    })
    const end = { session_id: session.id, reason: 'Its browser logged in again.' }
    expect(entries).toEqual([
      stage.entry(password ? 'LOGIN_FAILED' : 'LOGIN', password ? null : 'user', 'user'),
      ...(ends ? [stage.entry('SESSION_REVOKE', had, had, end)] : []),
    ])
    expect(await role(session.secret)).toBe(ends ? 'assent_anonymous' : 'assent_user')
    expect(await role(other.secret)).toBe('assent_user')
  })

  test('opens each time under new secrets', async () => {
    const opened = await Promise.all(
      Array.from({ length: 3 }, () =>
        stage.root.query(`select session_secret, refresh_token from app_private.open_session($1, false, null)`, [stage.id.user]),
      ),
    )
    expect(new Set(opened.flatMap(({ rows }) => Object.values(rows[0]))).size).toBe(6)
  })
})

describe('of more than 20 sessions', () => {
  const live = async (person: Person): Promise<string[]> =>
    (
      await stage.root.query(
        `select id from app_private.sessions s where user_id = $1 and app_private.is_live(s) order by last_used_at, id`,
        [stage.id[person]],
      )
    ).rows.map(({ id }) => id)
  /** So many sessions of somebody, with that of the stage, which is the last to end. */
  const full = async (person: Person, count = 20): Promise<Opened[]> => {
    await stage.root.query(`update app_private.sessions set last_used_at = now() + interval '1 minute' where user_id = $1`, [
      stage.id[person],
    ])
    const opened = []
    for (let i = 1; i < count; i++) opened.push(await open(person, i % 2 === 0))
    return opened
  }
  const evicted = (person: Person, id: string) =>
    stage.entry('SESSION_REVOKE', person, person, { session_id: id, reason: 'There were more than 20 sessions.' })
  /** What a login of somebody leaves beside its own entry. */
  const logIn = async (person: Person, byCookie = false) => {
    const [first, ...others] = await leaves(() => login(api, email(person), undefined, undefined, { byCookie }))
    expect(first).toEqual(stage.entry('LOGIN', person, person))
    return others
  }
  test.each([false, true])(
    'the one that was not used for the longest time ends, whatever is opened (by cookie: %s)',
    async (byCookie) => {
      const sessions = await full('user2')
      expect(await live('user2')).toHaveLength(20)
      await set(`last_used_at = now() - interval '1 day'`, sessions[7]!)
      // What is not live does not count.
      await set(`last_used_at = now() - interval '4 days'`, sessions[3]!)
      expect(await logIn('user2', byCookie)).toEqual([])
      expect(await logIn('user2', byCookie)).toEqual([evicted('user2', sessions[7]!.id)])
      expect(await live('user2')).toHaveLength(20)
      expect(await role(sessions[0]!.secret)).toBe('assent_user')
    },
  )

  test('those of others do not count', async () => {
    await full('user2')
    expect(await logIn('manager2')).toEqual([])
    expect(await live('user2')).toHaveLength(20)
  })

  test('as many end as are too many, and by SQL likewise', async () => {
    await full('user2', 1)
    const plant = () =>
      stage.root.query(
        `insert into app_private.sessions (user_id, secret_hash, expires_at)
         select $1, sha256(random()::text::bytea), now() + interval '1 day' from generate_series(1, 5) n`,
        [stage.id.user2],
      )
    for (let i = 0; i < 5; i++) await plant()
    expect(await logIn('user2')).toHaveLength(7)
    expect(await live('user2')).toHaveLength(20)
    await plant()
    const byOwner = await stage.db.connect('owner')
    await byOwner.query('select app_private.open_session($1, false, null)', [stage.id.user2])
    expect(await live('user2')).toHaveLength(20)
  })

  test('none is left over when many are opened at once', async () => {
    await full('user2', 18)
    const clients = await Promise.all(Array.from({ length: 6 }, () => stage.db.connect('auth')))
    await Promise.all(clients.map((client) => login(client, email('user2'))))
    expect(await live('user2')).toHaveLength(20)
  })

  test('one that is just being used is not the one, and is not waited for', async () => {
    const [oldest, second] = await full('user2')
    await set(`last_used_at = now() - interval '2 hours'`, oldest!)
    await set(`last_used_at = now() - interval '1 hour'`, second!)
    const other = await stage.db.connect('auth')
    await other.query('begin; set local role assent_anonymous')
    await other.query('select app_hidden.refresh_session($1)', [oldest!.refresh])
    try {
      expect(await logIn('user2')).toEqual([evicted('user2', second!.id)])
    } finally {
      await other.query('commit')
    }
    expect(await live('user2')).toHaveLength(20)
  })
})

describe("another's sessions", () => {
  const endThem = (person: Person | 'nobody') =>
    `select * from app_public.end_sessions('${person === 'nobody' ? NOBODY : stage.id[person]}')`

  test('are ended by an admin, all at once, with one entry', async () => {
    const sessions = [await open('manager2'), await open('manager2', true), await open('left')]
    await set(`last_used_at = now() - interval '3 days'`, await open('manager2'))
    const { rows } = await stage.root.query(
      'select count(*)::integer from app_private.sessions s where user_id = $1 and app_private.is_live(s)',
      [stage.id.manager2],
    )
    expect(await leaves(() => by(stage.secret.admin, endThem('manager2')))).toEqual([
      stage.entry('SESSION_REVOKE', 'admin', 'manager2', { sessions: rows[0].count }),
    ])
    expect(await Promise.all(sessions.slice(0, 2).map(async (one) => (await kept(one))['revoked_at'] !== null))).toEqual([
      true,
      true,
    ])
    expect((await kept(sessions[2]!))['revoked_at']).toBe(null)
    // There is nothing left to end.
    expect(await leaves(() => by(stage.secret.admin, endThem('manager2')))).toEqual([])
  })

  test("may be an admin's own", async () => {
    const mine = await open('admin2')
    expect(
      await leaves(async () => expect(await by(mine.secret, endThem('admin2'))).toMatchObject({ role: 'ADMIN' })),
    ).toMatchObject([{ actor_id: stage.id.admin2, user_id: stage.id.admin2 }])
    expect(await role(mine.secret)).toBe('RQ401')
  })

  test.each<['user' | 'manager' | 'anonymous' | 'admin', Person | 'nobody', string]>([
    ['user', 'manager', 'RQ403'],
    ['user', 'user', 'RQ403'],
    ['manager', 'user', 'RQ403'],
    ['manager', 'nobody', 'RQ404'],
    ['admin', 'nobody', 'RQ404'],
    ['anonymous', 'user', '42501'],
  ])('are not ended by %s: %s', async (actor, person, code) => {
    expect(
      await leaves(async () => expect((await stage.attempt(actor, endThem(person), { keep: true })).code).toBe(code)),
    ).toEqual([])
  })
})

describe("one's own sessions", () => {
  test('are listed, with which of them is asking, and nothing secret', async () => {
    const [token, cookie] = [await open('manager2'), await open('manager2', true)]
    const rows = await asSession(api, cookie.secret, 'select id, document from app_hidden.my_sessions() order by created_at, id')
    const { rows: all } = await stage.root.query(
      'select id from app_private.sessions where user_id = $1 and revoked_at is null order by created_at, id',
      [stage.id.manager2],
    )
    expect(rows.map(({ id }) => id)).toEqual(all.map(({ id }) => id))
    for (const { id, document } of rows) {
      expect(Object.keys(document)).toEqual([
        'id',
        'created_at',
        'last_used_at',
        'expires_at',
        'ip_address',
        'user_agent',
        'is_current',
      ])
      expect(document).toMatchObject({ id, is_current: id === cookie.id })
    }
    expect(rows.map(({ id }) => id)).toContain(token.id)
  })

  test('end one by one', async () => {
    const [mine, other] = [await open('manager'), await open('manager')]
    const end = 'select app_hidden.end_session($1)'
    expect(await leaves(() => by(mine.secret, end, [other.id]))).toEqual([
      stage.entry('SESSION_REVOKE', 'manager', 'manager', { session_id: other.id }),
    ])
    expect([await role(mine.secret), await role(other.secret)]).toEqual(['assent_manager', 'RQ401'])
    // The one that asks, too.
    expect(await leaves(() => by(mine.secret, end, [mine.id]))).toEqual([
      stage.entry('SESSION_REVOKE', 'manager', 'manager', { session_id: mine.id }),
    ])
    expect(await role(mine.secret)).toBe('RQ401')
  })

  test.each<[string, () => Promise<string>]>([
    ["another's", async () => (await open('user')).id],
    ["an admin's, for a manager", async () => (await open('admin')).id],
    ['ended already', async () => ended('revoked_at = now()')],
    ['unused for three days', async () => ended(`last_used_at = now() - interval '3 days'`)],
    ["nobody's", async () => NOBODY],
  ])('are those that can be ended, and none that is %s', async (_, choose) => {
    const id = await choose()
    const before = await kept({ id })
    const end = (target: string) => by(stage.secret.manager, 'select app_hidden.end_session($1)', [target])
    expect(await leaves(async () => expect(await end(id)).toEqual(await end(NOBODY)))).toEqual([])
    expect(await end(id)).toMatchObject({ code: 'RQ404' })
    expect((await kept({ id }))?.['revoked_at']).toEqual(before?.['revoked_at'])
  })
  async function ended(changes: string): Promise<string> {
    const session = await open('manager')
    await set(changes, session)
    return session.id
  }

  test('end all but the one that asks', async () => {
    const [mine, token, cookie, over, foreign] = await Promise.all([
      open('idle'),
      open('idle'),
      open('idle', true),
      open('idle'),
      open('idler'),
    ])
    await set(`last_used_at = now() - interval '3 days'`, over)
    const end = () => by(mine.secret, 'select app_hidden.end_other_sessions()')
    // The stage has opened one more; and what is over is not ended once more.
    expect(await leaves(end)).toEqual([stage.entry('SESSION_REVOKE', 'idle', 'idle', { sessions: 3 })])
    const ends = await Promise.all(
      [mine, token, cookie, over, foreign].map(async (one) => (await kept(one))['revoked_at'] !== null),
    )
    expect(ends).toEqual([false, true, true, false, false])
    expect(await role(mine.secret)).toBe('assent_manager')
    expect(await leaves(end)).toEqual([]) // nothing is left to end
  })

  test.each([false, true])('end by logging out (by cookie: %s), each for itself', async (byCookie) => {
    const [mine, other] = [await open('idle', byCookie), await open('idle', byCookie)]
    expect(await leaves(() => by(mine.secret, 'select app_public.logout()'))).toEqual([stage.entry('LOGOUT', 'idle', 'idle')])
    expect([await role(mine.secret), await role(other.secret)]).toEqual([
      byCookie ? 'assent_anonymous' : 'RQ401',
      'assent_manager',
    ])
  })
})

describe('a session is ended once', () => {
  const logout = 'select app_public.logout()'
  const endIt = 'select app_hidden.end_session($1)'
  const login = (action: string) => expect.objectContaining({ action, user_id: stage.id.idler })

  test.each([
    ['by two who log out', logout, logout, 'RQ401', ['LOGOUT']],
    ['by two who end it', endIt, endIt, 'RQ404', ['SESSION_REVOKE']],
    ['by one who ends it, and one who logs out', endIt, logout, 'RQ401', ['SESSION_REVOKE']],
  ])('at once %s', async (_, first, second, code, actions) => {
    const session = await open('idler')
    const other = await stage.db.connect('auth')
    const begin = async (client: pg.Client) => {
      await client.query('begin')
      await client.query(`select set_config('assent.session', $1, true), set_config('role', 'assent_user', true)`, [
        session.secret,
      ])
    }
    const act = (client: pg.Client, statement: string) =>
      client.query(statement, statement === endIt ? [session.id] : []).then(
        () => null,
        (error: pg.DatabaseError) => error.code,
      )
    const entries = await leaves(async () => {
      await begin(api)
      await begin(other)
      expect(await act(api, first)).toBe(null)
      const later = act(other, second)
      await waiting()
      await api.query('commit')
      expect(await later).toBe(code)
      await other.query('commit')
    })
    expect(entries).toEqual(actions.map(login))
  })
})

describe('a refresh token', () => {
  test('is exchanged for the next one of the same session, which is no action', async () => {
    const session = await open('user')
    await set(`last_used_at = now() - interval '2 days'`, session)
    let token = session.refresh
    for (let i = 0; i < 3; i++) {
      let next: Row = {}
      expect(await leaves(async () => void (next = await refresh(token)))).toEqual([])
      expect(next).toEqual({ user_id: stage.id.user, session_secret: session.secret, refresh_token: expect.any(String) })
      expect(next['refresh_token']).not.toBe(token)
      token = next['refresh_token']
    }
    expect(await role(session.secret)).toBe('assent_user')
    const { last_used_at, now } = await kept(session)
    expect(now - last_used_at).toBeLessThan(10_000)
  })

  const end = (session: Opened) =>
    stage.entry('SESSION_REVOKE', null, 'user', { session_id: session.id, reason: 'A refresh token was used twice.' })
  /** Has so much time gone by for the tokens of a session that are good beside the last. */
  const later = (session: Opened, by: string) =>
    stage.root.query(`
      set session_replication_role = replica; -- Time leaves no trace.
      update app_private.refresh_tokens set good_until = good_until - '${by}'::interval where session_id = '${session.id}';
      set session_replication_role = origin`)
  const next = async (token: string): Promise<string> => {
    const { user_id, refresh_token } = await refresh(token)
    expect(user_id).toBe(stage.id.user)
    return refresh_token
  }

  test('that is used once more later than 10 seconds ends its session, and nothing but that', async () => {
    const [session, other] = [await open('user'), await open('user')]
    const second = await next(session.refresh)
    await later(session, '10 seconds')
    expect(await leaves(async () => expect(await refresh(session.refresh)).toEqual(refused))).toEqual([end(session)])
    expect(await role(session.secret)).toBe('RQ401')
    // Neither is good any more, nor is the end told of again.
    for (const token of [second, session.refresh]) {
      expect(await leaves(async () => expect(await refresh(token)).toEqual(refused))).toEqual([])
    }
    expect(await role(other.secret)).toBe('assent_user')
    await next(other.refresh)
  })

  test('that was never issued ends its session too', async () => {
    const session = await open('user')
    expect(await leaves(() => refresh(`${session.secret}.guess`))).toEqual([end(session)])
  })

  test('that is used again within 10 seconds serves: each caller has tokens of their own, which go on for 12 hours', async () => {
    const session = await open('user')
    const entries = await leaves(async () => {
      const chains = [await next(session.refresh), await next(session.refresh)]
      await later(session, '9 seconds')
      chains.push(await next(session.refresh))
      expect(new Set(chains).size).toBe(3)
      for (let i = 0; i < 6; i++) {
        await later(session, '1 hour 50 minutes')
        for (const [n, token] of chains.entries()) chains[n] = await next(token)
      }
      expect(await role(session.secret)).toBe('assent_user')
      // After that the one that was used last goes on alone.
      await later(session, '1 hour 50 minutes')
      const last = await next(chains.at(-1)!)
      expect(await next(last)).toEqual(expect.any(String))
    })
    expect(entries).toEqual([])
  })

  test.each([0, 1])('of two that go on side by side, ends the session after 12 hours: number %d comes second', async (second) => {
    const session = await open('user')
    const chains = [await next(session.refresh), await next(session.refresh)]
    await later(session, '11 hours 59 minutes')
    for (const n of [1 - second, second]) chains[n] = await next(chains[n]!)
    // Exchanging one twice once more puts off nothing.
    await next(chains[1 - second]!)
    const last = await next(chains[1 - second]!)
    await later(session, '2 minutes')
    await next(last)
    expect(await leaves(async () => expect(await refresh(chains[second]!)).toEqual(refused))).toEqual([end(session)])
  })

  test('whose answer was lost is not missed: the other token goes on alone, past the 12 hours', async () => {
    for (const kept of [0, 1]) {
      const session = await open('user')
      let token = [await next(session.refresh), await next(session.refresh)][kept]!
      for (let i = 0; i < 5; i++) {
        token = await next(token)
        await later(session, '3 hours')
      }
      expect(await next(token)).toEqual(expect.any(String))
      const { rows } = await stage.root.query('select is_used from app_private.refresh_tokens where session_id = $1', [
        session.id,
      ])
      expect(rows).toEqual([{ is_used: true }])
    }
  })

  test('that is used a hundred times within 10 seconds ends its session', async () => {
    const session = await open('user')
    for (let i = 0; i < 100; i++) await next(session.refresh)
    expect(await leaves(async () => expect(await refresh(session.refresh)).toEqual(refused))).toEqual([end(session)])
  })

  test('is kept as a hash, whichever it is', async () => {
    const session = await open('user')
    const tokens = [session.refresh, await next(session.refresh), await next(session.refresh)]
    const { rows } = await stage.root.query(
      `select token_hash from app_private.refresh_tokens where session_id = $1
       union all select refresh_hash from app_private.sessions where id = $1`,
      [session.id],
    )
    const hex = (hashes: Buffer[]) => hashes.map((one) => one.toString('hex')).sort()
    expect(hex(rows.map(({ token_hash }) => token_hash))).toEqual(hex(tokens.map(hash)))
  })

  test('that two use at once serves both: the second waits for what the first does', async () => {
    const session = await open('user')
    const second = await stage.db.connect('auth')
    await api.query('begin; set local role assent_anonymous')
    const { rows } = await api.query('select * from app_hidden.refresh_session($1)', [session.refresh])
    const other = refresh(session.refresh, second)
    await waiting()
    await api.query('commit')
    const tokens = [rows[0].refresh_token, (await other)['refresh_token']]
    expect(new Set([...tokens, session.refresh, undefined]).size).toBe(4)
    for (const token of tokens) await next(token)
    expect(await role(session.secret)).toBe('assent_user')
  })

  test.each<[string, string]>([
    ['ended', 'revoked_at = now()'],
    ['over', 'expires_at = now()'],
    ['unused for three days', `last_used_at = now() - interval '3 days'`],
  ])('is good for nothing when its session is %s', async (_, changes) => {
    const session = await open('user')
    await set(changes, session)
    const before = await kept(session)
    expect(await leaves(async () => expect(await refresh(session.refresh)).toEqual(refused))).toEqual([])
    expect({ ...(await kept(session)), now: null }).toEqual({ ...before, now: null })
  })

  test.each([
    ['nothing', null],
    ['no text', ''],
    ['a guess', 'guess.guess'],
    ['dots', '..'],
    ['an id', NOBODY],
  ])('that is %s gets the same answer, and leaves nothing', async (_, token) => {
    expect(await leaves(async () => expect(await refresh(token)).toEqual(refused))).toEqual([])
  })
})

describe('a new password', () => {
  const [old, fresh] = ['assent-demo-password', 'a password that is new']

  /** In its two transactions, as the API does it. */
  async function change(secret: string, from: string, to = fresh, weakness: string | null = null): Promise<Row> {
    const begun = await by(secret, 'select * from app_hidden.begin_password_change($1)', [weakness])
    if (!begun['attempt_id']) return begun
    const values = [begun['attempt_id'], digest(from), digest(to)]
    return by(secret, 'select * from app_hidden.change_password($1, $2, $3)', values)
  }
  const passwords = async () =>
    (await stage.root.query('select user_id, password_hash from app_private.credentials order by user_id')).rows
  const attempts = async () => (await stage.root.query('select failed from app_private.login_attempts')).rows
  /** So many failed logins of a person, from the network of these tests. */
  const fail = (person: Person, count: number) =>
    stage.root.query(
      `insert into app_private.login_attempts (account_key, network, failed)
       select app_private.account_key($1), '192.0.2.1', true from generate_series(1, $2)`,
      [email(person), count],
    )
  const failIn = async (secret: string, count: number) => {
    for (let i = 0; i < count; i++) expect(await change(secret, 'wrong')).toEqual({ user_id: null, retry_after: null })
  }

  test.each(['user2', 'admin'] as const)('of %s ends their other sessions, and is the one that logs in', async (person) => {
    const [mine, token, cookie, foreign] = [await open(person), await open(person), await open(person, true), await open('user')]
    const before = await passwords()
    expect(
      await leaves(async () => expect(await change(mine.secret, old)).toEqual({ user_id: stage.id[person], retry_after: null })),
    ).toEqual([stage.entry('PASSWORD_CHANGE', person, person)])
    const changed = (await passwords()).filter(({ password_hash }, i) => password_hash !== before[i].password_hash)
    expect(changed).toEqual([{ user_id: stage.id[person], password_hash: expect.stringMatching(/^\$2a\$/) }])
    expect(await role(mine.secret)).toBe(`assent_${person.replace(/\d/, '')}`)
    expect(await Promise.all([foreign].map(({ secret }) => role(secret)))).toEqual(['assent_user'])
    expect([await role(token.secret), await role(cookie.secret)]).toEqual(['RQ401', 'assent_anonymous'])
    expect((await login(api, email(person), old)).user_id).toBe(null)
    expect((await login(api, email(person), fresh)).user_id).toBe(stage.id[person])
  })

  test('that is no other than the old one counts as a new one all the same', async () => {
    const mine = await open('manager2')
    expect(await leaves(() => change(mine.secret, old, old))).toEqual([stage.entry('PASSWORD_CHANGE', 'manager2', 'manager2')])
  })

  test('is not set by who does not know the old one, which leaves an entry', async () => {
    const [mine, other] = [await open('manager'), await open('manager')]
    const before = await passwords()
    const { rows } = await stage.root.query('select id from app_private.sessions where secret_hash = $1', [hash(mine.secret)])
    expect(await leaves(() => failIn(mine.secret, 1))).toEqual([
      stage.entry('LOGIN_FAILED', null, 'manager', { session_id: rows[0].id, reason: 'The old password was wrong.' }),
    ])
    expect(await passwords()).toEqual(before)
    expect([await role(mine.secret), await role(other.secret)]).toEqual(['assent_manager', 'assent_manager'])
    expect(await attempts()).toEqual([{ failed: true }])
  })

  test('is not had by guessing at the old one: ten failures in a session, and no more', async () => {
    const [mine, other] = [await open('manager'), await open('manager')]
    await failIn(mine.secret, 10)
    const before = await passwords()
    expect(
      await leaves(async () => {
        for (const guess of ['wrong', old]) {
          const { attempt_id, retry_after } = await change(mine.secret, guess)
          expect({ attempt_id, soon: retry_after > 880 && retry_after <= 900 }).toEqual({ attempt_id: null, soon: true })
        }
      }),
    ).toEqual([])
    expect(await passwords()).toEqual(before)
    expect(await attempts()).toHaveLength(10)
    // Whoever has found that session hinders its person nowhere else.
    expect((await login(api, email('manager'), old)).user_id).toBe(stage.id.manager)
    expect(await change(other.secret, old, old)).toMatchObject({ user_id: stage.id.manager })
  })

  test('is set whatever strangers guess at the account, and from the same network', async () => {
    const mine = await open('manager')
    await fail('manager', 100)
    expect((await login(api, email('manager'), old)).retry_after).toBeGreaterThan(880)
    expect(await change(mine.secret, old, old)).toMatchObject({ user_id: stage.id.manager })
  })

  test('that succeeds takes nothing of the failures away, and counts as none', async () => {
    const mine = await open('admin2')
    await stage.root.query(
      'update app_private.credentials set password_hash = app_private.hash_password($1) where user_id = $2',
      [digest(old), stage.id.admin2],
    )
    await failIn(mine.secret, 9)
    expect(await change(mine.secret, old, old)).toMatchObject({ user_id: stage.id.admin2 })
    expect(await attempts()).toHaveLength(9)
    await failIn(mine.secret, 1)
    expect((await change(mine.secret, old)).retry_after).toBeGreaterThan(880)
  })

  test('that is weak is refused before anything is counted, even when nothing is accepted any more', async () => {
    const mine = await open('manager')
    await failIn(mine.secret, 10)
    expect(
      await leaves(async () => {
        expect(await change(mine.secret, old, 'weak', 'This is weak.')).toEqual({
          code: 'RQ422',
          column: 'new_password',
          message: 'This is weak.',
        })
      }),
    ).toEqual([])
    expect(await attempts()).toHaveLength(10)
  })

  test('is for who is somebody, and they hear nothing of its weakness otherwise', async () => {
    const mine = await open('manager')
    await set('revoked_at = now()', mine)
    expect(await change(mine.secret, old, 'weak', 'This is weak.')).toMatchObject({ code: 'RQ401' })
    expect(await change('', old, 'weak', 'This is weak.')).toMatchObject({ code: '42501' })
    await stage.root.query('begin; set local role assent_user')
    const begun = stage.root.query(`select app_hidden.begin_password_change('This is weak.')`)
    await expect(begun).rejects.toMatchObject({ code: 'RQ401' })
    await stage.root.query('rollback')
  })

  test("is not set by the attempt of another's, nor by one that is over", async () => {
    const [mine, theirs] = [await open('manager'), await open('user')]
    const begin = async (secret: string) =>
      (await by(secret, 'select * from app_hidden.begin_password_change(null)'))['attempt_id']
    const set = (secret: string, attempt: string | null) =>
      by(secret, 'select * from app_hidden.change_password($1, $2, $3)', [attempt, digest(old), digest(fresh)])
    const [ours, own] = [await begin(theirs.secret), await begin(mine.secret)]
    for (const attempt of [ours, null, NOBODY]) expect(await set(mine.secret, attempt)).toMatchObject({ code: 'RQ401' })
    // Nor is one of these good for a login, or one of a login for this.
    await expect(finishLogin(api, own, email('manager'), old)).rejects.toMatchObject({ code: 'RQ401' })
    const [login] = await asSession(api, '', 'select * from app_hidden.begin_login($1)', [email('manager')])
    expect(await set(mine.secret, login!['attempt_id'])).toMatchObject({ code: 'RQ401' })
    expect(
      await by(mine.secret, 'select * from app_hidden.change_password($1, $2, $3)', [own, digest('wrong'), digest(fresh)]),
    ).toEqual({ user_id: null, retry_after: null })
    expect(await set(mine.secret, own)).toMatchObject({ code: 'RQ401' })
  })

  test('is not set when the session has ended meanwhile', async () => {
    const [mine, other] = [await open('manager'), await open('manager')]
    const before = await passwords()
    // As another change has it while it hashes, and then ends the sessions.
    await stage.root.query('begin')
    await stage.root.query('select from app_private.credentials where user_id = $1 for update', [stage.id.manager])
    const changing = change(mine.secret, old)
    await waiting()
    await set('revoked_at = now()', mine)
    await stage.root.query('commit')
    expect(await leaves(async () => expect(await changing).toMatchObject({ code: 'RQ401' }))).toEqual([])
    expect(await passwords()).toEqual(before)
    expect(await role(other.secret)).toBe('assent_manager')
  })
})
