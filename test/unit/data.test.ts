// Byte tokens, windows, random sequences.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { decodeBytes, randomSource, randomWindows, readByteTokens, windowsAt } from '../../lib/data/bytes.ts'

test('files become bytes with a zero after each', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fuselm-data-'))
  writeFileSync(join(folder, 'a'), 'aé')
  writeFileSync(join(folder, 'b'), 'xyz')
  const files = [join(folder, 'a'), join(folder, 'b')]
  expect([...(await readByteTokens(files))]).toEqual([97, 0xc3, 0xa9, 0, 120, 121, 122, 0])
  expect([...(await readByteTokens(files, { maxBytes: 2 }))]).toEqual([97, 0xc3, 0])
  rmSync(folder, { recursive: true })
  expect(decodeBytes([97, 0xc3, 0xa9, 0xc3])).toBe('aé\ufffd')
})

test('windows start where they should, and cover every place', () => {
  const tokens = Uint8Array.from({ length: 10 }, (_, i) => i)
  expect([...windowsAt(tokens, [0, 7], 3)]).toEqual([0, 1, 2, 7, 8, 9])
  const starts = new Set<number>()
  const random = randomSource(3)
  for (let i = 0; i < 200; i++) {
    const ids = randomWindows(tokens, { batch: 1, length: 4, random })
    expect(ids[3]).toBe((ids[0] ?? 0) + 3)
    starts.add(ids[0] ?? -1)
  }
  expect([...starts].sort()).toEqual([0, 1, 2, 3, 4, 5, 6])
  expect(() => randomWindows(tokens, { batch: 1, length: 11, random })).toThrow(/fewer than one row/)
})

test('random sequences repeat by seed', () => {
  const take = (seed: number) => Array.from({ length: 5 }, randomSource(seed))
  expect(take(1)).toEqual(take(1))
  expect(take(1)).not.toEqual(take(2))
})
