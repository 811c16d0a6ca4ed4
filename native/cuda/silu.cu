// y = x / (1 + e^-x), and its gradient.
#include "native/cuda/activation.cuh"

namespace fuselm::cuda {
namespace {

void Forward(const Arguments& in) { Activate<Silu>("silu", in); }
void Backward(const Arguments& in) { ActivateBackward<Silu>("silu.backward", in); }

FUSELM_CUDA_KERNEL("silu(x) -> (y)", kFloat, Forward);
FUSELM_CUDA_KERNEL("silu.backward(dy, x) -> (dx)", kFloat, Backward);

}  // namespace
}  // namespace fuselm::cuda
