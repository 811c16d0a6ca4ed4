export { backward, grad } from './autograd/backward.ts'
export {
  type CreateOptions,
  empty,
  full,
  iota,
  ones,
  type TensorOptions,
  tensor,
  zeros,
} from './ops/create.ts'
export {
  defineOp,
  type Op,
  type OpDefinition,
  opStats,
  registeredOps,
  resetOpStats,
  spec,
} from './ops/define.ts'
export * as ops from './ops/index.ts'
export { randn, randomKey } from './ops/random.ts'
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
