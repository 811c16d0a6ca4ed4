// Writes the safetensors format, atomically: a temporary sibling, fsync, rename, fsync of the folder.
import { randomBytes } from 'node:crypto'
import { open, rename, unlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { ConfigError } from '../runtime/errors.ts'
import { type SafetensorsDType, safetensorsItemSize } from './safetensors.ts'

/** One tensor to write. */
export interface SafetensorsInput {
  readonly name: string
  readonly dtype: SafetensorsDType
  readonly shape: readonly number[]
  /** The bytes, little-endian, C order; a function is called when its turn comes, so that only one
   * tensor at a time need be in memory. */
  readonly data: Uint8Array | (() => Promise<Uint8Array>)
}

function byteLength({ dtype, shape }: SafetensorsInput): number {
  return shape.reduce((product, dimension) => product * dimension, safetensorsItemSize(dtype))
}

function checkInput(input: SafetensorsInput, seen: Set<string>): void {
  const { name, shape } = input
  const problem =
    name === '__metadata__'
      ? 'is reserved by the format'
      : seen.has(name)
        ? 'is given twice'
        : /\p{Surrogate}/u.test(name)
          ? 'is not well-formed Unicode'
          : shape.some((dimension) => !Number.isSafeInteger(dimension) || dimension < 0)
            ? `has shape [${shape.join(', ')}]`
            : input.data instanceof Uint8Array && input.data.length !== byteLength(input)
              ? `has ${input.data.length} bytes where ${input.dtype} [${shape.join(', ')}] takes ${byteLength(input)}`
              : undefined
  if (problem !== undefined) throw new ConfigError(`writeSafetensors: ${JSON.stringify(name)} ${problem}`)
  seen.add(name)
}

/** The header's bytes with its length before it; spaces pad it to 8 so that data are aligned. */
function encodeHeader(
  inputs: readonly SafetensorsInput[],
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  // null prototype: a tensor may be called __proto__
  const header: Record<string, unknown> = Object.create(null)
  if (Object.keys(metadata).length > 0) header['__metadata__'] = metadata
  let begin = 0
  for (const input of inputs) {
    const end = begin + byteLength(input)
    header[input.name] = { dtype: input.dtype, shape: input.shape, data_offsets: [begin, end] }
    begin = end
  }
  const json = new TextEncoder().encode(JSON.stringify(header))
  const bytes = new Uint8Array(8 + Math.ceil(json.length / 8) * 8).fill(0x20)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(bytes.length - 8), true)
  bytes.set(json, 8)
  return bytes
}

/**
 * Writes `path` whole or not at all: what was there stays until the new file is on disk.
 * Tensors are laid out by falling item size, so each is aligned to its own.
 * @throws ConfigError for a name, shape or length that cannot be written; the system's error
 *   (ENOSPC, EACCES) with nothing left behind
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<SafetensorsInput>,
  { metadata = { format: 'pt' } }: { metadata?: Readonly<Record<string, string>> } = {},
): Promise<void> {
  const inputs = [...tensors]
  const seen = new Set<string>()
  for (const input of inputs) checkInput(input, seen)
  inputs.sort((a, b) => safetensorsItemSize(b.dtype) - safetensorsItemSize(a.dtype))

  await writeAtomic(path, async (write) => {
    await write(encodeHeader(inputs, metadata))
    for (const input of inputs) {
      const data = input.data instanceof Uint8Array ? input.data : await input.data()
      if (data.length !== byteLength(input)) {
        throw new ConfigError(
          `writeSafetensors: ${JSON.stringify(input.name)} has ${data.length} bytes where its shape takes ${byteLength(input)}`,
        )
      }
      await write(data)
    }
  })
}

/** Writes a file by way of a temporary sibling, so that a reader or a crash never sees half of it. */
export async function writeAtomic(
  path: string,
  body: (write: (bytes: Uint8Array) => Promise<void>) => Promise<void>,
): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}.tmp`)
  const handle = await open(temporary, 'wx')
  try {
    try {
      await body(async (bytes) => {
        for (let done = 0; done < bytes.length; ) {
          done += (await handle.write(bytes, done, Math.min(bytes.length - done, 1 << 30))).bytesWritten
        }
      })
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(temporary, path)
  } catch (error) {
    await unlink(temporary).catch(() => undefined) // the first error is the one to report
    throw error
  }
  const folder = await open(dirname(path), 'r')
  try {
    await folder.sync() // the rename itself
  } finally {
    await folder.close()
  }
}
