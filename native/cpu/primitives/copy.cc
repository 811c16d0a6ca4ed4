// levels: generic
// Copies: dtype conversion, strided to contiguous, and into a view.
#include <cmath>
#include <limits>

#include "native/cpu/primitives/elementwise.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

template <class F>
void DispatchAny(DType d, F&& f) {
  switch (d) {
    case DType::kF32: return f.template operator()<float>();
    case DType::kBF16: return f.template operator()<bf16>();
    case DType::kF64: return f.template operator()<double>();
    case DType::kI32: return f.template operator()<int32_t>();
    case DType::kU32: return f.template operator()<uint32_t>();
    case DType::kI8: return f.template operator()<int8_t>();
    case DType::kU8: return f.template operator()<uint8_t>();
    case DType::kU16: return f.template operator()<uint16_t>();
  }
}

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
void Copy(Invocation& inv, const View& y, const View& x) {
  ForEachSegment<2>(inv, Merge<2>({&y, &x}),
                    [&](int64_t n, std::array<int64_t, 2> at, std::array<int64_t, 2> step) {
                      To* out = y.as<To>() + at[0];
                      const From* in = x.as<From>() + at[1];
                      if constexpr (std::is_same_v<To, From>) {
                        if (step[0] == 1 && step[1] == 1) {
                          std::memcpy(out, in, n * sizeof(To));
                          return;
                        }
                        for (int64_t i = 0; i < n; ++i) out[i * step[0]] = in[i * step[1]];
                      } else {
                        for (int64_t i = 0; i < n; ++i)
                          out[i * step[0]] = Convert<To>(in[i * step[1]]);
                      }
                    });
}

void Cast(Invocation& inv) {
  RequireSameShape("cast", inv[0], inv[1]);
  DispatchAny(inv[1].dtype, [&]<class To>() {
    DispatchAny(inv[0].dtype, [&]<class From>() { Copy<To, From>(inv, inv[1], inv[0]); });
  });
}

void CopySame(Invocation& inv, const char* op, const View& y, const View& x) {
  RequireSameShape(op, x, y);
  RequireDType(op, y, x.dtype);
  DispatchAny(x.dtype, [&]<class T>() { Copy<T, T>(inv, y, x); });
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
    ForEachSegment<1>(inv, Merge<1>({&y}),
                      [&](int64_t n, std::array<int64_t, 1> at, std::array<int64_t, 1> step) {
                        for (int64_t i = 0; i < n; ++i) y.as<T>()[at[0] + i * step[0]] = value;
                      });
  });
}
FUSELM_KERNEL("fill(y!) [value]", kAnyDType, Fill);

void Iota(Invocation& inv) {
  const View& y = inv[0];
  Require(y.rank == 1, ErrorCode::kShape, "iota: the output must have one axis");
  const double start = inv.f64(0), step = inv.f64(1);
  DispatchAny(y.dtype, [&]<class T>() {
    inv.ParallelFor((y.shape[0] + kChunkElements - 1) / kChunkElements, [&](int64_t chunk, int) {
      const int64_t begin = chunk * kChunkElements;
      for (int64_t i = begin; i < std::min(begin + kChunkElements, y.shape[0]); ++i)
        y.as<T>()[i * y.stride[0]] = Convert<T>(start + static_cast<double>(i) * step);
    });
  });
}
FUSELM_KERNEL("iota(y!) [start, step]", kAnyDType, Iota);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
