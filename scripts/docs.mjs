#!/usr/bin/env node
// `npm run docs`: the API reference of the public entries, into docs/api (not tracked).

import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

const typedoc = join(dirname(createRequire(import.meta.url).resolve('typedoc/package.json')), 'bin/typedoc')
const { status } = spawnSync(process.execPath, [typedoc, '--options', 'typedoc.json'], { stdio: 'inherit' })
process.exitCode = status ?? 1
