// Patches of test/traps still fit the tree: `npm run test:traps`, which tries them, takes minutes.

import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = join(root, 'test/traps')
const patches = readdirSync(folder).filter((name) => name.endsWith('.patch'))

test('every patch names a test and applies', () => {
  const problems = patches.flatMap((name) => {
    const text = readFileSync(join(folder, name), 'utf8')
    const file = /^test: (.+)$/m.exec(text)?.[1]
    const title = /^name: (trap .+)$/m.exec(text)?.[1]
    if (file === undefined || title === undefined || !existsSync(join(root, file))) return `${name}: no test`
    const { status, stderr } = spawnSync('git', ['apply', '--check', join(folder, name)], {
      cwd: root,
      encoding: 'utf8',
    })
    return status === 0 ? [] : `${name}: ${stderr.trim()}`
  })
  expect(problems).toEqual([])
  expect(patches.length).toBeGreaterThan(80)
})
