// scripts/check-floors on small trees that each break one rule.

import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'

const ARCHITECTURE = `# Architecture

## Floors

| floor | holds |
|---|---|
| \`native/core\` | core |
| \`native/cpu\`, \`native/cuda\` | kernels |
| \`native/binding\` | binding |
| \`lib/runtime\` | loader |
| \`lib/tensor\` | tensor |
| \`lib/data\` | data |
| \`lib/adapters\` | adapters |
| \`lib/models\` | models |

## Next

| \`lib/unlisted\` | a table of another section |
`

const folders: string[] = []
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true })
})

function check(files: Readonly<Record<string, string>>): { status: number | null; output: string } {
  const root = mkdtempSync(join(tmpdir(), 'fuselm-floors-'))
  folders.push(root)
  for (const [path, text] of Object.entries({ 'docs/architecture.md': ARCHITECTURE, ...files })) {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), text)
  }
  const run = spawnSync(process.execPath, ['scripts/check-floors.mjs', root], { encoding: 'utf8' })
  return { status: run.status, output: run.stdout + run.stderr }
}

test('a tree that keeps the rules passes', () => {
  const { status, output } = check({
    'native/core/kernel.h': '#include <vector>\n#include "native/core/view.h"\n',
    'native/cpu/rms_norm.cc': '#include "native/core/kernel.h"\n#include <immintrin.h>\n',
    'native/binding/addon.cc': '#include <napi.h>\n#include "native/cpu/simd.h"\n',
    'lib/runtime/addon.ts': "import { readFileSync } from 'node:fs'\n",
    'lib/tensor/tensor.ts': "import { open } from '../runtime/addon.ts'\nimport './dtype.ts'\n",
    'lib/index.ts': "export * from './models/llama.ts'\n",
    'examples/loop.ts': "import { Tensor } from 'fuselm'\n",
    'test/unit/a.test.ts': "import { Tensor } from '../../lib/tensor/tensor.ts'\n",
  })
  expect(output).toContain('0 problems')
  expect(status).toBe(0)
})

describe('a violation fails and is named', () => {
  const cases: [name: string, file: string, text: string, message: string][] = [
    [
      'upward import',
      'lib/runtime/addon.ts',
      "import { x } from '../tensor/tensor.ts'",
      'lib/tensor stands after lib/runtime',
    ],
    [
      'upward type import',
      'lib/runtime/addon.ts',
      "import type { X } from '../tensor/tensor.ts'",
      'lib/tensor stands after lib/runtime',
    ],
    [
      'upward re-export over lines',
      'lib/tensor/a.ts',
      "export {\n  x,\n} from '../models/llama.ts'",
      'lib/tensor/a.ts:3',
    ],
    [
      'upward side-effect import',
      'lib/tensor/a.ts',
      "import '../models/llama.ts'",
      'lib/models stands after lib/tensor',
    ],
    [
      'upward dynamic import',
      'lib/tensor/a.ts',
      "await import('../models/llama.ts')",
      'lib/models stands after lib/tensor',
    ],
    [
      'data sees tensors',
      'lib/data/a.ts',
      "import { x } from '../tensor/tensor.ts'",
      'lib/data never imports lib/tensor',
    ],
    [
      'models see adapters',
      'lib/models/a.ts',
      "import { x } from '../adapters/lora.ts'",
      'lib/models never imports lib/adapters',
    ],
    [
      'the barrel',
      'lib/tensor/a.ts',
      "import { x } from '../index.ts'",
      'lib/tensor may not import lib/index.ts',
    ],
    ['cpu sees cuda', 'native/cpu/a.cc', '#include "native/cuda/a.h"', 'side by side'],
    ['cuda sees cpu', 'native/cuda/a.cu', '#include "../cpu/simd.h"', 'side by side'],
    [
      'core sees cpu',
      'native/core/a.cc',
      '#include "native/cpu/simd.h"',
      'native/cpu stands after native/core',
    ],
    [
      'napi.h outside the binding',
      'native/core/a.h',
      '#include <napi.h>',
      'only native/binding includes napi.h',
    ],
    ['CUDA headers in core', 'native/core/a.cc', '#include <cuda_runtime.h>', 'only native/cuda includes'],
    ['an unlisted floor', 'lib/unlisted/a.ts', 'export const a = 1', 'lib/unlisted/: not listed'],
    [
      'an example past the package name',
      'examples/a.ts',
      "import { x } from '../lib/index.ts'",
      'examples may not import',
    ],
    [
      'lib sees test',
      'lib/tensor/a.ts',
      "import { x } from '../../test/a.ts'",
      'lib/tensor may not import test/a.ts',
    ],
  ]
  test.each(cases)('%s', (_name, file, text, message) => {
    const { status, output } = check({ [file]: `${text}\n`, 'native/cpu/simd.h': '' })
    expect(output).toContain(message)
    expect(status).toBe(1)
  })
})

test('comments are not imports', () => {
  const { status } = check({
    'lib/runtime/a.ts': "// import { x } from '../tensor/tensor.ts'\n/* from '../models/a.ts' */\n",
    'native/core/a.h': '// #include <napi.h>\n',
  })
  expect(status).toBe(0)
})
