// Graphs by the model's family. Each family's file registers itself; exportOnnx knows none of them.

import type { CausalLm } from '../models/causal-lm.ts'
import { ConfigError } from '../runtime/errors.ts'
import type { Value } from './graph.ts'
import type { DecoderGraph } from './layers.ts'

/**
 * Adds a model to a graph, a layer in a turn of the event loop.
 * @returns logits [B, T, V], in the graph's dtype
 */
export type GraphBuilder<Model extends CausalLm = CausalLm> = (
  model: Model,
  decoder: DecoderGraph,
) => Promise<Value>

const builders = new Map<string, GraphBuilder>()

export function registerGraph<Model extends CausalLm>(modelType: string, build: GraphBuilder<Model>): void {
  // a builder is only ever given models of its own type
  builders.set(modelType, build as unknown as GraphBuilder)
}

/** @throws ConfigError naming the families there are */
export function graphBuilder(modelType: string): GraphBuilder {
  const build = builders.get(modelType)
  if (build !== undefined) return build
  throw new ConfigError(
    `exportOnnx: models of ${[...builders.keys()].sort().join(', ')} are exported, received ${modelType}`,
  )
}
