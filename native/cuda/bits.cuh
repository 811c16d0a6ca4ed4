// Elements moved as bits: by their size alone, whatever they mean.
#pragma once

#include <cstdint>

#include "native/core/dtype.h"

namespace fuselm::cuda {

// f.operator()<T>() with T the unsigned type of the size of `d`.
template <class F>
void DispatchBits(DType d, F&& f) {
  switch (ItemSize(d)) {
    case 1: return f.template operator()<uint8_t>();
    case 2: return f.template operator()<uint16_t>();
    case 4: return f.template operator()<uint32_t>();
    default: return f.template operator()<uint64_t>();
  }
}

}  // namespace fuselm::cuda
