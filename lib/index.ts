export {
  Device,
  type DeviceOptions,
  ISA_LEVELS,
  type IsaLevel,
  type MemoryReport,
} from './runtime/device.ts'
export * from './runtime/errors.ts'
export { Queue } from './runtime/queue.ts'
