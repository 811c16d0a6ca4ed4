// target += source, in place; source may have the other float dtype. pointwise.cuh spreads the
// work.
#include "native/cuda/pointwise.cuh"

namespace fuselm::cuda {
namespace {

struct AddOp {
  __device__ float operator()(float target, float source) const { return target + source; }
};

void AddInto(const Arguments& in) {
  const View &target = in[0], &source = in[1];
  RequireSameShape("add_into", source, target);
  DispatchFloat(target.dtype, [&]<class To>() {
    DispatchFloat(source.dtype, [&]<class From>() {
      Pointwise<To, To, From>(in, "add_into", AddOp{}, {&target, &target, &source});
    });
  });
}
FUSELM_CUDA_KERNEL("add_into(target!, source)", kFloat, AddInto);

}  // namespace
}  // namespace fuselm::cuda
