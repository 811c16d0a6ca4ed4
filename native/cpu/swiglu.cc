// levels: generic avx2 avx512 avx512bf16
// y = silu(gate) up with silu(g) = g / (1 + e^-g), and both gradients in one pass.
// Bandwidth-bound: 3 streams forward, 5 backward.
#include "native/cpu/activation.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

void Forward(Invocation& call) { Gate<Silu>("swiglu", call); }
void Backward(Invocation& call) { GateBackward<Silu>("swiglu.backward", call); }

FUSELM_KERNEL("swiglu(gate, up) -> (y)", kFloat, Forward);
FUSELM_KERNEL("swiglu.backward(dy, gate, up) -> (dgate, dup)", kFloat, Backward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
