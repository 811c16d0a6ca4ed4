// levels: generic avx2 avx512
// Normal values by element index: Box-Muller over two runs of Philox uniforms, radius from element
// i and angle from element i + n (n rounded up to a Philox group). Source: Box & Muller 1958.
#include <cmath>

#include "native/core/kernel.h"
#include "native/cpu/philox.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int64_t kTile = 16384;  // a multiple of kPhiloxGroup
constexpr float kTwoPi = 6.28318530717958647692f;

// 0 key, 1 y!; [std]
void Normal(Invocation& call) {
  const View &key_view = call[0], &y = call[1];
  Require(key_view.dtype == DType::kU32 && key_view.contiguous() && key_view.numel() == 4,
          ErrorCode::kShape, "normal: key must be u32 [4]");
  Require(y.contiguous(), ErrorCode::kShape, "normal: y must be contiguous");
  const uint32_t* k = key_view.as<uint32_t>();
  const PhiloxKey key = {k[0], k[1], k[2], k[3]};
  const int64_t n = y.numel(), groups = (n + kPhiloxGroup - 1) / kPhiloxGroup;
  const float std_deviation = static_cast<float>(call.f64(0));
  DispatchFloat64(y.dtype, [&]<class T>() {
    T* out = y.as<T>();
    call.ParallelFor((n + kTile - 1) / kTile, [&](int64_t tile, int) {
      const int64_t end = n < (tile + 1) * kTile ? n : (tile + 1) * kTile;
      alignas(64) uint32_t radius[kPhiloxGroup], angle[kPhiloxGroup];
      for (int64_t i = tile * kTile; i < end; i += kPhiloxGroup) {
        PhiloxWords(key, i / kPhiloxGroup, radius);
        PhiloxWords(key, groups + i / kPhiloxGroup, angle);
        const int64_t count = end - i < kPhiloxGroup ? end - i : kPhiloxGroup;
        for (int64_t j = 0; j < count; ++j) {
          const float u = 1.0f - PhiloxUniform(radius[j]);  // (0, 1]: its logarithm is finite
          out[i + j] = T(std_deviation * std::sqrt(-2.0f * std::log(u)) *
                         std::cos(kTwoPi * PhiloxUniform(angle[j])));
        }
      }
    });
  });
}

FUSELM_KERNEL("normal(key, y!) [std]", kFloat64, Normal);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
