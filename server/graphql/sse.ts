import type { IncomingMessage, ServerResponse } from 'node:http'
import { finished } from 'node:stream'
import Negotiator from 'negotiator'

const HEARTBEAT_EVERY = 15_000
/** Bytes that may wait for a slow reader, who is then cut off. */
export const MAX_UNREAD = 1_000_000

/** Does the caller accept server-sent events (HTML Standard, 9.2)? Who accepts anything does not expect them. */
export const acceptsEvents = (req: IncomingMessage): boolean =>
  new Negotiator(req).mediaTypes().some((type) => type.toLowerCase() === 'text/event-stream')

/**
 * Answers with an event for each result as it comes: GraphQL over server-sent events, in its "distinct connections mode". The
 * protocol's library, graphql-sse, would read bodies and report errors in its own way, past our limits and codes, and would
 * queue without limit for a caller who does not read; the events themselves are these few lines.
 */
export function sendEvents<T>(res: ServerResponse, results: AsyncGenerator<T>, toJson: (result: T) => object): void {
  const write = (text: string) => {
    if (res.writableEnded) return // The caller was sent away.
    // Counts only earlier events: a single one may be of any size.
    if (res.writableLength > MAX_UNREAD) res.destroy()
    else res.write(text)
  }
  res.writeHead(200, {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store',
    'x-accel-buffering': 'no', // Without it nginx would collect them.
  })
  // Some browsers notice the answer only at its first byte, and proxies close connections that are silent.
  write(':\n\n')
  const heartbeat = setInterval(write, HEARTBEAT_EVERY, ':\n\n')
  finished(res, () => {
    clearInterval(heartbeat)
    void results.return(undefined)
  })

  async function pass(): Promise<void> {
    for await (const result of results) write(`event: next\ndata: ${JSON.stringify(toJson(result))}\n\n`)
    if (!res.writableEnded) res.end('event: complete\ndata:\n\n')
  }
  pass().catch(() => res.destroy())
}
