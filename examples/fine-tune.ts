// Fine-tuning on rows of a database in the server that answers with the result: a LoRA adapter trains beside
// the model while HTTP requests are served, first by the model as it was, then by each checkpoint.
//
//   node build/examples/fine-tune.js some/hf/folder out/support rows.jsonl
//   curl -d 'Where is my parcel?' localhost:8080
import { createReadStream } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'
import { type DataRow, Decoder, type LoraAdapter, TextDataset, Trainer, type TrainerOptions } from 'fuselm'

/** Trains an adapter of a model on rows as they come, and leaves it in `out/adapter`, as PEFT has it. */
export async function fineTune(
  decoder: Decoder,
  rows: AsyncIterable<DataRow>,
  out: string,
  options: Partial<TrainerOptions> & { readonly contextLength?: number } = {},
): Promise<LoraAdapter> {
  const { contextLength = 512, ...more } = options
  const lora = decoder.addAdapter('support', {
    rank: 16,
    alpha: 32,
    dropout: 0.1,
    targets: ['q_proj', 'v_proj'],
  })
  const train = await TextDataset.from(rows, { tokenizer: decoder.tokenizer, contextLength })
  await new Trainer(decoder, { adapter: lora, train, out: join(out, 'run'), epochs: 3, ...more }).finish()
  await lora.save(join(out, 'adapter'))
  await train.close()
  return lora
}

/** Answers each request's body, token by token, with the newest checkpoint of the adapter. */
export function serve(decoder: Decoder): Server {
  return createServer(async (request, response) => {
    try {
      let prompt = ''
      for await (const part of request.setEncoding('utf8')) prompt += part
      const adapter = decoder.adapters.get('support') ?? null
      for await (const { text } of decoder.generate(prompt, { adapter, maxNewTokens: 80 }))
        response.write(text)
    } catch (error) {
      if (!response.headersSent) response.statusCode = 400
      response.write(String(error))
    }
    response.end()
  })
}

/** What a query of your database would give: `{ prompt, completion }`, `{ messages }` or `{ text }`, one at a time. */
async function* readRows(path: string): AsyncGenerator<DataRow> {
  for await (const line of createInterface({ input: createReadStream(path) })) {
    if (line !== '') yield JSON.parse(line)
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const [folder, out, rows] = process.argv.slice(2)
  if (folder === undefined || out === undefined || rows === undefined) {
    throw new Error('usage: fine-tune.js folder out rows.jsonl')
  }
  const decoder = await Decoder.load(folder)
  serve(decoder).listen(8080, () => console.log('answering on port 8080'))
  await fineTune(decoder, readRows(rows), out)
  console.log(`trained; the adapter is in ${join(out, 'adapter')}`)
}
