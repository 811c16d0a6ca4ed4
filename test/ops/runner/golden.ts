// Reads test/golden/<op>.safetensors, as written by test/golden/golden.py. A reader of its own, so that
// the library's cannot hide its faults from the matrix.

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

export type GoldenTensor = {
  readonly shape: readonly number[]
  readonly integer: boolean
  readonly values: Float64Array
}

export type GoldenCase = {
  readonly name: string
  readonly attributes: Readonly<Record<string, number | boolean>>
  readonly inputs: ReadonlyMap<string, GoldenTensor>
  readonly outputs: ReadonlyMap<string, GoldenTensor>
  readonly dy: ReadonlyMap<string, GoldenTensor>
  readonly grads: ReadonlyMap<string, GoldenTensor>
  /** PyTorch's largest absolute error in bf16, by 'out.<output>' or 'grad.<input>'. */
  readonly bf16Error: Readonly<Record<string, number>>
  /** Inputs that are not laid out row-major. */
  readonly strides: Readonly<Record<string, 'padded' | 'transposed'>>
}

type Entry = { dtype: string; shape: number[]; data_offsets: [number, number] }

/** All tensors of a safetensors file (F32, F64, I32, BF16) in float64, and its metadata. */
export function readSafetensors(path: string): {
  tensors: Map<string, GoldenTensor>
  metadata: Map<string, string>
} {
  const bytes = readFileSync(path)
  const headerLength = Number(bytes.readBigUInt64LE(0))
  const header: unknown = JSON.parse(bytes.toString('utf8', 8, 8 + headerLength))
  const tensors = new Map<string, GoldenTensor>()
  const metadata = new Map<string, string>()
  for (const [name, value] of Object.entries(header as Record<string, unknown>)) {
    if (name === '__metadata__') {
      for (const [key, text] of Object.entries(value as Record<string, string>)) metadata.set(key, text)
      continue
    }
    const { dtype, shape, data_offsets } = value as Entry
    const [begin, end] = data_offsets
    const data = bytes.subarray(8 + headerLength + begin, 8 + headerLength + end)
    tensors.set(name, {
      shape,
      integer: dtype === 'I32' || dtype === 'I8',
      values: decode(data, dtype, `${path}: ${name}`),
    })
  }
  return { tensors, metadata }
}

function decode(data: Buffer, dtype: string, where: string): Float64Array {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength)
  const sizes: Record<string, number> = { F32: 4, F64: 8, I32: 4, BF16: 2, I8: 1 }
  const size = sizes[dtype]
  if (size === undefined) throw new Error(`${where}: a golden may not hold ${dtype}`)
  const f32 = new Float32Array(1)
  const u32 = new Uint32Array(f32.buffer)
  return Float64Array.from({ length: data.byteLength / size }, (_, i) => {
    if (dtype === 'F64') return view.getFloat64(8 * i, true)
    if (dtype === 'F32') return view.getFloat32(4 * i, true)
    if (dtype === 'I32') return view.getInt32(4 * i, true)
    if (dtype === 'I8') return view.getInt8(i)
    u32[0] = view.getUint16(2 * i, true) << 16
    return f32[0] ?? 0
  })
}

/** The golden cases of an op; none when it has no golden file. */
export function readGoldens(directory: string, op: string): GoldenCase[] {
  const path = join(directory, `${op}.safetensors`)
  if (!existsSync(path)) return []
  const { tensors, metadata } = readSafetensors(path)
  const cases: GoldenCase[] = []
  for (const [name, text] of metadata) {
    if (name.endsWith('.bf16_error') || name.endsWith('.strides')) continue
    const part = (kind: string): Map<string, GoldenTensor> => {
      const prefix = `${name}.${kind}.`
      return new Map(
        [...tensors].filter(([k]) => k.startsWith(prefix)).map(([k, t]) => [k.slice(prefix.length), t]),
      )
    }
    const outputs = part('out')
    if (outputs.size === 0) continue // laid out in its own way, for a test of its own
    cases.push({
      name,
      attributes: JSON.parse(text) as Record<string, number | boolean>,
      inputs: part('in'),
      outputs,
      dy: part('dy'),
      grads: part('grad'),
      bf16Error: JSON.parse(metadata.get(`${name}.bf16_error`) ?? '{}') as GoldenCase['bf16Error'],
      strides: JSON.parse(metadata.get(`${name}.strides`) ?? '{}') as GoldenCase['strides'],
    })
  }
  return cases
}
