// Products with int8 weights.
#pragma once

#include "native/cuda/gemm/gemm.cuh"

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

}  // namespace fuselm::cuda
