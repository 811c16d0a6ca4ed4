#!/usr/bin/env node
// `fuselm <command>`: argv to options objects of the library; each command is a file beside this one.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { packageRoot } from '../runtime/addon.ts'
import { FuselmError } from '../runtime/errors.ts'
import { nearestName } from '../runtime/options.ts'
import { chat } from './chat.ts'
import { type Command, helpOf, readArguments, UsageError } from './command.ts'
import { doctor } from './doctor.ts'
import { evaluation } from './eval.ts'
import { exportation } from './export.ts'
import { generate } from './generate.ts'
import { report } from './report.ts'
import { tokenize } from './tokenize.ts'
import { train } from './train.ts'

const commands: Readonly<Record<string, Command>> = {
  train,
  generate,
  chat,
  eval: evaluation,
  export: exportation,
  tokenize,
  report,
  doctor,
}

function usage(): string {
  const width = Math.max(...Object.keys(commands).map((name) => name.length))
  const lines = Object.entries(commands).map(([name, { summary }]) => `  ${name.padEnd(width)}  ${summary}`)
  return `usage: fuselm <command> [options]\n\n${lines.join('\n')}\n\nfuselm <command> --help lists its options.\n`
}

async function version(): Promise<string> {
  const root = packageRoot()
  if (root === undefined) return 'unknown'
  return (JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { version: string }).version
}

async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv
  if (name === undefined) {
    process.stderr.write(usage())
    return 2
  }
  if (name === '--help' || name === '-h' || name === 'help') {
    process.stdout.write(usage())
    return 0
  }
  if (name === '--version') {
    process.stdout.write(`${await version()}\n`)
    return 0
  }
  const command = Object.hasOwn(commands, name) ? commands[name] : undefined
  if (command === undefined) {
    const near = nearestName(name, Object.keys(commands))
    throw new UsageError(`unknown command '${name}'${near === undefined ? '' : `; did you mean '${near}'?`}`)
  }
  if (rest.includes('--help') || rest.includes('-h')) {
    process.stdout.write(helpOf(name, command))
    return 0
  }
  return command.run(readArguments(command, rest))
}

/** What could not be written because its reader is gone, or its disk full, must not end a run. */
let lost: NodeJS.ErrnoException | null = null
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') lost ??= error
  })
}
process.on('exit', (code) => {
  if (lost !== null && code === 0) process.exitCode = 1
})

try {
  process.exitCode = await main(process.argv.slice(2))
} catch (error) {
  if (error instanceof UsageError) {
    process.stderr.write(`fuselm: ${error.message}\n`)
    process.exitCode = 2
  } else {
    const { message, stack } = error instanceof Error ? error : new Error(String(error))
    const known =
      error instanceof FuselmError || /^E[A-Z]+$/.test(String((error as NodeJS.ErrnoException).code))
    process.stderr.write(`fuselm: ${known ? message : (stack ?? message)}\n`)
    process.exitCode = 1
  }
}
