// levels: generic avx2 avx512 avx512bf16
// y = e^(x - max) / sum of it over the last axis, and its gradient dx = y (dy - sum(y dy)).
#include "native/cpu/softmax.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

void Forward(Invocation& call) {
  const View &x = call[0], &y = call[1];
  RequireLogits("softmax", {&x, &y});
  const int64_t n = x.dim(-1);
  DispatchFloat(x.dtype, [&]<class T>() {
    constexpr bool kNarrow = sizeof(T) < sizeof(float);
    // exponentials before they are divided, not rounded to T
    if (kNarrow) call.ReserveScratch(n * sizeof(float));
    ForRows(call, x, [&](int64_t r, int worker) {
      const T* in = x.row<T>(r);
      T* out = y.row<T>(r);
      float* terms;
      if constexpr (kNarrow)
        terms = call.Scratch<float>(worker, n);
      else
        terms = out;
      const Vec most = Set(RowMax(in, n));
      Vec s0 = Zero(), s1 = Zero();
      ForLogits(in, n, [&](int64_t i, Vec a, int64_t left) {
        const Vec e = ExpOf<T>(a - most);
        StoreN(terms + i, e, left);
        s1 = s1 + e;
        std::swap(s0, s1);
      });
      const Vec scale = Set(1.0f / Sum(s0 + s1));
      ForRow(n, [&](int64_t i, int64_t left) {
        StoreN(out + i, LoadN(terms + i, left) * scale, left);
      });
    });
  });
}

void Backward(Invocation& call) {
  const View &dy = call[0], &y = call[1], &dx = call[2];
  RequireLogits("softmax.backward", {&dy, &y, &dx});
  const int64_t n = y.dim(-1);
  DispatchFloat(y.dtype, [&]<class T>() {
    ForRows(call, y, [&](int64_t r, int) {
      const T *d = dy.row<T>(r), *p = y.row<T>(r);
      T* out = dx.row<T>(r);
      const Vec mean = Set(RowSumOfProducts(n, [&](int64_t i, int64_t left) {
        return std::pair(LoadN(d + i, left), LoadN(p + i, left));
      }));
      ForRow(n, [&](int64_t i, int64_t left) {
        StoreN(out + i, LoadN(p + i, left) * (LoadN(d + i, left) - mean), left);
      });
    });
  });
}

FUSELM_KERNEL("softmax(x) -> (y)", kFloat, Forward);
FUSELM_KERNEL("softmax.backward(dy, y) -> (dx)", kFloat, Backward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
