// npm run lint: squawk over every migration, as PostgreSQL gets to see it.
import { spawnSync } from 'node:child_process'
import { readdir } from 'node:fs/promises'
import { compileMigration } from '../harness/schema.ts'

for (const name of await readdir('migrations', { recursive: true })) {
  if (!/^(current|committed\/.*)\.sql$/.test(name)) continue
  const file = `migrations/${name}`
  const { status } = spawnSync(process.execPath, ['node_modules/squawk-cli/js/bin/squawk', '--stdin-filepath', file], {
    input: await compileMigration(file),
    stdio: ['pipe', 'inherit', 'inherit'],
  })
  if (status !== 0) process.exitCode = 1
}
