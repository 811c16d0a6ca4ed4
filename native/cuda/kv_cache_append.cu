// Writes new keys and values into a cache, a ring of slots per row of the batch: token t of row b
// goes to slot (start[b] + t) mod S; of more tokens than slots only the last S are kept. A negative
// start, an error on the CPU, cannot be seen by the launcher: such a row's tokens are written as
// NaN to the slots t mod S.
//
// Work: a thread copies 16 bytes of a key and of its value (or single elements, where rows are not
// 16-byte aligned). No shared memory. Bandwidth-bound, mostly a launch.
#include <algorithm>

#include "native/cuda/device.cuh"
#include "native/cuda/kernel.cuh"
#include "native/cuda/rows.cuh"

namespace fuselm::cuda {
namespace {

constexpr int kThreads = 256;

struct CacheSide {
  const void* from;
  void* to;
  int64_t from_stride[3], to_stride[3];  // of B, T or S, and G, in elements
};
struct AppendArgs {
  CacheSide side[2];
  const int32_t* start;
  int64_t start_stride;
  int64_t T, G, S, packs;  // packs of a head's row
  int64_t skipped, count;  // tokens not kept; packs of all kept tokens
};

template <class E, bool kVector>
__global__ void __launch_bounds__(kThreads) AppendTokens(const AppendArgs args) {
  constexpr int kPack = kVector ? 16 / sizeof(E) : 1;
  using Vector = Pack<E, kPack>;
  int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.count) return;
  const int64_t at = i % args.packs * kPack;
  i /= args.packs;
  const int64_t g = i % args.G;
  i /= args.G;
  const int64_t kept = args.T - args.skipped;
  const int64_t t = args.skipped + i % kept, b = i / kept;
  const int64_t start = args.start[b * args.start_stride];
  const int64_t slot = ((start < 0 ? 0 : start) + t) % args.S;
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    const CacheSide& side = args.side[s];
    auto value = *reinterpret_cast<const Vector*>(
        static_cast<const E*>(side.from) + b * side.from_stride[0] + t * side.from_stride[1] +
        g * side.from_stride[2] + at);
    if (start < 0) {
#pragma unroll
      for (int k = 0; k < kPack; ++k) value.v[k] = FromFloat<E>(__uint_as_float(0x7fc00000u));
    }
    *reinterpret_cast<Vector*>(static_cast<E*>(side.to) + b * side.to_stride[0] +
                               slot * side.to_stride[1] + g * side.to_stride[2] + at) = value;
  }
}

bool Fits(const View& cache, const View& x) {
  return cache.rank == 4 && x.rank == 4 && x.dtype == cache.dtype && x.dim(0) == cache.dim(0) &&
         x.dim(2) == cache.dim(2) && x.dim(3) == cache.dim(3) && x.step(3) == 1 &&
         cache.step(3) == 1;
}

void Append(const Arguments& in) {
  const View &k_cache = in[0], &v_cache = in[1], &k = in[2], &v = in[3], &start = in[4];
  Require(Fits(k_cache, k) && Fits(v_cache, v) && v.dim(1) == k.dim(1) &&
              v_cache.dim(1) == k_cache.dim(1) && v.dtype == k.dtype && v.dim(2) == k.dim(2) &&
              v.dim(3) == k.dim(3) && v.dim(0) == k.dim(0),
          ErrorCode::kShape,
          "kv_cache_append: caches must be [B, S, G, D] and k, v [B, T, G, D] of their dtype");
  const int64_t B = k.dim(0), T = k.dim(1), G = k.dim(2), D = k.dim(3), S = k_cache.dim(1);
  Require(start.dtype == DType::kI32 && start.rank == 1 && start.dim(0) == B, ErrorCode::kShape,
          "kv_cache_append: start must be i32 [B]");
  if (B == 0 || T == 0 || G == 0 || S == 0 || D == 0) return;
  const int64_t pack = 16 / static_cast<int64_t>(ItemSize(k.dtype));
  const bool vector = D % pack == 0 && RowsAligned16(k) && RowsAligned16(v) &&
                      RowsAligned16(k_cache) && RowsAligned16(v_cache);
  AppendArgs args{};
  const View* const views[2][2] = {{&k, &k_cache}, {&v, &v_cache}};
  for (int s = 0; s < 2; ++s) {
    args.side[s].from = views[s][0]->data;
    args.side[s].to = views[s][1]->data;
    for (int i = 0; i < 3; ++i) {
      args.side[s].from_stride[i] = views[s][0]->step(i);
      args.side[s].to_stride[i] = views[s][1]->step(i);
    }
  }
  args.start = start.as<int32_t>();
  args.start_stride = start.step(0);
  args.T = T;
  args.G = G;
  args.S = S;
  args.packs = vector ? D / pack : D;
  args.skipped = std::max<int64_t>(0, T - S);
  args.count = B * (T - args.skipped) * G * args.packs;
  const Grid grid{dim3(static_cast<unsigned>(CeilDiv(args.count, kThreads))), kThreads};
  DispatchFloat(k.dtype, [&]<class E>() {
    if (vector) {
      Launch(in, "kv_cache_append", grid, AppendTokens<E, true>, args);
    } else {
      Launch(in, "kv_cache_append", grid, AppendTokens<E, false>, args);
    }
  });
}

FUSELM_CUDA_KERNEL("kv_cache_append(k_cache!, v_cache!, k, v, start)", kFloat, Append);

}  // namespace
}  // namespace fuselm::cuda
