/**
 * Tests that another one sums up: `part` is `test`, and `all` runs those that have not run yet, so that the sum depends neither
 * on their order nor on which of them were chosen.
 */
export function parts() {
  const runs: (() => Promise<void>)[] = []
  return {
    part(name: string, run: () => Promise<void>, timeout?: number): void {
      let done: Promise<void> | undefined
      const once = () => (done ??= run())
      runs.push(once)
      test(name, once, timeout)
    },
    async all(): Promise<void> {
      for (const once of runs) await once()
    },
  }
}
