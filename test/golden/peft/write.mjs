// Bases, adapters and logits of this library for PEFT to read: node test/golden/peft/write.mjs FOLDER, then
// make.py check FOLDER. Needs the built library.

import { join } from 'node:path'
import { Gpt2, Llama, LoraAdapter, noGrad, ops, randn, randomKey, saveModel, saveTensors, scope, tensor } from 'fuselm'

const llama = {
  vocabSize: 40,
  hiddenSize: 16,
  intermediateSize: 24,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 64,
}
const gpt2 = { vocabSize: 40, nEmbd: 16, nLayer: 2, nHead: 2, nPositions: 64 }
const all = { rank: 3, alpha: 5, rsLora: true, rankPattern: { o_proj: 5 }, alphaPattern: { down_proj: 7 } }
const cases = {
  names: [new Llama(llama), { rank: 4, alpha: 8, targets: ['q_proj', 'v_proj'] }],
  all: [new Llama(llama), all],
  saved: [new Llama({ ...llama, tieWordEmbeddings: false }), { targets: ['v_proj', 'embed_tokens'], modulesToSave: ['lm_head'] }],
  expression: [new Llama(llama), { targets: String.raw`.*\.1\.(self_attn\.[kv]|mlp\.gate)_proj` }],
  bf16: [new Llama(llama, { dtype: 'bf16' }), { targets: ['q_proj', 'gate_proj'] }],
  gpt2: [new Gpt2(gpt2), { rank: 4, targets: ['c_attn', 'c_fc', 'c_proj', 'wte'] }],
}
const ids = Int32Array.from({ length: 18 }, (_, i) => (i * 7 + 3) % 40)
for (const [name, [model, options]] of Object.entries(cases)) {
  const folder = join(process.argv[2], name)
  const adapter = new LoraAdapter(model, options)
  let call = 0
  const randomize = (parameter, std) =>
    noGrad(() => scope(() => {
      const values = randn(parameter.shape, randomKey(1, { call: call++ }), { std })
      ops.copyInto(parameter, ops.cast(values, parameter.dtype))
    }))
  for (const parameter of model.parameters()) randomize(parameter, 0.2)
  for (const parameter of adapter.namedParameters().values()) randomize(parameter, 0.3)
  await saveModel(model, join(folder, 'base'))
  await adapter.save(join(folder, 'adapter'))
  // float32 logits of what stands in the files
  const wide = model instanceof Gpt2 ? new Gpt2(model.config) : new Llama(model.config)
  const state = [...model.stateDict()].map(([path, t]) => [path, ops.cast(t, 'f32')])
  wide.loadStateDict(new Map(state))
  const beside = new LoraAdapter(wide, options)
  const own = [...adapter.namedParameters().values()]
  noGrad(() => [...beside.namedParameters().values()].forEach((p, i) => ops.copyInto(p, ops.cast(own[i], p.dtype))))
  const input = tensor(ids, { shape: [2, 9], dtype: 'i32' })
  const logits = noGrad(() => wide.forward(input, { adapter: beside }))
  await saveTensors(join(folder, 'expected.safetensors'), Object.entries({ ids: input, logits }))
}
