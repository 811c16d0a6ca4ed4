// The matrix: which checks run for which op, dtype and ISA level. vitest and the plain program share it.

import {
  checkCases,
  checkErrors,
  checkGoldenKernels,
  checkGoldenReference,
  type LevelDevices,
  type Subject,
} from './checks.ts'
import { disagreements, ExecutionTally, goldenFailures, missingOn } from './coverage.ts'
import { checkFiniteDifferences } from './finite-differences.ts'
import {
  closeDevice,
  cudaPlugin,
  type Dev,
  type IsaLevel,
  kernelCounts,
  liveStorages,
  machineLevels,
  openCuda,
  openDevice,
} from './library.ts'
import { allOps, allSubjects } from './subjects.ts'

export type MatrixTest = { readonly name: string; run(): Promise<string[]> }

/** Thread counts whose results must be bitwise equal: one, two, and more than the machine may have. */
const THREADS = [2, 1, 5] as const

class Levels {
  readonly tally = new ExecutionTally()
  readonly #open = new Map<string, LevelDevices>()

  get(level: IsaLevel): LevelDevices {
    const known = this.#open.get(level)
    if (known !== undefined) return known
    const [main, ...others] = THREADS.map((threads) => openDevice({ isa: level, threads, guard: true }))
    if (main === undefined) throw new Error('no device')
    const devices = { level, main, others, reference: main }
    this.#open.set(level, devices)
    return devices
  }

  /** Two CUDA devices, with their references on the CPU. */
  cuda({ level, plugin }: { level: string; plugin: string }, best: IsaLevel): LevelDevices {
    const known = this.#open.get(level)
    if (known !== undefined) return known
    const devices = {
      level,
      main: openCuda(plugin),
      others: [openCuda(plugin, true)],
      reference: this.get(best).main,
    }
    this.#open.set(level, devices)
    return devices
  }

  /** Closes what is open. Returns the leaks found. */
  close(): string[] {
    const leaks: string[] = []
    for (const { level, main, others } of this.#open.values()) {
      for (const device of [main, ...others]) {
        const live = liveStorages(device)
        if (live !== 0)
          leaks.push(`${live} storages are live on ${level} with ${device.threads} threads after all tests`)
        this.tally.add(kernelCounts(device))
        closeDevice(device)
      }
    }
    this.#open.clear()
    return leaks
  }
}

const signaturesOf = (device: Dev): string[] => [...new Set(kernelCounts(device).map((k) => k.signature))]

/**
 * All tests of the matrix, in order. Run them in sequence: the last ones judge what the others ran.
 * @param only ops by name; all when empty (coverage is judged only then)
 * @throws for a name that is no op, or an op without cases
 */
export async function matrixTests(
  only: readonly string[] = [],
): Promise<{ tests: MatrixTest[]; tally: ExecutionTally }> {
  const ops = await allOps()
  const subjects = await allSubjects()
  for (const name of only) {
    if (!ops.some((op) => op.definition.name === name)) throw new Error(`there is no op '${name}'`)
    if (!subjects.some((s) => s.op.definition.name === name)) throw new Error(`op without cases: ${name}`)
  }
  const chosen = only.length === 0 ? subjects : subjects.filter((s) => only.includes(s.op.definition.name))
  /** The op that `linear.dx` is a part of. */
  const wholeOf = (name: string): Subject | undefined =>
    subjects.find((s) => name.startsWith(`${s.op.definition.name}.`))
  const levels = new Levels()
  const cuda = cudaPlugin()
  const machine = machineLevels()
  // FUSELM_LEVELS=cuda,avx2 runs the kernels of some levels alone: no references, no coverage
  const chosenLevels = (process.env['FUSELM_LEVELS'] ?? '').split(',').filter((name) => name !== '')
  const wanted = (level: string): boolean => chosenLevels.length === 0 || chosenLevels.includes(level)
  const best = machine.at(-1) ?? 'generic'
  const tests: MatrixTest[] = []
  for (const subject of chosen) {
    const { name } = subject.op.definition
    if (chosenLevels.length === 0) {
      tests.push({
        name: `${name} reference: finite differences, then goldens`,
        run: async () => {
          const { main } = levels.get(best)
          const { failures } = await checkFiniteDifferences(main, subject.op, subject.table)
          // a golden may not excuse a reference that contradicts itself
          if (failures.length > 0) return failures
          return [
            ...goldenFailures(name, {
              goldens: subject.goldens.length,
              noGolden: subject.table.noGolden,
              wholeHasGradients: wholeOf(name)?.goldens.some(({ grads }) => grads.size > 0) ?? false,
            }),
            ...(await checkGoldenReference(main, subject)),
          ]
        },
      })
      if ((subject.table.errors ?? []).length > 0) {
        tests.push({ name: `${name} errors`, run: () => checkErrors(levels.get(best).main, subject) })
      }
    }
    const kernels = (level: string, devicesOf: () => LevelDevices): void => {
      for (const dtype of ['f32', 'bf16'] as const) {
        tests.push({
          name: `${name} ${dtype} ${level}`,
          run: async () => {
            const devices = devicesOf()
            return [
              ...(await checkCases(devices, subject, dtype)),
              ...(await checkGoldenKernels(devices, subject, dtype)),
            ]
          },
        })
      }
    }
    for (const level of machine) if (wanted(level)) kernels(level, () => levels.get(level))
    if ('plugin' in cuda && wanted(cuda.level)) kernels(cuda.level, () => levels.cuda(cuda, best))
  }
  tests.push({
    name: 'nothing is left alive',
    run: async () => {
      const signatures = signaturesOf(levels.get(best).main)
      const onCuda = 'plugin' in cuda ? signaturesOf(levels.cuda(cuda, best).main) : null
      const leaks = levels.close()
      if (only.length > 0 || chosenLevels.length > 0) return leaks
      const covered = new Set(subjects.map((s) => s.op))
      return [
        ...leaks,
        ...disagreements(ops, signatures, covered),
        ...(onCuda === null ? [] : missingOn('CUDA', signatures, onCuda)),
        ...levels.tally.neverRun().map((v) => `variant never run: ${v}`),
      ]
    },
  })
  return { tests, tally: levels.tally }
}
