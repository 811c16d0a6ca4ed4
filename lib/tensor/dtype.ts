// Element types. The codes are part of the command format (native/core/dtype.h holds the same table).

export type DType = 'f32' | 'bf16' | 'f64' | 'i32' | 'u32' | 'i8' | 'u8' | 'u16'

export const dtypeCodes: Readonly<Record<DType, number>> = {
  f32: 1,
  bf16: 2,
  f64: 3,
  i32: 4,
  u32: 5,
  i8: 6,
  u8: 7,
  u16: 8,
}

/** Bytes per element. */
export const itemSizes: Readonly<Record<DType, number>> = {
  f32: 4,
  bf16: 2,
  f64: 8,
  i32: 4,
  u32: 4,
  i8: 1,
  u8: 1,
  u16: 2,
}

export const dtypes = Object.keys(dtypeCodes) as readonly DType[]

export function isFloat(dtype: DType): boolean {
  return dtypeCodes[dtype] <= 3
}

/** The dtype of a leaf's gradient: float32, or float64 for float64 leaves. */
export function gradientDType(dtype: DType): DType {
  return dtype === 'f64' ? 'f64' : 'f32'
}

/** What the values of a tensor are read into: its own bits, except that bf16 widens to float32. */
export type TensorData =
  | Float32Array
  | Float64Array
  | Int32Array
  | Uint32Array
  | Int8Array
  | Uint8Array
  | Uint16Array

const scratchF32 = new Float32Array(1)
const scratchU32 = new Uint32Array(scratchF32.buffer)

/** bf16 bits of a number: round to nearest even, a NaN stays a NaN (as `bf16` in native/core/dtype.h). */
export function toBf16Bits(value: number): number {
  scratchF32[0] = value
  const u = scratchU32[0] ?? 0
  if ((u & 0x7fffffff) > 0x7f800000) return (u >>> 16) | 0x40
  return ((u + 0x7fff + ((u >>> 16) & 1)) >>> 16) & 0xffff
}

export function fromBf16Bits(bits: number): number {
  scratchU32[0] = bits << 16
  return scratchF32[0] ?? 0
}

/** The bytes of `values` in `dtype`, little-endian, ready to be written to a storage. */
export function encodeValues(values: ArrayLike<number>, dtype: DType): Uint8Array {
  const typed = encodeTyped(values, dtype)
  return new Uint8Array(typed.buffer, typed.byteOffset, typed.byteLength)
}

function encodeTyped(values: ArrayLike<number>, dtype: DType): TensorData {
  switch (dtype) {
    case 'f32':
      return values instanceof Float32Array ? values : Float32Array.from(values)
    case 'f64':
      return values instanceof Float64Array ? values : Float64Array.from(values)
    case 'i32':
      return values instanceof Int32Array ? values : Int32Array.from(values)
    case 'u32':
      return values instanceof Uint32Array ? values : Uint32Array.from(values)
    case 'i8':
      return values instanceof Int8Array ? values : Int8Array.from(values)
    case 'u8':
      return values instanceof Uint8Array ? values : Uint8Array.from(values)
    case 'u16':
      return values instanceof Uint16Array ? values : Uint16Array.from(values)
    case 'bf16': {
      const bits = new Uint16Array(values.length)
      for (let i = 0; i < bits.length; i++) bits[i] = toBf16Bits(values[i] ?? 0)
      return bits
    }
    default:
      throw new TypeError(`unknown dtype ${String(dtype satisfies never)}`)
  }
}

/** The inverse of `encodeValues`; `bytes` must own its buffer (offset 0). bf16 becomes float32. */
export function decodeValues(buffer: ArrayBuffer, dtype: DType): TensorData {
  switch (dtype) {
    case 'f32':
      return new Float32Array(buffer)
    case 'f64':
      return new Float64Array(buffer)
    case 'i32':
      return new Int32Array(buffer)
    case 'u32':
      return new Uint32Array(buffer)
    case 'i8':
      return new Int8Array(buffer)
    case 'u8':
      return new Uint8Array(buffer)
    case 'u16':
      return new Uint16Array(buffer)
    case 'bf16': {
      const bits = new Uint16Array(buffer)
      const words = new Uint32Array(bits.length)
      for (let i = 0; i < bits.length; i++) words[i] = (bits[i] ?? 0) << 16
      return new Float32Array(words.buffer)
    }
    default:
      throw new TypeError(`unknown dtype ${String(dtype satisfies never)}`)
  }
}
