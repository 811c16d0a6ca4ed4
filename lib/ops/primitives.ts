// The primitives, for references to compose.
export { addInto } from './add-into.ts'
export { add, div, equal, less, maximum, minimum, mul, sub, where } from './binary.ts'
export { cast, concat, contiguous, copyInto } from './copy.ts'
export { empty, full, iota, ones, philoxKey, randn, tensor, uniform, zeros } from './create.ts'
export { matmul } from './matmul.ts'
export { argmax, max, mean, sum, sumTo } from './reduce.ts'
export { scatterAdd, take } from './take.ts'
export { abs, cos, exp, log, neg, rsqrt, sigmoid, sin, sqrt, tanh } from './unary.ts'
