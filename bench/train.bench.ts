// How fast is a training step, beside PyTorch on the same weights and tokens?
//
//   npm run bench -- train --model 10M [--dtype bf16|f32] [--batch 32] [--peers] [--steps 20] [--json]

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Device, saveModel } from 'fuselm'
import { findTorch, PythonPeer } from './peers/python.ts'
import { percentile } from './percentile.ts'
import { modelName, settings, shapes, type TrainedModel, trainer } from './workload.ts'

const WARM_UP = 5
const LOSS_TOLERANCE = { f32: 1e-3, bf16: 2e-2 } // relative, on the first steps

/** Of some steps in a row. */
interface PeerRun {
  /** One per step. */
  readonly seconds: readonly number[]
  /** Processor time of all threads; what a step costs, whoever else is on the machine. */
  readonly cpuSeconds: readonly number[]
  readonly losses: readonly number[]
  readonly peakRssBytes: number
}

interface Contestant {
  readonly name: string
  run(steps: number): Promise<PeerRun>
  close(): void
}

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
  const contestants: Contestant[] = [contestant(ours)]
  const folder = await mkdtemp(join(tmpdir(), 'fuselm-bench-'))
  try {
    if (values.peers) contestants.push(...(await startPeers(ours, folder, dtype)))
    const times = new Map<string, number[]>(contestants.map((c) => [c.name, []]))
    const cpuTimes = new Map<string, number[]>(contestants.map((c) => [c.name, []]))
    const losses = new Map<string, readonly number[]>()
    const rss = new Map<string, number>()
    for (const c of contestants) losses.set(c.name, (await c.run(WARM_UP)).losses)
    checkLosses(losses, LOSS_TOLERANCE[dtype])
    // interleaved: a slow minute of the machine falls on all alike
    const turn = slow ? 1 : 5
    for (let done = 0; done < samples; done += turn) {
      for (const c of contestants) {
        const { seconds, cpuSeconds, peakRssBytes } = await c.run(Math.min(turn, samples - done))
        times.get(c.name)?.push(...seconds)
        cpuTimes.get(c.name)?.push(...cpuSeconds)
        rss.set(c.name, peakRssBytes)
      }
    }
    const rows = contestants.map((c) => {
      const seconds = times.get(c.name) ?? []
      const tokens = batch * context
      return {
        name: c.name,
        tokensPerSecond: Math.round(tokens / percentile(seconds, 0.5)),
        stepMs: percentile(seconds, 0.5) * 1e3,
        interquartileMs: (percentile(seconds, 0.75) - percentile(seconds, 0.25)) * 1e3,
        fastestMs: percentile(seconds, 0) * 1e3,
        cpuMs: percentile(cpuTimes.get(c.name) ?? [], 0.5) * 1e3,
        peakRssMB: Math.round((rss.get(c.name) ?? 0) / 2 ** 20),
      }
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
      firstLosses: Object.fromEntries(losses),
      rows,
    }
  } finally {
    for (const c of contestants) c.close()
    await rm(folder, { recursive: true, force: true })
  }
}

function contestant(trained: TrainedModel): Contestant {
  return {
    name: 'fuselm',
    async run(steps) {
      const seconds: number[] = []
      const cpuSeconds: number[] = []
      const losses: number[] = []
      for (let i = 0; i < steps; i++) {
        const start = performance.now()
        const cpuStart = process.cpuUsage()
        const loss = trained.step()
        losses.push(await loss.item())
        loss.dispose()
        seconds.push((performance.now() - start) / 1e3)
        const { user, system } = process.cpuUsage(cpuStart)
        cpuSeconds.push((user + system) / 1e6)
      }
      return { seconds, cpuSeconds, losses, peakRssBytes: process.resourceUsage().maxRSS * 1024 }
    },
    close: () => trained.dispose(),
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
    const peer = await PythonPeer.start(torch.python, {
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

/** Speed of different work cannot be compared: the losses must be the same first. */
function checkLosses(losses: ReadonlyMap<string, readonly number[]>, tolerance: number): void {
  const [[, first] = ['', []], ...others] = losses
  for (const [name, values] of others) {
    values.forEach((value, i) => {
      const own = first[i] ?? Number.NaN
      if (!(Math.abs(value - own) <= tolerance * Math.abs(own))) {
        throw new Error(
          `step ${i}: loss ${own} differs from ${value} of ${name}; the times cannot be compared`,
        )
      }
    })
  }
}
