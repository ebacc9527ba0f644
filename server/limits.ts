import { depthLimit } from '@graphile/depth-limit'
import {
  GraphQLError, Kind, NoSchemaIntrospectionCustomRule, OperationTypeNode, specifiedRules,
  type SelectionSetNode, type ValidationContext, type ValidationRule,
} from 'graphql'

const MAX_ROOT_FIELDS = 10
const MAX_ALIASES = 30
/** Names, punctuators and values in a document; GraphiQL's introspection has about 450. */
export const MAX_TOKENS = 2000

/** The fields at an operation's root, those of its fragments included. Each fragment is counted once, so that nesting costs nothing. */
function countRootFields(context: ValidationContext, { selections }: SelectionSetNode, counts: Map<string, number>): number {
  return selections.reduce((sum, selection) => {
    if (selection.kind === Kind.FIELD) return sum + 1
    if (selection.kind === Kind.INLINE_FRAGMENT) return sum + countRootFields(context, selection.selectionSet, counts)
    const name = selection.name.value
    const fragment = context.getFragment(name)
    if (fragment && !counts.has(name)) {
      counts.set(name, 0) // What leads back to itself is refused by another rule.
      counts.set(name, countRootFields(context, fragment.selectionSet, counts))
    }
    return sum + (counts.get(name) ?? 0)
  }, 0)
}

/** At most 10 root fields, and one in a mutation: each mutation field would be a transaction of its own. */
const rootFieldsRule: ValidationRule = (context) => ({
  OperationDefinition(node) {
    const most = node.operation === OperationTypeNode.QUERY ? MAX_ROOT_FIELDS : 1
    if (countRootFields(context, node.selectionSet, new Map()) > most) {
      context.reportError(new GraphQLError(`A ${node.operation} has at most ${most} root field${most > 1 ? 's' : ''}.`, { nodes: node }))
    }
  },
})

/** Aliases repeat a field, and with it its cost. */
const aliasesRule: ValidationRule = (context) => {
  let count = 0
  return {
    Field(node) {
      if (node.alias && ++count === MAX_ALIASES + 1) {
        context.reportError(new GraphQLError(`A document has at most ${MAX_ALIASES} aliases.`, { nodes: node }))
      }
    },
  }
}

// Two lists within each other are a request's audit log for each request of a page; a third would multiply again.
const depthRule = depthLimit({ maxDepth: 12, maxListDepth: 3, maxSelfReferentialDepth: 2, revealDetails: true })

/** What a document must satisfy. Without introspection, for those whom a production schema is not shown. */
export const documentRules: readonly ValidationRule[] = [...specifiedRules, rootFieldsRule, aliasesRule, depthRule]
export const documentRulesWithoutIntrospection: readonly ValidationRule[] = [...documentRules, NoSchemaIntrospectionCustomRule]
