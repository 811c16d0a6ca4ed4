// From tensor views to GEMM operands.
#pragma once

#include <cstring>

#include "native/cpu/gemm/gemm.h"
#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// A tensor as a matrix of all axes but the last by the last.
struct RowMatrix {
  const void* data;
  int64_t rows, cols, stride;

  // Element (row, col) as a GEMM operand whose K runs along the columns, or down the rows.
  GemmOperand AlongColumns() const { return {data, stride, true}; }
  GemmOperand AlongRows() const { return {data, stride, false}; }
};

// Views whose leading axes do not fall on one stride are copied into a workspace.
inline RowMatrix AsRows(Invocation& inv, const View& v) {
  const int64_t cols = v.dim(-1);
  int64_t rows = 1;  // not v.rows(), which is 0 for rows of no elements
  for (int i = 0; i < v.rank - 1; ++i) rows *= v.shape[i];
  bool uniform = true;
  int64_t stride = cols, expect = -1;
  for (int i = v.rank - 2; i >= 0; --i) {
    if (v.shape[i] == 1) continue;
    if (expect < 0)
      stride = v.stride[i];
    else
      uniform = uniform && v.stride[i] == expect;
    expect = v.stride[i] * v.shape[i];
  }
  const bool unit = cols == 1 || v.step(-1) == 1;
  if (uniform && unit) return {v.data, rows, cols, stride};
  const size_t item = ItemSize(v.dtype);
  std::byte* copy = inv.Workspace<std::byte>(static_cast<size_t>(rows * cols) * item);
  constexpr int64_t kGroup = 64;
  inv.ParallelFor((rows + kGroup - 1) / kGroup, [&](int64_t tile, int) noexcept {
    const int64_t end = tile * kGroup + kGroup < rows ? tile * kGroup + kGroup : rows;
    for (int64_t r = tile * kGroup; r < end; ++r) {
      int64_t offset = 0, index = r;
      for (int i = v.rank - 2; i >= 0; --i) {
        offset += index % v.shape[i] * v.stride[i];
        index /= v.shape[i];
      }
      const std::byte* from = static_cast<const std::byte*>(v.data) + offset * item;
      std::byte* to = copy + r * cols * item;
      for (int64_t c = 0; c < cols; ++c)
        std::memcpy(to + c * item, from + c * v.step(-1) * item, item);
    }
  });
  return {copy, rows, cols, cols};
}

// A bias of any float dtype as float32, null when absent.
inline const float* AsFloats(Invocation& inv, const View& v) {
  if (!v.data) return nullptr;
  if (v.dtype == DType::kF32 && v.contiguous()) return v.as<float>();
  float* copy = inv.Workspace<float>(static_cast<size_t>(v.numel()));
  DispatchFloat(v.dtype, [&]<class T>() {
    for (int64_t i = 0; i < v.numel(); ++i) copy[i] = static_cast<float>(v.as<T>()[i * v.step(-1)]);
  });
  return copy;
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
