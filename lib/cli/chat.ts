import { createInterface } from 'node:readline/promises'
import { Decoder } from '../decoder/decoder.ts'
import type { ChatMessage } from '../tokenizer/chat-template.ts'
import { adapterOf, adapterOption } from './adapter.ts'
import { type Command, fail } from './command.ts'
import { deviceOption, useDevice } from './device.ts'
import { SAMPLING, samplingOf } from './generate.ts'

export const chat: Command = {
  summary:
    'talks with a model that has a chat template; Ctrl-C ends an answer, an empty line or Ctrl-D all of it',
  options: {
    ...deviceOption,
    model: { type: 'string', value: 'dir', help: 'folder of the model' },
    ...adapterOption,
    system: { type: 'string', help: 'what the model is told first' },
    ...SAMPLING,
  },
  async run(args) {
    useDevice(args)
    using decoder = await Decoder.load(args.required('model'))
    if (decoder.tokenizer.chatTemplate === null) fail('this model has no chat template; use fuselm generate')
    using session = decoder.session({ adapter: await adapterOf(args, decoder) })
    const messages: ChatMessage[] = []
    const system = args.text('system')
    if (system !== undefined) messages.push({ role: 'system', content: system })
    const lines = createInterface({ input: process.stdin, output: process.stdout, prompt: '> ' })
    let answering: AbortController | null = null
    // Ctrl-C ends an answer; where none is given, the conversation
    const interrupt = (): void => {
      if (answering === null) lines.close()
      else answering.abort()
    }
    lines.on('SIGINT', interrupt) // of a terminal, which has no signals while its lines are edited
    process.on('SIGINT', interrupt)
    lines.prompt()
    for await (const line of lines) {
      if (line.trim() === '') break
      messages.push({ role: 'user', content: line })
      let answer = ''
      const controller = new AbortController()
      const { signal } = controller
      answering = controller
      try {
        for await (const { text } of session.generate(messages, { ...samplingOf(args), signal })) {
          answer += text
          process.stdout.write(text)
        }
      } catch (error) {
        if (error !== signal.reason) throw error // before its first token
      } finally {
        answering = null
      }
      process.stdout.write('\n')
      messages.push({ role: 'assistant', content: answer })
      lines.prompt()
    }
    process.off('SIGINT', interrupt)
    lines.close()
    return 0
  },
}
