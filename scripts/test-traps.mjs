// npm run test:traps [-- NN ...]: proves that each trap's test can fail.
//
// Every test/traps/NN*.patch puts one bug back. In a copy of the tree (build/traps/tree) each patch is
// applied, what it touches is rebuilt, and the test that its head names must fail on a numeric
// assertion (test/traps/numeric.ts), not on a build error or a throw. A patch's head says:
//   test: test/traps/loss.test.ts
//   name: trap 02
// A patch that does not apply, and a trap without a patch, fail.

import { execFileSync, spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const work = join(root, 'build/traps')
const tree = join(work, 'tree')
const only = process.argv.slice(2)

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

/** Makes the copy equal to the tree; files that are equal keep their mtime, so builds stay incremental. */
function sync() {
  const files = new Set(sourceFiles())
  for (const file of files) {
    const source = readFileSync(join(root, file))
    const target = join(tree, file)
    if (existsSync(target) && readFileSync(target).equals(source)) continue
    mkdirSync(dirname(target), { recursive: true })
    writeFileSync(target, source)
  }
  const prune = (dir) => {
    for (const entry of readdirSync(join(tree, dir), { withFileTypes: true })) {
      const path = join(dir, entry.name)
      if (entry.isDirectory()) {
        if (dir !== '' || !['build', 'dist'].includes(entry.name)) prune(path)
      } else if (entry.isFile() && !files.has(path)) rmSync(join(tree, path))
    }
  }
  prune('')
}

function addonFiles(dir) {
  const found = []
  const walk = (d, depth) => {
    if (!existsSync(d) || depth > 3) return
    for (const entry of readdirSync(d, { withFileTypes: true })) {
      const path = join(d, entry.name)
      if (path === work) continue
      if (entry.isDirectory()) walk(path, depth + 1)
      else if (entry.isFile() && entry.name.endsWith('.node')) found.push(path)
    }
  }
  walk(join(dir, 'build'), 0)
  return found
}

/** Builds the copy's addon. ccache makes the first build a matter of seconds where it is installed. */
function build() {
  const env = { ...process.env }
  if (!env.CMAKE_CXX_COMPILER_LAUNCHER && spawnSync('ccache', ['--version']).status === 0) {
    Object.assign(env, { CMAKE_CXX_COMPILER_LAUNCHER: 'ccache', CCACHE_BASEDIR: tree, CCACHE_NOHASHDIR: '1' })
  }
  const made = spawnSync(process.execPath, ['scripts/build.mjs', '--addon'], {
    cwd: tree,
    env,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  return made.status === 0 ? null : `${made.stdout}\n${made.stderr}`.trim().split('\n').slice(-15).join('\n')
}

/** Runs tests by name in the copy. Returns vitest's assertion results of those that ran. */
function runTests(file, name) {
  const report = join(work, 'report.json')
  rmSync(report, { force: true })
  const args = [
    join(root, 'node_modules/vitest/vitest.mjs'),
    'run',
    ...(file ? [file] : ['test/traps']),
    '--reporter=json',
    `--outputFile=${report}`,
  ]
  if (name) args.push('-t', name)
  const ran = spawnSync(process.execPath, args, {
    cwd: tree,
    encoding: 'utf8',
    timeout: 600_000,
    maxBuffer: 1 << 28,
  })
  if (!existsSync(report)) return { error: `vitest wrote no report: ${ran.stderr.slice(-2000)}` }
  const results = JSON.parse(readFileSync(report, 'utf8')).testResults
  const failedFile = results.find((r) => r.status === 'failed' && r.assertionResults.length === 0)
  if (failedFile) return { error: `${relative(tree, failedFile.name)}: ${failedFile.message}` }
  return {
    tests: results
      .flatMap((r) => r.assertionResults)
      .filter((t) => t.status === 'passed' || t.status === 'failed'),
  }
}

/** Null when the patch does what it must; else why not. */
function tryPatch(patch) {
  const path = join(root, 'test/traps', patch)
  const head = readFileSync(path, 'utf8').split(/^(?:diff --git|--- )/m)[0]
  const test = /^test: (.+)$/m.exec(head)?.[1]
  const name = /^name: (.+)$/m.exec(head)?.[1]
  if (!test || !name) return 'its head names no test'
  // without the ceiling, git would take the surrounding repository for the patch's and skip files
  const env = { ...process.env, GIT_CEILING_DIRECTORIES: work }
  try {
    execFileSync('git', ['apply', '--whitespace=nowarn', path], { cwd: tree, env, stdio: 'pipe' })
  } catch (error) {
    return `does not apply: ${String(error.stderr).trim()}`
  }
  if (sourceFiles().every((f) => readFileSync(join(root, f)).equals(readFileSync(join(tree, f)))))
    return 'changes nothing'
  if (/^\+\+\+ b\/native\//m.test(readFileSync(path, 'utf8'))) {
    const failure = build()
    if (failure) return `does not build:\n${failure}`
  }
  const { tests, error } = runTests(test, name)
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

mkdirSync(tree, { recursive: true })
sync()
if (!existsSync(join(tree, 'node_modules')))
  symlinkSync(join(root, 'node_modules'), join(tree, 'node_modules'))
const patches = readdirSync(join(root, 'test/traps'))
  .filter((f) => f.endsWith('.patch') && (only.length === 0 || only.some((n) => f.startsWith(n))))
  .sort()
const touchesNative = patches.some((p) =>
  /^\+\+\+ b\/native\//m.test(readFileSync(join(root, 'test/traps', p), 'utf8')),
)

let passed = 0
let failed = 0
const report = (name, problem) => {
  if (problem === null) passed++
  else failed++
  console.log(problem === null ? `ok    ${name}` : `FAIL  ${name}: ${problem}`)
}

if (touchesNative) {
  const failure = build()
  if (failure) report('build of the copy', failure)
} else {
  for (const addon of addonFiles(root))
    cpSync(addon, join(tree, relative(root, addon)), { preserveTimestamps: true })
}

const clean = runTests()
if (clean.error) report('trap tests without a patch', clean.error)
else {
  const broken = clean.tests.filter((t) => t.status === 'failed')
  report(
    `${clean.tests.length} trap tests without a patch`,
    broken.length === 0 && clean.tests.length > 0
      ? null
      : `failing: ${broken.map((t) => t.title).join(', ') || 'none ran'}`,
  )
  const trapOf = (title) => /^trap (\d+)/.exec(title)?.[1]?.padStart(2, '0')
  const traps = new Set(clean.tests.map((t) => trapOf(t.title)))
  for (const trap of traps) {
    if (only.length === 0 && !patches.some((p) => p.startsWith(`${trap}-`)))
      report(`trap ${trap}`, 'no patch puts its bug back')
  }
}
for (const patch of patches) {
  report(patch, tryPatch(patch))
  sync()
}
if (touchesNative) build() // leaves the copy's addon unpatched for the next run
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
