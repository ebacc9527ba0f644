import { readFile } from 'node:fs/promises'
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import type { Client } from 'pg'
import { mutation, newRequest, PASSWORD, startApi, type Api } from '../../harness/client.ts'

let api: Api
let root: Client
beforeAll(async () => {
  api = await startApi()
  root = await api.db.connect('root')
})
afterAll(() => api.close())

/** No caller may ever read these: SQL, names in our database, addresses, stacks. */
const INTERNALS =
  /\b(select|insert|update|from|relation|column|constraint|plpgsql|syntax error at)\b|app_(public|hidden|private)|postgres|127\.0\.0\.1|node_modules|\.ts\b|\bat .+:\d+/i

/** Breaks a function of the database while some work is done. */
async function broken(name: string, body: string, work: () => Promise<void>): Promise<void> {
  const {
    rows: [{ definition }],
  } = await root.query('select pg_get_functiondef($1::regproc) as definition', [name])
  const start = definition.indexOf('AS $function$')
  await root.query(`${definition.slice(0, start)} AS $function$ ${body} $function$`)
  await work().finally(() => root.query(definition))
}

const logLines = (part: string) =>
  api
    .log()
    .split('\n')
    .filter((line) => line.includes(part))
const digest = (password: string) => createHash('sha256').update(`assent:${password}`).digest('base64')

test('what a newer server has written is UNAVAILABLE until this one is replaced, and the log says so; REST shows it', async () => {
  await root.query(`set session_replication_role = replica`) // Only a superuser writes into the trail.
  await root.query(`insert into app_public.audit_actions (action, description) values ('NEWER', 'Something new')`)
  await root.query(`insert into app_public.audit_logs (action, metadata) values ('NEWER', '{}')`)
  await root.query(`reset session_replication_role`)
  const answer = await api.graphql('{ auditLogs(first: 1) { nodes { action } } }', {}, 'admin')
  expect([answer.status, answer.headers['retry-after']]).toEqual([503, '1'])
  expect(answer.body.errors[0].extensions).toEqual({ code: 'UNAVAILABLE', retryAfter: 1 })
  expect(answer.text).not.toContain('NEWER')
  expect(logLines('value of a newer version: restart this server')).toHaveLength(1)
  expect((await api.rest('GET', '/audit-logs/?page_size=1', undefined, 'admin')).body.results[0].action).toBe('NEWER')
  expect((await api.graphql('{ auditLogs(first: 1) { nodes { id } } }', {}, 'admin')).status).toBe(200)
})

describe('an internal error', () => {
  test('shows nothing but an id, by which the log explains it', async () => {
    const body = `begin raise exception 'secret detail of app_private.sessions' using errcode = 'XX000', hint = 'hidden hint', detail = 'hidden detail'; end`
    await broken('app_private.is_visible', body, async () => {
      const requestId = await newRequest(api)
      const answer = await api.graphql(mutation('deleteRequest'), { input: { requestId } }, 'user')
      expect(answer.body.data).toEqual({ deleteRequest: null })
      const [error] = answer.body.errors
      expect(error).toEqual({
        message: expect.stringMatching(/^Something went wrong\. Quote this id to your operator: [\da-f-]{36}$/),
        locations: expect.anything(),
        path: ['deleteRequest'],
        extensions: { code: 'INTERNAL' },
      })
      expect(answer.text).not.toMatch(/secret|hidden|XX000/)
      const id = error.message.slice(-36)
      const lines = logLines(id)
      expect(lines).toHaveLength(1)
      expect(JSON.parse(lines[0]!)).toMatchObject({
        level: 50,
        id,
        err: {
          message: 'secret detail of app_private.sessions',
          code: 'XX000',
          detail: 'hidden detail',
          stack: expect.stringContaining('at '),
        },
      })
    })
  })

  test('undoes the action that it interrupted, and the next call works', async () => {
    const requestId = await newRequest(api)
    await broken('app_private.tg_requests__audit', `begin perform 1 / 0; return null; end`, async () => {
      expect(await api.code(mutation('submitRequest'), { input: { requestId } }, 'user')).toBe('INTERNAL')
    })
    const query = 'query ($id: UUID!) { request(id: $id) { status version } }'
    expect(await api.data(query, { id: requestId }, 'user')).toEqual({ request: { status: 'DRAFT', version: 1 } })
    await api.data(mutation('submitRequest'), { input: { requestId } }, 'user')
  })

  test('hides whatever the database raises behind a documented code', async () => {
    const requestId = await newRequest(api)
    const states: [string, string][] = [
      ['23505', 'INTERNAL'],
      ['42P01', 'INTERNAL'],
      ['40P01', 'UNAVAILABLE'],
      ['40001', 'UNAVAILABLE'],
      ['P0001', 'INTERNAL'],
      ['RQ500', 'INTERNAL'],
      ['RQ999', 'INTERNAL'],
      ['42501', 'FORBIDDEN'],
      ['22P02', 'VALIDATION_FAILED'],
      ['57014', 'UNAVAILABLE'],
      ['55P03', 'UNAVAILABLE'],
      ['57P01', 'UNAVAILABLE'],
      ['53300', 'UNAVAILABLE'],
    ]
    for (const [state, code] of states) {
      const body = `begin raise exception 'select secret from app_private.credentials' using errcode = '${state}', schema = 'app_private', table = 'credentials', column = 'password_hash', constraint = 'x'; end`
      await broken('app_private.is_visible', body, async () => {
        const answer = await api.graphql(mutation('deleteRequest'), { input: { requestId } }, 'user')
        expect([state, answer.body.errors[0].extensions.code]).toEqual([state, code])
        expect(answer.text).not.toMatch(/secret|credentials|password_hash/)
        expect(answer.body.errors[0].message).not.toMatch(INTERNALS)
      })
    }
    expect(logLines('database unavailable')).toHaveLength(2)
  })

  test('in a computed field leaves the rest of the answer intact', async () => {
    await newRequest(api)
    await broken('app_public.requests_available_actions', `select array[(1 / (random() * 0)::int)::text]`, async () => {
      const answer = await api.graphql('{ currentUser { name } requests(first: 1) { nodes { availableActions } } }', {}, 'user')
      expect(answer.body.errors[0].extensions.code).toBe('INTERNAL')
      expect(answer.body.data.currentUser).toEqual({ name: 'Uma User' })
      expect(answer.text).not.toMatch(/division/)
    })
  })

  test('in a login is hidden likewise', async () => {
    await broken('app_hidden.finish_login', `begin raise exception 'cannot look at %', email; end`, async () => {
      const answer = await api.graphql(mutation('login', 'accessToken'), {
        input: { email: 'user@assent.test', password: PASSWORD },
      })
      expect(answer.body.errors[0].extensions).toEqual({ code: 'INTERNAL' })
      expect(answer.text).not.toContain('user@')
    })
    expect(
      (await api.graphql(mutation('login', 'accessToken'), { input: { email: 'user@assent.test', password: PASSWORD } })).body
        .errors,
    ).toBeUndefined()
  })
})

test('refusals are worded for people', async () => {
  const messages: string[] = []
  const hear = async (...call: Parameters<Api['graphql']>) =>
    void messages.push(...(await api.graphql(...call)).body.errors.map((e: { message: string }) => e.message))
  const requestId = await newRequest(api, { submit: true })
  await hear(mutation('createRequest'), { input: { title: '' } }, 'user')
  await hear(mutation('createRequest'), { input: { title: null } }, 'user')
  await hear(mutation('createRequest'), { input: { title: 'x'.repeat(201) } }, 'user')
  await hear(mutation('createRequest'), { input: { title: 'x', assignedToId: requestId } }, 'user')
  await hear(mutation('createRequest'), { input: { title: '\0' } }, 'user')
  await hear(mutation('createRequest'), { input: { title: 'x' } })
  await hear(mutation('rejectRequest'), { input: { requestId } }, 'manager')
  await hear(mutation('approveRequest'), { input: { requestId } }, 'user')
  await hear(mutation('approveRequest'), { input: { requestId, version: 9 } }, 'manager')
  await hear(mutation('updateRequest'), { input: { requestId } }, 'user')
  await hear(mutation('login', 'accessToken'), { input: { email: 'x', password: 'y' } })
  await hear('{ users { nodes { id } } }')
  await hear('{ currentUser { id } }', {}, { token: 'x' })
  expect(messages).toHaveLength(13)
  for (const message of messages) {
    expect(message).toMatch(/^\w.*\.$/)
    expect(message.replace(/^You (cannot|are not allowed to) update/, 'You cannot edit')).not.toMatch(INTERNALS)
  }
})

describe('secrets', () => {
  const password = 'wrong horse battery staple'

  test('are in no log line of the server, whatever happens', async () => {
    const login = mutation('login', 'accessToken refreshToken user { id }')
    const { login: granted } = await api.data(login, { input: { email: 'user@assent.test', password: PASSWORD } })
    await api.code(login, { input: { email: 'user@assent.test', password } })
    await api.code(login, { input: { email: 'user@assent.test', password: `${password}\0` } })
    await api.code(login, { input: { email: `user@assent.test\0${password}`, password } })
    await api.graphql(`mutation { login(input: { email: "x", password: "${password}" }) { nothing } }`)
    await api.graphql(login, { input: { email: 'x', password: [password] } })
    await api.send({
      headers: { 'content-type': 'application/json' },
      body: `{"query":"x","variables":{"password":"${password}"`,
    })
    await api.code('{ currentUser { id } }', {}, { token: `${granted.accessToken.slice(0, -1)}x` })
    for (const name of ['app_hidden.begin_login', 'app_hidden.finish_login']) {
      await broken(name, `begin perform 1 / 0; end`, async () => {
        await api.code(login, { input: { email: 'user@assent.test', password } })
      })
    }
    await broken('app_hidden.authenticate', `begin raise exception 'no'; end`, async () => {
      expect(await api.code('{ currentUser { id } }', {}, { token: granted.accessToken })).toBe('INTERNAL')
    })
    await api.data(mutation('logout', 'clientMutationId'), { input: {} }, { token: granted.accessToken })

    const { rows } = await root.query(
      'select encode(secret_hash, $1) as hash from app_private.sessions union all select password_hash from app_private.credentials',
      ['hex'],
    )
    const session = JSON.parse(Buffer.from(granted.accessToken.split('.')[1], 'base64url').toString()).sid
    const secrets = [
      PASSWORD,
      password,
      digest(PASSWORD),
      digest(password),
      granted.accessToken,
      granted.refreshToken,
      session,
      new URL(api.db.urls.auth).password,
      ...Object.values(api.db.people).map((person) => person.session),
      ...rows.map((row) => row.hash),
    ]
    expect(logLines('internal error').length).toBeGreaterThan(3)
    expect(secrets.every((secret) => typeof secret === 'string' && secret.length > 15)).toBe(true)
    expect(secrets.filter((secret) => api.log().includes(secret))).toEqual([])
  })

  test('are not in PostgreSQL’s own log, even when it logs everything', async () => {
    const {
      rows: [{ directory }],
    } = await root.query(`select current_setting('data_directory') as directory`)
    const marker = 'a password that everybody looks for'
    const {
      rows: [{ name }],
    } = await root.query('select current_database() as name')
    await root.query(`alter role assent_authenticator in database ${name} set log_statement = 'all'`)
    await root.query(`alter role assent_authenticator in database ${name} set log_parameter_max_length_on_error = -1`)
    const logged = await startApi({}, api.db)
    try {
      const login = mutation('login', 'accessToken')
      expect(await logged.code(login, { input: { email: 'seen@assent.test', password: marker } })).toBe('UNAUTHENTICATED')
      await broken('app_hidden.finish_login', `begin perform 1 / 0; end`, async () => {
        expect(await logged.code(login, { input: { email: 'seen@assent.test', password: marker } })).toBe('INTERNAL')
      })
    } finally {
      await logged.close()
      await root.query(`alter role assent_authenticator in database ${name} reset all`)
    }
    const text = await readFile(join(directory, 'server.log'), 'utf8')
    expect(text).toContain('seen@assent.test') // It did log the calls.
    expect(text).not.toContain(marker)
  })

  test('are not in the audit trail, nor stored in the clear', async () => {
    const {
      rows: [{ trail }],
    } = await root.query(`select coalesce(string_agg(a::text, ' '), '') as trail from app_public.audit_logs a`)
    const {
      rows: [{ kept }],
    } = await root.query(
      `select string_agg(t, ' ') as kept from (select s::text from app_private.sessions s union all select c::text from app_private.credentials c union all select l::text from app_private.login_attempts l) x (t)`,
    )
    const { login } = await api.data(mutation('login', 'accessToken refreshToken'), {
      input: { email: 'user2@assent.test', password: PASSWORD },
    })
    for (const secret of [PASSWORD, digest(PASSWORD), login.refreshToken, api.db.people.user.session]) {
      expect(trail).not.toContain(secret)
      expect(kept).not.toContain(secret)
    }
  })
})
