// 2^x of low degree, for results that are rounded to bf16 or summed under a looser tolerance than
// Exp of simd.h keeps.
#pragma once

#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

// 2^x for x <= 127; relative error 7.5e-5 (degree 3) or 8e-8 (degree 5); 0 below -126 (-149 on
// AVX-512). Coefficients: minimax in relative error on [-1/2, 1/2].
template <int kDegree>
inline Vec Exp2(Vec x) {
  const Vec n = Round(x), r = x - n;
  Vec p;
  if constexpr (kDegree == 3) {
    p = Fma(Set(5.51716685e-2f), r, Set(2.42611140e-1f));
    p = Fma(p, r, Set(6.93260968e-1f));
    p = Fma(p, r, Set(9.99928057e-1f));
  } else {
    p = Fma(Set(1.32764725e-3f), r, Set(9.67554189e-3f));
    p = Fma(p, r, Set(5.55071309e-2f));
    p = Fma(p, r, Set(2.40221202e-1f));
    p = Fma(p, r, Set(6.93146944e-1f));
    p = Fma(p, r, Set(1.00000012f));
  }
#if FUSELM_HAS_AVX512
  return Ldexp(p, n);  // vscalefps underflows to 0 by itself
#else
  return SelectPositive(Set(-126.0f) - x, Zero(), Ldexp(p, Max(Set(-126.0f), n)));
#endif
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
