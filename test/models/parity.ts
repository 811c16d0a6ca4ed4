// Training follows PyTorch: losses of 200 steps from given weights and batches, the first step's
// gradients by parameter, logits. The scripts in test/golden/parity made the values and say how.

import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { AdamW, type CausalLm, loadModel, schedule, scope, tensor } from '../../lib/index.ts'
import { familyOf } from '../../lib/models/family.ts'
import { readSafetensors } from '../ops/runner/golden.ts'

interface Settings {
  readonly steps: number
  readonly warmup: number
  readonly peak: number
  readonly clip: number
  readonly weightDecay: number
  readonly betas: [number, number]
  readonly eps: number
  /** Relative L2 error of PyTorch's own first-step gradients, by kind and parameter. */
  readonly gradientError: Record<'f32' | 'bf16' | 'bf16Autocast', Record<string, number>>
}

export interface ParityGolden {
  /** Path of a folder below test/golden/parity. */
  readonly folder: string
  readonly settings: Settings
  values(name: string): Float64Array
  shape(name: string): readonly number[]
}

export function parityGolden(name: string): ParityGolden {
  const folder = fileURLToPath(new URL(`../golden/parity/${name}`, import.meta.url))
  const { tensors, metadata } = readSafetensors(`${folder}/curve.safetensors`)
  const find = (key: string) => {
    const found = tensors.get(key)
    if (found === undefined) throw new Error(`${folder}/curve.safetensors has no ${key}`)
    return found
  }
  return {
    folder,
    settings: JSON.parse(metadata.get('settings') ?? '') as Settings,
    values: (key) => find(key).values,
    shape: (key) => find(key).shape,
  }
}

export function relativeL2(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let error = 0
  let norm = 0
  for (let i = 0; i < expected.length; i++) {
    error += ((actual[i] ?? Number.NaN) - (expected[i] ?? 0)) ** 2
    norm += (expected[i] ?? 0) ** 2
  }
  return Math.sqrt(error / norm)
}

/** float32: a few hundred roundings; bf16: PyTorch's own gradients are off by up to 7e-2. */
export const LOGITS_LIMIT = { f32: 2e-6, bf16: 3e-2 } as const

export function describeParity(name: string, golden: ParityGolden): void {
  const { settings } = golden
  const [, batch = 0, length = 0] = golden.shape('ids')
  const batchOf = (step: number): Int32Array =>
    Int32Array.from(golden.values('ids').subarray(step * batch * length, (step + 1) * batch * length))

  const backward = (model: CausalLm, step: number) =>
    scope(() => {
      const input = tensor(batchOf(step), { shape: [batch, length], dtype: 'i32' })
      const loss = model.loss(input, input)
      loss.backward()
      return loss
    })

  describe.each([
    // bf16 rounds every activation to 8 bits; the curve then differs by its noise, not by its course
    { dtype: 'f32', lossLimit: 1e-4, gradientLimit: () => 1e-5 },
    {
      dtype: 'bf16',
      lossLimit: 1e-2,
      gradientLimit: (name: string) => 2 * (settings.gradientError.bf16[name] ?? 0),
    },
  ] as const)(`${name} parity in $dtype`, ({ dtype, lossLimit, gradientLimit }) => {
    test(`losses of ${settings.steps} steps within ${lossLimit} of PyTorch's float32`, {
      timeout: 120_000,
    }, async () => {
      const model = await loadModel(`${golden.folder}/model`, { dtype })
      const { clip, weightDecay, betas, eps, peak, warmup, steps } = settings
      const optimizer = new AdamW({
        parameters: model.namedParameters(),
        betas,
        eps,
        weightDecay,
        clipNorm: clip,
      })
      const learningRate = schedule({ learningRate: peak, warmup, steps })
      const gaps: number[] = []
      for (let step = 0; step < steps; step++) {
        optimizer.learningRate = learningRate(step)
        expect(Math.abs(optimizer.learningRate - (golden.values('learning_rate')[step] ?? 0))).toBeLessThan(
          1e-10,
        )
        const loss = backward(model, step)
        const norm = optimizer.step()
        const expected = golden.values('loss')[step] ?? Number.NaN
        gaps.push(Math.abs((await loss.item()) - expected) / expected)
        const expectedNorm = golden.values('gradient_norm')[step] ?? Number.NaN
        expect(Math.abs((await norm.item()) - expectedNorm) / expectedNorm).toBeLessThan(
          dtype === 'f32' ? 1e-3 : 5e-2,
        )
        loss.dispose()
        norm.dispose()
      }
      console.log(
        `${name} ${dtype}: largest relative loss gap ${Math.max(...gaps).toExponential(2)} at step ${gaps.indexOf(Math.max(...gaps))}`,
      )
      expect(Math.max(...gaps)).toBeLessThan(lossLimit)
      optimizer.dispose()
      model.dispose()
    })

    test('first-step gradients by parameter', async () => {
      const model = await loadModel(`${golden.folder}/model`, { dtype })
      const loss = backward(model, 0)
      const errors = new Map<string, number>()
      for (const { name, tensor: parameter, transposed } of familyOf(model.modelType).weights(model)) {
        const { grad } = parameter
        expect(grad, name).not.toBeNull()
        const inFile = transposed ? grad?.transpose() : grad
        errors.set(name, relativeL2((await inFile?.toArray()) ?? [], golden.values(`grad.${name}`)))
        inFile?.dispose()
      }
      expect([...errors.keys()].sort()).toEqual(Object.keys(settings.gradientError.f32).sort())
      const worst = [...errors].map(([name, error]) => ({ name, error, share: error / gradientLimit(name) }))
      worst.sort((a, b) => b.share - a.share)
      console.log(
        `${name} ${dtype}: gradient nearest its limit: ${worst[0]?.name} ${worst[0]?.error.toExponential(2)}, ${(100 * (worst[0]?.share ?? 0)).toFixed(0)} % of it`,
      )
      for (const { name, error } of worst) expect(error, name).toBeLessThanOrEqual(gradientLimit(name))
      loss.dispose()
      model.dispose()
    })

    test('logits of the first row', async () => {
      const model = await loadModel(`${golden.folder}/model`, { dtype })
      const logits = scope(() =>
        model.forward(tensor(batchOf(0).subarray(0, length), { shape: [1, length], dtype: 'i32' })),
      )
      const error = relativeL2(await logits.toArray(), golden.values('logits'))
      expect(error).toBeLessThan(LOGITS_LIMIT[dtype])
      logits.dispose()
      model.dispose()
    })
  })
}
