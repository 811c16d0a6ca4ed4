// npm run test:traps [-- NN ...]: proves that each trap's test can fail.
//
// Every test/traps/NN*.patch puts one bug back. Each is applied in a copy of the tree (several copies in
// build/traps, one patch at a time in each), and the test that its head names must fail on a numeric
// assertion (test/traps/numeric.ts), not on a build error or a throw. A patch's head says:
//   test: test/traps/loss.test.ts
//   name: trap 02
//   levels: all             native code of all instruction levels, not of one alone
// A patch of native code makes an addon of its own (patched-addon.mjs). A patch that does not apply, and a
// trap without a patch, fail.

import { spawn, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildAddon, buildLibrary } from './build.mjs'
import { buildPatched } from './patched-addon.mjs'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const work = join(root, 'build/traps')
const only = process.argv.slice(2)
const TIMEOUT_MS = 300_000

/** Tracked files and new ones that git does not ignore; without git, all but the usual outputs. */
function sourceFiles() {
  const listed = spawnSync('git', ['ls-files', '-coz', '--exclude-standard'], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  if (listed.status === 0)
    return listed.stdout
      .split('\0')
      .filter((f) => f && existsSync(join(root, f)) && statSync(join(root, f)).isFile())
  const skipped = new Set(['node_modules', 'build', 'dist', '.git', 'prebuilds'])
  const walk = (dir) =>
    readdirSync(join(root, dir), { withFileTypes: true }).flatMap((entry) => {
      const path = join(dir, entry.name)
      if (entry.isDirectory()) return skipped.has(entry.name) ? [] : walk(path)
      return entry.isFile() ? [path] : []
    })
  return walk('.')
}

/** A copy of the tree; what is built and installed is the checkout's. */
function makeTree(name) {
  const tree = join(work, name)
  rmSync(tree, { recursive: true, force: true })
  for (const file of sourceFiles()) {
    mkdirSync(dirname(join(tree, file)), { recursive: true })
    writeFileSync(join(tree, file), readFileSync(join(root, file)))
  }
  for (const built of ['node_modules', 'dist']) symlinkSync(join(root, built), join(tree, built))
  return tree
}

/** Runs a command; its output and status, once it has ended. */
function run(command, args, { cwd, env = process.env, shell = false }) {
  return new Promise((done) => {
    const child = spawn(command, args, { cwd, env, shell, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    const take = (data) => {
      output = (output + data).slice(-20_000)
    }
    child.stdout.on('data', take)
    child.stderr.on('data', take)
    const timer = setTimeout(() => child.kill('SIGKILL'), TIMEOUT_MS)
    child.on('error', (error) => {
      output += error.message
    })
    child.on('close', (status) => {
      clearTimeout(timer)
      done({ status, output })
    })
  })
}

const runner = {
  now(command, args) {
    const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 28 })
    if (status !== 0) throw new Error(stderr)
    return stdout
  },
  async shell(command, cwd) {
    const { status, output } = await run(command, [], { cwd, shell: '/bin/sh' })
    if (status !== 0) throw new Error(output.trim().split('\n').slice(-15).join('\n'))
  },
}

/** Runs tests by name. Vitest's assertion results of those that ran. */
async function runTests(tree, { file = 'test/traps', name, env = {} }) {
  const report = join(work, `report-${tree === root ? 'root' : relative(work, tree)}.json`)
  rmSync(report, { force: true })
  const args = [
    join(root, 'node_modules/vitest/vitest.mjs'),
    'run',
    file,
    '--reporter=json',
    `--outputFile=${report}`,
    ...(name ? ['-t', name] : []),
    // modules that no patch touches are transformed once per tree
    '--experimental.fsModuleCache',
    `--experimental.fsModuleCachePath=${join(work, 'modules', relative(work, tree))}`,
  ]
  const { output } = await run(process.execPath, args, { cwd: tree, env: { ...process.env, ...env } })
  if (!existsSync(report)) return { error: `vitest wrote no report: ${output.slice(-2000)}` }
  const results = JSON.parse(readFileSync(report, 'utf8')).testResults
  const failedFile = results.find((r) => r.status === 'failed' && r.assertionResults.length === 0)
  if (failedFile) return { error: `${relative(tree, failedFile.name)}: ${failedFile.message}` }
  const tests = results.flatMap((r) => r.assertionResults)
  return { tests: tests.filter((t) => t.status === 'passed' || t.status === 'failed') }
}

const hasAvx2 = existsSync('/proc/cpuinfo') && /\bavx2\b/.test(readFileSync('/proc/cpuinfo', 'utf8'))
const level = hasAvx2 ? 'avx2' : 'generic'

/** Null when the patch does what it must; else why not. */
async function tryPatch(patch, tree) {
  const path = join(root, 'test/traps', patch)
  const text = readFileSync(path, 'utf8')
  const head = text.split(/^(?:diff --git|--- )/m)[0]
  const test = /^test: (.+)$/m.exec(head)?.[1]
  const name = /^name: (.+)$/m.exec(head)?.[1]
  if (!test || !name) return 'its head names no test'
  const touched = [...text.matchAll(/^\+\+\+ b\/(.+)$/gm)].map(([, file]) => file)
  // without the ceiling, git would take the surrounding repository for the patch's and skip files
  const env = { ...process.env, GIT_CEILING_DIRECTORIES: work }
  const applied = await run('git', ['apply', '--whitespace=nowarn', path], { cwd: tree, env })
  if (applied.status !== 0) return `does not apply: ${applied.output.trim()}`
  try {
    const own = (file) => readFileSync(join(tree, file)).equals(readFileSync(join(root, file)))
    if (touched.length === 0 || touched.every(own)) return 'changes nothing'
    const isa = {}
    if (touched.some((file) => file.startsWith('native/'))) {
      const out = join(work, 'addons', patch)
      const made = /^levels: all$/m.test(head) ? null : level
      const addon = await buildPatched({ root, tree, touched, level: made, out, run: runner })
      Object.assign(isa, { FUSELM_ADDON: addon, FUSELM_ISA: level })
    }
    return verdict(
      name,
      await runTests(tree, { file: test, name, env: { FUSELM_ADDON: addonOf(root), ...isa } }),
    )
  } catch (error) {
    return `does not build:\n${error.message}`
  } finally {
    for (const file of touched) writeFileSync(join(tree, file), readFileSync(join(root, file)))
  }
}

function addonOf(tree) {
  return join(tree, 'build/Release/fuselm.node')
}

function verdict(name, { tests, error }) {
  if (error) return error
  const named = tests.filter((t) => t.title.startsWith(name) || t.fullName.startsWith(name))
  if (named.length === 0) return `no test is named '${name}'`
  const failed = named.filter((t) => t.status === 'failed')
  if (failed.length === 0) return `'${name}' passes with the bug`
  const thrown = failed
    .flatMap((t) => t.failureMessages)
    .find((m) => !/^(?:AssertionError(?: \[\w+\])?: )?numeric:/.test(m))
  return thrown ? `'${name}' fails, but not on its numeric assertion: ${thrown.slice(0, 500)}` : null
}

let passed = 0
let failed = 0
const report = (name, problem, seconds) => {
  if (problem === null) passed++
  else failed++
  const time = seconds === undefined ? '' : ` (${seconds.toFixed(1)} s)`
  console.log(problem === null ? `ok    ${name}${time}` : `FAIL  ${name}${time}: ${problem}`)
}

buildAddon() // nothing to do after a build; its objects are linked again
buildLibrary()
const patches = readdirSync(join(root, 'test/traps'))
  .filter((f) => f.endsWith('.patch') && (only.length === 0 || only.some((n) => f.startsWith(n))))
  .sort()

async function tryClean() {
  const from = performance.now()
  const files =
    only.length === 0
      ? {}
      : { name: `trap (${only.map((n) => n.slice(0, 2).replace(/^0/, '0?')).join('|')})` }
  const { tests, error } = await runTests(root, files)
  const seconds = (performance.now() - from) / 1000
  if (error) return report('trap tests without a patch', error, seconds)
  const broken = tests.filter((t) => t.status === 'failed').map((t) => t.title)
  const problem =
    broken.length === 0 && tests.length > 0 ? null : `failing: ${broken.join(', ') || 'none ran'}`
  report(`${tests.length} trap tests without a patch`, problem, seconds)
  const traps = new Set(tests.map(({ title }) => /^trap (\d+)/.exec(title)?.[1]?.padStart(2, '0')))
  for (const trap of traps) {
    if (only.length === 0 && !patches.some((p) => p.startsWith(`${trap}-`)))
      report(`trap ${trap}`, 'no patch puts its bug back')
  }
}

async function lane(index) {
  const tree = makeTree(`tree-${index}`)
  for (let patch = queue.shift(); patch !== undefined; patch = queue.shift()) {
    const from = performance.now()
    report(patch, await tryPatch(patch, tree), (performance.now() - from) / 1000)
  }
}

const queue = [...patches]
mkdirSync(work, { recursive: true })
const started = performance.now()
const lanes = Math.max(1, Math.min(4, availableParallelism(), patches.length))
await Promise.all([tryClean(), ...Array.from({ length: lanes }, (_, index) => lane(index))])
console.log(`took ${((performance.now() - started) / 1000).toFixed(0)} s`)
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
