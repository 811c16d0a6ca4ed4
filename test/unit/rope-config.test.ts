import { describe, expect, test } from 'vitest'
import { ConfigError } from '../../lib/index.ts'
import { completeLlamaConfig } from '../../lib/models/llama-config.ts'
import { fromHuggingFaceConfig, toHuggingFaceConfig } from '../../lib/models/llama-files.ts'

const base = {
  model_type: 'llama',
  vocab_size: 32,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  max_position_embeddings: 256,
}
const read = (more: object) => fromHuggingFaceConfig(new Map(Object.entries({ ...base, ...more })))

describe('rotary positions in config.json', () => {
  test('the names of transformers 4 and 5 say the same', () => {
    const parameters = {
      factor: 4,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 64,
    }
    const old = read({ rope_theta: 500000, rope_scaling: { rope_type: 'llama3', ...parameters } })
    const recent = read({ rope_parameters: { rope_theta: 500000, rope_type: 'llama3', ...parameters } })
    expect(recent).toEqual(old)
    expect(old.ropeTheta).toBe(500000)
    expect(old.ropeScaling).toEqual({
      ropeType: 'llama3',
      factor: 4,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalMaxPositionEmbeddings: 64,
    })
    expect(read({ rope_scaling: { type: 'linear', factor: 2 } }).ropeScaling).toEqual({
      ropeType: 'linear',
      factor: 2,
    })
  })

  test('none, and the kind default, are no scaling', () => {
    for (const more of [
      {},
      { rope_scaling: null },
      { rope_parameters: { rope_type: 'default', rope_theta: 7 } },
    ]) {
      expect(read(more).ropeScaling).toBeNull()
    }
    expect(read({ rope_parameters: { rope_theta: 7 } }).ropeTheta).toBe(7)
  })

  test('an original length outside the parameters counts for more', () => {
    const config = read({
      original_max_position_embeddings: 32,
      rope_scaling: { rope_type: 'yarn', factor: 8, original_max_position_embeddings: 64 },
    })
    expect(config.ropeScaling).toMatchObject({ originalMaxPositionEmbeddings: 32 })
  })

  test('what is written is read back', () => {
    for (const more of [
      { rope_scaling: { rope_type: 'yarn', factor: 8, beta_fast: 16, mscale_all_dim: 0.7 } },
      {
        rope_scaling: {
          rope_type: 'longrope',
          short_factor: Array(8).fill(1),
          long_factor: Array(8).fill(3),
        },
      },
      { partial_rotary_factor: 0.5 },
    ]) {
      const config = read(more)
      expect(fromHuggingFaceConfig(new Map(Object.entries(toHuggingFaceConfig(config))))).toEqual(config)
    }
  })

  test.each([
    [
      { rope_scaling: { rope_type: 'mrope', mrope_section: [1] } },
      /rope_type must be one of .*received "mrope"/,
    ],
    [{ rope_scaling: { rope_type: 'toString' } }, /rope_type must be one of/],
    [{ rope_scaling: { factor: 2 } }, /rope_type must be one of .*received "default"/],
    [
      { rope_scaling: { type: 'linear' } },
      /linear rope scaling: factor must be a positive number, received undefined/,
    ],
    [{ rope_scaling: { type: 'linear', factor: -1 } }, /factor must be a positive number, received -1/],
    [{ rope_scaling: { type: 'linear', factor: '2' } }, /factor must be a positive number, received "2"/],
    [
      { rope_scaling: { type: 'linear', factor: 2, faktor: 2 } },
      /unknown option 'faktor'; did you mean 'factor'/,
    ],
    [{ rope_scaling: 'linear' }, /rope_scaling must be an object/],
    [{ rope_scaling: [] }, /rope_scaling must be an object/],
    [{ rope_parameters: { full_attention: { rope_type: 'default' } } }, /the same for all layers/],
    [
      { rope_scaling: { rope_type: 'llama3', factor: 2, low_freq_factor: 4, high_freq_factor: 4 } },
      /highFreqFactor must be above lowFreqFactor/,
    ],
    [
      { rope_scaling: { rope_type: 'longrope', short_factor: [1, 2], long_factor: Array(8).fill(1) } },
      /shortFactor must be an array of positive numbers, 8 of them \(one per pair\), received \[1,2\]/,
    ],
    [{ partial_rotary_factor: 0.05 }, /must be even and from 2 to headDim/],
    [{ partial_rotary_factor: 1.5 }, /must be even and from 2 to headDim/],
    [
      { partial_rotary_factor: 0.2 },
      /must be even and from 2 to headDim \(16\) for rotary positions, received 3/,
    ],
  ] as const)('%j is refused', (more, message) => {
    expect(() => read(more)).toThrow(ConfigError)
    expect(() => read(more)).toThrow(message)
  })

  test('options are checked like files', () => {
    const options = {
      vocabSize: 8,
      hiddenSize: 32,
      intermediateSize: 8,
      numHiddenLayers: 1,
      numAttentionHeads: 2,
    }
    expect(() =>
      // @ts-expect-error: no such kind
      completeLlamaConfig({ ...options, ropeScaling: { ropeType: 'quadratic', factor: 2 } }),
    ).toThrow(/rope_type must be one of/)
  })
})
