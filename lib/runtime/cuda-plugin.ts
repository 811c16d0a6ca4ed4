import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { NativeAddon } from './native.ts'

const own = createRequire(import.meta.url)

/** The file of the package fuselm-cuda, as this package sees it, or else the app that runs; null without it. */
function packaged(): string | null {
  for (const find of [
    () => own.resolve('fuselm-cuda'), // a literal, for bundlers
    () => createRequire(join(process.cwd(), 'package.json')).resolve('fuselm-cuda'),
  ]) {
    try {
      return find()
    } catch {
      // the next place
    }
  }
  return null
}

/**
 * Where the CUDA plugin is: the path that was given, FUSELM_CUDA_PLUGIN, beside the addon (a checkout's
 * build), the package fuselm-cuda. Empty where the native side is to say what it looked for.
 */
export function findCudaPlugin(addon: NativeAddon, path = ''): string {
  if (path !== '' || (process.env['FUSELM_CUDA_PLUGIN'] ?? '') !== '') return path
  return existsSync(addon.cudaStatus('').path) ? '' : (packaged() ?? '')
}
