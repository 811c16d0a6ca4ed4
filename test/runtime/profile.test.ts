import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
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

test('devices have rows of their own, processes and threads files; who did nothing says nothing', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fuselm-profile-'))
  try {
    const script = `
      import { spawnSync } from 'node:child_process'
      import { Worker } from 'node:worker_threads'
      import { Device, ops, tensor } from 'fuselm'
      const [kind] = process.argv.slice(1)
      const run = (device) => ops.add(tensor([1], { device }), tensor([2], { device })).toArray()
      const again = (kind) => spawnSync(process.execPath, [...process.execArgv, kind], { stdio: 'inherit' })
      if (kind === 'idle') Device.default()
      else await run(Device.default())
      if (kind === 'parent') {
        await run(Device.open({ threads: 1, isa: 'generic' }))
        const worker = new Worker(
          \`import('fuselm').then(({ Device, ops, tensor }) => {
            // a device that no other thread has
            const device = Device.open({ threads: 1, isa: 'generic', guard: true })
            return ops.neg(tensor([1], { device })).toArray()
          })\`,
          { eval: true },
        )
        await new Promise((done) => worker.once('exit', done))
        again('child')
        again('idle')
      }`
    const inline = ['--input-type=module', '-e', script]
    const file = join(folder, 'trace.json')
    const { FUSELM_PROFILE_FIRST: _, ...env } = process.env
    const parent = spawnSync(process.execPath, [...inline, 'parent'], {
      cwd: root,
      encoding: 'utf8',
      env: { ...env, FUSELM_PROFILE: file },
    })
    expect({ ...parent }).toMatchObject({ status: 0 })
    const names = readdirSync(folder).sort()
    expect(names).toEqual([expect.stringMatching(/^trace\.\d+\.json$/), 'trace.json', 'trace.thread-1.json'])
    expect(parent.stderr.match(/^op +calls/gm)).toHaveLength(3)
    for (const [name, op, rows] of [
      ['trace.json', 'add', 2],
      [names[0] ?? '', 'add', 1],
      ['trace.thread-1.json', 'neg', 1],
    ] as const) {
      const { traceEvents } = JSON.parse(readFileSync(join(folder, name), 'utf8')) as {
        traceEvents: { name: string; ph: string; tid: number; args: { name?: string } }[]
      }
      const found = traceEvents.filter((event) => event.name === op)
      expect(new Set(found.map(({ tid }) => tid)).size, name).toBe(rows)
      const labels = traceEvents.filter(({ ph }) => ph === 'M').map(({ args }) => args.name)
      for (let device = 0; device < rows; device++) {
        expect(labels).toContainEqual(expect.stringMatching(new RegExp(`^device ${device} queue`)))
      }
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
})

test('the table sums by op, the longest first', () => {
  const event = { code: 16, device: 0, queue: 1, step: 0, shapes: '' }
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
