// LLaMA beside PyTorch; test/golden/parity/make.py made the values.
import { describeParity, parityGolden } from './parity.ts'

describeParity('llama', parityGolden(''))
