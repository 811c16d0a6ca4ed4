// levels: generic avx2 avx512
// Symmetric int8 by absolute maximum, per row or per group of neighbours in a row, and back.
// Bandwidth-bound: a row is read twice, the second time from cache.
#include <algorithm>

#include "native/core/kernel.h"
#include "native/cpu/int8_vec.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int64_t kTileElements = 1 << 15;

struct Groups {
  int64_t rows, columns, size, count;  // count groups of `size` in a row, the last may be shorter
};

// Throws unless scales are [rows] (group 0) or [rows, ceil(columns / group)], f32 and contiguous.
Groups GroupsOf(const char* what, const View& matrix, const View& scales, int64_t group) {
  Require(matrix.rank == 2 && group >= 0, ErrorCode::kShape, what);
  const int64_t rows = matrix.dim(0), columns = matrix.dim(1);
  const int64_t count = group == 0 ? 1 : (columns + group - 1) / group;
  Require(scales.dtype == DType::kF32 && scales.contiguous() && scales.rank == (group ? 2 : 1) &&
              scales.dim(0) == rows && (group == 0 || scales.dim(1) == count),
          ErrorCode::kShape, what);
  return {rows, columns, group == 0 ? columns : group, count};
}

// 0 w, 1 values, 2 scales; [group]
void Quantize(Invocation& call) {
  constexpr const char* kFit = "quantize_int8: w [N, K], values i8 [N, K] and scales do not fit";
  const View &w = call[0], &values = call[1];
  const Groups g = GroupsOf(kFit, w, call[2], call.i64(0));
  Require(values.rank == 2 && values.dtype == DType::kI8 && values.contiguous() &&
              values.dim(0) == g.rows && values.dim(1) == g.columns &&
              (g.columns <= 1 || w.step(1) == 1),
          ErrorCode::kShape, kFit);
  float* const scales = call[2].as<float>();
  const int64_t per_tile = std::max<int64_t>(1, kTileElements / std::max<int64_t>(1, g.columns));
  DispatchFloat(w.dtype, [&]<class T>() {
    call.ParallelFor((g.rows + per_tile - 1) / per_tile, [&](int64_t tile, int) noexcept {
      const int64_t end = std::min(g.rows, (tile + 1) * per_tile);
      for (int64_t r = tile * per_tile; r < end; ++r)
        for (int64_t q = 0; q < g.count; ++q) {
          const int64_t at = q * g.size, n = std::min(g.size, g.columns - at);
          const T* in = w.row<T>(r) + at;
          const float scale = ScaleOf(AbsMaxBits(in, n));
          scales[r * g.count + q] = scale;
          QuantizeRow(in, n, scale, values.as<int8_t>() + r * g.columns + at);
        }
    });
  });
}

// 0 values, 1 scales, 2 w; [group, dtype]
void Dequantize(Invocation& call) {
  constexpr const char* kFit = "dequantize_int8: values i8 [N, K], scales and w [N, K] do not fit";
  const View &values = call[0], &w = call[2];
  const Groups g = GroupsOf(kFit, values, call[1], call.i64(0));
  Require(values.dtype == DType::kI8 && values.contiguous() && w.contiguous() && w.rank == 2 &&
              w.dim(0) == g.rows && w.dim(1) == g.columns,
          ErrorCode::kShape, kFit);
  const float* const scales = call[1].as<float>();
  const int64_t per_tile = std::max<int64_t>(1, kTileElements / std::max<int64_t>(1, g.columns));
  DispatchFloat64(w.dtype, [&]<class T>() {
    call.ParallelFor((g.rows + per_tile - 1) / per_tile, [&](int64_t tile, int) noexcept {
      const int64_t end = std::min(g.rows, (tile + 1) * per_tile);
      for (int64_t r = tile * per_tile; r < end; ++r)
        for (int64_t q = 0; q < g.count; ++q) {
          const int64_t at = q * g.size, n = std::min(g.size, g.columns - at);
          const int8_t* in = values.as<int8_t>() + r * g.columns + at;
          T* out = w.as<T>() + r * g.columns + at;
          const float scale = scales[r * g.count + q];
          if constexpr (std::is_same_v<T, double>) {
            // exact in float64: 8 bits by 24
            for (int64_t i = 0; i < n; ++i) out[i] = static_cast<double>(in[i]) * scale;
          } else {
            const Vec s = Set(scale);
            for (int64_t i = 0; i < n; i += kLanes)
              StoreN(out + i, LoadInt8N(in + i, n - i) * s, n - i);
          }
        }
    });
  });
}

FUSELM_KERNEL("quantize_int8(w) -> (values, scales) [group]", kFloat, Quantize);
FUSELM_KERNEL("dequantize_int8(values, scales) -> (w) [group, dtype]", kFloat, Dequantize);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
