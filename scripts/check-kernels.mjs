#!/usr/bin/env node
// Checks that no object compiled for an instruction level can leak its code into generic code.
//
// An inline function that a kernel file did not inline is emitted as a weak symbol, and the linker
// keeps one copy for the whole addon: it may keep the AVX-512 one, and then `std::sort` called by
// code that runs on any machine ends in SIGILL on a CPU without AVX-512. A weak function of a
// level's object is therefore allowed only when it is
//   - of the level's own namespace (fuselm::avx512, or a template over a type of it): no other
//     object has it; or
//   - shown harmless by its disassembly: no instruction past the x86-64 baseline.
// Weak data (vtables, type names) holds no instructions and is allowed.
//
//   node scripts/check-kernels.mjs [build folder, default build/CMakeFiles]

import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join, relative } from 'node:path'

const LEVELS = ['avx2', 'avx512', 'avx512bf16', 'amx']
const BEYOND_BASELINE =
  /^(v(?!err|erw)\w+|k(?:mov|or|and|not|xor|xnor|add|shift|test|unpck)\w*|tile\w+|tdp\w+|popcnt|lzcnt|tzcnt|andn|bextr|bls\w+|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx|movbe|crc32)$/

const build = process.argv[2] ?? 'build/CMakeFiles'

function run(program, args) {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8', maxBuffer: 1 << 30 })
  if (status !== 0) throw new Error(`${program} ${args.join(' ')}: ${stderr}`)
  return stdout
}

/** Objects below folders named fuselm_cpu_<level>.dir, with their level. */
function* levelObjects(folder, level) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) {
      yield* levelObjects(path, /^fuselm_cpu_(\w+)\.dir$/.exec(entry.name)?.[1] ?? level)
    } else if (level !== undefined && entry.name.endsWith('.o')) yield { path, level }
  }
}

/** The weak functions that `object` defines; two names of one function (C1, C2) have one section. */
function weakFunctions(object) {
  const table = run('objdump', ['--syms', object])
  return [...table.matchAll(/^[0-9a-f]+ (?:.w|u.).{4}F (\S+)\t[0-9a-f]+ (?:\.hidden )?(\S+)$/gm)].map(
    ([, section, symbol]) => ({ section, symbol }),
  )
}

const ownedBy = (level) => new RegExp(`(?:6fuselm|S\\w?_)${level.length}${level}`)

/** The first instruction of a function's own section that an x86-64 baseline CPU lacks, or null. */
function beyondBaseline(object, { section, symbol }) {
  // A section shared with other code would not show what this function is.
  if (!section.includes('_Z')) return `${symbol} shares ${section}`
  const listing = run('objdump', ['-d', '--no-show-raw-insn', '-j', section, object])
  const prefixes = '(?:(?:rep\\w*|lock|bnd|notrack|data16|cs|addr32)\\s+)*'
  const instructions = [...listing.matchAll(new RegExp(`^\\s*[0-9a-f]+:\\t${prefixes}(\\S+)`, 'gm'))]
  if (instructions.length === 0) return 'no instructions found'
  return instructions.map((m) => m[1]).find((mnemonic) => BEYOND_BASELINE.test(mnemonic)) ?? null
}

const demangle = (symbol) => run('c++filt', [symbol]).trim()

if (!existsSync(build)) {
  console.error(`check-kernels: ${build}: no such folder (npm run build makes it)`)
  process.exit(1)
}
let objects = 0
let harmless = 0
const problems = []
for (const { path, level } of levelObjects(build)) {
  if (!LEVELS.includes(level)) continue // the generic level is compiled for the baseline
  objects += 1
  for (const weak of weakFunctions(path)) {
    const { symbol } = weak
    if (ownedBy(level).test(symbol)) continue
    const instruction = beyondBaseline(path, weak)
    if (instruction === null) harmless += 1
    else problems.push(`${relative(build, path)}: weak ${demangle(symbol)} (${instruction})`)
  }
}
if (objects === 0) problems.push(`no objects of a level found below ${build}`)
for (const problem of problems) console.error(problem)
console.log(
  `check-kernels: ${objects} objects, ${harmless} weak functions without instructions of the level, ${problems.length} problems`,
)
process.exitCode = problems.length > 0 ? 1 : 0
