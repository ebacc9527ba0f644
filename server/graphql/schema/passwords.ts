import 'graphile-config'
import { access, context, sideEffect, type FieldArgs, type Step } from 'postgraphile/grafast'
import { extendSchema, gql } from 'postgraphile/utils'
import type { Tokens } from '../../http/tokens.ts'
import { MIN_PASSWORD_LENGTH, type Passwords } from '../../passwords.ts'
import type { Identity } from '../../sql/as-caller.ts'

declare global {
  namespace Grafast {
    interface Context {
      /** Who is asking, for the statements of this request that are yet to come. */
      identity: { -readonly [K in keyof Identity]: Identity[K] }
      tokens: Tokens
      passwords: Passwords
    }
  }
}

/** A mutation's plan: it does the work once, and the fields of its payload are read from what the work answers. */
const mutation =
  (work: (input: Record<string, string>, context: Grafast.Context) => Promise<object>) => (_$root: Step, fieldArgs: FieldArgs) =>
    sideEffect([fieldArgs.getRaw('input'), context()] as const, async ([input, context]) => ({
      clientMutationId: input.clientMutationId,
      ...(await work(input, context)),
    }))

/** The mutations that are not SQL functions: a password never enters the database, and tokens are signed where the key is. */
export const PasswordMutationsPlugin = extendSchema((build) => {
  const { users } = build.input.pgRegistry.pgResources
  const user = ($payload: Step) => users!.get({ id: access($payload, 'userId') } as never)
  return {
    typeDefs: gql`
      input LoginInput {
        clientMutationId: String
        email: String!
        password: String!
      }

      type LoginPayload {
        clientMutationId: String
        "The bearer token: send it as the header Authorization: Bearer …."
        accessToken: String!
        "Exchanged for new tokens of the same session, by POST /api/v1/auth/refresh/. It serves twice only within 10 seconds."
        refreshToken: String!
        "When the access token expires."
        expiresAt: Datetime!
        "The person who has logged in."
        user: User!
      }

      input ChangePasswordInput {
        clientMutationId: String
        oldPassword: String!
        newPassword: String!
      }

      type ChangePasswordPayload {
        clientMutationId: String
        "The person whose password it is."
        user: User!
      }

      input ResetPasswordInput {
        clientMutationId: String
        "The part of the mailed link that follows token=."
        token: String!
        "At least ${String(MIN_PASSWORD_LENGTH)} characters; neither a common password nor your name or address."
        newPassword: String!
      }

      type ResetPasswordPayload {
        clientMutationId: String
      }

      extend type Mutation {
        """
        Logs in by email address and password. UNAUTHENTICATED: one of them is wrong. TOO_MANY_ATTEMPTS: within 15 minutes,
        10 logins to the account have failed from this network, 100 to the account from everywhere, or 100 from this network.
        """
        login(input: LoginInput!): LoginPayload

        """
        Changes one's own password and ends one's other sessions. VALIDATION_FAILED: the old one is wrong, or the new one has
        fewer than ${String(MIN_PASSWORD_LENGTH)} characters, is a common one, or contains your name or address.
        TOO_MANY_ATTEMPTS: within 15 minutes, 10 old ones have been wrong in this session.
        """
        changePassword(input: ChangePasswordInput!): ChangePasswordPayload

        """
        Sets a password by a mailed link, that of an invitation or of requestPasswordReset, and ends all sessions.
        VALIDATION_FAILED: the link is used, expired or unknown, or the password is weak, in which case the link stays good.
        """
        resetPassword(input: ResetPasswordInput!): ResetPasswordPayload
      }
    `,
    objects: {
      Mutation: {
        plans: {
          login: mutation(async ({ email, password }, { identity, passwords, tokens }) => {
            const { userId, secret, refreshToken } = await passwords.login(identity, email!, password!)
            // The rest of this request is asked by the person who has logged in.
            Object.assign(identity, { session: secret, byCookie: false })
            const { token, expiresAt } = tokens.sign(secret, userId)
            return { accessToken: token, refreshToken, expiresAt: expiresAt.toISOString(), userId }
          }),
          changePassword: mutation(async ({ oldPassword, newPassword }, { identity, passwords }) => ({
            userId: await passwords.change(identity, oldPassword, newPassword),
          })),
          resetPassword: mutation(async ({ token, newPassword }, { identity, passwords }) => {
            await passwords.reset(identity, token!, newPassword!)
            // That may have ended the very session that asked for it.
            identity.session = ''
            return {}
          }),
        },
      },
      LoginPayload: { plans: { user } },
      ChangePasswordPayload: { plans: { user } },
    },
  }
})
