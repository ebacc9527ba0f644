import { readdirSync, readFileSync } from 'node:fs'
import { mkdir, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import Handlebars from 'handlebars'
import { convert } from 'html-to-text'
import { createTransport } from 'nodemailer'
import { isLoopback, type Config } from '../config.ts'

/** What app_private.mail_to_send returns: all data that the text of a mail is made of. */
export interface MailDocument {
  readonly kind: string
  readonly headline: string
  readonly name: string
  readonly address: string
  readonly message_id: string
  readonly request_id: string | null
  readonly title: string | null
  readonly comment: string | null
  /** The secret of the link to choose a password. */
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

/** The template of each kind of notification. Values are escaped. */
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

/** The text of a mail, as HTML and as plain text. Links lead to pages of the front end at `publicUrl`. */
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
    // A browser does not send what follows "#", so that the secret is in no server's log.
    resetUrl: mail.token && `${publicUrl}/reset-password#token=${mail.token}`,
  })
  return {
    subject,
    html,
    text: convert(html, { wordwrap: 78, selectors: [{ selector: 'a', options: { hideLinkHrefIfSameAsText: true } }] }),
  }
}

/** Text for a header: one line, with a word joiner in whatever would be decoded as an encoded word (RFC 2047). */
const asText = (value: string): string => value.replace(/[\s\p{Cc}]+/gu, ' ').replaceAll('=?', '=\u2060?')

/** Sends mails. */
export interface Mailer {
  /** The domain of the sender's address, for the Message-ID. */
  readonly domain: string
  /** Resolves once the SMTP server has accepted the mail, or its file is written. `signal` aborts it. */
  send(mail: MailDocument, signal?: AbortSignal): Promise<void>
  close(): void
}

const DEFAULT_FROM = 'Assent <assent@localhost>'

/**
 * Milliseconds that the look-up of an SMTP server's name, the connection, the greeting and each reply may take. The last is what
 * RFC 5321, 4.5.3.2.6, allows a server to accept a mail: whoever gives up earlier sends it twice. A connection that was unused
 * for longer than `idleTimeout` is not used again.
 */
export const TIMEOUTS = {
  dnsTimeout: 5_000,
  connectionTimeout: 10_000,
  greetingTimeout: 10_000,
  socketTimeout: 600_000,
  idleTimeout: 20_000,
}

/**
 * The same URL, with TLS required where it does not say otherwise: else whoever is on the way to the server could keep it from
 * offering TLS, and read every link to a new password.
 */
function withTls(smtpUrl: string): string {
  const url = new URL(smtpUrl)
  if (url.protocol === 'smtp:' && !isLoopback(smtpUrl) && !url.searchParams.has('requireTLS')) {
    url.searchParams.set('requireTLS', 'true')
  }
  return url.href
}

/** Makes what sends mails to the SMTP server or, without one, writes them to files under `DATA_DIR/mail`. */
export function makeMailer({ smtpUrl, mailFrom = DEFAULT_FROM, publicUrl, dataDir }: Config, timeouts = TIMEOUTS): Mailer {
  const safe = { disableFileAccess: true, disableUrlAccess: true }
  const transport = smtpUrl
    ? // The job tries again, not the pool, because only the job records the outcome of each attempt.
      createTransport({ ...safe, ...timeouts, url: withTls(smtpUrl), pool: true, maxConnections: MAILS_AT_ONCE, maxRequeues: 0 })
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
        // Mail programs do not reply automatically to this (RFC 3834, 5).
        headers: { 'auto-submitted': 'auto-generated' },
        ...(signal && { signal }),
      })
      if ('message' in sent) await writeMail(join(dataDir, 'mail'), messageId, sent.message as Buffer)
    },
    close: () => transport.close(),
  }
}

/** How many mails are sent at once, with one connection each. */
export const MAILS_AT_ONCE = 4

/** The file is named after the Message-ID, so that a mail which is written twice is one file; it is either complete or absent. */
async function writeMail(folder: string, messageId: string, message: Buffer): Promise<void> {
  const path = join(folder, `${messageId.replace(/^<|@.*$/g, '')}.eml`)
  await mkdir(folder, { recursive: true })
  await writeFile(`${path}.part`, message, { mode: 0o600 })
  await rename(`${path}.part`, path)
}

/**
 * Has the server refused this mail for good, because of its recipient or its content, with a 5xx (RFC 5321, 4.2.1)? If it refuses
 * the sender or our login, that concerns all mails, and the operator must correct it.
 */
export function isRefused(error: unknown): boolean {
  const { code, responseCode, command } = Object(error) as { code?: string; responseCode?: number; command?: string }
  const isOfMail = (code === 'EENVELOPE' && command !== 'MAIL FROM') || code === 'EMESSAGE'
  return isOfMail && responseCode !== undefined && responseCode >= 500
}
