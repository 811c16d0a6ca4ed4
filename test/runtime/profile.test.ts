import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { summarise } from '../../lib/runtime/profile.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))

test('FUSELM_PROFILE writes a Chrome trace and a table by op', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fuselm-profile-'))
  try {
    const file = join(folder, 'trace.json')
    const script = `
      import { Device, ops, tensor } from 'fuselm'
      const x = tensor([1, 2, 3, 4], { shape: [2, 2], dtype: 'f32' })
      Device.default().queue.mark(5)
      const y = ops.matmul(x, x)
      await y.toArray()`
    const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      cwd: root,
      encoding: 'utf8',
      env: { ...process.env, FUSELM_PROFILE: file },
    })
    expect({ status, stderr }).toMatchObject({ status: 0, stderr: expect.stringMatching(/^matmul +1 /m) })
    const { traceEvents } = JSON.parse(readFileSync(file, 'utf8')) as {
      traceEvents: { name: string; dur: number; args: { step: number; shapes: string } }[]
    }
    const matmul = traceEvents.find(({ name }) => name === 'matmul')
    expect(matmul?.args.step).toBe(5)
    expect(matmul?.args.shapes).toMatch(/f32\[2,2\]/)
    expect(matmul?.dur).toBeGreaterThan(0)
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('the table sums by op, the longest first', () => {
  const event = { code: 16, queue: 1, step: 0, shapes: '' }
  const rows = summarise(
    [
      { ...event, name: 'add', startNs: 0, endNs: 1000, bytes: 4000 },
      { ...event, name: 'matmul', startNs: 1000, endNs: 3000, bytes: 1000 },
      { ...event, name: 'matmul', startNs: 3000, endNs: 4000, bytes: 500 },
    ],
    new Map([['matmul', 6000]]),
  )
  expect(rows).toEqual([
    {
      op: 'matmul',
      calls: 2,
      milliseconds: 0.003,
      share: 0.75,
      gigabytesPerSecond: 0.5,
      gigaflopsPerSecond: 2,
    },
    {
      op: 'add',
      calls: 1,
      milliseconds: 0.001,
      share: 0.25,
      gigabytesPerSecond: 4,
      gigaflopsPerSecond: undefined,
    },
  ])
})
