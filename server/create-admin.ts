import { text } from 'node:stream/consumers'
import pg from 'pg'
import { read } from 'read'
import { StartError, type ConfigFor } from './config.ts'
import { passwordDigest, weaknessOf } from './passwords.ts'

/** Adds an admin, as the owner of the database: a new one has nobody who could. Answers the address. */
export async function createAdmin({ databaseUrl }: ConfigFor<'create-admin'>, [email, name, ...rest]: string[]): Promise<string> {
  if (!email || !name || rest.length > 0) throw new StartError('Usage: npm run create-admin -- EMAIL NAME')
  const password = process.stdin.isTTY
    ? await read({ prompt: 'Password: ', silent: true, replace: '*' })
    : (await text(process.stdin)).replace(/\r?\n$/, '')
  const weakness = await weaknessOf(password)
  if (weakness) throw new StartError(weakness)

  const client = new pg.Client(databaseUrl)
  await client.connect()
  try {
    await client.query(`select app_private.register_user($1, $2, 'ADMIN', $3)`, [email, name, passwordDigest(password)])
  } catch (error) {
    throw new StartError(await explain(client, error as pg.DatabaseError))
  } finally {
    await client.end()
  }
  return email
}

/** A constraint says by its comment what it is for. */
async function explain(client: pg.Client, { code, constraint, message }: pg.DatabaseError): Promise<string> {
  if (code === '23505') return 'This email address is taken.'
  const { rows } = await client.query(
    `select obj_description(oid, 'pg_constraint') as text from pg_constraint where conname = $1`,
    [constraint],
  )
  return rows[0]?.text ?? message
}
