import { openStage, type Person, type Stage } from './stage.ts'

// No list may read through its table to find its page: each is met by an index, in spite of row-level security. Pages
// read are what is measured, in a database where each table is hundreds of pages.

const most = 150
let stage: Stage
let oneRequest: string
let waiting: string

beforeAll(async () => {
  stage = await openStage()
  await stage.root.query(`set session_replication_role = replica`)
  await stage.root.query(
    `with people as (
       insert into app_public.users (name, created_at) select 'Person ' || n, now() - n * interval '1 hour' from generate_series(1, 20000) n returning id
     ), logins as (
       insert into app_private.credentials (user_id, email, password_hash) select id, id || '@assent.test', 'none' from people
     )
     insert into app_private.sessions (user_id, secret_hash, refresh_hash, expires_at)
     select id, app_private.hash_secret(id::text), app_private.hash_secret(id || 'r'), now() + interval '1 day' from people`,
  )
  // Of the crowd's 30,000 requests nearly all are approved: what one looks for is rare.
  await stage.root.query(
    `with crowd as (select array_agg(id) as ids from app_public.users where name like 'Person %')
     insert into app_public.requests (title, status, creator_id, assigned_to_id, reviewed_by_id, reviewed_at, submitted_at, created_at)
     select 'Request ' || n, case when n % 1000 = 0 then 'SUBMITTED' else 'APPROVED' end,
       case when n % 2000 = 7 then $1::uuid else ids[1 + n % 20000] end,
       case when n % 2000 = 8 then $2::uuid end,
       case when n % 1000 > 0 then case when n % 2000 = 9 then $2::uuid else $3::uuid end end,
       case when n % 1000 > 0 then now() - n * interval '1 minute' end, now() - n * interval '1 minute', now() - n * interval '1 minute'
     from crowd, generate_series(1, 30000) n`,
    [stage.id.user, stage.id.manager2, stage.id.admin],
  )
  await stage.root.query(
    `insert into app_public.audit_logs (actor_id, action, request_id, request_creator_id, "timestamp")
     select case when reviewed_by_id = $1 then $1 else creator_id end, case when status = 'SUBMITTED' then 'SUBMIT' else 'APPROVE' end, id, creator_id, created_at
     from app_public.requests`,
    [stage.id.manager2],
  )
  await stage.root.query(
    `insert into app_public.audit_logs (actor_id, action, user_id) select $1, 'USER_UPDATE', $2 from generate_series(1, 20)`,
    [stage.id.admin2, stage.id.user],
  )
  await stage.root.query(
    `insert into app_private.login_attempts (account_key, network, failed)
     select app_private.account_key(n || '@'), ('10.' || n / 65536 || '.' || n / 256 % 256 || '.' || n % 256 || '/32')::cidr, true from generate_series(1, 60000) n`,
  )
  await stage.root.query('set session_replication_role = origin')
  await stage.root.query('vacuum analyze')
  oneRequest = (await stage.root.query(`select id from app_public.requests where title = 'Request 2009'`)).rows[0].id
  waiting = (await stage.root.query(`select id from app_public.requests where title = 'Request 3000'`)).rows[0].id
}, 60_000)
afterAll(() => stage?.close())

/** How many pages a statement reads as somebody, functions and policies included; and how many rows it finds. */
async function pages(person: Person | 'owner', statement: string): Promise<{ pages: number; rows: number }> {
  const explain = async () => {
    await stage.root.query('begin')
    try {
      if (person === 'owner') await stage.root.query('set local role assent_owner')
      else
        await stage.root.query(
          `select set_config('assent.session', $1, true), set_config('role', app_hidden.authenticate($1), true)`,
          [stage.secret[person]],
        )
      await stage.root.query(`select set_config('assent.ip', '192.0.2.1', true)`)
      const { rows } = await stage.root.query(`explain (analyze, buffers, timing off, format json) ${statement}`)
      const plan = rows[0]['QUERY PLAN'][0].Plan
      return { pages: plan['Shared Hit Blocks'] + plan['Shared Read Blocks'], rows: plan['Actual Rows'] }
    } finally {
      await stage.root.query('rollback')
    }
  }
  await explain() // The first time PostgreSQL also reads its catalog, for the functions it has not met yet.
  return explain()
}

const newest = 'order by created_at desc, id desc limit 20'
const latest = 'order by "timestamp" desc, id desc limit 20'
const id = (person: Person) => `'${stage.id[person]}'`

const lists: [string, Person | 'owner', () => string][] = [
  ['all requests', 'manager', () => `select * from app_public.requests ${newest}`],
  ['all requests', 'admin', () => `select * from app_public.requests ${newest}`],
  ['all requests, not deleted', 'admin', () => `select * from app_public.requests where not is_deleted ${newest}`],
  ["one's own requests", 'user', () => `select * from app_public.requests ${newest}`],
  ["the number of one's own requests", 'user', () => 'select count(*) from app_public.requests'],
  ['the requests of somebody', 'manager', () => `select * from app_public.requests where creator_id = ${id('user')} ${newest}`],
  ['the requests of somebody', 'admin', () => `select * from app_public.requests where creator_id = ${id('user')} ${newest}`],
  ['submitted requests', 'manager', () => `select * from app_public.requests where status = 'SUBMITTED' ${newest}`],
  ['submitted requests', 'admin', () => `select * from app_public.requests where status = 'SUBMITTED' ${newest}`],
  [
    'requests assigned to somebody',
    'manager',
    () => `select * from app_public.requests where assigned_to_id = ${id('manager2')} ${newest}`,
  ],
  [
    'requests assigned to somebody',
    'admin',
    () => `select * from app_public.requests where assigned_to_id = ${id('manager2')} ${newest}`,
  ],
  [
    'requests decided by somebody',
    'manager',
    () => `select * from app_public.requests where reviewed_by_id = ${id('manager2')} ${newest}`,
  ],
  [
    'the inbox',
    'manager',
    () => `select * from app_public.requests_awaiting_my_decision() order by coalesce(submitted_at, '9999-12-31Z'), id limit 20`,
  ],
  [
    'the inbox',
    'admin',
    () => `select * from app_public.requests_awaiting_my_decision() order by coalesce(submitted_at, '9999-12-31Z'), id limit 20`,
  ],
  ['the number of the inbox', 'manager', () => 'select count(*) from app_public.requests_awaiting_my_decision()'],
  ['the trail', 'admin', () => `select * from app_public.audit_logs ${latest}`],
  ['the trail', 'manager', () => `select * from app_public.audit_logs ${latest}`],
  ["the trail of one's own", 'user', () => `select * from app_public.audit_logs ${latest}`],
  ['the trail of a request', 'admin', () => `select * from app_public.audit_logs where request_id = '${oneRequest}' ${latest}`],
  ['the trail of a person', 'admin', () => `select * from app_public.audit_logs where user_id = ${id('user')} ${latest}`],
  ['what somebody did', 'admin', () => `select * from app_public.audit_logs where actor_id = ${id('manager2')} ${latest}`],
  ['what somebody did', 'manager', () => `select * from app_public.audit_logs where actor_id = ${id('manager2')} ${latest}`],
  ['entries of one kind', 'admin', () => `select * from app_public.audit_logs where action = 'USER_UPDATE' ${latest}`],
  ['people', 'admin', () => `select * from app_public.users ${newest}`],
  ['people', 'manager', () => `select * from app_public.users ${newest}`],
  ['people one sees', 'user', () => `select * from app_public.users ${newest}`],
  ['managers', 'admin', () => `select * from app_public.users where role = 'MANAGER' ${newest}`],
  ['who decides', 'user', () => 'select * from app_hidden.deciders'],
  ['who is asking', 'user', () => 'select * from app_public.get_current_user()'],
  ['a session', 'owner', () => `select * from app_private.live_session('${stage.secret.user}')`],
  ['the sessions of somebody', 'owner', () => `select * from app_private.sessions where user_id = ${id('user')}`],
  ['an account', 'owner', () => `select * from app_private.credentials c where lower(c.email) = lower('User@assent.test')`],
  ['the beginning of a login', 'owner', () => `select * from app_hidden.begin_login('user@assent.test')`],
  [
    'the end of a login',
    'owner',
    () => `select * from app_hidden.finish_login((select attempt_id from app_hidden.begin_login('77@')), '77@', 'x')`,
  ],
  ['a creation', 'user', () => `select * from app_public.create_request('T')`],
  ['an approval', 'manager', () => `select * from app_public.approve_request('${waiting}')`],
]

test('the tables are so big that a scan would show', async () => {
  const { rows } = await stage.root.query(
    `
    select relname, relpages from pg_class
    where oid in ('app_public.requests'::regclass, 'app_public.audit_logs'::regclass, 'app_public.users'::regclass, 'app_private.sessions'::regclass,
      'app_private.credentials'::regclass, 'app_private.login_attempts'::regclass) and relpages <= $1`,
    [most],
  )
  expect(rows).toEqual([])
})

test.each(lists)('%s, by %s, reads few pages', async (_, person, statement) => {
  const found = await pages(person, statement())
  expect(found.rows).toBeGreaterThan(0)
  expect(found.pages).toBeLessThan(most)
})
