import { createHash } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { finished, type Readable } from 'node:stream'
import { Busboy, type BusboyInstance } from '@fastify/busboy'
import { fileTypeFromBuffer } from 'file-type'
import { ClientError, invalid } from '../errors.ts'
import { isOfType, malformedBody, unsupportedEncoding } from '../http/body.ts'

/** What a file may have, and what its multipart frame may add. SQL has the same limit: see db/tables/attachments.sql. */
const MAX_BYTES = 10 * 2 ** 20
const FRAME_BYTES = 2 ** 16
/** In which pieces files go to the database and come from it: see app_private.file_chunks. */
export const CHUNK_BYTES = 2 ** 16
/** Bytes that cost as much of the caller's allowance as a request. */
const BYTES_PER_REQUEST = 500_000

export const costOf = (bytes: number): number => Math.floor(bytes / BYTES_PER_REQUEST)

/** What is known of a file once it has arrived. */
export interface FileFacts {
  readonly name: string
  readonly media_type: string
  readonly size: number
  readonly sha256: string
}

/** Keeps a chunk, by its place. Its bytes are overwritten as soon as that is done. */
export type Keep = (place: number, bytes: Buffer) => Promise<unknown>

const tooLarge = () => new ClientError('PAYLOAD_TOO_LARGE', `The file is larger than ${MAX_BYTES / 2 ** 20} MB.`)

/** Refuses by its headers what cannot be a file. Throws UNSUPPORTED_MEDIA_TYPE and PAYLOAD_TOO_LARGE. */
export function assertFile({ headers }: IncomingMessage): void {
  if (!isOfType(headers['content-type'] ?? '', 'multipart/form-data'))
    throw new ClientError('UNSUPPORTED_MEDIA_TYPE', 'The body must be multipart/form-data.')
  if ((headers['content-encoding'] ?? 'identity').toLowerCase() !== 'identity') throw unsupportedEncoding()
  if (declaredBytes(headers) > MAX_BYTES + FRAME_BYTES) throw tooLarge()
}

export const declaredBytes = (headers: IncomingMessage['headers']): number => Number(headers['content-length'] ?? 0)

/**
 * Says what a file is by its own bytes, whatever its name or its sender says: by its first chunk, or text if all of it is UTF-8
 * without control characters.
 */
function makeSniffer() {
  const utf8 = new TextDecoder('utf-8', { fatal: true })
  let known: string | undefined
  let isText = true
  function isTextual(bytes: Buffer | undefined): boolean {
    try {
      return !/[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]/.test(utf8.decode(bytes, { stream: bytes !== undefined }))
    } catch {
      return false
    }
  }
  return {
    async see(place: number, bytes: Buffer): Promise<void> {
      // What the library cannot make sense of has no type.
      if (place === 0) known = (await fileTypeFromBuffer(bytes).catch(() => undefined))?.mime
      isText &&= known === undefined && isTextual(bytes)
    },
    mediaType: () => known ?? (isText && isTextual(undefined) ? 'text/plain' : 'application/octet-stream'),
  }
}

/** Reads a file, of which no more than a chunk is in memory at any time. */
async function readFile(stream: Readable, name: string, keep: Keep): Promise<FileFacts> {
  const hash = createHash('sha256')
  const sniffer = makeSniffer()
  const chunk = Buffer.allocUnsafe(CHUNK_BYTES)
  let [place, filled] = [0, 0]
  async function flush() {
    const bytes = chunk.subarray(0, filled)
    hash.update(bytes)
    await sniffer.see(place, bytes)
    await keep(place, bytes)
    place++
    filled = 0
  }
  for await (const piece of stream as AsyncIterable<Buffer>) {
    for (let read = 0; read < piece.length;) {
      const copied = piece.copy(chunk, filled, read)
      read += copied
      filled += copied
      if (filled === CHUNK_BYTES) await flush()
    }
  }
  const size = place * CHUNK_BYTES + filled
  if (filled > 0) await flush()
  return { name, media_type: sniffer.mediaType(), size, sha256: hash.digest('hex') }
}

function makeParser(headers: IncomingMessage['headers']): BusboyInstance {
  const limits = { fileSize: MAX_BYTES, fieldSize: 1_000, parts: 20, headerPairs: 20, headerSize: 8_192 }
  try {
    // The name is taken as it was sent: what is wrong with it is for the database to say.
    return new Busboy({ headers: headers as { 'content-type': string }, limits, preservePath: true, fileHwm: 2 ** 14 })
  } catch {
    throw malformedBody() // It has no boundary.
  }
}

/**
 * Reads the one part "file" of a body; other parts are ignored. The caller sends no faster than `keep` works. Throws what `keep`
 * throws, BAD_REQUEST, PAYLOAD_TOO_LARGE as soon as too much has arrived, and VALIDATION_FAILED.
 */
export function readUpload(req: IncomingMessage, keep: Keep): Promise<FileFacts> {
  const parser = makeParser(req.headers)
  return new Promise((resolve, reject) => {
    let facts: Promise<FileFacts> | undefined
    let file: Readable | undefined
    let [files, bytes] = [0, 0]
    function fail(error: unknown) {
      reject(error)
      req.unpipe(parser)
      parser.destroy()
      file?.destroy()
      req.resume() // What is still on its way is not kept, so that the caller hears the answer.
    }
    parser.on('file', (field, stream, name) => {
      stream.on('limit', () => fail(tooLarge()))
      stream.on('error', () => fail(malformedBody()))
      if (field !== 'file' || ++files > 1) return void stream.resume()
      file = stream
      facts = readFile(stream, name ?? '', keep)
      facts.catch(fail)
    })
    parser.on('partsLimit', () => fail(malformedBody()))
    parser.on('error', () => fail(malformedBody()))
    parser.on('finish', () => {
      if (files === 1) return resolve(facts!)
      const message = files === 0 ? 'This is required: a part with a file name.' : 'Only one file can be sent at a time.'
      fail(invalid([{ field: 'file', message }]))
    })
    req.on('data', (piece: Buffer) => {
      bytes += piece.length
      if (bytes > MAX_BYTES + FRAME_BYTES) fail(tooLarge())
    })
    finished(req, { writable: false }, (error) => error && fail(malformedBody()))
    req.pipe(parser)
  })
}
