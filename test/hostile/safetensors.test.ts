// Hostile safetensors: every case ends in a FormatError that names the file, quickly.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseSafetensors, SafetensorsFile } from '../../lib/io/safetensors.ts'
import { writeSafetensors } from '../../lib/io/safetensors-write.ts'
import { FormatError } from '../../lib/runtime/errors.ts'

/** A file with this header text (or bytes) and this many data bytes. */
function file(header: string | Uint8Array, dataBytes = 0): Uint8Array {
  const json = typeof header === 'string' ? new TextEncoder().encode(header) : header
  const bytes = new Uint8Array(8 + json.length + dataBytes)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true)
  bytes.set(json, 8)
  return bytes
}

function lengthPrefixed(length: bigint, rest: string): Uint8Array {
  const bytes = file(rest)
  new DataView(bytes.buffer).setBigUint64(0, length, true)
  return bytes
}

const tensor = (name: string, begin: number, end: number, dtype = 'U8', shape = `[${end - begin}]`) =>
  `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":${shape},"data_offsets":[${begin},${end}]}`
const one = (dtype: string, shape: string, begin: string, end: string) =>
  `{"a":{"dtype":"${dtype}","shape":${shape},"data_offsets":[${begin},${end}]}}`
const deep = (depth: number) => `{"a":${'['.repeat(depth)}${']'.repeat(depth)}}`

const hostile: [string, Uint8Array, RegExp][] = [
  ['empty', new Uint8Array(0), /at least 8 bytes/],
  ['seven bytes', new Uint8Array(7), /at least 8 bytes/],
  ['no header', file(''), /header byte 8: expected "\{"/],
  ['header past the end', lengthPrefixed(1000n, '{}'), /header length: expected at most the 2 bytes/],
  ['header over 100 MB', lengthPrefixed(100_000_001n, '{}'), /expected at most 100000000/],
  ['header of 2^64 - 1', lengthPrefixed(2n ** 64n - 1n, '{}'), /found 18446744073709551615/],
  ['not UTF-8', file(new Uint8Array([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x7b, 0x7d, 0x7d])), /expected UTF-8/],
  ['only {', file('{'), /found the end of the header/],
  ['an array', file('[]'), /expected "\{"/],
  ['space first', file(' {}'), /expected "\{"/],
  ['null', file('null'), /expected "\{"/],
  ['byte order mark', file('\ufeff{}'), /expected "\{"/],
  ['two objects', file('{}{}'), /only spaces after/],
  ['trailing comma', file('{"__metadata__":{},}'), /expected a string/],
  ['overlap', file(`{${tensor('a', 0, 4)},${tensor('b', 2, 6)}}`, 6), /tensor "b".*overlap/],
  ['same bytes twice', file(`{${tensor('a', 0, 4)},${tensor('b', 0, 4)}}`, 4), /overlap/],
  ['hole', file(`{${tensor('a', 0, 4)},${tensor('b', 5, 8)}}`, 8), /tensor "b".*hole/],
  ['first offset not 0', file(`{${tensor('a', 1, 4)}}`, 4), /expected begin 0, found 1/],
  ['end < begin', file(one('U8', '[1]', '4', '3'), 4), /begin <= end/],
  ['trailing bytes', file(`{${tensor('a', 0, 4)}}`, 5), /trailing bytes/],
  ['two bytes short', file(`{${tensor('a', 0, 4)}}`, 2), /truncated/],
  ['shape and span differ', file(one('F32', '[2]', '0', '4'), 4), /a span of 8 bytes/],
  ['dimension past 2^53', file(one('U8', '[2,18446744073709551614]', '0', '4'), 4), /below 2\^53/],
  ['shape product overflow', file(one('U8', '[4294967296,4294967296]', '0', '0')), /a size below 2\^53/],
  ['overflow, then zero', file(one('U8', '[4294967296,4294967296,0]', '0', '0')), /a size below 2\^53/],
  ['item size overflow', file(one('F64', '[9007199254740991]', '0', '4'), 4), /a size below 2\^53/],
  ['offset 2^53 + 1', file(one('U8', '[0]', '9007199254740993', '9007199254740993')), /below 2\^53/],
  ['metadata not a string', file('{"__metadata__":{"k":1}}'), /expected a string/],
  ['metadata an array', file('{"__metadata__":[]}'), /expected "\{"/],
  ['metadata twice', file('{"__metadata__":{},"__metadata__":{}}'), /one "__metadata__"/],
  ['metadata key twice', file('{"__metadata__":{"k":"a","k":"b"}}'), /each metadata key once/],
  ['name twice', file(`{${tensor('a', 0, 4)},${tensor('a', 0, 4)}}`, 4), /each name once/],
  ['name twice, once escaped', file(`{${tensor('a', 0, 4)},${tensor('a', 0, 4).replace('a', '\\u0061')}}`, 4), /each name once/],
  ['field twice', file('{"a":{"dtype":"U8","dtype":"F32","shape":[0],"data_offsets":[0,0]}}'), /each once/],
  ['unknown field', file('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":1}}'), /found "x"/],
  ['field missing', file('{"a":{"dtype":"U8","shape":[0]}}'), /"data_offsets" of "a"/],
  ['unknown dtype', file(one('F31', '[1]', '0', '4'), 4), /dtype: expected one of .* found "F31"/],
  ['dtype from the prototype', file(one('toString', '[1]', '0', '4'), 4), /dtype: expected one of/],
  ['negative dimension', file(one('U8', '[-1]', '0', '4'), 4), /an unsigned integer, found "-1/],
  ['fractional dimension', file(one('U8', '[1.5]', '0', '4'), 4), /an unsigned integer/],
  ['exponent', file(one('U8', '[4e0]', '0', '4'), 4), /an unsigned integer/],
  ['leading zero', file(one('U8', '[04]', '0', '4'), 4), /an unsigned integer/],
  ['string dimension', file(one('U8', '["4"]', '0', '4'), 4), /an unsigned integer/],
  ['three offsets', file('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4,4]}}', 4), /two data_offsets/],
  ['rank 9', file(one('U8', '[1,1,1,1,1,1,1,1,1]', '0', '1'), 1), /at most 8 dimensions/],
  ['rank 10,000', file(one('U8', `[${'1,'.repeat(9999)}1]`, '0', '1'), 1), /at most 64 numbers/],
  ['name of 1 MB', file(`{${tensor('x'.repeat(1 << 20), 0, 4)}}`, 4), /at most 4096 bytes/],
  ['deep JSON', file(deep(1_000_000)), /expected "\{"/],
  ['lone surrogate', file(`{${tensor('a', 0, 4).replace('a', '\\ud800')}}`, 4), /well-formed Unicode/],
  ['bad escape', file(`{${tensor('a', 0, 4).replace('a', '\\x41')}}`, 4), /JSON escapes/],
  ['control character', file(`{${tensor('a', 0, 4).replace('a', '\n')}}`, 4), /control character/],
]

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-safetensors-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

async function readWhole(path: string): Promise<void> {
  const opened = await SafetensorsFile.open(path)
  try {
    for (const name of opened.tensors.keys()) await opened.read(name)
  } finally {
    await opened.close()
  }
}

/**
 * Runs `body` and checks that nothing in it is worse than linear: ten times a second of this process's
 * own time, where a scan that compares each name with each other would take minutes. (A refusal takes
 * 0.3 s on a quiet machine; how fast is not for a test to say.)
 */
async function withoutHanging(body: () => Promise<void>): Promise<void> {
  const before = process.cpuUsage()
  await body()
  const { user, system } = process.cpuUsage(before)
  expect(user + system).toBeLessThan(10e6)
}

/** What a promise throws; undefined when it does not. */
async function errorOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise
    return undefined
  } catch (error) {
    return error
  }
}

describe('refused', () => {
  test.each(hostile)('%s', async (name, bytes, message) => {
    const path = join(folder, `${name.replace(/\W/g, '_')}.safetensors`)
    writeFileSync(path, bytes)
    let error: unknown
    await withoutHanging(async () => {
      error = await errorOf(readWhole(path))
    })
    expect(error).toBeInstanceOf(FormatError)
    expect(error).toMatchObject({ code: 'ERR_FORMAT', message: expect.stringMatching(message) })
    expect((error as FormatError).message).toContain(path)
    expect((error as FormatError).message.length).toBeLessThan(8192)
    expect(() => parseSafetensors(bytes)).toThrow(FormatError)
  })

  test('a million tensors, without hanging and within 64 MiB beyond the file', async () => {
    const entries = Array.from({ length: 1_000_000 }, (_, i) => tensor(`t${i}`, 0, 0))
    const path = join(folder, 'million.safetensors')
    writeFileSync(path, file(`{${entries.join(',')}}`))
    const before = process.memoryUsage().rss
    await withoutHanging(() => expect(readWhole(path)).rejects.toThrow(/at most 100000 tensors/))
    expect(process.memoryUsage().rss - before).toBeLessThan(64e6 * 1.05 + (await readFile(path)).length)
  })

  test('a FIFO, without waiting for a writer', async () => {
    const path = join(folder, 'fifo.safetensors')
    execFileSync('mkfifo', [path])
    await expect(SafetensorsFile.open(path)).rejects.toThrow(/regular file, found a FIFO/)
  })

  test('a file truncated after it was opened', async () => {
    const path = join(folder, 'shrinks.safetensors')
    writeFileSync(path, file(`{${tensor('a', 0, 4096)}}`, 4096))
    const opened = await SafetensorsFile.open(path)
    truncateSync(path, 1000)
    await expect(opened.read('a')).rejects.toThrow(FormatError)
    await opened.close()
  })
})

describe('loaded', () => {
  test('scalar, zero-size tensor, padded header, __proto__, escapes', () => {
    const header = `{"__metadata__":{"format":"pt","__proto__":"x"}, ${tensor('s', 0, 4, 'F32', '[]')},
      ${tensor('empty', 4, 4, 'F32', '[0, 3]')},${tensor('__proto__', 4, 6, 'BF16', '[1]')},
      ${tensor('ä"\n', 6, 7)}}   `
    const parsed = parseSafetensors(file(header, 7))
    expect([...parsed.tensors.keys()]).toEqual(['s', 'empty', '__proto__', 'ä"\n'])
    expect(parsed.tensors.get('s')).toMatchObject({ dtype: 'F32', shape: [] })
    expect(parsed.tensors.get('empty')?.data.length).toBe(0)
    expect(parsed.metadata.get('__proto__')).toBe('x')
  })

  test('no tensors', () => {
    expect(parseSafetensors(file('{}')).tensors.size).toBe(0)
  })
})

/** A valid file of 4 KB with several tensors. */
async function valid(path: string): Promise<Uint8Array> {
  const bytes = Uint8Array.from({ length: 2048 }, (_, i) => (i * 37) & 255)
  await writeSafetensors(path, [
    { name: 'w', dtype: 'F32', shape: [16, 16], data: bytes.subarray(0, 1024) },
    { name: 'h', dtype: 'BF16', shape: [256], data: () => Promise.resolve(bytes.subarray(1024, 1536)) },
    { name: 'q', dtype: 'I8', shape: [2, 0], data: new Uint8Array(0) },
    ...Array.from({ length: 16 }, (_, i) => ({
      name: `layers.${i}.weight`, dtype: 'F32' as const, shape: [8, 4], data: bytes.subarray(i * 64, i * 64 + 128),
    })),
  ])
  return readFile(path)
}

describe('mutated', () => {
  test('written files read back', async () => {
    const path = join(folder, 'valid.safetensors')
    const bytes = await valid(path)
    expect(bytes.length).toBeGreaterThan(4096)
    const opened = await SafetensorsFile.open(path)
    expect(opened.metadata).toEqual(new Map([['format', 'pt']]))
    expect(opened.tensors.size).toBe(19)
    for (const [name, entry] of opened.tensors) {
      expect(entry.offset % 8 === 0 || entry.dtype !== 'F32').toBe(true)
      expect(await opened.read(name)).toEqual(new Uint8Array(parseSafetensors(bytes).tensors.get(name)?.data ?? []))
    }
    expect((await opened.read('h'))[3]).toBe((1027 * 37) & 255)
    await opened.close()
    expect(readdirSync(folder).filter((entry) => entry.endsWith('.tmp'))).toEqual([])
  })

  test('truncated at every byte', async () => {
    const bytes = await valid(join(folder, 'truncate.safetensors'))
    for (let length = 0; length < bytes.length; length++) {
      expect(() => parseSafetensors(bytes.subarray(0, length)), `at ${length}`).toThrow(FormatError)
    }
  })

  test('10,000 bit flips: a FormatError, or tensors inside the file', async () => {
    const bytes = new Uint8Array(await valid(join(folder, 'flip.safetensors')))
    const headerEnd = bytes.length - 3584 // flips of data bytes cannot matter
    let refused = 0
    let state = 12345
    for (let i = 0; i < 10_000; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      const bit = state % (headerEnd * 8)
      const mutated = bytes.slice()
      mutated[bit >> 3] = (mutated[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      try {
        for (const entry of parseSafetensors(mutated).tensors.values()) {
          expect(entry.data.length).toBeLessThanOrEqual(bytes.length)
        }
      } catch (error) {
        expect(error).toBeInstanceOf(FormatError)
        refused++
      }
    }
    expect(refused).toBeGreaterThan(5000) // flips inside names and metadata leave a valid file
  })
})

describe('writing', () => {
  test('refuses what cannot be read back, and leaves the old file', async () => {
    const path = join(folder, 'kept.safetensors')
    await writeSafetensors(path, [{ name: 'a', dtype: 'U8', shape: [1], data: new Uint8Array([7]) }])
    const bad = [
      { name: '__metadata__', dtype: 'U8', shape: [0], data: new Uint8Array(0) },
      { name: '\ud800', dtype: 'U8', shape: [0], data: new Uint8Array(0) },
      { name: 'short', dtype: 'F32', shape: [2], data: new Uint8Array(4) },
      { name: 'late', dtype: 'F32', shape: [2], data: () => Promise.resolve(new Uint8Array(4)) },
      { name: 'throws', dtype: 'F32', shape: [2], data: () => Promise.reject(new Error('device lost')) },
    ] as const
    for (const input of bad) await expect(writeSafetensors(path, [input])).rejects.toThrow()
    expect(parseSafetensors(await readFile(path)).tensors.get('a')?.data[0]).toBe(7)
    expect(readdirSync(folder).filter((entry) => entry.endsWith('.tmp'))).toEqual([])
  })

  test('names like __proto__', async () => {
    const path = join(folder, 'proto.safetensors')
    await writeSafetensors(path, [{ name: '__proto__', dtype: 'U8', shape: [], data: new Uint8Array([9]) }])
    expect(parseSafetensors(await readFile(path)).tensors.get('__proto__')?.data[0]).toBe(9)
  })
})
