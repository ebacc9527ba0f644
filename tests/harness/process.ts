import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'

/** A command of ours as its user runs it: in a process of its own, with nothing of our environment but the path. */
export class Running {
  output = ''
  readonly child: ChildProcess
  readonly exit: Promise<number | null>

  /** With `input`, that and the end of it is its standard input. */
  constructor(program: string, args: string[], env: Record<string, string> = {}, input?: string) {
    // A process group of its own, so that the test can do what Ctrl-C does in a terminal.
    this.child = spawn(program, args, { env: { PATH: process.env.PATH, HOME: process.env.HOME, ...env }, detached: true })
    this.child.stdout!.on('data', (text) => (this.output += text))
    this.child.stderr!.on('data', (text) => (this.output += text))
    if (input !== undefined) this.child.stdin!.end(input)
    this.exit = once(this.child, 'close').then(([code]) => code)
  }

  /** Waits until the output has this, and returns what it matched. */
  async until(pattern: RegExp): Promise<string> {
    let over = false
    void this.exit.then(() => (over = true))
    for (;;) {
      const match = pattern.exec(this.output)
      if (match) return match[1] ?? match[0]
      if (over) throw new Error(`It ended without ${pattern}:\n${this.output}`)
      await sleep(20)
    }
  }

  /** Signals the process, and waits for its end. */
  async end(signal: NodeJS.Signals): Promise<number | null> {
    this.child.kill(signal)
    return this.exit
  }
}

/** `node server/main.js`, with what it is told. */
export function command(name: string, env: Record<string, string>, args: string[] = [], input?: string): Running {
  return new Running(process.execPath, ['server/main.js', name, ...args], env, input)
}
