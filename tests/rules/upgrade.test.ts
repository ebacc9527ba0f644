import { createHash, randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import * as graphileMigrate from 'graphile-migrate'
import { runMigrations } from 'graphile-worker'
import JSON5 from 'json5'
import pg from 'pg'
import pino from 'pino'
import { migrate } from '../../server/setup/migrate.ts'

// A database of the version that first went out (migration 000009) is taken over without losing a row, while that version's
// server and worker go on asking what they ask.

declare const POSTGRES: 15 | 18

const NINTH = '000009'
const name = `upgrade_${randomBytes(6).toString('hex')}`
let url: Record<'root' | 'owner' | 'auth', string>
let root: pg.Client
let owner: pg.Client
let api: pg.Client
let folder: string

beforeAll(async () => {
  const secrets = JSON.parse(process.env[`TEST_POSTGRES_${POSTGRES}`]!) as Record<string, string>
  const at = (text: string) => Object.assign(new URL(text), { pathname: `/${name}` }).href
  url = { root: at(secrets['ROOT_DATABASE_URL']!), owner: at(secrets['DATABASE_URL']!), auth: at(secrets['AUTH_DATABASE_URL']!) }
  root = new pg.Client(secrets['ROOT_DATABASE_URL'])
  await root.connect()
  await root.query(`create database ${name} owner assent_owner template template0 encoding 'UTF8'`)
  await root.query(
    `revoke all on database ${name} from public; grant connect on database ${name} to assent_authenticator, assent_worker, assent_auditor`,
  )
  folder = await mkdtemp(join(tmpdir(), 'assent-upgrade-'))
  await migrateAsBefore()
  ;[owner, api] = [new pg.Client(url.owner), new pg.Client(url.auth)]
  await Promise.all([owner.connect(), api.connect()])
}, 60_000)

afterAll(async () => {
  await Promise.all([owner?.end(), api?.end()])
  await root.query(`drop database ${name} with (force)`)
  await root.end()
  await rm(folder, { recursive: true })
})

/** What `npm run migrate` did in that version: its nine migrations, and nothing else. */
async function migrateAsBefore(): Promise<void> {
  await mkdir(join(folder, 'committed'))
  for (const file of await readdir('migrations/committed')) {
    if (file.slice(0, 6) <= NINTH) await symlink(resolve('migrations/committed', file), join(folder, 'committed', file))
  }
  await writeFile(join(folder, 'current.sql'), '')
  await runMigrations({ connectionString: url.owner })
  const settings = JSON5.parse(await readFile('.gmrc', 'utf8'))
  await graphileMigrate.migrate({
    ...settings,
    connectionString: url.owner,
    databaseOwner: 'assent_owner',
    migrationsFolder: folder,
    logger: new graphileMigrate.Logger(() => () => {}),
  })
}

/** A statement as the former server sent it: who is asking by three settings, in the same transaction. */
async function ask(session: string, text: string, values: unknown[] = []): Promise<any[]> {
  await api.query('begin')
  try {
    await api.query(
      `select set_config('assent.session', $1, true), set_config('assent.ip', '192.0.2.1', true),
         set_config('role', app_hidden.authenticate($1), true) as role`,
      [session],
    )
    const { rows } = await api.query(text, values)
    await api.query('commit')
    return rows
  } catch (error) {
    await api.query('rollback')
    throw error
  }
}

const people: Record<string, { id: string; session: string }> = {}

/** What somebody does in a day, by the former server's own statements. */
async function work(): Promise<void> {
  const ACT = 'select version, document::text from app_hidden.act_on_request($1, $2, $3, $4)'
  const act = async (who: string, id: string | null, action: string, body: object, versions: number[] | null = null) =>
    JSON.parse((await ask(people[who]!.session, ACT, [id, action, versions, body]))[0].document)
  const { id } = await act('user', null, 'CREATE', { title: 'A chair', description: 'Or two' })
  await act('user', id, 'UPDATE', { title: 'Two chairs' }, [1])
  await act('user', id, 'SUBMIT', {})
  await act('manager', id, 'APPROVE', { comment: 'Sit well.' })
  const { id: deleted } = await act('user', null, 'CREATE', { title: 'Nothing' })
  await act('user', deleted, 'DELETE', {})
  await ask(people['user']!.session, 'select * from app_public.create_request($1)', ['Waits'])
  const [waiting] = await ask(
    people['user']!.session,
    `select id from app_public.requests where title = 'Waits' order by id desc limit 1`,
  )
  await ask(people['user']!.session, 'select * from app_public.submit_request($1)', [waiting.id])
  await ask(people['admin']!.session, 'select * from app_public.create_webhook($1, $2)', [
    'https://example.com/hook',
    ['request.approved'],
  ])

  const USER =
    'select app_hidden.user_document(u)::text as document from app_hidden.change_user(app_hidden.visible_user($1), $2) u'
  const [renamed] = await ask(people['admin']!.session, USER, [people['user']!.id, { name: `Uma ${Date.now()}` }])
  expect(JSON.parse(renamed.document).name).toMatch(/^Uma/)
  const lists = [
    `select app_hidden.request_document(d)::text as document, d.created_at::text as position, d.id as id
     from app_public.requests d where not d.is_deleted order by d.created_at desc, d.id desc limit 21`,
    `select app_hidden.request_document(d)::text as document from app_public.requests_awaiting_my_decision() d
     order by coalesce(d.submitted_at, '9999-12-31Z') limit 21`,
    `select app_hidden.audit_log_document(d)::text as document from app_public.audit_logs d order by d.timestamp desc limit 21`,
    `select app_hidden.notification_document(d)::text as document from app_public.notifications d limit 21`,
  ]
  for (const list of lists.slice(0, 3)) expect((await ask(people['manager']!.session, list)).length).toBeGreaterThan(0)
  await ask(people['user']!.session, lists[3]!)
  const [attempt] = await ask('', 'select * from app_hidden.begin_login($1)', ['nobody@example.com'])
  const login = 'select * from app_hidden.finish_login($1, $2, $3, $4, $5)'
  expect((await ask('', login, [attempt.attempt_id, 'nobody@example.com', 'x', false, null]))[0].user_id).toBeNull()
  expect(await ask(people['user']!.session, 'select app_hidden.touch_session() as user_id')).toEqual([
    { user_id: people['user']!.id },
  ])
}

/** What the former worker does of its jobs, each once. */
async function doJobs(): Promise<void> {
  const jobs = async (task: string) =>
    (
      await owner.query(
        `delete from graphile_worker._private_jobs j using graphile_worker._private_tasks t
         where t.id = j.task_id and t.identifier = any ($1) returning j.payload ->> 'id' as id`,
        [task === 'notify' ? ['notify', 'dispatch'] : [task]],
      )
    ).rows.map(({ id }) => id as string)
  for (const id of await jobs('notify')) await owner.query('select app_private.notify($1)', [id])
  for (const id of await jobs('send_mail')) {
    const { rows } = await owner.query('select app_private.begin_mail($1, $2) as mail', [id, 'example.com'])
    if (rows[0].mail) await owner.query('select app_private.mail_sent($1, $2)', [id, []])
    expect((await owner.query('select pg_advisory_unlock(app_private.mail_lock($1)) as held', [id])).rows).toEqual([
      { held: true },
    ])
  }
  for (const id of await jobs('deliver_webhook')) {
    await owner.query('select * from app_private.begin_delivery($1)', [id])
    await owner.query('select app_private.delivery_done($1, 204)', [id])
    expect((await owner.query('select pg_advisory_unlock(app_private.delivery_lock($1)) as held', [id])).rows).toEqual([
      { held: true },
    ])
  }
}

/** The columns that tables had at first: what is added later says nothing of what is lost. */
const columnsOf = new Map<string, string>()

/** Every row of every table that there is, but for what says how far the schema has come. */
async function everything(): Promise<Record<string, string[]>> {
  const { rows: tables } = await owner.query<{ name: string; columns: string }>(`
    select c.oid::regclass::text as name, string_agg(format('%I', a.attname), ', ' order by a.attname) as columns
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relkind in ('r', 'p') and not c.relispartition and c.relnamespace in ('app_public'::regnamespace, 'app_private'::regnamespace)
      and c.relname <> 'applied_rules' and a.attname not in ('stamps', 'database_login')
      -- The texts of reference tables are part of the program, which a migration may reword.
      and not (a.attname in ('description', 'headline')
        and exists (select from pg_policy p where p.polrelid = c.oid and p.polname = 'everybody_select'))
    group by c.oid order by 1`)
  const found: Record<string, string[]> = {}
  for (const { name: table, columns: now } of tables) {
    const columns = columnsOf.get(table) ?? now
    columnsOf.set(table, columns)
    const { rows } = await owner.query(
      `select (select row_to_json(r)::text from (select ${columns}) r) as row from ${table} order by 1`,
    )
    found[table] = rows.map(({ row }) => row as string)
  }
  return found
}

test('no row is lost or changed, and the former server and worker go on', async () => {
  for (const [who, role] of [
    ['user', 'USER'],
    ['manager', 'MANAGER'],
    ['admin', 'ADMIN'],
  ]) {
    const { rows } = await owner.query(
      `select u.id, s.session_secret as session
       from app_private.register_user($1, $2, $3, 'digest') u, app_private.open_session(u.id, false, null) s`,
      [`${who}@example.com`, who, role],
    )
    people[who!] = rows[0]
  }
  // Two who could register then, though they have one address now.
  for (const email of ['zo\u00eb@example.com', 'zoe\u0308@example.com'])
    await owner.query(`select app_private.register_user($1, 'Zoe', 'USER', app_private.password_digest('of then'))`, [email])
  await work()
  await doJobs()
  await work() // whose jobs are still to be done
  const before = await everything()
  expect(before['app_public.audit_logs']!.length).toBeGreaterThan(15)
  expect(before['app_public.webhook_deliveries']!.length).toBeGreaterThan(0)

  // Two at once, as when several containers start.
  const log = pino({ level: 'silent' })
  await Promise.all([migrate({ databaseUrl: url.owner }, log), migrate({ databaseUrl: url.owner }, log)])

  const after = await everything()
  for (const [table, rows] of Object.entries(before)) {
    // Of what is possible there may be more than before; of what has happened there is not.
    const added = /[.](audit_actions|notification_kinds|role_permissions)$/.test(table) ? expect.arrayContaining(rows) : rows
    // Requests have a kind and data since.
    const kept = table.endsWith('.request_transitions')
      ? after[table]!.map((row) => row.replace(/,"(kind_id|data)"/g, ''))
      : after[table]
    expect({ table, rows: kept }).toEqual({ table, rows: added })
  }
  const { rows: colliding } = await owner.query('select email, collides from audit.colliding_addresses order by user_id')
  expect(colliding).toEqual([
    { email: 'zo\u00eb@example.com', collides: false },
    { email: 'zoe\u0308@example.com', collides: true },
  ])
  for (const { email } of colliding) {
    const [begun] = await ask('', 'select * from app_hidden.begin_login($1)', [email])
    const [done] = await ask('', 'select * from app_hidden.finish_login($1, $2, $3, false, null)', [
      begun.attempt_id,
      email,
      createHash('sha256').update('assent:of then').digest('base64'),
    ])
    const { rows: own } = await owner.query('select user_id from app_private.credentials where email = $1', [email])
    expect(own).toEqual([{ user_id: done.user_id }])
  }
  await doJobs()
  await work()
  await doJobs()
  const { rows } = await owner.query(`select count(*)::integer as n from app_public.notifications where mail_state = 'SENT'`)
  expect(rows[0].n).toBeGreaterThanOrEqual(6)
  expect((await owner.query('select * from audit.disagreements')).rows).toEqual([])
})
