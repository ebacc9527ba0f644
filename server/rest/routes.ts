import type { IncomingMessage } from 'node:http'
import { stringifySetCookie } from 'cookie'
import { ClientError, unauthenticated, type Code } from '../errors.ts'
import { COOKIE, csrfToken, toCookie, TOKEN_LIFETIME, type Identity, type Tokens } from '../http/identity.ts'
import { prepared, readPage, type Filter, type List, type Query } from './lists.ts'
import { flag, instant, isUuid, oneOf, text, uuid } from './parameters.ts'
import type { Passwords } from '../passwords.ts'
import type { Ask } from '../sql/as-caller.ts'

/** What a route is given. */
export interface Call {
  readonly req: IncomingMessage
  readonly caller: Identity
  readonly params: Readonly<Record<string, string | undefined>>
  readonly query: Query
  /** The members of the body that the route names, as far as they were sent. */
  readonly body: Readonly<Record<string, unknown>>
  /** Asks the database as the caller. */
  readonly ask: Ask
  /** Asks it as somebody else: who has just logged in. */
  readonly askAs: (caller: Identity) => Ask
  /** The URL that the route was called by, without its query. */
  readonly url: string
  readonly isSecure: boolean
  readonly tokens: Tokens
  readonly passwords: Passwords
}

export interface Answer {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  /** JSON text; without it the answer is empty. */
  readonly body?: string
  /** Of the request that is shown: becomes its entity tag. */
  readonly version?: number
}

/** One operation of the REST API: what it is called by, what it shows, and the SQL that it stands for. */
export interface Route {
  readonly method: 'GET' | 'POST' | 'PATCH' | 'DELETE'
  readonly path: string
  readonly summary: string
  readonly tag: 'Authentication' | 'Requests' | 'Audit' | 'People' | 'Notifications'
  /** Needs no credentials. */
  readonly open?: true
  /** Logs a browser in, which a page of somebody else's could have it do: only from an origin of ours. */
  readonly fromOwnOrigin?: true
  /** Hashes a password: is asked on the pool for what is slow. */
  readonly slow?: true
  /** Its second call is no repetition, or nobody's: it takes no Idempotency-Key. */
  readonly unrepeatable?: true
  /** If-Match counts. */
  readonly versioned?: true
  /** JSON Schemas of the members of the body that it reads, and which of them it cannot do without. */
  readonly body?: Readonly<Record<string, object>>
  readonly required?: readonly string[]
  readonly list?: List
  /** The status of its answer, and the schema in server/rest/openapi.ts; none: the answer is empty. */
  readonly status: 200 | 201 | 202 | 204
  readonly shows?: string
  /** The errors that only such a route has. */
  readonly errors?: readonly Code[]
  readonly run: (call: Call) => Promise<Answer>
}

/** The rows of the reference tables that parameters are checked against. */
export interface Reference {
  readonly statuses: readonly string[]
  readonly actions: readonly string[]
  readonly roles: readonly string[]
}

const notFound = () => new ClientError('NOT_FOUND', 'There is no such thing, or none that you may see.')

/** The id in the path. What is no UUID is nobody's id. */
function idOf({ params }: Call): string {
  const id = params['id']
  if (id === undefined || !isUuid(id)) throw notFound()
  return id
}

/** Asks for one document. */
async function show({ ask }: Call, sql: string, values: unknown[]): Promise<Answer> {
  const [row] = await ask<{ document: string | null; version?: number }>({ ...prepared(sql), values })
  if (!row?.document) throw notFound()
  return { status: 200, body: row.document, ...(row.version && { version: row.version }) }
}

/** The same of something new, which has its place. */
const created = (answer: Answer, location: string): Answer => ({ ...answer, status: 201, headers: { location } })

/** Asks for something to be done. */
async function perform({ ask }: Call, sql: string, values: unknown[] = []): Promise<Answer> {
  await ask({ ...prepared(sql), values })
  return { status: 204 }
}

const list =
  (list: List) =>
  async ({ ask, query, url }: Call): Promise<Answer> => ({ status: 200, body: await readPage(ask, list, query, url) })

// Requests ----------------------------------------------------------------------------------------------------------------

const ACT = `select version, document::text from app_hidden.act_on_request($1, $2, $3, $4)`

/** The versions that If-Match names (RFC 9110, 13.1.1), or null for any. What is no tag of ours matches none. */
function expectedVersions({ req }: Call): number[] | null {
  const header = req.headers['if-match']
  if (header === undefined || header.trim() === '*') return null
  const versions = header.split(',').map((tag) => /^\s*(?:W\/)?("?)(\d{1,9})(?:-[\da-f]+)?\1\s*$/.exec(tag)?.[2])
  return versions.flatMap((version) => version ?? []).map(Number)
}

const act = (action: string) => (call: Call) => show(call, ACT, [idOf(call), action, expectedVersions(call), call.body])

async function createRequest(call: Call): Promise<Answer> {
  const answer = await show(call, ACT, [null, 'CREATE', null, call.body])
  return created(answer, `/api/v1/requests/${JSON.parse(answer.body!).id}/`)
}

/** The entries of one request, which has to be there: one's own entries on it are no leave to see it. */
const auditLogsOf = (entries: List) => async (call: Call) => {
  await show(call, `select id::text as document from app_public.requests where id = $1`, [idOf(call)])
  return list(entries)({ ...call, query: { ...call.query, request_id: idOf(call) } })
}

// Sessions and tokens -----------------------------------------------------------------------------------------------------

const ME = `select app_hidden.user_document(u)::text as document from app_public.get_current_user() u where u.id is not null`

async function showMe(call: Call): Promise<string> {
  const [row] = await call.ask<{ document: string }>(prepared(ME))
  if (!row) throw unauthenticated()
  return row.document
}

/** A member of the body without which there is nothing to look at. Throws VALIDATION_FAILED. */
function textOf({ body }: Call, field: string): string {
  const value = body[field]
  if (typeof value !== 'string') throw new ClientError('VALIDATION_FAILED', 'This must be a string.', { field })
  return value
}

const logIn = (call: Call, byCookie = false) =>
  call.passwords.login(call.caller, textOf(call, 'email'), textOf(call, 'password'), byCookie)

async function showTokens(call: Call, userId: string, session: string, refreshToken: string): Promise<Answer> {
  const { token } = call.tokens.sign(session, userId)
  const user = await showMe({ ...call, ask: call.askAs({ ...call.caller, session, byCookie: false }) })
  const members = { access_token: token, refresh_token: refreshToken, token_type: 'Bearer', expires_in: TOKEN_LIFETIME }
  return {
    status: 200,
    headers: { 'cache-control': 'no-store' },
    body: `${JSON.stringify(members).slice(0, -1)},"user":${user}}`,
  }
}

async function logInByToken(call: Call): Promise<Answer> {
  const { userId, secret, refreshToken } = await logIn(call)
  return showTokens(call, userId, secret, refreshToken!)
}

async function refresh(call: Call): Promise<Answer> {
  const [row] = await call.ask<{ user_id: string | null; session_secret: string; refresh_token: string }>({
    ...prepared('select * from app_hidden.refresh_session($1)'),
    values: [textOf(call, 'refresh_token')],
  })
  if (!row!.user_id) throw unauthenticated()
  return showTokens(call, row!.user_id, row!.session_secret, row!.refresh_token)
}

/** HttpOnly: no script reads it. Strict: no other site's page has it sent. Without an end, it ends with the browser. */
const setCookie = ({ isSecure }: Call, value: string, maxAge?: number) => ({
  'set-cookie': stringifySetCookie({
    name: COOKIE,
    value,
    httpOnly: true,
    sameSite: 'strict',
    secure: isSecure,
    path: '/',
    ...(maxAge !== undefined && { maxAge }),
  }),
  'cache-control': 'no-store',
})

async function showSession(call: Call): Promise<Answer> {
  return { status: 200, body: `{"user":${await showMe(call)},"csrf_token":"${csrfToken(call.caller.session)}"}` }
}

async function logInByCookie(call: Call): Promise<Answer> {
  const { secret } = await logIn(call, true)
  const caller = { ...call.caller, session: secret, byCookie: true }
  const answer = await showSession({ ...call, caller, ask: call.askAs(caller) })
  return { ...answer, headers: setCookie(call, toCookie(secret)) }
}

async function logOut(call: Call): Promise<Answer> {
  const answer = await perform(call, 'select app_public.logout()')
  return { ...answer, headers: setCookie(call, '', 0) }
}

async function changePassword({ caller, body, passwords, ask }: Call): Promise<Answer> {
  await passwords.change(caller, body['old_password'], body['new_password'], ask)
  return { status: 204 }
}

async function requestPasswordReset(call: Call): Promise<Answer> {
  await call.ask({ ...prepared('select app_public.request_password_reset($1)'), values: [textOf(call, 'email')] })
  return { status: 202, body: '{}' }
}

async function resetPassword(call: Call): Promise<Answer> {
  await call.passwords.reset(call.caller, textOf(call, 'token'), call.body['new_password'])
  return { status: 204 }
}

// People ------------------------------------------------------------------------------------------------------------------

const USER = `select app_hidden.user_document(u)::text as document from app_public.users u where u.id = $1`
const CHANGE_USER = `select app_hidden.user_document(u)::text as document
  from app_hidden.change_user(app_hidden.visible_user($1), $2) u`

/** What is not text is no address and no name, and would become some. */
const textOr = (value: unknown, otherwise: string | null) => (typeof value === 'string' ? value : otherwise)

async function createUser(call: Call): Promise<Answer> {
  const { email, name, role, password } = call.body
  const id = await call.passwords.createUser(
    call.caller,
    { email: textOr(email, null), name: textOr(name, null), role: role == null ? null : textOr(role, ''), password },
    call.ask,
  )
  return created(await show(call, USER, [id]), `/api/v1/users/${id}/`)
}

// Notifications -----------------------------------------------------------------------------------------------------------

const MARK_READ = `select app_hidden.notification_document(n)::text as document from app_public.mark_notification_read($1) n`

const PREFERENCES = `select coalesce(json_object_agg(p.kind, p.delivery order by p.kind), '{}')::text as document
  from app_public.my_notification_preferences() p`

/** Sets one; the answer is all of them. */
async function setPreference(call: Call): Promise<Answer> {
  const values = [textOf(call, 'kind'), textOf(call, 'delivery')]
  await call.ask({ ...prepared('select app_public.set_notification_preference($1, $2)'), values })
  return show(call, PREFERENCES, [])
}

// The table ---------------------------------------------------------------------------------------------------------------

const TEXT = { type: 'string' }
const TEXT_OR_NULL = { type: ['string', 'null'] }
const UUID_OR_NULL = { type: ['string', 'null'], format: 'uuid' }
const LOGIN = { email: TEXT, password: TEXT }

export function makeRoutes({ statuses, actions, roles }: Reference): readonly Route[] {
  /** What else the list is filtered by, the search has to know: it ends with the newest 500. */
  const search =
    (status?: string): Filter['where'] =>
    (value, other) =>
      `d.id = any ((select app_hidden.matching_requests(${value}, ${status ?? other('status')}, ${other('creator_id')}, ${other('assigned_to_id')}))::uuid[])`
  const byTime = { '-created_at': 'd.created_at', created_at: 'd.created_at' }
  const requests: List = {
    from: 'app_public.requests d',
    id: 'd.id',
    document: 'app_hidden.request_document(d)',
    where: ['not d.is_deleted'],
    orderings: byTime,
    filters: {
      status: { type: oneOf(statuses), where: (value) => `d.status = ${value}` },
      creator_id: { type: uuid, where: (value) => `d.creator_id = ${value}::uuid` },
      assigned_to_id: { type: uuid, where: (value) => `d.assigned_to_id = ${value}::uuid` },
      awaiting_my_decision: {
        type: flag,
        description: 'Only what the caller can decide now, oldest first: it is ordered by submitted_at, and nothing else is.',
      },
      search: {
        type: text,
        description:
          'Words, or parts of them, that the title or the description has, in any letter case. It is the newest 500 of those that are listed.',
        where: search(),
      },
    },
  }
  // As requests_waiting_idx has it.
  const submittedAt = `coalesce(d.submitted_at, '9999-12-31Z')`
  const inbox: List = {
    ...requests,
    from: 'app_public.requests_awaiting_my_decision() d',
    where: [],
    filters: { ...requests.filters, search: { ...requests.filters['search']!, where: search("'SUBMITTED'") } },
    orderings: { submitted_at: submittedAt, '-submitted_at': submittedAt },
  }
  const auditLogs: List = {
    from: 'app_public.audit_logs d',
    id: 'd.id',
    document: 'app_hidden.audit_log_document(d)',
    where: [],
    orderings: { '-timestamp': 'd.timestamp', timestamp: 'd.timestamp' },
    filters: {
      actor_id: { type: uuid, where: (value) => `d.actor_id = ${value}::uuid` },
      action: { type: oneOf(actions), where: (value) => `d.action = ${value}` },
      request_id: { type: uuid, where: (value) => `d.request_id = ${value}::uuid` },
      since: { type: instant, where: (value) => `d.timestamp >= ${value}::timestamptz`, description: 'At or after this time.' },
      until: { type: instant, where: (value) => `d.timestamp < ${value}::timestamptz`, description: 'Before this time.' },
    },
  }
  const users: List = {
    from: 'app_public.users d',
    id: 'd.id',
    document: 'app_hidden.user_document(d)',
    where: [],
    orderings: byTime,
    filters: {},
  }
  const notifications: List = {
    from: 'app_public.notifications d',
    id: 'd.id',
    document: 'app_hidden.notification_document(d)',
    where: [],
    orderings: byTime,
    filters: {
      unread: {
        type: flag,
        description: 'Only those that are unread, or only those that are not.',
        where: (value) => `(d.read_at is null) = ${value}`,
      },
    },
  }
  const sessions: List = { ...users, from: 'app_hidden.my_sessions() d', document: 'd.document' }

  const draft = { title: TEXT, description: TEXT_OR_NULL, assigned_to_id: UUID_OR_NULL }
  const action = (name: string, summary: string, body?: Route['body'], required: string[] = []): Route => ({
    method: 'POST',
    path: `/requests/:id/${name.toLowerCase()}/`,
    summary,
    tag: 'Requests',
    versioned: true,
    ...(body && { body }),
    required,
    status: 200,
    shows: 'Request',
    errors: ['FORBIDDEN', 'INVALID_TRANSITION', 'STALE_VERSION'],
    run: act(name),
  })

  return [
    {
      method: 'POST',
      path: '/auth/token/',
      summary: 'Log in: an access token of 15 minutes, and a refresh token',
      tag: 'Authentication',
      open: true,
      unrepeatable: true,
      body: LOGIN,
      required: ['email', 'password'],
      status: 200,
      shows: 'Tokens',
      errors: ['UNAUTHENTICATED', 'TOO_MANY_ATTEMPTS'],
      run: logInByToken,
    },
    {
      method: 'POST',
      path: '/auth/refresh/',
      summary: 'Exchange a refresh token for new tokens; one used twice ends its session',
      tag: 'Authentication',
      open: true,
      unrepeatable: true,
      body: { refresh_token: TEXT },
      required: ['refresh_token'],
      status: 200,
      shows: 'Tokens',
      errors: ['UNAUTHENTICATED'],
      run: refresh,
    },
    {
      method: 'POST',
      path: '/auth/session/',
      summary: 'Log a browser in: an HttpOnly cookie',
      tag: 'Authentication',
      open: true,
      fromOwnOrigin: true,
      unrepeatable: true,
      body: LOGIN,
      required: ['email', 'password'],
      status: 200,
      shows: 'BrowserSession',
      errors: ['UNAUTHENTICATED', 'FORBIDDEN', 'TOO_MANY_ATTEMPTS'],
      run: logInByCookie,
    },
    {
      method: 'GET',
      path: '/auth/session/',
      summary: 'Who is logged in, and the token that changes by cookie need as X-CSRF-Token',
      tag: 'Authentication',
      status: 200,
      shows: 'BrowserSession',
      run: showSession,
    },
    {
      method: 'DELETE',
      path: '/auth/session/',
      summary: 'Log out',
      tag: 'Authentication',
      status: 204,
      run: logOut,
    },
    {
      method: 'GET',
      path: '/auth/sessions/',
      summary: "One's own live sessions",
      tag: 'Authentication',
      list: sessions,
      status: 200,
      shows: 'Session',
      run: list(sessions),
    },
    {
      method: 'DELETE',
      path: '/auth/sessions/:id/',
      summary: "End a session of one's own",
      tag: 'Authentication',
      status: 204,
      run: (call) => perform(call, 'select app_hidden.end_session($1)', [idOf(call)]),
    },
    {
      method: 'DELETE',
      path: '/auth/sessions/',
      summary: "End all other sessions of one's own",
      tag: 'Authentication',
      status: 204,
      run: (call) => perform(call, 'select app_hidden.end_other_sessions()'),
    },
    {
      method: 'POST',
      path: '/auth/password/',
      summary: "Change one's own password, which ends one's other sessions",
      tag: 'Authentication',
      slow: true,
      body: { old_password: TEXT, new_password: { ...TEXT, minLength: 12 } },
      required: ['old_password', 'new_password'],
      status: 204,
      errors: ['TOO_MANY_ATTEMPTS'],
      run: changePassword,
    },
    {
      method: 'POST',
      path: '/auth/password-reset/',
      summary: 'Have a link mailed to choose a new password by; the answer is the same for an unknown address',
      tag: 'Authentication',
      open: true,
      unrepeatable: true,
      body: { email: TEXT },
      required: ['email'],
      status: 202,
      shows: 'Nothing',
      run: requestPasswordReset,
    },
    {
      method: 'POST',
      path: '/auth/password-reset/confirm/',
      summary: 'Choose a new password by that link, which ends all sessions',
      tag: 'Authentication',
      open: true,
      unrepeatable: true,
      body: { token: TEXT, new_password: { ...TEXT, minLength: 12 } },
      required: ['token', 'new_password'],
      status: 204,
      run: resetPassword,
    },
    {
      method: 'GET',
      path: '/requests/',
      summary: 'Requests that the caller may see, newest first',
      tag: 'Requests',
      list: { ...requests, orderings: { ...byTime, ...inbox.orderings } },
      status: 200,
      shows: 'Request',
      run: (call) => list(call.query['awaiting_my_decision'] === 'true' ? inbox : requests)(call),
    },
    {
      method: 'POST',
      path: '/requests/',
      summary: 'Create a draft',
      tag: 'Requests',
      body: draft,
      required: ['title'],
      status: 201,
      shows: 'Request',
      run: createRequest,
    },
    {
      method: 'GET',
      path: '/requests/:id/',
      summary: 'A request',
      tag: 'Requests',
      status: 200,
      shows: 'Request',
      run: (call) =>
        show(
          call,
          `select app_hidden.request_document(r)::text as document, r.version from app_public.requests r where r.id = $1`,
          [idOf(call)],
        ),
    },
    {
      method: 'PATCH',
      path: '/requests/:id/',
      summary: "Edit a draft of one's own; what is left out stays as it is",
      tag: 'Requests',
      versioned: true,
      body: draft,
      status: 200,
      shows: 'Request',
      errors: ['FORBIDDEN', 'INVALID_TRANSITION', 'STALE_VERSION'],
      run: act('UPDATE'),
    },
    {
      method: 'DELETE',
      path: '/requests/:id/',
      summary: "Delete a draft of one's own",
      tag: 'Requests',
      versioned: true,
      status: 204,
      errors: ['FORBIDDEN', 'INVALID_TRANSITION', 'STALE_VERSION'],
      run: (call) =>
        perform(call, 'select app_hidden.act_on_request($1, $2, $3, $4)', [idOf(call), 'DELETE', expectedVersions(call), {}]),
    },
    action('SUBMIT', "Submit a draft of one's own for decision"),
    action('APPROVE', 'Approve a submitted request, for good', { comment: TEXT_OR_NULL }),
    action('REJECT', 'Reject a submitted request, for good', { comment: TEXT }, ['comment']),
    action('ASSIGN', 'Assign a submitted request to one manager or admin, or by null to none in particular', {
      assigned_to_id: UUID_OR_NULL,
    }),
    {
      method: 'GET',
      path: '/requests/:id/audit-logs/',
      summary: 'What was done to a request, newest first',
      tag: 'Audit',
      list: auditLogs,
      status: 200,
      shows: 'AuditLog',
      run: auditLogsOf(auditLogs),
    },
    {
      method: 'GET',
      path: '/audit-logs/',
      summary: 'The audit entries that the caller may see, newest first',
      tag: 'Audit',
      list: auditLogs,
      status: 200,
      shows: 'AuditLog',
      run: list(auditLogs),
    },
    {
      method: 'GET',
      path: '/users/',
      summary: 'The people that the caller may see, newest first',
      tag: 'People',
      list: users,
      status: 200,
      shows: 'User',
      run: list(users),
    },
    {
      method: 'POST',
      path: '/users/',
      summary: 'Add a person, for admins',
      tag: 'People',
      slow: true,
      body: {
        email: TEXT,
        name: TEXT,
        role: { type: ['string', 'null'], enum: [...roles, null] },
        password: { ...TEXT, minLength: 12 },
      },
      required: ['email', 'name', 'password'],
      status: 201,
      shows: 'User',
      errors: ['FORBIDDEN'],
      run: createUser,
    },
    {
      method: 'GET',
      path: '/users/me/',
      summary: 'Who is asking',
      tag: 'People',
      status: 200,
      shows: 'User',
      run: async (call) => ({ status: 200, body: await showMe(call) }),
    },
    {
      method: 'GET',
      path: '/users/:id/',
      summary: 'A person',
      tag: 'People',
      status: 200,
      shows: 'User',
      run: (call) => show(call, USER, [idOf(call)]),
    },
    {
      method: 'PATCH',
      path: '/users/:id/',
      summary: 'Rename a person, change their role, deactivate or reactivate them, for admins',
      tag: 'People',
      body: { name: TEXT, role: { ...TEXT, enum: roles }, is_deleted: { type: 'boolean' } },
      status: 200,
      shows: 'User',
      errors: ['FORBIDDEN', 'INVALID_TRANSITION'],
      run: (call) => show(call, CHANGE_USER, [idOf(call), call.body]),
    },
    {
      method: 'DELETE',
      path: '/users/:id/',
      summary: 'Deactivate a person, for admins',
      tag: 'People',
      status: 204,
      errors: ['FORBIDDEN', 'INVALID_TRANSITION'],
      run: (call) => perform(call, CHANGE_USER, [idOf(call), { is_deleted: true }]),
    },
    {
      method: 'GET',
      path: '/notifications/',
      summary: "One's own notifications, newest first",
      tag: 'Notifications',
      list: notifications,
      status: 200,
      shows: 'Notification',
      run: list(notifications),
    },
    {
      method: 'POST',
      path: '/notifications/:id/read/',
      summary: "Mark a notification of one's own as read",
      tag: 'Notifications',
      status: 200,
      shows: 'Notification',
      run: (call) => show(call, MARK_READ, [idOf(call)]),
    },
    {
      method: 'POST',
      path: '/notifications/read-all/',
      summary: "Mark all of one's notifications as read",
      tag: 'Notifications',
      status: 204,
      run: (call) => perform(call, 'select app_public.mark_all_notifications_read()'),
    },
    {
      method: 'GET',
      path: '/notifications/preferences/',
      summary: 'How each kind of notification reaches one by mail',
      tag: 'Notifications',
      status: 200,
      shows: 'NotificationPreferences',
      run: (call) => show(call, PREFERENCES, []),
    },
    {
      method: 'PATCH',
      path: '/notifications/preferences/',
      summary: 'Say how one kind of notification shall reach one by mail',
      tag: 'Notifications',
      body: { kind: TEXT, delivery: { ...TEXT, enum: ['AT_ONCE', 'DIGEST', 'NONE'] } },
      required: ['kind', 'delivery'],
      status: 200,
      shows: 'NotificationPreferences',
      run: setPreference,
    },
  ]
}
