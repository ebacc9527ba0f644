import pg from 'pg'
import { parse } from 'pg-connection-string'

/**
 * What the text of a value depends on, and what text means to the server. A database or a role may have other settings, which its
 * people are welcome to in psql; but we, and the libraries that we use, read what PostgreSQL writes. The encoding is set by pg.
 */
const FORMATS = [
  'TimeZone=UTC',
  'DateStyle=ISO,MDY',
  'IntervalStyle=postgres',
  'bytea_output=hex',
  'extra_float_digits=1',
  'lc_monetary=C',
  'lc_numeric=C',
  'lc_time=C',
  'standard_conforming_strings=on',
  'quote_all_identifiers=off',
]

/** A connection string whose sessions have these settings, and `more` unless it sets those otherwise: the last one counts. */
export function withSettings(connectionString: string, ...more: string[]): string {
  const { options = '' } = parse(connectionString)
  const asOptions = (settings: readonly string[]) => settings.map((setting) => `-c ${setting}`).join(' ')
  const settings = `${asOptions(more)} ${options} ${asOptions(FORMATS)}`
  // pg, too, reads the last one of two parameters.
  return `${connectionString}${connectionString.includes('?') ? '&' : '?'}options=${encodeURIComponent(settings)}`
}

/** Works on a connection of its own, which is closed afterwards. It waits for it for these milliseconds, or as long as TCP does. */
export async function connected<T>(connectionString: string, work: (client: pg.Client) => Promise<T>, patience = 0): Promise<T> {
  const client = new pg.Client({ connectionString: withSettings(connectionString), connectionTimeoutMillis: patience })
  client.on('error', () => {}) // If the connection is lost, the statement that fails with it says so.
  await client.connect()
  try {
    return await work(client)
  } finally {
    await client.end()
  }
}
