import { chmod, chown, mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import pino from 'pino'
import { serverUser } from '../../server/setup/embedded/machine.ts'
import { startEmbedded, type Embedded } from '../../server/setup/embedded/postgres.ts'
import { migrate } from '../../server/setup/migrate.ts'
import { asRootOf, setup } from '../../server/setup/roles.ts'
import { command } from '../harness/process.ts'
import { archivingTo, baseBackup, recover } from '../harness/recovery.ts'

// A disaster: a superuser destroys tables and evidence, and the database comes back as it was a moment before.

let folder: string
let dataDir: string
let archive: string
let postgres: Embedded
let root: pg.Client

async function start(): Promise<void> {
  postgres = await startEmbedded({ dataDir, settings: { fsync: 'off', ...archivingTo(archive) } })
  const { ROOT_DATABASE_URL, DATABASE_URL } = postgres.secrets
  root = new pg.Client(asRootOf(DATABASE_URL, ROOT_DATABASE_URL))
}

async function stop(): Promise<void> {
  await root.end()
  await postgres.stop()
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'assent-recovery-'))
  await chmod(folder, 0o711) // PostgreSQL may be another user.
  ;[dataDir, archive] = [join(folder, 'data'), join(folder, 'archive')]
  const user = await serverUser(dataDir)
  for (const path of [dataDir, archive]) {
    await mkdir(path)
    if (user) await chown(path, user.uid, user.gid)
  }
  await start()
  const { ROOT_DATABASE_URL, DATABASE_URL, AUTH_DATABASE_URL, WORKER_DATABASE_URL } = postgres.secrets
  await setup({
    rootDatabaseUrl: ROOT_DATABASE_URL,
    databaseUrl: DATABASE_URL,
    authDatabaseUrl: AUTH_DATABASE_URL,
    workerDatabaseUrl: WORKER_DATABASE_URL,
  })
  await migrate({ databaseUrl: DATABASE_URL }, pino({ level: 'warn' }))
  await root.connect()
  await root.query(await readFile('db/demo.sql', 'utf8'))
})

afterAll(async () => {
  await stop()
  await rm(folder, { recursive: true })
})

const count = async () =>
  (
    await root.query(`
      select (select count(*)::integer from app_public.requests) as requests,
        (select count(*)::integer from app_public.notifications) as notifications,
        (select count(*)::integer from app_public.audit_logs) as entries`)
  ).rows[0]

test('what is destroyed comes back as it was at a moment, and nobody stays logged in', async () => {
  const pgdata = join(dataDir, 'postgres')
  const { rows: early } = await root.query('select clock_timestamp()::text as moment')
  await sleep(1_000) // Copies are named by the second.
  await baseBackup(root, pgdata, archive)
  await root.query(await readFile('db/demo-requests.sql', 'utf8'))
  await root.query(`
    select app_private.open_session(user_id, false, null) from app_private.credentials where email = 'user@assent.test'`)
  await root.query(`select graphile_worker.add_job('send_mail', '{"id": 1}')`)
  const before = await count()
  expect(before.requests).toBeGreaterThan(20)
  const { rows: good } = await root.query('select clock_timestamp()::text as moment')

  // What is done afterwards is lost, and can be counted.
  await root.query(`update app_public.users set name = name || ' II'`)
  const { rows: lost } = await root.query('select count(*)::integer as n from app_public.audit_logs where "timestamp" > $1', [
    good[0].moment,
  ])
  expect(lost[0].n).toBe(5)
  await root.query(`
    drop table app_public.notifications cascade;
    alter table app_public.audit_logs disable trigger all;
    delete from app_public.audit_logs where action = 'APPROVE'`)
  expect((await root.query('select from audit.disagreements')).rowCount).toBeGreaterThan(0)
  expect(await recover(pgdata, archive, good[0].moment)).toMatch(/^1: The database runs: stop it first/)
  await stop()

  expect(await recover(pgdata, archive, early[0].moment)).toMatch(/^1: There is no copy from before 20/)
  expect(await recover(pgdata, archive, '2199-01-01')).toContain('recovery ended before configured recovery target was reached')
  expect(await recover(pgdata, archive, good[0].moment)).toMatch(/^0: [^]*The database is as it was at /)
  await start()
  const concluded = command('after-restore', { DATABASE_URL: postgres.secrets.DATABASE_URL })
  expect(await concluded.exit).toBe(0)
  expect(concluded.output).toContain(`${before.requests} requests and ${before.entries} entries of the trail are restored`)
  expect(concluded.output).toContain('"jobs":{"send_mail":1}')

  await root.connect()
  const revoked = { ...before, entries: before.entries + 1 }
  expect(await count()).toEqual(revoked)
  expect((await root.query('select from audit.disagreements')).rows).toEqual([])
  const { rows: live } = await root.query('select from app_private.sessions where revoked_at is null and expires_at > now()')
  expect(live).toEqual([])

  // From here on it is archived as another history.
  await root.query('select pg_switch_wal()')
  const archived = async () => (await readdir(join(archive, 'wal'))).filter((name) => name.startsWith('00000002'))
  while ((await archived()).length < 2) await sleep(50)
  expect(await archived()).toContain('00000002.history.gz')
})
