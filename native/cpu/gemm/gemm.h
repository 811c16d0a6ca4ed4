// The one matrix multiplication of the CPU backend:
//
//   C[m, n] = sum over segments, over k of  A[m, k] * B[n, k]
//
// in float32, for f32 or bf16 operands. Three seams keep weight kinds, low-rank terms and fused
// tails from multiplying files: how a B panel is packed (pack.h), further segments of K (a LoRA
// term is a second segment), and what happens to a finished block of C (GemmOutput, or a callback
// that gets the block in float32 while it is in cache).
//
// Work is cut by shape only, and each element of C is summed in one order: results are bitwise
// equal on any number of threads.
#pragma once

#include <cstdint>
#include <span>

#include "native/core/kernel.h"

namespace fuselm {

// One operand, its rows counted by i (m of A, n of B). Element (i, k) is data[i * stride + k]
// when along_k, else data[k * stride + i].
struct GemmOperand {
  const void* data = nullptr;
  int64_t stride = 0;
  bool along_k = true;
};

struct GemmSegment {
  GemmOperand a, b;
  int64_t k = 0;
};

// A finished float32 block of C: rows [m, m + rows), columns [n, n + cols), `stride` floats a row.
struct GemmBlock {
  float* c;
  int64_t stride, m, rows, n, cols;
  int worker;
};

struct GemmOutput {
  void* data = nullptr;  // [m, n], `stride` elements a row
  int64_t stride = 0;
  DType dtype = DType::kF32;
  bool accumulate = false;      // C += (f32 only)
  const float* bias = nullptr;  // [n]
  // When set, called (noexcept) for every block in place of storing to `data`; `bias` is added.
  // Blocks start at multiples of GemmBlockColumns.
  void (*on_block)(void* context, const GemmBlock& block) = nullptr;
  void* context = nullptr;
};

struct GemmProblem {
  DType dtype = DType::kF32;  // of every operand
  int64_t m = 0, n = 0;
  std::span<const GemmSegment> segments;
  GemmOutput out;
};

namespace FUSELM_LEVEL_NS {
void Gemm(Invocation& inv, const GemmProblem& problem);
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
