// The matrix product of the CUDA device: C = sum over segments of A B^T, summed in float32 and
// rounded once, for float32 and bf16. What is asked of it is the same whichever backend answers:
// cuBLASLt where the machine has it (cublaslt.cuh), our own kernels everywhere (gemm.cu).
#pragma once

#include <cstdint>
#include <span>

#include "native/cuda/kernel.cuh"

namespace fuselm::cuda {

// Element (i, k) of A, or (j, k) of B: at i * stride + k when K runs along memory, else at
// k * stride + i.
struct GemmOperand {
  const void* data;
  int64_t stride;
  bool along_k;
};

// Every further segment adds the product of its own A and B; none at all is a K of 0. All operands
// on one side run the same way.
struct GemmSegment {
  GemmOperand a, b;
  int64_t k;
};
inline constexpr size_t kMaxSegments = 6;

// Row-major. Sums are multiplied by the scales (one per column), then the addend (float32 or bf16;
// may be the output itself) and the bias (either, too, one per column) join, all in float32.
struct GemmOutput {
  void* data;
  int64_t stride;
  DType dtype;  // float32, or that of the operands
  const View* bias = nullptr;
  const void* addend = nullptr;
  int64_t addend_stride = 0;
  DType addend_dtype = DType::kF32;
  const float* scales = nullptr;
};

// Products alike: `count` of them, laid out by axes (the last fastest); strides in elements.
struct GemmBatch {
  int64_t count = 1;
  int rank = 0;
  int64_t shape[kMaxRank] = {}, a[kMaxRank] = {}, b[kMaxRank] = {}, c[kMaxRank] = {};
};

struct GemmProblem {
  DType dtype;
  int64_t m, n;
  std::span<const GemmSegment> segments;
  GemmOutput out;
  GemmBatch batch = {};
};

// Enqueues it. `what` names the op in errors. K of 0 gives bias and addend alone.
void Gemm(const Arguments& in, const char* what, const GemmProblem& problem);

// C [m, n] = A B^T with B in int8: values [n, k] and float32 scales, per row (group 0) or per group
// of k. `dtype` is that of A and C. See int8.cu.
struct Int8Weights {
  const int8_t* values;
  const float* scales;
  int64_t n, k, group;
  int64_t groups() const { return group == 0 ? 1 : CeilDiv(k, group); }
  // group is 0 (all of a row), 32, 64 or 128: column >> group_shift() is its group
  int group_shift() const { return group == 0 ? 40 : group == 32 ? 5 : group == 64 ? 6 : 7; }
};

// Few rows (m at most kGemvRows) by weights whose K runs along memory: reads the weights once.
inline constexpr int64_t kGemvRows = 8;
struct GemvProblem {
  DType dtype;  // of x, y and, when `int8` is null, the weights
  int64_t m, n, k;
  const void* x;
  int64_t x_stride;
  const void* weight;
  int64_t weight_stride;
  const Int8Weights* int8;
  const View* bias;
  void* y;
  int64_t y_stride;
};
void Gemv(const Arguments& in, const char* what, const GemvProblem& problem);

}  // namespace fuselm::cuda
