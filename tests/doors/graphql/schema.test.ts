import { readFile } from 'node:fs/promises'
import {
  buildSchema,
  isEnumType,
  isInputObjectType,
  isIntrospectionType,
  isObjectType,
  isSpecifiedScalarType,
  type GraphQLEnumType,
  type GraphQLNamedType,
  type GraphQLObjectType,
  type GraphQLSchema,
} from 'graphql'
import { cloneDatabase, type TestDatabase } from '../../harness/database.ts'
import { printGraphQL } from '../../harness/schema.ts'

let db: TestDatabase
let sdl: string
let schema: GraphQLSchema

beforeAll(async () => {
  db = await cloneDatabase()
  sdl = await printGraphQL(db.urls.auth)
  schema = buildSchema(sdl)
})
afterAll(() => db.close())

/** Something with a name in the schema: `Type`, `Type.field` or `Type.field.argument`. */
interface Named {
  readonly path: string
  readonly name: string
  readonly description: string | null | undefined
}

function inside(type: GraphQLNamedType): Named[] {
  const named = ({ name, description }: Omit<Named, 'path'>, ...path: string[]): Named => ({
    path: [...path, name].join('.'),
    name,
    description,
  })
  if (isEnumType(type)) return type.getValues().map((value) => named(value, type.name))
  if (!isObjectType(type) && !isInputObjectType(type)) return []
  return Object.values<any>(type.getFields()).flatMap((field) => [
    named(field, type.name),
    ...(field.args ?? []).map((argument: Named) => named(argument, type.name, field.name)),
  ])
}

/** Mutations that the server adds, around functions that no caller may execute. */
const ofServer = ['changePassword', 'login', 'resetPassword']

const types = () =>
  Object.values(schema.getTypeMap()).filter((type) => !isIntrospectionType(type) && !isSpecifiedScalarType(type))

test('is server/graphql/schema.graphql; if it has changed on purpose, run: npm run dump', async () => {
  expect(sdl).toBe(await readFile('server/graphql/schema.graphql', 'utf8'))
})

test('changes rows only by functions of the database', async () => {
  const owner = await db.connect('owner')
  const { rows } = await owner.query<{ name: string }>(`
    select proname as name from pg_proc where pronamespace = 'app_public'::regnamespace and provolatile = 'v'`)
  const functions = rows.map(({ name }) => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()))
  const mutations = Object.keys(schema.getMutationType()!.getFields())
  expect(mutations.toSorted()).toEqual([...functions, ...ofServer].toSorted())
})

test('names no secret, and returns none but the tokens of a login', () => {
  const named = types().filter((type) => !isEnumType(type))
  const names = named.flatMap((type) => [type.name, ...inside(type).map(({ path }) => path)])
  // endSessions ends them, and shows none.
  const others = names.filter((name) => !/endSessions/i.test(name))
  expect(others.filter((name) => /secret|session|hash|credential|digest/i.test(name))).toEqual([])
  const outputs = types()
    .filter((type) => isObjectType(type) && type !== schema.getMutationType())
    .flatMap(inside)
  const secretive = outputs.filter(({ name }) => /password|token/i.test(name)).map(({ path }) => path)
  expect(secretive).toEqual(['LoginPayload.accessToken', 'LoginPayload.refreshToken', 'Query.csrfToken'])
})

test('describes everything that comes from the database', () => {
  const theirs = /(Condition|Filter|Connection|Edge|Aggregates?|OrderBy|GroupBy)$/ // These come from libraries, and their names say it all.
  const servers = new RegExp(`^(${ofServer.join('|')})(Input|Payload)$`, 'i')
  const ours = types().filter(({ name }) => !theirs.test(name) && !servers.test(name))
  const named = ours.flatMap((type) => [{ path: type.name, description: type.description }, ...inside(type)])
  expect(named.filter(({ description }) => !description).map(({ path }) => path)).toEqual([])
})

test('is nullable only where something can be null', () => {
  // Root fields are: an error in one must not take the others with it.
  const roots = [schema.getQueryType(), schema.getMutationType(), schema.getSubscriptionType()]
  const outputs = types().filter((type) => isObjectType(type) && !roots.includes(type) && !/Aggregates$/.test(type.name))
  const fields = outputs.flatMap((type) =>
    Object.values((type as GraphQLObjectType).getFields()).map((field) => ({ type, field })),
  )
  const nullable = fields.filter(
    ({ field: { name, type } }) => !['clientMutationId', 'aggregates'].includes(name) && !/^\[\w+!\]!$|^\w+!$/.test(`${type}`),
  )
  expect(nullable.map(({ type, field }) => `${type.name}.${field.name}`).toSorted()).toEqual([
    'AuditLog.actor', // a failed login, or SQL
    'AuditLog.actorId',
    'AuditLog.ipAddress',
    'AuditLog.request', // about a person, or no longer visible
    'AuditLog.requestId',
    'AuditLog.user', // about a request
    'AuditLog.userId',
    'Notification.actor', // scheduled
    'Notification.actorId',
    'Notification.readAt',
    'Notification.request', // about the account, or no longer visible
    'Notification.requestId',
    'PageInfo.endCursor', // an empty page
    'PageInfo.startCursor',
    'Request.assignedTo',
    'Request.assignedToId',
    'Request.description',
    'Request.reviewComment',
    'Request.reviewedAt',
    'Request.reviewedBy',
    'Request.reviewedById',
    'Request.submittedAt',
    'RequestKind.description',
    'RequestUpdatedPayload.request', // no longer visible
    'TurnaroundRow.averageHours', // of no decision
    'TurnaroundRow.day', // all days
    'TurnaroundRow.decider', // everybody
    'TurnaroundRow.deciderId',
    'TurnaroundRow.medianHours',
    'UndeliveredMail.error',
    'UndeliveredMail.request', // about the account
    'UndeliveredMail.requestId',
    'User.email', // not for everybody
    'Webhook.failingSince',
    'WebhookDelivery.auditLog', // for those who read the trail
    'WebhookDelivery.deliveredAt',
    'WebhookDelivery.error',
    'WebhookDelivery.responseStatus',
    'WebhookDelivery.webhook', // removed meanwhile
  ])
})

test('has the closed sets of the database as enums, with each of their values', async () => {
  const owner = await db.connect('owner')
  const sets: Record<string, string> = {
    AuditAction: 'select action, description from app_public.audit_actions',
    MailDelivery: 'select delivery, description from app_public.mail_deliveries',
    NotificationKind: 'select kind, headline from app_public.notification_kinds',
    RequestAction: `select action, description from app_public.audit_actions
      where action in (select action from app_public.request_transitions where from_status is not null)`,
    RequestStatus: 'select status, description from app_public.request_statuses',
    Role: 'select role, description from app_public.roles',
    WebhookDeliveryState: `select state[1], null from regexp_matches((select pg_get_constraintdef(oid) from pg_constraint
      where conname = 'webhook_deliveries_state_check'), '''([A-Z]+)''', 'g') state`,
  }
  for (const [name, text] of Object.entries(sets)) {
    const { rows } = await owner.query<[string, string | null]>({ text, rowMode: 'array' })
    const type = schema.getType(name) as GraphQLEnumType
    expect(type.getValues().map((value) => value.name)).toEqual(rows.map(([value]) => value).toSorted())
    for (const [value, description] of rows) if (description) expect(type.getValue(value)!.description).toBe(description)
    expect(type.description).toBeTruthy()
  }
})
