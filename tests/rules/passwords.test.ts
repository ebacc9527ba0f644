import { createHash } from 'node:crypto'
import pg from 'pg'
import { asSession, bare, digest, login, openStage, type Person, type Row, type Stage } from '../harness/stage.ts'

// A forgotten password: what is asked for, by whom and how often; that the link is good once, and its secret kept nowhere; and
// what a new password ends.

let stage: Stage
let api: pg.Client
let worker: pg.Client
let owner: pg.Client

beforeAll(async () => {
  stage = await openStage()
  api = await stage.db.connect('auth')
  worker = await stage.db.connect('worker')
  owner = await stage.db.connect('owner')
})
beforeEach(async () => {
  await stage.recast()
  await stage.root.query('delete from app_private.password_reset_requests')
  await stage.root.query('update app_public.users set is_deleted = true where id = $1', [stage.id.gone])
  await stage.tell()
})
afterAll(() => stage?.close())

const IP = '192.0.2.1'
const old = 'assent-demo-password'
const fresh = 'a password of nobody else'
const email = (person: Person) => `${person}@assent.test`
const hash = (secret: string) => createHash('sha256').update(secret).digest()

const begin = (address: string | null, ip: string | null = IP, client = worker) =>
  client.query('select app_private.begin_password_reset($1, $2)', [address, ip])
const requests = async (): Promise<Row[]> =>
  (await stage.root.query(`select * from app_public.audit_logs where action = 'PASSWORD_RESET_REQUEST' order by "timestamp"`))
    .rows
/** Requests of a time ago, as `begin` counts them. */
async function asked(address: string, count: number, ago: string, ip: string | null = IP): Promise<void> {
  await stage.root.query(`select set_config('assent.ip', $1, false)`, [ip ?? ''])
  await stage.root.query(
    `insert into app_private.password_reset_requests (account_key, network, requested_at)
     select app_private.account_key($1), app_private.caller_network(), now() - $2::interval from generate_series(1, $3)`,
    [address, ago, count],
  )
}
const link = async (person: Person): Promise<string> =>
  (await owner.query(`select app_private.issue_reset_token($1, '30 minutes') as token`, [stage.id[person]])).rows[0].token
const links = async (person: Person): Promise<Buffer[]> =>
  (await stage.root.query('select secret_hash from app_private.password_resets where user_id = $1', [stage.id[person]])).rows.map(
    ({ secret_hash }) => secret_hash,
  )
const passwords = async (): Promise<Row[]> =>
  (await stage.root.query('select user_id, password_hash from app_private.credentials order by user_id')).rows

/** What became of a reset: undefined when it is done, else what it failed with. */
async function reset(
  token: string | null,
  { password = fresh, weakness = null as string | null, session = '', client = api } = {},
): Promise<Row | undefined> {
  try {
    await asSession(client, session, 'select app_hidden.reset_password($1, $2, $3)', [token, digest(password), weakness])
    return undefined
  } catch (error) {
    const { code, column, message } = error as pg.DatabaseError
    return { code, column, message }
  }
}
const useless = {
  code: 'RQ422',
  column: 'token',
  message: 'This link has been used, has expired or is unknown: request a new one.',
}
const leaves = async (act: () => Promise<unknown>) => (await stage.leaves(act)).map(bare)

/** Whatever there is in the database but reference data and the catalog: table by table, how many rows. */
async function everything(): Promise<Record<string, number>> {
  const { rows: tables } = await stage.root.query(`
    select c.oid::regclass::text as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and not c.relispartition and n.nspname ~ '^(app_|audit|graphile_worker)' order by 1`)
  const all = tables.map(({ name }) => `select '${name}' as name, count(*)::integer as count from ${name}`).join(' union all ')
  return Object.fromEntries((await stage.root.query(all)).rows.map(({ name, count }) => [name, count]))
}

describe('asking', () => {
  const request = 'select app_public.request_password_reset($1)'

  test.each<[string, string | null]>([
    ['known', 'user@assent.test'],
    ['known, in other letters', 'User@ASSENT.test'],
    ['unknown', 'nobody@assent.test'],
    ["a deactivated person's", 'gone@assent.test'],
    ['no address', 'user@assent.test, user2@assent.test'],
    ['empty', ''],
    ['null', null],
    ['endless', 'x'.repeat(100_000)],
  ])('leaves one job and nothing else, for an address that is %s', async (_, address) => {
    await asSession(api, '', request, ['once@before.all']) // to have its task known
    const before = await everything()
    const rows = await asSession(api, '', request, [address])
    expect(rows).toEqual([{ request_password_reset: '' }])
    const after = await everything()
    expect(after).toEqual({ ...before, 'graphile_worker._private_jobs': before['graphile_worker._private_jobs']! + 1 })
    expect((await stage.jobs('begin_password_reset')).at(-1)).toEqual({ email: address?.slice(0, 255) ?? null, ip: IP })
  })

  test('is for whoever asks: signed in, or with a cookie that is dead', async () => {
    const before = (await stage.jobs('begin_password_reset')).length
    for (const session of [stage.secret.user, stage.secret.admin, 'cookie:dead']) {
      await asSession(api, session, request, ['user@assent.test'])
    }
    expect(await stage.jobs('begin_password_reset')).toHaveLength(before + 3)
  })
})

describe('the job of it', () => {
  test('leaves an entry without an actor, and has a link mailed', async () => {
    for (const address of ['user@assent.test', 'USER@assent.TEST']) {
      expect(await leaves(() => begin(address))).toEqual([stage.entry('PASSWORD_RESET_REQUEST', null, 'user')])
      const [told, ...others] = await stage.tell()
      expect(others).toEqual([])
      expect(told).toMatchObject({ kind: 'PASSWORD_RESET', recipient_id: stage.id.user, actor_id: null, mail_state: 'QUEUED' })
      expect((await stage.jobs('send_mail')).at(-1)).toEqual({ id: told!['id'] })
    }
  })

  test('is counted, and nothing else, for an address that is unknown, and for a deactivated person', async () => {
    const before = await everything()
    const addresses = ['nobody@assent.test', 'gone@assent.test', '', null]
    for (const address of addresses) await begin(address)
    expect(await everything()).toEqual({ ...before, 'app_private.password_reset_requests': addresses.length })
  })

  test('forgets what was counted more than 15 minutes ago', async () => {
    await asked('nobody@assent.test', 5, '15 minutes 10 seconds')
    await asked('nobody@assent.test', 2, '14 minutes 50 seconds')
    await begin('user@assent.test')
    expect((await everything())['app_private.password_reset_requests']).toBe(3)
  })

  test.each([
    [0, true],
    [2, true],
    [3, false],
    [4, false],
  ])('after %d within 15 minutes for an address, in whatever letters: %s', async (count, goesOn) => {
    await asked('User@ASSENT.test', count, '14 minutes 50 seconds', '198.51.100.7') // wherever they came from
    await asked('user@assent.test', 5, '15 minutes 10 seconds')
    expect(await leaves(() => begin('user@assent.test'))).toHaveLength(goesOn ? 1 : 0)
    // An account of its own.
    expect(await leaves(() => begin('user2@assent.test'))).toHaveLength(1)
  })

  test.each([
    ['19 from the same address', 19, '198.51.100.1', '198.51.100.1', true],
    ['20 from the same address', 20, '198.51.100.1', '198.51.100.1', false],
    ['20 from the address beside it', 20, '198.51.100.2', '198.51.100.1', true],
    ['20 from the same network', 20, '2001:db8:1:2::1', '2001:db8:1:2:ffff::9', false],
    ['20 from another network', 20, '2001:db8:1:3::1', '2001:db8:1:2::1', true],
    ['20 from nowhere', 20, null, '198.51.100.1', true],
    ['20 from somewhere, of one from nowhere', 20, '198.51.100.1', null, true],
  ])('after %s within 15 minutes, whoever they were for', async (_, count, before, ip, goesOn) => {
    await asked('idler@assent.test', count, '14 minutes 50 seconds', before)
    await asked('idler@assent.test', 20, '15 minutes 10 seconds', ip)
    expect(await leaves(() => begin('user@assent.test', ip))).toHaveLength(goesOn ? 1 : 0)
  })

  test.each(['user2@assent.test', 'nobody@assent.test', 'gone@assent.test'])(
    'does not tell by what is left of the allowance of a network whether there is an account: %s',
    async (address) => {
      await asked('idler@assent.test', 19, '1 minute')
      await begin(address)
      expect(await leaves(() => begin('user@assent.test'))).toEqual([])
    },
  )

  test('of many at once for one account 3 go on', async () => {
    const clients = await Promise.all(Array.from({ length: 8 }, () => stage.db.connect('worker')))
    const before = (await requests()).length
    await Promise.all(clients.map((client, i) => begin('user@assent.test', `198.51.100.${i}`, client)))
    expect((await requests()).length - before).toBe(3)
  })

  test('of many at once from one network 20 go on', async () => {
    const clients = await Promise.all(Array.from({ length: 8 }, () => stage.db.connect('worker')))
    await asked('idler@assent.test', 18, '1 minute')
    const before = (await requests()).length
    const accounts = ['user', 'user2', 'manager', 'manager2', 'admin', 'admin2', 'left', 'idle'] as const
    await Promise.all(clients.map((client, i) => begin(email(accounts[i]!), IP, client)))
    expect((await requests()).length - before).toBe(2)
  })
})

describe('a link', () => {
  test('is made with its mail, and kept for 30 minutes, as a hash', async () => {
    const before = await links('user2')
    const { rows } = await stage.root.query(
      `insert into app_public.notifications (recipient_id, kind, event, mail_state) values ($1, 'PASSWORD_RESET', 'made', 'QUEUED') returning id`,
      [stage.id.user2],
    )
    expect(await links('user2')).toEqual(before)
    const made = async () =>
      (await owner.query(`select app_private.begin_mail($1, 'assent.test') as mail`, [rows[0].id])).rows[0].mail
    const [first, second] = [await made(), await made()]
    expect(first.token).toMatch(/^[A-Za-z0-9_-]{43}$/)
    expect(second.token).not.toBe(first.token) // Which of the two mails arrives nobody knows.
    expect(await links('user2')).toEqual(expect.arrayContaining([hash(first.token), hash(second.token)]))
    const { rows: kept } = await stage.root.query(
      `select extract(epoch from expires_at - now())::float as seconds from app_private.password_resets where user_id = $1`,
      [stage.id.user2],
    )
    for (const { seconds } of kept) expect(Math.abs(1800 - seconds)).toBeLessThan(60)
  })

  test('is nowhere but in its mail: in no column, and in no job', async () => {
    await begin('manager2@assent.test')
    const [told] = await stage.tell()
    const { rows } = await owner.query(`select app_private.begin_mail($1, 'assent.test') ->> 'token' as token`, [told!['id']])
    const { token } = rows[0]
    const inUse = await link('manager2')
    expect(await reset(inUse)).toBe(undefined)
    await stage.tell()

    const { rows: tables } = await stage.root.query(`
      select c.oid::regclass::text as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p') and not c.relispartition and n.nspname ~ '^(app_|audit|graphile_worker)'`)
    const dump = (
      await stage.root.query(tables.map(({ name }) => `select '${name} ' || t::text as row from ${name} t`).join(' union all '))
    ).rows
      .map(({ row }) => row)
      .join('\n')
    // It would be seen: what is to be there is.
    for (const known of ['graphile_worker._private_jobs', told!['id'], 'PASSWORD_CHANGE']) expect(dump).toContain(known)
    for (const secret of [token, inUse]) {
      const written = [secret, Buffer.from(secret).toString('hex'), Buffer.from(secret).toString('base64').replaceAll('=', '')]
      expect(written.filter((one) => dump.includes(one))).toEqual([])
    }
  })

  test('sets a new password, in the name of its person, whoever opens it', async () => {
    for (const session of ['', stage.secret.user2, 'cookie:dead']) {
      const token = await link('idler')
      const entries = await leaves(async () => expect(await reset(token, { session })).toBe(undefined))
      expect(entries).toEqual([stage.entry('PASSWORD_CHANGE', 'idler', 'idler', { by: 'a mailed link' })])
      expect((await stage.tell()).map(({ kind, recipient_id }) => [kind, recipient_id])).toEqual([
        ['PASSWORD_CHANGED', stage.id.idler],
      ])
    }
    expect((await login(api, email('idler'), fresh)).user_id).toBe(stage.id.idler)
    expect((await login(api, email('idler'), old)).user_id).toBe(null)
  })

  test.each<[string, () => Promise<string | null>]>([
    ['unknown', async () => 'x'.repeat(43)],
    ['empty', async () => ''],
    ['null', async () => null],
    ['the hash of one', async () => hash(await link('user')).toString('hex')],
    ['expired', async () => aged(`interval '0 seconds'`)],
    [
      'used',
      async () => {
        const token = await link('manager')
        expect(await reset(token)).toBe(undefined)
        return token
      },
    ],
    ["a deactivated person's", () => link('gone')],
    [
      'of somebody who was deactivated meanwhile, and is back',
      async () => {
        const token = await link('demoted')
        for (const gone of [true, false])
          await stage.root.query('update app_public.users set is_deleted = $2 where id = $1', [stage.id.demoted, gone])
        return token
      },
    ],
  ])('sets none that is %s, which is all that is told, and leaves nothing', async (_, make) => {
    const token = await make()
    const before = await passwords()
    expect(await leaves(async () => expect(await reset(token)).toEqual(useless))).toEqual([])
    // Nor is anything told of the password.
    expect(await reset(token, { weakness: 'This is weak.' })).toEqual(useless)
    expect(await passwords()).toEqual(before)
  })
  async function aged(left: string): Promise<string> {
    const token = await link('user')
    await stage.root.query(`update app_private.password_resets set expires_at = now() + ${left} where secret_hash = $1`, [
      hash(token),
    ])
    return token
  }

  test('is good to its last seconds', async () => {
    expect(await reset(await aged(`interval '30 seconds'`), { password: old })).toBe(undefined)
  })

  test('stays as it is when the password is weak', async () => {
    const token = await link('user')
    const before = await passwords()
    expect(
      await leaves(async () => {
        expect(await reset(token, { weakness: 'This is weak.' })).toEqual({
          code: 'RQ422',
          column: 'new_password',
          message: 'This is weak.',
        })
      }),
    ).toEqual([])
    expect(await passwords()).toEqual(before)
    expect(await links('user')).toContainEqual(hash(token))
    expect(await reset(token, { password: old })).toBe(undefined)
  })

  test('is good once, also for two at once', async () => {
    const other = await stage.db.connect('auth')
    const token = await link('user')
    const entries = await leaves(async () => {
      await api.query('begin')
      await api.query('set local role assent_anonymous')
      await api.query('select app_hidden.reset_password($1, $2, null)', [token, digest(old)])
      const later = reset(token, { password: 'of the second', client: other })
      await waiting()
      await api.query('commit')
      expect(await later).toEqual(useless)
    })
    expect(entries).toHaveLength(1)
    expect((await login(api, email('user'), old)).user_id).toBe(stage.id.user)
  })

  test('is not used up by one who does not come to an end', async () => {
    const other = await stage.db.connect('auth')
    const token = await link('user')
    await api.query('begin')
    await api.query('set local role assent_anonymous')
    await api.query('select app_hidden.reset_password($1, $2, null)', [token, digest('of the first')])
    const later = reset(token, { password: old, client: other })
    await waiting()
    await api.query('rollback')
    expect(await later).toBe(undefined)
    expect((await login(api, email('user'), old)).user_id).toBe(stage.id.user)
  })

  async function waiting(): Promise<void> {
    const { rowCount } = await stage.root.query(
      `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
    )
    if (!rowCount) await waiting()
  }
})

describe('a new password', () => {
  const sessionsOf = async (person: Person): Promise<number> =>
    (await stage.root.query('select from app_private.sessions where user_id = $1 and revoked_at is null', [stage.id[person]]))
      .rowCount!

  test('by a link ends all sessions of its person, the one that asks too, and those of nobody else', async () => {
    const { session_secret } = await login(api, email('user'), old)
    expect(await sessionsOf('user')).toBeGreaterThan(1)
    const others = await sessionsOf('user2')
    expect(await reset(await link('user'), { session: session_secret!, password: old })).toBe(undefined)
    expect([await sessionsOf('user'), await sessionsOf('user2')]).toEqual([0, others])
    await expect(asSession(api, session_secret!, 'select 1')).rejects.toMatchObject({ code: 'RQ401' })
  })

  test.each<[string, () => Promise<unknown>]>([
    ['by a link', async () => expect(await reset(await link('user2'), { password: old })).toBe(undefined)],
    [
      'by the old one',
      async () => {
        const { session_secret } = await login(api, email('user2'), old)
        const [begun] = await asSession(api, session_secret!, 'select * from app_hidden.begin_password_change(null)')
        const values = [begun!['attempt_id'], digest(old), digest(old)]
        const [done] = await asSession(api, session_secret!, 'select * from app_hidden.change_password($1, $2, $3)', values)
        expect(done!['user_id']).toBe(stage.id.user2)
      },
    ],
    [
      'by SQL',
      () =>
        stage.root.query('update app_private.credentials set password_hash = app_private.hash_password($1) where user_id = $2', [
          digest(old),
          stage.id.user2,
        ]),
    ],
  ])('%s ends all links of its person, and those of nobody else', async (_, set) => {
    const [one, two, foreign] = [await link('user2'), await link('user2'), await link('manager')]
    expect((await links('user2')).length).toBeGreaterThan(1)
    await set()
    expect(await links('user2')).toEqual([])
    expect([await reset(one), await reset(two)]).toEqual([useless, useless])
    expect(await links('manager')).toContainEqual(hash(foreign))
  })

  test('by a link opens an account again that failed logins had closed, and no other', async () => {
    await stage.root.query('delete from app_private.login_attempts')
    await stage.root.query(
      `insert into app_private.login_attempts (account_key, network, failed)
       select app_private.account_key(who), '192.0.2.1', true from unnest(array['user@assent.test', 'user2@assent.test']) who, generate_series(1, 10)`,
    )
    expect((await login(api, email('user'), old)).retry_after).toBeGreaterThan(0)
    expect(await reset(await link('user'))).toBe(undefined)
    expect(await login(api, email('user'), fresh)).toMatchObject({ user_id: stage.id.user, retry_after: null })
    expect((await login(api, email('user2'), old)).retry_after).toBeGreaterThan(0)
  })
})
