// What synchronous streams would hide: the emulator runs a stream's work as late as its events allow, in
// an order drawn from a seed. That it finds a missing event or a staging chunk taken too early is shown
// by taking them away. Children, for the emulator reads its settings when it is opened.

import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import { emulated, emulatedPlugin } from './emulated.ts'

const here = fileURLToPath(new URL('.', import.meta.url))
const plugin = emulatedPlugin()
const temporary = mkdtempSync(join(tmpdir(), 'fuselm-streams-'))
afterAll(() => rmSync(temporary, { recursive: true, force: true }))

interface Ending {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly out: string
}

/** A child on the emulated GPU; ends by itself, or is killed after a minute. */
function node(args: readonly string[], settings: Record<string, string>): Promise<Ending> {
  const env = { ...process.env, FUSELM_CUDA_PLUGIN: plugin ?? '', FUSELM_CUBLASLT: 'off', ...settings }
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { cwd: here, env, timeout: 60_000 })
    let out = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (data) => {
        out += data
      })
    }
    child.once('error', reject)
    child.once('close', (code, signal) => resolve({ code, signal, out }))
  })
}
const script = (body: string, settings: Record<string, string>): Promise<Ending> =>
  node(
    [
      '--input-type=module',
      '-e',
      `import { Device, DeviceError, noGrad, ops, OutOfMemoryError, tensor, withDevice, zeros } from 'fuselm'
       const on = (device, body) => withDevice(device, () => noGrad(body))
       ${body}`,
    ],
    settings,
  )
const order = (settings: Record<string, string>): Promise<Ending> => node([`${here}order.mjs`], settings)

describe.skipIf(plugin === null || !existsSync(join(here, '../../dist/index.js')))('late streams', () => {
  test('every value is the one of its moment', { timeout: 60_000 }, async () => {
    const seeds = ['1', '2', '3', '4']
    const endings = await Promise.all(seeds.map((seed) => order({ FUSELM_EMULATED_ASYNC: seed })))
    for (const ending of endings) expect(ending).toEqual({ code: 0, signal: null, out: '0 wrong {}\n' })
  })

  test('a stream that waits for no event is found', { timeout: 60_000 }, async () => {
    const { out } = await order({ FUSELM_EMULATED_ASYNC: '1', FUSELM_EMULATED_BREAK: 'waits' })
    expect(out).toMatch(/^[1-9]\d* wrong .*"chain".*"reuse"/)
  })

  test('staging that is filled before its copy ran is found', { timeout: 60_000 }, async () => {
    const { out } = await order({ FUSELM_EMULATED_ASYNC: '1', FUSELM_EMULATED_BREAK: 'staging' })
    expect(out).toMatch(/^[1-9]\d* wrong .*"upload"/)
  })

  test('training follows the same losses as in order', { timeout: 120_000 }, async () => {
    const body = `
      import { AdamW, Llama, scope } from 'fuselm'
      const device = Device.open({ device: 'cuda' }).makeDefault()
      const size = { vocabSize: 64, hiddenSize: 32, intermediateSize: 64, numHiddenLayers: 1, numAttentionHeads: 2 }
      const model = new Llama(size, { dtype: 'bf16', seed: 3 })
      const optimizer = new AdamW({ parameters: model.namedParameters(), clipNorm: 1, learningRate: 1e-2 })
      const losses = []
      for (let step = 0; step < 4; step++) {
        losses.push(scope(() => {
          const ids = tensor(Int32Array.from({ length: 32 }, (_, i) => (i * 7 + step) % 64), { shape: [2, 16], dtype: 'i32' })
          const loss = model.loss(ids, ids)
          loss.backward()
          optimizer.step()
          return loss
        }))
      }
      console.log((await Promise.all(losses.map((loss) => loss.item()))).join())`
    const [inOrder, late] = await Promise.all([
      script(body, {}),
      script(body, { FUSELM_EMULATED_ASYNC: '5' }),
    ])
    expect(inOrder.out).toMatch(/^4\.\d+,.*\n$/)
    expect(late).toEqual(inOrder)
  })
})

describe.skipIf(plugin === null)('what a device may do to a process', () => {
  test('an illegal access is a DeviceError; the device stays lost, the process goes on', async () => {
    const body = `
      const device = Device.open({ device: 'cuda' })
      const x = tensor(new Float32Array(64).fill(2), { device })
      await device.sync()
      const failed = await on(device, () => ops.add(x, x)).toArray().catch((error) => error)
      console.log(failed instanceof DeviceError, failed.message)
      const later = await on(device, () => ops.add(x, x)).toArray().catch((error) => error)
      console.log(later instanceof DeviceError, /the device was lost/.test(later.message))
      const memory = await on(device, () => zeros([1 << 26])).toArray().catch((error) => error)
      console.log(memory instanceof OutOfMemoryError, memory instanceof DeviceError)
      device.close()
      try { Device.open({ device: 'cuda' }) } catch (error) { console.log(error.message) }
      const cpu = Device.open({ device: 'auto' })
      console.log(cpu.kind, (await on(cpu, () => ops.add(zeros([1]), zeros([1]))).toArray())[0])`
    for (const settings of [{}, { FUSELM_EMULATED_ASYNC: '1' }]) {
      const { code, out } = await script(body, { FUSELM_EMULATED_FAULT: '1', ...settings })
      const lines = out.split('\n').filter((line) => !line.startsWith('emulated CUDA'))
      expect(code).toBe(0)
      expect(lines[0]).toMatch(/^true .*work before it .*FUSELM_CUDA_SYNC=1.*cudaErrorIllegalAddress/)
      expect(lines.slice(1, 3)).toEqual(['true true', 'false true'])
      expect(lines[3]).toMatch(/^no CUDA device: the device was lost, and only a new process can use it/)
      expect(lines[4]).toBe('cpu 0')
    }
  })

  test('FUSELM_CUDA_SYNC=1 names the command that failed', async () => {
    const body = `
      const device = Device.open({ device: 'cuda' })
      const x = tensor(new Float32Array(64).fill(2), { device })
      const y = on(device, () => ops.add(ops.mul(x, x), x))
      console.log((await y.toArray().catch((error) => error)).message)`
    const { out } = await script(body, {
      FUSELM_EMULATED_FAULT: '1',
      FUSELM_EMULATED_ASYNC: '1',
      FUSELM_CUDA_SYNC: '1',
    })
    expect(out).toMatch(/^mul.*\[64\].*this command: cudaErrorIllegalAddress/m)
  })

  test('memory that runs out is OutOfMemoryError with counts, and no later command is blamed', async () => {
    const body = `
      const device = Device.open({ device: 'cuda' })
      const x = tensor(new Float32Array(64).fill(2), { device })
      const failed = await on(device, () => zeros([1 << 26])).toArray().catch((error) => error)
      console.log(failed instanceof OutOfMemoryError, failed.message)
      console.log((await on(device, () => ops.add(x, x)).toArray())[63])`
    const { code, out } = await script(body, { FUSELM_EMULATED_MEMORY: String(100 << 20) })
    expect(code).toBe(0)
    expect(out).toMatch(/^true .*asked for 268435456 bytes.*of the GPU's 104857600 bytes are free\n4\n$/)
  })

  test('memory that another queue has cached is used before memory runs out', async () => {
    const body = `
      const device = Device.open({ device: 'cuda' })
      const other = device.createQueue()
      const big = on(device, () => other.use(() => zeros([12 << 20])))
      await big.toArray()
      big.dispose()
      await other.fence()
      const x = on(device, () => zeros([14 << 20]))
      console.log((await x.toArray()).length)`
    const { out } = await script(body, {
      FUSELM_EMULATED_MEMORY: String(110 << 20),
      FUSELM_EMULATED_ASYNC: '3',
    })
    expect(out).toBe(`${14 << 20}\n`)
  })

  test('a second GPU is used without a context on the first', async () => {
    const log = join(temporary, 'contexts')
    const body = `
      const device = Device.open({ device: 'cuda:1' })
      const x = tensor(new Float32Array(64).fill(2), { device })
      console.log((await on(device, () => ops.add(x, x)).toArray())[63])
      device.close()
      try { Device.open({ device: 'cuda:2' }) } catch (error) { console.log(error.message) }`
    const { code, out } = await script(body, { FUSELM_EMULATED_DEVICES: '2', FUSELM_EMULATED_LOG: log })
    expect({ code, out }).toEqual({ code: 0, out: '4\nno CUDA device 2: there are 2\n' })
    expect(readFileSync(log, 'utf8')).toBe('context 1\n')
  })

  // A device of the CPU opened first: its exit handlers are then older than those of CUDA's libraries,
  // and would run after them.
  test.each(['process.exit(7)', 'throw new Error("on purpose")'])(
    'nothing calls CUDA after its exit handlers: %s',
    { timeout: 60_000 },
    async (end) => {
      const body = `
        const cpu = Device.open({ device: 'cpu' })
        await on(cpu, () => ops.add(zeros([1]), zeros([1]))).toArray()
        const device = Device.open({ device: 'cuda' })
        const w = on(device, () => tensor(new Float32Array(64 * 64).fill(0.01), { shape: [64, 64], device }))
        let done = 0
        const work = () => {
          let x = w
          for (let i = 0; i < 30; i++) {
            const y = on(device, () => ops.matmul(x, w))
            if (x !== w) x.dispose()
            x = y
          }
          x.toArray().then(() => { done++; work() }, () => {})
        }
        for (let i = 0; i < 4; i++) work()
        setTimeout(() => { ${end} }, 150)`
      const library = emulated('libcublaslt_emulated.so') ?? 'off'
      for (const settings of [{}, { FUSELM_EMULATED_ASYNC: '2' }, { FUSELM_CUBLASLT: library }]) {
        const { code, signal, out } = await script(body, settings)
        expect(out).not.toMatch(/emulated CUDA/)
        expect({ code, signal }).toEqual({ code: end.includes('exit') ? 7 : 1, signal: null })
      }
    },
  )

  test.each([
    [{ FUSELM_EMULATED_DRIVER: '0' }, 'no NVIDIA driver is installed (libcuda.so.1 was not found)'],
    [
      { FUSELM_EMULATED_DRIVER: '12080' },
      'the NVIDIA driver is too old: it supports CUDA 12.8 and this plugin needs 13.0',
    ],
    [{ FUSELM_EMULATED_DEVICES: '0' }, 'the NVIDIA driver sees no GPU'],
    [
      { FUSELM_EMULATED_DEVICES: '0', CUDA_VISIBLE_DEVICES: '' },
      "the NVIDIA driver sees no GPU (CUDA_VISIBLE_DEVICES is '')",
    ],
    [
      { FUSELM_EMULATED_COMPUTE: '75' },
      'sm_75 emulated on the CPU has compute capability 7.5; 8.0 or newer is needed',
    ],
    [{ FUSELM_CUDA_PLUGIN: '/nowhere.so' }, 'the CUDA plugin is not installed (/nowhere.so: no such file)'],
  ])('doctor: %j', async (settings, reason) => {
    const { code, out } = await node([join(here, '../../dist/cli/main.js'), 'doctor', '--json'], settings)
    expect(code).toBe(0)
    const found = JSON.parse(out)
    expect(found.ok).toBe(true)
    expect(found.cuda).toContain(`not used: ${reason}`)
  })

  test('doctor: no cuBLASLt, and no memory', async () => {
    const doctor = (settings: Record<string, string>) =>
      node([join(here, '../../dist/cli/main.js'), 'doctor', '--json'], settings)
    const missing = JSON.parse((await doctor({ FUSELM_CUBLASLT: '/nowhere/libcublasLt.so' })).out)
    expect(missing['cuda works']).toBe('yes')
    expect(missing.matrices).toMatch(/^cuBLASLt was not found.*own kernels.*nowhere/)
    const full = JSON.parse((await doctor({ FUSELM_EMULATED_MEMORY: '1024' })).out)
    expect(full['cuda works']).toMatch(/^no: .*out of memory.*of the GPU's 1024 bytes are free/)
  })
})
