// From tensor views to operands of the product.
#pragma once

#include "native/cuda/gemm/gemm.cuh"

namespace fuselm::cuda {

// A tensor as a matrix of all axes but the last by the last.
struct RowMatrix {
  const void* data;
  int64_t rows, cols, stride;

  GemmOperand AlongColumns() const { return {data, stride, true}; }
  GemmOperand AlongRows() const { return {data, stride, false}; }
};

// Views whose leading axes do not fall on one stride are copied into a workspace.
RowMatrix AsRows(const Arguments& in, const View& v);

// A copy of any view with rows of its last axis `stride` elements apart and zeros between them, in
// a workspace. stride: at least dim(-1).
void* CopyRows(const Arguments& in, const View& v, int64_t stride);

// out [m.cols] (+)= sums of the columns of m, float32: fixed chunks of rows, joined in order.
void ColumnSums(const Arguments& in, const RowMatrix& m, DType dtype, float* out, bool accumulate);

// Throws unless a bias is float32 or bf16 and dense (or absent).
void CheckBias(const View& bias, const char* what);

}  // namespace fuselm::cuda
