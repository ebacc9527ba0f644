import { once } from 'node:events'
import type { Logger } from './logger.ts'

/** Something that runs until it is closed. */
export type Service = { close(): Promise<void> }

/** Starts one thing after another, waits for `signal`, and closes what was started in the reverse order. */
export async function runUntil(signal: AbortSignal, log: Logger, starts: (() => Promise<Service | void>)[]): Promise<void> {
  const running: Service[] = []
  try {
    for (const start of starts) {
      if (signal.aborted) return
      const service = await start()
      if (service) running.unshift(service)
    }
    if (!signal.aborted) await once(signal, 'abort')
  } catch (error) {
    // A Ctrl-C while starting also reaches the programs that a step runs, and so makes it fail.
    if (!signal.aborted) throw error
  } finally {
    for (const service of running) {
      // What comes after, PostgreSQL last of all, has to be closed even so.
      await service.close().catch((error) => log.error(error, 'Something did not close cleanly.'))
    }
  }
}
