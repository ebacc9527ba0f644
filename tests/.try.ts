import { default as up, stopAll } from '/work/main/tests/postgres.ts'
import { readFileSync, writeFileSync } from 'node:fs'
import pg from 'pg'
await up()
for (const v of [18, 15]) {
  const c = new pg.Client(JSON.parse(process.env['TEST_POSTGRES_' + v]!).DATABASE_URL)
  await c.connect()
  try {
    console.time('dump ' + v)
    const r: any = await c.query(readFileSync('db/dump.sql', 'utf8'))
    console.timeEnd('dump ' + v)
    writeFileSync('/tmp/dump' + v + '.sql', r.at(-1).rows.map((x: any) => x.text).join('\n\n') + '\n')
  } catch (e: any) { console.log(v, e.message, e.position, e.where); if (e.position) console.log(readFileSync('db/dump.sql','utf8').slice(e.position-100, +e.position+100)) }
  await c.end()
}
await stopAll()
