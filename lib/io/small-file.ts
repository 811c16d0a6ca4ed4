// Files that are read whole: configurations, templates, indexes. Whatever a path leads to, reading it
// neither waits for a writer nor takes more memory than was allowed.

import { constants, open, readdir } from 'node:fs/promises'
import { FormatError } from '../runtime/errors.ts'
import { shown } from '../runtime/options.ts'

const MAX_JSON_BYTES = 16 * 2 ** 20

/**
 * The bytes of a regular file.
 * @throws FormatError for one that is larger, or no file; the system's error when it cannot be opened
 */
export async function readWhole(path: string, maxBytes: number): Promise<Uint8Array> {
  // O_NONBLOCK: opening a FIFO would wait for a writer
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    const stat = await handle.stat()
    if (!stat.isFile()) {
      const found = stat.isDirectory() ? 'a folder' : stat.isFIFO() ? 'a FIFO' : 'something else'
      throw new FormatError(`${path}: expected a regular file, found ${found}`)
    }
    if (stat.size > maxBytes) {
      throw new FormatError(`${path}: expected at most ${maxBytes} bytes, found ${stat.size}`)
    }
    return await handle.readFile()
  } finally {
    await handle.close()
  }
}

/** @throws FormatError when the bytes are not UTF-8; a byte-order mark is dropped */
export function utf8(bytes: Uint8Array, path: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw new FormatError(`${path}: expected UTF-8, found other bytes`)
  }
}

/**
 * The text of a file.
 * @throws as `readWhole`; FormatError when it is not UTF-8
 */
export async function readText(path: string, maxBytes: number = MAX_JSON_BYTES): Promise<string> {
  return utf8(await readWhole(path, maxBytes), path)
}

/** `read`'s result; null where there is no such file. */
export async function ifThere<T>(read: Promise<T>): Promise<T | null> {
  try {
    return await read
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}

/**
 * The keys of a file that holds one JSON object.
 * @throws as `readText`; FormatError naming the file for what is no object
 */
export async function readJsonObject(path: string): Promise<Record<string, unknown>> {
  const text = await readText(path)
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    throw new FormatError(`${path}: expected JSON, found ${error.message.slice(0, 100)}`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new FormatError(`${path}: expected an object, found ${shown(value)}`)
  }
  return value as Record<string, unknown>
}

/**
 * The system's error for a file that is missing, in words: what is missing, and which of `instead` is there,
 * which people take for it.
 * @returns the same error; another one as it is
 */
export async function explainMissing(
  error: unknown,
  {
    missing,
    folder,
    instead,
  }: { missing: string; folder: string; instead: Readonly<Record<string, string>> },
): Promise<unknown> {
  const { code } = error as NodeJS.ErrnoException
  if (!(error instanceof Error) || code !== 'ENOENT') return error
  const names = await readdir(folder).catch(() => null)
  const found = names?.find((name) => Object.hasOwn(instead, name))
  const advice = found === undefined ? '' : `; it has ${found}: ${instead[found]}`
  error.message =
    names === null ? `ENOENT: there is no folder '${folder}'` : `ENOENT: ${folder} has no ${missing}${advice}`
  return error
}
