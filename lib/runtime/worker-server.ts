// The inside of a worker thread that answers requests one after another, in order.

import { setPriority } from 'node:os'
import { parentPort } from 'node:worker_threads'
import { FuselmError } from './errors.ts'

const NICE = 5 // as the device's threads

/** What a thread sends back; `id` is that of the request. */
export type Answer = { readonly id: number } & (
  | { readonly type: 'done'; readonly value: unknown }
  | { readonly type: 'progress'; readonly value: unknown }
  | { readonly type: 'failed'; readonly name: string; readonly code: string; readonly message: string }
)

/**
 * Answers every request with what `run` returns; ArrayBuffers of typed arrays in `transfer` move.
 * @param run gets the request and a function that reports progress
 */
export function serve<Request>(
  run: (
    request: Request,
    report: (progress: unknown) => void,
  ) => Promise<{ readonly value: unknown; readonly transfer?: readonly ArrayBuffer[] }>,
): void {
  // On Linux this is the calling thread's alone. The event loop comes before what works for it.
  if (process.platform === 'linux') setPriority(NICE)
  const send = (answer: Answer, transfer: readonly ArrayBuffer[] = []): void => {
    parentPort?.postMessage(answer, [...transfer])
  }
  const answer = async ({ id, request }: { id: number; request: Request }): Promise<void> => {
    try {
      const report = (value: unknown): void => send({ id, type: 'progress', value })
      const { value, transfer } = await run(request, report)
      send({ id, type: 'done', value }, transfer)
    } catch (error) {
      const { name, message } = error instanceof Error ? error : new Error(String(error))
      const code =
        error instanceof FuselmError ? error.code : String((error as { code?: unknown }).code ?? '')
      send({ id, type: 'failed', name, code, message })
    }
  }
  let last: Promise<void> = Promise.resolve()
  parentPort?.on('message', (message: { id: number; request: Request }) => {
    last = last.then(() => answer(message))
  })
}
