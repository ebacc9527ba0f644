/**
 * The siege: one stranger spends the whole allowance, and as much again, on what costs most, while others read.
 *
 *   npm run siege                      one minute
 *   npm run siege -- --seconds 300
 *
 * The server is the product's, in production mode, with 512 MB of heap. It prints what others wait, quiet and under siege, and
 * the server's memory over time, and fails if the process dies. Others should wait less than three times as long at p50 and p99, and memory should stay flat.
 */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { WebSocket } from 'ws'
import { makeCall, openStage, PORT, pick } from './stage.ts'

const { values: options } = parseArgs({ options: { seconds: { type: 'string', default: '60' } } })
const SECONDS = Number(options.seconds)
const QUIET_SECONDS = 10
const REQUESTS = 1_000
const URL = `http://127.0.0.1:${PORT}`
/** Calls of others a second: few enough that they do not wait for each other. */
const READS = 20

const stage = await openStage(REQUESTS, ['--max-old-space-size=512'])
const others = makeCall(stage.tokens, 20)
const memory = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${stage.server.pid}/status`, 'utf8'))![1]) / 1024

/** What others wait, in milliseconds, for so many seconds; what they were refused counts as failed. */
async function read(seconds: number): Promise<{ waits: number[]; failed: number }> {
  const waits: number[] = []
  let failed = 0
  let n = 0
  const one = async () => {
    const start = performance.now()
    const query = `query($id: UUID!) { request(id: $id) { id title status creator { id name } availableActions } }`
    const calls = [
      () => others.call('user', 'POST', '/graphql', { query, variables: { id: pick(stage.ids, n) } }),
      () => others.call('manager', 'GET', '/api/v1/requests/'),
    ]
    await calls[n++ % calls.length]!().then(
      () => waits.push(performance.now() - start),
      () => failed++,
    )
  }
  const all: Promise<void>[] = []
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await sleep(1000 / READS)) all.push(one())
  await Promise.all(all)
  return { waits: waits.sort((a, b) => a - b), failed }
}

/** Aimed at what costs most: each document another, so that nothing is known; bodies at the limit; sockets; searches. */
const attacks: ((n: number) => Promise<unknown>)[] = [
  (n) =>
    post(
      `{ ${roots(10, `requests(first: ${(n % 100) + 1}) { nodes { ...R auditLogs(first: 100) { nodes { id } } } totalCount }`)} } ${R}`,
    ),
  (n) => post(`{ requests { nodes { ${'creator { id } '.repeat(480)} } } } # ${n}`),
  (n) => post(`{ currentUser { ${'id '.repeat(399)} } } # ${n}`),
  (n) => post(`{ currentUser { id } } # ${n} ${'x'.repeat(900_000)}`),
  () => post('{ currentUser '.repeat(60_000)),
  () => send('POST', '/graphql', { 'content-type': 'application/json' }, `${'['.repeat(500_000)}`),
  (n) =>
    send(
      'POST',
      '/api/v1/auth/token/',
      { 'content-type': 'application/json' },
      JSON.stringify({ email: `${n}@x`, password: 'x' }),
    ),
  (n) => send('GET', `/api/v1/requests/?search=${'the%20'.repeat(40)}${n}`, {}),
  () => send('GET', '/readyz', {}),
  () => send('GET', '/graphql', {}),
  () => openSocket(),
]

const roots = (count: number, field: string) => Array.from({ length: count }, (_, n) => `a${n}: ${field}`).join(' ')
const R = `fragment P on User { id name role isDeleted createdAt } fragment R on Request {
  id title description status version creator { ...P } assignedTo { ...P } reviewedBy { ...P } createdAt updatedAt availableActions
  auditLogs { nodes { id action timestamp metadata actor { ...P } user { ...P } } totalCount } }`

const answered = new Map<number, number>()
async function send(method: string, path: string, headers: Record<string, string>, body?: string): Promise<void> {
  const res = await fetch(URL + path, { method, headers, ...(body && { body }), signal: AbortSignal.timeout(20_000) })
  await res.arrayBuffer()
  answered.set(res.status, (answered.get(res.status) ?? 0) + 1)
}
const post = (query: string) => send('POST', '/graphql', { 'content-type': 'application/json' }, JSON.stringify({ query }))
const openSocket = () =>
  new Promise((resolve) => {
    const socket = new WebSocket(`${URL.replace('http', 'ws')}/graphql`, 'graphql-transport-ws')
    socket.on('open', () => socket.send('x'.repeat(50_000)))
    socket.on('close', resolve).on('error', resolve)
  })

/** As many calls as the allowance lets through, and as many again that it refuses. */
async function attack(seconds: number): Promise<void> {
  const all = new Set<Promise<unknown>>()
  let n = 0
  const launch = () => {
    const done = (attacks[n % attacks.length]!(n++) as Promise<unknown>).catch(() => {}).finally(() => all.delete(done))
    all.add(done)
  }
  for (let i = 0; i < 300; i++) launch()
  for (const end = Date.now() + seconds * 1000; Date.now() < end; await sleep(25)) if (all.size < 400) launch()
  await Promise.all(all)
}

const percentile = (waits: number[], share: number) => waits[Math.floor((waits.length - 1) * share)] ?? NaN
const show = (name: string, { waits, failed }: { waits: number[]; failed: number }) => {
  const figures = [0.5, 0.99].map((share) => `p${share * 100} ${percentile(waits, share).toFixed(1)} ms`)
  console.log(`${name.padEnd(6)} | ${figures.join(' | ')} | ${waits.length} answered, ${failed} failed`)
}

await read(3) // For warming up.
const quiet = await read(QUIET_SECONDS)
show('quiet', quiet)
const sizes: number[] = []
const measuring = setInterval(() => sizes.push(memory()), (SECONDS * 1000) / 10)
const [siege] = await Promise.all([read(SECONDS), attack(SECONDS)])
clearInterval(measuring)
show('siege', siege)
const ratios = [0.5, 0.99].map((share) => (percentile(siege.waits, share) / percentile(quiet.waits, share)).toFixed(2))
console.log(`ratio  | p50 ${ratios[0]} | p99 ${ratios[1]}`)
console.log(`memory | ${sizes.map((size) => size.toFixed(0)).join(' ')} MB`)
console.log(`the stranger was answered | ${Array.from(answered, ([status, count]) => `${count} × ${status}`).join(', ')}`)
const lives = stage.server.exitCode === null
console.log(lives ? 'the process lives' : `the process has ended: ${stage.server.exitCode}`)

await others.close()
if (lives) await stage.close()
process.exit(lives ? 0 : 1)
