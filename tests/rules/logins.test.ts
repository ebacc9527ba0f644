import { readFile } from 'node:fs/promises'
import pg from 'pg'
import { openStage, type Row, type Stage } from '../harness/stage.ts'

// What each login to the database may do by itself: a stolen credential gives nothing but this.

let stage: Stage
const logins = ['auth', 'worker', 'auditor', 'owner'] as const
type Login = (typeof logins)[number]
const clients = {} as Record<Login, pg.Client>

beforeAll(async () => {
  stage = await openStage()
  for (const login of logins) clients[login] = await stage.db.connect(login)
  await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
})
afterAll(() => stage?.close())

/** The SQLSTATE of a statement, which is undone. */
async function codeOf(login: Login, statement: string): Promise<string | null> {
  await clients[login].query('begin')
  try {
    await clients[login].query(statement)
    return null
  } catch (error) {
    return (error as pg.DatabaseError).code!
  } finally {
    await clients[login].query('rollback')
  }
}

const strangers: Login[] = ['auth', 'worker', 'auditor']

describe('no login but the owner', () => {
  test.each([
    ['takes a lock that others wait for', `select pg_advisory_lock(hashtextextended('administering people', 0))`],
    ['tries one', 'select pg_try_advisory_lock(7277538)'],
    ['takes one for a transaction', 'select pg_advisory_xact_lock(1)'],
    ['shares one', 'select pg_advisory_lock_shared(1)'],
    ['makes a large object', 'select lo_create(0)'],
    ['fills one', `select lo_from_bytea(0, '\\x00')`],
    ['makes a temporary table', 'create temp table mine ()'],
    ['makes a table', 'create table public.mine ()'],
    ['makes a table among ours', 'create table app_public.mine ()'],
    ['makes a function', `create function app_private.mine() returns integer language sql as 'select 1'`],
    ['makes a schema', 'create schema mine'],
    ['ends a connection', 'select pg_terminate_backend(pg_backend_pid())'],
    ['ends a statement', 'select pg_cancel_backend(pg_backend_pid())'],
    ['keeps old rows', 'select pg_export_snapshot()'],
    ['fills the log of transactions', `select pg_logical_emit_message(false, 'x', 'x')`],
    ['reads credentials', 'select from app_private.credentials'],
    ['reads sessions', 'select from app_private.sessions'],
    ['writes a credential', `update app_private.credentials set password_hash = 'x'`],
    ['opens a session', `select app_private.open_session('${'0'.repeat(8)}-0000-7000-8000-000000000000', true, 'x')`],
    ['registers a person', `select app_private.register_user('x@example.com', 'X', 'ADMIN', 'x')`],
    ['changes a role', `update app_public.users set role = 'ADMIN'`],
    ['changes the queue’s history', 'update graphile_worker.migrations set breaking = true'],
    ['becomes the owner', 'set role assent_owner'],
    ['reads a file', `select pg_read_file('PG_VERSION')`],
  ])('%s', async (_, statement) => {
    for (const login of strangers) expect({ login, code: await codeOf(login, statement) }).toEqual({ login, code: '42501' })
  })

  test.each(['postgres', 'template1'])('connects to the database %s', async (database) => {
    for (const login of strangers) {
      const url = Object.assign(new URL(stage.db.urls[login]), { pathname: `/${database}` }).href
      const client = new pg.Client(url)
      await expect(client.connect()).rejects.toMatchObject({ code: '42501' })
    }
  })

  test('which can do all of that, but not be a superuser', async () => {
    expect(await codeOf('owner', `select pg_advisory_xact_lock(hashtextextended('administering people', 0))`)).toBe(null)
    expect(await codeOf('owner', 'select from app_private.credentials')).toBe(null)
    expect(await codeOf('owner', `select pg_read_file('PG_VERSION')`)).toBe('42501')
  })
})

describe('the login of the API', () => {
  test('has limits of its own', async () => {
    const { rows } = await stage.root.query(`
      select r.rolconnlimit = greatest(21, current_setting('max_connections')::integer - 32) as limited, s.setconfig as settings
      from pg_roles r join pg_db_role_setting s on s.setrole = r.oid and s.setdatabase = 0 where r.rolname = 'assent_authenticator'`)
    expect(rows).toEqual([
      {
        limited: true,
        settings: [
          'statement_timeout=10s',
          'lock_timeout=5s',
          'idle_in_transaction_session_timeout=15s',
          'log_min_error_statement=panic',
        ],
      },
    ])
  })

  test('reads nothing of people and requests, whichever role it takes on', async () => {
    for (const role of ['none', 'assent_anonymous', 'assent_user', 'assent_manager', 'assent_admin']) {
      await clients.auth.query(`set role ${role}`)
      for (const table of ['users', 'requests', 'audit_logs', 'notifications', 'webhooks']) {
        const found = await clients.auth.query(`select from app_public.${table}`).then(
          ({ rowCount }) => rowCount,
          ({ code }) => code,
        )
        expect([role, table, [0, '42501'].includes(found)]).toEqual([role, table, true])
      }
    }
    await clients.auth.query('reset role')
  })
})

describe('the login of the worker', () => {
  test('and that of an auditor have limits of connections', async () => {
    const { rows } = await stage.root.query(`
      select rolname as login, rolconnlimit = case rolname when 'assent_auditor' then 4
        else greatest(25, current_setting('max_connections')::integer / 4) end as limited
      from pg_roles where rolname in ('assent_worker', 'assent_auditor') order by 1`)
    expect(rows).toEqual(['assent_auditor', 'assent_worker'].map((login) => ({ login, limited: true })))
  })

  test('reads no table of ours, and takes on no role', async () => {
    for (const table of [
      'app_public.users',
      'app_public.audit_logs',
      'app_public.notifications',
      'app_private.password_resets',
    ]) {
      expect([table, await codeOf('worker', `select from ${table}`)]).toEqual([table, '42501'])
    }
    for (const role of ['assent_user', 'assent_admin', 'assent_auditor']) {
      expect([role, await codeOf('worker', `set role ${role}`)]).toEqual([role, '42501'])
    }
  })

  test('shows that it lives by locks with two keys, which nobody else waits for', async () => {
    expect(await codeOf('worker', 'select pg_advisory_xact_lock(7277539, 1)')).toBe(null)
  })

  test('gets the address of whom a mail is for, and of nobody else', async () => {
    await stage.tell()
    const { rows } = await stage.root.query(`
      select n.id, c.email from app_public.notifications n join app_private.credentials c on c.user_id = n.recipient_id
      where n.mail_state = 'QUEUED' limit 1`)
    await clients.worker.query('begin')
    const sent = await clients.worker.query(`select app_private.mail_to_send($1, 'example.com') ->> 'address' as email`, [
      rows[0].id,
    ])
    expect(sent.rows).toEqual([{ email: rows[0].email }])
    const none = await clients.worker.query(`select app_private.mail_to_send($1, 'example.com') as mail`, [stage.id.user])
    expect(none.rows).toEqual([{ mail: null }])
    await clients.worker.query('rollback')
  })
})

describe('docs/dba.md', () => {
  /** The row of a login, whose cells list names in code. */
  async function row(login: string): Promise<string[][]> {
    const line = (await readFile('docs/dba.md', 'utf8')).split('\n').find((one) => one.startsWith(`| \`${login}\``))!
    return line
      .split('|')
      .slice(2, -1)
      .map((cell) => [...cell.matchAll(/`([^`]+)`/g)].map(([, name]) => name!).sort())
  }
  const all = async (text: string): Promise<string[]> => (await stage.root.query(text)).rows.map(({ name }: Row) => name)

  test.each(['assent_authenticator', 'assent_worker', 'assent_auditor'])('says what %s may do by itself', async (login) => {
    const becomes = await all(`select roleid::regrole::text as name from pg_auth_members where member = '${login}'::regrole`)
    const reads = await all(`
      select distinct format('%I.%I', n.nspname, c.relname) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where n.nspname in ('app_public', 'app_hidden', 'app_private', 'audit') and c.relkind in ('r', 'p', 'v')
        and has_any_column_privilege('${login}', c.oid, 'select')`)
    const calls = await all(`
      select distinct format('%I.%I', n.nspname, p.proname) as name from pg_proc p join pg_namespace n on n.oid = p.pronamespace
      where n.nspname in ('app_public', 'app_hidden', 'app_private')
        and has_schema_privilege('${login}', n.oid, 'usage') and has_function_privilege('${login}', p.oid, 'execute')
        and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e')`)
    expect(await row(login)).toEqual([becomes.sort(), reads.sort(), calls.sort()])
  })
})
