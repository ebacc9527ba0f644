import { readdir, readFile } from 'node:fs/promises'
import { runMigrations } from 'graphile-worker'
import pg from 'pg'
import pino from 'pino'
import { STATUS, toClientError } from '../../server/errors.ts'
import { cloneDatabase, type TestDatabase } from '../harness/database.ts'
import { mutations } from '../tools/mutations.ts'
import { compileMigration, dumpSchema, hashCommitted, lintSchema } from '../harness/schema.ts'

let db: TestDatabase
let owner: pg.Client
let root: pg.Client

beforeAll(async () => {
  db = await cloneDatabase('pristine')
  owner = await db.connect('owner')
  root = await db.connect('root')
})
afterAll(() => db.close())

for (const client of [() => owner, () => root]) {
  beforeEach(async () => void (await client().query('begin')))
  afterEach(async () => void (await client().query('rollback')))
}

const sqlFiles = async () => (await readdir('db', { recursive: true })).filter((file) => file.endsWith('.sql'))

describe('db/schema.sql', () => {
  let dump: string
  beforeAll(async () => void (dump = await dumpSchema(owner)))

  test('is what migrations and rules leave behind; if a change is meant, write it by: npm run dump', async () => {
    expect(dump).toBe(await readFile('db/schema.sql', 'utf8'))
  })

  test('shows every table that everybody may read whole with its rows, and whatever else there is', async () => {
    for (const table of [
      'roles',
      'role_permissions',
      'request_statuses',
      'request_parties',
      'request_transitions',
      'audit_actions',
      'notification_kinds',
      'mail_deliveries',
      'webhook_events',
    ]) {
      expect(dump).toContain(`insert into app_public.${table} values (`)
    }
    expect(dump).not.toContain('does not show')
    await owner.query('create aggregate app_private.total(integer) (sfunc = int4pl, stype = integer)')
    expect(await dumpSchema(owner)).toContain(
      '-- aggregate app_private.total(integer) is of a kind that db/checks/dump.sql does not show.',
    )
  })

  test('reads the same on every version of PostgreSQL', async () => {
    await owner.query(`
      create view audit.planted as select a.id, a.action as what from app_public.audit_logs a where a.action <> 'LOGIN';
      create view audit.planted2 as select id from app_public.roles cross join app_public.users where level = 1`)
    const planted = (await dumpSchema(owner)).split('\n\n').filter((object) => object.includes('planted'))
    expect(planted.map((view) => view.replace(/\s+/g, ' '))).toEqual([
      `create view audit.planted as SELECT id, action AS what FROM app_public.audit_logs a WHERE action <> 'LOGIN'::text;`,
      'create view audit.planted2 as SELECT users.id FROM app_public.roles CROSS JOIN app_public.users WHERE roles.level = 1;',
    ])
  })

  test('holds the grants on the database that setup made, which a clone gets from its test', async () => {
    const { rows } = await owner.query<{ acl: string }>(`
      select (select string_agg(entry::text, ' ' order by entry::text) from unnest(datacl) entry) as acl
      from pg_database where datname in (current_database(), 'assent')`)
    expect(rows).toHaveLength(2)
    expect(rows[0]!.acl).toBe(rows[1]!.acl)
  })

  // Everything that a grant, a policy, a trigger or a comment could be changed in.
  test.each([
    'grant select (email) on app_private.credentials to assent_user',
    'grant usage on schema app_private to assent_auditor',
    'grant execute on function app_private.random_secret() to assent_user with grant option',
    'revoke select on app_public.users from assent_manager',
    'revoke insert on app_public.requests from assent_owner',
    'alter default privileges grant select on tables to assent_user',
    'alter default privileges in schema app_public grant execute on functions to assent_user',
    'alter default privileges grant execute on functions to public',
    'alter table app_public.users no force row level security',
    'alter table app_public.requests disable trigger _200_guard',
    'alter table app_public.audit_logs enable trigger _100_append_only',
    'drop trigger _900_audit on app_public.requests',
    'alter policy user_select on app_public.requests using (true)',
    'alter policy user_select on app_public.requests to assent_user, assent_anonymous',
    `comment on column app_public.users.name is 'another'`,
    'alter table app_public.users alter name drop not null',
    'alter table app_public.users alter created_at set default now()',
    `alter table app_public.users rename constraint users_name_check to users_name`,
    'alter index app_public.users_role_idx rename to another',
    'alter view app_hidden.effective_permissions reset (security_invoker)',
    'alter function app_hidden.current_user_id() volatile',
    'alter function app_hidden.current_user_id() security invoker',
    `update app_public.request_transitions set who = 'CREATOR' where action = 'APPROVE'`,
    `create type app_public.another as enum ('A')`,
    'create sequence app_public.another',
    'create rule another as on delete to app_public.roles do instead nothing',
  ])('changes by: %s', async (statement) => {
    await owner.query(statement)
    expect(await dumpSchema(owner)).not.toBe(dump)
  })
})

describe('db/index.sql', () => {
  /** Every row of the reference tables, with the transaction that wrote it. */
  const versions = async () => {
    const { rows } = await owner.query<{ table: string }>(`
      select polrelid::regclass::text as table from pg_policy where polname = 'everybody_select' order by 1`)
    const all = rows.map(({ table }) => `select '${table}' as table, ctid, xmin, t::text as row from ${table} t`)
    return (await owner.query(`${all.join(' union all ')} order by 1, 2`)).rows
  }

  test('changes nothing when it is run again', async () => {
    const before = { dump: await dumpSchema(owner), versions: await versions() }
    await owner.query('set search_path to default')
    await owner.query(await compileMigration('db/index.sql'))
    expect(await dumpSchema(owner)).toBe(before.dump)
    expect(await versions()).toEqual(before.versions)
  })

  test('alone makes the schema that all migrations make', async () => {
    const name = `${new URL(db.urls.owner).pathname.slice(1)}_fresh`
    await root.query('rollback') // CREATE DATABASE wants no transaction.
    await root.query(`create database ${name} owner assent_owner template template0 encoding 'UTF8'`)
    const connectionString = Object.assign(new URL(db.urls.owner), { pathname: `/${name}` }).href
    const fresh = new pg.Client(connectionString)
    try {
      await root.query(
        `revoke all on database ${name} from public; grant connect on database ${name} to assent_authenticator, assent_worker, assent_auditor`,
      )
      await runMigrations({ connectionString })
      await fresh.connect()
      await fresh.query(await compileMigration('db/index.sql'))
      const [made, migrated] = [await dumpSchema(fresh), await dumpSchema(owner)]
      // What an earlier migration made and db/ no longer holds: its drop goes into db/rules/retired.sql.
      const namesIn = (dump: string) => dump.split('\n\n').map((object) => object.split('\n', 1)[0]!)
      const known = new Set(namesIn(made))
      expect(namesIn(migrated).filter((name) => !known.has(name))).toEqual([])
      expect(migrated).toBe(made)
    } finally {
      await fresh.end()
      await root.query(`drop database ${name} with (force)`)
    }
  })

  // A misspelt include is a comment to graphile-migrate, and no error.
  test('includes every file once', async () => {
    const standalone = [
      'demo.sql',
      'demo-requests.sql',
      'checks/dump.sql',
      'index.sql',
      'checks/lint.sql',
      'restrictions.sql',
      'roles.sql',
      'schema.sql',
    ]
    const files = await sqlFiles()
    expect((await includesOf('db/index.sql')).toSorted()).toEqual(files.filter((file) => !standalone.includes(file)).toSorted())
    const elsewhere = await Promise.all(files.filter((file) => file !== 'index.sql').map((file) => includesOf(`db/${file}`)))
    expect(elsewhere.flat()).toEqual([])
  })

  async function includesOf(file: string): Promise<string[]> {
    // Whatever looks like one; a line of prose may speak of includes.
    const lines = (await readFile(file, 'utf8')).split('\n').filter((line) => /^\s*--\W*include\b.*\.sql|^\s*--\s*!/i.test(line))
    return lines.map((line) => /^--!include (\w+\/\w+\.sql)$/.exec(line)?.[1] ?? `not an include: ${line}`)
  }
})

describe('db/checks/lint.sql', () => {
  test('finds nothing', async () => expect(await lintSchema(owner)).toEqual([]))

  const table = `create table app_public.planted (id integer primary key, at timestamptz);
    comment on table app_public.planted is 'planted'; comment on column app_public.planted.id is 'planted'; comment on column app_public.planted.at is 'planted';
    alter table app_public.planted enable row level security, force row level security; create policy owner_all on app_public.planted to assent_owner using (true);`
  const planted = (
    kind: string,
    rest: string,
  ) => `create function app_hidden.planted() returns integer language sql ${kind} ${rest};
    comment on function app_hidden.planted() is 'planted'; revoke execute on function app_hidden.planted() from public;`

  /** Lint, object and statement: what is done behind its back, and what it is to say. */
  const faults: [string, string, string][] = [
    ['rls_not_forced', 'app_public.users', 'alter table app_public.users no force row level security'],
    ['rls_not_forced', 'app_private.sessions', 'alter table app_private.sessions disable row level security'],
    ['rls_not_forced', 'app_public.requests', 'alter table app_public.requests disable row level security'],
    ['no_policy', 'app_public.planted', `${table} drop policy owner_all on app_public.planted`],
    [
      'policy_calls_for_each_row',
      'user_select on app_public.requests',
      'alter policy user_select on app_public.requests using (creator_id = app_hidden.current_user_id())',
    ],
    [
      'policy_calls_for_each_row',
      'admin_select on app_public.requests',
      `alter policy admin_select on app_public.requests using ((select app_hidden.has_permission('a')) or app_hidden.has_permission('b'))`,
    ],
    [
      'enum',
      'app_public.planted.kind',
      `${table} create type app_public.kinds as enum ('A'); alter table app_public.planted add kind app_public.kinds;
      comment on column app_public.planted.kind is 'planted'`,
    ],
    ['definer_search_path', 'app_hidden.planted()', planted('stable', 'security definer return 1')],
    ['definer_search_path', 'app_hidden.planted()', planted('stable', `security definer set search_path to '' return 1`)],
    ['unguarded_partition', 'app_private.audit_logs_later', 'grant select on app_private.audit_logs_later to assent_admin'],
    [
      'unguarded_partition',
      'app_private.audit_logs_earliest',
      'create policy everybody on app_private.audit_logs_earliest using (true)',
    ],
    [
      'unguarded_partition',
      'app_private.audit_logs_earliest',
      'drop trigger _100_append_only on app_private.audit_logs_earliest',
    ],
    ['unguarded_partition', 'app_private.audit_logs_later', 'alter table app_private.audit_logs_later enable trigger _050_stamp'],
    [
      'public_execute',
      'app_hidden.planted()',
      `${planted('stable', 'return 1')} grant execute on function app_hidden.planted() to public`,
    ],
    [
      'stable_but_writes',
      'app_hidden.planted()',
      planted('stable', 'as $$ update app_public.roles set level = 1 returning 1 $$'),
    ],
    ['stable_but_writes', 'app_hidden.planted()', planted('immutable', 'as $$ delete from app_public.roles returning 1 $$')],
    ['grant_other_than_select', 'app_public.requests', 'grant truncate on app_public.requests to assent_admin'],
    ['grant_other_than_select', 'app_public.requests.title', 'grant update (title) on app_public.requests to assent_user'],
    ['grant_other_than_select', 'app_public.users', 'grant select on app_public.users to public'],
    ['schema_grant', 'app_private', 'grant usage on schema app_private to assent_auditor'],
    ['schema_grant', 'app_public', 'grant create on schema app_public to assent_admin'],
    ['view_as_owner', 'app_hidden.effective_permissions', 'alter view app_hidden.effective_permissions reset (security_invoker)'],
    ['foreign_owner', 'app_public.logout()', 'alter function app_public.logout() owner to postgres'],
    ['foreign_owner', 'app_public.roles', 'alter table app_public.roles owner to assent_admin'],
    ['privileged_role', 'assent_authenticator', 'alter role assent_authenticator bypassrls'],
    ['privileged_role', 'assent_admin', 'grant assent_owner to assent_admin'],
    [
      'foreign_key_without_index',
      'app_public.planted',
      `${table} alter table app_public.planted add unique (id, at),
      add parent integer, add since timestamptz, add foreign key (parent, since) references app_public.planted (id, at) on delete cascade;
      create index on app_public.planted (parent) include (since);
      create index on app_public.planted (id, parent, since);
      create index on app_public.planted (since, parent) where since > '2026-01-01'`,
    ],
    ['foreign_key_without_index', 'app_public.users', 'drop index app_public.users_role_idx'],
    [
      'foreign_key_without_on_delete',
      'app_public.users',
      `alter table app_public.users drop constraint users_role_fkey,
      add constraint users_role_fkey foreign key (role) references app_public.roles`,
    ],
    ['unnamed_check', 'app_public.requests', 'alter table app_public.requests add check (version > 0)'],
    ['unnamed_check', 'app_public.requests', 'alter table app_public.requests add check (updated_at >= created_at)'],
    ['no_comment', 'app_public.users.name', `comment on column app_public.users.name is E'@behavior -*'`],
    [
      'no_comment',
      'requests_title_length on app_public.requests',
      'comment on constraint requests_title_length on app_public.requests is null',
    ],
    ['no_comment', 'audit.decisions', 'comment on view audit.decisions is null'],
    ['no_comment', 'app_public.logout()', 'comment on function app_public.logout() is null'],
    ['no_comment', 'schema audit', 'comment on schema audit is null'],
    ['timestamp_without_time_zone', 'app_public.planted.at', `${table} alter table app_public.planted alter at type timestamp`],
  ]

  test.each(faults)('finds a planted %s: %s', async (lint, object, fault) => {
    await root.query(fault)
    await root.query('set local role assent_owner')
    expect(await lintSchema(root)).toContainEqual(expect.objectContaining({ lint, object }))
  })

  test('has a planted fault for each lint', async () => {
    const lints = [...(await readFile('db/checks/lint.sql', 'utf8')).matchAll(/^select '(\w+)'/gm)].map(([, lint]) => lint)
    expect(new Set(faults.map(([lint]) => lint))).toEqual(new Set(lints))
  })
})

describe('migrations/committed', () => {
  test('is never edited: each file has the hash that it was committed with', async () => {
    expect(await hashCommitted()).toBe(await readFile('migrations/committed.sha256', 'utf8'))
  })

  /** It puts upon a new table what rules have put upon the one whose place it takes. */
  const MOVES_RULES = 'committed/000035-the-trail-by-months.sql'

  test('from the tenth on holds tables and data alone: rules are in db/, and applied when they change', async () => {
    // But for what a table cannot do without: functions that its constraints, defaults or indexes call, and what fills it.
    const tables = await Promise.all((await readdir('db/tables')).map((file) => readFile(`db/tables/${file}`, 'utf8')))
    const needed = [...tables.join('').matchAll(/^create or replace (?:function \S+\(|trigger \S+$)/gm)].map(([start]) => start)
    for (const file of [...(await readdir('migrations/committed')).map((name) => `committed/${name}`).slice(9), 'current.sql']) {
      const whole = await readFile(`migrations/${file}`, 'utf8')
      if (file === MOVES_RULES) continue
      const text = needed.reduce((rest, start) => rest.replaceAll(start, ''), whole)
      expect([
        file,
        /\b(create|alter|drop)\s+(or\s+replace\s+)?(function|view|policy|trigger)\b|^--! ?include/im.exec(text)?.[0],
      ]).toEqual([file, undefined])
    }
  })
})

describe('error codes', () => {
  test('of the database are the ones that the server knows, with the status that their digits say', async () => {
    const files = (await sqlFiles()).filter((file) => file !== 'schema.sql')
    const sql = (await Promise.all(files.map((file) => readFile(`db/${file}`, 'utf8')))).join('\n')
    const raised = [...sql.matchAll(/\braise exception\b([^;]*);/g)].map(
      ([, rest]) => /errcode = '(\w+)'/.exec(rest!)?.[1] ?? rest!,
    )
    expect(raised.length).toBeGreaterThan(5)
    // Whoever meets the first of these is to try again: a worker's job, or a search; the server alone meets the others.
    const ours = ['lock_not_available', 'read_only_sql_transaction', 'object_not_in_prerequisite_state']
    const callersMeet = new Set(raised.filter((sqlstate) => !ours.includes(sqlstate)))
    for (const sqlstate of callersMeet) {
      expect(sqlstate).toMatch(/^RQ(401|403|404|409|412|422|429)$/)
      const { code } = toClientError(
        Object.assign(new pg.DatabaseError('', 0, 'error'), { code: sqlstate }),
        pino({ level: 'silent' }),
      )
      expect(`${sqlstate} ${STATUS[code]}`).toBe(`${sqlstate} ${sqlstate.slice(2)}`)
    }
  })

  test('are all explained by docs/front-end.md', async () => {
    const page = await readFile('docs/front-end.md', 'utf8')
    for (const code of Object.keys(STATUS)) expect(page).toContain(`\`${code}\``)
    const rows = [...page.matchAll(/^\| `([A-Z_]+)` \| RQ(\d+) \|/gm)].map(([, code, status]) => [code, Number(status)])
    expect(rows.length).toBeGreaterThan(5)
    expect(Object.entries(STATUS)).toEqual(expect.arrayContaining(rows))
  })
})

test('no line of SQL has more than 130 characters', async () => {
  const files = [
    'migrations/current.sql',
    ...(await sqlFiles()).filter((file) => file !== 'schema.sql').map((file) => `db/${file}`),
  ]
  for (const file of files) {
    const lines = (await readFile(file, 'utf8')).split('\n')
    const long = lines.flatMap((line, i) => (line.length > 130 ? [`${file}:${i + 1}`] : []))
    expect(long).toEqual([])
  }
})

test('the changes of npm run drill are to texts that there are', async () => {
  expect((await mutations(root)).length).toBeGreaterThan(800)
})
