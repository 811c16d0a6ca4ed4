// Symmetric int8 by absolute maximum, per row or per group of neighbours in a row, and back.
//
// Quantizing: row.cuh's lanes share a group; it is read twice, the second time from cache, and
// written byte by byte (a warp writes 32 in a row). Back: a thread 4 neighbours, or one where rows
// or groups are not made of fours. Bandwidth-bound.
#include "native/cuda/quantize_int8.cuh"
#include "native/cuda/row.cuh"

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

// Largest of all lanes of a row. With 256 lanes it contains barriers.
__device__ __forceinline__ uint32_t RowMaxBits(const RowPlace& at, uint32_t bits) {
#pragma unroll
  for (int d = kWarp / 2; d > 0; d /= 2) {
    const uint32_t other = __shfl_xor_sync(kFullMask, bits, d);
    bits = bits > other ? bits : other;
  }
  if (at.lanes == kWarp) return bits;
  __shared__ uint32_t parts[kRowThreads / kWarp];
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = bits;
  __syncthreads();
  for (int w = 0; w < kRowThreads / kWarp; ++w) bits = bits > parts[w] ? bits : parts[w];
  return bits;
}

template <class T>
__global__ void __launch_bounds__(kRowThreads)
    QuantizeGroups(const T* w, int64_t step, const Groups g, int8_t* values, int64_t out_step,
                   float* scales, const ScaleSteps steps, int lanes) {
  const RowPlace at = RowPlace::Of(lanes);
  if (at.row >= g.rows * g.count) return;
  const int64_t row = at.row / g.count, group = at.row % g.count, first = group * g.size;
  const int64_t n = first + g.size < g.columns ? g.size : g.columns - first;
  const T* const x = w + row * step + first;
  // Magnitudes as bits: they order as the numbers do, and above them infinity, then NaN.
  uint32_t most = 0;
  ReadRow(
      at, n,
      [&](int64_t, float v) {
        const uint32_t bits = __float_as_uint(v) & 0x7fffffffu;
        most = most > bits ? most : bits;
      },
      x);
  most = RowMaxBits(at, most);
  // 1 for zeros (and for what is too small for a float32 scale), NaN when a value is not finite
  float scale = __uint_as_float(most) / 127.0f;
  if (scale == 0) scale = 1;
  if (most >= 0x7f800000u) scale = __uint_as_float(0x7fc00000u);
  if (at.lane == 0) scales[row * steps.row + group * steps.group] = scale;
  int8_t* const out = values + row * out_step + first;
  for (int64_t i = at.lane; i < n; i += at.lanes) {
    const float q = fminf(fmaxf(rintf(ToFloat(x[i]) / scale), -127.0f), 127.0f);
    out[i] = scale > 0 ? static_cast<int8_t>(q) : static_cast<int8_t>(0);
  }
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

template <class T, int kPack>
__global__ void __launch_bounds__(kRowThreads)
    DequantizeItems(const int8_t* values, const float* scales, const Groups g, T* w) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x) * kPack;
  if (i >= g.rows * g.columns) return;
  const int64_t row = i / g.columns, column = i - row * g.columns;
  const float scale = scales[row * g.count + column / g.size];
  const auto from = *reinterpret_cast<const Pack<int8_t, kPack>*>(values + i);
  Pack<T, kPack> to;
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    if constexpr (std::is_same_v<T, double>) {
      to.v[k] = static_cast<double>(from.v[k]) * scale;  // exact: 8 bits by 24
    } else {
      to.v[k] = FromFloat<T>(static_cast<float>(from.v[k]) * scale);
    }
  }
  *reinterpret_cast<Pack<T, kPack>*>(w + i) = to;
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
  const bool fours = g.columns % 4 == 0 && g.size % 4 == 0 &&
                     reinterpret_cast<uintptr_t>(values.data) % 4 == 0 &&
                     reinterpret_cast<uintptr_t>(w.data) % (4 * ItemSize(w.dtype)) == 0;
  const int64_t blocks = CeilDiv(fours ? n / 4 : n, kRowThreads);
  Require(blocks < int64_t{1} << 31, ErrorCode::kShape, "dequantize_int8: more than 2^31 blocks");
  const Grid grid{dim3(static_cast<unsigned>(blocks)), kRowThreads};
  DispatchFloat64(w.dtype, [&]<class T>() {
    Launch(in, "dequantize_int8", grid, fours ? DequantizeItems<T, 4> : DequantizeItems<T, 1>,
           values.as<int8_t>(), in[1].as<float>(), g, w.as<T>());
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
  if (g.rows * g.count == 0) return;
  const int lanes = RowLanes(g.size);
  DispatchFloat(dtype, [&]<class T>() {
    Launch(in, what, RowGrid(g.rows * g.count, lanes), QuantizeGroups<T>, static_cast<const T*>(w),
           step, g, values, out_step, scales, steps, lanes);
  });
}

}  // namespace fuselm::cuda
