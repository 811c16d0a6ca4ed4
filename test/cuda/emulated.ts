// What tests of the emulated CUDA kernels share.

import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll } from 'vitest'
import { Device } from '../../lib/index.ts'

/** A library that the emulated build makes; null where it is not built. */
export function emulated(name: string): string | null {
  const path = fileURLToPath(new URL(`../../build/cuda-emulated/${name}`, import.meta.url))
  return existsSync(path) ? path : null
}

/** The plugin of the emulator, or the checked one where FUSELM_CUDA_PLUGIN names it; null where it is not built. */
export function emulatedPlugin(): string | null {
  const named = process.env['FUSELM_CUDA_PLUGIN']
  return named?.endsWith('/libfuselm_cuda_checked.so') ? named : emulated('libfuselm_cuda_emulated.so')
}

/** In a describe block: a CPU and an emulated CUDA device, open while its tests run. */
export function bothDevices(): { readonly cpu: Device; readonly cuda: Device } {
  let cpu: Device | undefined
  let cuda: Device | undefined
  const opened = (device: Device | undefined): Device => {
    if (device === undefined) throw new Error('devices open when the tests begin')
    return device
  }
  beforeAll(() => {
    cuda = Device.open({ device: 'cuda', cudaPlugin: emulatedPlugin() ?? '', guard: true })
    cpu = Device.open({ device: 'cpu' })
  })
  afterAll(() => {
    cuda?.close()
    cpu?.close()
  })
  return {
    get cpu() {
      return opened(cpu)
    },
    get cuda() {
      return opened(cuda)
    },
  }
}
