/**
 * What notifications cost the one who acts, and how soon the others hear of it.
 *
 *   npm run bench:notifications                    300 submits a round, five rounds
 *   npm run bench:notifications -- --submits 1000
 *
 * The cost: submits over GraphQL, in turn with the triggers that add the job and the announcement, and without. The delay: from
 * the call of a submit to the last of its mails being accepted by a real SMTP server, and to the event at a subscriber's
 * WebSocket. A worker is running in a process of its own; one submit comes every 30 ms, so that it keeps up.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { createClient } from 'graphql-ws'
import pg from 'pg'
import { SMTPServer } from 'smtp-server'
import { WebSocket } from 'ws'
import { makeCall, median, openStage, PORT } from './stage.ts'

const { values: options } = parseArgs({
  options: { submits: { type: 'string', default: '300' }, rounds: { type: 'string', default: '5' } },
})
const SUBMITS = Number(options.submits)
const ROUNDS = Number(options.rounds)
const EVERY = 30
/** The demo's two managers and its admin. */
const DECIDERS = 3

const stage = await openStage(1_000)
const owner = new pg.Client(stage.urls.owner)
await owner.connect()
const { call, close } = makeCall(stage.tokens, 1)

/** When each mail was accepted, by the request that its text links to. */
const accepted = new Map<string, number[]>()
const smtp = new SMTPServer({
  disabledCommands: ['AUTH', 'STARTTLS'],
  onData(stream, _session, callback) {
    let text = ''
    stream.on('data', (chunk: Buffer) => (text += chunk))
    stream.on('end', () => {
      const [, id] = /\/requests\/([\da-f-]{36})/.exec(text.replaceAll('=\r\n', '')) ?? []
      accepted.set(id!, [...(accepted.get(id!) ?? []), performance.now()])
      callback()
    })
  },
})
await new Promise<void>((resolve) => smtp.listen(0, '127.0.0.1', resolve))
const { port } = smtp.server.address() as { port: number }
const worker = spawn(process.execPath, ['--max-semi-space-size=4', 'server/main.js', 'worker'], {
  stdio: 'inherit',
  env: {
    ...process.env,
    WORKER_DATABASE_URL: stage.urls.worker,
    SMTP_URL: `smtp://127.0.0.1:${port}`,
    MAIL_FROM: 'assent@example.com',
    LOG_LEVEL: 'fatal',
  },
})

const idle = async () => {
  while ((await owner.query('select from graphile_worker.jobs limit 1')).rowCount) await sleep(50)
}

async function draft(): Promise<string> {
  const query = 'mutation { createRequest(input: { title: "A laptop" }) { request { id } } }'
  return (await call('user', 'POST', '/graphql', { query }))['data'].createRequest.request.id
}

const SUBMIT = 'mutation($id: UUID!) { submitRequest(input: { requestId: $id }) { request { id status version } } }'

/** Submits that many drafts, one every 30 ms: when each was called, and how long it took in milliseconds. */
async function submitAll(ids: string[]): Promise<Map<string, { at: number; took: number }>> {
  const calls = new Map<string, { at: number; took: number }>()
  for (const id of ids) {
    const at = performance.now()
    await call('user', 'POST', '/graphql', { query: SUBMIT, variables: { id } })
    const took = performance.now() - at
    calls.set(id, { at, took })
    await sleep(Math.max(0, EVERY - took))
  }
  return calls
}

const drafts = async () => {
  const ids: string[] = []
  for (let n = 0; n < SUBMITS; n++) ids.push(await draft())
  return ids
}
const quantile = (values: number[], q: number) => values.toSorted((a, b) => a - b)[Math.floor((values.length - 1) * q)]!
const figures = (values: number[]) => [0.5, 0.95, 0.99].map((q) => `p${q * 100} ${quantile(values, q).toFixed(1)} ms`).join(', ')

async function setTriggers(state: 'enable' | 'disable'): Promise<void> {
  await owner.query(`alter table app_public.audit_logs ${state} trigger _800_notify;
    alter table app_public.requests ${state} trigger _950_announce`)
}

// The cost -----------------------------------------------------------------------------------------------------------------

const medians = { with: [] as number[], without: [] as number[] }
for (let round = -1; round < ROUNDS; round++) {
  for (const way of ['without', 'with'] as const) {
    const ids = await drafts()
    await setTriggers(way === 'with' ? 'enable' : 'disable')
    const took = [...(await submitAll(ids)).values()].map((submit) => submit.took)
    await setTriggers('enable')
    await idle()
    // The first round is for warming up.
    if (round >= 0) medians[way].push(median(took))
  }
}
const ratio = median(medians.with.map((value, i) => value / medians.without[i]!))
console.log(
  `A submit, median of ${ROUNDS} rounds of ${SUBMITS}: without ${median(medians.without).toFixed(2)} ms, ` +
    `with ${median(medians.with).toFixed(2)} ms; ratio of the rounds, median: ${ratio.toFixed(2)}`,
)

// The delay ----------------------------------------------------------------------------------------------------------------

const client = createClient({
  url: `ws://127.0.0.1:${PORT}/graphql`,
  webSocketImpl: WebSocket,
  connectionParams: { authorization: `Bearer ${stage.tokens.manager[0]}` },
  lazy: false,
})
const heard = new Map<string, number>()
const listening = (async () => {
  const events = client.iterate<any>({ query: 'subscription { notificationReceived { notification { request { id } } } }' })
  for await (const { data } of events) heard.set(data.notificationReceived.notification.request.id, performance.now())
})().catch(() => {})
await sleep(1_000)

const ids = await drafts()
const calls = await submitAll(ids)
await idle()
await sleep(500)
const mailed = ids.map((id) => {
  const times = accepted.get(id) ?? []
  if (times.length !== DECIDERS) throw new Error(`${times.length} mails for a request`)
  return Math.max(...times) - calls.get(id)!.at
})
const told = ids.map((id) => {
  const at = heard.get(id)
  if (at === undefined) throw new Error('A subscriber has not heard of a request')
  return at - calls.get(id)!.at
})
console.log(`From the call of a submit to the last of its ${DECIDERS} mails accepted: ${figures(mailed)}`)
console.log(`From the call of a submit to the subscriber's event: ${figures(told)}`)

await client.dispose()
await listening
await close()
worker.kill('SIGTERM')
await once(worker, 'exit')
smtp.close()
await owner.end()
await stage.close()
process.exit()
