// Tensor-core instructions of sm_80 and what feeds them; models for the emulator in instructions.h.
// Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16" and "m16n8k32".
//
// With lane l, g = l / 4 and t = l % 4:
//   A (16 x 16, row-major), 4 words of 2 bf16: {(g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)}
//   B (16 x 8, column-major: k runs along a word), 2 words: {(k = 2t, n = g), (k = 2t + 8, n = g)}
//   C (16 x 8), 4 floats: {(g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)}
#pragma once

#include "native/cuda/device.cuh"

#ifndef __CUDACC__
#include "native/cuda/emulate/instructions.h"
#endif

namespace fuselm::cuda {

// x, which the compiler then keeps in a register instead of computing it anew at each use.
__device__ __forceinline__ uint32_t Held(uint32_t x) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+r"(x));
#endif
  return x;
}

// d += a b; bf16 products, float32 sums.
__device__ __forceinline__ void Mma16816(float (&d)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
#ifdef __CUDA_ARCH__
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif !defined(__CUDACC__)
  emulate::MmaBf16(d, a, b);
#endif
}

// d += a b; int8 products, int32 sums. As above with 4 bytes a word: A 16 x 32, B 32 x 8, byte j of
// word w of A stands at k = 4t + j + 16 (w / 2), of B at k = 4t + j + 16 w.
__device__ __forceinline__ void Mma16832S8(int32_t (&d)[4], const uint32_t (&a)[4],
                                           const uint32_t (&b)[2]) {
#ifdef __CUDA_ARCH__
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif !defined(__CUDACC__)
  emulate::MmaInt8(d, a, b);
#endif
}

// c plus the four products of the bytes of a and b.
__device__ __forceinline__ int32_t Dot4(uint32_t a, uint32_t b, int32_t c) {
#ifdef __CUDA_ARCH__
  return __dp4a(static_cast<int>(a), static_cast<int>(b), c);
#elif !defined(__CUDACC__)
  for (int i = 0; i < 32; i += 8) c += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  return c;
#else
  return 0;
#endif
}

// Four 8 x 8 matrices of 16-bit elements: lane l names the 16-byte row l % 8 of matrix l / 8, and
// gets of matrix i the word (row l / 4, columns 2 (l % 4) and + 1).
__device__ __forceinline__ void LdMatrixX4(uint32_t (&r)[4], const void* row) {
#ifdef __CUDA_ARCH__
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
#elif !defined(__CUDACC__)
  emulate::LdMatrix(r, row, false);
#endif
}
// As LdMatrixX4, each matrix transposed.
__device__ __forceinline__ void LdMatrixX4Trans(uint32_t (&r)[4], const void* row) {
#ifdef __CUDA_ARCH__
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
#elif !defined(__CUDACC__)
  emulate::LdMatrix(r, row, true);
#endif
}

// The first `bytes` (0 to 16) from global to shared memory, the rest of the 16 zeros; both 16-byte
// aligned. Done after CpAsyncWait<n> (n groups may still be under way) and a barrier.
__device__ __forceinline__ void CpAsync16Part(void* shared, const void* global, int bytes) {
#ifdef __CUDA_ARCH__
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(global), "r"(bytes)
               : "memory");
#elif !defined(__CUDACC__)
  emulate::CopyLater(shared, global, bytes);
#endif
}
// As CpAsync16Part, all of the 16 bytes or none.
__device__ __forceinline__ void CpAsync16(void* shared, const void* global, bool valid) {
  CpAsync16Part(shared, global, valid ? 16 : 0);
}
// All of them: three instructions less.
__device__ __forceinline__ void CpAsync16(void* shared, const void* global) {
#ifdef __CUDA_ARCH__
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(global) : "memory");
#elif !defined(__CUDACC__)
  emulate::CopyLater(shared, global, 16);
#endif
}
__device__ __forceinline__ void CpAsyncCommit() {
#ifdef __CUDA_ARCH__
  asm volatile("cp.async.commit_group;" ::: "memory");
#elif !defined(__CUDACC__)
  emulate::CommitCopies();
#endif
}
template <int kUnderWay>
__device__ __forceinline__ void CpAsyncWait() {
#ifdef __CUDA_ARCH__
  asm volatile("cp.async.wait_group %0;" ::"n"(kUnderWay) : "memory");
#elif !defined(__CUDACC__)
  emulate::WaitCopies(kUnderWay);
#endif
}

}  // namespace fuselm::cuda
