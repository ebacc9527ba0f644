// The stranger of the siege (siege.ts): sends what costs most, for so many seconds.
import { setTimeout as sleep } from 'node:timers/promises'
import { WebSocket } from 'ws'
import { PORT } from './stage.ts'

const URL = `http://127.0.0.1:${PORT}`

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

await attack(Number(process.argv[2]))
console.log(`the stranger was answered | ${Array.from(answered, ([status, count]) => `${count} × ${status}`).join(', ')}`)
process.exit()
