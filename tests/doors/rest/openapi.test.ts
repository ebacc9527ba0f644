import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Client } from 'pg'
import {
  deadToken,
  fromElsewhere,
  newRequest,
  NOBODY,
  PASSWORD,
  startApi,
  type Answer,
  type Api,
  type Who,
} from '../../harness/client.ts'
import { startProxy } from '../../harness/proxy.ts'
import { parts } from '../../harness/parts.ts'
import { BASE, openRest, outcome, type Rest } from '../../harness/rest.ts'

let api: Api
let rest: Rest
let owner: Client
beforeAll(async () => {
  api = await startApi({ TRUST_PROXY: '1' })
  rest = await openRest(api)
  owner = await api.db.connect('owner')
})
afterAll(() => api.close())

const FORM = { 'content-type': 'multipart/form-data; boundary=b' }
const FILE = Buffer.from('--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\nbytes\r\n--b--\r\n')

const get = (path: string, headers: Record<string, string> = {}) => api.send({ method: 'GET', path: BASE + path, headers })

describe('the document', () => {
  test('is served to anybody, whatever they bring, with and without a last slash', async () => {
    const first = await get('/openapi.json')
    expect(first.status).toBe(200)
    expect(first.headers['content-type']).toBe('application/json; charset=utf-8')
    for (const [path, headers] of [
      ['/openapi.json/', {}],
      ['/openapi.json?x=y', {}],
      ['/openapi.json', { authorization: 'Bearer x' }],
      ['/openapi.json', { authorization: `Bearer ${deadToken()}` }],
      ['/openapi.json', { cookie: 'assent_session=x', origin: 'https://elsewhere.example' }],
    ] as const) {
      expect((await get(path, headers)).text).toBe(first.text)
    }
  })

  test('says where this API is, to whoever reads it here', async () => {
    const [server, ...others] = rest.document.servers
    expect(others).toEqual([])
    expect(new URL(server.url, `${api.url}${BASE}/openapi.json`).href.replace(/\/$/, '')).toBe(api.url + BASE)
  })

  describe('by redocly lint', () => {
    let folder: string
    beforeAll(async () => void (folder = await mkdtemp(join(tmpdir(), 'assent-openapi-'))))
    afterAll(() => rm(folder, { recursive: true }))

    /** The messages of errors; in a folder where no configuration is, and with nothing asked of the network. */
    async function lint(document: object): Promise<string[]> {
      await writeFile(join(folder, 'openapi.json'), JSON.stringify(document))
      const cli = createRequire(import.meta.url).resolve('@redocly/cli/bin/cli.js')
      const quiet = { CI: 'true', REDOCLY_TELEMETRY: 'off', REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true' }
      const output = await new Promise<string>((resolve, reject) =>
        execFile(
          process.execPath,
          [cli, 'lint', 'openapi.json', '--extends', 'recommended', '--format', 'json'],
          { cwd: folder, env: { PATH: process.env.PATH, HOME: folder, ...quiet }, maxBuffer: 1e8 },
          (error, stdout) => (stdout.includes('"totals"') ? resolve(stdout) : reject(error ?? new Error(stdout))),
        ),
      )
      const { problems, totals } = JSON.parse(output.slice(output.indexOf('{')))
      const errors = problems.filter((problem: { severity: string }) => problem.severity === 'error')
      expect(totals.errors).toBe(errors.length)
      return errors.map(({ ruleId, message }: Record<string, string>) => `${ruleId}: ${message}`)
    }

    test('is OpenAPI 3.1, without an error', async () => {
      expect(rest.document.openapi).toMatch(/^3\.1\.\d$/)
      expect(await lint(rest.document)).toEqual([])
    })

    test('which would see one', async () => {
      const { paths, ...document } = rest.document
      const { security: _, ...operation } = paths['/users/me'].get
      const broken = { ...document, paths: { ...paths, '/users/me': { get: { ...operation, responses: { 200: {} } } } } }
      expect((await lint(broken)).map((message) => message.split(':')[0]).sort()).toEqual(['security-defined', 'struct'])
    })
  })
})

describe('the page', () => {
  test('is served to anybody, names no other host, and loads what is its own', async () => {
    const page = await get('/docs/')
    expect(page.status).toBe(200)
    expect(page.headers['content-type']).toBe('text/html; charset=utf-8')
    expect((await get('/docs', { authorization: 'Bearer x' })).text).toBe(page.text)

    const references = [...page.text.matchAll(/\b(?:src|href)="([^"]*)"/g)].map(([, url]) => url!)
    expect(page.text.match(/\b(src|href)\b/g)).toHaveLength(references.length)
    const loaded = references.filter((url) => !url.startsWith('data:'))
    expect(loaded.filter((url) => url.endsWith('.css'))).toHaveLength(1)
    expect(loaded.filter((url) => url.endsWith('.js')).length).toBeGreaterThan(0)
    expect(page.text.replaceAll('<!doctype html>', '')).not.toMatch(/\/\/|<script>|\bon\w+=|\bstyle=/)

    const types: Record<string, RegExp> = { css: /^text\/css\b/, js: /^(text|application)\/javascript\b/ }
    for (const url of loaded) {
      expect(url).toMatch(/^\/api\/v1\/docs\/[\w.-]+$/)
      const asset = await get(url.slice(BASE.length))
      expect([url, asset.status]).toEqual([url, 200])
      expect(asset.headers['content-type']).toMatch(types[url.split('.').at(-1)!]!)
      expect(asset.headers['x-content-type-options']).toBe('nosniff')
      expect(asset.headers['content-security-policy']).toBe(page.headers['content-security-policy'])
      expect(asset.text.length).toBeGreaterThan(50)
      if (url.endsWith('.css')) {
        expect(asset.text).not.toMatch(/@import/)
        for (const [, target] of asset.text.matchAll(/url\(\s*['"]?([^)]{0,20})/g)) expect(target).toMatch(/^data:/)
      }
      // What is ours to write; the bundle's own text names hosts that it is configured not to call.
      if (/start/.test(url)) {
        expect(asset.text).not.toMatch(/https?:|['"]\/\//)
        expect(asset.text).toContain(`"url":"${BASE}/openapi.json"`)
        expect(asset.text).toContain('"validatorUrl":null')
      }
    }
  })

  test('could not call another host if it tried', async () => {
    const { headers } = await get('/docs/')
    const policy = new Map(
      String(headers['content-security-policy'])
        .split(';')
        .map((directive) => directive.trim().split(/ +/))
        .map(([name, ...sources]) => [name!, sources]),
    )
    expect(policy.get('default-src')).toEqual(["'none'"])
    expect(policy.get('connect-src')).toEqual(["'self'"])
    expect(policy.get('script-src')).toEqual(["'self'"])
    expect(policy.get('frame-ancestors')).toEqual(["'none'"])
    for (const sources of policy.values()) {
      for (const source of sources) expect(["'self'", "'none'", "'unsafe-inline'", 'data:']).toContain(source)
    }
  })

  test('has nothing else below it', async () => {
    for (const path of ['/docs/x', '/docs/package.json', '/docs/index.html', '/docs/swagger-ui.js', '/docs/../openapi.jsonx'])
      expect([path, outcome(await get(path))]).toEqual([path, '404 NOT_FOUND'])
  })
})

describe('what is documented is what happens', () => {
  const { part, all } = parts()
  interface Operation {
    readonly method: string
    readonly template: string
    readonly parameters: { name: string; in: string; schema: Record<string, any> }[]
    readonly requestBody?: { content: Record<string, { schema: { properties: Record<string, object> } } | undefined> }
    readonly responses: Record<string, object>
    readonly security: object[]
  }
  let operations: Operation[]
  let ids: Record<'kinds' | 'requests' | 'users' | 'auth' | 'notifications' | 'attachments', string>
  let browser: { cookie: string }
  const admin = { token: '' }
  beforeAll(async () => {
    operations = Object.entries<object>(rest.document.paths).flatMap(([template, methods]) =>
      Object.entries(methods).map(([method, operation]) => ({ ...operation, method: method.toUpperCase(), template })),
    )
    const { email } = await api.person()
    const login = await rest(undefined, 'POST /auth/session/', { email, password: PASSWORD })
    browser = { cookie: login.headers['set-cookie']![0]!.split(';')[0]! }
    const evidence = await newRequest(api)
    const attached = await rest('user', `POST /requests/${evidence}/attachments/`, FILE, FORM)
    await rest('user', `POST /requests/${evidence}/submit/`)
    ids = {
      attachments: attached.body.id,
      requests: await newRequest(api, { submit: true }),
      users: (await api.person()).id,
      auth: NOBODY,
      notifications: NOBODY,
      kinds: 'GENERAL',
    }
    // Not Ada: who is asked to do everything also ends their sessions, and changes their password.
    admin.token = (await api.person('ADMIN')).token
  })
  const call = ({ method, template }: Operation, id?: string) => {
    const area = template.split('/')[1] as keyof typeof ids
    return `${method} ${template.replace(/\{\w+\}/, id ?? ids[area])}/`
  }
  const hasId = ({ template }: Operation) => template.includes('{')
  const takesBody = ({ method }: Operation) => method === 'POST' || method === 'PATCH'
  const takesFile = ({ requestBody }: Operation) => requestBody?.content['multipart/form-data'] !== undefined
  /** A body of the right type, for a call that would be refused without. */
  const bodyFor = (operation: Operation, body?: object) => (takesFile(operation) ? ([FILE, FORM] as const) : ([body] as const))
  const isOpen = ({ security }: Operation) => security.length === 0
  const takesKey = ({ parameters }: Operation) => parameters.some(({ name }) => name === 'Idempotency-Key')

  part('each operation, and each of its answers that is no error', async () => {
    const rest = await openRest(api)
    const [user, manager] = [await api.person(), await api.person('MANAGER')]
    const { email } = user
    const { body: tokens } = await rest(undefined, 'POST /auth/token/', { email, password: PASSWORD })
    await rest(undefined, 'POST /auth/refresh/', { refresh_token: tokens.refresh_token })
    const login = await rest(undefined, 'POST /auth/session/', { email, password: PASSWORD })
    const cookie = login.headers['set-cookie']![0]!.split(';')[0]!
    await rest(undefined, 'GET /auth/session/', undefined, { cookie })
    await rest(undefined, 'DELETE /auth/session/', undefined, { cookie, 'x-csrf-token': login.body.csrf_token })
    const { body: sessions } = await rest(user, 'GET /auth/sessions/')
    const other = sessions.results.find((session: { is_current: boolean }) => !session.is_current)
    await rest(user, `DELETE /auth/sessions/${other.id}/`)
    await rest(user, 'DELETE /auth/sessions/')
    await rest(user, 'POST /auth/password/', { old_password: PASSWORD, new_password: 'a long enough passphrase' })

    const path = async (more: object = {}) => {
      const { body } = await rest(user, 'POST /requests/', { title: 'x', description: null, assigned_to_id: null, ...more })
      return `/requests/${body.id}/`
    }
    const [gone, approved, rejected] = [
      await path(),
      await path({ description: 'y' }),
      await path({ assigned_to_id: manager.id }),
    ]
    await rest(user, `DELETE ${gone}`)
    await rest(user, `PATCH ${approved}`, { title: 'y', description: 'z', assigned_to_id: manager.id })
    for (const each of [approved, rejected]) await rest(user, `POST ${each}submit/`)
    await rest(manager, `POST ${approved}assign/`, { assigned_to_id: null })
    await rest(manager, `POST ${approved}approve/`, { comment: 'Yes' })
    await rest(manager, `POST ${rejected}reject/`, { comment: 'No' })
    const draft = await path()
    const { body: attached } = await rest(user, `POST ${draft}attachments/`, FILE, FORM)
    await rest(user, `GET ${draft}attachments/`)
    const { headers: named } = await rest(user, `GET /attachments/${attached.id}/`)
    await rest(user, `GET /attachments/${attached.id}/`, undefined, { 'if-none-match': named.etag! })
    await rest(user, `GET /attachments/${attached.id}/`, undefined, { range: 'bytes=1-2' })
    await rest(user, `DELETE /attachments/${attached.id}/`)
    const { headers } = await rest(user, `GET ${approved}`)
    await rest(user, `GET ${approved}`, undefined, { 'if-none-match': headers.etag! })
    await rest(user, `GET ${approved}audit-logs/`)

    const newcomer = { email: 'new@x.yz', name: 'New', role: 'USER' }
    const { body: created } = await rest('admin', 'POST /users/', newcomer)
    await rest('admin', `PATCH /users/${created.id}/`, { name: 'Newer', role: 'MANAGER', is_deleted: false })
    await rest('admin', `GET /users/${created.id}/`)
    await rest('admin', `DELETE /users/${created.id}/`)
    await rest('admin', 'GET /users/me/')
    for (const path of ['/requests/', '/audit-logs/', '/users/', '/kinds/', '/kinds/GENERAL/']) await rest('admin', `GET ${path}`)

    // What the worker does, of what it was left to do.
    const { rows: told } = await owner.query(
      `select app_private.notify(a.id) from app_public.audit_logs a where a.request_id = $1 and a.action = 'APPROVE'`,
      [approved.split('/')[2]],
    )
    expect(told).toHaveLength(1)
    const { body: notifications } = await rest(user, 'GET /notifications/')
    await rest(user, `POST /notifications/${notifications.results[0].id}/read/`)
    await rest(user, 'POST /notifications/read-all/')
    await rest(user, 'GET /notifications/preferences/')
    await rest(user, 'PATCH /notifications/preferences/', { kind: 'APPROVED', delivery: 'DIGEST' })
    await rest(undefined, 'POST /auth/password-reset/', { email })
    const { rows } = await owner.query(`select app_private.issue_reset_token($1, '30 minutes') as token`, [user.id])
    const { token } = rows[0]
    await rest(undefined, 'POST /auth/password-reset/confirm/', { token, new_password: 'another long passphrase' })

    const documented = operations.flatMap(({ method, template, responses }) =>
      Object.keys(responses).flatMap((status) => (Number(status) < 400 ? [`${method} ${template} ${status}`] : [])),
    )
    expect(documented.length).toBeGreaterThan(25)
    expect(documented.filter((answer) => !rest.met.has(answer))).toEqual([])
  })

  part('each parameter of a list can be given', async () => {
    const sample = ({ schema }: Operation['parameters'][number]) =>
      schema['enum']?.[0] ??
      { uuid: NOBODY, 'date-time': '2024-01-01T00:00:00Z' }[schema['format'] as string] ??
      { boolean: 'true', integer: '5', string: 'words' }[schema['type'] as string]
    let given = 0
    for (const operation of operations) {
      const parameters = operation.parameters.filter((parameter) => parameter.in === 'query' && parameter.name !== 'cursor')
      for (const parameter of parameters) {
        const values = parameter.schema['enum'] ?? [sample(parameter)]
        for (const value of values) {
          if (/submitted_at/.test(value)) continue // Of the inbox alone.
          const answer = await rest('manager', `${call(operation)}?${parameter.name}=${encodeURIComponent(value)}`)
          expect([parameter.name, value, outcome(answer)]).toEqual([parameter.name, value, '200'])
          given++
        }
      }
    }
    expect(given).toBeGreaterThan(40)
    for (const ordering of ['submitted_at', '-submitted_at'])
      expect(outcome(await rest('manager', `GET /requests/?awaiting_my_decision=true&ordering=${ordering}`))).toBe('200')
  })

  part('who shows no credentials, or dead ones, is told so wherever they are needed', async () => {
    for (const operation of operations) {
      for (const who of [undefined, { token: 'x' }, { token: deadToken() }]) {
        const answer = await rest(who, call(operation))
        expect([call(operation), answer.status === 401]).toEqual([call(operation), !isOpen(operation)])
      }
    }
  })

  part('a change by cookie without its token is FORBIDDEN, and so is a login from a foreign page', async () => {
    for (const operation of operations.filter(({ method }) => method !== 'GET')) {
      const answer = await rest(undefined, call(operation), undefined, { ...browser, origin: 'https://elsewhere.example' })
      const expected = isOpen(operation) && !/session/.test(operation.template) ? 422 : 403
      expect([call(operation), answer.status]).toEqual([call(operation), expected])
    }
  })

  part('what is wrong with an id, a version, a parameter or a body is told in documented ways alone', async () => {
    const large = { x: 'x'.repeat(1_100_000) }
    for (const operation of operations) {
      if (hasId(operation)) {
        for (const id of [NOBODY, 'x', '%00'])
          expect(outcome(await rest(admin, call(operation, id), ...bodyFor(operation)))).toBe('404 NOT_FOUND')
      }
      for (const { name, in: place } of operation.parameters) {
        if (place === 'query') expect((await rest(admin, `${call(operation)}?${name}=%00`)).status).toBe(422)
        if (name === 'If-Match') await rest('manager', call(operation), undefined, { 'if-match': '"99"' })
      }
      if (!takesBody(operation)) {
        for (const body of ['{', 'x'.repeat(1_100_000)]) {
          const answer = await rest('user2', call(operation), body, { 'content-type': 'text/plain' })
          expect([call(operation), [400, 413, 415].includes(answer.status)]).toEqual([call(operation), false])
        }
        continue
      }
      const refuses = async (status: number, body: unknown, headers = {}) =>
        expect([call(operation), (await rest(admin, call(operation), body, headers)).status]).toEqual([call(operation), status])
      if (takesFile(operation)) {
        const draft = call(operation, await newRequest(api))
        const empty = FILE.subarray(-7)
        expect(outcome(await rest('user', draft, empty, FORM))).toBe('422 VALIDATION_FAILED file')
        expect(outcome(await rest('user', draft, FILE.subarray(0, -9), FORM))).toBe('400 BAD_REQUEST')
        const chunked = { ...FORM, 'transfer-encoding': 'chunked' }
        expect(outcome(await rest('user', draft, Buffer.alloc(11 * 2 ** 20), chunked))).toBe('413 PAYLOAD_TOO_LARGE')
      } else {
        await refuses(400, '{')
        await refuses(400, '[]')
        await refuses(413, large)
      }
      await refuses(415, 'x', { 'content-type': 'text/plain' })
      if (takesKey(operation)) await refuses(400, {}, { 'idempotency-key': 'no key' })
    }
  })

  part('what a body holds is taken, or refused in documented ways', async () => {
    for (const operation of operations.filter((operation) => takesBody(operation) && !takesFile(operation))) {
      const properties = Object.keys(operation.requestBody?.content['application/json']?.schema.properties ?? {})
      for (const who of isOpen(operation) ? [undefined] : (['user', 'manager', admin] as const)) {
        for (const value of [5, null, true, {}, [], '', 'x', '\0', 'x'.repeat(20_000)]) {
          await rest(who, call(operation), Object.fromEntries(properties.map((name) => [name, value])))
        }
      }
    }
  })

  part('a key of idempotency: used for another body, or still running', async () => {
    await owner.query(`select pg_advisory_lock(hashtextextended('idempotency key running of ' || $1, 0))`, [
      api.db.people.user.id,
    ])
    let keyed = 0
    for (const operation of operations.filter(takesKey)) {
      const send = (body: object, key: string) =>
        takesFile(operation)
          ? rest('user', call(operation), FILE, { ...FORM, 'idempotency-key': key })
          : rest('user', call(operation), body, { 'idempotency-key': key })
      const [property = ''] = Object.keys(operation.requestBody?.content['application/json']?.schema.properties ?? {})
      expect(outcome(await send({}, 'running'))).toBe('409 IDEMPOTENCY_CONFLICT')
      // Where no body has members there is no other body; another call under the key is another all the same.
      const key = call(operation).replace(' ', ':')
      await rest('user', 'POST /requests/', { title: 'first' }, { 'idempotency-key': key })
      expect(outcome(await send({ [property]: 'x' }, key))).toBe('422 IDEMPOTENCY_CONFLICT')
      keyed++
    }
    await owner.query('select pg_advisory_unlock_all()')
    expect(keyed).toBeGreaterThan(5)
  })

  part('the conflicts and refusals that only some have', async () => {
    const draft = await newRequest(api)
    const submitted = await newRequest(api, { submit: true })
    const approved = await newRequest(api, { submit: true })
    await rest('manager', `POST /requests/${approved}/approve/`)
    const table: [who: Who, call: string, body: unknown, expected: string][] = [
      ['user', `PATCH /requests/${submitted}/`, { title: 'x' }, '409 INVALID_TRANSITION'],
      ['user', `DELETE /requests/${submitted}/`, undefined, '409 INVALID_TRANSITION'],
      ['user', `POST /requests/${submitted}/submit/`, undefined, '409 INVALID_TRANSITION'],
      ['user', `DELETE /attachments/${ids.attachments}/`, undefined, '409 INVALID_TRANSITION'],
      ...['approve', 'reject', 'assign'].map((action): [Who, string, unknown, string] => [
        'manager',
        `POST /requests/${approved}/${action}/`,
        { comment: 'No' },
        '409 INVALID_TRANSITION',
      ]),
    ]
    for (const [who, call, body, expected] of table)
      expect([call, outcome(await rest(who, call, body))]).toEqual([call, expected])
    expect(outcome(await rest('user', `PATCH /requests/${draft}/`, { title: '' }))).toBe('422 VALIDATION_FAILED title')
    const attach = (id: string, headers = {}) => rest('user', `POST /requests/${id}/attachments/`, FILE, { ...FORM, ...headers })
    expect(outcome(await attach(submitted))).toBe('409 INVALID_TRANSITION')
    const stale = { 'if-match': '"9"' }
    expect(outcome(await attach(draft, stale))).toBe('412 STALE_VERSION')
    const { body: attached } = await attach(draft)
    const beyond = await rest('user', `GET /attachments/${attached.id}/`, undefined, { range: 'bytes=99-' })
    expect(outcome(beyond)).toBe('416 BAD_REQUEST')
    for (const [who, call] of [
      ['user', `GET /requests/${draft}/`],
      ['user', `GET /attachments/${ids.attachments}/`],
      ['user', `DELETE /attachments/${attached.id}/`],
      ['user', `PATCH /requests/${draft}/`],
      ['user', `DELETE /requests/${draft}/`],
      ['user', `POST /requests/${draft}/submit/`],
      ...['approve', 'reject', 'assign'].map((action) => ['manager', `POST /requests/${submitted}/${action}/`]),
    ] as [Who, string][]) {
      expect([call, outcome(await rest(who, call, undefined, stale))]).toEqual([call, '412 STALE_VERSION'])
      expect([call, outcome(await rest(who, call, undefined, { 'if-match': '9' }))]).toEqual([call, '400 BAD_REQUEST'])
    }

    const others = await owner.query(`update app_public.users set role = 'USER' where role = 'ADMIN' and id <> $1 returning id`, [
      api.db.people.admin.id,
    ])
    for (const method of ['PATCH', 'DELETE'])
      expect(outcome(await rest('admin', `${method} /users/${api.db.people.admin.id}/`, { role: 'USER' }))).toBe(
        '409 INVALID_TRANSITION',
      )
    await owner.query(`update app_public.users set role = 'ADMIN' where id = any ($1)`, [others.rows.map(({ id }) => id)])
  })

  part('too many requests, for each operation', async () => {
    const spent = await api.person()
    const from = fromElsewhere()
    for (const operation of operations) {
      // What is spent comes back by 20 a second, which is less than anybody sends.
      const answers: Answer[] = []
      while (!answers.some(({ status }) => status === 429) && answers.length < 2_000) {
        const send = () => rest(isOpen(operation) ? undefined : spent, call(operation), undefined, from)
        answers.push(...(await Promise.all(Array.from({ length: 50 }, send))))
      }
      expect([call(operation), outcome(answers.find(({ status }) => status === 429)!)]).toEqual([
        call(operation),
        '429 RATE_LIMITED',
      ])
    }
  })

  part('no database, for each operation', async () => {
    const proxy = await startProxy(api.db.urls.auth)
    const cut = await startApi({ TRUST_PROXY: '1' }, { ...api.db, urls: { ...api.db.urls, auth: proxy.url } })
    try {
      const restCut = await openRest(cut)
      await proxy.cut()
      const credentials = { email: 'user@assent.test', password: PASSWORD, refresh_token: 'x.y' }
      const others = { token: 'x', new_password: PASSWORD, kind: 'APPROVED', delivery: 'NONE' }
      for (const operation of operations) {
        const who = isOpen(operation) ? undefined : 'user'
        const answer = await restCut(who, call(operation, NOBODY), ...bodyFor(operation, { ...credentials, ...others }))
        expect([call(operation), outcome(answer)]).toEqual([call(operation), '503 UNAVAILABLE'])
        expect(restCut.met).toContain(`${operation.method} ${operation.template} 503`)
      }
    } finally {
      await cut.close()
      await proxy.close()
    }
  })

  test('by all this, no refusal is documented that was not met', async () => {
    await all()
    const documented = operations.flatMap(({ method, template, responses }) =>
      Object.keys(responses).flatMap((status) => (status.startsWith('4') ? [`${method} ${template} ${status}`] : [])),
    )
    expect(documented.filter((answer) => !rest.met.has(answer))).toEqual([])
    expect(api.log()).not.toContain('internal error')
  })
})
