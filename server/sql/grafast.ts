import pg from 'pg'
import type { PgClient, PgClientQuery, WithPgClient } from 'postgraphile/@dataplan/pg'
import { asCaller, type Budget, type Database, type Identity } from './as-caller.ts'

/** Grafast's way to the database, in place of PostGraphile's, which takes four round trips for a statement. */
export function makeWithPgClient(db: Database, caller: Identity, mode: 'read' | 'write', budget?: Budget): WithPgClient {
  let done = false
  const client: PgClient = {
    async query<Row>(statement: PgClientQuery) {
      try {
        const result = await asCaller<Row>(db, caller, mode, statement, budget)
        done = mode === 'write'
        return result
      } catch (error) {
        // A change may have ended its own session: the rest of its payload is read as a stranger, who sees only what is open.
        const isOver = error instanceof pg.DatabaseError && error.code === 'RQ401' && done
        if (!isOver) throw error
        return asCaller<Row>(db, { ...caller, session: '' }, 'read', statement, budget)
      }
    },
    // PostGraphile's mutations are single statements, and each is a transaction anyhow.
    withTransaction: async (work) => work(client as never),
  }
  return async (_settings, callback) => callback(client as never)
}
