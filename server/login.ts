import { createHash } from 'node:crypto'
import 'graphile-config'
import type { Pool, PoolClient } from 'pg'
import { access, context, lambda, list, object, sideEffect, type FieldArgs, type Step } from 'postgraphile/grafast'
import { extendSchema, gql } from 'postgraphile/utils'
import { ClientError } from './errors.ts'
import type { Identity, Tokens } from './identity.ts'

export interface Login {
  readonly accessToken: string
  readonly refreshToken: string
  readonly expiresAt: Date
  /** The new session, for what is read after the login in the same request. */
  readonly session: string
  readonly userId: string
}

interface Outcome {
  user_id: string | null
  session_secret: string
  refresh_secret: string
  retry_after: number | null
}

/** What is sent in a password's place: app_private.password_digest in db/users.sql says why. */
const passwordDigest = (password: string): string => createHash('sha256').update(`assent:${password}`).digest('base64')

async function transaction<Row>(client: PoolClient, ip: string, text: string, values: unknown[]): Promise<Row> {
  try {
    await client.query('begin')
    await client.query(`select set_config('assent.ip', $1, true)`, [ip])
    const { rows } = await client.query(text, values)
    await client.query('commit')
    return rows[0]
  } catch (error) {
    await client.query('rollback').catch(() => {}) // What failed first is what counts.
    throw error
  }
}

/**
 * Logs in: two transactions of db/login.sql, on a pool of its own, because a burst of slow hashes would drain the
 * API's. Throws UNAUTHENTICATED and TOO_MANY_ATTEMPTS.
 */
export async function login(pool: Pool, tokens: Tokens, ip: string, email: string, password: string): Promise<Login> {
  const client = await pool.connect()
  let broken = true
  let outcome: Outcome
  try {
    const begun = await transaction<{ attempt_id: string; retry_after: number | null }>(
      client,
      ip,
      'select * from app_hidden.begin_login($1)',
      [email],
    )
    outcome = begun.retry_after
      ? { user_id: null, session_secret: '', refresh_secret: '', retry_after: begun.retry_after }
      : await transaction<Outcome>(client, ip, 'select * from app_hidden.finish_login($1, $2, $3)', [
          begun.attempt_id,
          email,
          passwordDigest(password),
        ])
    broken = false
  } finally {
    client.release(broken)
  }
  if (outcome.retry_after) {
    throw new ClientError('TOO_MANY_ATTEMPTS', 'Too many failed logins. Try again later.', { retryAfter: outcome.retry_after })
  }
  if (!outcome.user_id) throw new ClientError('UNAUTHENTICATED', 'The email address or the password is wrong.')
  const { token, expiresAt } = tokens.sign(outcome.session_secret)
  return {
    accessToken: token,
    refreshToken: outcome.refresh_secret,
    expiresAt,
    session: outcome.session_secret,
    userId: outcome.user_id,
  }
}

declare global {
  namespace Grafast {
    interface Context {
      /** Who is asking, for statements of this request that are yet to come. */
      identity: { -readonly [K in keyof Identity]: Identity[K] }
      login: (email: string, password: string) => Promise<Login>
    }
  }
}

/** The one mutation that is no SQL function: a token is signed where the key is. */
export const LoginPlugin = extendSchema((build) => {
  const { users } = build.input.pgRegistry.pgResources
  return {
    typeDefs: gql`
      input LoginInput {
        clientMutationId: String
        email: String!
        password: String!
      }

      type LoginPayload {
        clientMutationId: String
        """
        The bearer token: send it as "Authorization: Bearer …".
        """
        accessToken: String!
        """
        The session's refresh token; a door to redeem it at comes with REST.
        """
        refreshToken: String!
        """
        When the access token expires.
        """
        expiresAt: Datetime!
        """
        Who has logged in.
        """
        user: User!
      }

      extend type Mutation {
        """
        Logs in by email address and password. UNAUTHENTICATED: one of them is wrong. TOO_MANY_ATTEMPTS: 10 logins to
        the account, or 100 from the address, have failed within 15 minutes.
        """
        login(input: LoginInput!): LoginPayload
      }
    `,
    objects: {
      Mutation: {
        plans: {
          login(_$root: Step, fieldArgs: FieldArgs) {
            const $input = fieldArgs.getRaw('input')
            const $login = sideEffect(
              list([access($input, 'email'), access($input, 'password'), context()]),
              async ([email, password, { identity, login }]) => {
                const done = await login(email as string, password as string)
                // The rest of this request is asked by whom it logged in.
                identity.session = done.session
                return done
              },
            )
            return object({ login: $login, clientMutationId: access($input, 'clientMutationId') })
          },
        },
      },
      LoginPayload: {
        plans: {
          clientMutationId: ($payload: Step) => access($payload, 'clientMutationId'),
          accessToken: ($payload: Step) => access($payload, ['login', 'accessToken']),
          refreshToken: ($payload: Step) => access($payload, ['login', 'refreshToken']),
          expiresAt: ($payload: Step) => lambda(access($payload, ['login', 'expiresAt']), (date) => (date as Date).toISOString()),
          user: ($payload: Step) => users!.get({ id: access($payload, ['login', 'userId']) } as never),
        },
      },
    },
  }
})
