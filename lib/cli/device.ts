import { Device } from '../runtime/device.ts'
import type { Arguments } from './command.ts'

/** The option of every command that runs a model. */
export const deviceOption = {
  device: { type: 'string', value: 'auto|cpu|cuda', help: 'where it runs (auto: a GPU where there is one)' },
} as const

/** Opens what --device names and makes it the default of what follows. */
export function useDevice(args: Arguments): Device {
  return Device.of(args.oneOf('device', ['auto', 'cpu', 'cuda'] as const) ?? 'auto').makeDefault()
}
