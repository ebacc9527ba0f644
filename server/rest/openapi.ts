import { STATUS_CODES } from 'node:http'
import { STATUS, type Code } from '../errors.ts'
import { cookieName } from '../http/identity.ts'
import { MOST_COUNTED } from '../http/pages.ts'
import { parametersOf, type List } from './lists.ts'
import { BASE, isRepeatable, takesBody, type Reference, type Route } from './route.ts'
import type { Resource } from './routes/index.ts'
import { DATA, FLAG, INSTANT, oneOf, UUID, type Schema } from './schemas.ts'

const ref = (name: string): Schema => ({ $ref: `#/components/schemas/${name}` })
const orNull = (schema: Schema): Schema => ({ anyOf: [schema, { type: 'null' }] })
const STRING = { type: 'string' }
const KIND = { ...STRING, pattern: '^[A-Z][A-Z0-9_]{0,49}$' }
/** What a path names, by the name of its parameter. */
const NAMED: Record<string, Schema> = { id: UUID, kind: KIND }
const namesIn = (path: string) => Array.from(path.matchAll(/:(\w+)/g), ([, name]) => name!)
const FILE = { ...STRING, contentMediaType: 'application/octet-stream', description: 'The bytes.' }
const UPLOAD = {
  type: 'object',
  properties: { file: { ...FILE, description: 'At most 10 MB, with a file name.' } },
  required: ['file'],
}
/** An object that has exactly these members. */
const exactly = (properties: Record<string, Schema>, description?: string): Schema => ({
  ...(description && { description }),
  type: 'object',
  properties,
  required: Object.keys(properties),
  additionalProperties: false,
})

const schemas = ({ statuses, actions, roles }: Reference): Record<string, Schema> => ({
  Person: exactly({ id: UUID, name: STRING, role: ref('Role') }, 'A person as other documents show them.'),
  Role: oneOf(roles),
  Request: exactly({
    id: UUID,
    title: { ...STRING, maxLength: 200 },
    description: orNull({ ...STRING, maxLength: 10_000 }),
    kind: { ...STRING, description: 'The id of its kind.' },
    data: { ...DATA, description: "What it holds beside the text, as its kind's schema says." },
    status: oneOf(statuses),
    version: { type: 'integer', minimum: 1, description: 'Goes up by one at every change. If-Match takes it as an entity tag.' },
    creator: ref('Person'),
    assigned_to: orNull(ref('Person')),
    reviewed_by: orNull(ref('Person')),
    reviewed_at: orNull(INSTANT),
    review_comment: orNull(STRING),
    submitted_at: orNull(INSTANT),
    created_at: INSTANT,
    updated_at: INSTANT,
    available_actions: {
      type: 'array',
      items: STRING,
      description: 'What the caller may do with it now.',
    },
  }),
  Kind: exactly({
    id: KIND,
    name: { ...STRING, maxLength: 100 },
    description: orNull({ ...STRING, maxLength: 10_000 }),
    schema: { ...DATA, description: 'A JSON Schema: what the data of its requests has to be when they are submitted.' },
    is_active: { ...FLAG, description: 'New requests can be of this kind.' },
  }),
  Kinds: exactly({ results: { type: 'array', items: ref('Kind') }, next: { type: 'null' }, previous: { type: 'null' } }),
  AuditLog: exactly({
    id: UUID,
    actor: orNull(ref('Person')),
    action: oneOf(actions),
    request_id: orNull(UUID),
    user_id: orNull({ ...UUID, description: 'Whom it was about.' }),
    metadata: {
      type: 'object',
      description: 'old_status and new_status where the status changed; otherwise the changed fields.',
    },
    ip_address: orNull(STRING),
    timestamp: INSTANT,
  }),
  User: exactly({
    id: UUID,
    email: orNull({ ...STRING, description: 'Null where the caller may not see it.' }),
    name: STRING,
    role: ref('Role'),
    permissions: { type: 'array', items: STRING },
    is_deleted: { ...FLAG, description: 'Deactivated.' },
    created_at: INSTANT,
  }),
  Session: exactly({
    id: UUID,
    created_at: INSTANT,
    last_used_at: INSTANT,
    expires_at: INSTANT,
    ip_address: orNull(STRING),
    user_agent: orNull(STRING),
    is_current: FLAG,
  }),
  Attachment: exactly({
    id: UUID,
    name: { ...STRING, maxLength: 200 },
    media_type: { ...STRING, description: 'What its first bytes say that it is, whatever its name says.' },
    size: { type: 'integer', description: 'Bytes.' },
    sha256: { ...STRING, pattern: '^[0-9a-f]{64}$' },
    created_at: INSTANT,
  }),
  Notification: exactly({
    id: UUID,
    kind: { ...STRING, description: 'SUBMITTED, ASSIGNED, REMINDER, APPROVED, REJECTED, or one about the account.' },
    request: orNull(exactly({ id: UUID, title: STRING, status: oneOf(statuses) }, 'Null once it cannot be seen any more.')),
    actor: orNull(ref('Person')),
    created_at: INSTANT,
    read_at: orNull(INSTANT),
  }),
  NotificationPreferences: {
    type: 'object',
    description: 'Of each kind that can be declined, AT_ONCE, DIGEST or NONE.',
    additionalProperties: oneOf(['AT_ONCE', 'DIGEST', 'NONE']),
  },
  Nothing: exactly({}, 'Always the same.'),
  Tokens: exactly({
    access_token: STRING,
    refresh_token: STRING,
    token_type: { const: 'Bearer' },
    expires_in: { type: 'integer', description: 'Seconds.' },
    user: ref('User'),
  }),
  BrowserSession: exactly({
    user: ref('User'),
    csrf_token: { ...STRING, description: 'For the header X-CSRF-Token of every change by cookie.' },
  }),
  Problem: {
    description: 'Problem Details (RFC 9457).',
    type: 'object',
    properties: {
      type: { ...STRING, format: 'uri-reference' },
      title: STRING,
      status: { type: 'integer' },
      detail: STRING,
      code: oneOf(Object.keys(STATUS)),
      errors: {
        type: 'object',
        description: 'For each bad field, what is wrong with it.',
        additionalProperties: { type: 'array', items: STRING },
      },
    },
    required: ['type', 'title', 'status', 'detail', 'code'],
    additionalProperties: false,
  },
})

const page = (name: string): Schema => ({
  type: 'object',
  properties: {
    results: { type: 'array', items: ref(name) },
    next: orNull({ ...STRING, format: 'uri-reference', description: 'The next page.' }),
    previous: orNull({ ...STRING, format: 'uri-reference', description: 'The page before.' }),
    count: {
      type: 'integer',
      description: `Of all pages, only if asked for: exact up to ${MOST_COUNTED.toLocaleString('en')}; ${MOST_COUNTED + 1} means more.`,
    },
  },
  required: ['results', 'next', 'previous'],
  additionalProperties: false,
})

/** Has the answer an entity tag: does it show one request, or a file? */
const isTagged = ({ shows, sendsFile, list }: Route) => (shows === 'Request' && !list) || sendsFile

/** The errors that a call of this route can meet; those that it alone has are in the table. */
function errorsOf(route: Route): Set<Code> {
  const { method, path, open, body, list, versioned, errors = [] } = route
  return new Set<Code>([
    ...(open ? [] : (['UNAUTHENTICATED'] as const)),
    ...(method !== 'GET' && !open ? (['FORBIDDEN'] as const) : []),
    ...(namesIn(path).length ? (['NOT_FOUND'] as const) : []),
    ...(body || list ? (['VALIDATION_FAILED'] as const) : []),
    ...(takesBody(route) ? (['BAD_REQUEST', 'PAYLOAD_TOO_LARGE', 'UNSUPPORTED_MEDIA_TYPE'] as const) : []),
    ...((method === 'GET' && isTagged(route)) || versioned ? (['BAD_REQUEST', 'STALE_VERSION'] as const) : []),
    ...(isRepeatable(route) ? (['IDEMPOTENCY_CONFLICT'] as const) : []),
    ...errors,
    'RATE_LIMITED',
    'INTERNAL',
    'UNAVAILABLE',
  ])
}

/** The status of each of these errors, with its codes. */
function problems(codes: Set<Code>): Record<string, Schema> {
  const byStatus = Map.groupBy(codes, (code) => STATUS[code])
  // This code alone has two statuses.
  if (codes.has('IDEMPOTENCY_CONFLICT')) byStatus.set(422, [...(byStatus.get(422) ?? []), 'IDEMPOTENCY_CONFLICT'])
  return Object.fromEntries(
    Array.from(byStatus, ([status, codes]) => [
      status,
      {
        description: `${STATUS_CODES[status]}: ${codes.join(', ')}`,
        content: { 'application/problem+json': { schema: ref('Problem') } },
        ...(status === 429 || status === 503
          ? { headers: { 'Retry-After': { schema: { type: 'integer' }, description: 'Seconds.' } } }
          : {}),
      },
    ]),
  )
}

const header = (name: string, description: string): Schema => ({ name, in: 'header', description, schema: STRING })

const queryOf = (list: List): Schema[] =>
  Object.entries(parametersOf(list)).map(([name, schema]) => ({
    name,
    in: 'query',
    schema,
    ...(list.filters[name]?.description && { description: list.filters[name].description }),
  }))

function parameters(route: Route): Schema[] {
  const { method, path, list, versioned, sendsFile } = route
  return [
    ...namesIn(path).map((name) => ({ name, in: 'path', required: true, schema: NAMED[name] })),
    // A request that the path names cannot be named by a parameter, too.
    ...(list ? queryOf(list).filter(({ name }) => !(path.includes(':id') && name === 'request_id')) : []),
    ...(versioned
      ? [
          header(
            'If-Match',
            'The entity tag of what the change is meant for, as the caller read it; STALE_VERSION if it is another now.',
          ),
        ]
      : []),
    ...(method === 'GET' && isTagged(route) ? [header('If-None-Match', 'The entity tag that is known already.')] : []),
    ...(sendsFile
      ? [
          header('Range', 'One range of bytes, such as bytes=0-499 (RFC 9110, 14.2). Of several, the whole file is the answer.'),
          header('If-Range', 'The entity tag of the file that the range is of; of any other, the whole file is the answer.'),
        ]
      : []),
    ...(isRepeatable(route)
      ? [header('Idempotency-Key', 'Sent again within 24 hours, the same call has one effect and gets the first answer.')]
      : []),
  ]
}

function success(route: Route): Record<string, Schema> {
  const { status, shows, list, method, sendsFile } = route
  const tag = isTagged(route)
  const answer = {
    description: STATUS_CODES[status],
    ...(shows && { content: { 'application/json': { schema: list ? page(shows) : ref(shows) } } }),
    ...(sendsFile && { content: { '*/*': { schema: FILE } } }),
    headers: {
      ...(tag && {
        ETag: { schema: STRING, description: 'The version of the request, and of this view of it; of a file, its SHA-256.' },
      }),
      ...(sendsFile && {
        'Content-Disposition': { schema: STRING, description: 'With the name of the file (RFC 6266).' },
        'Accept-Ranges': { schema: { const: 'bytes' } },
      }),
      ...(status === 201 && { Location: { schema: { ...STRING, format: 'uri-reference' } } }),
      ...(shows === 'BrowserSession' && method === 'POST' && { 'Set-Cookie': { schema: STRING } }),
    },
  }
  const range = (description: string) => ({ 'Content-Range': { schema: STRING, description } })
  return {
    [status]: answer,
    ...(tag && method === 'GET' && { 304: { description: STATUS_CODES[304] } }),
    ...(sendsFile && {
      206: {
        ...answer,
        description: STATUS_CODES[206],
        headers: { ...answer.headers, ...range('Which bytes these are, and of how many.') },
      },
      416: {
        description: `${STATUS_CODES[416]}: BAD_REQUEST`,
        content: { 'application/problem+json': { schema: ref('Problem') } },
        headers: range('How many bytes there are.'),
      },
    }),
  }
}

function operation(route: Route, tag: string): Schema {
  const { method, path, summary, open, body, required = [], receive } = route
  const words = path.split('/').filter((word) => word && !word.startsWith(':'))
  return {
    operationId: [method.toLowerCase(), ...words, ...(/:\w+\/$/.test(path) ? ['one'] : [])].join('_').replaceAll('-', '_'),
    summary,
    tags: [tag],
    security: open ? [] : [{ bearer: [] }, method === 'GET' ? { cookie: [] } : { cookie: [], csrf: [] }],
    parameters: parameters(route),
    ...(body && {
      requestBody: {
        required: required.length > 0,
        content: { 'application/json': { schema: { type: 'object', properties: body, ...(required.length && { required }) } } },
      },
    }),
    ...(receive && { requestBody: { required: true, content: { 'multipart/form-data': { schema: UPLOAD } } } }),
    responses: { ...success(route), ...problems(errorsOf(route)) },
  }
}

/** The OpenAPI 3.1 document of the routes. */
export function makeOpenApi(resources: readonly Resource[], reference: Reference, publicUrl: string): Schema {
  const paths: Record<string, Record<string, Schema>> = {}
  for (const { name, routes } of resources) {
    for (const route of routes.filter(({ undocumented }) => !undocumented)) {
      // Without the last slash, which no path needs: linters take one for a mistake.
      const path = route.path.replace(/:(\w+)/g, '{$1}').replace(/\/$/, '')
      paths[path] = { ...paths[path], [route.method.toLowerCase()]: operation(route, name) }
    }
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'Assent',
      version: '1',
      license: { name: 'MIT', identifier: 'MIT' },
      description:
        'Request approvals. What a caller may not see does not exist for them: NOT_FOUND. A path works with and without its last slash.',
    },
    // This is relative to the document, wherever that was read from.
    servers: [{ url: BASE }],
    tags: resources.map(({ name, description }) => ({ name, description })),
    paths,
    components: {
      schemas: schemas(reference),
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT' },
        cookie: {
          type: 'apiKey',
          in: 'cookie',
          name: cookieName(publicUrl.startsWith('https:')),
          description: `Set by POST /auth/session/. By TLS its name is ${cookieName(true)}, and else ${cookieName(false)}.`,
        },
        csrf: { type: 'apiKey', in: 'header', name: 'X-CSRF-Token', description: 'What GET /auth/session/ says.' },
      },
    },
  }
}
