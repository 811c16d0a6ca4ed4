// levels: generic avx2 avx512 avx512bf16
// Rotary position embedding of the first R elements of each head; the others pass through. Pair i
// is (x[i], x[i + R/2]) half-split or (x[2i], x[2i + 1]) interleaved, and turns by
// position * frequency[i]: all kinds of scaling are but other frequencies and one factor on the
// rotation. Frequencies are float32 as Hugging Face stores them; the product and its reduction to
// [-pi/4, pi/4] are double, so that positions past 2^16 lose nothing. A tile is a few positions:
// their cosines are made once for all batches and heads.
#include <algorithm>
#include <cstring>

#include "native/core/kernel.h"
#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int64_t kTileElements = 1 << 15;

// How a rotation is multiplied: by `cosine` and `sine`, the latter negative to turn back.
struct Factors {
  float cosine, sine;
};

// cos and sin of position * frequency[i]. Plain loops: the compiler vectorises them at each level.
void CosSin(double position, const double* frequency, int64_t n, Factors factor, float* cosine,
            float* sine) {
  constexpr double kTwoOverPi = 0.63661977236758134308;
  // pi/2 in two parts, the first of 33 bits: k times it is exact for k < 2^20 (fdlibm)
  constexpr double kHalfPiHigh = 1.57079632673412561417, kHalfPiLow = 6.07710050650619224932e-11;
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  for (int64_t i = 0; i < n; ++i) {
    const double phase = position * frequency[i];
    const double shifted = phase * kTwoOverPi + kRound;
    const double k = shifted - kRound;
    const uint32_t quadrant = static_cast<uint32_t>(std::bit_cast<uint64_t>(shifted));
    const float r = static_cast<float>((phase - k * kHalfPiHigh) - k * kHalfPiLow);
    const float z = r * r;
    // minimax on [-pi/4, pi/4] (Cephes sinf, cosf), errors below 1e-7
    const float s =
        r + r * z * (-1.6666654611e-1f + z * (8.3321608736e-3f + z * -1.9515295891e-4f));
    const float c =
        1.0f - 0.5f * z +
        z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
    const float sin_part = quadrant & 1 ? c : s, cos_part = quadrant & 1 ? s : c;
    sine[i] = factor.sine * (quadrant & 2 ? -sin_part : sin_part);
    cosine[i] = factor.cosine * ((quadrant + 1) & 2 ? -cos_part : cos_part);
  }
}

// From one value a pair to one an element: (c, c) and (-s, s).
void Interleave(const float* cosine, const float* sine, int64_t half, float* c, float* s) {
  for (int64_t i = 0; i < half; ++i) {
    c[2 * i] = c[2 * i + 1] = cosine[i];
    s[2 * i] = -sine[i];
    s[2 * i + 1] = sine[i];
  }
}

// c and s hold one value an element.
template <class T>
inline void RotateInterleaved(const T* x, T* y, const float* c, const float* s, int64_t size) {
  for (int64_t i = 0; i < size; i += kLanes) {
    const int64_t left = size - i;
    const Vec v = LoadN(x + i, left);
    StoreN(y + i, Fma(SwapPairs(v), LoadN(s + i, left), v * LoadN(c + i, left)), left);
  }
}

template <class T>
inline void RotateHalves(const T* x, T* y, const float* cosine, const float* sine, int64_t half) {
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t left = half - i;
    const Vec a = LoadN(x + i, left), b = LoadN(x + half + i, left);
    const Vec c = LoadN(cosine + i, left), s = LoadN(sine + i, left);
    StoreN(y + i, Fnma(b, s, a * c), left);
    StoreN(y + half + i, Fma(a, s, b * c), left);
  }
}

// 0 x, 1 positions?, 2 frequencies?, 3 y; [theta, rotarySize, interleaved, attentionFactor,
// inverse]
void Forward(Invocation& call) {
  const View &x = call[0], &positions = call[1], &frequencies = call[2], &y = call[3];
  Require(x.rank == 4, ErrorCode::kShape, "rope: x must be [B, T, H, D]");
  Require(y.rank == 4 && y.dtype == x.dtype && y.dim(0) == x.dim(0) && y.dim(1) == x.dim(1) &&
              y.dim(2) == x.dim(2) && y.dim(3) == x.dim(3),
          ErrorCode::kShape, "rope: y must be like x");
  Require(x.dim(3) == 0 || (x.step(3) == 1 && y.step(3) == 1), ErrorCode::kShape,
          "rope: x and y need unit stride in the last axis");
  const int64_t B = x.dim(0), T = x.dim(1), H = x.dim(2), D = x.dim(3);
  const int64_t size = call.i64(1), half = size / 2;
  Require(size >= 0 && size <= D && size % 2 == 0, ErrorCode::kShape,
          "rope: rotarySize must be even, from 0 to D");
  const bool given = call.has(1), per_batch = given && positions.rank == 2;
  Require(!given || (positions.dtype == DType::kI32 && positions.dim(-1) == T &&
                     (positions.rank == 1 || (per_batch && positions.dim(0) == B))),
          ErrorCode::kShape, "rope: positions must be i32 [T] or [B, T]");
  Require(!call.has(2) || (frequencies.dtype == DType::kF32 && frequencies.rank == 1 &&
                           frequencies.contiguous() && frequencies.dim(0) == half),
          ErrorCode::kShape, "rope: frequencies must be f32 [rotarySize / 2]");
  if (B == 0 || T == 0 || H == 0 || D == 0) return;
  const double theta = call.f64(0);
  const bool interleaved = call.flag(2);
  const float attention = static_cast<float>(call.f64(3));
  const Factors factor{attention, call.flag(4) ? -attention : attention};

  double* const frequency = call.Workspace<double>(half);
  for (int64_t i = 0; i < half; ++i)
    frequency[i] = call.has(2)
                       ? frequencies.as<float>()[i]
                       : static_cast<float>(1.0 / std::pow(theta, static_cast<double>(2 * i) /
                                                                      static_cast<double>(size)));

  // With shared positions a tile takes all batches of its positions.
  const int64_t batches = per_batch ? 1 : B;
  const int64_t step = std::clamp<int64_t>(kTileElements / (batches * H * D), 1, T);
  const int64_t spans = (T + step - 1) / step;
  call.ReserveScratch(3 * size * sizeof(float));
  DispatchFloat(x.dtype, [&]<class E>() {
    const size_t rest = static_cast<size_t>(D - size) * sizeof(E);
    call.ParallelFor(spans * (per_batch ? B : 1), [&](int64_t tile, int worker) {
      float* const cosine = call.Scratch<float>(worker, 3 * size);
      float* const sine = cosine + half;
      float *const c = cosine + size, *const s = c + size;
      const int64_t b0 = per_batch ? tile / spans : 0;
      const int64_t t0 = tile % spans * step;
      for (int64_t t = t0; t < std::min(T, t0 + step); ++t) {
        double position = static_cast<double>(t);
        if (given)
          position =
              positions
                  .as<int32_t>()[(per_batch ? b0 * positions.step(0) : 0) + t * positions.step(-1)];
        CosSin(position, frequency, half, factor, cosine, sine);
        if (interleaved) Interleave(cosine, sine, half, c, s);
        for (int64_t b = b0; b < b0 + batches; ++b) {
          const E* from = x.as<E>() + b * x.step(0) + t * x.step(1);
          E* to = y.as<E>() + b * y.step(0) + t * y.step(1);
          for (int64_t h = 0; h < H; ++h, from += x.step(2), to += y.step(2)) {
            if (interleaved)
              RotateInterleaved(from, to, c, s, size);
            else
              RotateHalves(from, to, cosine, sine, half);
            if (rest > 0) std::memcpy(to + size, from + size, rest);
          }
        }
      }
    });
  });
}

FUSELM_KERNEL(
    "rope(x, positions?, frequencies?) -> (y) "
    "[theta, rotarySize, interleaved, attentionFactor, inverse]",
    kFloat, Forward);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
