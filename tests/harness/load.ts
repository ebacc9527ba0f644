import { EventEmitter, once } from 'node:events'
import { Agent, request } from 'node:https'
import { setTimeout as sleep } from 'node:timers/promises'
import { text } from 'node:stream/consumers'
import { createClient } from 'graphql-ws'
import { WebSocket, type ClientOptions } from 'ws'
import { SERVER_NAME, type Topology } from './topology.ts'

/** A kind of call, and whether a proxy may send it again when it does not know whether a server has done it. */
const KINDS = [
  { name: 'REST, list', isRepeatable: true },
  { name: 'GraphQL, query', isRepeatable: false },
  { name: 'REST, write with a key', isRepeatable: true },
  { name: 'REST, read', isRepeatable: true },
  { name: 'GraphQL, write', isRepeatable: false },
  { name: 'REST, write', isRepeatable: false },
] as const

export interface Failure {
  readonly kind: string
  readonly isRepeatable: boolean
  /** The status and the code, or why there was no answer; and nginx's line about it. */
  readonly answer: string
  readonly line?: string | undefined
}

export interface Load {
  readonly calls: number
  readonly failures: readonly Failure[]
  /** Writes that were acknowledged and are not there, and writes that are there twice. */
  readonly lost: number
  readonly twice: number
  /** Mails that one request was news by, those of them that never came, and those that came twice. */
  readonly mails: { readonly all: number; readonly lost: number; readonly twice: number }
  /** When the last call failed, the subscriber was told news again, and the last mail was recorded; as Date has it. */
  readonly well: { readonly calls: number; readonly live: number; readonly mails: number }
  /** Rows of audit.disagreements: where the requests and the trail say different things. */
  readonly disagreements: number
}

const CALLERS = 8
/** Milliseconds between two calls of one caller. */
const PAUSE = 30

/**
 * Calls through nginx, from several networks, for as long as `during` takes and until there have been so many of them. Before
 * them, a request is submitted, of which all managers are told by mail; and somebody subscribes to what all of them change.
 */
export async function load(topology: Topology, atLeast: number, during: (count: () => number) => Promise<void>): Promise<Load> {
  const run = Date.now()
  const tokens = await Promise.all(Array.from({ length: 100 }, (_, n) => topology.token('user@assent.test', n)))
  const agent = new Agent({ keepAlive: true, ca: topology.certificate, servername: SERVER_NAME })
  const failures: Failure[] = []
  const acknowledged = new Set<string>()
  let calls = 0
  const well = { calls: Date.now(), live: 0, mails: 0 }

  async function send(caller: number, n: number, method: string, path: string, json?: object, key?: string) {
    const body = json && JSON.stringify(json)
    const sent = request({
      agent,
      host: '127.0.0.1',
      localAddress: `127.0.0.${2 + caller}`,
      port: topology.httpsPort,
      method,
      path,
      headers: {
        host: SERVER_NAME,
        authorization: `Bearer ${tokens[n % tokens.length]!}`,
        ...(body && { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
        ...(key && { 'idempotency-key': key }),
      },
    })
    sent.end(body)
    const [res] = await once(sent, 'response')
    const answer = await text(res)
    if (res.statusCode >= 300 || answer.includes('"errors"')) {
      const message = `${res.statusCode} ${/"code":"(\w+)"/.exec(answer)?.[1] ?? answer}`
      throw Object.assign(new Error(message), { id: res.headers['x-request-id'] })
    }
    return JSON.parse(answer)
  }

  const first = await send(0, 0, 'POST', '/api/v1/requests/', { title: `load ${run}` })
  await send(0, 0, 'POST', `/api/v1/requests/${first.id}/submit/`)
  const subscriber = subscribe(topology, tokens[0]!)
  async function call(caller: number, n: number): Promise<void> {
    const { name, isRepeatable } = KINDS[n % KINDS.length]!
    const title = `load ${run} ${n}`
    const graphql = (query: string) => send(caller, n, 'POST', '/graphql', { query, variables: { title } })
    try {
      if (name === 'REST, list') await send(caller, n, 'GET', '/api/v1/requests/?page_size=5')
      if (name === 'REST, read') await send(caller, n, 'GET', `/api/v1/requests/${first.id}/`)
      if (name === 'GraphQL, query') await graphql('{ requests(first: 5) { nodes { id title } } }')
      if (name === 'GraphQL, write') {
        await graphql('mutation ($title: String!) { createRequest(input: { title: $title }) { request { id } } }')
      }
      if (name === 'REST, write') await send(caller, n, 'POST', '/api/v1/requests/', { title })
      if (name === 'REST, write with a key') {
        const post = () => send(caller, n, 'POST', '/api/v1/requests/', { title }, `load-${run}-${n}`)
        // A killed server's transaction ends a moment after it: until then its key is taken, and the answer says to try again.
        await post().catch((error: Error) => (error.message.startsWith('409') ? sleep(1_000).then(post) : Promise.reject(error)))
      }
      if (name.includes('write')) acknowledged.add(title)
    } catch (error) {
      const { message, id } = error as Error & { id?: string }
      const line = id && (await topology.log()).split('\n').find((line) => line.includes(id))
      well.calls = Date.now()
      failures.push({ kind: name, isRepeatable, answer: message, line })
    }
  }

  let over = false
  const caller = async (_: unknown, caller: number) => {
    while (!over || calls < atLeast) {
      await call(caller, ++calls)
      await sleep(PAUSE)
    }
  }
  const callers = Promise.all(Array.from({ length: CALLERS }, caller))
  try {
    await during(() => calls)
    well.live = await subscriber.live()
  } finally {
    over = true
  }
  await callers
  await subscriber.close()
  agent.destroy()
  const ask = async (text: string, ...values: unknown[]) => (await topology.owner.query(text, values)).rows
  while ((await ask('select from graphile_worker.jobs limit 1')).length) await sleep(20)

  const titles = await ask(
    `select title, count(*)::int as n from app_public.requests where title like $1 group by title`,
    `load ${run} %`,
  )
  const kept = new Set(titles.map(({ title }) => title))
  const told = await ask(
    `select id, extract(epoch from mailed_at)::float8 * 1000 as at from app_public.notifications where request_id = $1 and mail_state in ('QUEUED', 'SENT', 'FAILED')`,
    first.id,
  )
  well.mails = Math.max(...told.map(({ at }) => at))
  const ids = topology.mailbox.arrived.map(({ mail }) => /^<([^@]+)@/.exec(mail.messageId!)![1]!)
  const arrived = Map.groupBy(ids, (id) => id)
  const [trail] = await ask('select count(*)::int as n from audit.disagreements')
  return {
    calls,
    failures,
    lost: [...acknowledged].filter((title) => !kept.has(title)).length,
    twice: titles.filter(({ n }) => n > 1).length,
    mails: {
      all: told.length,
      lost: told.filter(({ id }) => !arrived.has(id)).length,
      twice: told.filter(({ id }) => (arrived.get(id)?.length ?? 0) > 1).length,
    },
    well,
    disagreements: trail!.n,
  }
}

/** Subscribes, and again whenever that ends, as clients do. `live` answers since when it has been told news without a break. */
function subscribe({ publicUrl, certificate, httpsPort }: Topology, token: string) {
  let since = 0
  const news = new EventEmitter()
  const client = createClient({
    url: publicUrl.replace('https', 'wss') + '/graphql',
    connectionParams: { authorization: `Bearer ${token}` },
    retryAttempts: Number.POSITIVE_INFINITY,
    retryWait: () => sleep(100),
    shouldRetry: () => true,
    on: { closed: () => (since = 0) },
    webSocketImpl: class extends WebSocket {
      constructor(_url: string, protocols: string[]) {
        super(`wss://127.0.0.1:${httpsPort}/graphql`, protocols, {
          ca: certificate,
          servername: SERVER_NAME,
          headers: { host: SERVER_NAME },
        } as ClientOptions)
      }
    },
  })
  client.subscribe(
    { query: 'subscription { requestsChanged { ids } }' },
    {
      next() {
        since ||= Date.now()
        news.emit('told')
      },
      error: () => {},
      complete: () => {},
    },
  )
  return {
    async live(): Promise<number> {
      if (!since) await once(news, 'told')
      return since
    },
    close: () => client.dispose(),
  }
}
