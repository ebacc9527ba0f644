import { TestEnvironment } from 'jest-environment-node'
import type { Logger } from 'pino'
import type { ConfigFor } from '../../server/config.ts'
import type { BuiltSchema } from '../../server/server.ts'

/**
 * Jest runs each test file in a sandbox with modules of its own, where to load the server and to build its schema takes two
 * seconds. So the API is started on this side of the wall: modules, and the schema of each version, are made once a process.
 */
export default class extends TestEnvironment {
  override async setup(): Promise<void> {
    await super.setup()
    const version = String(this.global['POSTGRES'])
    this.global['outside'] = {
      console,
      startServer: (config: ConfigFor<'server'>, log: Logger) => startServer(version, config, log),
    }
  }
}

const schemas = new Map<string, Promise<BuiltSchema>>()

async function startServer(version: string, config: ConfigFor<'server'>, log: Logger) {
  // Else Grafast warns of its absence when it is first imported.
  process.env['GRAPHILE_ENV'] ??= 'production'
  const server = await import('../../server/server.ts')
  // All databases of a version are clones of one. The schema knows none of them: its pool has ended when it is built, and
  // each call brings its own.
  if (!schemas.has(version)) schemas.set(version, server.buildSchema(config.authDatabaseUrl))
  return server.startServer(config, log, undefined, await schemas.get(version)!)
}
