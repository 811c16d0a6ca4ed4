// levels: generic avx2 avx512
// target += source, in place; the sum of two gradients. Source may have another float dtype (a bf16
// activation's gradient into a float32 leaf's). Bandwidth-bound: 2 streams read, 1 written.
#include <type_traits>

#include "native/cpu/primitives/elementwise.h"
#include "native/cpu/primitives/lanes.h"
#include "native/cpu/primitives/rows.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

template <class To, class From>
void Row(void* y, const Operand* in, int64_t n, bool, const void*) {
  To* const out = static_cast<To*>(y);
  const From* const x = in->as<From>();
  if constexpr (kInLanes<To> && kInLanes<From>) {
    const bool repeats = in->repeats;
    const Vec one = Set(static_cast<float>(*x));
    EachVector(out, n, false, [&](int64_t i, int64_t left) {
      return LoadN(out + i, left) + (repeats ? one : LoadN(x + i, left));
    });
  } else {
    const int64_t step = in->repeats ? 0 : 1;
    for (int64_t i = 0; i < n; ++i)
      out[i] = To(static_cast<double>(out[i]) + static_cast<double>(x[i * step]));
  }
}

void AddInto(Invocation& call) {
  const View &target = call[0], &source = call[1];
  RequireSameShape("add_into", source, target);
  DispatchFloat64(target.dtype, [&]<class To>() {
    DispatchFloat64(source.dtype,
                    [&]<class From>() { ForRows(call, target, {&source}, Row<To, From>); });
  });
}
FUSELM_KERNEL("add_into(target!, source)", kFloat64, AddInto);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
