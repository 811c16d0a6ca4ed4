// The functions of native/cpu/simd.h over arrays, at each level this build has.
#pragma once

#include <cstdint>

#include "native/core/kernel.h"

namespace fuselm::test {

using MapFloats = void (*)(const float* x, float* y, int64_t n);

struct SimdFunctions {
  Level level;
  MapFloats exp, log, tanh, erf, sigmoid, round;
};

// Called by static initialisers. Not inline, so that no level's copy of it is linked for all.
void RegisterSimd(const SimdFunctions& functions);

}  // namespace fuselm::test
