import { ServerResponse, type IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { GraphQLError, OperationTypeNode, type ExecutionArgs, type GraphQLSchema } from 'graphql'
import { CloseCode, handleProtocols, makeServer } from 'graphql-ws'
import { WebSocketServer, type ServerOptions, type WebSocket } from 'ws'
import { foreignOrigin, type IsOwnOrigin } from '../http/csrf.ts'
import { ClientError } from '../errors.ts'
import { MOST_UNREAD } from './sse.ts'
import { readCall, type GraphQL, type Prepared } from './handler.ts'
import type { Spend } from '../http/allowance.ts'
import type { Identify } from '../http/identity.ts'
import { sendProblem } from '../http/problem.ts'
import type { Farewell, Subscriber, Subscribers } from '../live/subscribers.ts'

const MAX_MESSAGE = 100_000
const MAX_OPERATIONS = 20
const INIT_WITHIN = 5_000
const PING_EVERY = 15_000
/** Milliseconds that the other side has to close, too. */
const CLOSE_WITHIN = 1_000

/** How a socket is closed; with any other code something is wrong on our side. Clients of graphql-ws come back after 1xxx and 4403. */
const CLOSE: Partial<Record<Farewell, [code: number, reason: string]>> = {
  CLOSING: [1001, 'Going away'],
  UNAVAILABLE: [1013, 'Try again later'],
  RATE_LIMITED: [1013, 'Too many requests'],
  BAD_REQUEST: [CloseCode.BadRequest, 'Bad request'],
  UNAUTHENTICATED: [CloseCode.Unauthorized, 'Unauthorized'],
}

/** What is kept of a socket. */
interface Extra {
  readonly subscriber: Subscriber
  /** The upgrade, as a request that each operation on the socket comes with. */
  readonly request: IncomingMessage
  close(code: number, reason: string): void
}

/** What an operation is handed on with, from hook to hook. */
type Operation = ExecutionArgs & Prepared & { subscriber: Subscriber }

interface Services {
  readonly graphql: GraphQL
  readonly schema: GraphQLSchema
  readonly subscribers: Subscribers
  readonly identify: Identify
  readonly spend: Spend
  readonly isOwnOrigin: IsOwnOrigin
  readonly explain: (error: unknown) => ClientError
}

/** Is it to become a WebSocket (RFC 6455, 4.1)? Whatever else it could be upgraded to, it is answered as it is. */
export const isWebSocket = ({ url, headers: { upgrade, host } }: IncomingMessage): boolean =>
  /^websocket$/i.test(upgrade ?? '') && host !== undefined && url!.split('?', 1)[0] === '/graphql'

/**
 * GraphQL over WebSocket, by the protocol graphql-transport-ws. A socket is its session's and ends with it, not with the token
 * that opened it. Every operation on it, a query or a mutation too, is one as by POST: with the same rules and limits, from
 * the same allowance, and by a token that is good now. A mutation by cookie is refused, for there is no CSRF token.
 */
export function makeWebSockets({ graphql, schema, subscribers, identify, spend, isOwnOrigin, explain }: Services) {
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: MAX_MESSAGE,
    handleProtocols,
    closeTimeout: CLOSE_WITHIN,
  } as ServerOptions)

  const protocol = makeServer<Record<string, unknown>, Extra>({
    connectionInitWaitTimeout: INIT_WITHIN,
    async onConnect({ connectionParams, extra: { request, subscriber } }) {
      // Whatever a header is called in, as in GraphiQL.
      const [, authorization] = Object.entries(connectionParams ?? {}).find(([name]) => /^authorization$/i.test(name)) ?? []
      if (authorization != null) request.headers.authorization = String(authorization)
      await subscriber.admit(spend(request, identify))
    },
    async onSubscribe({ subscriptions, extra: { subscriber, request, close } }, _id, payload) {
      try {
        if (Object.keys(subscriptions).length > MAX_OPERATIONS) {
          throw new ClientError('RATE_LIMITED', `A socket has at most ${MAX_OPERATIONS} operations at once.`)
        }
        const caller = spend(request, identify)
        const prepared = await graphql.prepare(request, readCall(payload), caller)
        return { ...prepared, schema, operationName: payload.operationName, subscriber } as Operation
      } catch (error) {
        if (error instanceof ClientError && error.code === 'UNAUTHENTICATED') close(CloseCode.Forbidden, 'Forbidden')
        const errors: unknown[] = error instanceof AggregateError ? error.errors : [error]
        return errors.map((cause) =>
          cause instanceof GraphQLError ? cause : new GraphQLError('', { originalError: cause as Error }),
        )
      }
    },
    execute: (args) => start(args as Operation),
    subscribe: (args) => start(args as Operation),
    onNext(_context, _id, _payload, args, result) {
      const { operation, subscriber } = args as Operation
      return graphql.toPayload(result, operation === OperationTypeNode.SUBSCRIPTION ? subscriber : undefined)
    },
    onError: (_context, _id, _payload, errors) => errors.map((error) => graphql.format(error).json as never),
  })
  const start = ({ start, subscriber }: Operation) => start(subscriber) as Promise<object>

  function serve(socket: WebSocket, { headers, socket: { remoteAddress } }: IncomingMessage): void {
    const close = (code: number, reason: string) => socket.close(code, reason)
    const end = (why: Farewell) => close(...(CLOSE[why] ?? [CloseCode.InternalServerError, 'Internal server error']))
    socket.on('error', () => {}) // It closes, and says why itself: a frame that is none, or too large.
    let subscriber: Subscriber
    try {
      subscriber = subscribers.enter(end)
    } catch (error) {
      return end(explain(error).code)
    }
    // No more is kept: a socket stays for days.
    const request = { headers: { ...headers }, socket: { remoteAddress } } as IncomingMessage
    const closed = protocol.opened(
      {
        protocol: socket.protocol,
        // Not waited for, so that what a slow reader has not read is counted here, and nowhere else.
        send(text) {
          if (socket.readyState !== socket.OPEN) return
          // Of what was sent before: one answer may be as large as it is.
          if (socket.bufferedAmount > MOST_UNREAD) socket.terminate()
          else socket.send(text)
        },
        close,
        onMessage: (handle) =>
          socket.on('message', (data) =>
            handle(String(data)).catch((error: Error) => {
              // graphql-ws tells so of messages that only a server sends.
              end(error.message.startsWith('Unexpected message of type') ? 'BAD_REQUEST' : explain(error).code)
            }),
          ),
      },
      { subscriber, request, close },
    )
    socket.once('close', (code, reason) => {
      subscriber.leave()
      closed(code, String(reason)).catch(explain)
    })
    keepAlive(socket)
  }

  const alive = new WeakSet<WebSocket>()
  function keepAlive(socket: WebSocket): void {
    alive.add(socket)
    socket.on('pong', () => alive.add(socket))
  }
  const pinging = setInterval(() => {
    for (const socket of sockets.clients) {
      if (!alive.delete(socket)) socket.terminate()
      else socket.ping()
    }
  }, PING_EVERY).unref()

  return {
    /** Takes the connection of a request that asks for a WebSocket. */
    upgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void {
      socket.on('error', () => {})
      try {
        // A browser sends the cookie from any page, and lets any page read the answers: there is no CORS here.
        if (!isOwnOrigin(req)) throw foreignOrigin()
        spend(req, identify)
        sockets.handleUpgrade(req, socket, head, serve)
      } catch (error) {
        const res = new ServerResponse(req)
        res.shouldKeepAlive = false
        res.assignSocket(socket as Socket)
        // Not end(): that would wait for the other side, which nobody watches.
        res.once('finish', () => (socket as Socket).destroySoon())
        sendProblem(res, explain(error))
      }
    },
    close: () => clearInterval(pinging),
  }
}
