import { createSecretKey, hkdfSync } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import jwt from 'jsonwebtoken'
import type { Config } from '../config.ts'

/** Seconds in which nginx must come for the bytes. */
const LIFETIME = 30
const ALGORITHM = 'HS256'

/**
 * Leaves it to nginx to send files: the server answers a download that it permits with the place of the bytes alone
 * (X-Accel-Redirect), and nginx fetches them from there once, and keeps them. The place is signed, so that nobody else can name
 * one; who asks there still has to see the attachment.
 */
export interface Accel {
  /** The place of the bytes of an attachment, below the API's own. */
  place(attachmentId: string, sha256: string): string
  /** The attachment for which somebody was sent to the place of these bytes; undefined if nobody was. */
  read(pass: unknown, sha256: string): string | undefined
}

/** What a caller who comes through nginx has, and nobody else. */
export type AccelOf = (req: IncomingMessage) => Accel | undefined

export function makeAccel({ jwtSecrets, trustProxy }: Pick<Config, 'jwtSecrets' | 'trustProxy'>): AccelOf {
  // Derived, so that no signature of a place is one of a token, or the other way round. The first signs, all verify.
  const keys = jwtSecrets.map((secret) => createSecretKey(Buffer.from(hkdfSync('sha256', secret, '', 'places of files', 32))))
  const accel: Accel = {
    place(attachmentId, sha256) {
      const pass = jwt.sign({}, keys[0]!, { algorithm: ALGORITHM, subject: attachmentId, audience: sha256, expiresIn: LIFETIME })
      return `/files/${sha256}/?pass=${pass}`
    },
    read(pass, sha256) {
      for (const key of keys) {
        try {
          return jwt.verify(String(pass), key, { algorithms: [ALGORITHM], audience: sha256 }).sub as string
        } catch {
          // It was not signed by this key, or not for these bytes, or too long ago.
        }
      }
      return undefined
    },
  }
  // As Rack has it. Without a proxy, a caller could have written it; our nginx overwrites what a caller writes.
  return ({ headers }) => (trustProxy > 0 && headers['x-sendfile-type'] === 'X-Accel-Redirect' ? accel : undefined)
}
