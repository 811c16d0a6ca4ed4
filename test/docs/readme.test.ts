// The samples of README.md compile under the repository's own settings and run as they stand.

import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { expect, test } from 'vitest'

const root = join(import.meta.dirname, '../..')
const folder = join(root, 'build/readme') // below the package, so that `fuselm` is this checkout
const readme = readFileSync(join(root, 'README.md'), 'utf8')
const samples = [...readme.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map((match) => match[1] ?? '')

function run(args: readonly string[]): string {
  const result = spawnSync(process.execPath, args, { cwd: folder, encoding: 'utf8' })
  expect(result.status, `${result.stdout}${result.stderr}`).toBe(0)
  return result.stdout
}

test('the sample compiles, trains, and prints what it learnt', () => {
  expect(samples).toHaveLength(1)
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'sample.ts'), samples[0] ?? '')
  const compilerOptions = { noEmit: false, incremental: false, outDir: 'out', rootDir: '.', paths: {} }
  writeFileSync(
    join(folder, 'tsconfig.json'),
    JSON.stringify({ extends: '../../tsconfig.json', compilerOptions, include: ['sample.ts'] }),
  )
  run([createRequire(import.meta.url).resolve('typescript/bin/tsc'), '-p', '.'])
  const output = run(['out/sample.js'])
  const losses = [...output.matchAll(/^step \d+: loss ([\d.]+)$/gm)].map((match) => Number(match[1]))
  expect(losses).toHaveLength(6)
  expect(losses.at(-1)).toBeLessThan(0.5)
  expect(output).toContain("after 'the cat sat on the m' comes 'a'")
}, 120_000)

test('the samples of the facade run, made small: the adapter goes on where the model was left', () => {
  const facade = [...readme.matchAll(/^```js\n([\s\S]*?)^```$/gm)].map((match) => match[1] ?? '')
  expect(facade).toHaveLength(2)
  const sample = facade.join('')
  const small: [string, string][] = [
    ['{ files, vocabSize: 4096 }', '{ files, vocabSize: 300 }'],
    ['contextLength: 256', 'contextLength: 32'],
    ['hiddenSize: 256, numHiddenLayers: 8', 'hiddenSize: 32, numHiddenLayers: 1'],
    ['intermediateSize: 768', 'intermediateSize: 64'],
    ['steps: 1000', 'steps: 3'],
    ["out: 'runs/first'", "out: 'runs/first', overwrite: true"],
    ['topP: 0.92', 'topP: 0.92, maxNewTokens: 8'],
    ["out: 'runs/support', epochs: 3", "out: 'runs/support', overwrite: true, steps: 3"],
    ["adapter: 'support' }", "adapter: 'support', maxNewTokens: 8 }"],
  ]
  let code = `const files = ['../../README.md', '../../docs/architecture.md', '../../docs/log.md']\n${sample}`
  for (const [from, to] of small) {
    expect(code).toContain(from)
    code = code.replace(from, to)
  }
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'facade.mjs'), code)
  expect(run(['facade.mjs'])).toMatch(/^3 [\d.]+\n/)
  expect(Object.keys(JSON.parse(readFileSync(join(folder, 'out/model/config.json'), 'utf8')))).toContain(
    'hidden_size',
  )
  expect(
    Object.keys(JSON.parse(readFileSync(join(folder, 'out/support/adapter_config.json'), 'utf8'))),
  ).toContain('lora_alpha')
}, 60_000)

test('commands and files it names exist', () => {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>
  }
  const contributing = readFileSync(join(root, 'CONTRIBUTING.md'), 'utf8')
  for (const text of [readme, contributing]) {
    for (const [, name] of text.matchAll(/npm run ([\w:-]+)/g)) {
      expect(Object.keys(scripts)).toContain(name)
    }
    for (const [, path] of text.matchAll(/\]\(((?!https?:)[^)#]+)\)/g)) {
      expect(() => readFileSync(join(root, path ?? '')), path).not.toThrow()
    }
  }
})
