// Options that mean a LoRA adapter.

import type { LoraAdapter } from '../adapters/adapter.ts'
import type { Decoder } from '../decoder/decoder.ts'
import { type Arguments, fail, type OptionSpec } from './command.ts'

export const adapterOption: Readonly<Record<string, OptionSpec>> = {
  adapter: { type: 'string', value: 'dir', help: 'LoRA adapter beside the model, as PEFT has it' },
}

/** The adapter of `--adapter`, if there is one. */
export async function adapterOf(args: Arguments, decoder: Decoder): Promise<LoraAdapter | null> {
  const folder = args.text('adapter')
  return folder === undefined ? null : decoder.loadAdapter(folder)
}

export const loraOptions: Readonly<Record<string, OptionSpec>> = {
  'lora-rank': {
    type: 'number',
    help: 'trains a LoRA adapter of this rank beside --init, and leaves that alone',
  },
  'lora-alpha': { type: 'number', help: 'of the adapter (twice its rank)' },
  'lora-dropout': { type: 'number', help: 'of the adapter (0)' },
  'lora-targets': { type: 'string', value: 'name', many: true, help: 'its layers (all-linear)' },
}

/** Whether an adapter is to be trained. */
export function wantsLora(args: Arguments): boolean {
  const wanted = args.number('lora-rank') !== undefined
  const other = Object.keys(loraOptions).find((name) => args.has(name))
  if (!wanted && other !== undefined) fail(`--${other} needs --lora-rank`)
  if (wanted && args.text('init') === undefined) fail('--lora-rank needs --init, the model to train beside')
  return wanted
}

/** A new adapter as the command line says, or none. */
export function newAdapter(args: Arguments, decoder: Decoder): LoraAdapter | null {
  if (!wantsLora(args)) return null
  const names = args.texts('lora-targets')
  const entries = Object.entries({
    rank: args.number('lora-rank'),
    alpha: args.number('lora-alpha'),
    dropout: args.number('lora-dropout'),
    targets: names.length === 1 && names[0] === 'all-linear' ? 'all-linear' : names,
    seed: args.number('seed'),
  }).filter(([, value]) => value !== undefined && String(value) !== '')
  return decoder.addAdapter('lora', Object.fromEntries(entries))
}
