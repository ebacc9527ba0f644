import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import protobuf from 'protobufjs'

/** What a collector of traces and a tracker of errors have received from processes of ours. */
export interface Observers {
  /** What a process needs in its environment to be observed. */
  readonly env: { readonly OTEL_EXPORTER_OTLP_ENDPOINT: string; readonly SENTRY_DSN: string }
  readonly spans: Span[]
  readonly reports: any[]
  /** Everything that has arrived, byte for byte. */
  received(): string
  close(): Promise<void>
}

export interface Span {
  readonly service: string
  readonly trace: string
  readonly id: string
  readonly parent: string
  readonly name: string
  readonly kind: 'INTERNAL' | 'SERVER' | 'CLIENT' | 'PRODUCER' | 'CONSUMER'
  readonly failed: boolean
  readonly attributes: Readonly<Record<string, string | number>>
  /** The traces that it is linked to. */
  readonly links: readonly string[]
}

/** As opentelemetry/proto/trace/v1/trace.proto has it. */
const { root } = protobuf.parse(`syntax = "proto3";
  message AnyValue { oneof value { string string_value = 1; bool bool_value = 2; int64 int_value = 3; double double_value = 4; } }
  message KeyValue { string key = 1; AnyValue value = 2; }
  message Resource { repeated KeyValue attributes = 1; }
  message Event { string name = 2; repeated KeyValue attributes = 3; }
  message Link { bytes trace_id = 1; bytes span_id = 2; }
  message Status { string message = 2; int32 code = 3; }
  message Span {
    bytes trace_id = 1; bytes span_id = 2; string trace_state = 3; bytes parent_span_id = 4; string name = 5; int32 kind = 6;
    repeated KeyValue attributes = 9; repeated Event events = 11; repeated Link links = 13; Status status = 15;
  }
  message ScopeSpans { repeated Span spans = 2; }
  message ResourceSpans { Resource resource = 1; repeated ScopeSpans scope_spans = 2; }
  message Request { repeated ResourceSpans resource_spans = 1; }`)
const KINDS = ['INTERNAL', 'INTERNAL', 'SERVER', 'CLIENT', 'PRODUCER', 'CONSUMER'] as const

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')

/** An int64 comes as an object of its own. */
const plain = (value: any): string | number =>
  typeof value[value.value] === 'string' ? value[value.value] : Number(value[value.value])
const valuesOf = (attributes: any[]) => Object.fromEntries(attributes.map(({ key, value }) => [key, plain(value)]))

function* spansIn(body: Buffer): Generator<Span> {
  const request: any = root.lookupType('Request').decode(body)
  for (const { resource, scopeSpans } of request.resourceSpans) {
    const service = valuesOf(resource.attributes)['service.name'] as string
    for (const span of scopeSpans.flatMap((scope: any) => scope.spans)) {
      yield {
        service,
        trace: hex(span.traceId),
        id: hex(span.spanId),
        parent: hex(span.parentSpanId),
        name: span.name,
        kind: KINDS[span.kind as number]!,
        failed: span.status?.code === 2,
        attributes: valuesOf(span.attributes),
        links: span.links.map((link: any) => hex(link.traceId)),
      }
    }
  }
}

/** Starts both. Those that are `deaf` accept what is sent to them, and never answer. */
export async function startObservers(deaf = false): Promise<Observers> {
  const bodies: Buffer[] = []
  const spans: Span[] = []
  const reports: any[] = []
  const server: Server = createServer(async (req, res) => {
    const body = Buffer.concat(await req.toArray())
    bodies.push(body)
    if (deaf) return
    if (req.url === '/v1/traces') spans.push(...spansIn(body))
    // Lines of JSON: the header of the envelope, and then the header and the payload of each item.
    else if (req.url!.startsWith('/api/42/envelope/')) reports.push(JSON.parse(body.toString().split('\n')[2]!))
    else throw new Error(`Nobody asks for ${req.url}`)
    res.end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    env: { OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`, SENTRY_DSN: `http://key@127.0.0.1:${port}/42` },
    spans,
    reports,
    received: () => bodies.join('\n'),
    async close() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}
