import express, { type Router } from 'express'
import { ruruHTML, type RuruClientConfig } from 'ruru/server'
import { serveStatic } from 'ruru/static'
import { policy } from '../http/headers.ts'

// GraphiQL has inline scripts, and its editor runs in workers made from blobs.
const CONTENT_SECURITY_POLICY = policy(
  "default-src 'self'",
  "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "font-src 'self' data:",
  "worker-src 'self' blob:",
)

const STATIC_PATH = '/graphiql/static/'

const DEFAULT_QUERY = `# Log in, then put the token into "Headers" below:
#   { "authorization": "Bearer …" }
mutation {
  login(input: { email: "manager@assent.test", password: "assent-demo-password" }) {
    accessToken
    expiresAt
  }
}
`

/** GraphiQL as the package ruru brings it, served from its own files. For development only. */
export function graphiql(): Router {
  const html = ruruHTML({
    staticPath: STATIC_PATH,
    endpoint: '/graphql',
    clientConfig: { defaultQuery: DEFAULT_QUERY } as RuruClientConfig,
  })
  const router = express.Router()
  router.get('/', (_req, res) => {
    res.set('content-security-policy', CONTENT_SECURITY_POLICY).type('html').send(html)
  })
  const files = serveStatic(STATIC_PATH)
  router.use('/static', (req, res, next) => {
    req.url = req.originalUrl
    files(req, res, next)
  })
  return router
}
