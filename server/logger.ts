import { styleText } from 'node:util'
import { trace } from '@opentelemetry/api'
import { pino, type Logger } from 'pino'
import type { Config } from './config.ts'

export type { Logger }

const secrets = [
  'authorization',
  'cookie',
  '["set-cookie"]',
  'password',
  'oldPassword',
  'newPassword',
  'old_password',
  'new_password',
  'token',
  'accessToken',
  'refreshToken',
  'access_token',
  'refresh_token',
  'connectionString',
]

/**
 * Logs JSON lines to standard output or, at a terminal outside production, lines for people. Secrets are struck out at the top of
 * what is logged, and up to two levels below.
 */
export function makeLogger({ logLevel, production }: Pick<Config, 'logLevel' | 'production'>): Logger {
  const member = (name: string) => (name.startsWith('[') ? name : `.${name}`)
  const options = {
    level: logLevel,
    redact: {
      paths: secrets.flatMap((name) => [name, `*${member(name)}`, `*.*${member(name)}`]),
      censor: '[redacted]',
    },
    serializers: { err: withoutClient },
    // The line of what is traced names its trace.
    mixin: () => ({ trace_id: trace.getActiveSpan()?.spanContext().traceId }),
  }
  const { stdout } = process
  return stdout.isTTY && !production ? pino(options, { write: (line) => stdout.write(forPeople(line)) }) : pino(options)
}

/** One of pino's lines as people read it: when, how bad unless all is well, what, and what else there is to know. */
function forPeople(line: string): string {
  const { time, level, msg, err, pid: _pid, hostname: _hostname, ...more } = JSON.parse(line)
  const { info, warn, error } = pino.levels.values as Record<string, number>
  const colour = level >= error! ? 'red' : level >= warn! ? 'yellow' : 'dim'
  const parts = [
    styleText('dim', new Date(time).toTimeString().slice(0, 8)),
    ...(level === info ? [] : [styleText(colour, pino.levels.labels[level]!)]),
    ...(msg ? [msg] : []),
    ...(Object.keys(more).length ? [styleText('dim', JSON.stringify(more))] : []),
  ]
  return `${parts.join(' ')}\n${err ? `${err.stack}\n` : ''}`
}

/** An error of a connection brings the whole connection along. */
function withoutClient(error: Error): object {
  const { client, ...plain } = pino.stdSerializers.err(error)
  return plain
}

/** Lets graphile-worker and graphile-migrate, which share a logger interface, write to ours. */
export function graphileLogFactory(log: Logger) {
  return () =>
    (level: string, message: string, { error, ...meta }: { error?: unknown } = {}) => {
      const method = ({ error: 'error', warning: 'warn', info: 'info' } as const)[level] ?? 'debug'
      log[method](error ? { ...meta, err: error } : meta, message)
    }
}
