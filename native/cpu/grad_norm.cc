// levels: generic avx2 avx512
// Global L2 norm over all gradients, one command. Each chunk is summed in double by one tile, in a
// fixed order; the chunks' sums are added in order afterwards.
#include <cmath>

#include "native/core/kernel.h"
#include "native/cpu/multi_tensor.h"
#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

// Squares are taken in double: the square of a float is exact there and cannot overflow.
double SumOfSquares(const float* x, int64_t n) {
#if FUSELM_HAS_AVX512
  __m512d acc[4] = {};
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    for (int j = 0; j < 4; ++j) {
      const __m512d v = _mm512_cvtps_pd(_mm256_loadu_ps(x + i + 8 * j));
      acc[j] = _mm512_fmadd_pd(v, v, acc[j]);
    }
  }
  alignas(64) double part[8];
  _mm512_store_pd(part,
                  _mm512_add_pd(_mm512_add_pd(acc[0], acc[1]), _mm512_add_pd(acc[2], acc[3])));
  double sum =
      ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
#elif FUSELM_IS_AVX2
  __m256d acc[4] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int j = 0; j < 4; ++j) {
      const __m256d v = _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4 * j));
      acc[j] = _mm256_fmadd_pd(v, v, acc[j]);
    }
  }
  alignas(32) double part[4];
  _mm256_store_pd(part,
                  _mm256_add_pd(_mm256_add_pd(acc[0], acc[1]), _mm256_add_pd(acc[2], acc[3])));
  double sum = (part[0] + part[1]) + (part[2] + part[3]);
#else
  double acc[4] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (int j = 0; j < 4; ++j) acc[j] += static_cast<double>(x[i + j]) * x[i + j];
  }
  double sum = (acc[0] + acc[1]) + (acc[2] + acc[3]);
#endif
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  return sum;
}

void GradNorm(Invocation& call) {
  const int64_t tensors = static_cast<int64_t>(call.size()) - 1;
  Require(tensors > 0, ErrorCode::kShape, "grad_norm: no gradients");
  Require(call[0].dtype == DType::kF32 && call[0].numel() == 1, ErrorCode::kShape,
          "grad_norm: norm must be f32 of one element");
  for (int64_t t = 0; t < tensors; ++t) {
    const View& grad = call[1 + t];
    Require(grad.dtype == DType::kF32, ErrorCode::kShape, "grad_norm: gradients must be f32");
    Require(grad.contiguous(), ErrorCode::kShape, "grad_norm: gradients must be contiguous");
  }
  const ChunkMap map(call, tensors, [&](int64_t t) -> const View& { return call[1 + t]; });
  const int64_t chunks = map.chunks();
  double* sums = call.Workspace<double>(static_cast<size_t>(chunks) + 1);
  call.ParallelFor(chunks, [&](int64_t tile, int) {
    const ChunkMap::Chunk chunk = map.Locate(tile);
    sums[tile] = SumOfSquares(call[1 + chunk.tensor].as<float>() + chunk.begin, chunk.count);
  });
  double total = 0;
  for (int64_t i = 0; i < chunks; ++i) total += sums[i];
  *call[0].as<float>() = static_cast<float>(std::sqrt(total));
}

FUSELM_KERNEL("grad_norm(...(grad)) -> (norm)", Mask(DType::kF32), GradNorm);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
