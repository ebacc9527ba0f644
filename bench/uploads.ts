/**
 * A hundred uploads of 10 MB at once, by ten people, and as many downloads: what they take, and what the server's memory grows to.
 *
 *   node bench/uploads.ts
 *
 * The server is the product's, in production mode. It fails unless all of them succeed in less than 250 MB.
 */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import pg from 'pg'
import { openStage, PORT } from './stage.ts'

const PEOPLE = 10
const FILES = 10 // of each
const MAX_MEMORY = 250
const PASSWORD = 'upload everything twice'

const stage = await openStage(100)
const peak = () => Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${stage.server.pid}/status`, 'utf8'))![1]) / 1024
const url = `http://127.0.0.1:${PORT}/api/v1`

async function call(path: string, init: RequestInit, token = ''): Promise<any> {
  const headers = {
    ...(typeof init.body === 'string' && { 'content-type': 'application/json' }),
    authorization: `Bearer ${token}`,
  }
  const res = await fetch(url + path, { ...init, headers: token ? headers : { 'content-type': 'application/json' } })
  if (!res.ok) throw new Error(await res.text())
  return await res.json()
}

async function drafts(): Promise<{ token: string; id: string }[]> {
  const owner = new pg.Client(stage.urls.owner)
  await owner.connect()
  const people = []
  for (let n = 0; n < PEOPLE; n++) {
    const email = `uploader${n}@assent.test`
    await owner.query(`select app_private.register_user($1, 'Uploader', 'USER', app_private.password_digest($2))`, [
      email,
      PASSWORD,
    ])
    const login = await call('/auth/token/', { method: 'POST', body: JSON.stringify({ email, password: PASSWORD }) })
    const request = await call('/requests/', { method: 'POST', body: JSON.stringify({ title: 'Evidence' }) }, login.access_token)
    people.push({ token: login.access_token as string, id: request.id as string })
  }
  await owner.end()
  return people
}

const everybody = await drafts()
const bytes = new Blob([randomBytes(10 * 2 ** 20 - 1)])
const before = peak()

/** Does it all at once, and says how long that took. */
async function timed<T>(what: string, work: () => Promise<T>[]): Promise<T[]> {
  const start = performance.now()
  const done = await Promise.all(work())
  const seconds = (performance.now() - start) / 1000
  console.log(`${what.padEnd(9)} | ${done.length} in ${seconds.toFixed(1)} s, ${((done.length * 10) / seconds).toFixed(0)} MB/s`)
  return done
}

let n = 0
const attached = await timed('uploads', () =>
  everybody.flatMap(({ token, id }) =>
    Array.from({ length: FILES }, async () => {
      const form = new FormData()
      form.append('file', new Blob([bytes, String.fromCharCode(n++)]), 'evidence.bin') // No two are the same.
      const { id: attachment } = await call(`/requests/${id}/attachments/`, { method: 'POST', body: form }, token)
      return { token, attachment: attachment as string }
    }),
  ),
)
const uploaded = peak()
await timed('downloads', () =>
  attached.map(async ({ token, attachment }) => {
    const res = await fetch(`${url}/attachments/${attachment}/`, { headers: { authorization: `Bearer ${token}` } })
    let size = 0
    for await (const piece of res.body!) size += piece.length
    if (!res.ok || size < 10 * 2 ** 20 - 1) throw new Error(`${res.status}, ${size} bytes`)
  }),
)
console.log(
  `memory    | ${before.toFixed(0)} MB before, ${uploaded.toFixed(0)} MB at most, ${peak().toFixed(0)} MB with downloads`,
)
const isMet = peak() < MAX_MEMORY
console.log(`${isMet ? 'met      ' : 'NOT MET  '} | less than ${MAX_MEMORY} MB`)
await stage.close()
process.exit(isMet ? 0 : 1)
