// Rotary position embedding of the first R elements of each head, half-split or interleaved; the
// arithmetic is native/cpu/rope.cc's: the phase and its reduction to [-pi/4, pi/4] are double, sine
// and cosine float32 polynomials. The gradient is the rotation back (`inverse`).
//
// Work: a thread takes a pack of pairs (16 bytes of each half) of one position through up to
// kHeads heads, so that it makes their sines once; further threads copy what passes through. No
// shared memory. Vector path: 16-byte aligned rows, R / 2 and D - R whole packs; else single pairs.
// Moves two arrays once: the target is copy bandwidth.
#include <algorithm>

#include "native/cuda/device.cuh"
#include "native/cuda/kernel.cuh"
#include "native/cuda/rows.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kHeads = 8;

struct RopeArgs {
  const void* x;
  void* y;
  const int32_t* positions;          // or null: 0, 1, ...
  const float* frequencies;          // [half]
  int64_t x_stride[3], y_stride[3];  // of B, T and H
  int64_t position_stride[2];        // of B and T
  int64_t T, H, half, size, rest;    // rest: D - size
  int64_t items, count;              // items of a position; of all positions
  float cosine, sine;                // factors; the latter negative to turn back
  int32_t interleaved;
};

__global__ void __launch_bounds__(kThreads)
    Frequencies(double theta, int64_t half, int64_t size, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= half) return;
  out[i] =
      static_cast<float>(1.0 / pow(theta, static_cast<double>(2 * i) / static_cast<double>(size)));
}

__device__ __forceinline__ void CosSin(double phase, float* cosine, float* sine) {
  constexpr double kTwoOverPi = 0.63661977236758134308;
  // pi/2 in two parts, the first of 33 bits: k times it is exact for k < 2^20 (fdlibm)
  constexpr double kHalfPiHigh = 1.57079632673412561417, kHalfPiLow = 6.07710050650619224932e-11;
  const double k = rint(phase * kTwoOverPi);
  const auto quadrant = static_cast<uint32_t>(static_cast<int64_t>(k));
  const float r = static_cast<float>((phase - k * kHalfPiHigh) - k * kHalfPiLow);
  const float z = r * r;
  // minimax on [-pi/4, pi/4] (Cephes sinf, cosf), errors below 1e-7
  const float s = r + r * z * (-1.6666654611e-1f + z * (8.3321608736e-3f + z * -1.9515295891e-4f));
  const float c =
      1.0f - 0.5f * z +
      z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
  const float sin_part = quadrant & 1 ? c : s, cos_part = quadrant & 1 ? s : c;
  *sine = quadrant & 2 ? -sin_part : sin_part;
  *cosine = (quadrant + 1) & 2 ? -cos_part : cos_part;
}

template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads) Rotate(const RopeArgs args) {
  constexpr int kPack = kVector ? 16 / sizeof(T) : 1;
  using Vector = Pack<T, kPack>;
  // 32 bits: a 64-bit division is a call
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= args.count) return;
  const uint32_t items = static_cast<uint32_t>(args.items), length = static_cast<uint32_t>(args.T);
  const int64_t item = index % items, b = index / items / length, t = index / items % length;
  const int64_t h0 = blockIdx.y * kHeads;
  const int heads = static_cast<int>(args.H - h0 < kHeads ? args.H - h0 : kHeads);
  const T* x = static_cast<const T*>(args.x) + b * args.x_stride[0] + t * args.x_stride[1] +
               h0 * args.x_stride[2];
  T* y =
      static_cast<T*>(args.y) + b * args.y_stride[0] + t * args.y_stride[1] + h0 * args.y_stride[2];
  const int64_t pairs = args.half / kPack;
  if (item >= pairs) {
    const int64_t at = args.size + (item - pairs) * kPack;
    for (int h = 0; h < heads; ++h) {
      *reinterpret_cast<Vector*>(y + h * args.y_stride[2] + at) =
          *reinterpret_cast<const Vector*>(x + h * args.x_stride[2] + at);
    }
    return;
  }
  double position = static_cast<double>(t);
  if (args.positions != nullptr) {
    position = args.positions[b * args.position_stride[0] + t * args.position_stride[1]];
  }
  float cosine[kPack], sine[kPack];
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    CosSin(position * static_cast<double>(args.frequencies[item * kPack + k]), &cosine[k],
           &sine[k]);
    cosine[k] *= args.cosine;
    sine[k] *= args.sine;
  }
  const int64_t first = args.interleaved ? 2 * item * kPack : item * kPack;
  const int64_t second = args.interleaved ? first + kPack : args.half + first;
#pragma unroll 4
  for (int h = 0; h < heads; ++h) {
    const auto a = *reinterpret_cast<const Vector*>(x + h * args.x_stride[2] + first);
    const auto c = *reinterpret_cast<const Vector*>(x + h * args.x_stride[2] + second);
    Vector out_a, out_c;
    if (args.interleaved) {
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        // pair k of the 2 kPack elements in a row: elements 2k and 2k + 1
        const int even = 2 * k, odd = 2 * k + 1;
        const float u = ToFloat(even < kPack ? a.v[even % kPack] : c.v[even % kPack]);
        const float v = ToFloat(odd < kPack ? a.v[odd % kPack] : c.v[odd % kPack]);
        const T left = FromFloat<T>(u * cosine[k] - v * sine[k]);
        const T right = FromFloat<T>(u * sine[k] + v * cosine[k]);
        (even < kPack ? out_a : out_c).v[even % kPack] = left;
        (odd < kPack ? out_a : out_c).v[odd % kPack] = right;
      }
    } else {
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const float u = ToFloat(a.v[k]), v = ToFloat(c.v[k]);
        out_a.v[k] = FromFloat<T>(u * cosine[k] - v * sine[k]);
        out_c.v[k] = FromFloat<T>(u * sine[k] + v * cosine[k]);
      }
    }
    *reinterpret_cast<Vector*>(y + h * args.y_stride[2] + first) = out_a;
    *reinterpret_cast<Vector*>(y + h * args.y_stride[2] + second) = out_c;
  }
}

// 0 x, 1 positions?, 2 frequencies?, 3 y; [theta, rotarySize, interleaved, attentionFactor,
// inverse]
void Forward(const Arguments& in) {
  const View &x = in[0], &positions = in[1], &frequencies = in[2], &y = in[3];
  Require(x.rank == 4, ErrorCode::kShape, "rope: x must be [B, T, H, D]");
  Require(y.rank == 4 && y.dtype == x.dtype && y.dim(0) == x.dim(0) && y.dim(1) == x.dim(1) &&
              y.dim(2) == x.dim(2) && y.dim(3) == x.dim(3),
          ErrorCode::kShape, "rope: y must be like x");
  Require(x.dim(3) == 0 || (x.step(3) == 1 && y.step(3) == 1), ErrorCode::kShape,
          "rope: x and y need unit stride in the last axis");
  const int64_t B = x.dim(0), T = x.dim(1), H = x.dim(2), D = x.dim(3);
  const int64_t size = in.i64(1), half = size / 2;
  Require(size >= 0 && size <= D && size % 2 == 0, ErrorCode::kShape,
          "rope: rotarySize must be even, from 0 to D");
  const bool given = in.has(1), per_batch = given && positions.rank == 2;
  Require(!given || (positions.dtype == DType::kI32 && positions.dim(-1) == T &&
                     (positions.rank == 1 || (per_batch && positions.dim(0) == B))),
          ErrorCode::kShape, "rope: positions must be i32 [T] or [B, T]");
  Require(!in.has(2) || (frequencies.dtype == DType::kF32 && frequencies.rank == 1 &&
                         frequencies.contiguous() && frequencies.dim(0) == half),
          ErrorCode::kShape, "rope: frequencies must be f32 [rotarySize / 2]");
  if (B == 0 || T == 0 || H == 0 || D == 0) return;

  RopeArgs args{};
  args.x = x.data;
  args.y = y.data;
  args.positions = given ? positions.as<int32_t>() : nullptr;
  args.position_stride[0] = per_batch ? positions.step(0) : 0;
  args.position_stride[1] = given ? positions.step(-1) : 0;
  for (int i = 0; i < 3; ++i) args.x_stride[i] = x.step(i), args.y_stride[i] = y.step(i);
  args.T = T;
  args.H = H;
  args.half = half;
  args.size = size;
  args.rest = D - size;
  const auto attention = static_cast<float>(in.f64(3));
  args.cosine = attention;
  args.sine = in.flag(4) ? -attention : attention;
  args.interleaved = in.flag(2);
  if (in.has(2)) {
    args.frequencies = frequencies.as<float>();
  } else if (half > 0) {
    float* const made = in.Workspace<float>(half);
    Launch(in, "rope", {dim3(static_cast<unsigned>(CeilDiv(half, kThreads))), kThreads},
           Frequencies, in.f64(0), half, size, made);
    args.frequencies = made;
  }
  const int64_t pack = 16 / static_cast<int64_t>(ItemSize(x.dtype));
  const bool vector =
      half % pack == 0 && args.rest % pack == 0 && RowsAligned16(x) && RowsAligned16(y);
  args.items = (half + args.rest) / (vector ? pack : 1);
  args.count = B * T * args.items;
  Require(args.count <= 0xffffff00, ErrorCode::kShape, "rope: x is too large for CUDA");
  const Grid grid{dim3(static_cast<unsigned>(CeilDiv(args.count, kThreads)),
                       static_cast<unsigned>(CeilDiv(H, kHeads))),
                  kThreads};
  DispatchFloat(x.dtype, [&]<class E>() {
    if (vector) {
      Launch(in, "rope", grid, Rotate<E, true>, args);
    } else {
      Launch(in, "rope", grid, Rotate<E, false>, args);
    }
  });
}

FUSELM_CUDA_KERNEL(
    "rope(x, positions?, frequencies?) -> (y) "
    "[theta, rotarySize, interleaved, attentionFactor, inverse]",
    kFloat, Forward);

}  // namespace
}  // namespace fuselm::cuda
