import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { DeviceError } from './errors.ts'
import { ADDON_ABI, type NativeAddon } from './native.ts'

const require = createRequire(import.meta.url)

/** Literal specifiers, so that bundlers see them. */
const PLATFORM_PACKAGES: Record<string, () => unknown> = {
  'linux-x64-glibc': () => require('fuselm-linux-x64-gnu'),
  'linux-x64-musl': () => require('fuselm-linux-x64-musl'),
}

interface ReportHeader {
  glibcVersionRuntime?: string
}

/** Slow (milliseconds): only asked for when loading fails, or for the platform package. */
function glibcVersion(): string | undefined {
  const report = process.report?.getReport() as { header?: ReportHeader } | undefined
  return report?.header?.glibcVersionRuntime
}

/** The folder of this package; undefined inside someone's bundle. */
export function packageRoot(): string | undefined {
  let folder = dirname(fileURLToPath(import.meta.url))
  for (;;) {
    const file = join(folder, 'package.json')
    if (existsSync(file)) {
      const { name } = JSON.parse(readFileSync(file, 'utf8')) as { name?: unknown }
      return name === 'fuselm' ? folder : undefined
    }
    const up = dirname(folder)
    if (up === folder) return undefined
    folder = up
  }
}

function checked(addon: unknown): NativeAddon {
  const { abi } = addon as NativeAddon
  if (abi !== ADDON_ABI) {
    throw new Error(`it was built for another version (interface ${abi}, needed ${ADDON_ABI})`)
  }
  return addon as NativeAddon
}

const message = (error: unknown): string =>
  error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error)

/**
 * Loads the addon: an explicit path (option, then FUSELM_ADDON), the local build, the platform
 * package, prebuilds. An explicit path that fails is an error, not a reason to look elsewhere.
 * @throws DeviceError naming every place tried, why it failed and what to do
 */
export function loadAddon(path = process.env['FUSELM_ADDON']): NativeAddon {
  const causes: string[] = []
  const attempt = (where: string, load: () => unknown): NativeAddon | undefined => {
    try {
      return checked(load())
    } catch (error) {
      causes.push(`${where}: ${message(error)}`)
      return undefined
    }
  }
  if (path !== undefined && path !== '') {
    const file = resolve(path)
    return attempt(file, () => require(file)) ?? fail(causes)
  }
  const root = packageRoot()
  if (root !== undefined) {
    const local = join(root, 'build', 'Release', 'fuselm.node')
    if (existsSync(local)) {
      const addon = attempt(local, () => require(local))
      if (addon !== undefined) return addon
    } else {
      causes.push(`${local}: no such file`)
    }
  }
  const libc = process.platform === 'linux' && glibcVersion() === undefined ? 'musl' : 'glibc'
  const tuple = `${process.platform}-${process.arch}`
  const platform = PLATFORM_PACKAGES[`${tuple}-${libc}`]
  if (platform === undefined) causes.push(`platform package: there is none for ${tuple}-${libc}`)
  else {
    const addon = attempt('platform package', platform)
    if (addon !== undefined) return addon
  }
  if (root !== undefined) {
    const folder = join(root, 'prebuilds', tuple)
    const files = existsSync(folder) ? readdirSync(folder).filter((f) => f.endsWith('.node')) : []
    if (files.length === 0) causes.push(`${folder}: no prebuilt addon`)
    for (const name of files) {
      const addon = attempt(join(folder, name), () => require(join(folder, name)))
      if (addon !== undefined) return addon
    }
  }
  return fail(causes)
}

function fail(causes: string[]): never {
  const glibc = glibcVersion() ?? 'none'
  const needed = /GLIBC(?:XX)?_[\d.]+/.exec(causes.join('\n'))?.[0]
  throw new DeviceError(
    [
      `fuselm: the native addon could not be loaded on ${process.platform}-${process.arch}, ` +
        `Node ${process.version}, glibc ${glibc}${needed ? ` (needed: ${needed})` : ''}.`,
      ...causes.map((cause) => `  - ${cause}`),
      'In a checkout run `npm run build` (needs CMake and a C++20 compiler); elsewhere reinstall',
      'with optional dependencies, or set FUSELM_ADDON to a built fuselm.node.',
    ].join('\n'),
  )
}
