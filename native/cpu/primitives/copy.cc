// levels: generic avx2 avx512
// Copies: dtype conversion, strided to contiguous, into a view, and several views into one.
// Bandwidth-bound: 2 streams.
#include <cmath>
#include <limits>

#include "native/cpu/primitives/elementwise.h"
#include "native/cpu/primitives/lanes.h"
#include "native/cpu/primitives/rows.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

// Float to integer truncates and saturates; NaN is 0. (C++ leaves all of it undefined.)
template <class To, class From>
To Convert(From value) {
  if constexpr (std::is_integral_v<To> && !std::is_integral_v<From>) {
    const double d = static_cast<double>(static_cast<ComputeT<From>>(value));
    if (std::isnan(d)) return 0;
    return static_cast<To>(std::clamp(std::trunc(d),
                                      static_cast<double>(std::numeric_limits<To>::min()),
                                      static_cast<double>(std::numeric_limits<To>::max())));
  } else if constexpr (std::is_same_v<To, bf16>) {
    return bf16(
        static_cast<std::conditional_t<std::is_same_v<From, double>, double, float>>(value));
  } else {
    return static_cast<To>(static_cast<ComputeT<From>>(value));
  }
}

template <class To, class From>
void CastRow(void* y, const Operand* in, int64_t n, bool stream, const void*) {
  To* const out = static_cast<To*>(y);
  const From* const x = in->as<From>();
  if (in->repeats) {
    std::fill_n(out, n, Convert<To>(*x));
  } else if constexpr (kInLanes<To> && kInLanes<From>) {
    EachVector(out, n, stream, [&](int64_t i, int64_t left) { return LoadN(x + i, left); });
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = Convert<To>(x[i]);
  }
}

void Cast(Invocation& inv) {
  const View &x = inv[0], &y = inv[1];
  RequireSameShape("cast", x, y);
  if (x.dtype == y.dtype) return CopyRows(inv, y, x);
  DispatchAny(y.dtype, [&]<class To>() {
    DispatchAny(x.dtype, [&]<class From>() { ForRows(inv, y, {&x}, CastRow<To, From>); });
  });
}

void CopySame(Invocation& inv, const char* op, const View& y, const View& x) {
  RequireSameShape(op, x, y);
  RequireDType(op, y, x.dtype);
  CopyRows(inv, y, x);
}
void Contiguous(Invocation& inv) { CopySame(inv, "contiguous", inv[1], inv[0]); }
void CopyInto(Invocation& inv) { CopySame(inv, "copy_into", inv[0], inv[1]); }

FUSELM_KERNEL("cast(x) -> (y) [dtype]", kAnyDType, Cast);
FUSELM_KERNEL("contiguous(x) -> (y)", kAnyDType, Contiguous);
FUSELM_KERNEL("copy_into(target!, source)", kAnyDType, CopyInto);

// y is written part by part along `axis`; parts follow it in the record.
void Concat(Invocation& inv) {
  const View& y = inv[0];
  const int64_t axis = inv.i64(0);
  Require(axis >= 0 && axis < y.rank, ErrorCode::kShape,
          "concat: axis outside the rank of the output");
  int64_t at = 0;
  for (size_t p = 1; p < inv.size(); ++p) {
    View window = y;
    Require(inv[p].rank == y.rank && at + inv[p].shape[axis] <= y.shape[axis], ErrorCode::kShape,
            "concat: parts do not fit the output");
    window.data = y.as<std::byte>() + at * y.stride[axis] * ItemSize(y.dtype);
    window.shape[axis] = inv[p].shape[axis];
    CopySame(inv, "concat", window, inv[p]);
    at += inv[p].shape[axis];
  }
  Require(at == y.shape[axis], ErrorCode::kShape, "concat: parts do not fill the output");
}
FUSELM_KERNEL("concat(...(part)) -> (y) [axis]", kAnyDType, Concat);

void Fill(Invocation& inv) {
  const View& y = inv[0];
  DispatchAny(y.dtype, [&]<class T>() {
    const T value = Convert<T>(inv.f64(0));
    ForRows(
        inv, y, {},
        [](void* to, const Operand*, int64_t n, bool stream, const void* context) {
          T* const out = static_cast<T*>(to);
          const T v = *static_cast<const T*>(context);
          if constexpr (kInLanes<T>) {
            const Vec lanes = Set(static_cast<float>(v));
            EachVector(out, n, stream, [&](int64_t, int64_t) { return lanes; });
          } else {
            std::fill_n(out, n, v);
          }
        },
        &value);
  });
}
FUSELM_KERNEL("fill(y!) [value]", kAnyDType, Fill);

constexpr int64_t kIotaTile = 1 << 15;

void Iota(Invocation& inv) {
  const View& y = inv[0];
  Require(y.rank == 1, ErrorCode::kShape, "iota: the output must have one axis");
  const double start = inv.f64(0), step = inv.f64(1);
  DispatchAny(y.dtype, [&]<class T>() {
    inv.ParallelFor((y.shape[0] + kIotaTile - 1) / kIotaTile, [&](int64_t chunk, int) {
      const int64_t begin = chunk * kIotaTile;
      for (int64_t i = begin; i < std::min(begin + kIotaTile, y.shape[0]); ++i)
        y.as<T>()[i * y.stride[0]] = Convert<T>(start + static_cast<double>(i) * step);
    });
  });
}
FUSELM_KERNEL("iota(y!) [start, step]", kAnyDType, Iota);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
