// The graph of GPT-2.

import { setImmediate as turn } from 'node:timers/promises'
import type { Gpt2 } from '../models/gpt2.ts'
import type { Gpt2Activation } from '../models/gpt2-config.ts'
import type { LayerNorm } from '../nn/layers.ts'
import type { Value } from './graph.ts'
import type { DecoderGraph } from './layers.ts'
import { registerGraph } from './registry.ts'

function activation(decoder: DecoderGraph, kind: Gpt2Activation, x: Value): Value {
  const { graph } = decoder
  if (kind === 'quick_gelu') {
    return graph.op('Mul', [x, graph.op('Sigmoid', [graph.op('Mul', [x, decoder.float(1.702)])])])
  }
  return graph.op('Gelu', [x], { approximate: kind === 'gelu' ? 'none' : 'tanh' })
}

function layerNorm(decoder: DecoderGraph, name: string, norm: LayerNorm, x: Value): Value {
  const weight = decoder.weight(`${name}.weight`, norm.weight, { dtype: 'f32' })
  const bias = decoder.weight(`${name}.bias`, norm.bias, { dtype: 'f32' })
  const attributes = { axis: -1, epsilon: { float: norm.eps } }
  return decoder.narrow(decoder.graph.op('LayerNormalization', [decoder.wide(x), weight, bias], attributes))
}

registerGraph<Gpt2>('gpt2', async ({ config, transformer, lmHead }, decoder) => {
  const { graph } = decoder
  const { nEmbd, nHead } = config
  const embedding = decoder.weight('transformer.wte.weight', transformer.wte.weight)
  const places = decoder.weight('transformer.wpe.weight', transformer.wpe.weight)
  let x = graph.op('Add', [
    graph.op('Gather', [embedding, decoder.inputIds]),
    graph.op('Gather', [places, decoder.positions]),
  ])
  for (const [i, layer] of transformer.h.entries()) {
    await turn()
    const place = `transformer.h.${i}`
    x = graph.at(place, () => {
      const input = layerNorm(decoder, `${place}.ln_1`, layer.ln1, x)
      const joined = decoder.linear(`${place}.attn.c_attn`, layer.attn.cAttn, input)
      const [q, k, v] = graph
        .ops('Split', [joined, graph.constant('i64', [nEmbd, nEmbd, nEmbd])], 3, { axis: -1 })
        .map((part) => decoder.heads(part, nHead)) as [Value, Value, Value]
      const mixed = decoder.attention(i, { q, k, v }, { scale: layer.attn.scale })
      const middle = graph.op('Add', [x, decoder.linear(`${place}.attn.c_proj`, layer.attn.cProj, mixed)])
      const between = layerNorm(decoder, `${place}.ln_2`, layer.ln2, middle)
      const inner = decoder.linear(`${place}.mlp.c_fc`, layer.mlp.cFc, between)
      const active = activation(decoder, config.activationFunction, inner)
      return graph.op('Add', [middle, decoder.linear(`${place}.mlp.c_proj`, layer.mlp.cProj, active)])
    })
  }
  const hidden = layerNorm(decoder, 'transformer.ln_f', transformer.lnF, x)
  if (lmHead !== null) return decoder.linear('lm_head', lmHead, hidden)
  return graph.op('MatMul', [hidden, graph.op('Transpose', [embedding], { perm: [1, 0] })])
})
