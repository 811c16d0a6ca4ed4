import type { CausalLm } from '../models/causal-lm.ts'
import { Linear } from '../nn/layers.ts'
import { copyInto } from '../ops/copy.ts'
import { empty } from '../ops/create.ts'
import { Int8Weight, type QuantizeOptions } from '../quant/int8.ts'
import { ConfigError } from '../runtime/errors.ts'
import { checkOptions, shown } from '../runtime/options.ts'
import { noGrad } from '../tensor/mode.ts'
import { keep } from '../tensor/scope.ts'
import { Decoder } from './decoder.ts'

const OPTIONS = ['group', 'activations', 'include']

/**
 * A second decoder, with int8 weights in the place of the dense ones of Linears; this one stays as it is,
 * and shares nothing but the tokenizer. To have int8 weights alone, load with `weights: 'int8'`; to change a
 * model in place, see {@link quantizeLinears}.
 * @param options group: one scale per so many neighbours in a row (32, 64, 128), or per row (0, default)
 * @throws ConfigError when it has int8 weights already, or no Linear is included; ValueError for another group
 */
export async function quantize(decoder: Decoder, options: QuantizeOptions = {}): Promise<Decoder> {
  if (!(decoder instanceof Decoder))
    throw new ConfigError(`quantize: expected a Decoder, received ${shown(decoder)}`)
  checkOptions('quantize', options, OPTIONS)
  const { include = () => true, ...weights } = options
  const { model } = decoder
  const { dtype, device } = model.inputEmbedding
  const linears = [...model.namedModules()].filter(([, found]) => found instanceof Linear)
  const chosen = new Set(linears.filter(([path]) => include(path)).map(([path]) => path))
  if (chosen.size === 0) throw new ConfigError('quantize: the model has no Linear to quantise')
  const taken = linears.find(([, found]) => (found as Linear).source !== null)
  if (taken !== undefined)
    throw new ConfigError(`quantize: the weights of ${taken[0]} are not dense any more`)

  const small: CausalLm = model.untrained({
    dtype: dtype as 'f32' | 'bf16' | 'f64',
    device,
    deferLinears: true,
  })
  try {
    const targets = small.namedModules()
    for (const [path, found] of linears) {
      const { weight } = found as Linear
      const target = targets.get(path) as Linear
      if (chosen.has(path)) target.replaceWeight(new Int8Weight(weight, weights))
      else target.giveWeight(keep(empty(weight.shape, { dtype: weight.dtype, device })))
      await device.activeQueue.ready()
    }
    const parameters = model.namedParameters()
    for (const [path, target] of small.namedParameters()) {
      const source = parameters.get(path)
      if (source !== undefined) noGrad(() => copyInto(target, source))
    }
    await device.activeQueue.ready()
    return decoder.withModel(small)
  } catch (error) {
    small.dispose()
    throw error
  }
}
