// Every op, dtype and ISA level of this machine; see runner/matrix.ts. FUSELM_OPS=rope,add runs some.

import { afterAll, describe, expect, test } from 'vitest'
import { matrixTests } from './runner/matrix.ts'

const only = (process.env['FUSELM_OPS'] ?? '').split(',').filter((name) => name !== '')
const { tests, tally } = await matrixTests(only)

// A plugin of one's own may be the checked one, which takes ten times as long.
const timeout = process.env['FUSELM_CUDA_PLUGIN'] === undefined ? 120_000 : 1_200_000

describe('op matrix', () => {
  for (const { name, run } of tests) {
    test(name, { timeout }, async () => {
      expect((await run()).join('\n')).toBe('')
    })
  }
})

afterAll(() => {
  console.log(`executions per kernel variant:\n${tally.table()}`)
})
