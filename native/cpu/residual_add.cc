// levels: generic avx2 avx512 avx512bf16
// z = x + y, one shape and dtype: the residual stream's addition, without broadcasting.
// Bandwidth-bound: 3 streams.
#include "native/cpu/runs.h"
#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

void Forward(Invocation& call) {
  const View &x = call[0], &y = call[1], &z = call[2];
  Require(LikeRows(x, x) && LikeRows(x, y) && LikeRows(x, z), ErrorCode::kShape,
          "residual_add: x, y and z must be alike, with unit stride in the last axis");
  DispatchFloat(x.dtype, [&]<class T>() {
    ForRuns(call, {&x, &y, &z}, [&](int64_t row, int64_t column, int64_t n) {
      const T* a = x.row<T>(row) + column;
      const T* b = y.row<T>(row) + column;
      T* out = z.row<T>(row) + column;
      int64_t i = 0;
      for (; i + kLanes <= n; i += kLanes) Store(out + i, Load(a + i) + Load(b + i));
      if (i < n) StoreN(out + i, LoadN(a + i, n - i) + LoadN(b + i, n - i), n - i);
    });
  });
}

FUSELM_KERNEL("residual_add(x, y) -> (z)", kFloat, Forward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
