// The one matrix multiplication of the CPU backend:
//
//   C[m, n] = sum over segments, over k of  A[m, k] * B[n, k]
//
// in float32, for f32 or bf16 operands. Three seams keep weight kinds, low-rank terms and fused
// tails from multiplying files:
//   - how a panel of B is packed: GemmOperand::pack makes it from weights that are not dense f32
//     or bf16 (quantized, interleaved, ...); pack.h has the loops, a packer only loads words;
//   - extra K: every further segment adds its A and B to the same accumulators (a low-rank term is
//     a short second segment), each with a packer of its own;
//   - the epilogue: what happens to a finished block of C (GemmOutput, or a callback that gets the
//     block in float32 while it is in cache).
//
// Work is cut by shape only, and each element of C is summed in one order: results are bitwise
// equal on any number of threads.
#pragma once

#include <cstdint>
#include <span>

#include "native/core/kernel.h"

namespace fuselm {

// A panel of B to be packed for K [k0, k0 + len): columns [column, column + kPanel), of which those
// from column + columns on do not exist and are zeros. `dst` is laid out as pack.h says.
struct GemmPanel {
  int64_t column, columns;
  int64_t k0, len;
  float* dst;
};

// One operand, its rows counted by i (m of A, n of B). Element (i, k) is data[i * stride + k]
// when along_k, else data[k * stride + i].
struct GemmOperand {
  const void* data = nullptr;
  int64_t stride = 0;
  bool along_k = true;
  // B only: packs a panel, `data` being its context; stride is then not read, and along_k says in
  // which order panels are asked for. Called from tiles (it may not throw), for panels in any order
  // and K in slices of whole words. Write it with PackAlongK or PackDownK.
  void (*pack)(const void* data, const GemmPanel& panel) = nullptr;
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

// A stretch of C's columns that is an output of its own: columns [begin, end) go to
// data[m * stride + column - begin], with a bias of end - begin elements or none.
struct GemmColumns {
  int64_t begin, end;
  void* data;
  int64_t stride;
  const float* bias;
};

struct GemmOutput {
  void* data = nullptr;  // [m, n], `stride` elements a row
  int64_t stride = 0;
  DType dtype = DType::kF32;
  const float* addend = nullptr;  // [m, n] added to C; may be `data` itself (f32)
  int64_t addend_stride = 0;
  const float* bias = nullptr;  // [n]
  // When not empty, where C goes in place of `data`, `addend` and `bias`: stretches that cover its
  // columns in order.
  std::span<const GemmColumns> columns = {};
  // When set, called (noexcept) for every block, addend and bias included, in place of storing to
  // `data`. Blocks are kGemmBlockColumns wide and start at its multiples (the last may be
  // narrower).
  void (*on_block)(void* context, const GemmBlock& block) = nullptr;
  void* context = nullptr;
};
inline constexpr int64_t kGemmBlockColumns = 512;

struct GemmProblem {
  DType dtype = DType::kF32;  // of every operand
  int64_t m = 0, n = 0;
  std::span<const GemmSegment> segments;
  GemmOutput out;
};

// Products alike in everything but where their operands begin; C after C, densely. One segment, no
// callback.
struct GemmBatch {
  GemmProblem problem;
  int64_t count = 0;
  // Elements from problem's A and B to those of product i. Called from tiles.
  void (*offsets)(const void* context, int64_t i, int64_t& a, int64_t& b) = nullptr;
  const void* context = nullptr;
};

// Workspace that several products of one command share; each call grows what is too small.
struct GemmBuffers {
  float* packed = nullptr;
  float* partial = nullptr;
  size_t packed_floats = 0, partial_floats = 0;
};

namespace FUSELM_LEVEL_NS {
void Gemm(Invocation& inv, const GemmProblem& problem, GemmBuffers& buffers);
inline void Gemm(Invocation& inv, const GemmProblem& problem) {
  GemmBuffers buffers;
  Gemm(inv, problem, buffers);
}
void Gemm(Invocation& inv, const GemmBatch& batch);
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
