// levels: generic avx2 avx512
// Element functions of one argument: y[i] = f(x[i]); f32 and bf16 in float32. Bandwidth-bound but
// for sin, cos, tanh and erf, which cost up to 2 ns an element in AVX2.
#include <cmath>
#include <type_traits>

#include "native/cpu/primitives/elementwise.h"
#include "native/cpu/primitives/functions.h"
#include "native/cpu/primitives/rows.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

template <class T, class Op>
void Row(void* y, const Operand* in, int64_t n, bool stream, const void*) {
  T* const out = static_cast<T*>(y);
  const T* const x = in->as<T>();
  if constexpr (kInLanes<T>) {
    if (in->repeats) {
      const Vec value = Op::Lanes(Set(static_cast<float>(*x)));
      EachVector(out, n, stream, [&](int64_t, int64_t) { return value; });
    } else {
      EachVector(out, n, stream,
                 [&](int64_t i, int64_t left) { return Op::Lanes(LoadN(x + i, left)); });
    }
  } else {
    const int64_t step = in->repeats ? 0 : 1;
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(Op::Of(x[i * step]));
  }
}

template <class Op>
void Unary(Invocation& inv) {
  const View &x = inv[0], &y = inv[1];
  RequireSameShape(Op::kName, x, y);
  RequireDType(Op::kName, y, x.dtype);
  if constexpr (Op::kIntegers) {
    if (x.dtype == DType::kI32) return ForRows(inv, y, {&x}, Row<int32_t, Op>);
  }
  DispatchFloat64(x.dtype, [&]<class T>() { ForRows(inv, y, {&x}, Row<T, Op>); });
}

// `plain` is of x in double or int32_t, `vector` of x in a Vec.
#define FUSELM_UNARY(Name, name, integers, plain, vector) \
  struct Name##Op {                                       \
    static constexpr const char* kName = #name;           \
    static constexpr bool kIntegers = integers;           \
    template <class C>                                    \
    static C Of(C x) {                                    \
      return plain;                                       \
    }                                                     \
    static Vec Lanes(Vec x) { return vector; }            \
  };                                                      \
  FUSELM_KERNEL(#name "(x) -> (y)", kFloat64 | (integers ? Mask(DType::kI32) : 0), Unary<Name##Op>)

// Of the most negative integer, itself: through unsigned, where C++ defines it.
template <class C>
C Negated(C x) {
  if constexpr (std::is_integral_v<C>)
    return static_cast<C>(0u - static_cast<uint32_t>(x));
  else
    return -x;
}

FUSELM_UNARY(Neg, neg, true, Negated(x), x* Set(-1.0f));
FUSELM_UNARY(Abs, abs, true, x < C(0) ? Negated(x) : x, Abs(x));
FUSELM_UNARY(Exp, exp, false, std::exp(x), ExpFull(x));
FUSELM_UNARY(Log, log, false, std::log(x), Log(x));
FUSELM_UNARY(Sqrt, sqrt, false, std::sqrt(x), Sqrt(x));
FUSELM_UNARY(Rsqrt, rsqrt, false, C(1) / std::sqrt(x), Set(1.0f) / Sqrt(x));
FUSELM_UNARY(Sin, sin, false, std::sin(x), Sin(x));
FUSELM_UNARY(Cos, cos, false, std::cos(x), Cos(x));
FUSELM_UNARY(Tanh, tanh, false, std::tanh(x), Tanh(x));
FUSELM_UNARY(Erf, erf, false, std::erf(x), Erf(x));
FUSELM_UNARY(Sigmoid, sigmoid, false, C(1) / (C(1) + std::exp(-x)), SigmoidFull(x));

#undef FUSELM_UNARY

// x^exponent, as pow of C: NaN for a negative x and an exponent that is not whole.
void Pow(Invocation& inv) {
  const View &x = inv[0], &y = inv[1];
  RequireSameShape("pow", x, y);
  RequireDType("pow", y, x.dtype);
  const double exponent = inv.f64(0);
  DispatchFloat64(x.dtype, [&]<class T>() {
    ForRows(
        inv, y, {&x},
        [](void* to, const Operand* in, int64_t n, bool, const void* context) {
          using C = ComputeT<T>;
          const C e = static_cast<C>(*static_cast<const double*>(context));
          const int64_t step = in->repeats ? 0 : 1;
          for (int64_t i = 0; i < n; ++i)
            static_cast<T*>(to)[i] = T(std::pow(static_cast<C>(in->as<T>()[i * step]), e));
        },
        &exponent);
  });
}
FUSELM_KERNEL("pow(x) -> (y) [exponent]", kFloat64, Pow);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
