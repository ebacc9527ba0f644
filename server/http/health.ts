import { Router } from 'express'
import type { Pool } from 'pg'

/** What probes ask: whether the process lives, and whether it can serve. */
export function health(pool: Pool): Router {
  const router = Router()
  router.get('/healthz', (_req, res) => void res.json({ status: 'ok' }))
  router.get('/readyz', async (_req, res) => {
    const ready = await pool.query('select 1').then(
      () => true,
      () => false,
    )
    if (!ready) res.set('retry-after', '1')
    res.status(ready ? 200 : 503).json({ status: ready ? 'ok' : 'unavailable' })
  })
  return router
}
