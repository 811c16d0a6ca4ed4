// The primitives, for references to compose.
export { addInto } from './add-into.ts'
export {
  add,
  clamp,
  div,
  equal,
  greater,
  greaterEqual,
  less,
  lessEqual,
  maximum,
  minimum,
  mul,
  notEqual,
  sub,
  where,
} from './binary.ts'
export { cast, concat, contiguous, copyInto } from './copy.ts'
export { empty, fill, full, iota, ones, tensor, zeros } from './create.ts'
export { cumsum } from './cumsum.ts'
export { matmul } from './matmul.ts'
export { randomKey, uniform } from './random.ts'
export { argmax, max, mean, min, sum } from './reduce.ts'
export { gather, indexSelect, scatterAdd, take } from './take.ts'
export { abs, cos, erf, exp, log, neg, pow, rsqrt, sigmoid, sin, sqrt, square, tanh } from './unary.ts'
