// Documents to tokens, with what the loss may count.

import { FormatError } from '../runtime/errors.ts'
import type { Tokenizer } from '../tokenizer/tokenizer.ts'
import type { DocumentPart } from './documents.ts'
import type { TokenFileWriter } from './token-file.ts'

/** Where a conversation is read and where it is to be learnt, from what the template adds turn by turn. */
function chatSegments(
  tokenizer: Tokenizer,
  { where, body }: DocumentPart & { body: { type: 'chat' } },
): { text: string; isTarget: boolean }[] {
  const { messages } = body
  const segments: { text: string; isTarget: boolean }[] = []
  let done = ''
  const advance = (text: string, isTarget: boolean, turn: number): void => {
    if (!text.startsWith(done)) {
      throw new FormatError(
        `${where}: expected a chat template that only adds to what earlier turns gave, found turn ${turn} to change them`,
      )
    }
    if (text.length > done.length) segments.push({ text: text.slice(done.length), isTarget })
    done = text
  }
  messages.forEach((message, turn) => {
    if (message.role !== 'assistant') return
    const before = messages.slice(0, turn)
    advance(tokenizer.applyChatTemplate(before, { addGenerationPrompt: true }), false, turn)
    advance(tokenizer.applyChatTemplate(messages.slice(0, turn + 1)), true, turn)
  })
  return segments
}

/**
 * Writes one document, or a part of one.
 * @throws FormatError naming the row when nothing in it is a target, or an id is past the vocabulary
 */
export async function writeDocument(
  writer: TokenFileWriter,
  part: DocumentPart,
  tokenizer: Tokenizer,
): Promise<void> {
  const { where, body } = part
  const { eosTokenId } = tokenizer
  switch (body.type) {
    case 'text':
      await writer.append(tokenizer.encodeHere(body.text, body.first), true)
      if (!body.last) return
      if (eosTokenId !== null) await writer.append([eosTokenId], true)
      break
    case 'completion': {
      if (body.completion === '') nothingToLearn(where)
      await writer.append(tokenizer.encodeHere(body.prompt, true), false)
      await writer.append(tokenizer.encodeHere(body.completion, false), true)
      if (eosTokenId !== null) await writer.append([eosTokenId], true)
      break
    }
    case 'chat': {
      const segments = chatSegments(tokenizer, part as DocumentPart & { body: { type: 'chat' } })
      if (!segments.some(({ isTarget }) => isTarget)) nothingToLearn(where)
      for (const { text, isTarget } of segments)
        await writer.append(tokenizer.encodeHere(text, false), isTarget)
      break
    }
    case 'ids': {
      const { ids, labels } = body
      let targets = 0
      for (let i = 0; i < ids.length; i++) {
        const id = ids[i] as number
        if (id < 0 || id >= tokenizer.vocabSize) {
          throw new FormatError(`${where}: expected ids from 0 to ${tokenizer.vocabSize - 1}, found ${id}`)
        }
        const label = labels[i] as number
        if (label !== -100 && label !== id) {
          throw new FormatError(
            `${where}: expected each label to be its id or -100, found ${label} for ${id}`,
          )
        }
        if (label !== -100) targets++
        await writer.append([id], label !== -100)
      }
      if (targets === 0 && ids.length > 0) nothingToLearn(where)
      break
    }
    default:
      body satisfies never
  }
  writer.endDocument()
}

function nothingToLearn(where: string): never {
  throw new FormatError(`${where}: expected something to learn (an answer of the assistant), found none`)
}
