import { openStage, type Person, type Row, type Stage } from '../harness/stage.ts'

// What comes by time. Nobody waits for it here: what is to be old is made so.

let stage: Stage
beforeAll(async () => {
  stage = await openStage()
  await stage.retire()
})
afterAll(() => stage?.close())

const all = async (statement: string, values: unknown[] = []): Promise<Row[]> => (await stage.root.query(statement, values)).rows
const asOwner = async (statement: string, values: unknown[] = []) => {
  await stage.root.query('set role assent_owner')
  await stage.root.query(statement, values).finally(() => stage.root.query('reset role'))
}
/** Does what triggers would refuse. */
const pretend = async (statement: string, values: unknown[] = []): Promise<Row[]> => {
  await stage.root.query('set session_replication_role = replica')
  return all(statement, values).finally(() => stage.root.query('reset session_replication_role'))
}
/** Each test begins without a request, and undoes what it did, but for those of two at once. */
const undone = () => {
  beforeEach(async () => {
    await stage.root.query('begin')
    await pretend('delete from app_public.notifications')
    await pretend('delete from app_public.requests')
    await pretend('delete from graphile_worker._private_jobs')
  })
  afterEach(() => stage.root.query('rollback'))
}

interface Waiting {
  readonly waited: string
  readonly creator?: Person
  readonly assignee?: Person | null
  /** How long ago it was assigned, if it was after its submission. */
  readonly assigned?: string
  readonly changes?: string
}

/** A request that was submitted so long ago. */
async function plant({ waited, creator = 'user', assignee = null, assigned, changes }: Waiting): Promise<string> {
  const [{ id }] = (await pretend(
    `insert into app_public.requests (title, status, creator_id, assigned_to_id, submitted_at, created_at)
     values ('T', 'SUBMITTED', $1, $2, now() - $3::interval, now() - $3::interval) returning id`,
    [stage.id[creator], assignee && stage.id[assignee], waited],
  )) as [Row]
  if (changes) await pretend(`update app_public.requests set ${changes} where id = $1`, [id])
  if (assigned) {
    await pretend(
      `insert into app_public.audit_logs (action, request_id, request_creator_id, "timestamp")
       values ('ASSIGN', $1, $2, now() - $3::interval)`,
      [id, stage.id[creator], assigned],
    )
  }
  return id
}

const kept = (kind: string) =>
  all('select * from app_public.notifications where kind = $1 order by created_at, id', [kind]) as Promise<Row[]>
const names = (rows: Row[]) => rows.map(({ recipient_id }) => stage.name(recipient_id)).sort()

describe('reminders', () => {
  const deciders = ['admin', 'admin2', 'manager', 'manager2']

  /** Whom a run reminds. */
  async function remind(): Promise<(Person | null)[]> {
    const before = new Set((await kept('REMINDER')).map(({ id }) => id))
    await asOwner('select app_private.remind()')
    return names((await kept('REMINDER')).filter(({ id }) => !before.has(id)))
  }

  /** Lets time go by, for whatever reminders know of it. */
  async function pass(time: string): Promise<void> {
    await pretend('update app_public.requests set submitted_at = submitted_at - $1::interval', [time])
    await stage.root.query('alter table app_public.audit_logs disable trigger _100_append_only')
    await pretend('update app_public.audit_logs set "timestamp" = "timestamp" - $1::interval', [time])
    await stage.root.query('alter table app_public.audit_logs enable always trigger _100_append_only')
    // An event names the moment that it counts from.
    const since = `split_part(event, ' since ', 2)`
    await pretend(
      `update app_public.notifications set event = split_part(event, ' since ', 1) || ' since ' || case
         when ${since} ~ '^[0-9.]+$' then (${since}::numeric - extract(epoch from $1::interval))::text
         else (${since}::timestamptz - $1::interval)::text end
       where kind = 'REMINDER'`,
      [time],
    )
  }

  describe('of one request', () => {
    undone()

    test('come after 2 days and every 2 days from then; a late one once, in the place of all it should have been', async () => {
      await plant({ waited: '47 hours 59 minutes' })
      expect(await remind()).toEqual([])
      const steps: [string, boolean][] = [
        ['1 minute', true], // 48 hours
        ['0 minutes', false],
        ['47 hours 59 minutes', false],
        ['1 minute', true], // 96 hours
        ['1 hour', false],
        ['143 hours 30 minutes', true], // 10 days: after 6 and 8 there was no worker
        ['0 minutes', false],
        ['23 hours', false],
        ['25 hours', true], // 12 days
      ]
      for (const [time, comes] of steps) {
        await pass(time)
        expect({ time, reminded: await remind() }).toEqual({ time, reminded: comes ? deciders : [] })
      }
    })

    test.each<[string, Waiting, string[]]>([
      ['not their own', { waited: '2 days', creator: 'manager' }, ['admin', 'admin2', 'manager2']],
      ['its assignee alone', { waited: '2 days', assignee: 'manager' }, ['manager']],
      ['all, when its assignee is demoted', { waited: '2 days', assignee: 'demoted' }, deciders],
      ['all, when its assignee is deactivated', { waited: '2 days', assignee: 'gone' }, deciders],
      ['the new assignee 2 days after', { waited: '3 days', assignee: 'manager', assigned: '2 days' }, ['manager']],
      ['nobody before', { waited: '3 days', assignee: 'manager', assigned: '47 hours 59 minutes' }, []],
      ['all, 2 days after it was given back', { waited: '3 days', assigned: '2 days' }, deciders],
      ['nobody before', { waited: '9 days', assigned: '1 day' }, []],
      [
        'nobody of what is decided',
        {
          waited: '9 days',
          changes: `status = 'APPROVED', reviewed_at = now(), reviewed_by_id = (select id from app_public.users where name = 'admin2')`,
        },
        [],
      ],
      ['nobody of what is a draft', { waited: '9 days', changes: `status = 'DRAFT', submitted_at = null` }, []],
      [
        'nobody of what is deleted',
        { waited: '9 days', changes: `status = 'DRAFT', submitted_at = null, is_deleted = true` },
        [],
      ],
    ])('go to who is to decide: %s', async (_, request, expected) => {
      await plant(request)
      expect(await remind()).toEqual(expected)
    })

    test('count from the latest assignment', async () => {
      const id = await plant({ waited: '9 days', assignee: 'manager', assigned: '5 days' })
      expect(await remind()).toEqual(['manager'])
      await stage.rows('manager', `select * from app_public.assign_request('${id}', '${stage.id.manager2}')`)
      expect(await remind()).toEqual([])
      await pass('47 hours')
      expect(await remind()).toEqual([])
      await pass('1 hour 1 minute') // what was done here took its time
      expect(await remind()).toEqual(['manager2'])
    })

    test('stop the moment it is decided', async () => {
      const id = await plant({ waited: '3 days' })
      expect(await remind()).toEqual(deciders)
      await stage.rows('manager', `select * from app_public.reject_request('${id}', 'No')`)
      await pass('10 days')
      expect(await remind()).toEqual([])
    })

    test('do not begin anew when its assignee can no longer decide: those who can then are reminded the next time', async () => {
      await plant({ waited: '3 days', assignee: 'manager' })
      expect(await remind()).toEqual(['manager'])
      await stage.root.query(`update app_public.users set role = 'USER' where id = $1`, [stage.id.manager])
      expect(await remind()).toEqual([])
      await pass('1 day')
      expect(await remind()).toEqual(['admin', 'admin2', 'manager2'])
    })

    test('are of each request by itself, and name it', async () => {
      const [one, two] = [
        await plant({ waited: '2 days', assignee: 'admin' }),
        await plant({ waited: '4 days', assignee: 'admin' }),
      ]
      expect(await remind()).toEqual(['admin', 'admin'])
      const rows = await kept('REMINDER')
      expect(rows.map(({ request_id }) => request_id).sort()).toEqual([one, two].sort())
      for (const row of rows) expect(row).toMatchObject({ actor_id: null, read_at: null, mail_state: 'QUEUED' })
      expect((await stage.jobs('send_mail')).map(({ id }) => id).sort()).toEqual(rows.map(({ id }) => id).sort())
    })

    test.each([
      ['DIGEST', 'DIGEST'],
      ['NONE', 'NONE'],
    ])('are mailed as their recipient prefers: %s', async (delivery, state) => {
      await stage.rows('manager', `select app_public.set_notification_preference('REMINDER', '${delivery}')`)
      await plant({ waited: '2 days', assignee: 'manager' })
      expect(await remind()).toEqual(['manager'])
      expect(await kept('REMINDER')).toEqual([expect.objectContaining({ mail_state: state })])
      expect(await stage.jobs('send_mail')).toEqual([])
    })

    test.each(['timezone', 'datestyle'])('are the same to a worker of another %s', async (setting) => {
      await plant({ waited: '2 days' })
      expect(await remind()).toEqual(deciders)
      await stage.root.query(`set local ${setting} = '${setting === 'timezone' ? 'Asia/Kolkata' : 'German'}'`)
      expect(await remind()).toEqual([])
    })
  })

  test.each(['commit', 'rollback'])('come once from two workers at once, should the first %s', async (end) => {
    const id = await plant({ waited: '2 days' })
    await twoAtOnce('select app_private.remind()', end)
    const rows = (await kept('REMINDER')).filter(({ request_id }) => request_id === id)
    expect(names(rows)).toEqual(deciders)
  })
})

/** The second runs while the first has run and is not at its end. */
async function twoAtOnce(statement: string, end: string): Promise<void> {
  const [first, second] = [await stage.db.connect('owner'), await stage.db.connect('owner')]
  await first.query('begin')
  await first.query(statement)
  const later = second.query(statement)
  await waiting()
  await first.query(end)
  await later
}
async function waiting(): Promise<void> {
  const found = await all(`select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`)
  if (found.length === 0) await waiting()
}

describe('digests', () => {
  beforeAll(async () => {
    await pretend('delete from app_public.notifications')
    await pretend('delete from graphile_worker._private_jobs')
    await pretend(
      `update app_public.requests set status = 'APPROVED', reviewed_at = now(), reviewed_by_id = $1 where status = 'SUBMITTED'`,
      [stage.id.admin2],
    )
  })

  const digest = async (day: string): Promise<(Person | null)[]> => {
    const before = new Set((await kept('DIGEST')).map(({ id }) => id))
    await asOwner('select app_private.make_digests($1)', [day])
    return names((await kept('DIGEST')).filter(({ id }) => !before.has(id)))
  }
  const news = (person: Person) =>
    stage.root.query(
      `insert into app_public.notifications (recipient_id, kind, event, mail_state) values ($1, 'APPROVED', gen_random_uuid()::text, 'DIGEST')`,
      [stage.id[person]],
    )

  describe('of one day', () => {
    undone()

    test('are for those who have something to decide, or news that they want so', async () => {
      expect(await digest('2026-03-02')).toEqual([])
      await plant({ waited: '1 hour', creator: 'user', assignee: 'manager' })
      for (const person of ['user2', 'user2', 'gone'] as const) await news(person)
      expect(await digest('2026-03-02')).toEqual(['admin', 'admin2', 'manager', 'user2'])
      const rows = await kept('DIGEST')
      for (const row of rows) expect(row).toMatchObject({ mail_state: 'QUEUED', request_id: null, actor_id: null })
      expect((await stage.jobs('send_mail')).map(({ id }) => id).sort()).toEqual(rows.map(({ id }) => id).sort())
    })

    test('are one a day and person, however often and late', async () => {
      await news('user')
      const days = ['2026-03-02', '2026-03-02', '2026-03-03', '2026-03-02', '2026-03-03']
      const made = []
      for (const day of days) made.push(await digest(day))
      expect(made).toEqual([['user'], [], ['user'], [], []])
      await news('user2')
      await stage.root.query(`set local timezone = 'Asia/Kolkata'`)
      await stage.root.query(`set local datestyle = 'German'`)
      expect(await digest('2026-03-03')).toEqual(['user2'])
    })

    test('are not for those who want none, and all the same whoever wants them otherwise', async () => {
      await plant({ waited: '1 hour' })
      await stage.rows('manager', `select app_public.set_notification_preference('DIGEST', 'NONE')`)
      await stage.rows('manager2', `select app_public.set_notification_preference('DIGEST', 'DIGEST')`)
      await stage.rows('admin', `select app_public.set_notification_preference('SUBMITTED', 'NONE')`)
      expect(await digest('2026-03-02')).toEqual(['admin', 'admin2', 'manager2'])
    })

    test('are mails alone: nothing in the inbox, and nothing unread', async () => {
      await plant({ waited: '1 hour' })
      await digest('2026-03-02')
      const unread = 'select app_public.unread_notification_count() as count'
      expect(await stage.rows('manager', unread)).toEqual([{ count: 0 }])
      expect(await stage.rows('manager', 'select * from app_public.notifications')).toEqual([])
    })
  })

  test.each(['commit', 'rollback'])('are one each from two workers at once, should the first %s', async (end) => {
    await plant({ waited: '1 hour' })
    const day = end === 'commit' ? '2026-03-02' : '2026-03-03'
    await twoAtOnce(`select app_private.make_digests('${day}')`, end)
    const rows = (await kept('DIGEST')).filter(({ event }) => event.includes(day))
    expect(names(rows)).toEqual(['admin', 'admin2', 'manager', 'manager2'])
  })
})

describe('what is cleared away', () => {
  undone()

  test.each<[string, string, Record<string, boolean>]>([
    [
      'sessions',
      `insert into app_private.sessions (user_id, secret_hash, expires_at, revoked_at, last_used_at)
       select id, sha256(gen_random_uuid()::text::bytea), now() + $1::interval, now(), now() - interval '9 days' from app_public.users where name = 'admin2'
       returning id::text`,
      // For a month more they are evidence; ended and unused ones, too, have their time.
      { '-30 days -1 second': true, '-29 days': false, '1 minute': false, '20 days': false },
    ],
    [
      'idempotency_keys',
      `insert into app_private.idempotency_keys (user_id, key, fingerprint, answer, created_at)
       select id, $1::text, '', '{}', now() + $1::interval from app_public.users where name = 'admin2' returning key as id`,
      { '-24:00:01': true, '-23:59:00': false, '0': false },
    ],
    [
      'password_resets',
      `insert into app_private.password_resets (secret_hash, user_id, expires_at)
       select sha256($1::text::bytea), id, now() + $1::interval from app_public.users where name = 'admin2' returning secret_hash::text as id`,
      { '-1 second': true, '1 minute': false, '30 minutes': false },
    ],
    [
      'login_attempts',
      `insert into app_private.login_attempts (account_key, attempted_at, failed) values ('', now() + $1::interval, true) returning id::text`,
      { '-00:15:01': true, '-00:14:00': false },
    ],
    [
      'password_reset_requests',
      `insert into app_private.password_reset_requests (account_key, requested_at) values ('', now() + $1::interval) returning id::text`,
      { '-00:15:01': true, '-00:14:00': false },
    ],
  ])('%s that have expired, and no other', async (table, insert, cases) => {
    const key = { idempotency_keys: 'key', password_resets: 'secret_hash' }[table] ?? 'id'
    const gone: Record<string, boolean> = {}
    const ids: [string, string][] = []
    for (const time of Object.keys(cases)) ids.push([time, (await all(insert, [time]))[0]!['id']])
    const others = (await all(`select from app_private.${table}`)).length - ids.length
    for (const run of [1, 2]) {
      await asOwner('select app_private.clear_batch()')
      const left = new Set((await all(`select ${key}::text as id from app_private.${table}`)).map(({ id }) => id))
      for (const [time, id] of ids) gone[time] = !left.has(id)
      expect({ run, gone, others: left.size - Object.values(gone).filter((one) => !one).length }).toEqual({
        run,
        gone: cases,
        others,
      })
    }
  })

  test('jobs that were given up 30 days ago, and no other', async () => {
    await stage.root.query('delete from graphile_worker._private_jobs')
    const jobs: [string, string, boolean][] = [
      ['given up', `attempts = 25, updated_at = now() - interval '30 days 1 minute'`, true],
      ['given up lately', `attempts = 25, updated_at = now() - interval '29 days 23 hours'`, false],
      ['failing', `attempts = 24, updated_at = now() - interval '31 days'`, false],
      ['waiting', `run_at = now() - interval '31 days', updated_at = now() - interval '31 days'`, false],
      [
        'at its last attempt',
        `attempts = 25, locked_at = now(), locked_by = 'worker', updated_at = now() - interval '31 days'`,
        false,
      ],
    ]
    for (const [name, changes] of jobs) {
      await stage.root.query(`select graphile_worker.add_job($1)`, [name])
      await stage.root.query(
        `update graphile_worker._private_jobs j set ${changes} from graphile_worker._private_tasks t where t.id = j.task_id and t.identifier = $1`,
        [name],
      )
    }
    for (const run of [1, 2]) {
      await asOwner('select app_private.clear_batch()')
      const left = (await all('select task_identifier as name from graphile_worker.jobs')).map(({ name }) => name)
      expect({ run, left: left.sort() }).toEqual({
        run,
        left: jobs
          .filter(([, , gone]) => !gone)
          .map(([name]) => name)
          .sort(),
      })
    }
  })

  test.each([
    ['notifications', 'recipient_id, kind, event, mail_state, mailed_at', 'id', `'APPROVED', gen_random_uuid()`, 'SENT'],
    [
      'webhook_deliveries',
      'webhook_id, event, audit_log_id, payload, state, delivered_at',
      'w',
      `'', gen_random_uuid(), '{}'`,
      'DELIVERED',
    ],
  ])('%s after a year, unless they are still to be sent; a thousand at a time', async (table, columns, owner, values, done) => {
    await pretend(
      `insert into app_public.webhooks (id, url, events, signing_key) values ('00000000-0000-7000-8000-000000000001', 'https://x.test', '{user.created}', 'k')`,
    )
    const plant = (state: string, age: string, count = 1) =>
      pretend(
        `insert into app_public.${table} (${columns}, created_at)
         select case when $1 = 'id' then u.id else '00000000-0000-7000-8000-000000000001'::uuid end, ${values}, $2,
           case when $2 = $3 then now() end, now() - $4::interval
         from app_public.users u, generate_series(1, $5) where u.name = 'admin2'`,
        [owner, state, done, age, count],
      )
    await plant('QUEUED', '2 years')
    await plant(done, '364 days')
    await plant('FAILED', '367 days', 999)
    await plant(done, '367 days', 2)
    const count = async () => (await all(`select count(*)::integer from app_public.${table}`))[0]!['count']
    const batch = async () => (await all('select app_private.clear_batch() as more'))[0]!['more']
    expect([await batch(), await count()]).toEqual([true, 3])
    expect([await batch(), await count()]).toEqual([false, 2])
    expect(await all(`select from app_public.${table} where created_at < now() - interval '1 year'`)).toHaveLength(1)
  })

  test('nothing else at all, however old', async () => {
    await pretend(`update app_public.requests set created_at = created_at - interval '10 years'`)
    const count = async () => {
      const tables = await all(`
        select c.oid::regclass::text as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p') and not c.relispartition and n.nspname ~ '^(app_|audit)' order by 1`)
      return all(tables.map(({ name }) => `select '${name}' as name, count(*)::integer from ${name}`).join(' union all '))
    }
    const before = await count()
    expect(before.filter(({ count }) => count > 0).length).toBeGreaterThan(8)
    await asOwner('select app_private.clear_batch()')
    expect(await count()).toEqual(before)
  })
})
