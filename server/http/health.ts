import { Router } from 'express'
import type { Pool } from 'pg'

/**
 * What probes ask: whether the process lives, and whether it can serve, with the schema of this version at least and for longer
 * than it takes to close.
 */
export function health(pool: Pool, schemaVersion: string, isClosing: () => boolean): Router {
  const router = Router()
  router.get('/healthz', (_req, res) => void res.json({ status: 'ok' }))

  const ask = () => pool.query('select app_hidden.assert_ready($1)', [schemaVersion])
  // A connection that was opened before a failover may lead to the old server: after such an answer, a new one is opened.
  const askAgain = (error: { code?: string }) => (error.code === '25006' ? ask() : Promise.reject(error))
  router.get('/readyz', async (_req, res) => {
    const ready = await ask()
      .catch(askAgain)
      .then(
        () => !isClosing(),
        () => false,
      )
    if (!ready) res.set('retry-after', '1')
    res.status(ready ? 200 : 503).json({ status: ready ? 'ok' : 'unavailable' })
  })
  return router
}
