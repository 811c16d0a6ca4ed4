import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { page } from '../../bench/report/page.ts'
import { parseResult, readResults } from '../../bench/report/results.ts'

const limits = { f32Gflops: 200, bf16Gflops: 400, int8Gops: 800, readGBs: 30, copyGBs: 27, writeGBs: 40 }
const row = {
  kernel: 'linear',
  shape: '8x8x8',
  dtype: 'bf16',
  ms: 2,
  iqrMs: 0.1,
  gflops: 100,
  gigabytesPerSecond: 2,
  shareOfLimit: 0.25,
  limit: 'arithmetic',
  peer: 'eager',
  peerMs: 1,
  peerIqrMs: 0.1,
  ratio: 0.5,
}
const head = { bench: 'gemm', commit: 'abc', cpu: 'a <b> "cpu"', isa: 'avx2', threads: 2 }
const result = { ...head, date: '2026-01-01T00:00:00Z', peer: 'torch 2', limits, rows: [row] }

let folder = ''
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-report-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

function write(name: string, value: unknown): void {
  writeFileSync(join(folder, name), typeof value === 'string' ? value : JSON.stringify(value))
}

test.each([
  ['a row without its time', { ...result, rows: [{ ...row, ms: undefined }] }, /rows\[0\]: ms must be/],
  ['a limit of zero', { ...result, limits: { ...limits, copyGBs: 0 } }, /copyGBs must be a number above 0/],
  ['a text for a number', { ...result, threads: '2' }, /threads must be/],
  ['no date', { ...result, date: 'yesterday' }, /date yesterday/],
  ['no object', [null], /bench must be/],
  ['rows that are no list', { ...result, rows: {} }, /rows must be a list/],
])('refuses %s', (_, value, message) => {
  expect(() => parseResult(value, 'file')).toThrow(message)
})

test('leaves alone what it does not draw', () => {
  expect(parseResult({ ...head, date: result.date, rows: [] }, 'file')).toBeNull()
})

test('keeps the later run of a row, and the other rows of its commit', async () => {
  const other = { ...row, shape: '9x9x9' }
  write('a.json', { ...result, rows: [row, other] })
  write('b.json', { ...result, date: '2026-01-02T00:00:00Z', rows: [{ ...row, ms: 7 }] })
  write('c.json', { ...result, date: '2025-01-02T00:00:00Z', isa: 'avx512' })
  write('broken.json', '{')
  const { results, problems } = await readResults(folder)
  expect(problems).toHaveLength(1)
  expect(results.map(({ isa }) => isa).sort()).toEqual(['avx2', 'avx512'])
  const avx2 = results.find(({ isa }) => isa === 'avx2')
  expect(avx2?.rows.map((r) => ('ms' in r ? [r.shape, r.ms] : []))).toEqual([
    ['8x8x8', 7],
    ['9x9x9', 2],
  ])
})

test('a page states what was slower, and takes no markup from a file', () => {
  const parsed = parseResult(result, 'file')
  const html = page(parsed === null ? [] : [parsed], ['<script>'])
  expect(html).toContain('0.500x torch, eager')
  expect(html).toContain('class="slower"')
  expect(html).toContain('a &lt;b&gt; &quot;cpu&quot;')
  expect(html).not.toContain('<script>')
  expect(html).not.toMatch(/(src|href)=/)
})
