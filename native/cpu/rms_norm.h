// y = h rstd w with rstd = 1 / sqrt(mean(h^2) + eps) over the last axis, and its gradients; h is
// the input itself, or x + residual, which is written, too. Sums are float32.
#pragma once

#include "native/cpu/norm.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {

struct RmsNormForward {
  const View *x, *residual, *w, *h, *y, *rstd;  // residual and h: both or neither; rstd or null
};
struct RmsNormBackward {
  const View *dy, *dh, *h, *w, *rstd, *dw, *dx;  // dh, dw: or null
};

template <class T, class W>
inline void RmsNormForwardRow(const T* h, const W* w, T* y, float* rstd, int64_t n, float eps) {
  const float squares = RowSumOfProducts(n, [&](int64_t i, int64_t left) {
    const Vec a = LoadN(h + i, left);
    return std::pair(a, a);
  });
  const float r = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
  if (rstd) *rstd = r;
  const Vec scale = Set(r);
  ForRow(n, [&](int64_t i, int64_t left) {
    StoreN(y + i, LoadN(h + i, left) * scale * LoadN(w + i, left), left);
  });
}

inline void RunForward(const char* op, Invocation& call, const RmsNormForward& a, float eps) {
  const View& x = *a.x;
  const int64_t n = x.rank ? x.dim(-1) : 0, rows = x.rows();
  const auto fits = [&](const View& v) { return IsRows(v, x.dtype, rows, n); };
  RequireShape(op, x.rank >= 1 && IsWeight(*a.w, n), "w must be [D] to match x [..., D]");
  RequireShape(op, fits(x) && fits(*a.y) && (!a.residual || (fits(*a.residual) && fits(*a.h))),
               "all tensors must be like x, with unit stride in the last axis");
  RequireShape(op, !a.rstd || IsStatistic(*a.rstd, rows),
               "rstd must be f32, contiguous, one value per row");
  if (n == 0 || rows == 0) return;
  float* const rstd = a.rstd ? a.rstd->as<float>() : nullptr;
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
          RmsNormForwardRow(h, a.w->as<W>(), a.y->row<T>(r), rstd ? rstd + r : nullptr, n, eps);
        }
      });
    });
  });
}

// dx = dh + rstd (w dy - h rstd^2 mean(w dy h)); adds dy h rstd to dw.
template <bool kDh, bool kDw, class T, class W>
inline void RmsNormBackwardRow(const T* dy, const T* dh, const T* h, const W* w, float rstd, T* dx,
                               float* dw, int64_t n) {
  const float dot = RowSumOfProducts(n, [&](int64_t i, int64_t left) {
    return std::pair(LoadN(dy + i, left) * LoadN(w + i, left), LoadN(h + i, left));
  });
  const Vec scale = Set(rstd), pull = Set(dot / static_cast<float>(n) * rstd * rstd);
  ForRow(n, [&](int64_t i, int64_t left) {
    const Vec g = LoadN(dy + i, left), a = LoadN(h + i, left);
    Vec d = scale * Fnma(a, pull, g * LoadN(w + i, left));
    if constexpr (kDh) d = d + LoadN(dh + i, left);
    StoreN(dx + i, d, left);
    if constexpr (kDw) StoreN(dw + i, Fma(g, a * scale, LoadN(dw + i, left)), left);
  });
}

inline void RunBackward(const char* op, Invocation& call, const RmsNormBackward& a,
                        bool accumulate) {
  const View &h = *a.h, &w = *a.w;
  const int64_t n = h.rank ? h.dim(-1) : 0, rows = h.rows();
  const auto fits = [&](const View& v) { return IsRows(v, h.dtype, rows, n); };
  RequireShape(op, h.rank >= 1 && IsWeight(w, n), "w must be [D] to match [..., D]");
  RequireShape(op, fits(h) && fits(*a.dy) && fits(*a.dx) && (!a.dh || fits(*a.dh)),
               "activations must be alike, with unit stride in the last axis");
  RequireShape(op, IsStatistic(*a.rstd, rows), "rstd must be f32, contiguous, one value per row");
  RequireShape(op, !a.dw || (IsWeight(*a.dw, n) && a.dw->dtype == DType::kF32),
               "dw must be f32 [D]");
  if (n == 0) return;
  const int64_t chunk = RowsPerChunk(n), chunks = CeilDiv(rows, chunk);
  float* const partial = a.dw ? call.Workspace<float>(std::max<int64_t>(1, chunks * n)) : nullptr;
  const float* const rstd = a.rstd->as<float>();
  const auto run = [&]<bool kDh, bool kDw, class T, class W>() {
    call.ParallelFor(chunks, [&](int64_t tile, int) {
      float* const sum = kDw ? partial + tile * n : nullptr;
      if constexpr (kDw) std::memset(sum, 0, n * sizeof(float));
      const int64_t end = std::min(rows, (tile + 1) * chunk);
      for (int64_t r = tile * chunk; r < end; ++r)
        RmsNormBackwardRow<kDh, kDw>(a.dy->row<T>(r), kDh ? a.dh->row<T>(r) : nullptr, h.row<T>(r),
                                     w.as<W>(), rstd[r], a.dx->row<T>(r), sum, n);
    });
  };
  DispatchFloat(h.dtype, [&]<class T>() {
    DispatchFloat(w.dtype, [&]<class W>() {
      if (a.dh)
        a.dw ? run.template operator()<true, true, T, W>()
             : run.template operator()<true, false, T, W>();
      else
        a.dw ? run.template operator()<false, true, T, W>()
             : run.template operator()<false, false, T, W>();
    });
  });
  if (a.dw) SumChunks(call, partial, chunks, n, n, a.dw->as<float>(), accumulate);
}

}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
