import { Router } from 'express'
import type { Pool } from 'pg'

/** Milliseconds after which nobody joins a question: its connection may lead nowhere. */
const PATIENCE = 1_000

/**
 * What probes ask: whether the process lives, and whether it can serve, with the schema of this version at least and for longer
 * than it takes to close.
 */
export function makeHealth(pool: Pool, schemaVersion: string, isClosing: () => boolean) {
  // One question answers all who ask meanwhile: a flood of probes must not take the connections of requests.
  let asking: Promise<boolean> | undefined
  let askedAt = 0
  const ask = () => pool.query('select app_hidden.assert_ready($1)', [schemaVersion])
  // A connection that was opened before a failover may lead to the old server: after such an answer, a new one is opened.
  const askAgain = (error: { code?: string }) => (error.code === '25006' ? ask() : Promise.reject(error))
  async function isReady(): Promise<boolean> {
    if (!asking || Date.now() - askedAt > PATIENCE) {
      askedAt = Date.now()
      asking = ask()
        .catch(askAgain)
        .then(
          () => true,
          () => false,
        )
        .finally(() => (asking = undefined))
    }
    return (await asking) && !isClosing()
  }

  const probes = Router()
  probes.get('/healthz', (_req, res) => void res.json({ status: 'ok' }))
  probes.get('/readyz', async (_req, res) => {
    const ready = await isReady()
    if (!ready) res.set('retry-after', '1')
    res.status(ready ? 200 : 503).json({ status: ready ? 'ok' : 'unavailable' })
  })
  return { probes, isReady }
}
