// How fast is a step of LoRA (rank 16, queries and values), beside PEFT on the same base, adapter and tokens,
// and beside training the whole model?
//
//   npm run bench -- lora --model 10M [--dtype bf16|f32] [--targets all-linear] [--dropout 0.1] [--int8]
//                            [--whole] [--peers] [--steps 20] [--json]

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import {
  AdamW,
  Device,
  type Llama,
  LoraAdapter,
  nn,
  quantizeLinears,
  saveModel,
  scope,
  type Tensor,
  tensor,
} from 'fuselm'
import { type Contestant, contest, contestant, type PeerRun } from './contest.ts'
import { findTorch, Peer } from './peers/peer.ts'
import { modelName, settings, shapes, type TrainedModel, trainer } from './workload.ts'

const LOSS_TOLERANCE = { f32: 1e-3, bf16: 2e-2 } // relative, on the first steps

interface LoraSettings {
  readonly targets: string | readonly string[]
  readonly dropout: number
}

export async function run(argv: readonly string[]): Promise<unknown> {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      model: { type: 'string', default: '10M' },
      dtype: { type: 'string', default: 'bf16' },
      targets: { type: 'string', default: 'q_proj,v_proj' },
      dropout: { type: 'string', default: '0' },
      int8: { type: 'boolean', default: false },
      whole: { type: 'boolean', default: false },
      steps: { type: 'string' },
      peers: { type: 'boolean', default: false },
    },
  })
  const name = modelName(values.model)
  const { dtype } = values
  if (dtype !== 'bf16' && dtype !== 'f32') throw new Error('--dtype must be bf16 or f32')
  const lora = {
    targets: values.targets === 'all-linear' ? values.targets : values.targets.split(','),
    dropout: Number(values.dropout),
  }
  const slow = name === '124M'
  const samples = Number(values.steps ?? (slow ? 3 : 20))
  const folder = await mkdtemp(join(tmpdir(), 'fuselm-bench-'))
  try {
    const ours = adapted(trainer(name, dtype), lora)
    const contestants: Contestant[] = [contestant('fuselm LoRA', ours)]
    if (values.peers) contestants.push(...(await startPeers(ours, folder, dtype)))
    if (values.int8) {
      const small = trainer(name, dtype)
      quantizeLinears(small.model, { group: 128 })
      contestants.push(contestant('fuselm LoRA, int8 base', adapted(small, lora), 'int8'))
    }
    if (values.whole) contestants.push(contestant('fuselm, whole model', trainer(name, dtype), 'whole'))
    const { batch, context } = shapes[name]
    const { rows, firstLosses } = await contest(contestants, {
      samples,
      turn: slow ? 1 : 5,
      tolerance: LOSS_TOLERANCE[dtype],
      tokens: batch * context,
    })
    return {
      model: name,
      dtype,
      ...lora,
      rank: ours.adapter.config.rank,
      parameters: ours.adapter.parameterCount(),
      device: Device.default().name,
      threads: Device.default().threads,
      firstLosses,
      rows,
    }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

interface Adapted {
  readonly trained: TrainedModel
  readonly adapter: LoraAdapter
  step(): Tensor
  dispose(): void
}

/** The same tokens and settings, but for what is trained. */
function adapted(trained: TrainedModel, { targets, dropout }: LoraSettings): Adapted {
  const { model, batch, context, tokens } = trained
  for (const parameter of model.parameters()) parameter.requiresGrad = false
  const adapter = new LoraAdapter(model, { rank: 16, alpha: 32, dropout, targets })
  const optimizer = new AdamW({ parameters: adapter.namedParameters(), betas: [0.9, 0.95], ...settings })
  const keys = new nn.DropoutKeys()
  const size = batch * context
  let steps = 0
  return {
    trained,
    adapter,
    step() {
      const at = (steps * size) % tokens.length
      keys.begin(steps++)
      return scope(() => {
        const ids = tensor(tokens.subarray(at, at + size), { shape: [batch, context], dtype: 'i32' })
        const loss = model.loss(ids, ids, { adapter: adapter.withDropout(keys) })
        loss.backward()
        optimizer.step()
        return loss
      })
    },
    dispose() {
      adapter.dispose()
      optimizer.dispose()
      trained.dispose()
    },
  }
}

async function startPeers(
  { trained, adapter }: Adapted,
  folder: string,
  dtype: string,
): Promise<Contestant[]> {
  const torch = findTorch()
  if ('reason' in torch) {
    process.stderr.write(`no PyTorch peers: ${torch.reason}\n`)
    return []
  }
  const reference: Llama = trained.floatCopy()
  await saveModel(reference, join(folder, 'base'))
  reference.dispose()
  await adapter.save(join(folder, 'adapter'))
  const tokens = join(folder, 'tokens.i32')
  await writeFile(tokens, Buffer.from(trained.tokens.buffer))
  const peer = await Peer.start(torch.python, {
    program: fileURLToPath(new URL('../../bench/peers/lora_torch.py', import.meta.url)),
    arguments: {
      folder,
      tokens,
      batch: trained.batch,
      context: trained.context,
      dtype,
      'learning-rate': settings.learningRate,
      'weight-decay': settings.weightDecay,
      'clip-norm': settings.clipNorm,
      threads: Device.default().threads,
      device: Device.default().kind,
    },
    isa: Device.default().isa,
  })
  return [
    {
      name: `PEFT on torch ${peer.version}`,
      run: async (n) => (await peer.ask({ run: n })) as unknown as PeerRun,
      close: () => peer.close(),
    },
  ]
}
