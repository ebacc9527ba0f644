import pg from 'pg'
import { openStage, type Person, type Row, type Stage } from '../harness/stage.ts'

const rivals = 40
const contests = 100

type Session = { readonly client: pg.Client; readonly id: string; readonly secret: string }
type Result = { code: string | null; rows: Row[] }

let stage: Stage
let deciders: Session[]

beforeAll(async () => {
  stage = await openStage()
  const { rows } = await stage.root.query(
    `
    with people as (insert into app_public.users (name, role) select 'Rival ' || n, 'MANAGER' from generate_series(1, $1) n returning id)
    insert into app_private.sessions (user_id, secret_hash, refresh_hash, expires_at)
    select id, app_private.hash_secret(id::text), app_private.hash_secret(id || 'r'), now() + interval '1 day' from people
    returning user_id as id`,
    [rivals],
  )
  deciders = await Promise.all(rows.map(async ({ id }) => ({ client: await stage.db.connect('auth'), id, secret: id })))
})
afterAll(() => stage?.close())

const session = async (person: Person): Promise<Session> => ({
  client: await stage.db.connect('auth'),
  id: stage.id[person],
  secret: stage.secret[person],
})

/** The statement as this person, in one transaction and one round trip. */
const asPerson = ({ secret }: Session, statement: string) => `
  select app_hidden.become('${secret}', '');
  ${statement}`

async function run(by: Session, statement: string): Promise<Result> {
  try {
    const results = (await by.client.query(asPerson(by, statement))) as unknown as pg.QueryResult[]
    return { code: null, rows: results.at(-1)!.rows }
  } catch (error) {
    return { code: (error as pg.DatabaseError).code ?? String(error), rows: [] }
  }
}

/** Resolves when so many statements in this database wait for a lock. */
async function waiting(count: number): Promise<void> {
  const { rows } = await stage.root.query(
    `select count(*)::integer as count from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  )
  if (rows[0].count < count) await waiting(count)
}

/** The second acts while the first has acted and not yet committed, or rolled back; what became of the second. */
async function behind(
  first: Session,
  statement: string,
  second: Session,
  then: string,
  { end = 'commit', meanwhile = async () => {} } = {},
): Promise<Result> {
  await first.client.query('begin')
  await first.client.query(asPerson(first, statement))
  const later = run(second, then)
  await waiting(1)
  await meanwhile()
  await first.client.query(end)
  return later
}

const decide = (i: number, id: string) =>
  i % 2
    ? `select * from app_public.approve_request('${id}')`
    : `select * from app_public.reject_request('${id}', 'No, says ${i}')`

async function trail(id: string): Promise<Row[]> {
  return (await stage.root.query('select * from app_public.audit_logs where request_id = $1 order by "timestamp"', [id])).rows
}

test(`of ${rivals} deciders at once on each of ${contests} requests exactly one wins`, async () => {
  const { rows } = await stage.root.query(
    `select count(distinct user_id)::integer as people from app_private.sessions where user_id = any ($1)`,
    [deciders.map(({ id }) => id)],
  )
  expect(rows).toEqual([{ people: rivals }])
  const winners = new Set<string>()
  for (let contest = 0; contest < contests; contest++) {
    const { id } = await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })
    // In every tenth all of them are made to wait at the row before the first may go on.
    const holds = contest % 10 === 0
    if (holds) await stage.root.query('begin')
    if (holds) await stage.root.query('select from app_public.requests where id = $1 for update', [id])
    const running = deciders.map((by, i) => run(by, decide(i + contest, id)))
    if (holds) await waiting(rivals)
    if (holds) await stage.root.query('commit')
    const results = await Promise.all(running)

    const won = results.flatMap((result, i) => (result.code === null ? [i] : []))
    expect(won).toHaveLength(1)
    expect(results.filter(({ code }) => code === 'RQ409')).toHaveLength(rivals - 1)
    const [winner, row] = [deciders[won[0]!]!, results[won[0]!]!.rows[0]!]
    winners.add(winner.id)
    const status = (won[0]! + contest) % 2 ? 'APPROVED' : 'REJECTED'
    expect(row).toMatchObject({ status, reviewed_by_id: winner.id, version: 3 })
    const entries = await trail(id)
    expect(entries.map(({ action }) => action)).toEqual(['CREATE', 'SUBMIT', status === 'APPROVED' ? 'APPROVE' : 'REJECT'])
    expect(entries[2]).toMatchObject({ actor_id: winner.id, metadata: { old_status: 'SUBMITTED', new_status: status } })
  }
  expect(winners.size).toBeGreaterThan(1)
  expect((await stage.root.query('select * from audit.disagreements')).rows).toEqual([])
})

describe('behind another', () => {
  let user: Session
  let alsoUser: Session
  let manager: Session
  let manager2: Session
  let admin: Session
  beforeAll(async () => {
    user = await session('user')
    alsoUser = await session('user')
    manager = await session('manager')
    manager2 = await session('manager2')
    admin = await session('admin')
  })
  const submit = (id: string) => `select * from app_public.submit_request('${id}')`
  const remove = (id: string) => `select * from app_public.delete_request('${id}')`
  const draft = async () => (await stage.request({ creator: 'user', assignee: null, status: 'DRAFT' })).id
  const submitted = async () => (await stage.request({ creator: 'user', assignee: null, status: 'SUBMITTED' })).id
  const actionsOf = async (id: string) => (await trail(id)).map(({ action }) => action)

  test('a deletion behind a submission', async () => {
    const id = await draft()
    expect((await behind(user, submit(id), alsoUser, remove(id))).code).toBe('RQ409')
    expect(await actionsOf(id)).toEqual(['CREATE', 'SUBMIT'])
  })

  test('a submission behind a deletion', async () => {
    const id = await draft()
    expect((await behind(user, remove(id), alsoUser, submit(id))).code).toBe('RQ409')
    expect(await actionsOf(id)).toEqual(['CREATE', 'DELETE'])
  })

  test('a submission behind a deletion that was rolled back', async () => {
    const id = await draft()
    expect((await behind(user, remove(id), alsoUser, submit(id), { end: 'rollback' })).code).toBe(null)
    expect(await actionsOf(id)).toEqual(['CREATE', 'SUBMIT'])
  })

  test('a decision behind one that was rolled back', async () => {
    const id = await submitted()
    const later = await behind(manager, decide(0, id), admin, decide(1, id), { end: 'rollback' })
    expect(later).toMatchObject({ code: null, rows: [{ status: 'APPROVED', reviewed_by_id: admin.id }] })
    expect(await actionsOf(id)).toEqual(['CREATE', 'SUBMIT', 'APPROVE'])
  })

  test('of two edits that name the same version the second is stale; without a version both count', async () => {
    const id = await draft()
    const edit = (title: string, version: string) =>
      `select * from app_public.update_request('${id}', title => '${title}'${version})`
    expect((await behind(user, edit('A', ', version => 1'), alsoUser, edit('B', ', version => 1'))).code).toBe('RQ412')
    expect(
      (await behind(user, edit('C', ''), alsoUser, `select * from app_public.update_request('${id}', description => 'D')`)).rows,
    ).toMatchObject([{ title: 'C', description: 'D', version: 4 }]) // neither overwrites what the other wrote
    expect(await actionsOf(id)).toEqual(['CREATE', 'UPDATE', 'UPDATE', 'UPDATE'])
  })

  test('a decision behind an assignment to another', async () => {
    const id = await submitted()
    expect(
      (await behind(admin, `select * from app_public.assign_request('${id}', '${manager2.id}')`, manager, decide(1, id))).code,
    ).toBe('RQ403')
    expect(await actionsOf(id)).toEqual(['CREATE', 'SUBMIT', 'ASSIGN'])
  })

  test('an assignment behind a decision', async () => {
    const id = await submitted()
    expect(
      (await behind(manager, decide(1, id), admin, `select * from app_public.assign_request('${id}', '${manager2.id}')`)).code,
    ).toBe('RQ409')
  })

  test.each([
    ['deactivated', 'is_deleted = true', 'RQ401', 0],
    ['demoted', `role = 'USER'`, 'RQ403', 1],
  ])('a decision that waits while its decider is %s', async (_, change, code, who) => {
    const id = await submitted()
    const decider = deciders[who]! // for whom the play is over then: sessions end, too
    const meanwhile = async () =>
      void (await stage.root.query(`update app_public.users set ${change} where id = $1`, [decider.id]))
    const later = await behind(
      admin,
      `select * from app_public.assign_request('${id}', '${decider.id}')`,
      decider,
      decide(1, id),
      { meanwhile },
    )
    expect(later.code).toBe(code)
    expect(await actionsOf(id)).toEqual(['CREATE', 'SUBMIT', 'ASSIGN'])
  })

  test('a decision that waits while its decider logs out', async () => {
    const id = await submitted()
    const meanwhile = async () =>
      void (await stage.root.query('update app_private.sessions set revoked_at = now() where user_id = $1', [deciders[2]!.id]))
    const later = await behind(
      admin,
      `select * from app_public.assign_request('${id}', '${deciders[2]!.id}')`,
      deciders[2]!,
      decide(1, id),
      { meanwhile },
    )
    expect(later.code).toBe('RQ401')
  })

  test('an assignment that waits while the assignee is demoted', async () => {
    const id = await submitted()
    const target = deciders[3]!
    const meanwhile = async () =>
      void (await stage.root.query(`update app_public.users set role = 'USER' where id = $1`, [target.id]))
    const assign = (to: string) => `select * from app_public.assign_request('${id}', '${to}')`
    expect((await behind(admin, assign(manager.id), manager, assign(target.id), { meanwhile })).code).toBe('RQ422')
    expect(await actionsOf(id)).toEqual(['CREATE', 'SUBMIT', 'ASSIGN'])
  })

  test('nothing of it disagrees', async () => {
    expect((await stage.root.query('select * from audit.disagreements')).rows).toEqual([])
  })
})
