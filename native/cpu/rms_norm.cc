// levels: generic avx2 avx512 avx512bf16
// y = x rstd w with rstd = 1 / sqrt(mean(x^2) + eps), and its gradients.
// Bandwidth-bound: 2 streams forward, 3 backward.
#include "native/cpu/rms_norm.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

void Forward(Invocation& call) {
  RunForward("rms_norm", call,
             {.x = &call[0],
              .residual = nullptr,
              .w = &call[1],
              .h = nullptr,
              .y = &call[2],
              .rstd = Optional(call, 3)},
             static_cast<float>(call.f64(0)));
}

void Backward(Invocation& call) {
  RunBackward("rms_norm.backward", call,
              {.dy = &call[0],
               .dh = nullptr,
               .h = &call[1],
               .w = &call[2],
               .rstd = &call[3],
               .dw = Optional(call, 4),
               .dx = &call[5]},
              call.flag(1));
}

FUSELM_KERNEL("rms_norm(x, w) -> (y, rstd?) [eps]", kFloat, Forward);
FUSELM_KERNEL("rms_norm.backward(dy, x, w, rstd, dw!?) -> (dx) [eps, accumulate]", kFloat,
              Backward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
