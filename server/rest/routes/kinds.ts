import { get, notFound, show, type Call, type Route } from '../route.ts'

// There are as many as a company has forms: they fit on one page.
const KINDS = `select json_build_object('results', coalesce(json_agg(app_hidden.kind_document(k) order by k.id), '[]'),
    'next', null, 'previous', null)::text as document
  from (select * from app_public.request_kinds order by id limit 1000) k`
const KIND = 'select app_hidden.kind_document(k)::text as document from app_public.request_kinds k where k.id = $1'

/** Anything of another form is no kind's id. */
function kindOf({ params }: Call): string {
  const id = params['kind']!
  if (!/^[A-Z][A-Z0-9_]*$/.test(id)) throw notFound()
  return id
}

export const kinds: readonly Route[] = [
  get('/kinds/', 'The kinds of requests', { shows: 'Kinds', run: show(KINDS) }),
  get('/kinds/:kind/', 'A kind of request', { shows: 'Kind', run: show(KIND, kindOf) }),
]
