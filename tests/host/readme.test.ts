import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { command, type Running } from '../harness/process.ts'

// The README's tour, run as it is written: its commands by a shell, their output compared with what the page shows.

const readme = await readFile('README.md', 'utf8')
const tour = readme.slice(readme.indexOf('## A tour'), readme.indexOf('## The life'))
/** Blanks at the end of a line do not show on a page. */
const trimLines = (text: string) => text.replace(/ +$/gm, '')

/** Each block of commands, and the block of output that follows it, if one does. */
const steps = [...tour.matchAll(/```sh\n([^]*?)```\n(?:\n```(?:json|text)\n([^]*?)```)?/g)].map(([, commands, output]) => ({
  commands: commands!,
  output: output && trimLines(output),
}))

let folder: string
let dataDir: string
let product: Running

afterAll(async () => {
  await product.end('SIGTERM')
  for (const each of [folder, dataDir]) await rm(each, { recursive: true, force: true })
})

/** Runs the commands in one shell, and splits what it prints by step. */
async function run(url: string): Promise<string[]> {
  const port = new URL(url).port
  const script = steps
    .map(({ commands }) => `${commands}\necho "@@@"`)
    .join('\n')
    .replaceAll(':5678', `:${port}`)
  // The machine's own psql and curl, or what stands in for them.
  const path = `${process.env.PATH}:${resolve('tests/host/bin')}`
  const { stdout } = await promisify(execFile)('bash', ['-c', script], { cwd: folder, env: { ...process.env, PATH: path } })
  return stdout.split('@@@\n').slice(0, -1).map(trimLines)
}

test('its commands print what it says', async () => {
  folder = await mkdtemp(join(tmpdir(), 'assent-readme-'))
  dataDir = await mkdtemp(join(tmpdir(), 'assent-readme-data-'))
  await symlink(dataDir, join(folder, '.data'))
  product = command('start', { DATA_DIR: dataDir, PORT: '0' })
  const outputs = await run(await product.until(/GraphQL +(http:\S+)\/graphql[^]*psql/))

  if (product.child.exitCode !== null) throw new Error(`It has ended meanwhile:\n${product.output}`)
  expect(steps.filter(({ output }) => output).length).toBeGreaterThan(3)
  for (const [i, { commands, output }] of steps.entries()) {
    if (output) expect({ commands, output: outputs[i] }).toEqual({ commands, output })
  }
}, 60_000)

test('the stand-ins print what psql prints', async () => {
  const { stdout } = await promisify(execFile)(resolve('tests/host/bin/psql'), [
    (await readFile(join(folder, '.data/env'), 'utf8')).match(/^DATABASE_URL=(.*)$/m)![1]!,
    '-c',
    `select 1 as n, 'x' as "longer name"`,
  ])
  expect(stdout).toBe(' n | longer name \n---+-------------\n 1 | x\n(1 row)\n\n')
})
