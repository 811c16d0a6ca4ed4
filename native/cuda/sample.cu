// Draws one token per row of logits: repetition penalty, temperature, top-k, top-p, min-p, then the
// inverse of the cumulative distribution at a Philox uniform of the row's own key, so that a row's
// token does not depend on the batch it is in.
//
// Work: a block of 512 threads a row; logits over the temperature and weights stand in workspaces
// of [rows][V] floats, which stay in L2. Nothing is sorted: top-k and top-p are a least logit to
// keep, found by counting its ordered bits in three digits of 11, 11 and 10 bits, in 16 KiB of
// shared memory. Masses are whole numbers (a weight times 2^(62 - log2 V)), so that sums are exact
// in any order. Bound by latency: about ten passes over a row.
//
// Data cannot be looked at before a launch: a row without a largest finite logit, and one whose
// history names a token outside the vocabulary, which are errors on the CPU, give id -1 and a
// logprob of NaN.
#include "native/cuda/ordered.cuh"
#include "native/cuda/philox.cuh"
#include "native/cuda/row.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kBuckets = 2048;
constexpr int kDigits = 3;
// In place of -inf, so that differences are numbers.
constexpr float kLowest = -3.4028234664e38f / 4;

struct Options {
  float temperature;
  int64_t top_k;  // 0: all
  double top_p;   // 1: all
  float min_p;    // 0: all
  float penalty;  // 1: none
};

struct Problem {
  const void* logits;
  int64_t step, size, length;  // of rows; V; of history
  const uint32_t* key;
  const int32_t* history;  // null when there is none
  float *z, *weight;       // [rows][size]
  int32_t* ids;
  float* logprobs;
  Options o;
  int mass_bits;
};

__device__ __forceinline__ Mass BlockSumOf(Mass x) {
  __shared__ Mass parts[kThreads / kWarp];
#pragma unroll
  for (int d = kWarp / 2; d > 0; d /= 2) x += __shfl_xor_sync(kFullMask, x, d);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = x;
  __syncthreads();
  Mass sum = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) sum += parts[w];
  return sum;
}
// Of the threads before this one.
__device__ __forceinline__ Mass BlockSumBefore(Mass x) {
  __shared__ Mass parts[kThreads / kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  Mass upto = x;
#pragma unroll
  for (int d = 1; d < kWarp; d *= 2) {
    const Mass other = __shfl_up_sync(kFullMask, upto, d);
    if (lane >= d) upto += other;
  }
  __syncthreads();
  if (lane == kWarp - 1) parts[warp] = upto;
  __syncthreads();
  Mass before = upto - x;
  for (int w = 0; w < warp; ++w) before += parts[w];
  return before;
}

struct Row {
  const Problem& p;
  float *z, *weight;

  __device__ __forceinline__ Mass MassOf(float w) const {
    return static_cast<Mass>(ldexpf(w, p.mass_bits));
  }
  template <class F>
  __device__ __forceinline__ void Each(F&& f) const {
    for (int64_t i = threadIdx.x; i < p.size; i += kThreads) f(i);
  }

  // The largest key whose elements, with all above it, come to `target` of mass(weight). Every
  // thread gets it. Contains barriers.
  template <class F>
  __device__ __forceinline__ uint32_t Threshold(Mass target, F&& mass, Mass& above) const {
    __shared__ Mass histogram[kBuckets];
    __shared__ uint32_t least;
    __shared__ Mass over;
    if (threadIdx.x == 0) {
      least = 0;
      over = 0;
    }
#pragma unroll 1
    for (int digit = 0; digit < kDigits; ++digit) {
      const int shift = digit == 0 ? 21 : digit == 1 ? 10 : 0, done = digit == 1 ? 21 : 10;
      const uint32_t buckets = digit == 2 ? 1024 : 2048;
      for (int b = threadIdx.x; b < kBuckets; b += kThreads) histogram[b] = 0;
      __syncthreads();
      Each([&](int64_t i) {
        const uint32_t key = Ordered(z[i]);
        const float w = weight[i];
        if (w == 0 || (digit > 0 && key >> done != least >> done)) return;
        atomicAdd(&histogram[key >> shift & (buckets - 1)], mass(w));
      });
      __syncthreads();
      if (threadIdx.x < kWarp) {
        const Mass have = over;
        const Border border = FindBorder<kBuckets>(histogram, target > have ? target - have : 0);
        if (threadIdx.x == 0) {
          least |= static_cast<uint32_t>(border.bucket) << shift;
          over = have + border.above;
        }
      }
      __syncthreads();
    }
    above = over;
    return least;
  }

  __device__ __forceinline__ Mass Total() const {
    Mass mine = 0;
    Each([&](int64_t i) { mine += MassOf(weight[i]); });
    return BlockSumOf(mine);
  }

  __device__ __forceinline__ void TopK() const {
    Mass above;
    const uint32_t least = Threshold(
        static_cast<Mass>(p.o.top_k), [](float) { return Mass{1}; }, above);
    Each([&](int64_t i) {
      if (Ordered(z[i]) < least) weight[i] = 0;
    });
    __syncthreads();
  }

  __device__ __forceinline__ void TopP() const {
    const auto target = static_cast<Mass>(ceil(p.o.top_p * static_cast<double>(Total())));
    Mass above;
    const uint32_t least = Threshold(
        target, [&](float w) { return MassOf(w); }, above);
    __shared__ Mass of_each;
    if (threadIdx.x == 0) of_each = 0;
    __syncthreads();
    Mass mine = 0;
    Each([&](int64_t i) {
      if (weight[i] == 0 || Ordered(z[i]) != least) return;
      ++mine;
      atomicMax(&of_each, MassOf(weight[i]));  // the same of all of them
    });
    const Mass ties = BlockSumOf(mine);
    // of equal logits at the border the first ones, until the target is reached
    const Mass each = ties > 0 ? of_each : 0;
    const Mass short_by = target > above ? target - above : 0;
    Mass left = each > 0 ? (short_by + each - 1) / each : ties;
    if (left < 1) left = 1;
    Mass before = 0;  // ties in the rounds before
    for (int64_t round = 0; round < p.size; round += kThreads) {
      const int64_t i = round + threadIdx.x;
      const uint32_t key = i < p.size ? Ordered(z[i]) : 0;
      const bool tie = i < p.size && key == least && weight[i] > 0;
      bool keeps = tie;
      if (left < ties) {  // the same for all threads
        const Mass rank = before + BlockSumBefore(tie ? 1 : 0);
        before += BlockSumOf(tie ? 1 : 0);
        keeps = tie && rank < left;
      }
      if (i < p.size && key <= least && !keeps) weight[i] = 0;
    }
    __syncthreads();
  }

  __device__ __forceinline__ void MinP() const {
    Each([&](int64_t i) {
      if (weight[i] < p.o.min_p) weight[i] = 0;  // the largest weighs 1
    });
    __syncthreads();
  }

  // Every thread gets the token. Threads take neighbouring stretches of the row.
  __device__ __forceinline__ int32_t Draw() const {
    __shared__ int32_t chosen;
    const int64_t stretch = (p.size + kThreads - 1) / kThreads;
    const int64_t first = threadIdx.x * stretch;
    const int64_t end = first + stretch < p.size ? first + stretch : p.size;
    Mass mine = 0;
    for (int64_t i = first; i < end; ++i) mine += MassOf(weight[i]);
    const Mass total = BlockSumOf(mine);
    Mass upto = BlockSumBefore(mine);
    const float uniform = PhiloxUniform(Philox(p.key + 4 * blockIdx.x, 0).word[0]);
    auto wanted = static_cast<Mass>(static_cast<double>(uniform) * static_cast<double>(total));
    if (wanted >= total) wanted = total - 1;
    if (upto <= wanted && wanted < upto + mine) {
      int64_t i = first;
      while (upto + MassOf(weight[i]) <= wanted) upto += MassOf(weight[i++]);
      chosen = static_cast<int32_t>(i);
    }
    __syncthreads();
    return chosen;
  }

  // The first of the largest.
  __device__ __forceinline__ int32_t Greedy(float max) const {
    __shared__ int32_t first;
    if (threadIdx.x == 0) first = INT32_MAX;
    __syncthreads();
    int32_t mine = INT32_MAX;
    for (int64_t i = threadIdx.x; i < p.size && mine == INT32_MAX; i += kThreads) {
      if (z[i] == max) mine = static_cast<int32_t>(i);
    }
    atomicMin(&first, mine);
    __syncthreads();
    return first;
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) SampleRows(const __grid_constant__ Problem p) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * p.size;
  const Row row{p, p.z + at, p.weight + at};
  const T* const x = static_cast<const T*>(p.logits) + blockIdx.x * p.step;
  ExpSum<float> sum;
  float odd = 0;
  row.Each([&](int64_t i) {
    const float v = ToFloat(x[i]);
    if (!(v < INFINITY)) odd = 1;  // NaN or +inf
    row.z[i] = fmaxf(v, kLowest);
    sum.Add(v);
  });
  const float mine = sum.max;
  const float raw_max = BlockMax<kThreads>(mine);
  const float lse =
      raw_max + logf(BlockSum<kThreads>(sum.sum * expf(mine - ExpSum<float>::Shift(raw_max))));
  float max = raw_max;
  if (p.history != nullptr) {
    const int32_t* const history = p.history + blockIdx.x * p.length;
    for (int64_t l = threadIdx.x; l < p.length; l += kThreads) {
      const int32_t id = history[l];
      if (id < -1 || id >= p.size) odd = 1;
      if (id < 0 || id >= p.size) continue;
      const float value = ToFloat(x[id]);  // as given: twice named, once changed
      row.z[id] = fmaxf(value > 0 ? value / p.o.penalty : value * p.o.penalty, kLowest);
    }
    __syncthreads();
    float top = kLowest;
    row.Each([&](int64_t i) { top = fmaxf(top, row.z[i]); });
    max = BlockMax<kThreads>(top);
  }
  odd = BlockMax<kThreads>(odd);
  if (odd != 0 || !(raw_max > kLowest)) {
    if (threadIdx.x == 0) {
      p.ids[blockIdx.x] = -1;
      p.logprobs[blockIdx.x] = __uint_as_float(0x7fc00000u);
    }
    return;
  }
  int32_t id;
  if (p.o.temperature == 0) {
    id = row.Greedy(max);
  } else {
    row.Each([&](int64_t i) {
      // the difference first: a tiny temperature must not make two infinities
      const float v = (row.z[i] - max) / p.o.temperature;
      row.z[i] = v;
      row.weight[i] = expf(v);
    });
    __syncthreads();
    if (p.o.top_k > 0 && p.o.top_k < p.size) row.TopK();
    if (p.o.top_p < 1) row.TopP();
    if (p.o.min_p > 0) row.MinP();
    id = row.Draw();
  }
  if (threadIdx.x == 0) {
    p.ids[blockIdx.x] = id;
    p.logprobs[blockIdx.x] = ToFloat(x[id]) - lse;
  }
}

// 0 logits, 1 key, 2 history?, 3 ids, 4 logprobs; [temperature, topK, topP, minP,
// repetitionPenalty]
void Sample(const Arguments& in) {
  const View &logits = in[0], &key = in[1], &history = in[2], &ids = in[3], &logprobs = in[4];
  Require(logits.rank == 2 && (logits.shape[1] > 0 || logits.shape[0] == 0) &&
              (logits.shape[1] <= 1 || logits.stride[1] == 1) &&
              logits.shape[1] < (int64_t{1} << 31),
          ErrorCode::kShape, "sample: logits must be [B, V] with V > 0 and rows of stride 1");
  const int64_t rows = logits.shape[0], size = logits.shape[1];
  Require(key.dtype == DType::kU32 && key.contiguous() && key.rank == 2 && key.shape[0] == rows &&
              key.shape[1] == 4,
          ErrorCode::kShape, "sample: key must be u32 [B, 4]");
  Require(!in.has(2) || (history.dtype == DType::kI32 && history.contiguous() &&
                         history.rank == 2 && history.shape[0] == rows),
          ErrorCode::kShape, "sample: history must be i32 [B, L]");
  Require(ids.dtype == DType::kI32 && ids.contiguous() && ids.numel() == rows &&
              logprobs.dtype == DType::kF32 && logprobs.contiguous() && logprobs.numel() == rows,
          ErrorCode::kShape, "sample: ids must be i32 [B], logprobs f32 [B]");
  const Options o{static_cast<float>(in.f64(0)), in.i64(1), in.f64(2),
                  static_cast<float>(in.f64(3)), static_cast<float>(in.f64(4))};
  Require(o.temperature >= 0 && o.top_k >= 0 && o.top_p > 0 && o.top_p <= 1 && o.min_p >= 0 &&
              o.min_p <= 1 && o.penalty > 0,
          ErrorCode::kValue,
          "sample: temperature and topK must be >= 0, topP in (0, 1], minP in [0, 1], "
          "repetitionPenalty above 0");
  if (rows == 0) return;
  int mass_bits = 62;
  while (int64_t{1} << (62 - mass_bits) < size) --mass_bits;
  const Problem p{logits.data,
                  logits.stride[0],
                  size,
                  in.has(2) ? history.shape[1] : 0,
                  key.as<uint32_t>(),
                  in.has(2) ? history.as<int32_t>() : nullptr,
                  in.Workspace<float>(rows * size),
                  in.Workspace<float>(rows * size),
                  ids.as<int32_t>(),
                  logprobs.as<float>(),
                  o,
                  mass_bits};
  DispatchFloat(logits.dtype, [&]<class T>() {
    Launch(in, "sample", {dim3(static_cast<unsigned>(rows)), kThreads}, SampleRows<T>, p);
  });
}

FUSELM_CUDA_KERNEL(
    "sample(logits, key, history?) -> (ids, logprobs) "
    "[temperature, topK, topP, minP, repetitionPenalty]",
    kFloat, Sample);

}  // namespace
}  // namespace fuselm::cuda
