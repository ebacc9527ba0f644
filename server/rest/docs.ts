import { createRequire } from 'node:module'
import { dirname } from 'node:path'
import express, { type Router } from 'express'
import { policy } from '../http/headers.ts'

// Swagger UI sets styles on elements, and has its pictures inline.
const CONTENT_SECURITY_POLICY = policy(
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "connect-src 'self'",
)

const page = (base: string) => `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>Assent: REST API</title>
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="${base}/swagger-ui.css">
  </head>
  <body>
    <div id="swagger-ui"></div>
    <script src="${base}/swagger-ui-bundle.js"></script>
    <script src="${base}/start.js"></script>
  </body>
</html>
`

/** The page that shows the OpenAPI document, by Swagger UI from the package's own files: no other host is called. */
export function docs(base: string, openApiPath: string): Router {
  const router = express.Router()
  router.use((_req, res, next) => {
    res.set({ 'content-security-policy': CONTENT_SECURITY_POLICY, 'cache-control': 'no-cache' })
    next()
  })
  router.get('/', (_req, res) => void res.type('html').send(page(base)))
  router.get('/start.js', (_req, res) => {
    const options = { url: openApiPath, dom_id: '#swagger-ui', deepLinking: true, validatorUrl: null }
    res.type('js').send(`SwaggerUIBundle(${JSON.stringify(options)})\n`)
  })
  const files = dirname(createRequire(import.meta.url).resolve('swagger-ui-dist/package.json'))
  for (const name of ['swagger-ui.css', 'swagger-ui-bundle.js']) {
    router.get(`/${name}`, (_req, res) => {
      res.removeHeader('cache-control')
      res.sendFile(name, { root: files, maxAge: '1h' })
    })
  }
  return router
}
