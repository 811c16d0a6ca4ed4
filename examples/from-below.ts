// A network of one's own from tensors, ops, modules and an optimizer: a two-layer perceptron learns the
// classes that another, random one gives.
//
//   node build/examples/from-below.js
import { pathToFileURL } from 'node:url'
import { AdamW, nn, noGrad, ops, randn, randomKey, scope, type Tensor } from 'fuselm'

/** Parameters are found in fields; every call frees what it made, but for its result. */
class Mlp extends nn.Module {
  readonly up = new nn.Linear(64, 256)
  readonly down = new nn.Linear(256, 10)

  override forward(x: Tensor): Tensor {
    return this.down.forward(ops.silu(this.up.forward(x)))
  }
}

export async function trainMlp(steps = 300): Promise<{ loss: number; accuracy: number }> {
  const teacher = new Mlp()
  const student = new Mlp()
  const optimizer = new AdamW({ parameters: student.namedParameters(), learningRate: 3e-3, clipNorm: 1 })

  /** Rows and their classes; `call` numbers the draws of seed 1. */
  const draw = (call: number): { x: Tensor; classes: Tensor } => {
    const x = randn([256, 64], randomKey(1, { call }))
    return { x, classes: noGrad(() => ops.argmax(teacher.forward(x))) }
  }

  for (let step = 1; step <= steps; step++) {
    // Only enqueues: what the scope makes and does not return is freed as soon as it was used.
    const loss = scope(() => {
      const { x, classes } = draw(step)
      const loss = ops.crossEntropy(student.forward(x), classes)
      loss.backward()
      optimizer.step()
      return loss
    })
    if (step % 100 === 0) console.log(`step ${step}: loss ${(await loss.item()).toFixed(4)}`)
    await loss.device.activeQueue.ready() // other work gets its turn, and the queue does not grow without end
    loss.dispose()
  }

  const { loss, right } = noGrad(() =>
    scope(() => {
      const { x, classes } = draw(0)
      const logits = student.forward(x)
      const equal = ops.cast(ops.equal(ops.argmax(logits), classes), 'f32')
      return { loss: ops.crossEntropy(logits, classes), right: ops.mean(equal) }
    }),
  )
  const result = { loss: await loss.item(), accuracy: await right.item() }
  for (const owned of [loss, right, optimizer, student, teacher]) owned.dispose()
  return result
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const { loss, accuracy } = await trainMlp()
  console.log(`new rows: loss ${loss.toFixed(4)}, ${(100 * accuracy).toFixed(1)} % right`)
}
