// What keeps a process alive, and several JavaScript threads in one. Children use the built package.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

function node(
  script: string,
  flags: string[] = ['--input-type=module'],
): { code: number | null; out: string; ms: number } {
  const from = performance.now()
  const { status, stdout, stderr } = spawnSync(process.execPath, [...flags, '-e', script], {
    cwd: root,
    encoding: 'utf8',
    timeout: 60_000,
  })
  return { code: status, out: stdout + stderr, ms: performance.now() - from }
}

const setup = `
  import { Device } from 'fuselm'
  const device = Device.open()
  const q = device.queue
  const fill = device.kernel('fill(y!) [value]')
  const matmul = device.kernel('matmul(a, b) -> (y)')
  const tensor = (n) => ({ storage: q.alloc(n * n * 4), dtypeCode: 1, offset: 0, shape: [n, n], strides: [n, 1] })
  const a = tensor(512)
  q.enqueue(fill, [a], [1])
  const busy = (times) => { for (let i = 0; i < times; i++) q.enqueue(matmul, [a, a, tensor(512)], []) }
`

describe('the event loop', () => {
  test('an open device alone does not keep the process alive', () => {
    expect(node(`${setup} console.log('end')`)).toMatchObject({ code: 0, out: 'end\n' })
  })

  test('queued work that nobody awaits does not either, and is discarded', () => {
    const { code, out, ms } = node(`${setup} busy(2000)`)
    expect({ code, out }).toEqual({ code: 0, out: '' })
    expect(ms).toBeLessThan(10_000) // the work itself would take over 20 s
  })

  test('an awaited promise does, once per await', () => {
    const script = `${setup}
      busy(3)
      q.read(a.storage, 0, 4).then((b) => {
        console.log(new Float32Array(b)[0])
        setTimeout(() => q.fence().then(() => console.log('again')), 20)
      })`
    expect(node(script)).toMatchObject({ code: 0, out: '1\nagain\n' })
  })

  test('an unhandled rejection ends the process like any other', () => {
    const { code, out } = node(`${setup} q.enqueue(matmul, [a, a, tensor(3)], []); device.sync()`)
    expect(code).toBe(1)
    expect(out).toMatch(/ERR_SHAPE/)
  })
})

describe('threads', () => {
  const worker = `
    const { parentPort, workerData } = require('node:worker_threads')
    const { Device } = require('fuselm')
    const device = Device.open()
    const q = device.queue
    const storage = q.alloc(4 * 1000)
    const y = { storage, dtypeCode: 1, offset: 0, shape: [1000], strides: [1] }
    q.enqueue(device.kernel('fill(y!) [value]'), [y], [workerData])
    q.read(storage, 0, 4000).then((b) => parentPort.postMessage(new Float32Array(b)[999]))
  `

  test('eight workers load the addon at once, each with buffers of its own', () => {
    const { code, out } = node(
      `const { Worker } = require('node:worker_threads')
      const one = (n) => new Promise((resolve, reject) => {
        const w = new Worker(${JSON.stringify(worker)}, { eval: true, workerData: n })
        let value
        w.on('message', (m) => { value = m })
        w.on('error', reject)
        w.on('exit', (code) => code === 0 ? resolve(value) : reject(new Error('code ' + code)))
      })
      Promise.all(Array.from({ length: 8 }, (_, i) => one(i))).then((v) => console.log(v.join()))`,
      [],
    )
    expect({ code, out: out.replace(/^\(node.*\n|^\(Use .*\n/gm, '') }).toEqual({
      code: 0,
      out: '0,1,2,3,4,5,6,7\n',
    })
  })

  test('eight workers train and generate at once, each as it would alone', () => {
    const body = `
      const { parentPort } = require('node:worker_threads')
      const { AdamW, Decoder, scope, tensor, Tokenizer } = require('fuselm')
      const run = async () => {
        const tokenizer = await Tokenizer.train({ texts: ['the cat sat on the mat. '.repeat(20)], vocabSize: 280 })
        const shape = { hiddenSize: 32, numHiddenLayers: 2, numAttentionHeads: 2, intermediateSize: 48 }
        const decoder = Decoder.create({ ...shape, maxPositionEmbeddings: 64 }, { tokenizer, seed: 5 })
        const optimizer = new AdamW({ parameters: decoder.model.namedParameters(), learningRate: 1e-2 })
        for (let step = 0; step < 5; step++) scope(() => {
          const ids = tensor(tokenizer.encode('the cat sat on the mat. the cat').slice(0, 8), { shape: [1, 8], dtype: 'i32' })
          decoder.model.loss(ids, ids).backward()
          optimizer.step()
        })
        return (await decoder.generate('the', { temperature: 0, maxNewTokens: 8 }).completion()).tokenIds.join()
      }
      run().then((ids) => parentPort.postMessage(ids))
    `
    const { code, out } = node(
      `const { Worker } = require('node:worker_threads')
      const one = () => new Promise((resolve, reject) => {
        const w = new Worker(${JSON.stringify(body)}, { eval: true })
        w.on('message', resolve)
        w.on('error', reject)
      })
      Promise.all(Array.from({ length: 8 }, one)).then((all) => {
        const same = all[0].length > 8 && all.every((ids) => ids === all[0])
        console.log(same ? 'alike' : all.join(' '))
      })`,
      ['--no-warnings'],
    )
    expect({ code, out }).toEqual({ code: 0, out: 'alike\n' })
  }, 60_000)

  test('require and import give the same classes', () => {
    const { out } = node(
      `const required = require('fuselm'); import('fuselm').then((m) => console.log(m.Device === required.Device))`,
      ['--no-warnings'],
    )
    expect(out).toBe('true\n')
  })
})

describe('garbage', () => {
  test('tensors that nobody disposes are collected, because V8 knows their size', () => {
    const { code, out } = node(`
      import { Device, ops, tensor } from 'fuselm'
      const device = Device.default()
      const x = tensor(new Float32Array(2 ** 21), { shape: [2 ** 21], dtype: 'f32' })
      let most = 0
      for (let i = 0; i < 200; i++) {
        ops.add(x, x) // 8 MB, dropped
        await device.queue.fence()
        await new Promise((resolve) => setImmediate(resolve)) // finalizers run between turns
        most = Math.max(most, device.memory().liveStorages)
      }
      console.log(most < 40 ? 'collected' : most)`)
    expect({ code, out }).toEqual({ code: 0, out: 'collected\n' })
  })
})
