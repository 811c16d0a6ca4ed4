// levels: generic avx2 avx512 avx512bf16
// y = (x - mean) rstd w + b with rstd = 1 / sqrt(variance + eps), and its gradients.
// Bandwidth-bound: 2 streams forward, 3 backward.
#include "native/cpu/layer_norm.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

void Forward(Invocation& call) {
  RunForward("layer_norm", call,
             {.x = &call[0],
              .residual = nullptr,
              .w = &call[1],
              .b = Optional(call, 2),
              .h = nullptr,
              .y = &call[3],
              .mean = Optional(call, 4),
              .rstd = Optional(call, 5)},
             static_cast<float>(call.f64(0)));
}

void Backward(Invocation& call) {
  RunBackward("layer_norm.backward", call,
              {.dy = &call[0],
               .dh = nullptr,
               .h = &call[1],
               .w = &call[2],
               .mean = &call[3],
               .rstd = &call[4],
               .dw = Optional(call, 5),
               .db = Optional(call, 6),
               .dx = &call[7]},
              call.flag(1));
}

FUSELM_KERNEL("layer_norm(x, w, b?) -> (y, mean?, rstd?) [eps]", kFloat, Forward);
FUSELM_KERNEL("layer_norm.backward(dy, x, w, mean, rstd, dw!?, db!?) -> (dx) [eps, accumulate]",
              kFloat, Backward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
