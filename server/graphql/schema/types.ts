import 'graphile-config'
import { changeNullability } from 'postgraphile/utils'

// PostgreSQL's catalog cannot say what is true of a function's result and arguments.

/** No null is ever in these arrays. */
export const ResultTypesPlugin = changeNullability({
  Request: { availableActions: '[!]!' },
  User: { permissions: '[!]!' },
})

/** Ids must be given, but for that of an assignee, and a role is one of the enum. */
export const ArgumentTypesPlugin: GraphileConfig.Plugin = {
  name: 'ArgumentTypesPlugin',
  schema: {
    hooks: {
      GraphQLInputObjectType_fields_field(field, { graphql, getInputTypeByName }, { scope: { isMutationInput, fieldName } }) {
        if (!isMutationInput) return field
        if (fieldName === 'role') return { ...field, type: getInputTypeByName('Role') }
        if (!/^(\w+Id|email)$/.test(fieldName) || ['assignedToId', 'clientMutationId'].includes(fieldName)) return field
        return { ...field, type: new graphql.GraphQLNonNull(graphql.getNullableType(field.type)) }
      },
    },
  },
}
