import type { IncomingMessage } from 'node:http'
import { isIP } from 'node:net'
import { setImmediate } from 'node:timers/promises'
import ipaddr from 'ipaddr.js'
import { TokenBucket } from 'limiter'
import { LRUCache } from 'lru-cache'
import { ClientError } from '../errors.ts'
import type { AddressOf, Claim } from './identity.ts'

/** The network that one caller has: an IPv4 address, or a /64 of IPv6. */
export function networkOf(ip: string): string {
  if (isIP(ip) !== 6) return ip
  return ipaddr.IPv6.parse(ip).toByteArray().slice(0, 8).join('.')
}

/** A token bucket that begins full, as the library's does not. */
export function fullBucket(bucketSize: number, tokensPerInterval: number): TokenBucket {
  const bucket = new TokenBucket({ bucketSize, tokensPerInterval, interval: 'minute' })
  bucket.content = bucketSize
  return bucket
}

/** What one caller has: an allowance of requests, and turns. */
interface Account {
  readonly bucket: TokenBucket
  turn: Promise<void>
}

/**
 * Identifies a request by `identify`, and takes it from its caller's allowance, the person's or else the network's, when it is
 * its turn. Throws RATE_LIMITED, and what `identify` throws.
 */
export interface Spend {
  (req: IncomingMessage, identify: (req: IncomingMessage) => Claim): Promise<Claim>
  /** Takes more for one that costs as much as several. Throws RATE_LIMITED. */
  more(req: IncomingMessage, requests: number): void
  /** Waits for its next turn: one after another of the same caller's, with a look at what others have sent in between. */
  turn(req: IncomingMessage): Promise<void>
}

/**
 * "A caller may send bursts of 300 requests and 1,200 a minute": a token bucket for each of the latest callers. `knownUser`
 * says whose session it is, if it has been seen alive lately: a made-up cookie would otherwise be a new caller each time.
 */
export function makeSpend(addressOf: AddressOf, knownUser: (session: string) => string | undefined): Spend {
  const accounts = new LRUCache<string, Account>({ max: 50_000 })
  const payers = new WeakMap<IncomingMessage, Account>()

  function accountOf(caller: string): Account {
    const known = accounts.get(caller)
    if (known) return known
    const account = { bucket: fullBucket(300, 1200), turn: Promise.resolve() }
    accounts.set(caller, account)
    return account
  }

  function take({ bucket }: Account, requests = 1): void {
    if (bucket.tryRemoveTokens(requests)) return
    const retryAfter = Math.max(1, Math.ceil(bucket.getWaitTime(requests) / 1000))
    throw new ClientError('RATE_LIMITED', 'Too many requests. Try again later.', { retryAfter })
  }

  const nextTurn = (account: Account) => (account.turn = account.turn.then(() => setImmediate()))

  async function spend(req: IncomingMessage, identify: (req: IncomingMessage) => Claim): Promise<Claim> {
    let claim: Claim | undefined
    let refusal: unknown
    try {
      claim = identify(req)
    } catch (error) {
      refusal = error
    }
    const caller = claim ? (claim.userId ?? knownUser(claim.session) ?? networkOf(claim.ip)) : networkOf(addressOf(req))
    const account = accountOf(caller)
    payers.set(req, account)
    await nextTurn(account)
    take(account)
    if (!claim) throw refusal
    return claim
  }

  return Object.assign(spend, {
    more: (req: IncomingMessage, requests: number) => take(payers.get(req)!, requests),
    turn: (req: IncomingMessage) => nextTurn(payers.get(req)!),
  })
}
