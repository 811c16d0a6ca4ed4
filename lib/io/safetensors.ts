// The safetensors format: a u64 header length, a JSON header, one buffer without holes.
// Source: https://github.com/huggingface/safetensors (format section of its README).
//
// The header is untrusted, so it is scanned as bytes against the one grammar it may have instead
// of by JSON.parse, which keeps the last of duplicate keys, rounds 64-bit offsets, and needs
// several times the header in memory.
import { constants, type FileHandle, open } from 'node:fs/promises'
import { ConfigError, FormatError } from '../runtime/errors.ts'
import { HeaderScanner } from './safetensors-header.ts'

const ITEM_SIZES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
} as const

/** Element types as safetensors spells them. */
export type SafetensorsDType = keyof typeof ITEM_SIZES

/** Bytes of one element. */
export function safetensorsItemSize(dtype: SafetensorsDType): number {
  return ITEM_SIZES[dtype]
}

/** Where one tensor lies in its file. */
export interface SafetensorsEntry {
  readonly name: string
  readonly dtype: SafetensorsDType
  readonly shape: readonly number[]
  /** Bytes from the beginning of the file. */
  readonly offset: number
  readonly byteLength: number
}

export interface SafetensorsHeader {
  readonly metadata: ReadonlyMap<string, string>
  /** In the order of their bytes. A map: a tensor may be named `__proto__`. */
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>
}

const MAX_HEADER_BYTES = 100_000_000 // the reference implementation's limit
const MAX_RANK = 8 // what a tensor can have (native kMaxRank)

function fail(file: string, place: string, expected: string, found: string): never {
  throw new FormatError(`${file}, ${place}: expected ${expected}, found ${found}`)
}

function headerLength(prefix: Uint8Array, fileSize: number, file: string): number {
  if (fileSize < 8) fail(file, 'header length', 'at least 8 bytes', `a file of ${fileSize}`)
  const length = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true)
  if (length > BigInt(MAX_HEADER_BYTES)) {
    fail(file, 'header length', `at most ${MAX_HEADER_BYTES} bytes`, String(length))
  }
  if (Number(length) > fileSize - 8) {
    fail(file, 'header length', `at most the ${fileSize - 8} bytes that follow it`, String(length))
  }
  return Number(length)
}

function isDType(name: string): name is SafetensorsDType {
  return Object.hasOwn(ITEM_SIZES, name)
}

/** Checks a scanned header against the file it came with: sizes, no hole, no overlap, no rest. */
function checkHeader(header: Uint8Array, fileSize: number, file: string): SafetensorsHeader {
  const scanned = new HeaderScanner(header, file).scan()
  const dataOffset = 8 + header.length
  const entries: SafetensorsEntry[] = []
  for (const { name, dtype, shape, begin, end } of scanned.tensors) {
    const place = `tensor ${JSON.stringify(name)}`
    if (!isDType(dtype))
      fail(
        file,
        `${place}, dtype`,
        `one of ${Object.keys(ITEM_SIZES).join(' ')}`,
        JSON.stringify(dtype.slice(0, 40)),
      )
    if (shape.length > MAX_RANK)
      fail(file, `${place}, shape`, `at most ${MAX_RANK} dimensions`, String(shape.length))
    let bytes = ITEM_SIZES[dtype]
    let overflow = false
    for (const dimension of shape) {
      bytes *= dimension
      // a zero after an overflow does not excuse it: the product is taken left to right
      overflow ||= !Number.isSafeInteger(bytes)
    }
    if (overflow) fail(file, `${place}, shape`, 'a size below 2^53 bytes', `[${shape.join(', ')}]`)
    if (end < begin) fail(file, `${place}, data_offsets`, 'begin <= end', `[${begin}, ${end}]`)
    if (end - begin !== bytes) {
      fail(
        file,
        `${place}, data_offsets`,
        `a span of ${bytes} bytes for ${dtype} [${shape.join(', ')}]`,
        String(end - begin),
      )
    }
    entries.push({ name, dtype, shape, offset: dataOffset + begin, byteLength: bytes })
  }
  entries.sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength)
  let next = dataOffset
  for (const entry of entries) {
    if (entry.offset !== next) {
      const problem = entry.offset > next ? 'a hole before it' : 'an overlap with the tensor before it'
      fail(
        file,
        `tensor ${JSON.stringify(entry.name)}, data_offsets`,
        `begin ${next - dataOffset}`,
        `${entry.offset - dataOffset} (${problem})`,
      )
    }
    next += entry.byteLength
  }
  if (next !== fileSize) {
    fail(
      file,
      'file size',
      `${next} bytes by the header`,
      `${fileSize} (${next > fileSize ? 'truncated' : 'trailing bytes'})`,
    )
  }
  return { metadata: scanned.metadata, tensors: new Map(entries.map((entry) => [entry.name, entry])) }
}

/** One tensor's bytes, little-endian, C order. */
export interface SafetensorsTensor {
  readonly dtype: SafetensorsDType
  readonly shape: readonly number[]
  readonly data: Uint8Array
}

/**
 * Reads a safetensors file that is in memory; `data` are views into `bytes`, not aligned.
 * @param file what to call it in errors
 * @throws FormatError naming file, place, what was expected and what was found
 */
export function parseSafetensors(
  bytes: Uint8Array,
  { file = 'safetensors' }: { file?: string } = {},
): { metadata: ReadonlyMap<string, string>; tensors: ReadonlyMap<string, SafetensorsTensor> } {
  const length = headerLength(bytes, bytes.length, file)
  const header = checkHeader(bytes.subarray(8, 8 + length), bytes.length, file)
  const tensors = new Map<string, SafetensorsTensor>()
  for (const { name, dtype, shape, offset, byteLength } of header.tensors.values()) {
    tensors.set(name, { dtype, shape, data: bytes.subarray(offset, offset + byteLength) })
  }
  return { metadata: header.metadata, tensors }
}

/**
 * An open safetensors file, read by position: nothing is mapped (a file truncated under a mapping
 * ends the process), and only the tensors asked for are read.
 */
export class SafetensorsFile implements SafetensorsHeader {
  readonly path: string
  readonly metadata: ReadonlyMap<string, string>
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>
  readonly #handle: FileHandle

  private constructor(path: string, header: SafetensorsHeader, handle: FileHandle) {
    this.path = path
    this.metadata = header.metadata
    this.tensors = header.tensors
    this.#handle = handle
  }

  /**
   * Opens a file and checks its header.
   * @throws FormatError when it is not a well-formed safetensors file; the system's error when it
   *   cannot be opened
   */
  static async open(path: string): Promise<SafetensorsFile> {
    // O_NONBLOCK: opening a FIFO would wait for a writer
    const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
    try {
      const stat = await handle.stat()
      if (!stat.isFile())
        fail(path, 'file type', 'a regular file', stat.isFIFO() ? 'a FIFO' : 'something else')
      const prefix = new Uint8Array(8)
      await readFully(handle, prefix.subarray(0, Math.min(8, stat.size)), 0, path)
      const header = new Uint8Array(headerLength(prefix, stat.size, path))
      await readFully(handle, header, 8, path)
      return new SafetensorsFile(path, checkHeader(header, stat.size, path), handle)
    } catch (error) {
      await handle.close()
      throw error
    }
  }

  /**
   * Reads one tensor's bytes.
   * @param target where to; its length must be the tensor's. Default: fresh memory
   * @throws ConfigError for a name the file lacks or a target of another length; FormatError when
   *   the file has become shorter since it was opened
   */
  async read(name: string, target?: Uint8Array): Promise<Uint8Array> {
    const entry = this.tensors.get(name)
    if (entry === undefined) throw new ConfigError(`${this.path}: no tensor named ${JSON.stringify(name)}`)
    const bytes = target ?? new Uint8Array(entry.byteLength)
    if (bytes.length !== entry.byteLength) {
      throw new ConfigError(
        `${this.path}: ${name} has ${entry.byteLength} bytes, received a target of ${bytes.length}`,
      )
    }
    await readFully(this.#handle, bytes, entry.offset, this.path)
    return bytes
  }

  /**
   * Reads a part of a tensor's bytes, from byte `begin` of them, until `target` is full.
   * @throws ConfigError for a name or a place that the file lacks; FormatError when it has become shorter
   */
  async readPart(name: string, begin: number, target: Uint8Array): Promise<void> {
    const entry = this.tensors.get(name)
    if (entry === undefined || begin < 0 || begin + target.length > entry.byteLength) {
      throw new ConfigError(`${this.path}: ${JSON.stringify(name)} has no ${target.length} bytes at ${begin}`)
    }
    await readFully(this.#handle, target, entry.offset + begin, this.path)
  }

  async close(): Promise<void> {
    await this.#handle.close()
  }
}

async function readFully(handle: FileHandle, bytes: Uint8Array, offset: number, path: string): Promise<void> {
  let done = 0
  while (done < bytes.length) {
    // Linux transfers at most 0x7ffff000 bytes a call
    const wanted = Math.min(bytes.length - done, 1 << 30)
    const { bytesRead } = await handle.read(bytes, done, wanted, offset + done)
    if (bytesRead === 0)
      fail(path, `byte ${offset + done}`, `${bytes.length - done} more bytes`, 'the end of the file')
    done += bytesRead
  }
}
