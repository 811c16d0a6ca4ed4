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

// Both of bf16 by way of a bf16 copy of W, which from about this many rows on is the faster one;
// forward with one scale a row only. k and n are not 0.
inline constexpr int64_t kManyRows = 256;
void Int8GemmWide(const Arguments& in, const char* what, const Int8Problem& problem);
void Int8GemmDxWide(const Arguments& in, const char* what, const void* dy, int64_t dy_stride,
                    int64_t m, const Int8Weights& w, bf16* dx);

// 16 int8 from p, zeros where `left` ends.
__device__ __forceinline__ Pack<int8_t, 16> Take16(const int8_t* p, bool aligned, int64_t left) {
  if (aligned && left >= 16) return *reinterpret_cast<const Pack<int8_t, 16>*>(p);
  Pack<int8_t, 16> v;
#pragma unroll
  for (int i = 0; i < 16; ++i) v.v[i] = i < left ? p[i] : int8_t{0};
  return v;
}

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
