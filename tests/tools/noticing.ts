import { writeFileSync } from 'node:fs'
import { relative } from 'node:path'
import type { EnvironmentContext, JestEnvironmentConfig } from '@jest/environment'
import type { Circus } from '@jest/types'
import Environment from '../harness/environment.ts'

// For drill.ts alone, which needs no more than one test that fails where it did not before.

/** A test by its file and its name. */
const nameOf = (file: string, test: Circus.TestEntry): string => {
  const names = []
  for (let one: Circus.TestEntry | Circus.DescribeBlock | undefined = test; one; one = one.parent) names.unshift(one.name)
  return `${file}: ${names.slice(1).join(' ')}`
}

/** Ends the process at the first failure that is news, and leaves its name in a file. */
export default class extends Environment {
  readonly #file: string

  constructor(config: JestEnvironmentConfig, context: EnvironmentContext) {
    super(config, context)
    this.#file = relative('tests', context.testPath).replace('.test.ts', '')
  }

  handleTestEvent(event: Circus.Event): void {
    const { usual, news } = JSON.parse(process.env['DRILL']!) as { usual: string[]; news: string }
    if (event.name !== 'test_done' || event.test.errors.length === 0) return
    const name = nameOf(this.#file, event.test)
    if (usual.includes(name)) return
    writeFileSync(news, name)
    process.exit(1)
  }
}
