// levels: generic avx2 avx512 avx512bf16
// y = x * rstd * w with rstd = 1 / sqrt(mean(x^2) + eps) over the last axis, and its gradients.
// Sums are float32. dw is reduced over fixed chunks of rows, then over the chunks in order.
#include <algorithm>

#include "native/core/kernel.h"
#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int64_t kTileElements = 1 << 16;

template <class T>
inline float SumOfSquares(const T* x, int64_t n) {
  Vec s0 = Zero(), s1 = Zero(), s2 = Zero(), s3 = Zero();
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    const Vec a = Load(x + i), b = Load(x + i + kLanes);
    const Vec c = Load(x + i + 2 * kLanes), d = Load(x + i + 3 * kLanes);
    s0 = Fma(a, a, s0);
    s1 = Fma(b, b, s1);
    s2 = Fma(c, c, s2);
    s3 = Fma(d, d, s3);
  }
  for (; i < n; i += kLanes) {
    const Vec a = LoadN(x + i, n - i);
    s0 = Fma(a, a, s0);
  }
  return Sum((s0 + s1) + (s2 + s3));
}

template <class T, class W>
void ForwardRow(const T* x, const W* w, T* y, float* rstd, int64_t n, float eps) {
  const float r = 1.0f / std::sqrt(SumOfSquares(x, n) / static_cast<float>(n) + eps);
  if (rstd) *rstd = r;
  const Vec scale = Set(r);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(y + i, Load(x + i) * scale * Load(w + i));
  if (i < n) StoreN(y + i, LoadN(x + i, n - i) * scale * LoadN(w + i, n - i), n - i);
}

void Forward(Invocation& call) {
  const View &x = call[0], &w = call[1], &y = call[2], &rstd = call[3];
  const int64_t n = x.rank ? x.dim(-1) : 0, rows = x.rows();
  Require(x.rank >= 1 && w.rank == 1 && w.dim(0) == n && w.contiguous(), ErrorCode::kShape,
          "rms_norm: w must be [D] to match x [..., D]");
  Require(y.rank == x.rank && y.dtype == x.dtype && y.dim(-1) == n && y.rows() == rows &&
              (n <= 1 || (x.step(-1) == 1 && y.step(-1) == 1)),
          ErrorCode::kShape, "rms_norm: y must be like x, both with unit stride in the last axis");
  Require(!call.has(3) || (rstd.dtype == DType::kF32 && rstd.numel() == rows && rstd.contiguous()),
          ErrorCode::kShape, "rms_norm: rstd must be f32, contiguous, one value per row");
  if (n == 0 || rows == 0) return;
  const float eps = static_cast<float>(call.f64(0));
  float* const rstd_data = call.has(3) ? rstd.as<float>() : nullptr;
  const int64_t per_tile = std::max<int64_t>(1, kTileElements / n);
  DispatchFloat(x.dtype, [&]<class T>() {
    DispatchFloat(w.dtype, [&]<class W>() {
      call.ParallelFor((rows + per_tile - 1) / per_tile, [&](int64_t tile, int) {
        const int64_t end = std::min(rows, (tile + 1) * per_tile);
        for (int64_t r = tile * per_tile; r < end; ++r)
          ForwardRow(x.row<T>(r), w.as<W>(), y.row<T>(r), rstd_data ? rstd_data + r : nullptr, n,
                     eps);
      });
    });
  });
}

// dx = rstd * (w dy - x rstd^2 mean(w dy x)); adds dy * x * rstd to dw when it is wanted.
template <class T, class W>
void BackwardRow(const T* dy, const T* x, const W* w, float rstd, T* dx, float* dw, int64_t n) {
  Vec s0 = Zero(), s1 = Zero();
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    s0 = Fma(Load(dy + i) * Load(w + i), Load(x + i), s0);
    s1 = Fma(Load(dy + i + kLanes) * Load(w + i + kLanes), Load(x + i + kLanes), s1);
  }
  for (; i < n; i += kLanes)
    s0 = Fma(LoadN(dy + i, n - i) * LoadN(w + i, n - i), LoadN(x + i, n - i), s0);
  const float dot = Sum(s0 + s1) / static_cast<float>(n);
  const Vec scale = Set(rstd), pull = Set(dot * rstd * rstd);
  for (i = 0; i < n; i += kLanes) {
    const int64_t left = n - i;
    const Vec g = LoadN(dy + i, left), a = LoadN(x + i, left);
    StoreN(dx + i, scale * Fnma(a, pull, g * LoadN(w + i, left)), left);
    if (dw) StoreN(dw + i, Fma(g, a * scale, LoadN(dw + i, left)), left);
  }
}

void Backward(Invocation& call) {
  const View &dy = call[0], &x = call[1], &w = call[2], &rstd = call[3], &dw = call[4],
             &dx = call[5];
  const int64_t n = x.rank ? x.dim(-1) : 0, rows = x.rows();
  Require(x.rank >= 1 && w.rank == 1 && w.dim(0) == n && w.contiguous(), ErrorCode::kShape,
          "rms_norm.backward: w must be [D] to match x [..., D]");
  Require(dy.dtype == x.dtype && dx.dtype == x.dtype && dy.rank == x.rank && dx.rank == x.rank &&
              dy.dim(-1) == n && dx.dim(-1) == n && dy.rows() == rows && dx.rows() == rows,
          ErrorCode::kShape, "rms_norm.backward: dy and dx must be like x");
  Require(n <= 1 || (x.step(-1) == 1 && dy.step(-1) == 1 && dx.step(-1) == 1), ErrorCode::kShape,
          "rms_norm.backward: dy, x and dx need unit stride in the last axis");
  Require(rstd.dtype == DType::kF32 && rstd.numel() == rows && rstd.contiguous(), ErrorCode::kShape,
          "rms_norm.backward: rstd must be f32, contiguous, one value per row");
  const bool want_dw = call.has(4);
  Require(
      !want_dw || (dw.dtype == DType::kF32 && dw.rank == 1 && dw.dim(0) == n && dw.contiguous()),
      ErrorCode::kShape, "rms_norm.backward: dw must be f32 [D]");
  if (n == 0) return;
  const bool accumulate = call.flag(1);

  // At least 16 rows a chunk, so that partial sums stay small beside the activations.
  const int64_t chunk = std::max<int64_t>(16, kTileElements / n);
  const int64_t chunks = (rows + chunk - 1) / chunk;
  float* const partial = want_dw && chunks ? call.Workspace<float>(chunks * n) : nullptr;
  DispatchFloat(x.dtype, [&]<class T>() {
    DispatchFloat(w.dtype, [&]<class W>() {
      call.ParallelFor(chunks, [&](int64_t tile, int) {
        float* const sum = partial ? partial + tile * n : nullptr;
        if (sum) std::memset(sum, 0, n * sizeof(float));
        const int64_t end = std::min(rows, (tile + 1) * chunk);
        for (int64_t r = tile * chunk; r < end; ++r)
          BackwardRow(dy.row<T>(r), x.row<T>(r), w.as<W>(), rstd.as<float>()[r], dx.row<T>(r), sum,
                      n);
      });
    });
  });
  if (!want_dw) return;
  float* const out = dw.as<float>();
  constexpr int64_t kStrip = 256;
  call.ParallelFor((n + kStrip - 1) / kStrip, [&](int64_t tile, int) {
    const int64_t end = std::min(n, (tile + 1) * kStrip);
    for (int64_t i = tile * kStrip; i < end; i += kLanes) {
      Vec s = accumulate ? LoadN(out + i, end - i) : Zero();
      for (int64_t c = 0; c < chunks; ++c) s = s + LoadN(partial + c * n + i, end - i);
      StoreN(out + i, s, end - i);
    }
  });
}

FUSELM_KERNEL("rms_norm(x, w) -> (y, rstd?) [eps]", kFloat, Forward);
FUSELM_KERNEL("rms_norm.backward(dy, x, w, rstd, dw!?) -> (dx) [eps, accumulate]", kFloat,
              Backward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
