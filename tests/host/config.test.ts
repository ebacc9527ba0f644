import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseConfig, type Command } from '../../server/config.ts'

const secret = 'random characters as it were: 3f9c'
const owner = 'postgres://owner:pw@db:5432/assent'
const api = 'postgres://api:pw@db:5432/assent'
const worker = 'postgres://worker:pw@db:5432/assent'
const replicas = ['postgres://api:pw@standby1:5432/assent', 'postgres://api:pw@standby2:5432/assent']
const root = 'postgres://postgres:pw@db:5432/postgres'

/** The names that a refusal names, in its order. */
function faults(env: Record<string, string>, command: Command = 'start'): string[] {
  try {
    parseConfig(env, command)
    return []
  } catch (error) {
    return [...(error as Error).message.matchAll(/^- (\w+)/gm)].map((match) => match[1]!)
  }
}

test('an empty environment starts the whole product, by the defaults of the table', () => {
  expect(parseConfig({}, 'start')).toEqual({
    production: false,
    port: 5678,
    host: '127.0.0.1',
    dataDir: '.data',
    demo: true,
    replicaDatabaseUrls: [],
    jwtSecrets: [],
    allowedOrigins: [],
    trustProxy: 0,
    publicUrl: 'http://127.0.0.1:5678',
    privateWebhooks: false,
    logLevel: 'info',
  })
})

test('every variable is read', () => {
  const config = parseConfig(
    {
      NODE_ENV: 'production',
      PORT: '0',
      HOST: '::',
      DATA_DIR: '/var/lib/assent',
      DEMO: 'false',
      ROOT_DATABASE_URL: root,
      DATABASE_URL: owner,
      AUTH_DATABASE_URL: api,
      WORKER_DATABASE_URL: worker,
      REPLICA_DATABASE_URL: replicas.join(', '),
      JWT_SECRET: `${secret}1,${secret}2`,
      SMTP_URL: 'smtps://mail.example.com',
      MAIL_FROM: 'Assent <assent@example.com>',
      ALLOWED_ORIGINS: 'https://app.example.com,http://localhost:3000',
      TRUST_PROXY: '2',
      PUBLIC_URL: 'https://assent.example.com/',
      WEBHOOKS_TO_PRIVATE_ADDRESSES: 'true',
      LOG_LEVEL: 'silent',
      OTEL_EXPORTER_OTLP_ENDPOINT: 'http://collector:4318',
      OTEL_EXPORTER_OTLP_PROTOCOL: 'http/protobuf',
      SENTRY_DSN: 'https://key@sentry.example.com/42',
    },
    'start',
  )
  expect(config).toEqual({
    production: true,
    port: 0,
    host: '::',
    dataDir: '/var/lib/assent',
    demo: false,
    rootDatabaseUrl: root,
    databaseUrl: owner,
    authDatabaseUrl: api,
    workerDatabaseUrl: worker,
    replicaDatabaseUrls: replicas,
    jwtSecrets: [`${secret}1`, `${secret}2`],
    smtpUrl: 'smtps://mail.example.com',
    mailFrom: 'Assent <assent@example.com>',
    allowedOrigins: ['https://app.example.com', 'http://localhost:3000'],
    trustProxy: 2,
    publicUrl: 'https://assent.example.com',
    privateWebhooks: true,
    logLevel: 'silent',
    traces: 'http://collector:4318',
    sentryDsn: 'https://key@sentry.example.com/42',
  })
})

describe('a secret', () => {
  let folder: string
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'assent-secrets-'))
  })
  afterAll(() => rm(folder, { recursive: true }))
  const file = async (name: string, text: string) => {
    await writeFile(join(folder, name), text)
    return join(folder, name)
  }

  test('may be given as a file, whose last line may end', async () => {
    const inFiles = {
      ROOT_DATABASE_URL_FILE: await file('root', `${root}\n`),
      DATABASE_URL_FILE: await file('owner', owner),
      AUTH_DATABASE_URL_FILE: await file('api', `${api}\r\n`),
      WORKER_DATABASE_URL_FILE: await file('worker', `${worker}\n\n`),
      REPLICA_DATABASE_URL_FILE: await file('replica', replicas.join()),
      JWT_SECRET_FILE: await file('jwt', `${secret}\n`),
      SMTP_URL_FILE: await file('smtp', 'smtps://user:pw@mail.example.com\n'),
      SENTRY_DSN_FILE: await file('sentry', 'https://key@sentry.example.com/42\n'),
      MAIL_FROM: 'a@example.com',
      DATABASE_URL: ' ',
    }
    expect(parseConfig(inFiles, 'start')).toEqual(
      parseConfig(
        {
          ROOT_DATABASE_URL: root,
          DATABASE_URL: owner,
          AUTH_DATABASE_URL: api,
          WORKER_DATABASE_URL: worker,
          REPLICA_DATABASE_URL: replicas.join(),
          JWT_SECRET: secret,
          SMTP_URL: 'smtps://user:pw@mail.example.com',
          SENTRY_DSN: 'https://key@sentry.example.com/42',
          MAIL_FROM: 'a@example.com',
        },
        'start',
      ),
    )
  })

  test('is held to the same rules there, and is never repeated', async () => {
    const env = { AUTH_DATABASE_URL: api, JWT_SECRET_FILE: await file('short', 'short\n') }
    expect(() => parseConfig(env, 'server')).toThrow(/^The environment is not usable:\n- JWT_SECRET must [^\n]+$/)
  })

  test.each([
    [
      'beside the variable',
      async () => ({ JWT_SECRET: secret, JWT_SECRET_FILE: await file('twice', secret) }),
      'keep one of them',
    ],
    ['as a file that is not there', async () => ({ JWT_SECRET_FILE: join(folder, 'nowhere') }), 'cannot be read (ENOENT)'],
    ['as a folder', async () => ({ JWT_SECRET_FILE: folder }), 'cannot be read (EISDIR)'],
    ['as an empty file', async () => ({ JWT_SECRET_FILE: await file('empty', '\n') }), 'is empty'],
  ])('is refused %s, in one line', async (_, given, why) => {
    const env = { AUTH_DATABASE_URL: api, ...(await given()) }
    expect(() => parseConfig(env, 'server')).toThrow(
      new RegExp(`^The environment is not usable:\n- JWT_SECRET_FILE [^\n]*${why.replace(/[()]/g, '.')}$`),
    )
  })
})

test('metrics have a port that is not the API’s', () => {
  expect(parseConfig({ METRICS_PORT: '9464' }, 'start').metricsPort).toBe(9464)
  expect(faults({ METRICS_PORT: '5678' })).toEqual(['METRICS_PORT'])
  expect(faults({ METRICS_PORT: '0', PORT: '0' })).toEqual([])
  for (const METRICS_PORT of ['x', '65536', '-1']) expect(faults({ METRICS_PORT })).toEqual(['METRICS_PORT'])
})

test('an empty variable counts as unset', () => {
  const blank = Object.fromEntries(
    ['PORT', 'HOST', 'DATA_DIR', 'DATABASE_URL', 'JWT_SECRET', 'LOG_LEVEL'].map((name) => [name, '']),
  )
  expect(parseConfig(blank, 'start')).toEqual(parseConfig({}, 'start'))
})

test.each<[Command, Record<string, string>, string[]]>([
  ['setup', {}, ['ROOT_DATABASE_URL', 'DATABASE_URL', 'AUTH_DATABASE_URL', 'WORKER_DATABASE_URL']],
  ['migrate', {}, ['DATABASE_URL']],
  ['server', {}, ['AUTH_DATABASE_URL', 'JWT_SECRET']],
  ['worker', {}, ['WORKER_DATABASE_URL']],
  ['create-admin', {}, ['DATABASE_URL']],
  ['preview-mails', {}, []],
  ['worker', { WORKER_DATABASE_URL: worker, SMTP_URL: 'smtp://mail' }, ['MAIL_FROM']],
  ['start', { DATABASE_URL: owner }, ['AUTH_DATABASE_URL', 'JWT_SECRET', 'WORKER_DATABASE_URL']],
  ['start', { AUTH_DATABASE_URL: api, JWT_SECRET: secret }, ['DATABASE_URL', 'WORKER_DATABASE_URL']],
  ['start', { ROOT_DATABASE_URL: root }, ['DATABASE_URL', 'AUTH_DATABASE_URL', 'JWT_SECRET', 'WORKER_DATABASE_URL']],
  ['server', { AUTH_DATABASE_URL: api, JWT_SECRET: secret }, []],
  ['start', { DATABASE_URL: owner, AUTH_DATABASE_URL: api, WORKER_DATABASE_URL: worker, JWT_SECRET: secret }, []],
])('%s with %j lacks %j', (command, env, missing) => {
  expect(faults(env, command)).toEqual(missing)
})

test.each([
  ['PORT', ['65536', '-1', '80a', '1e3', '0x50', '5678.5']],
  ['HOST', ['not a host', 'http://localhost', '-x']],
  ['DEMO', ['0', 'no', 'FALSE']],
  ['TRUST_PROXY', ['-1', 'true', '1.5']],
  ['LOG_LEVEL', ['loud', 'INFO']],
  ['WEBHOOKS_TO_PRIVATE_ADDRESSES', ['1', 'yes', 'TRUE']],
  ['PUBLIC_URL', ['assent.example.com', 'ftp://assent.example.com']],
  ['SMTP_URL', ['mail.example.com', 'https://mail.example.com']],
  ['MAIL_FROM', ['nobody', 'a@b@', '@example.com']],
  [
    'JWT_SECRET',
    [
      'short',
      `${secret},short`,
      `${secret},`,
      's'.repeat(64),
      'ab'.repeat(32),
      'change-me-'.repeat(4),
      '0123456'.padEnd(40, '01'),
    ],
  ],
  [
    'DATABASE_URL',
    ['db', 'http://owner@db/assent', 'postgres://db/assent', 'postgres://owner@db', 'postgres://owner@db:port/assent'],
  ],
  ['REPLICA_DATABASE_URL', [`${api},`, 'db']],
  ['OTEL_EXPORTER_OTLP_ENDPOINT', ['collector:4317', 'grpc://collector:4317']],
  ['SENTRY_DSN', ['https://sentry.example.com/42', 'https://key@sentry.example.com', 'key@sentry.example.com/42']],
])('a wrong %s is named, and its value is not repeated', (name, values) => {
  for (const value of values) {
    const env = { DATABASE_URL: owner, AUTH_DATABASE_URL: api, WORKER_DATABASE_URL: worker, JWT_SECRET: secret, [name]: value }
    const parse = () => parseConfig(name.startsWith('SMTP') ? { ...env, MAIL_FROM: 'a@b' } : env, 'start')
    expect(parse).toThrow(new RegExp(`^The environment is not usable:\n- ${name} must [^\n]+$`))
  }
})

const begins = 'an origin begins with http:// or https://'
test.each([
  ['*', '*', begins],
  ['app.example.com', 'app.example.com', begins],
  ['localhost:3000', 'localhost:3000', begins],
  ['null', 'null', begins],
  ['http://localhost:3000/', 'http://localhost:3000/', 'write http://localhost:3000, without the slash at its end'],
  ['https://a.example.com, https://b.example.com/x', 'https://b.example.com/x', 'write https://b.example.com'],
  ['https://App.example.com:443', 'https://App.example.com:443', 'write https://app.example.com'],
  ['postgres://owner:pw@db/assent', 'postgres://…@db/assent', begins],
])('of wrong ALLOWED_ORIGINS, %s, the faulty one is quoted, and the message says how to write it', (value, item, cure) => {
  expect(() => parseConfig({ ALLOWED_ORIGINS: value }, 'start')).toThrow(
    `- ALLOWED_ORIGINS must list origins, such as https://app.example.com; "${item}" is not one: ${cure}`,
  )
})

test('one message names all that is wrong and all that is missing', () => {
  expect(faults({ PORT: 'x', LOG_LEVEL: 'x', DATABASE_URL: 'x', SMTP_URL: 'x' }).sort()).toEqual([
    'AUTH_DATABASE_URL',
    'DATABASE_URL',
    'JWT_SECRET',
    'LOG_LEVEL',
    'MAIL_FROM',
    'PORT',
    'SMTP_URL',
    'WORKER_DATABASE_URL',
  ])
})

test.each([
  ['http://assent.example.com', true],
  ['http://10.0.0.5:5678', true],
  ['http://localhost.example.com', true],
  ['https://assent.example.com', false],
  ['http://localhost:5678', false],
  ['http://127.0.0.1', false],
  ['http://[::1]:8080/x', false],
])('in production, PUBLIC_URL is not %s: %s', (PUBLIC_URL, isFault) => {
  const env = { DATABASE_URL: owner, AUTH_DATABASE_URL: api, WORKER_DATABASE_URL: worker, JWT_SECRET: secret, PUBLIC_URL }
  expect(faults({ ...env, NODE_ENV: 'production' })).toEqual(isFault ? ['PUBLIC_URL'] : [])
  expect(faults(env)).toEqual([])
})

test('traces are sent by the one protocol that is part of the program', () => {
  const traces = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://collector:4317' }
  expect(faults({ ...traces, OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' })).toEqual(['OTEL_EXPORTER_OTLP_PROTOCOL'])
  expect(faults({ OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' })).toEqual([])
})

test('a replica has the login and the database of the API', () => {
  const env = { DATABASE_URL: owner, AUTH_DATABASE_URL: api, WORKER_DATABASE_URL: worker, JWT_SECRET: secret }
  expect(faults({ ...env, REPLICA_DATABASE_URL: replicas.join() })).toEqual([])
  for (const other of [owner, `${api}2`, `${replicas[0]},${worker}`]) {
    expect(faults({ ...env, REPLICA_DATABASE_URL: other })).toEqual(['REPLICA_DATABASE_URL'])
  }
})

test('owner, API and worker may not share a login', () => {
  const env = { DATABASE_URL: owner, AUTH_DATABASE_URL: api, WORKER_DATABASE_URL: worker, JWT_SECRET: secret }
  expect(faults({ ...env, AUTH_DATABASE_URL: owner })).toEqual(['AUTH_DATABASE_URL'])
  expect(faults({ ...env, WORKER_DATABASE_URL: owner })).toEqual(['WORKER_DATABASE_URL'])
  expect(faults({ ...env, WORKER_DATABASE_URL: api })).toEqual(['WORKER_DATABASE_URL'])
})
