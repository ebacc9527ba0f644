import type { IncomingMessage, ServerResponse } from 'node:http'
import { finished } from 'node:stream'

const HEARTBEAT_EVERY = 15_000
/** Bytes that may wait for a slow reader, who is then cut off. */
export const MOST_UNREAD = 1_000_000

/** Does the caller take an answer as server-sent events (HTML Standard, 9.2)? */
export const takesEvents = ({ headers: { accept } }: IncomingMessage): boolean => /\btext\/event-stream\b/i.test(accept ?? '')

/**
 * Answers by events as they come, one a result, in the "distinct connections mode" of GraphQL over server-sent events. The
 * library of that protocol, graphql-sse, has a handler that would read bodies and tell errors in its own way, past our
 * limits and codes, and queues without end for who does not read; the events themselves are these few lines.
 */
export function sendEvents<T>(res: ServerResponse, results: AsyncGenerator<T>, toJson: (result: T) => object): void {
  const write = (text: string) => {
    // Of what was written before: one event may be as large as it is.
    if (res.writableLength > MOST_UNREAD) res.destroy()
    else res.write(text)
  }
  res.writeHead(200, {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store',
    // Or nginx would collect them.
    'x-accel-buffering': 'no',
  })
  // Some browsers take notice of the answer with its first byte only; and a proxy of a connection that is not silent.
  write(':\n\n')
  const heartbeat = setInterval(write, HEARTBEAT_EVERY, ':\n\n')
  finished(res, () => {
    clearInterval(heartbeat)
    void results.return(undefined)
  })

  async function pass(): Promise<void> {
    for await (const result of results) write(`event: next\ndata: ${JSON.stringify(toJson(result))}\n\n`)
    res.end('event: complete\ndata:\n\n')
  }
  pass().catch(() => res.destroy())
}
