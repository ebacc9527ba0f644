import type pg from 'pg'
import pino from 'pino'
import { applyCurrent } from '../../server/setup/migrate.ts'
import { cloneDatabase, type TestDatabase } from '../harness/database.ts'

// Rules are applied whenever they differ from what the database remembers, file by file, all or nothing.

let db: TestDatabase
let root: pg.Client

beforeAll(async () => {
  db = await cloneDatabase('pristine')
  root = await db.connect('root')
})
afterAll(() => db.close())

const apply = () => applyCurrent({ databaseUrl: db.urls.owner, authDatabaseUrl: db.urls.auth }, pino({ level: 'silent' }))
const applied = async () => (await root.query('select * from app_private.applied_rules order by file')).rows
const forget = (file: string) => root.query(`update app_private.applied_rules set hash = '' where file = $1`, [file])

test('what has not changed is not applied again', async () => {
  const before = await applied()
  expect(before.length).toBeGreaterThan(15)
  await apply()
  expect(await applied()).toEqual(before)
})

test('a file that has changed is, and no other', async () => {
  const before = await applied()
  await root.query('drop function app_hidden.user_document(app_public.users)')
  await forget('doors/rest.sql')
  await apply()
  const after = await applied()
  const changed = after.filter(({ applied_at }, i) => applied_at > before[i].applied_at).map(({ file }) => file)
  expect(changed).toEqual(['doors/rest.sql'])
  expect(after.map(({ hash }) => hash)).toEqual(before.map(({ hash }) => hash))
  expect(
    (await root.query(`select to_regprocedure('app_hidden.user_document(app_public.users)') as there`)).rows[0].there,
  ).toBeTruthy()
})

test('after a migration all are, because it may have taken away what an unchanged file had made', async () => {
  const before = await applied()
  await root.query('drop trigger _900_audit on app_public.requests')
  await root.query(`insert into graphile_migrate.migrations (hash, filename) values ('sha1:0', '999999-planted.sql')`)
  await apply()
  expect((await applied()).every(({ applied_at }, i) => applied_at > before[i].applied_at)).toBe(true)
  expect(
    (await root.query(`select from pg_trigger where tgname = '_900_audit' and tgrelid = 'app_public.requests'::regclass`))
      .rowCount,
  ).toBe(1)
  await root.query(`delete from graphile_migrate.migrations where filename = '999999-planted.sql'`)
  await apply()
})

test('whoever holds a table is waited for, and holds up nobody else for long', async () => {
  const holder = await db.connect('root')
  const reader = await db.connect('root')
  await holder.query('begin; lock table app_public.requests in access share mode')
  await forget('rules/visibility.sql')
  let over = false
  const applying = apply().then(() => (over = true))
  // The application asks for a lock, gives up after two seconds and asks again: whoever reads meanwhile gets through.
  await reader.query(`set statement_timeout = '4s'`)
  for (let i = 0; i < 6; i++) {
    await reader.query('select from app_public.requests limit 1')
    await new Promise((resolve) => setTimeout(resolve, 500))
  }
  expect(over).toBe(false)
  await holder.query('rollback')
  await applying
  expect((await applied()).every(({ hash }) => hash !== '')).toBe(true)
})

test('one file that fails leaves all as it was', async () => {
  await root.query('alter table app_public.webhooks rename to elsewhere')
  const before = await applied()
  await forget('rules/errors.sql')
  await forget('rules/webhooks.sql')
  await expect(apply()).rejects.toThrow(/^db\/rules\/webhooks\.sql: /)
  const after = await applied()
  expect(after.map(({ file, applied_at }) => [file, applied_at])).toEqual(
    before.map(({ file, applied_at }) => [file, applied_at]),
  )
  await root.query('alter table app_public.elsewhere rename to webhooks')
  await apply()
})
