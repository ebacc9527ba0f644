/**
 * The siege: one stranger spends the whole allowance, and as much again, on what costs most, while others read.
 *
 *   npm run siege                      one minute
 *   npm run siege -- --seconds 300
 *
 * The server is the product's, in production mode, with 512 MB of heap. It prints what others wait, quiet and under siege, and
 * the server's memory over time. It fails unless the process lives, others wait less than three times as long at p50 and p99,
 * and the memory stays flat: in the second half it is at most a tenth above what it was in the first.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { makeCall, openStage, pick } from './stage.ts'

const { values: options } = parseArgs({ options: { seconds: { type: 'string', default: '60' } } })
const SECONDS = Number(options.seconds)
const QUIET_SECONDS = 10
const REQUESTS = 1_000
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

/** In a process of its own, so that it does not keep those waiting who measure. */
const stranger = (seconds: number) => spawn(process.execPath, ['bench/stranger.ts', String(seconds)], { stdio: 'inherit' })

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
const [siege] = await Promise.all([read(SECONDS), once(stranger(SECONDS), 'exit')])
clearInterval(measuring)
show('siege', siege)
const ratios = [0.5, 0.99].map((share) => percentile(siege.waits, share) / percentile(quiet.waits, share))
console.log(`ratio  | p50 ${ratios[0]!.toFixed(2)} | p99 ${ratios[1]!.toFixed(2)}`)
console.log(`memory | ${sizes.map((size) => size.toFixed(0)).join(' ')} MB`)
const half = sizes.length / 2
const goals: [string, boolean][] = [
  ['the process lives', stage.server.exitCode === null],
  ['others wait less than three times as long', ratios.every((ratio) => ratio < 3)],
  ['the memory stays flat', Math.max(...sizes.slice(half)) <= 1.1 * Math.max(...sizes.slice(0, half))],
]
for (const [goal, isMet] of goals) console.log(`${isMet ? 'met    |' : 'NOT MET|'} ${goal}`)

await others.close()
if (stage.server.exitCode === null) await stage.close()
process.exit(goals.every(([, isMet]) => isMet) ? 0 : 1)
