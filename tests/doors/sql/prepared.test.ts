import type { Pool } from 'pg'
import pino from 'pino'
import { asking, makeDatabase, type Ask, type Database } from '../../../server/sql/as-caller.ts'
import { makeSessions } from '../../../server/sql/in-use.ts'
import { makeOpenPool } from '../../../server/sql/pool.ts'
import { connectionOf, prepared } from '../../../server/sql/prepared.ts'
import { cloneDatabase, type TestDatabase } from '../../harness/database.ts'

let clone: TestDatabase
let pool: Pool
let db: Database
let ask: Ask
beforeAll(async () => {
  clone = await cloneDatabase()
  pool = makeOpenPool(clone.urls.auth, pino({ level: 'silent' }))(1)
  db = makeDatabase(pool, makeSessions())
  ask = asking(db, { session: clone.people.user.session, ip: '', userAgent: null, byCookie: false }, 'read')
})
afterAll(async () => {
  await pool.end()
  await clone.close()
})

const names = async () =>
  (await ask<{ name: string }>({ text: 'select name from pg_prepared_statements' })).map(({ name }) => name)

describe('a statement that was prepared before a migration', () => {
  const change = async (sql: string) => {
    const owner = await clone.connect('owner')
    await owner.query(sql)
  }
  test.each([
    [
      'of a function in FROM, whose table has more columns',
      'select app_hidden.request_document(d)::text from app_public.requests_awaiting_my_decision() d',
      'x',
    ],
    ['whose columns have become others', 'select * from app_public.request_kinds', 'y'],
  ])('%s, is answered', async (_, text, column) => {
    expect((await ask({ ...prepared(text), values: [] })).length).toBeGreaterThanOrEqual(0)
    const rows = await ask({ ...prepared(text), values: [] })
    await change(
      `alter table app_public.requests add column ${column} text; alter table app_public.request_kinds add column ${column} text`,
    )
    expect(await ask({ ...prepared(text), values: [] })).toHaveLength(rows.length)
  })
})

test('the private parts of pg are those that we rely on: its record of what is prepared, and a socket that can be corked', async () => {
  const client = await pool.connect()
  try {
    await client.query({ name: 'one', text: 'select 1' })
    const { parsedStatements, stream } = connectionOf(client)
    expect(parsedStatements).toMatchObject({ one: 'select 1' })
    // A statement that is deleted from the record is prepared anew.
    await client.query('deallocate one')
    delete parsedStatements['one']
    expect((await client.query({ name: 'one', text: 'select 1' })).rowCount).toBe(1)

    stream.cork()
    const written = stream.bytesWritten
    const answers = [client.query('select 1'), client.query('select 2')]
    expect(stream.writableLength).toBeGreaterThan(0)
    stream.uncork()
    await Promise.all(answers)
    expect(stream.bytesWritten).toBeGreaterThan(written)
  } finally {
    client.release()
  }
})

test('a connection keeps the 200 prepared statements that were used last, and any other is prepared again', async () => {
  const texts = Array.from({ length: 210 }, (_, i) => prepared(`select ${i} as n`))
  for (const text of texts) await ask(text)
  await ask(texts[10]!)
  const kept = await names()
  expect(kept.length).toBeGreaterThan(190)
  expect(kept.length).toBeLessThanOrEqual(202) // And "identify", which all share, and one that is just being let go.
  expect(kept.some((name) => name.startsWith(texts[0]!.name))).toBe(false)
  expect(kept.some((name) => name.startsWith(texts[10]!.name))).toBe(true)
  expect(await ask(texts[0]!)).toEqual([{ n: 0 }])
})

test('each role has prepared statements of its own, and a session that is dead leaves none behind', async () => {
  const text = prepared('select current_role::text as role')
  const as = (session: string) => asking(db, { session, ip: '', userAgent: null, byCookie: false }, 'read')
  const { user, manager } = clone.people
  for (const { session } of [user, manager, user]) await as(session)({ text: 'select 1' }) // The role is known from here on.
  expect(await as(user.session)(text)).toEqual([{ role: 'assent_user' }])
  expect(await as(manager.session)(text)).toEqual([{ role: 'assent_manager' }])
  await expect(as('dead')(text)).rejects.toMatchObject({ code: 'RQ401' })
  const ours = (await names()).filter((name) => name.startsWith(text.name))
  expect(ours.toSorted()).toEqual([`${text.name} assent_manager`, `${text.name} assent_user`])
  expect(db.sessions.roleOf(manager.session)).toBe('assent_manager')
})
