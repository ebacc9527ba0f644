// npm run commit-migration -- "what it does": moves migrations/current.sql to migrations/committed/, having run it, after
// all those before it, on a throw-away database.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, readdir, writeFile } from 'node:fs/promises'
import startAll, { stopAll } from '../harness/postgres.ts'
import { hashCommitted } from '../harness/schema.ts'

await startAll()
try {
  const secrets = JSON.parse(process.env['TEST_POSTGRES_18']!)
  const shadow = Object.assign(new URL(secrets.DATABASE_URL), { pathname: '/shadow' }).toString()
  const commit = spawn('graphile-migrate', ['commit', '--message', process.argv[2] ?? ''], {
    stdio: 'inherit',
    env: { ...process.env, ...secrets, SHADOW_DATABASE_URL: shadow },
  })
  process.exitCode = (await once(commit, 'exit'))[0]
  // It comes out for its owner's eyes alone, and would be unreadable to the user that a container runs as.
  for (const name of await readdir('migrations/committed')) await chmod(`migrations/committed/${name}`, 0o644)
  // By which `sha256sum --check` and a test know whether one was edited afterwards.
  await writeFile('migrations/committed.sha256', await hashCommitted())
} finally {
  await stopAll()
}
