// The graph of the LLaMA family: llama, mistral, qwen2, qwen3.

import { setImmediate as turn } from 'node:timers/promises'
import type { Llama } from '../models/llama.ts'
import { type LlamaActivation, rotarySize } from '../models/llama-config.ts'
import type { Value } from './graph.ts'
import type { DecoderGraph } from './layers.ts'
import { registerGraph } from './registry.ts'

function activation(decoder: DecoderGraph, kind: LlamaActivation, x: Value): Value {
  const { graph } = decoder
  if (kind === 'silu') return graph.op('Mul', [x, graph.op('Sigmoid', [x])])
  return graph.op('Gelu', [x], { approximate: kind === 'gelu' ? 'none' : 'tanh' })
}

registerGraph<Llama>('llama', async ({ config, model, lmHead }, decoder) => {
  const { graph } = decoder
  const rotate = decoder.rotary({ ...config, rotarySize: rotarySize(config) })
  const scale = 1 / Math.sqrt(config.headDim)
  const embedding = decoder.weight('model.embed_tokens.weight', model.embedTokens.weight)
  let x = graph.op('Gather', [embedding, decoder.inputIds])
  for (const [i, layer] of model.layers.entries()) {
    await turn()
    const place = `model.layers.${i}`
    x = graph.at(place, () => {
      const { qProj, kProj, vProj, oProj, qNorm, kNorm } = layer.selfAttn
      const input = decoder.rmsNorm(`${place}.input_layernorm`, layer.inputLayernorm, x)
      const attn = `${place}.self_attn`
      const { numAttentionHeads: heads, numKeyValueHeads: groups } = config
      const q = decoder.heads(decoder.linear(`${attn}.q_proj`, qProj, input), heads)
      const k = decoder.heads(decoder.linear(`${attn}.k_proj`, kProj, input), groups)
      const v = decoder.heads(decoder.linear(`${attn}.v_proj`, vProj, input), groups)
      const parts = {
        q: qNorm === null ? q : decoder.rmsNorm(`${attn}.q_norm`, qNorm, q),
        k: kNorm === null ? k : decoder.rmsNorm(`${attn}.k_norm`, kNorm, k),
        v,
      }
      const mixed = decoder.attention(i, parts, { scale, rotate })
      const middle = graph.op('Add', [x, decoder.linear(`${attn}.o_proj`, oProj, mixed)])
      const { postAttentionLayernorm: norm, mlp } = layer
      const between = decoder.rmsNorm(`${place}.post_attention_layernorm`, norm, middle)
      const gate = decoder.linear(`${place}.mlp.gate_proj`, mlp.gateProj, between)
      const up = decoder.linear(`${place}.mlp.up_proj`, mlp.upProj, between)
      const inner = graph.op('Mul', [activation(decoder, config.hiddenAct, gate), up])
      return graph.op('Add', [middle, decoder.linear(`${place}.mlp.down_proj`, mlp.downProj, inner)])
    })
  }
  const hidden = decoder.rmsNorm('model.norm', model.norm, x)
  if (lmHead !== null) return decoder.linear('lm_head', lmHead, hidden)
  return graph.op('MatMul', [hidden, graph.op('Transpose', [embedding], { perm: [1, 0] })])
})
