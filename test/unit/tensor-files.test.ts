// Tensors to and from safetensors files: conversions, strictness, and that a refusal changes nothing.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  Device,
  FormatError,
  loadTensors,
  saveTensors,
  tensor,
  writeSafetensors,
  zeros,
} from '../../lib/index.ts'
import { Uploader } from '../../lib/io/upload.ts'

let device: Device
let folder: string
beforeAll(() => {
  device = Device.open().makeDefault()
  folder = mkdtempSync(join(tmpdir(), 'fuselm-tensors-'))
})
afterAll(() => {
  device.close()
  rmSync(folder, { recursive: true })
})

const bytes = (array: ArrayBufferView): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength)

test('every dtype comes back as it was, views included', async () => {
  const path = join(folder, 'all.safetensors')
  const values = [1, 0, 3, 250]
  const dtypes = ['f32', 'bf16', 'f64', 'i32', 'u32', 'i8', 'u8', 'u16'] as const
  const made = dtypes.map(
    (dtype) =>
      [
        dtype,
        tensor(
          values.map((v) => (dtype === 'i8' ? v / 2 : v)),
          { shape: [2, 2], dtype },
        ),
      ] as const,
  )
  const view = made[0]?.[1].transpose() ?? zeros([2, 2])
  await saveTensors(path, [...made, ['view', view]])
  const targets = new Map(dtypes.map((dtype) => [dtype as string, zeros([2, 2], { dtype })]))
  targets.set('view', zeros([2, 2]))
  await loadTensors(path, targets)
  for (const [dtype, source] of made) {
    expect(await targets.get(dtype)?.toArray(), dtype).toEqual(await source.toArray())
  }
  expect([...((await targets.get('view')?.toArray()) ?? [])]).toEqual([1, 3, 0, 250])
})

test('floats of other dtypes are converted, halves with their denormals and infinities', async () => {
  const path = join(folder, 'floats.safetensors')
  await writeSafetensors(path, [
    {
      name: 'f16',
      dtype: 'F16',
      shape: [6],
      data: bytes(Uint16Array.of(0x3c00, 0xc000, 0x0001, 0x7c00, 0x3555, 0x8000)),
    },
    { name: 'bf16', dtype: 'BF16', shape: [2], data: bytes(Uint16Array.of(0x3f80, 0xc049)) },
    { name: 'f64', dtype: 'F64', shape: [2], data: bytes(Float64Array.of(Math.PI, -0.1)) },
  ])
  const f16 = zeros([6])
  const f64 = zeros([2], { dtype: 'bf16' })
  const bf16 = zeros([2])
  await loadTensors(
    path,
    new Map([
      ['f16', f16],
      ['f64', f64],
      ['bf16', bf16],
    ]),
  )
  const third = 1365 * 2 ** -12
  expect([...(await f16.toArray())]).toEqual([1, -2, 2 ** -24, Number.POSITIVE_INFINITY, third, -0])
  expect([...(await bf16.toArray())]).toEqual([1, -3.140625])
  expect([...(await f64.toArray())]).toEqual([3.140625, -0.10009765625])
})

test('what does not fit is refused before anything is written', async () => {
  const path = join(folder, 'model.safetensors')
  await saveTensors(path, [
    ['a', tensor([1, 2])],
    ['b', tensor([3, 4], { dtype: 'i32' })],
  ])
  const a = zeros([2])
  const refused = (others: Map<string, ReturnType<typeof zeros>>, message: RegExp) =>
    expect(loadTensors(path, new Map([['a', a], ...others]))).rejects.toThrow(message)
  await refused(new Map(), /expected no tensor "b"/)
  await refused(new Map([['c', zeros([2])]]), /tensor "c": expected f32 \[2\], found none/)
  await refused(new Map([['b', zeros([3], { dtype: 'i32' })]]), /expected shape \[3\], found \[2\]/)
  await refused(new Map([['b', zeros([2])]]), /expected F32, found I32/)
  expect([...(await a.toArray())]).toEqual([0, 0])
  await expect(loadTensors(path, new Map([['c', a]]))).rejects.toBeInstanceOf(FormatError)
  await loadTensors(path, new Map([['a', a]]), { ignore: (name) => name === 'b' })
  expect([...(await a.toArray())]).toEqual([1, 2])
})

test('tensors of many parts: as they are, converted, transposed', async () => {
  const path = join(folder, 'parts.safetensors')
  const [rows, columns] = [1501, 1003] // no part ends where a row does
  const values = Float32Array.from({ length: rows * columns }, (_, i) => (i % 2039) / 8 - 100)
  await writeSafetensors(path, [
    { name: 'f32', dtype: 'F32', shape: [rows, columns], data: bytes(values) },
    // 1 + i / 1024 for the lower ten bits
    {
      name: 'f16',
      dtype: 'F16',
      shape: [rows, columns],
      data: bytes(Uint16Array.from(values, (_, i) => 0x3c00 + (i & 1023))),
    },
  ])
  const same = zeros([rows, columns])
  const half = zeros([rows, columns])
  await loadTensors(
    path,
    new Map([
      ['f32', same],
      ['f16', half],
    ]),
  )
  const equal = async (found: ReturnType<typeof zeros>, expected: (i: number) => number): Promise<void> => {
    const array = await found.toArray()
    expect(array.length).toBe(rows * columns)
    expect(array.findIndex((value, i) => value !== expected(i))).toBe(-1)
  }
  await equal(same, (i) => values[i] as number)
  await equal(half, (i) => 1 + (i & 1023) / 1024)

  const file = bytes(values)
  const read = async (begin: number, part: Uint8Array): Promise<void> =>
    part.set(file.subarray(begin, begin + part.length))
  const turned = zeros([columns, rows])
  const uploader = new Uploader()
  await uploader.load(turned, { dtype: 'F32', transposed: true, read })
  await equal(turned, (i) => values[(i % rows) * columns + Math.floor(i / rows)] as number)
  // into a view, and into another dtype that holds these values
  const wide = zeros([rows, 2 * columns], { dtype: 'f64' })
  await uploader.load(wide.slice(1, columns), { dtype: 'F32', read })
  await equal(wide.slice(1, columns), (i) => values[i] as number)
  expect(await wide.slice(1, 0, columns).sum().item()).toBe(0)
  await expect(uploader.load(turned, { dtype: 'I32', read })).rejects.toThrow(/expected F32, found I32/)
})
