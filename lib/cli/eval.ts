import { TextDataset } from '../data/dataset.ts'
import { Decoder } from '../decoder/decoder.ts'
import { adapterOf, adapterOption } from './adapter.ts'
import type { Command } from './command.ts'
import { deviceOption, useDevice } from './device.ts'
import { expandFiles } from './files.ts'

export const evaluation: Command = {
  summary: 'loss and perplexity of a model on text',
  options: {
    ...deviceOption,
    model: { type: 'string', value: 'dir', help: 'folder of the model' },
    ...adapterOption,
    data: { type: 'string', value: 'file|folder|glob', many: true, help: 'text to judge by' },
    context: { type: 'number', help: "tokens of a row (the model's, at most 1024)" },
    batch: { type: 'number', help: 'rows at a time (8)' },
    json: { type: 'boolean', help: 'prints one JSON object' },
  },
  async run(args) {
    const files = await expandFiles('data', args.texts('data'))
    useDevice(args)
    using decoder = await Decoder.load(args.required('model'))
    const contextLength = args.number('context') ?? Math.min(1024, decoder.model.size.maxPositionEmbeddings)
    const { tokenizer } = decoder
    const dataset = await TextDataset.fromFiles(files, {
      tokenizer,
      contextLength,
      seed: null,
      dedupe: false,
    })
    const batchSize = args.number('batch')
    const adapter = await adapterOf(args, decoder)
    const result = await decoder.evaluate(dataset, { adapter, ...(batchSize !== undefined && { batchSize }) })
    await dataset.close()
    if (args.flag('json')) process.stdout.write(`${JSON.stringify(result)}\n`)
    else {
      process.stdout.write(
        `loss ${result.loss.toFixed(4)} nats per token, perplexity ${result.perplexity.toFixed(2)}, ${result.tokens} tokens\n`,
      )
    }
    return 0
  },
}
