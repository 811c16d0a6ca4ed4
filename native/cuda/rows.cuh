// Tensors as rows of their last axis, for kernels that work along it: where row r begins for any
// strides of the axes before, which are merged on the host so that the usual case is r * stride.
#pragma once

#include "native/cuda/axes.cuh"
#include "native/cuda/kernel.cuh"

namespace fuselm::cuda {

struct Rows {
  void* data = nullptr;  // null when the argument is absent
  Axes<1> axes;          // those before the last

  // Rows are fewer than 2^31. A kernel has its Rows in a __grid_constant__ parameter, or indexing
  // them would copy it to local memory.
  template <class T>
  __device__ __forceinline__ T* At(int64_t r) const {
    int64_t at[1];
    axes.LocateBelow31(static_cast<uint32_t>(r), at);
    return static_cast<T*>(data) + at[0];
  }
};

inline Rows ToRows(const View& view) {
  Rows rows{view.data, {}};
  for (int i = 0; i + 1 < view.rank; ++i) rows.axes.Add(view.shape[i], {view.stride[i]});
  rows.axes.Finish();
  return rows;
}

inline bool Aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Whether every row begins at a multiple of 16 bytes; true for an absent tensor.
inline bool RowsAligned16(const View& view) {
  if (!Aligned16(view.data)) return false;
  const int64_t item = static_cast<int64_t>(ItemSize(view.dtype));
  for (int i = 0; i + 1 < view.rank; ++i) {
    if (view.shape[i] > 1 && view.stride[i] * item % 16 != 0) return false;
  }
  return true;
}

// [..., n], dense in the last axis, `rows` of them, fewer than 2^31
inline bool IsRows(const View& v, DType dtype, int64_t rows, int64_t n) {
  return v.rank >= 1 && v.dtype == dtype && v.dim(-1) == n && v.rows() == rows &&
         rows < int64_t{1} << 31 && (n <= 1 || v.step(-1) == 1);
}

}  // namespace fuselm::cuda
