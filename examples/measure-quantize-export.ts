// Measure a model, shrink it, measure again, hand it on: int8 weights for this library and transformers, and
// ONNX for onnxruntime and transformers.js.
//
//   node build/examples/measure-quantize-export.js out/first/model out/small held-out.txt ...
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { Decoder, exportOnnx, quantize, TextDataset } from 'fuselm'

export async function measureQuantizeExport(
  folder: string,
  out: string,
  files: string[],
  { group = 128 }: { readonly group?: number } = {},
): Promise<{ before: number; after: number }> {
  using decoder = await Decoder.load(folder)
  const { tokenizer, model } = decoder
  const contextLength = Math.min(512, model.size.maxPositionEmbeddings)
  const dataset = await TextDataset.fromFiles(files, { tokenizer, contextLength, seed: null })

  const before = await decoder.evaluate(dataset)
  using small = await quantize(decoder, { group })
  const after = await small.evaluate(dataset)
  await dataset.close()
  console.log(
    `${before.tokens} tokens: perplexity ${before.perplexity.toFixed(3)} in ${model.inputEmbedding.dtype}`,
  )
  console.log(
    `${after.perplexity.toFixed(3)} in int8, ${(after.perplexity / before.perplexity).toFixed(5)} times that`,
  )

  await small.save(join(out, 'int8'))
  const { files: written } = await exportOnnx(small, join(out, 'onnx'))
  console.log(`wrote ${join(out, 'int8')}, ${written.join(', ')}`)
  return { before: before.perplexity, after: after.perplexity }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const [folder, out, ...files] = process.argv.slice(2)
  if (folder === undefined || out === undefined || files.length === 0) {
    throw new Error('usage: measure-quantize-export.js model out held-out.txt ...')
  }
  await measureQuantizeExport(folder, out, files)
}
