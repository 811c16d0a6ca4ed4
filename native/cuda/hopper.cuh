// Instructions of sm_90a (Hopper): tensor memory copies on mbarriers, warpgroup products from
// shared memory, named barriers; each beside its model for the emulator. Elsewhere they compile to
// nothing, and no kernel that uses them is launched.
//
// Operands lie in shared memory in panels of 64 bf16 columns, 128 bytes a row, eight rows (1,024
// bytes, so aligned) to a swizzle atom: chunk c of row r, 16 bytes, stands at c ^ (r % 8). A tensor
// copy writes that layout, WgmmaSs and WgmmaRs read it through descriptors. Sources: PTX ISA,
// "Asynchronous Warpgroup Level Matrix Shared Memory Layout" and "Matrix Descriptor Format".
#pragma once

#include "native/cuda/device.cuh"
#include "native/cuda/kernel.cuh"

#ifdef __CUDACC__
#include <cuda.h>
#endif

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FUSELM_HOPPER 1
#endif

namespace fuselm::cuda {

// Whether kernels of sm_90a are to be used: there, with the shared memory they want, when
// FUSELM_CUDA_WGMMA is 1. Until they have run on a GPU, and not in the emulator's model alone,
// those of sm_80 serve.
inline constexpr int64_t kHopperBytes = 200 << 10;
bool WgmmaWanted(const Arguments& in);

inline constexpr int kPanelColumns = 64;  // bf16, 128 bytes
inline constexpr int kWarpgroup = 128;

// ------------------------------------------------------------------------------- tensor maps

// A [B, rows, heads, columns] bf16 tensor that boxes of 64 columns and `box` rows are copied from;
// what lies past an end is zeros. A kernel takes it in a __grid_constant__ parameter.
#ifdef __CUDACC__
using TensorMap = CUtensorMap;
#else
struct alignas(64) TensorMap {
  const std::byte* data;
  int64_t size[4], stride[4];  // columns, rows, heads, B; strides in bytes
  int box;
};
#endif

// Strides in elements, of rows, heads and B; multiples of 8 but for those of axes of 1; data
// 16-byte aligned.
TensorMap MakeTensorMap(const void* data, int64_t columns, int64_t rows, int64_t heads, int64_t B,
                        const int64_t (&stride)[3], int box);

// ---------------------------------------------------------------------------------- mbarriers

struct alignas(8) Barrier {
  uint64_t bits;
};

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
#ifdef __CUDA_ARCH__
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
#elif !defined(__CUDACC__)
  return emulate::SharedAddress(p);
#else
  return 0;
#endif
}

#ifndef __CUDACC__
struct BarrierModel {
  int16_t count, pending;
  int32_t tx : 31;
  uint32_t phase : 1;

  void Settle() {
    if (pending == 0 && tx == 0) phase ^= 1, pending = count;
  }
};
static_assert(sizeof(BarrierModel) == sizeof(Barrier));
inline BarrierModel& ModelOf(Barrier* b) { return *reinterpret_cast<BarrierModel*>(b); }
#endif

__device__ __forceinline__ void BarrierInit(Barrier* b, int arrivals) {
#ifdef FUSELM_HOPPER
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(b)), "r"(arrivals)
               : "memory");
#elif !defined(__CUDACC__)
  ModelOf(b) = {static_cast<int16_t>(arrivals), static_cast<int16_t>(arrivals), 0, 0};
#endif
}
// After the last BarrierInit, before the block's barrier.
__device__ __forceinline__ void BarrierInitFence() {
#ifdef FUSELM_HOPPER
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
__device__ __forceinline__ void BarrierArrive(Barrier* b) {
#ifdef FUSELM_HOPPER
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(b)) : "memory");
#elif !defined(__CUDACC__)
  --ModelOf(b).pending;
  ModelOf(b).Settle();
#endif
}
// One arrival; the phase also waits for `bytes` of copies.
__device__ __forceinline__ void BarrierExpect(Barrier* b, int bytes) {
#ifdef FUSELM_HOPPER
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(b)),
               "r"(bytes)
               : "memory");
#elif !defined(__CUDACC__)
  ModelOf(b).tx += bytes;
  BarrierArrive(b);
#endif
}
// Until the phase of this parity (0 first) is complete.
__device__ __forceinline__ void BarrierWait(Barrier* b, int parity) {
#ifdef FUSELM_HOPPER
  asm volatile(
      "{\n.reg .pred p;\nwait:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra done;\nbra wait;\ndone:\n}\n" ::"r"(SharedAddress(b)),
      "r"(parity)
      : "memory");
#elif !defined(__CUDACC__)
  while (ModelOf(b).phase == static_cast<uint32_t>(parity)) emulate::Poll();
#endif
}

// Which stage of a ring of kStages an item uses, and the parity of its barriers then.
template <int kStages>
__host__ __device__ constexpr int StageOf(int item) {
  return item % kStages;
}
template <int kStages>
__host__ __device__ constexpr int ParityOf(int item) {
  return item / kStages % 2;
}

// One thread starts the copy of a box to a panel, done when `b` has its bytes.
__device__ __forceinline__ void TensorCopy(void* panel, const TensorMap* map, Barrier* b,
                                           int column, int row, int head, int batch) {
#ifdef FUSELM_HOPPER
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4, %5, %6}], [%2];" ::"r"(SharedAddress(panel)),
      "l"(map), "r"(SharedAddress(b)), "r"(column), "r"(row), "r"(head), "r"(batch)
      : "memory");
#elif !defined(__CUDACC__)
  for (int r = 0; r < map->box; ++r) {
    for (int c = 0; c < kPanelColumns; ++c) {
      uint16_t value = 0;
      if (row + r < map->size[1] && column + c < map->size[0]) {
        std::memcpy(&value,
                    map->data + (column + c) * map->stride[0] + (row + r) * map->stride[1] +
                        head * map->stride[2] + batch * map->stride[3],
                    2);
      }
      std::memcpy(static_cast<std::byte*>(panel) + r * 128 + (c / 8 ^ (r & 7)) * 16 + c % 8 * 2,
                  &value, 2);
    }
  }
  ModelOf(b).tx -= map->box * 128;
  ModelOf(b).Settle();
#endif
}
// As above, of plain memory: `bytes`, both addresses multiples of 16.
__device__ __forceinline__ void BulkCopy(void* to, const void* from, int bytes, Barrier* b) {
#ifdef FUSELM_HOPPER
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(SharedAddress(to)),
      "l"(from), "r"(bytes), "r"(SharedAddress(b))
      : "memory");
#elif !defined(__CUDACC__)
  std::memcpy(to, from, static_cast<size_t>(bytes));
  ModelOf(b).tx -= bytes;
  ModelOf(b).Settle();
#endif
}
__device__ __forceinline__ void PrefetchMap(const TensorMap* map) {
#ifdef FUSELM_HOPPER
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
#elif !defined(__CUDACC__)
  (void)map;
#endif
}

// ------------------------------------------------------------------------- warps of one block

// Barrier `id` (1..15) of `threads` threads: all meet, or some only announce themselves.
__device__ __forceinline__ void MeetAt(int id, int threads) {
#ifdef FUSELM_HOPPER
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#elif !defined(__CUDACC__)
  emulate::NamedBarrier(id, threads, true);
#endif
}
__device__ __forceinline__ void AnnounceAt(int id, int threads) {
#ifdef FUSELM_HOPPER
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#elif !defined(__CUDACC__)
  emulate::NamedBarrier(id, threads, false);
#endif
}
// Registers of a warpgroup's threads, a multiple of 8; every warp of the group calls it.
template <int kRegisters>
__device__ __forceinline__ void TakeRegisters() {
#ifdef FUSELM_HOPPER
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
__device__ __forceinline__ void GiveRegisters() {
#ifdef FUSELM_HOPPER
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

// ------------------------------------------------------------------------ warpgroup products

__device__ __forceinline__ void WgmmaFence() {
#ifdef FUSELM_HOPPER
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void WgmmaCommit() {
#ifdef FUSELM_HOPPER
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int kUnderWay>
__device__ __forceinline__ void WgmmaWait() {
#ifdef FUSELM_HOPPER
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kUnderWay) : "memory");
#endif
}
// Keeps the compiler from moving uses of registers across a fence or wait.
template <int kCount>
__device__ __forceinline__ void Pin(float (&d)[kCount]) {
#ifdef FUSELM_HOPPER
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
#elif !defined(__CUDACC__)
  (void)d;
#endif
}

// An operand in panels of `rows` rows, beginning at row0 (a multiple of 8). Along: k runs along its
// columns, from column 16 step on; rows are m or n. Down: k runs down its rows, from row0 on;
// columns, from 64 panel on, are n.
__device__ __forceinline__ uint64_t Descriptor(uint32_t address, uint32_t leading,
                                               uint32_t stride) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) |
         static_cast<uint64_t>(leading >> 4) << 16 | static_cast<uint64_t>(stride >> 4) << 32 |
         uint64_t{1} << 62;  // 128-byte swizzle
}
__device__ __forceinline__ uint64_t AlongRows(uint32_t panels, int rows, int row0, int step) {
  return Descriptor(panels + step / 4 * rows * 128 + row0 * 128 + step % 4 * 32, 16, 1024);
}
__device__ __forceinline__ uint64_t DownRows(uint32_t panels, int rows, int row0, int panel) {
  return Descriptor(panels + panel * rows * 128 + row0 * 128, rows * 128, 1024);
}

#ifndef __CUDACC__
inline float SharedBf16(uint32_t address) {
  const uint32_t swizzled = address ^ (address >> 3 & 0x70);
  return ToFloat(*static_cast<const bf16*>(emulate::SharedAt(swizzled)));
}
struct DescriptorModel {
  uint32_t start, leading, stride;
  explicit DescriptorModel(uint64_t d)
      : start(static_cast<uint32_t>(d & 0x3fff) << 4),
        leading(static_cast<uint32_t>(d >> 16 & 0x3fff) << 4),
        stride(static_cast<uint32_t>(d >> 32 & 0x3fff) << 4) {}
  float Along(int row, int k) const {
    return SharedBf16(start + row / 8 * stride + row % 8 * 128 + k * 2);
  }
  float Down(int k, int column) const {
    return SharedBf16(start + column / 64 * leading + k / 8 * stride + k % 8 * 128 +
                      column % 64 * 2);
  }
};
template <int kN, bool kRegisters, bool kADown = false, bool kBDown = false>
void WgmmaModel(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t a_at, uint64_t b_at, int add) {
  const int lane = emulate::Lane(), g = lane / 4, t = lane % 4;
  const int warp = static_cast<int>(threadIdx.x / 32 % 4);
  float rows[2][16];
  const uint32_t* const all = emulate::Exchange(a);
  const DescriptorModel am(a_at), bm(b_at);
  for (int half = 0; half < 2; ++half) {
    for (int k = 0; k < 16; ++k) {
      const uint32_t word = all[(g * 4 + k % 8 / 2) * 4 + k / 8 * 2 + half];
      rows[half][k] = kRegisters ? (k % 2 ? HighToFloat(word) : LowToFloat(word))
                      : kADown   ? am.Down(k, warp * 16 + g + 8 * half)
                                 : am.Along(warp * 16 + g + 8 * half, k);
    }
  }
  for (int i = 0; i < kN / 2; ++i) {
    const int column = i / 4 * 8 + 2 * t + i % 2, half = i % 4 / 2;
    float sum = add ? d[i] : 0.0f;
    for (int k = 0; k < 16; ++k) {
      sum += rows[half][k] * (kRegisters || kBDown ? bm.Down(k, column) : bm.Along(column, k));
    }
    d[i] = sum;
  }
}
#endif

#ifdef FUSELM_HOPPER
// The accumulators in an instruction's text and among its operands: assembly takes no array.
#define FUSELM_D32_TEXT                                                    \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FUSELM_D64_TEXT                                                                \
  FUSELM_D32_TEXT                                                                      \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FUSELM_D4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FUSELM_D16(d, i) \
  FUSELM_D4(d, i), FUSELM_D4(d, i + 4), FUSELM_D4(d, i + 8), FUSELM_D4(d, i + 12)
#define FUSELM_D32(d) FUSELM_D16(d, 0), FUSELM_D16(d, 16)
#define FUSELM_D64(d) FUSELM_D32(d), FUSELM_D16(d, 32), FUSELM_D16(d, 48)
#endif

// d (64 x N of a warpgroup; accumulators as those of mma.cuh, 8 columns after another) = (d, when
// `add`) + A B over 16 of k. Ss: A and B along rows of shared memory. Rs: A as in mma.cuh, B down
// rows. Between WgmmaFence and WgmmaWait the registers are the instruction's.
__device__ __forceinline__ void WgmmaSs(float (&d)[32], uint64_t a, uint64_t b, int add) {
#ifdef FUSELM_HOPPER
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" FUSELM_D32_TEXT
      "}, "
      "%32, %33, p, 1, 1, 0, 0;\n}\n"
      : FUSELM_D32(d)
      : "l"(a), "l"(b), "r"(add));
#elif !defined(__CUDACC__)
  WgmmaModel<64, false>(d, {}, a, b, add);
#endif
}
// Operands may also run down rows.
template <bool kADown = false, bool kBDown = false>
__device__ __forceinline__ void WgmmaSs(float (&d)[64], uint64_t a, uint64_t b, int add) {
#ifdef FUSELM_HOPPER
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" FUSELM_D64_TEXT
      "}, "
      "%64, %65, p, 1, 1, %67, %68;\n}\n"
      : FUSELM_D64(d)
      : "l"(a), "l"(b), "r"(add), "n"(kADown ? 1 : 0), "n"(kBDown ? 1 : 0));
#elif !defined(__CUDACC__)
  WgmmaModel<128, false, kADown, kBDown>(d, {}, a, b, add);
#endif
}
__device__ __forceinline__ void WgmmaRs(float (&d)[32], const uint32_t (&a)[4], uint64_t b,
                                        int add) {
#ifdef FUSELM_HOPPER
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" FUSELM_D32_TEXT
      "}, "
      "{%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}\n"
      : FUSELM_D32(d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
#elif !defined(__CUDACC__)
  WgmmaModel<64, true>(d, a, 0, b, add);
#endif
}
__device__ __forceinline__ void WgmmaRs(float (&d)[64], const uint32_t (&a)[4], uint64_t b,
                                        int add) {
#ifdef FUSELM_HOPPER
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" FUSELM_D64_TEXT
      "}, "
      "{%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}\n"
      : FUSELM_D64(d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
#elif !defined(__CUDACC__)
  WgmmaModel<128, true>(d, a, 0, b, add);
#endif
}

#undef FUSELM_D32_TEXT
#undef FUSELM_D64_TEXT
#undef FUSELM_D4
#undef FUSELM_D16
#undef FUSELM_D32
#undef FUSELM_D64

}  // namespace fuselm::cuda
