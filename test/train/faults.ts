// A disk that fails, or a process that is gone, at any call. node:fs/promises is wrapped in place, so the
// library runs as it is. Killed means that no call after it ever happens: on disk that is what kill -9
// leaves, and it takes no process.

import fs from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'

export interface Call {
  readonly kind:
    | 'mkdir'
    | 'create'
    | 'open'
    | 'write'
    | 'sync'
    | 'truncate'
    | 'rename'
    | 'link'
    | 'unlink'
    | 'rm'
  readonly path: string
  /** Of rename and link. */
  readonly to?: string
}

/** What happens at a call: nothing, or the call is not done, or done by half, or nothing comes after it. */
export type Fault =
  | { readonly kill: 'before' | 'after' }
  /** `half`: of a write, its first half is written. */
  | { readonly code: string; readonly half?: boolean }
  | null

export interface Disk {
  /** Calls that were begun, in order. */
  readonly calls: Call[]
  /** Resolves when a kill happened. */
  readonly killed: Promise<void>
  restore(): Promise<void>
}

const never = new Promise<never>(() => undefined)

/** Puts a disk in the place of the real one, below `folder`, until it is restored. */
export function faultyDisk(folder: string, faultOf: (call: Call, index: number) => Fault): Disk {
  const real = { ...fs }
  const calls: Call[] = []
  let dead = false
  let die: () => void
  const killed = new Promise<void>((resolve) => {
    die = resolve
  })

  async function at<T>(call: Call, run: () => Promise<T>, half?: () => Promise<unknown>): Promise<T> {
    if (!call.path.startsWith(folder)) return run()
    if (dead) return never
    const fault = faultOf(call, calls.length)
    calls.push(call)
    if (fault === null) return run()
    if ('code' in fault) {
      if (fault.half) await half?.()
      throw Object.assign(new Error(`${fault.code}: injected, ${call.kind} '${call.path}'`), {
        code: fault.code,
      })
    }
    if (fault.kill === 'after') await run().catch(() => undefined)
    dead = true
    die()
    return never
  }

  const handles: fs.FileHandle[] = []
  const wrapped = (handle: fs.FileHandle, path: string): fs.FileHandle => {
    const write = handle.write.bind(handle) as (...args: unknown[]) => Promise<unknown>
    const own: Record<string, unknown> = {
      write: (bytes: Uint8Array, offset = 0, length = bytes.length - offset, ...rest: unknown[]) =>
        at(
          { kind: 'write', path },
          () => write(bytes, offset, length, ...rest),
          () => write(bytes, offset, length >> 1, ...rest),
        ),
      appendFile: (bytes: Uint8Array) =>
        at(
          { kind: 'write', path },
          () => real.appendFile(handle, bytes),
          () => real.appendFile(handle, bytes.subarray(0, bytes.length >> 1)),
        ),
      // what a test can see of it is when it happens
      sync: () => at({ kind: 'sync', path }, async () => undefined),
      truncate: (length: number) => at({ kind: 'truncate', path }, () => handle.truncate(length)),
    }
    return new Proxy(handle, {
      get: (target, key) => {
        if (typeof key === 'string' && key in own) return own[key]
        const value: unknown = Reflect.get(target, key, target)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
  }

  Object.assign(fs, {
    open: async (path: string, flags: string | number = 'r', mode?: number) => {
      const kind = typeof flags === 'string' && /[wa]/.test(flags) ? 'create' : 'open'
      const open = async (): Promise<fs.FileHandle> => {
        const handle = await real.open(path, flags, mode)
        handles.push(handle)
        return handle
      }
      // reading changes nothing on disk: only what a kill after it leaves matters, and that is the next call
      if (kind === 'open') return dead && path.startsWith(folder) ? never : wrapped(await open(), path)
      return wrapped(await at({ kind, path }, open), path)
    },
    mkdir: (path: string, options?: object) => at({ kind: 'mkdir', path }, () => real.mkdir(path, options)),
    rename: (path: string, to: string) => at({ kind: 'rename', path, to }, () => real.rename(path, to)),
    link: (path: string, to: string) => at({ kind: 'link', path, to }, () => real.link(path, to)),
    unlink: (path: string) => at({ kind: 'unlink', path }, () => real.unlink(path)),
    rm: (path: string, options?: object) => at({ kind: 'rm', path }, () => real.rm(path, options)),
    writeFile: (path: string, text: string) =>
      at(
        { kind: 'write', path },
        () => real.writeFile(path, text),
        () => real.writeFile(path, text.slice(0, text.length >> 1)),
      ),
  })
  syncBuiltinESMExports()
  return {
    calls,
    killed,
    async restore() {
      dead = true // what is left of a killed run must not wake up
      Object.assign(fs, real)
      syncBuiltinESMExports()
      for (const handle of handles) await handle.close().catch(() => undefined) // most are closed
    },
  }
}
