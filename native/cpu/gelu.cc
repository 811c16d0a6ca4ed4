// levels: generic avx2 avx512 avx512bf16
// y = x Phi(x), exactly or by one of two approximations (native/cpu/activation.h), and its
// gradient.
#include "native/cpu/activation.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

void Forward(Invocation& call) {
  DispatchGelu("gelu", call.i64(0), [&]<class A>() { Activate<A>("gelu", call); });
}

void Backward(Invocation& call) {
  DispatchGelu("gelu.backward", call.i64(0),
               [&]<class A>() { ActivateBackward<A>("gelu.backward", call); });
}

FUSELM_KERNEL("gelu(x) -> (y) [approximate]", kFloat, Forward);
FUSELM_KERNEL("gelu.backward(dy, x) -> (dx) [approximate]", kFloat, Backward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
