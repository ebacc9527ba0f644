import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import pg from 'pg'
import { mutations, type Mutation } from './mutations.ts'
import { startCluster, type Cluster } from '../harness/postgres.ts'

// `npm run drill [pattern]`: is there a test for it? Changes one thing in the migrated database at a time, by
// tests/tools/mutations.ts, runs tests/rules and the model on that in one process, until a test fails that passes without the
// change, and says which changes none has noticed. With a pattern (a regular expression), only the changes that match it.

const root = join(import.meta.dirname, '../..')
// The quick ones first: most changes go no further. The catalog's is last, as it notices any change there is: what it
// alone notices, no test of what callers meet does.
const order = [
  'rules/permissions',
  'rules/lifecycle',
  'rules/trail',
  'rules/sessions',
  'rules/people',
  'rules/search',
  'rules/idempotency',
  'rules/notifications',
  'rules/mails',
  'rules/schedule',
  'rules/announcements',
  'rules/passwords',
  'chance/model',
  'rules/race',
  'rules/login',
  'rules/plans',
]

// Where a change is likely to be noticed, so that this is where one looks first.
const likely: [RegExp, string][] = [
  [/finish_login|(open|refresh|end_|other|touch|my)_?sessions?|is_live|password_change|change_password/, 'rules/sessions'],
  [/_user\(|require_permission|keep_an_admin|erase_person|tg_users__(keep|end|stay)/, 'rules/people'],
  [/matching_|searched_requests|search_terms|contains_all|gram|folded|steady|normalized|_texts?\b|take_turn/, 'rules/search'],
  [/idempotency|keep_answer/, 'rules/idempotency'],
  [/announce|my_session\(/, 'rules/announcements'],
  [/remind|digests|clear_batch|kept_for/, 'rules/schedule'],
  [/reset/, 'rules/passwords'],
  [/mail|digest_document|is_pointless|_jobs\(/, 'rules/mails'],
  [/notif|recipients|deciders_to_notify|preference/, 'rules/notifications'],
  [/login|session|logout|hash|secret|account_key|network|credentials|current_user_id/, 'rules/login'],
  [/(constraint|trigger).*audit_logs|audit_logs.*(constraint|trigger)|tg__refuse|__audit|changes\(/, 'rules/trail'],
  [/transition|guard|can_decide|my_parties|visible_request|requests.*constraint/, 'rules/lifecycle'],
]

/** A connection string, to another database of its server. */
const at = (url: string, database: string) => Object.assign(new URL(url), { pathname: `/${database}` }).toString()

/** What tests/harness/database.ts reads, with this database as the template. */
const secretsOf = ({ secrets }: Cluster, database: string) =>
  JSON.stringify({ ...secrets, DATABASE_URL: at(secrets.DATABASE_URL, database) })

/**
 * Runs these files in this order, with the database as template, until a test fails that is not among the usual ones; answers
 * that one alone, as `file: test`. Without usual ones, all run, and all that fail are answered.
 */
async function failures(cluster: Cluster, database: string, files: readonly string[], usual?: string[]): Promise<string[]> {
  const folder = await mkdtemp(join(tmpdir(), 'drill-'))
  const [output, news] = [join(folder, 'output.json'), join(folder, 'news')]
  const flags = ['--json', '--silent', '--ci', '--runInBand', '--testTimeout', '20000', `--outputFile=${output}`]
  const ours = usual ? ['--testEnvironment', './tests/tools/noticing.ts'] : []
  const child = spawn(
    process.execPath,
    [
      '--no-warnings',
      '--experimental-vm-modules',
      'node_modules/jest/bin/jest.js',
      ...files.map((file) => `tests/${file}.test.ts`),
      '--selectProjects',
      'PostgreSQL 18',
      '--testSequencer',
      './tests/tools/sequence.ts',
      ...flags,
      ...ours,
    ],
    {
      cwd: root,
      stdio: 'ignore',
      env: {
        ...process.env,
        TEST_POSTGRES_18: secretsOf(cluster, database),
        TEST_POSTGRES_15: '{}',
        DRILL: JSON.stringify({ usual, news }),
      },
    },
  )
  try {
    await once(child, 'exit')
    if (existsSync(news)) return [await readFile(news, 'utf8')]
    // Jest has come to its end: what is left is what fails usually, or outside of a test.
    const { testResults } = JSON.parse(await readFile(output, 'utf8'))
    const failed: string[] = []
    for (const { name, status, assertionResults, message } of testResults) {
      const file = relative(join(root, 'tests'), name).replace('.test.ts', '')
      for (const { status, fullName } of assertionResults) if (status === 'failed') failed.push(`${file}: ${fullName}`)
      const isOutside = status === 'failed' && !assertionResults.some((one: { status: string }) => one.status === 'failed')
      if (isOutside) failed.push(`${file}: ${message.slice(0, 200)}`)
    }
    return failed.filter((name) => !usual?.includes(name))
  } finally {
    await rm(folder, { recursive: true })
  }
}

async function withDatabase<Result>(
  cluster: Cluster,
  { sql, undo }: Mutation,
  work: (database: string) => Promise<Result>,
): Promise<Result> {
  const admin = new pg.Client(cluster.secrets.ROOT_DATABASE_URL)
  await admin.connect()
  const database = `drill_${process.hrtime.bigint()}`
  await admin.query(`create database ${database} template assent owner assent_owner`)
  try {
    const changed = new pg.Client(at(cluster.secrets.ROOT_DATABASE_URL, database))
    await changed.connect()
    await changed.query(sql).finally(() => changed.end())
    return await work(database)
  } finally {
    if (undo) await admin.query(undo)
    for (const name of [database, `${database}_crowded`]) await admin.query(`drop database if exists ${name} with (force)`)
    await admin.end()
  }
}

const pattern = new RegExp(process.argv[2] ?? '')
const last = 'rules/catalog'
const present = (await readdir(join(root, 'tests/rules')))
  .filter((name) => name.endsWith('.test.ts'))
  .map((name) => `rules/${name.replace('.test.ts', '')}`)
const files = [...order, ...present.filter((name) => !order.includes(name) && name !== last), last]
const clusters = await Promise.all([startCluster(18), startCluster(18)])
try {
  const database = new pg.Client(at(clusters[0]!.secrets.ROOT_DATABASE_URL, 'assent'))
  await database.connect()
  const every = await mutations(database).finally(() => database.end())
  const all = every.filter(({ name }) => pattern.test(name))
  const nothing = { name: 'nothing', sql: 'select 1' }
  const usual = await withDatabase(clusters[0]!, nothing, (name) => failures(clusters[0]!, name, files))
  for (const name of usual) console.log(`fails anyway: ${name}`)

  const missed: string[] = []
  const onlyCatalog: string[] = []
  const todo = [...all]
  await Promise.all(
    clusters.map(async (cluster) => {
      for (let mutation = todo.shift(); mutation; mutation = todo.shift()) {
        const { name } = mutation
        // Without an index all is as it was, only slower.
        const fit = files.filter((file) => file === last || name.startsWith('drop index') === (file === 'rules/plans'))
        const first = likely.find(([words]) => words.test(name))?.[1]
        fit.sort((a, b) => Number(b === first) - Number(a === first))
        const [by] = await withDatabase(cluster, mutation, (database) => failures(cluster, database, fit, usual)).catch(
          (error: unknown) => {
            if (!(error instanceof pg.DatabaseError)) throw error
            return [`the database itself: ${error.message}`]
          },
        )
        if (!by) missed.push(name)
        if (by?.startsWith(`${last}: `)) onlyCatalog.push(name)
        console.log(`${by ? 'noticed' : 'MISSED '}  ${name}  —  ${by ?? 'by none'}`)
      }
    }),
  )
  console.log(`\n${all.length} changes, ${missed.length} not noticed, ${onlyCatalog.length} by the catalog's test alone.`)
  for (const name of onlyCatalog) console.log(`catalog alone  ${name}`)
  for (const name of missed) console.log(`MISSED  ${name}`)
  process.exitCode = missed.length ? 1 : 0
} finally {
  await Promise.all(clusters.map((cluster) => cluster.stop()))
}
