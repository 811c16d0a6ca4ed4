// levels: generic avx2 avx512
#include "native/test/levels/simd_functions.h"

#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

template <Vec (*kFunction)(Vec)>
void Map(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) StoreN(y + i, kFunction(LoadN(x + i, n - i)), n - i);
}

const bool kRegistered = [] {
  test::RegisterSimd({.level = FUSELM_LEVEL,
                      .exp = Map<Exp>,
                      .log = Map<Log>,
                      .tanh = Map<Tanh>,
                      .erf = Map<Erf>,
                      .sigmoid = Map<Sigmoid>,
                      .round = Map<Round>});
  return true;
}();

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
