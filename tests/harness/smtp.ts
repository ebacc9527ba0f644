import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { simpleParser, type ParsedMail } from 'mailparser'
import { SMTPServer, type SMTPServerOptions } from 'smtp-server'

/** A mail that the server has accepted. */
export interface Arrived {
  /** The envelope, which no header decides. */
  readonly from: string
  readonly to: readonly string[]
  /** Who had logged in, and whether the connection was encrypted. */
  readonly user: string | undefined
  readonly isSecure: boolean
  readonly source: string
  readonly mail: ParsedMail
}

/** What the server says in place of 250; CLOSE: it closes the connection. */
type Refusal = readonly [code: number, text: string] | 'CLOSE'

/** A real SMTP server of the test's own. */
export interface Mailbox {
  /** To be sent to as SMTP_URL. */
  readonly url: string
  readonly arrived: readonly Arrived[]
  /** Decides about each recipient, and about each mail by its first recipient; undefined accepts. */
  answer: (at: 'RCPT' | 'DATA', address: string) => Refusal | undefined | Promise<Refusal | undefined>
  /** Goes away: connections end, and new ones are refused. */
  close(): Promise<void>
  /** Comes back, where it was. */
  open(): Promise<void>
}

export async function startSmtp(options: SMTPServerOptions = {}): Promise<Mailbox> {
  const arrived: Arrived[] = []
  let server: SMTPServer | undefined
  let port = 0

  async function decide(at: 'RCPT' | 'DATA', address: string, sessionId: string): Promise<Error | null> {
    const refusal = await mailbox.answer(at, address)
    if (!refusal) return null
    if (refusal !== 'CLOSE') return Object.assign(new Error(refusal[1]), { responseCode: refusal[0] })
    for (const connection of server?.connections ?? []) if (connection.session.id === sessionId) connection.close()
    return new Error('closed')
  }

  const mailbox: Mailbox = {
    get url() {
      return `${options.secure ? 'smtps' : 'smtp'}://127.0.0.1:${port}`
    },
    arrived,
    answer: () => undefined,
    async open() {
      const opened = (server = new SMTPServer({
        disabledCommands: ['AUTH', 'STARTTLS'],
        // Without a certificate in the options it brings its own, which nobody has signed.
        logger: false,
        closeTimeout: 100,
        disableReverseLookup: true,
        onRcptTo: ({ address }, { id }, callback) => void decide('RCPT', address, id).then(callback),
        onData(stream, { id, envelope, user, secure }, callback) {
          void (async () => {
            const source = await buffer(stream)
            const to = envelope.rcptTo.map(({ address }) => address)
            const refusal = await decide('DATA', to[0]!, id)
            if (!refusal) {
              const from = envelope.mailFrom ? envelope.mailFrom.address : ''
              const mail = await simpleParser(source)
              // A server that has gone away meanwhile can acknowledge nothing, and so has not accepted it.
              if (server !== opened) return
              arrived.push({ from, to, user: user as string | undefined, isSecure: secure, source: source.toString(), mail })
            }
            callback(refusal)
          })().catch(callback)
        },
        ...options,
      }))
      opened.on('error', () => {}) // Of peers that go away.
      opened.listen(port, '127.0.0.1')
      await once(opened.server, 'listening')
      port = (opened.server.address() as AddressInfo).port
    },
    async close() {
      const closing = server
      server = undefined
      if (!closing) return
      const closed = new Promise<void>((resolve) => closing.close(resolve))
      for (const connection of closing.connections) connection.close()
      await closed
    },
  }
  await mailbox.open()
  return mailbox
}
