// Tensors as rows of their last axis, for kernels that work along it: where row r begins for any
// strides of the axes before, which are merged on the host so that the usual case is r * stride.
#pragma once

#include "native/cuda/device.cuh"
#include "native/cuda/kernel.cuh"

namespace fuselm::cuda {

struct Rows {
  void* data = nullptr;  // null when the argument is absent
  int32_t axes = 1;      // merged axes before the last, at least 1
  int64_t shape[kMaxRank - 1] = {};
  int64_t stride[kMaxRank - 1] = {};  // in elements

  template <class T>
  __device__ __forceinline__ T* At(int64_t r) const {
    int64_t offset = 0;
    if (axes > 1) {
      auto rest = static_cast<uint32_t>(r);  // a 64-bit division is a call
#pragma unroll
      for (int axis = kMaxRank - 2; axis >= 1; --axis) {
        if (axis >= axes) continue;  // unrolled: a run-time index would go to local memory
        const auto size = static_cast<uint32_t>(shape[axis]);
        offset += rest % size * stride[axis];
        rest /= size;
      }
      r = rest;
    }
    return static_cast<T*>(data) + offset + r * stride[0];
  }
};

inline Rows ToRows(const View& view) {
  Rows rows{};
  rows.data = view.data;
  int count = 0;
  for (int i = 0; i + 1 < view.rank; ++i) {
    if (view.shape[i] == 1) continue;
    if (count > 0 && rows.stride[count - 1] == view.shape[i] * view.stride[i]) {
      rows.shape[count - 1] *= view.shape[i];
      rows.stride[count - 1] = view.stride[i];
    } else {
      rows.shape[count] = view.shape[i];
      rows.stride[count++] = view.stride[i];
    }
  }
  rows.axes = count > 0 ? count : 1;
  if (count == 0) rows.shape[0] = 1;
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

// [..., n], dense in the last axis, `rows` of them, below 2^32
inline bool IsRows(const View& v, DType dtype, int64_t rows, int64_t n) {
  return v.rank >= 1 && v.dtype == dtype && v.dim(-1) == n && v.rows() == rows &&
         rows <= 0xffffffff && (n <= 1 || v.step(-1) == 1);
}

}  // namespace fuselm::cuda
