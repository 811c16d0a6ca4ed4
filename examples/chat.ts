// A conversation with a model from elsewhere: a Hugging Face folder with a chat template, its weights int8.
//
//   node build/examples/chat.js some/hf/folder
import { createInterface } from 'node:readline/promises'
import { pathToFileURL } from 'node:url'
import { type ChatMessage, Decoder, type GenerateOptions } from 'fuselm'

/** Answers line after line; a session reads of a conversation only what is new. */
export async function* chat(
  decoder: Decoder,
  lines: AsyncIterable<string>,
  options: GenerateOptions = {},
): AsyncGenerator<string> {
  using session = decoder.session()
  const messages: ChatMessage[] = []
  for await (const content of lines) {
    messages.push({ role: 'user', content })
    let answer = ''
    for await (const { text } of session.generate(messages, {
      temperature: 0.7,
      topP: 0.92,
      repetitionPenalty: 1.2,
      ...options,
    })) {
      answer += text
      yield text // as it comes; leaving the loop ends the answer
    }
    messages.push({ role: 'assistant', content: answer })
    yield '\n'
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const folder = process.argv[2]
  if (folder === undefined) throw new Error('usage: chat.js folder')
  using decoder = await Decoder.load(folder, {
    weights: 'int8', // a quarter of float32; each matrix is quantised as it is read
    onProgress: ({ loadedBytes, totalBytes }) =>
      process.stderr.write(`\r${Math.round((100 * loadedBytes) / totalBytes)} % loaded`),
  })
  process.stderr.write('\n')
  const lines = createInterface({ input: process.stdin })
  for await (const text of chat(decoder, lines)) process.stdout.write(text)
}
