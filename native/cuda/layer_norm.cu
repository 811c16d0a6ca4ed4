// layer_norm, add_layer_norm and their gradients: y = (h - mean) rstd w + b, h the input or
// x + residual (rounded to its dtype, as it is stored); the variance is of differences from the
// mean. Kernels, work and shared memory: norm.cuh.
#include "native/cuda/norm.cuh"

namespace fuselm::cuda {
namespace {

void Forward(const Arguments& in) {
  RunNormForward<true>("layer_norm", in,
                       {.x = &in[0],
                        .residual = nullptr,
                        .w = &in[1],
                        .b = Optional(in, 2),
                        .h = nullptr,
                        .y = &in[3],
                        .mean = Optional(in, 4),
                        .rstd = Optional(in, 5)});
}

void Backward(const Arguments& in) {
  RunNormBackward<true>("layer_norm.backward", in,
                        {.dy = &in[0],
                         .dh = nullptr,
                         .h = &in[1],
                         .w = &in[2],
                         .mean = &in[3],
                         .rstd = &in[4],
                         .dw = Optional(in, 5),
                         .db = Optional(in, 6),
                         .dx = &in[7]},
                        in.flag(1));
}

void AddForward(const Arguments& in) {
  RunNormForward<true>("add_layer_norm", in,
                       {.x = &in[0],
                        .residual = &in[1],
                        .w = &in[2],
                        .b = Optional(in, 3),
                        .h = &in[4],
                        .y = &in[5],
                        .mean = Optional(in, 6),
                        .rstd = Optional(in, 7)});
}

void AddBackward(const Arguments& in) {
  RunNormBackward<true>("add_layer_norm.backward", in,
                        {.dy = &in[0],
                         .dh = Optional(in, 1),
                         .h = &in[2],
                         .w = &in[3],
                         .mean = &in[4],
                         .rstd = &in[5],
                         .dw = Optional(in, 6),
                         .db = Optional(in, 7),
                         .dx = &in[8]},
                        in.flag(1));
}

FUSELM_CUDA_KERNEL("layer_norm(x, w, b?) -> (y, mean?, rstd?) [eps]", kFloat, Forward);
FUSELM_CUDA_KERNEL(
    "layer_norm.backward(dy, x, w, mean, rstd, dw!?, db!?) -> (dx) [eps, accumulate]", kFloat,
    Backward);
FUSELM_CUDA_KERNEL("add_layer_norm(x, residual, w, b?) -> (h, y, mean?, rstd?) [eps]", kFloat,
                   AddForward);
FUSELM_CUDA_KERNEL(
    "add_layer_norm.backward(dy, dh?, h, w, mean, rstd, dw!?, db!?) -> (dx) [eps, accumulate]",
    kFloat, AddBackward);

}  // namespace
}  // namespace fuselm::cuda
