// y = x W^T + b for 1 to 8 rows of x: float32, bf16 and int8 weights.
//
// Work: one to eight warps share a row of W (more when there are few rows), each lane taking 16
// bytes of it at a time, four in flight; x comes from L1. Sums go lane, warp, block in a fixed
// order. int8 scales join once per 16 weights. 16-byte loads where K and the rows of x and W allow
// them, single elements otherwise. Target: 90 % of the read bandwidth over W.

#include <algorithm>

#include "native/cuda/device.cuh"
#include "native/cuda/gemm/gemm.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kUnroll = 4;  // loads of W under way; half of that beside many values of x

struct GemvArgs {
  const void* x;
  int64_t x_stride;
  const void* w;
  int64_t w_stride;
  const float* scales;
  int64_t groups;
  int group_shift;  // a group is 1 << group_shift of k
  int m, n;
  int64_t k;
  const void* bias;
  bool bias_bf16;
  void* y;
  int64_t y_stride;
  int warps;     // on a row of W: 1, 2, 4 or 8
  bool aligned;  // 16-byte chunks of x and W are aligned and whole
};

__device__ __forceinline__ float ToFloat(int8_t x) { return static_cast<float>(x); }
using fuselm::cuda::ToFloat;

// The 16 bytes of words as floats.
template <class W, int kN>
__device__ __forceinline__ void Unpack(float (&out)[kN], const Pack<uint32_t, 4>& words) {
  constexpr int kPer = kN / 4;  // in a word
#pragma unroll
  for (int i = 0; i < kN; ++i) {
    const uint32_t word = words.v[i / kPer];
    if constexpr (kPer == 1)
      out[i] = __uint_as_float(word);
    else if constexpr (kPer == 2)
      out[i] = i % 2 ? HighToFloat(word) : LowToFloat(word);
    else
      out[i] = ToFloat(static_cast<int8_t>(word >> (i % 4 * 8)));
  }
}

// kN elements from p, 16 bytes a load.
template <int kN, class T>
__device__ __forceinline__ void Take(float (&out)[kN], const T* p) {
  constexpr int kOf16 = 16 / sizeof(T), kPart = kN < kOf16 ? kN : kOf16;
#pragma unroll
  for (int i = 0; i < kN; i += kPart) {
    const Pack<T, kPart> v = *reinterpret_cast<const Pack<T, kPart>*>(p + i);
#pragma unroll
    for (int j = 0; j < kPart; ++j) out[i + j] = ToFloat(v.v[j]);
  }
}

template <class T, class W, int kM>
__global__ void __launch_bounds__(kThreads, 1) Product(const __grid_constant__ GemvArgs args) {
  constexpr int kChunk = 16 / sizeof(W), kHeld = kM * kChunk <= 16 ? kUnroll : kUnroll / 2;
  __shared__ float parts[kWarps][kM];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  const int part = warp % args.warps;
  const int n = static_cast<int>(blockIdx.x) * (kWarps / args.warps) + warp / args.warps;
  float acc[kM] = {};
  if (n < args.n) {
    const W* const w = static_cast<const W*>(args.w) + n * args.w_stride;
    const T* const x = static_cast<const T*>(args.x);
    const int64_t step = static_cast<int64_t>(args.warps) * kWarp * kChunk;
    const auto scale_of = [&](int64_t k) {
      if constexpr (sizeof(W) > 1) return 1.0f;
      return args.scales[n * args.groups + (k >> args.group_shift)];
    };
    const int64_t k0 = (static_cast<int64_t>(part) * kWarp + lane) * kChunk;
    if (args.aligned) {
      const auto add = [&](const Pack<uint32_t, 4>& words, int64_t k) {
        float v[kChunk];
        Unpack<W>(v, words);
        const float scale = scale_of(k);
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          if (m >= args.m) break;
          float xs[kChunk], dot = 0;
          Take(xs, x + m * args.x_stride + k);
#pragma unroll
          for (int i = 0; i < kChunk; ++i) dot = fmaf(v[i], xs[i], dot);
          acc[m] = fmaf(scale, dot, acc[m]);
        }
      };
      int64_t k = k0;
      for (; k + (kHeld - 1) * step < args.k; k += kHeld * step) {
        Pack<uint32_t, 4> held[kHeld];
#pragma unroll
        for (int u = 0; u < kHeld; ++u)
          held[u] = *reinterpret_cast<const Pack<uint32_t, 4>*>(w + k + u * step);
#pragma unroll
        for (int u = 0; u < kHeld; ++u) add(held[u], k + u * step);
      }
#pragma unroll 1
      for (; k < args.k; k += step) add(*reinterpret_cast<const Pack<uint32_t, 4>*>(w + k), k);
    } else {
#pragma unroll 1
      for (int64_t k = k0; k < args.k; k += step) {
        const int64_t end = min(args.k, k + kChunk);
        const float scale = scale_of(k);
        float dot[kM] = {};
#pragma unroll 1
        for (int64_t i = k; i < end; ++i) {
          const float v = ToFloat(w[i]);
#pragma unroll
          for (int m = 0; m < kM; ++m)
            if (m < args.m) dot[m] = fmaf(v, ToFloat(x[m * args.x_stride + i]), dot[m]);
        }
#pragma unroll
        for (int m = 0; m < kM; ++m) acc[m] = fmaf(scale, dot[m], acc[m]);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    acc[m] = WarpSum(acc[m]);
    if (lane == 0) parts[warp][m] = acc[m];
  }
  __syncthreads();
  if (part != 0 || n >= args.n || lane >= args.m) return;
  float sum = 0;
  for (int p = 0; p < args.warps; ++p) sum += parts[warp + p][lane];
  if (args.bias != nullptr) {
    sum += args.bias_bf16 ? ToFloat(static_cast<const bf16*>(args.bias)[n])
                          : static_cast<const float*>(args.bias)[n];
  }
  static_cast<T*>(args.y)[lane * args.y_stride + n] = FromFloat<T>(sum);
}

template <class T, class W>
void Run(const Arguments& in, const char* what, const GemvArgs& args) {
  const int64_t columns = kWarps / args.warps;
  const Grid grid{dim3(static_cast<unsigned>(CeilDiv(args.n, columns))), kThreads};
  if (args.m == 1) {
    Launch(in, what, grid, Product<T, W, 1>, args);
  } else if (args.m == 2) {
    Launch(in, what, grid, Product<T, W, 2>, args);
  } else if (args.m <= 4) {
    Launch(in, what, grid, Product<T, W, 4>, args);
  } else {
    Launch(in, what, grid, Product<T, W, kGemvRows>, args);
  }
}

bool Aligned(const void* data, int64_t stride, size_t item) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 &&
         stride * static_cast<int64_t>(item) % 16 == 0;
}

}  // namespace

void Gemv(const Arguments& in, const char* what, const GemvProblem& p) {
  if (p.m == 0 || p.n == 0) return;
  const size_t item = ItemSize(p.dtype);
  GemvArgs args{};
  args.x = p.x, args.x_stride = p.x_stride;
  args.w = p.int8 ? p.int8->values : p.weight;
  args.w_stride = p.int8 ? p.k : p.weight_stride;
  args.m = static_cast<int>(p.m), args.n = static_cast<int>(p.n), args.k = p.k;
  if (p.int8) {
    args.scales = p.int8->scales;
    args.groups = p.int8->groups();
    args.group_shift = p.int8->group_shift();
  }
  if (p.bias && p.bias->data)
    args.bias = p.bias->data, args.bias_bf16 = p.bias->dtype == DType::kBF16;
  args.y = p.y, args.y_stride = p.y_stride;
  args.aligned = Aligned(p.x, p.x_stride, item) &&
                 Aligned(args.w, args.w_stride, p.int8 ? 1 : item) &&
                 p.k % (p.int8 ? 16 : 16 / static_cast<int64_t>(item)) == 0;
  // Enough warps to fill a large card, each with a few loads to do: by the shape alone.
  const int64_t chunks = CeilDiv(p.k * static_cast<int64_t>(p.int8 ? 1 : item), 16 * kWarp);
  args.warps = 1;
  while (args.warps < kWarps && p.n * args.warps < 8192 && chunks >= 2 * args.warps * kUnroll)
    args.warps *= 2;
  DispatchFloat(p.dtype, [&]<class T>() {
    if (p.int8)
      Run<T, int8_t>(in, what, args);
    else
      Run<T, T>(in, what, args);
  });
}

}  // namespace fuselm::cuda
