// y = silu(gate) up, and both gradients in one pass. Bandwidth-bound: 3 streams forward, 5
// backward.
#include "native/cuda/activation.cuh"

namespace fuselm::cuda {
namespace {

void Forward(const Arguments& in) { Gate<Silu>("swiglu", in); }
void Backward(const Arguments& in) { GateBackward<Silu>("swiglu.backward", in); }

FUSELM_CUDA_KERNEL("swiglu(gate, up) -> (y)", kFloat, Forward);
FUSELM_CUDA_KERNEL("swiglu.backward(dy, gate, up) -> (dgate, dup)", kFloat, Backward);

}  // namespace
}  // namespace fuselm::cuda
