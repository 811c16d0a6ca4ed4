// levels: generic avx2 avx512 avx512bf16
// y = max(x, 0), and its gradient.
#include "native/cpu/activation.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

void Forward(Invocation& call) { Activate<Relu>("relu", call); }
void Backward(Invocation& call) { ActivateBackward<Relu>("relu.backward", call); }

FUSELM_KERNEL("relu(x) -> (y)", kFloat, Forward);
FUSELM_KERNEL("relu.backward(dy, x) -> (dx)", kFloat, Backward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
