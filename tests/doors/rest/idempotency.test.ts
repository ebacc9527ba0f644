import { createServer, connect, type AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from 'pg'
import { command, type Running } from '../../harness/process.ts'
import {
  JWT_SECRET,
  newRequest,
  NOBODY,
  PASSWORD,
  sendTo,
  startApi,
  type Answer,
  type Api,
  type Who,
} from '../../harness/client.ts'
import { openRest, outcome, type Rest } from '../../harness/rest.ts'

let api: Api
let rest: Rest
let owner: Client
let root: Client
/** Holds locks that the others wait for. */
let holder: Client
beforeAll(async () => {
  api = await startApi({ TRUST_PROXY: '1' })
  rest = await openRest(api)
  owner = await api.db.connect('owner')
  root = await api.db.connect('root')
  holder = await api.db.connect('owner')
})
afterAll(() => api.close())

let keys = 0
const newKey = () => `key ${++keys}`.replace(' ', '-')
const under = (key: string) => ({ 'idempotency-key': key })

/** What stays the same in an answer that is given again. */
const seen = ({ status, headers: { date: _, ...headers }, text }: Answer) => ({ status, headers, text })

const count = async (from: string, values: unknown[] = []): Promise<number> =>
  (await owner.query(`select count(*)::int as n from ${from}`, values)).rows[0].n
const trail = () => count('app_public.audit_logs')
const requestsTitled = (title: string) => count('app_public.requests where title = $1', [title])

/** Runs some work while this row is locked by somebody else. */
async function whileLocked<T>(requestId: string, work: () => Promise<T>): Promise<T> {
  await holder.query('begin')
  await holder.query('select from app_public.requests where id = $1 for update', [requestId])
  try {
    return await work()
  } finally {
    await holder.query('rollback')
  }
}
async function someWait(): Promise<void> {
  const waiting = `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
  while ((await root.query(waiting)).rowCount === 0) await sleep(5)
}

describe('a call that is sent again under its key', () => {
  test('has one effect, and gets the first answer: status, body, Location and ETag', async () => {
    const submitted = () => newRequest(api, { submit: true })
    const calls: [who: Who, call: string, body?: object][] = [
      ['user', 'POST /requests/', { title: 'Once', description: null }],
      ['user', `POST /requests/${await newRequest(api)}/submit/`],
      ['manager', `POST /requests/${await submitted()}/approve/`, { comment: 'Yes' }],
      ['manager', `POST /requests/${await submitted()}/reject/`, { comment: 'No' }],
      ['manager', `POST /requests/${await submitted()}/assign/`, { assigned_to_id: api.db.people.manager2.id }],
      ['admin', 'POST /users/', { email: 'once@assent.test', name: 'Once' }],
    ]
    for (const [who, call, body] of calls) {
      const before = await trail()
      const headers = under(newKey())
      const first = await rest(who, call, body, headers)
      expect([call, first.status < 300]).toEqual([call, true])
      expect(await trail()).toBe(before + 1)
      for (let i = 0; i < 3; i++) expect(seen(await rest(who, call, body, headers))).toEqual(seen(first))
      // With and without the last slash it is the same call.
      expect(seen(await rest(who, call.slice(0, -1), body, headers))).toEqual(seen(first))
      expect(await trail()).toBe(before + 1)
      expect(first.headers.location === undefined).toBe(!/^POST \/\w+\/$/.test(call))
      expect(first.headers.etag === undefined).toBe(call === 'POST /users/')
    }
    expect(await requestsTitled('Once')).toBe(1)
  })

  test('gets it as it was, whatever became of the request since', async () => {
    const headers = under(newKey())
    const first = await rest('user', 'POST /requests/', { title: 'Then' }, headers)
    await rest('user', `PATCH /requests/${first.body.id}/`, { title: 'Now' })
    await rest('user', `DELETE /requests/${first.body.id}/`)
    expect(seen(await rest('user', 'POST /requests/', { title: 'Then' }, headers))).toEqual(seen(first))
    expect(first.body).toMatchObject({ title: 'Then', version: 1 })
  })

  test('with another body, or to another path, is a conflict and does nothing', async () => {
    const id = await newRequest(api, { submit: true })
    const headers = under(newKey())
    await rest('manager', 'POST /requests/', { title: 'First' }, headers)
    const before = await trail()
    for (const [call, body] of [
      ['POST /requests/', { title: 'Second' }],
      ['POST /requests/', { title: 'First', description: 'more' }],
      ['POST /requests/', { title: 'First', description: null }],
      ['POST /requests/', {}],
      ['POST /requests/', { title: '' }],
      [`POST /requests/${id}/approve/`, { title: 'First' }],
      [`POST /requests/${id}/reject/`, {}],
      [`POST /requests/${NOBODY}/submit/`, undefined],
      ['POST /users/', { title: 'First' }],
    ] as const)
      expect([call, body, outcome(await rest('manager', call, body, headers))]).toEqual([call, body, '422 IDEMPOTENCY_CONFLICT'])
    expect(await trail()).toBe(before)
    const other = under(newKey())
    await rest('manager', `POST /requests/${id}/assign/`, {}, other)
    const another = await newRequest(api, { submit: true })
    expect(outcome(await rest('manager', `POST /requests/${another}/assign/`, {}, other))).toBe('422 IDEMPOTENCY_CONFLICT')
  })

  test('while it still runs is a conflict; when it is done, it gets its answer', async () => {
    const id = await newRequest(api, { submit: true })
    const call = `POST /requests/${id}/approve/`
    const headers = under(newKey())
    const running = await whileLocked(id, async () => {
      const first = rest('manager', call, { comment: 'Yes' }, headers)
      await someWait()
      for (const body of [{ comment: 'Yes' }, { comment: 'Other' }]) {
        const second = await rest('manager', call, body, headers)
        expect([outcome(second), second.headers['retry-after']]).toEqual(['409 IDEMPOTENCY_CONFLICT', '1'])
      }
      // Of another person, or under another key, it is not in the way.
      expect((await rest('manager', 'POST /requests/', { title: 'x' }, under(newKey()))).status).toBe(201)
      expect((await rest('admin', 'POST /requests/', { title: 'x' }, headers)).status).toBe(201)
      return { first }
    })
    const first = await running.first
    expect(first.status).toBe(200)
    expect(seen(await rest('manager', call, { comment: 'Yes' }, headers))).toEqual(seen(first))
    expect(outcome(await rest('manager', call, { comment: 'Other' }, headers))).toBe('422 IDEMPOTENCY_CONFLICT')
    expect(await count(`app_public.audit_logs where request_id = $1 and action = 'APPROVE'`, [id])).toBe(1)
  })

  test('with another If-Match is a conflict and does nothing', async () => {
    const id = await newRequest(api)
    const headers = under(newKey())
    const submit = async (more: Record<string, string>) =>
      rest('user', `POST /requests/${id}/submit/`, {}, { ...headers, ...more })
    const seenAs = (await rest('user', `GET /requests/${id}/`)).headers.etag!
    const first = await submit({ 'if-match': seenAs })
    expect(first.status).toBe(200)
    for (const more of [{}, { 'if-match': '"2"' }, { 'if-match': '*' }]) {
      expect(outcome(await submit(more as Record<string, string>))).toBe('422 IDEMPOTENCY_CONFLICT')
    }
    expect(seen(await submit({ 'if-match': seenAs }))).toEqual(seen(first))
  })

  test('is refused to somebody who has been demoted since', async () => {
    const admin = await api.person('ADMIN')
    const headers = under(newKey())
    const add = () => rest(admin, 'POST /users/', { email: 'seen@assent.test', name: 'Seen' }, headers)
    const first = await add()
    expect(first.status).toBe(201)
    await rest('admin', `PATCH /users/${admin.id}/`, { role: 'USER' })
    const refused = await add()
    expect(outcome(refused)).toBe('403 FORBIDDEN')
    expect(refused.text).not.toContain('seen@assent.test')
    await rest('admin', `PATCH /users/${admin.id}/`, { role: 'ADMIN' })
    expect(seen(await add())).toEqual(seen(first))
  })

  test('20 times at once has one effect', async () => {
    const headers = under(newKey())
    const send = (title = 'Twenty') => rest('user', 'POST /requests/', { title }, headers)
    const answers = await Promise.all(Array.from({ length: 20 }, () => send()))
    const kinds = new Set(answers.map(outcome))
    expect(kinds).toContain('201')
    expect(['201', '409 IDEMPOTENCY_CONFLICT']).toEqual(expect.arrayContaining([...kinds]))
    expect(await requestsTitled('Twenty')).toBe(1)
    const first = answers.find(({ status }) => status === 201)!
    for (const answer of [...answers.filter(({ status }) => status === 201), await send()])
      expect(seen(answer)).toEqual(seen(first))

    const other = under(newKey())
    const titles = Array.from({ length: 20 }, (_, n) => `Twenty of ${n}`)
    const met = await Promise.all(titles.map(async (title) => outcome(await rest('user', 'POST /requests/', { title }, other))))
    expect(met.filter((each) => each === '201')).toHaveLength(1)
    expect(['201', '409 IDEMPOTENCY_CONFLICT', '422 IDEMPOTENCY_CONFLICT']).toEqual(expect.arrayContaining([...new Set(met)]))
    expect(await count(`app_public.requests where title like 'Twenty of %'`)).toBe(1)
  })
})

describe('a refusal', () => {
  test('is given again as well, even if the call would succeed by now', async () => {
    const draft = await newRequest(api, { by: 'user2' })
    const [approve, create] = [`POST /requests/${draft}/approve/`, 'POST /requests/']
    const calls: [who: Who, call: string, body: object, expected: string, more?: Record<string, string>][] = [
      ['manager', approve, {}, '404 NOT_FOUND'],
      ['user2', approve, {}, '403 FORBIDDEN'],
      ['admin', approve, {}, '409 INVALID_TRANSITION'],
      ['user2', `POST /requests/${draft}/submit/`, {}, '412 STALE_VERSION', { 'if-match': '"9"' }],
      ['user2', create, { title: '' }, '422 VALIDATION_FAILED title'],
      ['user2', 'POST /requests/x/submit/', {}, '404 NOT_FOUND'],
      ['user2', create, { title: '\ud800' }, '422 VALIDATION_FAILED title'],
      ['manager', 'POST /users/', {}, '403 FORBIDDEN'],
    ]
    const before = await trail()
    const firsts = await Promise.all(
      calls.map(async ([who, call, body, expected, more]) => {
        const headers = { ...under(newKey()), ...more }
        const first = await rest(who, call, body, headers)
        expect([call, outcome(first)]).toEqual([call, expected])
        return { first, again: () => rest(who, call, body, headers) }
      }),
    )
    expect(await trail()).toBe(before)
    await rest('user2', `POST /requests/${draft}/submit/`)
    for (const { first, again } of firsts) expect(seen(await again())).toEqual(seen(first))
    // Under another key it is looked at anew.
    expect((await rest('manager', approve, {}, under(newKey()))).status).toBe(200)
  })

  test('of what was no call yet is not kept: 400, 401, 413, 415', async () => {
    const headers = under(newKey())
    const create = (body: unknown, more: Record<string, string> = {}) =>
      rest('user', 'POST /requests/', body, { ...headers, ...more })
    expect((await create('{')).status).toBe(400)
    expect((await create('[]')).status).toBe(400)
    expect((await create('x', { 'content-type': 'text/plain' })).status).toBe(415)
    expect((await create({ title: 'x'.repeat(1_100_000) })).status).toBe(413)
    expect((await create({ title: 'x' }, { authorization: 'Bearer x' })).status).toBe(401)
    expect((await create({ title: 'x' })).status).toBe(201)
  })

  test.each([
    ['XX000', '500 INTERNAL'],
    ['57014', '503 UNAVAILABLE'],
    ['40001', '503 UNAVAILABLE'],
  ])('that is our fault is not kept (%s), nor is anything of what it had begun', async (code, expected) => {
    const { rows } = await owner.query(`select pg_get_functiondef('app_private.tg_requests__audit'::regproc) as definition`)
    const headers = under(newKey())
    const create = () => rest('user', 'POST /requests/', { title: `Broken by ${code}` }, headers)
    await owner.query(
      `create or replace function app_private.tg_requests__audit() returns trigger language plpgsql as $$ begin raise exception using errcode = '${code}'; end $$`,
    )
    try {
      expect(outcome(await create())).toBe(expected)
    } finally {
      await owner.query(rows[0].definition)
    }
    expect(await requestsTitled(`Broken by ${code}`)).toBe(0)
    expect((await create()).status).toBe(201)
    expect((await create()).status).toBe(201)
    expect(await requestsTitled(`Broken by ${code}`)).toBe(1)
  })
})

describe('a key', () => {
  test('is its person’s: others have theirs, and see nothing of it', async () => {
    const headers = under(newKey())
    const create = (who: Who) => rest(who, 'POST /requests/', { title: 'Mine' }, headers)
    const answers = await Promise.all((['user', 'user2', 'manager', 'admin'] as const).map(create))
    expect(answers.map(({ status }) => status)).toEqual([201, 201, 201, 201])
    expect(new Set(answers.map(({ body }) => body.id)).size).toBe(4)
    expect(answers.map(({ body }) => body.creator.id)).toEqual(
      (['user', 'user2', 'manager', 'admin'] as const).map((name) => api.db.people[name].id),
    )
  })

  test('holds in every session of the person, by token and by cookie', async () => {
    const person = await api.person()
    const headers = under(newKey())
    const first = await rest(person, 'POST /requests/', { title: 'Of all sessions' }, headers)
    const login = { email: person.email, password: PASSWORD }
    const { body: tokens } = await rest(undefined, 'POST /auth/token/', login)
    const again = await rest({ token: tokens.access_token }, 'POST /requests/', { title: 'Of all sessions' }, headers)
    expect(seen(again)).toEqual(seen(first))
    const session = await rest(undefined, 'POST /auth/session/', login)
    const cookie = session.headers['set-cookie']![0]!.split(';')[0]!
    const byCookie = (more: object) =>
      rest(undefined, 'POST /requests/', { title: 'Of all sessions' }, { ...headers, cookie, ...more })
    expect(outcome(await byCookie({}))).toBe('403 FORBIDDEN') // The answer is no reason to leave out the check.
    expect(seen(await byCookie({ 'x-csrf-token': session.body.csrf_token }))).toEqual(seen(first))
    await rest(person, 'DELETE /auth/sessions/')
    expect(outcome(await rest({ token: tokens.access_token }, 'POST /requests/', { title: 'x' }, headers))).toBe(
      '401 UNAUTHENTICATED',
    )
  })

  test('is forgotten after 24 hours, and not before', async () => {
    const headers = under(newKey())
    const create = async () => (await rest('user', 'POST /requests/', { title: 'Daily' }, headers)).body.id
    const age = (by: string) =>
      owner.query(`update app_private.idempotency_keys set created_at = created_at - $2::interval where key = $1`, [
        headers['idempotency-key'],
        by,
      ])
    const first = await create()
    await age('23 hours 59 minutes')
    expect(await create()).toBe(first)
    await age('2 minutes')
    const second = await create()
    expect(second).not.toBe(first)
    expect(await create()).toBe(second)
    expect(await requestsTitled('Daily')).toBe(2)
  })

  test('is nothing to calls that can be repeated anyhow, nor to a login, whose second is another', async () => {
    const headers = under(newKey())
    const id = await newRequest(api)
    const versions = []
    for (const title of ['a', 'b', 'b'])
      versions.push((await rest('user', `PATCH /requests/${id}/`, { title }, headers)).body.version)
    expect(versions).toEqual([2, 3, 3])
    expect((await rest('user', `GET /requests/${id}/`, undefined, headers)).body.version).toBe(3)
    const login = (password: string) => rest(undefined, 'POST /auth/token/', { email: 'user@assent.test', password }, headers)
    const tokens = [(await login(PASSWORD)).body, (await login(PASSWORD)).body]
    expect(new Set(tokens.map(({ access_token }) => access_token)).size).toBe(2)
    expect(outcome(await login('wrong'))).toBe('401 UNAUTHENTICATED')
    expect((await rest('user', `DELETE /requests/${id}/`, undefined, headers)).status).toBe(204)
    expect(outcome(await rest('user', `DELETE /requests/${id}/`, undefined, headers))).toBe('404 NOT_FOUND')
    expect((await rest('user', 'POST /requests/', { title: 'x' }, headers)).status).toBe(201)
  })

  test('holds when the key that signs tokens is replaced', async () => {
    const headers = under(newKey())
    const first = await rest('user', 'POST /requests/', { title: 'Rotated' }, headers)
    const next = await startApi({ TRUST_PROXY: '1', JWT_SECRET: `a newer key that signs from now on, ${JWT_SECRET}` }, api.db)
    try {
      const again = await (await openRest(next))('user', 'POST /requests/', { title: 'Rotated' }, headers)
      expect(seen(again)).toEqual(seen(first))
    } finally {
      await next.close()
    }
  })

  test('is kept with nothing that tells a password, nor what was sent', async () => {
    const person = await api.person()
    const secret = 'a passphrase that is nobody else’s'
    await rest('user', 'POST /requests/', { title: secret.toUpperCase() }, under(newKey()))
    await rest(person, 'POST /auth/password/', { old_password: PASSWORD, new_password: secret }, under(newKey()))
    const { rows } = await owner.query(
      `select k.*, k::text as all from app_private.idempotency_keys k order by k.created_at desc limit 2`,
    )
    expect(rows).toHaveLength(2)
    for (const row of rows) {
      expect(row.fingerprint).toHaveLength(32)
      expect(JSON.stringify(row)).not.toContain(secret)
      expect(row.all).not.toContain('passphrase')
    }
    expect(api.log()).not.toContain(secret)
  })
})

describe('what is slow or unique', () => {
  test('POST /users/ adds one person, 5 times at once and after', async () => {
    const body = { email: 'single@assent.test', name: 'Single', role: 'MANAGER' }
    const headers = under(newKey())
    const answers = await Promise.all(Array.from({ length: 5 }, () => rest('admin', 'POST /users/', body, headers)))
    const first = answers.find(({ status }) => status === 201)!
    for (const answer of answers) expect(['201', '409 IDEMPOTENCY_CONFLICT', '503 UNAVAILABLE']).toContain(outcome(answer))
    expect(seen(await rest('admin', 'POST /users/', body, headers))).toEqual(seen(first))
    expect(outcome(await rest('admin', 'POST /users/', body, under(newKey())))).toBe('422 VALIDATION_FAILED email')
    expect(await count(`app_public.users where name = 'Single'`)).toBe(1)
    expect(outcome(await rest('admin', 'POST /users/', { ...body, name: 'Double' }, headers))).toBe('422 IDEMPOTENCY_CONFLICT')
  })

  test('POST /auth/password/ changes it once: the old password is right the first time alone', async () => {
    const person = await api.person()
    const change = (old_password: string, new_password: string, headers = {}) =>
      rest(person, 'POST /auth/password/', { old_password, new_password }, headers)
    const headers = under(newKey())
    const [second, third] = ['a second long passphrase', 'a third long passphrase']
    const changes = () => count(`app_public.audit_logs where actor_id = $1 and action = 'PASSWORD_CHANGE'`, [person.id])
    expect((await change(PASSWORD, second, headers)).status).toBe(204)
    const { body } = await rest(undefined, 'POST /auth/token/', { email: person.email, password: second })
    expect(seen(await change(PASSWORD, second, headers)).status).toBe(204)
    expect(await changes()).toBe(1)
    // The session that was opened since lives on.
    expect((await rest({ token: body.access_token }, 'GET /users/me/')).status).toBe(200)
    expect(outcome(await change(PASSWORD, third, headers))).toBe('422 IDEMPOTENCY_CONFLICT')
    expect(outcome(await change(PASSWORD, third))).toBe('422 VALIDATION_FAILED old_password')

    const failures = () => count(`app_public.audit_logs where user_id = $1 and action = 'LOGIN_FAILED'`, [person.id])
    const before = await failures()
    const wrong = under(newKey())
    for (let i = 0; i < 3; i++) expect(outcome(await change('wrong', third, wrong))).toBe('422 VALIDATION_FAILED old_password')
    expect(await failures()).toBe(before + 1)
    const weak = under(newKey())
    for (let i = 0; i < 2; i++) expect(outcome(await change(second, 'weak', weak))).toBe('422 VALIDATION_FAILED new_password')
    expect(await failures()).toBe(before + 1)
  })

  test('TOO_MANY_ATTEMPTS is not kept, and leaves no attempt behind', async () => {
    const person = await api.person()
    const change = (old_password: string, headers = {}) =>
      rest(person, 'POST /auth/password/', { old_password, new_password: 'a new long passphrase' }, headers)
    await owner.query('delete from app_private.login_attempts')
    for (let i = 0; i < 10; i++) expect((await change('wrong')).status).toBe(422)
    const attempts = () => count('app_private.login_attempts')
    expect(await attempts()).toBe(10)
    const headers = under(newKey())
    for (let i = 0; i < 3; i++) expect(outcome(await change(PASSWORD, headers))).toBe('429 TOO_MANY_ATTEMPTS')
    expect(await attempts()).toBe(10)
    await owner.query('delete from app_private.login_attempts')
    expect((await change(PASSWORD, headers)).status).toBe(204)
  })
})

describe('a server that is killed', () => {
  interface Server {
    readonly rest: Rest
    kill(): Promise<unknown>
  }
  const running: Running[] = []
  let survivor: Server
  beforeAll(async () => void (survivor = await startProcess()), 30_000)
  afterAll(() => Promise.all(running.map((each) => each.end('SIGKILL'))))

  /** `npm run server`, in a process of its own. */
  async function startProcess(databaseUrl = api.db.urls.auth): Promise<Server> {
    const server = command('server', { PORT: '0', AUTH_DATABASE_URL: databaseUrl, JWT_SECRET, TRUST_PROXY: '1' })
    running.push(server)
    const url = await server.until(/(http:\/\/127\.0\.0\.1:\d+)/)
    return {
      rest: await openRest({ ...api, url, send: (call) => sendTo(url, call) }),
      kill: () => server.end('SIGKILL'),
    }
  }

  /** As a client does: again, as long as the first is said to be running. */
  async function sendAgain(send: () => Promise<Answer>): Promise<Answer> {
    for (;;) {
      const answer = await send()
      if (outcome(answer) !== '409 IDEMPOTENCY_CONFLICT') return answer
      await sleep(20)
    }
  }

  test('while its transaction waits has done nothing, and the next one does it once', async () => {
    const id = await newRequest(api, { submit: true })
    const approve = (to: Rest) => to('manager', `POST /requests/${id}/approve/`, { comment: 'Yes' }, headers)
    const headers = under(newKey())
    const first = await startProcess()
    await whileLocked(id, async () => {
      const lost = expect(approve(first.rest)).rejects.toThrow()
      await someWait()
      await first.kill()
      await lost
      // PostgreSQL does not know yet that nobody waits for it any more.
      expect(outcome(await approve(survivor.rest))).toBe('409 IDEMPOTENCY_CONFLICT')
    })
    const answer = await sendAgain(() => approve(survivor.rest))
    expect(answer.body).toMatchObject({ id, status: 'APPROVED', version: 3, review_comment: 'Yes' })
    expect(seen(await approve(survivor.rest))).toEqual(seen(answer))
    const actions = await rest('manager', `GET /requests/${id}/audit-logs/`)
    expect(actions.body.results.map(({ action }: { action: string }) => action)).toEqual(['APPROVE', 'SUBMIT', 'CREATE'])
  }, 30_000)

  test('after its commit and before its answer has done it, and the next one gives that answer', async () => {
    // Lets everything through but what the database says to the commit of who has claimed a key.
    let held = 0
    const target = new URL(api.db.urls.auth)
    const proxy = createServer((near) => {
      let hasClaimed = false
      const far = connect(Number(target.port), target.hostname)
      for (const [from, to] of [
        [near, far],
        [far, near],
      ] as const)
        from.on('error', () => {}).on('close', () => to.destroy())
      near.on('data', (data) => {
        hasClaimed ||= data.includes('claim_idempotency_key')
        if (hasClaimed && data.includes('commit')) {
          held++
          far.pause()
        }
        far.write(data)
      })
      far.on('data', (data) => near.write(data))
    })
    await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
    const { port } = proxy.address() as AddressInfo
    const title = 'Committed, and nobody heard'
    const headers = under(newKey())
    const create = (to: Rest) => to('user', 'POST /requests/', { title }, headers)
    try {
      const first = await startProcess(Object.assign(new URL(target), { hostname: '127.0.0.1', port }).toString())
      const lost = expect(create(first.rest)).rejects.toThrow()
      while ((await requestsTitled(title)) === 0) await sleep(5)
      expect(held).toBe(1)
      await first.kill()
      await lost
    } finally {
      proxy.close()
    }
    const answer = await create(survivor.rest)
    expect(answer.status).toBe(201)
    expect(answer.body).toMatchObject({ title, version: 1 })
    const { rows } = await owner.query('select id from app_public.requests where title = $1', [title])
    expect(rows).toEqual([{ id: answer.body.id }])
    expect(answer.headers.location).toBe(`/api/v1/requests/${rows[0].id}/`)
    expect(await count('app_public.audit_logs where request_id = $1', [rows[0].id])).toBe(1)
  }, 30_000)

  test.each([0, 7])(
    'at any moment, here after %i of 20 answers, loses and doubles nothing',
    async (answers) => {
      const calls = Array.from({ length: 20 }, (_, n) => ({ title: `Killed after ${answers}, ${n}`, headers: under(newKey()) }))
      const first = await startProcess()
      const create = (to: Rest, { title, headers }: (typeof calls)[number]) => to('user2', 'POST /requests/', { title }, headers)
      const heard: Answer[] = []
      let killed: Promise<unknown> | undefined
      const kill = () => (killed ??= first.kill())
      if (answers === 0) setTimeout(kill, 3)
      await Promise.allSettled(
        calls.map((call) =>
          create(first.rest, call).then((answer) => {
            heard.push(answer)
            if (heard.length >= answers) void kill()
          }),
        ),
      )
      await kill()
      const again = await Promise.all(calls.map((call) => sendAgain(() => create(survivor.rest, call))))
      expect(again.map(({ status }) => status)).toEqual(Array(20).fill(201))
      expect(await count('app_public.requests where title like $1', [`Killed after ${answers}, %`])).toBe(20)
      expect(new Set(again.map(({ body }) => body.id)).size).toBe(20)
      for (const { status, text } of heard) {
        expect(status).toBe(201)
        expect(again.map((answer) => answer.text)).toContain(text)
      }
    },
    30_000,
  )

  test('and the trail agrees with all of it', async () => {
    expect((await (await api.db.connect('auditor')).query('select * from audit.disagreements')).rows).toEqual([])
  })
})
