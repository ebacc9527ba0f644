import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { link, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseEnv } from 'node:util'
import { StartError } from '../../config.ts'

const variables = [
  'ROOT_DATABASE_URL',
  'DATABASE_URL',
  'AUTH_DATABASE_URL',
  'WORKER_DATABASE_URL',
  'AUDITOR_DATABASE_URL',
  'METRICS_PORT',
  'JWT_SECRET',
] as const

/** What DATA_DIR/env holds: where the embedded database and the metrics are, as whom to log in, and the key that signs tokens. */
export type Secrets = Record<(typeof variables)[number], string>

/** The secrets of DATA_DIR, made up if it is new. They are written before the cluster that depends on them. */
export async function readSecrets(root: string): Promise<Secrets> {
  const file = join(root, 'env')
  if (!existsSync(file)) {
    if (existsSync(join(root, 'postgres'))) {
      throw new StartError(
        `${file} is missing, and with it the passwords of the database beside it. Restore it, or remove ${root} to start anew.`,
      )
    }
    await writeFile(newMark(root), '')
    const draft = `${file}.${process.pid}`
    await writeFile(draft, format(makeSecrets()), { mode: 0o600 })
    await link(draft, file).catch(() => {}) // there already: another process was quicker, and its secrets count
    await rm(draft)
  }
  const secrets = parseEnv(await readFile(file, 'utf8'))
  // A folder of version 0.1 knows no login for the worker: setup creates it, and whoever owns the database writes it down.
  secrets.WORKER_DATABASE_URL ||= makeSecrets().WORKER_DATABASE_URL
  secrets.METRICS_PORT ||= makeSecrets().METRICS_PORT
  const missing = variables.filter((name) => !secrets[name])
  if (missing.length) throw new StartError(`${file} lacks ${missing.join(', ')}.`)
  return secrets as Secrets
}

/** A file that says that the database has not been filled for the first time, not even in part. */
export function newMark(root: string): string {
  return join(root, 'new')
}

/** With no port yet: which one is free is known when PostgreSQL starts. */
function makeSecrets(): Secrets {
  const secret = () => randomBytes(32).toString('hex')
  const url = (user: string, database = 'assent') => `postgres://${user}:${secret()}@127.0.0.1:0/${database}`
  return {
    ROOT_DATABASE_URL: url('postgres', 'postgres'),
    DATABASE_URL: url('assent_owner'),
    AUTH_DATABASE_URL: url('assent_authenticator'),
    WORKER_DATABASE_URL: url('assent_worker'),
    AUDITOR_DATABASE_URL: url('assent_auditor'),
    METRICS_PORT: '0',
    JWT_SECRET: secret(),
  }
}

/** The secrets with the port that PostgreSQL listens on, and that of the metrics, in DATA_DIR too. */
export async function writePorts(root: string, secrets: Secrets, port: number, metricsPort: number): Promise<Secrets> {
  const moved = { ...secrets, METRICS_PORT: String(metricsPort) }
  for (const name of variables) if (name.endsWith('_URL')) moved[name] = withPort(secrets[name], port)
  const known = parseEnv(await readFile(join(root, 'env'), 'utf8'))
  if (variables.every((name) => known[name] === moved[name])) return moved
  const draft = join(root, `env.${process.pid}`)
  await writeFile(draft, format(moved), { mode: 0o600 })
  await rename(draft, join(root, 'env'))
  return moved
}

/** Lines that a shell, `node --env-file` and docker all read alike: the values need no quotes. */
function format(secrets: Secrets): string {
  return variables.map((name) => `${name}=${secrets[name]}\n`).join('')
}

/** The port that the connection strings share. */
export function portOf(secrets: Secrets): number {
  return Number(new URL(secrets.ROOT_DATABASE_URL).port)
}

/** The password in a connection string. */
export function passwordOf(url: string): string {
  return new URL(url).password
}

/** A connection string with another port. */
export function withPort(url: string, port: number): string {
  return Object.assign(new URL(url), { port: String(port) }).href
}
