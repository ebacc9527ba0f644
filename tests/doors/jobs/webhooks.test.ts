import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import http, { type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import https from 'node:https'
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import tls from 'node:tls'
import { Logger as WorkerLogger, runOnce } from 'graphile-worker'
import type { Client } from 'pg'
import pino from 'pino'
import { Webhook } from 'standardwebhooks'
import { parseConfig } from '../../../server/config.ts'
import { promptTasks, webhookTasks } from '../../../server/jobs/tasks.ts'
import { deliver, DeliveryError, TIMEOUT } from '../../../server/jobs/webhooks.ts'
import { startWorker } from '../../../server/jobs/worker.ts'
import { mutation, newRequest, NOBODY, startApi, type Api, type Who } from '../../harness/client.ts'
import { until } from '../../harness/socket.ts'

// How a delivery is sent, to real receivers; and what admins do by GraphQL. What is told, and what becomes of it:
// tests/rules/webhooks.test.ts.

let api: Api
let root: Client
let dataDir: string
const lines: string[] = []
const log = pino({ level: 'trace' }, { write: (line: string) => void lines.push(line) })
const keys: string[] = []
/** The keys that have been written to a log. */
const logged = () => keys.filter((key) => (lines.join('') + api.log()).includes(key))
const closing: (() => Promise<void>)[] = []

beforeAll(async () => {
  api = await startApi()
  root = await api.db.connect('root')
  dataDir = await mkdtemp(join(tmpdir(), 'assent-webhooks-'))
})
afterEach(async () => {
  expect(logged()).toEqual([])
  await root.query('delete from graphile_worker._private_jobs')
  await root.query('delete from app_public.webhooks')
})
afterAll(async () => {
  await Promise.all(closing.map((close) => close()))
  await api.close()
  await rm(dataDir, { recursive: true })
})

// Receivers ---------------------------------------------------------------------------------------------------------

interface Call {
  readonly method: string | undefined
  readonly url: string | undefined
  readonly headers: IncomingHttpHeaders
  readonly body: string
}
interface Receiver {
  readonly url: string
  readonly port: number
  readonly calls: readonly Call[]
  /** How many connections were made. */
  readonly connections: number
  close(): Promise<void>
}

async function listen(server: Server, scheme: string, calls: Call[], host?: string): Promise<Receiver> {
  const sockets = new Set<Socket>()
  let connections = 0
  server.on('connection', (socket) => {
    connections++
    sockets.add(socket.on('error', () => {}).on('close', () => sockets.delete(socket)))
  })
  server.listen(0, host)
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const close = async () => {
    if (!server.listening) return
    const closed = once(server, 'close')
    server.close()
    for (const socket of sockets) socket.destroy()
    await closed
  }
  closing.push(close)
  return {
    url: `${scheme}://127.0.0.1:${port}/hook`,
    port,
    calls,
    get connections() {
      return connections
    },
    close,
  }
}

type Answer = number | ((res: ServerResponse, call: Call) => unknown)

/** A receiver that answers as it is told to; each time the next of the answers, and the last one from then on. */
function receive(...answers: Answer[]): Promise<Receiver> {
  return receiveBy(http.createServer(), 'http', '127.0.0.1', answers)
}
function receiveBy(server: http.Server, scheme: string, host: string | undefined, answers: Answer[]): Promise<Receiver> {
  const calls: Call[] = []
  server.on('request', async (req: http.IncomingMessage, res: ServerResponse) => {
    const call = { method: req.method, url: req.url, headers: req.headers, body: await text(req) }
    const answer = answers[Math.min(calls.length, answers.length - 1)]!
    calls.push(call)
    if (typeof answer === 'number') res.writeHead(answer).end()
    else await answer(res, call)
  })
  return listen(server, scheme, calls, host)
}

/** A receiver that says, to whatever it is told, just this. */
const receiveRaw = (speak: (socket: Socket) => void): Promise<Receiver> =>
  listen(
    createServer((socket) => void socket.once('data', () => speak(socket))),
    'http',
    [],
    '127.0.0.1',
  )

// Sending -----------------------------------------------------------------------------------------------------------

const KEY = `whsec_${Buffer.alloc(32, 7).toString('base64')}`
type Outcome = { status: number } | DeliveryError

/** One delivery by itself: the status that it was answered by, or why it failed. */
async function send(url: string, allowPrivate = true, timeout = TIMEOUT): Promise<Outcome> {
  try {
    return { status: await deliver(NOBODY, { url, signing_key: KEY, body: '{}' }, allowPrivate, timeout) }
  } catch (error) {
    if (!(error instanceof DeliveryError)) throw error
    return error
  }
}

/** Does what is due, as the worker does, and answers when all of it was tried. */
const runDue = () =>
  runOnce({
    connectionString: api.db.urls.owner,
    taskList: { ...promptTasks, ...webhookTasks({ privateWebhooks: true }) },
    noHandleSignals: true,
    logger: new WorkerLogger(() => () => {}),
    // Without it, that they were tried is not waited for to be recorded.
    preset: { worker: { completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
  })
const makeDue = () => root.query(`update graphile_worker._private_jobs set run_at = now()`)
const withWorker = async (work: () => Promise<void>, env: Record<string, string> = { WEBHOOKS_TO_PRIVATE_ADDRESSES: 'true' }) => {
  const config = parseConfig({ WORKER_DATABASE_URL: api.db.urls.worker, DATA_DIR: dataDir, ...env }, 'worker')
  const worker = await startWorker(config, log)
  await work().finally(() => worker.close())
}

const WEBHOOK = 'webhook { id url events signingKey isEnabled failingSince createdAt }'
const DELIVERY =
  'id event state attempts responseStatus error payload createdAt deliveredAt webhookId webhook { url } auditLog { action }'
const DELIVERIES = `query ($webhookId: UUID!) {
  webhookDeliveries(condition: {webhookId: $webhookId}, orderBy: [CREATED_AT_ASC]) { totalCount nodes { ${DELIVERY} } }
}`
/** Registers a webhook, as an admin does. */
async function register(url: string, events = ['request.submitted']) {
  const { createWebhook } = await api.data(mutation('createWebhook', WEBHOOK), { input: { url, events } }, 'admin')
  keys.push(createWebhook.webhook.signingKey)
  return createWebhook.webhook as { id: string; signingKey: string }
}
const deliveriesTo = async ({ id }: { id: string }): Promise<any[]> =>
  (await api.data(DELIVERIES, { webhookId: id }, 'admin')).webhookDeliveries.nodes
const deliveryTo = async (hook: { id: string }) => {
  const nodes = await deliveriesTo(hook)
  expect(nodes).toHaveLength(1)
  return nodes[0]
}
const webhook = async ({ id }: { id: string }) =>
  (await api.data('query ($id: UUID!) { webhook(id: $id) { isEnabled failingSince } }', { id }, 'admin')).webhook
const submit = (title = 'A laptop') => newRequest(api, { title, submit: true })
/** The jobs that are left of a delivery. */
const jobs = async (id: string) =>
  (
    await root.query(
      `select attempts, run_at between now() and now() + interval '30 seconds' as is_soon
       from graphile_worker._private_jobs where payload ->> 'id' = $1`,
      [id],
    )
  ).rows
const verify = ({ body, headers }: Call, key: string) => new Webhook(key).verify(body, headers as Record<string, string>)

// -------------------------------------------------------------------------------------------------------------------

describe('a delivery', () => {
  test('of what is submitted by GraphQL arrives by itself, signed as Standard Webhooks says', () =>
    withWorker(async () => {
      const receiver = await receive(204)
      const hook = await register(`${receiver.url}?a=b&c=%20#d`)
      const id = await submit('Ünï <laptop> & "bag" 😀')
      await until(() => receiver.calls.length > 0)
      await until(async () => (await deliveryTo(hook)).state === 'DELIVERED')
      expect(receiver.calls).toHaveLength(1)
      const call = receiver.calls[0]!
      const delivery = await deliveryTo(hook)

      expect([call.method, call.url]).toEqual(['POST', '/hook?a=b&c=%20'])
      expect(call.headers).toEqual({
        host: `127.0.0.1:${receiver.port}`,
        connection: 'close',
        'content-type': 'application/json',
        'content-length': String(Buffer.byteLength(call.body)),
        'user-agent': 'Assent',
        'webhook-id': delivery.id,
        'webhook-timestamp': expect.stringMatching(/^\d{10}$/),
        'webhook-signature': expect.stringMatching(/^v1,[\w+/]{43}=$/),
      })
      const payload = verify(call, hook.signingKey)
      expect(payload).toEqual(delivery.payload)
      expect(payload).toMatchObject({
        type: 'request.submitted',
        timestamp: expect.any(String),
        data: { request: { id, title: 'Ünï <laptop> & "bag" 😀', status: 'SUBMITTED', creator: { name: 'Uma User' } } },
      })
      expect(delivery).toEqual({
        id: delivery.id,
        event: 'request.submitted',
        state: 'DELIVERED',
        attempts: 1,
        responseStatus: 204,
        error: null,
        payload,
        createdAt: expect.any(String),
        deliveredAt: expect.any(String),
        webhookId: hook.id,
        webhook: { url: `${receiver.url}?a=b&c=%20#d` },
        auditLog: { action: 'SUBMIT' },
      })

      expect(() => verify({ ...call, body: call.body.replace('SUBMITTED', 'APPROVED') }, hook.signingKey)).toThrow('signature')
      expect(() => verify(call, KEY)).toThrow('signature')
      for (const header of ['webhook-id', 'webhook-timestamp']) {
        const other = String(Number(call.headers['webhook-timestamp']) + 1)
        expect(() => verify({ ...call, headers: { ...call.headers, [header]: other } }, hook.signingKey)).toThrow('signature')
      }
    }))

  test('answered by 500 and then by 200 is sent twice, under one id, signed each time', async () => {
    const receiver = await receive((res) => res.writeHead(500).end('We are  \n down'), 200)
    const hook = await register(receiver.url)
    await submit()
    await runDue()
    const first = await deliveryTo(hook)
    expect(first).toMatchObject({
      state: 'QUEUED',
      attempts: 1,
      responseStatus: 500,
      error: 'It answered 500: We are down',
      deliveredAt: null,
    })
    expect(await webhook(hook)).toEqual({ isEnabled: true, failingSince: expect.any(String) })
    expect(await jobs(first.id)).toEqual([{ attempts: 1, is_soon: true }])

    await makeDue()
    await runDue()
    expect(await deliveryTo(hook)).toMatchObject({
      id: first.id,
      state: 'DELIVERED',
      attempts: 2,
      responseStatus: 200,
      error: null,
    })
    expect(await webhook(hook)).toEqual({ isEnabled: true, failingSince: null })
    expect(await jobs(first.id)).toEqual([])
    expect(receiver.calls.map(({ headers }) => headers['webhook-id'])).toEqual([first.id, first.id])
    for (const call of receiver.calls) expect(verify(call, hook.signingKey)).toEqual(first.payload)
  })

  test('to nobody who listens is tried again, until somebody does', async () => {
    const gone = await receive(200)
    await gone.close()
    const hook = await register(gone.url)
    await submit()
    await runDue()
    const first = await deliveryTo(hook)
    expect(first).toMatchObject({ state: 'QUEUED', responseStatus: null, error: expect.stringContaining('ECONNREFUSED') })
    expect(await jobs(first.id)).toEqual([{ attempts: 1, is_soon: true }])
    const receiver = await receive(200)
    const input = { webhookId: hook.id, url: receiver.url }
    await api.data(mutation('updateWebhook', WEBHOOK), { input }, 'admin')
    await makeDue()
    await runDue()
    expect(await deliveryTo(hook)).toMatchObject({ id: first.id, state: 'DELIVERED', attempts: 2 })
    expect(receiver.calls).toHaveLength(1)
  })

  test('that fails the last time it is tried has failed for good', async () => {
    const hook = await register((await receive(503)).url)
    await submit()
    await runDue()
    await root.query('update graphile_worker._private_jobs set attempts = max_attempts - 1, run_at = now()')
    await runDue()
    const { id, state, attempts, responseStatus } = await deliveryTo(hook)
    expect([state, attempts, responseStatus]).toEqual(['FAILED', 2, 503])
    expect(await jobs(id)).toEqual([])
  })

  test('is sent once by two workers', async () => {
    const receiver = await receive((res) => sleep(20).then(() => res.end()))
    const hook = await register(receiver.url)
    for (let i = 0; i < 12; i++) await submit()
    await Promise.all([runDue(), runDue()])
    const all = await deliveriesTo(hook)
    expect(all.map(({ state, attempts }) => `${state} ${attempts}`)).toEqual(Array(12).fill('DELIVERED 1'))
    expect(receiver.calls.map(({ headers }) => headers['webhook-id']).toSorted()).toEqual(all.map(({ id }) => id).toSorted())
  })

  test('answered by 410 switches its webhook off', async () => {
    const receiver = await receive(410)
    const hook = await register(receiver.url)
    await submit()
    await runDue()
    await submit()
    await runDue()
    expect(await deliveryTo(hook)).toMatchObject({ state: 'FAILED', attempts: 1, responseStatus: 410 })
    expect((await webhook(hook)).isEnabled).toBe(false)
    expect(receiver.calls).toHaveLength(1)
  })
})

describe('an answer', () => {
  test.each([200, 201, 202, 204, 299])('%s: it has arrived', async (status) => {
    const receiver = await receive(status)
    expect(await send(receiver.url)).toEqual({ status })
    expect(receiver.calls).toHaveLength(1)
  })

  test.each([300, 304, 400, 401, 404, 408, 409, 429, 500, 503])('%s: it is to be sent again', async (status) => {
    const { url } = await receive(status)
    expect(await send(url)).toMatchObject({ status, forGood: false, message: `It answered ${status}: ` })
  })

  test.each([301, 302, 303, 307, 308])('%s: it is to be sent again, and the redirection followed nowhere', async (status) => {
    const target = await receive(200)
    const { url, calls } = await receive((res) => res.writeHead(status, { location: target.url }).end())
    expect(await send(url)).toMatchObject({ status, forGood: false })
    expect([calls.length, target.connections]).toEqual([1, 0])
  })

  test('410: it is not to be sent again', async () => {
    expect(await send((await receive(410)).url)).toMatchObject({ status: 410, forGood: true })
  })

  test.each([
    ['closed at once', '', /hang up/],
    ['that is no HTTP', 'Hello\r\n\r\n', /Parse Error/],
    ['of endless headers', `HTTP/1.1 200 OK\r\n${'a: b\r\n'.repeat(50_000)}`, /overflow/i],
  ])('%s: it is to be sent again', async (_, bytes, message) => {
    const { url } = await receiveRaw((socket) => void socket.end(bytes))
    expect(await send(url)).toMatchObject({ status: null, forGood: false, message: expect.stringMatching(message) })
  })

  // What it was is in its first line.
  test.each([
    ['ends', 500, (socket: Socket) => void socket.destroy()],
    ['is reset', 500, (socket: Socket) => void socket.resetAndDestroy()],
    ['ends', 410, (socket: Socket) => void socket.destroy()],
  ])('that %s halfway is a %s nevertheless', async (_, status, end) => {
    const { url } = await receiveRaw((socket) => {
      socket.write(`HTTP/1.1 ${status} No\r\ncontent-length: 100\r\n\r\nHalf of it`, () => void setTimeout(end, 50, socket))
    })
    expect(await send(url)).toMatchObject({ status, forGood: status === 410, message: expect.stringContaining(String(status)) })
  })

  test.each([
    [200, { status: 200 }],
    [500, { status: 500, message: `It answered 500: ${'x'.repeat(200)}` }],
  ])('%s, without an end: it is cut off', async (status, outcome) => {
    let written = 0
    const ended = Promise.withResolvers<void>()
    const { url } = await receive((res) => {
      res.on('close', () => ended.resolve())
      res.writeHead(status)
      const write = () => {
        while (!res.destroyed && written < 100_000_000) {
          written += 65_536
          if (!res.write('x'.repeat(65_536))) return void res.once('drain', write)
        }
      }
      write()
    })
    expect(await send(url)).toMatchObject(outcome)
    await ended.promise
    // What was read of it, and what the network had taken.
    expect(written).toBeLessThan(50_000_000)
  })

  test.each([
    ['in which there is a NUL', 'a\0b', 'It answered 500: a'],
    ['that is no UTF-8', Buffer.from([0xff, 0xfe, 0x61]), 'It answered 500: '],
    ['that is cut within a letter', '😀'.repeat(200), 'It answered 500: 😀😀'],
  ])('%s is recorded, and the delivery sent again', async (_, body, error) => {
    const receiver = await receive((res) => res.writeHead(500).end(body), 200)
    const hook = await register(receiver.url)
    await submit()
    await runDue()
    const first = await deliveryTo(hook)
    expect(first).toMatchObject({ state: 'QUEUED', attempts: 1, responseStatus: 500, error: expect.stringContaining(error) })
    expect(first.error.length).toBeLessThan(250)
    expect((await webhook(hook)).failingSince).toEqual(expect.any(String))
    await makeDue()
    await runDue()
    expect(await deliveryTo(hook)).toMatchObject({ state: 'DELIVERED', attempts: 2 })
  })
})

describe('an address that only this network has', () => {
  /** On every address of this machine, so that whatever is sent to any of them arrives. */
  let receiver: Receiver
  beforeAll(async () => void (receiver = await receiveBy(http.createServer(), 'http', undefined, [200])))

  const ours = [
    '127.0.0.1',
    'localhost',
    '127.1',
    '127.255.255.254',
    '0x7f000001',
    '0x7f.1',
    '0177.0.0.1',
    '2130706433',
    '0.0.0.0',
    '0',
    '127%2e0.0.1',
    '①②⑦.0.0.1',
  ]
  const others = [
    '[::1]',
    '[::]',
    '[::ffff:127.0.0.1]',
    '[::ffff:7f00:1]',
    '[64:ff9b::127.0.0.1]',
    '[2002:7f00:1::]',
    '169.254.169.254',
    '[::ffff:169.254.169.254]',
    '10.0.0.1',
    '10.255.255.255',
    '172.16.0.1',
    '172.31.255.255',
    '192.168.0.1',
    '100.64.0.1',
    '0.1.2.3',
    '224.0.0.1',
    '255.255.255.255',
    '[::127.0.0.1]',
    '[::7f00:1]',
    '[::10.0.0.1]',
    '[::ffff:0:127.0.0.1]',
    '[64:ff9b::7f00:1]',
    '[2002:7f00:1::]',
    '[fe80::1]',
    '[fd00:ec2::254]',
    '[ff02::1]',
  ]
  test.each([...ours, ...others])('%s is refused for good, before anything is sent', async (host) => {
    const before = receiver.connections
    expect(await send(`http://${host}:${receiver.port}/`, false)).toMatchObject({
      status: null,
      forGood: true,
      message: 'It leads to a private address.',
    })
    expect(await send(`https://${host}:${receiver.port}/`, false)).toMatchObject({ status: null, forGood: true })
    expect(receiver.connections).toBe(before)
  })

  test.each(ours)('%s is reached where that is allowed', async (host) => {
    const before = receiver.calls.length
    expect(await send(`http://${host}:${receiver.port}/`)).toEqual({ status: 200 })
    expect(receiver.calls).toHaveLength(before + 1)
  })

  test('is recorded as such by a worker that was not told otherwise: FAILED, and not tried again', () =>
    withWorker(async () => {
      const before = receiver.connections
      const hooks = []
      for (const host of ['127.0.0.1', 'localhost', '[::1]', '169.254.169.254']) {
        hooks.push(await register(`http://${host}:${receiver.port}/`))
      }
      await submit()
      for (const hook of hooks) {
        await until(async () => (await deliveriesTo(hook)).some(({ state }) => state === 'FAILED'))
        const { id, ...delivery } = await deliveryTo(hook)
        expect(delivery).toMatchObject({
          attempts: 1,
          responseStatus: null,
          error: 'It leads to a private address.',
        })
        await until(async () => (await jobs(id)).length === 0)
      }
      expect(receiver.connections).toBe(before)
    }, {}))

  test('is not reached by a redirection', async () => {
    const { url } = await receive((res) =>
      res.writeHead(307, { location: `http://127.0.0.1:${receiver.port}/`, refresh: '0' }).end(),
    )
    const before = receiver.connections
    await send(url)
    expect(receiver.connections).toBe(before)
  })

  test.each(['http://127.0.0.1:99999/', 'http://[/', 'http://[::1/', 'http://a..b:x/'])(
    '%s is no address at all, which is no reason to give up',
    async (url) => expect(await send(url, false)).toMatchObject({ status: null, forGood: false, message: 'Invalid URL' }),
  )
})

// Nobody has signed it but it itself, and nobody else has it.
const CERTIFICATE = {
  key: `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQggLRviTmljA7LWDBH
rNRD28bdFBDMeM7+mqFma0PP0oqhRANCAASMSPVss3lnj5uRVYE8ee7BEuAYCbol
4FsHY3usagbywSuuV8j9BQSwDWpBm3qBlTHoqeIXU+XhygygLW4qCJua
-----END PRIVATE KEY-----`,
  cert: `-----BEGIN CERTIFICATE-----
MIIBPDCB46ADAgECAgEBMAoGCCqGSM49BAMCMBQxEjAQBgNVBAMMCTEyNy4wLjAu
MTAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMFowFDESMBAGA1UEAwwJ
MTI3LjAuMC4xMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEjEj1bLN5Z4+bkVWB
PHnuwRLgGAm6JeBbB2N7rGoG8sErrlfI/QUEsA1qQZt6gZUx6KniF1Pl4coMoC1u
KgibmqMkMCIwDwYDVR0RBAgwBocEfwAAATAPBgNVHRMBAf8EBTADAQH/MAoGCCqG
SM49BAMCA0gAMEUCIGT1yzAe3vTJu8laRqWkv5X282Q+BwR/IVziFzSKW1J9AiEA
8MPLwTrFVQvIdt3PZwzqIdbhslv0PBmo4UnFszywMaU=
-----END CERTIFICATE-----`,
}

describe('by https', () => {
  const trusted = tls.getCACertificates('default')
  let receiver: Receiver
  beforeEach(async () => void (receiver = await receiveBy(https.createServer(CERTIFICATE), 'https', '127.0.0.1', [200])))
  afterEach(() => tls.setDefaultCACertificates(trusted))

  test('a certificate of nobody’s is told nothing', async () => {
    expect(await send(receiver.url)).toMatchObject({
      status: null,
      forGood: false,
      message: expect.stringContaining('certificate'),
    })
    expect([receiver.connections, receiver.calls.length]).toEqual([1, 0])
  })

  test('one that is trusted is told, where it is for that host', async () => {
    tls.setDefaultCACertificates([...trusted, CERTIFICATE.cert])
    const hook = await register(receiver.url)
    await submit()
    await runDue()
    expect(await deliveryTo(hook)).toMatchObject({ state: 'DELIVERED' })
    verify(receiver.calls[0]!, hook.signingKey)
    expect(await send(`https://localhost:${receiver.port}/`)).toMatchObject({
      status: null,
      message: expect.stringContaining("does not match certificate's altnames"),
    })
    expect(receiver.calls).toHaveLength(1)
  })
})

test('receivers that do not answer hold up neither notifications nor mails', () =>
  withWorker(async () => {
    const released = Promise.withResolvers<void>()
    const receiver = await receive((res) => released.promise.then(() => res.end()))
    const hook = await register(receiver.url)
    try {
      for (let i = 0; i < 10; i++) await submit()
      await until(() => receiver.calls.length === 8) // as many as a worker sends at once
      const id = await submit('Told meanwhile')
      const mails = async () => {
        const { rows } = await root.query('select mail_state from app_public.notifications where request_id = $1', [id])
        return rows.map((row) => row.mail_state)
      }
      await until(async () => (await mails()).join() === 'SENT,SENT,SENT')
      expect(receiver.calls).toHaveLength(8)
      expect((await deliveriesTo(hook)).map(({ state }) => state)).toEqual(Array(11).fill('QUEUED'))
    } finally {
      released.resolve()
    }
    await until(async () => (await deliveriesTo(hook)).every(({ state }) => state === 'DELIVERED'))
    expect(receiver.calls).toHaveLength(11)
  }))

describe('by GraphQL', () => {
  const CREATE = mutation('createWebhook', WEBHOOK)
  const UPDATE = mutation('updateWebhook', WEBHOOK)
  const DELETE = mutation('deleteWebhook', 'webhook { id }')
  const RESEND = mutation('resendWebhookDelivery', `webhookDelivery { ${DELIVERY} }`)
  const URL = 'https://receiver.example.com/hook'
  const WEBHOOKS = '{ webhooks { totalCount nodes { id url events signingKey isEnabled failingSince createdAt } } }'
  const ALL = `{ webhookDeliveries { totalCount nodes { ${DELIVERY} } } }`
  const queue = async () => {
    const hook = await register(URL)
    await submit()
    // Nothing is sent: there is no such receiver.
    await runOnce({
      connectionString: api.db.urls.owner,
      taskList: promptTasks,
      noHandleSignals: true,
      logger: new WorkerLogger(() => () => {}),
    })
    return { hook, delivery: await deliveryTo(hook) }
  }

  test('an admin registers, sees, changes and removes them', async () => {
    const { createWebhook } = await api.data(CREATE, { input: { url: URL, events: ['user.created'] } }, 'admin')
    const created = {
      id: expect.any(String),
      url: URL,
      events: ['user.created'],
      signingKey: expect.stringMatching(/^whsec_[\w+/]{43}=$/),
      isEnabled: true,
      failingSince: null,
      createdAt: expect.any(String),
    }
    expect(createWebhook.webhook).toEqual(created)
    const { id } = createWebhook.webhook
    keys.push(createWebhook.webhook.signingKey)
    expect((await api.data(WEBHOOKS, {}, 'admin')).webhooks).toEqual({ totalCount: 1, nodes: [createWebhook.webhook] })

    const change = async (input: object) =>
      (await api.data(UPDATE, { input: { webhookId: id, ...input } }, 'admin')).updateWebhook.webhook
    expect(await change({ isEnabled: false })).toEqual({ ...createWebhook.webhook, isEnabled: false })
    const other = { url: `${URL}/2`, events: ['user.updated', 'request.approved'] }
    const changed = { ...createWebhook.webhook, ...other, isEnabled: true }
    expect(await change({ ...other, isEnabled: true })).toEqual(changed)
    expect(await change({ url: null, events: null, isEnabled: null })).toEqual(changed)

    expect((await api.data(DELETE, { input: { webhookId: id } }, 'admin')).deleteWebhook.webhook).toEqual({ id })
    expect((await api.data(WEBHOOKS, {}, 'admin')).webhooks).toEqual({ totalCount: 0, nodes: [] })
    expect(await api.code(DELETE, { input: { webhookId: id } }, 'admin')).toBe('NOT_FOUND')
  })

  test('an admin sends a delivery again, which arrives as it was, under a new signature', async () => {
    const receiver = await receive(200)
    const hook = await register(receiver.url)
    await submit()
    await runDue()
    const first = await deliveryTo(hook)
    const { resendWebhookDelivery } = await api.data(RESEND, { input: { deliveryId: first.id } }, 'admin')
    expect(resendWebhookDelivery.webhookDelivery).toEqual({ ...first, state: 'QUEUED', deliveredAt: null })
    await runDue()
    const second = await deliveryTo(hook)
    expect(second).toEqual({ ...first, attempts: 2, deliveredAt: expect.any(String) })
    expect(Date.parse(second.deliveredAt)).toBeGreaterThan(Date.parse(first.deliveredAt))
    const [one, two] = receiver.calls
    expect(receiver.calls).toHaveLength(2)
    expect([two!.body, two!.headers['webhook-id']]).toEqual([one!.body, first.id])
    expect(verify(two!, hook.signingKey)).toEqual(first.payload)
  })

  test.each<[string, object, string, RegExp]>([
    ['a URL by another scheme', { url: 'ftp://example.com/' }, 'url', /https:\/\/ or http:\/\//],
    ['a URL that names a user', { url: 'https://me:secret@example.com/' }, 'url', /not contain a user name/],
    ['a URL of 2,001 characters', { url: URL.padEnd(2001, 'x') }, 'url', /2,000/],
    ['no event', { events: [] }, 'events', /at least one event/],
    ['an event that there is not', { events: ['request.created'] }, 'events', /request\.approved, .*user\.updated/],
  ])('%s is VALIDATION_FAILED', async (_, fault, field, message) => {
    const refusal = { extensions: { code: 'VALIDATION_FAILED', field }, message: expect.stringMatching(message) }
    const created = await api.graphql(CREATE, { input: { url: URL, events: ['user.created'], ...fault } }, 'admin')
    expect(created.body.errors).toMatchObject([refusal])
    const { id } = await register(URL)
    const changed = await api.graphql(UPDATE, { input: { webhookId: id, ...fault } }, 'admin')
    expect(changed.body.errors).toMatchObject([refusal])
  })

  test('an event that is null does not fit the schema', async () => {
    const { id } = await register(URL)
    const input = { url: URL, events: [null] }
    expect(await api.code(CREATE, { input }, 'admin')).toBe('BAD_REQUEST')
    expect(await api.code(UPDATE, { input: { webhookId: id, ...input } }, 'admin')).toBe('BAD_REQUEST')
  })

  const who: [string, Who, string, string][] = [
    ['manager', 'manager', 'FORBIDDEN', 'NOT_FOUND'],
    ['user', 'user', 'FORBIDDEN', 'NOT_FOUND'],
    ['anonymous', undefined, 'UNAUTHENTICATED', 'UNAUTHENTICATED'],
  ]
  test.each(who)('the %s has none, and gets none', async (_, caller, toRegister, other) => {
    const { hook, delivery } = await queue()
    expect(await api.code(CREATE, { input: { url: URL, events: ['user.created'] } }, caller)).toBe(toRegister)
    expect(await api.code(CREATE, { input: { url: 'nonsense', events: [] } }, caller)).toBe(toRegister)

    const commands = (webhookId: string, deliveryId: string): [string, object][] => [
      [UPDATE, { webhookId, isEnabled: false }],
      [UPDATE, { webhookId, url: 'nonsense', events: [] }],
      [DELETE, { webhookId }],
      [RESEND, { deliveryId }],
    ]
    const never = commands(NOBODY, NOBODY)
    for (const [i, [query, input]] of commands(hook.id, delivery.id).entries()) {
      const answer = await api.graphql(query, { input }, caller)
      expect(answer.body.errors).toMatchObject([{ extensions: { code: other } }])
      expect(answer.text).toBe((await api.graphql(never[i]![0], { input: never[i]![1] }, caller)).text)
    }

    const single =
      'query ($id: UUID!, $delivery: UUID!) { webhook(id: $id) { signingKey } webhookDelivery(id: $delivery) { id } }'
    const answers = [
      await api.graphql(WEBHOOKS, {}, caller),
      await api.graphql(ALL, {}, caller),
      await api.graphql(single, { id: hook.id, delivery: delivery.id }, caller),
    ]
    for (const { text } of answers)
      for (const secret of [hook.signingKey, hook.id, delivery.id, URL]) expect(text).not.toContain(secret)
    if (caller) {
      const none = { totalCount: 0, nodes: [] }
      expect(answers.map(({ body }) => body)).toEqual([
        { data: { webhooks: none } },
        { data: { webhookDeliveries: none } },
        { data: { webhook: null, webhookDelivery: null } },
      ])
    } else {
      for (const { body } of answers) expect(body.errors[0].extensions.code).toBe('UNAUTHENTICATED')
    }
    expect(await deliveryTo(hook)).toEqual(delivery)
    expect((await webhook(hook)).isEnabled).toBe(true)
  })

  test('the key is not asked for by a filter, nor shown by the trail', async () => {
    const { id, signingKey } = await register(URL)
    await api.data(UPDATE, { input: { webhookId: id, isEnabled: false } }, 'admin')
    for (const argument of [
      `condition: {signingKey: "${signingKey}"}`,
      `filter: {signingKey: {equalTo: "${signingKey}"}}`,
      'orderBy: [SIGNING_KEY_ASC]',
    ]) {
      expect(await api.code(`{ webhooks(${argument}) { totalCount } }`, {}, 'admin')).toBe('BAD_REQUEST')
    }
    const query = '{ auditLogs(first: 2) { nodes { action metadata actor { name } } } }'
    const { text, body } = await api.graphql(query, {}, 'admin')
    expect(body.data.auditLogs.nodes).toEqual([
      {
        action: 'WEBHOOK_UPDATE',
        metadata: { webhook_id: id, origin: 'https://receiver.example.com', is_enabled: { old: true, new: false } },
        actor: { name: 'Ada Admin' },
      },
      {
        action: 'WEBHOOK_CREATE',
        metadata: { webhook_id: id, origin: 'https://receiver.example.com', events: ['request.submitted'] },
        actor: { name: 'Ada Admin' },
      },
    ])
    expect(text).not.toContain(signingKey)
  })
})

describe('a receiver is given 15 seconds; of 1.5 that it is given here', () => {
  test('15 are what the worker gives', () => expect(TIMEOUT).toBe(15_000))

  test('one that says nothing is not waited for any longer', async () => {
    const { url } = await receiveRaw(() => {})
    const since = performance.now()
    const failed = { status: null, forGood: false, message: 'It took longer than 1.5 seconds.' }
    expect(await send(url, true, 1_500)).toMatchObject(failed)
    expect(performance.now() - since).toBeGreaterThan(1_400)
  })

  test('one whose answer does not end is not either', async () => {
    const { url } = await receiveRaw((socket) => {
      const timer = setInterval(() => socket.write('.'), 20)
      socket.write('HTTP/1.1 500 No\r\n\r\n')
      socket.on('close', () => clearInterval(timer))
    })
    const failed = { status: 500, forGood: false, message: expect.stringMatching(/500: \.{20}/) }
    expect(await send(url, true, 1_500)).toMatchObject(failed)
  })

  test('one that would speak another protocol is not waited for at all', async () => {
    const { url } = await receiveRaw((socket) =>
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'),
    )
    expect(await send(url)).toMatchObject({ status: 101, forGood: false, message: expect.any(String) })
  })
})

test('no key is logged, after this test or any other', async () => {
  const hook = await register((await receive(500)).url)
  await submit()
  await withWorker(() => until(async () => (await deliveriesTo(hook))[0]?.error))
  expect(keys).toContain(hook.signingKey)
  expect(lines.join('').length).toBeGreaterThan(1000) // It tells of its jobs.
})
