// Products of many rows of bf16 with int8 weights: W is widened once (a thread 16 weights) and the
// product of bf16 weights does the work. Forward, with a scale per row: values as they are, exact,
// the scale with the sum; dx: value times scale, rounded. 3 bytes a weight pass through memory once
// more, 6 % of the product at 4,096 rows. Any alignment. Predicted, not measured: 0.75 to 0.9 of
// the bf16 product.

#include <algorithm>

#include "native/cuda/gemm/int8.cuh"
#include "native/cuda/gemm/kernels.cuh"

namespace fuselm::cuda {
namespace {

// W's columns from `column` on, `cols` of them, to dense bf16 rows of `stride`, a multiple of 16
// long, zeros after the last; times their scales when kScaled.
struct WidenArgs {
  const int8_t* values;
  const float* scales;
  int64_t k, groups, column, cols, stride, count;  // count: packs of 16
  int group_shift;
  bool aligned;
  bf16* to;
};
constexpr int kWidenThreads = 256;
template <bool kScaled>
__global__ void __launch_bounds__(kWidenThreads) Widen(const WidenArgs args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWidenThreads + threadIdx.x;
  if (i >= args.count) return;
  const int64_t packs = args.stride / 16, row = i / packs, first = i % packs * 16;
  const int64_t column = args.column + first;
  const Pack<int8_t, 16> v =
      Take16(args.values + row * args.k + column, args.aligned, args.cols - first);
  float scale = 1;
  if constexpr (kScaled) {
    // one group has all 16: groups begin at multiples of 32, panels and packs at multiples of 16
    if (first < args.cols) scale = args.scales[row * args.groups + (column >> args.group_shift)];
  }
  auto* const to = reinterpret_cast<Pack<uint32_t, 4>*>(args.to + row * args.stride + first);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    Pack<uint32_t, 4> words;
#pragma unroll
    for (int w = 0; w < 4; ++w)
      words.v[w] = ToBf16x2(static_cast<float>(v.v[8 * h + 2 * w]) * scale,
                            static_cast<float>(v.v[8 * h + 2 * w + 1]) * scale);
    to[h] = words;
  }
}

constexpr int64_t kWideBytes = int64_t{256} << 20;  // of widened weights at a time

// Rows `row` to row + rows of W and its columns from `column` on as bf16.
GemmOperand Widened(const Arguments& in, const char* what, const Int8Weights& w, int64_t row,
                    int64_t rows, int64_t column, int64_t cols, bool scaled, bf16* to) {
  const int64_t stride = CeilDiv(cols, 16) * 16, count = rows * (stride / 16);
  const int8_t* const values = w.values + row * w.k;
  const WidenArgs args{values,
                       w.scales + row * w.groups(),
                       w.k,
                       w.groups(),
                       column,
                       cols,
                       stride,
                       count,
                       w.group_shift(),
                       reinterpret_cast<uintptr_t>(values) % 16 == 0 && w.k % 16 == 0,
                       to};
  const Grid grid{dim3(static_cast<unsigned>(CeilDiv(count, kWidenThreads))), kWidenThreads};
  Launch(in, what, grid, scaled ? Widen<true> : Widen<false>, args);
  return {to, stride, true};
}

}  // namespace

// Some rows of W at a time.
void Int8GemmWide(const Arguments& in, const char* what, const Int8Problem& p) {
  const int64_t stride = CeilDiv(p.w.k, 16) * 16;
  const int64_t most = std::min(p.w.n, std::max<int64_t>(256, kWideBytes / 2 / stride / 256 * 256));
  bf16* const wide = in.Workspace<bf16>(most * stride);
  for (int64_t row = 0; row < p.w.n; row += most) {
    const int64_t rows = std::min(most, p.w.n - row);
    const GemmSegment segment{
        {p.x, p.x_stride, true}, Widened(in, what, p.w, row, rows, 0, p.w.k, false, wide), p.w.k};
    View bias{};
    if (p.bias && p.bias->data) {
      bias = *p.bias;
      bias.data = static_cast<char*>(bias.data) + row * static_cast<int64_t>(ItemSize(bias.dtype));
    }
    Gemm(in, what,
         {.dtype = p.dtype,
          .m = p.m,
          .n = rows,
          .segments = {&segment, 1},
          .out = {.data = static_cast<bf16*>(p.y) + row,
                  .stride = p.w.n,
                  .dtype = p.dtype,
                  .bias = &bias,
                  .scales = p.w.scales + row}});
  }
}

// Some columns of W at a time.
void Int8GemmDxWide(const Arguments& in, const char* what, const void* dy, int64_t dy_stride,
                    int64_t m, const Int8Weights& w, bf16* dx) {
  const int64_t fit = kWideBytes / 2 / w.n / 256 * 256;
  const int64_t most = std::min(CeilDiv(w.k, 16) * 16, std::max<int64_t>(256, fit));
  bf16* const wide = in.Workspace<bf16>(most * w.n);
  for (int64_t column = 0; column < w.k; column += most) {
    const int64_t cols = std::min(most, w.k - column);
    GemmOperand of_w = Widened(in, what, w, 0, w.n, column, cols, true, wide);
    of_w.along_k = false;
    const GemmSegment segment{{dy, dy_stride, true}, of_w, w.n};
    Gemm(in, what,
         {.dtype = DType::kBF16,
          .m = m,
          .n = cols,
          .segments = {&segment, 1},
          .out = {.data = dx + column, .stride = w.k, .dtype = DType::kBF16}});
  }
}

}  // namespace fuselm::cuda
