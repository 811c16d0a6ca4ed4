import { describe, expect, test } from 'vitest'
import { Device } from '../../lib/runtime/device.ts'
import { shapeError } from '../../lib/runtime/errors.ts'
import { parseSignature } from '../../lib/runtime/kernel.ts'
import { add, full, kernel, rejection, values, withDevice } from './support.ts'

const garbage: unknown[] = [Number.NaN, -1, 2 ** 32, 1e300, 1n, '2', null, 0.5, Number.POSITIVE_INFINITY, {}]

function thrown(body: () => unknown): { code: string; message: string } {
  try {
    body()
  } catch (error) {
    return error as { code: string; message: string }
  }
  throw new Error('expected a throw')
}

describe('Device.open', () => {
  test('unknown option keys name the nearest known one', () => {
    const error = thrown(() => Device.open({ thread: 2 } as object))
    expect(error.code).toBe('ERR_CONFIG')
    expect(error.message).toBe("Device.open: unknown option 'thread'; did you mean 'threads'?")
    expect(thrown(() => Device.open(JSON.parse('{"__proto__": 1}'))).code).toBe('ERR_CONFIG')
    expect(thrown(() => Device.open('cpu' as unknown as object)).code).toBe('ERR_CONFIG')
  })

  for (const name of ['threads', 'memoryLimit', 'maxBytesInFlight']) {
    test(`${name}: only integers in range`, () => {
      for (const value of garbage) {
        if (name !== 'threads' && value === 2 ** 32) continue
        if (name === 'memoryLimit' && value === null) continue // ?? reads it as left out
        if (name === 'maxBytesInFlight' && value === null) continue
        expect(thrown(() => Device.open({ [name]: value })).code, `${name}=${String(value)}`).toBe(
          'ERR_VALUE',
        )
      }
    })
  }

  test('names of levels and devices', () => {
    expect(thrown(() => Device.open({ isa: 'avx-512' as 'avx512' })).message).toMatch(
      /did you mean 'avx512'\?/,
    )
    expect(thrown(() => Device.open({ device: 'gpu' as 'cpu' })).code).toBe('ERR_CONFIG')
  })

  test('environment variables are checked like options', () => {
    const set = (name: string, value: string): string => {
      const before = process.env[name]
      process.env[name] = value
      try {
        return thrown(() => Device.open()).message
      } finally {
        if (before === undefined) delete process.env[name]
        else process.env[name] = before
      }
    }
    expect(set('FUSELM_THREADS', '0x2')).toBe(
      "FUSELM_THREADS must be an integer from 1 to 1024, received '0x2'",
    )
    expect(set('FUSELM_ISA', 'avx3')).toMatch(/^FUSELM_ISA must be one of generic, avx2/)
    expect(set('FUSELM_DEVICE', 'tpu')).toMatch(/^FUSELM_DEVICE must be one of/)
  })

  test('an addon path that does not load is named, with the fix', () => {
    const error = thrown(() => Device.open({ addon: '/nowhere/fuselm.node' }))
    expect(error.code).toBe('ERR_DEVICE')
    expect(error.message).toMatch(/linux-x64, Node v\d+/)
    expect(error.message).toMatch(/\/nowhere\/fuselm\.node: /)
    expect(error.message).toMatch(/npm run build/)
  })

  test('levels below the machine can be opened', async () => {
    await withDevice({ isa: 'generic', threads: 1 }, async (device) => {
      expect([device.isa, device.threads]).toEqual(['generic', 1])
      const x = full(device.queue, [3], 2)
      const y = add(device.queue, x, x)
      expect(await values(device.queue, y)).toEqual([4, 4, 4])
      for (const t of [x, y]) t.storage.release()
    })
  })
})

describe('numbers', () => {
  test('garbage for every numeric argument is a ValueError', () =>
    withDevice({}, async (device) => {
      for (const value of garbage) {
        const n = value as number
        expect(thrown(() => device.queue.mark(n)).code).toBe('ERR_VALUE')
        expect(thrown(() => device.createQueue({ priority: value === -1 ? 1e9 : n })).code).toBe('ERR_VALUE')
        expect(thrown(() => device.failAllocation(n)).code).toBe('ERR_VALUE')
        expect(thrown(() => device.cancel(n)).code).toBe('ERR_VALUE')
        expect(thrown(() => device.queue.withOwner(n, () => 0)).code).toBe('ERR_VALUE')
        if (value === 2 ** 32) continue // a size one may ask for
        expect(thrown(() => device.queue.alloc(n)).code, `alloc ${String(value)}`).toBe('ERR_VALUE')
      }
    }))
})

describe('disposal', () => {
  test('releasing twice frees once', () =>
    withDevice({}, async (device) => {
      const x = full(device.queue, [4], 1)
      x.storage.release()
      x.storage.release()
      expect(device.memory().liveStorages).toBe(0)
      expect(thrown(() => x.storage.retain()).code).toBe('ERR_DISPOSED')
    }))

  test('a freed tensor cannot be used, a queued one can be freed', () =>
    withDevice({}, async (device) => {
      const x = full(device.queue, [4], 1)
      const y = add(device.queue, x, x)
      x.storage.release()
      expect(await values(device.queue, y)).toEqual([2, 2, 2, 2])
      expect(thrown(() => device.queue.read(x.storage, 0, 4)).code).toBe('ERR_DISPOSED')
      const before = device.memory().liveStorages
      const error = thrown(() =>
        device.queue.enqueue(kernel(device, 'copy_into(target!, source)'), [y, x], []),
      )
      expect(error.code).toBe('ERR_DISPOSED')
      expect(device.memory().liveStorages).toBe(before)
      y.storage.release()
    }))

  test('closing rejects what is awaited, twice is once, and everything after is typed', async () => {
    const device = Device.open()
    const x = full(device.queue, [512, 512], 1)
    const waiting = rejection(values(device.queue, x))
    device.close()
    device.close()
    expect((await waiting).code).toBe('ERR_DISPOSED')
    expect(thrown(() => full(device.queue, [1], 1)).code).toBe('ERR_DISPOSED')
    expect(thrown(() => device.queue.fence()).code).toBe('ERR_DISPOSED')
    expect(thrown(() => device.memory()).code).toBe('ERR_DISPOSED')
    expect((await rejection(device.sync())).code).toBe('ERR_DISPOSED')
    x.storage.release()
  })

  test('tensors of two devices do not mix', () =>
    withDevice({}, async (one) => {
      await withDevice({}, async (two) => {
        const x = full(one.queue, [4], 1)
        const y = full(two.queue, [4], 1)
        const error = thrown(() => one.queue.enqueue(kernel(one, 'copy_into(target!, source)'), [x, y], []))
        expect(error.code).toBe('ERR_DEVICE')
        for (const t of [x, y]) t.storage.release()
      })
    }))
})

describe('records', () => {
  test('the number of tensors must fit the signature', () =>
    withDevice({}, async (device) => {
      const x = full(device.queue, [4], 1)
      const error = thrown(() => device.queue.enqueue(kernel(device, 'add(a, b) -> (y)'), [x], []))
      expect(error.message).toBe('add: 1 tensors do not fit add(a, b) -> (y)')
      x.storage.release()
    }))

  test('signatures', () => {
    expect(parseSignature('adam_w(norm, state!, ...(param!, low!?, grad, m!, v!)) [beta1, beta2]')).toEqual({
      name: 'adam_w',
      writes: [false, true, true, true, false, true, true],
      fixed: 2,
      group: 5,
      attributes: 2,
    })
    expect(parseSignature('split(x) -> (...(y?)) [axis]')).toEqual({
      name: 'split',
      writes: [false, true],
      fixed: 1,
      group: 1,
      attributes: 1,
    })
    expect(parseSignature('full() -> (y) [value]').writes).toEqual([true])
    for (const bad of ['', 'x', 'x(', 'x(a!!)', 'x(a) -> y', 'x(a) [b', 'x(a,)']) {
      expect(thrown(() => parseSignature(bad)).code, bad).toBe('ERR_FORMAT')
    }
  })

  test('shape messages have one form', () => {
    const error = shapeError('rmsNorm', 'w', '[768] to match x [4,128,768]', [512])
    expect(error.message).toBe('rmsNorm: w must be [768] to match x [4,128,768], received [512]')
    expect(error.code).toBe('ERR_SHAPE')
  })
})
