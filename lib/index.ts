export { LoraAdapter } from './adapters/adapter.ts'
export type { LoraConfig, LoraOptions, Targets } from './adapters/config.ts'
export { loadAdapter } from './adapters/load.ts'
export { backward, grad } from './autograd/backward.ts'
export { checkpoint } from './autograd/checkpoint.ts'
export {
  BYTE_VOCABULARY,
  decodeBytes,
  randomSource,
  randomWindows,
  readByteTokens,
  windowsAt,
} from './data/bytes.ts'
export {
  type DataProgress,
  type Split,
  type SplitOptions,
  TextDataset,
  type TextDatasetOptions,
} from './data/dataset.ts'
export type { DataRow } from './data/documents.ts'
export type { Batch } from './data/rows.ts'
export type { AdapterChoice } from './decoder/adapters.ts'
export {
  type ArchitectureOptions,
  type BatchOptions,
  Decoder,
  type DecoderGenerateOptions,
  type DecoderOptions,
  type EvaluateOptions,
  type LoadDecoderOptions,
  type Prompt,
} from './decoder/decoder.ts'
export { quantize } from './decoder/quantize.ts'
export type { Session, SessionOptions } from './decoder/session.ts'
export { type ExportedOnnx, type ExportOnnxOptions, exportOnnx } from './export/onnx.ts'
export type { Completion, GeneratedPiece, Generation, Usage } from './generate/generation.ts'
export type { FinishReason, GenerateOptions, GenerationDefaults } from './generate/options.ts'
export { parseSafetensors, SafetensorsFile } from './io/safetensors.ts'
export { writeSafetensors } from './io/safetensors-write.ts'
export { loadTensors, saveTensors } from './io/tensors.ts'
export {
  CausalLm,
  countTargets,
  type DecoderSize,
  type LossOptions,
  type ModelOptions,
  type SequenceOptions,
} from './models/causal-lm.ts'
export { type LoadModelOptions, loadModel, type SaveModelOptions, saveModel } from './models/folder.ts'
export { Gpt2 } from './models/gpt2.ts'
export type { Gpt2Config, Gpt2Options } from './models/gpt2-config.ts'
export { Llama, loadLlama, referenceModels } from './models/llama.ts'
export type { LlamaConfig, LlamaOptions } from './models/llama-config.ts'
export type { LoadProgress } from './models/weights.ts'
export * as nn from './nn/index.ts'
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
export { randn } from './ops/normal.ts'
export { randomKey } from './ops/random.ts'
export { AdamW, type AdamWOptions, type StepOptions } from './optim/adam-w.ts'
export { type Decay, type ScheduleOptions, schedule } from './optim/schedule.ts'

import './quant/compressed-tensors.ts' // registers itself

export {
  Int8Weight,
  type Int8WeightOptions,
  type QuantizeOptions,
  type QuantizeReport,
  quantizeLinears,
} from './quant/int8.ts'
export {
  type Baseline,
  type Check,
  type ReportOptions,
  type ReportSample,
  writeReport,
} from './report/report.ts'
export { type CudaStatus, cudaStatus } from './runtime/cuda.ts'
export {
  Device,
  type DeviceName,
  type DeviceOptions,
  ISA_LEVELS,
  type IsaLevel,
  type MemoryReport,
} from './runtime/device.ts'
export * from './runtime/errors.ts'
export { Queue } from './runtime/queue.ts'
export { type DType, dtypes, type TensorData } from './tensor/dtype.ts'
export { enableGrad, noGrad, withDevice, withQueue, withReference } from './tensor/mode.ts'
export { drawOnce } from './tensor/region.ts'
export { keep, scope } from './tensor/scope.ts'
export { Tensor } from './tensor/tensor.ts'
export type { ChatMessage } from './tokenizer/chat-template.ts'
export type { DecodeStream } from './tokenizer/decode.ts'
export type { EncodeOptions } from './tokenizer/encoder.ts'
export type { SplitPatternName } from './tokenizer/normalize.ts'
export {
  type ChatTemplateOptions,
  type DecodeOptions,
  type EncodeAsyncOptions,
  type SpecialTokens,
  Tokenizer,
  type TrainTokenizerOptions,
} from './tokenizer/tokenizer.ts'
export type {
  CheckpointEvent,
  DoneEvent,
  EvalEvent,
  SampleEvent,
  StepEvent,
  TrainerEvent,
} from './train/events.ts'
export type { OptimizerOptions, TrainerOptions, TrainerSchedule } from './train/options.ts'
export { Progress, type ProgressOutput } from './train/progress.ts'
export { type Evaluation, evaluate } from './train/step.ts'
export { Trainer, type TrainSummary } from './train/trainer.ts'
