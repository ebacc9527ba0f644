import { setTimeout as sleep } from 'node:timers/promises'
import { Logger as WorkerLogger, parseCrontab, runOnce, type JobHelpers } from 'graphile-worker'
import pg, { type Client } from 'pg'
import pino from 'pino'
import { parseConfig } from '../../../server/config.ts'
import { makePresence, RESCUE, type Presence } from '../../../server/jobs/rescue.ts'
import { crontab, promptTasks } from '../../../server/jobs/tasks.ts'
import { startWorker, TIMES } from '../../../server/jobs/worker.ts'
import { cloneDatabase, type TestDatabase } from '../../harness/database.ts'
import { command } from '../../harness/process.ts'
import { startApi } from '../../harness/client.ts'
import { startProxy } from '../../harness/proxy.ts'
import { startSmtp, type Mailbox } from '../../harness/smtp.ts'
import { until } from '../../harness/socket.ts'

let db: TestDatabase
let root: Client
let mailbox: Mailbox
const lines: string[] = []
const log = pino({ level: 'trace' }, { write: (line: string) => void lines.push(line) })
beforeAll(async () => {
  db = await cloneDatabase()
  root = await db.connect('root')
  mailbox = await startSmtp()
})
afterEach(async () => {
  mailbox.answer = () => undefined
  await root.query('delete from graphile_worker._private_jobs')
  const written = lines.join('')
  expect([new URL(db.urls.owner).password].filter((secret) => written.includes(secret))).toEqual([])
})
afterAll(async () => {
  await mailbox.close()
  await db.close()
})

const env = () => ({ WORKER_DATABASE_URL: db.urls.worker, SMTP_URL: mailbox.url, MAIL_FROM: 'assent@example.com' })
const start = (times = TIMES) => startWorker(parseConfig(env(), 'worker'), log, undefined, times)
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

  test('what does not come to an end is given back when it is closed, after 20 seconds; of 1 that it is given here', async () => {
    expect(TIMES.lastCall).toBe(20_000)
    const [id] = await queue(1)
    const { held, release } = holdMails()
    const worker = await start({ ...TIMES, lastCall: 1_000 })
    await held
    const since = performance.now()
    await worker.close()
    expect(performance.now() - since).toBeGreaterThan(950)
    release()
    const rows = await all(
      `select n.mail_state as state, n.mail_attempts as attempts, j.attempts as tried, j.locked_at
       from app_public.notifications n join graphile_worker.jobs j on j.task_identifier = 'send_mail' where n.id = $1`,
      [id],
    )
    expect(rows).toEqual([{ state: 'QUEUED', attempts: 1, tried: 1, locked_at: null }])
  })

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

  test('when the server vanishes without a word, work goes on with the one that answers in its place', async () => {
    const proxy = await startProxy(db.urls.worker)
    const config = parseConfig({ ...env(), WORKER_DATABASE_URL: proxy.url }, 'worker')
    const worker = await startWorker(config, log, undefined, { ...TIMES, lookEvery: 100 })
    const first = await queue(3)
    await until(isSent(first))
    proxy.silence()
    const last = await queue(3)
    await until(isSent(last), 20_000)
    await worker.close()
    await proxy.close()
    const ids = [...first, ...last]
    expect(accepted(ids).toSorted()).toEqual(ids.toSorted())
  })

  test('one that cannot look for its first job, as on a server that takes no writes yet, looks again', async () => {
    await all('alter table graphile_worker._private_tasks rename to away')
    const since = lines.length
    const worker = await start()
    await until(() => lines.slice(since).filter((line) => line.includes('The worker is started again.')).length >= 3)
    await all('alter table graphile_worker.away rename to _private_tasks')
    const ids = await queue(1)
    await until(isSent(ids), 15_000)
    await worker.close()
  })

  test('a job that is there when none runs is done by the next', async () => {
    const [{ id }] = (await db.commit('user', `select id from app_public.create_request('A request')`)) as [{ id: string }]
    await db.commit('user', 'select app_public.submit_request($1)', [id])
    expect(await all('select task_identifier as task from graphile_worker.jobs')).toEqual([{ task: 'dispatch' }])
    const worker = await start()
    const told = () => all(`select mail_state as state from app_public.notifications where request_id = $1`, [id])
    await until(async () => (await told()).filter(({ state }) => state === 'SENT').length === 3)
    await worker.close()
    expect(await told()).toHaveLength(3)
  })
})

describe('a pool of workers that is dead', () => {
  // Seconds are hundredths here. It is real time: looks are counted, as one that comes late is no fault.
  const times = { lookEvery: 50, deadAfter: 200 }
  let pool: pg.Pool
  const opened: Presence[] = []
  let looks = 0
  let looksWhenFreed = 0
  beforeAll(() => {
    pool = new pg.Pool({ connectionString: db.urls.worker })
    pool.on('error', () => {})
  })
  afterEach(() => Promise.all(opened.splice(0).map((presence) => presence.close())))
  afterAll(() => pool.end())

  async function watch(patience = times): Promise<Presence> {
    const counting = {
      query(text: string, values: unknown[]) {
        if (text.includes('force_unlock')) looksWhenFreed = looks
        else looks++
        return pool.query(text, values)
      },
    } as pg.Pool
    const presence = await makePresence(db.urls.worker, counting, log, patience)
    opened.push(presence)
    return presence
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
  const holders = (poolId: string) =>
    all(
      `select pid from pg_locks where locktype = 'advisory' and classid = 7277539 and objid = hashtext($1)::oid and granted
       and database = (select oid from pg_database where datname = current_database())`,
      [poolId],
    )
  /** So long that a machine which is busy does not make the living look dead. */
  const patient = { lookEvery: 50, deadAfter: 1_500 }
  /** Waits for so many looks. */
  async function pass(count: number): Promise<void> {
    const from = looks
    await until(() => looks >= from + count)
  }

  test('has its jobs taken from it after 20 to 30 seconds', async () => {
    // A look comes every five; the first finds it missing, and one after 20 seconds frees its jobs.
    expect(RESCUE).toEqual({ lookEvery: 5_000, deadAfter: 20_000 })
    expect(times.deadAfter / times.lookEvery).toBe(RESCUE.deadAfter / RESCUE.lookEvery)
    const isFreed = await takenBy('a dead pool')
    looks = 0
    const since = performance.now()
    await watch()
    await until(isFreed)
    expect(performance.now() - since).toBeGreaterThanOrEqual(times.deadAfter)
    expect(looksWhenFreed).toBeGreaterThan(0)
    expect(looksWhenFreed).toBeLessThanOrEqual(30_000 / RESCUE.lookEvery)
  })

  test('has them taken from it though others look whether it is dead at every moment, too', async () => {
    const isFreed = await takenBy('a dead pool that is watched')
    const other = await db.connect('owner')
    await other.query(`select pg_advisory_lock_shared(7277539, hashtext('a dead pool that is watched'))`)
    await watch()
    await until(isFreed)
    await other.query('select pg_advisory_unlock_all()')
  })

  test('one that lives keeps them, though it loses its connection; from when it has ended, it is dead', async () => {
    const isRobbed = await takenBy('a living pool')
    const other = await watch(patient)
    other.announce('a living pool')
    await until(async () => (await holders('a living pool')).length === 1)
    await watch(patient)
    const [{ pid }] = (await holders('a living pool')) as [{ pid: number }]
    await all('select pg_terminate_backend($1)', [pid])
    await until(async () => (await holders('a living pool')).some((holder) => holder['pid'] !== pid))
    await sleep(patient.deadAfter)
    await pass(4)
    expect(await isRobbed()).toBe(false)

    other.withdraw('a living pool')
    await until(isRobbed)
  })

  test('one that holds its locks where nothing is written holds none, and takes them again where something is', async () => {
    const [{ name }] = (await all('select current_database() as name')) as [{ name: string }]
    ;(await watch()).announce('a pool that moves')
    await until(async () => (await holders('a pool that moves')).length === 1)
    const [{ pid }] = (await holders('a pool that moves')) as [{ pid: number }]
    await all(`alter database ${name} set default_transaction_read_only = on`)
    await all('select pg_terminate_backend($1)', [pid])
    await until(() => lines.some((line) => line.includes('The database takes no writes.')))
    expect(await holders('a pool that moves')).toEqual([])
    await all(`alter database ${name} reset default_transaction_read_only`)
    await until(async () => (await holders('a pool that moves')).length === 1)
  })

  test('one that was gone for a moment, again and again, is not dead', async () => {
    const isFreed = await takenBy('a pool that comes and goes')
    const key = `7277539, hashtext('a pool that comes and goes')`
    const other = await db.connect('owner')
    await watch(patient)
    for (let i = 0; i < 4; i++) {
      // While it is there a look begins and ends; it is gone for a third of the time that would make it dead.
      await other.query(`select pg_advisory_lock(${key})`)
      await pass(2)
      await other.query(`select pg_advisory_unlock(${key})`)
      await sleep(patient.deadAfter / 3)
    }
    expect(await isFreed()).toBe(false)
  })

  test('of a process that was killed -9 in the middle of a mail: another sends it, once', async () => {
    const ids = await queue(1)
    const { held } = holdMails()
    const running = command('worker', { ...env(), LOG_LEVEL: 'warn' })
    try {
      await Promise.race([held, running.exit.then(() => Promise.reject(new Error(running.output)))])
    } finally {
      await running.end('SIGKILL')
    }
    mailbox.answer = () => undefined
    const [{ dead }] = (await all('select locked_by as dead from graphile_worker.jobs')) as [{ dead: string }]
    expect(dead).toEqual(expect.any(String))
    const since = performance.now()
    const next = await start({ ...TIMES, ...times })
    await until(async () => (await all('select from graphile_worker.jobs where locked_by = $1', [dead])).length === 0)
    expect(performance.now() - since).toBeGreaterThanOrEqual(times.deadAfter)
    await until(isSent(ids))
    await next.close()
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
    await all(`select graphile_worker.add_job('dispatch', json_build_object('id', gen_random_uuid()))`)
    await runDue()
    expect(await failing()).toEqual([
      {
        id: expect.any(String),
        task: 'dispatch',
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
      const { text } = await api.metrics()
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
    for (const task of ['dispatch', 'send_mail']) {
      for (const [i, changes] of Object.values(states).entries()) {
        const rows = await all('select (graphile_worker.add_job($1)).id from generate_series(1, $2::integer)', [task, i + 1])
        await all(`update graphile_worker._private_jobs set ${changes} where id = any ($1)`, [rows.map(({ id }) => id)])
      }
    }
    const expected = ['dispatch', 'send_mail'].flatMap((task) =>
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
    expect(items.map(({ task }) => task).toSorted()).toEqual(['clear_away', 'digest', 'extend_trail', 'remind', 'sweep_files'])
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

  /** A request that waits for days, as no other does; nobody has been told anything yet. */
  async function plantOld(): Promise<string> {
    await all('set session_replication_role = replica')
    await all(`update app_public.requests set submitted_at = now() where status = 'SUBMITTED'`)
    await all('delete from app_public.notifications')
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
    const run = async (task: 'dispatch' | 'begin_password_reset', payload: object, times: number) => {
      for (let i = 0; i < times; i++) await promptTasks[task]!(payload as never, helpers)
    }
    const [{ id }] = (await db.commit('user', `select id from app_public.create_request('Told once')`)) as [{ id: string }]
    await db.commit('user', 'select app_public.submit_request($1)', [id])
    const entry = await all(`select id from app_public.audit_logs where request_id = $1 and action = 'SUBMIT'`, [id])
    await all('delete from graphile_worker._private_jobs')
    await run('dispatch', { id: entry[0]!['id'] }, 2)
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
      { task: 'dispatch', n: 3 },
      { task: 'send_mail', n: 3 },
    ])
    const others = items.map(({ task }) => task)
    expect(Object.keys(promptTasks).toSorted()).toEqual([...others, 'dispatch', 'notify', 'begin_password_reset'].toSorted())
  })

  test('a worker makes up for what fell into a time without any', async () => {
    const id = await plantOld()
    const worker = await start()
    const known = () =>
      all('select identifier, known_since, last_execution from graphile_worker._private_known_crontabs order by 1')
    await until(async () => (await known()).length === 5)
    await worker.close()
    expect((await known()).map(({ identifier }) => identifier)).toEqual([
      'clear_away',
      'digest',
      'extend_trail',
      'remind',
      'sweep_files',
    ])
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

test('something is logged, and no secret, by this test or any other', async () => {
  const worker = await start()
  await worker.close()
  expect(lines.length).toBeGreaterThan(1)
})
