// z = x + y, one shape and dtype: the residual stream's addition. Bandwidth-bound: 3 streams.
#include "native/cuda/activation.cuh"

namespace fuselm::cuda {
namespace {

struct Sum {
  __device__ float operator()(float x, float y) const { return x + y; }
};

void Forward(const Arguments& in) {
  RequireAlike("residual_add", in);
  DispatchFloat(in[0].dtype, [&]<class T>() {
    Pointwise<T, T, T>(in, "residual_add", Sum{}, {&in[2], &in[0], &in[1]});
  });
}
FUSELM_CUDA_KERNEL("residual_add(x, y) -> (z)", kFloat, Forward);

}  // namespace
}  // namespace fuselm::cuda
