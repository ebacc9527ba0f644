import type { ClientError } from '../errors.ts'
import type { Passwords } from '../passwords.ts'
import type { Database } from '../sql/as-caller.ts'
import type { Search } from '../sql/search.ts'
import type { Spend } from './allowance.ts'
import type { CheckCsrf, IsOwnOrigin } from './csrf.ts'
import type { Identify } from './identity.ts'
import type { Tokens } from './tokens.ts'

/** What every door works with; server/server.ts makes it. */
export interface Services {
  readonly db: Database
  readonly search: Search
  readonly passwords: Passwords
  readonly tokens: Tokens
  readonly identify: Identify
  readonly spend: Spend
  readonly checkCsrf: CheckCsrf
  readonly isOwnOrigin: IsOwnOrigin
  /** Turns what was thrown into what the caller may hear. */
  readonly explain: (error: unknown) => ClientError
}
