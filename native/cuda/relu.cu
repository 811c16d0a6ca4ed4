// y = max(x, 0), and its gradient.
#include "native/cuda/activation.cuh"

namespace fuselm::cuda {
namespace {

void Forward(const Arguments& in) { Activate<Relu>("relu", in); }
void Backward(const Arguments& in) { ActivateBackward<Relu>("relu.backward", in); }

FUSELM_CUDA_KERNEL("relu(x) -> (y)", kFloat, Forward);
FUSELM_CUDA_KERNEL("relu.backward(dy, x) -> (dx)", kFloat, Backward);

}  // namespace
}  // namespace fuselm::cuda
