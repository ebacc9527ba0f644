import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { parseEnv, promisify } from 'node:util'
import { command, type Running } from '../harness/process.ts'

// The pages: what they show is run as it is written, and what they point at is there.

const folderOfPages = await readdir('docs')
const paths = ['README.md', 'CHANGELOG.md', 'SECURITY.md', ...folderOfPages.map((name) => `docs/${name}`)]
const pages = new Map(await Promise.all(paths.map(async (path) => [path, await readFile(path, 'utf8')] as const)))
const page = (path: string) => pages.get(path)!

/** Blanks at the end of a line do not show on a page. */
const trimLines = (text: string) => text.replace(/ +$/gm, '')

/** The blocks of a language, each with the block of output that follows it, if one does. */
const blocks = (text: string, language: string) =>
  [...text.matchAll(new RegExp(`\`\`\`${language}\\n([^]*?)\`\`\`(?:\\n+\`\`\`text\\n([^]*?)\`\`\`)?`, 'g'))].map(
    ([, code, output]) => ({ code: code!, output }),
  )

/** As GitHub names a heading's anchor. */
const anchors = (text: string) =>
  [...text.matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replace(/[^\w -]/g, '')
      .replaceAll(' ', '-'),
  )

describe.each(paths)('%s', (path) => {
  test('links to pages and headings that there are', () => {
    for (const [, target] of page(path).matchAll(/\]\((?!https?:)([^)]*)\)/g)) {
      const [file, anchor] = target!.split('#')
      const linked = file ? join(dirname(path), file) : path
      expect([target, existsSync(linked)]).toEqual([target, true])
      if (anchor) expect(anchors(page(linked))).toContain(anchor)
    }
  })

  test('names files and scripts that there are', async () => {
    const { scripts } = JSON.parse(await readFile('package.json', 'utf8'))
    for (const [, file] of page(path).matchAll(/`((?:server|db|tests|migrations|docs|bench|deploy)\/[\w./-]*)`/g)) {
      expect([file, existsSync(file!)]).toEqual([file, true])
    }
    for (const [, script] of page(path).matchAll(/npm run ([\w:-]+)/g)) expect(Object.keys(scripts)).toContain(script)
  })
})

test('operations.md names every limit of GraphQL', async () => {
  const limits = (await readFile('server/graphql/document-rules.ts', 'utf8')).matchAll(/const MAX_\w+ = ([\d_]+)/g)
  const rows = page('docs/operations.md')
    .match(/^\| (GraphQL document|variables of GraphQL) \|.*$/gm)!
    .join('\n')
  const named = new Set(rows.match(/\d[\d,]*/g))
  for (const [, limit] of limits) expect(named).toContain(Number(limit!.replaceAll('_', '')).toLocaleString('en'))
})

test('operations.md describes every variable that is read, and no other', async () => {
  const config = await readFile('server/config.ts', 'utf8')
  const read = [...config.matchAll(/\b(?:read\('|env\.)([A-Z_]+)/g)].map(([, name]) => name!)
  const rows = page('docs/operations.md').match(/^\| variable \|[^]*?\n\n/m)![0]
  const described = [...rows.matchAll(/^\| (.*?) \|/gm)].flatMap(([, cell]) => cell!.match(/`[A-Z_]+`/g) ?? [])
  const settled = ['GRAPHILE_ENV', 'NO_LOG_SUCCESS'] // set by us, for libraries
  expect(new Set(described)).toEqual(new Set(read.filter((name) => !settled.includes(name)).map((name) => `\`${name}\``)))
})

// All requirements of levels 1 and 2 in version 5.0.0.
const ASVS = `
  1.1.1-2 1.2.1-9 1.3.1-11 1.4.1-3 1.5.1-2 2.1.1-3 2.2.1-3 2.3.1-4 2.4.1-1 3.2.1-2 3.3.1-4 3.4.1-6 3.5.1-5 3.7.1-2 4.1.1-3 4.2.1-1
  4.3.1-2 4.4.1-4 5.1.1-1 5.2.1-3 5.3.1-2 5.4.1-3 6.1.1-3 6.2.1-12 6.3.1-4 6.4.1-4 6.5.1-5 6.6.1-3 6.8.1-4 7.1.1-3 7.2.1-4
  7.3.1-2 7.4.1-5 7.5.1-2 7.6.1-2 8.1.1-2 8.2.1-3 8.3.1-1 8.4.1-1 9.1.1-3 9.2.1-4 10.1.1-2 10.2.1-2 10.3.1-4 10.4.1-11 10.5.1-5
  10.6.1-2 10.7.1-3 11.1.1-2 11.2.1-3 11.3.1-3 11.4.1-4 11.5.1-1 11.6.1-1 12.1.1-3 12.2.1-2 12.3.1-4 13.1.1-1 13.2.1-5 13.3.1-2
  13.4.1-5 14.1.1-2 14.2.1-4 14.3.1-3 15.1.1-3 15.2.1-3 15.3.1-7 16.1.1-1 16.2.1-5 16.3.1-4 16.4.1-3 16.5.1-3 17.1.1-1 17.2.1-4
  17.3.1-2`

/** Each number from `3.4.1` to `3.4.6`, which a page writes as `3.4.1–3.4.6`. */
function numbersOf(range: string): string[] {
  const [, section, first, last = first] = /^(\d+\.\d+)\.(\d+)(?:-(?:[\d.]+\.)?(\d+))?$/.exec(range.replace('–', '-'))!
  return Array.from({ length: Number(last) - Number(first) + 1 }, (_, i) => `${section}.${Number(first) + i}`)
}

test('security.md answers each requirement of the ASVS once', () => {
  const rows = [...page('docs/security.md').matchAll(/^\| (\d+\.\d+\.\d[^|]*) \| (\S[^|]*) \| (.*) \|$/gm)]
  const answered = rows.flatMap(([, ranges]) => ranges!.split(', ').flatMap(numbersOf))
  expect(answered.toSorted()).toEqual(ASVS.trim().split(/\s+/).flatMap(numbersOf).toSorted())
  const answers = new Set(rows.map(([, , answer]) => answer))
  expect(answers).toEqual(new Set(['met', 'operator', 'part', '**not met**', 'n/a']))
})

test('front-end.md tells code generators of every scalar', async () => {
  const schema = await readFile('server/graphql/schema.graphql', 'utf8')
  const scalars = [...schema.matchAll(/^scalar (\w+)$/gm)].map(([, name]) => name!).toSorted()
  const [tada, codegen] = [...page('docs/front-end.md').matchAll(/ scalars: \{\n([^]*?)\n *\}/g)].map(([, list]) =>
    [...list!.matchAll(/^ *(\w+):/gm)].map(([, name]) => name!).toSorted(),
  )
  expect({ tada, codegen }).toEqual({ tada: scalars, codegen: scalars })
})

describe('on a running product', () => {
  const frontEnd = page('docs/front-end.md')
  const steps = blocks(frontEnd, 'ts')
  let folder: string
  let dataDir: string
  let product: Running
  let secrets: Record<string, string>
  let printed: string[]

  /** Runs a program of ours in the folder of the page's module. */
  async function node(...args: string[]): Promise<string> {
    const options = { cwd: folder }
    const { stdout } = await promisify(execFile)(process.execPath, args, options).catch(({ message, stdout }) => {
      throw new Error(`${message}\n${stdout}`)
    })
    return stdout
  }

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'assent-docs-'))
    dataDir = await mkdtemp(join(tmpdir(), 'assent-docs-data-'))
    product = command('start', { DATA_DIR: dataDir, PORT: '0' })
    const url = await product.until(/GraphQL +(http:\S+)\/graphql[^]*psql/)
    secrets = parseEnv(await readFile(join(dataDir, 'env'), 'utf8')) as Record<string, string>

    const write = (name: string, text: string) => writeFile(join(folder, name), text.replaceAll('http://localhost:5678', url))
    const { compilerOptions } = JSON.parse(blocks(frontEnd, 'json')[0]!.code)
    const forBrowsers = { ...compilerOptions, lib: ['es2024', 'dom', 'dom.iterable'], types: [] }
    await symlink(resolve('node_modules'), join(folder, 'node_modules'))
    await write('package.json', JSON.stringify({ type: 'module' }))
    const project = { extends: resolve('tsconfig.json'), compilerOptions: forBrowsers, include: ['page.ts'] }
    await write('tsconfig.json', JSON.stringify(project))
    await write('browser.js', BROWSER)
    await write('page.ts', steps.map(({ code }) => `${code}\nconsole.log('@@@')\n`).join(''))
    await node(resolve('node_modules/.bin/gql.tada'), 'generate-output')
    printed = (await node('--import', './browser.js', 'page.ts')).split('@@@\n')
  }, 120_000)
  afterAll(async () => {
    await product.end('SIGTERM')
    for (const each of [folder, dataDir]) await rm(each, { recursive: true, force: true })
  })

  test("front-end.md's module prints what it says", () => {
    const shown = steps.map(({ code, output = '' }) => ({ code, output }))
    expect(shown.filter(({ output }) => output).length).toBeGreaterThan(10)
    expect(steps.map(({ code }, i) => ({ code, output: printed[i] }))).toEqual(shown)
  })

  test("front-end.md's module has the types that it says", async () => {
    await node(resolve('node_modules/.bin/tsc'))
  }, 60_000)

  const statements = ['docs/dba.md', 'docs/operations.md'].flatMap((path) =>
    blocks(page(path), 'sql').map(({ code, output }) => {
      const [, login, statement] = /^-- (\w+)\n([^]*)$/.exec(code)!
      return { path, login: login!, statement: statement!, output }
    }),
  )
  test.each(statements)('$path, statement $# as the $login', async ({ login, statement, output }) => {
    const logins = { auditor: 'AUDITOR_DATABASE_URL', owner: 'DATABASE_URL', superuser: 'ROOT_DATABASE_URL' }
    const { pathname } = new URL(secrets['DATABASE_URL']!)
    const url = Object.assign(new URL(secrets[logins[login as keyof typeof logins]]!), { pathname }).href
    const psql = [resolve('tests/host/bin/psql'), url, '-c', statement]
    const { stdout, stderr } = await promisify(execFile)(process.execPath, psql).catch((error) => error)
    if (output) expect(trimLines(stdout || stderr)).toBe(trimLines(output))
    else expect(stderr).toBe('')
  })
})

/** What a browser does by itself: it keeps cookies, and sends them along. */
const BROWSER = `
const { fetch } = globalThis
const jar = new Map()
globalThis.fetch = async (url, init = {}) => {
  const cookie = [...jar].map((pair) => pair.join('=')).join('; ')
  const response = await fetch(url, { ...init, headers: { ...init.headers, ...(cookie && init.credentials && { cookie }) } })
  for (const set of response.headers.getSetCookie()) jar.set(...set.split(';', 1)[0].split(/=(.*)/, 2))
  return response
}
`
