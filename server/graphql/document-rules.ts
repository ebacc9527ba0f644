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
  type SelectionNode,
  type SelectionSetNode,
  type ValidationContext,
  type ValidationRule,
} from 'graphql'
import { ClientError, invalid, type Fault } from '../errors.ts'
import { MAX_PAGE_SIZE, PAGE_SIZE } from '../http/pages.ts'

const MAX_ROOT_FIELDS = 10
/** Fields and fragments that a document selects; GraphiQL's introspection has 240. */
export const MAX_SELECTIONS = 400
/** Rows that a document can ask for: the entries of each request on a page, both of 100, are 10,100. */
const MAX_ROWS = 20_000
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
 * Sums up the selections of a set: each field by `ofField`, which is given the sum of what stands below it, and each fragment by
 * what it holds and `perFragment`, wherever it is spread. Each fragment is walked only once, so nesting them costs nothing.
 */
function makeSum<T>(
  fragments: Fragments,
  zero: T,
  add: (sum: T, more: T) => T,
  ofField: (field: FieldNode, below: T) => T,
  perFragment = zero,
) {
  const sums = new Map<string, T>()
  function ofSelection(selection: SelectionNode): T {
    if (selection.kind === Kind.FIELD) return ofField(selection, selection.selectionSet ? sumUp(selection.selectionSet) : zero)
    if (selection.kind === Kind.INLINE_FRAGMENT) return add(perFragment, sumUp(selection.selectionSet))
    const name = selection.name.value
    const fragment = fragments.get(name)
    if (fragment && !sums.has(name)) {
      sums.set(name, zero) // Another rule refuses a fragment that leads back to itself.
      sums.set(name, sumUp(fragment.selectionSet))
    }
    return add(perFragment, sums.get(name) ?? zero)
  }
  const sumUp = ({ selections }: SelectionSetNode): T => selections.map(ofSelection).reduce(add, zero)
  return sumUp
}

const plus = (sum: number, more: number) => sum + more
const makeCountSelections = (fragments: Fragments) => makeSum(fragments, 0, plus, (_field, below) => 1 + below, 1)

/** Do all operations of a document begin with these fields alone, those in fragments included? */
export function asksOnlyFor(names: ReadonlySet<string>, document: DocumentNode): boolean {
  const and = (all: boolean, more: boolean) => all && more
  const areThese = makeSum<boolean>(fragmentsOf(document), true, and, ({ name }) => names.has(name.value))
  return operationsOf(document).every(({ selectionSet }) => areThese(selectionSet))
}

/** How many fields and fragments all operations of a document select, as Grafast writes them out. */
export function selectionsOf(document: DocumentNode): number {
  const count = makeCountSelections(fragmentsOf(document))
  return operationsOf(document)
    .map(({ selectionSet }) => count(selectionSet))
    .reduce(plus, 0)
}

/** The rows that a field's page can have. */
function pageSizeOf({ arguments: args = [] }: FieldNode): number {
  const size = args.find(({ name: { value } }) => value === 'first' || value === 'last')?.value
  if (!size) return PAGE_SIZE
  return size.kind === Kind.INT ? Math.min(Number(size.value), MAX_PAGE_SIZE) : MAX_PAGE_SIZE
}

/** Lists that are no pages, and the rows that they can have. Groups can be as many as rows: they count as a page. */
export const LISTS: Readonly<Record<string, number>> = { waitsFor: 100, turnaround: 400, groupedAggregates: MAX_PAGE_SIZE }

/** Rows of the connection that the selections stand in, for each row that it has; and those of other fields. */
interface Rows {
  readonly own: number
  readonly below: number
}

/** Counts the rows that a document can ask for, of which a page within a page has many. */
const makeCountRows = (fragments: Fragments) =>
  makeSum<Rows>(
    fragments,
    { own: 0, below: 0 },
    (sum, more) => ({ own: sum.own + more.own, below: sum.below + more.below }),
    (field, { own, below }) => {
      const { value: name } = field.name
      if (name === 'nodes' || name === 'edges') return { own: 1 + own + below, below: 0 }
      const rows = LISTS[name]
      return { own: 0, below: rows ? rows * (1 + own + below) : pageSizeOf(field) * own + below }
    },
  )

/**
 * Limits the root fields of each operation, in a mutation to one, since each would be a transaction of its own; and its rows,
 * since it could ask for a page of a hundred rows for each of a hundred rows, under thirty aliases. Limits the selections of all
 * operations together, and of each fragment, since one may be used by none of them: what validates a document compares each field
 * with all the others. Throws BAD_REQUEST.
 */
export function checkSize(document: DocumentNode): void {
  const fragments = fragmentsOf(document)
  const countFields = makeSum(fragments, 0, plus, () => 1)
  const countRows = makeCountRows(fragments)
  for (const { operation, selectionSet } of operationsOf(document)) {
    const most = operation === OperationTypeNode.QUERY ? MAX_ROOT_FIELDS : 1
    if (countFields(selectionSet) > most) {
      throw new ClientError('BAD_REQUEST', `A ${operation} has at most ${most} root field${most > 1 ? 's' : ''}.`)
    }
    if (countRows(selectionSet).below > MAX_ROWS) {
      const most = MAX_ROWS.toLocaleString('en')
      const message = `A ${operation} can ask for at most ${most} rows, with those of pages within pages.`
      throw new ClientError('BAD_REQUEST', message)
    }
  }
  const count = makeCountSelections(fragments)
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

/** What no text can have: PostgreSQL cannot store NUL, and encoding half a surrogate pair would replace it with another. */
function faultOf(text: string): string | undefined {
  if (!text.isWellFormed()) return 'Text must be well-formed Unicode.'
  return text.includes('\0') ? 'Text must not contain the character NUL.' : undefined
}

/**
 * Checks the variables of a call. Filters become SQL, which takes at most 65,535 parameters, and functions that recurse walk
 * what is nested. Throws BAD_REQUEST, and VALIDATION_FAILED with the fields whose text no field can have.
 */
export function checkVariables(variables: object): void {
  const faults: Fault[] = []
  let level: [field: string, value: unknown][] = [['', variables]]
  for (let depth = 0, count = 0; level.length > 0; depth++) {
    count += level.length
    if (count > MAX_VALUES || depth > MAX_VALUE_DEPTH) {
      const message = `Variables hold at most ${MAX_VALUES} values, nested at most ${MAX_VALUE_DEPTH} deep.`
      throw new ClientError('BAD_REQUEST', message)
    }
    for (const [field, value] of level) {
      const message = typeof value === 'string' ? faultOf(value) : undefined
      if (message) faults.push({ field, message })
    }
    level = level.flatMap(([field, value]) => {
      if (typeof value !== 'object' || value === null) return []
      return Array.isArray(value) ? value.map((item): [string, unknown] => [field, item]) : Object.entries(value)
    })
  }
  if (faults.length > 0) throw invalid(faults)
}
