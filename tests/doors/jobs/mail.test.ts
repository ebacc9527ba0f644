import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises'
import { createServer as createHttpServer } from 'node:http'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { Logger as WorkerLogger, runOnce } from 'graphile-worker'
import { simpleParser } from 'mailparser'
import type { Client } from 'pg'
import pino from 'pino'
import { parseConfig } from '../../../server/config.ts'
import { makeMailer, mailKinds, TIMEOUTS, type MailDocument, type Mailer } from '../../../server/jobs/mail.ts'
import { mailTasks } from '../../../server/jobs/tasks.ts'
import { startWorker } from '../../../server/jobs/worker.ts'
import { fromElsewhere, mutation, newRequest, PASSWORD, startApi, type Api, type NewPerson } from '../../harness/client.ts'
import { parts } from '../../harness/parts.ts'
import { startSmtp, type Arrived, type Mailbox } from '../../harness/smtp.ts'
import { until } from '../../harness/socket.ts'

const PUBLIC_URL = 'https://approvals.example.com/app'
const MAIL_FROM = 'Assent at Example <assent@mail.example.com>'

let api: Api
let root: Client
let mailbox: Mailbox
let dataDir: string
const lines: string[] = []
const log = pino({ level: 'trace' }, { write: (line: string) => void lines.push(line) })

beforeAll(async () => {
  api = await startApi({ TRUST_PROXY: '1', PUBLIC_URL })
  root = await api.db.connect('root')
  mailbox = await startSmtp()
  dataDir = await mkdtemp(join(tmpdir(), 'assent-mail-'))
})
afterEach(async () => {
  const written = lines.join('')
  const secrets = [new URL(api.db.urls.owner).password, 'wrong-password', '#token=']
  expect(secrets.filter((secret) => written.includes(secret))).toEqual([])
  mailbox.answer = () => undefined
  await root.query(`update app_public.notifications set mail_state = 'CANCELLED' where mail_state = 'FAILED'`)
})
afterAll(async () => {
  await mailbox.close()
  await api.close()
  await rm(dataDir, { recursive: true })
})

const config = (env: Record<string, string> = { SMTP_URL: mailbox.url }) =>
  parseConfig({ WORKER_DATABASE_URL: api.db.urls.worker, MAIL_FROM, PUBLIC_URL, DATA_DIR: dataDir, ...env }, 'worker')

/** Sends what is due, as the worker does, and answers when all of it was tried. */
async function sendBy(mailer: Mailer): Promise<void> {
  await runOnce({
    connectionString: api.db.urls.owner,
    taskList: mailTasks(mailer),
    noHandleSignals: true,
    logger: new WorkerLogger(() => () => {}),
    // Without it, that they were tried is not waited for to be recorded.
    preset: { worker: { completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
  })
  mailer.close()
}
const sendDue = (smtpUrl = mailbox.url) => sendBy(makeMailer(config({ SMTP_URL: smtpUrl })))

/** Queues a mail of the plainest kind; its notification's id. */
async function queue({ id }: { id: string }): Promise<string> {
  const { rows } = await root.query(
    `insert into app_public.notifications (recipient_id, kind, event, mail_state)
     values ($1, 'ROLE_CHANGED', gen_random_uuid()::text, 'QUEUED') returning id`,
    [id],
  )
  return rows[0].id
}

/** A mail as it is kept, and the job that is to try it again. */
async function kept(id: string) {
  const { rows } = await root.query(
    `select n.mail_state as state, n.mail_attempts as attempts, n.mail_error as error, n.mail_message_id as message_id,
       j.attempts as tried, j.run_at between now() and now() + interval '30 seconds' as is_soon
     from app_public.notifications n
     left join graphile_worker._private_jobs j on j.payload ->> 'id' = n.id::text
     where n.id = $1`,
    [id],
  )
  expect(rows).toHaveLength(1) // one job at most
  return rows[0]
}
const makeDue = (id: string) =>
  root.query(`update graphile_worker._private_jobs set run_at = now() where payload ->> 'id' = $1`, [id])
const mailsTo = ({ email }: { email: string }) => mailbox.arrived.filter(({ to }) => to.includes(email))

const SAMPLE: MailDocument = {
  kind: 'REJECTED',
  headline: 'Rejected',
  name: 'Uma User',
  address: 'user@assent.test',
  message_id: '<sample@mail.example.com>',
  request_id: '01890000-0000-7000-8000-000000000001',
  title: 'A laptop',
  actor: 'Mia Manager',
  creator: 'Uma User',
  comment: 'No',
}

const HEADERS = ['auto-submitted', 'content-type', 'date', 'from', 'message-id', 'mime-version', 'subject', 'to']
const headersOf = ({ mail }: Arrived) => mail.headerLines.map(({ key }) => key).toSorted()
const flat = (text: string | undefined) => text!.replace(/\s+/g, ' ')

describe('each kind of mail', () => {
  const { part, all } = parts()
  // What would be markup is text.
  const TITLE = `A <laptop> & "bag"`
  const TITLE_HTML = 'A &lt;laptop&gt; &amp; &quot;bag&quot;'
  let worker: Awaited<ReturnType<typeof startWorker>>
  beforeAll(async () => void (worker = await startWorker(config(), log)))
  afterAll(() => worker.close())

  const seen = new Set<string>()
  const link = (path: string) => `${PUBLIC_URL}${path}`
  /** The one mail that this person gets, which has to be whole: who from, who to, both alternatives with all of these words. */
  async function expectMail(kind: string, email: string, subject: string, words: string[], path: string): Promise<Arrived> {
    const found = () => mailsTo({ email }).filter(({ mail }) => mail.subject === subject)
    await until(() => found().length > 0)
    expect(found()).toHaveLength(1)
    const [arrived] = found() as [Arrived]
    const { from, to, mail } = arrived
    expect([from, to]).toEqual(['assent@mail.example.com', [email]])
    expect(headersOf(arrived)).toEqual(HEADERS)
    expect(mail.from!.value).toEqual([{ name: 'Assent at Example', address: 'assent@mail.example.com' }])
    expect(mail.headers.get('content-type')).toMatchObject({ value: 'multipart/alternative' })
    expect(mail.headers.get('auto-submitted')).toBe('auto-generated')
    for (const word of [...words, link(path)]) expect(flat(mail.text)).toContain(word)
    for (const word of words) expect(flat(mail.html as string)).toContain(word.replace(TITLE, TITLE_HTML))
    expect((mail.html as string).replaceAll('&#x3D;', '=')).toContain(`<a href="${link(path)}">`)
    expect(mail.html).not.toContain('<laptop>')
    const ours = mail.text!.replace(/^>.*$/gm, '')
    expect(ours).not.toMatch(/&\w+;|<\/?(p|a|b|br|li|ul|blockquote|html)\b/)
    const sent = async () => {
      const { rows } = await root.query(
        `select n.kind from app_public.notifications n join app_private.credentials c on c.user_id = n.recipient_id
         where n.mail_message_id = $1 and format('<%s@mail.example.com>', n.id) = $1 and c.email = $2 and n.mail_state = 'SENT'`,
        [mail.messageId, email],
      )
      return rows[0]?.kind
    }
    // The server has it a moment before that is recorded.
    await until(async () => (await sent()) === kind)
    seen.add(kind)
    return arrived
  }
  const submit = (title = TITLE, assignedToId?: string) =>
    newRequest(api, { title, submit: true, ...(assignedToId && { assignedToId }) })
  const act = (name: string, input: object, who: Parameters<Api['data']>[2]) =>
    api.data(mutation(name, 'clientMutationId'), { input }, who)
  const deciders = ['admin@assent.test', 'manager2@assent.test', 'manager@assent.test']

  part('SUBMITTED: to all who can decide, and to nobody else', async () => {
    const before = mailbox.arrived.length
    const id = await submit()
    const subject = `Awaiting your decision: ${TITLE}`
    for (const email of deciders) {
      await expectMail('SUBMITTED', email, subject, [TITLE, 'Uma User is asking for your decision'], `/requests/${id}`)
    }
    expect(
      mailbox.arrived
        .slice(before)
        .filter(({ mail }) => mail.subject === subject && mail.text!.includes(id))
        .flatMap(({ to }) => to)
        .toSorted(),
    ).toEqual(deciders)
  })

  part('SUBMITTED, REMINDER and DIGEST: to the assignee alone; ASSIGNED: to the next one', async () => {
    const id = await submit(`${TITLE} for one`, api.db.people.manager.id)
    const [title, path] = [`${TITLE} for one`, `/requests/${id}`]
    await expectMail('SUBMITTED', 'manager@assent.test', `Awaiting your decision: ${title}`, [title], path)
    await act('assignRequest', { requestId: id, assignedToId: api.db.people.manager2.id }, 'admin')
    const words = [title, 'Ada Admin has assigned you a request from Uma User']
    await expectMail('ASSIGNED', 'manager2@assent.test', `Assigned to you: ${title}`, words, path)
    // As if it had waited since the day before yesterday, which nobody's clock is to be turned for.
    await root.query(
      `insert into app_public.notifications (recipient_id, kind, event, request_id, mail_state) values ($1, 'REMINDER', 'a reminder', $2, 'QUEUED')`,
      [api.db.people.manager2.id, id],
    )
    const waits = [title, 'Uma User is still waiting']
    await expectMail('REMINDER', 'manager2@assent.test', `Still awaiting your decision: ${title}`, waits, path)
    const about = mailbox.arrived.filter(({ mail }) => mail.subject?.endsWith(title)).map(({ to }) => to[0])
    expect(about).toEqual(['manager@assent.test', 'manager2@assent.test', 'manager2@assent.test'])
  })

  part('DIGEST: what waits, the longest first, and the news that were kept for it', async () => {
    const { createRequest } = await api.data(mutation('createRequest'), { input: { title: `${TITLE} of Mia` } }, 'manager')
    const mine = createRequest.request.id
    await act('setNotificationPreference', { kind: 'APPROVED', delivery: 'DIGEST' }, 'manager')
    await act('submitRequest', { requestId: mine }, 'manager')
    await act('approveRequest', { requestId: mine, comment: 'Fine' }, 'admin')
    const ids = [await submit('One'), await submit('Two')]
    await until(
      async () => (await root.query(`select from app_public.notifications where mail_state = 'DIGEST'`)).rows.length > 0,
    )
    await root.query(`select app_private.make_digests('2026-01-05')`)
    const words = ['Awaiting your decision', 'One', 'Two', 'Uma User']
    const { mail } = await expectMail('DIGEST', 'manager@assent.test', 'Your daily digest', words, `/requests/${ids[0]}`)
    const text = flat(mail.text)
    for (const path of [...ids, mine]) expect(text).toContain(link(`/requests/${path}`))
    expect(text).toContain(`Approved: ${TITLE} of Mia`)
    expect(text.indexOf('One')).toBeLessThan(text.indexOf('Two'))
    const { rows } = await root.query(
      `select mail_state, mail_message_id from app_public.notifications where request_id = $1 and kind = 'APPROVED'`,
      [mine],
    )
    expect(rows).toEqual([{ mail_state: 'SENT', mail_message_id: mail.messageId }])
  })

  for (const [kind, command, comment, said] of [
    ['APPROVED', 'approveRequest', 'Enjoy <it> & be "happy"\nbut not here', 'has approved your request'],
    ['REJECTED', 'rejectRequest', 'Too <dear>\n\nWe are poor', 'has rejected your request'],
  ] as const) {
    part(`${kind}: to the creator, with the comment, line by line`, async () => {
      const title = `${TITLE} ${kind}`
      const id = await submit(title)
      await act(command, { requestId: id, comment }, 'manager')
      const subject = `${kind[0]}${kind.slice(1).toLowerCase()}: ${title}`
      const { mail } = await expectMail(kind, 'user@assent.test', subject, [title, `Mia Manager ${said}`], `/requests/${id}`)
      const quoted = comment.split('\n').map((line) => `> ${line}`.trimEnd())
      const lines = mail.text!.split('\n').map((line) => line.trimEnd())
      expect(lines.slice(lines.indexOf(quoted[0]!)).slice(0, quoted.length)).toEqual(quoted)
      const escaped = comment
        .replaceAll('&', '&amp;')
        .replace(/<(\w+)>/g, '&lt;$1&gt;')
        .replaceAll('"', '&quot;')
      expect(mail.html).toContain(
        escaped
          .split('\n')
          .map((line) => `${line}<br>`)
          .join(''),
      )
    })
  }

  test.each([
    ['words and markup', `<b onclick='x()'>&amp; "é😀" =\u00a0{{this}}</b> `],
    ['no blank at all', '<&amp;x>='],
    ['lines', '</blockquote>\n.\n--\n'],
  ])('a comment of 10,000 characters arrives whole: %s', async (name, pattern) => {
    const comment = `A${[...pattern.repeat(10_000)].slice(0, 9_998).join('')}Z`
    const id = await submit(`A long comment, ${name}`)
    await act('rejectRequest', { requestId: id, comment }, 'manager')
    const subject = `Rejected: A long comment, ${name}`
    const { mail, source } = await expectMail('REJECTED', 'user@assent.test', subject, [], `/requests/${id}`)
    const [, html] = /<blockquote>([^]*)<\/blockquote>/.exec(mail.html as string)!
    const written = { '<br>': '\n', '&lt;': '<', '&gt;': '>', '&quot;': '"', '&#x27;': "'", '&#x3D;': '=', '&amp;': '&' }
    expect(html!.replace(/<br>$/, '').replace(/<br>|&#?\w+;/g, (code) => written[code as keyof typeof written])).toBe(comment)
    // As text its lines are broken, and quoted.
    const dense = (text: string) => text.replace(/\s+/g, '')
    const text = mail.text!.slice(mail.text!.indexOf('> A')).replace(/^> ?/gm, '')
    expect(dense(text).startsWith(dense(comment))).toBe(true)
    // No server need take a longer line (RFC 5322, 2.1.1).
    expect(Math.max(...source.split('\r\n').map((line) => line.length))).toBeLessThan(999)
  })

  part('APPROVED without a comment has no empty quotation', async () => {
    const id = await submit('Without a word')
    await act('approveRequest', { requestId: id }, 'manager')
    const { mail } = await expectMail('APPROVED', 'user@assent.test', 'Approved: Without a word', [], `/requests/${id}`)
    expect(mail.text).not.toContain('comment')
    expect(mail.html).not.toContain('blockquote')
  })

  part('of an account: made, given another role, and another password', async () => {
    const email = 'New.Person@example.com'
    const CHOSEN = 'correct horse battery staple'
    const input = { email, name: `Ny O'Name ${TITLE}` }
    const { createUser } = await api.data(mutation('createUser', 'user { id }'), { input }, 'admin')
    const greeting = flat(`Hello ${input.name}`)
    await until(() => mailsTo({ email }).length > 0)
    const [, first] = /#token=([\w-]+)/.exec(mailsTo({ email })[0]!.mail.text!)!
    const { mail } = await expectMail(
      'ACCOUNT_CREATED',
      email,
      'Your new account',
      ['Ada Admin has created an account', email, '72 hours'],
      `/reset-password#token=${first}`,
    )
    expect(mail.to).toMatchObject({ value: [{ name: input.name, address: email }] })
    expect(flat(mail.text)).toContain(greeting)

    // Who is invited again can use the new link alone.
    await act('resendInvitation', { userId: createUser.user.id }, 'admin')
    await until(() => mailsTo({ email }).length > 1)
    const [, token] = /#token=([\w-]+)/.exec(mailsTo({ email })[1]!.mail.text!)!
    await expectMail(
      'INVITATION',
      email,
      'Choose your password',
      ['Ada Admin invites you again', email, '72 hours'],
      `/reset-password#token=${token}`,
    )
    const choose = async (token: string) => {
      const confirm = { token, new_password: CHOSEN }
      return (await api.rest('POST', '/auth/password-reset/confirm/', confirm, undefined, fromElsewhere())).status
    }
    expect([await choose(first!), await choose(token!)]).toEqual([422, 204])
    await until(() => mailsTo({ email }).length > 2) // that of the new password

    const role = mailbox.arrived.length
    await act('updateUser', { userId: createUser.user.id, role: 'MANAGER' }, 'admin')
    await until(() => mailbox.arrived.length > role)
    const roleMail = mailsTo({ email }).at(-1)!
    expect(roleMail.mail.subject).toBe('Your role has changed')
    for (const text of [roleMail.mail.text!, roleMail.mail.html as string])
      expect(flat(text)).toContain('Your role is now MANAGER. Ada Admin changed it.')
    seen.add('ROLE_CHANGED')

    const { login } = await api.data(mutation('login', 'accessToken'), { input: { email, password: CHOSEN } })
    const newPassword = 'another long password'
    await act('changePassword', { oldPassword: CHOSEN, newPassword }, { token: login.accessToken })
    const changed = await expectMail('PASSWORD_CHANGED', email, 'Your password has changed', [email, 'If that was not you'], '/')
    expect(changed.source).not.toContain(newPassword)
    // As a manager, they would be told of what other tests submit.
    await act('deactivateUser', { userId: createUser.user.id }, 'admin')
  })

  part('PASSWORD_RESET: its link opens the account once, and is told to nobody else', async () => {
    const person = await api.person()
    const answer = await api.rest('POST', '/auth/password-reset/', { email: person.email }, undefined, fromElsewhere())
    expect(answer.status).toBe(202)
    const { mail } = await (async () => {
      await until(() => mailsTo(person).length > 0)
      return mailsTo(person)[0]!
    })()
    const [address, token] = /https:\S+#token=([\w-]+)/.exec(mail.text!) as unknown as [string, string]
    expect(address).toBe(link(`/reset-password#token=${token}`))
    await expectMail(
      'PASSWORD_RESET',
      person.email,
      'Reset your password',
      [person.email, '30 minutes'],
      `/reset-password#token=${token}`,
    )
    const confirm = () =>
      api.rest(
        'POST',
        '/auth/password-reset/confirm/',
        { token, new_password: 'a password of their own' },
        undefined,
        fromElsewhere(),
      )
    expect((await confirm()).status).toBe(204)
    const again = await confirm()
    expect([again.status, again.body.errors]).toEqual([422, { token: [expect.any(String)] }])
    const login = (password: string) =>
      api.rest('POST', '/auth/token/', { email: person.email, password }, undefined, fromElsewhere())
    expect([(await login('a password of their own')).status, (await login(PASSWORD)).status]).toEqual([200, 401])
    await until(() => mailsTo(person).some(({ mail }) => mail.subject === 'Your password has changed'))
    expect(mailsTo(person)).toHaveLength(2)
    expect(mailbox.arrived.filter(({ source, to }) => source.includes(token.slice(0, 20)) && !to.includes(person.email))).toEqual(
      [],
    )
    const { rows } = await root.query(
      `select coalesce(string_agg(j::text, ' '), '') as jobs from graphile_worker._private_jobs j`,
    )
    expect([api.log(), lines.join(''), rows[0].jobs].filter((text) => text.includes(token))).toEqual([])
  })

  test('was seen here, and there are no others', async () => {
    await all()
    const { rows } = await root.query('select kind from app_public.notification_kinds order by kind')
    const kinds = rows.map(({ kind }) => kind)
    expect([...seen].toSorted()).toEqual(kinds)
    expect(mailKinds.toSorted()).toEqual(kinds)
  })
})

describe('without an SMTP server', () => {
  test('each mail is a whole file of its own, for its owner alone, and the same one if it is written twice', async () => {
    await sendDue() // whatever earlier tests left
    const person = await api.person()
    const id = await queue(person)
    await sendBy(makeMailer(config({})))
    const folder = join(dataDir, 'mail')
    expect(await readdir(folder)).toEqual([`${id}.eml`])
    const path = join(folder, `${id}.eml`)
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    const mail = await simpleParser(await readFile(path))
    expect(mail).toMatchObject({
      subject: 'Your role has changed',
      messageId: `<${id}@mail.example.com>`,
      to: { value: [{ name: 'Somebody New', address: person.email }] },
      text: expect.stringContaining('Your role is now USER'),
      html: expect.stringContaining('Your role is now USER'),
    })
    expect(await kept(id)).toMatchObject({ state: 'SENT', attempts: 1, tried: null })
    // Of a worker that died before it could say so.
    await root.query(`update app_public.notifications set mail_state = 'CANCELLED', mailed_at = null where id = $1`, [id])
    await root.query(`update app_public.notifications set mail_state = 'QUEUED' where id = $1`, [id])
    await sendBy(makeMailer(config({})))
    expect(await readdir(folder)).toEqual([`${id}.eml`])
  })
})

describe('nothing that people write makes a header', () => {
  let mailer: ReturnType<typeof makeMailer>
  beforeAll(() => void (mailer = makeMailer(config())))
  afterAll(() => mailer.close())

  /** Sends what has this text wherever people write; then all headers are ours, and what they say is the text. */
  async function expectHarmless(text: string): Promise<void> {
    await mailer.send({ ...SAMPLE, title: text, name: text, comment: text, actor: text, creator: text })
    const arrived = mailbox.arrived.at(-1)!
    const { to, from, mail } = arrived
    expect([from, to]).toEqual(['assent@mail.example.com', ['user@assent.test']])
    expect(headersOf(arrived)).toEqual(HEADERS)
    // A header is one line; blanks at its ends do not count, nor what may have been put in and does not show.
    const oneLine = (value: string) =>
      value
        .replace(/[\s\p{Cc}]+/gu, ' ')
        .replace(/[\u200b\u2060]/g, '')
        .trim()
    expect(mail.headerLines.map(({ line }) => line.replaceAll(/\r\n[ \t]/g, '')).join('')).not.toMatch(/=0D|=0A|\p{Cc}/u)
    expect(oneLine(mail.subject!)).toBe(oneLine(`Rejected: ${text}`))
    expect(mail.from!.value).toEqual([{ name: 'Assent at Example', address: 'assent@mail.example.com' }])
    expect((mail.to as { value: object[] }).value).toHaveLength(1)
    const [recipient] = (mail.to as { value: { name: string; address: string }[] }).value
    expect([oneLine(recipient!.name), recipient!.address]).toEqual([oneLine(text), 'user@assent.test'])
    expect([mail.messageId, mail.headers.get('auto-submitted')]).toEqual(['<sample@mail.example.com>', 'auto-generated'])
    expect([mail.cc, mail.bcc, mail.replyTo, mail.attachments]).toEqual([undefined, undefined, undefined, []])
  }

  test.each([
    ['CR LF', 'a\r\nBcc: victim@example.com'],
    ['LF', 'a\nBcc: victim@example.com'],
    ['CR', 'a\rBcc: victim@example.com'],
    ['the end of the headers', 'a\r\n\r\n<script>alert(1)</script>'],
    ['a folded line', 'a\r\n Bcc: victim@example.com'],
    ['another body', 'a\r\nContent-Type: text/html; boundary="x"\r\n\r\n--x'],
    ['the end of the mail', 'a\r\n.\r\nMAIL FROM:<evil@example.com>'],
    ['the line separator of Unicode', 'a\u2028Bcc: victim@example.com\u2029Cc: victim@example.com'],
    ['the next line of C1', 'a\u0085Bcc: victim@example.com'],
    ['vertical tab and form feed', 'a\u000bBcc: victim@example.com\u000cCc: victim@example.com'],
    ['a list of addresses', 'a <evil@example.com>, victim@example.com; b:'],
    ['quotation marks', '"a" <evil@example.com>, "\\'],
    ['comments', '(a) <evil@example.com> (b'],
    ['an encoded word', '=?utf-8?Q?a=0D=0ABcc=3A_victim=40example=2Ecom?='],
    ['an encoded word in base64', '=?UTF-8?B?QmNjOiB2aWN0aW1AZXhhbXBsZS5jb20=?= and more'],
    ['an encoded word after others', 'é =?utf-8?Q?Bcc=3A_victim?='],
    ['characters beyond the BMP', '\u{1f600}'.repeat(200)],
    ['a long word', 'x'.repeat(200)],
    ['letters of two bytes', 'é'.repeat(200)],
    ['control characters', 'a\u0001\u0007\u001b[31m\u007f'],
    ['a template', '{{#each this}}{{@root}}{{/each}} {{{headline}}} ${process.env}'],
    ['words of JavaScript', '__proto__ constructor toString'],
  ])('%s', (_, text) => expectHarmless(text))

  test('any text', async () => {
    const word = fc.constantFrom(
      '\r\n',
      '\n',
      'Bcc:',
      ': ',
      '<',
      '>',
      '@',
      '"',
      ',',
      ';',
      '\\',
      '(',
      ')',
      '\u2028',
      '\t',
      'é',
      '😀',
    )
    // Encoded words have their own cases; and NUL no text in the database has.
    const anything = fc.string({
      unit: fc.oneof(word, fc.string({ unit: 'binary', minLength: 1, maxLength: 3 })),
      minLength: 1,
      maxLength: 30,
    })
    const text = anything.map((value) => `x${value.replaceAll('\0', '').replaceAll('=?', '')}`)
    await fc.assert(fc.asyncProperty(text, expectHarmless), { numRuns: 60 })
  })

  test('nor does a comment leave its quotation, or a title its link', async () => {
    const text = '</blockquote></a><img src=x onerror=alert(1)>\'"`=javascript:'
    await mailer.send({ ...SAMPLE, title: text, name: text, comment: text, actor: text })
    const html = mailbox.arrived.at(-1)!.mail.html as string
    expect(html).not.toContain('<img')
    expect(html.match(/<\/?[a-z]+/g)!.filter((tag) => /blockquote|\ba\b|img/.test(tag))).toEqual([
      '<a',
      '</a',
      '<blockquote',
      '</blockquote',
    ])
  })
})

describe('the connection', () => {
  const send = async (url: string) => {
    const mailer = makeMailer(config({ SMTP_URL: url }))
    try {
      await mailer.send(SAMPLE)
    } finally {
      mailer.close()
    }
  }
  const withServer = async (options: Parameters<typeof startSmtp>[0], run: (server: Mailbox) => Promise<void>) => {
    const server = await startSmtp(options)
    try {
      await run(server)
    } finally {
      await server.close()
    }
  }
  const withLogin = (url: string, login: string) => url.replace('://', `://${login}@`)
  const accounts: Parameters<typeof startSmtp>[0] = {
    disabledCommands: [],
    onAuth: ({ username, password }, _session, callback) =>
      username === 'us@example.com' && password === 'p:a/s&s'
        ? callback(null, { user: username })
        : callback(Object.assign(new Error('No such login'), { responseCode: 535 })),
  }
  const LOGIN = `${encodeURIComponent('us@example.com')}:${encodeURIComponent('p:a/s&s')}`
  const LAX = '?tls.rejectUnauthorized=false'

  test.each([
    ['smtps://', { secure: true, disabledCommands: ['AUTH'] }],
    ['smtp://, by STARTTLS as soon as the server offers it', { disabledCommands: ['AUTH'] }],
  ])('%s is encrypted; a certificate of nobody’s is refused, unless that is waived', (_, options) =>
    withServer(options, async (server) => {
      const person = await api.person()
      const id = await queue(person)
      await sendDue(server.url)
      expect(server.arrived).toEqual([])
      expect(await kept(id)).toMatchObject({
        state: 'QUEUED',
        tried: 1,
        is_soon: true,
        error: expect.stringMatching(/self-signed|certificate/i),
      })
      await makeDue(id)
      await sendDue(`${server.url}${LAX}`)
      expect(server.arrived.map(({ to, isSecure }) => [to, isSecure])).toEqual([[[person.email], true]])
      expect(await kept(id)).toMatchObject({ state: 'SENT', attempts: 2, error: null })
    }),
  )

  test('without TLS, nothing is sent to another machine, unless that is waived; to this one it is', () =>
    withServer({ disabledCommands: ['AUTH', 'STARTTLS'] }, async (server) => {
      // It leads here as well, but does not say so.
      const elsewhere = server.url.replace('127.0.0.1', '0.0.0.0')
      const id = await queue(await api.person())
      await sendDue(elsewhere)
      expect([server.arrived, (await kept(id)).state]).toEqual([[], 'QUEUED'])
      await makeDue(id)
      await sendDue(`${elsewhere}?requireTLS=false`)
      expect([server.arrived.length, (await kept(id)).state]).toEqual([1, 'SENT'])
      await send(server.url)
      expect(server.arrived.map(({ isSecure }) => isSecure)).toEqual([false, false])
    }))

  test('a login is sent encrypted, with whatever characters it has', () =>
    withServer(accounts, async (server) => {
      await send(withLogin(`${server.url}${LAX}`, LOGIN))
      expect(server.arrived.map(({ user, isSecure }) => [user, isSecure])).toEqual([['us@example.com', true]])
    }))

  test('a wrong login fails no mail for good: it is tried again, and seen meanwhile', () =>
    withServer(accounts, async (server) => {
      const id = await queue(await api.person())
      await sendDue(withLogin(`${server.url}${LAX}`, 'us:wrong-password'))
      expect(await kept(id)).toMatchObject({
        state: 'QUEUED',
        tried: 1,
        is_soon: true,
        error: expect.stringContaining('No such login'),
      })
      const auditor = await api.db.connect('auditor')
      const { rows } = await auditor.query('select * from audit.failing_jobs')
      expect(rows).toMatchObject([
        { task: 'send_mail', attempts: 1, next_try: expect.any(Date), error: expect.stringContaining('No such login') },
      ])
      const { rows: mails } = await auditor.query('select state, attempts, error from audit.mails where notification_id = $1', [
        id,
      ])
      expect(mails).toEqual([{ state: 'QUEUED', attempts: 1, error: expect.stringContaining('No such login') }])
      expect(JSON.stringify([rows, mails])).not.toContain('wrong-password')
      await makeDue(id)
      await sendDue(withLogin(`${server.url}${LAX}`, LOGIN))
      expect([server.arrived.length, (await kept(id)).state]).toEqual([1, 'SENT'])
    }))

  test('no login where one is wanted fails no mail for good either', () =>
    withServer({ ...accounts, disabledCommands: ['STARTTLS'], authOptional: false }, async (server) => {
      const id = await queue(await api.person())
      await sendDue(server.url)
      expect(await kept(id)).toMatchObject({ state: 'QUEUED', tried: 1, is_soon: true, error: expect.stringContaining('530') })
      await makeDue(id)
      await sendDue(withLogin(server.url, LOGIN))
      expect([server.arrived.length, (await kept(id)).state]).toEqual([1, 'SENT'])
    }))

  test('a server that never answers is not waited for for ever', async () => {
    const silent = createServer(() => {}).listen(0, '127.0.0.1')
    await once(silent, 'listening')
    const { port } = silent.address() as AddressInfo
    await expect(send(`smtp://127.0.0.1:${port}?greetingTimeout=200`)).rejects.toThrow(/[Gg]reeting/)
    silent.close()
  })
})

describe('what the server says', () => {
  const again: [string, Mailbox['answer'], RegExp][] = [
    ['4xx at RCPT', (at) => (at === 'RCPT' ? [450, 'Greylisted, come back'] : undefined), /450.*Greylisted, come back/],
    ['4xx at DATA', (at) => (at === 'DATA' ? [451, 'No room now'] : undefined), /451.*No room now/],
    ['4xx with a NUL', (at) => (at === 'DATA' ? [451, 'No\0room'] : undefined), /451.*No room/],
    ['421', (at) => (at === 'RCPT' ? [421, 'Closing down'] : undefined), /421.*Closing down/],
    ['a connection closed at RCPT', (at) => (at === 'RCPT' ? 'CLOSE' : undefined), /clos|reset|ECONN/i],
    ['a connection closed at DATA', (at) => (at === 'DATA' ? 'CLOSE' : undefined), /clos|reset|ECONN/i],
  ]
  test.each(again)(
    '%s: is tried again within 30 seconds, until it is accepted, under one Message-ID',
    async (_, answer, error) => {
      const person = await api.person()
      const id = await queue(person)
      mailbox.answer = answer
      await sendDue()
      const failed = await kept(id)
      expect(failed).toEqual({
        state: 'QUEUED',
        attempts: 1,
        error: expect.stringMatching(error),
        message_id: `<${id}@mail.example.com>`,
        tried: 1,
        is_soon: true,
      })
      mailbox.answer = () => undefined
      await makeDue(id)
      await sendDue()
      expect(await kept(id)).toEqual({ ...failed, state: 'SENT', attempts: 2, error: null, tried: null, is_soon: null })
      expect(mailsTo(person).map(({ mail }) => mail.messageId)).toEqual([failed.message_id])
    },
  )

  test('nobody listens: is tried again', async () => {
    const person = await api.person()
    const id = await queue(person)
    await mailbox.close()
    await sendDue()
    expect(await kept(id)).toMatchObject({
      state: 'QUEUED',
      tried: 1,
      is_soon: true,
      error: expect.stringContaining('ECONNREFUSED'),
    })
    await mailbox.open()
    await makeDue(id)
    await sendDue()
    expect([mailsTo(person).length, (await kept(id)).state]).toEqual([1, 'SENT'])
  })

  const UNDELIVERED =
    '{ undeliveredMails { totalCount nodes { id kind attempts error recipient { id email } request { id } createdAt } } }'
  const undelivered = async (who: Parameters<Api['data']>[2]) => (await api.data(UNDELIVERED, {}, who)).undeliveredMails
  const RESEND = mutation('resendMail', 'clientMutationId')

  const refused: [string, Mailbox['answer'], RegExp][] = [
    ['RCPT', (at) => (at === 'RCPT' ? [550, 'No such user here'] : undefined), /550.*No such user here/],
    ['DATA', (at) => (at === 'DATA' ? [554, 'We take no such mail'] : undefined), /554.*We take no such mail/],
  ]
  test.each(refused)(
    '5xx at %s: FAILED, shown to admins alone in the server’s words, who can have it sent again',
    async (_, answer, error) => {
      await sendDue() // whatever earlier tests left
      const person: NewPerson = await api.person()
      const id = await queue(person)
      mailbox.answer = answer
      await sendDue()
      expect(await kept(id)).toMatchObject({ state: 'FAILED', attempts: 1, error: expect.stringMatching(error), tried: null })
      expect(await undelivered('admin')).toEqual({
        totalCount: 1,
        nodes: [
          {
            id,
            kind: 'ROLE_CHANGED',
            attempts: 1,
            error: expect.stringMatching(error),
            recipient: { id: person.id, email: person.email },
            request: null,
            createdAt: expect.any(String),
          },
        ],
      })
      expect(await api.code(UNDELIVERED)).toBe('UNAUTHENTICATED')
      for (const who of ['manager', 'user', { token: person.token }] as const) {
        expect(await undelivered(who)).toEqual({ totalCount: 0, nodes: [] })
        expect(await api.code(RESEND, { input: { notificationId: id } }, who)).toBe('NOT_FOUND')
      }
      const metrics = (await api.metrics()).text
      expect(metrics).toContain('assent_jobs{task="send_mail",state="refused"} 1\n')

      mailbox.answer = () => undefined
      await api.data(RESEND, { input: { notificationId: id } }, 'admin')
      await sendDue()
      expect(await kept(id)).toMatchObject({ state: 'SENT', attempts: 2, error: null, message_id: `<${id}@mail.example.com>` })
      expect([mailsTo(person).length, (await undelivered('admin')).totalCount]).toEqual([1, 0])
      // It has gone: there is nothing to send again.
      expect(await api.code(RESEND, { input: { notificationId: id } }, 'admin')).toBe('NOT_FOUND')
    },
  )

  test('of several people, only whom it refuses is without the mail', async () => {
    const [one, two] = [await api.person(), await api.person()]
    const ids = [await queue(one), await queue(two)]
    mailbox.answer = (at, address) => (at === 'RCPT' && address === one.email ? [550, 'Gone'] : undefined)
    await sendDue()
    expect([(await kept(ids[0]!)).state, (await kept(ids[1]!)).state]).toEqual(['FAILED', 'SENT'])
    expect([mailsTo(one).length, mailsTo(two).length]).toEqual([0, 1])
  })
})

test('a server that never answers holds up neither notifications nor webhooks', async () => {
  const sockets = new Set<Socket>()
  const silent = createServer((socket) => void sockets.add(socket.on('error', () => {}))).listen(0, '127.0.0.1')
  await once(silent, 'listening')
  const delivered: string[] = []
  const hook = createHttpServer((req, res) => {
    delivered.push(req.url!)
    res.writeHead(204).end()
  }).listen(0, '127.0.0.1')
  await once(hook, 'listening')
  const [smtp, http] = [silent, hook].map((server) => (server.address() as AddressInfo).port)
  const worker = await startWorker(config({ SMTP_URL: `smtp://127.0.0.1:${smtp}`, WEBHOOKS_TO_PRIVATE_ADDRESSES: 'true' }), log)
  const mails: string[] = []
  for (let i = 0; i < 8; i++) mails.push(await queue(await api.person()))
  await until(() => sockets.size === 4)

  const input = { url: `http://127.0.0.1:${http}/hook`, events: ['request.submitted'] }
  await api.data(mutation('createWebhook', 'clientMutationId'), { input }, 'admin')
  const requests = [await newRequest(api, { submit: true }), await newRequest(api, { submit: true })]
  await until(async () => {
    const { rows } = await root.query('select distinct request_id from app_public.notifications where request_id = any ($1)', [
      requests,
    ])
    return rows.length === 2 && delivered.length === 2
  })
  for (const id of mails) expect(await kept(id)).toMatchObject({ state: 'QUEUED', error: null })
  expect(sockets.size).toBe(4) // As many as are under way at once.

  silent.close()
  for (const socket of sockets) socket.destroy()
  await worker.close()
  hook.close()
})

test.each(["o'neil+x%y!z@example.com", '=?utf-8?q?a=0d=0aBcc?=@example.com', '{{name}}@example.com', 'jürgen@bücher.example'])(
  'a mail to %s has one recipient, and no header but ours',
  async (address) => {
    const { rows } = await root.query(
      `with person as (insert into app_public.users (name) values ('Bobby, "Tables" <x@example.com>') returning id)
     insert into app_private.credentials (user_id, email, password_hash) select id, $1, 'none' from person returning user_id as id`,
      [address],
    )
    const id = await queue(rows[0])
    await sendDue()
    const arrived = mailbox.arrived.filter(({ mail }) => mail.messageId === `<${id}@mail.example.com>`)
    expect(arrived.map(({ to }) => to)).toEqual([[address]])
    expect(headersOf(arrived[0]!)).toEqual(HEADERS)
    expect(await kept(id)).toMatchObject({ state: 'SENT', error: null, tried: null })
  },
)

test('a server that takes its time to accept a mail is waited for, lest the mail be sent again', async () => {
  // Longer than for anything else that it may take: ten minutes, as RFC 5321, 4.5.3.2.6, says.
  const { socketTimeout, ...others } = TIMEOUTS
  expect(socketTimeout).toBeGreaterThanOrEqual(600_000)
  const hurried = Object.fromEntries(Object.entries(others).map(([name, time]) => [name, time / 20])) as typeof others
  const mailer = makeMailer(config(), { ...hurried, socketTimeout })
  mailbox.answer = (at) => (at === 'DATA' ? sleep(Math.max(...Object.values(hurried)) + 200).then(() => undefined) : undefined)
  const before = mailbox.arrived.length
  await mailer.send(SAMPLE).finally(() => mailer.close())
  expect(mailbox.arrived).toHaveLength(before + 1)
})

test('no secret is logged, by this test or any other', async () => {
  const worker = await startWorker(config(), log)
  mailbox.answer = (at) => (at === 'RCPT' ? [450, 'Greylisted, come back'] : undefined)
  await queue(await api.person())
  await until(() => lines.join('').includes('send_mail'))
  await worker.close()
})
