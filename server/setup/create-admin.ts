import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { read } from 'read'
import { StartError, type ConfigFor } from '../config.ts'
import { passwordDigest, weaknessOf } from '../passwords.ts'
import { connected } from '../sql/connection.ts'
import { assertMigrated } from './preflight.ts'

/** Adds an admin, as the owner of the database: in a new one there is nobody else who could. Answers the address. */
export async function createAdmin({ databaseUrl }: ConfigFor<'create-admin'>, [email, name, ...rest]: string[]): Promise<string> {
  if (!email || !name || rest.length > 0) throw new StartError('Usage: npm run create-admin -- EMAIL NAME')
  // This comes first, so that nobody types a password in vain.
  await assertMigrated(databaseUrl)
  const password = process.stdin.isTTY ? await ask() : (await text(process.stdin)).replace(/\r?\n$/, '')
  const weakness = await weaknessOf(password, [email, name])
  if (weakness) throw new StartError(weakness)

  await connected(databaseUrl, async (client) => {
    const values = [email, name, passwordDigest(password)]
    await client.query(`select app_private.register_user($1, $2, 'ADMIN', $3)`, values).catch((error: Error) => {
      throw new StartError(error.message)
    })
  })
  return email
}

/** Asks at a terminal, which may be left without an answer, by Ctrl-C or Ctrl-D. */
async function ask(): Promise<string> {
  const ended = once(process.stdin, 'end').then(() => undefined)
  const answered = read({ prompt: 'Password: ', silent: true, replace: '*' }).catch(() => undefined)
  const password = await Promise.race([answered, ended])
  if (password === undefined) throw new StartError('No password was given.')
  return password
}
