import { createHash } from 'node:crypto'
import type pg from 'pg'
import { cloneDatabase, type TestDatabase } from './database.ts'

/** Who acts. The last four are no people: a caller without credentials, the auditor's login, the owner, the API's login. */
export const people = [
  'user',
  'user2',
  'manager',
  'manager2',
  'admin',
  'admin2',
  'demoted',
  'gone',
  'left',
  'idle',
  'idler',
] as const
export type Person = (typeof people)[number]
export type Actor = Person | 'anonymous' | 'auditor' | 'owner' | 'authenticator' | 'superuser'

export const statuses = ['DRAFT', 'SUBMITTED', 'APPROVED', 'REJECTED', 'DELETED'] as const
export type Status = (typeof statuses)[number]

export type Row = Record<string, any>
/** What became of a statement: the SQLSTATE it failed with, or how many rows it met, and those that were fetched. */
export type Outcome = { code: string | null; message: string | null; column: string | null; count: number; rows: Row[] }
export type Attempt = {
  actor: Actor
  statement: string
  /** Fetch the rows; otherwise they are only counted. */
  fetch?: boolean
  /** Keep what it did; otherwise it is undone. */
  keep?: boolean
  /** Run as this database role whoever the actor is: a forgery. */
  role?: string
}
export type Situation = { id: string; creator: Person; assignee: Person | null; status: Status; reviewer: Person | null }

/** A clone of the template with more people, and statements as any of them at a round trip for many. */
export interface Stage {
  readonly db: TestDatabase
  /** The superuser's connection, on which attempts run. */
  readonly root: pg.Client
  readonly id: Record<Person, string>
  readonly secret: Record<Person, string>
  attempts(list: Attempt[]): Promise<Outcome[]>
  attempt(actor: Actor, statement: string, options?: Omit<Attempt, 'actor' | 'statement'>): Promise<Outcome>
  /** The rows of a statement that has to succeed, and whose effects stay. */
  rows(actor: Actor, statement: string): Promise<Row[]>
  /** A request in a status, brought there by the API. */
  request(situation: Omit<Situation, 'id' | 'reviewer'> & { reviewer?: Person }): Promise<Situation>
  /** Who somebody is, by their id. */
  name(id: string | null): Person | null
  /** What the jobs of a task carry, the oldest first. */
  jobs(task: string): Promise<Row[]>
  /** Does the jobs that tell of actions, as a worker does: the notifications that there are of those actions then. */
  tell(): Promise<Row[]>
  /** The audit entries that something has left, and nothing but those. */
  leaves(act: () => Promise<unknown>): Promise<Row[]>
  /** What `bare` has of an entry about a person. */
  entry(action: string, actor: Person | null, user: Person | null, metadata?: Row): Row
  /** Deactivates and demotes those who are to be, after they have played their part. */
  retire(): Promise<void>
  /** Takes back, without a trace, whatever became of these people, their logins and their sessions; whoever came since is gone. */
  recast(): Promise<void>
  close(): Promise<void>
}

// A function that is not SECURITY DEFINER may set the role, and a block with an exception handler is a savepoint: so an
// attempt is one call, and thousands are one round trip.
const attemptFunctions = `
  create schema test;
  create function test.attempt(a jsonb) returns jsonb language plpgsql as $$
  declare
    v_role text; v_rows jsonb := '[]'; v_count bigint := 0; v_code text; v_message text; v_column text;
  begin
    begin
      perform set_config('assent.session', a ->> 'secret', true), set_config('assent.ip', '192.0.2.1', true);
      v_role := coalesce(a ->> 'role', app_hidden.authenticate(a ->> 'secret'));
      -- Who is logged in to the database counts as well: the API, unless it is somebody with a login of their own.
      if v_role <> 'none' then
        perform set_config('session_authorization', case
          when v_role in ('assent_owner', 'assent_worker', 'assent_auditor') then v_role else 'assent_authenticator' end, true);
        perform set_config('role', v_role, true);
      end if;
      if a @> '{"fetch": true}' then
        execute format('select coalesce(jsonb_agg(to_jsonb(x)), ''[]'') from (%s) x', a ->> 'statement') into v_rows;
        v_count := jsonb_array_length(v_rows);
      else
        execute a ->> 'statement';
        get diagnostics v_count = row_count;
      end if;
      if not a @> '{"keep": true}' then
        raise exception using errcode = 'UNDO0';
      end if;
    exception
      when sqlstate 'UNDO0' then null;
      when others then
        get stacked diagnostics v_code = returned_sqlstate, v_message = message_text, v_column = column_name;
    end;
    perform set_config('session_authorization', 'postgres', true), set_config('role', 'none', true);
    perform set_config('assent.session', '', true), set_config('assent.ip', '', true);
    return jsonb_build_object('code', v_code, 'message', v_message, 'column', v_column, 'count', v_count, 'rows', v_rows);
  end $$;
  create function test.attempts(list jsonb) returns jsonb language plpgsql as $$
  declare v_all jsonb[]; v_one jsonb;
  begin
    for v_one in select * from jsonb_array_elements(list) loop
      v_all := v_all || test.attempt(v_one);
    end loop;
    return to_jsonb(v_all);
  end $$`

const rememberCast = `
  drop table if exists test.users, test.credentials, test.sessions;
  create table test.users as table app_public.users;
  create table test.credentials as table app_private.credentials;
  create table test.sessions as table app_private.sessions`

const restoreCast = `
  begin;
  set local session_replication_role = replica;
  delete from app_public.users u using test.users known where known.id = u.id;
  update app_public.users set is_deleted = true;
  insert into app_public.users table test.users;
  delete from app_private.credentials;
  insert into app_private.credentials table test.credentials;
  delete from app_private.sessions;
  insert into app_private.sessions table test.sessions;
  delete from app_private.login_attempts;
  commit`

const roles: Partial<Record<Actor, string>> = {
  anonymous: 'assent_anonymous',
  auditor: 'assent_auditor',
  owner: 'assent_owner',
  authenticator: 'assent_authenticator',
  superuser: 'none',
}

const newcomers: [Person, string][] = [
  ['admin2', 'ADMIN'],
  ['demoted', 'MANAGER'],
  ['gone', 'MANAGER'],
  ['left', 'MANAGER'],
  ['idle', 'MANAGER'],
  ['idler', 'USER'],
]

/** Opens the stage on a database of its own. Call it in a `beforeAll`: nothing here is rolled back after a test. */
export async function openStage(given?: TestDatabase): Promise<Stage> {
  const db = given ?? (await cloneDatabase())
  const root = await db.connect('root')
  await root.query(attemptFunctions)
  const { id, secret } = await addPeople(db, root)
  const remember = () => root.query(rememberCast)
  await remember()

  const attempts = async (list: Attempt[]): Promise<Outcome[]> => {
    if (list.length === 0) return []
    const sent = list.map((one) => ({
      ...one,
      secret: roles[one.actor] ? '' : secret[one.actor as Person],
      role: one.role ?? roles[one.actor],
    }))
    return (await root.query('select test.attempts($1) as outcomes', [JSON.stringify(sent)])).rows[0].outcomes
  }
  const attempt: Stage['attempt'] = async (actor, statement, options) => (await attempts([{ actor, statement, ...options }]))[0]!
  const rows: Stage['rows'] = async (actor, statement) => {
    const outcome = await attempt(actor, statement, { fetch: true, keep: true })
    if (outcome.code) throw new Error(`${actor}: ${statement}: ${outcome.code} ${outcome.message}`)
    return outcome.rows
  }

  const names = new Map(Object.entries(id).map(([name, one]) => [one, name as Person]))

  const entries = async (): Promise<Row[]> =>
    (await root.query('select * from app_public.audit_logs order by "timestamp", id')).rows

  return {
    db,
    root,
    id,
    secret,
    attempts,
    attempt,
    rows,
    name: (one) => (one === null ? null : names.get(one)!),
    jobs: async (task) =>
      (
        await root.query(
          `select j.payload from graphile_worker._private_jobs j join graphile_worker._private_tasks t on t.id = j.task_id
           where t.identifier = $1 order by j.id`,
          [task],
        )
      ).rows.map(({ payload }) => payload),
    async tell() {
      const told = await root.query(
        `delete from graphile_worker._private_jobs j using graphile_worker._private_tasks t
         where t.id = j.task_id and t.identifier = 'dispatch' returning j.payload ->> 'id' as entry`,
      )
      const events = told.rows.map(({ entry }) => entry)
      await root.query('set role assent_owner')
      await root
        .query('select app_private.dispatch(e) from unnest($1::uuid[]) e', [events])
        .finally(() => root.query('reset role'))
      return (await root.query('select * from app_public.notifications where event = any ($1) order by created_at, id', [events]))
        .rows
    },
    async leaves(act) {
      const before = await entries()
      const began = (await root.query('select clock_timestamp() as now')).rows[0].now
      await act()
      const after = await entries()
      expect(after.slice(0, before.length)).toEqual(before)
      const left = after.slice(before.length)
      for (const { timestamp } of left) {
        expect(timestamp.getTime()).toBeGreaterThanOrEqual(began.getTime())
        expect(timestamp.getTime()).toBeLessThanOrEqual(Date.now() + 1000)
      }
      return left
    },
    entry: (action, actor, user, metadata = {}) => ({
      actor_id: actor && id[actor],
      action,
      request_id: null,
      request_creator_id: null,
      user_id: user && id[user],
      metadata,
      ip_address: '192.0.2.1',
    }),
    async request({ creator, assignee, status, reviewer = 'admin2' }) {
      const assigned = assignee ? `'${id[assignee]}'` : 'null'
      const created = await rows(
        creator,
        `select * from app_public.create_request('${creator}''s ${status}', 'as is', ${assigned})`,
      )
      const request = created[0]!['id']
      const decided = status === 'APPROVED' || status === 'REJECTED'
      if (status === 'DELETED') await rows(creator, `select * from app_public.delete_request('${request}')`)
      if (status === 'SUBMITTED' || decided) await rows(creator, `select * from app_public.submit_request('${request}')`)
      if (status === 'APPROVED') await rows(reviewer, `select * from app_public.approve_request('${request}')`)
      if (status === 'REJECTED') await rows(reviewer, `select * from app_public.reject_request('${request}', 'Not so')`)
      return { id: request, creator, assignee, status, reviewer: decided ? reviewer : null }
    },
    async retire() {
      await root.query(`update app_public.users set role = 'USER' where id = $1`, [id.demoted])
      await root.query('update app_public.users set is_deleted = true where id = any ($1)', [
        [id.gone, id.left, id.idle, id.idler],
      ])
      await remember()
    },
    async recast() {
      await root.query(restoreCast)
    },
    close: () => db.close(),
  }
}

async function addPeople(db: TestDatabase, root: pg.Client) {
  const id: Partial<Record<Person, string>> = {}
  const secret: Partial<Record<Person, string>> = {}
  for (const [name, person] of Object.entries(db.people)) {
    id[name as Person] = person.id
    secret[name as Person] = person.session
  }
  for (const [name, one] of Object.entries(await addNewcomers(root))) {
    id[name as Person] = one
    secret[name as Person] = `secret of ${name}`
  }
  return { id: id as Record<Person, string>, secret: secret as Record<Person, string> }
}

/** Adds those who are on the stage beside the demo people, unless they are there; their ids. */
export async function addNewcomers(root: pg.Client): Promise<Partial<Record<Person, string>>> {
  const id: Partial<Record<Person, string>> = {}
  for (const [name, role] of newcomers) {
    const known = await root.query('select user_id from app_private.credentials where email = $1', [`${name}@assent.test`])
    // No hash: nobody logs in as them by password.
    const { rows } =
      known.rows.length > 0
        ? known
        : await root.query(
            `with person as (insert into app_public.users (name, role) values ($1, $2) returning id),
         login as (insert into app_private.credentials (user_id, email, password_hash) select id, $1 || '@assent.test', 'none' from person)
       insert into app_private.sessions (user_id, secret_hash, refresh_hash, expires_at)
       select id, app_private.hash_secret($3), app_private.hash_secret($3 || '.r'), now() + interval '1 day' from person
       returning user_id`,
            [name, role, `secret of ${name}`],
          )
    id[name] = rows[0].user_id
  }
  return id
}

/** An entry without its id, its time, which `leaves` has looked at, and the login to the database. */
export const bare = ({ id: _id, timestamp: _timestamp, database_login: _login, ...entry }: Row): Row => entry

export type Login = {
  user_id: string | null
  session_secret: string | null
  refresh_token: string | null
  retry_after: number | null
}

/** What is sent in a password's place. */
export const digest = (password: string): string => createHash('sha256').update(`assent:${password}`).digest('base64')

/** One statement in a transaction of its own on a connection of the API's, as whom a session's secret names; its rows. */
export async function asSession(
  client: pg.Client,
  secret: string,
  statement: string,
  values: unknown[] = [],
  ip = '192.0.2.1',
): Promise<Row[]> {
  await client.query('begin')
  try {
    await client.query(`select app_hidden.become($1, $2)`, [secret, ip])
    return (await client.query(statement, values)).rows
  } finally {
    await client.query('commit') // a rollback where it failed
  }
}

export type Browser = { readonly session?: string; readonly byCookie?: boolean; readonly userAgent?: string }

/** Logs in on a connection of the API's, in its two transactions. */
export async function login(
  client: pg.Client,
  email: string,
  password = 'assent-demo-password',
  ip = '192.0.2.1',
  browser: Browser = {},
): Promise<Login> {
  const [begun] = await asSession(client, browser.session ?? '', 'select * from app_hidden.begin_login($1)', [email], ip)
  const { attempt_id, retry_after } = begun!
  if (retry_after) return { user_id: null, session_secret: null, refresh_token: null, retry_after }
  return finishLogin(client, attempt_id, email, password, ip, browser)
}

export async function finishLogin(
  client: pg.Client,
  attempt: string | null,
  email: string,
  password: string,
  ip = '192.0.2.1',
  { session = '', byCookie = false, userAgent }: Browser = {},
): Promise<Login> {
  const values = [attempt, email, digest(password), byCookie, userAgent]
  const [done] = await asSession(client, session, 'select * from app_hidden.finish_login($1, $2, $3, $4, $5)', values, ip)
  return done as Login
}
