// levels: generic avx2 avx512
// Element functions of two arguments of one shape (broadcasting is a view with stride 0, made
// above). Bandwidth-bound: 3 streams, 2 where an operand repeats.
#include <type_traits>

#include "native/cpu/primitives/elementwise.h"
#include "native/cpu/primitives/lanes.h"
#include "native/cpu/primitives/rows.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

// Integers wrap, as in every other system: through unsigned, where C++ defines it.
template <class C, class F>
C Wrapping(C a, C b, F f) {
  if constexpr (std::is_integral_v<C>)
    return static_cast<C>(f(static_cast<uint32_t>(a), static_cast<uint32_t>(b)));
  else
    return f(a, b);
}
template <class C>
C Quotient(C a, C b) {
  if constexpr (std::is_integral_v<C>) {
    if (b == 0) return 0;
    if constexpr (std::is_signed_v<C>)
      if (b == -1) return Wrapping(C(0), a, [](auto x, auto y) { return x - y; });
  }
  return static_cast<C>(a / b);
}
// A NaN on either side wins, as in PyTorch.
template <class C>
C Larger(C a, C b) {
  return (a != a || a > b) ? a : b;
}
inline Vec Larger(Vec a, Vec b) { return MaxNan(a, b); }
template <class C>
C Smaller(C a, C b) {
  return (a != a || a < b) ? a : b;
}
inline Vec Smaller(Vec a, Vec b) { return MinNan(a, b); }
inline Vec Quotient(Vec a, Vec b) { return a / b; }

template <class C>
bool Equal(C a, C b) {
  return a == b;
}
template <class C>
bool NotEqual(C a, C b) {
  return a != b;
}
template <class C>
bool Less(C a, C b) {
  return a < b;
}
template <class C>
bool LessEqual(C a, C b) {
  return a <= b;
}

// C is Vec for f32 and bf16.
template <class T>
using Lane = std::conditional_t<kInLanes<T>, Vec, ComputeT<T>>;

template <class T, class Op>
void Row(void* y, const Operand* in, int64_t n, bool stream, const void*) {
  using Out = std::conditional_t<Op::kCompares, uint8_t, T>;
  Out* const out = static_cast<Out*>(y);
  const T *const a = in[0].as<T>(), *const b = in[1].as<T>();
  const auto run = [&](auto left, auto right) {
    if constexpr (!kInLanes<T>) {
      for (int64_t i = 0; i < n; ++i) out[i] = static_cast<Out>(Op::Of(left(i, n), right(i, n)));
    } else if constexpr (Op::kCompares) {
      EachMask(out, n, [&](int64_t i, int64_t l) { return Op::Of(left(i, l), right(i, l)); });
    } else {
      EachVector(out, n, stream,
                 [&](int64_t i, int64_t l) { return Op::Of(left(i, l), right(i, l)); });
    }
  };
  const auto along = [](const T* p) {
    return [p](int64_t i, int64_t left) -> Lane<T> {
      if constexpr (kInLanes<T>)
        return LoadN(p + i, left);
      else
        return static_cast<void>(left), p[i];
    };
  };
  const auto repeated = [](const T* p) {
    Lane<T> value;
    if constexpr (kInLanes<T>)
      value = Set(static_cast<float>(*p));
    else
      value = *p;
    return [value](int64_t, int64_t) { return value; };
  };
  if (in[0].repeats && in[1].repeats) return run(repeated(a), repeated(b));
  if (in[0].repeats) return run(repeated(a), along(b));
  if (in[1].repeats) return run(along(a), repeated(b));
  run(along(a), along(b));
}

template <class Op>
void Binary(Invocation& inv) {
  const View &a = inv[0], &b = inv[1], &y = inv[2];
  RequireSameShape(Op::kName, a, y);
  RequireSameShape(Op::kName, b, y);
  RequireDType(Op::kName, b, a.dtype);
  RequireDType(Op::kName, y, Op::kCompares ? DType::kU8 : a.dtype);
  DispatchAny(a.dtype, [&]<class T>() { ForRows(inv, y, {&a, &b}, Row<T, Op>); });
}

#define FUSELM_BINARY(Name, name, compares, expression) \
  struct Name##Op {                                     \
    static constexpr const char* kName = #name;         \
    static constexpr bool kCompares = compares;         \
    template <class C>                                  \
    static auto Of(C a, C b) {                          \
      return expression;                                \
    }                                                   \
  };                                                    \
  FUSELM_KERNEL(#name "(a, b) -> (y)", kAnyDType, Binary<Name##Op>)

FUSELM_BINARY(Add, add, false, Wrapping(a, b, [](auto x, auto y) { return x + y; }));
FUSELM_BINARY(Sub, sub, false, Wrapping(a, b, [](auto x, auto y) { return x - y; }));
FUSELM_BINARY(Mul, mul, false, Wrapping(a, b, [](auto x, auto y) { return x * y; }));
FUSELM_BINARY(Div, div, false, Quotient(a, b));
FUSELM_BINARY(Maximum, maximum, false, Larger(a, b));
FUSELM_BINARY(Minimum, minimum, false, Smaller(a, b));
FUSELM_BINARY(Equal, equal, true, Equal(a, b));
FUSELM_BINARY(NotEqual, not_equal, true, NotEqual(a, b));
FUSELM_BINARY(Less, less, true, Less(a, b));
FUSELM_BINARY(LessEqual, less_equal, true, LessEqual(a, b));

#undef FUSELM_BINARY

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
