import { createHmac } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { DatabaseError } from 'pg'
import { ClientError } from '../errors.ts'
import { PROBLEM } from '../http/problem.ts'
import { inTransaction, type Ask, type Database, type Identity } from '../sql/as-caller.ts'
import { isRepeatable, type Answer, type Route } from './route.ts'

/** The key that a call may be repeated under, if it can be and brings one. Throws BAD_REQUEST. */
export function keyOf(req: IncomingMessage, route: Route): string | undefined {
  const key = isRepeatable(route) ? req.headers['idempotency-key'] : undefined
  if (key !== undefined && !/^[\x21-\x7e]{1,255}$/.test(String(key)))
    throw new ClientError('BAD_REQUEST', 'An Idempotency-Key has 1 to 255 visible ASCII characters.')
  return key as string | undefined
}

/**
 * Does the work of a call once for its key: see db/rules/idempotency.sql. Refusals are answers, and are kept too. Bodies can
 * hold passwords: the fingerprint of a call is of no use to anybody without one of the `secrets`.
 */
export type Once = (
  db: Database,
  caller: Identity,
  key: string,
  call: readonly unknown[],
  work: (ask: Ask) => Promise<Answer>,
) => Promise<Answer>

export function makeOnce(secrets: readonly string[], explain: (error: unknown) => ClientError): Once {
  return (db, caller, key, call, work) =>
    inTransaction(db, caller, async (ask) => {
      const prints = secrets.map((secret) => createHmac('sha256', secret).update(JSON.stringify(call)).digest())
      const claim = { text: 'select * from app_hidden.claim_idempotency_key($1, $2)', values: [key, prints] }
      const [claimed] = await ask<{ state: string; answer: Answer }>(claim)
      const { state, answer: first } = claimed!
      if (state === 'ANSWERED') return first
      if (state === 'RUNNING')
        throw new ClientError('IDEMPOTENCY_CONFLICT', 'A request with this key is still running.', { retryAfter: 1 })
      if (state === 'OTHER')
        throw new ClientError('IDEMPOTENCY_CONFLICT', 'This key has been used for another request.', { status: 422 })

      await ask({ text: 'savepoint work' })
      const answer = await work(ask).catch(async (error: unknown) => {
        const refusal = explain(error)
        if (refusal.status >= 500 || refusal.code === 'UNAUTHENTICATED') throw refusal
        // Only a failed statement is undone: a wrong password is an outcome, and counts.
        if (error instanceof DatabaseError) await ask({ text: 'rollback to savepoint work' })
        const headers = { ...PROBLEM, ...(refusal.headers as Record<string, string>) }
        return { status: refusal.status, body: JSON.stringify(refusal.problem), headers }
      })
      // An answer that asks to try again is not kept.
      if (answer.status !== 429)
        await ask({ text: 'select app_hidden.keep_answer($1, $2, $3)', values: [key, prints[0], answer] })
      return answer
    })
}
