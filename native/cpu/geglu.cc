// levels: generic avx2 avx512 avx512bf16
// y = gelu(gate) up, and both gradients in one pass: swiglu with gelu in the place of silu.
#include "native/cpu/activation.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

void Forward(Invocation& call) {
  DispatchGelu("geglu", call.i64(0), [&]<class A>() { Gate<A>("geglu", call); });
}

void Backward(Invocation& call) {
  DispatchGelu("geglu.backward", call.i64(0),
               [&]<class A>() { GateBackward<A>("geglu.backward", call); });
}

FUSELM_KERNEL("geglu(gate, up) -> (y) [approximate]", kFloat, Forward);
FUSELM_KERNEL("geglu.backward(dy, gate, up) -> (dgate, dup) [approximate]", kFloat, Backward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
