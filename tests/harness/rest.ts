import { STATUS_CODES, type OutgoingHttpHeaders } from 'node:http'
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js'
import formats from 'ajv-formats'
import { STATUS, type Code } from '../../server/errors.ts'
import { fromElsewhere, type Answer, type Api, type Who } from './client.ts'

export const BASE = '/api/v1'

/** One REST call, such as rest('user', 'POST /requests/', { title: 'x' }), or of a link: rest('user', `GET ${next}`). */
export interface Rest {
  (who: Who, call: string, body?: unknown, headers?: OutgoingHttpHeaders): Promise<Answer>
  /** The OpenAPI document that the server serves, by which every answer is judged. */
  readonly document: any
  /** What has been answered so far, as "GET /requests/{id} 200". */
  readonly met: ReadonlySet<string>
}

/** An answer in one line: "200", or "422 VALIDATION_FAILED title". */
export const outcome = ({ status, body }: Answer): string =>
  [status, body?.code, ...Object.keys(body?.errors ?? {})].filter((word) => word !== undefined).join(' ')

/** Problem Details whose members agree with each other and with the status line. */
export function checkProblem({ status, headers, body }: Answer): void {
  const { code, errors } = body
  expect(headers['content-type']).toBe('application/problem+json; charset=utf-8')
  expect(body).toEqual({
    type: 'about:blank',
    title: STATUS_CODES[status],
    status,
    detail: expect.stringMatching(/^\S.*[.\w]$/s),
    code: expect.any(String),
    ...(errors && { errors }),
  })
  const others: Record<string, number> = { IDEMPOTENCY_CONFLICT: 422, BAD_REQUEST: 416 }
  const statuses = [STATUS[code as Code], others[code]]
  expect([code, statuses.includes(status)]).toEqual([code, true])
  if (errors) {
    // One message for each field at fault, and the first of them is the detail.
    const messages = Object.values(errors)
    expect([code, messages[0]]).toEqual(['VALIDATION_FAILED', [body.detail]])
    expect(messages).toEqual(messages.map(() => [expect.stringMatching(/^\S.*\.$/s)]))
  }
  expect(headers['www-authenticate']).toBe(status === 401 ? 'Bearer' : undefined)
  const isToBeRetried = status === 429 || status === 503 || (status === 409 && code === 'IDEMPOTENCY_CONFLICT')
  expect(headers['retry-after'] ?? '').toMatch(isToBeRetried ? /^[1-9]\d*$/ : /^$/)
}

/** Calls the API, and fails for every answer that its own OpenAPI document does not describe. */
export async function openRest(api: Api): Promise<Rest> {
  const { body: document } = await api.send({ method: 'GET', path: `${BASE}/openapi.json` })
  const ajv = new Ajv2020({ allErrors: true, strictTypes: false, allowUnionTypes: true })
  formats.default(ajv)
  ajv.addVocabulary(Object.keys(document)) // The document itself is no schema; within one, an unknown keyword is a mistake.
  ajv.addSchema(document, 'openapi', undefined, false)
  const validators = new Map<string, ValidateFunction>()
  const pointer = (...names: (string | number)[]) =>
    names.map((name) => `/${encodeURIComponent(String(name).replaceAll('~', '~0').replaceAll('/', '~1'))}`).join('')

  function validate(what: string, value: unknown, ...names: (string | number)[]): void {
    const at = `openapi#${pointer(...names, 'schema')}`
    let validator = validators.get(at)
    if (!validator) validators.set(at, (validator = ajv.compile({ $ref: at })))
    if (validator(value)) return
    throw new Error(`${what} is not as documented: ${ajv.errorsText(validator.errors)}\n${JSON.stringify(value)}`)
  }

  // What has no parameter comes first: /users/me/ is no /users/{id}/.
  const templates = Object.keys(document.paths)
    .sort((a, b) => Number(a.includes('{')) - Number(b.includes('{')))
    .map((template) => ({ template, pattern: new RegExp(`^${template.replace(/\{\w+\}/g, '[^/]+').replace(/\/$/, '')}/?$`) }))
  const met = new Set<string>()

  function check(method: string, path: string, sent: unknown, answer: Answer): void {
    const { status, headers, text, body } = answer
    const isHead = method === 'HEAD'
    const verb = isHead ? 'get' : method.toLowerCase()
    const { template = '' } = templates.find(({ pattern }) => pattern.test(path.split('?', 1)[0]!)) ?? {}
    const operation = document.paths[template]?.[verb]
    const what = `${method} ${path}, ${status} ${text}`
    if (status >= 400 && !isHead) checkProblem(answer)
    if (!operation) {
      if (status === 404 || status === 405) return
      throw new Error(`There is no such operation: ${what}`)
    }

    const response = operation.responses[status]
    if (!response) throw new Error(`The status is undocumented: ${what}`)
    met.add(`${method} ${template} ${status}`)
    for (const name of Object.keys(response.headers ?? {}))
      if (headers[name.toLowerCase()] === undefined) throw new Error(`The header ${name} is missing: ${what}`)

    const [type] = Object.keys(response.content ?? {})
    const isFile = type === '*/*'
    const expected = isFile ? headers['content-type'] : type && `${type}; charset=utf-8`
    if (headers['content-type'] !== expected)
      throw new Error(`It is ${headers['content-type']} and should be ${expected}: ${what}`)
    if (isHead || !type) {
      if (text !== '') throw new Error(`The body should be empty: ${what}`)
    } else if (!isFile) validate(what, body, 'paths', template, verb, 'responses', status, 'content', type)

    // What is accepted is documented too.
    const { requestBody } = operation
    if (status < 300 && requestBody?.content['application/json'] && sent !== undefined)
      validate(`The body of ${what}`, sent, 'paths', template, verb, 'requestBody', 'content', 'application/json')
  }

  const call = async (who: Who, what: string, body?: unknown, headers: OutgoingHttpHeaders = {}): Promise<Answer> => {
    const [method = '', ...rest] = what.split(' ')
    const path = rest
      .join(' ')
      .replace(BASE, '')
      .replace(/[^\x21-\x7e]/gu, encodeURIComponent) // As clients do.
    const bearer = typeof who === 'string' ? api.token(who) : who?.token
    const isRaw = typeof body === 'string' || Buffer.isBuffer(body)
    const json = isRaw ? body : body === undefined ? undefined : JSON.stringify(body)
    const given: OutgoingHttpHeaders = {
      ...fromElsewhere(),
      ...(bearer !== undefined && { authorization: `Bearer ${bearer}` }),
      ...(json !== undefined && { 'content-type': 'application/json', 'content-length': Buffer.byteLength(json) }),
      ...headers,
    }
    if (given['transfer-encoding']) delete given['content-length']
    const answer = await api.send({ method, path: `${BASE}${path}`, headers: given, ...(json !== undefined && { body: json }) })
    check(method, path, isRaw && given['content-encoding'] ? undefined : isRaw ? tryParse(body) : body, answer)
    return answer
  }
  return Object.assign(call, { document, met })
}

function tryParse(text: string | Buffer): unknown {
  try {
    return JSON.parse(String(text))
  } catch {
    return undefined
  }
}
