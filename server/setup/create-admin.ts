import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import pg from 'pg'
import { read } from 'read'
import { StartError, type ConfigFor } from '../config.ts'
import { passwordDigest, weaknessOf } from '../passwords.ts'
import { withSettings } from '../sql/connection.ts'
import { assertMigrated } from './preflight.ts'

/** Adds an admin, as the owner of the database: in a new one there is nobody who could. Answers the address. */
export async function createAdmin({ databaseUrl }: ConfigFor<'create-admin'>, [email, name, ...rest]: string[]): Promise<string> {
  if (!email || !name || rest.length > 0) throw new StartError('Usage: npm run create-admin -- EMAIL NAME')
  // Before anybody types a password in vain.
  await assertMigrated(databaseUrl)
  const password = process.stdin.isTTY ? await ask() : (await text(process.stdin)).replace(/\r?\n$/, '')
  const weakness = await weaknessOf(password, [email, name])
  if (weakness) throw new StartError(weakness)

  const client = new pg.Client(withSettings(databaseUrl))
  await client.connect()
  try {
    await client.query(`select app_private.register_user($1, $2, 'ADMIN', $3)`, [email, name, passwordDigest(password)])
  } catch (error) {
    throw new StartError((error as Error).message)
  } finally {
    await client.end()
  }
  return email
}

/** At a terminal, which may be left without an answer, by Ctrl-C or Ctrl-D. */
async function ask(): Promise<string> {
  const ended = once(process.stdin, 'end').then(() => undefined)
  const answered = read({ prompt: 'Password: ', silent: true, replace: '*' }).catch(() => undefined)
  const password = await Promise.race([answered, ended])
  if (password === undefined) throw new StartError('No password was given.')
  return password
}
