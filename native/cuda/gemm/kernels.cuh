// What the product's own kernels are asked for, once gemm.cu has checked, aligned and cut a
// problem.
#pragma once

#include "native/cuda/gemm/gemm.cuh"
#include "native/cuda/gemm/tile.cuh"

namespace fuselm::cuda {

struct KernelSegment {
  TileSource a, b;
  int64_t k;
};

// Grid: x the tiles of C, z the batch or, when `split` is not 0, the slices of K.
struct KernelArgs {
  KernelSegment segments[kMaxSegments];
  int count;
  Epilogue out;
  int64_t split;    // elements of K per slice, a multiple of kSplitUnit; slice z writes c + z m n
  GemmBatch batch;  // when rank > 0
  int64_t batch_from;  // number of the product that z = 0 is
};
inline constexpr int64_t kSplitUnit = 64;

// The start of this block's operands and output.
struct BatchOffsets {
  int64_t a = 0, b = 0, c = 0;
  __device__ __forceinline__ explicit BatchOffsets(const KernelArgs& args) {
    if (args.split > 0) {
      c = static_cast<int64_t>(blockIdx.z) * args.out.m * args.out.n;
      return;
    }
    if (args.batch.rank == 0) return;
    int64_t i = args.batch_from + blockIdx.z;
    for (int axis = args.batch.rank - 1; axis >= 0; --axis) {
      const int64_t at = i % args.batch.shape[axis];
      i /= args.batch.shape[axis];
      a += at * args.batch.a[axis];
      b += at * args.batch.b[axis];
      c += at * args.batch.c[axis];
    }
  }
};

// out = the sum of `slices` matrices [m, n], in order.
void JoinSlices(const Arguments& in, const char* what, const float* parts, int64_t slices,
                const Epilogue& out);

// Operands of one alignment: data and every row 16-byte aligned.
void TensorCoreGemm(const Arguments& in, const char* what, const KernelArgs& args, bool a_down,
                    bool b_down, int64_t slices);
// The same on sm_90a. False when it does not take the shape.
bool HopperGemm(const Arguments& in, const char* what, const KernelArgs& args, bool a_down,
                bool b_down, int64_t slices);
// Operands of any alignment.
void SimtGemm(const Arguments& in, const char* what, const KernelArgs& args, bool a_down,
              bool b_down, int64_t slices);

}  // namespace fuselm::cuda
