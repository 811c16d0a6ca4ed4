export { type CudaStatus, cudaStatus } from './runtime/cuda.ts'
export {
  Device,
  type DeviceOptions,
  ISA_LEVELS,
  type IsaLevel,
  type MemoryReport,
} from './runtime/device.ts'
export * from './runtime/errors.ts'
export { Queue } from './runtime/queue.ts'
export { type DType, dtypes, type TensorData } from './tensor/dtype.ts'
export { enableGrad, noGrad, withDevice, withQueue, withReference } from './tensor/mode.ts'
export { keep, scope } from './tensor/scope.ts'
export { Tensor } from './tensor/tensor.ts'
