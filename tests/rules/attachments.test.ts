import { createHash, randomUUID } from 'node:crypto'
import type pg from 'pg'
import { openStage, people, statuses, type Actor, type Person, type Row, type Stage } from '../harness/stage.ts'

// Attachments, below all doors: who attaches, removes and reads what, in which status; how many; what the trail says; and what
// is swept. How files come over HTTP: doors/rest/attachments.test.ts.

let stage: Stage
let clients: pg.Client[]
beforeAll(async () => {
  stage = await openStage()
  clients = [await stage.db.connect('auth'), await stage.db.connect('auth')]
})
afterAll(() => stage?.close())

const CHUNK = 2 ** 16
const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')
const quoted = (value: unknown) => `'${String(value).replaceAll("'", "''")}'`

const begin = (request: string) => `select app_hidden.begin_upload('${request}', null, false) as id`
const add = (file: string, place: number, text: string) =>
  `select app_hidden.upload_chunk('${file}', ${place}, convert_to(${quoted(text)}, 'UTF8'))`
const attach = (file: string, text: string, more: object = {}) =>
  `select app_hidden.attach('${file}', null, ${quoted(
    JSON.stringify({ name: 'f.txt', media_type: 'text/plain', sha256: sha256(text), ...more }),
  )}) as document`
const detach = (id: string) => `select app_hidden.detach('${id}')`

/** Uploads a file, which nothing has become of yet. */
async function upload(person: Person, request: string, text: string): Promise<string> {
  const [file] = await stage.rows(person, begin(request))
  for (let place = 0; place * CHUNK < text.length; place++)
    await stage.rows(person, add(file!['id'], place, text.slice(place * CHUNK, (place + 1) * CHUNK)))
  return file!['id']
}
async function attached(person: Person, request: string, text: string = randomUUID()): Promise<string> {
  const [row] = await stage.rows(person, attach(await upload(person, request, text), text))
  return row!['document'].id
}
const draftOf = async (creator: Person = 'user') => (await stage.request({ creator, assignee: null, status: 'DRAFT' })).id
const count = async (from: string) => Number((await stage.root.query(`select count(*) from ${from}`)).rows[0].count)
const agrees = async () => expect((await stage.root.query('select * from audit.disagreements')).rows).toEqual([])

test('to attach and to remove are for whoever may edit the request, while they may; to read, for whoever sees it', async () => {
  for (const creator of ['user', 'manager', 'admin'] as const) {
    for (const status of statuses) {
      const id = (await stage.request({ creator, assignee: null, status: 'DRAFT' })).id
      const attachment = await attached(creator, id)
      const uploads = new Map<Person, string>()
      for (const person of people) {
        // By hand: who may not begin an upload must not end one either.
        const { rows } = await stage.root.query(
          `insert into app_private.files (uploader_id, request_id, swept_after) values ($1, $2, now() + '1 hour') returning id`,
          [stage.id[person], id],
        )
        uploads.set(person, rows[0].id)
      }
      if (status === 'DELETED') await stage.rows(creator, `select app_public.delete_request('${id}')`)
      if (!['DRAFT', 'DELETED'].includes(status)) await stage.rows(creator, `select app_public.submit_request('${id}')`)
      const decider = creator === 'admin' ? 'admin2' : 'admin'
      if (status === 'APPROVED') await stage.rows(decider, `select app_public.approve_request('${id}')`)
      if (status === 'REJECTED') await stage.rows(decider, `select app_public.reject_request('${id}', 'No')`)

      for (const person of [...people, 'anonymous', 'auditor'] as Actor[]) {
        const edit = await stage.attempt(person, `select app_public.update_request('${id}', 'Edited')`)
        for (const statement of [
          begin(id),
          attach(uploads.get(person as Person) ?? uploads.get('user')!, ''),
          detach(attachment),
        ])
          expect({ creator, status, person, statement, code: (await stage.attempt(person, statement)).code }).toEqual({
            ...{ creator, status, person, statement },
            code: edit.code,
          })
        const seen = await stage.attempt(person, `select from app_public.requests where id = '${id}'`)
        const shown = await stage.attempt(person, `select from app_public.attachments where id = '${attachment}'`)
        expect({ creator, status, person, code: shown.code, count: shown.count }).toEqual({
          ...{ creator, status, person },
          code: seen.code,
          count: seen.count,
        })
        if (person === 'auditor' || person === 'anonymous') continue
        const [chunk] = (
          await stage.attempt(person, `select app_hidden.attachment_chunk('${attachment}', 0) as c`, { fetch: true })
        ).rows
        expect({ creator, status, person, read: chunk?.['c'] != null }).toEqual({ creator, status, person, read: seen.count > 0 })
      }
      await stage.root.query('delete from app_private.files where sha256 is null')
    }
  }
}, 120_000)

test('an upload is its uploader’s alone, and its chunks come in order, whole, and up to 10 MB', async () => {
  const id = await draftOf()
  const file = await upload('user', id, 'x'.repeat(CHUNK))
  for (const [actor, statement, code] of [
    ['manager', add(file, 1, 'y'), 'RQ404'],
    ['admin', attach(file, 'x'), 'RQ404'],
    ['user', add(file, 0, 'y'), 'RQ404'],
    ['user', add(file, 2, 'y'), 'RQ404'],
    ['user', add(file, 1, ''), 'RQ404'],
    ['user', add(file, 1, 'y'.repeat(CHUNK + 1)), 'RQ404'],
    ['user', add(file, 1, 'y'.repeat(CHUNK)), null],
    ['user', attach(file, 'x', { sha256: 'x' }), 'RQ422'],
    ['user', attach(file, 'x', { name: null }), 'RQ422'],
    ['user', attach(file, 'x', { name: 'a/b' }), 'RQ422'],
  ] as const)
    expect([statement, (await stage.attempt(actor, statement)).code]).toEqual([statement, code])
  await stage.rows('user', add(file, 1, 'short'))
  expect((await stage.attempt('user', add(file, 2, 'after the last'))).code).toBe('RQ404')
  await stage.rows('admin', `select app_hidden.drop_upload('${file}')`)
  expect(await count(`app_private.files where id = '${file}'`)).toBe(1)

  await stage.root.query(`update app_private.files set size = 160 * ${CHUNK}, chunks = 160 where id = $1`, [file])
  expect(await stage.attempt('user', add(file, 160, 'z'))).toMatchObject({ code: 'RQ422', column: 'file' })
  await stage.rows('user', `select app_hidden.drop_upload('${file}')`)
  expect(await count(`app_private.file_chunks where file_id = '${file}'`)).toBe(0)
})

test('to know the hash of a file is no leave to have it', async () => {
  const secret = 'the bytes of somebody else'
  await attached('manager', await draftOf('manager'), secret)
  const id = await draftOf()
  const file = await upload('user', id, 'other bytes')
  expect((await stage.attempt('user', attach(file, secret))).code).toBe('55000')
  expect((await stage.attempt('user', attach(await upload('user', id, ''), secret))).code).toBe('55000')
  expect((await stage.attempt('user', attach(await upload('user', id, secret), secret))).code).toBeNull()
  await stage.root.query('delete from app_private.files where sha256 is null')
})

test('two who take the tenth place at once: one has it', async () => {
  const id = await draftOf()
  for (let i = 0; i < 9; i++) await attached('user', id)
  const files = [await upload('user', id, 'one'), await upload('user', id, 'two')]
  const [first, second] = clients as [pg.Client, pg.Client]
  const as = (client: pg.Client) => client.query(`select app_hidden.become($1, '')`, [stage.secret.user])
  for (const client of clients) {
    await client.query('begin')
    await as(client)
  }
  await first.query(attach(files[0]!, 'one'))
  const later = second.query(attach(files[1]!, 'two')).then(
    () => null,
    (error: pg.DatabaseError) => [error.code, error.column],
  )
  await first.query('commit')
  expect(await later).toEqual(['RQ422', 'file'])
  await second.query('rollback')
  expect(await count(`app_public.attachments where request_id = '${id}'`)).toBe(10)
  expect(await stage.attempt('user', begin(id))).toMatchObject({ code: 'RQ422', column: 'file' })
  await agrees()
  await stage.root.query('delete from app_private.files where sha256 is null')
})

test('more than ten uploads of one person are not under way at once, unless they are dead', async () => {
  const id = await draftOf()
  const begun: Row[] = []
  for (let i = 0; i < 10; i++) begun.push((await stage.rows('user', begin(id)))[0]!)
  expect((await stage.attempt('user', begin(id))).code).toBe('RQ429')
  expect((await stage.attempt('manager', begin(await draftOf('manager')))).code).toBeNull()
  await stage.root.query(`update app_private.files set swept_after = now() where id = $1`, [begun[0]!['id']])
  expect((await stage.attempt('user', begin(id))).code).toBeNull()
  await stage.root.query('delete from app_private.files where sha256 is null')
})

describe('the trail', () => {
  test('has an entry for each attachment that comes and goes, and each raises the version', async () => {
    const id = await draftOf()
    let attachment = ''
    const text = 'evidence'
    const facts = { name: 'f.txt', media_type: 'text/plain', size: text.length, sha256: sha256(text) }
    const entry = (action: string) => ({
      action,
      actor_id: stage.id.user,
      request_id: id,
      request_creator_id: stage.id.user,
      metadata: { ...facts, attachment_id: attachment },
    })
    const came = await stage.leaves(async () => (attachment = await attached('user', id, text)))
    expect(came).toMatchObject([entry('ATTACH')])
    expect(await stage.leaves(() => stage.rows('user', detach(attachment)))).toMatchObject([entry('DETACH')])
    const { rows } = await stage.root.query('select version from app_public.requests where id = $1', [id])
    expect(rows).toEqual([{ version: 3 }])
    await agrees()
  })

  test('also of what SQL does, which is bound to the same rules', async () => {
    const id = await draftOf()
    await attached('user', id, 'by SQL')
    const insert = `insert into app_public.attachments (request_id, name, media_type, size, sha256)
      values ('${id}', 'by SQL', 'text/plain', 6, '${sha256('by SQL')}')`
    expect(await stage.leaves(() => stage.attempt('owner', insert, { keep: true }))).toMatchObject([
      { action: 'ATTACH', actor_id: null, metadata: { name: 'by SQL', database_user: 'assent_owner' } },
    ])
    expect((await stage.attempt('owner', `update app_public.attachments set name = 'other'`)).code).toBe('RQ403')
    await stage.rows('user', `select app_public.submit_request('${id}')`)
    expect((await stage.attempt('owner', insert)).code).toBe('RQ403')
    expect((await stage.attempt('owner', `delete from app_public.attachments where request_id = '${id}'`)).code).toBe('RQ403')
    await agrees()
  })
})

describe('what is swept', () => {
  const sweep = () => stage.root.query('select app_private.sweep_files()')

  test('are bytes that no attachment names any more, and uploads that have been dead for ten minutes', async () => {
    const [one, other] = [await draftOf(), await draftOf('manager')]
    const text = 'x'.repeat(CHUNK + 1)
    const [mine, theirs] = [await attached('user', one, text), await attached('manager', other, text)]
    const [live, dead] = [await upload('user', one, 'live'), await upload('user', one, 'dead')]
    await stage.root.query(`update app_private.files set swept_after = swept_after - interval '10 minutes' where id = $1`, [dead])
    const kept = `app_private.files f join app_private.file_chunks c on c.file_id = f.id where f.sha256 = '${sha256(text)}'`
    await stage.rows('user', detach(mine))
    await sweep()
    expect(await count(kept)).toBe(2)
    expect([
      await count(`app_private.files where id = '${live}'`),
      await count(`app_private.files where id = '${dead}'`),
    ]).toEqual([1, 0])
    // Another attachment names them: they are not looked at again.
    expect(await count(`${kept} and swept_after is not null`)).toBe(0)
    await stage.rows('manager', detach(theirs))
    await sweep()
    expect(await count(kept)).toBe(0)
    await stage.root.query('delete from app_private.files where sha256 is null')
  })

  test('is not what somebody attaches meanwhile', async () => {
    const [one, other] = [await draftOf(), await draftOf()]
    await stage.rows('user', detach(await attached('user', one, 'meanwhile')))
    const again = await upload('user', other, 'meanwhile')
    const [client] = clients as [pg.Client]
    await client.query('begin')
    await client.query(`select app_hidden.become($1, '')`, [stage.secret.user])
    await client.query(attach(again, 'meanwhile'))
    await sweep()
    await client.query('commit')
    expect(await count(`app_private.files where sha256 = '${sha256('meanwhile')}'`)).toBe(1)
  })
})
