import { join } from 'node:path'
import { trace } from '@opentelemetry/api'
import type { Event } from '@sentry/core'
import { TokenBucket } from 'limiter'
import { DatabaseError } from 'pg'
import type { Config } from './config.ts'
import type { Logger } from './logger.ts'
import { version } from './metrics.ts'
import type { Service } from './run-until.ts'

/** Tells whoever tracks errors of one, with what else there is to know of it. */
export type Report = (error: unknown, tags?: Readonly<Record<string, string>>) => void

/** Reports that a process may send in a minute: a defect that every call meets says no more the thousandth time. */
const A_MINUTE = 60
/** Milliseconds that Sentry may take to accept a report, and for the last ones when the process ends. */
const ACCEPTED_WITHIN = 10_000
const LAST_REPORTS = 2_000

/** The folder of the program, which may have a person's name in it. */
const HOME = join(import.meta.dirname, '..')

/**
 * Sends what it is told of to Sentry if SENTRY_DSN is set, whose package is loaded only then. An error that nobody catches is
 * reported, too, before it ends the process. Nothing that it sends is about a person: an error's message often quotes what somebody
 * wrote, so that only its class, its code, what of our schema it names, and where it was thrown are sent; the log has the rest.
 */
export async function makeReports(
  { sentryDsn, production }: Pick<Config, 'sentryDsn' | 'production'>,
  log: Logger,
): Promise<Service & { readonly report: Report }> {
  if (!sentryDsn) return { report() {}, async close() {} }
  const [{ createStackParser, createTransport }, { nodeStackLineParser, ServerRuntimeClient }] = await Promise.all([
    import('@sentry/core'),
    import('@sentry/core/server'),
  ])

  const client = new ServerRuntimeClient({
    dsn: sentryDsn,
    release: `assent@${version}`,
    environment: production ? 'production' : 'development',
    platform: 'node',
    integrations: [],
    traceLifecycle: 'static',
    sendClientReports: false,
    stackParser: createStackParser(nodeStackLineParser()),
    transport: (options) =>
      createTransport(options, async ({ body }) => {
        const { status, headers } = await fetch(options.url, {
          method: 'POST',
          body: body as Uint8Array<ArrayBuffer>,
          headers: options.headers ?? {},
          signal: AbortSignal.timeout(ACCEPTED_WITHIN),
        })
        const limits = ['x-sentry-rate-limits', 'retry-after'] as const
        return { statusCode: status, headers: Object.fromEntries(limits.map((name) => [name, headers.get(name)])) as never }
      }),
  })
  client.init()
  const { stackParser } = client.getOptions()
  const bucket = new TokenBucket({ bucketSize: A_MINUTE, tokensPerInterval: A_MINUTE, interval: 'minute' })
  bucket.content = A_MINUTE

  const report: Report = (error, tags = {}) => {
    if (!bucket.tryRemoveTokens(1)) return
    const { traceId: trace_id, spanId: span_id } = trace.getActiveSpan()?.spanContext() ?? {}
    const summary = summaryOf(error)
    const event: Event = {
      level: 'error',
      tags,
      // All errors of PostgreSQL are thrown in the same place.
      fingerprint: ['{{ default }}', summary.value],
      exception: { values: [{ ...summary, stacktrace: { frames: stackParser(placesOf(error)) } }] },
      ...(trace_id && span_id && { contexts: { trace: { trace_id, span_id } } }),
    }
    client.captureEvent(event)
  }

  // Of a promise that nobody catches, too.
  const end = async (err: unknown) => {
    log.fatal({ err }, 'Nobody caught this, which ends the process.')
    report(err, { fatal: 'yes' })
    await client.flush(LAST_REPORTS)
    process.exit(1)
  }
  process.once('uncaughtException', end)

  return {
    report,
    async close() {
      process.off('uncaughtException', end)
      await client.close(LAST_REPORTS)
    },
  }
}

/** What an error is, without its message: of PostgreSQL's, what it names of our schema, and the lines of our functions. */
function summaryOf(error: unknown): { type: string; value: string } {
  if (!(error instanceof Error)) return { type: typeof error, value: '' }
  const { code } = error as { code?: unknown }
  const { table, column, constraint, where = '' } = error instanceof DatabaseError ? error : {}
  const lines = Array.from(where.matchAll(/ function ([\w.]+)\([\w ,.]*\) (line \d+)/g), ([, name, line]) => `${name} ${line}`)
  const parts = [code, table, column, constraint, ...lines].filter((part) => typeof part === 'string')
  return { type: error.constructor.name, value: parts.join(', ') }
}

/** Where an error was thrown: the lines of its stack that come after its message. */
function placesOf(error: unknown): string {
  if (!(error instanceof Error) || !error.stack) return ''
  const lines = error.stack.replace(error.message, '').split('\n')
  const first = lines.findLastIndex((line) => !/^ {4}at /.test(line)) + 1
  return lines.slice(first).join('\n').replaceAll(HOME, '')
}
