// Trains the 1M model flat out, and every few steps copies parameters out on a high-priority queue.
import { AdamW, Device, Llama, referenceModels, scope, tensor } from 'fuselm'

export async function start() {
  const batch = 4
  const context = 64
  const model = new Llama(referenceModels['1M'], { dtype: 'bf16', seed: 1 })
  const optimizer = new AdamW({
    parameters: model.namedParameters(),
    learningRate: 3e-4,
    weightDecay: 0.01,
    clipNorm: 1,
  })
  const device = Device.default()
  const { queue } = device
  const urgent = device.createQueue({ priority: 10 })
  const tokens = Int32Array.from({ length: batch * context }, (_, i) => (i * 31) % 251)
  const parameters = [...model.namedParameters()]
  let stopped = false
  let steps = 0

  const step = () =>
    scope(() => {
      queue.mark(steps)
      const ids = tensor(tokens, { shape: [batch, context], dtype: 'i32' })
      const loss = model.loss(ids, ids)
      loss.backward()
      optimizer.step()
      return loss
    })

  async function loop() {
    while (!stopped) {
      const loss = step()
      const waiting = [loss.item()]
      const [, parameter] = parameters[steps % parameters.length]
      waiting.push(urgent.read(parameter.storage, 0, 4))
      loss.dispose()
      steps++
      if (stopped) {
        for (const promise of waiting) promise.catch(() => {})
        return
      }
      await Promise.all(waiting)
    }
  }
  loop().catch((error) => {
    if (!stopped) throw error
  })
  return {
    steps: () => steps,
    stop() {
      stopped = true
    },
  }
}
