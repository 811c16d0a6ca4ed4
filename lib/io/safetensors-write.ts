// Writes the safetensors format, atomically.
import { ConfigError } from '../runtime/errors.ts'
import { type NewFile, writeAtomic } from './atomic.ts'
import { type SafetensorsDType, safetensorsItemSize } from './safetensors.ts'

/** One tensor to write. */
export interface SafetensorsInput {
  readonly name: string
  readonly dtype: SafetensorsDType
  readonly shape: readonly number[]
  /**
   * The bytes, little-endian, C order. A function is called when its turn comes, so that only one tensor at
   * a time need be in memory, or only a part of one: what it yields may be used again once it is asked for
   * the next.
   */
  readonly data: Uint8Array | (() => Promise<Uint8Array> | AsyncIterable<Uint8Array>)
}

/** Bytes of a tensor's data. */
export function byteLength({ dtype, shape }: SafetensorsInput): number {
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
 * What writes tensors as a file's bytes, by falling item size, so that each is aligned to its own.
 * @throws ConfigError for a name, shape or length that cannot be written
 */
export function safetensorsBody(
  tensors: Iterable<SafetensorsInput>,
  metadata: Readonly<Record<string, string>> = { format: 'pt' },
): NewFile['body'] {
  const inputs = [...tensors]
  const seen = new Set<string>()
  for (const input of inputs) checkInput(input, seen)
  inputs.sort((a, b) => safetensorsItemSize(b.dtype) - safetensorsItemSize(a.dtype))
  return async (write) => {
    await write(encodeHeader(inputs, metadata))
    for (const input of inputs) {
      let written = 0
      for await (const part of partsOf(input)) {
        await write(part)
        written += part.length
      }
      if (written !== byteLength(input)) {
        throw new ConfigError(
          `writeSafetensors: ${JSON.stringify(input.name)} has ${written} bytes where its shape takes ${byteLength(input)}`,
        )
      }
    }
  }
}

async function* partsOf({ data }: SafetensorsInput): AsyncGenerator<Uint8Array> {
  const parts = typeof data === 'function' ? data() : data
  if (Symbol.asyncIterator in parts) yield* parts
  else yield await parts
}

/**
 * Writes `path` whole or not at all: what was there stays until the new file is on disk.
 * @throws ConfigError for a name, shape or length that cannot be written; the system's error
 *   (ENOSPC, EACCES) with nothing left behind
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<SafetensorsInput>,
  { metadata }: { metadata?: Readonly<Record<string, string>> } = {},
): Promise<void> {
  await writeAtomic(path, safetensorsBody(tensors, metadata))
}
