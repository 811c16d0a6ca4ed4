// levels: generic avx2 avx512 avx512bf16
// h = x + residual, y = layer_norm(h), and the gradient of both summands in one pass.
// Bandwidth-bound: 4 streams forward, 4 backward; apart they are 5 and 6.
#include "native/cpu/layer_norm.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

void Forward(Invocation& call) {
  RunForward("add_layer_norm", call,
             {.x = &call[0],
              .residual = &call[1],
              .w = &call[2],
              .b = Optional(call, 3),
              .h = &call[4],
              .y = &call[5],
              .mean = Optional(call, 6),
              .rstd = Optional(call, 7)},
             static_cast<float>(call.f64(0)));
}

void Backward(Invocation& call) {
  RunBackward("add_layer_norm.backward", call,
              {.dy = &call[0],
               .dh = Optional(call, 1),
               .h = &call[2],
               .w = &call[3],
               .mean = &call[4],
               .rstd = &call[5],
               .dw = Optional(call, 6),
               .db = Optional(call, 7),
               .dx = &call[8]},
              call.flag(1));
}

FUSELM_KERNEL("add_layer_norm(x, residual, w, b?) -> (h, y, mean?, rstd?) [eps]", kFloat, Forward);
FUSELM_KERNEL(
    "add_layer_norm.backward(dy, dh?, h, w, mean, rstd, dw!?, db!?) -> (dx) [eps, accumulate]",
    kFloat, Backward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
