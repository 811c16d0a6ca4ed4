import { sampleOp } from '../../lib/ops/sample.ts'
import { type CaseInputs, defineCases } from './cases.ts'

function call(rows: number, size: number, scale = 2): CaseInputs {
  return {
    logits: { shape: [rows, size], fill: { scale } },
    key: { shape: [rows, 4], fill: { range: [0, 2 ** 31] } },
  }
}
/** Half of the tokens of the small vocabularies, some twice, and padding. */
const seen = (inputs: CaseInputs): CaseInputs => ({
  ...inputs,
  history: {
    shape: [(inputs['key'] as { shape: readonly number[] }).shape[0] ?? 0, 16],
    fill: { from: (i: number) => (i % 7 === 3 ? -1 : (i * 5) % 31) },
  },
})
const plain = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 }

export default defineCases(sampleOp, {
  cases: [
    { name: 'greedy', inputs: call(5, 33), attributes: { ...plain, temperature: 0 } },
    { name: 'plain', inputs: call(33, 65), attributes: plain },
    { name: 'warm', inputs: call(33, 31), attributes: { ...plain, temperature: 0.7 } },
    { name: 'cold', inputs: call(17, 63), attributes: { ...plain, temperature: 1e-4 } },
    { name: 'top k', inputs: call(33, 127), attributes: { ...plain, topK: 7 } },
    { name: 'top k of more than there are', inputs: call(9, 15), attributes: { ...plain, topK: 100 } },
    { name: 'top p', inputs: call(33, 127), attributes: { ...plain, topP: 0.9 } },
    { name: 'top p keeps at least one', inputs: call(17, 17), attributes: { ...plain, topP: 1e-9 } },
    { name: 'both', inputs: call(33, 63), attributes: { ...plain, temperature: 0.9, topK: 20, topP: 0.6 } },
    { name: 'top p of nearly equal ones', inputs: call(9, 127, 0.05), attributes: { ...plain, topP: 0.5 } },
    {
      name: 'top p that cuts far below',
      inputs: call(9, 127, 12),
      attributes: { ...plain, topP: 1 - 1e-12 },
    },
    { name: 'a large vocabulary', inputs: call(1, 1501), attributes: { ...plain, topP: 0.9 } },
    {
      name: 'a large vocabulary, both',
      inputs: call(1, 2102, 6),
      attributes: { ...plain, temperature: 1.5, topK: 300, topP: 0.95 },
    },
    { name: 'min p', inputs: call(33, 127), attributes: { ...plain, minP: 0.2 } },
    { name: 'min p 1 is greedy', inputs: call(17, 65), attributes: { ...plain, minP: 1 } },
    {
      name: 'all of them',
      inputs: seen(call(33, 63)),
      attributes: { temperature: 0.9, topK: 20, topP: 0.8, minP: 0.05, repetitionPenalty: 1.3 },
    },
    {
      name: 'penalty, greedy',
      inputs: seen(call(17, 33)),
      attributes: { ...plain, temperature: 0, repetitionPenalty: 5 },
    },
    {
      name: 'penalty below 1',
      inputs: seen(call(17, 33)),
      attributes: { ...plain, temperature: 0.5, repetitionPenalty: 0.4 },
    },
    {
      name: 'no history',
      inputs: { ...call(3, 33), history: { shape: [3, 0], fill: 'uniform' } },
      attributes: plain,
    },
    { name: 'one token', inputs: call(3, 1), attributes: plain },
    { name: 'no rows', inputs: call(0, 5), attributes: plain },
    {
      name: 'equal logits',
      inputs: { ...call(33, 17), logits: { shape: [33, 17], fill: { values: [1] } } },
      attributes: { ...plain, topP: 0.5 },
    },
    {
      name: 'masked tokens',
      inputs: {
        ...call(33, 8),
        logits: { shape: [33, 8], fill: { values: [0, Number.NEGATIVE_INFINITY, 1, 2] } },
      },
      attributes: plain,
    },
    {
      name: 'padded rows',
      inputs: { ...call(9, 33), logits: { shape: [9, 33], strides: 'padded', fill: { scale: 2 } } },
      attributes: { ...plain, topP: 0.8 },
    },
  ],
  errors: [
    {
      name: 'no tokens',
      inputs: call(2, 0),
      attributes: plain,
      code: 'ERR_SHAPE',
      message: /logits must be \[B, V\] with V > 0/,
    },
    {
      name: 'keys of another batch',
      inputs: { ...call(2, 8), key: { shape: [3, 4], fill: { values: [1] } } },
      attributes: plain,
      code: 'ERR_SHAPE',
      message: /key must be \[2,4\]/,
    },
    {
      name: 'history past the vocabulary',
      inputs: { ...call(2, 8), history: { shape: [2, 2], fill: { values: [1, -1, 8, 2] } } },
      attributes: plain,
      code: 'ERR_VALUE',
      message: /history\[2\] is 8/,
    },
    {
      name: 'history of another batch',
      inputs: { ...call(2, 8), history: { shape: [3, 2], fill: { values: [1] } } },
      attributes: plain,
      code: 'ERR_SHAPE',
      message: /history must be \[2, L\]/,
    },
    {
      name: 'minP 2',
      inputs: call(2, 8),
      attributes: { ...plain, minP: 2 },
      code: 'ERR_VALUE',
      message: /minP must be in/,
    },
    {
      name: 'repetitionPenalty 0',
      inputs: call(2, 8),
      attributes: { ...plain, repetitionPenalty: 0 },
      code: 'ERR_VALUE',
      message: /repetitionPenalty must be/,
    },
    {
      name: 'topP 0',
      inputs: call(2, 8),
      attributes: { ...plain, topP: 0 },
      code: 'ERR_VALUE',
      message: /topP must be in \(0, 1\]/,
    },
    {
      name: 'topK -1',
      inputs: call(2, 8),
      attributes: { ...plain, topK: -1 },
      code: 'ERR_VALUE',
      message: /topK must be/,
    },
    {
      name: 'temperature NaN',
      inputs: call(2, 8),
      attributes: { ...plain, temperature: Number.NaN },
      code: 'ERR_VALUE',
      message: /temperature must be/,
    },
  ],
  bench: [{ inputs: call(8, 50304), attributes: { ...plain, temperature: 0.7, topK: 50, topP: 0.9 } }],
})
