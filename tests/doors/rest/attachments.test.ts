import { createHash, randomBytes } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { jest } from '@jest/globals'
import type { Client } from 'pg'
import { makeAccel } from '../../../server/rest/accel.ts'
import { JWT_SECRET, newRequest, NOBODY, startApi, type Api, type Who } from '../../harness/client.ts'
import { startProxy } from '../../harness/proxy.ts'
import { command } from '../../harness/process.ts'
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

const MEBI = 2 ** 20
const sha256 = (bytes: Buffer | string) => createHash('sha256').update(bytes).digest('hex')

interface Part {
  readonly field?: string
  /** As it stands in the header; undefined for a part that is no file. */
  readonly name?: string | undefined
  readonly type?: string
  readonly bytes: Buffer | string
}

const BOUNDARY = 'boundary-of-these-tests'
const FORM = { 'content-type': `multipart/form-data; boundary=${BOUNDARY}` }

function form(...parts: Part[]): Buffer {
  const written = parts.flatMap(({ field = 'file', name, type = 'image/png', bytes }) => [
    `--${BOUNDARY}\r\ncontent-disposition: form-data; name="${field}"${name === undefined ? '' : `; filename="${name}"`}\r\n`,
    name === undefined ? '\r\n' : `content-type: ${type}\r\n\r\n`,
    bytes,
    '\r\n',
  ])
  return Buffer.concat([...written, `--${BOUNDARY}--\r\n`].map((piece) => Buffer.from(piece)))
}

const upload = (who: Who, id: string, parts: Part[], headers: Record<string, string> = {}) =>
  rest(who, `POST /requests/${id}/attachments/`, form(...parts), { ...FORM, ...headers })

async function attach(id: string, bytes: Buffer | string = 'evidence', name = 'evidence.txt', who: Who = 'user'): Promise<any> {
  const answer = await upload(who, id, [{ name, bytes }])
  expect([outcome(answer), answer.body]).toEqual(['201', expect.anything()])
  return answer.body
}

const download = (who: 'user' | 'user2' | 'manager' | 'admin', id: string, init: RequestInit = {}) =>
  fetch(`${api.url}${BASE}/attachments/${id}/`, {
    ...init,
    headers: { authorization: `Bearer ${api.token(who)}`, 'accept-encoding': 'identity', ...init.headers },
  })

const listed = async (id: string, who: Who = 'user') => {
  const { body } = await rest(who, `GET /requests/${id}/attachments/`)
  return body.results as any[]
}
const files = async (id: string) =>
  (await owner.query('select sha256, size from app_private.files where request_id = $1', [id])).rows
const trail = async (id: string) =>
  (await owner.query('select action, metadata from app_public.audit_logs where request_id = $1 order by "timestamp", id', [id]))
    .rows
const agrees = async () => expect((await owner.query('select * from audit.disagreements')).rows).toEqual([])
const submit = async (id: string) => expect((await rest('user', `POST /requests/${id}/submit/`)).status).toBe(200)

/** Resolves when it is true. */
async function until(isSo: () => Promise<boolean>): Promise<void> {
  while (!(await isSo())) await sleep(20)
}

describe('a file', () => {
  test('of 10 MB comes back byte for byte, to whoever sees the request, and leaves its trace', async () => {
    const id = await newRequest(api)
    const bytes = randomBytes(10 * MEBI)
    const answer = await upload('user', id, [{ name: 'Beleg März.bin', bytes }])
    expect(answer.body).toEqual({
      id: expect.any(String),
      name: 'Beleg März.bin',
      media_type: 'application/octet-stream',
      size: bytes.length,
      sha256: sha256(bytes),
      created_at: expect.stringMatching(/^\d{4}-.*\+00:00$/),
    })
    const { id: attachment, ...facts } = answer.body
    expect(answer.headers.location).toBe(`${BASE}/attachments/${attachment}/`)
    expect(await listed(id)).toEqual([answer.body])
    expect(await trail(id)).toEqual([
      expect.objectContaining({ action: 'CREATE' }),
      { action: 'ATTACH', metadata: { ...facts, created_at: undefined, attachment_id: attachment } },
    ])
    expect((await rest('user', `GET /requests/${id}/`)).body.version).toBe(2)
    await submit(id)
    for (const who of ['user', 'manager', 'admin'] as const) {
      const got = await download(who, attachment)
      expect(got.status).toBe(200)
      expect(sha256(Buffer.from(await got.arrayBuffer()))).toBe(facts.sha256)
    }
    await agrees()
  })

  test('is sent so that no browser runs it, under its own name, and not twice to who has it', async () => {
    const bytes = '<script>alert(1)</script>'
    const { id } = await attach(await newRequest(api), bytes, 'x"y; filename=z.html'.replace('"', '\\"'))
    const got = await download('user', id)
    expect(await got.text()).toBe(bytes)
    expect(Object.fromEntries(got.headers)).toMatchObject({
      'content-type': 'text/plain; charset=utf-8',
      'content-length': String(bytes.length),
      'content-disposition': 'attachment; filename="x\\"y; filename=z.html"',
      'content-security-policy': "sandbox; default-src 'none'",
      'x-content-type-options': 'nosniff',
      'cache-control': 'no-store',
      etag: `"${sha256(bytes)}"`,
    })
    const head = await download('user', id, { method: 'HEAD' })
    expect([head.status, head.headers.get('content-length'), await head.text()]).toEqual([200, String(bytes.length), ''])
    const again = await download('user', id, { headers: { 'if-none-match': `"${sha256(bytes)}"` } })
    expect([again.status, await again.text()]).toEqual([304, ''])
  })

  test('can be asked for in part, of which no other bytes are read', async () => {
    const bytes = randomBytes(150_000)
    const { id } = await attach(await newRequest(api), bytes)
    const etag = `"${sha256(bytes)}"`
    const ask = async (headers: Record<string, string>) => {
      const { status, headers: got, body } = await download('user', id, { headers })
      const read = Buffer.from(await new Response(body).arrayBuffer())
      expect([got.get('accept-ranges'), got.get('content-length')]).toEqual(
        status === 416 ? [null, expect.any(String)] : ['bytes', String(read.length)],
      )
      return [status, got.get('content-range'), status === 416 ? JSON.parse(String(read)).code : sha256(read)]
    }
    const part = (start: number, end: number) => [206, `bytes ${start}-${end}/150000`, sha256(bytes.subarray(start, end + 1))]
    const whole = [200, null, sha256(bytes)]
    const none = [416, 'bytes */150000', 'BAD_REQUEST']
    for (const [range, expected] of [
      ['bytes=0-0', part(0, 0)],
      ['bytes=65535-65536', part(65_535, 65_536)],
      ['bytes=65536-131071', part(65_536, 131_071)],
      ['Bytes=1-131072', part(1, 131_072)],
      ['bytes=149999-', part(149_999, 149_999)],
      ['bytes=-1', part(149_999, 149_999)],
      ['bytes=-150001', part(0, 149_999)],
      ['bytes=100-99999999999999999999', part(100, 149_999)],
      ['bytes=0-1,5-6', whole],
      ['lines=0-1', whole],
      ['bytes', whole],
      ['bytes=150000-', none],
      ['bytes=-0', none],
      ['bytes=2-1', none],
      ['bytes=x-y', none],
    ] as const)
      expect([range, await ask({ range })]).toEqual([range, expected])
    const range = 'bytes=1-2'
    expect(await ask({ range, 'if-range': etag })).toEqual(part(1, 2))
    expect(await ask({ range, 'if-range': `W/${etag}` })).toEqual(whole)
    expect(await ask({ range, 'if-range': new Date().toUTCString() })).toEqual(whole)
    expect((await download('user', id, { headers: { range, 'if-none-match': etag } })).status).toBe(304)
    expect((await download('user', id, { headers: { range, 'if-match': '"other"' } })).status).toBe(412)
    expect((await download('user', id, { method: 'HEAD', headers: { range } })).status).toBe(200)
    await owner.query(
      'delete from app_private.file_chunks c using app_private.files f where f.id = c.file_id and f.sha256 = $1 and c.place <> 1',
      [sha256(bytes)],
    )
    expect(await ask({ range: 'bytes=70000-131071' })).toEqual(part(70_000, 131_071))
  })

  test('of no bytes has no part', async () => {
    const { id } = await attach(await newRequest(api), '')
    const { status, headers } = await download('user', id, { headers: { range: 'bytes=0-' } })
    expect([status, headers.get('content-range')]).toEqual([416, 'bytes */0'])
    expect(await (await download('user', id)).text()).toBe('')
  })

  describe('behind nginx', () => {
    const accel = { 'x-sendfile-type': 'X-Accel-Redirect' }
    const bytes = 'for nginx to send'
    let id: string
    let place: string
    const ask = (who: Who, path: string, headers = accel) =>
      api.send({
        method: 'GET',
        path,
        headers: { ...headers, ...(who && { authorization: `Bearer ${api.token(who as 'user')}` }) },
      })
    beforeAll(async () => {
      id = (await attach(await newRequest(api), bytes, 'a \\"b\\" ü.txt')).id
      const answer = await ask('user', `${BASE}/attachments/${id}/`)
      place = answer.headers['x-accel-redirect'] as string
      expect([answer.status, answer.text, answer.headers['content-type']]).toEqual([200, '', 'text/plain; charset=utf-8'])
      expect(answer.headers['content-disposition']).toContain("filename*=UTF-8''a%20%22b%22%20%C3%BC.txt")
    })

    test('nginx is told where the bytes are, and finds there what is true of them', async () => {
      const { status, text, headers } = await ask('user', place)
      expect([status, text]).toEqual([200, bytes])
      expect(headers).toMatchObject({
        etag: `"${sha256(bytes)}"`,
        'accept-ranges': 'bytes',
        'content-security-policy': "sandbox; default-src 'none'",
        'x-content-type-options': 'nosniff',
        'cache-control': 'max-age=31536000, immutable',
      })
      for (const name of ['content-type', 'content-disposition', 'vary']) expect([name, headers[name]]).toEqual([name, undefined])
      const path = `${BASE}/attachments/${id}/`
      const known = await ask('user', path, { ...accel, 'if-none-match': headers.etag! } as typeof accel)
      expect([known.status, known.headers['x-accel-redirect']]).toEqual([304, undefined])
      expect((await ask('user', path, { ...accel, range: 'bytes=99-' } as typeof accel)).status).toBe(416)
    })

    test('nobody else finds anything there', async () => {
      const others = makeAccel({ jwtSecrets: ['a key of somebody else, of whatever length'], trustProxy: 1 })
      const ours = makeAccel({ jwtSecrets: [JWT_SECRET], trustProxy: 1 })
      const req = { headers: accel } as unknown as IncomingMessage
      const now = jest.spyOn(Date, 'now').mockReturnValue(Date.now() - 31_000)
      const late = BASE + ours(req)!.place(id, sha256(bytes))
      now.mockRestore()
      const pass = place.split('?')[1]
      for (const [who, path, headers] of [
        ['user', place, {}],
        ['user', place, { 'x-sendfile-type': 'X-Sendfile' }],
        ['user2', place, accel],
        ['manager', place, accel],
        ['user', place.split('?')[0], accel],
        ['user', `${place}x`, accel],
        ['user', `${BASE}/files/${sha256('other')}/?${pass}`, accel],
        ['user', `${BASE}/files/${sha256(bytes)}/?pass=${api.token('user')}`, accel],
        ['user', BASE + others(req)!.place(id, sha256(bytes)), accel],
        ['user', late, accel],
      ] as const) {
        const { status, body } = await ask(who, path!, headers as typeof accel)
        expect([who, path, headers, status, body.code]).toEqual([who, path, headers, 404, 'NOT_FOUND'])
      }
      expect((await ask(undefined, place)).status).toBe(401)
      expect((await ask('user', BASE + ours(req)!.place(id, sha256(bytes)))).text).toBe(bytes)
      const both = makeAccel({ jwtSecrets: ['another key, which signs from now on', JWT_SECRET], trustProxy: 1 })(req)!
      expect(both.read(pass!.slice('pass='.length), sha256(bytes))).toBe(id)
    })

    test('without a proxy, the header does nothing', async () => {
      const bare = await startApi({}, api.db)
      const headers = { ...accel, authorization: `Bearer ${bare.token('user')}` }
      const answer = await bare.send({ method: 'GET', path: `${BASE}/attachments/${id}/`, headers })
      expect([answer.text, answer.headers['x-accel-redirect']]).toEqual([bytes, undefined])
      expect((await bare.send({ method: 'GET', path: place, headers })).status).toBe(404)
      await bare.close()
    })
  })

  test('is what its bytes say, and not what its sender says', async () => {
    const png = Buffer.from(
      'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==',
      'base64',
    )
    const id = await newRequest(api)
    for (const [bytes, type] of [
      [png, 'image/png'],
      ['%PDF-1.7\n', 'application/pdf'],
      ['Grüße, 你好\n', 'text/plain'],
      ['', 'text/plain'],
      [Buffer.from('GIF89a is no picture'), 'image/gif'],
      [Buffer.from('Gr\xfc\xdfe', 'latin1'), 'application/octet-stream'],
      ['a\0b', 'application/octet-stream'],
      // It is text up to its last byte, which begins a letter that does not come.
      [Buffer.concat([Buffer.from('x'.repeat(200_000)), Buffer.from([0xc3])]), 'application/octet-stream'],
    ] as const) {
      const { body } = await upload('user', id, [{ name: 'x.html', type: 'text/html', bytes }])
      expect([String(bytes).slice(0, 20), body.media_type, body.size]).toEqual([
        String(bytes).slice(0, 20),
        type,
        Buffer.byteLength(bytes),
      ])
      const got = await download('user', body.id)
      expect(Buffer.from(await got.arrayBuffer()).equals(Buffer.from(bytes))).toBe(true)
    }
  })

  test('that somebody has attached before is kept once, until nobody has it any more', async () => {
    const bytes = randomBytes(300_000)
    const [first, second] = [await newRequest(api), await newRequest(api, { by: 'user2' })]
    const { id: one } = await attach(first, bytes)
    const { id: other } = await attach(second, bytes, 'same.bin', 'user2')
    expect([...(await files(first)), ...(await files(second))]).toEqual([{ sha256: sha256(bytes), size: bytes.length }])
    const remove = async (who: Who, id: string) => {
      expect(outcome(await rest(who, `DELETE /attachments/${id}/`))).toBe('204')
      expect(outcome(await rest(who, `DELETE /attachments/${id}/`))).toBe('404 NOT_FOUND')
      await owner.query('select app_private.sweep_files()')
    }
    await remove('user', one)
    expect(sha256(Buffer.from(await (await download('user2', other)).arrayBuffer()))).toBe(sha256(bytes))
    await remove('user2', other)
    expect(await files(first)).toEqual([])
    expect((await trail(first)).map(({ action }) => action)).toEqual(['CREATE', 'ATTACH', 'DETACH'])
    await agrees()
  })

  test('can be sent again under its key: one attachment, and the first answer, even when it could no longer be attached', async () => {
    const id = await newRequest(api)
    const key = { 'idempotency-key': 'the-same-upload' }
    const first = await upload('user', id, [{ name: 'a.txt', bytes: 'a' }], key)
    await submit(id)
    const again = await upload('user', id, [{ name: 'a.txt', bytes: 'a' }], key)
    expect([again.status, again.text, again.headers.location]).toEqual([201, first.text, first.headers.location])
    expect(outcome(await upload('user', id, [{ name: 'a.txt', bytes: 'b' }], key))).toBe('422 IDEMPOTENCY_CONFLICT')
    expect(await listed(id)).toHaveLength(1)
    expect(await files(id)).toHaveLength(1)
  })

  test('changes the entity tag of its request, which If-Match takes', async () => {
    const id = await newRequest(api)
    const { headers } = await rest('user', `GET /requests/${id}/`)
    const match = { 'if-match': headers.etag! }
    expect(outcome(await upload('user', id, [{ name: 'a', bytes: 'a' }], match))).toBe('201')
    expect(outcome(await upload('user', id, [{ name: 'b', bytes: 'b' }], match))).toBe('412 STALE_VERSION')
    expect(outcome(await rest('user', `POST /requests/${id}/submit/`, {}, match))).toBe('412 STALE_VERSION')
    const [{ id: attachment }] = await listed(id)
    const remove = (headers: Record<string, string>) => rest('user', `DELETE /attachments/${attachment}/`, undefined, headers)
    expect(outcome(await remove(match))).toBe('412 STALE_VERSION')
    expect(outcome(await remove({ 'if-match': 'x' }))).toBe('400 BAD_REQUEST')
    expect(outcome(await remove({ 'if-match': `"${sha256('b')}"` }))).toBe('412 STALE_VERSION')
    expect(outcome(await remove({ 'if-none-match': `"${sha256('a')}"` }))).toBe('412 STALE_VERSION')
    expect(await listed(id)).toHaveLength(1)
    expect(outcome(await remove({ 'if-match': (await rest('user', `GET /requests/${id}/`)).headers.etag! }))).toBe('204')
  })

  test('is removed by who has seen the file itself, by its own entity tag', async () => {
    const { id, sha256 } = await attach(await newRequest(api))
    expect(outcome(await rest('user', `DELETE /attachments/${id}/`, undefined, { 'if-match': `"${sha256}"` }))).toBe('204')
  })
})

describe('what is refused', () => {
  const one = [{ name: 'a.txt', bytes: 'a' }]

  test('in the order of the contract, and leaves nothing', async () => {
    const draft = await newRequest(api)
    const submitted = await newRequest(api, { submit: true })
    for (const [who, id, expected] of [
      [undefined, draft, '401 UNAUTHENTICATED'],
      ['user', NOBODY, '404 NOT_FOUND'],
      ['user', 'x', '404 NOT_FOUND'],
      ['user2', draft, '404 NOT_FOUND'],
      ['manager', draft, '404 NOT_FOUND'],
      ['admin', draft, '403 FORBIDDEN'],
      ['manager', submitted, '403 FORBIDDEN'],
      ['user', submitted, '409 INVALID_TRANSITION'],
    ] as const) {
      expect([who, outcome(await upload(who, id, one))]).toEqual([who, expected])
      // Where it can no longer be told before the file has arrived.
      const keyed = await upload(who, id, one, { 'idempotency-key': `${who} ${id} x`.replaceAll(' ', '-') })
      expect([who, outcome(keyed)]).toEqual([who, expected])
    }
    for (const id of [draft, submitted]) expect(await files(id)).toEqual([])
  })

  test('one that is too large, before it has all been sent', async () => {
    const id = await newRequest(api)
    expect(outcome(await upload('user', id, [{ name: 'a', bytes: Buffer.alloc(10 * MEBI + 1) }]))).toBe('413 PAYLOAD_TOO_LARGE')
    const chunked = { 'transfer-encoding': 'chunked' }
    const large = await upload('user', id, [{ name: 'a', bytes: Buffer.alloc(11 * MEBI) }], chunked)
    expect(outcome(large)).toBe('413 PAYLOAD_TOO_LARGE')
    // The declared length alone is enough: of the body, nothing has been sent.
    const answer = await raw(`POST ${BASE}/requests/${id}/attachments/`, { ...FORM, 'content-length': String(2 ** 40) })
    expect(answer).toMatch(/^HTTP\/1.1 413 /)
    await until(async () => (await files(id)).length === 0)
    expect(await listed(id)).toEqual([])
  })

  test('an eleventh', async () => {
    const id = await newRequest(api)
    for (let i = 0; i < 10; i++) await attach(id, `${i}`)
    expect(outcome(await upload('user', id, one))).toBe('422 VALIDATION_FAILED file')
    expect(outcome(await upload('user', id, one, { 'idempotency-key': 'eleventh' }))).toBe('422 VALIDATION_FAILED file')
    const { id: last } = (await listed(id))[0]
    expect(outcome(await rest('user', `DELETE /attachments/${last}/`))).toBe('204')
    await attach(id)
    expect(await listed(id)).toHaveLength(10)
    await agrees()
  })

  test.each([
    ['', '422 VALIDATION_FAILED name'],
    [' \u200b', '422 VALIDATION_FAILED name'],
    ['x'.repeat(201), '422 VALIDATION_FAILED name'],
    ['😀'.repeat(201), '422 VALIDATION_FAILED name'],
    ['../../etc/passwd', '422 VALIDATION_FAILED name'],
    ['C:\\\\autoexec.bat', '422 VALIDATION_FAILED name'],
    ['..', '422 VALIDATION_FAILED name'],
    ['a\tb', '422 VALIDATION_FAILED name'],
    ['a\x7fb', '422 VALIDATION_FAILED name'],
    ['invoice\u202efdp.exe', '422 VALIDATION_FAILED name'],
    ['a\u2028b', '422 VALIDATION_FAILED name'],
    ['a\nb', '422 VALIDATION_FAILED file'],
  ])('the name %j', async (name, expected) => {
    const id = await newRequest(api)
    expect(outcome(await upload('user', id, [{ name, bytes: 'x' }]))).toBe(expected)
    expect([await listed(id), await files(id)]).toEqual([[], []])
  })

  test.each(['😀'.repeat(200), 'قانون.pdf', "a'b; drop table.txt", '%0d%0aset-cookie: x', '...x', '.htaccess'])(
    'but not the name %j, which comes back whole',
    async (name) => {
      const { id, name: kept } = await attach(await newRequest(api), 'x', name)
      expect(kept).toBe(name)
      const header = (await download('user', id)).headers.get('content-disposition')!
      expect(header).toMatch(/^attachment; filename=[\x20-\x7e]+$/)
      const extended = /filename\*=UTF-8''(\S+)$/.exec(header)?.[1]
      expect(extended === undefined ? header : decodeURIComponent(extended)).toContain(name)
    },
  )

  test('bodies that are not one file', async () => {
    const id = await newRequest(api)
    const send = (body: Buffer | string, headers = {}) =>
      rest('user', `POST /requests/${id}/attachments/`, body, { ...FORM, ...headers })
    const whole = form(...one)
    for (const [body, headers, expected] of [
      [form(), {}, '422 VALIDATION_FAILED file'],
      [form({ bytes: 'no file' }), {}, '422 VALIDATION_FAILED file'],
      [form({ field: 'other', name: 'a', bytes: 'a' }), {}, '422 VALIDATION_FAILED file'],
      [form(...one, ...one), {}, '422 VALIDATION_FAILED file'],
      [form(...Array.from({ length: 40 }, (_, i) => ({ field: `f${i}`, bytes: 'x' }))), {}, '400 BAD_REQUEST'],
      [whole.subarray(0, -8), {}, '400 BAD_REQUEST'],
      [whole.subarray(0, 40), {}, '400 BAD_REQUEST'],
      ['', {}, '400 BAD_REQUEST'],
      [randomBytes(3_000), {}, '400 BAD_REQUEST'],
      [whole, { 'content-type': 'multipart/form-data' }, '400 BAD_REQUEST'],
      [whole, { 'content-type': 'application/json' }, '415 UNSUPPORTED_MEDIA_TYPE'],
      [whole, { 'content-type': 'multipart/form-database; boundary=x' }, '415 UNSUPPORTED_MEDIA_TYPE'],
      [whole, { 'content-encoding': 'gzip' }, '415 UNSUPPORTED_MEDIA_TYPE'],
    ] as const)
      expect([body.toString().slice(0, 80), headers, outcome(await send(body, headers))]).toEqual([
        body.toString().slice(0, 80),
        headers,
        expected,
      ])
    expect([await listed(id), await files(id)]).toEqual([[], []])
    // Parts beside the file are ignored.
    expect(outcome(await send(form({ field: 'comment', bytes: 'x' }, ...one, { field: 'other', name: 'b', bytes: 'b' })))).toBe(
      '201',
    )
  })

  test('to read, remove or add to what one does not see, as if it did not exist', async () => {
    const draft = await newRequest(api)
    const { id } = await attach(draft)
    const calls = (attachment: string): string[] => [`GET /attachments/${attachment}/`, `DELETE /attachments/${attachment}/`]
    for (const who of ['user2', 'manager'] as const) {
      for (const [i, call] of calls(id).entries()) {
        const answer = await rest(who, call)
        expect(answer.text).toBe((await rest(who, calls(NOBODY)[i]!)).text)
        expect(outcome(answer)).toBe('404 NOT_FOUND')
      }
      expect(outcome(await rest(who, `GET /requests/${draft}/attachments/`))).toBe('404 NOT_FOUND')
    }
    expect(outcome(await rest('admin', `DELETE /attachments/${id}/`))).toBe('403 FORBIDDEN')
    await submit(draft)
    expect(outcome(await rest('user', `DELETE /attachments/${id}/`))).toBe('409 INVALID_TRANSITION')
    expect(await listed(draft, 'manager')).toHaveLength(1)
  })

  test('by cookie, without the token of the session', async () => {
    const id = await newRequest(api)
    const cookie = { cookie: `assent_session=${api.db.people.user.session}`, origin: 'https://elsewhere.example' }
    expect(outcome(await upload(undefined, id, one, cookie))).not.toBe('201')
    expect(await listed(id)).toEqual([])
  })
})

/** Begins a request, and answers with what comes back before the connection ends, or else within a second. */
async function raw(line: string, headers: Record<string, string>, ...pieces: (Buffer | string)[]): Promise<string> {
  const { hostname, port } = new URL(api.url)
  const socket = connect(Number(port), hostname)
  const all = { host: 'x', authorization: `Bearer ${api.token('user')}`, ...headers }
  socket.write(
    `${line} HTTP/1.1\r\n${Object.entries(all)
      .map(([name, value]) => `${name}: ${value}\r\n`)
      .join('')}\r\n`,
  )
  for (const piece of pieces) socket.write(piece)
  return new Promise((resolve) => {
    let text = ''
    socket.on('data', (data) => {
      text += data
      socket.destroy()
    })
    socket.on('error', () => {})
    socket.on('close', () => resolve(text))
  })
}

describe('an upload that does not end', () => {
  /** Sends the first half of a file; answers with the socket once that has arrived in the database. */
  async function half(on: Pick<Api, 'url' | 'token'>, id: string) {
    const body = form({ name: 'half.bin', bytes: randomBytes(MEBI) })
    const { hostname, port } = new URL(on.url)
    const socket = connect(Number(port), hostname)
    socket.on('error', () => {})
    const headers = { ...FORM, host: 'x', authorization: `Bearer ${on.token('user')}`, 'content-length': String(body.length) }
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
    socket.write(`POST ${BASE}/requests/${id}/attachments/ HTTP/1.1\r\n${lines.join('')}\r\n`)
    socket.write(body.subarray(0, MEBI / 2 + 1_000))
    await until(async () => (await files(id))[0]?.size >= MEBI / 2)
    return { socket, rest: body.subarray(MEBI / 2 + 1_000) }
  }

  /** Of a file that was cut off, only its bytes are there, until they are swept. */
  async function leftAlone(id: string): Promise<void> {
    const sweep = () => owner.query('select app_private.sweep_files()')
    expect((await files(id)).map(({ sha256 }) => sha256)).toEqual([null])
    expect([await listed(id), (await trail(id)).map(({ action }) => action)]).toEqual([[], ['CREATE']])
    await sweep()
    expect(await files(id)).toHaveLength(1) // It could still go on.
    await owner.query(`update app_private.files set swept_after = now() - interval '1 second' where request_id = $1`, [id])
    await sweep()
    expect(await files(id)).toEqual([])
    const { rows } = await owner.query(
      'select from app_private.file_chunks c where not exists (select from app_private.files f where f.id = c.file_id)',
    )
    expect(rows).toEqual([])
  }

  test('holds no connection, and leaves nothing when the caller goes', async () => {
    const id = await newRequest(api)
    const { socket } = await half(api, id)
    const { rows } = await owner.query(
      `select count(*)::int as n from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'`,
    )
    expect(rows[0].n).toBe(0)
    expect(await listed(id)).toEqual([])
    socket.destroy()
    await until(async () => (await files(id)).length === 0)
    expect((await trail(id)).map(({ action }) => action)).toEqual(['CREATE'])
    expect(api.log()).not.toContain('internal error')
  })

  test('leaves bytes that are swept when server and database part, and no attachment', async () => {
    const proxy = await startProxy(api.db.urls.auth)
    const cut = await startApi({ TRUST_PROXY: '1' }, { ...api.db, urls: { ...api.db.urls, auth: proxy.url } })
    try {
      const id = await newRequest(api)
      const { socket, rest } = await half(cut, id)
      await proxy.cut()
      const answered = new Promise<string>((resolve) => socket.on('data', (data) => resolve(String(data))))
      socket.write(rest)
      expect(await answered).toMatch(/^HTTP\/1.1 503 /)
      socket.destroy()
      await leftAlone(id)
    } finally {
      await cut.close()
      await proxy.close()
    }
  })

  test('leaves likewise what had arrived when the server is killed', async () => {
    const server = command('server', { PORT: '0', AUTH_DATABASE_URL: api.db.urls.auth, JWT_SECRET })
    const id = await newRequest(api)
    const { socket } = await half({ url: await server.until(/(http:\/\/127\.0\.0\.1:\d+)/), token: api.token }, id)
    const gone = new Promise((resolve) => socket.once('close', resolve))
    await server.end('SIGKILL')
    await gone
    await leftAlone(id)
    await attach(id)
  })

  test('counts: nobody has more than ten under way', async () => {
    const id = await newRequest(api)
    const { token } = await api.person()
    const { rows } = await owner.query(
      `with me as (select user_id from app_private.live_session($1))
       insert into app_private.files (uploader_id, request_id, swept_after)
       select me.user_id, $2, now() + interval '1 minute' from me, generate_series(1, 10) returning id`,
      [api.db.people.user.session, id],
    )
    expect(token).toBeTruthy()
    expect(outcome(await upload('user', id, [{ name: 'a', bytes: 'a' }]))).toBe('429 RATE_LIMITED')
    await owner.query('delete from app_private.files where id = any ($1)', [rows.map((row) => row.id)])
    await attach(id)
  })

  test('costs as much of the allowance as it is long, before it is sent', async () => {
    const headers = { ...FORM, authorization: `Bearer ${api.token('user')}`, 'content-length': String(10 * MEBI) }
    const outcomes: string[] = []
    for (let i = 0; i < 20; i++) {
      const answer = await raw(`POST ${BASE}/requests/${NOBODY}/attachments/`, headers)
      outcomes.push(answer.slice(9, 12))
    }
    expect(outcomes.slice(0, 10)).toEqual(Array(10).fill('404'))
    expect(outcomes.at(-1)).toBe('429')
  })
})

test('GraphQL shows what is attached to a request', async () => {
  const id = await newRequest(api)
  const { created_at, media_type, ...facts } = await attach(id)
  const query = `query ($id: UUID!) { request(id: $id) {
    attachments { totalCount nodes { id name mediaType size sha256 createdAt } } } }`
  const { request } = await api.data(query, { id }, 'user')
  expect(request.attachments.totalCount).toBe(1)
  expect(request.attachments.nodes).toEqual([{ ...facts, mediaType: media_type, createdAt: expect.any(String) }])
  expect((await api.data(query, { id }, 'user2')).request).toBeNull()
})
