// Tensors to and from safetensors files.

import { contiguous } from '../ops/copy.ts'
import { ConfigError, FormatError } from '../runtime/errors.ts'
import { itemSizes } from '../tensor/dtype.ts'
import { noGrad } from '../tensor/mode.ts'
import { scope } from '../tensor/scope.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { type SafetensorsEntry, SafetensorsFile } from './safetensors.ts'
import { type SafetensorsInput, writeSafetensors } from './safetensors-write.ts'
import { converts, FILE_DTYPES, Uploader } from './upload.ts'

const PART_BYTES = 4 * 2 ** 20
const PARTS_AHEAD = 4

/**
 * Reads tensors in parts of a few megabytes, some of them ahead, into memory that is used again: saving a
 * model takes no memory of its size, and no allocation that holds up the event loop.
 */
export class PartReader {
  readonly #free: ArrayBuffer[] = []

  /**
   * The bytes of a tensor as it lies on its device, row by row, once all work before has run. A part is
   * valid until the next is asked for.
   * @throws ConfigError when the tensor is written to meanwhile
   */
  async *read(tensor: Tensor): AsyncGenerator<Uint8Array> {
    tensor.check('PartReader.read')
    const { version } = tensor.storage
    const dense = tensor.isContiguous ? tensor : noGrad(() => scope(() => contiguous(tensor)))
    const size = itemSizes[tensor.dtype]
    const [begin, end] = [dense.offset * size, (dense.offset + dense.size) * size]
    const reads: { bytes: number; done: Promise<ArrayBuffer> }[] = []
    let next = begin
    const request = (): void => {
      const bytes = Math.min(PART_BYTES, end - next)
      const memory = this.#free.pop() ?? new ArrayBuffer(PART_BYTES)
      const done = dense.storage.readQueue.read(dense.storage, next, bytes, memory)
      done.catch(() => undefined) // it is thrown where the part is awaited
      reads.push({ bytes, done })
      next += bytes
    }
    try {
      while (next < end && reads.length < PARTS_AHEAD) request()
      for (let read = reads.shift(); read !== undefined; read = reads.shift()) {
        const memory = await read.done
        if (tensor.storage.version !== version) {
          throw new ConfigError('a tensor changed while it was being read; save between two steps')
        }
        yield new Uint8Array(memory, 0, read.bytes)
        this.#free.push(memory)
        if (next < end) request()
      }
    } finally {
      if (dense !== tensor) dense.dispose()
    }
  }
}

/**
 * Overwrites a contiguous tensor with bytes of its own dtype; `bytes` must not be touched afterwards.
 * @throws ConfigError for another length, or a tensor that is not contiguous
 */
export function writeBytes(tensor: Tensor, bytes: Uint8Array): void {
  tensor.check('writeBytes')
  const size = itemSizes[tensor.dtype]
  if (!tensor.isContiguous || bytes.length !== tensor.size * size) {
    throw new ConfigError(
      `writeBytes: ${tensor.dtype}[${tensor.shape}] must be contiguous and takes ${tensor.size * size} bytes, ` +
        `received ${bytes.length}`,
    )
  }
  tensor.device.activeQueue.write(tensor.storage, tensor.offset * size, bytes, true)
}

/**
 * Saves tensors under their names, a few megabytes at a time in memory; the file appears whole or not at all.
 * @throws what made a tensor fail, or the file system
 */
export async function saveTensors(
  path: string,
  tensors: Iterable<readonly [string, Tensor]>,
  options: { metadata?: Readonly<Record<string, string>> } = {},
): Promise<void> {
  const inputs: SafetensorsInput[] = []
  const reader = new PartReader()
  for (const [name, tensor] of tensors) {
    inputs.push({
      name,
      dtype: FILE_DTYPES[tensor.dtype],
      shape: tensor.shape,
      data: () => reader.read(tensor),
    })
  }
  await writeSafetensors(path, inputs, options)
}

/** How `loadTensors` treats names. */
export interface LoadOptions {
  /** Every tensor of the file must be wanted. Default true. */
  readonly strict?: boolean
  /** Names in the file that are known and not wanted (a tied `lm_head.weight`). */
  readonly ignore?: (name: string) => boolean
}

/**
 * Overwrites tensors with those of the same name in a file, converting between F32, BF16, F16 and
 * F64. Nothing is written before all names and shapes have been checked.
 * @throws FormatError for a malformed file, a missing or (when strict) surplus tensor, another
 *   shape, or a dtype that does not convert
 */
export async function loadTensors(
  path: string,
  tensors: ReadonlyMap<string, Tensor>,
  { strict = true, ignore = () => false }: LoadOptions = {},
): Promise<void> {
  const file = await SafetensorsFile.open(path)
  try {
    for (const [name, tensor] of tensors) checkEntry(path, name, file.tensors.get(name), tensor)
    const surplus = [...file.tensors.keys()].find((name) => !tensors.has(name) && !ignore(name))
    if (strict && surplus !== undefined) {
      throw new FormatError(
        `${path}: expected no tensor ${JSON.stringify(surplus)}, the model has none of that name`,
      )
    }
    const uploader = new Uploader()
    for (const [name, tensor] of tensors) {
      const { dtype } = file.tensors.get(name) as SafetensorsEntry
      await uploader.load(tensor, { dtype, read: (begin, part) => file.readPart(name, begin, part) })
    }
  } finally {
    await file.close()
  }
}

function checkEntry(path: string, name: string, entry: SafetensorsEntry | undefined, tensor: Tensor): void {
  const place = `${path}, tensor ${JSON.stringify(name)}`
  if (entry === undefined)
    throw new FormatError(`${place}: expected ${tensor.dtype} [${tensor.shape}], found none`)
  if (String(entry.shape) !== String(tensor.shape)) {
    throw new FormatError(`${place}: expected shape [${tensor.shape}], found [${entry.shape}]`)
  }
  if (!converts(entry.dtype, tensor.dtype)) {
    throw new FormatError(`${place}: expected ${FILE_DTYPES[tensor.dtype]}, found ${entry.dtype}`)
  }
}
