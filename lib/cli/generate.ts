import { Decoder } from '../decoder/decoder.ts'
import type { GenerateOptions } from '../generate/options.ts'
import { adapterOf, adapterOption } from './adapter.ts'
import type { Arguments, Command, OptionSpec } from './command.ts'
import { deviceOption, useDevice } from './device.ts'

/** How an answer is drawn; what is left out is as the model's generation_config.json says. */
export const SAMPLING: Readonly<Record<string, OptionSpec>> = {
  'max-new-tokens': { type: 'number', help: "tokens at most (the model's, or 256)" },
  temperature: { type: 'number', help: "0 takes the likeliest token (the model's, or 1)" },
  'top-p': {
    type: 'number',
    help: "draws from the fewest likeliest that reach this probability (the model's, or 1)",
  },
  'top-k': { type: 'number', help: "draws from the k likeliest; 0 is all (the model's, or 0)" },
  'min-p': {
    type: 'number',
    help: "draws from those at least this share as probable as the likeliest (the model's, or 0)",
  },
  'repetition-penalty': {
    type: 'number',
    help: "above 1 makes what was said less likely (the model's, or 1)",
  },
  seed: { type: 'number', help: 'the same seed gives the same text' },
  stop: { type: 'string', many: true, help: 'texts that end an answer' },
}

export function samplingOf(args: Arguments): GenerateOptions {
  const entries: [keyof GenerateOptions, number | undefined][] = [
    ['maxNewTokens', args.number('max-new-tokens')],
    ['temperature', args.number('temperature')],
    ['topP', args.number('top-p')],
    ['minP', args.number('min-p')],
    ['topK', args.number('top-k')],
    ['repetitionPenalty', args.number('repetition-penalty')],
    ['seed', args.number('seed')],
  ]
  const stop = args.texts('stop')
  return {
    ...Object.fromEntries(entries.filter(([, value]) => value !== undefined)),
    ...(stop.length > 0 && { stop }),
  }
}

export const generate: Command = {
  summary: 'continues a text',
  options: {
    ...deviceOption,
    model: { type: 'string', value: 'dir', help: 'folder of the model' },
    ...adapterOption,
    prompt: { type: 'string', help: 'text to continue' },
    ...SAMPLING,
  },
  async run(args) {
    useDevice(args)
    using decoder = await Decoder.load(args.required('model'))
    const prompt = args.required('prompt')
    const adapter = await adapterOf(args, decoder)
    const controller = new AbortController()
    process.once('SIGINT', () => controller.abort())
    process.stdout.write(prompt)
    for await (const { text } of decoder.generate(prompt, {
      ...samplingOf(args),
      adapter,
      signal: controller.signal,
    })) {
      process.stdout.write(text)
    }
    process.stdout.write('\n')
    return controller.signal.aborted ? 130 : 0
  },
}
