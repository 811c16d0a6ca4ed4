// Symmetric int8 by absolute maximum, per row or per group of neighbours in a row, and back.
//
// Quantizing: lanes share a group, as many as it has packs of 16 bytes up to a warp, a block of 256
// for more than four packs a lane. A lane holds its first four between the search for the maximum
// and the division, so memory is read once; what is longer is read again, from cache. Groups that
// are not 16-byte aligned go by single elements. Back: a thread 16 bytes of the result, or one
// element. Shared memory: 32 bytes. Moves each array once: the target is copy bandwidth.
#include "native/cuda/quantize_int8.cuh"
#include "native/cuda/rows.cuh"

namespace fuselm::cuda {
namespace {

struct Groups {
  int64_t rows, columns, size, count;  // count groups of `size` in a row, the last may be shorter
};

// Throws unless scales are [rows] (group 0) or [rows, ceil(columns / group)], f32 and contiguous.
Groups GroupsOf(const char* what, const View& matrix, const View& scales, int64_t group) {
  Require(matrix.rank == 2 && group >= 0, ErrorCode::kShape, what);
  const int64_t rows = matrix.shape[0], columns = matrix.shape[1];
  const int64_t count = group == 0 ? 1 : CeilDiv(columns, group);
  Require(scales.dtype == DType::kF32 && scales.contiguous() && scales.rank == (group ? 2 : 1) &&
              scales.shape[0] == rows && (group == 0 || scales.shape[1] == count),
          ErrorCode::kShape, what);
  return {rows, columns, group == 0 ? columns : group, count};
}

constexpr int kThreads = 256;
// Packs of a group that a lane keeps; by single elements, one.
template <bool kVector>
constexpr int kKeptOf = kVector ? 4 : 1;

struct QuantizeArgs {
  const void* w;
  int8_t* values;
  float* scales;
  ScaleSteps steps;
  int64_t step, out_step;
  Groups groups;
  Divisor by_count;
  int lanes;
};

// x / scale, correctly rounded: a product and its residual (Markstein 1990), three operations for a
// division's ten and its call. `inverse` is 1 / scale, and neither over- nor underflows.
__device__ __forceinline__ float Quotient(float x, float scale, float inverse) {
  const float q = x * inverse;
  return fmaf(fmaf(-q, scale, x), inverse, q);
}

template <class T, bool kVector>
__global__ void __launch_bounds__(kThreads)
    QuantizeGroups(const __grid_constant__ QuantizeArgs args) {
  constexpr int kPack = kVector ? 16 / sizeof(T) : 1, kKept = kKeptOf<kVector>;
  using Vector = Pack<T, kPack>;
  const Groups& g = args.groups;
  const int lanes = args.lanes, lane = static_cast<int>(threadIdx.x) % lanes;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * (kThreads / lanes) + threadIdx.x / lanes;
  // A warp stays whole: lanes past the last group take the first again, and write nothing.
  const bool live = item < g.rows * g.count;
  const uint32_t index = live ? static_cast<uint32_t>(item) : 0;
  const int64_t row = args.by_count.Quotient(index), group = index - row * g.count;
  const int64_t first = group * g.size;
  const int64_t n = first + g.size < g.columns ? g.size : g.columns - first, packs = n / kPack;
  const auto* const x =
      reinterpret_cast<const Vector*>(static_cast<const T*>(args.w) + row * args.step + first);
  Vector kept[kKept] = {};
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    const int64_t p = lane + i * lanes;
    if (p < packs) kept[i] = x[p];
  }
  // Magnitudes as bits: they order as the numbers do, and above them infinity, then NaN.
  uint32_t most = 0;
  const auto add = [&](const Vector& a) {
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const uint32_t bits = __float_as_uint(ToFloat(a.v[k])) & 0x7fffffffu;
      most = most > bits ? most : bits;
    }
  };
#pragma unroll
  for (int i = 0; i < kKept; ++i) add(kept[i]);
  for (int64_t p = lane + kKept * lanes; p < packs; p += lanes) add(x[p]);
  for (int d = (lanes < kWarp ? lanes : kWarp) / 2; d > 0; d /= 2) {
    const uint32_t other = __shfl_xor_sync(kFullMask, most, d);
    most = most > other ? most : other;
  }
  if (lanes > kWarp) {
    __shared__ uint32_t parts[kThreads / kWarp];
    if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = most;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < kThreads / kWarp; ++w) most = most > parts[w] ? most : parts[w];
  }
  if (!live) return;
  // 1 for zeros (and for what is too small for a float32 scale), NaN when a value is not finite. A
  // power of two on both sides of a division keeps its residual from underflow.
  const float largest = __uint_as_float(most), up = largest < 0x1p-50f ? 0x1p64f : 1.0f;
  float scale = Quotient(largest * up, 127.0f, 1.0f / 127.0f) * (up > 1 ? 0x1p-64f : 1.0f);
  if (scale == 0) scale = 1;
  const bool finite = most < 0x7f800000u;
  if (!finite) scale = __uint_as_float(0x7fc00000u);
  if (lane == 0) args.scales[row * args.steps.row + group * args.steps.group] = scale;
  const float divisor = scale * up, rough = __fdividef(1.0f, divisor);
  const float inverse = fmaf(fmaf(-divisor, rough, 1.0f), rough, rough);
  auto* const out =
      reinterpret_cast<Pack<int8_t, kPack>*>(args.values + row * args.out_step + first);
  const auto store = [&](const Vector& a, int64_t p) {
    Pack<int8_t, kPack> to;
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const float ratio = Quotient(ToFloat(a.v[k]) * up, divisor, inverse);
      const float q = fminf(fmaxf(rintf(ratio), -127.0f), 127.0f);
      to.v[k] = finite ? static_cast<int8_t>(q) : static_cast<int8_t>(0);
    }
    out[p] = to;
  };
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    const int64_t p = lane + i * lanes;
    if (p < packs) store(kept[i], p);
  }
  for (int64_t p = lane + kKept * lanes; p < packs; p += lanes) store(x[p], p);
}

// 0 w, 1 values, 2 scales; [group]
void Quantize(const Arguments& in) {
  constexpr const char* kFit = "quantize_int8: w [N, K], values i8 [N, K] and scales do not fit";
  const View &w = in[0], &values = in[1];
  const Groups g = GroupsOf(kFit, w, in[2], in.i64(0));
  Require(values.rank == 2 && values.dtype == DType::kI8 && values.contiguous() &&
              values.shape[0] == g.rows && values.shape[1] == g.columns &&
              (g.columns <= 1 || w.stride[1] == 1),
          ErrorCode::kShape, kFit);
  QuantizeRows(in, "quantize_int8", w.dtype, w.data, w.stride[0], g.rows, g.columns, in.i64(0),
               values.as<int8_t>(), g.columns, in[2].as<float>(), {g.count, 1});
}

struct DequantizeArgs {
  const int8_t* values;
  const float* scales;
  void* w;
  int64_t items, per_row, count;  // items: packs; count: groups of a row
  Divisor by_row, by_group;       // packs of each
  int64_t per_group;
};

template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    DequantizeItems(const __grid_constant__ DequantizeArgs args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.items) return;
  // 32 bits where they do: a 64-bit division is a call
  const bool narrow = args.items < int64_t{1} << 31;
  const int64_t row = narrow ? args.by_row.Quotient(static_cast<uint32_t>(i)) : i / args.per_row;
  const int64_t at = i - row * args.per_row;
  const int64_t group =
      narrow ? args.by_group.Quotient(static_cast<uint32_t>(at)) : at / args.per_group;
  const float scale = args.scales[row * args.count + group];
  const auto from = reinterpret_cast<const Pack<int8_t, kPack>*>(args.values)[i];
  Pack<T, kPack> to;
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    if constexpr (std::is_same_v<T, double>) {
      to.v[k] = static_cast<double>(from.v[k]) * scale;  // exact: 8 bits by 24
    } else {
      to.v[k] = FromFloat<T>(static_cast<float>(from.v[k]) * scale);
    }
  }
  static_cast<Pack<T, kPack>*>(args.w)[i] = to;
}

// 0 values, 1 scales, 2 w; [group, dtype]
void Dequantize(const Arguments& in) {
  constexpr const char* kFit = "dequantize_int8: values i8 [N, K], scales and w [N, K] do not fit";
  const View &values = in[0], &w = in[2];
  const Groups g = GroupsOf(kFit, values, in[1], in.i64(0));
  Require(values.dtype == DType::kI8 && values.contiguous() && w.contiguous() && w.rank == 2 &&
              w.shape[0] == g.rows && w.shape[1] == g.columns,
          ErrorCode::kShape, kFit);
  const int64_t n = g.rows * g.columns;
  if (n == 0) return;
  DispatchFloat64(w.dtype, [&]<class T>() {
    constexpr int kPack = 16 / sizeof(T);
    const bool vector = g.columns % kPack == 0 && g.size % kPack == 0 &&
                        reinterpret_cast<uintptr_t>(values.data) % kPack == 0 && Aligned16(w.data);
    const int64_t pack = vector ? kPack : 1;
    const DequantizeArgs args{values.as<int8_t>(),
                              in[1].as<float>(),
                              w.data,
                              n / pack,
                              g.columns / pack,
                              g.count,
                              Divisor::Of(g.columns / pack),
                              Divisor::Of(g.size / pack),
                              g.size / pack};
    const int64_t blocks = CeilDiv(args.items, kThreads);
    Require(blocks < int64_t{1} << 31, ErrorCode::kShape, "dequantize_int8: more than 2^31 blocks");
    Launch(in, "dequantize_int8", {dim3(static_cast<unsigned>(blocks)), kThreads},
           vector ? DequantizeItems<T, kPack> : DequantizeItems<T, 1>, args);
  });
}

FUSELM_CUDA_KERNEL("quantize_int8(w) -> (values, scales) [group]", kFloat, Quantize);
FUSELM_CUDA_KERNEL("dequantize_int8(values, scales) -> (w) [group, dtype]", kFloat, Dequantize);

}  // namespace

void QuantizeRows(const Arguments& in, const char* what, DType dtype, const void* w, int64_t step,
                  int64_t rows, int64_t columns, int64_t group, int8_t* values, int64_t out_step,
                  float* scales, ScaleSteps steps) {
  const Groups g{rows, columns, group == 0 ? columns : group,
                 group == 0 ? 1 : CeilDiv(columns, group)};
  const int64_t items = g.rows * g.count;
  if (items == 0) return;
  Require(items < int64_t{1} << 31, ErrorCode::kShape, "quantize_int8: at most 2^31 - 1 groups");
  DispatchFloat(dtype, [&]<class T>() {
    constexpr int64_t kPack = 16 / sizeof(T);
    const bool vector = Aligned16(w) && step % kPack == 0 && g.columns % kPack == 0 &&
                        g.size % kPack == 0 && out_step % kPack == 0 &&
                        reinterpret_cast<uintptr_t>(values) % kPack == 0;
    const int64_t packs = vector ? g.size / kPack : g.size;
    int lanes = 1;
    while (lanes < packs && lanes < kWarp) lanes *= 2;
    if (packs > int64_t{kKeptOf<true>} * kWarp) lanes = kThreads;
    const QuantizeArgs args{w,    values, scales, steps, step, out_step, g, Divisor::Of(g.count),
                            lanes};
    const Grid grid{dim3(static_cast<unsigned>(CeilDiv(items, kThreads / lanes))), kThreads};
    Launch(in, what, grid, vector ? QuantizeGroups<T, true> : QuantizeGroups<T, false>, args);
  });
}

}  // namespace fuselm::cuda
