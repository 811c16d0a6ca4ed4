import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { expect, test } from 'vitest'
import { Device, ops, scope, type Tensor, tensor } from '../../lib/index.ts'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** Finalizers run in a task of their own, some time after a collection. */
async function collectUntil(done: () => boolean): Promise<boolean> {
  for (let i = 0; i < 50 && !done(); i++) {
    collect()
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  return done()
}

test('what nobody disposed is freed when it is collected, with its graph and gradients', async () => {
  const before = Device.default().memory()
  const loseThem = (): void => {
    const w = tensor([1, 2], { requiresGrad: true })
    scope(() => ops.sum(ops.mul(w, w)).backward())
    const y = ops.exp(ops.mul(w, w).reshape([2, 1]))
    const view: Tensor = scope(() => y.transpose())
    expect(view.requiresGrad).toBe(true)
  }
  loseThem()
  expect(Device.default().memory().liveStorages).toBeGreaterThan(before.liveStorages)
  const freed = await collectUntil(() => {
    const { liveTensors, liveStorages } = Device.default().memory()
    return liveTensors === before.liveTensors && liveStorages === before.liveStorages
  })
  expect(freed, JSON.stringify([before, Device.default().memory()])).toBe(true)
})

test('collection of a disposed tensor frees nothing twice', async () => {
  const x = tensor([1, 2])
  const view = x.slice(0, 1)
  const lose = (): void => {
    const y = x.reshape([2, 1])
    y.dispose()
  }
  lose()
  x.dispose()
  await collectUntil(() => false)
  expect(await view.item()).toBe(2)
  view.dispose()
})
