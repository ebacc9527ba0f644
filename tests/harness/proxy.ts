import { connect, createServer, type AddressInfo, type Socket } from 'node:net'

/** A way to the database that a test can cut, block, mend and lead elsewhere. */
export interface Proxy {
  readonly url: string
  /** Connections under way end, and new ones are refused. */
  cut(): Promise<void>
  /** New connections are taken and never answered. */
  block(): Promise<void>
  /** Connections under way fall silent, as if the machine behind them had lost its power; new ones are answered. */
  silence(): void
  /** Connections under way end, and new ones are answered, from now on by the database of this URL if there is one. */
  mend(databaseUrl?: string): Promise<void>
  close(): Promise<void>
}

export async function startProxy(databaseUrl: string): Promise<Proxy> {
  let target = new URL(databaseUrl)
  const ways = new Map<Socket, Socket | undefined>()
  let blocked = false
  const server = createServer((near) => {
    ways.set(
      near.on('error', () => {}).on('close', () => ways.delete(near)),
      undefined,
    )
    if (blocked) return
    const far = connect(Number(target.port), target.hostname).on('error', () => near.destroy())
    ways.set(near, far)
    near.on('close', () => far.destroy())
    far.on('close', () => near.destroy())
    near.pipe(far).pipe(near)
  })
  const listen = (port: number) => new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  const end = () => {
    const closed = new Promise<void>((resolve) => (server.listening ? server.close(() => resolve()) : resolve()))
    for (const near of ways.keys()) near.destroy()
    return closed
  }
  await listen(0)
  const { port } = server.address() as AddressInfo
  return {
    url: Object.assign(new URL(databaseUrl), { hostname: '127.0.0.1', port }).toString(),
    cut: end,
    async block() {
      await end()
      blocked = true
      await listen(port)
    },
    silence() {
      for (const [near, far] of ways) {
        near.unpipe().pause()
        far?.unpipe().pause()
      }
    },
    async mend(databaseUrl = target.href) {
      await end()
      blocked = false
      target = new URL(databaseUrl)
      await listen(port)
    },
    close: end,
  }
}
