// Draws one token per row of logits: repetition penalty, temperature, top-k, top-p, min-p, then the
// inverse of the cumulative distribution at a Philox uniform of the row's own key, so that a row's
// token does not depend on the batch it is in.
//
// Work: a block a row, of 256 threads up to 2048 logits, of 1024 above; logits over the temperature
// and weights stand in workspaces of [rows][V] floats, which stay in L2, and are read by fours, two
// under way a thread. Nothing is sorted: top-k and top-p are a least logit to keep, found by its
// ordered bits in three digits of 11, 11 and 10 bits. Of all logits many share the first digit, and
// threads that add masses there would wait for each other: masses by octaves of the distance from
// the largest are summed in registers first, and only what lies in the octave of the border is
// counted, in two digits. Masses are whole numbers (a weight times 2^(62 - log2 V)), so that sums
// are exact in any order. Shared memory: 32 KiB. Bound by latency: about ten passes over a row.
//
// Data cannot be looked at before a launch: a row without a largest finite logit, and one whose
// history names a token outside the vocabulary, which are errors on the CPU, give id -1 and a
// logprob of NaN.
#include "native/cuda/ordered.cuh"
#include "native/cuda/philox.cuh"
#include "native/cuda/row.cuh"

namespace fuselm::cuda {
namespace {

constexpr int64_t kShort = 2048;  // logits of a row that 256 threads take
constexpr int kBuckets = 4096;
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
  int64_t pitch;               // of z and weight: V in whole fours
  const uint32_t* key;
  const int32_t* history;  // null when there is none
  float *z, *weight;       // [rows][pitch]
  int32_t* ids;
  float* logprobs;
  Options o;
  int mass_bits;
};

template <int kThreads>
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

// The larger a key, the larger its logit. Of 0 and of what is up to -2^6, as Ordered has them:
// above bit 23 stand the sign and the exponent turned round.
constexpr int kOctaves = 8;  // (-2^-1, 0], (-2^0, -2^-1], ... (-2^6, -2^5]
constexpr __host__ __device__ uint32_t OctaveKey(int octave) {
  return static_cast<uint32_t>(256 - 127 + 1 - octave) << 23;
}

template <int kThreads>
struct Row {
  const Problem& p;
  float *z, *weight;
  Mass* room;  // kBuckets of shared memory

  static constexpr int kWarps = kThreads / kWarp;
  using Four = Pack<float, 4>;

  __device__ __forceinline__ Mass MassOf(float w) const {
    return static_cast<Mass>(ldexpf(w, p.mass_bits));
  }
  // f(i, z[i], weight[i])
  template <class F>
  __device__ __forceinline__ void Each(F&& f) const {
    constexpr int64_t kStep = 4 * kThreads;
    const auto load = [](const float* from, int64_t i) {
      return *reinterpret_cast<const Four*>(from + i);
    };
    const auto four = [&](int64_t i, const Four& a, const Four& b) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (i + k < p.size) f(i + k, a.v[k], b.v[k]);
      }
    };
    int64_t i = 4 * static_cast<int64_t>(threadIdx.x);
    for (; i + kStep < p.size; i += 2 * kStep) {
      const Four z0 = load(z, i), w0 = load(weight, i);
      const Four z1 = load(z, i + kStep), w1 = load(weight, i + kStep);
      four(i, z0, w0);
      four(i + kStep, z1, w1);
    }
    if (i < p.size) four(i, load(z, i), load(weight, i));
  }

  // Masses of the octaves down to the one that holds the border, whose key is the result; `above`
  // is what stands above it. 0 where the border is in the first octave, or in none: those are
  // counted whole.
  template <class F>
  __device__ __forceinline__ uint32_t OctaveOf(Mass target, F&& mass, Mass& above) const {
    Mass sums[kOctaves] = {};
    Each([&](int64_t, float v, float w) {
      if (w == 0) return;
      const uint32_t key = Ordered(v);
      const Mass m = mass(w);
#pragma unroll
      for (int o = 0; o < kOctaves; ++o) {
        if (key >= OctaveKey(o)) sums[o] += m;
      }
    });
    above = 0;
    uint32_t octave = 0;
    bool found = false;
#pragma unroll
    for (int o = 0; o < kOctaves; ++o) {
      const Mass sum = BlockSumOf<kThreads>(sums[o]);  // of this octave and all above it
      if (found) continue;
      found = sum >= target;
      if (found) {
        octave = o == 0 ? 0 : OctaveKey(o);
      } else {
        above = sum;
      }
    }
    if (octave == 0) above = 0;
    return octave;
  }

  // The largest key whose elements, with all above it, come to `target` of mass(weight). Every
  // thread gets it. Contains barriers.
  template <class Count, class F>
  __device__ __forceinline__ uint32_t Threshold(Mass target, F&& mass, Mass& above) const {
    Count* const histogram = reinterpret_cast<Count*>(room);
    __shared__ uint32_t least;
    __shared__ Mass over;
    Mass of_octaves = 0;
    // Counts go one by one, which shared memory joins by itself.
    const uint32_t octave =
        std::is_same_v<Count, Mass> ? OctaveOf(target, mass, of_octaves) : uint32_t{0};
    if (threadIdx.x == 0) {
      least = octave;
      over = of_octaves;
    }
    // With an octave its 9 bits are known, and two digits of 11 and 12 bits are left.
    int done = octave != 0 ? 23 : 32;
#pragma unroll 1
    while (done > 0) {
      const int bits = done > 12 ? 11 : done;
      const int shift = done - bits;
      for (int b = threadIdx.x; b < kBuckets; b += kThreads) histogram[b] = 0;
      __syncthreads();
      const uint32_t known = least, mask = (1u << bits) - 1;
      Each([&](int64_t, float v, float w) {
        const uint32_t key = Ordered(v);
        if (w == 0 || (done < 32 && key >> done != known >> done)) return;
        atomicAdd(&histogram[key >> shift & mask], static_cast<Count>(mass(w)));
      });
      __syncthreads();
      if (threadIdx.x < kWarp) {
        const Mass have = over;
        const Border border = FindBorder<kBuckets>(histogram, target > have ? target - have : 0);
        __syncwarp();  // every lane has read `over`: shuffles do not order memory
        if (threadIdx.x == 0) {
          least |= static_cast<uint32_t>(border.bucket) << shift;
          over = have + border.above;
        }
      }
      __syncthreads();
      done = shift;
    }
    above = over;
    return least;
  }

  // The first index at which masses added in order exceed `wanted`, which is less than all of them;
  // mass(i) is that of an element. Every thread gets it. Warps take equal stretches, then those of
  // the stretch that was found.
  template <class F>
  __device__ __forceinline__ int64_t Find(Mass wanted, F&& mass) const {
    __shared__ Mass parts[kWarps];
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    int64_t begin = 0, end = p.size;
    while (end - begin > kWarp) {
      const int64_t stretch = (end - begin + kWarps - 1) / kWarps, first = begin + warp * stretch;
      const int64_t last = first + stretch < end ? first + stretch : end;
      Mass sum = 0;
#pragma unroll 4
      for (int64_t i = first + lane; i < last; i += kWarp) sum += mass(i);
#pragma unroll
      for (int d = kWarp / 2; d > 0; d /= 2) sum += __shfl_xor_sync(kFullMask, sum, d);
      __syncthreads();
      if (lane == 0) parts[warp] = sum;
      __syncthreads();
      int w = 0;
      while (w < kWarps - 1 && parts[w] <= wanted) wanted -= parts[w++];
      begin += w * stretch;
      end = begin + stretch < end ? begin + stretch : end;
    }
    Mass upto = begin + lane < end ? mass(begin + lane) : 0;
#pragma unroll
    for (int d = 1; d < kWarp; d *= 2) {
      const Mass other = __shfl_up_sync(kFullMask, upto, d);
      if (lane >= d) upto += other;
    }
    const unsigned past = __ballot_sync(kFullMask, upto > wanted);
    return begin + (past == 0 ? end - begin - 1 : __ffs(static_cast<int>(past)) - 1);
  }

  __device__ __forceinline__ Mass Total() const {
    Mass mine = 0;
    Each([&](int64_t, float, float w) { mine += MassOf(w); });
    return BlockSumOf<kThreads>(mine);
  }

  __device__ __forceinline__ void TopK() const {
    Mass above;
    const uint32_t least = Threshold<uint32_t>(
        static_cast<Mass>(p.o.top_k), [](float) { return Mass{1}; }, above);
    Each([&](int64_t i, float v, float) {
      if (Ordered(v) < least) weight[i] = 0;
    });
    __syncthreads();
  }

  __device__ __forceinline__ void TopP() const {
    const auto target = static_cast<Mass>(ceil(p.o.top_p * static_cast<double>(Total())));
    Mass above;
    const uint32_t least = Threshold<Mass>(
        target, [&](float w) { return MassOf(w); }, above);
    __shared__ Mass of_each;
    if (threadIdx.x == 0) of_each = 0;
    __syncthreads();
    Mass mine = 0;
    Each([&](int64_t, float v, float w) {
      if (w == 0 || Ordered(v) != least) return;
      ++mine;
      atomicMax(&of_each, MassOf(w));  // the same of all of them
    });
    const Mass ties = BlockSumOf<kThreads>(mine);
    // of equal logits at the border the first ones, until the target is reached
    const Mass each = ties > 0 ? of_each : 0;
    const Mass short_by = target > above ? target - above : 0;
    Mass left = each > 0 ? (short_by + each - 1) / each : ties;
    if (left < 1) left = 1;
    int64_t last = p.size;
    if (left < ties) {  // the same for all threads
      last = Find(left - 1, [&](int64_t i) {
        return weight[i] > 0 && Ordered(z[i]) == least ? Mass{1} : Mass{0};
      });
    }
    __syncthreads();
    Each([&](int64_t i, float v, float) {
      const uint32_t key = Ordered(v);
      if (key < least || (key == least && i > last)) weight[i] = 0;
    });
    __syncthreads();
  }

  __device__ __forceinline__ void MinP() const {
    Each([&](int64_t i, float, float w) {
      if (w < p.o.min_p) weight[i] = 0;  // the largest weighs 1
    });
    __syncthreads();
  }

  // Every thread gets the token.
  __device__ __forceinline__ int32_t Draw() const {
    const Mass total = Total();
    const float uniform = PhiloxUniform(Philox(p.key + 4 * blockIdx.x, 0).word[0]);
    auto wanted = static_cast<Mass>(static_cast<double>(uniform) * static_cast<double>(total));
    if (wanted >= total) wanted = total - 1;
    return static_cast<int32_t>(Find(wanted, [&](int64_t i) { return MassOf(weight[i]); }));
  }

  // The first of the largest.
  __device__ __forceinline__ int32_t Greedy(float max) const {
    __shared__ int32_t first;
    if (threadIdx.x == 0) first = INT32_MAX;
    __syncthreads();
    int32_t mine = INT32_MAX;
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < p.size; i += kThreads) {
      if (z[i] == max && mine == INT32_MAX) mine = static_cast<int32_t>(i);
    }
    atomicMin(&first, mine);
    __syncthreads();
    return first;
  }

  // z becomes (z - max) / temperature, weight e^z.
  __device__ __forceinline__ void Weigh(float max) const {
    for (int64_t i = 4 * static_cast<int64_t>(threadIdx.x); i < p.size; i += 4 * kThreads) {
      Four a = *reinterpret_cast<const Four*>(z + i), b;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        // the difference first: a tiny temperature must not make two infinities
        a.v[k] = (a.v[k] - max) / p.o.temperature;
        b.v[k] = expf(a.v[k]);
      }
      *reinterpret_cast<Four*>(z + i) = a;
      *reinterpret_cast<Four*>(weight + i) = b;
    }
    __syncthreads();
  }
};

template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads) SampleRows(const __grid_constant__ Problem p) {
  const int64_t offset = static_cast<int64_t>(blockIdx.x) * p.pitch;
  __shared__ Mass histogram[kBuckets];
  const Row<kThreads> row{p, p.z + offset, p.weight + offset, histogram};
  const T* const x = static_cast<const T*>(p.logits) + blockIdx.x * p.step;
  const RowPlace at{blockIdx.x, static_cast<int>(threadIdx.x), kThreads};
  ExpSum<float> sum;
  float odd = 0;
  MapRow(
      at, p.size, row.z,
      [&](int64_t, float v) {
        if (!(v < INFINITY)) odd = 1;  // NaN or +inf
        sum.Add(v);
        return fmaxf(v, kLowest);
      },
      x);
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
      // atomic, for another thread may have the same id
      atomicExch(&row.z[id], fmaxf(value > 0 ? value / p.o.penalty : value * p.o.penalty, kLowest));
    }
    __syncthreads();
    float top = kLowest;
    ReadRow(
        at, p.size, [&](int64_t, float v) { top = fmaxf(top, v); }, row.z);
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
    row.Weigh(max);
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
  const int64_t pitch = CeilDiv(size, 4) * 4;
  const Problem p{logits.data,
                  logits.stride[0],
                  size,
                  in.has(2) ? history.shape[1] : 0,
                  pitch,
                  key.as<uint32_t>(),
                  in.has(2) ? history.as<int32_t>() : nullptr,
                  in.Workspace<float>(rows * pitch),
                  in.Workspace<float>(rows * pitch),
                  ids.as<int32_t>(),
                  logprobs.as<float>(),
                  o,
                  mass_bits};
  DispatchFloat(logits.dtype, [&]<class T>() {
    const dim3 blocks(static_cast<unsigned>(rows));
    if (size <= kShort) {
      Launch(in, "sample", {blocks, 256}, SampleRows<T, 256>, p);
    } else {
      Launch(in, "sample", {blocks, 1024}, SampleRows<T, 1024>, p);
    }
  });
}

FUSELM_CUDA_KERNEL(
    "sample(logits, key, history?) -> (ids, logprobs) "
    "[temperature, topK, topP, minP, repetitionPenalty]",
    kFloat, Sample);

}  // namespace
}  // namespace fuselm::cuda
