import type { List } from '../lists.ts'
import {
  bodyOf,
  create,
  del,
  get,
  idOf,
  page,
  patch,
  perform,
  post,
  show,
  tagOf,
  type Call,
  type Reference,
  type Route,
  type Run,
} from '../route.ts'
import { isAllowed, isKnown } from '../../http/preconditions.ts'
import { prepared } from '../../sql/prepared.ts'
import { SEARCHES } from '../../sql/search.ts'
import { DATA, FLAG, oneOf, TEXT, TEXT_OR_NULL, UUID, UUID_OR_NULL } from '../schemas.ts'

const REQUEST = `select app_hidden.request_document(r)::text as document, r.version from app_public.requests r where r.id = $1`
const ACT = `select version, document::text from app_hidden.act_on_request($1, $2, $3, $4)`
const CREATE = `select version, document::text from app_hidden.act_on_request(null, 'CREATE', null, $1)`
const DELETE = `select app_hidden.act_on_request($1, 'DELETE', $2, '{}')`

/**
 * Reads the version that a change of a request is meant for, by the tag of what its caller sees now (RFC 9110, 13.1.1 and
 * 13.1.2): null for any, and none if a precondition fails, which the database then says in its turn. The statement finds the
 * request by the id in the path, and the tag of what belongs to it, if the path names that.
 */
export function expectedVersionsBy(sql: string): (call: Call) => Promise<number[] | null> {
  const statement = prepared(sql)
  return async ({ req: { headers }, params, ask }) => {
    const { 'if-match': match, 'if-none-match': noneMatch } = headers
    // Any version will do, one included that another change makes meanwhile.
    if (noneMatch === undefined && (match === undefined || match.trim() === '*')) return null
    const [seen] = await ask<{ document: string; version: number; tag?: string }>({ ...statement, values: [params['id']] })
    const tags = seen ? [tagOf(seen.version, seen.document), ...(seen.tag ? [seen.tag] : [])] : ['""']
    if (tags.some((tag) => isAllowed(headers, tag)) && !tags.some((tag) => isKnown(headers, tag)))
      return seen ? [seen.version] : null
    return []
  }
}
export const expectedVersions = expectedVersionsBy(REQUEST)

const act = (action: string): Run => show(ACT, idOf, () => action, expectedVersions, bodyOf)

const proveVisible = show('select id::text as document from app_public.requests where id = $1', idOf)

/**
 * Answers a page of what belongs to a request, by the filter request_id of the list. The request itself has to be visible: one's
 * own rows on it are no leave to see it.
 */
export function pageOfRequest(list: List): Run {
  const readPage = page(list)
  return async (call) => {
    await proveVisible(call)
    return readPage({ ...call, query: { ...call.query, request_id: idOf(call) } })
  }
}

/** A change of a request that is there, by an action of this name. */
export const CHANGE = { versioned: true, errors: ['FORBIDDEN', 'INVALID_TRANSITION', 'STALE_VERSION'] } as const

const action = (name: string, summary: string, body?: Route['body'], required: string[] = []): Route =>
  post(`/requests/:id/${name.toLowerCase()}/`, summary, {
    ...CHANGE,
    ...(body && { body, required }),
    shows: 'Request',
    run: act(name),
  })

const byTime = { '-created_at': 'd.created_at', created_at: 'd.created_at' }

function lists({ statuses }: Reference): { all: List; inbox: List } {
  const all: List = {
    from: 'app_public.requests d',
    document: 'app_hidden.request_document(d)',
    where: 'app_hidden.is_listed(d, false)',
    orderings: byTime,
    filters: {
      status: { schema: oneOf(statuses), where: (value) => `d.status = ${value}` },
      creator_id: { schema: UUID, where: (value) => `d.creator_id = ${value}::uuid` },
      assigned_to_id: { schema: UUID, where: (value) => `d.assigned_to_id = ${value}::uuid` },
      awaiting_my_decision: {
        schema: FLAG,
        description: 'Only what the caller can decide now, oldest first: it is ordered by submitted_at, and nothing else is.',
      },
      search: { schema: TEXT, description: SEARCHES.requests, finds: 'requests' },
    },
  }
  const submittedAt = 'app_hidden.waiting_since(d.submitted_at)'
  const inbox: List = {
    ...all,
    from: 'app_public.requests_awaiting_my_decision() d',
    where: 'true',
    filters: { ...all.filters, search: { ...all.filters['search']!, finds: 'requests_awaiting_my_decision' } },
    orderings: { submitted_at: submittedAt, '-submitted_at': submittedAt },
  }
  return { all, inbox }
}

const DRAFT = { title: TEXT, description: TEXT_OR_NULL, assigned_to_id: UUID_OR_NULL, data: DATA }

export function requests(reference: Reference): readonly Route[] {
  const { all, inbox } = lists(reference)
  const [pageOfAll, pageOfInbox] = [page(all), page(inbox)]
  return [
    get('/requests/', 'Requests that the caller may see, newest first', {
      list: { ...all, orderings: { ...byTime, ...inbox.orderings } },
      shows: 'Request',
      run: (call) => (call.query['awaiting_my_decision'] === 'true' ? pageOfInbox : pageOfAll)(call),
    }),
    post('/requests/', 'Create a draft', {
      body: { ...DRAFT, kind: TEXT },
      required: ['title'],
      status: 201,
      shows: 'Request',
      run: create('/requests/', show(CREATE, bodyOf)),
    }),
    get('/requests/:id/', 'A request', { shows: 'Request', run: show(REQUEST, idOf) }),
    patch('/requests/:id/', "Edit a draft of one's own; what is left out stays as it is", {
      ...CHANGE,
      body: DRAFT,
      shows: 'Request',
      run: act('UPDATE'),
    }),
    del('/requests/:id/', "Delete a draft of one's own", { ...CHANGE, run: perform(DELETE, idOf, expectedVersions) }),
    action('SUBMIT', "Submit a draft of one's own for decision"),
    action('APPROVE', 'Approve a submitted request, for good', { comment: TEXT_OR_NULL }),
    action('REJECT', 'Reject a submitted request, for good', { comment: TEXT }, ['comment']),
    action('ASSIGN', 'Assign a submitted request to one manager or admin, or by null to none in particular', {
      assigned_to_id: UUID_OR_NULL,
    }),
  ]
}
