import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  context,
  diag,
  DiagLogLevel,
  propagation,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  trace,
  type Attributes,
  type Context,
  type Span,
  type SpanOptions,
} from '@opentelemetry/api'
import type { Config } from './config.ts'
import type { Logger } from './logger.ts'
import { version } from './metrics.ts'
import type { Service } from './run-until.ts'

// Spans by OpenTelemetry's API, which does nothing until startTracing() has found a collector. They say what was done, by names of
// ours and by codes, and never for whom or with what: no value, no id of a row, no address, no message of an error.

/** Milliseconds for the last spans when the process ends: nobody waits for a collector that is away. */
const LAST_SPANS = 3_000

const tracer = trace.getTracer('assent')

/**
 * Sends spans to the collector that the environment names, if it names one; OpenTelemetry's packages are loaded only then. They read
 * its other variables themselves. Spans for which the collector is too slow are dropped, and callers never wait for it.
 */
export async function startTracing({ traces }: Pick<Config, 'traces'>, name: string, log: Logger): Promise<Service | void> {
  if (!traces) return
  const [{ BatchSpanProcessor, NodeTracerProvider }, { OTLPTraceExporter }, { W3CTraceContextPropagator }, resources] =
    await Promise.all([
      import('@opentelemetry/sdk-trace-node'),
      import('@opentelemetry/exporter-trace-otlp-proto'),
      import('@opentelemetry/core'),
      import('@opentelemetry/resources'),
    ])
  const tell = (message: string) => log.warn({ reason: message }, 'The collector of traces does not take them.')
  diag.setLogger({ error: tell, warn() {}, info() {}, debug() {}, verbose() {} }, DiagLogLevel.ERROR)
  const { resourceFromAttributes, detectResources, envDetector } = resources
  const ours = resourceFromAttributes({
    'service.name': name,
    'service.version': version,
    'service.instance.id': randomUUID(),
  })
  const provider = new NodeTracerProvider({
    resource: ours.merge(detectResources({ detectors: [envDetector] })),
    spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter())],
  })
  provider.register({ propagator: new W3CTraceContextPropagator() })
  return {
    async close() {
      await Promise.race([provider.shutdown().catch(() => {}), sleep(LAST_SPANS, undefined, { ref: false })])
    },
  }
}

/** What kind of error it was: a code, or the name of its class. */
function kindOf(error: unknown): string {
  const { code, name } = Object(error) as { code?: unknown; name?: unknown }
  return String(code ?? name ?? typeof error)
}

function fail(span: Span, kind: string): void {
  span.setAttribute('error.type', kind).setStatus({ code: SpanStatusCode.ERROR })
}

/** Does the work within a span. */
function within<T>(name: string, options: SpanOptions, parent: Context, work: (span: Span) => Promise<T>): Promise<T> {
  return tracer.startActiveSpan(name, options, parent, async (span) => {
    try {
      return await work(span)
    } catch (error) {
      fail(span, kindOf(error))
      throw error
    } finally {
      span.end()
    }
  })
}

/** The context that a `traceparent` names; what is none, names none. Nothing else that W3C lets travel with it is taken. */
const contextOf = (traceparent: unknown): Context => propagation.extract(ROOT_CONTEXT, { traceparent })

/** Traces the answer to a request, unless it is a probe. What a proxy of ours has begun to trace is continued, and nobody else's. */
export function traceRequest(
  req: IncomingMessage,
  res: ServerResponse,
  isTrusted: boolean,
  answer: () => Promise<string>,
): Promise<string> {
  if (/^\/(healthz|readyz)\b/.test(req.url!)) return answer()
  return within(
    req.method!,
    { kind: SpanKind.SERVER, attributes: { 'http.request.method': req.method } },
    isTrusted ? contextOf(req.headers['traceparent']) : ROOT_CONTEXT,
    async (span) => {
      const route = await answer()
      // Without one, nothing that we declared has answered.
      if (route.startsWith('/')) span.updateName(`${req.method} ${route}`).setAttribute('http.route', route)
      span.setAttribute('http.response.status_code', res.statusCode)
      if (res.statusCode >= 500) fail(span, String(res.statusCode))
      return route
    },
  )
}

/** Characters of an operation's name, which callers choose. */
const LONGEST_NAME = 100

/** Traces an operation of GraphQL, by its type and the name that it has in its document. */
export function traceOperation<T>(type = 'unknown', name: string | undefined, work: () => Promise<T>): Promise<T> {
  const attributes: Attributes = {
    'graphql.operation.type': type,
    'graphql.operation.name': name?.slice(0, LONGEST_NAME),
  }
  return within(type, { attributes }, context.active(), work)
}

/** What a statement names of ours, in its order: the tables and functions that it is about. */
function summaryOf(text: string): string {
  const names = Array.from(text.matchAll(/\bapp_\w+"?\."?\w+/g), ([name]) => name.replaceAll('"', ''))
  return ['SELECT', ...new Set(names)].join(' ').slice(0, 255)
}

/** Traces a statement, if it is part of what is traced. */
export function traceStatement<T>(
  { host, port, database }: { readonly host: string; readonly port: number; readonly database?: string },
  { name, text }: { readonly name?: string | undefined; readonly text: string },
  work: () => Promise<T>,
): Promise<T> {
  if (!trace.getActiveSpan()?.isRecording()) return work()
  const summary = summaryOf(text)
  const attributes: Attributes = {
    'db.system.name': 'postgresql',
    'db.namespace': database,
    'db.query.summary': summary,
    // By this name PostgreSQL's log tells a slow statement.
    'assent.statement': name,
    'server.address': host,
    'server.port': port,
  }
  return within(summary, { kind: SpanKind.CLIENT, attributes }, context.active(), work)
}

/** The current trace, as W3C's header names it, for jobs that are queued in it; "" if nothing is traced. */
export function traceparent(): string {
  if (!trace.getActiveSpan()?.isRecording()) return ''
  const carrier: { traceparent?: string } = {}
  propagation.inject(context.active(), carrier)
  return carrier.traceparent ?? ''
}

/** Traces an attempt at a job, with a link to the trace that queued it: it may run hours later, and more than once. */
export function traceJob<T>(
  { id, task_identifier, attempts }: { readonly id: string; readonly task_identifier: string; readonly attempts: number },
  queuedBy: string | undefined,
  work: () => Promise<T>,
): Promise<T> {
  const queued = trace.getSpanContext(contextOf(queuedBy))
  const attributes: Attributes = {
    'messaging.system': 'graphile_worker',
    'messaging.operation.name': 'process',
    'messaging.operation.type': 'process',
    'messaging.destination.name': task_identifier,
    'messaging.message.id': id,
    'assent.attempt': attempts,
  }
  const links = queued ? [{ context: queued }] : []
  return within(`process ${task_identifier}`, { kind: SpanKind.CONSUMER, attributes, links }, ROOT_CONTEXT, work)
}
