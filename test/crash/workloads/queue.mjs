// Keeps two queues busy with matrix products, copies in both directions and buffers that come and
// go. A workload exports start(): it enqueues flat out until stop() and leaves what is queued.
import { Device } from 'fuselm'

const F32 = 1

export function start() {
  const device = Device.open()
  const queues = [device.queue, device.createQueue({ priority: 5 })]
  const fill = device.kernel('fill(y!) [value]')
  const product = device.kernel('matmul(a, b) -> (y)')
  const tensor = (queue, n) => ({
    storage: queue.alloc(n * n * 4),
    dtypeCode: F32,
    offset: 0,
    shape: [n, n],
    strides: [n, 1],
  })
  let stopped = false
  let steps = 0

  async function loop(queue, n) {
    const a = tensor(queue, n)
    queue.enqueue(fill, [a], [1 / n])
    const upload = new Uint8Array(n * n * 4)
    while (!stopped) {
      let x = a
      for (let i = 0; i < 50; i++) {
        const y = tensor(queue, n)
        queue.enqueue(product, [x, a, y], [])
        if (x !== a) x.storage.release()
        x = y
      }
      queue.write(x.storage, 0, upload)
      const read = queue.read(x.storage, 0, upload.length)
      x.storage.release()
      steps++
      if (stopped) {
        read.catch(() => {})
        return
      }
      await read
      await queue.ready()
    }
  }
  for (const [i, queue] of queues.entries()) {
    loop(queue, 64 << i).catch((error) => {
      if (!stopped) throw error
    })
  }
  return {
    steps: () => steps,
    stop() {
      stopped = true
    },
  }
}
