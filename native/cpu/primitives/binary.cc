// levels: generic
// Element functions of two arguments of one shape (broadcasting is a view with stride 0, made
// above).
#include "native/cpu/primitives/elementwise.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

template <class T, class Out, class Op>
void RunBinary(Invocation& inv) {
  const View &a = inv[0], &b = inv[1], &y = inv[2];
  ForEachSegment<3>(inv, Merge<3>({&y, &a, &b}),
                    [&](int64_t n, std::array<int64_t, 3> at, std::array<int64_t, 3> step) {
                      Out* out = y.as<Out>() + at[0];
                      const T* l = a.as<T>() + at[1];
                      const T* r = b.as<T>() + at[2];
                      using C = ComputeT<T>;
                      for (int64_t i = 0; i < n; ++i)
                        out[i * step[0]] = Out(
                            Op::Of(static_cast<C>(l[i * step[1]]), static_cast<C>(r[i * step[2]])));
                    });
}

template <class Op>
void Binary(Invocation& inv) {
  RequireSameShape(Op::kName, inv[0], inv[2]);
  RequireSameShape(Op::kName, inv[1], inv[2]);
  RequireDType(Op::kName, inv[1], inv[0].dtype);
  RequireDType(Op::kName, inv[2], Op::kCompares ? DType::kU8 : inv[0].dtype);
  DispatchFloatOrI32(inv[0].dtype, [&]<class T>() {
    if constexpr (Op::kCompares)
      RunBinary<T, uint8_t, Op>(inv);
    else
      RunBinary<T, T, Op>(inv);
  });
}

#define FUSELM_BINARY(Name, name, compares, expression) \
  struct Name {                                         \
    static constexpr const char* kName = #name;         \
    static constexpr bool kCompares = compares;         \
    template <class C>                                  \
    static auto Of(C a, C b) {                          \
      return expression;                                \
    }                                                   \
  };                                                    \
  FUSELM_KERNEL(#name "(a, b) -> (y)", kFloat64 | Mask(DType::kI32), Binary<Name>)

// Integers wrap, as in every other system: through unsigned, where C++ defines it.
template <class C, class F>
C Wrapping(C a, C b, F f) {
  if constexpr (std::is_same_v<C, int32_t>)
    return static_cast<int32_t>(f(static_cast<uint32_t>(a), static_cast<uint32_t>(b)));
  else
    return f(a, b);
}
template <class C>
C Quotient(C a, C b) {
  if constexpr (std::is_same_v<C, int32_t>) {
    if (b == 0) return 0;
    if (b == -1) return Wrapping(0, a, [](auto x, auto y) { return x - y; });
  }
  return a / b;
}

FUSELM_BINARY(Add, add, false, Wrapping(a, b, [](auto x, auto y) { return x + y; }));
FUSELM_BINARY(Sub, sub, false, Wrapping(a, b, [](auto x, auto y) { return x - y; }));
FUSELM_BINARY(Mul, mul, false, Wrapping(a, b, [](auto x, auto y) { return x * y; }));
FUSELM_BINARY(Div, div, false, Quotient(a, b));
// A NaN on either side wins, as in PyTorch.
FUSELM_BINARY(Maximum, maximum, false, (a != a || a > b) ? a : b);
FUSELM_BINARY(Minimum, minimum, false, (a != a || a < b) ? a : b);
FUSELM_BINARY(Equal, equal, true, a == b);
FUSELM_BINARY(Less, less, true, a < b);

#undef FUSELM_BINARY

void Where(Invocation& inv) {
  const View &cond = inv[0], &a = inv[1], &b = inv[2], &y = inv[3];
  RequireDType("where", cond, DType::kU8);
  RequireDType("where", b, a.dtype);
  RequireDType("where", y, a.dtype);
  for (int i = 0; i < 3; ++i) RequireSameShape("where", inv[i], y);
  DispatchFloatOrI32(a.dtype, [&]<class T>() {
    ForEachSegment<4>(inv, Merge<4>({&y, &cond, &a, &b}),
                      [&](int64_t n, std::array<int64_t, 4> at, std::array<int64_t, 4> step) {
                        for (int64_t i = 0; i < n; ++i)
                          y.as<T>()[at[0] + i * step[0]] = cond.as<uint8_t>()[at[1] + i * step[1]]
                                                               ? a.as<T>()[at[2] + i * step[2]]
                                                               : b.as<T>()[at[3] + i * step[3]];
                      });
  });
}
FUSELM_KERNEL("where(cond, a, b) -> (y)", kFloat64 | Mask(DType::kI32), Where);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
