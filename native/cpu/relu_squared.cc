// levels: generic avx2 avx512 avx512bf16
// y = max(x, 0)^2, and its gradient.
#include "native/cpu/activation.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

void Forward(Invocation& call) { Activate<ReluSquared>("relu_squared", call); }
void Backward(Invocation& call) { ActivateBackward<ReluSquared>("relu_squared.backward", call); }

FUSELM_KERNEL("relu_squared(x) -> (y)", kFloat, Forward);
FUSELM_KERNEL("relu_squared.backward(dy, x) -> (dx)", kFloat, Backward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
