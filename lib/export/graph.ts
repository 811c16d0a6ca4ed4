// An ONNX graph as it is built, and as a file.
// Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto

import type { NewFile } from '../io/atomic.ts'
import { ConfigError } from '../runtime/errors.ts'
import { type ByteStream, Message } from './protobuf.ts'

/** Operators are those of this version: the first with blocked DequantizeLinear. */
const OPSET = 21
const IR_VERSION = 10
/** Of one message; external data is not counted. */
const MAX_MESSAGE_BYTES = 2 ** 31 - 1
/** External data is mapped by page where the reader can. */
const ALIGNMENT = 4096
/** Initializers below this stay in the model file. */
const MIN_EXTERNAL_BYTES = 1024

/** TensorProto.DataType */
export const DATA_TYPES = { f32: 1, u8: 2, i8: 3, i32: 6, i64: 7, bool: 9, f16: 10, f64: 11 } as const
export type DataType = keyof typeof DATA_TYPES

/** AttributeProto.AttributeType */
const ATTRIBUTE = { float: 1, int: 2, string: 3, ints: 7 } as const

/** A value of the graph, by its name. */
export type Value = string

/** An attribute: a text, whole numbers, or `{ float }`. */
export type Attribute = string | number | readonly number[] | { readonly float: number }

export interface Initializer extends ByteStream {
  readonly name: string
  readonly type: DataType
  readonly shape: readonly number[]
}

function attribute(name: string, value: Attribute): Message {
  const message = new Message().bytes(1, name)
  if (typeof value === 'string') return message.bytes(4, value).int(20, ATTRIBUTE.string)
  if (typeof value === 'number') return message.int(3, value).int(20, ATTRIBUTE.int)
  if ('float' in value) return message.float(2, value.float).int(20, ATTRIBUTE.float)
  for (const item of value) message.int(8, item)
  return message.int(20, ATTRIBUTE.ints)
}

/** @param shape numbers, and names of dimensions that differ from call to call */
function valueInfo(name: string, type: DataType, shape: readonly (number | string)[]): Message {
  const dimensions = new Message()
  for (const size of shape) {
    dimensions.bytes(1, typeof size === 'number' ? new Message().int(1, size) : new Message().bytes(2, size))
  }
  const tensor = new Message().int(1, DATA_TYPES[type]).bytes(2, dimensions)
  return new Message().bytes(1, name).bytes(2, new Message().bytes(1, tensor))
}

/** Little-endian bytes of numbers. */
function encode(type: DataType, values: readonly (number | bigint)[]): Uint8Array {
  const numbers = values.map(Number)
  if (type === 'i64') return new Uint8Array(BigInt64Array.from(values, BigInt).buffer)
  if (type === 'f64') return new Uint8Array(Float64Array.from(numbers).buffer)
  if (type === 'f32') return new Uint8Array(Float32Array.from(numbers).buffer)
  throw new ConfigError(`exportOnnx: constants are not written as ${type}`)
}

/** Nodes, weights, inputs and outputs; names say where in the model a node belongs. */
export class Graph {
  readonly #nodes: Message[] = []
  readonly #inputs: Message[] = []
  readonly #outputs: Message[] = []
  readonly #initializers = new Map<string, Initializer>()
  readonly #counts = new Map<string, number>()
  #place = 'model'

  /** Names of what `body` adds begin with the place. */
  at<T>(place: string, body: () => T): T {
    const before = this.#place
    this.#place = place
    try {
      return body()
    } finally {
      this.#place = before
    }
  }

  input(name: string, type: DataType, shape: readonly (number | string)[]): Value {
    this.#inputs.push(valueInfo(name, type, shape))
    return name
  }

  /** Makes a value an output under another name. */
  output(name: string, type: DataType, shape: readonly (number | string)[], value: Value): void {
    this.#outputs.push(valueInfo(name, type, shape))
    this.#node('Identity', [value], {}, [name])
  }

  /** One node with one output. An input that is left out is ''. */
  op(type: string, inputs: readonly Value[], attributes: Readonly<Record<string, Attribute>> = {}): Value {
    const output = this.#fresh(type)
    this.#node(type, inputs, attributes, [output])
    return output
  }

  /** One node with several outputs. */
  ops(
    type: string,
    inputs: readonly Value[],
    count: number,
    attributes: Readonly<Record<string, Attribute>> = {},
  ): Value[] {
    const name = this.#fresh(type)
    const outputs = Array.from({ length: count }, (_, i) => `${name}_${i}`)
    this.#node(type, inputs, attributes, outputs)
    return outputs
  }

  /** Small numbers; the same ones are written once. @param shape [] for a scalar */
  constant(
    type: DataType,
    values: number | readonly number[],
    shape: readonly number[] = typeof values === 'number' ? [] : [values.length],
  ): Value {
    const bytes = encode(type, typeof values === 'number' ? [values] : values)
    const name =
      bytes.length <= 64
        ? `const/${type}[${shape}]/${Buffer.from(bytes).toString('hex')}`
        : `const/${this.#fresh(type)}`
    return this.initializer({
      name,
      type,
      shape,
      byteLength: bytes.length,
      read: async function* () {
        yield bytes
      },
    })
  }

  initializer(initializer: Initializer): Value {
    this.#initializers.set(initializer.name, initializer)
    return initializer.name
  }

  /**
   * The graph's files: a model, and its weights where they are not in it.
   * @param options external: true or false; when left out, what a message can hold decides
   */
  files(name: string, { external }: { readonly external?: boolean | undefined } = {}): NewFile[] {
    const inside = this.#model((message, { byteLength, read }) => message.bytes(9, { byteLength, read }))
    if (!(external ?? inside.byteLength > MAX_MESSAGE_BYTES)) {
      if (inside.byteLength > MAX_MESSAGE_BYTES) {
        throw new ConfigError(
          `exportOnnx: externalData must be true for a model of ${inside.byteLength} bytes, a message holds ${MAX_MESSAGE_BYTES}`,
        )
      }
      return [{ name, body: (write) => inside.write(write) }]
    }
    const dataName = `${name}_data`
    const placed: { initializer: Initializer; offset: number }[] = []
    let end = 0
    const outside = this.#model((message, initializer) => {
      const { byteLength, read } = initializer
      if (byteLength < MIN_EXTERNAL_BYTES) return message.bytes(9, { byteLength, read })
      const offset = Math.ceil(end / ALIGNMENT) * ALIGNMENT
      placed.push({ initializer, offset })
      end = offset + byteLength
      const entries = { location: dataName, offset: String(offset), length: String(byteLength) }
      for (const [key, value] of Object.entries(entries)) {
        message.bytes(13, new Message().bytes(1, key).bytes(2, value))
      }
      return message.int(14, 1) // DataLocation.EXTERNAL
    })
    const body: NewFile['body'] = async (write) => {
      let at = 0
      for (const { initializer, offset } of placed) {
        if (offset > at) await write(new Uint8Array(offset - at))
        for await (const bytes of initializer.read()) await write(bytes)
        at = offset + initializer.byteLength
      }
    }
    // the data first: a model without it is worth nothing
    return [
      { name: dataName, body },
      { name, body: (write) => outside.write(write) },
    ]
  }

  #model(data: (message: Message, initializer: Initializer) => Message): Message {
    const graph = new Message()
    for (const node of this.#nodes) graph.bytes(1, node)
    graph.bytes(2, 'decoder')
    for (const initializer of this.#initializers.values()) {
      const tensor = new Message()
      for (const size of initializer.shape) tensor.int(1, size)
      tensor.int(2, DATA_TYPES[initializer.type]).bytes(8, initializer.name)
      graph.bytes(5, data(tensor, initializer))
    }
    for (const input of this.#inputs) graph.bytes(11, input)
    for (const output of this.#outputs) graph.bytes(12, output)
    const opset = new Message().bytes(1, '').int(2, OPSET)
    return new Message().int(1, IR_VERSION).bytes(2, 'fuselm').bytes(7, graph).bytes(8, opset)
  }

  #node(
    type: string,
    inputs: readonly Value[],
    attributes: Readonly<Record<string, Attribute>>,
    outputs: readonly Value[],
  ): void {
    const node = new Message()
    for (const input of inputs) node.bytes(1, input)
    for (const output of outputs) node.bytes(2, output)
    node.bytes(3, `node/${outputs[0]}`).bytes(4, type)
    for (const [name, value] of Object.entries(attributes)) node.bytes(5, attribute(name, value))
    this.#nodes.push(node)
  }

  #fresh(type: string): string {
    const key = `${this.#place}/${type}`
    const count = this.#counts.get(key) ?? 0
    this.#counts.set(key, count + 1)
    return count === 0 ? key : `${key}_${count}`
  }
}
