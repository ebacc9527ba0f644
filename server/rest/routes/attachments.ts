import { create as disposition } from 'content-disposition'
import { countBody } from '../../http/body.ts'
import { isKnown } from '../../http/preconditions.ts'
import { prepared } from '../../sql/prepared.ts'
import type { List } from '../lists.ts'
import {
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

/** Each chunk is asked for when the one before has been taken, by a caller who still sees the request. */
async function* bytesOf(call: Call, size: number): AsyncGenerator<Buffer> {
  for (let place = 0; place * CHUNK_BYTES < size; place++) {
    const [chunk] = await call.carry<{ bytes: Buffer | null }>({ ...CHUNK, values: [idOf(call), place] })
    if (!chunk?.bytes) throw notFound()
    yield chunk.bytes
  }
}

async function download(call: Call): Promise<Answer> {
  const { req, ask, pay } = call
  const found = await ask<{ name: string; media_type: string; size: number; sha256: string }>({ ...FILE, values: [idOf(call)] })
  if (!found[0]) throw notFound()
  const { name, media_type: type, size, sha256 } = found[0]
  const etag = `"${sha256}"`
  if (req.method === 'GET' && !isKnown(req.headers, etag)) pay(costOf(size))
  const headers = {
    etag,
    'content-type': type === 'text/plain' ? 'text/plain; charset=utf-8' : type,
    'content-length': String(size),
    // Whatever a browser takes it for, it may do nothing here.
    'content-disposition': disposition(name),
    'content-security-policy': "sandbox; default-src 'none'",
  }
  return { status: 200, headers, bytes: bytesOf(call, size) }
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
  del('/attachments/:id/', "Remove an attachment of a draft of one's own", {
    ...CHANGE,
    run: perform('select app_hidden.detach($1, $2)', idOf, expectedVersionsBy(REQUEST_OF_ATTACHMENT)),
  }),
]
