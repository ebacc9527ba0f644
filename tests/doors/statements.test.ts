import { EventEmitter } from 'node:events'
import { createServer, type OutgoingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import {
  buildClientSchema,
  getIntrospectionQuery,
  getNamedType,
  getNullableType,
  isEnumType,
  isInputObjectType,
  isListType,
  isNonNullType,
  isObjectType,
  type GraphQLArgument,
  type GraphQLField,
  type GraphQLInputType,
  type GraphQLOutputType,
  type GraphQLSchema,
} from 'graphql'
import { Logger as WorkerLogger, parseCrontab, runOnce, type WorkerEvents } from 'graphile-worker'
import type { Client } from 'pg'
import { parseConfig } from '../../server/config.ts'
import { makeMailer, type Mailer } from '../../server/jobs/mail.ts'
import { crontab, mailTasks, promptTasks, webhookTasks } from '../../server/jobs/tasks.ts'
import { mutation, newRequest, PASSWORD, startApi, type Api, type NewPerson } from '../harness/client.ts'
import type { Name } from '../harness/database.ts'
import { openRest, type Rest } from '../harness/rest.ts'
import { startSmtp, type Mailbox } from '../harness/smtp.ts'
import { act, closeAll, connect } from '../harness/socket.ts'

// Every statement that the server can send is run once on each version of PostgreSQL: each field, filter and ordering of
// GraphQL, each route and parameter of REST, each subscription and each job. What they answer is for other tests to judge; here
// none may fail. What has been added to the schema, to the routes or to the tasks and has no line here fails as well.

let api: Api
let rest: Rest
let root: Client
let mailbox: Mailbox
let schema: GraphQLSchema
/** Something of each kind that can be asked for by its id. */
const ids = {} as Record<
  'request' | 'requestKind' | 'user' | 'notification' | 'auditLog' | 'webhook' | 'webhookDelivery' | 'undeliveredMail',
  string
>
let attachment: string
const FORM = { 'content-type': 'multipart/form-data; boundary=b' }
const FILE = Buffer.from('--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\nbytes\r\n--b--\r\n')

beforeAll(async () => {
  api = await startApi({ TRUST_PROXY: '1' })
  rest = await openRest(api)
  root = await api.db.connect('root')
  mailbox = await startSmtp()
  schema = buildClientSchema(await api.data(getIntrospectionQuery(), {}, 'admin'))
  const { createWebhook } = await api.data(mutation('createWebhook', 'webhook { id }'), { input: WEBHOOK }, 'admin')
  ids.webhook = createWebhook.webhook.id
  ids.requestKind = 'GENERAL'
  ids.request = await newRequest(api)
  attachment = (await rest('user', `POST /requests/${ids.request}/attachments/`, FILE, FORM)).body.id
  await act(api, 'submitRequest', ids.request, 'user')
  await act(api, 'rejectRequest', ids.request, 'manager', { comment: 'No.' })
  ids.user = api.db.people.user.id
  mailbox.answer = (_at, address) => (address === api.db.people.user.email ? [550, 'No such user'] : undefined)
  await runJobs()
  mailbox.answer = () => undefined
  const one = async (text: string) => (await root.query(text)).rows[0].id
  ids.auditLog = await one('select id from app_public.audit_logs where request_id is not null limit 1')
  ids.webhookDelivery = await one('select id from app_public.webhook_deliveries limit 1')
  await plantNotification()
  ids.undeliveredMail = await one(`select id from app_public.notifications where mail_state = 'FAILED'`)
})
afterEach(closeAll)
afterAll(async () => {
  await mailbox.close()
  await api.close()
})

const WEBHOOK = { url: 'http://127.0.0.1:9/nowhere', events: ['request.submitted', 'request.rejected'] }

/** A notification of the admin's, to be read or marked. */
async function plantNotification(): Promise<void> {
  const { rows } = await root.query(
    `insert into app_public.notifications (recipient_id, kind, event, mail_state)
     values ($1, 'ROLE_CHANGED', gen_random_uuid()::text, 'NONE') returning id`,
    [api.db.people.admin.id],
  )
  ids.notification = rows[0].id
}

const config = () =>
  parseConfig({ WORKER_DATABASE_URL: api.db.urls.worker, SMTP_URL: mailbox.url, MAIL_FROM: 'assent@example.com' }, 'worker')
const taskList = (mailer: Mailer) => ({
  ...promptTasks,
  ...mailTasks(mailer),
  ...webhookTasks({ privateWebhooks: true }),
})
const done = new Set<string>()
/** Does what is due, as the worker does; but a delivery to nowhere, none of it may fail. */
async function runJobs(): Promise<void> {
  const failed: unknown[] = []
  const events: WorkerEvents = new EventEmitter()
  events.on('job:success', ({ job }) => void done.add(job.task_identifier))
  events.on('job:error', ({ job, error }) => job.task_identifier === 'deliver_webhook' || failed.push([job, String(error)]))
  const mailer = makeMailer(config())
  await runOnce({
    connectionString: api.db.urls.owner,
    taskList: taskList(mailer),
    noHandleSignals: true,
    events,
    logger: new WorkerLogger(() => () => {}),
    // Without it, that they were tried is not waited for to be recorded.
    preset: { worker: { completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
  })
  mailer.close()
  expect(failed).toEqual([])
}

describe('GraphQL', () => {
  const roles: Name[] = ['user', 'manager', 'admin']
  const SCALARS: Record<string, unknown> = {
    Boolean: true,
    Cursor: undefined,
    Datetime: '2026-01-01T00:00:00Z',
    Int: 1,
    String: 'x',
    UUID: '01890000-0000-7000-8000-000000000000',
  }

  /** A value of this type, with all that fits into it; not itself once more. */
  function valueOf(type: GraphQLInputType, seen: readonly string[] = []): unknown {
    const nullable = getNullableType(type)
    if (isListType(nullable)) {
      const value = valueOf(nullable.ofType, seen)
      return value === undefined ? undefined : [value]
    }
    if (isEnumType(nullable)) return nullable.getValues()[0]!.name
    if (!isInputObjectType(nullable)) {
      if (!(nullable.name in SCALARS)) throw new Error(`Give ${nullable.name} a value in SCALARS.`)
      return SCALARS[nullable.name]
    }
    if (seen.includes(nullable.name)) return undefined
    const members = Object.values(nullable.getFields()).map(({ name, type }) => [name, valueOf(type, [...seen, nullable.name])])
    return Object.fromEntries(members.filter(([, value]) => value !== undefined))
  }

  /** GraphQL's text of a value; an enum's has no quotes. */
  function literal(value: unknown, type: GraphQLInputType): string {
    const nullable = getNullableType(type)
    if (isListType(nullable)) return `[${(value as unknown[]).map((each) => literal(each, nullable.ofType)).join(', ')}]`
    if (!isInputObjectType(nullable)) return isEnumType(nullable) ? String(value) : JSON.stringify(value)
    const fields = nullable.getFields()
    const members = Object.entries(value as object).map(([name, each]) => `${name}: ${literal(each, fields[name]!.type)}`)
    return `{ ${members.join(', ')} }`
  }

  /** All that can be selected of a type, to this depth; nothing within itself, and no list within a list within a list. */
  function selectionOf(type: GraphQLOutputType, depth = 3, lists = 2, seen: readonly unknown[] = []): string {
    const named = getNamedType(type)
    if (!isObjectType(named)) return ''
    const fields = Object.values(named.getFields()).map((field) => {
      const isList = /Connection!?$/.test(String(field.type))
      const left = { depth: depth - 1, lists: isList ? lists - 1 : lists }
      if (isObjectType(getNamedType(field.type)) && (left.depth < 0 || left.lists < 0 || seen.includes(field))) return ''
      const needed = field.args.filter(({ type, defaultValue }) => isNonNullType(type) && defaultValue === undefined)
      const args = needed.map((arg) => `${arg.name}: ${literal(valueOf(arg.type), arg.type)}`).join(', ')
      return `${field.name}${args && `(${args})`} ${selectionOf(field.type, left.depth, left.lists, [...seen, field])}`
    })
    return `{ ${fields.join(' ')} }`
  }

  /** The variants of a field: without arguments, and with each; with each value of an ordering, and a filter by everything. */
  function callsOf(field: GraphQLField<unknown, unknown>): string[] {
    if (field.args.some(({ name }) => name === 'id')) return [`(id: ${JSON.stringify(ids[field.name as keyof typeof ids])})`]
    const variants = ({ name, type }: GraphQLArgument): string[] => {
      const named = getNamedType(type)
      if (name === 'orderBy' && isEnumType(named)) return named.getValues().map((value) => `(orderBy: [${value.name}])`)
      const value = valueOf(type)
      return value === undefined ? [] : [`(${name}: ${literal(value, type)})`]
    }
    const needed = field.args.filter(({ type }) => isNonNullType(type))
    if (needed.length > 0) return [`(${needed.map((arg) => variants(arg)[0]!.slice(1, -1)).join(', ')})`]
    return ['', ...field.args.flatMap(variants)]
  }

  const hasBefore = ({ args }: GraphQLField<unknown, unknown>) => args.some(({ name }) => name === 'before')

  async function run(document: string, who: Name): Promise<any> {
    const { status, body, text } = await api.graphql(document, {}, who)
    if (status !== 200 || body.errors) throw new Error(`As ${who}, ${status} ${text.slice(0, 1000)}\n${document}`)
    return body.data
  }

  test('answers each query, by each argument, to each role', async () => {
    for (const field of Object.values(schema.getQueryType()!.getFields())) {
      const calls = callsOf(field).map((call, i) => `{ ${field.name}${call} ${selectionOf(field.type, i === 0 ? 3 : 1)} }`)
      for (const call of calls) await Promise.all(roles.map((who) => run(call, who)))
      // Pages after one, and before one.
      if (!field.args.some(({ name }) => name === 'after')) continue
      const page = await run(`{ ${field.name}(first: 1) { pageInfo { endCursor } } }`, 'admin')
      const cursor = JSON.stringify(page[field.name].pageInfo.endCursor)
      const cuts = [`first: 2, after: ${cursor}`, `last: 2, before: ${cursor}`].slice(0, hasBefore(field) ? 2 : 1)
      for (const cut of cuts) await run(`{ ${field.name}(${cut}) ${selectionOf(field.type, 1)} }`, 'admin')
    }
    // What is asked for by its id is there to be answered.
    for (const [kind, id] of Object.entries(ids))
      expect(await run(`{ ${kind}(id: "${id}") { id } }`, 'admin')).toEqual({ [kind]: { id } })
  }, 120_000)

  test('does each change', async () => {
    const draft = () => newRequest(api)
    const submitted = () => newRequest(api, { submit: true })
    const person = (role?: 'USER') => api.person(role)
    const email = () => `${crypto.randomUUID()}@assent.test`
    const resetOf = async ({ id }: NewPerson) =>
      (await root.query(`select app_private.issue_reset_token($1, '30 minutes') as token`, [id])).rows[0].token
    const invited = async () =>
      (await root.query(`select id from app_private.register_user($1, 'Invited', 'USER', null)`, [email()])).rows[0]
    /** What each takes, and as whom: the admin unless somebody is named. */
    const inputs: Record<string, () => Promise<[input: object, who?: Name | NewPerson]>> = {
      approveRequest: async () => [{ requestId: await submitted(), comment: 'Yes.', version: 2 }],
      assignRequest: async () => [{ requestId: await submitted(), assignedToId: api.db.people.manager.id, version: 2 }],
      changePassword: async () => [{ oldPassword: PASSWORD, newPassword: 'another long passphrase' }, await person()],
      createRequest: async () => [
        { title: 'T', description: 'D', assignedToId: api.db.people.manager.id, kindId: 'GENERAL', data: {} },
      ],
      createUser: async () => [{ email: email(), name: 'Somebody', role: 'MANAGER' }],
      createWebhook: async () => [WEBHOOK],
      deactivateUser: async () => [{ userId: (await person()).id }],
      deleteRequest: async () => [{ requestId: await draft(), version: 1 }, 'user'],
      deleteWebhook: async () => [{ webhookId: await newWebhook() }],
      endSessions: async () => [{ userId: (await person()).id }],
      login: async () => [{ email: api.db.people.user.email, password: PASSWORD }],
      logout: async () => [{}, await person()],
      markAllNotificationsRead: async () => [{}, 'manager'],
      markNotificationRead: async () => [{ notificationId: ids.notification }],
      reactivateUser: async () => {
        const { id } = await person()
        await api.data(mutation('deactivateUser', 'user { id }'), { input: { userId: id } }, 'admin')
        return [{ userId: id }]
      },
      rejectRequest: async () => [{ requestId: await submitted(), comment: 'No.', version: 2 }],
      requestPasswordReset: async () => [{ email: api.db.people.user2.email }],
      resendInvitation: async () => [{ userId: (await invited()).id }],
      resendMail: async () => {
        const { rows } = await root.query(
          `insert into app_public.notifications (recipient_id, kind, event, mail_state)
           values ($1, 'ROLE_CHANGED', gen_random_uuid()::text, 'FAILED') returning id`,
          [api.db.people.user2.id],
        )
        return [{ notificationId: rows[0].id }]
      },
      resendWebhookDelivery: async () => {
        await root.query(`update app_public.webhook_deliveries set state = 'FAILED' where id = $1`, [ids.webhookDelivery])
        return [{ deliveryId: ids.webhookDelivery }]
      },
      resetPassword: async () => [{ token: await resetOf(await person()), newPassword: 'another long passphrase' }],
      saveRequestKind: async () => [
        { id: 'STATEMENT', name: 'S', description: null, schema: { type: 'object' }, isActive: true },
      ],
      setNotificationPreference: async () => [{ kind: 'SUBMITTED', delivery: 'DIGEST' }],
      submitRequest: async () => [{ requestId: await draft(), version: 1 }, 'user'],
      updateRequest: async () => [
        { requestId: await draft(), title: 'T', description: null, assignedToId: null, data: {}, version: 1 },
        'user',
      ],
      updateUser: async () => [{ userId: (await person()).id, name: 'Another name', role: 'MANAGER' }],
      updateWebhook: async () => [
        { webhookId: await newWebhook(), url: 'https://hooks.example.com/x', events: ['user.created'], isEnabled: false },
      ],
    }
    const newWebhook = async () =>
      (
        await run(
          `mutation { createWebhook(input: { url: "https://a.example.com", events: [\"user.created\"] }) { webhook { id } } }`,
          'admin',
        )
      ).createWebhook.webhook.id
    const mutations = schema.getMutationType()!.getFields()
    expect(Object.keys(inputs).toSorted()).toEqual(Object.keys(mutations).toSorted())
    for (const [name, field] of Object.entries(mutations)) {
      const [input, who = 'admin' as const] = await inputs[name]!()
      await api.data(mutation(name, selectionOf(field.type).slice(1, -1)), { input }, who)
    }
  })

  test('tells by each subscription', async () => {
    const socket = await connect(api, 'manager')
    const id = await newRequest(api)
    const documents: Record<string, (selection: string) => string> = {
      requestUpdated: (selection) => `subscription { requestUpdated(id: "${id}") ${selection} }`,
      requestsChanged: (selection) => `subscription { requestsChanged ${selection} }`,
      inboxChanged: (selection) => `subscription { inboxChanged ${selection} }`,
      notificationReceived: (selection) => `subscription { notificationReceived ${selection} }`,
    }
    const subscriptions = schema.getSubscriptionType()!.getFields()
    expect(Object.keys(documents).toSorted()).toEqual(Object.keys(subscriptions).toSorted())
    await act(api, 'submitRequest', id, 'user')
    await runJobs()
    const selection = (name: string) => selectionOf(subscriptions[name]!.type, 3, 0)
    const updated = await socket.subscribe(documents['requestUpdated']!(selection('requestUpdated')))
    const inbox = await socket.subscribe(documents['inboxChanged']!(selection('inboxChanged')))
    const received = await (
      await connect(api, 'user')
    ).subscribe(documents['notificationReceived']!(selection('notificationReceived')))
    await act(api, 'approveRequest', id, 'manager')
    await runJobs()
    for (const heard of [updated, inbox, received]) await heard.data()
  })
})

describe('REST', () => {
  /** The one page that a browser alone is shown. */
  const BY_COOKIE = 'GET /auth/session'
  /** A value of each kind of parameter. */
  function parameterOf({ enum: choices, type, format, default: usual }: Record<string, any>): string {
    if (choices) return choices[0]
    if (format === 'uuid') return api.db.people.user.id
    if (format === 'date-time') return '2026-01-01T00:00:00Z'
    return type === 'boolean' ? 'true' : String(usual ?? 'laptop')
  }
  const idFor = (template: string) =>
    template.startsWith('/users') ? ids.user : template.startsWith('/attachments') ? attachment : ids.request

  test('answers each list and each page, by each parameter, to each role', async () => {
    for (const [template, { get }] of Object.entries<any>(rest.document.paths)) {
      if (!get || `GET ${template}` === BY_COOKIE) continue
      const path = `GET ${template.replace('{kind}', 'GENERAL').replace('{id}', idFor(template))}`
      const queries = get.parameters
        .filter((parameter: any) => parameter.in === 'query' && parameter.name !== 'cursor')
        .flatMap(({ name, schema }: any) =>
          (schema.enum ?? [parameterOf(schema)]).map((value: string) => `${name}=${encodeURIComponent(value)}`),
        )
      for (const who of ['user', 'manager', 'admin'] as const) {
        for (const query of ['', ...queries]) {
          const answer = await rest(who, `${path}?${query}`)
          // Some orderings are those of the inbox alone.
          const { status } = answer.status === 422 ? await rest(who, `${path}?awaiting_my_decision=true&${query}`) : answer
          expect([template, query, status]).toEqual([template, query, 200])
        }
      }
      // Pages after one, and before that.
      const { next } = (await rest('admin', `${path}?page_size=1`)).body ?? {} // A file is no page.
      if (next) expect((await rest('admin', `GET ${(await rest('admin', `GET ${next}`)).body.previous}`)).status).toBe(200)
    }
  })

  test('does each change', async () => {
    const people = api.db.people
    const draft = () => newRequest(api)
    const submitted = () => newRequest(api, { submit: true })
    const newPassword = 'another long passphrase'
    type Change = [path: string, body?: object, who?: Name | NewPerson, headers?: OutgoingHttpHeaders]
    const logIn = async ({ email }: { email: string }) =>
      (await rest(undefined, 'POST /auth/session/', { email, password: PASSWORD })).headers['set-cookie']![0]!.split(';')[0]!
    /** What each route is called by: as the admin, unless somebody is named. */
    const changes: Record<string, () => Promise<Change>> = {
      'POST /auth/token': async () => ['', { email: people.user.email, password: PASSWORD }],
      'POST /auth/refresh': async () => {
        const { body } = await rest(undefined, 'POST /auth/token/', { email: people.user.email, password: PASSWORD })
        return ['', { refresh_token: body.refresh_token }]
      },
      'POST /auth/session': async () => ['', { email: people.user.email, password: PASSWORD }],
      'GET /auth/session': async () => ['', undefined, undefined, { cookie: await logIn(people.user) }],
      'DELETE /auth/session': async () => ['', undefined, await api.person()],
      'DELETE /auth/sessions/{id}': async () => {
        const person = await api.person()
        await logIn(person)
        const { results } = (await rest(person, 'GET /auth/sessions/')).body
        return [results.find((one: any) => !one.is_current).id, undefined, person]
      },
      'DELETE /auth/sessions': async () => ['', undefined, await api.person()],
      'POST /auth/password': async () => ['', { old_password: PASSWORD, new_password: newPassword }, await api.person()],
      'POST /auth/password-reset': async () => ['', { email: people.user2.email }],
      'POST /auth/password-reset/confirm': async () => {
        const { id } = await api.person()
        const { rows } = await root.query(`select app_private.issue_reset_token($1, '30 minutes') as token`, [id])
        return ['', { token: rows[0].token, new_password: newPassword }]
      },
      'POST /requests': async () => [
        '',
        { title: 'T', description: 'D', assigned_to_id: people.manager.id },
        'user',
        { 'idempotency-key': 'a-key' },
      ],
      'PATCH /requests/{id}': async () => [
        await draft(),
        { title: 'T', description: null, assigned_to_id: null },
        'user',
        { 'if-match': '*' },
      ],
      'DELETE /requests/{id}': async () => [await draft(), undefined, 'user'],
      'POST /requests/{id}/submit': async () => [await draft(), {}, 'user'],
      'POST /requests/{id}/approve': async () => [await submitted(), { comment: 'Yes.' }],
      'POST /requests/{id}/reject': async () => [await submitted(), { comment: 'No.' }],
      'POST /requests/{id}/assign': async () => [await submitted(), { assigned_to_id: people.manager.id }],
      'POST /requests/{id}/attachments': async () => [await draft(), FILE, 'user', FORM],
      'DELETE /attachments/{id}': async () => [
        (await rest('user', `POST /requests/${await draft()}/attachments/`, FILE, FORM)).body.id,
        undefined,
        'user',
      ],
      'POST /users': async () => ['', { email: `${crypto.randomUUID()}@assent.test`, name: 'Somebody', role: 'MANAGER' }],
      'PATCH /users/{id}': async () => [(await api.person()).id, { name: 'Another name', role: 'MANAGER', is_deleted: false }],
      'DELETE /users/{id}': async () => [(await api.person()).id],
      'POST /notifications/{id}/read': async () => (await plantNotification(), [ids.notification]),
      'POST /notifications/read-all': async () => [''],
      'PATCH /notifications/preferences': async () => ['', { kind: 'SUBMITTED', delivery: 'DIGEST' }],
    }
    const routes = Object.entries<any>(rest.document.paths).flatMap(([template, operations]) =>
      Object.keys(operations).map((method) => `${method.toUpperCase()} ${template}`),
    )
    const isRead = (route: string) => route.startsWith('GET') && route !== BY_COOKIE
    expect(Object.keys(changes).toSorted()).toEqual(routes.filter((route) => !isRead(route)).toSorted())
    for (const [route, change] of Object.entries(changes)) {
      const [id, body, who = 'admin' as const, headers] = await change()
      const isOpen = /^POST .auth.(token|refresh|session|password-reset)/.test(route) || headers?.cookie
      const { status, text } = await rest(isOpen ? undefined : who, route.replace('{id}', id), body, headers)
      if (status >= 300) throw new Error(`${route}: ${status} ${text}`)
    }
  })
})

describe('the worker', () => {
  test('does each task', async () => {
    const receiver = createServer((_req, res) => void res.end())
    await new Promise<void>((resolve) => receiver.listen(0, '127.0.0.1', resolve))
    const url = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/`
    // What goes out, to a webhook too; what is asked for without a session; and what comes by time.
    await root.query('update app_public.webhooks set url = $1, is_enabled = true', [url])
    await newRequest(api, { submit: true })
    await api.data(mutation('requestPasswordReset', 'clientMutationId'), { input: { email: api.db.people.user2.email } })
    // No server adds this any more: it is a job that one of migration 000009 has left.
    const entry = `(select id from app_public.audit_logs where action = 'SUBMIT' limit 1)`
    await root.query(`select graphile_worker.add_job('notify', json_build_object('id', ${entry}))`)
    for (const { task } of parseCrontab(crontab)) await root.query('select graphile_worker.add_job($1)', [task])
    while ((await root.query('select from graphile_worker.jobs where attempts = 0')).rows.length > 0) await runJobs()
    receiver.close()
    expect([...done].toSorted()).toEqual(Object.keys(taskList(makeMailer(config()))).toSorted())
  })
})

test('health and metrics are asked of the database too', async () => {
  expect((await api.send({ method: 'GET', path: '/readyz' })).status).toBe(200)
  expect((await api.metrics()).status).toBe(200)
  expect(api.log()).not.toContain('internal error')
})
