import 'graphile-config'
import { access, context, list, object, sideEffect, type FieldArgs, type Step } from 'postgraphile/grafast'
import { extendSchema, gql } from 'postgraphile/utils'
import type { Tokens } from '../../http/tokens.ts'
import { MIN_PASSWORD_LENGTH, type Passwords } from '../../passwords.ts'
import type { Identity } from '../../sql/as-caller.ts'

declare global {
  namespace Grafast {
    interface Context {
      /** Who is asking, for statements of this request that are yet to come. */
      identity: { -readonly [K in keyof Identity]: Identity[K] }
      tokens: Tokens
      passwords: Passwords
    }
  }
}

/** A mutation's plan: does the work once, and hands what it answers to the payload's plans. */
const mutation =
  (work: (input: Record<string, string>, context: Grafast.Context) => Promise<Record<string, unknown>>) =>
  (_$root: Step, fieldArgs: FieldArgs) => {
    const $input = fieldArgs.getRaw('input')
    const $result = sideEffect(list([$input, context()]), ([input, context]) => work(input as Record<string, string>, context))
    return object({ result: $result, clientMutationId: access($input, 'clientMutationId') })
  }

const result = (name: string) => ($payload: Step) => access($payload, ['result', name])

/**
 * The mutations that are no SQL functions: a password does not enter the database, and a token is signed where the key is.
 */
export const PasswordMutationsPlugin = extendSchema((build) => {
  const { users } = build.input.pgRegistry.pgResources
  const clientMutationId = ($payload: Step) => access($payload, 'clientMutationId')
  const user = ($payload: Step) => users!.get({ id: access($payload, ['result', 'userId']) } as never)
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
        Good once, for new tokens of the same session: POST /api/v1/auth/refresh/.
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

      input ChangePasswordInput {
        clientMutationId: String
        oldPassword: String!
        newPassword: String!
      }

      type ChangePasswordPayload {
        clientMutationId: String
        """
        Whose password it is.
        """
        user: User
      }

      input CreateUserInput {
        clientMutationId: String
        """
        What the person is to log in with, in any letter case.
        """
        email: String!
        """
        What others call the person; 1 to 200 characters.
        """
        name: String!
        """
        What the person may do; left out: USER.
        """
        role: Role
        """
        At least ${String(MIN_PASSWORD_LENGTH)} characters, and none of the most common passwords.
        """
        password: String!
      }

      type CreateUserPayload {
        clientMutationId: String
        """
        The new person.
        """
        user: User
      }

      input ResetPasswordInput {
        clientMutationId: String
        """
        What the mailed link carries after "token=".
        """
        token: String!
        """
        At least ${String(MIN_PASSWORD_LENGTH)} characters, and none of the most common passwords.
        """
        newPassword: String!
      }

      type ResetPasswordPayload {
        clientMutationId: String
      }

      extend type Mutation {
        """
        Logs in by email address and password. UNAUTHENTICATED: one of them is wrong. TOO_MANY_ATTEMPTS: 10 logins to
        the account, or 100 from the address, have failed within 15 minutes.
        """
        login(input: LoginInput!): LoginPayload

        """
        Changes one's own password, and ends one's other sessions. VALIDATION_FAILED: the old one is wrong, which counts
        as a failed login does, or the new one has less than ${String(MIN_PASSWORD_LENGTH)} characters or is among the most common ones.
        """
        changePassword(input: ChangePasswordInput!): ChangePasswordPayload

        """
        Adds a person, for admins. VALIDATION_FAILED: the address is none or taken, also by somebody deactivated, the name
        blank, or the password weak.
        """
        createUser(input: CreateUserInput!): CreateUserPayload

        """
        Sets a new password by the link that requestPasswordReset has mailed, and ends all sessions. VALIDATION_FAILED: the
        link is used, expired or unknown, or the password weak, which leaves the link good.
        """
        resetPassword(input: ResetPasswordInput!): ResetPasswordPayload
      }
    `,
    objects: {
      Mutation: {
        plans: {
          login: mutation(async ({ email, password }, { identity, passwords, tokens }) => {
            const { userId, secret, refreshToken } = await passwords.login(identity, email!, password!)
            // The rest of this request is asked by whom it logged in.
            Object.assign(identity, { session: secret, byCookie: false })
            const { token, expiresAt } = tokens.sign(secret, userId)
            return { accessToken: token, refreshToken, expiresAt: expiresAt.toISOString(), userId }
          }),
          changePassword: mutation(async ({ oldPassword, newPassword }, { identity, passwords }) => ({
            userId: await passwords.change(identity, oldPassword, newPassword),
          })),
          createUser: mutation(async (input, { identity, passwords }) => ({
            userId: await passwords.createUser(identity, input),
          })),
          resetPassword: mutation(async ({ token, newPassword }, { identity, passwords }) => {
            await passwords.reset(identity, token!, newPassword!)
            // It may have ended the very session that asked for it.
            identity.session = ''
            return {}
          }),
        },
      },
      LoginPayload: {
        plans: {
          clientMutationId,
          accessToken: result('accessToken'),
          refreshToken: result('refreshToken'),
          expiresAt: result('expiresAt'),
          user,
        },
      },
      ChangePasswordPayload: { plans: { clientMutationId, user } },
      CreateUserPayload: { plans: { clientMutationId, user } },
      ResetPasswordPayload: { plans: { clientMutationId } },
    },
  }
})
