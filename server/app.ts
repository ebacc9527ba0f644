import { once } from 'node:events'
import { createServer, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import express from 'express'
import { makeSchema } from 'postgraphile'
import { makePgService } from 'postgraphile/adaptors/pg'
import type { Logger } from 'pino'
import { listeningUrl, type ConfigFor } from './config.ts'
import { openPool } from './transaction.ts'
import { graphiql } from './graphiql.ts'
import { makeGraphQLHandler } from './graphql.ts'
import { makeIdentify, makeTokens } from './identity.ts'
import { preset } from './preset.ts'

const POOL_SIZE = 10
/** Logins hash in the database, which costs it a core each. */
const LOGIN_POOL_SIZE = 2
/** Milliseconds that requests under way have to finish when the server closes; no statement runs for longer. */
const LAST_CALL = 12_000

/** Builds the GraphQL schema from the database's catalog, as the login role sees it. Throws when it cannot be built. */
export async function buildSchema(connectionString: string) {
  const service = makePgService({ connectionString, schemas: ['app_public'], pubsub: false, poolConfig: { max: 1 } })
  try {
    return await makeSchema({ extends: [preset], pgServices: [service] })
  } finally {
    await service.release?.()
  }
}

/** Starts the API. `close` stops listening, lets what is under way finish, and closes the pools, in this order. */
export async function startServer(config: ConfigFor<'server'>, log: Logger): Promise<{ url: string; close(): Promise<void> }> {
  const { schema, resolvedPreset } = await buildSchema(config.authDatabaseUrl)
  const pool = openPool(config.authDatabaseUrl, POOL_SIZE, log)
  const loginPool = openPool(config.authDatabaseUrl, LOGIN_POOL_SIZE, log)
  const tokens = makeTokens(config.jwtSecrets)
  const identify = makeIdentify(tokens, config.trustProxy)
  const { production } = config
  const graphql = makeGraphQLHandler({ schema, resolvedPreset, pool, loginPool, tokens, identify, production, log })

  const app = express()
  app.disable('x-powered-by')
  app.get('/healthz', (_req, res) => void res.json({ status: 'ok' }))
  app.get('/readyz', async (_req, res) => {
    const ready = await pool.query('select 1').then(
      () => true,
      () => false,
    )
    if (!ready) res.set('retry-after', '1')
    res.status(ready ? 200 : 503).json({ status: ready ? 'ok' : 'unavailable' })
  })
  if (!production) app.use('/graphiql', graphiql())

  // GraphQL is answered before express: its routing costs as much as a small query.
  const underWay = new Set<ServerResponse>()
  const server = createServer((req, res) => {
    underWay.add(res.once('close', () => underWay.delete(res)))
    const path = req.url?.split('?', 1)[0]
    if (path === '/graphql') void graphql(req, res)
    else app(req, res)
  })
  await listen(server, config.port, config.host)
  const { port } = server.address() as AddressInfo
  return {
    url: listeningUrl(config.host, port),
    async close() {
      const closed = new Promise((resolve) => server.close(resolve))
      // Callers cannot hold us: neither by a body that never ends, nor by a connection that never asks anything.
      const deadline = setTimeout(() => server.closeAllConnections(), LAST_CALL)
      await Promise.all(Array.from(underWay, (res) => once(res, 'close')))
      clearTimeout(deadline)
      server.closeAllConnections()
      await closed
      await Promise.all([pool.end(), loginPool.end()])
    },
  }
}

function listen(server: Server, port: number, host: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      server.off('error', reject)
      resolve()
    })
  })
}
