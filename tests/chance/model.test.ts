import fc from 'fast-check'
import { openStage, type Person, type Row, type Stage } from '../harness/stage.ts'

// A small model of the product, written from the README's tables and not from the SQL, and random histories that both it and the database go through.

const actors = ['user', 'user2', 'manager', 'manager2', 'admin'] as const
type Actor = (typeof actors)[number]
type Role = 'USER' | 'MANAGER' | 'ADMIN'
const actions = ['CREATE', 'UPDATE', 'DELETE', 'SUBMIT', 'APPROVE', 'REJECT', 'ASSIGN'] as const
type Action = (typeof actions)[number]
const changes = ['USER_UPDATE', 'USER_DEACTIVATE', 'USER_REACTIVATE'] as const
type Change = (typeof changes)[number]
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
  | { kind: 'change'; actor: Actor; action: Change; person: Actor; name: Maybe<string | null>; role: Maybe<string | null> }
  | { kind: 'sql'; person: Actor; role: Role; active: boolean }
  | { kind: 'login'; person: Actor }

type Someone = {
  name: string
  role: Role
  active: boolean
  /** Which login it is that they act by; none after they were deactivated. */
  login: number | null
  logins: number
}
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
  readonly people: Record<Actor, Someone>
  readonly requests: Request[] = []
  readonly entries: Entry[] = []

  constructor(names: Record<Actor, string>) {
    this.people = Object.fromEntries(
      actors.map((actor) => {
        const role = actor.replace(/\d/, '').toUpperCase() as Role
        return [actor, { name: names[actor], role, active: true, login: 0, logins: 0 }]
      }),
    ) as Record<Actor, Someone>
  }

  /** Does it, and says the SQLSTATE that it has to fail with, if any. */
  act(step: Step): string | null {
    if (step.kind === 'login') return this.login(this.people[step.person])
    if (step.kind === 'sql') return this.replace(null, step.person, { role: step.role, active: step.active })
    if (this.people[step.actor].login === null) return 'RQ401'
    if (step.kind === 'change') return this.change(step)
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

  private login(person: Someone): null {
    if (person.active) person.login = ++person.logins
    return null
  }

  private change({ actor, action, person, name, role }: Step & { kind: 'change' }): string | null {
    if (this.people[actor].role !== 'ADMIN') return 'RQ403'
    if (action !== 'USER_UPDATE') return this.replace(actor, person, { active: action === 'USER_REACTIVATE' })
    return this.replace(actor, person, {
      ...(name !== unchanged && { name: name as string }),
      ...(role !== unchanged && { role: role as Role }),
    })
  }

  private replace(actor: Actor | null, person: Actor, to: Partial<Someone>): string | null {
    const before = this.people[person]
    const after = { ...before, ...to }
    const others = actors.filter((other) => other !== person).map((other) => this.people[other])
    const remains = [...others, after].some(({ role, active }) => role === 'ADMIN' && active)
    if (!remains) return 'RQ409'
    if (!after.name?.trim() || after.name.length > 200 || !['USER', 'MANAGER', 'ADMIN'].includes(after.role)) return 'RQ422'
    const metadata = {
      ...(before.name === after.name ? {} : { name: { old: before.name, new: after.name } }),
      ...(before.role === after.role ? {} : { role: { old: before.role, new: after.role } }),
      ...(before.active === after.active ? {} : { is_deleted: { old: !before.active, new: !after.active } }),
    }
    if (Object.keys(metadata).length === 0) return null
    // Sessions end, and do not begin again.
    this.people[person] = before.active === after.active ? after : { ...after, login: null }
    const action = before.active === after.active ? 'USER_UPDATE' : after.active ? 'USER_REACTIVATE' : 'USER_DEACTIVATE'
    this.entries.push({ actor, action, request: null, person, metadata })
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
  // Somewhat more by one, so that who has created something often goes on with it.
  actor: fc.oneof({ arbitrary: person, weight: 4 }, { arbitrary: fc.constant('user' as const), weight: 1 }),
  action: fc.constantFrom<Action[]>(...actions, 'SUBMIT', 'SUBMIT', 'APPROVE', 'ASSIGN'),
  request: fc.constantFrom(0, 0, 0, 1),
  version: fc.constantFrom('none' as const, 'current' as const, 'stale' as const),
  title: text('A', 'B', ' ', '😀'.repeat(200), '😀'.repeat(201)),
  description: text('A', ''),
  assignee: fc.oneof(person, fc.constantFrom(null, unchanged)),
  comment: fc.constantFrom('Well', 'Well', '\u3000', null),
})
const change = fc.record({
  kind: fc.constant('change' as const),
  // Mostly by who may.
  actor: fc.oneof(person, fc.constant('admin' as const)),
  action: fc.constantFrom<Change[]>('USER_UPDATE', ...changes),
  person,
  name: text('Ann', ' ', 'x'.repeat(201)),
  role: text('USER', 'MANAGER', 'ADMIN', 'BOSS'),
})
const bySql = fc.record({
  kind: fc.constant('sql' as const),
  person,
  role: fc.constantFrom<Role[]>('USER', 'MANAGER', 'ADMIN'),
  active: fc.boolean(),
})
const newLogin = fc.record({ kind: fc.constant('login' as const), person })
// Each begins with a valid request of somebody, or there would be nothing to act on.
const beginning = fc
  .record({ actor: fc.oneof(person, fc.constant('user' as const)), submitted: fc.boolean() })
  .map(({ actor, submitted }): Step[] => {
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
const steps = fc.oneof(
  { arbitrary: action, weight: 12 },
  { arbitrary: change, weight: 5 },
  { arbitrary: bySql, weight: 2 },
  { arbitrary: newLogin, weight: 1 },
)
const histories = fc
  .tuple(beginning, fc.array(steps, { minLength: 4, maxLength: 16, size: 'max' }))
  .map(([first, rest]): Step[] => [...first, ...rest])

let stage: Stage
let names: Record<Actor, string>
const met = new Map<string, number>()

beforeAll(async () => {
  stage = await openStage()
  // The cast is all there is: of its admins, one can be the last.
  await stage.root.query('update app_public.users set is_deleted = true where id = $1', [stage.id.admin2])
  const { rows } = await stage.root.query('select id, name from app_public.users')
  names = Object.fromEntries(actors.map((actor) => [actor, rows.find(({ id }) => id === stage.id[actor]).name])) as typeof names
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
        'people', (select jsonb_object_agg(u.id, jsonb_build_object('name', u.name, 'role', u.role, 'active', not u.is_deleted)) from app_public.users u),
        'requests', (select coalesce(jsonb_agg(r order by array_position(v_ids, r.id)), '[]') from app_public.requests r),
        'entries', (select coalesce(jsonb_agg(a order by a.timestamp), '[]') from app_public.audit_logs a
          -- Logins are sessions opened by SQL, and changes by SQL end some: tests/rules/trail.test.ts covers their own entries.
          where a.timestamp >= v_began and a.action <> 'SESSION_OPEN' and not a.metadata @> '{"by": "SQL"}'),
        'disagreements', (select count(*) from audit.disagreements));
    end $$`)
})
afterAll(() => stage?.close())

const literal = (value: string | null) => (value === null ? 'null' : `'${value}'`)
const reference = (name: Actor | null) => literal(name && stage.id[name as Person])

/** Sessions are named in advance, as a history is sent whole. */
const secretOf = (actor: Actor, login: number | null) => (login ? `${stage.secret[actor]}, again ${login}` : stage.secret[actor])

function statement(step: Step, model: Model): string {
  if (step.kind === 'login') {
    const { active, logins } = model.people[step.person]
    return `insert into app_private.sessions (user_id, secret_hash, expires_at)
      select '${stage.id[step.person]}', app_private.hash_secret('${secretOf(step.person, logins + 1)}'), now() + interval '1 day' where ${active}`
  }
  if (step.kind === 'sql') {
    return `update app_public.users set role = '${step.role}', is_deleted = ${!step.active}
      where id = '${stage.id[step.person]}' and (role, is_deleted) is distinct from ('${step.role}', ${!step.active})`
  }
  if (step.kind === 'change') {
    const fields = [`user_id => '${stage.id[step.person]}'`]
    if (step.action === 'USER_UPDATE' && step.name !== unchanged) fields.push(`name => ${literal(step.name)}`)
    if (step.action === 'USER_UPDATE' && step.role !== unchanged) fields.push(`role => ${literal(step.role)}`)
    const name = step.action.replace('USER_', '').toLowerCase()
    return `select * from app_public.${name}_user(${fields.join(', ')})`
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
const runnable = (model: Model, step: Step) => step.kind !== 'action' || step.action !== 'CREATE' || model.requests.length < 2

test('1,000 random histories end as the model says, with one audit entry for each action', async () => {
  await fc.assert(
    fc.asyncProperty(histories, async (history) => {
      const model = new Model(names)
      const codes: (string | null)[] = []
      const sent: Row[] = []
      for (const step of history) {
        if (!runnable(model, step)) continue
        const creates = step.kind === 'action' && step.action === 'CREATE'
        const actor =
          'actor' in step
            ? { secret: secretOf(step.actor, model.people[step.actor].login), fetch: true }
            : { secret: '', role: 'assent_owner' }
        sent.push({ statement: statement(step, model), keep: true, creates, ...actor })
        codes.push(model.act(step))
        const label = `${'action' in step ? step.action : step.kind} ${codes.at(-1) ?? 'ok'}`
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
      expect(actors.map((actor) => end.people[stage.id[actor]])).toEqual(
        actors.map((actor) => {
          const { name, role, active } = model.people[actor]
          return { name, role, active }
        }),
      )
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
  const outcomes: Record<Action | Change | 'sql' | 'login', string[]> = {
    CREATE: ['ok', 'RQ401', 'RQ422'],
    UPDATE: ['ok', 'RQ401', 'RQ403', 'RQ404', 'RQ409', 'RQ412', 'RQ422'],
    DELETE: ['ok', 'RQ401', 'RQ403', 'RQ404', 'RQ409', 'RQ412'],
    SUBMIT: ['ok', 'RQ401', 'RQ403', 'RQ404', 'RQ409', 'RQ412'],
    APPROVE: ['ok', 'RQ401', 'RQ403', 'RQ404', 'RQ409', 'RQ412'],
    REJECT: ['ok', 'RQ401', 'RQ403', 'RQ404', 'RQ409', 'RQ412', 'RQ422'],
    ASSIGN: ['ok', 'RQ401', 'RQ403', 'RQ404', 'RQ409', 'RQ412', 'RQ422'],
    USER_UPDATE: ['ok', 'RQ401', 'RQ403', 'RQ409', 'RQ422'],
    USER_DEACTIVATE: ['ok', 'RQ401', 'RQ403', 'RQ409'],
    USER_REACTIVATE: ['ok', 'RQ401', 'RQ403'],
    sql: ['ok', 'RQ409'],
    login: ['ok'],
  }
  const labels = Object.entries(outcomes).flatMap(([name, all]) => all.map((outcome) => `${name} ${outcome}`))
  expect([...met.keys()].sort()).toEqual(labels.sort())
})
