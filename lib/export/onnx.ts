// A decoder as an ONNX folder: for onnxruntime, and for transformers.js in a browser.

import { join } from 'node:path'
import { Decoder } from '../decoder/decoder.ts'
import { makeFolder, writeAtomic, writeTogether } from '../io/atomic.ts'
import { configText } from '../models/folder.ts'
import { Linear } from '../nn/layers.ts'
import { ConfigError } from '../runtime/errors.ts'
import { checkOptions, checkPath, shown } from '../runtime/options.ts'
import { Graph } from './graph.ts'
import './index.ts' // graphs register themselves
import { DecoderGraph } from './layers.ts'
import { graphBuilder } from './registry.ts'
import { type ExportDType, WeightStreams } from './weights.ts'

export interface ExportOnnxOptions {
  /** Of weights and activations; norms and the softmax are float32 in any case. Default `f32`. */
  readonly dtype?: ExportDType
  /**
   * Weights in a file of their own (`model.onnx_data`) beside the graph. When left out: where one file
   * would pass 2 GB, which is all that it can hold.
   */
  readonly externalData?: boolean
}

export interface ExportedOnnx {
  /** Files of the model, in the order in which they were written. */
  readonly files: readonly string[]
}

/**
 * Writes a decoder as ONNX, with the files that transformers.js wants beside it: `config.json`, the
 * tokenizer's, `generation_config.json`, and `onnx/model.onnx` (`model_fp16.onnx` in f16, `model_int8.onnx` for
 * int8 weights). Several of them may stand in one folder. Weights go to disk one after another; int8 ones
 * stay int8 (DequantizeLinear, by row or in blocks), and activations are floats in any case.
 *
 * Inputs: `input_ids`, `attention_mask` (past tokens included), `position_ids`, `past_key_values.N.key` and
 * `.value` [B, kv heads, past, head size]. Outputs: `logits` f32 [B, T, V], `present.N.key` and `.value`.
 * Opset 21, no operators of other domains.
 * @throws ConfigError for a family or a feature that is not exported; the system's error when the folder
 *   cannot be written
 * Source: https://onnx.ai/onnx/operators
 */
export async function exportOnnx(
  decoder: Decoder,
  folder: string,
  options: ExportOnnxOptions = {},
): Promise<ExportedOnnx> {
  if (!(decoder instanceof Decoder)) {
    throw new ConfigError(`exportOnnx: expected a Decoder, received ${shown(decoder)}`)
  }
  decoder.model.checkAlive('exportOnnx')
  checkPath('exportOnnx', 'folder', folder)
  checkOptions('exportOnnx', options, ['dtype', 'externalData'])
  const { dtype = 'f32', externalData } = options
  if (dtype !== 'f32' && dtype !== 'f16') {
    throw new ConfigError(`exportOnnx: dtype must be f32 or f16, received ${JSON.stringify(dtype)}`)
  }
  const { model } = decoder
  const linears = [...model.namedModules().values()].filter((found) => found instanceof Linear)
  const int8 = linears.some((linear) => (linear as Linear).source !== null)
  if (int8 && dtype !== 'f32') {
    throw new ConfigError('exportOnnx: dtype must be f32 for int8 weights: no runtime looks for other ones')
  }
  const name = `model${int8 ? '_int8' : dtype === 'f16' ? '_fp16' : ''}.onnx`

  const build = graphBuilder(model.modelType)
  const graph = new Graph()
  const decoderGraph = new DecoderGraph(graph, model.size, new WeightStreams(dtype))
  const logits = decoderGraph.wide(await build(model, decoderGraph))
  const shape = ['batch_size', 'sequence_length', model.size.vocabSize]
  graph.output('logits', 'f32', shape, logits)
  const files = graph.files(name, { external: externalData })

  await makeFolder(join(folder, 'onnx'))
  await writeTogether(join(folder, 'onnx'), files)
  await decoder.saveTokens(folder)
  // how transformers.js learns that there is a second file to fetch
  const external = files.length > 1 && { use_external_data_format: { [name]: true } }
  const further = external ? { 'transformers.js_config': external } : {}
  const config = configText(model, dtype === 'f16' ? 'float16' : 'float32', further)
  await writeAtomic(join(folder, 'config.json'), (write) => write(new TextEncoder().encode(config)))
  return { files: files.map((file) => join(folder, 'onnx', file.name)) }
}
