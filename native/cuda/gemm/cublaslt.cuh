// cuBLASLt as a backend of the product, opened at run time: a machine without it loses speed only.
#pragma once

#include "native/cuda/gemm/gemm.cuh"

namespace fuselm::cuda {

// What became of the library, for reports: its version and where it came from, or why not. Opens
// it.
const char* CublasLtStatus();

bool CublasLtUsable();

// C = A B^T (+ addend) (+ bias) with one segment and at most one batch axis. False when the library
// is missing or does not take the problem (alignment, a bias of another dtype than C, no
// algorithm); then nothing was enqueued.
bool CublasLtGemm(const Arguments& in, const GemmProblem& problem);

}  // namespace fuselm::cuda
