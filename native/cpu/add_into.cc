// levels: generic avx2 avx512
// target += source, in place; the sum of two gradients. Source may have another float dtype (a bf16
// activation's gradient into a float32 leaf's). Bandwidth-bound: 2 streams read, 1 written.
#include <type_traits>

#include "native/cpu/primitives/elementwise.h"
#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

template <class To, class From>
void AddSegment(To* out, const From* in, int64_t n, int64_t out_step, int64_t in_step) {
  if constexpr (!std::is_same_v<To, double> && !std::is_same_v<From, double>) {
    if (out_step == 1 && in_step == 1) {
      int64_t i = 0;
      for (; i + kLanes <= n; i += kLanes) Store(out + i, Load(out + i) + Load(in + i));
      if (i < n) StoreN(out + i, LoadN(out + i, n - i) + LoadN(in + i, n - i), n - i);
      return;
    }
    for (int64_t i = 0; i < n; ++i)
      out[i * out_step] =
          To(static_cast<float>(out[i * out_step]) + static_cast<float>(in[i * in_step]));
  } else {
    for (int64_t i = 0; i < n; ++i)
      out[i * out_step] =
          To(static_cast<double>(out[i * out_step]) + static_cast<double>(in[i * in_step]));
  }
}

void AddInto(Invocation& call) {
  const View &target = call[0], &source = call[1];
  RequireSameShape("add_into", source, target);
  DispatchFloat64(target.dtype, [&]<class To>() {
    DispatchFloat64(source.dtype, [&]<class From>() {
      ForEachSegment<2>(call, Merge<2>({&target, &source}),
                        [&](int64_t n, std::array<int64_t, 2> at, std::array<int64_t, 2> step) {
                          AddSegment(target.as<To>() + at[0], source.as<From>() + at[1], n, step[0],
                                     step[1]);
                        });
    });
  });
}
FUSELM_KERNEL("add_into(target!, source)", kFloat64, AddInto);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
