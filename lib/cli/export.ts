import { Decoder } from '../decoder/decoder.ts'
import { exportOnnx } from '../export/onnx.ts'
import { type Command, fail } from './command.ts'

export const exportation: Command = {
  summary: 'writes a model as ONNX, for onnxruntime and transformers.js',
  options: {
    model: { type: 'string', value: 'dir', help: 'folder of the model' },
    onnx: { type: 'string', value: 'dir', help: 'folder to write' },
    dtype: { type: 'string', value: 'f32|f16', help: 'of weights and activations (f32)' },
    weights: { type: 'string', value: 'int8', help: 'quantises the weights of linear layers' },
    group: { type: 'number', help: 'with int8: weights that share a scale: 32, 64 or 128 (a whole row)' },
    'external-data': { type: 'boolean', help: 'weights in a file of their own, as from 2 GB on' },
  },
  async run(args) {
    const folder = args.required('onnx')
    const dtype = args.oneOf('dtype', ['f32', 'f16'] as const)
    const int8 = args.oneOf('weights', ['int8'] as const) !== undefined
    if (!int8 && args.has('group')) fail('--group needs --weights int8')
    const weights = { group: args.number('group') ?? 0 }
    using decoder = await Decoder.load(args.required('model'), int8 ? { weights } : {})
    const { files } = await exportOnnx(decoder, folder, {
      ...(dtype !== undefined && { dtype }),
      ...(args.flag('external-data') && { externalData: true }),
    })
    for (const file of files) process.stdout.write(`${file}\n`)
    return 0
  },
}
