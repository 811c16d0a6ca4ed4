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

/** A text that came in parts, by the number they came under. */
export interface HeldText {
  readonly held: number
  readonly length: number
}

/** A text, or where its parts are. */
export type HandedText = string | HeldText

/** What `WorkerThread.hand` sends before the request that names the text. */
export interface HoldRequest {
  readonly held: number
  readonly part: string
}

const parts = new Map<number, string[]>()

/** The text that a request was given, whole. */
export function takeText(text: HandedText): string {
  if (typeof text === 'string') return text
  const whole = (parts.get(text.held) ?? []).join('')
  parts.delete(text.held)
  if (whole.length !== text.length) {
    throw new Error('the thread was ended while a text was handed to it; another call was aborted')
  }
  return whole
}

function hold({ held, part }: HoldRequest): void {
  const before = parts.get(held)
  if (before === undefined) parts.set(held, [part])
  else before.push(part)
}

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
  parentPort?.on(
    'message',
    (message: { id: number; request: Request } | { id: number; hold: HoldRequest }) => {
      if ('hold' in message) {
        hold(message.hold)
        send({ id: message.id, type: 'done', value: null })
      } else last = last.then(() => answer(message))
    },
  )
}
