// node order.mjs: what two queues, their shared tensors, reused memory and uploads come to, each time
// compared with what it must be; prints how many values were wrong, and exits 1 then. For the emulator's late streams
// (test/cuda/streams.test.ts) and for a GPU.
import { setTimeout } from 'node:timers/promises'
import { Device, noGrad, ops, tensor, withDevice, withQueue, zeros } from 'fuselm'

const device = Device.open({ device: 'cuda' })
const other = device.createQueue({ priority: 3 })
const N = 4096
let wrong = 0
const counts = {}
const on = (queue, body) => withDevice(device, () => noGrad(() => withQueue(queue, body)))
const filled = (value, n = N) => tensor(new Float32Array(n).fill(value), { device })
async function expect(what, t, value) {
  const values = await t.toArray()
  const bad = values.filter((v) => v !== value).length
  if (bad > 0) counts[what] = (counts[what] ?? 0) + 1
  wrong += bad
}

// A chain that changes the queue with every link.
let x = filled(1)
for (let i = 0; i < 14; i++) {
  const y = on(i % 2 === 0 ? other : device.queue, () => ops.add(x, x))
  x.dispose()
  x = y
}
await expect('chain', x, 2 ** 14)
x.dispose()

// Memory that one queue frees and another, its owner, takes again while the first still reads it. The
// pause lets every record be enqueued; none of it has to run.
const sums = []
for (let i = 0; i < 24; i++) {
  const a = on(other, () => ops.add(filled(i), filled(i)))
  const c = on(device.queue, () => ops.add(a, a))
  a.dispose() // freed by the less urgent of its users
  await setTimeout(2)
  const d = on(other, () => ops.add(filled(-1000), filled(-1000)))
  sums.push([c, 4 * i])
  d.dispose()
}
for (const [c, value] of sums) {
  await expect('reuse', c, value)
  c.dispose()
}

// Small writes that share the staging memory, more of them than it holds, then large ones.
const parts = []
for (let i = 0; i < 400; i++) parts.push([filled(i, 15_000), i])
for (let i = 0; i < 6; i++) parts.push([filled(-i, 1_500_000), -i])
for (const [part, value] of parts) {
  await expect('upload', part, value)
  part.dispose()
}

// Reads while the value goes on changing: each sees the moment it was asked for.
const counter = zeros([N], { device })
const one = filled(1)
const reads = []
let now = counter
for (let i = 1; i <= 20; i++) {
  const next = on(i % 3 === 0 ? other : device.queue, () => ops.add(now, one))
  reads.push(expect('read', next, i))
  if (now !== counter) now.dispose()
  now = next
}
await Promise.all(reads)
for (const t of [now, counter, one]) t.dispose()
await device.sync()
console.log(`${wrong} wrong ${JSON.stringify(counts)}`)
process.exitCode = wrong === 0 ? 0 : 1
