import type pg from 'pg'
import {
  asSession,
  bare,
  digest,
  login,
  openStage,
  statuses,
  type Actor,
  type Login,
  type Person,
  type Row,
  type Stage,
} from '../harness/stage.ts'
import { lintSchema } from '../harness/schema.ts'

let stage: Stage
let api: pg.Client
let auditor: pg.Client

beforeAll(async () => {
  stage = await openStage()
  api = await stage.db.connect('auth')
  auditor = await stage.db.connect('auditor')
})
beforeEach(() => stage.recast())
afterAll(() => stage?.close())

const entries = async (): Promise<Row[]> =>
  (await stage.root.query('select * from app_public.audit_logs order by "timestamp", id')).rows

const leaves = (act: () => Promise<unknown>) => stage.leaves(act)

describe('append-only', () => {
  const one = '(select id from app_public.audit_logs order by id limit 1)'
  const key = '(id, "timestamp")'
  const statements: Record<string, string> = {
    update: `update app_public.audit_logs set metadata = '{}'`,
    'update of one': `update app_public.audit_logs set actor_id = null where id = ${one}`,
    'update of none': `update app_public.audit_logs set ip_address = null where false`,
    delete: 'delete from app_public.audit_logs',
    'delete of one': `delete from app_public.audit_logs where id = ${one}`,
    'delete of none': 'delete from app_public.audit_logs where false',
    truncate: 'truncate app_public.audit_logs cascade',
    'truncate of what it points at': 'truncate app_public.requests cascade',
    'truncate of people': 'truncate app_public.users cascade',
    'truncate of actions': 'truncate app_public.audit_actions cascade',
    'on conflict': `insert into app_public.audit_logs (id, action) values (${one}, 'LOGIN') on conflict ${key} do update set actor_id = null`,
    'merge that updates': `merge into app_public.audit_logs a using (select ${one} as id) x on a.id = x.id when matched then update set metadata = '{}'`,
    'merge that deletes': `merge into app_public.audit_logs a using (select ${one} as id) x on a.id = x.id when matched then delete`,
    'update of a cte': `with gone as (delete from app_public.audit_logs returning id) select count(*) from gone`,
  }
  for (const month of ['audit_logs_earliest', 'audit_logs_later']) {
    for (const [name, statement] of Object.entries(statements)) {
      const there = statement.split(one).map((part) => part.replaceAll('app_public.audit_logs', `app_private.${month}`))
      if (there.join(one) !== statement) statements[`${name}, in ${month}`] = there.join(one)
    }
  }
  const actors: Actor[] = ['anonymous', 'authenticator', 'user', 'manager', 'admin', 'auditor', 'owner', 'superuser']

  test.each(actors)('%s changes and removes nothing', async (actor) => {
    await stage.request({ creator: 'user', assignee: null, status: 'APPROVED' })
    const before = await entries()
    const outcomes = await stage.attempts(Object.values(statements).map((statement) => ({ actor, statement, keep: true })))
    const code = actor === 'owner' || actor === 'superuser' ? 'RQ403' : '42501'
    expect(Object.fromEntries(Object.keys(statements).map((name, i) => [name, outcomes[i]!.code]))).toEqual(
      Object.fromEntries(Object.keys(statements).map((name) => [name, code])),
    )
    expect(await entries()).toEqual(before)
  })

  test('nor does a superuser while ordinary triggers are switched off', async () => {
    const before = await entries()
    for (const [name, statement] of Object.entries(statements)) {
      await stage.root.query('begin; set local session_replication_role = replica')
      const code = await stage.root.query(statement).then(
        () => 'done',
        (error) => error.code,
      )
      await stage.root.query('rollback')
      expect({ name, code }).toEqual({ name, code: 'RQ403' })
    }
    expect(await entries()).toEqual(before)
  })

  test('the owner cannot switch triggers off for a statement', async () => {
    expect((await stage.attempt('owner', 'set session_replication_role = replica')).code).toBe('42501')
  })

  test('what entries point at does not go from under them', async () => {
    const { id } = await stage.request({ creator: 'user', assignee: null, status: 'DRAFT' })
    const attempts = [
      `update app_public.users set id = gen_random_uuid() where id = '${stage.id.user}'`,
      `update app_public.requests set id = gen_random_uuid() where id = '${id}'`,
      `update app_public.audit_actions set action = 'OTHER' where action = 'CREATE'`,
      `delete from app_public.audit_actions where action = 'CREATE'`,
      `delete from app_public.requests where id = '${id}'`,
      `delete from app_public.users where id = '${stage.id.user}'`,
    ]
    const outcomes = await stage.attempts(attempts.map((statement) => ({ actor: 'owner', statement })))
    expect(outcomes.map(({ code }) => code)).toEqual([
      '23503',
      'RQ403',
      '23503',
      expect.stringMatching(/^23(001|503)$/),
      'RQ403',
      'RQ403',
    ])
  })

  test.each([
    ['an action that does not exist', `(action) values ('WHATEVER')`, '23503'],
    [
      'about a request and a person',
      `(action, request_id, request_creator_id, user_id) select 'LOGIN', id, creator_id, creator_id from app_public.requests limit 1`,
      '23514',
    ],
    ['about a request without its creator', `(action, request_id) select 'CREATE', id from app_public.requests limit 1`, '23514'],
    ['metadata that is no object', `(action, metadata) values ('LOGIN', '[]')`, '23514'],
    ['by nobody known', `(action, actor_id) values ('LOGIN', gen_random_uuid())`, '23503'],
    ['about nobody known', `(action, user_id) values ('LOGIN', gen_random_uuid())`, '23503'],
    [
      'about no known request',
      `(action, request_id, request_creator_id) select 'CREATE', gen_random_uuid(), id from app_public.users limit 1`,
      '23503',
    ],
  ])('no entry is %s', async (_, values, code) => {
    await stage.request({ creator: 'user', assignee: null, status: 'DRAFT' })
    expect((await stage.attempt('superuser', `insert into app_public.audit_logs ${values}`)).code).toBe(code)
  })
})

describe('months', () => {
  /** Each partition with its bounds and the number of its entries. */
  const months = async () =>
    (
      await stage.root.query(`
        select c.relname as name, pg_get_expr(c.relpartbound, c.oid) as bounds,
          (xpath('/row/n/text()', query_to_xml('select count(*) as n from ' || c.oid::regclass, false, true, '')))[1]::text::integer as n
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'app_public.audit_logs'::regclass order by c.relname`)
    ).rows as { name: string; bounds: string; n: number }[]
  const month = async (from: number) =>
    (await stage.root.query(`select date_trunc('month', now() at time zone 'UTC') + $1 * interval '1 month' as at`, [from]))
      .rows[0].at as Date
  const named = (at: Date) => `audit_logs_${at.getFullYear()}_${String(at.getMonth() + 1).padStart(2, '0')}`

  test('there is one for each of the next, and none of them fails to take an entry', async () => {
    await stage.root.query('begin')
    try {
      await stage.root.query(
        `insert into app_public.audit_logs (action, "timestamp")
         select 'LOGIN', at from unnest('{-infinity,2020-01-01,now,2999-12-31}'::timestamptz[]) at`,
      )
      const found = await months()
      expect(found.map(({ name }) => name)).toEqual(['audit_logs_earliest', 'audit_logs_later'])
      expect(found[1]!.n).toBe(1)
    } finally {
      await stage.root.query('rollback')
    }
  })

  test('what was written while nobody made any stays where it is, and those to come are made, as guarded as the others', async () => {
    const before = await entries()
    await stage.root.query(`begin; set local timezone = 'UTC'`)
    try {
      // As if the last two months had not been made: the last partition has all that was written.
      const start = (await month(-1)).toISOString()
      await stage.root.query(`
        set local role assent_owner;
        alter table app_public.audit_logs detach partition app_private.audit_logs_later;
        alter table app_public.audit_logs detach partition app_private.audit_logs_earliest;
        drop table app_private.audit_logs_later;
        alter table app_private.audit_logs_earliest rename to audit_logs_later;
        create table app_private.audit_logs_earliest partition of app_public.audit_logs for values from (minvalue) to ('${start}');
        alter table app_public.audit_logs attach partition app_private.audit_logs_later for values from ('${start}') to (maxvalue);
        select app_private.guard_month('app_private.audit_logs_earliest');
        set local role assent_worker`)
      await stage.root.query('select app_private.extend_trail(); select app_private.extend_trail()')
      await stage.root.query('set local role none')
      const [last, next, after] = await Promise.all([-1, 1, 2].map(month))
      expect(await months()).toMatchObject(
        [
          { name: named(last!), n: before.length },
          { name: named(next!), n: 0 },
          { name: named(after!), n: 0 },
          { name: 'audit_logs_earliest', n: 0 },
          { name: 'audit_logs_later', n: 0 },
        ].toSorted((a, b) => (a.name < b.name ? -1 : 1)),
      )
      await stage.root.query(
        `insert into app_public.audit_logs (action, "timestamp") values ('LOGIN', now() + interval '1 month')`,
      )
      expect((await months()).find(({ name }) => name === named(next!))).toMatchObject({ n: 1 })
      await stage.root.query('set local role assent_owner')
      expect(await lintSchema(stage.root)).toEqual([])
    } finally {
      await stage.root.query('rollback')
    }
    expect(await entries()).toEqual(before)
  })

  test('one that is taken away still refuses changes, and comes back as it was', async () => {
    await stage.root.query('begin; set local role assent_owner')
    try {
      const bounds = (await months())[0]!.bounds
      await stage.root.query('alter table app_public.audit_logs detach partition app_private.audit_logs_earliest; savepoint away')
      await expect(stage.root.query('delete from app_private.audit_logs_earliest')).rejects.toMatchObject({ code: 'RQ403' })
      await stage.root.query(`rollback to away;
        grant select on app_private.audit_logs_earliest to assent_auditor;
        alter table app_public.audit_logs attach partition app_private.audit_logs_earliest ${bounds}`)
      expect(await lintSchema(stage.root)).toMatchObject([{ lint: 'unguarded_partition' }])
      await stage.root.query(`select app_private.guard_month('app_private.audit_logs_earliest')`)
      expect(await lintSchema(stage.root)).toEqual([])
    } finally {
      await stage.root.query('rollback; reset role')
    }
  })
})

describe('every action leaves one entry', () => {
  let id: string
  const on = (actor: Person, call: string) => () => stage.rows(actor, `select * from app_public.${call}`)
  const about = (actor: Person, action: string, metadata: unknown) => [
    {
      actor_id: stage.id[actor],
      action,
      request_id: id,
      request_creator_id: stage.id.user,
      user_id: null,
      metadata,
      ip_address: '192.0.2.1',
    },
  ]

  test('the life of a request', async () => {
    const created = await leaves(async () => {
      id = (await on('user', `create_request('T', 'D')`)())[0]!['id']
    })
    expect(created.map(bare)).toEqual(about('user', 'CREATE', { old_status: null, new_status: 'DRAFT' }))
    expect((await leaves(on('user', `update_request('${id}', title => 'U', description => null)`))).map(bare)).toEqual(
      about('user', 'UPDATE', { title: { old: 'T', new: 'U' }, description: { old: 'D', new: null } }),
    )
    expect((await leaves(on('user', `submit_request('${id}')`))).map(bare)).toEqual(
      about('user', 'SUBMIT', { old_status: 'DRAFT', new_status: 'SUBMITTED' }),
    )
    expect((await leaves(on('admin', `assign_request('${id}', '${stage.id.manager}')`))).map(bare)).toEqual(
      about('admin', 'ASSIGN', { assigned_to_id: { old: null, new: stage.id.manager } }),
    )
    expect((await leaves(on('manager', `approve_request('${id}', 'Well')`))).map(bare)).toEqual(
      about('manager', 'APPROVE', { old_status: 'SUBMITTED', new_status: 'APPROVED' }),
    )
  })

  test('a rejection and a deletion', async () => {
    id = (await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })).id
    expect((await leaves(on('manager2', `reject_request('${id}', 'No')`))).map(bare)).toEqual(
      about('manager2', 'REJECT', { old_status: 'SUBMITTED', new_status: 'REJECTED' }),
    )
    id = (await stage.request({ creator: 'user', assignee: null, status: 'DRAFT' })).id
    expect((await leaves(on('user', `delete_request('${id}')`))).map(bare)).toEqual(
      about('user', 'DELETE', { is_deleted: { old: false, new: true } }),
    )
  })

  test('what failed, was rolled back or changed nothing leaves none', async () => {
    const submitted = await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
    expect(
      await leaves(async () => {
        const outcomes = await stage.attempts([
          { actor: 'user', keep: true, statement: `select app_public.create_request('')` }, // RQ422
          { actor: 'user', keep: true, statement: `select app_public.approve_request('${submitted.id}')` }, // RQ403
          { actor: 'user2', keep: true, statement: `select app_public.submit_request('${submitted.id}')` }, // RQ404
          { actor: 'user', keep: true, statement: `select app_public.submit_request('${submitted.id}')` }, // RQ409
          { actor: 'manager', keep: true, statement: `select app_public.approve_request('${submitted.id}', version => 1)` }, // RQ412
          { actor: 'manager', keep: true, statement: `select app_public.assign_request('${submitted.id}', null)` }, // no change
          { actor: 'manager', keep: false, statement: `select app_public.approve_request('${submitted.id}')` }, // rolled back
        ])
        expect(outcomes.map(({ code }) => code)).toEqual(['RQ422', 'RQ403', 'RQ404', 'RQ409', 'RQ412', null, null])
      }),
    ).toEqual([])
  })

  test('of several in one transaction each has its own, at its own time', async () => {
    const left = await leaves(async () => {
      await stage.root.query('begin')
      await stage.root.query(`select set_config('assent.session', $1, true), set_config('role', 'assent_user', true)`, [
        stage.secret.user,
      ])
      const { rows } = await stage.root.query(`select (app_public.create_request('Quick')).id`)
      await stage.root.query('select app_public.update_request($1, $2)', [rows[0].id, 'Quicker'])
      await stage.root.query('select app_public.submit_request($1)', [rows[0].id])
      await stage.root.query('commit')
    })
    expect(left.map(({ action }) => action)).toEqual(['CREATE', 'UPDATE', 'SUBMIT'])
    const times = (
      await stage.root.query(
        `select count(distinct "timestamp")::integer as times from app_public.audit_logs where id = any ($1)`,
        [left.map((row) => row['id'])],
      )
    ).rows
    expect(times).toEqual([{ times: 3 }])
  })

  test.each([
    ['2001:db8::1', '2001:db8::1'],
    ['', null],
  ])('the address %p is kept as %p', async (sent, kept) => {
    const left = await leaves(async () => {
      await stage.root.query('begin')
      await stage.root.query(
        `select set_config('assent.session', $1, true), set_config('assent.ip', $2, true), set_config('role', 'assent_user', true)`,
        [stage.secret.user, sent],
      )
      await stage.root.query(`select app_public.create_request('From afar')`)
      await stage.root.query('commit')
    })
    expect(left.map((entry) => entry['ip_address'])).toEqual([kept])
  })

  const add = (isDeleted: boolean) => `insert into app_public.users (name, role, is_deleted) values ('New', 'USER', ${isDeleted})`
  const change = (changes: string) => `update app_public.users set ${changes} where name = 'New'`
  test.each([
    ['USER_CREATE', null, add(false), { name: 'New', role: 'USER' }],
    ['USER_UPDATE', add(false), change(`role = 'MANAGER'`), { role: { old: 'USER', new: 'MANAGER' } }],
    ['USER_DEACTIVATE', add(false), change('is_deleted = true'), { is_deleted: { old: false, new: true } }],
    ['USER_REACTIVATE', add(true), change('is_deleted = false'), { is_deleted: { old: true, new: false } }],
  ])('%s by SQL, which names the login that did it', async (action, before, statement, metadata) => {
    await stage.root.query(`update app_public.users set name = 'Former' where name = 'New'`)
    const owner = await stage.db.connect('owner')
    if (before) await owner.query(before)
    const left = await leaves(() => owner.query(statement))
    const people = await stage.root.query(`select id from app_public.users where name = 'New'`)
    expect(left.map(bare)).toEqual([
      {
        actor_id: null,
        action,
        request_id: null,
        request_creator_id: null,
        user_id: people.rows[0].id,
        metadata: { ...metadata, database_user: 'assent_owner' },
        ip_address: null,
      },
    ])
  })
})

describe('logging in and out', () => {
  const entry: Stage['entry'] = (...given) => ({ ...stage.entry(...given), ip_address: '192.0.2.9' })
  const from = (email: string, password?: string) => login(api, email, password, '192.0.2.9')

  test('LOGIN', async () => {
    let known: Login | undefined
    expect(
      (
        await leaves(async () => {
          known = await from('USER@assent.test')
        })
      ).map(bare),
    ).toEqual([entry('LOGIN', 'user', 'user')])
    expect(known).toMatchObject({ user_id: stage.id.user, retry_after: null })
  })

  test('LOGIN_FAILED has no actor, and is about the account if there is one', async () => {
    expect((await leaves(() => from('user@assent.test', 'wrong'))).map(bare)).toEqual([entry('LOGIN_FAILED', null, 'user')])
    expect((await leaves(() => from('nobody@assent.test', 'wrong'))).map(bare)).toEqual([entry('LOGIN_FAILED', null, null)])
    await stage.root.query('update app_public.users set is_deleted = true where id = $1', [stage.id.user2])
    expect((await leaves(() => from('user2@assent.test'))).map(bare)).toEqual([entry('LOGIN_FAILED', null, 'user2')])
  })

  test('throttled attempts leave none', async () => {
    await stage.root.query(
      `insert into app_private.login_attempts (account_key, network, failed) select app_private.account_key('manager@assent.test'), '192.0.2.9', true from generate_series(1, 10)`,
    )
    expect(await leaves(async () => expect((await from('manager@assent.test')).retry_after).toBeGreaterThan(0))).toEqual([])
    await stage.root.query(
      `insert into app_private.login_attempts (account_key, network, failed) select '', '198.51.100.1', true from generate_series(1, 100)`,
    )
    expect(
      await leaves(async () =>
        expect((await login(api, 'manager2@assent.test', 'x', '198.51.100.1')).retry_after).toBeGreaterThan(0),
      ),
    ).toEqual([])
  })

  const logout = async (secret: string, role = 'assent_user') => {
    await api.query('begin')
    await api.query(
      `select set_config('assent.session', $1, true), set_config('assent.ip', '192.0.2.9', true), set_config('role', $2, true)`,
      [secret, role],
    )
    await api.query('select app_public.logout()').finally(() => api.query('commit'))
  }

  test('LOGOUT', async () => {
    const { session_secret } = await from('user@assent.test')
    expect((await leaves(() => logout(session_secret!))).map(bare)).toEqual([entry('LOGOUT', 'user', 'user')])
    // Of whom the session is, though their role should have changed since the transaction began.
    const left = await leaves(() => logout(stage.secret.manager2, 'assent_user'))
    expect(left.map(bare)).toEqual([entry('LOGOUT', 'manager2', 'manager2')])
  })

  test.each(['no session', 'a session that is over'])('with %s there is nothing to log out from, and no entry', async (kind) => {
    const secret = kind === 'no session' ? '' : stage.secret.user
    if (secret) await logout(secret)
    const sessions = async () => (await stage.root.query('select id, revoked_at from app_private.sessions order by id')).rows
    const before = await sessions()
    expect(await leaves(() => logout(secret).catch(() => {}))).toEqual([])
    expect(await sessions()).toEqual(before)
  })

  test('the trail holds no secret', async () => {
    const made = await from('admin@assent.test')
    const browser = await login(api, 'admin@assent.test', undefined, '192.0.2.9', { byCookie: true })
    const owner = await stage.db.connect('owner')
    await owner.query(`select app_private.register_user('new@assent.test', 'With password', 'USER', $1)`, [digest('a password')])
    const { rows } = await stage.root.query(`
      select password_hash as secret from app_private.credentials where password_hash <> 'none'
      union all select unnest(array[encode(secret_hash, 'hex'), encode(refresh_hash, 'hex'), encode(secret_hash, 'base64'), encode(refresh_hash, 'base64')]) from app_private.sessions`)
    const secrets = [
      ...rows.flatMap(({ secret }) => secret ?? []), // by cookie there is nothing to refresh
      browser.session_secret!.replace('cookie:', ''),
      ...Object.values(stage.secret),
      made.session_secret!,
      made.refresh_token!,
      made.refresh_token!.split('.')[1]!,
      'a password',
      digest('a password'),
      'assent-demo-password',
      digest('assent-demo-password'),
      '@assent.test',
    ]
    expect(secrets.length).toBeGreaterThan(20)
    const trail = JSON.stringify(await entries())
    expect(trail).toContain('USER_CREATE')
    expect(trail).toContain('LOGIN')
    expect(secrets.filter((secret) => trail.includes(secret))).toEqual([])
  })
})

describe("the auditor's views", () => {
  const read = async (text: string, values: unknown[] = []): Promise<Row[]> => (await auditor.query(text, values)).rows

  test('request_history tells the life of a request', async () => {
    const { id } = await stage.request({ creator: 'user', assignee: 'manager', status: 'REJECTED' })
    expect(
      await read(
        `select title, action, actor_name, actor_email, old_status, new_status, host(ip_address) as ip
      from audit.request_history where request_id = $1 order by "timestamp"`,
        [id],
      ),
    ).toEqual([
      {
        title: "user's REJECTED",
        action: 'CREATE',
        actor_name: 'Uma User',
        actor_email: 'user@assent.test',
        old_status: null,
        new_status: 'DRAFT',
        ip: '192.0.2.1',
      },
      {
        title: "user's REJECTED",
        action: 'SUBMIT',
        actor_name: 'Uma User',
        actor_email: 'user@assent.test',
        old_status: 'DRAFT',
        new_status: 'SUBMITTED',
        ip: '192.0.2.1',
      },
      {
        title: "user's REJECTED",
        action: 'REJECT',
        actor_name: 'admin2',
        actor_email: 'admin2@assent.test',
        old_status: 'SUBMITTED',
        new_status: 'REJECTED',
        ip: '192.0.2.1',
      },
    ])
  })

  test('person_actions tells what somebody did', async () => {
    const { id } = await stage.request({ creator: 'idler', assignee: null, status: 'DELETED' })
    await stage.root.query('update app_public.users set is_deleted = true where id = $1', [stage.id.idler])
    expect(
      await read(
        `select actor_name, action, request_id, title from audit.person_actions where actor_email = 'idler@assent.test' order by "timestamp"`,
      ),
    ).toEqual([
      { actor_name: 'idler', action: 'CREATE', request_id: id, title: "idler's DELETED" },
      { actor_name: 'idler', action: 'DELETE', request_id: id, title: "idler's DELETED" },
    ])
    expect(
      await read(
        `select action, user_name from audit.person_actions where actor_id is null and user_id = $1 and action = 'USER_DEACTIVATE'`,
        [stage.id.idler],
      ),
    ).toEqual([{ action: 'USER_DEACTIVATE', user_name: 'idler' }])
    expect(await read('select count(*)::integer from audit.person_actions')).toEqual([{ count: (await entries()).length }])
  })

  test('decisions tells who decided what', async () => {
    const { id } = await stage.request({ creator: 'user', assignee: null, status: 'APPROVED', reviewer: 'manager' })
    expect(
      await read(
        'select action, actor_id, actor_email, creator_id, creator_name, title from audit.decisions where request_id = $1',
        [id],
      ),
    ).toEqual([
      {
        action: 'APPROVE',
        actor_id: stage.id.manager,
        actor_email: 'manager@assent.test',
        creator_id: stage.id.user,
        creator_name: 'Uma User',
        title: "user's APPROVED",
      },
    ])
    const decided = (await entries()).filter(({ action }) => action === 'APPROVE' || action === 'REJECT').length
    expect(await read('select count(*)::integer from audit.decisions')).toEqual([{ count: decided }])
  })

  const now = async () => (await read('select clock_timestamp()::text as now'))[0]!['now'] as string

  test('waiting tells what waits, since when, and who can decide it', async () => {
    const { id } = await stage.request({ creator: 'manager', assignee: null, status: 'SUBMITTED' })
    const [row] = await read(
      `select w.*, w.submitted_at = r.submitted_at and waiting > '0' as is_timed from audit.waiting w
       join app_public.requests r on r.id = w.request_id where w.request_id = $1`,
      [id],
    )
    expect(row).toMatchObject({ creator_id: stage.id.manager, assigned_to_id: null, is_timed: true })
    const { rows: deciders } = await stage.root.query(
      `select p.id, p.name from app_hidden.request_deciders d join app_public.users p on p.id = d.user_id
       where (d.request).id = $1 order by p.name`,
      [id],
    )
    expect(deciders.length).toBeGreaterThan(1)
    expect(row).toMatchObject({ decider_ids: deciders.map((p) => p.id), decider_names: deciders.map((p) => p.name) })
    expect(await read('select count(*)::integer from audit.waiting')).toEqual(
      await read(`select count(*)::integer from app_public.requests where status = 'SUBMITTED'`),
    )
  })

  test('turnaround tells how long each decision took, and those of each decider', async () => {
    const start = await now()
    const ids = []
    for (const status of ['APPROVED', 'APPROVED', 'REJECTED'] as const) {
      ids.push((await stage.request({ creator: 'user', assignee: null, status, reviewer: 'manager' })).id)
    }
    await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
    const rows = await read(
      `select t.request_id, t.decider_id, t.waited = r.reviewed_at - r.submitted_at and t.waited = d.waited as agrees
       from audit.turnaround t join app_public.requests r on r.id = t.request_id join audit.decisions d on d.request_id = r.id
       where t.decided_at >= $1 order by t.decided_at`,
      [start],
    )
    // The entry is written a moment after the decision.
    expect(rows.map(({ request_id, decider_id }) => [request_id, decider_id])).toEqual(ids.map((id) => [id, stage.id.manager]))
    const by = `select decider_name, decided::integer, approved::integer, rejected::integer,
      median_waited <= longest_waited and average_waited <= longest_waited as is_sound from audit.turnaround_by_decider($1)`
    expect(await read(by, [start])).toEqual([
      { decider_name: 'Mia Manager', decided: 3, approved: 2, rejected: 1, is_sound: true },
    ])
    expect(await read(by, [await now()])).toEqual([])
  })

  test('visible_requests tells what a person sees, as row-level security does', async () => {
    for (const status of statuses) await stage.request({ creator: 'user', assignee: null, status })
    const everything = (await read('select id from app_public.requests')).length
    for (const who of ['user', 'manager', 'admin'] as const) {
      const seen = (await stage.rows(who, 'select id from app_public.requests')).map(({ id }) => id)
      const told = (await read('select request_id from audit.visible_requests($1)', [stage.id[who]])).map(
        (row) => row['request_id'],
      )
      expect([who, told.toSorted()]).toEqual([who, seen.toSorted()])
      expect([who, seen.length === everything]).toEqual([who, who === 'admin'])
    }
    expect(await read('select from audit.visible_requests($1)', [stage.id.idler])).toEqual([]) // deactivated above
  })

  test('deciders_at tells who could have decided a request at a moment', async () => {
    const at = async (id: string, moment: string) =>
      (await read('select user_id, role, is_assignee from audit.deciders_at($1, $2)', [id, moment])).map((row): Row => ({
        who: stage.name(row['user_id']),
        ...row,
      }))
    const root = (text: string, values: unknown[] = []) => stage.root.query(text, values)
    const { id } = await stage.request({ creator: 'user', assignee: null, status: 'DRAFT' })
    const asDraft = await now()
    await stage.rows('user', `select app_hidden.transition('${id}', 'SUBMIT')`)
    const whole = await at(id, await now())
    const { rows } = await root('select user_id from app_hidden.request_deciders d where (d.request).id = $1', [id])
    expect(whole.map((row) => row['user_id']).toSorted()).toEqual(rows.map(({ user_id }) => user_id).toSorted())
    expect(whole.map((row) => row['who'])).toEqual(expect.arrayContaining(['manager', 'manager2', 'admin']))
    const unassigned = await now()

    await stage.rows(
      'admin',
      `select app_hidden.transition('${id}', 'ASSIGN', null, '{"assigned_to_id": "${stage.id.manager}"}')`,
    )
    const assigned = await now()
    await root(`update app_public.users set role = 'USER' where id = $1`, [stage.id.manager])
    const demoted = await now()
    await root(`update app_public.users set role = 'MANAGER' where id = $1`, [stage.id.manager])
    await root('update app_public.users set is_deleted = true where id = $1', [stage.id.manager2])
    const deactivated = await now()
    await root(`update app_public.role_permissions set role = 'ADMIN' where permission = 'request.decide'`)
    const restricted = await now()
    await root(`update app_public.role_permissions set role = 'MANAGER' where permission = 'request.decide'`)
    await root('update app_public.users set is_deleted = false where id = $1', [stage.id.manager2])
    await stage.rows('admin', `select app_hidden.transition('${id}', 'ASSIGN', null, '{"assigned_to_id": null}')`)
    await stage.rows('admin', `select app_hidden.transition('${id}', 'APPROVE')`)

    const whoAt = async (moment: string) => (await at(id, moment)).map((row) => row['who'])
    expect(await at(id, unassigned)).toEqual(whole)
    expect(await at(id, assigned)).toContainEqual(expect.objectContaining({ who: 'manager', role: 'MANAGER', is_assignee: true }))
    expect(await whoAt(assigned)).not.toContain('manager2')
    expect(await whoAt(assigned)).toContain('admin')
    expect(await whoAt(demoted)).not.toContain('manager') // An assignee who cannot decide counts as none.
    expect(await whoAt(demoted)).toContain('manager2')
    expect(await whoAt(deactivated)).toContain('manager')
    expect(await whoAt(deactivated)).not.toContain('manager2')
    expect(await whoAt(restricted)).toContain('admin')
    expect(await whoAt(restricted)).not.toContain('manager')
    for (const moment of [asDraft, await now()]) expect(await at(id, moment)).toEqual([])
  })

  describe('entangled_decisions', () => {
    const create = (email: string, role: string) =>
      `select * from app_public.create_user('${email}@assent.test', 'Pat Puppet', '${role}')`
    const promote = (id: string, role = 'MANAGER') => `select * from app_public.update_user('${id}', role => '${role}')`
    const invite = (id: string) => `select * from app_public.resend_invitation('${id}')`
    /** An account of no creator, as those are that were registered by SQL. */
    const registered = async (email: string, role: string): Promise<string> =>
      (await stage.rows('owner', `select id from app_private.register_user('${email}@assent.test', 'Pat', '${role}', null)`))[0]![
        'id'
      ]
    /** Has an account decide a request. */
    async function decide(id: string, creator: Person, verdict = `approve_request($1)`): Promise<string> {
      const request = await stage.request({ creator, assignee: null, status: 'SUBMITTED' })
      const { rows } = await stage.root.query('select session_secret as secret from app_private.open_session($1, false, null)', [
        id,
      ])
      await asSession(await stage.db.connect('auth'), rows[0].secret, `select app_public.${verdict}`, [request.id])
      return request.id
    }
    const ties = async (request: string) =>
      (await read('select tie from audit.entangled_decisions where request_id = $1 order by tied_at', [request])).map(
        ({ tie }) => tie,
      )

    test('tells of a decision by an account that its creator had made, with what that was and when', async () => {
      const [{ id }] = (await stage.rows('admin', create('puppet', 'MANAGER'))) as [Row]
      const request = await decide(id, 'admin')
      const [found, ...others] = await read('select * from audit.entangled_decisions where request_id = $1', [request])
      expect(others).toEqual([])
      expect(found).toEqual({
        timestamp: expect.any(Date),
        action: 'APPROVE',
        actor_id: id,
        actor_name: 'Pat Puppet',
        actor_email: 'puppet@assent.test',
        request_id: request,
        title: "admin's SUBMITTED",
        creator_id: stage.id.admin,
        creator_name: 'Ada Admin',
        tie: 'USER_CREATE',
        tied_at: expect.any(Date),
        tie_metadata: { name: 'Pat Puppet', role: 'MANAGER' },
        audit_log_id: expect.any(String),
        tie_audit_log_id: expect.any(String),
        tied_by_id: stage.id.admin,
      })
      const [decision, tie] = ['audit_log_id', 'tie_audit_log_id'].map((key) => found![key])
      const { rows } = await stage.root.query('select id, action from app_public.audit_logs where id = any ($1)', [
        [decision, tie],
      ])
      expect(rows).toEqual(
        expect.arrayContaining([
          { id: decision, action: 'APPROVE' },
          { id: tie, action: 'USER_CREATE' },
        ]),
      )
      // A decision on anybody else's request is none of these.
      expect(await ties(await decide(id, 'admin2'))).toEqual([])
    })

    test.each<[string, (id: string) => [Person | 'owner', string][], string[]]>([
      [
        'reactivated',
        (id) => [
          ['admin', `select * from app_public.deactivate_user('${id}')`],
          ['admin', `select * from app_public.reactivate_user('${id}')`],
        ],
        ['USER_REACTIVATE'],
      ],
      ['given another role', (id) => [['admin', promote(id, 'ADMIN')]], ['USER_UPDATE']],
      ['invited again', (id) => [['admin', invite(id)]], ['INVITATION_RESEND']],
      [
        'both',
        (id) => [
          ['admin', invite(id)],
          ['admin', promote(id, 'ADMIN')],
        ],
        ['INVITATION_RESEND', 'USER_UPDATE'],
      ],
      ['renamed', (id) => [['admin', `select * from app_public.update_user('${id}', name => 'Other')`]], []],
      ['given another role by somebody else', (id) => [['admin2', promote(id, 'ADMIN')]], []],
      [
        'given another role by SQL',
        (id) => [['owner', `update app_public.users set role = 'ADMIN' where id = '${id}' returning id`]],
        [],
      ],
    ])('of an account that was registered by SQL, and by its creator: %s', async (name, acts, expected) => {
      const id = await registered(name.replaceAll(' ', '-'), 'MANAGER')
      for (const [actor, statement] of acts(id)) {
        if (actor === 'owner') await stage.root.query(statement)
        else await stage.rows(actor, statement)
      }
      expect(await ties(await decide(id, 'admin', `reject_request($1, 'No')`))).toEqual(expected)
    })

    test('tells of a puppet of a puppet, however long the chain, in which accounts may have made each other', async () => {
      const chain = [stage.id.admin]
      for (const name of ['first', 'second', 'third']) {
        const { rows } = await stage.root.query(
          'select session_secret as secret from app_private.open_session($1, false, null)',
          [chain.at(-1)],
        )
        const made = await asSession(await stage.db.connect('auth'), rows[0].secret, create(`${name}-of-chain`, 'ADMIN'))
        chain.push(made[0]!['id'])
      }
      const [, first, second, third] = chain as [string, string, string, string]
      await stage.root.query(
        `insert into app_public.audit_logs (action, actor_id, user_id, metadata) values ('USER_UPDATE', $1, $2, '{"role": {}}')`,
        [third, first],
      )
      const told = async (request: string) =>
        read('select tie, tied_by_id as by from audit.entangled_decisions where request_id = $1', [request])
      expect(await told(await decide(third, 'admin'))).toEqual([{ tie: 'USER_CREATE', by: second }])
      expect(await told(await decide(first, 'admin'))).toEqual(
        expect.arrayContaining([
          { tie: 'USER_CREATE', by: stage.id.admin },
          { tie: 'USER_UPDATE', by: third },
        ]),
      )
      expect(await told(await decide(third, 'admin2'))).toEqual([])
    })

    test('tells once of what was done often', async () => {
      const id = await registered('often', 'MANAGER')
      for (const role of ['ADMIN', 'MANAGER', 'ADMIN']) await stage.rows('admin', promote(id, role))
      expect(await ties(await decide(id, 'admin'))).toEqual(['USER_UPDATE'])
    })

    test('does not tell of what its creator did afterwards', async () => {
      const id = await registered('later', 'MANAGER')
      const request = await decide(id, 'admin')
      await stage.rows('admin', promote(id, 'ADMIN'))
      expect(await ties(request)).toEqual([])
    })
  })

  test('disagreements is empty when all is sound', async () => {
    expect(await read('select * from audit.disagreements')).toEqual([])
  })

  const forge = (set: string) => (id: string) => `update app_public.requests set ${set} where id = '${id}'`
  test.each([
    [
      'a status that no entry tells of',
      'SUBMITTED',
      () => forge(`status = 'APPROVED', reviewed_at = now(), reviewed_by_id = '${stage.id.admin}'`),
    ],
    ['a decision turned round', 'APPROVED', () => forge(`status = 'REJECTED', review_comment = 'x'`)],
    ['another decider', 'APPROVED', () => forge(`reviewed_by_id = '${stage.id.admin}'`)],
    ['a change without an entry', 'DRAFT', () => forge(`title = 'x', version = version + 1`)],
    ['a version taken back', 'SUBMITTED', () => forge('version = 1')],
    ['a deletion without an entry', 'DRAFT', () => forge('is_deleted = true')],
    ['a deletion undone', 'DELETED', () => forge('is_deleted = false')],
    [
      'an entry without a change',
      'DRAFT',
      () => (id: string) =>
        `insert into app_public.audit_logs (action, request_id, request_creator_id) select 'UPDATE', id, creator_id from app_public.requests where id = '${id}'`,
    ],
    [
      'an entry removed',
      'SUBMITTED',
      () => (id: string) =>
        `alter table app_public.audit_logs disable trigger all; delete from app_public.audit_logs where request_id = '${id}' and action = 'SUBMIT'`,
    ],
    [
      'the whole trail removed',
      'DRAFT',
      () => (id: string) =>
        `alter table app_public.audit_logs disable trigger all; delete from app_public.audit_logs where request_id = '${id}'`,
    ],
    [
      'an entry rewritten',
      'APPROVED',
      () => (id: string) =>
        `alter table app_public.audit_logs disable trigger all; update app_public.audit_logs set actor_id = '${stage.id.admin}' where request_id = '${id}' and action = 'APPROVE'`,
    ],
    [
      'a request without a trail',
      'DRAFT',
      () => () => `insert into app_public.requests (title, status, creator_id) values ('Smuggled', 'DRAFT', '${stage.id.user}')`,
    ],
  ] as const)('disagreements finds %s', async (_, status, plant) => {
    const { id } = await stage.request({ creator: 'user', assignee: null, status })
    await stage.root.query('begin; set local session_replication_role = replica')
    await stage.root.query(plant()(id))
    await stage.root.query('set local role assent_auditor')
    const found = (await stage.root.query('select request_id, title from audit.disagreements')).rows
    await stage.root.query('rollback')
    expect(found).toHaveLength(1)
    expect(found[0]!['request_id'] === id || found[0]!['title'] === 'Smuggled').toBe(true)
  })
})

describe('what is done by SQL', () => {
  let owner: pg.Client
  let id: string
  beforeAll(async () => {
    owner = await stage.db.connect('owner')
    id = (await stage.request({ creator: 'user', assignee: null, status: 'DRAFT' })).id
  })
  const by = { actor_id: null, ip_address: null, request_id: null, request_creator_id: null, user_id: null }
  const login = { database_login: 'assent_owner' }
  const database_user = 'assent_owner'
  const user_id = () => stage.id.user
  /** The entries that a statement of the owner leaves, which is undone afterwards. */
  async function left(statement: string): Promise<Row[]> {
    await owner.query('begin')
    try {
      const last = (await owner.query('select max(id::text) as id from app_public.audit_logs')).rows[0].id
      await owner.query(statement)
      const { rows } = await owner.query('select * from app_public.audit_logs where id::text > $1 order by id', [last])
      return rows.map((row) => ({ ...bare(row), database_login: row.database_login }))
    } finally {
      await owner.query('rollback')
    }
  }

  test.each([
    [`insert into app_public.audit_logs (actor_id, action, user_id) select id, 'LOGIN', id from app_public.users limit 1`],
    [`select app_private.log_action('LOGIN', id, id) from app_public.users limit 1`],
    [`do $$ begin perform app_private.log_action('LOGIN', null); end $$`],
    [`insert into app_public.audit_logs (action, "timestamp") values ('PASSWORD_RESET_REQUEST', '2025-01-01')`],
    [`insert into app_public.audit_logs (action) select action from app_public.audit_actions`],
    [`insert into app_private.audit_logs_earliest (action) values ('LOGIN')`],
    [`insert into app_private.audit_logs_later (action, "timestamp") values ('LOGIN', 'infinity')`],
    [
      `select app_private.log_action('APPROVE', null, request_id => id, request_creator_id => creator_id) from app_public.requests`,
    ],
    [`set local session_authorization = default; insert into app_public.audit_logs (action) values ('LOGIN')`],
  ])('no statement of the owner makes an entry up: %s', async (statement) => {
    await expect(left(statement)).rejects.toMatchObject({ code: 'RQ403' })
  })

  /** Runs a statement of the owner within a trigger that the owner has made. */
  const within = (statement: string) => `
    create temporary table own (n integer) on commit drop;
    create function pg_temp.act() returns trigger language plpgsql as $$ begin ${statement}; return null; end $$;
    create trigger act after insert on own for each row execute function pg_temp.act();
    insert into own values (1)`

  test('a trigger of the owner names no other person and no other time', async () => {
    const made = await left(
      within(`insert into app_public.audit_logs (actor_id, action, user_id, "timestamp")
        select id, 'USER_UPDATE', id, '2020-01-01' from app_public.users where id = '${stage.id.manager}'`),
    )
    expect(made).toMatchObject([{ actor_id: null, action: 'USER_UPDATE', metadata: { database_user }, ...login }])
    const later = within(`insert into app_public.audit_logs (action, "timestamp") values ('LOGIN', 'infinity')`)
    await expect(left(later)).rejects.toMatchObject({ code: '0A000' })
  })

  test.each<[string, () => string]>([
    ['SESSION_OPEN', () => `perform app_private.open_session('${stage.id.manager}', true, 'made')`],
    ['PASSWORD_CHANGE', () => `update app_private.credentials set password_hash = 'x' where user_id = '${stage.id.manager}'`],
    [
      'CREDENTIALS_CHANGE',
      () => `update app_private.credentials set email = 'x@example.com' where user_id = '${stage.id.manager}'`,
    ],
    ['DATA_CHANGE', () => `insert into app_private.password_reset_requests (account_key) values ('\\x00')`],
  ])('a trigger of the owner leaves %s as the statement would', async (action, statement) => {
    expect(await left(within(statement()))).toEqual(expect.arrayContaining([expect.objectContaining({ action, ...login })]))
  })

  test('nor one of the worker or the API', async () => {
    for (const actor of ['authenticator', 'anonymous', 'user', 'admin', 'auditor'] as const) {
      for (const statement of [
        `insert into app_public.audit_logs (action) values ('LOGIN')`,
        `select app_private.log_action('LOGIN', null)`,
      ]) {
        expect({ actor, code: (await stage.attempt(actor, statement)).code }).toEqual({ actor, code: '42501' })
      }
    }
    const worker = await stage.db.connect('worker')
    for (const statement of [
      `insert into app_public.audit_logs (action) values ('LOGIN')`,
      `select app_private.log_action('LOGIN', null)`,
    ]) {
      await expect(worker.query(statement)).rejects.toMatchObject({ code: '42501' })
    }
  })

  test('a superuser can make one up, which then names the login', async () => {
    const { rows } = await stage.root.query(
      `insert into app_public.audit_logs (action, database_login) values ('LOGIN_FAILED', 'assent_worker') returning database_login`,
    )
    expect(rows).toEqual([{ database_login: 'postgres' }])
  })

  // migrate itself writes app_private.applied_rules, at each of its runs; what it says can be compared with the program.
  const untraced = ['app_private.applied_rules']

  test('there is no table whose rows SQL changes without a trace', async () => {
    const { rows } = await stage.root.query(`
      select t.oid::regclass::text as "table", e.event
      from pg_class t cross join (values ('INSERT', 4), ('DELETE', 8), ('UPDATE', 16), ('TRUNCATE', 32)) e (event, bit)
      where t.relkind in ('r', 'p') and t.relnamespace in ('app_public'::regnamespace, 'app_private'::regnamespace)
        and not exists (
          select from pg_trigger g
          where g.tgrelid = t.oid and not g.tgisinternal and g.tgenabled in ('O', 'A') and g.tgtype & e.bit > 0
            and g.tgfoid::regproc::text ~ '^app_private.tg_+(refuse|audit|\\w+__audit|audit_\\w+|audit_logs__stamp)'
        )
      order by 1, 2`)
    expect(rows.map(({ table }) => table).filter((table) => !untraced.includes(table))).toEqual([])
    expect(new Set(rows.map(({ table }) => table))).toEqual(new Set(untraced))
  })

  const changed = (table: string, operation: string, rows = 1) => [
    { action: 'DATA_CHANGE', user_id: null, metadata: { by: 'SQL', operation, table, rows, database_user } },
  ]
  const credentials = (operation: string, fields: string[]) => ({ by: 'SQL', operation, fields, database_user })
  test.each<[string, () => string, (metadata: Row) => unknown[]]>([
    [
      'a new password, of which the person is told',
      () => `update app_private.credentials set password_hash = 'x' where user_id = '${user_id()}'`,
      () => [{ action: 'PASSWORD_CHANGE', user_id: user_id(), metadata: credentials('UPDATE', ['password_hash']) }],
    ],
    [
      'a new address',
      () => `update app_private.credentials set email = 'x@example.com' where user_id = '${user_id()}'`,
      () => [{ action: 'CREDENTIALS_CHANGE', user_id: user_id(), metadata: credentials('UPDATE', ['email']) }],
    ],
    [
      'credentials that go',
      () => `delete from app_private.credentials where user_id = '${user_id()}'`,
      () => [
        {
          action: 'CREDENTIALS_CHANGE',
          user_id: user_id(),
          metadata: expect.objectContaining({ operation: 'DELETE', by: 'SQL' }),
        },
      ],
    ],
    [
      'a person',
      () => `select app_private.register_user('made@example.com', 'Made', 'ADMIN', 'x')`,
      () => [{ action: 'USER_CREATE', user_id: expect.any(String), metadata: { name: 'Made', role: 'ADMIN', database_user } }],
    ],
    [
      'a session',
      () => `select app_private.open_session('${user_id()}', true, 'x')`,
      () => [{ action: 'SESSION_OPEN', user_id: user_id(), metadata: expect.objectContaining({ database_user }) }],
    ],
    [
      'a link to choose a password',
      () => `select app_private.issue_reset_token('${user_id()}', interval '10 years')`,
      () => [
        { action: 'CREDENTIALS_CHANGE', user_id: user_id(), metadata: expect.objectContaining({ fields: ['password_resets'] }) },
      ],
    ],
    [
      'a refresh token',
      () =>
        `insert into app_private.refresh_tokens (token_hash, session_id, is_used, good_until)
         select '\\x01', id, false, now() from app_private.sessions limit 1`,
      () => changed('refresh_tokens', 'INSERT'),
    ],
    [
      'failures that were none',
      () =>
        `with tried as (insert into app_private.login_attempts (account_key) values ('\\x01'), ('\\x02') returning id)
         select from tried`,
      () => changed('login_attempts', 'INSERT', 2),
    ],
    [
      'a notification',
      () =>
        `insert into app_public.notifications (recipient_id, kind, event, mail_state) values ('${user_id()}', 'DIGEST', 'x', 'NONE')`,
      () => changed('notifications', 'INSERT'),
    ],
    [
      'the words of the rules',
      () => `update app_public.webhook_events set description = '' where event = 'user.created'`,
      () => changed('webhook_events', 'UPDATE'),
    ],
    ['nothing', () => `delete from app_private.idempotency_keys where false`, () => []],
    [
      'the secret of a session',
      () =>
        `update app_private.sessions set secret_hash = '\\x00' where secret_hash = app_private.hash_secret('${stage.secret.user}')`,
      () => [
        {
          action: 'SESSION_CHANGE',
          user_id: user_id(),
          metadata: expect.objectContaining({ fields: ['secret_hash'], operation: 'UPDATE' }),
        },
      ],
    ],
    [
      'the end of a session',
      () =>
        `update app_private.sessions set revoked_at = now() where secret_hash = app_private.hash_secret('${stage.secret.user}')`,
      () => [{ action: 'SESSION_REVOKE', user_id: user_id(), metadata: expect.objectContaining({ fields: ['revoked_at'] }) }],
    ],
    [
      'a session that goes',
      () => `delete from app_private.sessions where secret_hash = app_private.hash_secret('${stage.secret.user}')`,
      () => [{ action: 'SESSION_REVOKE', user_id: user_id(), metadata: expect.objectContaining({ operation: 'DELETE' }) }],
    ],
    [
      'the use of a session: nothing',
      () => `update app_private.sessions set last_used_at = now() + interval '1 second'`,
      () => [],
    ],
    [
      'a deactivation, and the session that it ends',
      () => `update app_public.users set is_deleted = true where id = '${user_id()}'`,
      () => [
        {
          action: 'USER_DEACTIVATE',
          user_id: user_id(),
          metadata: { is_deleted: { old: false, new: true }, database_user },
        },
        {
          action: 'SESSION_REVOKE',
          user_id: user_id(),
          metadata: { by: 'SQL', operation: 'UPDATE', session_id: expect.any(String), fields: ['revoked_at'], database_user },
        },
      ],
    ],
    [
      'what a role may do',
      () => `update app_public.role_permissions set role = 'USER' where permission = 'audit.read_all'`,
      () => [
        {
          action: 'PERMISSION_CHANGE',
          metadata: {
            table: 'role_permissions',
            old: { role: 'ADMIN', permission: 'audit.read_all' },
            new: { role: 'USER', permission: 'audit.read_all' },
            database_user,
          },
        },
      ],
    ],
    [
      'a permission that goes',
      () => `delete from app_public.role_permissions where permission = 'audit.read_all'`,
      () => [{ action: 'PERMISSION_CHANGE', metadata: expect.objectContaining({ new: null }) }],
    ],
    [
      'a webhook, without what may be a secret',
      () => `insert into app_public.webhooks (url, events, signing_key) values ('https://x.test/secret', '{user.created}', 'k')`,
      () => [{ action: 'WEBHOOK_CREATE', metadata: expect.objectContaining({ origin: 'https://x.test' }) }],
    ],
    [
      'a preference',
      () => `insert into app_private.notification_preferences values ('${user_id()}', 'DIGEST', 'NONE')`,
      () => [
        {
          action: 'PREFERENCE_CHANGE',
          user_id: user_id(),
          metadata: { kind: 'DIGEST', delivery: { old: null, new: 'NONE' }, database_user },
        },
      ],
    ],
    [
      'a request that is changed beside its status',
      () =>
        `set local assent.action = 'SUBMIT';
         update app_public.requests set status = 'SUBMITTED', submitted_at = now(), title = 'another' where id = '${id}'`,
      () => [
        {
          action: 'SUBMIT',
          request_id: id,
          request_creator_id: user_id(),
          metadata: {
            old_status: 'DRAFT',
            new_status: 'SUBMITTED',
            title: { old: `user's DRAFT`, new: 'another' },
            database_user,
          },
        },
      ],
    ],
  ])('leaves its entry with the login: %s', async (_, statement, expected) => {
    const found = await left(statement())
    expect(found).toEqual(expected({}).map((entry) => ({ ...by, ...login, ...(entry as Row) })))
    expect(JSON.stringify(found)).not.toMatch(/secret'|"k"|\$2a/)
  })

  test.each(['app_private.credentials', 'app_private.sessions', 'app_public.role_permissions', 'app_public.webhooks'])(
    '%s cannot be emptied at a stroke',
    async (table) => {
      await expect(left(`truncate ${table} cascade`)).rejects.toMatchObject({ code: 'RQ403' })
    },
  )

  test('an entry of a caller names the login of the API', async () => {
    const [entry] = await stage.leaves(() => stage.rows('user', `select * from app_public.create_request('T')`))
    expect(entry!['database_login']).toBe('assent_authenticator')
  })

  test('a preference that a caller changes leaves an entry, and one that is set to what it was does not', async () => {
    const set = () => stage.rows('admin', `select app_public.set_notification_preference('APPROVED', 'NONE')`)
    expect((await stage.leaves(set)).map(bare)).toEqual([
      stage.entry('PREFERENCE_CHANGE', 'admin', 'admin', { kind: 'APPROVED', delivery: { old: null, new: 'NONE' } }),
    ])
    expect(await stage.leaves(set)).toEqual([])
  })

  test('audit.unproven_entries tells of entries whose actor had no session that a login had opened', async () => {
    const unproven = async () =>
      (await auditor.query('select action, actor_id, database_login from audit.unproven_entries order by "timestamp" desc')).rows
    const { session_secret } = await loginAs('manager2')
    const before = await unproven()
    await stage.db
      .connect('auth')
      .then((client) => asSession(client, session_secret!, `select app_public.create_request('Mine')`))
    expect(await unproven()).toEqual(before)

    const { rows } = await owner.query(`select session_secret as secret from app_private.open_session($1, false, null)`, [
      stage.id.manager,
    ])
    await stage.db
      .connect('auth')
      .then((client) => asSession(client, rows[0].secret, `select app_public.create_request('Theirs')`))
    const [newest, ...rest] = await unproven()
    expect(newest).toEqual({ action: 'CREATE', actor_id: stage.id.manager, database_login: 'assent_authenticator' })
    expect(rest).toEqual(before)
  })
})

const loginAs = (name: string): Promise<Login> => login(api, `${name}@assent.test`)
