// Copies and fills. What a copy holds is checked by goldens: cast rounds as PyTorch does.

import { addInto, addIntoOp } from '../../lib/ops/add-into.ts'
import { castOp, concatOp, contiguousOp, copyIntoOp } from '../../lib/ops/copy.ts'
import { fillOp, iotaOp } from '../../lib/ops/create.ts'
import { dtypeCodes } from '../../lib/tensor/dtype.ts'
import type { Tensor } from '../../lib/tensor/tensor.ts'
import { type CaseDType, defineCases, type OpCase } from './cases.ts'

const INTEGERS: readonly CaseDType[] = ['i32', 'u32', 'i8', 'u8', 'u16']

const integerCasts: OpCase[] = INTEGERS.flatMap((dtype): OpCase[] => [
  {
    name: `to ${dtype}`,
    inputs: { x: { shape: [5, 9], fill: { range: [-1000, 1000] } } },
    attributes: { dtype: dtypeCodes[dtype] },
  },
  {
    name: `from ${dtype}`,
    dtypes: ['f32'],
    inputs: { x: { shape: [5, 67], dtype, fill: { range: [0, 100] } } },
    attributes: { dtype: dtypeCodes.f32 },
  },
  {
    name: `bf16 from ${dtype}`,
    dtypes: ['f32'],
    inputs: { x: { shape: [33], dtype, fill: { range: [0, 100] } } },
    attributes: { dtype: dtypeCodes.bf16 },
  },
])

export default [
  defineCases(castOp, {
    cases: [
      {
        name: 'to f32',
        inputs: { x: [3, 65] },
        attributes: { dtype: dtypeCodes.f32 },
        noFiniteDifferences: 'a step of 1e-6 is lost in float32',
      },
      {
        name: 'to bf16',
        inputs: { x: [3, 65] },
        attributes: { dtype: dtypeCodes.bf16 },
        noFiniteDifferences: 'rounding is a staircase',
      },
      {
        name: 'to f64',
        inputs: { x: { shape: [4, 33], strides: 'padded' } },
        attributes: { dtype: dtypeCodes.f64 },
      },
      {
        name: 'to bf16, transposed',
        inputs: { x: { shape: [67, 130], strides: 'transposed' } },
        attributes: { dtype: dtypeCodes.bf16 },
        noFiniteDifferences: 'rounding is a staircase',
      },
      {
        name: 'to bf16, many tiles',
        inputs: { x: [70_003] },
        attributes: { dtype: dtypeCodes.bf16 },
        noFiniteDifferences: 'rounding is a staircase',
      },
      ...integerCasts,
      { name: 'empty', inputs: { x: [0] }, attributes: { dtype: dtypeCodes.bf16 } },
    ],
    bench: [
      {
        name: 'to bf16',
        inputs: { x: [4096, 2048] },
        attributes: { dtype: dtypeCodes.bf16 },
        dtypes: ['f32'],
      },
      {
        name: 'to f32',
        inputs: { x: [4096, 2048] },
        attributes: { dtype: dtypeCodes.f32 },
        dtypes: ['bf16'],
      },
    ],
  }),
  defineCases(contiguousOp, {
    cases: [
      { name: 'one', inputs: { x: [1] } },
      { name: 'scalar', inputs: { x: [] } },
      { name: 'odd', inputs: { x: [3, 65] } },
      { name: 'padded', inputs: { x: { shape: [4, 33], strides: 'padded' } } },
      { name: 'transposed', inputs: { x: { shape: [2, 15, 7], strides: 'transposed' } } },
      { name: 'transposed squares', inputs: { x: { shape: [2, 65, 190], strides: 'transposed' } } },
      { name: 'eight axes', inputs: { x: { shape: [1, 2, 1, 3, 2, 1, 9, 10], strides: 'transposed' } } },
      {
        name: 'bytes',
        inputs: { x: { shape: [33, 35], dtype: 'u8', fill: { range: [0, 256] }, strides: 'transposed' } },
      },
      {
        name: 'double',
        dtypes: ['f32'],
        inputs: { x: { shape: [17, 21], dtype: 'f64', strides: 'transposed' } },
      },
      { name: 'empty', inputs: { x: [3, 0] } },
    ],
    bench: [{ inputs: { x: { shape: [4096, 2048], strides: 'transposed' } } }],
  }),
  defineCases(copyIntoOp, {
    cases: [
      { name: 'dense', inputs: { target: [3, 17], source: [3, 17] } },
      { name: 'padded target', inputs: { target: { shape: [4, 9], strides: 'padded' }, source: [4, 9] } },
      {
        name: 'transposed target',
        inputs: { target: { shape: [70, 67], strides: 'transposed' }, source: [70, 67] },
      },
      {
        name: 'transposed source',
        inputs: { target: [9, 5], source: { shape: [9, 5], strides: 'transposed' } },
      },
      {
        name: 'both transposed',
        inputs: {
          target: { shape: [33, 40], strides: 'transposed' },
          source: { shape: [33, 40], strides: 'transposed' },
        },
      },
      { name: 'empty', inputs: { target: [0, 2], source: [0, 2] } },
    ],
    errors: [
      {
        name: 'shape',
        inputs: { target: [3], source: [4] },
        code: 'ERR_SHAPE',
        message: /source must be \[3\]/,
      },
    ],
  }),
  defineCases(addIntoOp, {
    call: ([target, source]) => {
      addInto(target as Tensor, source as Tensor)
      return []
    },
    cases: [
      { name: 'odd', inputs: { target: [3, 65], source: [3, 65] } },
      { name: 'padded source', inputs: { target: [4, 33], source: { shape: [4, 33], strides: 'padded' } } },
      { name: 'padded target', inputs: { target: { shape: [4, 33], strides: 'padded' }, source: [4, 33] } },
      {
        name: 'transposed source',
        inputs: { target: [67, 70], source: { shape: [67, 70], strides: 'transposed' } },
      },
      {
        name: 'transposed target',
        inputs: { target: { shape: [67, 70], strides: 'transposed' }, source: [67, 70] },
      },
      { name: 'into float32', inputs: { target: { shape: [5, 66], dtype: 'f32' }, source: [5, 66] } },
      { name: 'many tiles', inputs: { target: [33_000], source: [33_000] } },
      { name: 'empty', inputs: { target: [0], source: [0] } },
    ],
    errors: [
      { name: 'shape', inputs: { target: [3], source: [4] }, code: 'ERR_SHAPE', message: /source must be/ },
    ],
    bench: [{ inputs: { target: [4096, 768], source: [4096, 768] } }],
  }),
  defineCases(concatOp, {
    cases: [
      {
        name: 'rows',
        inputs: {},
        groups: [{ part: [2, 5] }, { part: [3, 5] }, { part: { shape: [1, 5], strides: 'padded' } }],
        attributes: { axis: 0 },
      },
      {
        name: 'columns',
        inputs: {},
        groups: [{ part: [3, 5] }, { part: { shape: [3, 2], strides: 'transposed' } }],
        attributes: { axis: 1 },
      },
      {
        name: 'middle',
        inputs: {},
        groups: [{ part: [2, 3, 65] }, { part: [2, 1, 65] }],
        attributes: { axis: 1 },
      },
      {
        name: 'one empty',
        inputs: {},
        groups: [{ part: [0, 3] }, { part: [2, 3] }],
        attributes: { axis: 0 },
      },
    ],
    errors: [
      {
        name: 'other axis',
        inputs: {},
        groups: [{ part: [2, 5] }, { part: [2, 4] }],
        attributes: { axis: 0 },
        code: 'ERR_SHAPE',
        message: /part must be/,
      },
    ],
    bench: [{ inputs: {}, groups: [{ part: [4096, 768] }, { part: [4096, 256] }], attributes: { axis: 1 } }],
  }),
  defineCases(fillOp, {
    cases: [
      { name: 'odd', inputs: { y: [3, 65] }, attributes: { value: -2.5 } },
      { name: 'padded', inputs: { y: { shape: [3, 17], strides: 'padded' } }, attributes: { value: 7 } },
      {
        name: 'transposed',
        inputs: { y: { shape: [18, 17], strides: 'transposed' } },
        attributes: { value: 7 },
      },
      {
        name: 'integers',
        inputs: { y: { shape: [33], dtype: 'i32', fill: { values: [9] } } },
        attributes: { value: -4 },
      },
      { name: 'empty', inputs: { y: [0, 3] }, attributes: { value: 1 } },
    ],
    bench: [{ inputs: { y: [4096, 768] }, attributes: { value: 1 } }],
  }),
  defineCases(iotaOp, {
    cases: [
      { name: 'count', inputs: { y: [37] }, attributes: { start: 3, step: 2 } },
      {
        name: 'integers',
        inputs: { y: { shape: [129], dtype: 'i32', fill: { values: [9] } } },
        attributes: { start: 5, step: -3 },
      },
      { name: 'empty', inputs: { y: [0] }, attributes: { start: 0, step: 1 } },
    ],
  }),
]
