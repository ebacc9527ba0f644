import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { WebSocket, type ClientOptions } from 'ws'
import { mutation, type Api, type Who } from './client.ts'

export interface Message {
  readonly id?: string
  readonly type: string
  readonly payload?: any
}

/** What comes of one operation. */
export interface Heard {
  readonly id: string
  /** The next message about it. */
  next(): Promise<Message>
  /** The data of the next event. */
  data(): Promise<any>
  /** The code of its first error. */
  code(): Promise<string>
  /** What has come, and was not asked for yet. */
  readonly waiting: readonly Message[]
}

/** A WebSocket of GraphQL, as it stands. */
export interface Socket {
  readonly ws: WebSocket
  send(message: Message | string | Buffer): void
  /** The next message that is about no operation. */
  next(): Promise<Message>
  start(query: string, variables?: object): Heard
  /** Starts a subscription, which is in place when this resolves. */
  subscribe(query: string, variables?: object): Promise<Heard>
  /** How it was closed. */
  readonly closed: Promise<readonly [code: number, reason: string]>
  readonly isOpen: boolean
}

/** Messages that are waited for, or wait. */
function makeQueue() {
  const waiting: Message[] = []
  const asked: ((message: Message) => void)[] = []
  return {
    waiting,
    push(message: Message) {
      const ask = asked.shift()
      if (ask) ask(message)
      else waiting.push(message)
    },
    next: () =>
      waiting.length > 0 ? Promise.resolve(waiting.shift()!) : new Promise<Message>((resolve) => void asked.push(resolve)),
  }
}

const opened = new Set<WebSocket>()

/** Opens a WebSocket, and initialises nothing. Rejects with `status` and `body` when the upgrade is refused. */
export async function open(api: Api, { protocols = ['graphql-transport-ws'], ...options }: Options = {}): Promise<Socket> {
  const ws = new WebSocket(`${api.url.replace('http', 'ws')}/graphql`, protocols, options)
  opened.add(ws)
  const others = makeQueue()
  const operations = new Map<string, ReturnType<typeof makeQueue>>()
  ws.on('message', (data) => {
    const message = JSON.parse(String(data)) as Message
    const operation = message.id && operations.get(message.id)
    ;(operation || others).push(message)
  })
  const closed = new Promise<readonly [number, string]>((resolve) => {
    ws.once('close', (code, reason) => resolve([code, String(reason)]))
  })
  await new Promise<void>((resolve, reject) => {
    ws.once('open', resolve)
    ws.on('error', reject)
    ws.once('unexpected-response', (_req, res) => {
      const chunks: Buffer[] = []
      res.on('data', (chunk: Buffer) => chunks.push(chunk))
      res.on('end', () => {
        const text = Buffer.concat(chunks).toString()
        reject(Object.assign(new Error(`Refused: ${text}`), { status: res.statusCode, text, headers: res.headers }))
        ws.terminate()
      })
    })
  })

  const send = (message: Message | string | Buffer) =>
    ws.send(typeof message === 'string' || Buffer.isBuffer(message) ? message : JSON.stringify(message))
  let count = 0
  const start: Socket['start'] = (query, variables) => {
    const id = `op ${++count}`
    const queue = makeQueue()
    operations.set(id, queue)
    send({ id, type: 'subscribe', payload: { query, variables } })
    const next = queue.next
    return {
      id,
      next,
      waiting: queue.waiting,
      async data() {
        const message = await next()
        if (message.type !== 'next' || message.payload.errors) throw new Error(`It failed: ${JSON.stringify(message)}`)
        return message.payload.data
      },
      async code() {
        const { type, payload } = await next()
        const errors = type === 'error' ? payload : payload?.errors
        if (!errors) throw new Error(`It succeeded: ${JSON.stringify(payload)}`)
        return errors[0].extensions.code
      },
    }
  }
  return {
    ws,
    send,
    next: others.next,
    start,
    async subscribe(query, variables) {
      const heard = start(query, variables)
      await settle({ start })
      return heard
    },
    closed,
    get isOpen() {
      return ws.readyState === ws.OPEN
    },
  }
}
type Options = ClientOptions & { protocols?: string[] }

/** What the socket was sent before is begun; and, with what the database answers in turn, done. */
async function settle({ start }: Pick<Socket, 'start'>): Promise<void> {
  for (let i = 0; i < 2; i++) {
    const asked = start('{ requests { totalCount } }')
    await asked.data()
    await asked.next()
  }
}

/** Opens a WebSocket and initialises it; without credentials if it is nobody's. */
export async function connect(api: Api, who?: Who, options?: Options): Promise<Socket> {
  const socket = await open(api, options)
  const token = typeof who === 'string' ? api.token(who) : who?.token
  socket.send({ type: 'connection_init', payload: token === undefined ? {} : { authorization: `Bearer ${token}` } })
  const first = await Promise.race([socket.next(), socket.closed])
  if (!('type' in first)) throw Object.assign(new Error(`Closed: ${first.join(' ')}`), { code: first[0], reason: first[1] })
  expect(first).toEqual({ type: 'connection_ack' })
  return socket
}

/** Closes what the tests have opened. */
export async function closeAll(): Promise<void> {
  const closing = [...opened].map(async (ws) => {
    if (ws.readyState === ws.CLOSED) return
    const closed = once(ws, 'close')
    ws.terminate()
    await closed
  })
  opened.clear()
  await Promise.all(closing)
}

export const UPDATED = 'subscription ($id: UUID!) { requestUpdated(id: $id) { request { id title status version } } }'
export const INBOX = 'subscription { inboxChanged { totalCount } }'
export const RECEIVED = 'subscription { notificationReceived { notification { id kind request { id } actor { name } } } }'

/** An action on a request by GraphQL. */
export async function act(api: Api, name: string, requestId: string, who: Who, more: object = {}): Promise<void> {
  await api.data(mutation(name), { input: { requestId, ...more } }, who)
}

export async function until(condition: () => Promise<boolean> | boolean, within = 5_000): Promise<void> {
  const end = Date.now() + within
  while (!(await condition())) {
    if (Date.now() > end) throw new Error('It did not come about.')
    await sleep(10)
  }
}
