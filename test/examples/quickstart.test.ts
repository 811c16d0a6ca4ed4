// What the quickstart judges by, and that a killed one goes on to the same model.
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { buildSync } from 'esbuild'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { isInterfaceMember, judge } from '../../examples/completions.ts'
import { findDeclarations } from '../../examples/declarations.ts'

const ROOT = fileURLToPath(new URL('../../', import.meta.url))

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fuselm-quickstart-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function write(path: string, text: string): void {
  mkdirSync(dirname(join(folder, path)), { recursive: true })
  writeFileSync(join(folder, path), text)
}

describe('a line is a member of an interface', () => {
  test.each([
    'name: string;',
    'readonly name?: string | undefined;',
    'getName(this: Node): string',
    '<T extends object>(value: T): T;',
    'new (text: string): Parser;',
    '[key: string]: unknown;',
    'get size(): number;',
    'on(event: "close", listener: () => void): this;',
  ])('%s', (line) => expect(isInterfaceMember(line)).toBe(true))

  test.each([
    'name',
    '* The name of the node.',
    '// name: string',
    'name string;',
    'export interface Foo {',
    '}',
    'getName(: string;',
    'return x;',
    'a: string; b: number;',
    '} interface Y {',
    'name: ;',
  ])('%s: not', (line) => expect(isInterfaceMember(line)).toBe(false))
})

describe('a completion', () => {
  test('an unfinished last line does not count, unless the text ended there', () => {
    expect(judge(' Foo {\n    name: string', false)).toEqual({ member: null, repeats: 1 })
    expect(judge(' Foo {\n    name: string', true)).toEqual({ member: 'name: string', repeats: 1 })
  })

  test('counts the line that stands there most often, but for mere braces', () => {
    const text = '{\n/**\n * A.\n */\n  a: string;\n/**\n */\n/**\n */\na: string;\n/**\n */\n  b: string;\n'
    expect(judge(text, false)).toEqual({ member: 'a: string;', repeats: 2 })
    expect(judge('x;\n'.repeat(4), false)).toMatchObject({ repeats: 4 })
    expect(judge('', false)).toEqual({ member: null, repeats: 0 })
  })
})

describe('the corpus', () => {
  test('copies are left out wherever they stand; families are held out as wholes', async () => {
    const text = (name: string, lines: number): string => `declare const ${name}: string\n`.repeat(lines)
    for (let i = 0; i < 24; i++) write(`corpus/node_modules/package${i}/index.d.ts`, text(`a${i}`, 10))
    write('corpus/node_modules/@package3/core/index.d.ts', text('b', 10))
    write('corpus/node_modules/package3-more/index.d.ts', text('c', 10))
    write('corpus/node_modules/package5/node_modules/inner/copy.d.ts', text('a7', 10))
    write('corpus/node_modules/package5/index.js', 'not a declaration')
    write('corpus/node_modules/large/index.d.ts', text('large', 100))
    const found = await findDeclarations(join(folder, 'corpus/node_modules'))
    expect(found.copies).toBe(1)
    expect(found.train.length + found.heldOut.length).toBe(27)
    const familyOf = (path: string): string =>
      /node_modules\/@?([a-z]+\d*)[^/]*\/(?!.*node_modules)/.exec(path)?.[1] ?? ''
    const trained = new Set(found.train.map(familyOf))
    const held = new Set(found.heldOut.map(familyOf))
    expect([...held].filter((name) => trained.has(name))).toEqual([])
    expect([...held].sort()).toEqual([...found.heldOutFamilies].sort())
    expect(trained.has('large')).toBe(true)
    const share = found.heldOutBytes / (found.heldOutBytes + found.trainBytes)
    expect(share).toBeGreaterThan(0.05)
    expect(share).toBeLessThan(0.15)
    expect(await findDeclarations(join(folder, 'corpus/node_modules'))).toEqual(found)
  })
})

describe('the job', () => {
  const program = join(ROOT, 'build/test/quickstart.js')
  let data: string
  beforeAll(() => {
    buildSync({
      entryPoints: [join(ROOT, 'examples/quickstart.ts')],
      outfile: program,
      bundle: true,
      packages: 'external',
      format: 'esm',
      platform: 'node',
      target: 'node20.19',
      logLevel: 'warning',
    })
    data = join(folder, 'node_modules')
    for (let i = 0; i < 40; i++) {
      const members = Array.from(
        { length: 120 },
        (_, k) => `  value${(i * k) % 17}: Type${k % 5}; // ${i}.${k}`,
      )
      write(`node_modules/some${i}/index.d.ts`, `export interface Options {\n${members.join('\n')}\n}\n`)
    }
  })

  interface Ended {
    readonly status: number | null
    readonly output: string
  }

  function run(out: string, killWhen: (() => boolean) | null, judgeFrom = '0'): Promise<Ended> {
    const sizes = [
      ['--vocab', '400', '--hidden', '32', '--layers', '1', '--steps', '24', '--save-every', '4'],
      ['--judge-from', judgeFrom],
    ].flat()
    const child = spawn(process.execPath, [program, '--data', data, '--out', join(folder, out), ...sizes])
    let output = ''
    let ended = false
    child.stdout.on('data', (text) => {
      output += text
    })
    child.stderr.on('data', (text) => {
      output += text
    })
    void (async () => {
      while (killWhen !== null && !ended && !killWhen()) await sleep(5)
      if (killWhen !== null) child.kill('SIGKILL')
    })()
    return new Promise((resolve) =>
      child.once('close', (status) => {
        ended = true
        resolve({ status, output })
      }),
    )
  }

  const bytes = (out: string, path: string): Buffer => readFileSync(join(folder, out, path))

  test('killed and called again: the same model, bit for bit; what is missed ends with 1', async () => {
    const whole = await run('whole', null)
    // so small a model answers nothing of use, and says so
    expect(whole.output).toMatch(/MISSED +at least 16 of 20 samples/)
    expect(whole.output).toMatch(/met +the saved model loads back with identical logits: 0 of 204,800 differ/)
    expect(whole.status).toBe(1)
    const saved = (): boolean => existsSync(join(folder, 'cut', 'run', 'checkpoint-8'))
    const cut = await run('cut', saved)
    expect(cut.status).toBeNull()
    expect(existsSync(join(folder, 'cut', 'report.html'))).toBe(false)
    const again = await run('cut', null, '1000000')
    expect(again.output).toMatch(/going on with the run in .*cut/)
    expect(again.output).not.toMatch(/step 1\/24/)
    expect(again.output).toMatch(/identical logits: 0 of/)
    // the same misses, of a model that is said to have read too little
    expect(again.output).toMatch(
      /NOT JUDGED at least 16 of 20 samples .* too little was read in the time to judge: 24,576 tokens/,
    )
    expect(again.status).toBe(0)
    for (const file of ['run/model.safetensors', 'model/model.safetensors', 'model/tokenizer.json']) {
      expect(bytes('cut', file).equals(bytes('whole', file))).toBe(true)
    }
    expect(readdirSync(join(folder, 'cut'))).toContain('report.html')
    expect(bytes('cut', 'report.html').toString()).toContain('interpolated trigram')
    // one that has ended is not gone on with
    const fresh = await run('cut', () => existsSync(join(folder, 'cut', 'run', '.lock')))
    expect(fresh.output).not.toMatch(/going on with/)
  }, 120_000)
})
