import { execFile } from 'node:child_process'
import { copyFile, mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { parse } from 'yaml'

/** docker-compose.yml, with what is merged into its services. */
export const compose = parse(await readFile('docker-compose.yml', 'utf8'), { merge: true })

/** Runs deploy/secrets.sh for a folder, and answers where the secrets are. */
export async function makeSecrets(folder: string, env: Record<string, string> = {}): Promise<string> {
  await mkdir(join(folder, 'deploy'), { recursive: true })
  await copyFile('deploy/secrets.sh', join(folder, 'deploy/secrets.sh'))
  await promisify(execFile)('sh', [join(folder, 'deploy/secrets.sh')], { env: { PATH: process.env['PATH'], ...env } })
  return join(folder, 'secrets')
}

/** What a service finds in its environment when .env says this and its secrets lie in that folder. */
export function environmentOf(service: string, secrets: string, env: Record<string, string> = {}): Record<string, string> {
  const fill = (value: string) =>
    value
      .replace(/\$\{(\w+):-([^}]*)\}/g, (_, name: string, preset: string) => env[name] || preset)
      .replace('/run/secrets', secrets)
  const given: Record<string, string> = compose.services[service].environment
  return Object.fromEntries(Object.entries(given).map(([name, value]) => [name, fill(value)]))
}
