// The sanitizer of emulated kernels: what the emulator tells it. Everything here is empty but in
// the checked build (FUSELM_CHECKED), where the compiler's calls before every load and store of a
// kernel arrive in instrumentation.cc.
//
// Two accesses to the same byte, at least one of them a write, need an order that CUDA guarantees:
//   - of one thread: the program's;
//   - of a block: __syncthreads, __syncwarp within a warp, named barriers, mbarriers. Shuffles,
//   votes
//     and matrix instructions order nothing: the programming guide says of them that they imply no
//     memory barrier;
//   - of two blocks of a launch: none. Atomics may meet atomics.
// Writes of cp.async count as done when its thread has waited; those of tensor copies when whoever
// looks has waited for their mbarrier; reads of wgmma when its warp has waited for their group.
// What ordinary stores wrote needs a proxy fence before wgmma or a tensor copy may touch it.
// Besides: reads of shared memory that the block has not written, and accesses outside the dynamic
// shared bytes of the launch, outside an allocation, or inside one that was freed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "native/cuda/emulate/cuda_runtime.h"

namespace fuselm::emulate {

// Where the running block's memory is.
struct Memory {
  const std::byte* own;  // stacks and whatever else is the emulator's
  size_t own_bytes;
  const std::byte* dynamic;       // shared, of the launch
  size_t dynamic_bytes, margins;  // and as much on both sides that nobody may touch
};

#ifdef FUSELM_CHECKED

// By the scheduler, on the thread that runs the blocks.
void CheckBegins(const Memory& memory, const char* what, dim3 grid, int threads);
void CheckEnds();
void CheckBlock(int64_t index);  // in the order of x, then y, then z
void CheckThread(int thread);    // runs from here on; -1: none
void CheckBlockBarrier();        // all threads are at it
void CheckWarpBarrier(int warp);

// By the running thread. `at`: the return address in the kernel, for reports.
void CheckRead(const void* p, size_t bytes, const void* at);
void CheckWrite(const void* p, size_t bytes, const void* at);
void CheckAtomic(const void* p, size_t bytes, const void* at);
void CheckCopyStarts(const void* to, const void* from, int bytes, const void* at);  // cp.async
void CheckCopyDone(const void* to, const void* at);
void CheckNamedBarrier(int id, bool completes);
void CheckNamedBarrierPassed(int id);
void CheckMbarrierInit(const void* b, const void* at);
void CheckMbarrierArrive(const void* b, bool completes, const void* at);
void CheckMbarrierPassed(const void* b, const void* at);
// Copies that complete on `b`; reads of global, writes of shared memory.
void CheckTensorRead(const void* b, const void* from, size_t bytes, const void* at);
void CheckTensorWrite(const void* b, const void* to, size_t bytes, const void* at);
void CheckMbarrierBytes(const void* b, bool completes);
void CheckProxyFence();
void CheckWgmmaRead(const void* p, size_t bytes, const void* at);
void CheckWgmmaCommit();
void CheckWgmmaWait(int under_way);

void CheckAllocated(const void* p, size_t bytes);
void CheckFreed(const void* p);

#else

inline void CheckBegins(const Memory&, const char*, dim3, int) {}
inline void CheckEnds() {}
inline void CheckBlock(int64_t) {}
inline void CheckThread(int) {}
inline void CheckBlockBarrier() {}
inline void CheckWarpBarrier(int) {}
inline void CheckRead(const void*, size_t, const void*) {}
inline void CheckWrite(const void*, size_t, const void*) {}
inline void CheckAtomic(const void*, size_t, const void*) {}
inline void CheckCopyStarts(const void*, const void*, int, const void*) {}
inline void CheckCopyDone(const void*, const void*) {}
inline void CheckNamedBarrier(int, bool) {}
inline void CheckNamedBarrierPassed(int) {}
inline void CheckMbarrierInit(const void*, const void*) {}
inline void CheckMbarrierArrive(const void*, bool, const void*) {}
inline void CheckMbarrierPassed(const void*, const void*) {}
inline void CheckTensorRead(const void*, const void*, size_t, const void*) {}
inline void CheckTensorWrite(const void*, const void*, size_t, const void*) {}
inline void CheckMbarrierBytes(const void*, bool) {}
inline void CheckProxyFence() {}
inline void CheckWgmmaRead(const void*, size_t, const void*) {}
inline void CheckWgmmaCommit() {}
inline void CheckWgmmaWait(int) {}
inline void CheckAllocated(const void*, size_t) {}
inline void CheckFreed(const void*) {}

#endif

// Ends the running thread and fails the launch.
[[noreturn]] void FailLaunch(const char* why);

}  // namespace fuselm::emulate
