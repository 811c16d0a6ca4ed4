// An addon with a patch in it, without a build of its own: what the patch touches is compiled as CMake
// compiled it, from the patched sources, and linked with the objects that the last build left.

import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { join, relative } from 'node:path'

/** How the last build compiled and linked. Built by Ninja, or by make. */
function commandsOf(build, run) {
  const compiled = JSON.parse(readFileSync(join(build, 'compile_commands.json'), 'utf8'))
  const script = join(build, 'CMakeFiles/fuselm.dir/link.txt')
  const links = existsSync(script)
    ? readFileSync(script, 'utf8')
    : run('ninja', ['-C', build, '-t', 'commands', 'Release/fuselm.node'])
  const link = links.split('\n').find((line) => / -o \S*fuselm\.node /.test(line))
  if (link === undefined) throw new Error(`${build}: no command links fuselm.node`)
  return { compiled, link: link.replace(/^: && /, '').replace(/ && :\s*$/, '') }
}

/** Files below native/ that include one of `touched`, directly or not, and those themselves. */
function including(root, touched) {
  const files = readdirSync(join(root, 'native'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.(cc|h)$/.test(entry.name))
    .map((entry) => relative(root, join(entry.parentPath ?? entry.path, entry.name)))
  const includes = new Map(
    files.map((file) => [
      file,
      [...readFileSync(join(root, file), 'utf8').matchAll(/^#include "(native\/[^"]+)"/gm)].map(
        ([, path]) => path,
      ),
    ]),
  )
  const found = new Set(touched)
  for (let size = 0; size !== found.size; ) {
    size = found.size
    for (const [file, paths] of includes) if (paths.some((path) => found.has(path))) found.add(file)
  }
  return found
}

/**
 * Compiles and links.
 * @param options root: of the built checkout; tree: its patched copy; touched: files of the patch;
 *   level: the only one whose objects are made anew, or `generic` of files that have none; null for all
 *   levels; out: a folder
 * @returns the addon's path
 */
export async function buildPatched({ root, tree, touched, level, out, run }) {
  const build = join(root, 'build')
  const { compiled, link } = commandsOf(build, (command, args) => run.now(command, args))
  const sources = including(tree, touched)
  const objects = new Map()
  mkdirSync(out, { recursive: true })
  for (const { command, file } of compiled) {
    const source = relative(root, file)
    const object = / -o (\S+\.o) /.exec(command)?.[1]
    if (!sources.has(source) || object === undefined || !link.includes(` ${object} `)) continue
    const own = /fuselm_cpu_(\w+)\.dir/.exec(object)?.[1]
    const heads = /^\/\/ levels:(.*)$/m.exec(readFileSync(file, 'utf8'))?.[1]
    const best = heads?.split(' ').includes(level) ? level : 'generic'
    if (level !== null && own !== undefined && own !== best) continue
    objects.set(object, join(out, object.replaceAll('/', '-')))
    const patched = command
      .replaceAll(`${root}/native`, `${tree}/native`)
      .replaceAll(`-I${root} `, `-I${tree} `)
      .replace(` -o ${object} `, ` -o ${objects.get(object)} `)
    await run.shell(patched, build)
  }
  if (objects.size === 0) throw new Error(`nothing is compiled of ${touched.join(', ')}`)
  const addon = join(out, 'fuselm.node')
  let linked = link.replace(/ -o \S*fuselm\.node /, ` -o ${addon} `)
  for (const [object, own] of objects) linked = linked.replaceAll(` ${object} `, ` ${own} `)
  await run.shell(linked, build)
  return addon
}
