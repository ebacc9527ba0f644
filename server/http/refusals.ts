import { AsyncLocalStorage } from 'node:async_hooks'
import { createHash } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { LRUCache } from 'lru-cache'
import type { TokenBucket } from 'limiter'
import type { ClientError, Code } from '../errors.ts'
import type { Logger } from '../logger.ts'
import { fullBucket } from './allowance.ts'
import type { AddressOf, Claim, Identify } from './identity.ts'

/** What is answered to somebody who tries what they may not do. */
const REFUSALS: ReadonlySet<Code> = new Set(['UNAUTHENTICATED', 'FORBIDDEN', 'TOO_MANY_ATTEMPTS', 'RATE_LIMITED'])

/** Lines that one address, and all of them together, can cause in a minute: a flood must not fill the disk. */
const LINES_OF_ADDRESS = 60
const LINES_OF_ALL = 600

interface Bound {
  readonly bucket: TokenBucket
  /** Refusals that have left no line since the last one that did. */
  unlogged: number
}

const makeBound = (lines: number): Bound => ({ bucket: fullBucket(lines, lines), unlogged: 0 })

export type Refusals = ReturnType<typeof makeRefusals>

/** Logs refusals, one warning each, with who was refused what: ids and an address, never a secret. */
export function makeRefusals(
  log: Logger,
  identify: Identify,
  addressOf: AddressOf,
  userOf: (session: string) => string | undefined,
) {
  const requests = new AsyncLocalStorage<IncomingMessage>()
  const bounds = new LRUCache<string, Bound>({ max: 10_000 })
  const all = makeBound(LINES_OF_ALL)

  function claimOf(req: IncomingMessage): Claim | undefined {
    try {
      return identify(req)
    } catch {
      return undefined // A token that is bad, or has expired, says nothing.
    }
  }

  return {
    /** Does the work of a request, so that a refusal in it is known to be of it. */
    during: <T>(req: IncomingMessage, work: () => T): T => requests.run(req, work),

    note(error: ClientError): void {
      const req = requests.getStore()
      if (!req || !(REFUSALS.has(error.code) || error.faults.some(({ field }) => field === 'old_password'))) return
      const address = addressOf(req)
      const bound = bounds.get(address) ?? makeBound(LINES_OF_ADDRESS)
      bounds.set(address, bound)
      if (!bound.bucket.tryRemoveTokens(1) || !all.bucket.tryRemoveTokens(1)) {
        bound.unlogged++
        return
      }
      const { session = '', userId } = claimOf(req) ?? {}
      log.warn(
        {
          code: error.code,
          method: req.method,
          route: (req.url ?? '/graphql').split('?', 1)[0]!.slice(0, 200),
          userId: userId ?? userOf(session),
          // The row of app_private.sessions whose secret_hash begins so.
          session: session && createHash('sha256').update(session).digest('hex').slice(0, 16),
          ip: address,
          ...(bound.unlogged && { unlogged: bound.unlogged }),
        },
        'refused',
      )
      bound.unlogged = 0
    },
  }
}
