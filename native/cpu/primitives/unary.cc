// levels: generic
// Element functions of one argument: y[i] = f(x[i]).
#include <cmath>

#include "native/cpu/primitives/elementwise.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

template <class T, class Op>
void RunUnary(Invocation& inv, const View& x, const View& y) {
  ForEachSegment<2>(inv, Merge<2>({&y, &x}),
                    [&](int64_t n, std::array<int64_t, 2> at, std::array<int64_t, 2> step) {
                      T* out = y.as<T>() + at[0];
                      const T* in = x.as<T>() + at[1];
                      for (int64_t i = 0; i < n; ++i)
                        out[i * step[0]] = T(Op::Of(static_cast<ComputeT<T>>(in[i * step[1]])));
                    });
}

template <class Op>
void Unary(Invocation& inv) {
  const View &x = inv[0], &y = inv[1];
  RequireSameShape(Op::kName, x, y);
  RequireDType(Op::kName, y, x.dtype);
  if constexpr (Op::kIntegers) {
    if (x.dtype == DType::kI32) return RunUnary<int32_t, Op>(inv, x, y);
  }
  DispatchFloat64(x.dtype, [&]<class T>() { RunUnary<T, Op>(inv, x, y); });
}

#define FUSELM_UNARY(Name, name, integers, expression) \
  struct Name {                                        \
    static constexpr const char* kName = #name;        \
    static constexpr bool kIntegers = integers;        \
    template <class C>                                 \
    static C Of(C x) {                                 \
      return expression;                               \
    }                                                  \
  };                                                   \
  FUSELM_KERNEL(#name "(x) -> (y)", kFloat64 | (integers ? Mask(DType::kI32) : 0), Unary<Name>)

FUSELM_UNARY(Neg, neg, true, -x);
FUSELM_UNARY(Abs, abs, true, x < C(0) ? -x : x);
FUSELM_UNARY(Exp, exp, false, std::exp(x));
FUSELM_UNARY(Log, log, false, std::log(x));
FUSELM_UNARY(Sqrt, sqrt, false, std::sqrt(x));
FUSELM_UNARY(Rsqrt, rsqrt, false, C(1) / std::sqrt(x));
FUSELM_UNARY(Sin, sin, false, std::sin(x));
FUSELM_UNARY(Cos, cos, false, std::cos(x));
FUSELM_UNARY(Tanh, tanh, false, std::tanh(x));
FUSELM_UNARY(Erf, erf, false, std::erf(x));
FUSELM_UNARY(Sigmoid, sigmoid, false, C(1) / (C(1) + std::exp(-x)));

#undef FUSELM_UNARY

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
