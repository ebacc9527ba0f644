import 'graphile-config'
import { context, lambda, type Step } from 'postgraphile/grafast'
import { extendSchema, gql } from 'postgraphile/utils'
import { csrfToken } from '../../http/csrf.ts'

/** What a page asks for at first: whether its cookie is somebody's, and the token that its changes need. */
export const CsrfTokenPlugin = extendSchema((build) => {
  const { currentUser } = build.input.pgRegistry.pgResources
  return {
    typeDefs: gql`
      extend type Query {
        """
        What a page that is logged in by cookie sends as the header X-CSRF-Token with each change, as GET
        /api/v1/auth/session/ answers it; null without a cookie whose session is live.
        """
        csrfToken: String
      }
    `,
    objects: {
      Query: {
        plans: {
          csrfToken() {
            const $id = (currentUser!.execute([]) as unknown as { get(name: string): Step }).get('id')
            return lambda([$id, context().get('identity')] as const, ([id, { session, byCookie }]) =>
              id !== null && byCookie ? csrfToken(session) : null,
            )
          },
        },
      },
    },
  }
})
