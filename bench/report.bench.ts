// Draws the latest results (bench/results/*.json) as rooflines and bars in one page.
//
//   npm run bench -- report [--out bench/results/report.html]

import { writeFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { page } from './report/page.ts'
import { readResults } from './report/results.ts'

/** A text: it is printed, and nothing is recorded. */
export async function run(argv: readonly string[]): Promise<string> {
  const { values } = parseArgs({
    args: [...argv],
    options: { out: { type: 'string', default: 'bench/results/report.html' } },
  })
  const { results, problems } = await readResults('bench/results')
  if (results.length === 0 && problems.length === 0) {
    throw new Error('bench/results is empty: run a bench first, such as npm run bench -- gemm --peers')
  }
  await writeFile(values.out, page(results, problems))
  return [
    ...problems.map((problem) => `not drawn: ${problem}`),
    `${values.out}: ${results.length} results`,
  ].join('\n')
}
