import { fromElsewhere, mutation, newRequest } from '../harness/client.ts'
import { openHouse, type House } from '../harness/house.ts'

let house: House
beforeAll(async () => void (house = await openHouse()))
afterAll(() => house.close())

test('an auditor asks the database itself, and would see what somebody had made up', async () => {
  const { api } = house
  const { user, manager, manager2 } = api.db.people

  // Yesterday: two requests were decided, and somebody tried Mia's password.
  const [laptop, trip] = [
    await newRequest(api, { title: 'A laptop', submit: true }),
    await newRequest(api, { title: 'A trip', submit: true }),
  ]
  await api.data(mutation('approveRequest'), { input: { requestId: laptop } }, 'manager')
  await api.data(mutation('rejectRequest'), { input: { requestId: trip, comment: 'Too far.' } }, 'manager2')
  await api.rest('POST', '/auth/token/', { email: manager.email, password: 'guessed' }, undefined, fromElsewhere())
  for (const title of ['A laptop', 'A trip']) await house.mail(user.email, title)

  // The auditor connects with psql, as a login that may read and nothing else. Who decided what?
  const auditor = await api.db.connect('auditor')
  const ask = async (text: string, values: unknown[] = []) => (await auditor.query(text, values)).rows
  expect(await ask('select actor_email, action, title, review_comment from audit.decisions order by "timestamp"')).toEqual([
    { actor_email: manager.email, action: 'APPROVE', title: 'A laptop', review_comment: null },
    { actor_email: manager2.email, action: 'REJECT', title: 'A trip', review_comment: 'Too far.' },
  ])

  // What became of the laptop, from the beginning?
  const history =
    'select actor_name, old_status, new_status from audit.request_history where request_id = $1 order by "timestamp"'
  expect(await ask(history, [laptop])).toEqual([
    { actor_name: 'Uma User', old_status: null, new_status: 'DRAFT' },
    { actor_name: 'Uma User', old_status: 'DRAFT', new_status: 'SUBMITTED' },
    { actor_name: 'Mia Manager', old_status: 'SUBMITTED', new_status: 'APPROVED' },
  ])

  // What happened around Mia's account? The guess is there, by nobody, and from where it came.
  const around = 'select action, actor_name, ip_address is not null as has_address from audit.person_actions where user_id = $1'
  expect(await ask(around, [manager.id])).toContainEqual({ action: 'LOGIN_FAILED', actor_name: null, has_address: true })

  // Who else could have decided the trip, when Uma had just submitted it? And what does she see of all that?
  const others = `select d.name from app_public.requests r, audit.deciders_at(r.id, r.reviewed_at - interval '1 microsecond') d
    where r.id = $1`
  const names = ['Ada Admin', 'Max Manager', 'Mia Manager'].map((name) => ({ name }))
  expect(await ask(others, [trip])).toEqual(names)
  const seen = 'select request_id, status from audit.visible_requests($1) order by request_id'
  expect(await ask(seen, [user.id])).toEqual([
    { request_id: laptop, status: 'APPROVED' },
    { request_id: trip, status: 'REJECTED' },
  ])

  // Was Uma told?
  const told = 'select kind, request_id from audit.mails where recipient_email = $1 order by kind'
  expect(await ask(told, [user.email])).toEqual([
    { kind: 'APPROVED', request_id: laptop },
    { kind: 'REJECTED', request_id: trip },
  ])

  // The trail is for reading: the auditor changes nothing, and neither does the owner of the database.
  const forge = `update app_public.audit_logs set action = 'REJECT' where action = 'APPROVE'`
  await expect(auditor.query(forge)).rejects.toMatchObject({ code: '42501' })
  const owner = await api.db.connect('owner')
  await expect(owner.query(forge)).rejects.toThrow()
  const unseen = () => ask('select title, status, audited_status from audit.disagreements')
  expect(await unseen()).toEqual([])

  // At night, somebody with a superuser's password approves the trip, past every rule and trigger. The morning's question finds it.
  const root = await api.db.connect('root')
  await root.query(`set session_replication_role = replica; alter table app_public.requests disable trigger all`)
  await root.query(`update app_public.requests set status = 'APPROVED' where id = $1`, [trip])
  expect(await unseen()).toEqual([{ title: 'A trip', status: 'APPROVED', audited_status: 'REJECTED' }])
})
