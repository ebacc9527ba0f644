import { TIMES } from '../../server/jobs/worker.ts'
import { mutation, newRequest } from '../harness/client.ts'
import { openHouse, type House } from '../harness/house.ts'
import { command } from '../harness/process.ts'
import { until } from '../harness/socket.ts'

let house: House
beforeAll(async () => void (house = await openHouse({ withWorker: false })))
afterAll(() => house.close())

test('a worker is killed while it sends a mail: nobody else notices, and the mail comes once', async () => {
  const { api, mailbox } = house
  const { user } = api.db.people
  const auditor = await api.db.connect('auditor')
  const mails = async () =>
    (await auditor.query('select state from audit.mails where recipient_email = $1 order by created_at', [user.email])).rows
  const mailsToUma = () => mailbox.arrived.filter(({ to }) => to.includes(user.email))

  // The mail server takes its time over the mail to Uma, and says nothing.
  const connected = Promise.withResolvers<void>()
  mailbox.answer = (at, address) => {
    if (at !== 'DATA' || address !== user.email) return undefined
    connected.resolve()
    return new Promise(() => {})
  }
  const worker = command('worker', { ...house.env, LOG_LEVEL: 'warn' })
  try {
    const requestId = await newRequest(api, { title: 'A bicycle', submit: true })
    await api.data(mutation('approveRequest'), { input: { requestId } }, 'manager')
    await Promise.race([connected.promise, worker.exit.then(() => Promise.reject(new Error(worker.output)))])
  } finally {
    // In the middle of that, its machine goes down: no last word, no clearing up.
    await worker.end('SIGKILL')
  }
  expect([await mails(), mailsToUma()]).toEqual([[{ state: 'QUEUED' }], []])

  // The API does not depend on it. What is to be told meanwhile is kept with the action that it is about.
  const second = await newRequest(api, { title: 'A helmet', submit: true })
  await api.data(mutation('rejectRequest'), { input: { requestId: second, comment: 'You have one.' } }, 'manager2')

  // Another worker starts, and the server answers again. What nobody had begun, it does at once.
  mailbox.answer = () => undefined
  await house.work({ ...TIMES, lookEvery: 100, deadAfter: 500 })
  await house.mail(user.email, 'A helmet')

  // The bicycle's mail was taken by the dead: it is free when its owner has been gone for long enough to be sure.
  await house.mail(user.email, 'A bicycle')
  await until(async () => (await mails()).every(({ state }) => state === 'SENT'))
  expect(
    mailsToUma()
      .map(({ mail }) => mail.subject!.replace(/^.*: /, ''))
      .toSorted(),
  ).toEqual(['A bicycle', 'A helmet'])

  // And whoever watches the jobs sees that there is nothing to be done.
  expect((await auditor.query('select * from audit.failing_jobs')).rows).toEqual([])
}, 60_000)
