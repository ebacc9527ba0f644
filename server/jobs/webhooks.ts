import dns from 'node:dns'
import http from 'node:http'
import https from 'node:https'
import { BlockList, type LookupFunction } from 'node:net'
import { useAgent } from 'request-filtering-agent'
import { Webhook } from 'standardwebhooks'

/** A delivery, as app_private.delivery_to_send returns it. */
export interface Delivery {
  readonly url: string
  readonly signing_key: string
  readonly body: string
}

/** Milliseconds that a delivery may take in all, from the look-up of the name to the end of the response. */
export const TIMEOUT = 15_000
/** Bytes of a response that are read, and characters of it that are kept if it is an error. */
const MOST_READ = 65_536
const MOST_KEPT = 200

/** Addresses of IPv6 that mean one of IPv4 (RFC 4291, 2.5.5.1), and that the agent takes for public ones. */
const EMBEDDED = new BlockList()
EMBEDDED.addSubnet('::', 96, 'ipv6')
const isEmbedded = (address: string) => EMBEDDED.check(address, 'ipv6')
/** Says no more than that: the address, or whether the name has one, is for nobody outside of this network to know. */
const leadsInside = () => new DeliveryError('It leads to a private address.', null, true)

/** Looks a name up, for the agent to check what is found. */
const lookup: LookupFunction = (host, options, callback) =>
  dns.lookup(host, { ...options, all: true }, (error, found) => {
    if (found?.some(({ address, family }) => family === 6 && isEmbedded(address))) callback(leadsInside(), [])
    else if (error || options.all) callback(error, found ?? [])
    else callback(null, found[0]!.address, found[0]!.family)
  })

/** An attempt that has failed. */
export class DeliveryError extends Error {
  readonly status: number | null
  /** Is it useless to send it again? */
  readonly forGood: boolean

  constructor(message: string, status: number | null, forGood = false) {
    super(message)
    this.status = status
    this.forGood = forGood
  }
}

/**
 * Sends a delivery, signed as Standard Webhooks 1.0 says, and returns the status if it is 2xx. The name is looked up once, and
 * the connection goes to the address that was checked; redirects are not followed. Throws DeliveryError.
 */
export async function deliver(
  id: string,
  { url, signing_key, body }: Delivery,
  allowPrivate: boolean,
  timeout = TIMEOUT,
): Promise<number> {
  const sentAt = new Date()
  const { request } = url.startsWith('https:') ? https : http
  const agent = useAgent(url, { allowPrivateIPAddress: allowPrivate, allowMetaIPAddress: allowPrivate })
  try {
    if (!allowPrivate && isEmbedded(new URL(url).hostname.replace(/^\[|\]$/g, ''))) throw leadsInside()
    const req = request(url, {
      method: 'POST',
      agent,
      ...(!allowPrivate && { lookup }),
      signal: AbortSignal.timeout(timeout),
      headers: {
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(body),
        'user-agent': 'Assent',
        'webhook-id': id,
        'webhook-timestamp': Math.floor(sentAt.getTime() / 1000),
        'webhook-signature': new Webhook(signing_key).sign(id, sentAt, body),
      },
    })
    const res = await new Promise<http.IncomingMessage>((resolve, reject) => {
      req.on('response', resolve).on('error', reject)
      // Without a listener, Node.js would close the connection without an error.
      req.on('upgrade', (_, socket) => {
        socket.destroy()
        reject(new DeliveryError('It answered 101: it wants another protocol.', 101))
      })
      req.end(body)
    })
    const status = res.statusCode!
    if (status >= 200 && status < 300) {
      res.destroy() // The body is of no use to us.
      return status
    }
    const excerpt = (await readStart(res)).replace(/[\s\p{Cc}]+/gu, ' ').slice(0, MOST_KEPT)
    throw new DeliveryError(`It answered ${status}: ${excerpt}`, status, status === 410)
  } catch (error) {
    if (error instanceof DeliveryError) throw error
    const { name, message, errors } = error as AggregateError
    if (name === 'AbortError' || name === 'TimeoutError')
      throw new DeliveryError(`It took longer than ${timeout / 1000} seconds.`, null)
    // If there are several addresses, each has an error of its own, and the AggregateError has no message.
    const why = message || (errors ?? []).map((each: Error) => each.message).join('; ')
    // The agent refuses addresses of private networks with such a message.
    if (why.startsWith('DNS lookup')) throw leadsInside()
    throw new DeliveryError(why, null)
  }
}

async function readStart(res: http.IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  let size = 0
  try {
    for await (const chunk of res as AsyncIterable<Buffer>) {
      chunks.push(chunk)
      size += chunk.length
      if (size >= MOST_READ) break
    }
  } catch {
    // The body was cut short or too slow: the status is known, and what has arrived of the body is enough.
  }
  return Buffer.concat(chunks).toString()
}
