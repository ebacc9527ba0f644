import { pino, type Logger } from 'pino'

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

/** JSON lines on standard output. Secrets are struck out wherever they may stand: on top, or in what is logged. */
export function makeLogger({ logLevel }: { logLevel: string }): Logger {
  const member = (name: string) => (name.startsWith('[') ? name : `.${name}`)
  return pino({
    level: logLevel,
    redact: {
      paths: secrets.flatMap((name) => [name, `*${member(name)}`, `*.*${member(name)}`]),
      censor: '[redacted]',
    },
    serializers: { err: withoutClient },
  })
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
