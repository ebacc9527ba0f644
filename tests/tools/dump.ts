// npm run dump: writes anew what is generated from the database, from a throw-away one with all migrations.
import { writeFile } from 'node:fs/promises'
import pg from 'pg'
import startAll, { stopAll } from '../harness/postgres.ts'
import { dumpSchema, printGraphQL } from '../harness/schema.ts'

await startAll()
try {
  const { DATABASE_URL, AUTH_DATABASE_URL } = JSON.parse(process.env['TEST_POSTGRES_18']!)
  const owner = new pg.Client(DATABASE_URL)
  await owner.connect()
  await writeFile('db/schema.sql', await dumpSchema(owner))
  await owner.end()
  await writeFile('server/graphql/schema.graphql', await printGraphQL(AUTH_DATABASE_URL))
} finally {
  await stopAll()
}
