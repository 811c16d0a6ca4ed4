// y = x Phi(x), exactly or by one of two approximations (activation.cuh), and its gradient.
#include "native/cuda/activation.cuh"

namespace fuselm::cuda {
namespace {

void Forward(const Arguments& in) {
  DispatchGelu("gelu", in.i64(0), [&]<class A>() { Activate<A>("gelu", in); });
}
void Backward(const Arguments& in) {
  DispatchGelu("gelu.backward", in.i64(0),
               [&]<class A>() { ActivateBackward<A>("gelu.backward", in); });
}

FUSELM_CUDA_KERNEL("gelu(x) -> (y) [approximate]", kFloat, Forward);
FUSELM_CUDA_KERNEL("gelu.backward(dy, x) -> (dx) [approximate]", kFloat, Backward);

}  // namespace
}  // namespace fuselm::cuda
