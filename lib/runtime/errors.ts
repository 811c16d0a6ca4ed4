/** Typed errors. `code` is stable and meant for programs; the message is meant for people. */

export class FuselmError extends Error {
  readonly code: string

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
    this.name = new.target.name
  }
}

/** Shapes, dtypes or layouts that do not fit together. */
export class ShapeError extends FuselmError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_SHAPE', message, options)
  }
}

/** The device could not allocate; parameters and optimizer state are as they were. */
export class OutOfMemoryError extends FuselmError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_OUT_OF_MEMORY', message, options)
  }
}

/** Bytes that are not what their format says: a file, or a command record. */
export class FormatError extends FuselmError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_FORMAT', message, options)
  }
}

/** The device, the addon or the protocol between them failed. */
export class DeviceError extends FuselmError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_DEVICE', message, options)
  }
}

/** Something was used after dispose() or close(). */
export class DisposedError extends FuselmError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_DISPOSED', message, options)
  }
}

/** An option, environment variable or configuration file holds something that cannot be. */
export class ConfigError extends FuselmError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_CONFIG', message, options)
  }
}

/** An argument or a datum outside its domain (a label past the vocabulary, NaN as a count). */
export class ValueError extends FuselmError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_VALUE', message, options)
  }
}

/** More work in flight than `maxBytesInFlight`: the caller never awaited `queue.ready()`. */
export class QueueFullError extends FuselmError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_QUEUE_FULL', message, options)
  }
}

/**
 * A backward failed after it had added to some gradients, so those of its leaves are incomplete: set
 * `grad` of all of them to null (`optimizer.zeroGrad()`). `cause` is what failed.
 */
export class IncompleteGradientError extends FuselmError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_INCOMPLETE_GRADIENT', message, options)
  }
}

/** Training came to losses or gradients that are no numbers, step after step. */
export class DivergedError extends FuselmError {
  constructor(message: string, options?: ErrorOptions) {
    super('ERR_DIVERGED', message, options)
  }
}

/** The owner of the work was cancelled. Has the name and code of Node's own aborts. */
export class AbortError extends FuselmError {
  constructor(message = 'The operation was aborted', options?: ErrorOptions) {
    super('ABORT_ERR', message, options)
  }
}

/** What an error message shows for an argument: a tensor's shape, else the value. */
function describe(received: unknown): string {
  if (Array.isArray(received)) return `[${received}]`
  if (typeof received === 'object' && received !== null && 'shape' in received) {
    return `[${String(received.shape)}]`
  }
  return typeof received === 'string' ? received : String(received)
}

/**
 * The one builder of shape messages:
 * `rmsNorm: w must be [768] to match x [4,128,768], received [512]`.
 * @param received a tensor or a shape (printed as `[..]`), or text
 */
export function shapeError(op: string, input: string, expected: string, received: unknown): ShapeError {
  return new ShapeError(`${op}: ${input} must be ${expected}, received ${describe(received)}`)
}

/** Error codes of native/core/error.h. */
export function nativeError(code: number, message: string): FuselmError {
  switch (code) {
    case 1:
      return new ShapeError(message)
    case 2:
      return new OutOfMemoryError(message)
    case 4:
      return new FormatError(message)
    case 5:
      return new AbortError(message)
    case 6:
      return new ConfigError(message)
    case 7:
      return new ValueError(message)
    default:
      return new DeviceError(message)
  }
}
