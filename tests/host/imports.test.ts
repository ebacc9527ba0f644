import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'

/** A house in which most imports point downwards, and some do not. */
const FILES: Record<string, string> = {
  'server/main.js': `import './commands.ts'`,
  'server/commands.ts': `import { start } from './setup/start.ts'; await import('./server.ts'); start()`,
  'server/setup/start.ts': `export const start = () => import('../jobs/tasks.ts')`,
  'server/server.ts': `import '../tests/harness/stage.ts'; import './graphql/handler.ts'; import './rest/lists.ts'; export {}`,
  'server/graphql/handler.ts': `import type { Page } from '../rest/lists.ts'; import './schema/preset.ts'; export type P = Page`,
  'server/graphql/schema/preset.ts': `export { P } from '../handler.ts'`,
  'server/rest/lists.ts': `import type { Parameter } from './parameters.ts'; export type Page = Parameter[]`,
  'server/rest/parameters.ts': `import type { Page } from './lists.ts'; export type Parameter = Page | string`,
  'server/http/identity.ts': `import '../sql/pool.ts'; export interface Identity {}`,
  'server/sql/pool.ts': `import type { Identity } from '../http/identity.ts'; export const pool = {} as Identity`,
  'server/jobs/tasks.ts': `import '../http/identity.ts'; import '../config.ts'`,
  'server/config.ts': `export const config = {}; await import('./odds/ends.ts')`,
  'server/odds/ends.ts': `import '../errors.ts'`,
  'server/errors.ts': `export const errors = {}`,
  'tests/harness/stage.ts': `import '../../server/commands.ts'`,
  'tests/rules/search.test.ts': `import '../harness/stage.ts'; import '../doors/login.test.ts'`,
  'tests/doors/login.test.ts': `import '../../server/errors.ts'`,
  'bench/bench.ts': `import '../tests/harness/stage.ts'`,
}

let house: string
beforeAll(async () => {
  house = await mkdtemp(join(tmpdir(), 'assent-imports-'))
  for (const [file, text] of Object.entries(FILES)) {
    await mkdir(join(house, dirname(file)), { recursive: true })
    await writeFile(join(house, file), text)
  }
})
afterAll(() => rm(house, { recursive: true }))

test('an import that climbs is refused, and so is a cycle', () => {
  const cruiser = resolve('node_modules/dependency-cruiser/bin/dependency-cruiser.mjs')
  const args = [cruiser, '--config', resolve('.dependency-cruiser.js'), 'server', 'tests', 'bench']
  const { status, stdout } = spawnSync(process.execPath, args, { cwd: house, encoding: 'utf8' })
  const violations = Array.from(stdout.matchAll(/^ +error (.*?) *$/gm), ([, violation]) => violation!)
  expect(violations.filter((violation) => !violation.startsWith('no-cycle:')).sort()).toEqual([
    'graphql/schema: server/graphql/schema/preset.ts → server/graphql/handler.ts',
    'graphql: server/graphql/handler.ts → server/rest/lists.ts',
    'ground: server/config.ts → server/odds/ends.ts',
    'jobs: server/jobs/tasks.ts → server/http/identity.ts',
    'no-room: server/odds/ends.ts → server/errors.ts',
    'server: server/server.ts → tests/harness/stage.ts',
    'sql: server/sql/pool.ts → server/http/identity.ts',
    'tests/rules: tests/rules/search.test.ts → tests/doors/login.test.ts',
  ])
  expect(violations).toContain('no-cycle: server/rest/lists.ts →')
  expect(status).toBe(violations.length)
})
