// levels: generic avx2 avx512 avx512bf16
// y = x / (1 + e^-x), and its gradient.
#include "native/cpu/activation.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

void Forward(Invocation& call) { Activate<Silu>("silu", call); }
void Backward(Invocation& call) { ActivateBackward<Silu>("silu.backward", call); }

FUSELM_KERNEL("silu(x) -> (y)", kFloat, Forward);
FUSELM_KERNEL("silu.backward(dy, x) -> (dx)", kFloat, Backward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
