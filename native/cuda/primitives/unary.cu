// Element functions of one argument: y = f(x), in float32. pointwise.cuh spreads the work.
#include "native/cuda/pointwise.cuh"
#include "native/cuda/trigonometry.cuh"

namespace fuselm::cuda {
namespace {

template <class Op>
void Unary(const Arguments& in) {
  const View &x = in[0], &y = in[1];
  RequireSameShape(Op::kName, x, y);
  RequireDType(Op::kName, y, x.dtype);
  if constexpr (Op::kIntegers) {
    if (x.dtype == DType::kI32) return Pointwise<int32_t, int32_t>(in, Op::kName, Op{}, {&y, &x});
  }
  DispatchFloat(x.dtype, [&]<class T>() { Pointwise<T, T>(in, Op::kName, Op{}, {&y, &x}); });
}

// Of the most negative integer, itself.
__device__ __forceinline__ int32_t Negated(int32_t x) {
  return static_cast<int32_t>(0u - static_cast<uint32_t>(x));
}
__device__ __forceinline__ float Negated(float x) { return -x; }
__device__ __forceinline__ int32_t Magnitude(int32_t x) { return x < 0 ? Negated(x) : x; }
__device__ __forceinline__ float Magnitude(float x) { return fabsf(x); }

#define FUSELM_UNARY(Name, name, integers, expression)                                \
  struct Name##Op {                                                                   \
    static constexpr const char* kName = #name;                                       \
    static constexpr bool kIntegers = integers;                                       \
    template <class C>                                                                \
    __device__ C operator()(C x) const {                                              \
      return expression;                                                              \
    }                                                                                 \
  };                                                                                  \
  FUSELM_CUDA_KERNEL(#name "(x) -> (y)", kFloat | (integers ? Mask(DType::kI32) : 0), \
                     Unary<Name##Op>)

FUSELM_UNARY(Neg, neg, true, Negated(x));
FUSELM_UNARY(Abs, abs, true, Magnitude(x));
FUSELM_UNARY(Exp, exp, false, expf(x));
FUSELM_UNARY(Log, log, false, logf(x));
FUSELM_UNARY(Sqrt, sqrt, false, sqrtf(x));
FUSELM_UNARY(Rsqrt, rsqrt, false, 1.0f / sqrtf(x));
FUSELM_UNARY(Sin, sin, false, SinTurned(x, 0));
FUSELM_UNARY(Cos, cos, false, SinTurned(x, 1));
FUSELM_UNARY(Tanh, tanh, false, tanhf(x));
FUSELM_UNARY(Erf, erf, false, erff(x));
FUSELM_UNARY(Sigmoid, sigmoid, false, 1.0f / (1.0f + expf(-x)));

#undef FUSELM_UNARY

// x^exponent, as pow of C: NaN for a negative x and an exponent that is not whole.
struct PowOp {
  float exponent;
  __device__ float operator()(float x) const { return powf(x, exponent); }
};

void Pow(const Arguments& in) {
  const View &x = in[0], &y = in[1];
  RequireSameShape("pow", x, y);
  RequireDType("pow", y, x.dtype);
  const PowOp f{static_cast<float>(in.f64(0))};
  DispatchFloat(x.dtype, [&]<class T>() { Pointwise<T, T>(in, "pow", f, {&y, &x}); });
}
FUSELM_CUDA_KERNEL("pow(x) -> (y) [exponent]", kFloat, Pow);

}  // namespace
}  // namespace fuselm::cuda
