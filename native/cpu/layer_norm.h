// y = (h - mean) rstd w + b over the last axis with rstd = 1 / sqrt(variance + eps), and its
// gradients; h is the input itself, or x + residual, which is written, too. float32 inside; the
// variance is of differences from the mean, so that a large mean cancels nothing.
#pragma once

#include "native/cpu/norm.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

struct LayerNormForward {
  // residual and h: both or neither; mean and rstd, too; b or null
  const View *x, *residual, *w, *b, *h, *y, *mean, *rstd;
};
struct LayerNormBackward {
  const View *dy, *dh, *h, *w, *mean, *rstd, *dw, *db, *dx;  // dh, dw, db: or null
};

template <class T, class W>
inline void LayerNormForwardRow(const T* h, const W* w, const W* b, T* y, float* mean, float* rstd,
                                int64_t n, float eps) {
  const float count = static_cast<float>(n);
  const float m = RowSum(n, [&](int64_t i, int64_t left) { return LoadN(h + i, left); }) / count;
  const Vec middle = Set(m);
  // lanes past the end would add mean^2 each: the elements of the last vector are taken singly
  const int64_t full = n / kLanes * kLanes;
  float squares = RowSumOfProducts(full, [&](int64_t i, int64_t) {
    const Vec d = Load(h + i) - middle;
    return std::pair(d, d);
  });
  for (int64_t i = full; i < n; ++i) {
    const float d = static_cast<float>(h[i]) - m;
    squares += d * d;
  }
  const float r = 1.0f / std::sqrt(squares / count + eps);
  if (mean) *mean = m, *rstd = r;
  const Vec scale = Set(r);
  const auto normal = [&](int64_t i, int64_t left) {
    return (LoadN(h + i, left) - middle) * scale;
  };
  if (b)
    ForRow(n, [&](int64_t i, int64_t left) {
      StoreN(y + i, Fma(normal(i, left), LoadN(w + i, left), LoadN(b + i, left)), left);
    });
  else
    ForRow(n, [&](int64_t i, int64_t left) {
      StoreN(y + i, normal(i, left) * LoadN(w + i, left), left);
    });
}

inline void RunForward(const char* op, Invocation& call, const LayerNormForward& a, float eps) {
  const View& x = *a.x;
  const int64_t n = x.rank ? x.dim(-1) : 0, rows = x.rows();
  const auto fits = [&](const View& v) { return IsRows(v, x.dtype, rows, n); };
  RequireShape(
      op,
      x.rank >= 1 && IsWeight(*a.w, n) && (!a.b || (IsWeight(*a.b, n) && a.b->dtype == a.w->dtype)),
      "w and b must be [D], alike, to match x [..., D]");
  RequireShape(op, fits(x) && fits(*a.y) && (!a.residual || (fits(*a.residual) && fits(*a.h))),
               "all tensors must be like x, with unit stride in the last axis");
  RequireShape(
      op,
      !a.mean == !a.rstd && (!a.mean || (IsStatistic(*a.mean, rows) && IsStatistic(*a.rstd, rows))),
      "mean and rstd must be f32, contiguous, one value per row");
  if (n == 0 || rows == 0) return;
  const int64_t per_tile = RowsPerTile(n);
  DispatchFloat(x.dtype, [&]<class T>() {
    DispatchFloat(a.w->dtype, [&]<class W>() {
      call.ParallelFor(CeilDiv(rows, per_tile), [&](int64_t tile, int) {
        const int64_t end = std::min(rows, (tile + 1) * per_tile);
        for (int64_t r = tile * per_tile; r < end; ++r) {
          const T* h = x.row<T>(r);
          if (a.residual) {
            AddRows(h, a.residual->row<T>(r), a.h->row<T>(r), n);
            h = a.h->row<T>(r);
          }
          LayerNormForwardRow(h, a.w->as<W>(), a.b ? a.b->as<W>() : nullptr, a.y->row<T>(r),
                              a.mean ? a.mean->as<float>() + r : nullptr,
                              a.mean ? a.rstd->as<float>() + r : nullptr, n, eps);
        }
      });
    });
  });
}

// With u = (h - mean) rstd and g = w dy: dx = dh + rstd (g - mean(g) - u mean(g u)); adds dy u to
// dw and dy to db.
template <bool kDh, bool kDw, class T, class W>
inline void LayerNormBackwardRow(const T* dy, const T* dh, const T* h, const W* w, float mean,
                                 float rstd, T* dx, float* dw, float* db, int64_t n) {
  const Vec middle = Set(mean), scale = Set(rstd);
  const auto normal = [&](int64_t i, int64_t left) {
    return (LoadN(h + i, left) - middle) * scale;
  };
  const auto scaled = [&](int64_t i, int64_t left) {
    return LoadN(dy + i, left) * LoadN(w + i, left);
  };
  const float count = static_cast<float>(n);
  Vec u0 = Zero(), u1 = Zero(), g0 = Zero(), g1 = Zero();
  constexpr int64_t kFull = kLanes;
  int64_t i = 0;
  const auto add = [&](int64_t at, int64_t left, Vec& g_sum, Vec& gu_sum) {
    const Vec g = scaled(at, left);
    g_sum = g_sum + g;
    gu_sum = Fma(g, normal(at, left), gu_sum);
  };
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    add(i, kFull, g0, u0);
    add(i + kLanes, kFull, g1, u1);
  }
  for (; i < n; i += kLanes) add(i, n - i, g0, u0);  // g is 0 past the end
  const Vec shift = Set(Sum(g0 + g1) / count), pull = Set(Sum(u0 + u1) / count);
  ForRow(n, [&](int64_t at, int64_t left) {
    const Vec u = normal(at, left);
    Vec d = scale * Fnma(u, pull, scaled(at, left) - shift);
    if constexpr (kDh) d = d + LoadN(dh + at, left);
    StoreN(dx + at, d, left);
    if constexpr (kDw) {
      const Vec g = LoadN(dy + at, left);
      StoreN(dw + at, Fma(g, u, LoadN(dw + at, left)), left);
      StoreN(db + at, g + LoadN(db + at, left), left);
    }
  });
}

inline void RunBackward(const char* op, Invocation& call, const LayerNormBackward& a,
                        bool accumulate) {
  const View &h = *a.h, &w = *a.w;
  const int64_t n = h.rank ? h.dim(-1) : 0, rows = h.rows();
  const auto fits = [&](const View& v) { return IsRows(v, h.dtype, rows, n); };
  const auto is_gradient = [&](const View* v) {
    return !v || (IsWeight(*v, n) && v->dtype == DType::kF32);
  };
  RequireShape(op, h.rank >= 1 && IsWeight(w, n), "w must be [D] to match [..., D]");
  RequireShape(op, fits(h) && fits(*a.dy) && fits(*a.dx) && (!a.dh || fits(*a.dh)),
               "activations must be alike, with unit stride in the last axis");
  RequireShape(op, IsStatistic(*a.mean, rows) && IsStatistic(*a.rstd, rows),
               "mean and rstd must be f32, contiguous, one value per row");
  RequireShape(op, is_gradient(a.dw) && is_gradient(a.db), "dw and db must be f32 [D]");
  if (n == 0) return;
  // Both sums are made when one is wanted: a bias alone is trained seldom.
  const bool sums = a.dw || a.db;
  const int64_t chunk = RowsPerChunk(n), chunks = CeilDiv(rows, chunk);
  float* const partial =
      sums ? call.Workspace<float>(static_cast<size_t>((chunks + 1) * 2 * n)) : nullptr;
  const float *const mean = a.mean->as<float>(), *const rstd = a.rstd->as<float>();
  const auto run = [&]<bool kDh, bool kDw, class T, class W>() {
    call.ParallelFor(chunks, [&](int64_t tile, int) {
      float* const sum = kDw ? partial + tile * 2 * n : nullptr;
      if constexpr (kDw) std::memset(sum, 0, 2 * n * sizeof(float));
      const int64_t end = std::min(rows, (tile + 1) * chunk);
      for (int64_t r = tile * chunk; r < end; ++r)
        LayerNormBackwardRow<kDh, kDw>(a.dy->row<T>(r), kDh ? a.dh->row<T>(r) : nullptr,
                                       h.row<T>(r), w.as<W>(), mean[r], rstd[r], a.dx->row<T>(r),
                                       sum, kDw ? sum + n : nullptr, n);
    });
  };
  DispatchFloat(h.dtype, [&]<class T>() {
    DispatchFloat(w.dtype, [&]<class W>() {
      if (a.dh)
        sums ? run.template operator()<true, true, T, W>()
             : run.template operator()<true, false, T, W>();
      else
        sums ? run.template operator()<false, true, T, W>()
             : run.template operator()<false, false, T, W>();
    });
  });
  if (a.dw) SumChunks(call, partial, chunks, 2 * n, n, a.dw->as<float>(), accumulate);
  if (a.db) SumChunks(call, partial + n, chunks, 2 * n, n, a.db->as<float>(), accumulate);
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
