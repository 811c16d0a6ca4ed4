// levels: generic avx2 avx512
// Draws one token per row of logits: repetition penalty, temperature, top-k, top-p, min-p, then the
// inverse of the cumulative distribution at a Philox uniform of the row's own key, so that a row's
// token does not depend on the batch it is in.
//
// Nothing is sorted. Top-k and top-p are a least logit to keep, found by counting: a float's bits,
// made monotonic, are searched in three digits of 11, 11 and 10 bits. A row is cut into chunks, and
// each step is a round of tiles over all chunks, then a short one over rows: chunks of a row are
// joined in their order.
#include <algorithm>
#include <cmath>
#include <limits>

#include "native/core/kernel.h"
#include "native/cpu/cross_entropy.h"
#include "native/cpu/ordered.h"
#include "native/cpu/philox.h"
#include "native/cpu/simd.h"

namespace fuselm {
namespace FUSELM_LEVEL_NS {
namespace {

constexpr int64_t kChunk = 1 << 14;
constexpr int kDigits = 3;
constexpr int kShift[kDigits] = {21, 10, 0};
constexpr uint32_t kBuckets[kDigits] = {2048, 2048, 1024};
constexpr uint32_t kMostBuckets = 2048;
// In place of -inf, so that differences are numbers.
constexpr float kLowest = -std::numeric_limits<float>::max() / 4;

struct Options {
  float temperature;
  int64_t top_k;  // 0: all
  double top_p;   // 1: all
  float min_p;    // 0: all
  float penalty;  // 1: none
};

struct Part {           // of a chunk
  LogSum raw;           // of the logits as given
  bool odd;             // holds a NaN or +inf
  float max;            // after the penalty
  int64_t ties, quota;  // elements at the border of top-p, and how many of them are kept
  double mass;
};

struct Row {
  float lse, max;
  bool ok;
  uint32_t least;        // the border: what is above is kept
  double above, target;  // mass above it; what to reach
};

class Sampler {
 public:
  Sampler(Invocation& call, const Options& options)
      : call_(call), o_(options), logits_(call[0]), rows_(logits_.dim(0)), size_(logits_.dim(1)) {
    chunks_ = (size_ + kChunk - 1) / kChunk;
    const size_t elements = static_cast<size_t>(rows_ * size_);
    z_ = call.Workspace<float>(elements);
    weight_ = call.Workspace<float>(elements);
    parts_ = call.Workspace<Part>(static_cast<size_t>(rows_ * chunks_));
    row_ = call.Workspace<Row>(static_cast<size_t>(rows_));
    if (o_.top_k > 0 || o_.top_p < 1)
      histogram_ = call.Workspace<double>(static_cast<size_t>(rows_ * chunks_) * kMostBuckets);
  }

  void Run(int32_t* ids, float* logprobs) {
    ReadLogits();
    if (call_.has(2)) Penalize();
    if (o_.temperature == 0) return Greedy(ids, logprobs);
    Weigh();
    if (o_.top_k > 0 && o_.top_k < size_) {
      EachRow([&](int64_t, Row& row) { row.target = static_cast<double>(o_.top_k); });
      Threshold([](float) { return 1.0; });
      EachChunk([&](int64_t, Row& row, Part&, float* z, float* weight, int64_t n) {
        for (int64_t i = 0; i < n; ++i)
          if (Ordered(z[i]) < row.least) weight[i] = 0;
      });
    }
    SumMass();
    if (o_.top_p < 1) TopP();
    if (o_.min_p > 0) MinP();
    if (o_.top_p < 1 || o_.min_p > 0) SumMass();
    Draw(ids, logprobs);
  }
  bool ok(int64_t row) const { return row_[row].ok; }

 private:
  // f(row number, row): short.
  template <class F>
  void EachRow(F&& f) {
    call_.ParallelFor(rows_, [&](int64_t r, int) noexcept {
      if (row_[r].ok) f(r, row_[r]);
    });
  }
  template <class F>
  void EachChunk(F&& f) {
    call_.ParallelFor(rows_ * chunks_, [&](int64_t tile, int) noexcept {
      const int64_t r = tile / chunks_, begin = tile % chunks_ * kChunk;
      if (!row_[r].ok) return;
      const int64_t at = r * size_ + begin;
      f(tile, row_[r], parts_[tile], z_ + at, weight_ + at, std::min(kChunk, size_ - begin));
    });
  }

  void ReadLogits() {
    for (int64_t r = 0; r < rows_; ++r)
      row_[r] = {.lse = 0, .max = 0, .ok = true, .least = 0, .above = 0, .target = 0};
    DispatchFloat(logits_.dtype, [&]<class T>() {
      EachChunk([&](int64_t tile, Row&, Part& part, float* z, float*, int64_t n) {
        const T* x = logits_.row<T>(tile / chunks_) + tile % chunks_ * kChunk;
        Vec top = Set(kLowest), odd = Zero();
        for (int64_t i = 0; i < n; i += kLanes) {
          // past the end zeros are read; they are neither stored nor counted
          const int64_t left = n - i;
          Vec v = Max(Set(kLowest), LoadN(x + i, left));
          odd = odd + v * Zero();
          StoreN(z + i, v, left);
          if (left < kLanes) v = Tail(z + i, left);
          top = Max(top, v);
        }
        part.odd = !(Sum(odd) == 0);
        part.max = MaxOf(top);
        Vec sum = Zero();
        for (int64_t i = 0; i < n; i += kLanes)
          sum = sum + Exp((n - i < kLanes ? Tail(z + i, n - i) : Load(z + i)) - Set(part.max));
        part.raw = {part.max, Sum(sum)};
      });
    });
    EachRow([&](int64_t r, Row& row) {
      LogSum all;
      bool odd = false;
      for (int64_t c = 0; c < chunks_; ++c) {
        all.Join(parts_[r * chunks_ + c].raw);
        odd = odd || parts_[r * chunks_ + c].odd;
      }
      row.ok = !odd && all.max > kLowest;
      row.max = all.max;
      row.lse = all.Log();
    });
  }
  static Vec Tail(const float* z, int64_t n) {
    alignas(64) float part[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) part[i] = i < n ? z[i] : kLowest;
    return Load(part);
  }

  void Penalize() {
    const View& history = call_[2];
    const int64_t length = history.dim(1);
    EachRow([&](int64_t r, Row&) {
      const int32_t* ids = history.as<int32_t>() + r * length;
      DispatchFloat(logits_.dtype, [&]<class T>() {
        const T* x = logits_.row<T>(r);
        for (int64_t i = 0; i < length; ++i) {
          if (ids[i] < 0) continue;
          const float value = static_cast<float>(x[ids[i]]);  // as given: twice named, once changed
          const float changed = value > 0 ? value / o_.penalty : value * o_.penalty;
          // an extreme penalty must make neither an infinity nor a NaN
          z_[r * size_ + ids[i]] = changed > kLowest ? std::min(changed, -kLowest) : kLowest;
        }
      });
    });
    EachChunk([&](int64_t, Row&, Part& part, float* z, float*, int64_t n) {
      Vec top = Set(kLowest);
      for (int64_t i = 0; i < n; i += kLanes)
        top = Max(top, n - i < kLanes ? Tail(z + i, n - i) : Load(z + i));
      part.max = MaxOf(top);
    });
    EachRow([&](int64_t r, Row& row) {
      row.max = kLowest;
      for (int64_t c = 0; c < chunks_; ++c)
        row.max = std::max(row.max, parts_[r * chunks_ + c].max);
    });
  }

  void Take(int64_t r, int64_t id, int32_t* ids, float* logprobs) {
    ids[r] = static_cast<int32_t>(id);
    DispatchFloat(logits_.dtype, [&]<class T>() {
      logprobs[r] = static_cast<float>(logits_.row<T>(r)[id]) - row_[r].lse;
    });
  }

  void Greedy(int32_t* ids, float* logprobs) {
    EachRow([&](int64_t r, Row& row) {
      int64_t c = 0;
      while (parts_[r * chunks_ + c].max < row.max) ++c;
      int64_t i = c * kChunk;
      while (z_[r * size_ + i] < row.max) ++i;
      Take(r, i, ids, logprobs);
    });
  }

  // z becomes the logits over the temperature, the largest being 0; weights their exponentials.
  void Weigh() {
    EachChunk([&](int64_t, Row& row, Part&, float* z, float* weight, int64_t n) {
      // the difference first: a tiny temperature must not make two infinities
      for (int64_t i = 0; i < n; i += kLanes) {
        const Vec v = (LoadN(z + i, n - i) - Set(row.max)) / Set(o_.temperature);
        StoreN(z + i, v, n - i);
        StoreN(weight + i, Exp(v), n - i);
      }
    });
  }

  void SumMass() {
    EachChunk([&](int64_t, Row&, Part& part, float*, float* weight, int64_t n) {
      part.mass = 0;
      for (int64_t i = 0; i < n; i += kLanes) part.mass += Sum(LoadN(weight + i, n - i));
    });
  }

  // row.least: the largest key whose elements, with all above it, reach row.target of mass(weight).
  template <class F>
  void Threshold(F&& mass) {
    EachRow([](int64_t, Row& row) { row.least = 0, row.above = 0; });
    for (int digit = 0; digit < kDigits; ++digit) {
      const uint32_t buckets = kBuckets[digit];
      const int shift = kShift[digit], done = digit == 0 ? 32 : kShift[digit - 1];
      EachChunk([&](int64_t tile, Row& row, Part&, float* z, float* weight, int64_t n) {
        double* const histogram = histogram_ + tile * kMostBuckets;
        std::fill(histogram, histogram + buckets, 0.0);
        for (int64_t i = 0; i < n; ++i) {
          const uint32_t key = Ordered(z[i]);
          if (weight[i] == 0 || (done < 32 && (key >> done) != (row.least >> done))) continue;
          histogram[(key >> shift) & (buckets - 1)] += mass(weight[i]);
        }
      });
      EachRow([&](int64_t r, Row& row) {
        double* const all = histogram_ + r * chunks_ * kMostBuckets;
        for (int64_t c = 1; c < chunks_; ++c)
          for (uint32_t b = 0; b < buckets; ++b) all[b] += all[c * kMostBuckets + b];
        uint32_t bucket = buckets - 1;
        while (bucket > 0 && !(row.above + all[bucket] >= row.target)) row.above += all[bucket--];
        row.least |= bucket << shift;
      });
    }
  }

  void TopP() {
    EachRow([&](int64_t r, Row& row) {
      double total = 0;
      for (int64_t c = 0; c < chunks_; ++c) total += parts_[r * chunks_ + c].mass;
      row.target = o_.top_p * total;
    });
    Threshold([](float weight) { return static_cast<double>(weight); });
    EachChunk([&](int64_t, Row& row, Part& part, float* z, float* weight, int64_t n) {
      part.ties = 0;
      for (int64_t i = 0; i < n; ++i) {
        if (weight[i] == 0 || Ordered(z[i]) != row.least) continue;
        ++part.ties;
        part.mass = weight[i];  // that of any of them
      }
    });
    // of equal logits at the border the first ones, until the target is reached
    EachRow([&](int64_t r, Row& row) {
      Part* const parts = parts_ + r * chunks_;
      double each = 0;
      for (int64_t c = 0; c < chunks_; ++c)
        if (parts[c].ties > 0) each = parts[c].mass;
      const double wanted = each > 0 ? std::ceil((row.target - row.above) / each) : 0;
      int64_t left = wanted < 1                            ? 1
                     : wanted < static_cast<double>(size_) ? static_cast<int64_t>(wanted)
                                                           : size_;
      for (int64_t c = 0; c < chunks_; ++c) {
        parts[c].quota = std::min(left, parts[c].ties);
        left -= parts[c].quota;
      }
    });
    EachChunk([&](int64_t, Row& row, Part& part, float* z, float* weight, int64_t n) {
      int64_t left = part.quota;
      for (int64_t i = 0; i < n; ++i) {
        const uint32_t key = Ordered(z[i]);
        if (key > row.least || (key == row.least && weight[i] > 0 && left-- > 0)) continue;
        weight[i] = 0;
      }
    });
  }

  void MinP() {
    EachChunk([&](int64_t, Row&, Part&, float*, float* weight, int64_t n) {
      for (int64_t i = 0; i < n; ++i)
        if (weight[i] < o_.min_p) weight[i] = 0;  // the largest weighs 1
    });
  }

  void Draw(int32_t* ids, float* logprobs) {
    EachRow([&](int64_t r, Row&) {
      const Part* const parts = parts_ + r * chunks_;
      const float* const weight = weight_ + r * size_;
      const uint32_t* const key = call_[1].as<uint32_t>() + 4 * r;
      alignas(64) uint32_t words[kPhiloxGroup];
      PhiloxWords({key[0], key[1], key[2], key[3]}, 0, words);
      double total = 0;
      for (int64_t c = 0; c < chunks_; ++c) total += parts[c].mass;
      const double wanted = static_cast<double>(PhiloxUniform(words[0])) * total;
      double before = 0;
      int64_t c = 0;
      while (c + 1 < chunks_ && before + parts[c].mass <= wanted) before += parts[c++].mass;
      // rounding may leave the sum below: the last one kept, then
      int64_t chosen = -1;
      for (int64_t i = c * kChunk; i < std::min(size_, (c + 1) * kChunk); ++i) {
        if (weight[i] == 0) continue;
        chosen = i;
        before += weight[i];
        if (before > wanted) break;
      }
      for (int64_t i = c * kChunk; chosen < 0;)
        if (weight[--i] > 0) chosen = i;
      Take(r, chosen, ids, logprobs);
    });
  }

  Invocation& call_;
  const Options o_;
  const View& logits_;
  const int64_t rows_, size_;
  int64_t chunks_;
  float *z_, *weight_;  // [rows][size]
  Part* parts_;         // [rows][chunks]
  Row* row_;
  double* histogram_ = nullptr;  // [rows][chunks][kMostBuckets]
};

// 0 logits, 1 key, 2 history?, 3 ids, 4 logprobs; [temperature, topK, topP, minP,
// repetitionPenalty]
void Sample(Invocation& call) {
  const View &logits = call[0], &key = call[1], &history = call[2], &ids = call[3],
             &logprobs = call[4];
  Require(logits.rank == 2 && (logits.dim(1) > 0 || logits.dim(0) == 0) && logits.step(1) == 1,
          ErrorCode::kShape, "sample: logits must be [B, V] with V > 0 and rows of stride 1");
  const int64_t rows = logits.dim(0), size = logits.dim(1);
  Require(key.dtype == DType::kU32 && key.contiguous() && key.rank == 2 && key.dim(0) == rows &&
              key.dim(1) == 4,
          ErrorCode::kShape, "sample: key must be u32 [B, 4]");
  Require(!call.has(2) || (history.dtype == DType::kI32 && history.contiguous() &&
                           history.rank == 2 && history.dim(0) == rows),
          ErrorCode::kShape, "sample: history must be i32 [B, L]");
  Require(ids.dtype == DType::kI32 && ids.contiguous() && ids.numel() == rows &&
              logprobs.dtype == DType::kF32 && logprobs.contiguous() && logprobs.numel() == rows,
          ErrorCode::kShape, "sample: ids must be i32 [B], logprobs f32 [B]");
  const Options options{static_cast<float>(call.f64(0)), call.i64(1), call.f64(2),
                        static_cast<float>(call.f64(3)), static_cast<float>(call.f64(4))};
  Require(options.temperature >= 0 && options.top_k >= 0 && options.top_p > 0 &&
              options.top_p <= 1 && options.min_p >= 0 && options.min_p <= 1 && options.penalty > 0,
          ErrorCode::kValue,
          "sample: temperature and topK must be >= 0, topP in (0, 1], minP in [0, 1], "
          "repetitionPenalty above 0");
  if (call.has(2)) {
    for (int64_t i = 0; i < history.numel(); ++i) {
      const int32_t id = history.as<int32_t>()[i];
      if (id < -1 || id >= size) FailRange("sample", "history", i, id, size);
    }
  }
  if (rows == 0) return;
  Sampler sampler(call, options);
  sampler.Run(ids.as<int32_t>(), logprobs.as<float>());
  for (int64_t row = 0; row < rows; ++row) {
    if (sampler.ok(row)) continue;
    Throw(ErrorCode::kValue, "sample: row %lld of logits has no largest finite value",
          static_cast<long long>(row));
  }
}

FUSELM_KERNEL(
    "sample(logits, key, history?) -> (ids, logprobs) "
    "[temperature, topK, topP, minP, repetitionPenalty]",
    kFloat, Sample);

}  // namespace
}  // namespace FUSELM_LEVEL_NS
}  // namespace fuselm
