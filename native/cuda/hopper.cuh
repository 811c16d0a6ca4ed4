// Instructions of sm_90a (Hopper): tensor memory copies on mbarriers, warpgroup products from
// shared memory, named barriers; with models for the emulator. Elsewhere they compile to
// nothing, and no kernel that uses them is launched.
//
// Operands lie in shared memory in panels of 128 bytes a row (64 columns of bf16), eight rows
// (1,024 bytes, so aligned) to a swizzle atom: chunk c of row r, 16 bytes, stands at c ^ (r % 8). A
// tensor copy writes that layout, WgmmaSs and WgmmaRs read it through descriptors. Sources: PTX
// ISA, "Asynchronous Warpgroup Level Matrix Shared Memory Layout" and "Matrix Descriptor Format".
#pragma once

#include "native/cuda/device.cuh"
#include "native/cuda/kernel.cuh"

#ifdef __CUDACC__
#include <cuda.h>
#else
#include "native/cuda/emulate/instructions.h"
#endif

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FUSELM_HOPPER 1
#endif

namespace fuselm::cuda {

// Whether kernels of sm_90a are to be used: there, with the shared memory they want, when
// FUSELM_CUDA_WGMMA says so: 1 for all, or a list of `forward`, `backward` (of attention),
// `product` and `int8`, so that one that fails on a card can be told from the others. Until they
// have run on a GPU, and not in the emulator's model alone, those of sm_80 serve.
inline constexpr int64_t kHopperBytes = 224 << 10;
enum class Wgmma { kForward, kBackward, kProduct, kInt8 };
bool WgmmaWanted(const Arguments& in, Wgmma kernel);

inline constexpr int kPanelBytes = 128;   // of a row
inline constexpr int kPanelColumns = 64;  // bf16
inline constexpr int kWarpgroup = 128;

// ------------------------------------------------------------------------------- tensor maps

// A [B, rows, heads, columns] tensor of bf16 or bytes that boxes of 128 bytes and `box` rows are
// copied from; what lies past an end is zeros. A kernel takes it in a __grid_constant__ parameter.
#ifdef __CUDACC__
using TensorMap = CUtensorMap;
#else
using TensorMap = emulate::TensorMap;
#endif

// Strides in elements of `item` bytes (2: bf16, 1: bytes), of rows, heads and B: multiples of 16
// bytes but for those of axes of 1; data 16-byte aligned; box: at most 256.
TensorMap MakeTensorMap(const void* data, int64_t columns, int64_t rows, int64_t heads, int64_t B,
                        const int64_t (&stride)[3], int box, int item = 2);

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

__device__ __forceinline__ void BarrierInit(Barrier* b, int arrivals) {
#ifdef FUSELM_HOPPER
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(b)), "r"(arrivals)
               : "memory");
#elif !defined(__CUDACC__)
  emulate::MbarrierInit(b, arrivals);
#endif
}
// After the last BarrierInit, before the block's barrier.
__device__ __forceinline__ void BarrierInitFence() {
#ifdef FUSELM_HOPPER
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#elif !defined(__CUDACC__)
  emulate::ProxyFence();
#endif
}
__device__ __forceinline__ void BarrierArrive(Barrier* b) {
#ifdef FUSELM_HOPPER
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(b)) : "memory");
#elif !defined(__CUDACC__)
  emulate::MbarrierArrive(b, 0);
#endif
}
// One arrival; the phase also waits for `bytes` of copies.
__device__ __forceinline__ void BarrierExpect(Barrier* b, int bytes) {
#ifdef FUSELM_HOPPER
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(b)),
               "r"(bytes)
               : "memory");
#elif !defined(__CUDACC__)
  emulate::MbarrierArrive(b, bytes);
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
  emulate::MbarrierWait(b, parity);
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
  emulate::TensorCopy(panel, *map, b, column, row, head, batch);
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
  emulate::BulkCopy(to, from, bytes, b);
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
#elif !defined(__CUDACC__)
  emulate::WgmmaCommit();
#endif
}
template <int kUnderWay>
__device__ __forceinline__ void WgmmaWait() {
#ifdef FUSELM_HOPPER
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kUnderWay) : "memory");
#elif !defined(__CUDACC__)
  emulate::WgmmaWait(kUnderWay);
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
template <int kCount>
__device__ __forceinline__ void Pin(int32_t (&d)[kCount]) {
#ifdef FUSELM_HOPPER
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(d[i])::"memory");
#elif !defined(__CUDACC__)
  (void)d;
#endif
}

// An operand in panels of `rows` rows, beginning at row0 (a multiple of 8). Along: k runs along its
// columns, from byte 32 step on; rows are m or n. Down (bf16): k runs down its rows, from row0 on;
// columns, from 64 panel on, are n. The address of the panels is added to last, in units of 16
// bytes, so that the descriptors of a tile are one shift and an addition each; addresses of shared
// memory have 18 bits, 14 here.
__device__ __forceinline__ uint64_t Descriptor(uint32_t panels, uint32_t offset, uint32_t leading,
                                               uint32_t stride) {
  const uint32_t low = (panels >> 4) + ((offset >> 4) | leading >> 4 << 16);
  const uint32_t high = stride >> 4 | uint32_t{1} << 30;  // 128-byte swizzle
  return static_cast<uint64_t>(high) << 32 | low;
}
__device__ __forceinline__ uint64_t AlongRows(uint32_t panels, int rows, int row0, int step) {
  return Descriptor(panels, (step / 4 * rows + row0) * kPanelBytes + step % 4 * 32, 16, 1024);
}
__device__ __forceinline__ uint64_t DownRows(uint32_t panels, int rows, int row0, int panel) {
  return Descriptor(panels, (panel * rows + row0) * kPanelBytes, rows * kPanelBytes, 1024);
}

#ifdef FUSELM_HOPPER
// The accumulators in an instruction's text and among its operands: assembly takes no array.
#define FUSELM_D32_TEXT                                                    \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FUSELM_D64_TEXT                                                                \
  FUSELM_D32_TEXT                                                                      \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define FUSELM_D128_TEXT                                                                         \
  FUSELM_D64_TEXT                                                                                \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "           \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define FUSELM_D4(c, d, i) c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3])
#define FUSELM_D16(c, d, i) \
  FUSELM_D4(c, d, i), FUSELM_D4(c, d, i + 4), FUSELM_D4(c, d, i + 8), FUSELM_D4(c, d, i + 12)
#define FUSELM_D32(c, d) FUSELM_D16(c, d, 0), FUSELM_D16(c, d, 16)
#define FUSELM_D64(c, d) FUSELM_D32(c, d), FUSELM_D16(c, d, 32), FUSELM_D16(c, d, 48)
#define FUSELM_D128(c, d)                                                             \
  FUSELM_D64(c, d), FUSELM_D16(c, d, 64), FUSELM_D16(c, d, 80), FUSELM_D16(c, d, 96), \
      FUSELM_D16(c, d, 112)
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
      : FUSELM_D32("+f", d)
      : "l"(a), "l"(b), "r"(add));
#elif !defined(__CUDACC__)
  emulate::Wgmma(d, 64, nullptr, a, false, b, false, add);
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
      : FUSELM_D64("+f", d)
      : "l"(a), "l"(b), "r"(add), "n"(kADown ? 1 : 0), "n"(kBDown ? 1 : 0));
#elif !defined(__CUDACC__)
  emulate::Wgmma(d, 128, nullptr, a, kADown, b, kBDown, add);
#endif
}
template <bool kADown = false, bool kBDown = false>
__device__ __forceinline__ void WgmmaSs(float (&d)[128], uint64_t a, uint64_t b, int add) {
#ifdef FUSELM_HOPPER
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" FUSELM_D128_TEXT
      "}, "
      "%128, %129, p, 1, 1, %131, %132;\n}\n"
      : FUSELM_D128("+f", d)
      : "l"(a), "l"(b), "r"(add), "n"(kADown ? 1 : 0), "n"(kBDown ? 1 : 0));
#elif !defined(__CUDACC__)
  emulate::Wgmma(d, 256, nullptr, a, kADown, b, kBDown, add);
#endif
}
// int8, both operands along rows, 32 of k.
__device__ __forceinline__ void WgmmaSs(int32_t (&d)[64], uint64_t a, uint64_t b, int add) {
#ifdef FUSELM_HOPPER
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {" FUSELM_D64_TEXT
      "}, "
      "%64, %65, p;\n}\n"
      : FUSELM_D64("+r", d)
      : "l"(a), "l"(b), "r"(add));
#elif !defined(__CUDACC__)
  emulate::WgmmaInt8(d, 128, a, b, add);
#endif
}
__device__ __forceinline__ void WgmmaSs(int32_t (&d)[128], uint64_t a, uint64_t b, int add) {
#ifdef FUSELM_HOPPER
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k32.s32.s8.s8 {" FUSELM_D128_TEXT
      "}, "
      "%128, %129, p;\n}\n"
      : FUSELM_D128("+r", d)
      : "l"(a), "l"(b), "r"(add));
#elif !defined(__CUDACC__)
  emulate::WgmmaInt8(d, 256, a, b, add);
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
      : FUSELM_D32("+f", d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
#elif !defined(__CUDACC__)
  emulate::Wgmma(d, 64, a, 0, false, b, true, add);
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
      : FUSELM_D64("+f", d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
#elif !defined(__CUDACC__)
  emulate::Wgmma(d, 128, a, 0, false, b, true, add);
#endif
}

#undef FUSELM_D32_TEXT
#undef FUSELM_D64_TEXT
#undef FUSELM_D128_TEXT
#undef FUSELM_D4
#undef FUSELM_D16
#undef FUSELM_D32
#undef FUSELM_D64
#undef FUSELM_D128

}  // namespace fuselm::cuda
