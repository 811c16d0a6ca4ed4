// How fast is a training step, beside PyTorch on the same weights and tokens?
//
//   npm run bench -- train --model 10M [--dtype bf16|f32] [--batch 32] [--peers] [--steps 20] [--json]

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Device, saveModel } from 'fuselm'
import { type Contestant, contest, contestant, type PeerRun } from './contest.ts'
import { findTorch, Peer } from './peers/peer.ts'
import { modelName, settings, shapes, type TrainedModel, trainer } from './workload.ts'

const LOSS_TOLERANCE = { f32: 1e-3, bf16: 2e-2 } // relative, on the first steps

export async function run(argv: readonly string[]): Promise<unknown> {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      model: { type: 'string', default: '10M' },
      dtype: { type: 'string', default: 'bf16' },
      steps: { type: 'string' },
      batch: { type: 'string' },
      peers: { type: 'boolean', default: false },
    },
  })
  const name = modelName(values.model)
  const { dtype } = values
  if (dtype !== 'bf16' && dtype !== 'f32') throw new Error('--dtype must be bf16 or f32')
  const { context } = shapes[name]
  const batch = Number(values.batch ?? shapes[name].batch)
  if (!Number.isInteger(batch) || batch < 1) throw new Error('--batch must be a whole number above 0')
  const slow = name === '124M' && Device.default().kind === 'cpu'
  const samples = Number(values.steps ?? (slow ? 3 : 20))
  const ours = trainer(name, dtype, batch)
  const contestants: Contestant[] = [contestant('fuselm', ours)]
  const folder = await mkdtemp(join(tmpdir(), 'fuselm-bench-'))
  try {
    if (values.peers) contestants.push(...(await startPeers(ours, folder, dtype)))
    const { rows, firstLosses } = await contest(contestants, {
      samples,
      turn: slow ? 1 : 5,
      tolerance: LOSS_TOLERANCE[dtype],
      tokens: batch * context,
    })
    const best = Math.max(0, ...rows.slice(1).map((row) => row.tokensPerSecond))
    const { tokensPerSecond = 0 } = rows[0] ?? {}
    return {
      model: name,
      dtype,
      batch,
      device: Device.default().name,
      threads: Device.default().threads,
      tokensPerSecond,
      ...(best > 0 && { ratioToBestPeer: tokensPerSecond / best }),
      firstLosses,
      rows,
    }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

async function startPeers(ours: TrainedModel, folder: string, dtype: string): Promise<Contestant[]> {
  const torch = findTorch()
  if ('reason' in torch) {
    process.stderr.write(`no PyTorch peers: ${torch.reason}\n`)
    return []
  }
  const reference = ours.floatCopy()
  await saveModel(reference, folder)
  reference.dispose()
  const tokens = join(folder, 'tokens.i32')
  await writeFile(tokens, Buffer.from(ours.tokens.buffer))
  const { config } = ours.model
  const peers: Contestant[] = []
  for (const mode of ['eager', 'compile']) {
    const peer = await Peer.start(torch.python, {
      program: fileURLToPath(new URL('../../bench/peers/train_torch.py', import.meta.url)),
      arguments: {
        config: JSON.stringify({
          vocab_size: config.vocabSize,
          hidden_size: config.hiddenSize,
          intermediate_size: config.intermediateSize,
          num_hidden_layers: config.numHiddenLayers,
          num_attention_heads: config.numAttentionHeads,
          num_key_value_heads: config.numKeyValueHeads,
          head_dim: config.headDim,
          rms_norm_eps: config.rmsNormEps,
          rope_theta: config.ropeTheta,
        }),
        weights: join(folder, 'model.safetensors'),
        tokens,
        batch: ours.batch,
        context: ours.context,
        mode,
        dtype,
        'learning-rate': settings.learningRate,
        'weight-decay': settings.weightDecay,
        'clip-norm': settings.clipNorm,
        threads: Device.default().threads,
        device: Device.default().kind,
      },
      isa: Device.default().isa,
    })
    peers.push({
      name: `torch ${peer.version} ${mode}`,
      run: async (n) => (await peer.ask({ run: n })) as unknown as PeerRun,
      close: () => peer.close(),
    })
  }
  return peers
}
