// Tensors to and from safetensors files.

import { contiguous } from '../ops/copy.ts'
import { ConfigError, FormatError } from '../runtime/errors.ts'
import { type DType, fromBf16Bits, itemSizes, toBf16Bits } from '../tensor/dtype.ts'
import { noGrad } from '../tensor/mode.ts'
import type { Tensor } from '../tensor/tensor.ts'
import { type SafetensorsDType, type SafetensorsEntry, SafetensorsFile } from './safetensors.ts'
import { type SafetensorsInput, writeSafetensors } from './safetensors-write.ts'

const NAMES: Readonly<Record<DType, SafetensorsDType>> = {
  f32: 'F32',
  bf16: 'BF16',
  f64: 'F64',
  i32: 'I32',
  u32: 'U32',
  i8: 'I8',
  u8: 'U8',
  u16: 'U16',
}

/** The bytes of a tensor as it lies on its device, row by row, once all work before has run. */
export async function readBytes(tensor: Tensor): Promise<Uint8Array> {
  tensor.check('readBytes')
  const dense = tensor.isContiguous ? tensor : noGrad(() => contiguous(tensor))
  const size = itemSizes[tensor.dtype]
  const done = dense.storage.readQueue.read(dense.storage, dense.offset * size, dense.size * size)
  if (dense !== tensor) dense.dispose()
  return new Uint8Array(await done)
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
 * Saves tensors under their names, one at a time in memory; the file appears whole or not at all.
 * @throws what made a tensor fail, or the file system
 */
export async function saveTensors(
  path: string,
  tensors: Iterable<readonly [string, Tensor]>,
  options: { metadata?: Readonly<Record<string, string>> } = {},
): Promise<void> {
  const inputs: SafetensorsInput[] = []
  for (const [name, tensor] of tensors) {
    inputs.push({ name, dtype: NAMES[tensor.dtype], shape: tensor.shape, data: () => readBytes(tensor) })
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
    for (const [name, tensor] of tensors) {
      const { dtype } = file.tensors.get(name) as SafetensorsEntry
      const bytes = await file.read(name)
      writeBytes(tensor, dtype === NAMES[tensor.dtype] ? bytes : convert(bytes, dtype, tensor.dtype))
      await tensor.device.activeQueue.ready()
    }
  } finally {
    await file.close()
  }
}

const CONVERTIBLE: readonly string[] = ['F32', 'BF16', 'F16', 'F64']

function checkEntry(path: string, name: string, entry: SafetensorsEntry | undefined, tensor: Tensor): void {
  const place = `${path}, tensor ${JSON.stringify(name)}`
  if (entry === undefined)
    throw new FormatError(`${place}: expected ${tensor.dtype} [${tensor.shape}], found none`)
  if (String(entry.shape) !== String(tensor.shape)) {
    throw new FormatError(`${place}: expected shape [${tensor.shape}], found [${entry.shape}]`)
  }
  const wanted = NAMES[tensor.dtype]
  const fits =
    entry.dtype === wanted ||
    (CONVERTIBLE.includes(entry.dtype) && (tensor.dtype === 'f32' || tensor.dtype === 'bf16'))
  if (!fits) throw new FormatError(`${place}: expected ${wanted}, found ${entry.dtype}`)
}

/** f32 or bf16 bytes of values of another floating dtype. */
function convert(bytes: Uint8Array, from: SafetensorsDType, to: DType): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const read =
    from === 'F32'
      ? (i: number) => view.getFloat32(4 * i, true)
      : from === 'F64'
        ? (i: number) => view.getFloat64(8 * i, true)
        : from === 'F16'
          ? (i: number) => fromHalf(view.getUint16(2 * i, true))
          : (i: number) => fromBf16Bits(view.getUint16(2 * i, true))
  const count = bytes.length / (from === 'F64' ? 8 : from === 'F32' ? 4 : 2)
  if (to === 'bf16') {
    const bits = new Uint16Array(count)
    for (let i = 0; i < count; i++) bits[i] = toBf16Bits(read(i))
    return new Uint8Array(bits.buffer)
  }
  const values = new Float32Array(count)
  for (let i = 0; i < count; i++) values[i] = read(i)
  return new Uint8Array(values.buffer)
}

/** IEEE 754 half precision. */
function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return sign * (1024 + fraction) * 2 ** (exponent - 25)
}
