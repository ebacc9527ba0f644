import fc from 'fast-check'
import { openStage, type Person, type Row, type Stage } from './stage.ts'

// A small model of the product, written from the README's tables and not from the SQL, and random histories that both it and the database go through.

const actors = ['user', 'user2', 'manager', 'manager2', 'admin'] as const
type Actor = (typeof actors)[number]
type Role = 'USER' | 'MANAGER' | 'ADMIN'
const actions = ['CREATE', 'UPDATE', 'DELETE', 'SUBMIT', 'APPROVE', 'REJECT', 'ASSIGN'] as const
type Action = (typeof actions)[number]
const unchanged = Symbol('left out')
type Maybe<T> = T | typeof unchanged

type Step =
  | {
      kind: 'action'
      actor: Actor
      action: Action
      request: number
      version: 'none' | 'current' | 'stale'
      title: Maybe<string | null>
      description: Maybe<string | null>
      assignee: Maybe<Actor | null>
      comment: string | null
    }
  | { kind: 'person'; person: Actor; role: Role; active: boolean }

type Request = {
  creator: Actor
  title: string
  description: string | null
  assignee: Actor | null
  status: string
  deleted: boolean
  version: number
  reviewer: Actor | null
  comment: string | null
}
type Entry = { actor: Actor | null; action: string; request: number | null; person: Actor | null; metadata: unknown }

class Model {
  readonly people = Object.fromEntries(
    actors.map((name) => [name, { role: name.replace(/\d/, '').toUpperCase() as Role, active: true }]),
  ) as Record<Actor, { role: Role; active: boolean }>
  readonly requests: Request[] = []
  readonly entries: Entry[] = []

  /** Does it, and says the SQLSTATE that it has to fail with, if any. */
  act(step: Step): string | null {
    if (step.kind === 'person') return this.change(step)
    if (!this.people[step.actor].active) return 'RQ401'
    if (step.action === 'CREATE') return this.create(step)
    const request = this.requests[step.request]
    if (!request || !this.sees(step.actor, request)) return 'RQ404'
    if (!this.may(step.actor, step.action, request)) return 'RQ403'
    const from = ['UPDATE', 'DELETE', 'SUBMIT'].includes(step.action) ? 'DRAFT' : 'SUBMITTED'
    if (request.deleted || request.status !== from) return 'RQ409'
    if (step.version === 'stale') return 'RQ412'
    return this.apply(step, request)
  }

  private sees(actor: Actor, request: Request): boolean {
    const { role } = this.people[actor]
    if (role === 'ADMIN') return true
    return !request.deleted && (request.creator === actor || (role === 'MANAGER' && request.status !== 'DRAFT'))
  }

  private decides(person: Actor): boolean {
    return this.people[person].active && this.people[person].role !== 'USER'
  }

  private may(actor: Actor, action: Action, request: Request): boolean {
    if (['UPDATE', 'DELETE', 'SUBMIT'].includes(action)) return request.creator === actor
    if (this.people[actor].role === 'ADMIN') return action === 'ASSIGN' || request.creator !== actor
    const assignee = request.assignee && this.decides(request.assignee) ? request.assignee : null
    return this.decides(actor) && request.creator !== actor && (!assignee || assignee === actor)
  }

  private valid(request: Request, before: Request | null): boolean {
    const blank = (text: string | null) => text === null || text.trim() === ''
    if (blank(request.title) || [...request.title].length > 200) return false
    if (request.status === 'REJECTED' && blank(request.comment)) return false
    if (request.assignee === request.creator) return false
    return !request.assignee || request.assignee === before?.assignee || this.decides(request.assignee)
  }

  private create({ actor, title, description, assignee }: Step & { kind: 'action' }): string | null {
    const given = <T>(value: Maybe<T>, otherwise: T) => (value === unchanged ? otherwise : value)
    const request: Request = {
      creator: actor,
      title: given(title, null)!,
      description: given(description, null),
      assignee: given(assignee, null),
      status: 'DRAFT',
      deleted: false,
      version: 1,
      reviewer: null,
      comment: null,
    }
    if (!this.valid(request, null)) return 'RQ422'
    this.requests.push(request)
    this.log(actor, 'CREATE', this.requests.length - 1, { old_status: null, new_status: 'DRAFT' })
    return null
  }

  private apply(
    { actor, action, request: index, title, description, assignee, comment }: Step & { kind: 'action' },
    before: Request,
  ): string | null {
    const after = { ...before }
    if (action === 'UPDATE' && title !== unchanged) after.title = title!
    if (action === 'UPDATE' && description !== unchanged) after.description = description
    if ((action === 'UPDATE' || action === 'ASSIGN') && assignee !== unchanged) after.assignee = assignee
    if (action === 'DELETE') after.deleted = true
    if (action === 'SUBMIT') after.status = 'SUBMITTED'
    if (action === 'APPROVE' || action === 'REJECT') {
      Object.assign(after, { status: action === 'APPROVE' ? 'APPROVED' : 'REJECTED', reviewer: actor, comment })
    }
    if (!this.valid(after, before)) return 'RQ422'
    if (JSON.stringify(after) === JSON.stringify(before)) return null // no change: no action, no entry
    this.requests[index] = { ...after, version: before.version + 1 }
    this.log(
      actor,
      action,
      index,
      after.status === before.status ? this.fields(before, after) : { old_status: before.status, new_status: after.status },
    )
    return null
  }

  private fields(before: Request, after: Request) {
    const names = { title: 'title', description: 'description', assignee: 'assigned_to_id', deleted: 'is_deleted' } as const
    return Object.fromEntries(
      (Object.keys(names) as (keyof typeof names)[])
        .filter((key) => before[key] !== after[key])
        .map((key) => [names[key], { old: before[key], new: after[key] }]),
    )
  }

  private change({ person, role, active }: Step & { kind: 'person' }): null {
    const before = this.people[person]
    if (before.role === role && before.active === active) return null
    this.people[person] = { role, active }
    const metadata = {
      ...(before.role === role ? {} : { role: { old: before.role, new: role } }),
      ...(before.active === active ? {} : { is_deleted: { old: !before.active, new: !active } }),
    }
    const action = before.active === active ? 'USER_UPDATE' : active ? 'USER_REACTIVATE' : 'USER_DEACTIVATE'
    this.entries.push({ actor: null, action, request: null, person, metadata })
    return null
  }

  private log(actor: Actor, action: string, request: number, metadata: unknown) {
    this.entries.push({ actor, action, request, person: null, metadata })
  }
}

const text = (...values: string[]) => fc.constantFrom<Maybe<string | null>[]>(...values, null, unchanged)
const person = fc.constantFrom(...actors)
const action = fc.record({
  kind: fc.constant('action' as const),
  actor: person,
  action: fc.constantFrom<Action[]>(...actions, 'SUBMIT', 'SUBMIT', 'APPROVE', 'ASSIGN'),
  request: fc.integer({ min: 0, max: 1 }),
  version: fc.constantFrom('none' as const, 'none' as const, 'current' as const, 'stale' as const),
  title: text('A', 'B', ' ', '😀'.repeat(200), '😀'.repeat(201)),
  description: text('A', ''),
  assignee: fc.oneof(person, fc.constantFrom(null, unchanged)),
  comment: fc.constantFrom('Well', '\u3000', null),
})
const change = fc.record({
  kind: fc.constant('person' as const),
  person,
  role: fc.constantFrom<Role[]>('USER', 'MANAGER', 'ADMIN'),
  active: fc.constantFrom(true, true, false),
})
// Each begins with a valid request of somebody, or there would be nothing to act on.
const beginning = fc.record({ actor: person, submitted: fc.boolean() }).map(({ actor, submitted }): Step[] => {
  const step: Step = {
    kind: 'action',
    actor,
    action: 'CREATE',
    request: 0,
    version: 'none',
    title: 'A',
    description: unchanged,
    assignee: unchanged,
    comment: null,
  }
  return submitted ? [step, { ...step, action: 'SUBMIT' }] : [step]
})
const histories = fc
  .tuple(beginning, fc.array(fc.oneof({ arbitrary: action, weight: 6 }, { arbitrary: change, weight: 1 }), { maxLength: 14 }))
  .map(([first, rest]): Step[] => [...first, ...rest])

let stage: Stage
const met = new Map<string, number>()

beforeAll(async () => {
  stage = await openStage()
  // A whole history is one call: {0} and {1} in its statements stand for the requests it has created.
  await stage.root.query(`
    create function test.history(steps jsonb) returns jsonb language plpgsql as $$
    declare
      v_step jsonb; v_outcome jsonb; v_codes text[]; v_ids uuid[] := '{}'; v_began timestamptz := clock_timestamp();
    begin
      for v_step in select * from jsonb_array_elements(steps) loop
        v_outcome := test.attempt(v_step || jsonb_build_object('statement',
          replace(replace(v_step ->> 'statement', '{0}', coalesce(v_ids[1], gen_random_uuid())::text), '{1}', coalesce(v_ids[2], gen_random_uuid())::text)));
        v_codes := v_codes || (v_outcome ->> 'code');
        if v_step @> '{"creates": true}' and v_outcome ->> 'code' is null then
          v_ids := v_ids || (v_outcome #>> '{rows,0,id}')::uuid;
        end if;
      end loop;
      return jsonb_build_object(
        'codes', to_jsonb(v_codes),
        'ids', to_jsonb(v_ids),
        'requests', (select coalesce(jsonb_agg(r order by array_position(v_ids, r.id)), '[]') from app_public.requests r),
        'entries', (select coalesce(jsonb_agg(a order by a.timestamp), '[]') from app_public.audit_logs a where a.timestamp >= v_began),
        'disagreements', (select count(*) from audit.disagreements));
    end $$`)
})
afterAll(() => stage?.close())

const literal = (value: string | null) => (value === null ? 'null' : `'${value}'`)
const reference = (name: Actor | null) => literal(name && stage.id[name as Person])

function statement(step: Step, model: Model): string {
  if (step.kind === 'person') {
    return `update app_public.users set role = '${step.role}', is_deleted = ${!step.active}
      where id = '${stage.id[step.person]}' and (role, is_deleted) is distinct from ('${step.role}', ${!step.active})`
  }
  const current = model.requests[step.request]?.version ?? 1
  const args: string[] = step.action === 'CREATE' ? [] : [`request_id => '{${step.request}}'`]
  if (step.version !== 'none' && step.action !== 'CREATE')
    args.push(`version => ${step.version === 'current' ? current : current + 1}`)
  const writes = ['CREATE', 'UPDATE'].includes(step.action)
  if (writes && step.title !== unchanged) args.push(`title => ${literal(step.title)}`)
  else if (step.action === 'CREATE') args.push('title => null')
  if (writes && step.description !== unchanged) args.push(`description => ${literal(step.description)}`)
  if ((writes || step.action === 'ASSIGN') && step.assignee !== unchanged)
    args.push(`assigned_to_id => ${reference(step.assignee)}`)
  if (step.action === 'APPROVE' || step.action === 'REJECT') args.push(`comment => ${literal(step.comment)}`)
  return `select * from app_public.${step.action.toLowerCase()}_request(${args.join(', ')})`
}

/** Two requests at most; a third is not created. */
const runnable = (model: Model, step: Step) => step.kind === 'person' || step.action !== 'CREATE' || model.requests.length < 2

test('1,000 random histories end as the model says, with one audit entry for each action', async () => {
  await fc.assert(
    fc.asyncProperty(histories, async (history) => {
      const model = new Model()
      const codes: (string | null)[] = []
      const sent: Row[] = []
      for (const step of history) {
        if (!runnable(model, step)) continue
        const creates = step.kind === 'action' && step.action === 'CREATE'
        const actor = step.kind === 'person' ? { role: 'assent_owner', secret: '' } : { secret: stage.secret[step.actor] }
        sent.push({ statement: statement(step, model), keep: true, fetch: step.kind === 'action', creates, ...actor })
        codes.push(model.act(step))
        const label = `${step.kind === 'person' ? 'PERSON' : step.action} ${codes.at(-1) ?? 'ok'}`
        met.set(label, (met.get(label) ?? 0) + 1)
      }
      // One round trip, and nothing of it stays.
      const answers = await stage.root.query(
        `begin; select test.history(${stage.root.escapeLiteral(JSON.stringify(sent))}) as end; rollback`,
      )
      const end = (answers as unknown as { rows: Row[] }[])[1]!.rows[0]!['end']

      const who = (id: string | null) => actors.find((name) => stage.id[name] === id) ?? null
      const which = (id: string | null) => (id ? end.ids.indexOf(id) : null)
      const named = (metadata: Row) =>
        metadata['assigned_to_id']
          ? {
              ...metadata,
              assigned_to_id: { old: who(metadata['assigned_to_id'].old), new: who(metadata['assigned_to_id'].new) },
            }
          : metadata
      expect(end.codes).toEqual(codes)
      expect(
        end.requests.map((row: Row) => ({
          creator: who(row['creator_id']),
          title: row['title'],
          description: row['description'],
          assignee: who(row['assigned_to_id']),
          status: row['status'],
          deleted: row['is_deleted'],
          version: row['version'],
          reviewer: who(row['reviewed_by_id']),
          comment: row['review_comment'],
        })),
      ).toEqual(model.requests)
      expect(
        end.entries.map((row: Row) => {
          const { database_user: _, ...metadata } = row['metadata']
          return {
            actor: who(row['actor_id']),
            action: row['action'],
            request: which(row['request_id']),
            person: who(row['user_id']),
            metadata: named(metadata),
          }
        }),
      ).toEqual(model.entries)
      expect(end.disagreements).toBe(0)
    }),
    { numRuns: 1000 },
  )
})

test('they met every outcome that an action can have', () => {
  const outcomes: Record<Action, string[]> = {
    CREATE: ['ok', 'RQ401', 'RQ422'],
    UPDATE: ['ok', 'RQ401', 'RQ403', 'RQ404', 'RQ409', 'RQ412', 'RQ422'],
    DELETE: ['ok', 'RQ401', 'RQ403', 'RQ404', 'RQ409', 'RQ412'],
    SUBMIT: ['ok', 'RQ401', 'RQ403', 'RQ404', 'RQ409', 'RQ412'],
    APPROVE: ['ok', 'RQ401', 'RQ403', 'RQ404', 'RQ409', 'RQ412'],
    REJECT: ['ok', 'RQ401', 'RQ403', 'RQ404', 'RQ409', 'RQ412', 'RQ422'],
    ASSIGN: ['ok', 'RQ401', 'RQ403', 'RQ404', 'RQ409', 'RQ412', 'RQ422'],
  }
  const missing = actions
    .flatMap((name) => outcomes[name].map((outcome) => `${name} ${outcome}`))
    .filter((label) => !met.has(label))
  expect(missing).toEqual([])
})
