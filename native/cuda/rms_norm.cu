// rms_norm, add_rms_norm and their gradients: y = h rstd w, rstd = 1 / sqrt(mean(h^2) + eps), h the
// input or x + residual (rounded to its dtype, as it is stored). Kernels, work and shared memory:
// norm.cuh.
#include "native/cuda/norm.cuh"

namespace fuselm::cuda {
namespace {

void Forward(const Arguments& in) {
  RunNormForward<false>("rms_norm", in,
                        {.x = &in[0],
                         .residual = nullptr,
                         .w = &in[1],
                         .b = nullptr,
                         .h = nullptr,
                         .y = &in[2],
                         .mean = nullptr,
                         .rstd = Optional(in, 3)});
}

void Backward(const Arguments& in) {
  RunNormBackward<false>("rms_norm.backward", in,
                         {.dy = &in[0],
                          .dh = nullptr,
                          .h = &in[1],
                          .w = &in[2],
                          .mean = nullptr,
                          .rstd = &in[3],
                          .dw = Optional(in, 4),
                          .db = nullptr,
                          .dx = &in[5]},
                         in.flag(1));
}

void AddForward(const Arguments& in) {
  RunNormForward<false>("add_rms_norm", in,
                        {.x = &in[0],
                         .residual = &in[1],
                         .w = &in[2],
                         .b = nullptr,
                         .h = &in[3],
                         .y = &in[4],
                         .mean = nullptr,
                         .rstd = Optional(in, 5)});
}

void AddBackward(const Arguments& in) {
  RunNormBackward<false>("add_rms_norm.backward", in,
                         {.dy = &in[0],
                          .dh = Optional(in, 1),
                          .h = &in[2],
                          .w = &in[3],
                          .mean = nullptr,
                          .rstd = &in[4],
                          .dw = Optional(in, 5),
                          .db = nullptr,
                          .dx = &in[6]},
                         in.flag(1));
}

FUSELM_CUDA_KERNEL("rms_norm(x, w) -> (y, rstd?) [eps]", kFloat, Forward);
FUSELM_CUDA_KERNEL("rms_norm.backward(dy, x, w, rstd, dw!?) -> (dx) [eps, accumulate]", kFloat,
                   Backward);
FUSELM_CUDA_KERNEL("add_rms_norm(x, residual, w) -> (h, y, rstd?) [eps]", kFloat, AddForward);
FUSELM_CUDA_KERNEL("add_rms_norm.backward(dy, dh?, h, w, rstd, dw!?) -> (dx) [eps, accumulate]",
                   kFloat, AddBackward);

}  // namespace
}  // namespace fuselm::cuda
