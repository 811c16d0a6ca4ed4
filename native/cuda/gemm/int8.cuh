// Products with int8 weights.
#pragma once

#include "native/cuda/gemm/gemm.cuh"
#include "native/cuda/gemm/tile.cuh"

namespace fuselm::cuda {

// y [m, n] = x W^T + b, x as it is: an int8 value is exact in bf16 and float32, and a scale joins
// the float32 sum of its group.
struct Int8Problem {
  DType dtype;  // of x and y
  const void* x;
  int64_t x_stride, m;
  Int8Weights w;
  const View* bias;
  void* y;
};
void Int8Gemm(const Arguments& in, const char* what, const Int8Problem& problem);

// The same with x in int8, too: by row, or by row and group. Sums of a group are exact in int32,
// the groups are joined in order: a row's bits do not depend on the other rows.
void Int8GemmDynamic(const Arguments& in, const char* what, const Int8Problem& problem);

// dx [m, k] = dy W, W rounded to dtype.
void Int8GemmDx(const Arguments& in, const char* what, DType dtype, const void* dy,
                int64_t dy_stride, int64_t m, const Int8Weights& w, void* dx);

// What the kernels of Int8GemmDynamic are asked for: C = sum over groups of x_scale w_scale (sum of
// x w). Operands 16-byte aligned along K, scales [groups, m] and [groups, w_scale_stride], an even
// stride. Groups of 32 << group_shift of K; with kWhole there is one.
struct Int8Product {
  static constexpr int kWhole = 30;
  TileSource x, w;
  const float *x_scales, *w_scales;
  int64_t w_scale_stride, k;
  int group_shift;
  Epilogue out;
};
// On sm_90a. False when it does not take the shape.
bool HopperInt8(const Arguments& in, const char* what, const Int8Product& product);

Epilogue Int8Output(void* c, DType dtype, int64_t m, int64_t n, const View* bias);
// A dense matrix [m, k] whose rows are 16-byte aligned, itself or a copy.
TileSource Aligned16(const Arguments& in, const void* data, DType dtype, int64_t stride, int64_t m,
                     int64_t k);

}  // namespace fuselm::cuda
