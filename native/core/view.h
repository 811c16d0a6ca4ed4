// A typed, strided window into a buffer: what a kernel gets for each tensor argument.
#pragma once

#include <cstdint>
#include <string>

#include "native/core/dtype.h"

namespace fuselm {

inline constexpr int kMaxRank = 8;

struct View {
  void* data = nullptr;  // first element; null only when the argument is absent
  DType dtype = DType::kF32;
  int32_t rank = 0;
  int64_t shape[kMaxRank] = {};
  int64_t stride[kMaxRank] = {};  // in elements, never negative; 0 repeats (inputs only)

  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  // dim(-1) is the last axis.
  int64_t dim(int i) const { return shape[i < 0 ? rank + i : i]; }
  int64_t step(int i) const { return stride[i < 0 ? rank + i : i]; }
  // Product of all axes but the last: how many rows of dim(-1) elements there are.
  int64_t rows() const { return rank == 0 ? 1 : (dim(-1) == 0 ? 0 : numel() / dim(-1)); }
  bool contiguous() const {
    int64_t expect = 1;
    for (int i = rank - 1; i >= 0; --i) {
      if (shape[i] != 1 && stride[i] != expect) return false;
      expect *= shape[i];
    }
    return true;
  }
  // First element of row r (counted over all axes but the last, row-major), for any strides.
  template <class T>
  T* row(int64_t r) const {
    int64_t offset = 0;
    for (int i = rank - 2; i >= 0; --i) {
      offset += (r % shape[i]) * stride[i];
      r /= shape[i];
    }
    return static_cast<T*>(data) + offset;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  std::string ToString() const;  // "bf16[4,128,768]"
};

}  // namespace fuselm
