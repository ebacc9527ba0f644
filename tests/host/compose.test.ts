import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { Ajv } from 'ajv'
import { parse } from 'yaml'
import { parseConfig, type Command } from '../../server/config.ts'

const { $schema: _, ...schema } = JSON.parse(await readFile('node_modules/dclint/schemas/compose.schema.json', 'utf8'))
const text = await readFile('docker-compose.yml', 'utf8')
const compose = parse(text, { merge: true })
const ours = Object.entries<any>(compose.services).filter(([, service]) => service.command?.[1] === 'server/main.js')

const validate = new Ajv({ strict: false, validateFormats: false, allErrors: true }).compile(schema)

test('docker-compose.yml is valid by the compose specification', () => {
  expect(validate(compose) || validate.errors).toBe(true)
})

test('the schema would see a fault', () => {
  expect(validate({ ...compose, services: { server: { ...compose.services.server, comand: ['x'] } } })).toBe(false)
})

test('no secret has a default', () => {
  const secrets = [...text.matchAll(/\$\{(\w*(?:PASSWORD|SECRET)\w*)([^}]*)\}/g)]
  expect(secrets.length).toBeGreaterThan(3)
  for (const [, , rest] of secrets) expect(rest).toBe(':?is not set')
})

test('every command of ours finds in its environment what it needs, and nothing that it does not know', () => {
  expect(ours.map(([name]) => name).sort()).toEqual(['migrate', 'server', 'setup', 'worker'])
  for (const [, { command, environment }] of ours) {
    const filledIn = Object.fromEntries(
      Object.entries<string>(environment).map(([name, value]) => [
        name,
        value.replace(/\$\{\w+:-([^}]*)\}/, '$1').replace(/\$\{\w+:\?[^}]+\}/, randomBytes(16).toString('hex')),
      ]),
    )
    expect(() => parseConfig(filledIn, command[2] as Command)).not.toThrow()
  }
})
