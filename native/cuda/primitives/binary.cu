// Element functions of two arguments of one shape (broadcasting is a stride of 0, made above).
// pointwise.cuh spreads the work. f32 and bf16 have a kernel per function; integers share one per
// type, told which function: they are small and rare.
#include "native/cuda/pointwise.cuh"

namespace fuselm::cuda {
namespace {

enum class Code {
  kAdd,
  kSub,
  kMul,
  kDiv,
  kMaximum,
  kMinimum,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual
};

// Integers wrap: computed in 64 bits and cut. x / 0 is 0.
struct OnIntegers {
  static constexpr bool kVectors = false;
  Code code;
  __device__ int64_t operator()(int64_t a, int64_t b) const {
    switch (code) {
      case Code::kAdd: return a + b;
      case Code::kSub: return a - b;
      case Code::kMul:
        return static_cast<int64_t>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
      case Code::kDiv: return b == 0 ? 0 : a / b;
      case Code::kMaximum: return a > b ? a : b;
      case Code::kMinimum: return a < b ? a : b;
      case Code::kEqual: return a == b;
      case Code::kNotEqual: return a != b;
      case Code::kLess: return a < b;
      case Code::kLessEqual: return a <= b;
    }
    return 0;
  }
};

template <class Op>
void Binary(const Arguments& in) {
  const View &a = in[0], &b = in[1], &y = in[2];
  RequireSameShape(Op::kName, a, y);
  RequireSameShape(Op::kName, b, y);
  RequireDType(Op::kName, b, a.dtype);
  RequireDType(Op::kName, y, Op::kCompares ? DType::kU8 : a.dtype);
  const auto integers = [&]<class T>() {
    using Y = std::conditional_t<Op::kCompares, uint8_t, T>;
    Pointwise<Y, T, T>(in, Op::kName, OnIntegers{Op::kCode}, {&y, &a, &b});
  };
  switch (a.dtype) {
    case DType::kI32: return integers.template operator()<int32_t>();
    case DType::kU32: return integers.template operator()<uint32_t>();
    case DType::kI8: return integers.template operator()<int8_t>();
    case DType::kU8: return integers.template operator()<uint8_t>();
    case DType::kU16: return integers.template operator()<uint16_t>();
    default: break;
  }
  DispatchFloat(a.dtype, [&]<class T>() {
    using Y = std::conditional_t<Op::kCompares, uint8_t, T>;
    Pointwise<Y, T, T>(in, Op::kName, Op{}, {&y, &a, &b});
  });
}

constexpr uint32_t kTypes = kAnyDType & ~Mask(DType::kF64);

#define FUSELM_BINARY(Name, name, compares, expression)                       \
  struct Name##Op {                                                           \
    static constexpr const char* kName = #name;                               \
    static constexpr bool kCompares = compares;                               \
    static constexpr Code kCode = Code::k##Name;                              \
    __device__ auto operator()(float a, float b) const { return expression; } \
  };                                                                          \
  FUSELM_CUDA_KERNEL(#name "(a, b) -> (y)", kTypes, Binary<Name##Op>)

FUSELM_BINARY(Add, add, false, a + b);
FUSELM_BINARY(Sub, sub, false, a - b);
FUSELM_BINARY(Mul, mul, false, a* b);
FUSELM_BINARY(Div, div, false, a / b);
// A NaN on either side wins, as in PyTorch.
FUSELM_BINARY(Maximum, maximum, false, (a != a || a > b) ? a : b);
FUSELM_BINARY(Minimum, minimum, false, (a != a || a < b) ? a : b);
FUSELM_BINARY(Equal, equal, true, a == b);
FUSELM_BINARY(NotEqual, not_equal, true, a != b);
FUSELM_BINARY(Less, less, true, a < b);
FUSELM_BINARY(LessEqual, less_equal, true, a <= b);

#undef FUSELM_BINARY

}  // namespace
}  // namespace fuselm::cuda
