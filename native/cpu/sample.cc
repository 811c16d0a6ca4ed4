// levels: generic avx2 avx512
// Draws one token per row of logits: temperature, then top-k, then top-p, then the inverse of the
// cumulative distribution at a Philox uniform of the row's own key, so that a row's token does not
// depend on the batch it is in.
//
// Nothing is sorted. Both filters are a least logit to keep, found by counting: a float's bits,
// made monotonic, are searched in three digits of 11, 11 and 10 bits.
#include <cmath>

#include "native/core/kernel.h"
#include "native/cpu/philox.h"
#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int kDigits = 3;
constexpr int kShift[kDigits] = {21, 10, 0};
constexpr uint32_t kBuckets[kDigits] = {2048, 2048, 1024};

// Larger floats have larger keys.
inline uint32_t Monotonic(float f) {
  const uint32_t u = std::bit_cast<uint32_t>(f);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}

// What is left of a row: `size` tokens in rising order of id.
struct Candidates {
  float* logit;  // divided by the temperature, the largest being 0
  int32_t* id;
  double* weight;
  int64_t size;
};

// The largest key whose elements, with all above it, reach `target` of `mass(i)`.
template <class F>
uint32_t Threshold(const Candidates& all, double target, double* histogram, F&& mass) {
  uint32_t prefix = 0;
  double above = 0;
  for (int digit = 0; digit < kDigits; ++digit) {
    const uint32_t buckets = kBuckets[digit];
    for (uint32_t b = 0; b < buckets; ++b) histogram[b] = 0;
    const int done = digit == 0 ? 32 : kShift[digit - 1];
    for (int64_t i = 0; i < all.size; ++i) {
      const uint32_t key = Monotonic(all.logit[i]);
      if (done < 32 && (key >> done) != (prefix >> done)) continue;
      histogram[(key >> kShift[digit]) & (buckets - 1)] += mass(i);
    }
    uint32_t bucket = buckets - 1;
    while (bucket > 0 && !(above + histogram[bucket] >= target)) above += histogram[bucket--];
    prefix |= bucket << kShift[digit];
  }
  return prefix;
}

template <class F>
void Keep(Candidates& all, F&& keep) {
  int64_t kept = 0;
  for (int64_t i = 0; i < all.size; ++i) {
    if (!keep(i)) continue;
    all.logit[kept] = all.logit[i];
    all.id[kept] = all.id[i];
    all.weight[kept++] = all.weight[i];
  }
  all.size = kept;
}

struct Options {
  float temperature;
  int64_t top_k;  // 0: all
  double top_p;   // 1: all
};

int32_t Draw(Candidates all, double* histogram, const Options& options, float uniform) {
  if (options.top_k > 0 && options.top_k < all.size) {
    const uint32_t least =
        Threshold(all, static_cast<double>(options.top_k), histogram, [](int64_t) { return 1.0; });
    Keep(all, [&](int64_t i) { return Monotonic(all.logit[i]) >= least; });
  }
  double total = 0;
  for (int64_t i = 0; i < all.size; ++i) {
    all.weight[i] = std::exp(static_cast<double>(all.logit[i]));
    total += all.weight[i];
  }
  if (options.top_p < 1) {
    const double target = options.top_p * total;
    const uint32_t least =
        Threshold(all, target, histogram, [&](int64_t i) { return all.weight[i]; });
    double kept = 0;
    for (int64_t i = 0; i < all.size; ++i) {
      if (Monotonic(all.logit[i]) > least) kept += all.weight[i];
    }
    // of equal logits at the border, the first ones until the target is reached: at least one
    Keep(all, [&](int64_t i) {
      const uint32_t key = Monotonic(all.logit[i]);
      if (key != least) return key > least;
      if (kept >= target && kept > 0) return false;
      kept += all.weight[i];
      return true;
    });
    total = 0;
    for (int64_t i = 0; i < all.size; ++i) total += all.weight[i];
  }
  const double wanted = static_cast<double>(uniform) * total;
  double sum = 0;
  for (int64_t i = 0; i < all.size; ++i) {
    sum += all.weight[i];
    if (sum > wanted) return all.id[i];
  }
  return all.id[all.size - 1];  // rounding left the sum below
}

// -1 when the row has no largest finite value: all -inf, or a NaN or +inf among them.
template <class T>
int32_t SampleRow(const T* logits, const uint32_t* key, const Options& options, Candidates all,
                  double* histogram) {
  int64_t best = 0;
  bool finite = true;
  float max = -INFINITY;
  for (int64_t i = 0; i < all.size; ++i) {
    const float value = logits[i];
    finite = finite && value < INFINITY;
    if (value > max) max = value, best = i;
  }
  if (!finite || max == -INFINITY) return -1;
  if (options.temperature == 0) return static_cast<int32_t>(best);
  for (int64_t i = 0; i < all.size; ++i) {
    // the difference first: a tiny temperature must not make two infinities
    all.logit[i] = (static_cast<float>(logits[i]) - max) / options.temperature;
    all.id[i] = static_cast<int32_t>(i);
  }
  alignas(64) uint32_t words[kPhiloxGroup];
  PhiloxWords({key[0], key[1], key[2], key[3]}, 0, words);
  return Draw(all, histogram, options, PhiloxUniform(words[0]));
}

void Sample(Invocation& call) {
  const View &logits = call[0], &key = call[1], &ids = call[2];
  Require(logits.rank == 2 && (logits.dim(1) > 0 || logits.dim(0) == 0) && logits.step(1) == 1,
          ErrorCode::kShape, "sample: logits must be [B, V] with V > 0 and rows of stride 1");
  const int64_t rows = logits.dim(0), size = logits.dim(1);
  Require(key.dtype == DType::kU32 && key.contiguous() && key.rank == 2 && key.dim(0) == rows &&
              key.dim(1) == 4,
          ErrorCode::kShape, "sample: key must be u32 [B, 4]");
  Require(ids.dtype == DType::kI32 && ids.contiguous() && ids.numel() == rows, ErrorCode::kShape,
          "sample: ids must be i32 [B]");
  const Options options{static_cast<float>(call.f64(0)), call.i64(1), call.f64(2)};
  Require(options.temperature >= 0 && options.top_k >= 0 && options.top_p > 0 && options.top_p <= 1,
          ErrorCode::kValue, "sample: temperature and topK must be >= 0, topP in (0, 1]");

  constexpr size_t kHistogram = 2048;
  const size_t scratch = kHistogram + 2 * static_cast<size_t>(size);  // doubles
  call.ReserveScratch(scratch * sizeof(double));
  DispatchFloat(logits.dtype, [&]<class T>() {
    call.ParallelFor(rows, [&](int64_t row, int worker) {
      double* histogram = call.Scratch<double>(worker, scratch);
      double* weight = histogram + kHistogram;
      float* logit = reinterpret_cast<float*>(weight + size);
      const Candidates all{logit, reinterpret_cast<int32_t*>(logit + size), weight, size};
      ids.as<int32_t>()[row] =
          SampleRow(logits.row<T>(row), key.as<uint32_t>() + 4 * row, options, all, histogram);
    });
  });
  for (int64_t row = 0; row < rows; ++row) {
    if (ids.as<int32_t>()[row] >= 0) continue;
    Throw(ErrorCode::kValue, "sample: row %lld of logits has no largest finite value",
          static_cast<long long>(row));
  }
}

FUSELM_KERNEL("sample(logits, key) -> (ids) [temperature, topK, topP]", kFloat, Sample);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
