// A backward that throws: either nothing was accumulated, or the leaves say that they are incomplete.
import { afterAll, beforeAll, expect, test } from 'vitest'
import {
  AdamW,
  Device,
  defineOp,
  IncompleteGradientError,
  ops,
  QueueFullError,
  randn,
  randomKey,
  scope,
  spec,
  type Tensor,
  tensor,
} from '../../lib/index.ts'
import { expectNoLeaks } from './leaks.ts'

const LIMIT = 2 ** 18
let device: Device
beforeAll(() => {
  device = Device.open({ threads: 1, maxBytesInFlight: LIMIT }).makeDefault()
})
afterAll(() => device.close())
expectNoLeaks()

let onBackward: () => void = () => {}
const probeOp = defineOp({
  name: 'test_probe',
  inputs: [{ name: 'x', dtype: 'float' }],
  outputs: [{ name: 'y' }],
  infer: ([x]) => [spec(x.shape, x.dtype)],
  reference: ([x]) => [ops.mul(x, 1)],
  referenceOnly: true,
  saves: [],
})
/** x, with a gradient that runs `onBackward` on its way. */
function probe(x: Tensor): Tensor {
  const y = probeOp([x])[0]
  const node = y.node
  if (node === null) throw new Error('no node')
  const { backward } = node
  node.backward = (grads, sink) => {
    onBackward()
    return backward.call(node, grads, sink)
  }
  return y
}

/** Puts more in flight than may be, behind work that takes a while. */
function flood(): void {
  scope(() => {
    let a = randn([512, 512], randomKey(1)) // a tenth of a second and more
    for (let i = 0; i < 40; i++) a = ops.matmul(a, a)
    tensor(new Float32Array(LIMIT))
    device.activeQueue.flush()
  })
}

const leaf = (values: number[]): Tensor => tensor(values, { requiresGrad: true })
const values = async (t: Tensor | null): Promise<number[]> => [...((await t?.toArray()) ?? [])]

test('too much in flight: refused before anything is accumulated, and it can be run later', async () => {
  const x = leaf([1, 2])
  const y = scope(() => ops.sum(ops.mul(x, x)))
  flood()
  expect(() => y.backward()).toThrow(QueueFullError)
  expect(x.grad).toBeNull()
  await device.sync()
  y.backward()
  expect(await values(x.grad)).toEqual([2, 4])
  x.dispose()
  y.dispose()
})

test('once begun it is enqueued whole, whatever is in flight', async () => {
  const [x, w] = [leaf([1, 2]), leaf([3, 4])]
  const y = scope(() => ops.sum(ops.mul(probe(ops.mul(x, w)), w)))
  let full = false
  onBackward = () => {
    flood()
    full = device.busy(0)
  }
  y.backward()
  onBackward = () => {}
  expect(full).toBe(true)
  await device.sync()
  expect(await values(x.grad)).toEqual([9, 16])
  expect(await values(w.grad)).toEqual([6, 16])
  for (const t of [x, w, y]) t.dispose()
})

test('a throw before the first gradient leaves those of earlier backwards as they were', async () => {
  const x = leaf([1, 2])
  scope(() => ops.sum(ops.mul(x, x)).backward())
  onBackward = () => {
    throw new Error('no')
  }
  scope(() => expect(() => ops.sum(probe(ops.mul(x, 3))).backward()).toThrow('no'))
  onBackward = () => {}
  expect(await values(x.grad)).toEqual([2, 4])
  scope(() => ops.sum(x).backward())
  expect(await values(x.grad)).toEqual([3, 5])
  x.dispose()
})

test('a throw after it: gradients, step and the next backward say so until the gradients are cleared', async () => {
  const [w, v] = [leaf([1, 2]), leaf([3, 4])]
  const optimizer = new AdamW({ parameters: [w, v], learningRate: 0.5, weightDecay: 0 })
  scope(() => ops.sum(ops.mul(w, v)).backward()) // an earlier micro-batch
  onBackward = () => {
    throw new Error('half-way')
  }
  scope(() => {
    // the later use of w is accumulated before the throw
    const loss = ops.add(ops.sum(probe(ops.mul(w, v))), ops.sum(ops.rmsNorm(tensor([1, 1]), w)))
    expect(() => loss.backward()).toThrow('half-way')
  })
  onBackward = () => {}
  const incomplete = expect.objectContaining({
    code: 'ERR_INCOMPLETE_GRADIENT',
    message: expect.stringMatching(/incomplete, a backward failed on its way \(Error: half-way\)/) as string,
    cause: expect.objectContaining({ message: 'half-way' }) as Error,
  }) as Error
  expect(() => w.grad).toThrow(incomplete)
  expect(() => v.grad).toThrow(IncompleteGradientError)
  expect(() => optimizer.step()).toThrow(incomplete)
  scope(() => expect(() => ops.sum(w).backward()).toThrow(incomplete))
  expect([await values(w), await values(v)]).toEqual([
    [1, 2],
    [3, 4],
  ])
  optimizer.zeroGrad()
  expect([w.grad, v.grad]).toEqual([null, null])
  scope(() => ops.sum(ops.mul(w, v)).backward())
  expect([await values(w.grad), await values(v.grad)]).toEqual([
    [3, 4],
    [1, 2],
  ])
  optimizer.step().dispose()
  expect((await values(w)).map((x) => Math.round(x * 1e4) / 1e4)).toEqual([0.5, 1.5])
  optimizer.dispose()
  w.dispose()
  v.dispose()
})
