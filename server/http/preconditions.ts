import type { IncomingHttpHeaders } from 'node:http'
import { ClientError } from '../errors.ts'

/** An entity tag (RFC 9110, 8.8.3), and a list of them in which items may be empty (5.6.1). */
const TAG = /(?:W\/)?"[\x21\x23-\x7e\x80-\xff]*"/
const LIST = new RegExp(`^(?:[ \\t]*,)*[ \\t]*${TAG.source}(?:[ \\t]*,(?:[ \\t]*${TAG.source})?)*[ \\t]*$`)

/** The tags that a header lists, or "*"; undefined if it is neither. */
function tagsIn(header: string): string[] | '*' | undefined {
  if (header.trim() === '*') return '*'
  return LIST.test(header) ? header.match(new RegExp(TAG, 'g'))! : undefined
}

const opaque = (tag: string) => tag.replace(/^W\//, '')

/**
 * Is the representation with this entity tag, a strong one, one that If-Match allows? Tags are compared strongly: a weak one
 * matches nothing (RFC 9110, 13.1.1). Throws BAD_REQUEST: to ignore a tag that is malformed would overwrite what the caller
 * wanted to keep.
 */
export function isAllowed({ 'if-match': header }: IncomingHttpHeaders, tag: string): boolean {
  if (header === undefined) return true
  const tags = tagsIn(header)
  if (!tags)
    throw new ClientError('BAD_REQUEST', 'If-Match must list entity tags as answers show them, in quotation marks, or be *.')
  return tags === '*' || tags.includes(tag)
}

/**
 * Is it one that If-None-Match says is known? Tags are compared weakly (RFC 9110, 13.1.2), and a Cache-Control beside it
 * changes nothing: this is the validation that it asks for. What is malformed names no tag.
 */
export function isKnown({ 'if-none-match': header }: IncomingHttpHeaders, tag: string): boolean {
  const tags = header === undefined ? undefined : tagsIn(header)
  return tags === '*' || (tags?.some((known) => opaque(known) === opaque(tag)) ?? false)
}
