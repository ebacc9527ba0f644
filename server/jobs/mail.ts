import { readdirSync, readFileSync } from 'node:fs'
import { mkdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import Handlebars from 'handlebars'
import { convert } from 'html-to-text'
import { createTransport } from 'nodemailer'
import type { Config } from '../config.ts'

/** What app_private.begin_mail says of a mail: all that its text is made of. */
export interface MailDocument {
  readonly kind: string
  readonly headline: string
  readonly name: string
  readonly address: string
  readonly message_id: string
  readonly request_id: string | null
  readonly title: string | null
  readonly comment: string | null
  /** The secret of the link to choose a new password by. */
  readonly token?: string
  readonly waiting?: readonly Listed[]
  readonly news?: readonly (Listed & { readonly notification_id: string })[]
  readonly [member: string]: unknown
}

interface Listed {
  readonly request_id: string | null
  readonly title: string | null
}

const folder = join(import.meta.dirname, 'mails')

/** Each template by the kind of notification that it is for; what is put into them is escaped. */
const templates = new Map(
  readdirSync(folder).map((file) => {
    const template = Handlebars.compile(readFileSync(join(folder, file), 'utf8'), {
      strict: true,
      knownHelpersOnly: true,
      preventIndent: true,
    })
    return [file.replace('.hbs', '').toUpperCase(), template]
  }),
)
Handlebars.registerPartial('layout', templates.get('LAYOUT')!)

/** The kinds of notification that have a template: all of them. */
export const mailKinds: readonly string[] = [...templates.keys()].filter((kind) => kind !== 'LAYOUT')

/** The text of a mail: HTML, and the same as plain text. Links lead to pages of the front end at `publicUrl`. */
export function renderMail(mail: MailDocument, publicUrl: string): { subject: string; html: string; text: string } {
  const withUrl = <T extends Listed>(listed: T) => ({
    ...listed,
    requestUrl: listed.request_id && `${publicUrl}/requests/${listed.request_id}`,
  })
  const subject = asText(mail.title === null ? mail.headline : `${mail.headline}: ${mail.title}`)
  const html = templates.get(mail.kind)!({
    ...withUrl(mail),
    comment: mail.comment?.split(/\r?\n/),
    waiting: mail.waiting?.map(withUrl),
    news: mail.news?.map(withUrl),
    subject,
    publicUrl,
    // After "#", a browser keeps it to itself: no server's log has it.
    resetUrl: mail.token && `${publicUrl}/reset-password#token=${mail.token}`,
  })
  return {
    subject,
    html,
    text: convert(html, { wordwrap: 78, selectors: [{ selector: 'a', options: { hideLinkHrefIfSameAsText: true } }] }),
  }
}

/** For a header: one line; and what looks like an encoded word (RFC 2047) would be read as what it encodes, but for a word joiner. */
const asText = (value: string): string => value.replace(/[\s\p{Cc}]+/gu, ' ').replaceAll('=?', '=\u2060?')

/** Sends mails. */
export interface Mailer {
  /** Of the sender's address, for the Message-ID. */
  readonly domain: string
  /** Resolves once the SMTP server has accepted the mail, or its file is written. `signal` breaks it off. */
  send(mail: MailDocument, signal?: AbortSignal): Promise<void>
  close(): void
}

const DEFAULT_FROM = 'Assent <assent@localhost>'

/**
 * Milliseconds that an SMTP server may take: to be found, to be connected to, to greet, and for each answer. The last is what
 * RFC 5321, 4.5.3.2.6, has for a mail to be accepted: who gives up before sends it twice. Unused for longer than `idleTimeout`
 * no connection is trusted to stand.
 */
export const TIMEOUTS = {
  dnsTimeout: 5_000,
  connectionTimeout: 10_000,
  greetingTimeout: 10_000,
  socketTimeout: 600_000,
  idleTimeout: 20_000,
}

/** Mails go to the SMTP server, or without one into files under `DATA_DIR/mail`. */
export function makeMailer({ smtpUrl, mailFrom = DEFAULT_FROM, publicUrl, dataDir }: Config, timeouts = TIMEOUTS): Mailer {
  const safe = { disableFileAccess: true, disableUrlAccess: true }
  const transport = smtpUrl
    ? // The job tries again, not the pool: of a connection that broke it alone knows what became.
      createTransport({ ...safe, ...timeouts, url: smtpUrl, pool: true, maxConnections: MAILS_AT_ONCE, maxRequeues: 0 })
    : createTransport({ ...safe, streamTransport: true, buffer: true, newline: 'unix' })

  return {
    domain: mailFrom.replace(/^.*@|>\s*$/g, ''),
    async send(mail, signal) {
      const { name, address, message_id: messageId } = mail
      const sent = await transport.sendMail({
        ...renderMail(mail, publicUrl),
        from: mailFrom,
        to: { name: asText(name), address },
        messageId,
        // No machine is to answer (RFC 3834, 5).
        headers: { 'auto-submitted': 'auto-generated' },
        ...(signal && { signal }),
      })
      if ('message' in sent) await writeMail(join(dataDir, 'mail'), messageId, sent.message as Buffer)
    },
    close: () => transport.close(),
  }
}

/** How many mails are under way at once, a connection each. */
export const MAILS_AT_ONCE = 4

/** Under a name of its own, so that the same mail written twice is one; whole, or not there. */
async function writeMail(folder: string, messageId: string, message: Buffer): Promise<void> {
  const path = join(folder, `${messageId.replace(/^<|@.*$/g, '')}.eml`)
  await mkdir(folder, { recursive: true })
  await writeFile(`${path}.part`, message, { mode: 0o600 })
  await rename(`${path}.part`, path)
}

/**
 * Has the server refused this mail for good, its recipient or its content, by a 5xx (RFC 5321, 4.2.1)? What it says of the
 * sender or of our login is of all mails, and the operator's to mend.
 */
export function isRefused(error: unknown): boolean {
  const { code, responseCode, command } = Object(error) as { code?: string; responseCode?: number; command?: string }
  const isOfMail = (code === 'EENVELOPE' && command !== 'MAIL FROM') || code === 'EMESSAGE'
  return isOfMail && responseCode !== undefined && responseCode >= 500
}
