import { readFile } from 'node:fs/promises'
import { parser } from '@prometheus-io/lezer-promql'
import { parse } from 'yaml'
import { compose } from '../harness/compose.ts'
import { cloneDatabase, type TestDatabase } from '../harness/database.ts'
import { command, type Running } from '../harness/process.ts'

// What a monitoring asks of a server and a worker as they run in production: names and labels that nobody serves would make an
// alert that never fires.

interface Rule {
  readonly alert: string
  readonly expr: string
  readonly labels: { readonly severity: string }
  readonly annotations: { readonly summary: string; readonly runbook: string }
}
interface Panel {
  readonly type: string
  readonly title: string
  readonly fieldConfig: { readonly defaults: { readonly unit: string } }
  readonly targets?: readonly { readonly expr: string }[]
}

const read = (path: string) => readFile(path, 'utf8')
const prometheus = parse(await read('deploy/prometheus.yml'))
const rules: Rule[] = parse(await read('deploy/alerts.yml')).groups.flatMap((group: { rules: Rule[] }) => group.rules)
const dashboard: { panels: Panel[] } = JSON.parse(await read('deploy/grafana-dashboard.json'))
const panels = dashboard.panels.filter(({ type }) => type !== 'row')

/** Each expression, with the name of its alert or panel; Grafana fills in its variable itself. */
const expressions = [
  ...rules.map(({ alert, expr }) => [alert, expr] as const),
  ...panels.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => [title, expr] as const)),
].map(([name, expr]) => [name, expr.replaceAll('$__rate_interval', '1m')] as const)

interface Selector {
  readonly metric: string
  /** The labels that it compares, with what it compares them to. */
  readonly labels: readonly (readonly [name: string, value: string])[]
}

/** The selectors of an expression. Throws where it is not PromQL. */
function selectorsOf(expression: string): Selector[] {
  const found: Selector[] = []
  const text = ({ from, to }: { from: number; to: number }) => expression.slice(from, to)
  parser.parse(expression).iterate({
    enter({ type, from, node }) {
      if (type.isError) throw new Error(`It is not PromQL at ${from}: ${expression}`)
      if (type.name !== 'VectorSelector') return
      const matchers = node.getChild('LabelMatchers')?.getChildren('UnquotedLabelMatcher') ?? []
      const labels = matchers.map((one) => {
        const value = JSON.parse(text(one.getChild('StringLiteral')!))
        return [text(one.getChild('LabelName')!), value] as const
      })
      found.push({ metric: text(node.getChild('Identifier')!), labels })
    },
  })
  return found
}

/** The labels by which an expression groups. */
const groupings = (expression: string) =>
  [...expression.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, names]) => names!.split(',').map((name) => name.trim()))

/** Prometheus adds these to what it reads. */
const ADDED = ['job', 'instance']

let db: TestDatabase
let server: Running
let worker: Running
/** The series of both processes: the name of each with its labels. */
let series: { readonly metric: string; readonly labels: ReadonlyMap<string, string>; readonly value: number }[]

async function scrape(running: Running): Promise<typeof series> {
  const response = await fetch(await running.until(/Metrics are at (http:[^ "]*\/metrics)/))
  return [...(await response.text()).matchAll(/^(\w+)(?:\{(.*)\})? (\S+)$/gm)].map(([, metric, labels = '', value]) => ({
    metric: metric!,
    labels: new Map([...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([, name, of]) => [name!, of!])),
    value: Number(value),
  }))
}

const has = ({ metric, labels }: Selector) =>
  metric === 'up' ||
  series.some((one) => one.metric === metric && labels.every(([name]) => ADDED.includes(name) || one.labels.has(name)))

beforeAll(async () => {
  db = await cloneDatabase()
  const root = await db.connect('root')
  // No worker knows this task, so that it stays due.
  await root.query(`select graphile_worker.add_job('unknown', run_at := now() - interval '10 minutes')`)
  await root.query(`select graphile_worker.add_job('remind')`)
  const common = { NODE_ENV: 'production', PORT: '0', METRICS_PORT: '0' }
  const JWT_SECRET = 'signs whatever these tests ask for'
  const tellOfPackages = `import { registerHooks } from 'node:module'
    registerHooks({ resolve(name, context, next) { if (/^@/.test(name)) console.log('It loads ' + name + '.'); return next(name, context) } })`
  const NODE_OPTIONS = `--import=data:text/javascript,${encodeURIComponent(tellOfPackages)}`
  // The primary in place of a replica is one that is never ready, as after a failover.
  const primary = `${db.urls.auth}?options=-c%20synchronous_commit%3Don`
  const urls = { AUTH_DATABASE_URL: primary, REPLICA_DATABASE_URL: primary }
  server = command('server', { ...common, ...urls, JWT_SECRET, NODE_OPTIONS })
  worker = command('worker', { ...common, WORKER_DATABASE_URL: db.urls.worker })
  const url = await server.until(/The API listens at (http:[^ "]*\d)/)
  expect((await fetch(`${url}/readyz`)).status).toBe(200)
  series = [...(await scrape(server)), ...(await scrape(worker))]
}, 60_000)
afterAll(async () => {
  await Promise.all([server.end('SIGTERM'), worker.end('SIGTERM')])
  await db.close()
})

test.each(expressions)('%s asks for what is served: %s', (_name, expression) => {
  const selectors = selectorsOf(expression)
  expect(selectors.length).toBeGreaterThan(0)
  expect(selectors.filter((selector) => !has(selector))).toEqual([])
  for (const label of groupings(expression).filter((name) => !ADDED.includes(name))) {
    expect([label, selectors.every(({ metric }) => has({ metric, labels: [[label, '']] }))]).toEqual([label, true])
  }
})

test('an expression that does not parse, a metric and a label that nobody serves would be seen', () => {
  expect(() => selectorsOf('sum(rate(assent_ready[5m])')).toThrow('It is not PromQL')
  expect(selectorsOf('a{b="c"} > 0 or sum(rate(d[5m]))')).toEqual([
    { metric: 'a', labels: [['b', 'c']] },
    { metric: 'd', labels: [] },
  ])
  expect(has({ metric: 'assent_jobz', labels: [] })).toBe(false)
  expect(has({ metric: 'assent_jobs', labels: [['state', 'x']] })).toBe(true)
  expect(has({ metric: 'assent_jobs', labels: [['stat', 'x']] })).toBe(false)
})

test('every job that is named is one that Prometheus asks, where docker-compose.yml runs it', () => {
  const jobs: string[] = []
  for (const { job_name, dns_sd_configs } of prometheus.scrape_configs) {
    jobs.push(job_name)
    const [{ names, port }] = dns_sd_configs
    expect(Object.keys(compose.services)).toEqual(expect.arrayContaining(names))
    expect(String(port)).toBe(compose.services.server.environment.METRICS_PORT)
  }
  for (const [, expression] of expressions) {
    for (const { labels } of selectorsOf(expression)) {
      for (const [name, value] of labels) {
        if (name === 'job') expect(jobs.filter((job) => new RegExp(`^(?:${value})$`).test(job))).not.toEqual([])
      }
    }
  }
  expect(prometheus.rule_files).toEqual(['alerts.yml'])
})

test('every alert has a name of its own, a summary, a severity and a part of docs/operations.md', async () => {
  expect(rules.length).toBeGreaterThanOrEqual(10)
  expect(new Set(rules.map(({ alert }) => alert)).size).toBe(rules.length)
  const headings = [...(await read('docs/operations.md')).matchAll(/^### (Assent\w+)$/gm)].map(([, heading]) => heading!)
  expect(headings.toSorted()).toEqual(rules.map(({ alert }) => alert).toSorted())
  for (const { alert, labels, annotations } of rules) {
    expect([alert, labels, annotations]).toEqual([
      alert,
      { severity: expect.stringMatching(/^(critical|warning)$/) },
      { summary: expect.stringMatching(/\w.*\.$/), runbook: `docs/operations.md#${alert.toLowerCase()}` },
    ])
  }
})

test('nothing is loaded for traces and reports that nobody has asked for, but what the metrics load', () => {
  const loaded = server.output.match(/It loads @(opentelemetry|sentry)\/.*(?=\.)/g)
  expect(new Set(loaded)).toEqual(new Set(['It loads @opentelemetry/api']))
})

test('every panel has a title of its own, a unit and an expression', () => {
  expect(panels.length).toBeGreaterThan(10)
  expect(new Set(panels.map(({ title }) => title)).size).toBe(panels.length)
  for (const panel of panels) {
    expect(panel).toMatchObject({
      title: expect.stringMatching(/\w/),
      fieldConfig: { defaults: { unit: expect.stringMatching(/\w/) } },
      targets: expect.arrayContaining([{ refId: 'A', expr: expect.any(String), legendFormat: expect.any(String) }]),
    })
  }
})

describe('what is served', () => {
  const valueOf = (metric: string, labels: Record<string, string>) =>
    series.find((one) => one.metric === metric && Object.entries(labels).every(([name, of]) => one.labels.get(name) === of))
      ?.value

  test('says which version of program and schema runs, the same for both', () => {
    const infos = series.filter(({ metric }) => metric === 'assent_info').map(({ labels }) => Object.fromEntries(labels))
    expect(infos).toEqual(
      Array(2).fill({ version: expect.stringMatching(/^\d+\.\d+\.\d+/), schema: expect.stringMatching(/^\d{6}/) }),
    )
    expect(infos[0]).toEqual(infos[1])
  })

  test('tells for how long a job is due that nobody takes, and of those that are done', async () => {
    const [minutes, day] = [600, 86_400]
    expect(valueOf('assent_queue_age_seconds', { task: 'unknown' })).toBeGreaterThanOrEqual(minutes)
    expect(valueOf('assent_queue_age_seconds', { task: 'unknown' })).toBeLessThan(day)
    let attempts: number | undefined
    while (!attempts) {
      attempts = (await scrape(worker)).find(
        ({ metric, labels }) =>
          metric === 'assent_job_attempts_total' && labels.get('task') === 'remind' && labels.get('result') === 'done',
      )?.value
    }
    expect(attempts).toBe(1)
  })

  test('says that the server can serve, and begins each counter at 0', () => {
    expect(valueOf('assent_ready', {})).toBe(1)
    expect(valueOf('assent_errors_total', { code: 'INTERNAL' })).toBe(0)
    expect(valueOf('assent_logins_total', { result: 'TOO_MANY_ATTEMPTS' })).toBe(0)
    expect(valueOf('assent_searches_stopped_total', { reason: 'slow' })).toBe(0)
    expect(valueOf('assent_replica_ready', {})).toBe(0)
    expect(valueOf('assent_replica_reads_total', { outcome: 'late' })).toBe(0)
    expect(valueOf('assent_job_attempts_total', { task: 'send_mail', result: 'failed' })).toBe(0)
  })
})
