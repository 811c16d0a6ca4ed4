// Products on sm_90a: the walk over tiles of C, and the thread that copies their operands.
//
// A block per multiprocessor walks tiles of 128 rows: two warpgroups of 64 rows multiply, a thread
// of a third copies 128 bytes of K at a time (TMA) into four stages of shared memory behind
// mbarriers, running ahead into the next tile while one is stored. What lies outside an operand
// arrives as zeros. Operands 16-byte aligned, rows a multiple of 16 bytes apart.
#pragma once

#include "native/cuda/gemm/kernels.cuh"
#include "native/cuda/hopper.cuh"

namespace fuselm::cuda::hopper {

inline constexpr int kGroups = 2;  // that multiply
inline constexpr int kRows = 64 * kGroups, kStages = 4;
inline constexpr int kThreads = kWarpgroup * (kGroups + 1);
inline constexpr int64_t kFewestTiles = 64, kEnoughTiles = 100;

struct Walk {
  TensorMap a[kMaxSegments], b[kMaxSegments];
  int64_t k[kMaxSegments];
  int count;
  Epilogue out;
  int64_t split, c_step;  // elements of K, and of C, from slice or product to the next
  bool a_batched, b_batched;
  int tiles_m, tiles_n, tiles;  // tiles: of all slices or products
};

// Rows of K in bytes are 128 long in every stage, so a tile has the same size for any dtype; down
// K (bf16) it has 64 rows.
template <int kColumns>
struct Layout {
  static constexpr int kDepth = kPanelBytes / static_cast<int>(sizeof(bf16));
  static constexpr int kA = kRows * kPanelBytes, kB = kColumns * kPanelBytes, kStage = kA + kB;
  static constexpr int kBarriers = kStages * kStage;
  static constexpr int kRoom = kBarriers + 2 * kStages * static_cast<int>(sizeof(Barrier));
  static constexpr int64_t kBytes = kRoom + 4 * kGroups * Epilogue::kRoom * sizeof(float) + 1024;
};
static_assert(Layout<256>::kBytes <= kHopperBytes);

#if defined(FUSELM_HOPPER) || !defined(__CUDACC__)
// Where tile `i` of the walk is, and its K.
struct Item {
  TilePlace place;
  int z;
  __device__ __forceinline__ Item(const Walk& args, int i) {
    const int each = args.tiles_m * args.tiles_n;
    z = i / each;
    place = PlaceOf(i % each, args.tiles_m, args.tiles_n);
  }
  __device__ __forceinline__ int64_t From(const Walk& args) const { return args.split * z; }
  __device__ __forceinline__ int64_t End(const Walk& args, int segment) const {
    const int64_t k = args.k[segment];
    return args.split > 0 ? min(k, args.split * (z + 1)) : k;
  }
  // Stages of `depth` of K.
  __device__ __forceinline__ int Steps(const Walk& args, int depth) const {
    int steps = 0;
    for (int s = 0; s < args.count; ++s)
      steps += static_cast<int>((End(args, s) - From(args) + depth - 1) / depth);
    return steps;
  }
};

// What a block begins with: shared memory aligned to a swizzle atom, its barriers made, and which
// warpgroup a thread is of (the same in all lanes, and known to be).
template <int kColumns>
struct Block {
  using L = Layout<kColumns>;
  unsigned char* shared;
  Barrier *full, *empty;
  int group;

  __device__ __forceinline__ explicit Block(unsigned char* dynamic)
      : shared(dynamic + ((1024 - (SharedAddress(dynamic) & 1023)) & 1023)),
        full(reinterpret_cast<Barrier*>(shared + L::kBarriers)),
        empty(full + kStages),
        group(__shfl_sync(kFullMask, static_cast<int>(threadIdx.x) / kWarpgroup, 0)) {
    if (threadIdx.x == 0) {
      for (int i = 0; i < kStages; ++i) {
        BarrierInit(full + i, 1);
        BarrierInit(empty + i, 4 * kGroups);  // a lane a warp
      }
      BarrierInitFence();
    }
    __syncthreads();
  }
  // Of the threads that multiply: until stage `step` of the walk is here; that it is read no more.
  __device__ __forceinline__ uint32_t Wait(int step) const {
    const int stage = StageOf<kStages>(step);
    BarrierWait(full + stage, ParityOf<kStages>(step));
    return SharedAddress(shared) + stage * L::kStage;
  }
  // A warp's own, for Epilogue::StoreRows.
  __device__ __forceinline__ float* Room() const {
    return reinterpret_cast<float*>(shared + L::kRoom) +
           static_cast<int>(threadIdx.x) / kWarp * Epilogue::kRoom;
  }
  __device__ __forceinline__ void Release(int step) const {
    if (threadIdx.x % kWarp == 0) BarrierArrive(empty + StageOf<kStages>(step));
  }
};

// A tile of one operand: `rows` of it from `first` on and 128 bytes of K from k on.
template <int kSpan, bool kDown>
__device__ __forceinline__ void CopyTile(unsigned char* to, const TensorMap* map, Barrier* full,
                                         int first, int k, int head) {
  constexpr int kDepth = Layout<kSpan>::kDepth;
  if constexpr (kDown) {
#pragma unroll
    for (int p = 0; p < kSpan / kPanelColumns; ++p)
      TensorCopy(to + p * kDepth * kPanelBytes, map, full, first + p * kPanelColumns, k, head, 0);
  } else {
    TensorCopy(to, map, full, k, first, head, 0);
  }
}

// The work of the thread that copies. kStep: elements of K in a stage.
template <int kColumns, bool kADown, bool kBDown, int kStep>
__device__ __forceinline__ void CopyAll(const Walk& args, const Block<kColumns>& block) {
  using L = Layout<kColumns>;
  int step = 0;
  for (int i = static_cast<int>(blockIdx.x); i < args.tiles; i += static_cast<int>(gridDim.x)) {
    const Item item(args, i);
    const int a_head = args.a_batched ? item.z : 0, b_head = args.b_batched ? item.z : 0;
    for (int s = 0; s < args.count; ++s) {
      const int64_t end = item.End(args, s);
      for (int64_t k = item.From(args); k < end; k += kStep, ++step) {
        const int stage = StageOf<kStages>(step);
        Barrier* const full = block.full + stage;
        BarrierWait(block.empty + stage, ParityOf<kStages>(step) ^ 1);  // at first free
        BarrierExpect(full, L::kStage);
        unsigned char* const to = block.shared + stage * L::kStage;
        CopyTile<kRows, kADown>(to, &args.a[s], full, item.place.m * kRows, static_cast<int>(k),
                                a_head);
        CopyTile<kColumns, kBDown>(to + L::kA, &args.b[s], full, item.place.n * kColumns,
                                   static_cast<int>(k), b_head);
      }
    }
  }
}
#endif

// Fills in what follows from the number of columns of a tile.
template <int kColumns>
Grid GridOf(const Arguments& in, Walk& args, int64_t slices) {
  args.tiles_n = static_cast<int>(CeilDiv(args.out.n, kColumns));
  args.tiles = static_cast<int>(int64_t{args.tiles_m} * args.tiles_n * slices);
  const int64_t blocks = std::min<int64_t>(args.tiles, in.device.multiprocessors);
  return {dim3(static_cast<unsigned>(blocks)), kThreads, Layout<kColumns>::kBytes};
}

}  // namespace fuselm::cuda::hopper
