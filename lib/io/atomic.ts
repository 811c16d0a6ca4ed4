// Files that appear whole or not at all: temporary siblings, fsync, rename, fsync of the folder.

import { randomBytes } from 'node:crypto'
import { mkdir, open, rename, stat, unlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'

const WRITE_BYTES = 1 << 30 // Linux transfers at most 0x7ffff000 bytes a call

/** A file's name and what writes its bytes. */
export interface NewFile {
  readonly name: string
  readonly body: (write: (bytes: Uint8Array) => Promise<void>) => Promise<void>
}

/**
 * Makes a folder and those above it. (`mkdir` of Node with `recursive` never comes back where the system
 * answers that there is no such folder for one that is there, as below /proc.)
 */
export async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST' && (await stat(path)).isDirectory()) return
    const above = dirname(path)
    if (code !== 'ENOENT' || above === path) throw error
    await makeFolder(above)
    await mkdir(path).catch((again: NodeJS.ErrnoException) => {
      if (again.code !== 'EEXIST') throw again // another may have made it meanwhile
    })
  }
}

/** Makes the names of a folder durable: what was renamed, made or deleted in it. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

async function writeSynced(path: string, body: NewFile['body']): Promise<void> {
  const handle = await open(path, 'wx')
  try {
    await body(async (bytes) => {
      for (let done = 0; done < bytes.length; ) {
        const { bytesWritten } = await handle.write(bytes, done, Math.min(bytes.length - done, WRITE_BYTES))
        done += bytesWritten
      }
    })
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/**
 * Writes files of one folder: nothing there changes before all of them are on disk, so a full disk or a
 * failing body leaves the old ones as they were. They are renamed in the order given, one by one: a crash
 * between two renames leaves the first new and the second old, each of them whole.
 * @param options.obsolete names deleted once the new ones are durable; missing ones are no error
 */
export async function writeTogether(
  folder: string,
  files: Iterable<NewFile>,
  { obsolete = [] }: { obsolete?: Iterable<string> } = {},
): Promise<void> {
  const written: { temporary: string; path: string }[] = []
  let renamed = 0
  try {
    for (const { name, body } of files) {
      const temporary = join(folder, `.${name}.${randomBytes(6).toString('hex')}.tmp`)
      written.push({ temporary, path: join(folder, name) })
      await writeSynced(temporary, body)
    }
    for (const { temporary, path } of written) {
      await rename(temporary, path)
      renamed++
    }
  } catch (error) {
    // the first error is the one to report
    for (const { temporary } of written.slice(renamed)) await unlink(temporary).catch(() => undefined)
    throw error
  }
  await syncFolder(folder)
  for (const name of obsolete) {
    await unlink(join(folder, name)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error
    })
  }
}

/** Writes one file; a reader or a crash never sees half of it. */
export function writeAtomic(path: string, body: NewFile['body']): Promise<void> {
  return writeTogether(dirname(path), [{ name: basename(path), body }])
}
