import type { IncomingHttpHeaders } from 'node:http'
import { create as disposition } from 'content-disposition'
import { parse as parseRange, type Range } from 'range-parser'
import { ClientError, noSuchPath } from '../../errors.ts'
import { countBody } from '../../http/body.ts'
import { isAllowed, isKnown } from '../../http/preconditions.ts'
import { PROBLEM } from '../../http/problem.ts'
import { prepared } from '../../sql/prepared.ts'
import type { List } from '../lists.ts'
import {
  BASE,
  bodyOf,
  create,
  del,
  get,
  idOf,
  notFound,
  perform,
  post,
  show,
  type Answer,
  type Call,
  type Received,
  type Route,
} from '../route.ts'
import { UUID } from '../schemas.ts'
import { assertFile, CHUNK_BYTES, costOf, declaredBytes, readUpload } from '../upload.ts'
import { CHANGE, expectedVersions, expectedVersionsBy, pageOfRequest } from './requests.ts'

const BEGIN = prepared('select app_hidden.begin_upload($1, $2, $3) as id')
const ADD = prepared('select app_hidden.upload_chunk($1, $2, $3)')
const DROP = prepared('select app_hidden.drop_upload($1)')
const ATTACH = `select app_hidden.attach($1, $2, $3)::text as document`
const FILE = prepared('select name, media_type, size, sha256 from app_public.attachments where id = $1')
const CHUNK = prepared('select app_hidden.attachment_chunk($1, $2) as bytes')
/** To remove a file, its caller may have seen the request or the file itself. */
const REQUEST_OF_ATTACHMENT = `select app_hidden.request_document(r)::text as document, r.version, format('"%s"', a.sha256) as tag
  from app_public.attachments a join app_public.requests r on r.id = a.request_id where a.id = $1`

/** Takes the file, each chunk in a transaction of its own: no connection waits for the caller. */
async function receive(call: Call): Promise<Received> {
  const { req, caller, ask, carry, pay } = call
  assertFile(req)
  countBody(req, caller.ip)
  const declared = declaredBytes(req.headers)
  pay(costOf(declared))
  const isRepeatable = req.headers['idempotency-key'] !== undefined
  const begin = { ...BEGIN, values: [idOf(call), isRepeatable ? null : await expectedVersions(call), isRepeatable] }
  const [upload] = await ask<{ id: string }>(begin)
  const file = { id: upload!.id, drop: async () => void (await ask({ ...DROP, values: [upload!.id] }).catch(() => {})) }
  try {
    const body = await readUpload(req, async (place, bytes) => {
      if (!declared) pay(costOf((place + 1) * CHUNK_BYTES) - costOf(place * CHUNK_BYTES))
      await carry({ ...ADD, values: [file.id, place, bytes] })
    })
    return { body: { ...body }, faults: [], file }
  } catch (error) {
    await file.drop()
    throw error
  }
}

interface File {
  readonly name: string
  readonly media_type: string
  readonly size: number
  readonly sha256: string
}

async function fileOf({ ask }: Call, id: string): Promise<File> {
  const [file] = await ask<File>({ ...FILE, values: [id] })
  if (!file) throw notFound()
  return file
}

/** The bytes of a range. Each chunk is asked for when the one before has been taken, by a caller who still sees the request. */
async function* bytesOf({ carry }: Call, id: string, { start, end }: Range): AsyncGenerator<Buffer> {
  for (let place = Math.floor(start / CHUNK_BYTES); place * CHUNK_BYTES <= end; place++) {
    const [chunk] = await carry<{ bytes: Buffer | null }>({ ...CHUNK, values: [id, place] })
    if (!chunk?.bytes) throw notFound()
    yield chunk.bytes.subarray(Math.max(0, start - place * CHUNK_BYTES), end + 1 - place * CHUNK_BYTES)
  }
}

/** What is true of the bytes, whoever is sent them. Whatever a browser takes them for, they may do nothing there. */
const headersOf = (etag: string, length: number) => ({
  etag,
  'accept-ranges': 'bytes',
  'content-length': String(length),
  'content-security-policy': "sandbox; default-src 'none'",
})

/**
 * The bytes that a caller asks for (RFC 9110, 14.2); none, if the file has no such bytes or the header is malformed. A server may
 * answer several ranges by the whole, and so does nginx.
 */
function rangeOf({ range, 'if-range': condition }: IncomingHttpHeaders, size: number, etag: string): Range | 'whole' | 'none' {
  if (range === undefined || (condition !== undefined && condition !== etag)) return 'whole'
  const { code, type, ranges } = parseRange(size, range)
  if (type !== 'bytes' || ranges.length > 1) return 'whole'
  return code === MALFORMED ? 'none' : (ranges[0] ?? 'none')
}
const MALFORMED = 1

function unsatisfiable(size: number): Answer {
  const { status, problem } = new ClientError('BAD_REQUEST', `The file has ${size} bytes, and no such range.`, { status: 416 })
  return { status, headers: { ...PROBLEM, 'content-range': `bytes */${size}` }, body: JSON.stringify(problem) }
}

async function download(call: Call): Promise<Answer> {
  const { req, pay, accel } = call
  const id = idOf(call)
  const { name, media_type: type, size, sha256 } = await fileOf(call, id)
  const etag = `"${sha256}"`
  const isSent = req.method === 'GET' && isAllowed(req.headers, etag) && !isKnown(req.headers, etag)
  const range = isSent ? rangeOf(req.headers, size, etag) : 'whole'
  if (range === 'none') return unsatisfiable(size)
  const part = range === 'whole' ? { start: 0, end: size - 1 } : range
  const length = part.end - part.start + 1
  if (isSent) pay(costOf(length))
  const headers = {
    'content-type': type === 'text/plain' ? 'text/plain; charset=utf-8' : type,
    'content-disposition': disposition(name),
  }
  // nginx looks at the range itself.
  if (isSent && accel) return { status: 200, headers: { ...headers, 'x-accel-redirect': BASE + accel.place(id, sha256) } }
  return {
    status: range === 'whole' ? 200 : 206,
    headers: {
      ...headers,
      ...headersOf(etag, length),
      ...(range !== 'whole' && { 'content-range': `bytes ${part.start}-${part.end}/${size}` }),
    },
    bytes: bytesOf(call, id, part),
  }
}

/** Sends nginx the bytes, which it keeps by their hash. What is true of this download alone, it has been told before. */
async function sendToNginx(call: Call): Promise<Answer> {
  const id = call.accel?.read(call.query['pass'], call.params['sha256']!)
  if (!id) throw noSuchPath()
  const { size, sha256 } = await fileOf(call, id)
  const headers = { ...headersOf(`"${sha256}"`, size), 'cache-control': 'max-age=31536000, immutable' }
  return { status: 200, headers, bytes: bytesOf(call, id, { start: 0, end: size - 1 }) }
}

const ofRequest: List = {
  from: 'app_public.attachments d',
  document: 'app_hidden.attachment_document(d)',
  orderings: { '-created_at': 'd.created_at', created_at: 'd.created_at' },
  filters: { request_id: { schema: UUID, where: (value) => `d.request_id = ${value}::uuid` } },
}

export const attachments: readonly Route[] = [
  get('/requests/:id/attachments/', 'What is attached to a request, newest first', {
    list: ofRequest,
    shows: 'Attachment',
    run: pageOfRequest(ofRequest),
  }),
  post('/requests/:id/attachments/', "Attach a file to a draft of one's own", {
    ...CHANGE,
    errors: [...CHANGE.errors, 'VALIDATION_FAILED'],
    receive,
    status: 201,
    shows: 'Attachment',
    run: create(
      '/attachments/',
      show(ATTACH, ({ file }) => file!.id, expectedVersions, bodyOf),
    ),
  }),
  get('/attachments/:id/', 'Download an attachment', { sendsFile: true, status: 200, run: download }),
  get('/files/:sha256/', 'The bytes of a file, for nginx', { undocumented: true, status: 200, run: sendToNginx }),
  del('/attachments/:id/', "Remove an attachment of a draft of one's own", {
    ...CHANGE,
    run: perform('select app_hidden.detach($1, $2)', idOf, expectedVersionsBy(REQUEST_OF_ATTACHMENT)),
  }),
]
