// Backward attention kernels. One kernel template makes either gradient, with "rows" that a block
// keeps and "columns" that it walks over:
//   of queries: rows q and dout, columns k and v:  dq = scale dS K
//   of keys:    rows k and v, columns q and dout:  dk = scale dS^T Q, dv = P^T dO
// with P = 2^(scale2 S - lse2) and dS = P (dP - delta), S and dP the products of the first and the
// second operands of rows and columns. Every sum has one writer and one order; no atomics.
#pragma once

#include "native/cuda/attention/problem.cuh"

namespace fuselm::cuda::attention {

struct Backward {
  Problem problem;
  Heads dout, q, k, v, out, dq, dk, dv;
  const float* lse;  // [B, H, T]
  float* delta;      // [B, H, T]: dout . out
  Span* spans;       // [B, column blocks of queries]
  // For hopper: what a block of columns needs of its queries, each row `padded` long, a multiple of
  // 64: lse in base 2 and delta [B, H, padded], intervals [B, padded]; null elsewhere.
  int64_t padded;
  float *lse2, *padded_delta;
  Interval* intervals;
};

// Fills delta.
void MakeDelta(const Arguments& in, const Backward& args, DType dtype);
// Makes delta itself.
void BackwardBf16(const Arguments& in, Backward args);
// On sm_90a; D at most 128, 16-byte aligned. Blocks of kHopperQueries queries have their spans.
inline constexpr int kHopperQueries = 64;
void BackwardHopper(const Arguments& in, const Backward& args);
// With delta made.
void BackwardF32(const Arguments& in, const Backward& args);

// Column blocks of queries, `columns` of them each, that keys row0..row0 + rows - 1 may meet by
// position alone: first and one past the last. Host and device.
struct BlockRange {
  int64_t begin, end;
};
__host__ __device__ inline BlockRange QueriesOf(const Problem& p, int64_t row0, int64_t rows,
                                                int64_t columns) {
  int64_t from = 0, to = p.T;  // queries
  const int64_t shift = p.S - p.T;
  if (p.causal && row0 - shift > from) from = row0 - shift;
  if (p.window > 0 && row0 + rows - 1 + p.window - shift < to)
    to = row0 + rows - 1 + p.window - shift;
  if (from >= to) return {0, 0};
  return {from / columns, (to + columns - 1) / columns};
}

}  // namespace fuselm::cuda::attention
