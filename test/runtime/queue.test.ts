import { describe, expect, test } from 'vitest'
import { add, copyInto, full, kernel, matmul, raw, rejection, values, withDevice } from './support.ts'

describe('batching', () => {
  test('what is enqueued runs in order, whatever the batches', () =>
    withDevice({}, async (device) => {
      const q = device.queue
      const one = full(q, [3], 1)
      let sum = full(q, [3], 0)
      for (let i = 0; i < 5000; i++) {
        const next = add(q, sum, one)
        sum.storage.release()
        sum = next
      }
      expect(await values(q, sum)).toEqual([5000, 5000, 5000])
      for (const x of [one, sum]) x.storage.release()
    }))

  test('a long turn starts executing before it ends', () =>
    withDevice({}, async (device) => {
      const q = device.queue
      const before = device.kernels().reduce((n, k) => n + k.executions, 0)
      const xs = Array.from({ length: 4000 }, (_, i) => full(q, [1], i))
      const until = Date.now() + 2000
      let ran = 0
      while (ran === 0 && Date.now() < until) {
        ran = device.kernels().reduce((n, k) => n + k.executions, 0) - before
      }
      expect(ran).toBeGreaterThan(0)
      for (const x of xs) x.storage.release()
    }))

  test('a short turn is submitted at its end without an await', () =>
    withDevice({}, async (device) => {
      const before = device.kernels().reduce((n, k) => n + k.executions, 0)
      const x = full(device.queue, [1], 1)
      // Nothing below submits; how soon the executor gets a core is the machine's affair.
      const ran = () => device.kernels().reduce((n, k) => n + k.executions, 0) - before
      for (let i = 0; i < 200 && ran() === 0; ++i) {
        await new Promise((resolve) => setTimeout(resolve, 25))
      }
      expect(ran()).toBe(1)
      x.storage.release()
    }))

  test('a record larger than the buffer', () =>
    withDevice({}, async (device) => {
      const q = device.queue
      const parts = Array.from({ length: 3000 }, (_, i) => full(q, [1], i))
      const y = raw(q, [3000])
      q.enqueue(kernel(device, 'concat(...(part)) -> (y) [axis]'), [y, ...parts], [0])
      expect(await values(q, y)).toEqual(parts.map((_, i) => i))
      for (const x of [y, ...parts]) x.storage.release()
    }))
})

describe('copies', () => {
  for (const bytes of [4, 65536, 65540, 1 << 20]) {
    test(`${bytes} bytes go up and come back`, () =>
      withDevice({}, async (device) => {
        const q = device.queue
        const data = Uint8Array.from({ length: bytes }, (_, i) => i * 31 + (i >> 8))
        const storage = q.alloc(bytes)
        q.write(storage, 0, data)
        const expected = data.slice()
        data.fill(0) // the caller may reuse its memory at once
        expect(Buffer.from(await q.read(storage, 0, bytes)).equals(expected)).toBe(true)
        storage.release()
      }))
  }

  test('a part, at an offset', () =>
    withDevice({}, async (device) => {
      const q = device.queue
      const storage = q.alloc(8)
      q.write(storage, 0, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8))
      q.write(storage, 3, Uint8Array.of(40, 50))
      expect([...new Uint8Array(await q.read(storage, 2, 4))]).toEqual([3, 40, 50, 6])
      expect(() => q.write(storage, 7, Uint8Array.of(1, 2))).toThrow(/do not fit a buffer of 8/)
      expect(() => q.read(storage, 0, 9)).toThrow(/are not in a buffer of 8/)
      storage.release()
    }))

  test('writes move the version, reads do not', () =>
    withDevice({}, async (device) => {
      const q = device.queue
      const a = full(q, [4], 1)
      const b = full(q, [4], 2)
      const before = a.storage.version
      await q.read(b.storage, 0, 16)
      copyInto(q, a, b)
      expect(a.storage.version).toBe(before + 1)
      expect(b.storage.version).toBe(before)
      for (const x of [a, b]) x.storage.release()
    }))
})

describe('several queues', () => {
  test('a reader on another queue waits for the writer', () =>
    withDevice({}, async (device) => {
      const low = device.queue
      const high = device.createQueue({ priority: 10 })
      const a = full(low, [192, 192], 1)
      for (let i = 0; i < 20; i++) {
        const product = matmul(low, a, a)
        const copy = add(high, product, product)
        expect((await values(high, copy))[0]).toBe(384)
        product.storage.release()
        copy.storage.release()
      }
      a.storage.release()
    }))

  test('a writer on another queue waits for the readers', () =>
    withDevice({}, async (device) => {
      const low = device.queue
      const high = device.createQueue({ priority: 10 })
      const a = full(low, [192, 192], 1)
      const two = full(high, [192, 192], 2)
      const product = matmul(low, a, a)
      copyInto(high, a, two)
      expect((await values(low, product))[0]).toBe(192)
      expect((await values(low, a))[0]).toBe(2)
      for (const x of [a, two, product]) x.storage.release()
    }))

  test('a buffer freed while another queue still reads it', () =>
    withDevice({}, async (device) => {
      const low = device.queue
      const high = device.createQueue({ priority: 10 })
      const a = full(high, [256, 256], 1)
      const product = matmul(low, a, a)
      a.storage.release()
      const noise = Array.from({ length: 8 }, () => full(high, [256, 256], 7))
      expect(new Set(await values(low, product))).toEqual(new Set([256]))
      for (const x of [product, ...noise]) x.storage.release()
    }))

  test('a tensor is read on the queue that made it: it does not wait for others', () =>
    withDevice({}, async (device) => {
      const low = device.queue
      const urgent = device.createQueue({ priority: 10 })
      const a = full(low, [512, 512], 1)
      const products = Array.from({ length: 40 }, () => matmul(low, a, a))
      let done = false
      const training = low.fence().then(() => {
        done = true
      })
      const y = full(urgent, [1], 3)
      expect(y.storage.readQueue).toBe(urgent)
      expect(await values(y.storage.readQueue, y)).toEqual([3])
      expect(done).toBe(false)
      await training
      for (const x of [a, y, ...products]) x.storage.release()
    }))

  test('queue.use redirects ops, and only synchronously', () =>
    withDevice({}, async (device) => {
      const other = device.createQueue()
      other.use(() => expect(device.activeQueue).toBe(other))
      expect(device.activeQueue).toBe(device.queue)
      expect(() => other.use(async () => {})).toThrow(/must be synchronous/)
      expect(device.activeQueue).toBe(device.queue)
    }))
})

describe('failure', () => {
  test('out of memory poisons what depends on it, and names op and step', () =>
    withDevice({}, async (device) => {
      const q = device.queue
      const a = full(q, [64], 1)
      await q.fence()
      q.mark(17)
      device.failAllocation(1)
      const b = add(q, a, a)
      const c = add(q, b, a)
      const error = await rejection(values(q, c))
      expect(error.code).toBe('ERR_OUT_OF_MEMORY')
      expect(error.message).toMatch(/add/)
      expect(error.message).toMatch(/17/)
      expect((await values(q, a))[0]).toBe(1)
      const d = add(q, a, a)
      expect((await values(q, d))[0]).toBe(2)
      for (const x of [a, b, c, d]) x.storage.release()
    }))

  test('a full overwrite clears poison', () =>
    withDevice({}, async (device) => {
      const q = device.queue
      const a = full(q, [4], 1)
      const wrong = add(q, a, a, [5])
      expect((await rejection(values(q, wrong))).code).toBe('ERR_SHAPE')
      const threes = full(q, [5], 3)
      q.enqueue(kernel(device, 'contiguous(x) -> (y)'), [threes, wrong], [])
      expect(await values(q, wrong)).toEqual([3, 3, 3, 3, 3])
      for (const x of [a, threes, wrong]) x.storage.release()
    }))

  test('sync reports a failure that nobody awaited, once', () =>
    withDevice({}, async (device) => {
      const q = device.queue
      const a = full(q, [4], 1)
      add(q, a, a, [5]).storage.release()
      expect((await rejection(device.sync())).code).toBe('ERR_SHAPE')
      await device.sync()
      a.storage.release()
    }))

  test('the memory limit is a typed error and the device goes on', () =>
    withDevice({ memoryLimit: 64 * 2 ** 20 }, async (device) => {
      const q = device.queue
      const huge = full(q, [64, 2 ** 20], 1)
      expect((await rejection(values(q, huge))).code).toBe('ERR_OUT_OF_MEMORY')
      huge.storage.release()
      const small = full(q, [2], 5)
      expect(await values(q, small)).toEqual([5, 5])
      small.storage.release()
    }))
})

describe('back-pressure', () => {
  test('a loop that never awaits gets a typed error, and can go on after ready()', () =>
    withDevice({ maxBytesInFlight: 2 ** 20 }, async (device) => {
      const q = device.queue
      const a = full(q, [256, 256], 1)
      const made: { storage: { release(): void } }[] = []
      const owner = device.newOwner()
      const loop = (): void => {
        for (let i = 0; i < 200_000; i++) made.push(matmul(q, a, a))
      }
      let error: { code?: string; message?: string } = {}
      try {
        q.withOwner(owner, loop)
      } catch (caught) {
        error = caught as Error
      }
      expect(error.code).toBe('ERR_QUEUE_FULL')
      expect(error.message).toMatch(/maxBytesInFlight \(1048576\); put `await queue.ready\(\)`/)
      for (const x of made) x.storage.release()
      device.cancel(owner)
      const small = q.ready().then(() => full(q, [1], 1))
      expect(await values(q, await small)).toEqual([1])
      ;(await small).storage.release()
      a.storage.release()
    }))

  test('ready() at step boundaries keeps any loop going', () =>
    withDevice({ maxBytesInFlight: 2 ** 18 }, async (device) => {
      const q = device.queue
      const one = full(q, [8], 1)
      let sum = full(q, [8], 0)
      for (let step = 0; step < 200; step++) {
        for (let i = 0; i < 100; i++) {
          const next = add(q, sum, one)
          sum.storage.release()
          sum = next
        }
        await q.ready()
      }
      expect((await values(q, sum))[0]).toBe(20_000)
      for (const x of [one, sum]) x.storage.release()
    }))
})

describe('abort', () => {
  test('cancel drains one owner only, and memory is freed all the same', () =>
    withDevice({}, async (device) => {
      const q = device.queue
      const owner = device.newOwner()
      const a = full(q, [256, 256], 1)
      const kept = add(q, a, a)
      const dropped = q.withOwner(owner, () => {
        const made = Array.from({ length: 50 }, () => matmul(q, a, a))
        return made
      })
      const waiting = rejection(values(q, dropped.at(-1) ?? a))
      device.cancel(owner)
      const error = await waiting
      expect(error.code).toBe('ABORT_ERR')
      expect((await values(q, kept))[0]).toBe(2)
      for (const x of [a, kept, ...dropped]) x.storage.release()
    }))
})
