// Checkpoint folders: `checkpoint-N` below an output folder, each there whole or not at all. One is
// written under another name, synced, renamed; only then may an older one go. What a killed process
// leaves half done begins with a dot and is cleared by the next owner of the folder.

import { randomBytes } from 'node:crypto'
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { ConfigError } from '../runtime/errors.ts'
import { FileLock } from '../runtime/file-lock.ts'
import { makeFolder, syncFolder, writeAtomic } from './atomic.ts'

const NAME = /^checkpoint-(\d+)$/
const PARTIAL = /^\.(?:checkpoint-\d+|.+)\.[0-9a-f]{12}\.(?:tmp|old)$/
const MANIFEST = 'manifest.json'
const LOCK = '.lock'

/** The step of a checkpoint's folder, by its name; null for other names. */
export function checkpointStep(name: string): number | null {
  const match = NAME.exec(name)
  return match === null ? null : Number(match[1])
}

/** Steps of the complete checkpoints in a folder, ascending; it need not be one's own. */
export async function completeCheckpoints(folder: string): Promise<number[]> {
  const found: number[] = []
  for (const name of await readdir(folder)) {
    const step = checkpointStep(name)
    if (step !== null && (await isComplete(join(folder, name)))) found.push(step)
  }
  return found.sort((a, b) => a - b)
}

/** The checkpoints of one training run. One process at a time has the folder. */
export class CheckpointFolder {
  readonly path: string
  readonly #lock: FileLock

  private constructor(path: string, lock: FileLock) {
    this.path = path
    this.#lock = lock
  }

  /**
   * Takes the folder, making it where it is missing, and clears what a killed process left half done.
   * @throws ConfigError when another process that is alive has it
   */
  static async open(path: string): Promise<CheckpointFolder> {
    await makeFolder(path)
    const lock = await FileLock.acquire(join(path, LOCK))
    if (typeof lock === 'string') {
      throw new ConfigError(
        `${path}: another trainer (process ${lock}) writes here; give each run a folder of its own`,
      )
    }
    try {
      for (const name of await readdir(path)) {
        if (PARTIAL.test(name)) await rm(join(path, name), { recursive: true, force: true })
      }
      return new CheckpointFolder(path, lock)
    } catch (error) {
      await lock.release().catch(() => undefined) // the first error counts
      throw error
    }
  }

  /** Steps of the complete checkpoints, ascending. */
  steps(): Promise<number[]> {
    return completeCheckpoints(this.path)
  }

  folderOf(step: number): string {
    return join(this.path, `checkpoint-${step}`)
  }

  /**
   * Writes a checkpoint; `write` fills the folder it is given with plain files. One of the same step that
   * is whole stays: a run that repeats has nothing new to say.
   * @throws what `write` or the file system throws, ConfigError when the folder is another's; nothing is
   *   changed then
   */
  async save(step: number, write: (folder: string) => Promise<void>): Promise<string> {
    if (!(await this.#lock.holds())) {
      throw new ConfigError(`${this.path}: the lock is gone, or another trainer's; nothing was saved over it`)
    }
    const final = this.folderOf(step)
    if (await isComplete(final)) return final
    const suffix = randomBytes(6).toString('hex')
    const temporary = join(this.path, `.checkpoint-${step}.${suffix}.tmp`)
    await mkdir(temporary)
    try {
      await write(temporary)
      const files: Record<string, number> = {}
      for (const name of (await readdir(temporary)).sort()) {
        const file = await open(join(temporary, name), 'r')
        try {
          await file.sync()
          files[name] = (await file.stat()).size
        } finally {
          await file.close()
        }
      }
      const manifest = new TextEncoder().encode(`${JSON.stringify({ step, files }, null, 2)}\n`)
      await writeAtomic(join(temporary, MANIFEST), (bytes) => bytes(manifest))
      await syncFolder(temporary)
      // only one that is not whole is in the way: `save` leaves a whole one alone
      await rm(final, { recursive: true, force: true })
      await rename(temporary, final)
      await syncFolder(this.path)
      return final
    } catch (error) {
      await rm(temporary, { recursive: true, force: true }).catch(() => undefined) // the first error counts
      throw error
    }
  }

  /** Deletes a checkpoint; it is gone at once, however long the deletion takes. */
  async remove(step: number): Promise<void> {
    const old = join(this.path, `.checkpoint-${step}.${randomBytes(6).toString('hex')}.old`)
    await rename(this.folderOf(step), old)
    await rm(old, { recursive: true })
  }

  /** Leaves the folder to others. */
  close(): Promise<void> {
    return this.#lock.release()
  }
}

/** Whether every file that the manifest names is there in full. */
async function isComplete(folder: string): Promise<boolean> {
  try {
    const { files } = JSON.parse(await readFile(join(folder, MANIFEST), 'utf8')) as {
      files: Record<string, number>
    }
    for (const [name, size] of Object.entries(files)) {
      if ((await stat(join(folder, name))).size !== size) return false
    }
    return true
  } catch {
    return false // what cannot be read was not finished, or is no checkpoint of ours
  }
}
