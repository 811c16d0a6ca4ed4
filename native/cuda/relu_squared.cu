// y = max(x, 0)^2, and its gradient.
#include "native/cuda/activation.cuh"

namespace fuselm::cuda {
namespace {

void Forward(const Arguments& in) { Activate<ReluSquared>("relu_squared", in); }
void Backward(const Arguments& in) { ActivateBackward<ReluSquared>("relu_squared.backward", in); }

FUSELM_CUDA_KERNEL("relu_squared(x) -> (y)", kFloat, Forward);
FUSELM_CUDA_KERNEL("relu_squared.backward(dy, x) -> (dx)", kFloat, Backward);

}  // namespace
}  // namespace fuselm::cuda
