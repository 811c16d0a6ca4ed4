import { normalOp } from '../../lib/ops/normal.ts'
import { type CaseInputs, defineCases } from './cases.ts'

// angles are rounded to float32: 2 pi u is off by up to 2^-22, times a radius of at most 5.8
const tolerance = {
  f32: { rtol: 1.3e-6, atol: 1e-5, reason: '2.4e-7 of angle times a radius of at most 5.8' },
}

const call = (shape: readonly number[], words: readonly number[]): CaseInputs => ({
  key: { shape: [4], dtype: 'u32', fill: { values: words } },
  y: shape,
})

export default defineCases(normalOp, {
  cases: [
    { name: 'odd', inputs: call([3, 65], [1, 2, 3, 4]), attributes: { std: 1 }, tolerance },
    { name: 'tiles', inputs: call([16384 + 33], [7, 0, 0, 9]), attributes: { std: 0.02 }, tolerance },
    { name: 'one', inputs: call([1], [5, 6, 7, 8]), attributes: { std: 3 }, tolerance },
    { name: 'empty', inputs: call([0, 5], [5, 6, 7, 8]), attributes: { std: 1 } },
  ],
  errors: [
    {
      name: 'key of two words',
      inputs: { key: { shape: [2], dtype: 'u32', fill: { values: [1] } }, y: [3] },
      attributes: { std: 1 },
      code: 'ERR_SHAPE',
      message: /normal: key must be \[4\]/,
    },
  ],
  bench: [{ inputs: call([4096, 768], [1, 0, 0, 0]), attributes: { std: 0.02 } }],
})
