import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Config } from '../config.ts'
import { mailKinds, renderMail } from './mail.ts'

const request = { request_id: '01890000-0000-7000-8000-000000000001', title: 'A laptop & a <bag>' }

const sample = {
  ...request,
  headline: 'What it is about',
  name: 'Mia Manager',
  address: 'mia@example.com',
  message_id: '<preview@example.com>',
  role: 'MANAGER',
  actor: 'Ada Admin',
  creator: 'Uma User',
  comment: 'First line.\nSecond line, with <b>markup</b>.',
  token: 'the-secret-of-the-link',
  waiting: [{ ...request, creator: 'Uma User' }],
  waiting_count: 1,
  news: [{ ...request, notification_id: '01890000-0000-7000-8000-000000000002', headline: 'Approved' }],
}

/** Writes a sample of each kind of mail, as HTML and as plain text. Returns the folder. */
export async function previewMails({ dataDir, publicUrl }: Config): Promise<string> {
  const folder = join(dataDir, 'mail-preview')
  await mkdir(folder, { recursive: true })
  for (const kind of mailKinds) {
    const { subject, html, text } = renderMail({ ...sample, kind }, publicUrl)
    await writeFile(join(folder, `${kind.toLowerCase()}.html`), html)
    await writeFile(join(folder, `${kind.toLowerCase()}.txt`), `Subject: ${subject}\n\n${text}`)
  }
  return folder
}
