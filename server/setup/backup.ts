import { open, rename, rm } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGzip } from 'node:zlib'
import type pg from 'pg'
import { to } from 'pg-copy-streams'
import { StartError } from '../config.ts'
import { connected } from '../sql/connection.ts'
import { lock } from './migrate.ts'
import { assertMigrated } from './preflight.ts'

// A backup is a script for psql, compressed by gzip, that fills a database of the same migration. It holds rows alone: migrations
// and rules make the schema, on any major version of PostgreSQL. Therefore it needs none of PostgreSQL's programs, which the
// embedded PostgreSQL does not bring, let alone those of the right version.

/** The first line of a backup, which names the last migration of the database. */
export const TITLE = /^-- Assent backup of migration (\d{6})/

const SCHEMAS = `('app_public', 'app_hidden', 'app_private', 'graphile_worker')`
/** Their rows say how a database was made: each has its own. */
const OWN_TABLES = `('graphile_worker.migrations'::regclass, 'app_private.applied_rules'::regclass)`

const TABLES = `
  select format('%I.%I', n.nspname, c.relname) as name, string_agg(quote_ident(a.attname), ', ' order by a.attnum) as columns
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace and n.nspname in ${SCHEMAS}
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
  where c.relkind in ('r', 'p') and not c.relispartition and c.oid not in ${OWN_TABLES}
  group by n.nspname, c.relname
  order by n.nspname, c.relname`

const SEQUENCES = `
  select format('select setval(%L, %s);', format('%I.%I', schemaname, sequencename), last_value) as statement
  from pg_sequences where schemaname in ${SCHEMAS} and last_value is not null
  order by schemaname, sequencename`

// Rows come back as they were: no trigger may stamp, record or refuse them. In replica mode only those fire that always do.
const BEFORE = `
begin;
set local session_replication_role = replica;
create temporary table always_fire on commit drop as
  select tgrelid::regclass as relation, tgname as name from pg_trigger where tgenabled = 'A';
do $$
declare
  v_trigger record;
begin
  for v_trigger in select * from always_fire loop
    execute format('alter table %s disable trigger %I', v_trigger.relation, v_trigger.name);
  end loop;
end
$$;
`
const AFTER = `
do $$
declare
  v_trigger record;
begin
  for v_trigger in select * from always_fire loop
    execute format('alter table %s enable always trigger %I', v_trigger.relation, v_trigger.name);
  end loop;
end
$$;
commit;
`

/** Writes all rows of a database into a file, as they are at one moment. Nobody is kept waiting but a migration. */
export async function backup(rootUrl: string, file: string): Promise<void> {
  await assertMigrated(rootUrl)
  // What fails of the file is told apart here: a connection that is lost has such codes as well.
  const written = <T>(step: Promise<T>) =>
    step.catch(({ code }: NodeJS.ErrnoException) => {
      throw new StartError(`${file} cannot be written (${code}).`)
    })
  const draft = `${file}.${process.pid}`
  const target = await written(open(draft, 'w', 0o600))
  try {
    await connected(rootUrl, async (client) => {
      await lock(client) // A migration in between would change tables whose turn has not come.
      await client.query('begin isolation level repeatable read read only')
      await pipeline(Readable.from(script(client)), createGzip(), async (pieces: AsyncIterable<Buffer>) => {
        for await (const piece of pieces) await written(target.appendFile(piece))
      })
    })
    await written(target.sync())
    await written(rename(draft, file))
  } finally {
    await target.close()
    await rm(draft, { force: true })
  }
}

async function* script(client: pg.Client): AsyncGenerator<string | Buffer> {
  const { rows: facts } = await client.query(`
    select (select left(max(filename), 6) from graphile_migrate.migrations) as migration,
      current_database() as database, now()::text as time, current_setting('server_version') as version`)
  const { migration, database, time, version } = facts[0]
  yield `-- Assent backup of migration ${migration}, of ${JSON.stringify(database)} at ${time}, from PostgreSQL ${version}.\n`
  yield BEFORE
  const { rows: tables } = await client.query<{ name: string; columns: string }>(TABLES)
  yield `truncate ${tables.map(({ name }) => name).join(', ')};\n`
  for (const { name, columns } of tables) {
    yield `copy ${name} (${columns}) from stdin;\n`
    yield* client.query(to(`copy (select ${columns} from ${name}) to stdout`))
    yield '\\.\n'
  }
  const { rows: sequences } = await client.query<{ statement: string }>(SEQUENCES)
  for (const { statement } of sequences) yield `${statement}\n`
  yield AFTER
}
