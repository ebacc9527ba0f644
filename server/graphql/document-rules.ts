import { depthLimit } from '@graphile/depth-limit'
import {
  GraphQLError,
  Kind,
  NoSchemaIntrospectionCustomRule,
  OperationTypeNode,
  specifiedRules,
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

/**
 * The fields of a selection, with those of its fragments wherever they are spread; with `deep`, also the fields within
 * them. Each fragment is counted once, so that nesting costs nothing.
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
      counts.set(name, 0) // What leads back to itself is refused by another rule.
      counts.set(name, countFields(context, fragment.selectionSet, deep, counts))
    }
    return sum + (counts.get(name) ?? 0)
  }, 0)
}

/**
 * At most 10 root fields, and one in a mutation: each mutation field would be a transaction of its own. And an end to
 * all fields together: Grafast writes fragments out, so that spread in each other twice they grow exponentially.
 */
const fieldsRule: ValidationRule = (context) => ({
  OperationDefinition(node) {
    const most = node.operation === OperationTypeNode.QUERY ? MAX_ROOT_FIELDS : 1
    if (countFields(context, node.selectionSet, false) > most) {
      context.reportError(
        new GraphQLError(`A ${node.operation} has at most ${most} root field${most > 1 ? 's' : ''}.`, { nodes: node }),
      )
    }
    if (countFields(context, node.selectionSet, true) > MAX_FIELDS) {
      context.reportError(
        new GraphQLError(`A ${node.operation} has at most ${MAX_FIELDS} fields, with its fragments written out.`, {
          nodes: node,
        }),
      )
    }
  },
})

/** What a subscription tells is known before it is run: nothing of it depends on a condition (GraphQL, 5.2.4.1). */
const subscriptionRule: ValidationRule = (context) => {
  function check(node: FieldNode | FragmentSpreadNode | InlineFragmentNode): void {
    if (context.getParentType() !== context.getSchema().getSubscriptionType()) return
    if (node.directives?.some(({ name: { value } }) => value === 'skip' || value === 'include')) {
      context.reportError(new GraphQLError('The field of a subscription cannot have a condition.', { nodes: node }))
    }
  }
  return { Field: check, FragmentSpread: check, InlineFragment: check }
}

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

/** Each use of a variable repeats all that it holds. In one list twice, Grafast 1.0 fails on it (in __inputList). */
const variablesRule: ValidationRule = (context) => {
  let uses = 0
  return {
    Variable(node, key) {
      if (key !== 'variable' && ++uses === MAX_VARIABLE_USES + 1) {
        context.reportError(new GraphQLError(`A document uses variables at most ${MAX_VARIABLE_USES} times.`, { nodes: node }))
      }
    },
    ListValue(node) {
      const names = node.values.flatMap((value) => (value.kind === Kind.VARIABLE ? [value.name.value] : []))
      if (new Set(names).size < names.length) {
        context.reportError(new GraphQLError('A list names a variable at most once.', { nodes: node }))
      }
    },
  }
}

/**
 * Checks what a call brings in its variables. Filters become SQL, whose parameters are at most 65,535, and nesting is
 * met by functions that call themselves. Throws BAD_REQUEST, and VALIDATION_FAILED for half of a surrogate pair: that is
 * no character, and on its way to UTF-8 it would become another.
 */
export function checkVariables(variables: object): void {
  let level: unknown[] = [variables]
  for (let depth = 0, count = 0; level.length > 0; depth++) {
    count += level.length
    if (count > MAX_VALUES || depth > MAX_VALUE_DEPTH) {
      throw new ClientError(
        'BAD_REQUEST',
        `Variables hold at most ${MAX_VALUES} values, at most ${MAX_VALUE_DEPTH} within each other.`,
      )
    }
    if (!level.every((value) => typeof value !== 'string' || value.isWellFormed())) {
      throw new ClientError('VALIDATION_FAILED', 'Text must be well-formed Unicode.')
    }
    level = level.flatMap((value) => (typeof value === 'object' && value !== null ? Object.values(value) : []))
  }
}

// Two lists within each other are a request's audit log for each request of a page; a third would multiply again.
const depthRule = depthLimit({
  maxDepth: 12,
  maxListDepth: 3,
  maxSelfReferentialDepth: 2,
  // What GraphiQL and graphql-js ask of the schema.
  maxIntrospectionDepth: 14,
  maxDepthByFieldCoordinates: { 'Request.auditLogs': 1, '__Type.ofType': 9 },
  revealDetails: true,
})

/** What a document must satisfy. Without introspection, for those whom a production schema is not shown. */
export const documentRules: readonly ValidationRule[] = [
  ...specifiedRules,
  fieldsRule,
  subscriptionRule,
  aliasesRule,
  variablesRule,
  depthRule,
]
export const documentRulesWithoutIntrospection: readonly ValidationRule[] = [...documentRules, NoSchemaIntrospectionCustomRule]
