import { ServerResponse, type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { GraphQLError, OperationTypeNode, type ExecutionArgs } from 'graphql'
import { CloseCode, handleProtocols, makeServer } from 'graphql-ws'
import { WebSocketServer, type ServerOptions, type WebSocket } from 'ws'
import { ClientError } from '../errors.ts'
import { foreignOrigin } from '../http/csrf.ts'
import { sendProblem } from '../http/problem.ts'
import type { Refusals } from '../http/refusals.ts'
import type { Farewell, Subscriber } from '../live/subscribers.ts'
import { readCall } from './documents.ts'
import type { GraphQL, GraphQLServices, Operation } from './handler.ts'
import { MAX_UNREAD } from './sse.ts'

const MAX_MESSAGE = 100_000
/** Operations of one socket at once: its subscriptions (see live/subscribers.ts) with its queries and mutations. */
const MAX_OPERATIONS = 20
const INIT_WITHIN = 5_000
const PING_EVERY = 15_000
/** Milliseconds that the other side has to close as well. */
const CLOSE_WITHIN = 1_000

/** How a socket is closed; for any other code the fault is ours. Clients of graphql-ws come back after 1xxx and 4403. */
const CLOSE: Partial<Record<Farewell, [code: number, reason: string]>> = {
  CLOSING: [1001, 'Going away'],
  UNAVAILABLE: [1013, 'Try again later'],
  RATE_LIMITED: [1013, 'Too many requests'],
  BAD_REQUEST: [CloseCode.BadRequest, 'Bad request'],
  UNAUTHENTICATED: [CloseCode.Unauthorized, 'Unauthorized'],
  // Only the token has expired: the client may come back with a new one.
  FORBIDDEN: [CloseCode.Forbidden, 'Forbidden'],
}

/** What graphql-ws keeps for us of a socket. */
interface Extra {
  readonly subscriber: Subscriber
  /** The upgrade, as the HTTP request that every operation on the socket comes with. */
  readonly request: IncomingMessage
}

/** What graphql-ws hands on from hook to hook. */
type Args = ExecutionArgs & { operation: Operation; subscriber: Subscriber }

type Services = { graphql: GraphQL; during: Refusals['during'] } & Pick<
  GraphQLServices,
  'schema' | 'subscribers' | 'identify' | 'spend' | 'isOwnOrigin' | 'explain'
>

/** Should it become a WebSocket (RFC 6455, 4.1)? A request to upgrade to anything else is answered as it is. */
export const isWebSocket = ({ url, headers: { upgrade, host } }: IncomingMessage): boolean =>
  /^websocket$/i.test(upgrade ?? '') && host !== undefined && url!.split('?', 1)[0] === '/graphql'

/**
 * GraphQL over WebSocket, by the protocol graphql-transport-ws. A socket belongs to its session and ends with it, not with
 * the token that opened it. Each operation on it is treated as one by POST: by the same rules and limits, from the same
 * allowance, and with a token that is still good. A mutation by cookie is refused, since no CSRF token comes with it.
 */
export function makeWebSockets({ graphql, schema, subscribers, identify, spend, isOwnOrigin, explain, during }: Services) {
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: MAX_MESSAGE,
    handleProtocols,
    closeTimeout: CLOSE_WITHIN,
  } as ServerOptions)

  const run = ({ operation, subscriber }: Args) => graphql.run(operation, subscriber) as Promise<object>
  const protocol = makeServer<Record<string, unknown>, Extra>({
    connectionInitWaitTimeout: INIT_WITHIN,
    async onConnect({ connectionParams = {}, extra: { request, subscriber } }) {
      // In any letter case, as for a header: GraphiQL sends its headers here.
      const [, authorization] = Object.entries(connectionParams).find(([name]) => /^authorization$/i.test(name)) ?? []
      if (authorization != null) request.headers.authorization = String(authorization)
      await subscriber.admit(await spend(request, identify))
    },
    async onSubscribe({ subscriptions, extra: { subscriber, request } }, _id, payload) {
      try {
        if (Object.keys(subscriptions).length > MAX_OPERATIONS) {
          throw new ClientError('RATE_LIMITED', `This socket already has ${MAX_OPERATIONS} operations: end one.`)
        }
        const operation = await graphql.prepare(request, readCall(payload), await spend(request, identify))
        const { document, operationName } = operation
        return { schema, document, operationName, operation, subscriber } as Args
      } catch (error) {
        if (error instanceof ClientError && error.code === 'UNAUTHENTICATED') subscriber.end('FORBIDDEN')
        return [error instanceof GraphQLError ? error : new GraphQLError('', { originalError: error as Error })]
      }
    },
    execute: (args) => run(args as Args),
    subscribe: (args) => run(args as Args),
    onNext(_context, _id, _payload, args, result) {
      const { operation, subscriber } = args as Args
      return graphql.toPayload(result, operation.type === OperationTypeNode.SUBSCRIPTION ? subscriber : undefined)
    },
    onError: (_context, _id, _payload, errors) => errors.map((error) => graphql.format(error).json as never),
  })

  function serve(ip: string, socket: WebSocket, { headers, socket: { remoteAddress } }: IncomingMessage): void {
    const end = (why: Farewell) => socket.close(...(CLOSE[why] ?? [CloseCode.InternalServerError, 'Internal server error']))
    socket.on('error', () => {}) // A malformed or oversized frame; ws closes the socket with its own code.
    let subscriber: Subscriber
    try {
      subscriber = subscribers.enter(ip, end)
    } catch (error) {
      return end(explain(error).code)
    }
    // Only what identifies the caller is kept of the request, since a socket may stay for days.
    const request = { headers: { ...headers }, socket: { remoteAddress } } as IncomingMessage
    const closed = protocol.opened(
      {
        protocol: socket.protocol,
        // Not awaited, so that whatever a slow reader has not read is counted here and nowhere else.
        send(text) {
          if (socket.readyState !== socket.OPEN) return
          // Counts only earlier messages: a single answer may be of any size.
          if (socket.bufferedAmount > MAX_UNREAD) socket.terminate()
          else socket.send(text)
        },
        close: (code, reason) => socket.close(code, reason),
        onMessage: (handle) =>
          socket.on('message', (data) =>
            during(request, () => handle(String(data))).catch((error: Error) => {
              // This is how graphql-ws reports a message that only a server may send.
              end(error.message.startsWith('Unexpected message of type') ? 'BAD_REQUEST' : explain(error).code)
            }),
          ),
      },
      { subscriber, request },
    )
    socket.once('close', (code, reason) => {
      subscriber.leave()
      closed(code, String(reason)).catch(explain)
    })
    alive.add(socket)
    socket.on('pong', () => alive.add(socket))
  }

  /** The sockets that have answered since the last ping. */
  const alive = new WeakSet<WebSocket>()
  const pinging = setInterval(() => {
    for (const socket of sockets.clients) {
      if (alive.delete(socket)) socket.ping()
      else socket.terminate()
    }
  }, PING_EVERY).unref()

  return {
    /** Takes over the connection of a request that asks for a WebSocket. */
    async upgrade(req: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
      socket.on('error', () => {})
      try {
        // A browser sends the cookie whichever page asks, and lets that page read the answers: CORS does not apply here.
        if (!isOwnOrigin(req)) throw foreignOrigin()
        const { ip } = await spend(req, identify)
        sockets.handleUpgrade(req, socket, head, (opened) => serve(ip, opened, req))
      } catch (error) {
        const res = new ServerResponse(req)
        res.shouldKeepAlive = false
        res.assignSocket(socket as Socket)
        // end() would wait for the other side, for which nobody sets a limit.
        res.once('finish', () => (socket as Socket).destroySoon())
        sendProblem(res, explain(error))
      }
    },
    close: () => clearInterval(pinging),
  }
}
