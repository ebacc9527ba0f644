import { randomBytes } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Ajv } from 'ajv'
import { parseConfig, type Command } from '../../server/config.ts'
import { compose, environmentOf, makeSecrets } from '../harness/compose.ts'

const { $schema: _, ...schema } = JSON.parse(await readFile('node_modules/dclint/schemas/compose.schema.json', 'utf8'))
const text = await readFile('docker-compose.yml', 'utf8')
const services = Object.entries<any>(compose.services)
const ours = services.filter(([, service]) => service.command?.[1] === 'server/main.js')

const validate = new Ajv({ strict: false, validateFormats: false, allErrors: true }).compile(schema)

let folder: string
let secrets: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'assent-compose-'))
  secrets = await makeSecrets(folder)
})
afterAll(() => rm(folder, { recursive: true }))

test('docker-compose.yml is valid by the compose specification', () => {
  expect(validate(compose) || validate.errors).toBe(true)
})

test('the schema would see a fault', () => {
  expect(validate({ ...compose, services: { server: { ...compose.services.server, comand: ['x'] } } })).toBe(false)
})

test('no secret stands in it, in its variables or in its environments', () => {
  expect(text).not.toMatch(/\$\{\w*(PASSWORD|SECRET|DATABASE_URL|SMTP_URL)/)
  for (const [, { environment = {} }] of services) {
    for (const name of Object.keys(environment)) expect(name).not.toMatch(/(PASSWORD|SECRET|DATABASE_URL|SMTP_URL)$/)
  }
})

test('deploy/secrets.sh makes exactly the secrets that it mounts, each its own, and keeps those that are there', async () => {
  const names = Object.keys(compose.secrets)
  expect((await readdir(secrets)).sort()).toEqual([...names].sort())
  expect((await stat(secrets)).mode & 0o777).toBe(0o700)
  for (const [, service] of services) for (const name of service.secrets ?? []) expect(names).toContain(name)

  const read = () => Promise.all(names.map((name) => readFile(join(secrets, name), 'utf8')))
  const before = await read()
  const random = before.flatMap((value) => value.match(/[0-9a-f]{64}/g) ?? [])
  expect([random.length, new Set(random).size]).toEqual([8, 6]) // Those of the superuser and of the API are there twice.
  await makeSecrets(folder)
  expect(await read()).toEqual(before)
})

test('deploy/secrets.sh takes over the passwords of an earlier .env', async () => {
  const password = randomBytes(32).toString('hex')
  const other = await mkdtemp(join(tmpdir(), 'assent-compose-'))
  await writeFile(join(other, '.env'), `POSTGRES_PASSWORD=${password}\nAPI_PASSWORD=${password}\n`)
  const made = await makeSecrets(other)
  expect(await readFile(join(made, 'postgres_password'), 'utf8')).toBe(`${password}\n`)
  expect(await readFile(join(made, 'root_database_url'), 'utf8')).toBe(`postgres://postgres:${password}@postgres/postgres\n`)
  expect(await readFile(join(made, 'api_database_url'), 'utf8')).toContain(password)
  expect(await readFile(join(made, 'jwt_secret'), 'utf8')).not.toContain(password)
  await rm(other, { recursive: true })
})

test('every command of ours finds in its environment what it needs, and nothing that it does not know', () => {
  expect(ours.map(([name]) => name).sort()).toEqual(['migrate', 'server', 'setup', 'worker'])
  for (const [name, { command }] of ours) {
    expect(() => parseConfig(environmentOf(name, secrets), command[2] as Command)).not.toThrow()
  }
})

test('each container has only the secrets that its environment names', () => {
  for (const [name, { secrets: mounted = [], environment = {} }] of services) {
    if (['postgres', 'standby'].includes(name)) continue // deploy/postgres/*.sh read one more.
    const named = Object.values<string>(environment).flatMap((value) => /^\/run\/secrets\/(\w+)$/.exec(value)?.[1] ?? [])
    expect([name, [...named].sort()]).toEqual([name, [...mounted].sort()])
  }
})

test('nothing but nginx can be reached from outside, but for a mailbox in a trial', () => {
  const published = services.filter(([, { ports }]) => ports).map(([name, { profiles }]) => [name, profiles])
  expect(published).toEqual([
    ['nginx', undefined],
    ['mail', ['trial']],
  ])
})

test('every container is read-only, is nobody, has no capability, and has its limits', () => {
  for (const [name, service] of services) {
    expect([name, service]).toMatchObject([
      name,
      {
        read_only: true,
        cap_drop: ['ALL'],
        security_opt: ['no-new-privileges:true'],
        pids_limit: expect.any(Number),
        mem_limit: expect.any(String),
        logging: { options: { 'max-size': expect.any(String) } },
      },
    ])
    // The image of our commands says itself who runs them.
    if (service.image !== 'assent') expect([name, service.user]).toEqual([name, expect.stringMatching(/^(?!root|0)./)])
  }
})

test('every image is one version', async () => {
  const images = [
    ...services.filter(([, { build }]) => !build).map(([, { image }]) => image),
    ...[...(await readFile('deploy/Dockerfile', 'utf8')).matchAll(/^FROM (\S+)/gm)].map(([, image]) => image),
  ]
  expect(images.length).toBeGreaterThan(3)
  for (const image of images) expect(image).toMatch(/:v?\d+\.\d+(\.\d+)?(-\w+)?$/)
})
