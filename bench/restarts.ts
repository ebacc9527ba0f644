import { load } from '../tests/harness/load.ts'
import { startTopology } from '../tests/harness/topology.ts'

// `npm run bench:restarts [calls]`: how many calls fail while three servers behind nginx are restarted in turn, by SIGTERM and by
// kill -9? And are writes lost, or done twice? Prints a table.

const calls = Number(process.argv[2] ?? 10_000)
const all = await startTopology()
try {
  await all.startServers()
  console.log('| signal | restarts | calls | failed | of them repeatable | lost | twice |\n|---|---:|---:|---:|---:|---:|---:|')
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    let restarts = 0
    const { failures, lost, twice, ...counted } = await load(all, calls, async (count) => {
      while (count() < calls) await all.restart(restarts++ % all.servers.length, signal)
    })
    const repeatable = failures.filter(({ isRepeatable }) => isRepeatable)
    console.log(`| ${[signal, restarts, counted.calls, failures.length, repeatable.length, lost, twice].join(' | ')} |`)
    for (const { kind, answer, line } of failures) console.log(`${kind}: ${answer} ${line ?? ''}`)
  }
} finally {
  await all.close()
}
