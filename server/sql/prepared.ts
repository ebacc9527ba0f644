import { hash } from 'node:crypto'
import type { EventEmitter } from 'node:events'
import type { Socket } from 'node:net'
import { LRUCache } from 'lru-cache'
import type { PoolClient } from 'pg'

/** Prepared statements that one connection keeps. Callers choose what is asked, so their number needs a limit. */
const PREPARED_PER_CONNECTION = 200

/** A statement with a name that follows from its text: PostgreSQL plans it once for each connection. */
export const prepared = (text: string) => ({ text, name: hash('sha256', text, 'base64').slice(0, 16) })

/**
 * Private parts of pg: the events of the protocol; the socket, which pg corks only for one query at a time; and its record of
 * what a connection has prepared, from which it never removes anything. Without the last two, a pipelined transaction would be
 * four packets, and prepared statements would only ever grow. tests/doors/sql/prepared.test.ts notices when they change.
 */
export const connectionOf = (client: PoolClient) =>
  (client as unknown as { connection: EventEmitter & { stream: Socket; parsedStatements: Record<string, string> } }).connection

/** Notes a use of a prepared statement, and drops the one unused for longest. It is called before a transaction, not in one. */
export type KeepPrepared = (client: PoolClient, name: string) => void

export function makeKeepPrepared(): KeepPrepared {
  const preparedOn = new WeakMap<PoolClient, LRUCache<string, true>>()

  function openList(client: PoolClient): LRUCache<string, true> {
    const { parsedStatements } = connectionOf(client)
    const dispose = (_: true, unused: string) => {
      if (!(unused in parsedStatements)) return // It did not even parse.
      delete parsedStatements[unused]
      client.query(`deallocate ${client.escapeIdentifier(unused)}`).catch(() => {})
    }
    return new LRUCache({ max: PREPARED_PER_CONNECTION, dispose })
  }

  return (client, name) => {
    let names = preparedOn.get(client)
    if (!names) preparedOn.set(client, (names = openList(client)))
    if (!names.get(name)) names.set(name, true)
  }
}

/** Has a statement prepared anew at its next use, because what PostgreSQL has kept of it is outdated. */
export async function prepareAnew(client: PoolClient, name: string): Promise<void> {
  delete connectionOf(client).parsedStatements[name]
  await client.query(`deallocate ${client.escapeIdentifier(name)}`)
}
