import { readFileSync } from 'node:fs'
import { isIP, isIPv4 } from 'node:net'
import { parse as parseConnectionString } from 'pg-connection-string'
import { levels } from 'pino'

/** What each command cannot do without. */
const needs = {
  setup: ['ROOT_DATABASE_URL', 'DATABASE_URL', 'AUTH_DATABASE_URL', 'WORKER_DATABASE_URL'],
  migrate: ['DATABASE_URL'],
  server: ['AUTH_DATABASE_URL', 'JWT_SECRET'],
  worker: ['WORKER_DATABASE_URL'],
  'create-admin': ['DATABASE_URL'],
  healthcheck: [],
  backup: ['ROOT_DATABASE_URL', 'DATABASE_URL'],
  restore: ['ROOT_DATABASE_URL', 'DATABASE_URL', 'AUTH_DATABASE_URL', 'WORKER_DATABASE_URL'],
  'after-restore': ['DATABASE_URL'],
  start: ['DATABASE_URL', 'AUTH_DATABASE_URL', 'JWT_SECRET', 'WORKER_DATABASE_URL'],
  'preview-mails': [],
} as const

/** With none of the connections set, these use the embedded database, which brings all of it. */
const EMBEDDED: readonly Command[] = ['start', 'backup', 'restore']

type Members = {
  ROOT_DATABASE_URL: 'rootDatabaseUrl'
  DATABASE_URL: 'databaseUrl'
  AUTH_DATABASE_URL: 'authDatabaseUrl'
  WORKER_DATABASE_URL: 'workerDatabaseUrl'
  JWT_SECRET: 'jwtSecrets'
}

/** What is secret: instead of each, its name with _FILE behind it may name a file that holds it. */
const SECRETS = [...needs.setup, 'REPLICA_DATABASE_URL', 'JWT_SECRET', 'SMTP_URL', 'SENTRY_DSN']

/** What a process is started as. */
export type Command = keyof typeof needs

/** The environment, read once. Optional members are those that some command can do without. */
export type Config = {
  production: boolean
  port: number
  host: string
  /** Where metrics are served, apart from the API; without it, nowhere. */
  metricsPort?: number
  dataDir: string
  /** A new embedded database gets the demo's requests, and not its people alone. */
  demo: boolean
  rootDatabaseUrl?: string
  databaseUrl?: string
  authDatabaseUrl?: string
  workerDatabaseUrl?: string
  replicaDatabaseUrls: string[]
  jwtSecrets: string[]
  smtpUrl?: string
  mailFrom?: string
  allowedOrigins: string[]
  trustProxy: number
  /** Where links in mails lead, without a slash at its end. */
  publicUrl: string
  /** Webhooks may lead to addresses that only this network has. */
  privateWebhooks: boolean
  logLevel: string
  /** The collector of traces, whose address OpenTelemetry reads itself. */
  traces?: string
  /** Where Sentry takes reports of defects. */
  sentryDsn?: string
}

/** The environment of a command, which has all that the command needs. */
export type ConfigFor<C extends Command> = Config & Required<Pick<Config, Members[(typeof needs)[C][number]]>>

type Environment = Record<string, string | undefined>

/** Why a command cannot do its work here, in words meant for whoever started it. */
export class StartError extends Error {}

/** The configuration of this process. */
export function loadConfig<C extends Command>(command: C): ConfigFor<C> {
  // Grafast reads this when it is first imported, and warns at length when it is unset; "development" slows every call.
  process.env.GRAPHILE_ENV ??= 'production'
  // And graphile-worker this: it logs each job that succeeds.
  process.env.NO_LOG_SUCCESS ??= '1'
  return parseConfig(process.env, command)
}

/** Whether a script of package.json started this process. */
export function startedByNpm(): boolean {
  return process.env.npm_lifecycle_event !== undefined
}

/** The environment for a process of ours, which is to find these values in it, and in no file. */
export function environmentWith(values: Environment): Environment {
  const files = Object.keys(values).map((name) => [`${name}_FILE`, undefined])
  return { ...process.env, ...Object.fromEntries(files), ...values }
}

/** Checks every variable, then throws one StartError for all that is wrong or missing. */
export function parseConfig<C extends Command>(given: Environment, command: C): ConfigFor<C> {
  const faults: string[] = []
  const { env, unread } = readFiles(given, faults)

  function read<T>(name: string, parse: (value: string) => T): T | undefined {
    const value = env[name]?.trim()
    if (!value) return undefined
    try {
      return parse(value)
    } catch (error) {
      faults.push(`${name} ${(error as Error).message}`)
      return undefined
    }
  }

  for (const name of required(env, command)) {
    if (!env[name]?.trim() && !unread.has(name)) faults.push(`${name} is missing`)
  }

  const port = read('PORT', integer(0, 65_535)) ?? 5678
  const address = read('HOST', host) ?? '127.0.0.1'
  const config: Config = {
    production: env.NODE_ENV === 'production',
    port,
    host: address,
    metricsPort: read('METRICS_PORT', integer(0, 65_535)),
    dataDir: env.DATA_DIR || '.data',
    demo: read('DEMO', oneOf(['true', 'false'])) !== 'false',
    rootDatabaseUrl: read('ROOT_DATABASE_URL', databaseUrl),
    databaseUrl: read('DATABASE_URL', databaseUrl),
    authDatabaseUrl: read('AUTH_DATABASE_URL', databaseUrl),
    workerDatabaseUrl: read('WORKER_DATABASE_URL', databaseUrl),
    replicaDatabaseUrls: read('REPLICA_DATABASE_URL', listOf(databaseUrl)) ?? [],
    jwtSecrets: read('JWT_SECRET', listOf(secret)) ?? [],
    smtpUrl: read('SMTP_URL', url('smtp', 'smtps')),
    mailFrom: read('MAIL_FROM', mailbox),
    allowedOrigins: read('ALLOWED_ORIGINS', listOf(origin)) ?? [],
    trustProxy: read('TRUST_PROXY', integer(0, 100)) ?? 0,
    publicUrl: read('PUBLIC_URL', url('http', 'https'))?.replace(/\/+$/, '') ?? listeningUrl(address, port),
    privateWebhooks: read('WEBHOOKS_TO_PRIVATE_ADDRESSES', oneOf(['true', 'false'])) === 'true',
    logLevel: read('LOG_LEVEL', oneOf([...Object.values(levels.labels), 'silent'])) ?? 'info',
    traces: read('OTEL_EXPORTER_OTLP_ENDPOINT', url('http', 'https')),
    sentryDsn: read('SENTRY_DSN', dsn),
  }

  const { databaseUrl: owner, authDatabaseUrl: api, workerDatabaseUrl: worker } = config
  if (config.metricsPort && config.metricsPort === port) faults.push('METRICS_PORT must be another port than PORT')
  // No other package than the one for this protocol is part of the program.
  if (config.traces) read('OTEL_EXPORTER_OTLP_PROTOCOL', oneOf(['http/protobuf']))
  const areOne = (one?: string, other?: string) => one && other && loginOf(one).user === loginOf(other).user
  if (areOne(owner, api)) faults.push('AUTH_DATABASE_URL must not log in as the owner, who is named by DATABASE_URL')
  if (areOne(owner, worker)) faults.push('WORKER_DATABASE_URL must not log in as the owner, who is named by DATABASE_URL')
  if (areOne(api, worker)) faults.push('WORKER_DATABASE_URL must not log in as the API, which is named by AUTH_DATABASE_URL')

  const reads = (replica: string) => areOne(replica, api) && loginOf(replica).database === loginOf(api!).database
  if (api && !config.replicaDatabaseUrls.every(reads)) {
    faults.push('REPLICA_DATABASE_URL must log in to a copy of the database as the API does, which is named by AUTH_DATABASE_URL')
  }

  if (config.production && env.PUBLIC_URL && config.publicUrl.startsWith('http:') && !isLoopback(config.publicUrl)) {
    faults.push('PUBLIC_URL must begin with https:// in production: passwords and cookies would travel in the clear')
  }

  if (faults.length) throw new StartError(`The environment is not usable:\n${faults.map((fault) => `- ${fault}`).join('\n')}`)
  return config as ConfigFor<C>
}

/** The environment with what its files hold, and the secrets whose files cannot be read, which are faults already. */
function readFiles(given: Environment, faults: string[]): { env: Environment; unread: Set<string> } {
  const env = { ...given }
  const unread = new Set<string>()
  for (const name of SECRETS) {
    const path = given[`${name}_FILE`]?.trim()
    if (!path) continue
    try {
      if (given[name]?.trim()) throw new Error(`is given beside ${name}: keep one of them`)
      env[name] = readFileSync(path, 'utf8').trim()
      if (!env[name]) throw new Error('names a file that is empty')
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException
      faults.push(`${name}_FILE ${code ? `names a file that cannot be read (${code})` : message}`)
      unread.add(name)
    }
  }
  return { env, unread }
}

/** The address of a listening API, as a browser on this machine would type it. */
export function listeningUrl(host: string, port: number): string {
  const name = ['0.0.0.0', '::'].includes(host) ? 'localhost' : isIP(host) === 6 ? `[${host}]` : host
  return `http://${name}:${port}`
}

/** Who logs in to what, by a connection string; read by the same parser as the driver's own. */
export function loginOf(connectionString: string): { user: string; password: string; database: string } {
  const { user, password, database } = parseConnectionString(connectionString)
  return { user: user ?? '', password: password ?? '', database: database ?? '' }
}

function required(env: Environment, command: Command): readonly string[] {
  const external = needs.setup.some((name) => env[name])
  const needed = EMBEDDED.includes(command) && !external ? [] : needs[command]
  return env.SMTP_URL ? [...needed, 'MAIL_FROM'] : needed
}

// Each of the following returns what a variable means, or throws what is wrong with it. Messages never repeat the
// value, because most values are or hold secrets; an origin is none.

function integer(min: number, max: number) {
  return (value: string): number => {
    const number = Number(value)
    if (!/^\d+$/.test(value) || number < min || number > max) throw new Error(`must be a whole number from ${min} to ${max}`)
    return number
  }
}

function oneOf(choices: string[]) {
  return (value: string): string => {
    if (!choices.includes(value)) throw new Error(`must be one of ${choices.join(', ')}`)
    return value
  }
}

function listOf<T>(parse: (value: string) => T) {
  return (value: string): T[] => value.split(',').map((item) => parse(item.trim()))
}

function url(...schemes: string[]) {
  return (value: string): string => {
    if (!URL.canParse(value) || !schemes.includes(new URL(value).protocol.slice(0, -1))) {
      throw new Error(`must be a URL that starts with ${schemes.map((scheme) => `${scheme}://`).join(' or ')}`)
    }
    return value
  }
}

function origin(value: string): string {
  const meant = URL.canParse(value) ? new URL(value).origin : 'null'
  if (meant === value && value !== 'null') return value
  const cure =
    meant === 'null'
      ? 'an origin begins with http:// or https://'
      : `write ${meant}${value === `${meant}/` ? ', without the slash at its end' : ''}`
  // Whoever pastes a connection string here by mistake must not find its password in a log.
  throw new Error(
    `must list origins, such as https://app.example.com; "${value.replace(/\/\/.*@/s, '//…@')}" is not one: ${cure}`,
  )
}

function host(value: string): string {
  if (!isIP(value) && !/^[a-z\d]([a-z\d.-]*[a-z\d])?$/i.test(value)) throw new Error('must be an IP address or a host name')
  return value
}

function mailbox(value: string): string {
  if (!/^[^@]*[^@\s]@[^@\s]+$/.test(value)) throw new Error('must be a mail address')
  return value
}

function dsn(value: string): string {
  const isDsn = URL.canParse(value) && /^https?:\/\/\w+@[^/]+\/(.+\/)?\d+$/.test(value)
  if (!isDsn) throw new Error('must be like https://key@sentry.example.com/123')
  return value
}

/** A key that is made up by a person or a placeholder is as easily found as a password. */
function secret(value: string): string {
  if (value.length < 32) throw new Error('must have at least 32 characters in each of its keys')
  if (new Set(value).size < 8 || /^(.+?)\1+$/s.test(value)) {
    throw new Error('must have random characters in each of its keys, such as those that openssl rand -hex 32 prints')
  }
  return value
}

/** Does a URL lead to this machine alone? */
export function isLoopback(address: string): boolean {
  const { hostname } = new URL(address)
  return (
    hostname === 'localhost' ||
    hostname.endsWith('.localhost') ||
    hostname === '[::1]' ||
    (isIPv4(hostname) && hostname.startsWith('127.'))
  )
}

function databaseUrl(value: string): string {
  const wrong = 'must be like postgres://user:password@host:port/database'
  if (!/^postgres(ql)?:\/\//.test(value)) throw new Error(wrong)
  let login
  try {
    login = loginOf(value)
  } catch {
    throw new Error(wrong)
  }
  if (!login.user || !login.database) throw new Error(wrong)
  return value
}
