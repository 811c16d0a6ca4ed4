// levels: generic avx2 avx512
// Uniform values in [0, 1) by element index: Philox words, 24 bits each.
#include "native/core/kernel.h"
#include "native/cpu/philox.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int64_t kTile = 16384;  // a multiple of kPhiloxGroup

void Uniform(Invocation& call) {
  const View &key_view = call[0], &y = call[1];
  Require(key_view.dtype == DType::kU32 && key_view.contiguous() && key_view.numel() == 4,
          ErrorCode::kShape, "uniform: key must be u32 [4]");
  Require(y.contiguous() && (y.dtype == DType::kF32 || y.dtype == DType::kF64), ErrorCode::kShape,
          "uniform: y must be contiguous, f32 or f64 (bf16 would round up to 1)");
  const uint32_t* k = key_view.as<uint32_t>();
  const PhiloxKey key = {k[0], k[1], k[2], k[3]};
  const int64_t n = y.numel();
  auto fill = [&]<class T>(T* out) {
    call.ParallelFor((n + kTile - 1) / kTile, [&](int64_t tile, int) {
      const int64_t end = n < (tile + 1) * kTile ? n : (tile + 1) * kTile;
      alignas(64) uint32_t words[kPhiloxGroup];
      for (int64_t i = tile * kTile; i < end; i += kPhiloxGroup) {
        PhiloxWords(key, i / kPhiloxGroup, words);
        const int64_t count = end - i < kPhiloxGroup ? end - i : kPhiloxGroup;
        for (int64_t j = 0; j < count; ++j) out[i + j] = static_cast<T>(PhiloxUniform(words[j]));
      }
    });
  };
  if (y.dtype == DType::kF32) {
    fill(y.as<float>());
  } else {
    fill(y.as<double>());
  }
}

FUSELM_KERNEL("uniform(key, y!)", kAnyDType, Uniform);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
