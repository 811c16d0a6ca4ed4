// y = gelu(gate) up, and both gradients in one pass: swiglu with gelu in the place of silu.
#include "native/cuda/activation.cuh"

namespace fuselm::cuda {
namespace {

void Forward(const Arguments& in) {
  DispatchGelu("geglu", in.i64(0), [&]<class A>() { Gate<A>("geglu", in); });
}
void Backward(const Arguments& in) {
  DispatchGelu("geglu.backward", in.i64(0),
               [&]<class A>() { GateBackward<A>("geglu.backward", in); });
}

FUSELM_CUDA_KERNEL("geglu(gate, up) -> (y) [approximate]", kFloat, Forward);
FUSELM_CUDA_KERNEL("geglu.backward(dy, gate, up) -> (dgate, dup) [approximate]", kFloat, Backward);

}  // namespace
}  // namespace fuselm::cuda
