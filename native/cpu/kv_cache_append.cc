// levels: generic
// Writes new keys and values into a cache, a ring of slots per row of the batch: token t of row b
// goes to slot (start[b] + t) mod S. Of more tokens than slots only the last S are kept.
// Bandwidth-bound: rows are copied whole.
#include <algorithm>
#include <cstring>

#include "native/core/kernel.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int64_t kTileBytes = 1 << 20;

bool Fits(const View& cache, const View& x) {
  return cache.rank == 4 && x.rank == 4 && x.dtype == cache.dtype && x.dim(0) == cache.dim(0) &&
         x.dim(2) == cache.dim(2) && x.dim(3) == cache.dim(3) && x.step(3) == 1 &&
         cache.step(3) == 1;
}

void Append(Invocation& call) {
  const View &k_cache = call[0], &v_cache = call[1], &k = call[2], &v = call[3], &start = call[4];
  Require(Fits(k_cache, k) && Fits(v_cache, v) && v.dim(1) == k.dim(1) &&
              v_cache.dim(1) == k_cache.dim(1),
          ErrorCode::kShape,
          "kv_cache_append: caches must be [B, S, G, D] and k, v [B, T, G, D] of their dtype");
  const int64_t B = k.dim(0), T = k.dim(1), G = k.dim(2), D = k.dim(3), S = k_cache.dim(1);
  Require(start.dtype == DType::kI32 && start.rank == 1 && start.dim(0) == B, ErrorCode::kShape,
          "kv_cache_append: start must be i32 [B]");
  if (B == 0 || T == 0 || G == 0 || S == 0) return;
  const auto at = [&](int64_t b) {
    return static_cast<int64_t>(start.as<int32_t>()[b * start.step(0)]);
  };
  for (int64_t b = 0; b < B; ++b)
    if (at(b) < 0) Throw(ErrorCode::kValue, "kv_cache_append: start[%d] is %d", int(b), int(at(b)));
  const int64_t item = static_cast<int64_t>(ItemSize(k.dtype)), bytes = D * item;
  const int64_t skipped = std::max<int64_t>(0, T - S);
  const int64_t step = std::clamp<int64_t>(kTileBytes / std::max<int64_t>(1, bytes * G), 1, T);
  const int64_t spans = (T - skipped + step - 1) / step;
  call.ParallelFor(2 * B * spans, [&](int64_t tile, int) {
    const View &from = tile % 2 ? v : k, &to = tile % 2 ? v_cache : k_cache;
    const int64_t b = tile / 2 / spans, t0 = skipped + tile / 2 % spans * step;
    for (int64_t t = t0; t < std::min(T, t0 + step); ++t) {
      const std::byte* x = from.as<std::byte>() + (b * from.step(0) + t * from.step(1)) * item;
      std::byte* y = to.as<std::byte>() + (b * to.step(0) + (at(b) + t) % S * to.step(1)) * item;
      for (int64_t g = 0; g < G; ++g)
        std::memcpy(y + g * to.step(2) * item, x + g * from.step(2) * item, bytes);
    }
  });
}

FUSELM_KERNEL("kv_cache_append(k_cache!, v_cache!, k, v, start)", kFloat, Append);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
