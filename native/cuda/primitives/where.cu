// y = cond ? a : b, on bits: a NaN stays the NaN it is. pointwise.cuh spreads the work.
#include "native/cuda/bits.cuh"
#include "native/cuda/pointwise.cuh"

namespace fuselm::cuda {
namespace {

struct WhereOp {
  template <class T>
  __device__ T operator()(uint8_t cond, T a, T b) const {
    return cond ? a : b;
  }
};

void Where(const Arguments& in) {
  const View &cond = in[0], &a = in[1], &b = in[2], &y = in[3];
  RequireDType("where", cond, DType::kU8);
  RequireDType("where", b, a.dtype);
  RequireDType("where", y, a.dtype);
  for (size_t i = 0; i < 3; ++i) RequireSameShape("where", in[i], y);
  DispatchBits(a.dtype, [&]<class T>() {
    Pointwise<T, uint8_t, T, T>(in, "where", WhereOp{}, {&y, &cond, &a, &b});
  });
}
FUSELM_CUDA_KERNEL("where(cond, a, b) -> (y)", kAnyDType, Where);

}  // namespace
}  // namespace fuselm::cuda
