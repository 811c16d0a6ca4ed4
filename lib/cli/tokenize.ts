import { readFile } from 'node:fs/promises'
import { Tokenizer } from '../tokenizer/tokenizer.ts'
import { type Command, fail } from './command.ts'

export const tokenize: Command = {
  summary: 'shows the tokens of a text',
  options: {
    tokenizer: { type: 'string', value: 'dir', help: 'folder with tokenizer.json' },
    text: { type: 'string', help: 'text; or' },
    file: { type: 'string', value: 'file', help: 'a file of it' },
    json: { type: 'boolean', help: 'prints the ids as one JSON list' },
  },
  async run(args) {
    const tokenizer = await Tokenizer.load(args.required('tokenizer'))
    const file = args.text('file')
    const text = file === undefined ? args.text('text') : await readFile(file, 'utf8')
    if (text === undefined) fail('--text or --file is needed')
    const ids = await tokenizer.encodeAsync(text)
    if (args.flag('json')) process.stdout.write(`${JSON.stringify([...ids])}\n`)
    else {
      for (const id of ids) {
        const shown = JSON.stringify(tokenizer.decode([id], { skipSpecialTokens: false }))
        process.stdout.write(`${String(id).padStart(7)}  ${shown}\n`)
      }
      process.stdout.write(`${ids.length} tokens, ${text.length} characters\n`)
    }
    return 0
  },
}
