export { DropoutKeys, type DropoutOptions } from './dropout.ts'
export { Initializer, type InitOptions, type ParameterDType } from './init.ts'
export { KvCache, type KvCacheOptions, type KvCacheShape, type LayerCache } from './kv-cache.ts'
export {
  Embedding,
  type LayerCall,
  LayerNorm,
  Linear,
  type LinearOptions,
  RmsNorm,
  type SingleLinearOptions,
  type WeightAdapter,
  WeightSource,
} from './layers.ts'
export { constant, Module, parameter } from './module.ts'
export {
  type RopeFrequencies,
  type RopeScaling,
  Rotary,
  type RotaryConfig,
  type RotaryPlace,
  ropeFrequencies,
} from './rotary.ts'
export type { StoredTensor, WeightFile, WeightFormat, WeightReader } from './weight-format.ts'
