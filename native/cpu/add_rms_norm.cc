// levels: generic avx2 avx512 avx512bf16
// h = x + residual, y = rms_norm(h), and the gradient of both summands in one pass.
// Bandwidth-bound: 4 streams forward, 4 backward; apart they are 5 and 6.
#include "native/cpu/rms_norm.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

void Forward(Invocation& call) {
  RunForward("add_rms_norm", call,
             {.x = &call[0],
              .residual = &call[1],
              .w = &call[2],
              .h = &call[3],
              .y = &call[4],
              .rstd = Optional(call, 5)},
             static_cast<float>(call.f64(0)));
}

void Backward(Invocation& call) {
  RunBackward("add_rms_norm.backward", call,
              {.dy = &call[0],
               .dh = Optional(call, 1),
               .h = &call[2],
               .w = &call[3],
               .rstd = &call[4],
               .dw = Optional(call, 5),
               .dx = &call[6]},
              call.flag(1));
}

FUSELM_KERNEL("add_rms_norm(x, residual, w) -> (h, y, rstd?) [eps]", kFloat, Forward);
FUSELM_KERNEL("add_rms_norm.backward(dy, dh?, h, w, rstd, dw!?) -> (dx) [eps, accumulate]", kFloat,
              Backward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
