import { loadAddon } from './addon.ts'
import { findCudaPlugin } from './cuda-plugin.ts'
import type { NativeCudaStatus } from './native.ts'

/**
 * What is known of CUDA on this machine. `available` is false with a `reason` in one sentence: the
 * plugin is not installed, there is no driver, it is too old, or it sees no usable GPU.
 */
export interface CudaStatus {
  readonly available: boolean
  /** Empty when available. */
  readonly reason: string
  /** The plugin file that was opened, or looked for. */
  readonly pluginPath: string
  /** Toolkit and targets the plugin was built with; undefined when it is not loaded. */
  readonly build: string | undefined
  readonly devices: NativeCudaStatus['devices']
  /**
   * What multiplies matrices: cuBLASLt with its version, or why it was not found, and then kernels of our
   * own do. Undefined without a device.
   */
  readonly matrixLibrary: string | undefined
}

/**
 * Opens the CUDA plugin and asks it for devices; never throws for their absence. The plugin is
 * looked for at `pluginPath`, then FUSELM_CUDA_PLUGIN, beside the addon, and in the package fuselm-cuda.
 * @throws DeviceError when the addon itself cannot be loaded
 */
export function cudaStatus({ pluginPath }: { pluginPath?: string } = {}): CudaStatus {
  const addon = loadAddon()
  const found = addon.cudaStatus(findCudaPlugin(addon, pluginPath))
  const { path, loaded, build, matrixLibrary, reason, devices } = found
  return {
    available: devices.length > 0,
    reason,
    pluginPath: path,
    build: loaded ? build : undefined,
    devices,
    matrixLibrary: devices.length > 0 ? matrixLibrary : undefined,
  }
}
