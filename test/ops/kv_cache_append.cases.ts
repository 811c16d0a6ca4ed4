import { kvCacheAppendOp } from '../../lib/ops/kv_cache_append.ts'
import { defineCases } from './cases.ts'

type Shape = { B?: number; T: number; S: number; G?: number; D?: number }
const inputs = ({ B = 1, T, S, G = 2, D = 8 }: Shape, start: readonly number[]) => ({
  k_cache: [B, S, G, D],
  v_cache: [B, S, G, D],
  k: [B, T, G, D],
  v: [B, T, G, D],
  start: { shape: [B], fill: { values: start } },
})

export default defineCases(kvCacheAppendOp, {
  cases: [
    ...[1, 15, 17, 31, 33, 63, 65, 127].map((n) => ({
      name: `D ${n}`,
      inputs: inputs({ B: 2, T: 3, S: 9, D: n }, [0, 6]),
    })),
    { name: 'one token each, rows of different lengths', inputs: inputs({ B: 3, T: 1, S: 6 }, [0, 5, 2]) },
    { name: 'rolls over', inputs: inputs({ B: 3, T: 4, S: 6 }, [5, 100, 6]) },
    { name: 'as many as slots', inputs: inputs({ B: 2, T: 6, S: 6 }, [0, 4]) },
    { name: 'more tokens than slots: the last are kept', inputs: inputs({ B: 2, T: 20, S: 6 }, [0, 3]) },
    {
      name: 'rows inside wider ones',
      inputs: {
        k_cache: { shape: [2, 5, 2, 8], strides: 'padded' },
        v_cache: { shape: [2, 5, 2, 8], strides: 'padded' },
        k: { shape: [2, 2, 2, 8], strides: 'padded' },
        v: { shape: [2, 2, 2, 8], strides: 'padded' },
        start: { shape: [2], fill: { values: [4, 1] } },
      },
    },
    { name: 'no tokens', inputs: inputs({ T: 0, S: 4 }, [1]) },
    { name: 'no rows', inputs: inputs({ B: 0, T: 2, S: 4 }, []) },
  ],
  errors: [
    {
      name: 'a negative start',
      inputs: inputs({ B: 2, T: 1, S: 4 }, [0, -3]),
      code: 'ERR_VALUE',
      message: /kv_cache_append: start\[1\] is -3/,
    },
    {
      name: 'other heads',
      inputs: { ...inputs({ T: 1, S: 4 }, [0]), k: [1, 1, 3, 8], v: [1, 1, 3, 8] },
      code: 'ERR_SHAPE',
      message: /kvCacheAppend: k must be \[1,T,2,8\] to match k_cache/,
    },
  ],
  bench: [{ inputs: inputs({ B: 8, T: 512, S: 1024, G: 8, D: 128 }, [100]) }],
})
