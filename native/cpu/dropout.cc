// levels: generic avx2 avx512
// Dropout: y = x / (1 - p) where a Philox uniform of the element is at least p, else 0. The mask is
// never stored: the backward pass is the same kernel on dy with the same key.
#include <cmath>

#include "native/core/kernel.h"
#include "native/cpu/philox.h"
#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int64_t kTile = 16384;  // a multiple of kPhiloxGroup

template <class T>
void Rows(const T* x, T* y, int64_t begin, int64_t end, const PhiloxKey& key, float p) {
  const float scale = p < 1 ? 1.0f / (1.0f - p) : 0.0f;
  const auto least = static_cast<int32_t>(std::ceil(p * 0x1p24f));  // exact: uniform >= p
  alignas(64) uint32_t words[kPhiloxGroup];
  alignas(64) float factor[kPhiloxGroup];
  for (int64_t i = begin; i < end; i += kPhiloxGroup) {
    PhiloxWords(key, i / kPhiloxGroup, words);
    for (int j = 0; j < kPhiloxGroup; ++j) {
      factor[j] = static_cast<int32_t>(words[j] >> 8) >= least ? scale : 0.0f;
    }
    const int64_t group = end - i < kPhiloxGroup ? end - i : kPhiloxGroup;
    for (int64_t j = 0; j < group; j += kLanes) {
      const int64_t left = group - j;
      const Vec keep = Load(factor + j);
      // a select, not a product: a dropped infinity is 0
      StoreN(y + i + j, SelectPositive(keep, LoadN(x + i + j, left) * keep, Zero()), left);
    }
  }
}

void Dropout(Invocation& call) {
  const View &x = call[0], &key_view = call[1], &y = call[2];
  Require(x.dtype == y.dtype && x.numel() == y.numel() && x.contiguous() && y.contiguous(),
          ErrorCode::kShape, "dropout: x and y must be contiguous and alike");
  Require(key_view.dtype == DType::kU32 && key_view.contiguous() && key_view.numel() == 4,
          ErrorCode::kShape, "dropout: key must be u32 [4]");
  const uint32_t* words = key_view.as<uint32_t>();
  const PhiloxKey key = {words[0], words[1], words[2], words[3]};
  const float p = static_cast<float>(call.f64(0));
  Require(p >= 0 && p <= 1, ErrorCode::kValue, "dropout: p must be in [0, 1]");
  const int64_t n = x.numel();
  DispatchFloat(x.dtype, [&]<class T>() {
    call.ParallelFor((n + kTile - 1) / kTile, [&](int64_t tile, int) {
      const int64_t begin = tile * kTile;
      Rows(x.as<T>(), y.as<T>(), begin, n < begin + kTile ? n : begin + kTile, key, p);
    });
  });
}

FUSELM_KERNEL("dropout(x, key) -> (y) [p]", kFloat, Dropout);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
