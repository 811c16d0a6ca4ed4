// Is the event loop free while a model is exported as ONNX, saved, loaded and quantised? Each is done by itself,
// some times over; delays are measured as in the bench `responsive`.
//
//   npm run bench -- export [--model 124M] [--times 3] [--json]

import { mkdtempSync, rmSync } from 'node:fs'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Decoder, exportOnnx, quantize, referenceModels, Tokenizer } from 'fuselm'
import { TARGET_P99_MS, TARGET_P999_MS, watchDelays } from './delays.ts'
import { modelName } from './workload.ts'

export async function run(argv: readonly string[]): Promise<unknown> {
  const { values } = parseArgs({
    args: [...argv],
    options: { model: { type: 'string', default: '124M' }, times: { type: 'string', default: '3' } },
  })
  const name = modelName(values.model)
  const folder = mkdtempSync(join(tmpdir(), 'fuselm-export-'))
  try {
    const tokenizer = await Tokenizer.train({
      texts: ['the cat sat on the mat. '.repeat(50)],
      vocabSize: 300,
    })
    using decoder = Decoder.create(referenceModels[name], { tokenizer, dtype: 'bf16', seed: 1 })
    const saved = join(folder, 'saved')
    await decoder.save(saved)
    using small = await quantize(decoder)
    const works: Readonly<Record<string, () => Promise<unknown>>> = {
      'onnx f32': () => exportOnnx(decoder, join(folder, 'onnx')),
      'onnx f16': () => exportOnnx(decoder, join(folder, 'onnx'), { dtype: 'f16' }),
      'onnx int8': () => exportOnnx(small, join(folder, 'onnx')),
      save: () => decoder.save(saved),
      load: async () => (await Decoder.load(saved)).dispose(),
      'load as int8': async () => (await Decoder.load(saved, { weights: 'int8' })).dispose(),
    }
    const rows: object[] = []
    let held = true
    for (const [work, body] of Object.entries(works)) {
      const watch = watchDelays()
      const began = performance.now()
      for (let time = 0; time < Number(values.times); time++) await body()
      const seconds = (performance.now() - began) / 1000
      const found = await watch.end()
      held &&= found.held
      rows.push(...found.rows.map((row) => ({ work, seconds, ...row })))
    }
    const targets = { targetP99Ms: TARGET_P99_MS, targetP999Ms: TARGET_P999_MS }
    return { model: name, times: Number(values.times), loadAverage: loadavg()[0], ...targets, held, rows }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
