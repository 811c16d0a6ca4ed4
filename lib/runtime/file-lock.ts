import { type FileHandle, open, readFile, stat, unlink } from 'node:fs/promises'
import { loadAddon } from './addon.ts'

/**
 * An exclusive lock on a path, for as long as this process lives: the kernel drops it whatever way the
 * process ends. Threads, processes and containers of one machine shut each other out; where the file
 * system has no locks nobody is shut out.
 */
export class FileLock {
  readonly path: string
  readonly #file: FileHandle

  private constructor(path: string, file: FileHandle) {
    this.path = path
    this.#file = file
  }

  /** @returns the lock; or, where another has it, the process number that it wrote */
  static async acquire(path: string): Promise<FileLock | string> {
    for (;;) {
      const file = await open(path, 'a+')
      try {
        if (loadAddon().tryLock(file.fd) === 'held') {
          const text = (await readFile(path, 'utf8').catch(() => '')).trim()
          await file.close()
          return text === '' ? 'unknown' : text
        }
        const lock = new FileLock(path, file)
        // who had it may have deleted it just now: then this is a lock on nothing
        if (await lock.holds()) {
          await file.truncate(0)
          await file.write(Buffer.from(`${process.pid}\n`))
          return lock
        }
      } catch (error) {
        await file.close()
        throw error
      }
      await file.close()
    }
  }

  /** Whether the path is still what is locked. */
  async holds(): Promise<boolean> {
    const found = await stat(this.path).catch(() => null)
    const own = await this.#file.stat()
    return found !== null && found.ino === own.ino && found.dev === own.dev
  }

  /** Deletes the file and lets go of it. */
  async release(): Promise<void> {
    try {
      // while it is still locked: afterwards it may be another's
      if (await this.holds()) await unlink(this.path)
    } finally {
      await this.#file.close()
    }
  }
}
