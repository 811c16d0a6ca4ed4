// levels: generic avx2 avx512 avx512bf16
// y = x - max - log(sum of e^(x - max)) over the last axis, and its gradient dx = dy - e^y sum(dy).
#include "native/cpu/softmax.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

void Forward(Invocation& call) {
  const View &x = call[0], &y = call[1];
  RequireLogits("log_softmax", {&x, &y});
  const int64_t n = x.dim(-1);
  DispatchFloat(x.dtype, [&]<class T>() {
    ForRows(call, x, [&](int64_t r, int) {
      const T* in = x.row<T>(r);
      T* out = y.row<T>(r);
      const Vec most = Set(RowMax(in, n));
      Vec s0 = Zero(), s1 = Zero();
      ForLogits(in, n, [&](int64_t, Vec a, int64_t) {
        s1 = s1 + ExpOf<T>(a - most);
        std::swap(s0, s1);
      });
      const Vec rest = Set(std::log(Sum(s0 + s1)));
      ForRow(n, [&](int64_t i, int64_t left) {
        StoreN(out + i, (LoadN(in + i, left) - most) - rest, left);
      });
    });
  });
}

void Backward(Invocation& call) {
  const View &dy = call[0], &y = call[1], &dx = call[2];
  RequireLogits("log_softmax.backward", {&dy, &y, &dx});
  const int64_t n = y.dim(-1);
  DispatchFloat(y.dtype, [&]<class T>() {
    ForRows(call, y, [&](int64_t r, int) {
      const T *d = dy.row<T>(r), *in = y.row<T>(r);
      T* out = dx.row<T>(r);
      const Vec sum = Set(RowSum(n, [&](int64_t i, int64_t left) { return LoadN(d + i, left); }));
      ForRow(n, [&](int64_t i, int64_t left) {
        StoreN(out + i, Fnma(ExpOf<T>(LoadN(in + i, left)), sum, LoadN(d + i, left)), left);
      });
    });
  });
}

FUSELM_KERNEL("log_softmax(x) -> (y)", kFloat, Forward);
FUSELM_KERNEL("log_softmax.backward(dy, y) -> (dx)", kFloat, Backward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
