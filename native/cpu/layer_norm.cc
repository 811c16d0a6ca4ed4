// levels: generic avx2 avx512 avx512bf16
// y = (x - mean) rstd w + b over the last axis with rstd = 1 / sqrt(variance + eps), and its
// gradients. float32 inside; the variance is of differences from the mean, so that a large mean
// cancels nothing. Bandwidth-bound: 2 streams forward, 3 backward.
#include "native/cpu/norm.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

template <class T, class W>
void ForwardRow(const T* x, const W* w, const W* b, T* y, float* mean, float* rstd, int64_t n,
                float eps) {
  const float m = RowSum(n, [&](int64_t i, int64_t left) { return LoadN(x + i, left); }) /
                  static_cast<float>(n);
  const Vec middle = Set(m);
  // lanes past the end would add mean^2 each: the last vector is summed by itself
  const int64_t full = n / kLanes * kLanes;
  float sum = RowSum(full, [&](int64_t i, int64_t) {
    const Vec d = Load(x + i) - middle;
    return d * d;
  });
  for (int64_t i = full; i < n; ++i) {
    const float d = static_cast<float>(x[i]) - m;
    sum += d * d;
  }
  const float r = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
  if (mean) *mean = m, *rstd = r;
  const Vec scale = Set(r);
  if (b)
    ForRow(n, [&](int64_t i, int64_t left) {
      const Vec normal = (LoadN(x + i, left) - middle) * scale;
      StoreN(y + i, Fma(normal, LoadN(w + i, left), LoadN(b + i, left)), left);
    });
  else
    ForRow(n, [&](int64_t i, int64_t left) {
      const Vec normal = (LoadN(x + i, left) - middle) * scale;
      StoreN(y + i, normal * LoadN(w + i, left), left);
    });
}

void Forward(Invocation& call) {
  const View &x = call[0], &w = call[1], &b = call[2], &y = call[3], &mean = call[4],
             &rstd = call[5];
  const int64_t n = x.rank ? x.dim(-1) : 0, rows = x.rows();
  const bool bias = call.has(2), saves = call.has(4);
  Require(x.rank >= 1 && IsWeight(w, n) && (!bias || (IsWeight(b, n) && b.dtype == w.dtype)),
          ErrorCode::kShape, "layer_norm: w and b must be [D], alike, to match x [..., D]");
  Require(IsRows(x, x.dtype, rows, n) && IsRows(y, x.dtype, rows, n), ErrorCode::kShape,
          "layer_norm: y must be like x, both with unit stride in the last axis");
  Require(saves == call.has(5) && (!saves || (IsStatistic(mean, rows) && IsStatistic(rstd, rows))),
          ErrorCode::kShape, "layer_norm: mean and rstd must be f32, contiguous, one per row");
  if (n == 0 || rows == 0) return;
  const float eps = static_cast<float>(call.f64(0));
  const int64_t per_tile = RowsPerTile(n);
  DispatchFloat(x.dtype, [&]<class T>() {
    DispatchFloat(w.dtype, [&]<class W>() {
      call.ParallelFor(CeilDiv(rows, per_tile), [&](int64_t tile, int) {
        const int64_t end = std::min(rows, (tile + 1) * per_tile);
        for (int64_t r = tile * per_tile; r < end; ++r)
          ForwardRow(x.row<T>(r), w.as<W>(), bias ? b.as<W>() : nullptr, y.row<T>(r),
                     saves ? mean.as<float>() + r : nullptr, saves ? rstd.as<float>() + r : nullptr,
                     n, eps);
      });
    });
  });
}

// With u = (x - mean) rstd and g = w dy: dx = rstd (g - mean(g) - u mean(g u)); adds dy u to dw and
// dy to db where they are wanted.
template <class T, class W>
void BackwardRow(const T* dy, const T* x, const W* w, float mean, float rstd, T* dx, float* dw,
                 float* db, int64_t n) {
  const Vec middle = Set(mean), scale = Set(rstd);
  Vec g0 = Zero(), g1 = Zero(), u0 = Zero(), u1 = Zero();
  const auto add = [&](int64_t i, int64_t left, Vec& g_sum, Vec& gu_sum) {
    const Vec g = LoadN(dy + i, left) * LoadN(w + i, left);
    g_sum = g_sum + g;
    gu_sum = Fma(g, (LoadN(x + i, left) - middle) * scale, gu_sum);
  };
  constexpr int64_t kFull = kLanes;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    add(i, kFull, g0, u0);
    add(i + kLanes, kFull, g1, u1);
  }
  for (; i < n; i += kLanes) add(i, n - i, g0, u0);
  const float count = static_cast<float>(n);
  const Vec shift = Set(Sum(g0 + g1) / count), pull = Set(Sum(u0 + u1) / count);
  const auto write = [&](int64_t i, int64_t left) {
    const Vec d = LoadN(dy + i, left), u = (LoadN(x + i, left) - middle) * scale;
    StoreN(dx + i, scale * Fnma(u, pull, d * LoadN(w + i, left) - shift), left);
    return std::pair(d, u);
  };
  if (dw)
    ForRow(n, [&](int64_t i, int64_t left) {
      const auto [d, u] = write(i, left);
      StoreN(dw + i, Fma(d, u, LoadN(dw + i, left)), left);
      if (db) StoreN(db + i, d + LoadN(db + i, left), left);
    });
  else
    ForRow(n, [&](int64_t i, int64_t left) {
      const Vec d = write(i, left).first;
      if (db) StoreN(db + i, d + LoadN(db + i, left), left);
    });
}

void Backward(Invocation& call) {
  const View &dy = call[0], &x = call[1], &w = call[2], &mean = call[3], &rstd = call[4],
             &dw = call[5], &db = call[6], &dx = call[7];
  const int64_t n = x.rank ? x.dim(-1) : 0, rows = x.rows();
  Require(x.rank >= 1 && IsWeight(w, n), ErrorCode::kShape,
          "layer_norm.backward: w must be [D] to match x [..., D]");
  Require(
      IsRows(x, x.dtype, rows, n) && IsRows(dy, x.dtype, rows, n) && IsRows(dx, x.dtype, rows, n),
      ErrorCode::kShape,
      "layer_norm.backward: dy and dx must be like x, with unit stride in the last axis");
  Require(IsStatistic(mean, rows) && IsStatistic(rstd, rows), ErrorCode::kShape,
          "layer_norm.backward: mean and rstd must be f32, contiguous, one per row");
  const bool want_dw = call.has(5), want_db = call.has(6);
  Require((!want_dw || (IsWeight(dw, n) && dw.dtype == DType::kF32)) &&
              (!want_db || (IsWeight(db, n) && db.dtype == DType::kF32)),
          ErrorCode::kShape, "layer_norm.backward: dw and db must be f32 [D]");
  if (n == 0) return;

  const int64_t chunk = RowsPerChunk(n), chunks = CeilDiv(rows, chunk);
  const int64_t sums = want_dw + want_db, stride = sums * n;
  float* const partial = call.Workspace<float>(std::max<int64_t>(1, chunks * stride));
  DispatchFloat(x.dtype, [&]<class T>() {
    DispatchFloat(w.dtype, [&]<class W>() {
      call.ParallelFor(chunks, [&](int64_t tile, int) {
        float* const sum = partial + tile * stride;
        if (sums) std::memset(sum, 0, stride * sizeof(float));
        float* const dw_sum = want_dw ? sum : nullptr;
        float* const db_sum = want_db ? sum + (want_dw ? n : 0) : nullptr;
        const int64_t end = std::min(rows, (tile + 1) * chunk);
        for (int64_t r = tile * chunk; r < end; ++r)
          BackwardRow(dy.row<T>(r), x.row<T>(r), w.as<W>(), mean.as<float>()[r],
                      rstd.as<float>()[r], dx.row<T>(r), dw_sum, db_sum, n);
      });
    });
  });
  const bool accumulate = call.flag(1);
  if (want_dw) SumChunks(call, partial, chunks, stride, n, dw.as<float>(), accumulate);
  if (want_db)
    SumChunks(call, partial + (want_dw ? n : 0), chunks, stride, n, db.as<float>(), accumulate);
}

FUSELM_KERNEL("layer_norm(x, w, b?) -> (y, mean?, rstd?) [eps]", kFloat, Forward);
FUSELM_KERNEL("layer_norm.backward(dy, x, w, mean, rstd, dw!?, db!?) -> (dx) [eps, accumulate]",
              kFloat, Backward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
