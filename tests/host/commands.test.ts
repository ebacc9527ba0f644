import { readFile } from 'node:fs/promises'
import { stripVTControlCharacters } from 'node:util'
import { command, Running } from '../harness/process.ts'

const { scripts } = JSON.parse(await readFile('package.json', 'utf8')) as { scripts: Record<string, string> }
const names = Object.keys(scripts).filter((name) => scripts[name]!.includes('server/main.js'))
const typed = (name: string) => (name === 'start' ? 'npm start' : `npm run ${name}`)

describe('help', () => {
  test.each(names)('%s --help is one line, needs no environment, and does nothing', async (name) => {
    for (const option of ['--help', '-h']) {
      const asked = command(name, {}, [option])
      expect([await asked.exit, asked.output]).toEqual([0, expect.stringMatching(`^${typed(name)}  [A-Z][^\n]+\\.\n$`)])
    }
  })

  test('without a command, and for one that there is not, every command is listed', async () => {
    for (const [args, code] of [
      [['--help'], 0],
      [['help'], 0],
      [[], 2],
      [['sevrer'], 2],
    ] as const) {
      const asked = new Running(process.execPath, ['server/main.js', ...args], {})
      expect(await asked.exit).toBe(code)
      const listed = asked.output.split('\n').flatMap((line) => /^  (npm start|npm run \S+) +[A-Z].*\.$/.exec(line)?.[1] ?? [])
      expect(listed).toEqual(names.map(typed))
    }
  })
})

describe('log lines', () => {
  const statements = `
    log.info('The API listens.')
    log.warn({ attempt: 2, token: 'a secret' }, 'Again')
    log.error(Object.assign(new TypeError('no such thing'), { stack: 'TypeError: no such thing\\n    at somewhere' }))`

  /** What a process logs that takes its standard output for what it is told. */
  async function lines(isTTY: boolean, production: boolean): Promise<string[]> {
    const script = `
      process.stdout.isTTY = ${isTTY}
      const { makeLogger } = await import('./server/logger.ts')
      const log = makeLogger({ logLevel: 'info', production: ${production} })${statements}`
    const running = new Running(process.execPath, ['--input-type=module', '-e', script], {})
    expect(await running.exit).toBe(0)
    return stripVTControlCharacters(running.output).trimEnd().split('\n')
  }

  test('at a terminal they are for people', async () => {
    expect(await lines(true, false)).toEqual([
      expect.stringMatching(/^\d\d:\d\d:\d\d The API listens\.$/),
      expect.stringMatching(/^\d\d:\d\d:\d\d warn Again \{"attempt":2,"token":"\[redacted\]"\}$/),
      expect.stringMatching(/^\d\d:\d\d:\d\d error no such thing$/),
      'TypeError: no such thing',
      '    at somewhere',
    ])
  })

  test.each([
    ['in a pipe', false, false],
    ['in production, at a terminal too', true, true],
  ])('%s they are JSON', async (_where, isTTY, production) => {
    expect((await lines(isTTY, production)).map((line) => JSON.parse(line))).toMatchObject([
      { level: 30, msg: 'The API listens.' },
      { level: 40, msg: 'Again', attempt: 2, token: '[redacted]' },
      { level: 50, msg: 'no such thing', err: { type: 'TypeError' } },
    ])
  })
})
