import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'
// Tests may run without a build: lib/ops/index.ts has to name the ops that exist.
import './scripts/generate-barrels.mjs'

export default defineConfig({
  resolve: { alias: { fuselm: fileURLToPath(new URL('./lib/index.ts', import.meta.url)) } },
  test: {
    include: ['test/**/*.test.ts'],
    // An addon that crashes takes down its fork, not the run; two forks for two cores.
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 30_000,
  },
})
