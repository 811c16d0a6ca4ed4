import { adamWOp } from '../../lib/ops/adam_w.ts'
import { type CaseInputs, defineCases, type InputSpec } from './cases.ts'

const positive = { range: [0, 2] } as const
/** A parameter with its gradient and state; `low` for a bf16 one, whose low half starts at zero. */
function parameter(shape: readonly number[], low = false): CaseInputs {
  return {
    param: shape,
    ...(low ? { low: { shape, fill: { values: [0] } } satisfies InputSpec } : {}),
    grad: shape,
    m: { shape, fill: { scale: 0.1 } },
    v: { shape, fill: positive },
  }
}

function call(parameters: number, { norm = 3, learningRate = 1e-2, scale = 1, steps = 4 } = {}): CaseInputs {
  return {
    norm: { shape: [], fill: { values: [norm] } },
    hyper: { shape: [2], fill: { values: [learningRate, scale] } },
    decay: { shape: [parameters], fill: { values: [0.1, 0] } },
    state: { shape: [2], fill: { values: [steps, 2] } },
  }
}

const attributes = { beta1: 0.9, beta2: 0.95, eps: 1e-8, clipNorm: 1 }
const odd = [1, 15, 17, 31, 33, 63, 65, 127].map((n) => parameter([3, n]))
const lowIsBits =
  'bits of the master below bf16, which the reference does not compute: test/unit/adam-w.test.ts'

export default defineCases(adamWOp, {
  cases: [
    { name: 'odd sizes', inputs: call(odd.length), groups: odd, attributes },
    { name: 'first step', inputs: call(1, { steps: 0 }), groups: [parameter([65])], attributes },
    {
      name: 'no clipping',
      inputs: call(1),
      groups: [parameter([65])],
      attributes: { ...attributes, clipNorm: 0 },
    },
    { name: 'below the threshold', inputs: call(1, { norm: 0.5 }), groups: [parameter([65])], attributes },
    { name: 'scaled gradients', inputs: call(1, { scale: 0.25 }), groups: [parameter([65])], attributes },
    {
      name: 'momentum off',
      inputs: call(1),
      groups: [parameter([33])],
      attributes: { ...attributes, beta1: 0 },
    },
    {
      name: 'empty and scalar',
      inputs: call(3),
      groups: [parameter([0]), parameter([]), parameter([2, 0])],
      attributes,
    },
    { name: 'several chunks', inputs: call(2), groups: [parameter([3, 32769]), parameter([17])], attributes },
    {
      name: 'norm is NaN',
      inputs: call(2, { norm: Number.NaN }),
      groups: [parameter([33]), parameter([5])],
      attributes,
    },
    {
      name: 'norm is infinite',
      inputs: call(1, { norm: Number.POSITIVE_INFINITY }),
      groups: [parameter([33])],
      attributes,
    },
    {
      name: 'split master',
      dtypes: ['bf16'],
      inputs: call(8),
      groups: [1, 15, 17, 31, 33, 63, 65, 127].map((n) => parameter([n], true)),
      attributes,
      ignoreOutputs: Object.fromEntries(Array.from({ length: 8 }, (_, i) => [`${i}.low!`, lowIsBits])),
    },
  ],
  errors: [
    {
      name: 'gradient of another shape',
      inputs: call(1),
      groups: [{ ...parameter([8]), grad: [9] }],
      attributes,
      code: 'ERR_SHAPE',
      message: /adamW: grad must be \[8\] like param, received \[9\]/,
    },
    {
      name: 'one decay too few',
      inputs: call(1),
      groups: [parameter([8]), parameter([8])],
      attributes,
      code: 'ERR_SHAPE',
      message: /adamW: decay must be \[2\]/,
    },
    {
      name: 'low for f32',
      inputs: call(1),
      groups: [parameter([8], true)],
      attributes,
      code: 'ERR_SHAPE',
      message: /adamW: low must be absent/,
    },
    {
      name: 'beta2 of 1',
      inputs: call(1),
      groups: [parameter([8])],
      attributes: { ...attributes, beta2: 1 },
      code: 'ERR_VALUE',
      message: /adamW: beta2 must be in \[0, 1\)/,
    },
  ],
  bench: [{ inputs: call(1), groups: [parameter([50304, 768])], attributes, dtypes: ['f32'] }],
})
