// The package as a user gets it: packed, installed from the tarball into an empty folder outside
// the repository, with scripts off and no network, and used from there.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'

// Linear regression by hand: tensors, ops, backward and values back, on the prebuilt addon.
const JOB = `
import { createRequire } from 'node:module'
import * as fuselm from 'fuselm'

const { backward, Device, noGrad, ops, scope, tensor } = fuselm
const x = tensor([1, 2, 3, 4], { shape: [4, 1] })
const y = tensor([3, 5, 7, 9], { shape: [4, 1] })
const w = tensor([0], { shape: [1, 1], requiresGrad: true })
const b = tensor([0], { requiresGrad: true })
let loss = 0
for (let step = 0; step < 400; step++) {
  const l = scope(() => {
    const error = ops.sub(ops.add(ops.matmul(x, w), b), y)
    const l = ops.mean(ops.mul(error, error))
    backward(l)
    noGrad(() => {
      for (const p of [w, b]) {
        ops.copyInto(p, ops.sub(p, ops.mul(p.grad, 0.05)))
        p.grad = null
      }
    })
    return l
  })
  loss = await l.item()
  l.dispose()
}
const require = createRequire(import.meta.url)
console.log(JSON.stringify({
  w: await w.item(),
  b: await b.item(),
  loss,
  sameTensorClass: require('fuselm').Tensor === fuselm.Tensor,
  addon: Object.keys(require.cache).filter((f) => f.endsWith('.node')).length,
  threads: Device.default().threads,
}))
`

let folder: string
const inFolder = (command: string, args: readonly string[]): string =>
  execFileSync(command, args, {
    cwd: folder,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    // Nothing of the checkout: no FUSELM_ADDON, no NODE_PATH.
    env: { PATH: process.env.PATH, HOME: folder },
  })

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-install-'))
  const packed = execFileSync(process.execPath, ['scripts/package.mjs', folder], { encoding: 'utf8' })
  const tarball = packed.trim().split('\n').at(-1) ?? ''
  writeFileSync(join(folder, 'package.json'), '{ "name": "empty", "private": true, "type": "module" }')
  // without a network the one dependency comes from this checkout
  const jinja = join(process.cwd(), 'node_modules/@huggingface/jinja')
  const dependency = inFolder('npm', ['pack', '--silent', '--ignore-scripts', jinja]).trim()
  inFolder('npm', [
    'install',
    '--offline',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    `./${dependency}`,
    tarball,
  ])
}, 300_000)
afterAll(() => rmSync(folder, { recursive: true, force: true }))

test('installs nothing but itself and the one dependency', () => {
  const installed = readdirSync(join(folder, 'node_modules')).filter((name) => !name.startsWith('.'))
  expect(installed.sort()).toEqual(['@huggingface', 'fuselm'])
})

test('glibc 2.34 is enough for the prebuilt addon: Ubuntu 22.04, RHEL 9', () => {
  const prebuilds = join(folder, 'node_modules/fuselm/prebuilds/linux-x64')
  const [addon = ''] = readdirSync(prebuilds)
  const needed = execFileSync('objdump', ['-T', join(prebuilds, addon)], {
    encoding: 'utf8',
    maxBuffer: 2 ** 26,
  })
  const minors = [...needed.matchAll(/GLIBC_2\.(\d+)/g)].map(([, minor]) => Number(minor))
  expect(minors.length).toBeGreaterThan(10)
  expect(Math.max(...minors)).toBeLessThanOrEqual(34)
  expect(needed).not.toMatch(/GLIBCXX/)
})

test('trains from the prebuilt addon; require and import share one Tensor class', () => {
  writeFileSync(join(folder, 'job.mjs'), JOB)
  const lines = inFolder(process.execPath, ['job.mjs']).trim().split('\n')
  const result = JSON.parse(lines.at(-1) ?? '')
  expect(result.sameTensorClass).toBe(true)
  expect(result.loss).toBeLessThan(1e-3)
  expect(result.w).toBeCloseTo(2, 1)
  expect(result.b).toBeCloseTo(1, 1)
}, 60_000)

// The emulator's build stands in for the plugin: what is tried is how it is packed, installed and found.
const plugin = join(process.cwd(), 'build/cuda-emulated/libfuselm_cuda_emulated.so')
test.skipIf(!existsSync(plugin))(
  'fuselm-cuda beside it brings the CUDA device',
  () => {
    const script = `import('fuselm').then(async ({ cudaStatus, Device, noGrad, ops, tensor, withDevice }) => {
    const { available, reason, pluginPath } = cudaStatus()
    const says = { available, reason, pluginPath }
    if (!available) return console.log(JSON.stringify(says))
    const device = Device.open({ device: 'auto' })
    const x = tensor([1, 2, 3], { device })
    const sum = await withDevice(device, () => noGrad(() => ops.add(x, x))).toArray()
    console.log(JSON.stringify({ ...says, kind: device.kind, sum: [...sum] }))
    x.dispose()
    device.close()
  })`
    const says = () => JSON.parse(inFolder(process.execPath, ['-e', script]))
    expect(says()).toMatchObject({
      available: false,
      reason: expect.stringContaining('npm install fuselm-cuda'),
    })

    const args = ['scripts/package.mjs', '--cuda', '--plugin', plugin, folder]
    const tarball = execFileSync(process.execPath, args, { encoding: 'utf8' }).trim()
    inFolder('npm', ['install', '--offline', '--ignore-scripts', '--no-audit', '--no-fund', tarball])
    const pluginPath = join(folder, 'node_modules/fuselm-cuda/libfuselm_cuda.so')
    expect(says()).toEqual({ available: true, reason: '', pluginPath, kind: 'cuda', sum: [2, 4, 6] })
  },
  60_000,
)

test('without the addon, the error lists what was tried and what to do', () => {
  const script =
    "import('fuselm').then((f) => f.cudaStatus()).catch((e) => console.log(e.code + '\\n' + e.message))"
  rmSync(join(folder, 'node_modules/fuselm/prebuilds'), { recursive: true })
  const output = inFolder(process.execPath, ['-e', script])
  expect(output).toMatch(/^ERR_DEVICE$/m)
  expect(output).toContain('build/Release/fuselm.node: no such file')
  expect(output).toContain('platform package: ')
  expect(output).toContain('prebuilds/linux-x64: no prebuilt addon')
  expect(output).toMatch(/glibc \d+\.\d+/)
  expect(output).toContain('npm run build')
}, 60_000)
