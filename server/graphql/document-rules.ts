import { depthLimit } from '@graphile/depth-limit'
import {
  GraphQLError,
  Kind,
  OperationTypeNode,
  specifiedRules,
  type ASTNode,
  type FieldNode,
  type FragmentSpreadNode,
  type InlineFragmentNode,
  type SelectionSetNode,
  type ValidationContext,
  type ValidationRule,
} from 'graphql'
import { ClientError } from '../errors.ts'

const MAX_ROOT_FIELDS = 10
const MAX_FIELDS = 2000
const MAX_ALIASES = 30
const MAX_VARIABLE_USES = 60
const MAX_VALUES = 1000
const MAX_VALUE_DEPTH = 20
/** Names, punctuators and values in a document; GraphiQL's introspection has about 450. */
export const MAX_TOKENS = 2000

const refuse = (context: ValidationContext, nodes: ASTNode, message: string) =>
  context.reportError(new GraphQLError(message, { nodes }))

/**
 * Counts the fields of a selection, with those of its fragments wherever they are spread; with `deep`, also the fields within
 * fields. Each fragment is walked only once, so nesting them costs nothing.
 */
function countFields(
  context: ValidationContext,
  { selections }: SelectionSetNode,
  deep: boolean,
  counts = new Map<string, number>(),
): number {
  return selections.reduce((sum, selection) => {
    if (selection.kind !== Kind.FRAGMENT_SPREAD) {
      const within = selection.kind === Kind.INLINE_FRAGMENT || deep ? selection.selectionSet : undefined
      return sum + (selection.kind === Kind.FIELD ? 1 : 0) + (within ? countFields(context, within, deep, counts) : 0)
    }
    const name = selection.name.value
    const fragment = context.getFragment(name)
    if (fragment && !counts.has(name)) {
      counts.set(name, 0) // Another rule refuses a fragment that leads back to itself.
      counts.set(name, countFields(context, fragment.selectionSet, deep, counts))
    }
    return sum + (counts.get(name) ?? 0)
  }, 0)
}

/**
 * Limits root fields: in a mutation to one, since each would be a transaction of its own. Limits all fields together, too:
 * Grafast writes fragments out, so that fragments which spread each other twice grow exponentially.
 */
const fieldsRule: ValidationRule = (context) => ({
  OperationDefinition(node) {
    const most = node.operation === OperationTypeNode.QUERY ? MAX_ROOT_FIELDS : 1
    if (countFields(context, node.selectionSet, false) > most) {
      refuse(context, node, `A ${node.operation} has at most ${most} root field${most > 1 ? 's' : ''}.`)
    }
    if (countFields(context, node.selectionSet, true) > MAX_FIELDS) {
      refuse(context, node, `A ${node.operation} has at most ${MAX_FIELDS} fields, with its fragments written out.`)
    }
  },
})

/** The root field of a subscription must not depend on a condition (GraphQL, 5.2.4.1). */
const subscriptionRule: ValidationRule = (context) => {
  function check(node: FieldNode | FragmentSpreadNode | InlineFragmentNode): void {
    if (context.getParentType() !== context.getSchema().getSubscriptionType()) return
    if (node.directives?.some(({ name: { value } }) => value === 'skip' || value === 'include')) {
      refuse(context, node, 'The field of a subscription cannot have a condition.')
    }
  }
  return { Field: check, FragmentSpread: check, InlineFragment: check }
}

/** An alias repeats a field, and its cost with it. */
const aliasesRule: ValidationRule = (context) => {
  let count = 0
  return {
    Field(node) {
      if (node.alias && ++count === MAX_ALIASES + 1) refuse(context, node, `A document has at most ${MAX_ALIASES} aliases.`)
    },
  }
}

/** Each use of a variable repeats everything in it. Used twice in one list, it makes Grafast fail (seen in 1.1.3, in __inputList). */
const variablesRule: ValidationRule = (context) => {
  let uses = 0
  return {
    Variable(node, key) {
      if (key !== 'variable' && ++uses === MAX_VARIABLE_USES + 1) {
        refuse(context, node, `A document uses variables at most ${MAX_VARIABLE_USES} times.`)
      }
    },
    ListValue(node) {
      const names = node.values.flatMap((value) => (value.kind === Kind.VARIABLE ? [value.name.value] : []))
      if (new Set(names).size < names.length) refuse(context, node, 'A list names a variable at most once.')
    },
  }
}

// Two lists within each other are the audit log of each request on a page; a third would multiply again.
const depthRule = depthLimit({
  maxDepth: 12,
  maxListDepth: 3,
  maxSelfReferentialDepth: 2,
  maxIntrospectionDepth: 14, // GraphiQL and graphql-js ask that deep.
  maxDepthByFieldCoordinates: { 'Request.auditLogs': 1, '__Type.ofType': 9 },
  revealDetails: true,
})

/** What a document must satisfy. */
export const documentRules: readonly ValidationRule[] = [
  ...specifiedRules,
  fieldsRule,
  subscriptionRule,
  aliasesRule,
  variablesRule,
  depthRule,
]

/**
 * Checks the variables of a call. Filters become SQL, which takes at most 65,535 parameters, and functions that recurse walk
 * what is nested. Throws BAD_REQUEST; and VALIDATION_FAILED for half of a surrogate pair, which is not a character: encoding
 * it as UTF-8 would replace it with another.
 */
export function checkVariables(variables: object): void {
  let level: unknown[] = [variables]
  for (let depth = 0, count = 0; level.length > 0; depth++) {
    count += level.length
    if (count > MAX_VALUES || depth > MAX_VALUE_DEPTH) {
      const message = `Variables hold at most ${MAX_VALUES} values, nested at most ${MAX_VALUE_DEPTH} deep.`
      throw new ClientError('BAD_REQUEST', message)
    }
    if (!level.every((value) => typeof value !== 'string' || value.isWellFormed())) {
      throw new ClientError('VALIDATION_FAILED', 'Text must be well-formed Unicode.')
    }
    level = level.flatMap((value) => (typeof value === 'object' && value !== null ? Object.values(value) : []))
  }
}
