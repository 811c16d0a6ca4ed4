// Kernels of rms_norm, layer_norm and their add_ forms; the arithmetic is native/cpu/rms_norm.h's
// and layer_norm.h's, float32 inside.
//
// Work: a warp a row for rows of at most 4 packs (16 bytes) a lane, else a block a row. A row's
// first 4 packs a thread stay in registers, so memory is read once; what is longer is
// read again by the passes over it (from L1 and L2). Rows that are not 16-byte aligned, or whose
// length is no whole number of packs, go by single elements.
//
// Backward: a block takes a chunk of rows (by shape alone), and adds the gradients of w and b in
// registers: one partial row a chunk, which SumPartials joins in a fixed tree. Rows too long for
// the registers get their partial rows from WeightGradient, which reads dy and h again.
// Shared memory: static, at most 8 KB. Moves each array once: the target is copy bandwidth.
#pragma once

#include <algorithm>
#include <string>

#include "native/cuda/device.cuh"
#include "native/cuda/kernel.cuh"
#include "native/cuda/rows.cuh"

namespace fuselm::cuda {

inline constexpr int kNormThreads = 256;
// Packs of a row that a thread keeps; by single elements, one.
template <bool kVector>
inline constexpr int kKeptOf = kVector ? 4 : 1;

struct NormForward {
  Rows x, residual, h, y;  // residual and h: both or neither
  const void *w, *b;       // b: or null
  float *mean, *rstd;      // or null
  int64_t rows, n;
  float eps;
  bool narrow;  // w and b are bf16
};
struct NormBackward {
  Rows dy, dh, h, dx;  // dh: or absent
  const void* w;
  const float *mean, *rstd;
  float* partial;  // [chunks, n], for a layer norm [chunks, 2 n]: dw, then db; null when not wanted
  int64_t rows, n, chunk;
  bool narrow;
};

template <int kCount>
__device__ __forceinline__ void LoadWeights(const void* w, bool narrow, int64_t i,
                                            float (&out)[kCount]) {
  if (narrow) {
    const auto pack = *reinterpret_cast<const Pack<bf16, kCount>*>(static_cast<const bf16*>(w) + i);
#pragma unroll
    for (int k = 0; k < kCount; ++k) out[k] = ToFloat(pack.v[k]);
  } else {
    constexpr int kStep = kCount < 4 ? kCount : 4;
#pragma unroll
    for (int k = 0; k < kCount; k += kStep) {
      const auto pack =
          *reinterpret_cast<const Pack<float, kStep>*>(static_cast<const float*>(w) + i + k);
#pragma unroll
      for (int j = 0; j < kStep; ++j) out[k + j] = pack.v[j];
    }
  }
}

// Hides from the compiler that it has seen a pack before: what it would keep of it in registers, as
// floats, costs a block, and with it loads under way.
template <class Vector>
__device__ __forceinline__ void Forget([[maybe_unused]] Vector& pack) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(Vector) == 16) {
    auto* const words = reinterpret_cast<uint32_t*>(&pack);
    asm volatile("" : "+r"(words[0]), "+r"(words[1]), "+r"(words[2]), "+r"(words[3]));
  }
#endif
}

template <int kThreads>
__device__ __forceinline__ float GroupSum(float x) {
  if constexpr (kThreads == kWarp) {
    return WarpSum(x);
  } else {
    return BlockSum<kThreads>(x);
  }
}

// The packs of one row that a thread takes: p = lane, lane + kThreads, ...; f(pack, p).
template <int kThreads, int kKept, class Vector, class F>
__device__ __forceinline__ void ForPacks(const Vector (&kept)[kKept], const Vector* row, int lane,
                                         int64_t packs, F&& f) {
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    const int64_t p = lane + i * kThreads;
    if (p < packs) f(kept[i], p);
  }
#pragma unroll(kKept > 1 ? 4 : 1)
  for (int64_t p = lane + kKept * kThreads; p < packs; p += kThreads) f(row[p], p);
}

template <class T, int kThreads, bool kVector, bool kLayer>
__global__ void __launch_bounds__(kNormThreads, 4)
    NormForwardRows(const __grid_constant__ NormForward args) {
  constexpr int kPack = kVector ? 16 / sizeof(T) : 1, kKept = kKeptOf<kVector>;
  using Vector = Pack<T, kPack>;
  const int lane = threadIdx.x % kThreads;
  const int64_t r =
      static_cast<int64_t>(blockIdx.x) * (kNormThreads / kThreads) + threadIdx.x / kThreads;
  if (r >= args.rows) return;  // a whole warp, or nobody
  const int64_t packs = args.n / kPack;
  const auto* row = reinterpret_cast<const Vector*>(args.x.At<T>(r));
  Vector kept[kKept] = {};
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    const int64_t p = lane + i * kThreads;
    if (p < packs) kept[i] = row[p];
  }
  if (args.residual.data != nullptr) {
    const auto* residual = reinterpret_cast<const Vector*>(args.residual.At<T>(r));
    auto* h = reinterpret_cast<Vector*>(args.h.At<T>(r));
    const auto add = [&](Vector a, int64_t p) {
      const Vector b = residual[p];
#pragma unroll
      for (int k = 0; k < kPack; ++k) a.v[k] = FromFloat<T>(ToFloat(a.v[k]) + ToFloat(b.v[k]));
      h[p] = a;
      return a;
    };
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
      const int64_t p = lane + i * kThreads;
      if (p < packs) kept[i] = add(kept[i], p);
    }
    for (int64_t p = lane + kKept * kThreads; p < packs; p += kThreads) add(row[p], p);
    row = h;  // each thread reads back what it wrote itself
  }

  const float count = static_cast<float>(args.n);
  float mean = 0;
  if constexpr (kLayer) {
    float sum = 0;
    ForPacks<kThreads, kKept>(kept, row, lane, packs, [&](const Vector& a, int64_t) {
#pragma unroll
      for (int k = 0; k < kPack; ++k) sum += ToFloat(a.v[k]);
    });
    mean = GroupSum<kThreads>(sum) / count;
#pragma unroll
    for (int i = 0; i < kKept; ++i) Forget(kept[i]);
  }
  float squares = 0;
  ForPacks<kThreads, kKept>(kept, row, lane, packs, [&](const Vector& a, int64_t) {
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const float d = ToFloat(a.v[k]) - mean;
      squares += d * d;
    }
  });
  const float rstd = 1.0f / sqrtf(GroupSum<kThreads>(squares) / count + args.eps);
#pragma unroll
  for (int i = 0; i < kKept; ++i) Forget(kept[i]);
  if (lane == 0) {
    if (kLayer && args.mean != nullptr) args.mean[r] = mean;
    if (args.rstd != nullptr) args.rstd[r] = rstd;
  }
  auto* y = reinterpret_cast<Vector*>(args.y.At<T>(r));
  ForPacks<kThreads, kKept>(kept, row, lane, packs, [&](const Vector& a, int64_t p) {
    float w[kPack], b[kPack];
    LoadWeights(args.w, args.narrow, p * kPack, w);
    if (kLayer && args.b != nullptr) {
      LoadWeights(args.b, args.narrow, p * kPack, b);
    } else {
#pragma unroll
      for (int k = 0; k < kPack; ++k) b[k] = 0;
    }
    Vector out;
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      out.v[k] = FromFloat<T>((ToFloat(a.v[k]) - mean) * rstd * w[k] + b[k]);
    }
    y[p] = out;
  });
}

// dx = dh + rstd (g - mean(g) - u mean(g u)) with g = w dy and u = (h - mean) rstd; without the
// mean of g, and with a mean of 0, for the RMS norm.
template <class T, int kThreads, bool kVector, bool kLayer>
__global__ void __launch_bounds__(kNormThreads, kLayer ? 1 : 2)
    NormBackwardRows(const __grid_constant__ NormBackward args) {
  constexpr int kPack = kVector ? 16 / sizeof(T) : 1, kKept = kKeptOf<kVector>;
  constexpr int kGroups = kNormThreads / kThreads;
  using Vector = Pack<T, kPack>;
  const int group = threadIdx.x / kThreads, lane = threadIdx.x % kThreads;
  const int64_t packs = args.n / kPack;
  const int64_t begin = blockIdx.x * args.chunk;
  const int64_t end = begin + args.chunk < args.rows ? begin + args.chunk : args.rows;
  const float count = static_cast<float>(args.n);
  float dw[kKept][kPack] = {}, db[kLayer ? kKept : 1][kPack] = {};
  for (int64_t r = begin + group; r < end; r += kGroups) {
    const auto* dy = reinterpret_cast<const Vector*>(args.dy.At<T>(r));
    const auto* h = reinterpret_cast<const Vector*>(args.h.At<T>(r));
    Vector kept_dy[kKept] = {}, kept_h[kKept] = {};
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
      const int64_t p = lane + i * kThreads;
      if (p < packs) kept_dy[i] = dy[p], kept_h[i] = h[p];
    }
    const float rstd = args.rstd[r], mean = kLayer ? args.mean[r] : 0.0f;
    float g_sum = 0, gu_sum = 0;
    const auto add = [&](const Vector& d, const Vector& a, int64_t p) {
      float w[kPack];
      LoadWeights(args.w, args.narrow, p * kPack, w);
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const float g = ToFloat(d.v[k]) * w[k];
        if (kLayer) g_sum += g;
        gu_sum += g * ((ToFloat(a.v[k]) - mean) * rstd);
      }
    };
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
      const int64_t p = lane + i * kThreads;
      if (p < packs) add(kept_dy[i], kept_h[i], p);
    }
    for (int64_t p = lane + kKept * kThreads; p < packs; p += kThreads) add(dy[p], h[p], p);
    const float pull = GroupSum<kThreads>(gu_sum) / count;
    float shift = 0;
    if constexpr (kLayer) shift = GroupSum<kThreads>(g_sum) / count;

#pragma unroll
    for (int i = 0; i < kKept; ++i) Forget(kept_dy[i]), Forget(kept_h[i]);
    auto* dx = reinterpret_cast<Vector*>(args.dx.At<T>(r));
    const auto* dh = args.dh.data ? reinterpret_cast<const Vector*>(args.dh.At<T>(r)) : nullptr;
    const auto finish = [&](const Vector& d, const Vector& a, int64_t p) {
      float w[kPack];
      LoadWeights(args.w, args.narrow, p * kPack, w);
      Vector more, out;
      if (dh != nullptr) more = dh[p];
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const float u = (ToFloat(a.v[k]) - mean) * rstd;
        float value = rstd * (ToFloat(d.v[k]) * w[k] - shift - u * pull);
        if (dh != nullptr) value += ToFloat(more.v[k]);
        out.v[k] = FromFloat<T>(value);
      }
      dx[p] = out;
    };
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
      const int64_t p = lane + i * kThreads;
      if (p >= packs) continue;
      finish(kept_dy[i], kept_h[i], p);
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const float d = ToFloat(kept_dy[i].v[k]);
        dw[i][k] += d * ((ToFloat(kept_h[i].v[k]) - mean) * rstd);
        if constexpr (kLayer) db[i][k] += d;
      }
    }
    for (int64_t p = lane + kKept * kThreads; p < packs; p += kThreads) finish(dy[p], h[p], p);
  }
  if (args.partial == nullptr) return;  // nobody of the block goes on
  float* const partial = args.partial + blockIdx.x * (kLayer ? 2 : 1) * args.n;
  // The groups of the block join in order.
  __shared__ float joined[kGroups > 1 ? (kLayer ? 2 : 1) * kKept * kThreads * kPack : 1];
  for (int turn = 0; turn < kGroups; ++turn) {
    if (group == turn) {
#pragma unroll
      for (int i = 0; i < kKept; ++i) {
        const int64_t p = lane + i * kThreads;
        if (p >= packs) continue;
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          const int64_t at = p * kPack + k;
          float a = dw[i][k], b = kLayer ? db[kLayer ? i : 0][k] : 0;
          if (turn > 0) {
            a += joined[at];
            if constexpr (kLayer) b += joined[at + args.n];
          }
          if (turn < kGroups - 1) {
            joined[at] = a;
            if constexpr (kLayer) joined[at + args.n] = b;
          } else {
            partial[at] = a;
            if constexpr (kLayer) partial[at + args.n] = b;
          }
        }
      }
    }
    if constexpr (kGroups > 1) __syncthreads();
  }
}

// Partial rows of the gradients of w and b where a row does not fit into registers: a thread a
// column and chunk.
template <class T, bool kLayer>
__global__ void __launch_bounds__(kNormThreads)
    NormWeightGradient(const __grid_constant__ NormBackward args) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kNormThreads + threadIdx.x;
  if (column >= args.n) return;
  const int64_t begin = blockIdx.y * args.chunk;
  const int64_t end = begin + args.chunk < args.rows ? begin + args.chunk : args.rows;
  float dw = 0, db = 0;
  for (int64_t r = begin; r < end; ++r) {
    const float d = ToFloat(args.dy.At<T>(r)[column]);
    const float mean = kLayer ? args.mean[r] : 0.0f;
    dw += d * ((ToFloat(args.h.At<T>(r)[column]) - mean) * args.rstd[r]);
    db += d;
  }
  float* const partial = args.partial + blockIdx.y * (kLayer ? 2 : 1) * args.n;
  partial[column] = dw;
  if constexpr (kLayer) partial[args.n + column] = db;
}

// out = (out, when accumulate) + the sum of `chunks` rows of n, `stride` apart: 32 columns a
// block, each summed by 32 threads over every 32nd row, then joined in order.
static __global__ void __launch_bounds__(1024)
    NormSumPartials(const float* partial, int64_t chunks, int64_t stride, int64_t n, float* out,
                    bool accumulate) {
  __shared__ float parts[kWarp][kWarp + 1];
  const int lane = threadIdx.x % kWarp, slice = threadIdx.x / kWarp;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  float sum = 0;
  if (column < n) {
    for (int64_t c = slice; c < chunks; c += kWarp) sum += partial[c * stride + column];
  }
  parts[slice][lane] = sum;
  __syncthreads();
  if (slice > 0 || column >= n) return;
  float total = accumulate ? out[column] : 0.0f;
#pragma unroll
  for (int s = 0; s < kWarp; ++s) total += parts[s][lane];
  out[column] = total;
}

// ---------------------------------------------------------------------------------- launchers

inline void RequireNorm(const char* op, bool holds, const char* what) {
  if (!holds) Throw(ErrorCode::kShape, "%s: %s", op, what);
}
inline const View* Optional(const Arguments& in, size_t i) { return in.has(i) ? &in[i] : nullptr; }
inline bool IsNormWeight(const View& v, int64_t n) {
  return v.rank == 1 && v.dim(0) == n && v.contiguous() &&
         (v.dtype == DType::kF32 || v.dtype == DType::kBF16);
}
inline bool IsStatistic(const View& v, int64_t rows) {
  return v.dtype == DType::kF32 && v.numel() == rows && v.contiguous();
}

// Of how the rows of a call are spread.
struct NormPlan {
  bool vector;
  int threads;  // a row
  int64_t packs;

  static NormPlan Of(std::initializer_list<const View*> rows, std::initializer_list<const View*> ws,
                     int64_t n) {
    const int64_t pack = 16 / static_cast<int64_t>(ItemSize((*rows.begin())->dtype));
    NormPlan plan{n % pack == 0, kNormThreads, 0};
    for (const View* v : rows) plan.vector = plan.vector && (!v || RowsAligned16(*v));
    for (const View* v : ws) plan.vector = plan.vector && (!v || Aligned16(v->data));
    plan.packs = plan.vector ? n / pack : n;
    if (plan.vector && plan.packs <= kKeptOf<true> * kWarp) plan.threads = kWarp;
    return plan;
  }
  bool Fits() const { return packs <= int64_t{vector ? kKeptOf<true> : kKeptOf<false>} * threads; }
};
// Rows of a backward chunk: few enough chunks that their partial rows are small beside the input.
inline int64_t NormChunk(int64_t rows) {
  return std::max<int64_t>(16, CeilDiv(CeilDiv(rows, 1024), 8) * 8);
}

// x, residual?, w, b?, h?, y, mean?, rstd?: null where the op has none
struct NormForwardViews {
  const View *x, *residual, *w, *b, *h, *y, *mean, *rstd;
};
template <bool kLayer>
void RunNormForward(const char* op, const Arguments& in, const NormForwardViews& a) {
  const View& x = *a.x;
  const int64_t n = x.rank ? x.dim(-1) : 0, rows = x.rows();
  const auto fits = [&](const View& v) { return IsRows(v, x.dtype, rows, n); };
  RequireNorm(op,
              x.rank >= 1 && IsNormWeight(*a.w, n) &&
                  (!a.b || (IsNormWeight(*a.b, n) && a.b->dtype == a.w->dtype)),
              kLayer ? "w and b must be [D], alike, to match x [..., D]"
                     : "w must be [D] to match x [..., D]");
  RequireNorm(op, fits(x) && fits(*a.y) && (!a.residual || (fits(*a.residual) && fits(*a.h))),
              "all tensors must be like x, with unit stride in the last axis");
  RequireNorm(op,
              (!a.mean || IsStatistic(*a.mean, rows)) && (!a.rstd || IsStatistic(*a.rstd, rows)) &&
                  (!kLayer || !a.mean == !a.rstd),
              kLayer ? "mean and rstd must be f32, contiguous, one value per row"
                     : "rstd must be f32, contiguous, one value per row");
  if (n == 0 || rows == 0) return;
  NormForward args{};
  args.x = ToRows(x);
  if (a.residual) args.residual = ToRows(*a.residual), args.h = ToRows(*a.h);
  args.y = ToRows(*a.y);
  args.w = a.w->data;
  args.b = a.b ? a.b->data : nullptr;
  args.mean = a.mean ? a.mean->as<float>() : nullptr;
  args.rstd = a.rstd ? a.rstd->as<float>() : nullptr;
  args.rows = rows;
  args.n = n;
  args.eps = static_cast<float>(in.f64(0));
  args.narrow = a.w->dtype == DType::kBF16;
  const NormPlan plan = NormPlan::Of({a.x, a.residual, a.h, a.y}, {a.w, a.b}, n);
  const int64_t blocks = CeilDiv(rows, kNormThreads / plan.threads);
  const Grid grid{dim3(static_cast<unsigned>(blocks)), kNormThreads};
  DispatchFloat(x.dtype, [&]<class T>() {
    if (!plan.vector) {
      Launch(in, op, grid, NormForwardRows<T, kNormThreads, false, kLayer>, args);
    } else if (plan.threads == kWarp) {
      Launch(in, op, grid, NormForwardRows<T, kWarp, true, kLayer>, args);
    } else {
      Launch(in, op, grid, NormForwardRows<T, kNormThreads, true, kLayer>, args);
    }
  });
}

struct NormBackwardViews {
  const View *dy, *dh, *h, *w, *mean, *rstd, *dw, *db, *dx;  // dh, mean, dw, db: or null
};
template <bool kLayer>
void RunNormBackward(const char* op, const Arguments& in, const NormBackwardViews& a,
                     bool accumulate) {
  const View& h = *a.h;
  const int64_t n = h.rank ? h.dim(-1) : 0, rows = h.rows();
  const auto fits = [&](const View& v) { return IsRows(v, h.dtype, rows, n); };
  const auto is_gradient = [&](const View* v) {
    return !v || (v->dtype == DType::kF32 && IsNormWeight(*v, n));
  };
  RequireNorm(op, h.rank >= 1 && IsNormWeight(*a.w, n), "w must be [D] to match [..., D]");
  RequireNorm(op, fits(h) && fits(*a.dy) && fits(*a.dx) && (!a.dh || fits(*a.dh)),
              "activations must be alike, with unit stride in the last axis");
  RequireNorm(op, IsStatistic(*a.rstd, rows) && (!kLayer || IsStatistic(*a.mean, rows)),
              "mean and rstd must be f32, contiguous, one value per row");
  RequireNorm(op, is_gradient(a.dw) && is_gradient(a.db), "dw and db must be f32 [D]");
  if (n == 0) return;
  NormBackward args{};
  args.dy = ToRows(*a.dy);
  if (a.dh) args.dh = ToRows(*a.dh);
  args.h = ToRows(h);
  args.dx = ToRows(*a.dx);
  args.w = a.w->data;
  args.mean = kLayer ? a.mean->as<float>() : nullptr;
  args.rstd = a.rstd->as<float>();
  args.rows = rows;
  args.n = n;
  args.chunk = NormChunk(rows);
  args.narrow = a.w->dtype == DType::kBF16;
  const NormPlan plan = NormPlan::Of({a.h, a.dy, a.dh, a.dx}, {a.w}, n);
  const int64_t chunks = CeilDiv(rows, args.chunk), width = (kLayer ? 2 : 1) * n;
  float* const partial =
      a.dw || a.db ? in.Workspace<float>(std::max<int64_t>(1, chunks * width)) : nullptr;
  args.partial = plan.Fits() ? partial : nullptr;
  if (chunks > 0) {
    const Grid grid{dim3(static_cast<unsigned>(chunks)), kNormThreads};
    DispatchFloat(h.dtype, [&]<class T>() {
      if (!plan.vector) {
        Launch(in, op, grid, NormBackwardRows<T, kNormThreads, false, kLayer>, args);
      } else if (plan.threads == kWarp) {
        Launch(in, op, grid, NormBackwardRows<T, kWarp, true, kLayer>, args);
      } else {
        Launch(in, op, grid, NormBackwardRows<T, kNormThreads, true, kLayer>, args);
      }
      if (partial && !plan.Fits()) {
        args.partial = partial;
        const dim3 columns(static_cast<unsigned>(CeilDiv(n, kNormThreads)),
                           static_cast<unsigned>(chunks));
        Launch(in, op, {columns, kNormThreads}, NormWeightGradient<T, kLayer>, args);
      }
    });
  }
  const Grid grid{dim3(static_cast<unsigned>(CeilDiv(n, kWarp))), kWarp * kWarp};
  if (a.dw) {
    Launch(in, op, grid, NormSumPartials, partial, chunks, width, n, a.dw->as<float>(), accumulate);
  }
  if (a.db) {
    Launch(in, op, grid, NormSumPartials, partial + n, chunks, width, n, a.db->as<float>(),
           accumulate);
  }
}

}  // namespace fuselm::cuda
