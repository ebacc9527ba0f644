import type { IncomingMessage } from 'node:http'
import { isIP } from 'node:net'
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

/**
 * Identifies a request by `identify`, and takes it from its caller's allowance: the person's, or else the network's. Throws
 * RATE_LIMITED, and what `identify` throws.
 */
export interface Spend {
  (req: IncomingMessage, identify: (req: IncomingMessage) => Claim): Claim
  /** Takes more for a request that costs as much as several. Throws RATE_LIMITED. */
  more(claim: Claim, requests: number): void
}

/**
 * "A caller may send bursts of 300 requests and 1,200 a minute": a token bucket for each of the latest callers. `knownUser`
 * says whose session it is, if it has been seen alive lately: a made-up cookie would otherwise be a new caller each time.
 */
export function makeSpend(addressOf: AddressOf, knownUser: (session: string) => string | undefined): Spend {
  const buckets = new LRUCache<string, TokenBucket>({ max: 50_000 })

  function take(caller: string, requests = 1): void {
    let bucket = buckets.get(caller)
    if (!bucket) {
      bucket = fullBucket(300, 1200)
      buckets.set(caller, bucket)
    }
    if (!bucket.tryRemoveTokens(requests)) {
      const retryAfter = Math.max(1, Math.ceil(bucket.getWaitTime(requests) / 1000))
      throw new ClientError('RATE_LIMITED', 'Too many requests. Try again later.', { retryAfter })
    }
  }

  const callerOf = ({ userId, session, ip }: Claim) => userId ?? knownUser(session) ?? networkOf(ip)

  function spend(req: IncomingMessage, identify: (req: IncomingMessage) => Claim): Claim {
    let claim: Claim
    try {
      claim = identify(req)
    } catch (error) {
      take(networkOf(addressOf(req)))
      throw error
    }
    take(callerOf(claim))
    return claim
  }

  return Object.assign(spend, { more: (claim: Claim, requests: number) => take(callerOf(claim), requests) })
}
