// Floats as integers of the same order.
#pragma once

#include <bit>
#include <cstdint>

#include "native/core/dtype.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// Larger floats have larger keys; -0 is just below 0, NaN by its sign above or below all.
inline uint32_t Ordered(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
