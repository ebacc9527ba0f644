import { setTimeout as sleep } from 'node:timers/promises'
import { jest } from '@jest/globals'
import { Logger as WorkerLogger, parseCrontab, runOnce, type JobHelpers } from 'graphile-worker'
import pg, { type Client } from 'pg'
import pino from 'pino'
import { parseConfig } from '../../../server/config.ts'
import { makePresence, type Presence } from '../../../server/jobs/rescue.ts'
import { crontab, promptTasks } from '../../../server/jobs/tasks.ts'
import { startWorker } from '../../../server/jobs/worker.ts'
import { cloneDatabase, type TestDatabase } from '../../harness/database.ts'
import { command, type Running } from '../../harness/process.ts'
import { startApi } from '../../harness/client.ts'
import { startSmtp, type Mailbox } from '../../harness/smtp.ts'
import { until } from '../../harness/socket.ts'

// What repeats is made to happen when the test says so, and in our process alone.
jest.useFakeTimers({
  doNotFake: [
    'Date',
    'hrtime',
    'nextTick',
    'performance',
    'queueMicrotask',
    'setImmediate',
    'clearImmediate',
    'setTimeout',
    'clearTimeout',
  ],
})

let db: TestDatabase
let root: Client
let mailbox: Mailbox
let ending: ReturnType<typeof endWhileMailIsUnderWay>
const lines: string[] = []
const log = pino({ level: 'trace' }, { write: (line: string) => void lines.push(line) })
beforeAll(async () => {
  db = await cloneDatabase({ transactional: false })
  root = await db.connect('root')
  mailbox = await startSmtp()
  ending = endWhileMailIsUnderWay()
  ending.catch(() => {})
})
afterEach(async () => {
  mailbox.answer = () => undefined
  await root.query('delete from graphile_worker._private_jobs')
})
afterAll(async () => {
  await mailbox.close()
  await db.close()
})

const env = () => ({ DATABASE_URL: db.urls.owner, SMTP_URL: mailbox.url, MAIL_FROM: 'assent@example.com' })
const start = () => startWorker(parseConfig(env(), 'worker'), log)
const all = async (text: string, values: unknown[] = []) => (await root.query(text, values)).rows

/** Queues a mail to each of so many new people; the ids of the notifications. */
async function queue(count: number, client = root): Promise<string[]> {
  const { rows } = await client.query(
    `with people as (
       insert into app_public.users (name) select 'Person ' || n from generate_series(1, $1::integer) n returning id
     ), logins as (
       insert into app_private.credentials (user_id, email, password_hash) select id, id || '@assent.test', 'none' from people
     )
     insert into app_public.notifications (recipient_id, kind, event, mail_state)
     select id, 'ROLE_CHANGED', 'an event', 'QUEUED' from people returning id`,
    [count],
  )
  return rows.map(({ id }) => id)
}

/** Closes a worker that has sent a mail to a server which never says that it has accepted it: a database of its own for that. */
async function endWhileMailIsUnderWay() {
  const [own, server] = await Promise.all([cloneDatabase({ transactional: false }), startSmtp()])
  try {
    const client = await own.connect('root')
    await queue(1, client)
    const held = new Promise<void>((resolve) => {
      server.answer = (at) => (at === 'DATA' ? (resolve(), new Promise(() => {})) : undefined)
    })
    const worker = await startWorker(parseConfig({ ...env(), DATABASE_URL: own.urls.owner, SMTP_URL: server.url }, 'worker'), log)
    await held
    const since = performance.now()
    await worker.close()
    const seconds = (performance.now() - since) / 1000
    const { rows } = await client.query(
      `select n.mail_state as state, n.mail_attempts as attempts, j.attempts as tried, j.locked_at
       from app_public.notifications n join graphile_worker.jobs j on j.task_identifier = 'send_mail'`,
    )
    return { seconds, rows }
  } finally {
    await server.close()
    await own.close()
  }
}

const states = async (ids: string[]) => {
  const rows = await all(
    `select mail_state as state, count(*)::integer as n from app_public.notifications where id = any ($1) group by 1`,
    [ids],
  )
  return Object.fromEntries(rows.map(({ state, n }) => [state, n]))
}
const isSent = (ids: string[]) => async () => (await states(ids))['SENT'] === ids.length
const accepted = (ids: string[]) =>
  mailbox.arrived.flatMap(({ mail }) => ids.filter((id) => mail.messageId === `<${id}@example.com>`))
const jobsLeft = async () => (await all('select from graphile_worker.jobs')).length
/** Holds whatever mail comes before it is accepted; answers when the first has come, and how to let them go. */
function holdMails() {
  const held = Promise.withResolvers<void>()
  const released = Promise.withResolvers<undefined>()
  mailbox.answer = (at) => {
    if (at !== 'DATA') return undefined
    held.resolve()
    return released.promise
  }
  return { held: held.promise, release: () => released.resolve(undefined) }
}

describe('workers', () => {
  test('two at once send each of 200 mails once', async () => {
    const workers = [await start(), await start()]
    const ids = await queue(200)
    await until(isSent(ids), 20_000)
    await Promise.all(workers.map((worker) => worker.close()))
    expect(accepted(ids).toSorted()).toEqual(ids.toSorted())
    expect(await all('select distinct mail_attempts as n from app_public.notifications where id = any ($1)', [ids])).toEqual([
      { n: 1 },
    ])
    expect(await jobsLeft()).toBe(0)
  })

  test('what is under way is finished when it is closed, and what is not stays for the next', async () => {
    const ids = await queue(6)
    const { held, release } = holdMails()
    const worker = await start()
    await held
    await until(async () => (await all('select from graphile_worker.jobs where locked_at is not null')).length === 4)
    let isClosed = false
    const closing = worker.close().then(() => (isClosed = true))
    await sleep(200)
    expect([isClosed, await states(ids)]).toEqual([false, { QUEUED: 6 }])
    release()
    await closing
    expect(await states(ids)).toEqual({ QUEUED: 2, SENT: 4 })
    expect(accepted(ids)).toHaveLength(4)
    expect(await all('select distinct attempts, locked_at from graphile_worker.jobs')).toEqual([{ attempts: 0, locked_at: null }])
    const connections = () =>
      all(`select from pg_stat_activity where datname = current_database() and application_name = 'assent worker'`)
    await until(async () => (await connections()).length === 0)

    const next = await start()
    await until(isSent(ids))
    await next.close()
    expect(accepted(ids).toSorted()).toEqual(ids.toSorted())
  })

  test('what does not come to an end is given back when it is closed, after 20 seconds', async () => {
    const { seconds, rows } = await ending
    expect(seconds).toBeGreaterThan(19)
    expect(seconds).toBeLessThan(30)
    expect(rows).toEqual([{ state: 'QUEUED', attempts: 1, tried: 1, locked_at: null }])
  }, 60_000)

  test('when all connections to the database are lost, what was accepted meanwhile is recorded, and the rest is done', async () => {
    const first = await queue(1)
    const { held, release } = holdMails()
    const worker = await start()
    await held
    const terminate = () =>
      all(
        `select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and application_name = 'assent worker'`,
      )
    expect((await terminate()).length).toBeGreaterThan(3)
    release()
    await until(isSent(first), 10_000)
    const later = await queue(3)
    await until(isSent(later), 15_000)
    expect((await terminate()).length).toBeGreaterThan(0)
    const last = await queue(3)
    await until(isSent(last), 15_000)
    await worker.close()
    const ids = [...first, ...later, ...last]
    expect(accepted(ids).toSorted()).toEqual(ids.toSorted())
  })

  test('a job that is there when none runs is done by the next', async () => {
    const [{ id }] = (await db.commit('user', `select id from app_public.create_request('A request')`)) as [{ id: string }]
    await db.commit('user', 'select app_public.submit_request($1)', [id])
    expect(await all('select task_identifier as task from graphile_worker.jobs')).toEqual([{ task: 'notify' }])
    const worker = await start()
    const told = () => all(`select mail_state as state from app_public.notifications where request_id = $1`, [id])
    await until(async () => (await told()).filter(({ state }) => state === 'SENT').length === 3)
    await worker.close()
    expect(await told()).toHaveLength(3)
  })
})

describe('a pool of workers that is dead', () => {
  let pool: pg.Pool
  let presence: Presence
  let ahead = 0
  let clock: jest.SpiedFunction<typeof Date.now>
  let killed: Running | undefined
  beforeAll(async () => {
    pool = new pg.Pool({ connectionString: db.urls.owner })
    pool.on('error', () => {})
    presence = await makePresence(db.urls.owner, pool, log)
    const { now } = Date
    clock = jest.spyOn(Date, 'now').mockImplementation(() => now() + ahead)
  })
  afterAll(async () => {
    clock.mockRestore()
    await killed?.end('SIGKILL')
    await presence.close()
    await pool.end()
  })

  /** Lets five seconds go by, with the look that comes then. */
  async function passFiveSeconds(): Promise<void> {
    const queries = jest.spyOn(pool, 'query')
    ahead += 5_000
    jest.advanceTimersByTime(5_000)
    await until(() => queries.mock.calls.length > 0)
    while ((await Promise.allSettled(queries.mock.results.map(({ value }) => value))).length < queries.mock.calls.length);
    queries.mockRestore()
    await sleep(50) // and what comes of it
  }
  /** A job that this pool has taken. */
  async function takenBy(poolId: string): Promise<() => Promise<boolean>> {
    const [{ id }] = (await all(`select (graphile_worker.add_job('clear_away')).id`)) as [{ id: string }]
    await all('update graphile_worker._private_jobs set locked_by = $2, locked_at = now(), attempts = 1 where id = $1', [
      id,
      poolId,
    ])
    return async () => (await all('select from graphile_worker.jobs where id = $1 and locked_at is null', [id])).length === 1
  }
  /** Seconds until this has come about. */
  async function secondsUntil(condition: () => Promise<boolean>): Promise<number> {
    for (let seconds = 0; seconds <= 60; seconds += 5) {
      if (await condition()) return seconds
      await passFiveSeconds()
    }
    return Number.POSITIVE_INFINITY
  }

  test('has its jobs taken from it after 20 to 30 seconds; one that lives keeps them, though it loses its connection', async () => {
    const other = await makePresence(db.urls.owner, pool, log)
    other.announce('a living pool')
    const [isFreed, isRobbed] = [await takenBy('a dead pool'), await takenBy('a living pool')]
    const locks = () =>
      all(`select pid from pg_locks where locktype = 'advisory' and objid = hashtext('a living pool')::oid
      and database = (select oid from pg_database where datname = current_database()) and classid = 7277539`)
    await until(async () => (await locks()).length === 1)
    await passFiveSeconds()
    const [{ pid }] = (await locks()) as [{ pid: number }]
    await all('select pg_terminate_backend($1)', [pid])
    await until(async () => (await locks()).length === 0)
    const seconds = 5 + (await secondsUntil(isFreed))
    expect(seconds).toBeGreaterThanOrEqual(20)
    expect(seconds).toBeLessThanOrEqual(30)
    for (let i = 0; i < 6; i++) await passFiveSeconds()
    expect(await isRobbed()).toBe(false)
    expect((await locks()).map((lock) => lock.pid === pid)).toEqual([false])

    // From when it has ended, however that came, it is dead.
    other.withdraw('a living pool')
    expect(await secondsUntil(isRobbed)).toBeLessThanOrEqual(35)
    await other.close()
  })

  test('one that was gone for a moment, again and again, is not dead', async () => {
    const isFreed = await takenBy('a pool that comes and goes')
    const key = `7277539, hashtext('a pool that comes and goes')`
    for (let i = 0; i < 4; i++) {
      await passFiveSeconds()
      await passFiveSeconds()
      await all(`select pg_advisory_lock(${key})`)
      await passFiveSeconds()
      await all(`select pg_advisory_unlock(${key})`)
    }
    expect(await isFreed()).toBe(false)
  })

  test('of a process that was killed -9 in the middle of a mail: another sends it within a minute, once', async () => {
    const ids = await queue(1)
    const { held } = holdMails()
    const running = command('worker', { ...env(), LOG_LEVEL: 'warn' })
    killed = running
    await Promise.race([held, running.exit.then(() => Promise.reject(new Error(running.output)))])
    await running.end('SIGKILL')
    mailbox.answer = () => undefined
    const [{ dead }] = (await all('select locked_by as dead from graphile_worker.jobs')) as [{ dead: string }]
    expect(dead).toEqual(expect.any(String))
    const next = await start()
    const itsJobs = () => all('select from graphile_worker.jobs where locked_by = $1', [dead])
    const seconds = await secondsUntil(async () => (await itsJobs()).length === 0)
    await until(isSent(ids))
    await next.close()
    expect(seconds).toBeGreaterThanOrEqual(20)
    expect(seconds).toBeLessThanOrEqual(60)
    expect([accepted(ids), await states(ids)]).toEqual([ids, { SENT: 1 }])
    expect(lines.join('')).toContain('Workers have died; their jobs are free again.')
  })
})

/** Does the prompt jobs that are due, and answers when all of them are recorded as done, or as failed. */
const runDue = (concurrency = 1) =>
  runOnce({
    connectionString: db.urls.owner,
    taskList: promptTasks,
    concurrency,
    noHandleSignals: true,
    logger: new WorkerLogger(() => () => {}),
    preset: { worker: { completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
  })

describe('what fails is seen', () => {
  test('by DBAs and auditors, in audit.failing_jobs, until it succeeds', async () => {
    const auditor = await db.connect('auditor')
    const failing = async () => (await auditor.query('select * from audit.failing_jobs')).rows
    const fine = await all(`select graphile_worker.add_job('clear_away')`)
    expect([fine.length, await failing()]).toEqual([1, []])
    // An entry that there is not is no reason to forget it: somebody is to look.
    await all(`select graphile_worker.add_job('notify', json_build_object('id', gen_random_uuid()))`)
    await runDue()
    expect(await failing()).toEqual([
      {
        id: expect.any(String),
        task: 'notify',
        attempts: 1,
        max_attempts: 25,
        next_try: expect.any(Date),
        error: expect.stringContaining('query returned no rows'),
        created_at: expect.any(Date),
      },
    ])
    await all('update graphile_worker._private_jobs set attempts = max_attempts')
    expect(await failing()).toMatchObject([{ attempts: 25, next_try: null }])
    await all(`update graphile_worker._private_jobs set attempts = 1, run_at = now(),
      payload = json_build_object('id', (select id from app_public.audit_logs limit 1))`)
    await runDue()
    expect(await failing()).toEqual([])
  })

  test('by /metrics, which counts jobs by task and state', async () => {
    const api = await startApi({}, db)
    const read = async () => {
      const { text } = await api.send({ method: 'GET', path: '/metrics' })
      return [...text.matchAll(/^assent_jobs\{(.*)\} (\d+)$/gm)].map(([, labels, count]) => `${labels} ${count}`).toSorted()
    }
    const refused = `task="send_mail",state="refused" ${(await all(`select from app_public.notifications where mail_state = 'FAILED'`)).length}`
    expect(await read()).toEqual([refused])
    const states = {
      waiting: 'attempts = 0',
      scheduled: `run_at = now() + interval '1 hour'`,
      running: `locked_at = now(), locked_by = 'some pool'`,
      failing: `attempts = 1, last_error = 'x', run_at = now() + interval '1 minute'`,
      'given up': `attempts = max_attempts, last_error = 'x'`,
    }
    for (const task of ['notify', 'send_mail']) {
      for (const [i, changes] of Object.values(states).entries()) {
        const rows = await all('select (graphile_worker.add_job($1)).id from generate_series(1, $2::integer)', [task, i + 1])
        await all(`update graphile_worker._private_jobs set ${changes} where id = any ($1)`, [rows.map(({ id }) => id)])
      }
    }
    const expected = ['notify', 'send_mail'].flatMap((task) =>
      Object.keys(states).map((state, i) => `task="${task}",state="${state}" ${i + 1}`),
    )
    await sleep(1_000) // So long nothing is counted anew.
    expect(await read()).toEqual([...expected, refused].toSorted())
    await all('delete from graphile_worker._private_jobs')
    expect(await read()).toEqual([...expected, refused].toSorted())
    await sleep(1_000)
    expect(await read()).toEqual([refused])
    await api.stop()
  })
})

describe('what comes by time', () => {
  const items = parseCrontab(crontab)

  test('is asked for as often as it says, and each has a task', () => {
    const hits = (task: string, at: string) => {
      const date = new Date(at)
      const digest = {
        min: date.getUTCMinutes(),
        hour: date.getUTCHours(),
        date: date.getUTCDate(),
        month: date.getUTCMonth() + 1,
        dow: date.getUTCDay(),
      }
      return items.find((item) => item.task === task)!.match(digest)
    }
    expect(items.map(({ task }) => task).toSorted()).toEqual(['clear_away', 'digest', 'remind'])
    for (const { task } of items) expect(promptTasks).toHaveProperty(task)
    // Monday to Friday, at seven, and at no other time.
    const week = [5, 6, 7, 8, 9, 10, 11].map((day) => hits('digest', `2026-01-${String(day).padStart(2, '0')}T07:00:00Z`))
    expect(week).toEqual([true, true, true, true, true, false, false])
    expect(hits('digest', '2026-01-05T08:00:00Z')).toBe(false)
    expect(['00', '15', '30', '45', '07'].map((min) => hits('remind', `2026-01-10T03:${min}:00Z`))).toEqual([
      true,
      true,
      true,
      true,
      false,
    ])
    expect(hits('clear_away', '2026-01-11T03:23:00Z')).toBe(true)
    // None is lost because no worker ran just then.
    for (const { options } of items) expect(options.backfillPeriod).toBeGreaterThanOrEqual(3_600_000)
  })

  /** A request that waits for two days. */
  async function plantOld(): Promise<string> {
    await all('set session_replication_role = replica')
    const [{ id }] = (await all(
      `insert into app_public.requests (title, status, creator_id, submitted_at, created_at)
       values ('An old one', 'SUBMITTED', $1, now() - interval '3 days', now() - interval '3 days') returning id`,
      [db.people.user.id],
    )) as [{ id: string }]
    await all('reset session_replication_role')
    return id
  }
  const told = async (kind: string) => (await all('select from app_public.notifications where kind = $1', [kind])).length

  test('each task may run twice, at once too, and the second time does nothing', async () => {
    await plantOld()
    await all(
      `insert into app_private.password_resets (secret_hash, user_id, expires_at) values ('x', $1, now() - interval '1 minute')`,
      [db.people.user.id],
    )
    const ts = '2026-01-05T07:00:00.000Z'
    const run = async () => {
      for (const { task } of items)
        await all('select graphile_worker.add_job($1, $2) from generate_series(1, 2)', [
          task,
          { _cron: { ts, backfilled: true } },
        ])
      await runDue(6)
      expect(
        await all(`select task_identifier, last_error from graphile_worker.jobs where task_identifier <> 'send_mail'`),
      ).toEqual([])
    }
    await run()
    const first = [await told('REMINDER'), await told('DIGEST')]
    expect(first).toEqual([3, 3])
    expect(await all(`select event from app_public.notifications where kind = 'DIGEST' limit 1`)).toEqual([
      { event: 'digest of 2026-01-05' },
    ])
    expect(await all('select from app_private.password_resets where expires_at < now()')).toEqual([])
    await run()
    expect([await told('REMINDER'), await told('DIGEST')]).toEqual(first)
  })

  test('so may those that come by an action: nobody is told twice, and no account gets more than 3 links', async () => {
    const client = await db.connect('owner')
    const helpers = { query: client.query.bind(client) } as unknown as JobHelpers
    const run = async (task: 'notify' | 'begin_password_reset', payload: object, times: number) => {
      for (let i = 0; i < times; i++) await promptTasks[task]!(payload, helpers)
    }
    const [{ id }] = (await db.commit('user', `select id from app_public.create_request('Told once')`)) as [{ id: string }]
    await db.commit('user', 'select app_public.submit_request($1)', [id])
    const entry = await all(`select id from app_public.audit_logs where request_id = $1 and action = 'SUBMIT'`, [id])
    await all('delete from graphile_worker._private_jobs')
    await run('notify', { id: entry[0]!['id'] }, 2)
    const { email, id: person } = db.people.user2
    await run('begin_password_reset', { email: email.toUpperCase(), ip: '192.0.2.7' }, 5)
    await run('begin_password_reset', { email: 'nobody@assent.test', ip: null }, 2)

    expect(await all('select from app_public.notifications where request_id = $1', [id])).toHaveLength(3)
    expect(
      await all(
        'select action, user_id as person, host(ip_address) as ip from app_public.audit_logs where user_id is not null and action = $1',
        ['PASSWORD_RESET_REQUEST'],
      ),
    ).toEqual(Array.from({ length: 3 }, () => ({ action: 'PASSWORD_RESET_REQUEST', person, ip: '192.0.2.7' })))
    expect(
      await all('select task_identifier as task, count(*)::integer as n from graphile_worker.jobs group by 1 order by 1'),
    ).toEqual([
      { task: 'notify', n: 3 },
      { task: 'send_mail', n: 3 },
    ])
    const others = items.map(({ task }) => task)
    expect(Object.keys(promptTasks).toSorted()).toEqual([...others, 'notify', 'begin_password_reset'].toSorted())
  })

  test('a worker makes up for what fell into a time without any', async () => {
    const id = await plantOld()
    const worker = await start()
    const known = () =>
      all('select identifier, known_since, last_execution from graphile_worker._private_known_crontabs order by 1')
    await until(async () => (await known()).length === 3)
    await worker.close()
    expect((await known()).map(({ identifier }) => identifier)).toEqual(['clear_away', 'digest', 'remind'])
    const reminded = () => all(`select from app_public.notifications where kind = 'REMINDER' and request_id = $1`, [id])
    await all(`delete from app_public.notifications where kind = 'REMINDER'`)
    await all(`update graphile_worker._private_known_crontabs
      set known_since = now() - interval '1 day', last_execution = now() - interval '50 minutes'`)
    const next = await start()
    await until(async () => (await reminded()).length === 3)
    await next.close()
    expect(await reminded()).toHaveLength(3)
  })
})

test('no secret was logged', () => {
  expect(lines.length).toBeGreaterThan(100)
  const written = lines.join('')
  expect([new URL(db.urls.owner).password].filter((secret) => written.includes(secret))).toEqual([])
})
