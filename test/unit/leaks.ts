import { afterEach, beforeEach, expect } from 'vitest'
import { Device } from '../../lib/index.ts'

/** Every test of the file ends at the counts that it began with. */
export function expectNoLeaks(): void {
  let tensors = 0
  let storages = 0
  beforeEach(() => {
    const memory = Device.default().memory()
    tensors = memory.liveTensors
    storages = memory.liveStorages
  })
  afterEach(() => {
    const memory = Device.default().memory()
    expect(memory.liveTensors, 'live tensors').toBe(tensors)
    expect(memory.liveStorages, 'live storages').toBe(storages)
  })
}
