import { readFile } from 'node:fs/promises'
import { cloneDatabase, type TestDatabase } from '../harness/database.ts'

let db: TestDatabase
beforeAll(async () => void (db = await cloneDatabase()))
afterAll(() => db.close())

test("the README's picture of the life of a request is that of the transition table", async () => {
  const rows = await db.commit('user', 'select * from app_public.request_transitions order by from_status nulls first, action')
  const edges = rows.map(
    ({ from_status, to_status, action, who }) => `  ${from_status ?? '[*]'} --> ${to_status}: ${action} (${who.toLowerCase()})`,
  )
  const readme = await readFile('README.md', 'utf8')
  expect(/```mermaid\nstateDiagram-v2\n([^]*?)\n```/.exec(readme)![1]!.split('\n')).toEqual(edges)
})
