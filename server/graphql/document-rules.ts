import { depthLimit } from '@graphile/depth-limit'
import {
  GraphQLError,
  Kind,
  OperationTypeNode,
  specifiedRules,
  type ASTNode,
  type DefinitionNode,
  type DocumentNode,
  type FieldNode,
  type FragmentDefinitionNode,
  type FragmentSpreadNode,
  type InlineFragmentNode,
  type SelectionSetNode,
  type ValidationContext,
  type ValidationRule,
} from 'graphql'
import { ClientError } from '../errors.ts'

const MAX_ROOT_FIELDS = 10
/** Fields and fragments that a document selects; GraphiQL's introspection has 240. */
export const MAX_SELECTIONS = 400
const MAX_ALIASES = 30
const MAX_VARIABLE_USES = 60
const MAX_VALUES = 1000
const MAX_VALUE_DEPTH = 20
/** Names, punctuators and values in a document; GraphiQL's introspection has about 450. */
export const MAX_TOKENS = 2000

const refuse = (context: ValidationContext, nodes: ASTNode, message: string) =>
  context.reportError(new GraphQLError(message, { nodes }))

type Fragments = ReadonlyMap<string, FragmentDefinitionNode>

const isOperation = (node: DefinitionNode) => node.kind === Kind.OPERATION_DEFINITION
const operationsOf = ({ definitions }: DocumentNode) => definitions.filter(isOperation)
const fragmentsOf = ({ definitions }: DocumentNode): Fragments =>
  new Map(definitions.flatMap((node) => (node.kind === Kind.FRAGMENT_DEFINITION ? [[node.name.value, node]] : [])))

/**
 * Counts the selections of a set, with those of its fragments wherever they are spread: all of them with `deep`, else only the
 * fields of the set itself. Each fragment is walked only once, so nesting them costs nothing.
 */
function makeCount(fragments: Fragments, deep: boolean) {
  const counts = new Map<string, number>()
  return function count({ selections }: SelectionSetNode): number {
    return selections.reduce((sum, selection) => {
      if (selection.kind !== Kind.FRAGMENT_SPREAD) {
        const within = selection.kind === Kind.INLINE_FRAGMENT || deep ? selection.selectionSet : undefined
        return sum + (selection.kind === Kind.FIELD || deep ? 1 : 0) + (within ? count(within) : 0)
      }
      const name = selection.name.value
      const fragment = fragments.get(name)
      if (fragment && !counts.has(name)) {
        counts.set(name, 0) // Another rule refuses a fragment that leads back to itself.
        counts.set(name, count(fragment.selectionSet))
      }
      return sum + (counts.get(name) ?? 0) + (deep ? 1 : 0)
    }, 0)
  }
}

/** The names of the fields that a document's operations begin with, those in fragments included. */
export function rootFieldsOf(document: DocumentNode): string[] {
  const fragments = fragmentsOf(document)
  const seen = new Set<string>()
  const names = ({ selections }: SelectionSetNode): string[] =>
    selections.flatMap((selection) => {
      if (selection.kind === Kind.FIELD) return [selection.name.value]
      if (selection.kind === Kind.INLINE_FRAGMENT) return names(selection.selectionSet)
      const fragment = fragments.get(selection.name.value)
      if (!fragment || seen.has(selection.name.value)) return []
      seen.add(selection.name.value)
      return names(fragment.selectionSet)
    })
  return operationsOf(document).flatMap(({ selectionSet }) => names(selectionSet))
}

/** How many fields and fragments all operations of a document select, as Grafast writes them out. */
export function selectionsOf(document: DocumentNode): number {
  const count = makeCount(fragmentsOf(document), true)
  return operationsOf(document).reduce((sum, { selectionSet }) => sum + count(selectionSet), 0)
}

/**
 * Limits the root fields of each operation: in a mutation to one, since each would be a transaction of its own. Limits the
 * selections of all operations together, and of each fragment, since one may be used by none of them: what validates a document
 * compares each field with all the others. Throws BAD_REQUEST.
 */
export function checkSize(document: DocumentNode): void {
  const fragments = fragmentsOf(document)
  const countFields = makeCount(fragments, false)
  for (const { operation, selectionSet } of operationsOf(document)) {
    const most = operation === OperationTypeNode.QUERY ? MAX_ROOT_FIELDS : 1
    if (countFields(selectionSet) > most) {
      throw new ClientError('BAD_REQUEST', `A ${operation} has at most ${most} root field${most > 1 ? 's' : ''}.`)
    }
  }
  const count = makeCount(fragments, true)
  const most = Math.max(selectionsOf(document), ...Array.from(fragments.values(), ({ selectionSet }) => count(selectionSet)))
  if (most > MAX_SELECTIONS) {
    const message = `A document has at most ${MAX_SELECTIONS} fields and fragments, each counted wherever it is spread.`
    throw new ClientError('BAD_REQUEST', message)
  }
}

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
