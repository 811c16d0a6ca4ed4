// The matrix without a test framework, for hosts that have none: node test/ops/main.js [op ...]

import { matrixTests } from './runner/matrix.ts'

const { tests, tally } = await matrixTests(process.argv.slice(2))
let passed = 0
let failed = 0
for (const { name, run } of tests) {
  let failures: string[]
  try {
    failures = await run()
  } catch (error) {
    failures = [error instanceof Error ? (error.stack ?? error.message) : String(error)]
  }
  if (failures.length === 0) passed++
  else failed++
  console.log(failures.length === 0 ? `ok    ${name}` : `FAIL  ${name}\n      ${failures.join('\n      ')}`)
}
console.log(`\nexecutions per kernel variant:\n${tally.table()}`)
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
